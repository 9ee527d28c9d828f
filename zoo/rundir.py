"""Run: one directory for one training run.

flags.txt      a flagfile: --flagfile=<run>/flags.txt repeats the run
data.json      image shape and class names: enough to build the model without its data
versions.json  the software that trained it
checkpoints/   the newest few, each named by its step
train/ eval/   TensorBoard
samples/       picture sheets, each named by its step
metrics.json   the held-out measures at the end, with their protocol
"""

import contextlib
import fcntl
import json
import os
import pathlib
import platform
import shutil
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import zoo
from zoo import files
from zoo.errors import UsageError

_LOCK = "lock"
_CONTENTS = (
    "flags.txt",
    "data.json",
    "versions.json",
    "metrics.json",
    "checkpoints",
    "train",
    "eval",
    "samples",
)
_PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "pillow")


class Run:
    """A run directory. `lock` claims one to train in, then `record` begins; `open` only reads."""

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.samples = self.path / "samples"
        self._lock = None

    @classmethod
    def lock(
        cls,
        path: str | os.PathLike,
        flags: Mapping[str, str],
        *,
        may_change: frozenset[str] = frozenset(),
        overwrite: bool = False,
    ) -> "Run":
        """Claims the directory for this process, without a change to what it holds.

        Flags in `may_change` may differ from those of the run that it holds. UsageError if another
        process trains in it, if other flags differ and not `overwrite`, if it holds something
        that is no run, or if it cannot be written.
        """
        run = cls(path)
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            run._take_lock()
            if run._is_run():
                if not overwrite:
                    run._check_flags(flags, may_change)
            elif any(entry.name != _LOCK for entry in run.path.iterdir()):
                raise UsageError(
                    f"{run.path} is not a run directory and not empty: choose another --run_dir"
                )
        except OSError as error:
            run.close()
            raise UsageError(
                f"cannot write run directory {run.path}: {error.strerror}; "
                "choose another with --run_dir"
            ) from error
        except UsageError:
            run.close()
            raise
        return run

    def record(self, flags: Mapping[str, str], data: Any, *, overwrite: bool = False) -> None:
        """Begins or goes on: writes flags.txt, data.json and versions.json.

        overwrite removes what a run has written here before, and nothing else.
        """
        if overwrite:
            self._clear()
        self.write_json("data.json", data)
        self.write_json("versions.json", versions())
        lines = "".join(f"--{name}={value}\n" for name, value in flags.items())
        files.write(self.path / "flags.txt", lines.encode())

    @classmethod
    def open(cls, path: str | os.PathLike) -> "Run":
        """An existing run, to read; UsageError if the directory is none."""
        run = cls(path)
        if not run._is_run():
            raise UsageError(
                f"{path} is not a run directory: expected one that "
                f"`python -m zoo.train --run_dir={path}` made"
            )
        return run

    def flags(self) -> dict[str, str]:
        """Flag name -> value, as flags.txt has them."""
        lines = (self.path / "flags.txt").read_text(encoding="utf-8").splitlines()
        pairs = (line.removeprefix("--").partition("=") for line in lines if line)
        return {name: value for name, _, value in pairs}

    def write_json(self, name: str, value: Any) -> None:
        """Writes one of the run's JSON files, whole or not at all."""
        files.write(self.path / name, (json.dumps(value, indent=2) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """One of the run's JSON files; None if it is not there, UsageError if it is damaged."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UsageError(f"{self.path / name} is damaged ({error}): remove it") from error

    def close(self) -> None:
        """Gives the directory free for other processes; one that never began is removed."""
        if self._lock is None:
            return
        if not any(entry.name != _LOCK for entry in self.path.iterdir()):
            with contextlib.suppress(OSError):
                (self.path / _LOCK).unlink()
                self.path.rmdir()
        self._lock.close()
        self._lock = None

    def _is_run(self) -> bool:
        return (self.path / "flags.txt").is_file()

    def _take_lock(self) -> None:
        # The kernel frees it when the process ends, however it ends.
        lock = open(self.path / _LOCK, "ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise UsageError(
                f"another process is training in {self.path}: wait for it, or choose another "
                "--run_dir"
            ) from None
        self._lock = lock

    def _check_flags(self, flags: Mapping[str, str], may_change: frozenset[str]) -> None:
        before = self.flags()
        different = [
            f"--{name} was {before.get(name, 'not there')}, is {flags.get(name, 'not there')}"
            for name in sorted(before.keys() | flags.keys())
            if name not in may_change and before.get(name) != flags.get(name)
        ]
        if different:
            raise UsageError(
                f"{self.path} holds a run with other flags ({'; '.join(different)}): use its "
                "flags, choose another --run_dir, or start anew with --overwrite"
            )

    def _clear(self) -> None:
        # flags.txt goes last: until then the directory is known to be a run's.
        for name in reversed(_CONTENTS):
            with contextlib.suppress(FileNotFoundError):
                path = self.path / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def versions() -> dict[str, str]:
    """Package name -> version, with Python's and the platform's."""
    found = {
        "zoo": zoo.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found

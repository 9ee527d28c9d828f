"""Run: one directory for one training run.

flags.txt      a flagfile: --flagfile=<run>/flags.txt repeats the run
data.json      image shape and class names: enough to build the model without its data; its hash
data.npy       of people's own pictures a hash each, training before test: what is new or gone
versions.json  the software and the machine that trained it
checkpoints/   the newest few, each named by its step
best/          the one that was evaluated best, and best.json: at which step and how
train/ eval/   TensorBoard
samples/       picture sheets, each named by its step
metrics.json   the held-out measures at the end, with their protocol
evaluation.json  the same and more, whenever `python -m zoo.evaluate` was asked; its .png: copies

A directory is a run from the moment it has flags.txt. The five directories are the run's own,
with all that is in them.
"""

import contextlib
import fcntl
import functools
import io
import json
import os
import pathlib
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import IO, TYPE_CHECKING, Any

import zoo
from zoo import files
from zoo.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

BUSY = "another process is training in"
_LOCK = ".zoo-lock"
_FLAGS = "flags.txt"
_DIGESTS = "data.npy"
_RESULTS = ("metrics.json", "evaluation.json", "evaluation.png")
_FILES = ("data.json", _DIGESTS, "versions.json", *_RESULTS)
_DIRECTORIES = ("checkpoints", "best", "train", "eval", "samples")
# Computes the same up to rounding only, if it is another.
_ROUNDING = ("processors", "tensorflow", "tensorflow-cpu", "keras")
_PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "pillow")


class Run:
    """A run directory. `lock` claims one to train in, `record` begins or goes on; `open` reads."""

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best"
        self.samples = self.path / "samples"
        self._lock: IO[bytes] | None = None

    @classmethod
    def lock(
        cls,
        path: str | os.PathLike,
        flags: Mapping[str, str],
        *,
        may_change: frozenset[str] = frozenset(),
        defaults: Mapping[str, str] | None = None,
        overwrite: bool = False,
    ) -> "Run":
        """Claims the directory for this process, until `close`; nothing else changes in it.

        Flags in `may_change` may differ from those of the run that it holds; one that an older
        version did not know had its default. UsageError if another
        process trains in it, if other flags differ and not `overwrite`, if it holds something
        that is no run, or if it cannot be written.
        """
        run = cls(path)
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            run._take_lock()
            if run._is_run():
                if not overwrite:
                    run._check_flags(flags, may_change, defaults or {})
            elif run._foreign():
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

    def record(self, flags: Mapping[str, str], data: Any) -> None:
        """Begins or goes on: writes flags.txt, data.json and versions.json."""
        self._remove_temporary()
        # First of all, so that a process killed here leaves a run and not an unknown directory.
        lines = "".join(f"--{name}={value}\n" for name, value in flags.items())
        files.write(self.path / _FLAGS, lines.encode())
        self.write_json("data.json", data)
        self.write_json("versions.json", versions())

    def elsewhere(self) -> str:
        """What rounds otherwise now than where the run was trained last, in words; "" if nothing.

        TensorFlow sums in as many parts as there are processors.
        """
        before, now = self.read_json("versions.json") or {}, versions()
        return ", ".join(
            f"{name} {before[name]} before and {now[name]} now"
            for name in _ROUNDING
            if name in before and name in now and before[name] != now[name]
        )

    def clear(self) -> None:
        """Removes what a run has written here, but for flags.txt: `record` replaces it."""
        for name in (*_FILES, *_DIRECTORIES):
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

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
        lines = (self.path / _FLAGS).read_text(encoding="utf-8", errors="replace").splitlines()
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

    def wait(self) -> None:
        """Until no other process trains here."""
        with contextlib.suppress(FileNotFoundError), open(self.path / _LOCK, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)

    def write_digests(self, digests: "Iterable[np.ndarray]") -> None:
        """Writes data.npy, uint64 [N]."""
        import numpy as np

        file = io.BytesIO()
        np.save(file, np.concatenate(list(digests)))
        files.write(self.path / _DIGESTS, file.getvalue())

    def read_digests(self) -> "np.ndarray | None":
        """What data.npy holds; None if it is not there or damaged."""
        import numpy as np

        try:
            return np.load(self.path / _DIGESTS, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None

    def close(self) -> None:
        """Gives the directory free for other processes; one that never began is removed."""
        if self._lock is None:
            return
        if not self._is_run():
            with contextlib.suppress(OSError):
                (self.path / _LOCK).unlink()
                self.path.rmdir()  # does nothing to one that holds anything else
        self._lock.close()
        self._lock = None

    def _is_run(self) -> bool:
        return (self.path / _FLAGS).is_file()

    def _foreign(self) -> bool:
        """Whether it holds anything but the lock and what a killed `record` left."""
        known = (_LOCK, f".{_FLAGS}.")
        return any(not entry.name.startswith(known) for entry in self.path.iterdir())

    def _remove_temporary(self) -> None:
        """Removes what `files.write` left behind where it was killed; others' files stay."""
        for name in (_FLAGS, *_FILES):
            for path in self.path.glob(f".{name}.*.tmp"):
                path.unlink()
        for name in _DIRECTORIES:
            for path in (self.path / name).glob(".*.tmp"):
                path.unlink()

    def _take_lock(self) -> None:
        # The kernel frees it when the process ends, however it ends.
        lock = open(self.path / _LOCK, "ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise UsageError(
                f"{BUSY} {self.path}: wait for it, or choose another --run_dir"
            ) from None
        self._lock = lock

    def check_there(self) -> None:
        """UsageError if the directory was moved or removed since `record`."""
        if not self._is_run():
            raise UsageError(
                f"the run directory {self.path} is gone: put it back, then run the same command "
                "again"
            )

    def _check_flags(
        self, flags: Mapping[str, str], may_change: frozenset[str], defaults: Mapping[str, str]
    ) -> None:
        before = {**defaults, **self.flags()}
        different = [
            f"--{name} was {before.get(name, 'not there')}, is {flags.get(name, 'not there')}"
            for name in sorted(before.keys() | flags.keys())
            # One that a newer version has not, and that was empty, changed nothing.
            if name not in may_change and before.get(name, "") != flags.get(name, "")
        ]
        if different:
            raise UsageError(
                f"{self.path} holds a run with other flags ({'; '.join(different)}): use its "
                "flags, choose another --run_dir, or start anew with --overwrite"
            )


def versions() -> dict[str, str]:
    """Package name -> version, with the zoo's commit, Python, the platform and the processors."""
    found = {
        "zoo": zoo.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": ", ".join([f"{len(os.sched_getaffinity(0))} x {processor()}", *gpus()]),
    }
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def processor() -> str:
    """The name of the processor that this machine has."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def gpus() -> list[str]:
    """The names of NVIDIA's, as their driver gives them."""
    found = []
    for path in sorted(pathlib.Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("Model:"):
                found.append(line.partition(":")[2].strip())
    return found


@functools.cache
def _commit() -> str:
    """Of the checkout that this code lies in, with a "+" if it was changed; "" if it lies in none.

    A package that was installed into a checkout of something else is no part of it.
    """
    folder = pathlib.Path(__file__).parent
    git = ["git", "-C", os.fspath(folder)]
    try:
        subprocess.run(
            [*git, "ls-files", "--error-unmatch", "rundir.py"], check=True, capture_output=True
        )
        done = subprocess.run(
            [*git, "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"],
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()

"""Checkpoints of a run: written under a temporary name, restored with a fall-back.

The directory's files alone say what is there. A checkpoint is whole once its index has its name:
the index is renamed last, and removed first. TensorFlow keeps a checksum of every tensor; what
was damaged afterwards fails to restore, is named, and the checkpoint before it is taken.
"""

import pathlib
import shutil
from collections.abc import Callable

import tensorflow as tf

from zoo.errors import UsageError, reason

KEEP = 3
_TEMPORARY = "saving"


class BrokenCheckpoints(Exception):
    """Checkpoints are there, and none can be read."""


def _misfit(path: str, error: Exception) -> UsageError:
    return UsageError(
        f"checkpoint {path} is whole but does not fit the model ({reason(error)}): its code has "
        "changed since; use the code of that run, or another --run_dir"
    )


class Checkpoints:
    """The newest KEEP checkpoints of one `tf.train.Checkpoint`, each named by its step."""

    def __init__(self, checkpoint: tf.train.Checkpoint, directory: pathlib.Path):
        self._checkpoint = checkpoint
        self._directory = directory

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, the newest last."""
        names = (path.stem.removeprefix("step-") for path in self._directory.glob("step-*.index"))
        return sorted(int(name) for name in names if name.isdecimal())

    def save(self, step: int) -> None:
        """Writes the checkpoint of this step; the oldest beyond KEEP are removed after.

        If it cannot be written, what was half-written is removed and the older ones stay.
        """
        try:
            self._checkpoint.write(str(self._directory / _TEMPORARY))
            # In the order of the alphabet: data, then index.
            for path in sorted(self._directory.glob(f"{_TEMPORARY}.*")):
                path.rename(path.with_name(f"step-{step}{path.suffix}"))
        except BaseException:
            self.remove_partial()
            raise
        for old in self.steps()[:-KEEP]:
            (self._directory / f"step-{old}.index").unlink()
        self.remove_partial()

    def remove_partial(self) -> None:
        """Removes what a save that never ended left behind; only for the process that trains."""
        shutil.rmtree(self._directory / f"{_TEMPORARY}_temp", ignore_errors=True)
        whole = {f"step-{step}" for step in self.steps()}
        for pattern in (f"{_TEMPORARY}.*", "step-*.data-*"):
            for path in self._directory.glob(pattern):
                if path.stem not in whole:
                    path.unlink()

    def restore(self, say: Callable[[str], None] = print) -> str | None:
        """Restores the newest checkpoint that reads whole; its path, or None if there is none.

        Names each broken one through `say`. BrokenCheckpoints if all are broken. Every variable
        must exist before; UsageError if those of the checkpoint are others.
        """
        steps = self.steps()
        for step in reversed(steps):
            path = str(self._directory / f"step-{step}")
            try:
                status = self._checkpoint.read(path)
                status.assert_consumed()  # and every variable was found
            except AssertionError as error:
                raise _misfit(path, error) from error
            except (tf.errors.OpError, ValueError, IndexError) as error:
                if "shape" in str(error):
                    raise _misfit(path, error) from error
                say(f"Checkpoint {path} is damaged ({reason(error)}): trying the one before it")
                continue
            return path
        if steps:
            raise BrokenCheckpoints(
                f"none of the {len(steps)} checkpoints in {self._directory} can be read"
            )
        return None

"""Checkpoints of a run: saved under a temporary name, restored with a fall-back.

TensorFlow keeps a checksum of every tensor; a checkpoint cut short or flipped on disk fails to
restore, is named, and the one before it is taken.
"""

import pathlib
import shutil
from collections.abc import Callable

import tensorflow as tf

KEEP = 3


class BrokenCheckpoints(Exception):
    """Checkpoints are there, and none can be read."""


class Checkpoints:
    """The newest KEEP checkpoints of one `tf.train.Checkpoint`, each named by its step."""

    def __init__(self, checkpoint: tf.train.Checkpoint, directory: pathlib.Path):
        self._checkpoint = checkpoint
        self._directory = directory
        self._manager = tf.train.CheckpointManager(
            checkpoint, str(directory), max_to_keep=KEEP, checkpoint_name="step"
        )

    def save(self, step: int) -> None:
        """Writes the checkpoint of this step; the oldest beyond KEEP are removed after.

        If it cannot be written, what was half-written is removed and the older ones stay.
        """
        try:
            self._manager.save(checkpoint_number=step)
        except BaseException:
            self.remove_partial()
            raise

    def remove_partial(self) -> None:
        """Removes what a save that never ended left behind; only for the process that trains."""
        listed = {pathlib.Path(path).name for path in self._manager.checkpoints}
        for path in self._directory.glob("step-*"):
            if path.name.partition(".")[0] not in listed:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def restore(self, say: Callable[[str], None] = print) -> str | None:
        """Restores the newest checkpoint that reads whole; its name, or None if there is none.

        Names each broken one through `say`. BrokenCheckpoints if all are broken.
        Every variable must exist before: all of them and nothing else must match.
        """
        paths = list(reversed(self._manager.checkpoints))
        for path in paths:
            try:
                status = self._checkpoint.restore(path)
            except (tf.errors.OpError, ValueError, IndexError) as error:
                reason = str(error).partition("\n")[0]
                say(f"Checkpoint {path} is damaged ({reason}): trying the one before it")
                continue
            status.assert_existing_objects_matched().assert_consumed()
            return path
        if paths:
            raise BrokenCheckpoints(f"none of {len(paths)} checkpoints can be read: {paths}")
        return None

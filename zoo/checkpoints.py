"""Checkpoints of a run: written under a temporary name, restored with a fall-back.

The directory's files alone say what is there. A checkpoint is whole once its index has its name:
the index is renamed last, and removed first. TensorFlow keeps a checksum of every tensor; what
was damaged afterwards fails to restore, is named, and the checkpoint before it is taken.
"""

import json
import math
import pathlib
import shutil
from collections.abc import Callable, Collection
from typing import TypedDict

import tensorflow as tf

from zoo import files
from zoo.errors import UsageError, reason

KEEP = 3
_TEMPORARY = "saving"


class BrokenCheckpoints(Exception):
    """Checkpoints are there, and none can be read."""


class Checkpoints:
    """The newest KEEP checkpoints of one `tf.train.Checkpoint`, each named by its step."""

    def __init__(self, checkpoint: tf.train.Checkpoint, directory: pathlib.Path):
        self._checkpoint = checkpoint
        self._directory = directory

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, the newest last."""
        names = (path.stem.removeprefix("step-") for path in self._directory.glob("step-*.index"))
        return sorted(int(name) for name in names if name.isdecimal())

    def save(self, step: int, keep: Collection[int] = ()) -> None:
        """Writes the checkpoint of this step; the oldest beyond KEEP are removed after.

        keep: steps whose checkpoints stay, however old. If it cannot be written, what was
        half-written is removed and the older ones stay.
        """
        try:
            _write(self._checkpoint, self._directory, f"step-{step}")
        except BaseException:
            self.remove_partial()
            raise
        self._remove(old for old in self.steps()[:-KEEP] if old not in keep)

    def remove_newer(self, step: int) -> None:
        """Removes the checkpoints of later steps, the last first."""
        self._remove(newer for newer in reversed(self.steps()) if newer > step)

    def _remove(self, steps) -> None:
        for step in steps:
            (self._directory / f"step-{step}.index").unlink()
        self.remove_partial()

    def remove_partial(self) -> None:
        """Removes what a save that never ended left behind; only for the process that trains."""
        _remove_others(self._directory, {f"step-{step}" for step in self.steps()})

    def restore(
        self, say: Callable[[str], None] = print, *, up_to: int | None = None
    ) -> str | None:
        """Restores the newest checkpoint that reads whole; its path, or None if there is none.

        up_to: the last step that will do. Names each broken one through `say`. BrokenCheckpoints
        if all are broken. Every variable must exist before; UsageError if those of the checkpoint
        are others.
        """
        steps = [step for step in self.steps() if up_to is None or step <= up_to]
        for step in reversed(steps):
            path = self._directory / f"step-{step}"
            damage = _read(self._checkpoint, path)
            if not damage:
                return str(path)
            say(f"Checkpoint {path} is damaged ({damage}): trying the one before it")
        if steps:
            raise BrokenCheckpoints(
                f"none of the {len(steps)} checkpoints in {self._directory} can be read"
            )
        return None

    def restore_step(self, step: int) -> str:
        """Restores the checkpoint of this step, which must be there; its path.

        BrokenCheckpoints if it is damaged.
        """
        path = self._directory / f"step-{step}"
        if damage := _read(self._checkpoint, path):
            raise BrokenCheckpoints(f"checkpoint {path} is damaged ({damage})")
        return str(path)


class Record(TypedDict):
    """What best.json holds: the evaluation that the best checkpoint is of."""

    step: int
    measure: str
    value: float
    checkpoint: str
    """Its name in the directory."""
    history: list[tuple[int, int, float]]
    """(roll-backs, step, value) each time that a best was found, this one the last."""


class Best:
    """The checkpoint of the evaluation with the lowest measure, apart from those to go on from.

    best.json says which checkpoint in the directory counts. A better one is written whole under
    a name of its own before best.json is renamed over, and only then is the old one removed:
    whenever the process is killed, best.json and the checkpoint that it names belong together.
    """

    def __init__(self, checkpoint: tf.train.Checkpoint, directory: pathlib.Path):
        self._checkpoint = checkpoint
        self._directory = directory

    def record(self) -> Record | None:
        """The best so far; None if there is none, or best.json is damaged."""
        try:
            return json.loads((self._directory / "best.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def value_before(self, rollbacks: int, step: int) -> float | None:
        """The best value when training first got here; None if there was none.

        A resumed run evaluates again what was evaluated before, and must not see what came after.
        """
        record = self.record()
        earlier = [
            value
            for *when, value in (record["history"] if record else ())
            if when < [rollbacks, step]
        ]
        return earlier[-1] if earlier else None

    def offer(self, rollbacks: int, step: int, measure: str, value: float) -> None:
        """Makes this state the best if its value is strictly lower.

        Equal ones change nothing: a resumed run ends with the same best.
        """
        before = self.record()
        if not value < (before["value"] if before else math.inf):
            return
        name = f"step-{step}"
        if before and before["checkpoint"] == name:  # it came by again, after a roll-back
            name += "-again"
        history = [*(before["history"] if before else ()), (rollbacks, step, value)]
        record = Record(step=step, measure=measure, value=value, checkpoint=name, history=history)
        try:
            _write(self._checkpoint, self._directory, name)
            files.write(
                self._directory / "best.json", (json.dumps(record, indent=2) + "\n").encode()
            )
        finally:
            self.remove_partial()

    def remove_partial(self) -> None:
        """Removes all but the best; only for the process that trains."""
        record = self.record()
        _remove_others(self._directory, {record["checkpoint"]} if record else set())

    def restore(self, say: Callable[[str], None] = print) -> str | None:
        """Restores the best checkpoint; its path, or None and a line through `say` if it cannot.

        Every variable must exist before; UsageError if those of the checkpoint are others.
        """
        record = self.record()
        while record:
            path = self._directory / record["checkpoint"]
            damage = _read(self._checkpoint, path)
            if not damage:
                return str(path)
            tried, record = record, self.record()
            if record == tried:  # else a process that trains has just found a better one
                say(f"The best checkpoint {path} is damaged ({damage})")
                return None
        say(f"There is no best checkpoint in {self._directory}")
        return None


def _write(checkpoint: tf.train.Checkpoint, directory: pathlib.Path, name: str) -> None:
    checkpoint.write(str(directory / _TEMPORARY))
    # In the order of the alphabet: data, then index.
    for path in sorted(directory.glob(f"{_TEMPORARY}.*")):
        path.rename(path.with_name(f"{name}{path.suffix}"))


def _read(checkpoint: tf.train.Checkpoint, path: pathlib.Path) -> str:
    """Restores a checkpoint; "" or how it is damaged. UsageError if it is of another model."""
    try:
        checkpoint.read(str(path)).assert_consumed()  # and every variable was found
    except AssertionError as error:
        raise _misfit(path, error) from error
    except (tf.errors.OpError, ValueError, IndexError) as error:
        if "shape" in str(error):
            raise _misfit(path, error) from error
        return reason(error)
    return ""


def _misfit(path: pathlib.Path, error: Exception) -> UsageError:
    return UsageError(
        f"checkpoint {path} is whole but does not fit the model ({reason(error)}): its code has "
        "changed since; use the code of that run, or another --run_dir"
    )


def _remove_others(directory: pathlib.Path, whole: Collection[str]) -> None:
    """Removes half-written checkpoints, and what belongs to none of those that are whole."""
    shutil.rmtree(directory / f"{_TEMPORARY}_temp", ignore_errors=True)
    for pattern in (f"{_TEMPORARY}.*", "step-*.index", "step-*.data-*"):
        for path in directory.glob(pattern):
            if path.stem not in whole:
                path.unlink()

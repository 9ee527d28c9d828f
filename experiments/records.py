"""What a finished run says of itself: its measures, how they were taken, and its curves.

Event files are read to their end and never written; they may have been torn by a kill.
"""

import dataclasses
import pathlib
import statistics
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from zoo import flags, rundir
from zoo.errors import UsageError
from zoo.rundir import Run

# How a model draws is its own affair, how its pictures are looked at is not.
_METHOD = frozenset(("sampler",))
# What a run's protocol says of the model's own measures alone.
_OWN = frozenset(("likelihood", "importance_samples"))
_OBJECTIVE = ("loss", "label_smoothing", "importance_samples")
KINDS = ("sample_measures", "measures", "thorough_measures")


class Took(NamedTuple):
    """What a run took, as its event files have it; what was redone after a kill counts once."""

    seconds: float
    """Training: without start-up, evaluations and pictures."""
    processor_seconds: float
    """Of all its processes up to their last block of steps, start-up included."""
    images_per_second: float
    """The median of its blocks."""
    peak_mebibytes: float


@dataclasses.dataclass(frozen=True)
class Record:
    """One finished run.

    Attributes:
      name: what the runs that differ by nothing but their seed are called.
      protocol: what equal measures must have been taken by.
      objective: flags that the model's own measures depend on, and its samples' do not.
      measures: by their kind, one of KINDS, then by name; of the last step.
      primary: the measure by which the run kept its best state.
    """

    path: pathlib.Path
    name: str
    settings: flags.Settings
    protocol: Mapping[str, str]
    objective: Mapping[str, str]
    method: Mapping[str, str]
    measures: Mapping[str, Mapping[str, float]]
    primary: str
    versions: Mapping[str, str]

    @property
    def model(self) -> str:
        """The zoo's name of it."""
        return self.settings.run.model

    @property
    def seed(self) -> int:
        """Of its training."""
        return self.settings.run.seed

    def curve(self, measure: str) -> dict[int, float]:
        """Step -> the measure's value when the run was evaluated; empty if it never was."""
        return curve(self.path, measure)

    def seconds(self) -> dict[int, float]:
        """Step -> seconds of training until then."""
        total, before, found = 0.0, 0, {}
        for step, rate in sorted(_last(_scalars(self.path / "train", _RATE)).items()):
            total += (step - before) / rate
            before, found[step] = step, total
        return found

    def took(self) -> Took | None:
        """None for runs of before this was recorded."""
        seconds = self.seconds()
        peaks = [value for _, value in _scalars(self.path / "train", _PEAK)]
        if not seconds or not peaks:
            return None
        processor, before = 0.0, 0.0
        for _, value in _scalars(self.path / "train", _PROCESSOR):
            # It counts within one process: less than before is another one's.
            processor += value - before if value >= before else value
            before = value
        rates = _last(_scalars(self.path / "train", _IMAGES)).values()
        return Took(max(seconds.values()), processor, statistics.median(rates), max(peaks))


_RATE, _IMAGES = "speed/steps_per_second", "speed/images_per_second"
_PROCESSOR, _PEAK = "process/processor_seconds", "process/peak_mebibytes"


def read(path: pathlib.Path, name: str = "") -> Record:
    """A finished run; UsageError for one that is none, damaged, unfinished, of another version."""
    run = Run.open(path)
    versions = run.read_json("versions.json") or {}
    try:
        settings = flags.read_recorded(run.flags())
    except UsageError as error:
        raise UsageError(
            f"{path}/flags.txt is damaged, or of another version of the zoo "
            f"({versions.get('zoo', 'unknown')}, this is {rundir.versions()['zoo']}): {error}"
        ) from error
    metrics = run.read_json("metrics.json")
    steps = settings.run.total_steps
    if metrics is None or (isinstance(metrics, dict) and metrics.get("step", 0) < steps):
        raise UsageError(
            f"{path} is not finished, at step {_reached(run)} of {steps}: python -m zoo.train "
            f"--flagfile={path}/flags.txt --run_dir={path}"
        )
    try:
        protocol = {key: str(value) for key, value in metrics["protocol"].items()}
        measures = {
            kind: {key: float(value) for key, value in metrics[kind].items()}
            for kind in KINDS
            if kind in metrics
        }
        primary = metrics.get("best", {}).get("measure", "")
        examples, split = metrics["examples"], metrics["split"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UsageError(
            f"{path}/metrics.json is damaged, or of another version of the zoo (no {error}): "
            f"remove it and repeat python -m zoo.train --flagfile={path}/flags.txt "
            f"--run_dir={path}, which evaluates anew"
        ) from error
    asked = {
        "dataset": settings.run.dataset,
        "image_size": str(settings.run.image_size),
        "split": str(split),
        "examples": str(examples),
    }
    return Record(
        path=path,
        name=name,
        settings=settings,
        protocol={**asked, **{k: v for k, v in protocol.items() if k not in _METHOD | _OWN}},
        objective={
            **{k: v for k, v in protocol.items() if k in _OWN},
            **{
                name: str(value)
                for name, value in settings.config.items()
                if name in _OBJECTIVE or name.endswith("_weight")
            },
        },
        method={k: v for k, v in protocol.items() if k in _METHOD},
        measures=measures,
        primary=primary,
        versions=versions,
    )


def curve(path: pathlib.Path, measure: str) -> dict[int, float]:
    """Step -> the measure's value when the run was evaluated, also while it trains."""
    tags = dict.fromkeys(tag for _, values in _events(path / "eval") for tag in values)
    for tag in tags:
        if is_measure(tag.removeprefix("samples/"), measure):
            return _last(_scalars(path / "eval", tag))
    return {}


def is_measure(name: str, asked: str) -> bool:
    """Whether a measure is the one asked for: frechet_distance is that of any extractor."""
    return name == asked or (asked == "frechet_distance" and name.startswith("fd_"))


def _reached(run: Run) -> int:
    names = (path.stem.removeprefix("step-") for path in run.checkpoints.glob("step-*.index"))
    return max((int(name) for name in names if name.isdecimal()), default=0)


def _last(pairs: Iterator[tuple[int, float]]) -> dict[int, float]:
    """By step, what was written last: a run that was killed goes on from before that."""
    found: dict[int, float] = {}
    last = -1
    for step, value in pairs:
        if step <= last:
            found = {earlier: kept for earlier, kept in found.items() if earlier < step}
        found[step], last = value, step
    return found


def _scalars(directory: pathlib.Path, tag: str) -> Iterator[tuple[int, float]]:
    """(step, value) in the order in which they were written."""
    for step, values in _events(directory):
        if tag in values:
            yield step, values[tag]


def _events(directory: pathlib.Path) -> list[tuple[int, dict[str, float]]]:
    key = tuple((path, path.stat().st_size) for path in sorted(directory.glob("events.out.*")))
    if _read.get(directory, (None,))[0] != key:
        _read[directory] = (key, [event for path, _ in key for event in _file(path)])
    return _read[directory][1]


_read: dict[pathlib.Path, tuple[Any, list[tuple[int, dict[str, float]]]]] = {}


def _file(path: pathlib.Path) -> Iterator[tuple[int, dict[str, float]]]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util import tensor_util

    for event in EventFileLoader(str(path)).Load():
        values = {
            value.tag: float(tensor_util.make_ndarray(value.tensor))
            for value in event.summary.value
            if value.metadata.plugin_data.plugin_name == "scalars"
        }
        if values:
            yield event.step, values

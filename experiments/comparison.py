"""From finished runs to tables: what may stand in one column, means, intervals, paired tests.

Figures stand in one column only if they were taken by the same protocol; a table holds one
protocol, and where two tables could have been one, a line says which keys differ.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from experiments import significance
from experiments.records import Record
from zoo import flags
from zoo.errors import UsageError

# Flags that say how long or how often to look, and not what is trained.
_NOT_PART = flags.MAY_CHANGE - {"total_steps"} | {"seed"}
# For better: lower, or higher. Losses of adversaries are neither.
LOWER = ("fd_", "relative_fd_", "kd_", "negative_", "reconstruction", "stylization", "fid", "kid")
HIGHER = ("precision", "recall", "density", "coverage", "class_accuracy", "class_entropy")


class Pair(NamedTuple):
    """A paired test of two rows of a table over the seeds that both have."""

    first: str
    second: str
    seeds: tuple[int, ...]
    difference: float
    """Mean of first minus second, nan without common seeds."""
    half_width: float
    """Of its confidence interval, nan for fewer than two seeds."""
    t_test: float
    """p, after Holm's correction for all pairs of the table; nan for fewer than two seeds."""
    sign_flip: float
    """p, not corrected; nan for fewer than two seeds, or too many."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Runs whose measures were taken alike."""

    title: str
    protocol: Mapping[str, str]
    kinds: tuple[str, ...]
    """Which of the records' measures it shows."""
    primary: str
    """What is tested and drawn, lower being better; "" where losses of adversaries tell nothing."""
    rows: Mapping[str, tuple[Record, ...]]
    """Name -> its runs, by seed."""

    def values(self, name: str, measure: str) -> dict[int, float]:
        """Seed -> value, of the runs of a name that have the measure."""
        return {
            record.seed: found[measure]
            for record in self.rows[name]
            if measure in (found := self._measures(record))
        }

    def measures(self) -> list[str]:
        """All that any run has, the primary one first, then in the runs' order."""
        first = [self.primary] if self.primary else []
        found = (self._measures(record) for record in self.records())
        return list(dict.fromkeys(itertools.chain(first, *found)))

    def records(self) -> list[Record]:
        """Its runs, row by row."""
        return list(itertools.chain.from_iterable(self.rows.values()))

    def pairs(self) -> list[Pair]:
        """Every two rows, tested by the primary measure; none where there is no such."""
        if not self.primary:
            return []
        pairs = [self._pair(*two) for two in itertools.combinations(self.rows, 2)]
        tested = [pair for pair in pairs if not math.isnan(pair.t_test)]
        corrected = iter(significance.holm([pair.t_test for pair in tested]))
        return [
            pair if math.isnan(pair.t_test) else pair._replace(t_test=next(corrected))
            for pair in pairs
        ]

    def _measures(self, record: Record) -> dict[str, float]:
        return {k: v for kind in self.kinds for k, v in record.measures.get(kind, {}).items()}

    def _pair(self, first: str, second: str) -> Pair:
        ours, theirs = self.values(first, self.primary), self.values(second, self.primary)
        seeds = tuple(sorted(ours.keys() & theirs.keys()))
        differences = [ours[seed] - theirs[seed] for seed in seeds]
        nan = math.nan
        if len(seeds) < 2:
            return Pair(first, second, seeds, differences[0] if seeds else nan, nan, nan, nan)
        mean, half = significance.interval(differences)
        t_test, flips = significance.paired_t(differences), significance.sign_flip(differences)
        return Pair(first, second, seeds, mean, half, t_test, flips)


def named(records: Sequence[Record]) -> list[Record]:
    """Runs found in directories, named by their model and its flags: those in which its runs
    differ and that are not the default.

    UsageError if two runs differ by nothing, not even by their seed.
    """
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        groups.setdefault(_identity(record), []).append(record)
    found = []
    for identity, runs in groups.items():
        default = flags.parse_training([f"--model={runs[0].model}"]).recorded()
        of_model = [dict(other) for other in groups if dict(other)["model"] == runs[0].model]
        flags_here = dict(identity)
        telling = [
            f"{name}={value}"
            for name, value in flags_here.items()
            if value != default.get(name) and any(other.get(name) != value for other in of_model)
        ]
        name = " ".join([runs[0].model, *telling])
        by_seed: dict[int, Record] = {}
        for run in runs:
            if run.seed in by_seed:
                raise UsageError(
                    f"{by_seed[run.seed].path} and {run.path} are runs of the same flags and seed: "
                    "expected each run once"
                )
            by_seed[run.seed] = run
        found += [dataclasses.replace(run, name=name) for run in runs]
    return found


def _identity(record: Record) -> tuple:
    recorded = record.settings.recorded().items()
    return tuple((name, value) for name, value in recorded if name not in _NOT_PART)


def tables(records: Sequence[Record]) -> list[Table]:
    """Samples of all models in one table a protocol, then each model's own measures."""
    found = []
    drawing = [record for record in records if record.measures.get("sample_measures")]
    for protocol, runs in _groups(drawing, lambda record: record.protocol):
        measures = list(runs[0].measures["sample_measures"])
        primary = next((name for name in measures if name.startswith("fd_")), measures[0])
        title = f"Samples, {_data(runs[0])}"
        found.append(Table(title, protocol, ("sample_measures",), primary, _rows(runs)))
    for model in dict.fromkeys(record.model for record in records):
        own = [record for record in records if record.model == model and record.measures]
        for protocol, runs in _groups(own, lambda record: {**record.protocol, **record.objective}):
            kinds = ("measures", "thorough_measures")
            known = [name for kind in kinds for name in runs[0].measures.get(kind, {})]
            if not known:
                continue
            primary = runs[0].primary if runs[0].primary in known else ""
            title = f"Own measures of {model}, {_data(runs[0])}"
            found.append(Table(title, protocol, kinds, primary, _rows(runs)))
    return found


def kept_apart(found: Sequence[Table]) -> list[str]:
    """Why tables of one kind are not one: the keys of their protocols that differ."""
    lines = []
    for one, other in itertools.combinations(found, 2):
        own = {record.model for table in (one, other) for record in table.records()}
        if one.kinds != other.kinds or ("sample_measures" not in one.kinds and len(own) > 1):
            continue
        keys = [
            f"{key} ({one.protocol.get(key, 'not there')}; {other.protocol.get(key, 'not there')})"
            for key in dict.fromkeys([*one.protocol, *other.protocol])
            if one.protocol.get(key) != other.protocol.get(key)
        ]
        lines.append(
            f"{', '.join(one.rows)} and {', '.join(other.rows)} are not in one column: their "
            f"protocols differ in {', '.join(keys)}"
        )
    return lines


def _data(record: Record) -> str:
    return f"{record.settings.run.dataset} at {record.protocol['image_size']} pixels"


def _groups(
    records: Sequence[Record], protocol: Callable[[Record], Mapping[str, str]]
) -> list[tuple[Mapping[str, str], list[Record]]]:
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(sorted(protocol(record).items())), []).append(record)
    return [(protocol(runs[0]), runs) for runs in groups.values()]


def _rows(records: Sequence[Record]) -> dict[str, tuple[Record, ...]]:
    rows: dict[str, list[Record]] = {}
    for record in records:
        rows.setdefault(record.name, []).append(record)
    return {name: tuple(sorted(runs, key=lambda run: run.seed)) for name, runs in rows.items()}


def better(measure: str) -> int:
    """-1 if lower is better, 1 if higher, 0 if neither is known."""
    return -1 if measure.startswith(LOWER) else int(measure in HIGHER)

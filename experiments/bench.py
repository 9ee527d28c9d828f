"""`python -m experiments.bench --parts=step,grid`: what this machine makes of the zoo.

    step      the loop beside Keras's fit(), a 64x64 DCGAN beside the machine's peak, retracing
    grid      every model by batch, precision and devices, each in a process of its own
    growth    what a step costs as examples, steps, checkpoints and the batch grow
    data      how fast a folder of photographs becomes batches, beside Keras
    serving   exported models beside live ones, and their start
    preview   requests a second of `python -m export.preview`
    runtimes  one export in TensorFlow, ONNX Runtime and LiteRT

Prints each figure with its target and writes all of them as JSON, after each part; each part is a
process of its own, which meets nothing that another left behind. The exit code does not depend on
the targets: how much a machine is shared decides too much about them.

--peer=SCRIPT puts others beside the loop in `step`: a Python file, anywhere, that defines

    def contenders(name, config, data, batch_size):
        ...
        return {"torch": run}

and is asked for each net: name is mlp, small_mlp, conv or dcgan, config that model's Config, data
{"image": uint8 [N, H, W, C], ...} in memory, which it has to shuffle, batch and bring to its device
itself. run(steps) trains so many steps and returns steps per second; it takes turns with the
others, and is called once before it counts. {} for a net that it does not have.
"""

import dataclasses
import datetime
import importlib
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from experiments import processes
from zoo import files, flags, models, rundir
from zoo.errors import UsageError, check_positive, unknown

PARTS = ("step", "grid", "growth", "data", "serving", "preview", "runtimes")
_USAGE = "python -m experiments.bench [--parts=PART,... --flag=value ...]"


@dataclasses.dataclass(frozen=True)
class BenchFlags:
    """What the benchmark can be told."""

    parts: str = "step,grid"
    """Which parts, between commas: step, grid, growth, data, serving, preview, runtimes."""
    quick: bool = False
    """Far fewer steps, a minute or two a part: shows that it runs; its figures mean little."""
    out: str = "bench.json"
    """File to write the figures to."""
    models: str = ""
    """Between commas: all in the grid, vae,dcgan,style in serving, dcgan in runtimes by default."""
    batch_sizes: str = ""
    """Of the grid, between commas; each model's own by default."""
    precisions: str = "float32"
    """Of the grid, between commas, as --precision of zoo.train."""
    strategies: str = "one_device"
    """Of the grid, between commas, as --strategy of zoo.train; without a GPU, mirrored is two
    halves of the CPU."""
    peer: str = ""
    """Python files, between commas, whose contenders take turns with ours in `step`."""

    def __post_init__(self):
        fields = {field.name: field.choices for field in flags.run_fields()}
        for kind, values, known in (
            ("part", self.parts, PARTS),
            ("model", self.models, models.names()),
            ("precision", self.precisions, fields["precision"]),
            ("strategy", self.strategies, fields["strategy"]),
        ):
            check_listed(kind, values, known)
        for size in listed(self.batch_sizes):
            if not size.isdecimal():
                raise UsageError(f"--batch_sizes={size}: expected whole numbers between commas")
            check_positive(batch_sizes=int(size))
        for path in listed(self.peer):
            if not os.path.isfile(path):
                raise UsageError(f"--peer={path}: expected a Python file")
        for name in ("parts", "precisions", "strategies"):
            if not listed(getattr(self, name)):
                raise UsageError(f"--{name} is empty: expected names between commas")


def check_listed(kind: str, values: str, known: Iterable[str]) -> None:
    """UsageError if one of the values, with commas between, is not known."""
    for value in listed(values):
        if value not in known:
            raise unknown(kind, value, known)


def listed(text: str) -> list[str]:
    """What stands between the commas of a flag."""
    return [part.strip() for part in text.split(",") if part.strip()]


class Report:
    """Prints figures as they come and keeps those that have a target."""

    def __init__(self) -> None:
        self.checks: list[dict[str, Any]] = []
        self._title = ""
        self._widths: list[int] = []

    def title(self, text: str) -> None:
        """The heading of the lines that follow."""
        self._title = text
        print(f"\n{text}", flush=True)

    def figure(self, name: str, text: str) -> None:
        """A figure without a target."""
        print(f"  {name:54} {text:>22}", flush=True)

    def check(self, name: str, value: float, text: str, target: str, passed: bool) -> None:
        """A figure with a target; text: how the value is shown."""
        verdict = "PASS" if passed else "FAIL"
        print(f"  {name:54} {text:>22}  {target:>8}  {verdict}", flush=True)
        found = {"name": name, "value": value, "target": target, "passed": passed}
        self.checks.append({"of": self._title, **found})

    def head(self, *columns: str) -> None:
        """Begins a table in Markdown; a column is as wide as its name, spaces included."""
        self._widths = [len(column) for column in columns]
        self.row(*map(str.strip, columns))
        self.row(*("-" * width for width in self._widths))

    def row(self, *cells: str) -> None:
        """The next row; one with fewer cells ends in what has no width, as a reason."""
        padded = (f"{c:{w}}" for c, w in zip(cells, self._widths, strict=False))
        print(f"| {' | '.join(padded)} |", flush=True)


def write(out: pathlib.Path, figures: dict[str, Any]) -> None:
    """As JSON, whole or not at all; UsageError if that cannot be."""
    try:
        files.write(out, json.dumps(figures, indent=2).encode() + b"\n")
    except OSError as error:
        words = f"cannot write {out}: {error.strerror}; choose another --out"
        raise UsageError(words) from error


def main(argv: list[str]) -> int:
    """Measures, prints and writes; returns the exit code."""
    options = flags.parse_options(BenchFlags, _USAGE, argv)
    if options is None:
        return 0
    out = pathlib.Path(options.out)
    _check_writable(out)
    figures: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": options.quick,
        "cpu": rundir.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average_before": os.getloadavg()[0],
        "versions": rundir.versions(),
        "checks": [],
    }
    print(f"{figures['cores']} cores of {figures['cpu']}, load {os.getloadavg()[0]:.1f} before")
    print("Speeds are medians; ratios: median (quartiles) of the ratios of interleaved rounds")
    if options.quick:
        print("--quick: too few steps for the figures to mean much")
    for name in listed(options.parts):
        figures[name], checks = processes.fresh(_measure, name, options)
        figures["checks"] += [{"part": name, **check} for check in checks]
        write(out, figures)
    met = sum(check["passed"] for check in figures["checks"])
    print(f"\n{met} of {len(figures['checks'])} targets met" if figures["checks"] else "")
    print(f"All figures: {out}")
    return 0


def _measure(name: str, options: BenchFlags) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    processes.quiet_tensorflow()
    report = Report()
    part = importlib.import_module(f"experiments.bench_{name}")
    return part.run(options, report), report.checks


def _check_writable(out: pathlib.Path) -> None:
    """UsageError now rather than after minutes of measuring."""
    folder = next(path for path in out.absolute().parents if path.exists())
    if out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write {out}: expected --out to name a file in a writable folder")


if __name__ == "__main__":
    flags.run_command(main)

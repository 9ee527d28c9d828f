"""`python -m experiments.compare --suite=NAME` or `--run_dirs=A,B`: runs side by side, with errors.

Of a suite it trains what is missing, by `python -m zoo.train`, and may be stopped or killed at any
time: the same command goes on. Then it writes DIR/report.html, report.md, measures.csv, times.csv
and pictures/. `tensorboard --logdir=DIR` shows the runs of a suite with their HParams.
"""

import dataclasses
import datetime
import glob
import os
import pathlib
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments import suites
from zoo import files, flags
from zoo.errors import UsageError, check_positive, writing

if TYPE_CHECKING:
    from experiments.records import Record
    from experiments.report import Report

Missing = dict[tuple[str, int], str]
"""By name and seed, why a run that was asked for is not there."""


@dataclasses.dataclass(frozen=True)
class CompareFlags:
    """What a comparison can be told."""

    suite: str = ""
    """A suite by its name, or a file of one."""
    run_dirs: str = ""
    """Directories of finished runs, with commas between them; * stands for any name."""
    out: str = ""
    """Directory of the report, and of the suite's runs; runs/<suite> by default."""
    jobs: int = 1
    """How many runs of a suite to train at a time, on a GPU each where there are several."""
    train: bool = True
    """Train what is missing; false: report what is there."""
    pictures: bool = True
    """Load the models and show what they draw; false: figures only."""
    times: bool = True
    """false: leave out times, memory and the date, all that differs when a command is repeated."""
    results: str = ""
    """A Markdown file that has lines <!-- SUITE: begin --> and <!-- SUITE: end -->: what is between
    them is replaced by the report, without pictures."""

    def __post_init__(self):
        check_positive(jobs=self.jobs)
        if bool(self.suite) == bool(self.run_dirs):
            known = ", ".join(suites.names())
            raise UsageError(f"expected one of --suite (known: {known}) and --run_dirs")


def main(argv: list[str]) -> int:
    """Trains what is missing and writes the report; returns the exit code."""
    usage = "python -m experiments.compare --suite=NAME | --run_dirs=A,B [--flag=value ...]"
    options = flags.parse_options(CompareFlags, usage, argv)
    if options is None:
        return 0
    suite = None
    if options.suite:
        file = suites.find(options.suite)
        out = pathlib.Path(options.out or f"runs/{file.stem}")
        suite = suites.load(file, out)
        name, asked = file.stem, f"--suite={options.suite}"
    else:
        out = pathlib.Path(options.out or "runs/comparison")
        name, asked = out.name, f"--run_dirs={options.run_dirs}"
    results = pathlib.Path(options.results) if options.results else None
    if results:
        _between(results, name)
    missing: Missing = {}
    with writing(out, "what was finished is kept: make room, then repeat the command"):
        if suite:
            missing = _train(suite, out, options)
        records = _read(suite, missing, options)
        report = _report(records, suite, missing, name, asked, options)
        _write(report, out)
        if results:
            _replace(results, name, report)
    print(f"Report: {out / 'report.html'}, {out / 'report.md'}, {out / 'measures.csv'}")
    if suite:
        print(f"Curves: tensorboard --logdir={shlex.quote(str(out))}")
    return 1 if missing else 0


def _train(suite: suites.Suite, out: pathlib.Path, options: CompareFlags) -> Missing:
    """Trains what is not finished; returns why some are still not."""
    unfinished = [run for run in suite.runs if not run.finished()]
    if not unfinished:
        return {}
    if not options.train:
        return {(run.name, run.seed): "not trained yet" for run in unfinished}
    print(f"{len(suite.runs) - len(unfinished)} of {len(suite.runs)} runs are finished", flush=True)
    failed = suites.Trainer(out / "logs", options.jobs).train(unfinished)
    return {(run.name, run.seed): failed[run] for run in suite.runs if run in failed}


def _read(suite: suites.Suite | None, missing: Missing, options: CompareFlags) -> "list[Record]":
    from experiments import comparison, records

    if suite:
        found = [run for run in suite.runs if (run.name, run.seed) not in missing]
        return [records.read(run.run.path, run.name) for run in found]
    paths: list[str] = []
    for pattern in options.run_dirs.split(","):
        matches = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
        if not matches:
            raise UsageError(f"--run_dirs={pattern}: no directory has such a name")
        paths += [path.rstrip("/") for path in matches]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise UsageError(f"--run_dirs has {twice} twice: expected each run once")
    return comparison.named([records.read(pathlib.Path(path)) for path in paths])


def _report(
    records: "Sequence[Record]",
    suite: suites.Suite | None,
    missing: Missing,
    name: str,
    asked: str,
    options: CompareFlags,
) -> "Report":
    from experiments import comparison
    from experiments.report import Report
    from zoo import runtime

    # Reading event files imports it too, and would print what this keeps quiet.
    if records:
        runtime.import_tensorflow()
    by_name = {record.name: record for record in sorted(records, key=lambda r: -r.seed)}
    in_order = {record.name: by_name[record.name] for record in records}
    took = [record.took() for record in records] if options.times else None
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Report(
        title=name.replace("_", " ").capitalize(),
        command=f"python -m experiments.compare {shlex.quote(asked)}",
        records=records,
        tables=comparison.tables(records),
        exhibits=_exhibits(in_order) if options.pictures else {},
        published=suite.published if suite else (),
        missing=missing,
        took=took,
        date=now if options.times else "",
    )


def _exhibits(records: "dict[str, Record]"):
    """Of each name's first seed."""
    if not records:
        return {}
    from experiments import exhibits

    found: dict = {}
    for name, record in records.items():
        print(f"Pictures of {name}", flush=True)
        try:
            found[name] = (record, exhibits.make(record))
        except UsageError as error:
            found[name] = (record, f"no pictures: {error}")
    return found


def _write(report: "Report", out: pathlib.Path) -> None:
    from experiments import report as forms

    for file, data in forms.picture_files(report).values():
        files.write(out / "pictures" / file, data)
    files.write(out / "report.md", forms.markdown(report).encode())
    files.write(out / "measures.csv", forms.measures_csv(report).encode())
    if report.took is not None:
        files.write(out / "times.csv", forms.took_csv(report).encode())
    files.write(out / "report.html", forms.page(report).encode())


def _between(path: pathlib.Path, name: str) -> tuple[str, str]:
    """What stands before and after the section of this name, its marks included."""
    marks = [f"<!-- {name}: {which} -->" for which in ("begin", "end")]
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--results={path}: {os.strerror(getattr(error, 'errno', 0) or 0)}: "
                         "expected a Markdown file") from error  # fmt: skip
    before, begin, rest = text.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not end:
        raise UsageError(f"--results={path}: expected the lines {marks[0]} and {marks[1]} in it")
    return before + begin, end + after


def _replace(path: pathlib.Path, name: str, report: "Report") -> None:
    from experiments import report as forms

    before, after = _between(path, name)
    text = forms.markdown(report, level=2, pictures=None)
    files.write(path, f"{before}\n\n{text}\n{after}".encode())


if __name__ == "__main__":
    flags.run_command(main)

"""Suites: plain files that name training runs, and what runs those that are missing.

A line is a name and the flags of `python -m zoo.train`; three names are special:

    # a comment
    seeds 0 1 2
    all --dataset=glyphs --eval_every=250
    vae --model=vae --total_steps=500
    wide --model=vae --width=64 --total_steps=500
    published vae | negative_elbo | 83.4 | how it was measured | where it is written

`seeds` and `all` count for every run. A published figure stands beside the runs of that name, in
a table of its own. A --flagfile is looked for beside the suite too.
"""

import concurrent.futures
import dataclasses
import os
import pathlib
import queue
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Sequence

from experiments import processes
from zoo import errors, flags
from zoo.errors import UsageError
from zoo.rundir import BUSY, Run

_FOLDER = pathlib.Path(__file__).parent
_ENDING = ".suite"


@dataclasses.dataclass(frozen=True)
class Published:
    """A figure of the literature: never in one column with ours."""

    name: str
    measure: str
    value: str
    protocol: str
    source: str


@dataclasses.dataclass(frozen=True, eq=False)
class Planned:
    """A run that a suite asks for."""

    name: str
    seed: int
    run: Run
    arguments: tuple[str, ...]
    """Of `python -m zoo.train`, --seed and --run_dir included."""
    settings: flags.Settings

    @property
    def label(self) -> str:
        """For a person."""
        return f"{self.name}, seed {self.seed}"

    def finished(self) -> bool:
        """Whether it was trained to its end; UsageError if its directory holds another run."""
        if not (self.run.path / "flags.txt").is_file():
            return False
        # What may change does, when a run goes on, but for the steps: those must be reached.
        wanted = self.settings.recorded()
        before = {**flags.recorded_defaults(wanted["model"]), **self.run.flags()}
        different = [
            f"--{name} was {before.get(name, 'not there')}, is {value}"
            for name, value in wanted.items()
            if name not in flags.MAY_CHANGE and before.get(name) != value
        ]
        if different:
            raise UsageError(
                f"{self.run.path} holds a run with other flags ({'; '.join(different)}): remove "
                "it, or choose another --out"
            )
        metrics = self.run.read_json("metrics.json")
        return bool(metrics) and metrics.get("step") == self.settings.run.total_steps


@dataclasses.dataclass(frozen=True)
class Suite:
    """What a suite's file says."""

    name: str
    runs: tuple[Planned, ...]
    """Seed by seed, so that an interrupted suite has all models' first seeds."""
    published: tuple[Published, ...]


def names() -> list[str]:
    """The suites that come with the zoo."""
    return sorted(path.stem for path in _FOLDER.glob(f"*{_ENDING}"))


def find(name: str) -> pathlib.Path:
    """A suite's file by its name, or as a path; UsageError if there is none."""
    for path in (pathlib.Path(name), _FOLDER / f"{name}{_ENDING}"):
        if path.is_file():
            return path
    raise errors.unknown("suite", name, names(), ", or the path of a file")


def load(path: pathlib.Path, out: pathlib.Path) -> Suite:
    """Reads a suite whose runs are to lie in `out`; UsageError with the line that is wrong."""
    seeds, everywhere = [0], []
    entries: dict[str, tuple[int, list[str]]] = {}
    published = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read suite {path}: {errors.reason(error)}") from error
    for number, line in enumerate(lines, 1):
        name, _, rest = line.strip().partition(" ")
        try:
            if not name or name.startswith("#"):
                continue
            if name == "seeds":
                seeds = _seeds(rest)
            elif name == "all":
                everywhere += _arguments(rest, path)
            elif name == "published":
                published.append(_published(rest))
            elif name in entries:
                raise UsageError(f"a second {name!r}, after line {entries[name][0]}")
            elif "/" in name or name.startswith(("-", ".")):
                raise UsageError(f"{name!r} is no name: expected a name, then flags")
            else:
                entries[name] = (number, _arguments(rest, path))
        except ValueError as error:  # a UsageError, or shlex: "No closing quotation"
            raise UsageError(f"{path}, line {number}: {error}") from error
    if not entries:
        raise UsageError(f"{path} names no runs: expected lines like `vae --model=vae`")
    runs = []
    for seed in seeds:
        for name, (number, arguments) in entries.items():
            run = Run(out / f"{name}-{seed}")
            argv = [*everywhere, *arguments, f"--seed={seed}", f"--run_dir={run.path}"]
            try:
                settings = flags.parse_training(argv)
            except UsageError as error:
                raise UsageError(f"{path}, line {number}: {error}") from error
            runs.append(Planned(name, seed, run, tuple(argv), settings))
    return Suite(path.stem, tuple(runs), tuple(published))


def _seeds(text: str) -> list[int]:
    words = text.split()
    if not words or not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
        raise UsageError(f"seeds {text!r}: expected different numbers, as in `seeds 0 1 2`")
    return [int(word) for word in words]


def _arguments(text: str, suite: pathlib.Path) -> list[str]:
    arguments = shlex.split(text, comments=True)
    for number, argument in enumerate(arguments):
        flag, _, value = argument.partition("=")
        beside = suite.parent / value
        if flag == "--flagfile" and not os.path.exists(value) and beside.is_file():
            arguments[number] = f"--flagfile={beside}"
    return arguments


def _published(text: str) -> Published:
    parts = [part.strip() for part in text.split("|")]
    if len(parts) != 5 or not all(parts):
        raise UsageError("expected `published name | measure | value | protocol | source`")
    return Published(*parts)


class Trainer:
    """Runs `python -m zoo.train` for runs that are not finished, some at a time.

    SIGTERM and Ctrl-C are handed to the processes once, so that they save; a kill of this process
    leaves them training, and who comes next waits for them.
    """

    def __init__(self, logs: pathlib.Path, jobs: int):
        self._logs = logs
        self._slots: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        devices = _gpus()
        for number in range(jobs):
            self._slots.put(devices[number % len(devices)] if devices else None)
        self._pool = concurrent.futures.ThreadPoolExecutor(jobs)
        self._processes: set[subprocess.Popen] = set()
        self._lock = threading.Lock()
        self._stopping = False

    def train(self, runs: Sequence[Planned]) -> dict[Planned, str]:
        """Trains all; returns those that failed, each with the reason in a line."""
        futures = {self._pool.submit(self._finish, run): run for run in runs}
        failed, done = {}, 0
        try:
            for future in concurrent.futures.as_completed(futures):
                done += 1
                run = futures[future]
                if reason := future.result():
                    failed[run] = reason
                verdict = f"not run: {reason}" if reason else "finished"
                print(f"[{done}/{len(runs)}] {run.label}: {verdict}", flush=True)
        finally:
            self._stop()
        return failed

    def _finish(self, planned: Planned) -> str:
        """Until the run is finished; the reason if it fails."""
        slot = self._slots.get()
        try:
            while not self._stopping:
                planned.run.wait()
                if planned.finished():
                    return ""
                began = time.monotonic()
                reason = self._run(planned, slot)
                if reason is None:
                    print(f"{planned.label}: {time.monotonic() - began:.0f} s", flush=True)
                    return ""
                if BUSY not in reason:
                    return reason
            return "interrupted"
        finally:
            self._slots.put(slot)

    def _run(self, planned: Planned, device: str | None) -> str | None:
        """One process; None if it ended well, else why not."""
        log = self._logs / f"{planned.run.path.name}.log"
        print(f"{planned.label}: training, log {log}", flush=True)
        with self._lock:
            if self._stopping:
                return "interrupted"
            process = processes.start(planned.arguments, log, device)
            self._processes.add(process)
        code = process.wait()
        with self._lock:
            self._processes.discard(process)
        return processes.failure(code, log) if code else None

    def _stop(self) -> None:
        with self._lock:
            self._stopping = True
            for process in self._processes:
                process.send_signal(signal.SIGTERM)
        self._pool.shutdown(cancel_futures=True)


def _gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES says, or NVIDIA's driver; none if there is but one."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        found = [device for device in said.split(",") if device]
    else:
        count = len(list(pathlib.Path("/proc/driver/nvidia/gpus").glob("*")))
        found = [str(number) for number in range(count)]
    return found if len(found) > 1 else []

"""Jobs killed with `kill -9`: whether they keep all they had, and end as if never disturbed."""

import collections
import concurrent.futures
import os
import pathlib
import random
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments import jobs
from experiments.bench import Report
from zoo.rundir import Run

LONGEST = 60.0
"""Seconds within which all of a job has to end once one of its processes is killed."""
_PATIENCE = 300.0
# Checkpoints far more often than anyone would want, so that kills meet them.
_OFTEN = ("--checkpoint_every=5", "--sample_every=50", "--eval_every=50")


class Victim:
    """A job that is to be killed at a moment, once it comes."""

    def __init__(self, job: jobs.Job, run: Run, cache: pathlib.Path, chance: random.Random):
        self._job, self._run, self._cache, self._chance = job, run, cache, chance
        self._first = jobs.steps(run.path)
        self._sheets = set(run.samples.glob("*"))

    def wait_for(self, moment: str) -> bool:
        """False if the job ended before."""
        return getattr(self, f"_{moment}")()

    def _starting(self) -> bool:
        return self._then(lambda: True, 6.0)

    def _drawing(self) -> bool:
        return self._then(lambda: any(self._cache.glob("*")), 2.0)

    def _training(self) -> bool:
        return self._then(lambda: jobs.steps(self._run.path) != self._first, 0.5)

    def _saving(self) -> bool:
        # Not what an earlier kill left: that lies there until this job has begun.
        return self._then(lambda: self._begun() and self._saves(), 0.002)

    def _begun(self) -> bool:
        return self._job.said("Resuming from step") or self._job.said(" examples\n")

    def _saves(self) -> bool:
        return any(self._run.checkpoints.glob("saving*"))

    def _hooks(self) -> bool:
        return self._then(lambda: not set(self._run.samples.glob("*")) <= self._sheets, 0.5)

    def _final(self) -> bool:
        return self._then(lambda: self._job.said("Evaluating on the test split"), 1.0)

    def _then(self, seen: Callable[[], bool], longest: float) -> bool:
        """Waits until it is seen, and a random time more."""
        if not self._job.watch(seen, _PATIENCE):
            return False
        time.sleep(self._chance.uniform(0.0, longest))
        return not self._job.ended()


MOMENTS = ("starting", "drawing", "training", "saving", "hooks", "final")


def kill_all(
    directory: pathlib.Path,
    cases: Sequence[tuple[str, str]],
    count: int,
    seed: int,
    steps: int,
    reference: Callable[[str, str], pathlib.Path],
    keep: Callable[[dict[str, Any]], None],
    report: Report,
) -> None:
    """So many kills, spread over cases and moments; and of each model an export.

    cases: models with strategies; reference: a finished run of such a case that nobody disturbed.
    """
    models = [model for model, _ in cases]
    found: dict[str, Any] = {"kills": [], "runs": [], "exports": []}
    # One further with each round of the cases, so that every case meets every moment.
    moments = [MOMENTS[(n + n // len(cases)) % len(MOMENTS)] for n in range(count)]

    def one(number: int) -> None:
        model, strategy = cases[number]
        chance = random.Random(f"{seed} {model} {strategy}")
        part = directory / f"{model}-{strategy}"
        arguments = (model, strategy, part, chance, steps, reference(model, strategy), found)
        _chain(moments[number :: len(cases)], *arguments)
        if number == models.index(model):
            found["exports"].append(_export(model, part, chance))
        done = [
            kill for kill in found["kills"] if (kill["model"], kill["strategy"]) == cases[number]
        ]
        print(f"  {model}, {strategy}: {len(done)} kills", flush=True)
        keep(found)

    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(one, range(len(cases))))
    judge(found, report)


def _chain(
    moments: list[str],
    model: str,
    strategy: str,
    directory: pathlib.Path,
    chance: random.Random,
    steps: int,
    whole: pathlib.Path,
    found: Mapping[str, list],
) -> None:
    """Kills one run after the other at these moments, and lets each go on to its end."""
    options = (f"--total_steps={steps}", *_OFTEN)
    left = sorted(moments, key=MOMENTS.index)
    for number in range(2 * len(moments) + 1):
        run = Run(directory / f"run{number}")
        ended = False
        while left and not ended:
            moment, before = left[0], jobs.steps(run.path)
            log = directory / f"run{number}-{len(left)}"
            with tempfile.TemporaryDirectory() as cache:
                # A worker whose peer is killed before it has come ends in time, too.
                fresh = {"ZOO_WAIT_SECONDS": "30"}
                if moment == "drawing":
                    fresh["ZOO_CACHE_DIR"] = cache
                with jobs.train(model, strategy, run.path, log, *options, environment=fresh) as job:
                    victim = Victim(job, run, pathlib.Path(cache), chance)
                    if victim.wait_for(moment):
                        before = jobs.steps(run.path) or before
                        hit = chance.randrange(len(job.processes))
                        job.processes[hit].send_signal(signal.SIGKILL)
                        kill = {"model": model, "strategy": strategy, "moment": moment, "hit": hit}
                        kill["seconds"] = job.wait(LONGEST)
                        # More may have been saved since; nothing that was may be gone.
                        kill["lost"] = max(jobs.steps(run.path), default=-1) < max(
                            before, default=-1
                        )
                        found["kills"].append(kill)
                        left.pop(0)
                    else:
                        job.wait(_PATIENCE)
                        ended = True
        outcome: dict[str, Any] = {
            "model": model,
            "strategy": strategy,
            "directory": os.fspath(run.path),
        }
        log = directory / f"run{number}-end"
        with jobs.train(model, strategy, run.path, log, *options) as job:
            job.wait(_PATIENCE)
            outcome["codes"] = [process.poll() for process in job.processes]
            outcome["damaged"] = job.said("is damaged")
            if any(outcome["codes"]):
                outcome["complaints"] = job.complaints(0)[-3:]
        outcome["equal"] = not any(outcome["codes"]) and jobs.equal(run.path, whole, steps)
        found["runs"].append(outcome)
        if not left:
            return


def _export(model: str, directory: pathlib.Path, chance: random.Random) -> dict[str, Any]:
    """Kills the export of a finished run, then lets it end: what was there is whole."""
    run_dir, out = sorted(directory.glob("run?"))[-1], directory / "served"
    arguments = (f"--run_dir={run_dir}", f"--out={out}")
    with jobs.Job("export", arguments, directory / "export-killed") as job:
        job.watch(lambda: any(out.glob("*")) or any(out.glob(".*")), _PATIENCE)
        time.sleep(chance.uniform(0.0, 6.0))
        job.processes[0].send_signal(signal.SIGKILL)
        seconds = job.wait(LONGEST)
    left = {path.name: _files(path) for path in out.glob("[0-9]*")}
    with jobs.Job("export", arguments, directory / "export-end") as job:
        job.wait(_PATIENCE)
        code = job.processes[0].poll()
    whole = [_files(path) for path in out.glob("[0-9]*")]
    names = sorted(path.name for path in out.iterdir())
    return {
        "model": model,
        "seconds": seconds,
        "code": code,
        "left": names,
        "whole": bool(whole) and all(files == whole[0] for files in [*left.values(), *whole]),
    }


def _files(directory: pathlib.Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def judge(found: Mapping[str, Any], report: Report) -> None:
    """Holds what was found against what should be."""
    kills, runs, exports = found["kills"], found["runs"], found["exports"]
    for what in ("moment", "strategy", "model"):
        counts = collections.Counter(kill[what] for kill in kills)
        for name, number in counts.items():
            report.figure(f"{what} {name}", f"{number} kills")
    ended = [kill["seconds"] for kill in kills if kill["seconds"] is not None]
    good = [export for export in exports if export["whole"] and export["code"] == 0]
    report.figure("longest until all of a job had ended", f"{max(ended, default=0.0):.1f} s")
    for name, bad, of in (
        ("jobs that hung", len(kills) - len(ended), len(kills)),
        ("lost checkpoints", sum(kill["lost"] for kill in kills), len(kills)),
        ("damaged checkpoints", sum(run["damaged"] for run in runs), len(runs)),
        ("runs that did not go on", sum(any(run["codes"]) for run in runs), len(runs)),
        ("runs not bit-equal", sum(not run["equal"] for run in runs), len(runs)),
        ("exports half-written, or failed after", len(exports) - len(good), len(exports)),
    ):
        report.check(name, bad, f"{bad} of {of}", "0", bad == 0)

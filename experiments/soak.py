"""A training process watched while it works: memory, handles, threads, processor time a step."""

import contextlib
import itertools
import os
import pathlib
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments import jobs, significance
from experiments.bench import Report

# Kernels, caches and the allocator's arenas grow while training is young.
SETTLED = 1 / 6
_FOREVER = 2**31
_LOOKS = 20
_ARGUMENTS = (
    f"--total_steps={_FOREVER}",
    "--checkpoint_every=1000",
    "--sample_every=5000",
    "--eval_every=5000",
)


class Look(NamedTuple):
    """What one look at a process found."""

    seconds: float
    """Since it was started."""
    resident: int
    """Bytes in memory."""
    handles: int
    threads: int


def look(process: int, began: float) -> Look:
    """At a process of this machine (Linux); began: of time.monotonic()."""
    proc = pathlib.Path(f"/proc/{process}")
    pages = int((proc / "statm").read_text().split()[1])
    return Look(
        time.monotonic() - began,
        pages * os.sysconf("SC_PAGE_SIZE"),
        len(os.listdir(proc / "fd")),
        len(os.listdir(proc / "task")),
    )


def calm_look(process: int, began: float) -> Look:
    """The least of several looks within a second: what a checkpoint under way holds is no leak."""
    looks = []
    for _ in range(_LOOKS):
        looks.append(look(process, began))
        time.sleep(1 / _LOOKS)
    return Look(looks[0].seconds, *(min(values) for values in list(zip(*looks, strict=True))[1:]))


def processor_seconds(directory: pathlib.Path) -> list[tuple[float, int, float]]:
    """(wall time, step, processor seconds so far) after each block, from TensorBoard's files."""
    from tensorboard.backend.event_processing import directory_loader, event_file_loader
    from tensorboard.util import tensor_util

    loader = directory_loader.DirectoryLoader(
        os.fspath(directory), event_file_loader.TimestampedEventFileLoader
    )
    found = []
    for event in loader.Load():
        for value in event.summary.value:
            if value.tag == "process/processor_seconds":
                seconds = tensor_util.make_ndarray(value.tensor).item()
                found.append((event.wall_time, event.step, seconds))
    return found


def slope(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Of the straight line nearest to the points, and half its confidence interval of 95 %."""
    line = statistics.linear_regression(x, y)
    rest = [b - line.slope * a - line.intercept for a, b in zip(x, y, strict=True)]
    mean = statistics.fmean(x)
    spread = sum((a - mean) ** 2 for a in x)
    error = (sum(value * value for value in rest) / (len(x) - 2) / spread) ** 0.5
    return line.slope, significance.t_quantile(significance.LEVEL, len(x) - 2) * error


def soak(
    directory: pathlib.Path, model: str, minutes: int, keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Trains for so long and looks each minute; `keep` gets what was found so far."""
    run_dir = directory / "run"
    found: dict[str, Any] = {"model": model, "looks": [], "minutes": minutes}
    with jobs.train(model, "one_device", run_dir, directory / "log", *_ARGUMENTS) as job:
        process = job.processes[0]
        for minute in range(1, minutes + 1):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, 60.0 * minute - job.seconds()))
            if process.poll() is not None:
                found["ended"] = [f"exit code {process.returncode}", *job.complaints(0)[-1:]]
                break
            seen = calm_look(process.pid, job.began)
            found["looks"].append(seen)
            print(
                f"  minute {minute}: {seen.resident / 2**20:.1f} MiB, {seen.handles} handles, "
                f"{seen.threads} threads",
                flush=True,
            )
            keep(found)
        process.terminate()
        process.wait()
    found["blocks"] = minutely(processor_seconds(run_dir / "train"))
    return found


def minutely(blocks: Sequence[tuple[float, int, float]]) -> list[tuple[float, int, float]]:
    """The first block of each minute: (seconds since the first block, step, processor seconds)."""
    chosen: list[tuple[float, int, float]] = []
    for wall, step, seconds in blocks:
        if wall - blocks[0][0] >= 60.0 * len(chosen):
            chosen.append((wall - blocks[0][0], step, seconds))
    return chosen


def judge(found: Mapping[str, Any], report: Report) -> None:
    """Holds what was found after the first minutes against what should be."""
    looks = [Look(*values) for values in found["looks"]]
    looks = looks[round(SETTLED * len(looks)) :]
    per_step = [
        (began, (after - before) / (last - first))
        for (began, first, before), (_, last, after) in itertools.pairwise(found["blocks"])
    ]
    per_step = per_step[round(SETTLED * len(per_step)) :]
    if "ended" in found or len(looks) < 3 or len(per_step) < 3:
        report.check("minutes watched", len(found["looks"]), str(found.get("ended", "")), "", False)
        return
    memory = [seen.resident for seen in looks]
    rise, within = slope([seen.seconds / 3600 for seen in looks], memory)
    # What is less than before was taken back by the system: no growth.
    most = max(memory) / memory[0] - 1
    report.figure(
        "resident memory, by its straight line",
        f"{100 * rise / memory[0]:+.2f} ± {100 * within / memory[0]:.2f} % an hour",
    )
    report.check(
        f"resident memory, the most beyond {memory[0] / 2**20:.0f} MiB",
        most,
        f"{most:+.2%}",
        "1 %",
        most < 0.01,
    )
    for name in ("handles", "threads"):
        counts = {getattr(seen, name) for seen in looks}
        text = "-".join(str(count) for count in sorted({min(counts), max(counts)}))
        report.check(f"open {name}", len(counts), text, "constant", len(counts) == 1)
    seconds = [value for _, value in per_step]
    rise, within = slope([began / 3600 for began, _ in per_step], seconds)
    mean = statistics.fmean(seconds)
    report.figure("processor time a step", f"{1e3 * mean:.3f} ms")
    report.check(
        "its change in an hour, with 95 % interval",
        rise / mean,
        f"{100 * rise / mean:+.2f} ± {100 * within / mean:.2f} %",
        "0 within",
        abs(rise) <= within,
    )

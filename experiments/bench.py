"""`python -m experiments.bench`: the speed, input and memory of the loop on this machine.

Prints each figure with its target and writes all of them as JSON. The exit code does not depend
on the targets: how much a machine is shared decides too much about them.
"""

import concurrent.futures
import dataclasses
import datetime
import json
import multiprocessing
import os
import pathlib
import statistics
from typing import Any

from zoo import files, flags, rundir
from zoo.errors import UsageError


@dataclasses.dataclass(frozen=True)
class BenchFlags:
    """What the benchmark can be told."""

    quick: bool = False
    """Far fewer steps, under a minute: shows that all of it runs; its figures mean little."""
    out: str = "bench.json"
    """File to write the figures to."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is measured."""

    split: str
    """Of the glyphs: 60,000 images to train, 10,000 to test."""
    dense: tuple[tuple[str, int], ...]
    """Dense VAEs in measure.CONFIGS, and their batch sizes."""
    steps: int
    """Of each contender in a round; a multiple of 100, as fit() executes 100 at once."""
    rounds: int
    conv_steps: int
    conv_rounds: int
    gan: tuple[int, int, int, int]
    """The DCGAN's image size, width, steps in a round, and rounds."""
    memory_every: int
    """Steps from one look at the memory to the next, of five."""


FULL = Plan(
    split="train",
    dense=(("mlp", 64), ("mlp", 16), ("mlp", 4), ("small_mlp", 16)),
    steps=200,
    rounds=15,
    conv_steps=50,
    conv_rounds=15,
    gan=(64, 64, 2, 7),
    memory_every=1000,
)
QUICK = Plan(
    split="test",
    dense=(("small_mlp", 16),),
    steps=100,
    rounds=2,
    conv_steps=10,
    conv_rounds=2,
    gan=(32, 8, 2, 2),
    memory_every=100,
)
MEMORY_LOOKS = 5
LEAST_GAIN = 1.8
BLOCK_LENGTHS = (1, 7, 100, 33, 7)

# Contender, the one it is held against, the least ratio, in words.
RATIOS = (
    ("loop", "fit", LEAST_GAIN, "fit()"),
    ("loop", "fit_keras_adam", LEAST_GAIN, "fit() with Keras's Adam"),
    ("loop_keras_adam", "fit_keras_adam", LEAST_GAIN, "fit(), both with Keras's Adam"),
    ("loop", "fit_100_keras_adam", 0.95, "fit, 100 steps an execution, with Keras's Adam"),
    ("loop", "fit_100", 0.95, "fit, 100 steps an execution"),
    ("loop_keras_adam", "fit_100_keras_adam", 0.95, "fit, 100 steps an execution, both Keras's"),
)


class Report:
    """Prints figures as they come and keeps them for the JSON file."""

    def __init__(self) -> None:
        self.checks: list[dict[str, Any]] = []

    def title(self, text: str) -> None:
        """The heading of the lines that follow."""
        print(f"\n{text}", flush=True)

    def figure(self, name: str, text: str) -> None:
        """A figure without a target."""
        print(f"  {name:54} {text:>22}", flush=True)

    def check(self, name: str, value: float, text: str, target: str, passed: bool) -> None:
        """A figure with a target; text: how the value is shown."""
        verdict = "PASS" if passed else "FAIL"
        print(f"  {name:54} {text:>22}  {target:>8}  {verdict}", flush=True)
        self.checks.append({"name": name, "value": value, "target": target, "passed": passed})


def main(argv: list[str]) -> int:
    """Measures, prints and writes; returns the exit code."""
    options = flags.parse_options(
        BenchFlags, "python -m experiments.bench [--flag=value ...]", argv
    )
    if options is None:
        return 0
    out = pathlib.Path(options.out)
    _check_writable(out)
    plan = QUICK if options.quick else FULL
    figures: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": options.quick,
        "cpu": rundir.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average_before": os.getloadavg()[0],
        "versions": rundir.versions(),
    }
    print(f"{figures['cores']} cores of {figures['cpu']}, load {os.getloadavg()[0]:.1f} before")
    print("Speeds are medians; ratios: median (quartiles) of the ratios of interleaved rounds")
    if options.quick:
        print("--quick: too few steps for the figures to mean much")

    # Before TensorFlow takes threads and memory here.
    figures["memory"] = sizes = _in_fresh_process(_memory, plan)

    from zoo import runtime

    runtime.import_tensorflow()
    from experiments import measure

    report = Report()
    data = measure.examples(plan.split)
    figures["speed"] = speed = []
    for name, batch_size in plan.dense:
        config = measure.CONFIGS[name]
        units = f"784-{config.hidden}-{config.latent_dim}"
        report.title(f"MLP VAE {units}, batch {batch_size}")
        runners = measure.contenders(config, data, batch_size, all_of_them=True)
        rates = measure.race(runners, steps=plan.steps, rounds=plan.rounds)
        speed.append(_report_speed(report, name, batch_size, runners, rates))
        for above, below, least, words in RATIOS:
            _check_ratio(report, speed[-1], rates, above, below, least, words)
        wait = speed[-1]["input_wait"]
        report.figure("share of time waiting for data", f"{wait:.2%}")

    report.title("Convolutional VAE, the default Config, batch 64")
    runners = measure.contenders(measure.CONFIGS["conv"], data, 64, all_of_them=False)
    rates = measure.race(runners, steps=plan.conv_steps, rounds=plan.conv_rounds)
    speed.append(_report_speed(report, "conv", 64, runners, rates))
    _check_ratio(report, speed[-1], rates, "loop", "fit", 1.0, "fit()")
    wait = speed[-1]["input_wait"]
    report.check("share of time waiting for data", wait, f"{wait:.2%}", "< 3%", wait < 0.03)

    size, width, steps, rounds = plan.gan
    report.title(f"DCGAN {size}x{size}x3, width {width}, 100 latents, batch 64")
    runners = measure.gan_contenders(size, width)
    rates = measure.race(runners, steps=steps, rounds=rounds)
    speed.append(_report_speed(report, "dcgan", 64, runners, rates))
    _check_ratio(report, speed[-1], rates, "loop", "fit", 1.0, "fit()")
    _check_ratio(report, speed[-1], rates, "loop_bfloat16", "loop", 1.4, "float32 (in bfloat16)")
    gigaflops = measure.gan_step_flops(size, width, 64) / 1e9
    peak = measure.peak_gigaflops()
    reached = gigaflops * speed[-1]["steps_per_second"]["loop"]
    figures["dcgan"] = {"gigaflop_per_step": gigaflops, "peak_gigaflops": peak}
    report.figure("images/s", f"{64 * speed[-1]['steps_per_second']['loop']:.1f}")
    report.figure("GFLOP a step", f"{gigaflops:.1f}")
    report.check(
        f"of {peak:.0f} GFLOP/s, this machine's best float32 product",
        reached / peak,
        f"{reached:.0f} ({reached / peak:.0%})",
        ">= 70%",
        reached / peak >= 0.7,
    )

    every = plan.memory_every
    report.title(f"MLP VAE, batch 64, {MEMORY_LOOKS * every} steps in a process of its own")
    growth = sizes[-1] / sizes[0] - 1
    report.check(
        f"resident memory, against after {every} steps",
        growth,
        f"{sizes[-1] / 2**20:.0f} MiB ({growth:+.2%})",
        "within 2%",
        abs(growth) < 0.02,
    )
    counts = measure.traces(data, 64, BLOCK_LENGTHS)
    figures["traces"] = {"lengths": BLOCK_LENGTHS, "counts": counts}
    report.check(
        f"traces after the first block, then {', '.join(map(str, BLOCK_LENGTHS[1:]))} steps",
        counts[-1] - counts[0],
        str(counts[-1] - counts[0]),
        "0",
        counts[-1] == counts[0],
    )

    figures["checks"] = report.checks
    try:
        files.write(out, json.dumps(figures, indent=2).encode() + b"\n")
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}; choose another --out") from error
    met = sum(check["passed"] for check in report.checks)
    print(
        f"\n{met} of {len(report.checks)} targets met; {LEAST_GAIN} times fit() is for nets whose "
        f"arithmetic is little: no loop makes the rest faster\nAll figures: {out}"
    )
    return 0


def _report_speed(
    report: Report, model: str, batch_size: int, runners: dict, rates: dict[str, list[float]]
) -> dict[str, Any]:
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, value in medians.items():
        report.figure(name, f"{value:.3g} steps/s")
    return {
        "model": model,
        "batch_size": batch_size,
        "steps_per_second": medians,
        "rounds": rates,
        "input_wait": runners["loop"].input_wait,
        "ratios": {},
    }


def _check_ratio(
    report: Report,
    speed: dict[str, Any],
    rates: dict[str, list[float]],
    above: str,
    below: str,
    least: float,
    words: str,
) -> None:
    from experiments import measure

    median, first, third = measure.ratios(rates[above], rates[below])
    speed["ratios"][f"{above}/{below}"] = {"median": median, "quartiles": [first, third]}
    report.check(
        f"loop / {words}",
        median,
        f"{median:.2f} ({first:.2f}-{third:.2f})",
        f">= {least}",
        median >= least,
    )


def _memory(plan: Plan) -> list[int]:
    from zoo import runtime

    runtime.import_tensorflow()
    from experiments import measure

    return measure.memory(measure.examples(plan.split), 64, plan.memory_every, MEMORY_LOOKS)


def _in_fresh_process(function, *arguments):
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *arguments).result()


def _check_writable(out: pathlib.Path) -> None:
    """UsageError now rather than after minutes of measuring."""
    folder = next(path for path in out.absolute().parents if path.exists())
    if out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write {out}: expected --out to name a file in a writable folder")


if __name__ == "__main__":
    flags.run_command(main)

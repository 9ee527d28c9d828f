"""Part `growth` of the benchmark: what a step costs as everything around it grows.

Constant in the number of examples, in the steps done before and in the files beside a run's
checkpoints; a line in the batch size. Noise for pictures; all contenders of a comparison take turns
in one process, and ratios are of the same round. Of its own checkpoints a run keeps three, whatever
else lies in their directory: here links to one of them under other names.
"""

import dataclasses
import os
import pathlib
import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.bench import BenchFlags, Report
    from experiments.measure import Runner

BATCH_SIZE = 64
TOLERANCE = 0.05
LEAST_R2 = 0.99
_FEW = 1000
_STEPS_PER_CHECKPOINT = 100
_IMAGE_SHAPE = (28, 28, 1)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is measured."""

    examples: tuple[int, ...]
    steps_before: int
    """Steps that one contender has trained before it is compared."""
    counter: int
    """The step that another is set to."""
    files: int
    """Beside the checkpoints."""
    batch_sizes: tuple[int, ...]
    steps: int
    """Of each contender in a round."""
    batch_steps: int
    rounds: int


FULL = Plan(
    examples=(_FEW, 10_000, 100_000, 1_000_000),
    steps_before=20_000,
    counter=1_000_000,
    files=1000,
    batch_sizes=(16, 32, 64, 128, 256),
    steps=200,
    batch_steps=20,
    rounds=15,
)
QUICK = Plan(
    examples=(_FEW, 100_000),
    steps_before=1000,
    counter=1_000_000,
    files=100,
    batch_sizes=(16, 32, 64),
    steps=100,
    batch_steps=3,
    rounds=3,
)


def run(options: "BenchFlags", report: "Report") -> dict[str, Any]:
    """Prints to the report; returns all figures."""
    from zoo import runtime

    runtime.import_tensorflow()
    from experiments import measure

    plan = QUICK if options.quick else FULL
    report.title(f"A step of the MLP VAE 784-64-2, batch {BATCH_SIZE}: its time, in times of that")
    figures: dict[str, Any] = {}

    def compare(kind: str, runners: "dict[str, Runner]") -> None:
        """Holds all but the first of the contenders against it."""
        rates = measure.race(runners, steps=plan.steps, rounds=plan.rounds)
        figures[kind] = {"rounds": rates, "ratios": {}}
        base, *others = rates
        for name in others:
            median, first, third = measure.ratios(rates[base], rates[name])
            figures[kind]["ratios"][name] = {"median": median, "quartiles": [first, third]}
            report.check(
                f"{name}, against {base}",
                median,
                f"{median:.3f} ({first:.3f}-{third:.3f})",
                f"<= {1 + TOLERANCE}",
                median <= 1 + TOLERANCE,
            )

    def runner(examples: int = _FEW, step: int = 0) -> measure.LoopRunner:
        model = measure.build(measure.SMALL_MLP)
        model.step.assign(step)
        for optimizer in model.optimizers.values():
            optimizer.iterations.assign(step)
        return measure.LoopRunner(model, measure.made_up(examples, _IMAGE_SHAPE), BATCH_SIZE)

    compare("examples", {f"{count:,} examples": runner(count) for count in plan.examples})
    trained = runner()
    trained(plan.steps_before)
    compare(
        "steps",
        {
            f"its first {plan.steps * (1 + plan.rounds):,} steps": runner(),
            f"after {plan.steps_before:,} steps": trained,
            f"from step {plan.counter:,} on": runner(step=plan.counter),
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        compare(
            "checkpoints",
            {
                f"saving beside {files:,} files": _saving(pathlib.Path(folder) / str(files), files)
                for files in (0, plan.files)
            },
        )

    report.title("Convolutional VAE, the default Config: seconds a step by batch size")
    data = measure.made_up(_FEW, _IMAGE_SHAPE)
    contenders: dict[str, Runner] = {
        str(size): measure.LoopRunner(measure.build(measure.CONV), data, size)
        for size in plan.batch_sizes
    }
    rates = measure.race(contenders, steps=plan.batch_steps, rounds=plan.rounds)
    seconds = [1 / statistics.median(values) for values in rates.values()]
    for size, value in zip(plan.batch_sizes, seconds, strict=True):
        report.figure(f"batch {size}", f"{1000 * value:.2f} ms")
    slope, start = statistics.linear_regression(plan.batch_sizes, seconds)
    fit = statistics.correlation(plan.batch_sizes, seconds) ** 2
    report.figure("by a line", f"{1000 * start:.2f} + {1000 * slope:.4f} ms an example")
    report.check("R2 of the line", fit, f"{fit:.5f}", f">= {LEAST_R2}", fit >= LEAST_R2)
    figures["batch"] = {"rounds": rates, "seconds": [start, slope], "r2": fit}
    return figures


def _saving(directory: pathlib.Path, files: int) -> "Runner":
    """Trains and saves as `python -m zoo.train` does, with so many files beside its checkpoints."""
    from experiments import measure
    from zoo.checkpoints import Checkpoints

    model = measure.build(measure.SMALL_MLP)
    checkpoints = Checkpoints(model.checkpoint(), directory)
    checkpoints.save(0)
    (data,) = directory.glob("step-0.data-*")
    for number in range(files):
        os.link(data, directory / f"kept-{number}{data.suffix}")
    loop = measure.make_loop(
        model,
        measure.made_up(_FEW, _IMAGE_SHAPE),
        BATCH_SIZE,
        total_steps=0,
        checkpoints=checkpoints,
        checkpoint_every=_STEPS_PER_CHECKPOINT,
    )

    def run(steps: int) -> float:
        loop.total_steps += steps
        start = time.perf_counter()
        loop.train()
        return steps / (time.perf_counter() - start)

    return run

"""Part `grid` of the benchmark: every model by batch, precision and devices.

Each cell is a process of its own that does what `python -m zoo.train` does, on pictures of noise of
the size of the model's data set: what one needs in memory is its own, and one that fails or refuses
is a line of the table. images/s counts pictures of the data set, of which a Wasserstein GAN's step
takes several batches. Operations are counted from the graph (`measure.flops`), for all devices, and
held against the best product of square matrices in the same precision.
"""

import dataclasses
import itertools
import statistics
import time
from typing import TYPE_CHECKING, Any

from experiments import processes
from zoo import errors, flags, models, rundir

if TYPE_CHECKING:
    from experiments.bench import BenchFlags, Report

_ROUNDS = 5
_EXAMPLES_IN_BATCHES = 4


@dataclasses.dataclass(frozen=True)
class Cell:
    """What one process measures."""

    model: str
    batch_size: int
    precision: str
    strategy: str
    seconds: float
    """Of each of the rounds, roughly."""


def run(options: "BenchFlags", report: "Report") -> dict[str, Any]:
    """Prints to the report; returns all figures."""
    from experiments.bench import listed

    peaks = {}
    for precision in listed(options.precisions):
        peaks[precision] = processes.fresh(_peak, precision)
        report.title(f"{peaks[precision]:.0f} GFLOP/s is the best {precision} product here")
    report.title("Memory: of the process, and its growth over the measured steps")
    report.head(
        "model    ", "batch", "precision", "devices", "steps/s", "images/s", "GFLOP/step",
        "of peak", "peak MiB     ", "first step, s",
    )  # fmt: skip
    cells = []
    for model, precision, strategy in itertools.product(
        listed(options.models) or models.names(),
        listed(options.precisions),
        listed(options.strategies),
    ):
        sizes = listed(options.batch_sizes) or [models.defaults(model)["batch_size"]]
        for size in map(int, sizes):
            cell = Cell(model, size, precision, strategy, 0.2 if options.quick else 2.0)
            try:
                found = processes.fresh(measure_cell, cell, time.monotonic())
            except Exception as error:  # of whatever kind: the others are still wanted
                found = {"failed": errors.one_line(errors.reason(error))}
            else:
                devices = found["devices"] if found["gpu_peak_bytes"] else 1
                found["share_of_peak"] = (
                    found["steps_per_second"]
                    * found["gigaflop_per_step"]
                    / (devices * peaks[precision])
                )
            cells.append({**dataclasses.asdict(cell), **found})
            report.row(*_texts(cells[-1]))
    return {"peak_gigaflops": peaks, "cells": cells}


def _texts(row: dict[str, Any]) -> list[str]:
    texts = [row["model"], str(row["batch_size"]), row["precision"]]
    if "failed" in row:
        return [*texts, row["strategy"], f"failed: {row['failed']}"]
    memory = row["resident_bytes"]
    gpu = f" + {row['gpu_peak_bytes'] / 2**20:.0f}" if row["gpu_peak_bytes"] else ""
    kind = "GPU" if row["gpu_peak_bytes"] else "CPU"
    seconds = row["seconds_to_first_step"]
    return [
        *texts,
        f"{row['devices']} x {kind}",
        f"{row['steps_per_second']:.3g}",
        f"{row['images_per_second']:.4g}",
        f"{row['gigaflop_per_step']:.3g}",
        f"{row['share_of_peak']:.0%}",
        f"{row['peak_bytes'] / 2**20:.0f}{gpu} ({memory[-1] / memory[0] - 1:+.1%})",
        f"{seconds['of_process']:.1f} ({seconds['of_training']:.1f})",
    ]


def measure_cell(cell: Cell, began: float) -> dict[str, Any]:
    """Figures of a cell, in this process, which was started at time.monotonic() = began."""
    from zoo.devices import Devices

    processes.quiet_tensorflow()
    # As two halves of a CPU only where there is nothing better.
    halves = 2 if cell.strategy == "mirrored" and not rundir.gpus() else 0
    settings = flags.parse_training(
        [f"--{name}={getattr(cell, name)}" for name in ("model", "batch_size", "precision")]
    )
    devices = Devices.set_up(cell.strategy, halves)
    import tensorflow as tf

    from experiments import measure, steps
    from zoo.data import styles

    with devices.strategy.scope():
        model, _, pictures = steps.prepare(settings)
    batch_size = cell.batch_size * model.batches_per_step
    examples = measure.made_up(_EXAMPLES_IN_BATCHES * batch_size, model.image_shape)
    if pictures:
        styles.add_to({"train": examples}, pictures, False)
    loop = measure.make_loop(model, examples, batch_size, devices=devices)
    called = time.monotonic()
    loop.run_block(1)
    first = time.monotonic()
    count = max(1, round(cell.seconds * loop.run_block(3).steps_per_second))
    blocks, resident = [], []
    for _ in range(_ROUNDS):
        blocks.append(loop.run_block(count))
        resident.append(measure.resident_bytes())
    gpus = range(len(tf.config.list_logical_devices("GPU")))
    of_gpus = [tf.config.experimental.get_memory_info(f"GPU:{number}") for number in gpus]
    speed = statistics.median(block.steps_per_second for block in blocks)
    return {
        "devices": devices.num_replicas,
        "parameters": model.count_params(),
        "steps_per_second": speed,
        "images_per_second": batch_size * speed,
        "rounds": [block.steps_per_second for block in blocks],
        "input_wait": statistics.fmean(block.input_wait for block in blocks),
        "seconds_to_first_step": {"of_process": first - began, "of_training": first - called},
        "peak_bytes": measure.peak_bytes(),
        "gpu_peak_bytes": sum(memory["peak"] for memory in of_gpus),
        "resident_bytes": resident,
        # The last, as it needs memory too.
        "gigaflop_per_step": measure.step_flops(model, examples, cell.batch_size, devices) / 1e9,
    }


def _peak(precision: str) -> float:
    from zoo import runtime

    runtime.import_tensorflow()
    from experiments import measure

    return measure.peak_gigaflops(precision)

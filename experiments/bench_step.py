"""Part `step` of the benchmark: the loop beside `fit()` and the peers; memory, retracing."""

import dataclasses
import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from experiments import processes

if TYPE_CHECKING:
    from experiments.bench import BenchFlags, Report


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
BATCH_SIZE = 64
MEMORY_LOOKS = 5
LEAST_GAIN = 1.8
"""Over fit(), for nets whose arithmetic is little: no loop makes the rest faster."""
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
CONV_RATIOS = (("loop", "fit", 1.0, "fit()"),)
GAN_RATIOS = (*CONV_RATIOS, ("loop_bfloat16", "loop", 1.4, "float32 (in bfloat16)"))


def run(options: "BenchFlags", report: "Report") -> dict[str, Any]:
    """Prints to the report; returns all figures."""
    from experiments.bench import listed

    plan = QUICK if options.quick else FULL
    sizes = processes.fresh(_memory, plan)

    from zoo import runtime

    runtime.import_tensorflow()
    from experiments import measure

    race = Race(report, [measure.load_peer(path) for path in listed(options.peer)])
    data = measure.examples(plan.split)
    for name, batch_size in plan.dense:
        config = measure.CONFIGS[name]
        report.title(f"MLP VAE 784-{config.hidden}-{config.latent_dim}, batch {batch_size}")
        runners = measure.contenders(config, data, batch_size, all_of_them=True)
        wait = race.run((name, config, data, batch_size), runners, plan.steps, plan.rounds, RATIOS)[
            "input_wait"
        ]
        report.figure("share of time waiting for data", f"{wait:.2%}")

    report.title(f"Convolutional VAE, the default Config, batch {BATCH_SIZE}")
    work: tuple[str, Any, dict, int] = ("conv", measure.CONV, data, BATCH_SIZE)
    runners = measure.contenders(*work[1:], all_of_them=False)
    wait = race.run(work, runners, plan.conv_steps, plan.conv_rounds, CONV_RATIOS)["input_wait"]
    report.check("share of time waiting for data", wait, f"{wait:.2%}", "< 3%", wait < 0.03)

    size, width, steps, rounds = plan.gan
    report.title(f"DCGAN {size}x{size}x3, width {width}, 100 latents, batch {BATCH_SIZE}")
    gan = measure.gan_config(width)
    pictures = measure.made_up(4 * BATCH_SIZE, (size, size, 3))
    runners = measure.gan_contenders(gan, pictures, BATCH_SIZE)
    work = ("dcgan", gan, pictures, BATCH_SIZE)
    speed = race.run(work, runners, steps, rounds, GAN_RATIOS)["steps_per_second"]["loop"]
    model = measure.build_gan(gan, (size, size, 3))
    gigaflops = measure.step_flops(model, pictures, BATCH_SIZE) / 1e9
    peak, reached = measure.peak_gigaflops(), gigaflops * speed
    report.figure("images/s", f"{BATCH_SIZE * speed:.1f}")
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
    counts = measure.traces(data, BATCH_SIZE, BLOCK_LENGTHS)
    report.check(
        f"traces after the first block, then {', '.join(map(str, BLOCK_LENGTHS[1:]))} steps",
        counts[-1] - counts[0],
        str(counts[-1] - counts[0]),
        "0",
        counts[-1] == counts[0],
    )
    return {
        "speed": race.speeds,
        "dcgan": {"gigaflop_per_step": gigaflops, "peak_gigaflops": peak},
        "memory": sizes,
        "traces": {"lengths": BLOCK_LENGTHS, "counts": counts},
    }


class Race:
    """Lets contenders for the same work take turns, the peers' beside ours."""

    def __init__(self, report: "Report", peers: list[Callable[..., dict]]):
        self.speeds: list[dict[str, Any]] = []
        self._report, self._peers = report, peers

    def run(
        self,
        work: tuple[str, Any, dict, int],
        runners: dict,
        steps: int,
        rounds: int,
        targets: tuple,
    ) -> dict[str, Any]:
        """Figures of one work: (name, Config, data, batch size), as a peer is asked for it."""
        from experiments import measure

        theirs = {f"peer {k}": run for peer in self._peers for k, run in peer(*work).items()}
        rates = measure.race(runners | theirs, steps=steps, rounds=rounds)
        speed: dict[str, Any] = {
            "model": work[0],
            "batch_size": work[-1],
            "steps_per_second": {name: statistics.median(rates[name]) for name in rates},
            "rounds": rates,
            "input_wait": runners["loop"].input_wait,
            "ratios": {},
        }
        self.speeds.append(speed)
        for name, value in speed["steps_per_second"].items():
            self._report.figure(name, f"{value:.3g} steps/s")
        for above, below, least, words in (*targets, *(("loop", name, 0, name) for name in theirs)):
            median, first, third = measure.ratios(rates[above], rates[below])
            speed["ratios"][f"{above}/{below}"] = {"median": median, "quartiles": [first, third]}
            text = f"{median:.2f} ({first:.2f}-{third:.2f})"
            if least:
                self._report.check(f"loop / {words}", median, text, f">= {least}", median >= least)
            else:
                self._report.figure(f"loop / {words}", text)
        return speed


def _memory(plan: Plan) -> list[int]:
    from zoo import runtime

    runtime.import_tensorflow()
    from experiments import measure

    return measure.memory(measure.examples(plan.split), 64, plan.memory_every, MEMORY_LOOKS)

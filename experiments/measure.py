"""What `experiments.bench` measures, as plain numbers; import TensorFlow by `zoo.runtime` first.

The machine is shared with others, so speeds are compared as ratios: all contenders take turns
for a few steps each, round after round, and each round gives one ratio.
"""

import gc
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from zoo.data import pipeline, source
from zoo.generative import GenerativeModel
from zoo.loop import Block, Loop
from zoo.models import dcgan, vae

STEPS_PER_LOOP = 100
# Kingma & Welling's net at the size that later papers use.
MLP = vae.Config(architecture="mlp", hidden=400, latent_dim=40, learning_rate=1e-3)
# So little arithmetic that the time goes into everything around it.
SMALL_MLP = vae.Config(architecture="mlp", hidden=64, latent_dim=2, learning_rate=1e-3)
CONV = vae.Config()
CONFIGS = {"mlp": MLP, "small_mlp": SMALL_MLP, "conv": CONV}

Runner = Callable[[int], float]
"""Runs so many training steps; returns steps per second."""


def examples(split: str) -> dict[str, np.ndarray]:
    """A split of the glyphs, drawn if they are not in the cache."""
    return source.load("glyphs").arrays(split)


def build(config: vae.Config, *, stock_adam: bool = False, steps_per_execution: int = 1) -> vae.VAE:
    """A VAE for the glyphs; stock_adam: with Keras's Adam in place of the zoo's fused one."""
    keras.utils.set_random_seed(0)
    model = vae.VAE(config, image_shape=(28, 28, 1), num_classes=10)
    optimizers = vae.optimizers(config, total_steps=100_000)
    if stock_adam:
        optimizers = {
            name: keras.optimizers.Adam.from_config(optimizer.get_config())
            for name, optimizer in optimizers.items()
        }
    model.compile(optimizers, steps_per_execution=steps_per_execution)
    return model


def make_loop(model: GenerativeModel, data: dict[str, np.ndarray], batch_size: int) -> Loop:
    """The zoo's Loop over the shuffled data, to be driven by run_block."""
    return Loop(
        model,
        lambda step, context: pipeline.batches(data, batch_size, start_step=step, context=context),
        total_steps=2**62,
        steps_per_loop=STEPS_PER_LOOP,
    )


class LoopRunner:
    """A Runner of the Loop, in blocks as `python -m zoo.train` runs them."""

    def __init__(self, model: GenerativeModel, data: dict[str, np.ndarray], batch_size: int):
        self._loop = make_loop(model, data, batch_size)
        self._seconds = self._waited = 0.0

    def __call__(self, steps: int) -> float:
        start = time.perf_counter()
        blocks = list(run_blocks(self._loop, steps))
        seconds = time.perf_counter() - start
        # Blocks of one runner have the same length, hence the same weight.
        self._waited += seconds * statistics.fmean(block.input_wait for block in blocks)
        self._seconds += seconds
        return steps / seconds

    @property
    def input_wait(self) -> float:
        """Share of all the time so far that steps waited for data."""
        return self._waited / self._seconds


def run_blocks(loop: Loop, steps: int) -> list[Block]:
    """Runs so many steps in blocks of STEPS_PER_LOOP, or one shorter block."""
    length = min(steps, STEPS_PER_LOOP)
    return [loop.run_block(length) for _ in range(steps // length)]


class _EpochTimer(keras.callbacks.Callback):
    """Seconds of the epoch alone: what fit() does once a call is not held against it."""

    seconds = 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds = time.perf_counter() - self._start


def fit_runner(model: GenerativeModel, data: dict[str, np.ndarray], batch_size: int) -> Runner:
    """A Runner of Keras's fit() over the same data."""
    batches = pipeline.batches(data, batch_size)

    def run(steps: int) -> float:
        timer = _EpochTimer()
        # shuffle=False: the batches are shuffled already, and fit() would warn of it.
        model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[timer])
        return steps / timer.seconds

    return run


def contenders(
    config: vae.Config, data: dict[str, np.ndarray], batch_size: int, *, all_of_them: bool
) -> dict[str, Runner]:
    """By name: `loop` and `fit`; or these also with long executions and with Keras's Adam."""
    if not all_of_them:
        return {
            "loop": LoopRunner(build(config), data, batch_size),
            "fit": fit_runner(build(config), data, batch_size),
        }
    runners: dict[str, Runner] = {}
    for suffix, stock in (("", False), ("_keras_adam", True)):
        runners[f"loop{suffix}"] = LoopRunner(build(config, stock_adam=stock), data, batch_size)
        for name, execution in (("fit", 1), ("fit_100", STEPS_PER_LOOP)):
            model = build(config, stock_adam=stock, steps_per_execution=execution)
            runners[f"{name}{suffix}"] = fit_runner(model, data, batch_size)
    return runners


def build_gan(size: int, width: int):
    """A DCGAN with the paper's 100 latents for colour pictures of this size."""
    keras.utils.set_random_seed(0)
    config = dcgan.Config(latent_dim=100, width=width)
    return dcgan.build(config, image_shape=(size, size, 3), total_steps=100_000)


def gan_contenders(size: int, width: int, batch_size: int = 64) -> dict[str, Runner]:
    """`loop`, `fit`, and `loop_bfloat16`, all of the DCGAN, on random pictures."""
    generator = np.random.Generator(np.random.PCG64(0))
    shape = (4 * batch_size, size, size, 3)
    data = {"image": (256 * generator.random(shape)).astype(np.uint8)}
    runners: dict[str, Runner] = {
        "loop": LoopRunner(build_gan(size, width), data, batch_size),
        "fit": fit_runner(build_gan(size, width), data, batch_size),
    }
    keras.config.set_dtype_policy("mixed_bfloat16")
    runners["loop_bfloat16"] = LoopRunner(build_gan(size, width), data, batch_size)
    keras.config.set_dtype_policy("float32")
    return runners


def gan_step_flops(size: int, width: int, batch_size: int) -> float:
    """Floating-point operations of one step, counted from the graphs of its two nets.

    A backward pass costs two forward passes: one for the weights, one for the inputs. The
    generator has one of each; the discriminator a whole one for real and one for fake pictures,
    and one for the inputs alone on the way to the generator. The pictures themselves need no
    gradient for the discriminator's loss.
    """
    model = build_gan(size, width)
    pictures = tf.TensorSpec([batch_size, size, size, 3], tf.float32)
    generator = flops(model.generator, tf.TensorSpec([batch_size, 100], tf.float32))
    discriminator = flops(model.discriminator, pictures)
    first = flops(model.discriminator.convolutions[0], pictures)
    return 3.0 * generator + 7.0 * discriminator - 2.0 * first


def flops(net: Callable, *inputs: tf.TensorSpec) -> float:
    """Floating-point operations of one forward pass, by TensorFlow's profiler."""
    profiler = tf.compat.v1.profiler
    options = profiler.ProfileOptionBuilder.float_operation()
    graph = tf.function(net).get_concrete_function(*inputs).graph
    return profiler.profile(graph, options={**options, "output": "none"}).total_float_ops


def peak_gigaflops(side: int = 4096, tries: int = 5) -> float:
    """The most that a float32 matrix product reaches here."""
    one = tf.random.stateless_normal([side, side], [0, 0])
    seconds = []
    for _ in range(tries + 1):
        start = time.perf_counter()
        tf.matmul(one, one).numpy()
        seconds.append(time.perf_counter() - start)
    return 2.0 * side**3 / min(seconds) / 1e9


def race(runners: dict[str, Runner], *, steps: int, rounds: int) -> dict[str, list[float]]:
    """Steps per second by contender and round; who begins changes from round to round."""
    for run in runners.values():
        run(steps)  # traces, allocates, fills the prefetch buffer
    rates: dict[str, list[float]] = {name: [] for name in runners}
    names = list(runners)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            rates[name].append(runners[name](steps))
    return rates


def ratios(above: Sequence[float], below: Sequence[float]) -> tuple[float, float, float]:
    """Median, first and third quartile of the rounds' ratios."""
    values = [a / b for a, b in zip(above, below, strict=True)]
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return median, first, third


def resident_bytes() -> int:
    """What this process holds in memory now (Linux)."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def memory(data: dict[str, np.ndarray], batch_size: int, every: int, count: int) -> list[int]:
    """Resident bytes after every, 2 · every, … count · every steps of the MLP VAE."""
    loop = make_loop(build(MLP), data, batch_size)
    sizes = []
    for _ in range(count):
        run_blocks(loop, every)
        gc.collect()
        sizes.append(resident_bytes())
    return sizes


def traces(data: dict[str, np.ndarray], batch_size: int, lengths: Sequence[int]) -> list[int]:
    """How often the block has been traced after each block of these lengths."""
    loop = make_loop(build(MLP), data, batch_size)
    counts = []
    for length in lengths:
        loop.run_block(length)
        counts.append(loop._block.experimental_get_tracing_count())
    return counts

"""What `experiments.bench` measures, as plain numbers; import TensorFlow by `zoo.runtime` first.

The machine is shared with others, so speeds are compared as ratios: all contenders take turns
for a few steps each, round after round, and each round gives one ratio.
"""

import gc
import importlib.util
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from zoo.adversarial import AdversarialModel
from zoo.data import pipeline, source
from zoo.devices import Devices
from zoo.errors import UsageError
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


def make_loop(
    model: GenerativeModel, data: dict[str, np.ndarray], batch_size: int, **options
) -> Loop:
    """The zoo's Loop over the shuffled data, to be driven by run_block; options: of Loop."""
    return Loop(
        model,
        lambda step, context: pipeline.batches(data, batch_size, start_step=step, context=context),
        **{"total_steps": 2**62, "steps_per_loop": STEPS_PER_LOOP, **options},
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


def gan_config(width: int) -> dcgan.Config:
    """A DCGAN with the paper's 100 latents."""
    return dcgan.Config(latent_dim=100, width=width)


def build_gan(config: dcgan.Config, image_shape: tuple[int, int, int]) -> AdversarialModel:
    """A DCGAN for pictures of this shape."""
    keras.utils.set_random_seed(0)
    return dcgan.build(config, image_shape=image_shape, total_steps=100_000)


def gan_contenders(
    config: dcgan.Config, data: dict[str, np.ndarray], batch_size: int
) -> dict[str, Runner]:
    """`loop`, `fit`, and `loop_bfloat16`, all of the DCGAN."""
    shape = data["image"].shape[1:]
    runners: dict[str, Runner] = {
        "loop": LoopRunner(build_gan(config, shape), data, batch_size),
        "fit": fit_runner(build_gan(config, shape), data, batch_size),
    }
    keras.config.set_dtype_policy("mixed_bfloat16")
    runners["loop_bfloat16"] = LoopRunner(build_gan(config, shape), data, batch_size)
    keras.config.set_dtype_policy("float32")
    return runners


def load_peer(path: str) -> Callable[..., dict[str, Runner]]:
    """The `contenders` of a script; UsageError if it has none."""
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--peer={path}: expected a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "contenders"):
        raise UsageError(
            f"--peer={path} has no contenders(name, config, data, batch_size): see "
            "experiments/bench.py"
        )
    return module.contenders


def made_up(count: int, image_shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """So many pictures of noise, all of class 0."""
    generator = np.random.Generator(np.random.PCG64(0))
    images = generator.integers(0, 256, (count, *image_shape), dtype=np.uint8)
    return {"image": images, "label": np.zeros(count, np.int32)}


def step_flops(
    model: GenerativeModel,
    data: dict[str, np.ndarray],
    batch_size: int,
    devices: Devices | None = None,
) -> float:
    """Floating-point operations of one training step on all devices; see `flops`.

    devices: those that the model was made for; batch_size is global.
    """
    devices = devices or Devices()
    rows = batch_size * model.batches_per_step // devices.num_replicas

    @tf.autograph.experimental.do_not_convert
    def step():
        return model.train_step(
            {name: tf.zeros([rows, *v.shape[1:]], v.dtype) for name, v in data.items()}
        )

    return flops(lambda: devices.strategy.run(step))


def flops(function: Callable, *inputs: tf.TensorSpec) -> float:
    """Floating-point operations of one call, by TensorFlow's profiler, of its graph.

    A multiplication and an addition are two. Only what a result or a variable needs is counted:
    tracing a gradient leaves operations behind that never run, a third of a GAN's. The profiler
    knows products, convolutions, sums and arithmetic by element; it does not know normalisation in
    one kernel (FusedBatchNorm), the fused Adam, most activations and their gradients, by estimate
    0.4 to 2.6 % more in the zoo's steps; nor what stands in the body of a loop, a branch or
    another function, of which those have none that matters.
    """
    graph = tf.function(function, autograph=False).get_concrete_function(*inputs).graph
    needed: set[str] = set()
    left = [*(tensor.op for tensor in graph.outputs), *graph.control_outputs]
    while left:
        operation = left.pop()
        if operation.name not in needed:
            needed.add(operation.name)
            left += [*(tensor.op for tensor in operation.inputs), *operation.control_inputs]
    profiler = tf.compat.v1.profiler
    options = {**profiler.ProfileOptionBuilder.float_operation(), "output": "none"}
    nodes, total = [profiler.profile(graph, options=options)], 0
    while nodes:
        node = nodes.pop()
        total += node.float_ops if node.name in needed else 0
        nodes += node.children
    return float(total)


def peak_gigaflops(dtype: str = "float32", tries: int = 5) -> float:
    """The most that a product of two square matrices reaches here, on one device.

    Their side is the first of 512, 1024, ... 8192 at which it takes a quarter of a second.
    """
    side, seconds = 256, 0.0
    while seconds < 0.25 and side < 8192:
        side *= 2
        one = tf.cast(tf.random.stateless_normal([side, side], [0, 0]), dtype)
        _seconds_of_product(one)
        seconds = _seconds_of_product(one)
    return 2.0 * side**3 / min(_seconds_of_product(one) for _ in range(tries)) / 1e9


def _seconds_of_product(one: tf.Tensor) -> float:
    start = time.perf_counter()
    tf.matmul(one, one)[0, 0].numpy()  # waits for a GPU, and copies one number
    return time.perf_counter() - start


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


def peak_bytes() -> int:
    """The most that this process ever held in memory (Linux); getrusage counts its parent too."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


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

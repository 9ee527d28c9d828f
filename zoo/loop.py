"""Loop: many training steps inside one tf.function; checkpoints, scalars and hooks outside.

A block runs at most `steps_per_loop` steps, takes about BLOCK_SECONDS at most, so that progress and
Ctrl-C are met soon, and ends where something is due, so that a hook or a checkpoint always meets
the step it asked for. The step count is a tensor: one trace serves all block lengths. How steps
fall into blocks never changes the weights.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from zoo.checkpoints import Checkpoints
from zoo.generative import GenerativeModel

BLOCK_SECONDS = 2.0
_FIRST_BLOCK = 10


class NonFiniteError(ArithmeticError):
    """Training met a loss or weight that is not finite; the message names the steps."""


@dataclasses.dataclass(frozen=True)
class Every:
    """A hook and how often it is called: after each multiple of `steps`, and at the end."""

    steps: int
    call: Callable[[int, GenerativeModel], None]
    """Gets (step, model) and changes nothing of the model."""


@dataclasses.dataclass(frozen=True)
class Block:
    """What one block of steps reports: means over its steps and replicas, and its speed."""

    step: int
    """The number of steps done so far."""
    scalars: dict[str, float]
    steps_per_second: float
    input_wait: float
    """Share of the time that the steps waited for data, 0 to 1."""


class Loop:
    """Drives `model.train_step` from the model's step to `total_steps`.

    Args:
        model: has `train_step`, `step`, `scalar_names`, `state()`.
        batches: (start_step, distribution context or None) -> endless tf.data.Dataset.
        total_steps: where to stop.
        steps_per_loop: most steps in one block.
        checkpoints: where to save every `checkpoint_every` steps and at the end, or None.
        hooks: called outside the block, in their order.
        on_block: called after each block with its Block.
        strategy: the scope the model was made in; the default strategy if None.
        jit_compile: compile the step with XLA.
    """

    def __init__(
        self,
        model: GenerativeModel,
        batches: Callable[[int, tf.distribute.InputContext | None], tf.data.Dataset],
        *,
        total_steps: int,
        steps_per_loop: int = 100,
        checkpoints: Checkpoints | None = None,
        checkpoint_every: int = 500,
        hooks: Sequence[Every] = (),
        on_block: Callable[[Block], None] | None = None,
        strategy: tf.distribute.Strategy | None = None,
        jit_compile: bool = False,
    ):
        self.model = model
        self.total_steps = total_steps
        self.steps_per_loop = steps_per_loop
        self.checkpoints = checkpoints
        self.checkpoint_every = checkpoint_every
        self.hooks = tuple(hooks)
        self.on_block = on_block
        self.strategy = strategy or tf.distribute.get_strategy()
        self.stop_requested = False
        self._batches = batches
        self._iterator = None
        with self.strategy.scope():
            # One running sum a replica, read once a block: scalars cost no collective a step.
            self._sums = tf.Variable(
                tf.zeros([len(model.scalar_names)], tf.float64),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
            )
        self._waited = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        step = self._step
        self._compiled_step = tf.function(step, jit_compile=True) if jit_compile else step
        self._block = tf.function(self._block_of_steps)

    def train(self) -> int:
        """Trains to total_steps, or until `stop_requested` is set; returns the step reached.

        NonFiniteError if a block's scalars or the weights at a checkpoint are not finite; the
        checkpoints saved before stay as they are.
        """
        step = int(self.model.step.numpy())
        longest = _FIRST_BLOCK
        stopping = self.stop_requested
        while step < self.total_steps and not stopping:
            block = self.run_block(min(longest, self._steps_until_due(step)))
            longest = max(1, int(block.steps_per_second * BLOCK_SECONDS))
            previous, step = step, block.step
            self._check_finite(block.scalars, previous + 1, step)
            if self.on_block:
                self.on_block(block)
            done = step == self.total_steps
            due = [hook for hook in self.hooks if step % hook.steps == 0 or done]
            if due:
                self._check_weights(step)
            for hook in due:
                hook.call(step, self.model)
            stopping = self.stop_requested
            if step % self.checkpoint_every == 0 or done or stopping:
                self._check_weights(step)
                if self.checkpoints:
                    self.checkpoints.save(step)
        return step

    def run_block(self, num_steps: int) -> Block:
        """Runs num_steps steps and returns their report; saves nothing and calls no hook."""
        if self._iterator is None:
            self._iterator = self._make_iterator(int(self.model.step.numpy()))
        self._sums.assign(tf.zeros_like(self._sums.read_value()))
        self._waited.assign(0.0)
        start = time.perf_counter()
        self._block(self._iterator, tf.constant(num_steps, tf.int64))
        step = int(self.model.step.numpy())
        seconds = time.perf_counter() - start
        means = self._sums.read_value().numpy() / (num_steps * self.strategy.num_replicas_in_sync)
        return Block(
            step=step,
            scalars=dict(zip(self.model.scalar_names, means.tolist(), strict=True)),
            steps_per_second=num_steps / seconds,
            input_wait=float(self._waited.numpy()) / seconds,
        )

    def _make_iterator(self, start_step: int):
        if self.strategy.num_replicas_in_sync == 1:
            return iter(self._batches(start_step, None))
        return iter(
            self.strategy.distribute_datasets_from_function(
                lambda context: self._batches(start_step, context)
            )
        )

    def _steps_until_due(self, step: int) -> int:
        periods = [self.checkpoint_every, *(hook.steps for hook in self.hooks)]
        due = min((step // period + 1) * period for period in periods)
        return min(self.steps_per_loop, self.total_steps - step, due - step)

    def _block_of_steps(self, iterator, num_steps: tf.Tensor) -> None:
        for _ in tf.range(num_steps):
            asked = tf.timestamp()
            batch = next(iterator)
            self._waited.assign_add(tf.timestamp() - asked)
            self.strategy.run(self._compiled_step_and_sum, args=(batch,))

    @tf.autograph.experimental.do_not_convert  # halves the time to the first step
    def _compiled_step_and_sum(self, batch) -> None:
        self._sums.assign_add(tf.cast(self._compiled_step(batch), tf.float64))

    def _step(self, batch) -> tf.Tensor:
        scalars = self.model.train_step(batch)
        names = self.model.scalar_names
        if set(scalars) != set(names):
            raise ValueError(
                f"{type(self.model).__name__}.train_step returned {sorted(scalars)}, "
                f"expected its scalar_names {sorted(names)}"
            )
        return tf.stack([tf.cast(scalars[name], tf.float32) for name in names])

    def _check_finite(self, scalars: dict[str, float], first: int, last: int) -> None:
        broken = [name for name, value in scalars.items() if not np.isfinite(value)]
        if broken:
            raise NonFiniteError(
                f"{', '.join(broken)} became non-finite between steps {first} and {last}"
            )

    def _check_weights(self, step: int) -> None:
        broken = [v.name for v in self.model.state() if not _finite(v)]
        if broken:
            raise NonFiniteError(f"after step {step} these weights are not finite: {broken[:3]}")


def _finite(variable: tf.Variable) -> bool:
    value = variable.numpy()
    return not np.issubdtype(value.dtype, np.floating) or bool(np.isfinite(value).all())

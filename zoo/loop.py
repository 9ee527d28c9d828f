"""Loop: many training steps inside one tf.function; checkpoints, scalars and hooks outside.

A block runs at most `steps_per_loop` steps, takes about BLOCK_SECONDS at most, so that progress and
Ctrl-C are met soon, and ends where something is due, so that a hook or a checkpoint always meets
the step it asked for. The step count is a tensor: one trace serves all block lengths. How steps
fall into blocks never changes the weights.

When training fails, it goes back to a checkpoint and on from there with other noise. Where to is a
function of the step at which it failed, and the noise one of (seed, step, roll-backs so far): a run
that is killed meets the same failure again, and ends as if it had not been.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from zoo.checkpoints import BrokenCheckpoints, Checkpoints
from zoo.devices import Devices
from zoo.generative import GenerativeModel

BLOCK_SECONDS = 2.0
_FIRST_BLOCK = 10


class TrainingFailure(Exception):
    """Training has failed in a way that it may escape from an earlier state with other noise."""


class NonFiniteError(TrainingFailure, ArithmeticError):
    """Training met a loss or weight that is not finite; the message names the steps."""


class CollapseError(TrainingFailure):
    """Raised by a hook: the model computes finite values and is no good; the message says why."""


@dataclasses.dataclass(frozen=True)
class Every:
    """A hook and how often it is called: after each multiple of `steps`, and at the end."""

    steps: int
    call: Callable[[int, GenerativeModel], None]
    """Gets (step, model) and changes nothing of the model."""
    judges: bool = False
    """Whether it may raise CollapseError: only states that it has passed are gone back to then."""


@dataclasses.dataclass(frozen=True)
class Rollback:
    """Training has gone back."""

    failure: TrainingFailure
    step: int
    """The step that it went back to."""
    number: int
    """How often it has gone back in this run, this time included."""


@dataclasses.dataclass(frozen=True)
class Block:
    """What one block of steps reports: means over its steps and replicas, and its speed."""

    step: int
    """The number of steps done so far."""
    scalars: dict[str, float]
    steps_per_second: float
    input_wait: float
    """Share of the time that the steps waited for data, 0 to 1."""


@dataclasses.dataclass(frozen=True)
class Profile:
    """Steps to record, for TensorBoard's Profile tab: from `first` to `last` steps done."""

    first: int
    last: int
    directory: str


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
        max_rollbacks: how often in a run to go back after a TrainingFailure; needs `checkpoints`.
        on_rollback: called after each with its Rollback.
        devices: in whose strategy's scope the model was made; one device if None. Only the chief
            of several workers saves and calls hooks; all take the same way.
        jit_compile: compile the step with XLA.
        profile: what to record; those steps are blocks of their own, none if they are past.
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
        max_rollbacks: int = 0,
        on_rollback: Callable[[Rollback], None] | None = None,
        devices: Devices | None = None,
        jit_compile: bool = False,
        profile: Profile | None = None,
    ):
        self.model = model
        self.total_steps = total_steps
        self.steps_per_loop = steps_per_loop
        self.checkpoints = checkpoints
        self.checkpoint_every = checkpoint_every
        self.hooks = tuple(hooks)
        self.on_block = on_block
        self.max_rollbacks = max_rollbacks
        self.on_rollback = on_rollback
        self.profile = profile
        self.devices = devices or Devices()
        self.strategy = self.devices.strategy
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

        NonFiniteError if a block's scalars or the weights at a checkpoint are not finite,
        CollapseError if a hook says so, each after `max_rollbacks` attempts to go on from an
        earlier state; no state that failed is ever saved.
        """
        while True:
            try:
                with contextlib.ExitStack() as profiling:
                    return self._train(profiling)
            except TrainingFailure as failure:
                self._roll_back(failure)

    def _train(self, profiling: contextlib.ExitStack) -> int:
        step = int(self.model.step.numpy())
        longest = _FIRST_BLOCK
        stopping = self.devices.any(self.stop_requested)
        while step < self.total_steps and not stopping:
            if self.profile and step == self.profile.first:
                tf.profiler.experimental.start(self.profile.directory)
                profiling.callback(tf.profiler.experimental.stop)
            # A name and number that the profiler takes for a step's.
            with tf.profiler.experimental.Trace("train", step_num=step, _r=1):
                block = self.run_block(min(longest, self._steps_until_due(step)))
            longest = max(1, int(block.steps_per_second * BLOCK_SECONDS))
            previous, step = step, block.step
            if self.profile and step == self.profile.last:
                profiling.close()
            self._check_finite(block.scalars, previous + 1, step)
            if self.on_block:
                self.on_block(block)
            done = step == self.total_steps
            due = [hook for hook in self.hooks if step % hook.steps == 0 or done]
            if due:
                self._check_weights(step)
                self._call(due, step)
            stopping = self.devices.any(self.stop_requested)
            if step % self.checkpoint_every == 0 or done or stopping:
                self._check_weights(step)
                if self.checkpoints and self.devices.chief:
                    self.checkpoints.save(step, self._kept(self.checkpoints.steps(), step))
        return step

    def _call(self, due: Sequence[Every], step: int) -> None:
        """The hooks that are due, by the chief; all workers learn of a collapse that one finds."""
        failure = None
        try:
            for hook in due if self.devices.chief else ():
                hook.call(step, self.model)
        except CollapseError as error:
            failure = error
        if self.devices.any(failure is not None):
            raise failure or CollapseError("the chief's hooks found a collapse")

    def _roll_back(self, failure: TrainingFailure) -> None:
        """Restores the state to go on from; raises the failure if there is none, or no more."""
        number = int(self.model.rollbacks.numpy()) + 1
        step = int(self.model.step.numpy())
        if self.checkpoints is None or number > self.max_rollbacks:
            raise failure
        good = self._passed(step - 1) if isinstance(failure, CollapseError) else step
        back = self._regular(self.checkpoints.steps(), good)
        # The other workers may see the files a little later than the chief has written them.
        back = self.devices.of_chief(-1 if back is None else back)
        try:
            if back < 0 or self.checkpoints.restore(up_to=back) is None:
                raise failure
        except BrokenCheckpoints as error:
            raise failure from error
        step = int(self.model.step.numpy())
        if self.devices.chief:
            self.checkpoints.remove_newer(step)
        self.model.rollbacks.assign(number)
        self._iterator = None
        if self.on_rollback:
            self.on_rollback(Rollback(failure, step, number))

    def _passed(self, step: int) -> int:
        """The last step up to this one whose state every judging hook has seen and let pass."""
        return min(
            (step // hook.steps * hook.steps for hook in self.hooks if hook.judges), default=step
        )

    def _regular(self, saved: list[int], step: int) -> int | None:
        """The newest checkpoint up to a step, one of a requested stop only if there is no other.

        A run that was stopped and goes on has those, one that was not has not: both go back to
        the same state.
        """
        saved = [earlier for earlier in saved if earlier <= step]
        regular = [earlier for earlier in saved if earlier % self.checkpoint_every == 0]
        return max(regular or saved, default=None)

    def _kept(self, saved: list[int], step: int) -> set[int]:
        """The checkpoints to go back to if training fails after this step."""
        kept = (self._regular(saved, last) for last in (step, self._passed(step)))
        return {earlier for earlier in kept if earlier is not None}

    def run_block(self, num_steps: int) -> Block:
        """Runs num_steps steps and returns their report; saves nothing and calls no hook."""
        if self._iterator is None:
            self._iterator = self._make_iterator(int(self.model.step.numpy()))
        self._sums.assign(tf.zeros_like(self._sums.read_value()))
        self._waited.assign(0.0)
        start = time.perf_counter()
        self._block(self._iterator, tf.constant(num_steps, tf.int64))
        step = int(self.model.step.numpy())
        # The length of the next block follows it, and must be the same for all workers.
        seconds = self.devices.mean(time.perf_counter() - start)
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
        if self.profile and step < self.profile.last:
            due = min(due, step + 1 if step >= self.profile.first else self.profile.first)
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

"""The loop with a model that only counts: what runs when, and what stops it."""

import time

import numpy as np
import pytest

from zoo import runtime

tf = runtime.import_tensorflow()

from zoo.checkpoints import Checkpoints  # noqa: E402
from zoo.loop import Every, Loop, NonFiniteError  # noqa: E402


class Counter(tf.Module):
    """Adds up the batches it is given."""

    scalar_names = ("value", "twice")

    def __init__(self):
        super().__init__()
        self.step = tf.Variable(0, dtype=tf.int64)
        self.total = tf.Variable(0.0, dtype=tf.float64)

    def train_step(self, batch):
        self.total.assign_add(tf.cast(batch, tf.float64))
        self.step.assign_add(1)
        return {"twice": 2 * batch, "value": batch}

    def state(self):
        return [self.total, self.step]


def numbers(start, context=None):
    return tf.data.Dataset.range(start, 10**9).map(lambda n: tf.cast(n, tf.float32))


def test_every_step_gets_the_next_batch_and_scalars_are_means_of_the_block():
    model = Counter()
    blocks = []
    loop = Loop(model, numbers, total_steps=10, steps_per_loop=4, on_block=blocks.append)
    assert loop.train() == 10
    assert float(model.total) == sum(range(10))
    assert [block.step for block in blocks] == [4, 8, 10]
    assert [block.scalars["value"] for block in blocks] == [1.5, 5.5, 8.5]
    assert [block.scalars["twice"] for block in blocks] == [3.0, 11.0, 17.0]
    assert all(block.steps_per_second > 0 for block in blocks)
    assert all(0 <= block.input_wait <= 1 for block in blocks)


def test_hooks_and_checkpoints_meet_the_steps_they_asked_for(tmp_path):
    model = Counter()
    called = []
    saves = Checkpoints(tf.train.Checkpoint(model=model), tmp_path)
    loop = Loop(
        model,
        numbers,
        total_steps=11,
        steps_per_loop=5,
        checkpoints=saves,
        checkpoint_every=4,
        hooks=[
            Every(3, lambda step, model: called.append(("three", step, int(model.step)))),
            Every(100, lambda step, model: called.append(("late", step, int(model.step)))),
        ],
    )
    loop.train()
    assert called == [
        ("three", 3, 3),
        ("three", 6, 6),
        ("three", 9, 9),
        ("three", 11, 11),
        ("late", 11, 11),
    ]
    assert [path.name for path in sorted(tmp_path.glob("*.index"))] == [
        "step-11.index",
        "step-4.index",
        "step-8.index",
    ]


def test_slow_steps_make_short_blocks(monkeypatch):
    monkeypatch.setattr("zoo.loop.BLOCK_SECONDS", 0.02)
    model = Counter()
    blocks = []

    def slow(start, context=None):
        return numbers(start).map(
            lambda n: tf.py_function(lambda n: (time.sleep(0.01), n)[1], [n], tf.float32)
        )

    Loop(model, slow, total_steps=40, steps_per_loop=30, on_block=blocks.append).train()
    lengths = np.diff([0, *(block.step for block in blocks)])
    assert lengths[0] == 10
    assert max(lengths[1:]) <= 2
    assert float(model.total) == sum(range(40))


def test_training_goes_on_from_the_model_s_step():
    model = Counter()
    Loop(model, numbers, total_steps=4).train()
    Loop(model, numbers, total_steps=9).train()
    assert float(model.total) == sum(range(9))
    assert Loop(model, numbers, total_steps=9).train() == 9
    assert float(model.total) == sum(range(9))


def test_a_requested_stop_ends_after_the_block_and_saves(tmp_path):
    model = Counter()
    loop = Loop(
        model,
        numbers,
        total_steps=1000,
        steps_per_loop=10,
        checkpoints=Checkpoints(tf.train.Checkpoint(model=model), tmp_path),
        on_block=lambda block: setattr(loop, "stop_requested", block.step >= 30),
    )
    assert loop.train() == 30
    restored = Counter()
    Checkpoints(tf.train.Checkpoint(model=restored), tmp_path).restore()
    assert int(restored.step) == 30
    assert float(restored.total) == sum(range(30))


def test_a_non_finite_scalar_names_its_steps_and_keeps_the_checkpoints(tmp_path):
    model = Counter()

    def broken(start, context=None):
        return numbers(start).map(lambda n: tf.where(n < 13.0, n, np.nan))

    loop = Loop(
        model,
        broken,
        total_steps=100,
        steps_per_loop=5,
        checkpoints=Checkpoints(tf.train.Checkpoint(model=model), tmp_path),
        checkpoint_every=5,
    )
    with pytest.raises(NonFiniteError, match="value, twice .* between steps 11 and 15"):
        loop.train()
    assert sorted(path.name for path in tmp_path.glob("*.index")) == [
        "step-10.index",
        "step-5.index",
    ]


def test_non_finite_weights_are_never_saved(tmp_path):
    """The loss may still be finite when the update has broken the weights."""
    model = Counter()
    loop = Loop(
        model,
        numbers,
        total_steps=5,
        checkpoints=Checkpoints(tf.train.Checkpoint(model=model), tmp_path),
        on_block=lambda block: model.total.assign(np.inf),
    )
    with pytest.raises(NonFiniteError, match="after step 5"):
        loop.train()
    assert not list(tmp_path.glob("*.index"))


def test_undeclared_scalars_are_refused():
    model = Counter()
    model.scalar_names = ("value",)
    with pytest.raises(ValueError, match="expected its scalar_names"):
        Loop(model, numbers, total_steps=1).train()


def test_a_strategy_of_one_device_counts_the_same():
    """Two replicas need a process of their own: tests/contract.py starts one."""
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    with strategy.scope():
        model = Counter()
    block = Loop(model, numbers, total_steps=6, strategy=strategy).run_block(6)
    assert block.scalars == {"value": 2.5, "twice": 5.0}

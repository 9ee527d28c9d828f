"""The loop with a model that only counts: what runs when, what stops it, and how it goes back."""

import os
import time

import numpy as np
import pytest

from zoo import runtime

tf = runtime.import_tensorflow()

from zoo.checkpoints import Best, Checkpoints  # noqa: E402
from zoo.devices import Devices  # noqa: E402
from zoo.loop import (  # noqa: E402
    CollapseError,
    Every,
    Loop,
    NonFiniteError,
    Profile,
    TrainingFailure,
)


class Counter(tf.Module):
    """Adds up the batches it is given."""

    scalar_names = ("value", "twice")

    def __init__(self):
        super().__init__()
        self.step = tf.Variable(0, dtype=tf.int64)
        self.rollbacks = tf.Variable(0, dtype=tf.int64)
        self.total = tf.Variable(0.0, dtype=tf.float64)

    def train_step(self, batch):
        self.total.assign_add(tf.cast(batch, tf.float64))
        self.step.assign_add(1)
        return {"twice": 2 * batch, "value": batch}

    def state(self):
        return [self.total, self.step, self.rollbacks]


class Unlucky(Counter):
    """Adds up noise, which differs by roll-back; becomes NaN at one step in the first streams."""

    def __init__(self, breaks_at=0, streams=0):
        super().__init__()
        self.breaks_at, self.streams = breaks_at, streams

    def train_step(self, batch):
        scalars = super().train_step(batch)
        noise = tf.cast((self.rollbacks + 1) * self.step**2, tf.float64)
        broken = (self.step == self.breaks_at) & (self.rollbacks < self.streams)
        self.total.assign_add(tf.where(broken, tf.constant(np.nan, tf.float64), noise))
        return {**scalars, "twice": tf.cast(self.total, tf.float32)}


def expected_total(*streams):
    """What Unlucky adds up, given the stream (roll-backs) of each of its steps."""
    batches = sum(range(len(streams)))
    return batches + sum((stream + 1) * (i + 1) ** 2 for i, stream in enumerate(streams))


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


def test_profiled_steps_are_blocks_of_their_own_and_recorded(tmp_path):
    model, blocks = Counter(), []
    profile = Profile(4, 6, str(tmp_path))
    loop = Loop(model, numbers, total_steps=10, on_block=blocks.append, profile=profile)
    loop.train()
    assert [block.step for block in blocks] == [4, 5, 6, 10]
    assert float(model.total) == sum(range(10))
    (recorded,) = tmp_path.glob("plugins/profile/*/*.xplane.pb")
    content = recorded.read_bytes()
    assert b"train" in content
    assert b"step_num" in content
    # A run that goes on beyond them records nothing.
    Loop(model, numbers, total_steps=12, profile=profile).train()
    assert len(list(tmp_path.glob("plugins/profile/*"))) == 1


def test_profile_ends_with_the_loop(tmp_path):
    loop = Loop(Unlucky(5, 1), numbers, total_steps=10, profile=Profile(2, 8, str(tmp_path)))
    with pytest.raises(NonFiniteError):
        loop.train()
    assert list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))
    tf.profiler.experimental.start(str(tmp_path))  # AlreadyExistsError if one were still running
    tf.profiler.experimental.stop(save=False)


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
    # Not the longest: on a busy machine a step may wait for data that is there already.
    assert np.median(lengths[1:]) <= 2
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
    block = Loop(model, numbers, total_steps=6, devices=Devices(strategy)).run_block(6)
    assert block.scalars == {"value": 2.5, "twice": 5.0}


# Going back


def unlucky_loop(model, directory, *, max_rollbacks=3, **options):
    checkpoints = Checkpoints(tf.train.Checkpoint(model=model), directory)
    if checkpoints.restore() is None:
        checkpoints.save(0)
    told = []
    loop = Loop(
        model,
        numbers,
        checkpoints=checkpoints,
        max_rollbacks=max_rollbacks,
        on_rollback=lambda rollback: told.append((rollback, checkpoints.steps())),
        **options,
    )
    return loop, told


def test_after_a_non_finite_loss_it_goes_on_from_the_newest_checkpoint(tmp_path):
    model = Unlucky(breaks_at=13, streams=1)
    loop, told = unlucky_loop(model, tmp_path, total_steps=20, checkpoint_every=5)
    assert loop.train() == 20
    ((rollback, checkpoints),) = told
    assert isinstance(rollback.failure, NonFiniteError)
    assert (rollback.step, rollback.number, checkpoints) == (10, 1, [0, 5, 10])
    assert int(model.rollbacks) == 1
    assert float(model.total) == expected_total(*[0] * 10, *[1] * 10)
    restored = Unlucky()
    Checkpoints(tf.train.Checkpoint(model=restored), tmp_path).restore()
    assert (int(restored.step), int(restored.rollbacks)) == (20, 1)


@pytest.mark.parametrize(("at", "back"), ((6, 0), (12, 6), (20, 18)))
def test_after_a_collapse_it_goes_back_to_a_state_that_was_judged_good(tmp_path, at, back):
    """However many checkpoints were saved since, none of which is good."""

    def judge(step, model):
        if step == at and model.rollbacks == 0:
            raise CollapseError("all alike")

    model = Unlucky()
    loop, told = unlucky_loop(
        model,
        tmp_path,
        total_steps=20,
        checkpoint_every=1,
        hooks=[Every(4, lambda step, model: None), Every(6, judge, judges=True)],
    )
    assert loop.train() == 20
    ((rollback, checkpoints),) = told
    assert (rollback.step, rollback.number) == (back, 1)
    assert checkpoints[-1] == back
    assert float(model.total) == expected_total(*[0] * back, *[1] * (20 - back))


@pytest.mark.parametrize("max_rollbacks", (0, 2))
def test_it_gives_up_in_the_end_and_the_checkpoints_are_those_before(tmp_path, max_rollbacks):
    model = Unlucky(breaks_at=13, streams=99)
    options = {"total_steps": 20, "checkpoint_every": 5, "max_rollbacks": max_rollbacks}
    loop, told = unlucky_loop(model, tmp_path, **options)
    with pytest.raises(NonFiniteError, match="twice"):
        loop.train()
    assert [(rollback.step, rollback.number) for rollback, _ in told] == [
        (10, number + 1) for number in range(max_rollbacks)
    ]
    assert loop.checkpoints.steps() == [0, 5, 10]
    restored = Unlucky()
    Checkpoints(tf.train.Checkpoint(model=restored), tmp_path).restore()
    assert float(restored.total) == expected_total(*[0] * 10)


def test_roll_backs_are_counted_over_the_whole_run(tmp_path):
    for breaks_at, streams, total_steps in ((3, 1, 10), (13, 2, 20)):
        model = Unlucky(breaks_at, streams)
        loop, _ = unlucky_loop(
            model, tmp_path, total_steps=total_steps, checkpoint_every=5, max_rollbacks=2
        )
        loop.train()
    assert int(model.rollbacks) == 2
    assert float(model.total) == expected_total(*[1] * 10, *[2] * 10)
    loop, _ = unlucky_loop(Unlucky(23, 3), tmp_path, total_steps=30, max_rollbacks=2)
    with pytest.raises(TrainingFailure):
        loop.train()


def test_without_a_checkpoint_to_go_back_to_the_failure_is_raised(tmp_path):
    model = Unlucky(breaks_at=3, streams=1)
    loop = Loop(model, numbers, total_steps=5, max_rollbacks=3)
    with pytest.raises(NonFiniteError):
        loop.train()
    loop, told = unlucky_loop(Unlucky(3, 1), tmp_path, total_steps=5)
    (tmp_path / "step-0.index").write_bytes(b"")
    with pytest.raises(NonFiniteError):
        loop.train()
    assert not told


class Killed(BaseException):
    pass


def troubled(directory, *, die_at=None, stop_at=None):
    """A run that collapses twice and breaks once; dies at the n-th step, or stops at a step."""
    model = Unlucky(breaks_at=17, streams=3)
    best = Best(tf.train.Checkpoint(model=model), directory / "best")
    steps = iter(range(1, 1000))

    def judge(step, model):
        rollbacks = int(model.rollbacks)
        before = best.value_before(rollbacks, step)
        if step == 12 and rollbacks < 2:
            raise CollapseError(f"was {before} before")
        best.offer(rollbacks, step, "value", float(30 - 2 * step - 3 * rollbacks) ** 2)

    def die(step, model):
        if next(steps) == die_at:
            raise Killed

    def stop(block):
        loop.stop_requested = block.step == stop_at

    loop, told = unlucky_loop(
        model,
        directory / "checkpoints",
        total_steps=20,
        checkpoint_every=2,
        hooks=[Every(3, judge, judges=True), Every(1, die)],
        on_block=stop,
    )
    loop.train()
    return model, [(str(rollback.failure), rollback.step) for rollback, _ in told]


def ending(directory, model):
    best = (directory / "best" / "best.json").read_bytes()
    return float(model.total), int(model.rollbacks), best, sorted(os.listdir(directory / "best"))


def test_killed_or_stopped_at_any_moment_it_ends_the_same(tmp_path):
    model, told = troubled(tmp_path / "whole")
    assert [step for _, step in told] == [8, 8, 16]
    assert told[0][0] != told[1][0]  # the best was found in between
    expected = ending(tmp_path / "whole", model)
    assert expected[:2] == (expected_total(*[0] * 8, *[2] * 8, *[3] * 4), 3)
    for die_at in (3, 12, 15, 16, 20):
        directory = tmp_path / f"killed-{die_at}"
        with pytest.raises(Killed):
            troubled(directory, die_at=die_at)
        if die_at % 2:
            with pytest.raises(Killed):
                troubled(directory, die_at=2)
        model, _ = troubled(directory)
        assert ending(directory, model) == expected, die_at
    for stop_at in (9, 13, 17):
        directory = tmp_path / f"stopped-{stop_at}"
        troubled(directory, stop_at=stop_at)
        model, _ = troubled(directory)
        assert ending(directory, model) == expected, stop_at

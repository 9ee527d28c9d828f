"""Several devices and several hosts compute what one does, agree, and end together."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import SMALL, assert_done, assert_refused, run, start, wait_for

from experiments import jobs
from zoo import devices, runtime
from zoo.errors import UsageError

runtime.import_tensorflow()

FEW = ("--total_steps=40", "--checkpoint_every=20", "--eval_every=40", "--sample_every=40")


def config(index: int, *addresses: str, kind: str = "worker", **more) -> str:
    cluster = {"worker": list(addresses), **more}
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


def start_workers(count: int, run_dir: pathlib.Path, *arguments: str) -> list[subprocess.Popen]:
    addresses = jobs.loop_back(count)
    processes = []
    for index in range(count):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TF_CONFIG", config(index, *addresses))
            processes.append(start("zoo.train", *SMALL, f"--run_dir={run_dir}", *arguments))
    return processes


def ends(workers: list[subprocess.Popen], seconds: int = 300) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each, once all have ended; what hangs is killed first."""
    deadline = time.monotonic() + seconds
    for worker in workers:
        try:
            worker.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
    said = [worker.communicate() for worker in workers]
    return [(worker.returncode, *texts) for worker, texts in zip(workers, said, strict=True)]


def assert_same_up_to_rounding(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    assert len(one) > 40
    differences = [np.sum((one[name].astype("f8") - other[name]) ** 2) for name in one]
    sizes = [np.sum(one[name].astype("f8") ** 2) for name in one]
    assert np.sqrt(np.sum(differences)) <= 1e-6 * np.sqrt(np.sum(sizes))


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("one") / "run"
    assert_done(run("zoo.train", *SMALL, *FEW, f"--run_dir={run_dir}"))
    return run_dir


def test_two_devices_train_what_one_does(one_device, tmp_path):
    two = tmp_path / "two"
    options = (*SMALL, "--checkpoint_every=20", "--eval_every=40", "--sample_every=40")
    both = ("--strategy=mirrored", "--num_devices=2")
    assert_done(run("zoo.train", *options, "--total_steps=40", *both, f"--run_dir={two}"))
    assert_same_up_to_rounding(jobs.state(one_device, 40), jobs.state(two, 40))
    # A run may go on on other devices, and what they wrote is read on one.
    assert_done(run("zoo.train", *options, "--total_steps=44", f"--run_dir={two}"))
    assert_done(run("zoo.sample", f"--run_dir={two}", f"--out={tmp_path / 'sheet.png'}"))


def test_devices_that_are_not_there_are_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    run_dir = f"--run_dir={tmp_path / 'run'}"
    done = run("zoo.train", "--model=vae", "--strategy=mirrored", run_dir)
    assert_refused(done, "--strategy=mirrored needs several devices", "--num_devices=2")
    done = run("zoo.train", "--model=vae", "--strategy=multi_worker", run_dir)
    assert_refused(done, "needs TF_CONFIG", '"cluster": {"worker":')
    done = run("zoo.train", "--model=vae", "--num_devices=3", "--batch_size=64", run_dir)
    assert_refused(done, "--batch_size=64 does not divide by 3 devices", "multiple of 3")
    parts = ("--accumulate_steps=3", "--num_devices=2", "--batch_size=64")
    done = run("zoo.train", "--model=vae", *parts, run_dir)
    assert_refused(done, "does not divide by 2 devices times 3 parts", "multiple of 6")
    compiled = ("--num_devices=2", "--batch_size=64", "--jit_compile")
    done = run("zoo.train", "--model=vae", *compiled, run_dir)
    assert_refused(done, "--jit_compile on 2 devices", "add --strategy=one_device")
    done = run("zoo.train", "--model=vae", "--num_devices=-1", run_dir)
    assert_refused(done, "--num_devices=-1: expected 0 or more")
    assert not (tmp_path / "run").exists()


def test_cluster_is_read_from_tf_config(monkeypatch):
    def read(text: str) -> devices.Cluster | None:
        monkeypatch.setenv("TF_CONFIG", text)
        return devices.cluster_from_environment()

    assert read("") is None
    assert read(config(0, "a:1")) is None
    assert read(config(1, "a:1", "b:1")) == (["a:1", "b:1"], 1)
    assert read(config(0, "a:1", "b:1", chief=["c:1"])) == (["c:1", "a:1", "b:1"], 1)
    assert read(config(0, "a:1", "b:1", chief=["c:1"], kind="chief")).number == 0
    for wrong in (
        "{",
        "[]",
        config(2, "a:1", "b:1"),
        config(0, "a:1", "b:1", kind="ps"),
        '{"cluster": {"worker": 3}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"index": "x"}}',
        config(0, "a", "b:1"),
        config(0, "a:1", "b:x"),
        config(0, "a:1", "b:65536"),
        config(0, "a:1", "a:1"),
        config(0, 1, 2),
    ):
        with pytest.raises(UsageError, match=r"TF_CONFIG is wrong .*expected TF_CONFIG='"):
            read(wrong)


def test_the_first_worker_alone_is_chief(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config(1, "a:1", "b:1"))
    assert not devices.is_chief("auto")
    assert devices.is_chief("one_device")  # which has no other workers
    monkeypatch.setenv("TF_CONFIG", config(0, "a:1", "b:1"))
    assert devices.is_chief("multi_worker")


def test_one_worker_agrees_with_itself():
    alone = devices.Devices()
    assert alone.num_replicas == 1
    assert alone.mean(0.25) == 0.25
    assert alone.any(True)
    assert not alone.any(False)
    assert alone.of_chief(-1) == -1


@pytest.mark.parametrize("index", [0, 1])
def test_a_worker_that_never_comes_is_not_waited_for_for_ever(index, tmp_path, monkeypatch):
    addresses = jobs.loop_back(2)
    monkeypatch.setenv("TF_CONFIG", config(index, *addresses))
    # Long enough for TensorFlow to begin waiting itself, in which Python has no turn.
    monkeypatch.setenv("ZOO_WAIT_SECONDS", "10")
    done = run("zoo.train", *SMALL, f"--run_dir={tmp_path / 'run'}", timeout=60)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: not all workers have come within 10 seconds"), done.stderr
    assert ", ".join(addresses) in last
    assert not (tmp_path / "run" / "flags.txt").exists()


def test_a_worker_whose_port_is_taken_says_so(tmp_path, monkeypatch):
    addresses = jobs.loop_back(2)
    monkeypatch.setenv("TF_CONFIG", config(1, *addresses))
    host, _, port = addresses[1].rpartition(":")
    with socket.create_server((host, int(port))):
        done = run("zoo.train", *SMALL, f"--run_dir={tmp_path / 'run'}", timeout=60)
    assert done.returncode == 1  # not 2, after which no cluster would start it again
    words = f"error: worker 1 of TF_CONFIG, {addresses[1]}, cannot join"
    assert done.stderr.splitlines()[-1].startswith(words), done.stderr
    assert "Traceback" not in done.stderr


def test_a_wait_that_is_no_number_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config(0, "localhost:1", "localhost:2"))
    for wrong in ("soon", "0", "nan"):
        monkeypatch.setenv("ZOO_WAIT_SECONDS", wrong)
        with pytest.raises(UsageError, match=f"ZOO_WAIT_SECONDS={wrong}: expected a number"):
            devices.Devices.set_up("multi_worker", 0)


@pytest.mark.slow
def test_shares_of_a_batch_in_parts_equal_the_whole(tmp_path):
    """A model without batch statistics; the parts' rounding is what 20 steps make of it."""
    small = ("--model=gan", "--hidden=8", "--maxout_units=4", "--latent_dim=4")
    few = ("--batch_size=8", "--total_steps=20", "--eval_every=100", "--sample_every=100")
    parts = ("--strategy=mirrored", "--num_devices=2", "--accumulate_steps=2")
    assert_done(run("zoo.train", *small, *few, f"--run_dir={tmp_path / 'whole'}"))
    assert_done(run("zoo.train", *small, *few, *parts, f"--run_dir={tmp_path / 'parts'}"))
    assert_same_up_to_rounding(
        jobs.state(tmp_path / "whole", 20), jobs.state(tmp_path / "parts", 20)
    )


@pytest.mark.slow
def test_two_hosts_train_what_one_does_and_the_chief_alone_writes(one_device, tmp_path):
    outputs = ends(start_workers(2, tmp_path / "run", *FEW))
    assert [code for code, _, _ in outputs] == [0, 0], outputs
    assert "Step 40, test split" in outputs[0][1]
    assert outputs[1][1].splitlines()[1:] == ["Waiting for all 2 workers"]
    assert_same_up_to_rounding(jobs.state(one_device, 40), jobs.state(tmp_path / "run", 40))
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == {path.name for path in one_device.iterdir()}
    assert len(list((tmp_path / "run" / "train").iterdir())) == len(
        list((one_device / "train").iterdir())
    )


REPLICAS = """
import json
import keras
from zoo.devices import Devices
strategy = Devices.set_up("mirrored", 2).strategy
import tensorflow as tf
from zoo.layers import BatchNormalization
from zoo.optimizers import LossScale, over_replicas, take_sums

with strategy.scope():
    variable, optimizer, scale = keras.Variable([1.0]), keras.optimizers.SGD(1.0), LossScale("loss")
    optimizer.build([variable])
    take_sums(optimizer)
    norm, alone = BatchNormalization(affine=False), BatchNormalization(affine=False)
    alone.synchronized = False
    norm.build([None, 1])
    alone.build([None, 1])

@tf.function
def update(gradients):
    def of_replica():
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        summed, none = over_replicas([tf.gather(gradients, [number]), None])
        assert none is None
        return scale.apply(optimizer, [summed], [variable])
    return strategy.experimental_local_results(strategy.run(of_replica))[0]

@tf.function
def normalize():
    def of_replica():
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        rows = 10.0 * tf.cast(number, tf.float32) + tf.constant([[-1.0], [1.0]])
        return norm(rows, training=True), alone(rows, training=True)
    first, second = strategy.run(of_replica)
    return [tf.concat(strategy.experimental_local_results(x), 0)[:, 0] for x in (first, second)]

told = []
for gradients in ([0.25, 0.5], [0.25, float("inf")], [float("nan"), 0.5], [1.0, 1.0]):
    told.append([float(update(tf.constant(gradients))), variable.numpy().tolist()[0]])
normal = [values.numpy().tolist() for values in normalize()]
moving = [
    [float(copy[0]) for copy in strategy.experimental_local_results(average.value)]
    for layer in (norm, alone) for average in (layer.moving_mean, layer.moving_variance)
]
print(json.dumps([told, normal, moving]))
"""


def test_replicas_skip_an_update_together_and_normalize_together_or_apart():
    done = subprocess.run([sys.executable, "-c", REPLICAS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    told, (together, apart), moving = json.loads(done.stdout.splitlines()[-1])
    # One replica's gradient is enough to skip; those of both are summed.
    assert told == [[2.0**15, 0.25], [2.0**15, 0.25], [2.0**14, 0.25], [2.0**13, -1.75]]
    np.testing.assert_allclose(apart, [-1, 1, -1, 1], atol=1e-4)
    deviation = np.std([-1, 1, 9, 11])
    np.testing.assert_allclose(together, (np.array([-1, 1, 9, 11]) - 5) / deviation, atol=1e-4)
    # A tenth of the way: to all four's mean and unbiased variance; to the mean of two pairs' own.
    np.testing.assert_allclose(moving[:2], [[0.5] * 2, [0.9 + 10.4 / 3] * 2], rtol=1e-5)
    np.testing.assert_allclose(moving[2:], [[0.5] * 2, [0.9 + 0.2] * 2], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("hit", [0, 1])
def test_all_hosts_stop_when_one_is_told_to_and_end_when_one_is_killed(hit, tmp_path):
    run_dir = tmp_path / "run"
    rarely = [f"--{what}_every=400" for what in ("eval", "sample", "checkpoint")]
    whole = ("--total_steps=400", *rarely)
    long = (*whole, "--checkpoint_every=20")

    def saved() -> int:
        return max(jobs.steps(run_dir), default=0)

    workers = start_workers(2, run_dir, *long)
    wait_for(lambda: saved() > 0, workers[0])
    workers[hit].send_signal(signal.SIGKILL)
    _, err = workers[1 - hit].communicate(timeout=60)
    assert workers[1 - hit].returncode == 1
    # TensorFlow may say more, in its own words, before.
    assert err.splitlines()[-1].startswith("error: another worker is gone"), err
    workers[hit].communicate()
    before = saved()
    assert before > 0

    workers = start_workers(2, run_dir, *long)
    wait_for(lambda: saved() > before, workers[0])
    workers[hit].send_signal(signal.SIGTERM)
    outputs = ends(workers, 60)
    assert [code for code, _, _ in outputs] == [143, 143], outputs
    words = f"all saved. To go on: python -m zoo.train --flagfile={os.fspath(run_dir)}"
    assert words in outputs[0][1]
    # Killed, stopped and gone on: the same as never interrupted.
    for directory, more in (run_dir, long), (tmp_path / "whole", whole):
        outputs = ends(start_workers(2, directory, *more))
        assert [code for code, _, _ in outputs] == [0, 0], outputs
    assert jobs.equal(run_dir, tmp_path / "whole", 400)

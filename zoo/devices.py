"""Devices: which of them a run uses, by tf.distribute.

`auto` takes all GPUs of this host, or of all hosts that TF_CONFIG names; `mirrored` is one process
over several devices, `multi_worker` one process a host. The batch is that of all devices together,
noise and data order do not depend on how many there are: N replicas compute what one would, up to
rounding. The chief alone, worker 0, writes the run directory, which all workers must see.
"""

import contextlib
import faulthandler
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from zoo import runtime
from zoo.errors import UsageError, reason

_EXAMPLE = (
    """TF_CONFIG='{"cluster": {"worker": ["host0:12345", "host1:12345"]}, """
    """"task": {"type": "worker", "index": 0}}'"""
)

# Its standard input ends with the wait, or with the process that waits.
_SAY_AFTER = """
import select, sys
if not select.select([sys.stdin], [], [], float(sys.argv[1]))[0]:
    print(sys.argv[2], file=sys.stderr, flush=True)
"""
WAIT_SECONDS = 600.0
"""How long for workers that have not come yet; ZOO_WAIT_SECONDS in the environment changes it."""


class Devices:
    """What a run computes on, and how its workers agree.

    Attributes:
      strategy: the tf.distribute.Strategy to build and train in.
      num_workers: processes of the run, one a host.
      chief: whether this one writes the run directory.
    """

    def __init__(self, strategy=None, *, num_workers: int = 1, chief: bool = True):
        """strategy: the default one, of a single device, if None."""
        import tensorflow as tf

        self.strategy = strategy or tf.distribute.get_strategy()
        self.num_workers = num_workers
        self.chief = chief
        if num_workers > 1:
            with self.strategy.scope():
                self._means = tf.Variable(
                    tf.zeros([], tf.float64),
                    trainable=False,
                    synchronization=tf.VariableSynchronization.ON_READ,
                    aggregation=tf.VariableAggregation.SUM,
                )

    @classmethod
    def set_up(cls, strategy: str, num_devices: int) -> "Devices":
        """Imports TensorFlow and makes the strategy: to be called before any other use of it.

        strategy: as the flag; num_devices: of the CPU, split to try several devices on one; 0 for
        as it is. UsageError if the machine or TF_CONFIG has not what the strategy needs; SystemExit
        with one line if this worker cannot listen at its address, which may pass.
        """
        cluster = _cluster(strategy)
        if num_devices and cluster is not None:
            raise UsageError(
                "--num_devices is for one host, and TF_CONFIG names several: leave it out"
            )
        made: list[Any] = []

        def set_up(tf) -> None:
            if num_devices:
                cpus = tf.config.list_physical_devices("CPU")
                parts = [tf.config.LogicalDeviceConfiguration()] * num_devices
                tf.config.set_logical_device_configuration(cpus[0], parts)
            made.append(_make(tf, strategy, num_devices, cluster))

        if cluster is None:
            runtime.import_tensorflow(set_up)
            return cls(made[0])
        print(f"Waiting for all {len(cluster.workers)} workers", flush=True)
        with _bounded(cluster):
            runtime.import_tensorflow(set_up)
        return cls(made[0], num_workers=len(cluster.workers), chief=cluster.number == 0)

    @property
    def num_replicas(self) -> int:
        """Devices over which a batch is divided."""
        return self.strategy.num_replicas_in_sync

    @property
    def are_gpus(self) -> bool:
        """Whether all devices of this process are."""
        return all("GPU" in device for device in self.strategy.extended.worker_devices)

    def mean(self, value: float) -> float:
        """Of the value that each worker gives; all must call it, and all get the same."""
        if self.num_workers == 1:
            return value
        import numpy as np

        # Assigned outside of replicas, it is divided by their number; read there, summed.
        # As an array: of Python's numbers TensorFlow keeps each different one for ever.
        self._means.assign(np.asarray(value, np.float64))
        return float(self._means.read_value().numpy())

    def any(self, value: bool) -> bool:
        """Whether any worker says so; all must call it."""
        return self.mean(float(value)) > 0

    def of_chief(self, value: int) -> int:
        """The chief's value; all must call it."""
        return round(self.mean(float(value * self.num_workers if self.chief else 0)))


class Cluster(NamedTuple):
    """What TF_CONFIG says."""

    workers: Sequence[str]
    number: int


def is_chief(strategy: str) -> bool:
    """Whether this process will write the run directory; known without TensorFlow."""
    cluster = _cluster(strategy)
    return cluster is None or cluster.number == 0


def cluster_from_environment() -> Cluster | None:
    """The cluster of TF_CONFIG, with two workers or more; None if there is no such.

    UsageError if TF_CONFIG is not what TensorFlow expects.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return None
    try:
        config = json.loads(text)
        cluster = config.get("cluster", {})
        workers = [*cluster.get("chief", ()), *cluster.get("worker", ())]
        task = config.get("task", {})
        index = int(task.get("index", 0))
        kind = task.get("type", "worker")
        if kind == "worker":
            index += len(cluster.get("chief", ()))
        if kind not in ("chief", "worker") or not 0 <= index < max(len(workers), 1):
            raise ValueError(f"task {kind} {task.get('index', 0)} of {len(workers)} workers")
        for address in workers:
            _, _, port = address.rpartition(":")
            if not (port.isdecimal() and 0 < int(port) < 2**16):
                raise ValueError(f"no port in {address!r}")
        if len(set(workers)) < len(workers):
            raise ValueError("two workers at one address")
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"TF_CONFIG is wrong ({error}): expected {_EXAMPLE}") from error
    return Cluster(workers, index) if len(workers) > 1 else None


def _cluster(strategy: str) -> Cluster | None:
    """Of a strategy that asks for one; UsageError if it has to be there and is not."""
    cluster = cluster_from_environment() if strategy in ("auto", "multi_worker") else None
    if strategy == "multi_worker" and cluster is None:
        raise UsageError(
            f"--strategy=multi_worker needs TF_CONFIG in the environment of each worker: {_EXAMPLE}"
        )
    return cluster


@contextlib.contextmanager
def _bounded(cluster: Cluster) -> Iterator[None]:
    """Ends this process, with one line, if the wait within takes too long.

    TensorFlow waits for an hour, and keeps Python's lock: neither a thread nor a signal that Python
    handles gets a turn. So another process has the last word, and faulthandler's thread ends this
    one (exit code 1), for it needs no lock.
    """
    text = os.environ.get("ZOO_WAIT_SECONDS", "") or str(WAIT_SECONDS)
    try:
        seconds = float(text)
        if not 0 < seconds <= threading.TIMEOUT_MAX - 1.0:
            raise ValueError
    except ValueError:
        raise UsageError(f"ZOO_WAIT_SECONDS={text}: expected a number of seconds") from None

    words = (
        f"error: not all workers have come within {seconds:g} seconds: expected those of "
        f"TF_CONFIG, {', '.join(cluster.workers)}, this one number {cluster.number}; start all "
        "of them, each able to reach the others, or wait longer with ZOO_WAIT_SECONDS"
    )
    command = [sys.executable, "-I", "-S", "-c", _SAY_AFTER, str(seconds), words]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True),
        open(os.devnull, "w", encoding="utf-8") as nowhere,
    ):
        faulthandler.dump_traceback_later(seconds + 1.0, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def _make(tf, strategy: str, num_devices: int, cluster: Cluster | None):
    if cluster is not None:
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except tf.errors.OpError as error:
            # No UsageError: what is left of the job before may hold the port a little longer.
            raise SystemExit(
                f"error: worker {cluster.number} of TF_CONFIG, {cluster.workers[cluster.number]}, "
                f"cannot join the others ({reason(error)}): its address must be one of this host, "
                "its port free; then start all workers again"
            ) from error
    num_gpus = len(tf.config.list_physical_devices("GPU"))
    devices = [f"GPU:{number}" for number in range(num_gpus)]
    if num_devices:
        devices = [f"CPU:{number}" for number in range(num_devices)]
    if strategy == "mirrored" and len(devices) < 2:
        raise UsageError(
            f"--strategy=mirrored needs several devices, found {len(devices)}: --num_devices=2 "
            "splits the CPU to try it"
        )
    if strategy == "one_device" or len(devices) < 2:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy(devices)

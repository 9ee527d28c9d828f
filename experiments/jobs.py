"""Training jobs as a user starts them, one process or several, to be watched, hurt and compared.

All models train at their TINY config on small scenes: what is tried here is whether anything is
lost, and a job is mostly its start.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import zoo.models
from zoo.rundir import Run

STRATEGIES = ("one_device", "mirrored", "multi_worker")
BATCH = 4
_DATA = ("--dataset=scenes", "--image_size=16", f"--batch_size={BATCH}")
_MARK = "ZOO_SURVIVAL_JOB"
_ROOT = pathlib.Path(__file__).parents[1]


def smallest(model: str) -> tuple[str, ...]:
    """The flags of a model at its TINY config."""
    module = zoo.models.load(model)
    plain, tiny = (dataclasses.asdict(one) for one in (module.Config(), module.TINY))
    own = [f"--{name}={value}" for name, value in tiny.items() if value != plain[name]]
    return (f"--model={model}", *_DATA, *own)


def on(strategy: str) -> tuple[str, ...]:
    """The flags of a strategy: two devices, where it is of several in one process."""
    devices = ("--num_devices=2",) if strategy == "mirrored" else ()
    return (f"--strategy={strategy}", *devices)


class Job:
    """Processes that run one command together; all that they start can be found by a mark.

    Each writes to NAME.INDEX.out and .err beside each other. The first is the chief.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        log: pathlib.Path,
        *,
        hosts: Sequence[str] = ("",),
        environment: Mapping[str, str] | None = None,
        prefixes: Sequence[Sequence[str]] | None = None,
    ):
        """hosts: host:port of each worker, or one "" for a job of one process; prefixes: what
        goes before each one's command."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self.began = time.monotonic()
        self._mark = f"{_MARK}={uuid.uuid4().hex}"
        self.out = [pathlib.Path(f"{log}.{index}.out") for index in range(len(hosts))]
        self.err = [path.with_suffix(".err") for path in self.out]
        self.processes = []
        name, _, mark = self._mark.partition("=")
        for index in range(len(hosts)):
            own = {**os.environ, "PYTHONPATH": os.fspath(_ROOT), name: mark, **(environment or {})}
            own.pop("TF_CONFIG", None)
            if len(hosts) > 1:
                task = {"type": "worker", "index": index}
                own["TF_CONFIG"] = json.dumps({"cluster": {"worker": list(hosts)}, "task": task})
            prefix = prefixes[index] if prefixes else ()
            with open(self.out[index], "wb") as out, open(self.err[index], "wb") as err:
                self.processes.append(
                    subprocess.Popen(
                        [*prefix, sys.executable, "-m", module, *arguments],
                        env=own,
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=err,
                        start_new_session=True,
                    )
                )

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_) -> None:
        """Nothing of it outlives what it was started for."""
        for process in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for child in self.processes:
            child.wait()

    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self.began

    def said(self, text: str) -> bool:
        """Whether the chief has printed this."""
        return text.encode() in self.out[0].read_bytes()

    def complaints(self, index: int) -> list[str]:
        """The lines that one has printed on stderr."""
        return self.err[index].read_text(encoding="utf-8", errors="replace").splitlines()

    def ended(self) -> bool:
        """Whether all processes that were started here have ended."""
        return all(process.poll() is not None for process in self.processes)

    def alive(self) -> list[int]:
        """The ids of all processes with its mark, whoever started them."""
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # gone meanwhile; what ends has no environment
                if self._mark.encode() in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found

    def wait(self, seconds: float) -> float | None:
        """How long until nothing of it was alive; None if something is after so long."""
        began = time.monotonic()
        while not self.ended() or self.alive():
            if time.monotonic() - began > seconds:
                return None
            time.sleep(0.05)
        return time.monotonic() - began

    def watch(self, seen: Callable[[], bool], seconds: float) -> bool:
        """Waits until `seen`; False if a process ended first, or after so long."""
        deadline = time.monotonic() + seconds
        while not seen():
            if any(process.poll() is not None for process in self.processes):
                return False
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)  # a checkpoint is being saved for a few milliseconds only
        return True


def train(
    model: str, strategy: str, run_dir: pathlib.Path, log: pathlib.Path, *more: str, **options
) -> Job:
    """`python -m zoo.train` of that model; with multi_worker two workers, unless told otherwise."""
    hosts = options.pop("hosts", None) or loop_back(2 if strategy == "multi_worker" else 1)
    arguments = (*smallest(model), *on(strategy), f"--run_dir={run_dir}", *more)
    return Job("zoo.train", arguments, log, hosts=hosts, **options)


def loop_back(count: int) -> list[str]:
    """Addresses of so many workers on this machine, on ports that are free; [""] for one."""
    if count == 1:
        return [""]
    found: list[str] = []
    while len(found) < count:
        # Below those that the system gives to others before a worker has begun to listen.
        address = ("localhost", random.SystemRandom().randrange(20_000, 32_000))
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(address)
            if (name := "{}:{}".format(*address)) not in found:
                found.append(name)
    return found


def steps(run_dir: pathlib.Path) -> list[int]:
    """The steps whose checkpoints have a name in a run directory, the newest last."""
    found = Run(run_dir).checkpoints.glob("step-*.index")
    return sorted(int(path.stem.removeprefix("step-")) for path in found)


def finish(job: Job, seconds: float) -> list[int | None]:
    """Waits for the end of all its processes; their exit codes, None for one that hangs."""
    with job:
        job.wait(seconds)
        return [process.poll() for process in job.processes]


def state(run_dir: pathlib.Path, step: int) -> dict[str, Any]:
    """Name -> value of all that a run's checkpoint holds."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(Run(run_dir).checkpoints / f"step-{step}"))
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names if name.startswith("state/")}


def equal(run_dir: pathlib.Path, other: pathlib.Path, step: int) -> bool:
    """Whether two runs' checkpoints of a step are the same, bit for bit."""
    one, two = state(run_dir, step), state(other, step)
    return one.keys() == two.keys() and all(
        value.tobytes() == two[name].tobytes() for name, value in one.items()
    )


def difference(run_dir: pathlib.Path, other: pathlib.Path, step: int) -> float:
    """How far two runs' checkpoints of a step are apart, over the first: L2, all floats."""
    one, two = state(run_dir, step), state(other, step)
    squares = [
        (((value.astype("f8") - two[name]) ** 2).sum(), (value.astype("f8") ** 2).sum())
        for name, value in one.items()
        if value.dtype.kind == "f"
    ]
    apart, size = (sum(column) for column in zip(*squares, strict=True))
    return math.sqrt(apart / size)

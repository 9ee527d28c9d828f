"""Processes: `python -m zoo.train`, which logs to a file and says why it failed, and functions."""

import concurrent.futures
import logging
import multiprocessing
import os
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

Result = TypeVar("Result")


def fresh(function: Callable[..., Result], *arguments) -> Result:
    """function(*arguments) of a new process, with nothing of ours imported; raises what it does.

    BrokenProcessPool if it is killed. It ends with this process, on Ctrl-C and SIGTERM too.
    """
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        1, mp_context=spawn, initializer=_end_by_sigterm
    ) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except (KeyboardInterrupt, SystemExit):
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def quiet_tensorflow() -> None:
    """Drops its warnings of many loops in one process, and of what its own profiler calls."""
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def _end_by_sigterm() -> None:
    """On the way out, so that what it has started ends too; Ctrl-C is for who started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def start(
    arguments: Sequence[str], log: pathlib.Path, device: str | None = None
) -> subprocess.Popen:
    """Appends all it says to `log`; device: what CUDA_VISIBLE_DEVICES is to be.

    It has a session of its own: Ctrl-C on the terminal does not reach it, SIGTERM lets it save.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = ["-m", "zoo.train", *arguments]
    environment = dict(os.environ)
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device
    with open(log, "ab") as file:
        file.write(f"$ {shlex.join(['python', *command])}\n".encode())
        file.flush()
        return subprocess.Popen(
            [sys.executable, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def failure(code: int, log: pathlib.Path) -> str:
    """Why a process that appended to this log ended with this code other than 0, in a line."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}; log {log}"
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = text.rpartition("\n$ ")[2].splitlines()
    said = [line for line in lines if line.startswith("error: ")]
    return (said or lines)[-1].removeprefix("error: ")

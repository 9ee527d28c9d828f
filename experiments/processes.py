"""`python -m zoo.train` as a process that logs to a file, stops well and says why it failed."""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence


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

"""The commands, run as a user runs them: each in a process of its own."""

import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

ROOT = pathlib.Path(__file__).parents[1]
# The real model on the real data, so small that a run is mostly start-up.
SMALL = (
    "--model=vae",
    "--latent_dim=4",
    "--width=4",
    "--hidden=8",
    "--importance_samples=2",
    "--batch_size=8",
)
FOREVER = 10**9


def start(module: str, *arguments: object, **options) -> subprocess.Popen:
    """`python -m module arguments`, with pipes for its output unless told otherwise."""
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONUNBUFFERED", None)  # it would hide a line that is not flushed
    return subprocess.Popen(command, env=environment, **settings)


def run(
    module: str, *arguments: object, timeout: int = 180, **options
) -> subprocess.CompletedProcess:
    """The same, waited for."""
    with start(module, *arguments, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def train(run_dir: pathlib.Path, *arguments: object, **options) -> subprocess.CompletedProcess:
    """A small training run to its end."""
    return run("zoo.train", *SMALL, f"--run_dir={run_dir}", *arguments, **options)


def assert_done(done: subprocess.CompletedProcess) -> None:
    """It ended well, and said nothing on stderr."""
    assert (done.returncode, done.stderr) == (0, ""), done


def assert_refused(done: subprocess.CompletedProcess, *words: str) -> None:
    """It ended with exit code 2 and one line on stderr that holds these words."""
    assert done.returncode == 2, done
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


def wait_for(condition: Callable[[], bool], process: subprocess.Popen, seconds: int = 60) -> None:
    """Waits until the condition holds while the process runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)  # a checkpoint is being saved for a few milliseconds only


def enliven(net) -> None:
    """Makes an untrained net of ten classes draw more than grey, and each class otherwise."""
    import tensorflow as tf

    for variable in net.weights:
        variable.assign(10.0 * variable)
        if variable.shape[0] == 10:
            variable.assign_add(tf.random.stateless_uniform(variable.shape, [0, 0]))


def contents(directory: pathlib.Path) -> dict[str, tuple[bytes, int]]:
    """Relative path -> bytes and time of the last change, of every file below a directory."""
    return {
        str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(directory.rglob("*"))
        if os.path.isfile(path)  # Path.is_file raises for some links to nowhere
    }


def temporary_files(directory: pathlib.Path) -> list[str]:
    """What a killed process may leave half-written, by its name."""
    return [
        str(path)
        for path in directory.rglob("*")
        if path.suffix == ".tmp" or "saving" in path.name or "tempstate" in path.name
    ]

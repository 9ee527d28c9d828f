"""A run that is killed again and again ends as one that was never interrupted."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import time

import numpy as np
import pytest
import tensorflow as tf
from commands import SMALL, assert_done, start, temporary_files, train, wait_for

KILLS = 12
ARGUMENTS = (
    "--total_steps=60",
    "--checkpoint_every=3",
    "--sample_every=10",
    "--eval_every=15",
    "--steps_per_loop=7",
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The directory of a run that nobody disturbed, and how long it took."""
    path = tmp_path_factory.mktemp("uninterrupted")
    began = time.monotonic()
    assert_done(train(path, *ARGUMENTS))
    return path, time.monotonic() - began


def variables(run_dir: pathlib.Path) -> dict[str, np.ndarray]:
    """Every variable of the last checkpoint: weights, optimizer, step."""
    reader = tf.train.load_checkpoint(str(run_dir / "checkpoints" / "step-60"))
    return {
        name: np.asarray(reader.get_tensor(name)) for name in reader.get_variable_to_dtype_map()
    }


def assert_same(run_dir: pathlib.Path, expected: pathlib.Path) -> None:
    ours, theirs = variables(run_dir), variables(expected)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 40
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype
        assert ours[name].tobytes() == value.tobytes(), name
    names = ["metrics.json", "flags.txt", "data.json"]
    names += [f"samples/{path.name}" for path in (expected / "samples").iterdir()]
    names += [f"best/{path.name}" for path in (expected / "best").iterdir()]
    assert sorted(os.listdir(run_dir / "best")) == sorted(os.listdir(expected / "best"))
    for name in names:
        assert (run_dir / name).read_bytes() == (expected / name).read_bytes(), name
    assert not temporary_files(run_dir)


def begin(run_dir: pathlib.Path) -> subprocess.Popen:
    arguments = (*SMALL, *ARGUMENTS, f"--run_dir={run_dir}")
    return start("zoo.train", *arguments, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_killed_at_random_moments(uninterrupted, tmp_path):
    """A kill at an even pace over the run's life, from its first import to its last file."""
    expected, seconds = uninterrupted
    generator = np.random.Generator(np.random.PCG64(0))
    kills, runs = 0, 0
    while kills < KILLS:
        run_dir = tmp_path / str(runs)
        runs += 1
        finished = False
        while not finished:
            with begin(run_dir) as process:
                try:
                    _, err = process.communicate(timeout=generator.uniform(0.1, seconds))
                    finished = True
                    assert (process.returncode, err) == (0, "")
                except subprocess.TimeoutExpired:
                    process.kill()
                    kills += 1
                    assert process.communicate()[1] == ""
        assert_same(run_dir, expected)
        shutil.rmtree(run_dir)
    assert runs > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "pattern", ("checkpoints/saving*", "best/saving*", "samples/*_mixture.png", "train/*.tsv")
)
def test_killed_on_sight_of_a_file(uninterrupted, tmp_path, pattern):
    """Where it hurts: amid a checkpoint, a hook, the final evaluation."""

    def seen() -> set[tuple[pathlib.Path, int]]:
        with contextlib.suppress(FileNotFoundError):  # gone between listing and looking
            return {(path, path.stat().st_mtime_ns) for path in tmp_path.glob(pattern)}
        return set()

    before = set()
    for _ in range(3):
        with begin(tmp_path) as process:
            try:
                wait_for(lambda: not seen() <= before, process)  # noqa: B023
            finally:
                process.kill()
            assert process.communicate()[1] == ""
        before = seen()
        assert not (tmp_path / "metrics.json").exists()
    assert_done(train(tmp_path, *ARGUMENTS))
    assert_same(tmp_path, uninterrupted[0])

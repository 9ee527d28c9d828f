"""The command that tries whether anything is lost: what it computes, and once in earnest."""

import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import ROOT, assert_refused, run

from experiments import jobs, kills, soak
from experiments.bench import Report
from zoo import hooks, runtime
from zoo.checkpoints import Checkpoints
from zoo.loop import Block

tf = runtime.import_tensorflow()


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--checks=kils", "did you mean kills"),
        ("--models=vea", "did you mean vae"),
        ("--kills=0", "--kills=0: expected a number greater than zero"),
    ],
)
def test_wrong_flags_are_refused(flag, words):
    assert_refused(run("experiments.survival", flag), words)


def test_a_slope_has_its_interval():
    """Worked by hand: residuals 0.2, -0.4, 0, 0.4, -0.2; t of 3 degrees is 3.182."""
    rise, within = soak.slope([0, 1, 2, 3, 4], [1.2, 2.6, 5.0, 7.4, 8.8])
    assert rise == pytest.approx(2.0)
    assert within == pytest.approx(3.1824 * np.sqrt(0.4 / 3 / 10), rel=1e-4)


def test_one_block_a_minute_is_kept():
    blocks = [(1000.0 + 25 * k, 10 * k, 2.0 * k) for k in range(8)]
    assert soak.minutely(blocks) == [(0.0, 0, 0.0), (75.0, 30, 6.0), (125.0, 50, 10.0)]


def test_processor_seconds_are_read_from_a_run(tmp_path):
    writer = tf.summary.create_file_writer(os.fspath(tmp_path))
    scalars = hooks.Scalars(writer, 4)
    scalars(Block(3, {"loss": 1.0}, 2.0, 0.1))
    scalars(Block(9, {"loss": 1.0}, 2.0, 0.1))
    writer.flush()
    (first, three, before), (second, nine, after) = soak.processor_seconds(tmp_path)
    assert (three, nine) == (3, 9)
    assert 0 < before <= after <= time.process_time()
    assert first <= second <= time.time()


def judged(resident, handles=8) -> dict[str, bool]:
    looks = [(60.0 * k, resident(k), handles + (k == 30), 9) for k in range(60)]
    noise = [0.01 * (-1) ** k for k in range(60)]
    blocks = [(60.0 * k, 1000 * k, 2.0 * k + noise[k]) for k in range(60)]
    report = Report()
    soak.judge({"looks": looks, "blocks": blocks}, report)
    return {check["name"].split(",")[0]: check["passed"] for check in report.checks}


def test_a_leak_is_seen():
    calm = judged(lambda k: 600e6 + 1e6 * (k % 2))
    assert calm == {
        "resident memory": True,
        "open handles": False,
        "open threads": True,
        "its change in an hour": True,
    }
    assert not judged(lambda k: 600e6 + 0.2e6 * k)["resident memory"]


def saved(directory: pathlib.Path, value) -> pathlib.Path:
    checkpoint = tf.train.Checkpoint(state=[tf.Variable(value), tf.Variable(3)])
    Checkpoints(checkpoint, directory / "checkpoints").save(5)
    return directory


def test_checkpoints_are_compared(tmp_path):
    one = saved(tmp_path / "one", np.array([3.0, 4.0], np.float32))
    same = saved(tmp_path / "same", np.array([3.0, 4.0], np.float32))
    other = saved(tmp_path / "other", np.array([3.0, 4.5], np.float32))
    assert jobs.steps(one) == [5]
    assert jobs.equal(one, same, 5) and not jobs.equal(one, other, 5)
    assert jobs.difference(one, same, 5) == 0.0
    assert jobs.difference(one, other, 5) == pytest.approx(0.1)


def test_a_job_is_found_with_all_that_it_started(tmp_path):
    """A child of a session of its own, as the process that was killed cannot end it."""
    (tmp_path / "parent.py").write_text(
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " start_new_session=True)\n"
        "print('started', flush=True)\ntime.sleep(60)\n"
    )
    environment = {"PYTHONPATH": os.fspath(tmp_path)}
    with jobs.Job("parent", (), tmp_path / "log", environment=environment) as job:
        assert job.watch(lambda: job.said("started"), 20)
        job.processes[0].kill()
        assert job.wait(0.2) is None
        assert len(job.alive()) == 1
    assert job.wait(5) is not None


def test_what_was_lost_fails():
    kill = {"moment": "saving", "strategy": "mirrored", "model": "vae", "seconds": 1.0}
    ended = {"codes": [0], "damaged": False, "equal": True}
    for wrong, number in (({}, 0), ({"lost": True}, 1), ({"seconds": None}, 1)):
        report = Report()
        found = {"kills": [{**kill, "lost": False, **wrong}], "runs": [ended], "exports": []}
        kills.judge(found, report)
        assert sum(not check["passed"] for check in report.checks) == number


@pytest.mark.slow
def test_killed_in_earnest(tmp_path):
    out = tmp_path / "survival.json"
    arguments = ("--checks=kills", "--models=vae", "--kills=1", "--steps=20", f"--out={out}")
    command = [sys.executable, "-m", "experiments.survival", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout, done.stderr)
    figures = json.loads(out.read_text())
    assert len(figures["kills"]["kills"]) == 1
    assert all(one["equal"] for one in figures["kills"]["runs"])
    assert all(check["passed"] for check in figures["checks"])

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from zoo.data import glyphs, parallel
from zoo.errors import UsageError

ROOT = Path(__file__).parents[1]


def drawn(module_name, indices, *, image_size, **options):
    """All that draw_in_parallel gives, and how many after each task."""
    tasks = parallel.split_up(indices, image_size)
    parts = parallel.draw_in_parallel(module_name, tasks, image_size=image_size, **options)
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels), np.cumsum([len(p) for p in labels])


def small_tasks(monkeypatch):
    monkeypatch.setattr(parallel, "_MAX_EXAMPLES_PER_TASK", 50)


def test_equals_drawing_in_one_process(monkeypatch):
    small_tasks(monkeypatch)
    indices = np.arange(330)[::-1]
    options = {"split": "test", "seed": 5, "image_size": 20, "variant": "hard"}
    expected = glyphs.draw(indices, **options)
    for processes, threads in ((1, False), (2, False), (2, True)):
        how = {"processes": processes, "threads": threads}
        *arrays, ends = drawn("zoo.data.glyphs", indices, **how, **options)
        for a, b in zip(arrays, expected, strict=True):
            assert a.dtype == b.dtype and np.array_equal(a, b)
        assert ends.tolist() == [50, 100, 150, 200, 250, 300, 330]


def test_other_processes_draw(monkeypatch, tmp_path):
    small_tasks(monkeypatch)
    module(tmp_path, monkeypatch, "labels = [os.getpid()] * len(indices)")
    _, labels, _ = drawn("drawing", range(400), image_size=8, processes=2)
    assert os.getpid() not in labels
    _, labels, _ = drawn("drawing", range(400), image_size=8, processes=2, threads=True)
    assert set(labels) == {os.getpid()}
    _, labels, _ = drawn("drawing", range(400), image_size=8, processes=1)
    assert set(labels) == {os.getpid()}


def test_few_examples_and_none_start_no_process(monkeypatch):
    monkeypatch.setattr(parallel, "_drawn_by_pool", None)
    assert len(drawn("zoo.data.glyphs", range(40), image_size=28)[0]) == 40
    assert list(parallel.draw_in_parallel("zoo.data.glyphs", [], image_size=28)) == []


@pytest.mark.parametrize("processes", (1, 2))
def test_few_tasks_are_taken_ahead(monkeypatch, tmp_path, processes):
    module(tmp_path, monkeypatch, "")
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield [taken]

    parts = parallel.draw_in_parallel("drawing", endless(), processes=processes, image_size=8)
    for number in range(1, 41):
        _, labels = next(parts)
        assert labels.tolist() == [number] and taken < number + 10
    parts.close()


def module(directory: Path, monkeypatch, code: str) -> None:
    """Makes a module `drawing`, whose draw() runs `code`, importable here and in the workers."""
    text = f"""
import multiprocessing, os
import numpy as np

def draw(indices, *, image_size):
    labels = list(indices)
    {code}
    return np.zeros((len(indices), image_size, image_size, 1), np.uint8), np.array(labels)
"""
    (directory / "drawing.py").write_text(text)
    monkeypatch.syspath_prepend(directory)
    monkeypatch.delitem(sys.modules, "drawing", raising=False)


def test_if_the_processes_die_this_one_draws(monkeypatch, tmp_path, caplog):
    small_tasks(monkeypatch)
    module(tmp_path, monkeypatch, "multiprocessing.parent_process() and os._exit(3)")
    _, labels, _ = drawn("drawing", range(400), image_size=8, processes=2)
    assert labels.tolist() == list(range(400))
    assert len(caplog.records) == 1 and "drawing in one" in caplog.text


def test_if_there_can_be_no_processes_this_one_draws(monkeypatch, caplog):
    small_tasks(monkeypatch)

    def no_semaphores(*_, **__):
        raise ImportError("this platform lacks a functioning sem_open implementation")

    monkeypatch.setattr(parallel.concurrent.futures, "ProcessPoolExecutor", no_semaphores)
    options = {"image_size": 28, "processes": 2}
    _, labels, _ = drawn("zoo.data.glyphs", range(200), **options)
    assert labels.tolist() == [n % 10 for n in range(200)]
    assert "sem_open" in caplog.text


def test_errors_of_draw_are_passed_on(monkeypatch):
    small_tasks(monkeypatch)
    with pytest.raises(UsageError, match="'nonsense'"):
        drawn("zoo.data.glyphs", range(400), image_size=28, processes=2, split="nonsense")


SCRIPT = """
import os, sys
sys.path.insert(0, os.getcwd())
print("run")
from zoo.data import parallel
parallel._MAX_EXAMPLES_PER_TASK = 100
tasks = parallel.split_up(range(1000), 28)
parts = list(parallel.draw_in_parallel("zoo.data.glyphs", tasks, image_size=28, processes=2))
print(sum(p[0].sum() for p in parts), sum(p[1].sum() for p in parts), "tensorflow" in sys.modules)
"""


@pytest.mark.parametrize("how", ("-c", "stdin", "a script without a guard", "-m"))
def test_the_main_module_runs_once(how, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    arguments = {"-c": ["-c", SCRIPT], "stdin": ["-"], "-m": ["-m", "script"]}.get(
        how, [str(tmp_path / "script.py")]
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        input=SCRIPT if how == "stdin" else "",
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    images, labels = glyphs.draw(range(1000))
    assert result.stdout == f"run\n{images.sum()} {labels.sum()} False\n"
    assert result.stderr == ""


DRAWING = """
    import sys, time
    from zoo.data import parallel
    sys.path.insert(0, sys.argv[1])
    tasks = parallel.split_up(range(10**5), 8)
    for _, labels in parallel.draw_in_parallel("drawing", tasks, image_size=8, processes=2):
        print(len(labels), flush=True)
"""
ENDLESS = "__import__('time').sleep(0.1)"
# The first task keeps one worker busy, while the other finds nothing more to do.
UNEVEN = "indices[0] or __import__('time').sleep(2)"


def group_is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("draw", "sent"), ((ENDLESS, signal.SIGINT), (UNEVEN, signal.SIGINT), (ENDLESS, signal.SIGKILL))
)
def test_when_the_parent_is_stopped_the_workers_end(tmp_path, monkeypatch, draw, sent):
    module(tmp_path, monkeypatch, f"open({str(tmp_path / 'began')!r}, 'w').close(); {draw}")
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DRAWING), str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 20
        while not (tmp_path / "began").exists():
            assert time.monotonic() < deadline, "no worker began"
            time.sleep(0.02)
        time.sleep(0.5)
        if sent == signal.SIGINT:
            os.killpg(process.pid, sent)  # as a terminal does: to the parent and its workers
        else:
            process.kill()
        err = process.communicate(timeout=20)[1]
        deadline = time.monotonic() + 10
        while group_is_alive(process.pid):
            assert time.monotonic() < deadline, "a worker outlives its parent"
            time.sleep(0.05)
    finally:
        if group_is_alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -sent, err
    if sent == signal.SIGINT:
        assert err.count("Traceback") == 1 and err.rstrip().endswith("KeyboardInterrupt"), err

"""The run directory: who may use it, what is written, and what survives damage and full disks."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
from commands import ROOT, temporary_files, wait_for

from zoo import files
from zoo.checkpoints import KEEP, Best, BrokenCheckpoints, Checkpoints
from zoo.errors import UsageError
from zoo.rundir import Run

FLAGS = {"model": "vae", "beta": "1.0", "total_steps": "10"}
DATA = {"image_shape": [28, 28, 1], "class_names": ["zero", "one"]}


def begin(path, flags=FLAGS, **options) -> Run:
    run = Run.lock(path, flags, **options)
    run.record(flags, DATA)
    return run


def refusal(path, flags=FLAGS, **options) -> str:
    with pytest.raises(UsageError) as error:
        Run.lock(path, flags, **options)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def python(code: str, *arguments: object, **options) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, **options)


# Run


def test_a_run_is_recorded_and_opened(tmp_path):
    path = tmp_path / "a" / "run"
    run = begin(path)
    run.write_json("metrics.json", {"step": 3})
    run.close()
    assert (path / "flags.txt").read_text() == "--model=vae\n--beta=1.0\n--total_steps=10\n"
    opened = Run.open(path)
    assert opened.flags() == FLAGS
    assert opened.read_json("data.json") == DATA
    assert opened.read_json("metrics.json") == {"step": 3}
    assert opened.read_json("missing.json") is None
    versions = opened.read_json("versions.json")
    assert versions["python"] == sys.version.split()[0]
    assert versions["tensorflow"] == tf.__version__
    git = ["git", "-C", str(pathlib.Path(__file__).parent), "rev-parse", "HEAD"]
    done = subprocess.run(git, capture_output=True, text=True)
    if done.returncode == 0:
        assert done.stdout.startswith(versions["commit"].removesuffix("+"))
        assert len(versions["commit"]) >= 12
    assert " x " in versions["processors"]
    assert not temporary_files(path)


def test_a_run_tells_what_rounds_otherwise_than_before(tmp_path, monkeypatch):
    run = begin(tmp_path / "run")
    assert run.elsewhere() == ""
    versions = run.read_json("versions.json")
    run.write_json("versions.json", {**versions, "keras": "3.0.0", "zoo": "0", "python": "3.0"})
    assert run.elsewhere() == f"keras 3.0.0 before and {versions['keras']} now"
    count = len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(count + 1)))
    run.write_json("versions.json", versions)
    name = versions["processors"].partition(" x ")[2]
    both = f"processors {count} x {name} before and {count + 1} x {name} now"
    assert run.elsewhere() == both
    run.close()


def test_a_run_that_never_began_leaves_nothing(tmp_path):
    path = tmp_path / "run"
    run = Run.lock(path, FLAGS)
    assert path.is_dir()
    run.close()
    run.close()
    assert not path.exists()


def test_only_a_run_can_be_opened(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(UsageError, match=f"{path} is not a run directory"):
            Run.open(path)


def test_other_flags_are_refused_and_named(tmp_path):
    begin(tmp_path / "run").close()
    before = (tmp_path / "run" / "flags.txt").read_bytes()
    changed = {"model": "vae", "beta": "4.0", "total_steps": "20", "width": "8"}
    message = refusal(tmp_path / "run", changed, may_change=frozenset(("total_steps",)))
    assert "--beta was 1.0, is 4.0" in message
    assert "--width was not there, is 8" in message
    assert "total_steps" not in message
    assert "--overwrite" in message
    fewer = refusal(tmp_path / "run", {"model": "vae", "total_steps": "10"})
    assert "--beta was 1.0, is not there" in fewer
    assert (tmp_path / "run" / "flags.txt").read_bytes() == before
    # A refusal frees the lock.
    begin(tmp_path / "run").close()


def test_an_empty_flag_of_a_newer_version_is_no_other_run(tmp_path):
    with contextlib.closing(Run.lock(tmp_path, {"width": "4"})) as run:
        run.record({"width": "4"}, {})
    with contextlib.closing(Run.lock(tmp_path, {"width": "4", "data_augment": ""})):
        pass
    with pytest.raises(UsageError, match="--data_augment was not there, is flip"):
        Run.lock(tmp_path, {"width": "4", "data_augment": "flip"})


def test_a_flag_of_a_newer_version_had_its_default(tmp_path):
    defaults = {"accumulate_steps": "1"}
    with contextlib.closing(Run.lock(tmp_path, {"width": "4"})) as run:
        run.record({"width": "4"}, {})
    with contextlib.closing(
        Run.lock(tmp_path, {"width": "4", "accumulate_steps": "1"}, defaults=defaults)
    ):
        pass
    with pytest.raises(UsageError, match="--accumulate_steps was 1, is 2"):
        Run.lock(tmp_path, {"width": "4", "accumulate_steps": "2"}, defaults=defaults)


def test_a_directory_that_is_gone_is_noticed(tmp_path):
    run = Run.lock(tmp_path / "run", {"width": "4"})
    run.record({"width": "4"}, {})
    run.check_there()
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="run is gone: put it back"):
        run.check_there()
    run.close()


def test_flags_that_may_change_are_recorded_anew(tmp_path):
    begin(tmp_path / "run").close()
    longer = {**FLAGS, "total_steps": "20"}
    begin(tmp_path / "run", longer, may_change=frozenset(("total_steps",))).close()
    assert Run.open(tmp_path / "run").flags() == longer


def test_overwriting_removes_what_a_run_wrote_and_nothing_else(tmp_path):
    path = tmp_path / "run"
    run = begin(path)
    run.write_json("metrics.json", {})
    for name in ("checkpoints", "best", "train", "eval", "samples"):
        (path / name / "deep").mkdir(parents=True)
        (path / name / "file").write_text("x")
    run.close()
    (path / "notes.txt").write_text("mine")
    (path / "samples.png").write_text("also mine")
    other = {**FLAGS, "beta": "4.0"}
    run = Run.lock(path, other, overwrite=True)
    assert (path / "metrics.json").exists()  # nothing is lost yet
    run.clear()
    # Killed now, it is still known as a run.
    assert sorted(os.listdir(path)) == [".zoo-lock", "flags.txt", "notes.txt", "samples.png"]
    run.record(other, DATA)
    run.close()
    assert Run.open(path).flags() == other
    assert (path / "notes.txt").read_text() == "mine"
    assert not (path / "checkpoints").exists()


def test_overwriting_follows_no_links(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("x")
    run = begin(tmp_path / "run")
    (tmp_path / "run" / "checkpoints").symlink_to(elsewhere)
    run.clear()
    run.close()
    assert (elsewhere / "file").exists()
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("overwrite", (False, True))
def test_a_directory_of_something_else_is_left_as_it_was(tmp_path, overwrite):
    for name in ("samples", "lock", "metrics.json"):
        (tmp_path / name).mkdir()
    assert "not a run directory and not empty" in refusal(tmp_path, overwrite=overwrite)
    assert sorted(os.listdir(tmp_path)) == ["lock", "metrics.json", "samples"]


def test_an_empty_directory_will_do(tmp_path):
    begin(tmp_path).close()
    assert Run.open(tmp_path).flags() == FLAGS


def test_what_a_killed_process_left_is_no_hindrance(tmp_path):
    # Killed before flags.txt had its name, and then while a picture was written.
    (tmp_path / ".zoo-lock").touch()
    (tmp_path / ".flags.txt.123.tmp").write_text("--mod")
    begin(tmp_path).close()
    assert not temporary_files(tmp_path)
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / ".step-00000003-samples.png.123.tmp").write_text("x")
    (tmp_path / ".metrics.json.123.tmp").write_text("x")
    (tmp_path / ".samples.png.124.tmp").write_text("zoo.sample may be writing it")
    begin(tmp_path).close()
    assert temporary_files(tmp_path) == [str(tmp_path / ".samples.png.124.tmp")]


def test_a_run_has_its_flags_before_anything_else(tmp_path):
    run = Run.lock(tmp_path, FLAGS)
    (tmp_path / "data.json").mkdir()  # so that nothing more can be written
    with pytest.raises(OSError, match=r"data\.json"):
        run.record(FLAGS, DATA)
    run.close()
    (tmp_path / "data.json").rmdir()
    begin(tmp_path).close()


def test_a_file_in_place_of_the_directory(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        assert "--run_dir" in refusal(path)
    assert (tmp_path / "file").read_text() == "mine"


def test_damaged_files_are_named(tmp_path):
    run = begin(tmp_path)
    run.close()
    for content in (b"", b'{"step": ', b"\xff\xfe"):
        (tmp_path / "metrics.json").write_bytes(content)
        with pytest.raises(UsageError, match=r"metrics.json is damaged \(.*\): remove it"):
            run.read_json("metrics.json")
    (tmp_path / "flags.txt").write_bytes(b"\xff\xfe--beta=\n")
    assert "other flags" in refusal(tmp_path)


HOLD = """
    import sys, time
    from zoo.rundir import Run
    run = Run.lock(sys.argv[1], {"model": "vae"})
    if sys.argv[2] == "record":
        run.record({"model": "vae"}, {})
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("stage", ("lock", "record"))
def test_one_process_at_a_time_until_it_ends_however_it_ends(tmp_path, stage):
    path = tmp_path / "run"
    flags = {"model": "vae"}
    with python(HOLD, path, stage, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == "locked\n"
            before = sorted(os.listdir(path))
            assert "another process is training" in refusal(path, flags)
            assert "another process is training" in refusal(path, flags, overwrite=True)
            assert sorted(os.listdir(path)) == before
        finally:
            process.send_signal(signal.SIGKILL)
    begin(path, flags).close()


# files.write


def test_a_file_is_written_whole(tmp_path):
    path = tmp_path / "new" / "file.txt"
    files.write(path, b"one")
    files.write(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file.txt"]


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path):
    (tmp_path / "directory").mkdir()
    with pytest.raises(OSError, match="directory"):
        files.write(tmp_path / "directory", b"x")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        files.write(tmp_path / "file" / "below", b"x")
    assert sorted(os.listdir(tmp_path)) == ["directory", "file"]


FULL_DISK = """
    import pathlib, resource, sys
    from zoo import files
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        files.write(pathlib.Path(sys.argv[1]), b"x" * 5000)
    except OSError as error:
        print(error.strerror)
"""


def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(tmp_path):
    files.write(tmp_path / "file", b"old")
    with python(FULL_DISK, tmp_path / "file", stdout=subprocess.PIPE) as process:
        assert process.stdout.read() == "File too large\n"
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


# Checkpoints


def state(value: float) -> tf.train.Checkpoint:
    """Something to save: 80 kB of one value, and a counter."""
    return tf.train.Checkpoint(
        weights=tf.Variable(tf.fill([20_000], value)), count=tf.Variable(int(value), dtype=tf.int64)
    )


def save(directory, *steps: int) -> None:
    for step in steps:
        Checkpoints(state(float(step)), directory).save(step)


def restored(directory) -> tuple[int, list[str]]:
    """The step whose values all came back, and what was said."""
    said = []
    target = state(-1.0)
    path = Checkpoints(target, directory).restore(said.append)
    step = int(target.count.numpy())
    assert np.all(target.weights.numpy() == step)
    assert path == str(directory / f"step-{step}")
    return step, said


def test_the_newest_few_are_kept(tmp_path):
    directory = tmp_path / "checkpoints"
    assert Checkpoints(state(0.0), directory).restore() is None
    save(directory, 0, 5, 10, 100)
    assert KEEP == 3
    names = [f"step-{s}.{end}" for s in (5, 10, 100) for end in ("data-00000-of-00001", "index")]
    assert sorted(os.listdir(directory)) == sorted(names)
    assert Checkpoints(state(0.0), directory).steps() == [5, 10, 100]
    assert restored(directory) == (100, [])


def test_older_ones_that_are_needed_stay(tmp_path):
    save(tmp_path, 0, 5, 10)
    Checkpoints(state(15.0), tmp_path).save(15, keep=[0, 7])
    assert Checkpoints(state(0.0), tmp_path).steps() == [0, 5, 10, 15]
    save(tmp_path, 20)
    assert Checkpoints(state(0.0), tmp_path).steps() == [10, 15, 20]


def test_going_back(tmp_path):
    save(tmp_path, 5, 10, 15)
    target = state(-1.0)
    checkpoints = Checkpoints(target, tmp_path)
    assert checkpoints.restore(up_to=14) == str(tmp_path / "step-10")
    assert int(target.count) == 10
    assert checkpoints.restore(up_to=4) is None
    checkpoints.remove_newer(5)
    assert sorted(os.listdir(tmp_path)) == ["step-5.data-00000-of-00001", "step-5.index"]


def test_a_step_can_be_saved_again(tmp_path):
    save(tmp_path, 0, 5)
    Checkpoints(state(5.0), tmp_path).save(5)
    assert restored(tmp_path) == (5, [])


def data_file(directory, step: int):
    return directory / f"step-{step}.data-00000-of-00001"


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(tmp_path):
    save(tmp_path, 5, 10)
    data, index = data_file(tmp_path, 10), tmp_path / "step-10.index"
    for path in (data, index):
        good = path.read_bytes()
        middle = len(good) // 2
        for damaged in (
            b"",
            good[:middle],
            good[:-1],
            bytes(len(good)),
            good[:3] + bytes([good[3] ^ 1]) + good[4:],
        ):
            path.write_bytes(damaged)
            step, said = restored(tmp_path)
            assert step == 5
            assert len(said) == 1
            assert "step-10 is damaged" in said[0]
            assert "\n" not in said[0]
            assert "{{" not in said[0]
        path.write_bytes(good)
    data.unlink()
    step, said = restored(tmp_path)
    assert (step, len(said)) == (5, 1)


def test_no_flipped_byte_goes_unnoticed(tmp_path):
    save(tmp_path, 5, 10)
    generator = np.random.Generator(np.random.PCG64(0))
    noticed = {}
    for path in (data_file(tmp_path, 10), tmp_path / "step-10.index"):
        good = path.read_bytes()
        noticed[path.suffix] = 0
        for position in generator.choice(len(good), 100, replace=False):
            damaged = bytearray(good)
            damaged[position] ^= 0xFF
            path.write_bytes(damaged)
            step, said = restored(tmp_path)  # one of the two, whole
            noticed[path.suffix] += step == 5
            assert len(said) == (step == 5)
        path.write_bytes(good)
    # An index has a few bytes that mean nothing.
    assert noticed[".data-00000-of-00001"] == 100
    assert noticed[".index"] >= 50


def test_all_damaged(tmp_path):
    save(tmp_path, 5, 10)
    for step in (5, 10):
        data_file(tmp_path, step).write_bytes(b"")
    said = []
    with pytest.raises(BrokenCheckpoints, match="none of the 2 checkpoints"):
        Checkpoints(state(0.0), tmp_path).restore(said.append)
    assert len(said) == 2


def test_a_run_goes_on_past_a_damaged_checkpoint(tmp_path):
    save(tmp_path, 5, 10, 20)
    data_file(tmp_path, 20).write_bytes(b"")
    assert restored(tmp_path)[0] == 10
    save(tmp_path, 15)
    assert restored(tmp_path)[0] == 15
    save(tmp_path, 20, 25)
    assert restored(tmp_path) == (25, [])


def test_the_index_gets_its_name_last(tmp_path):
    save(tmp_path, 5)
    data_file(tmp_path, 10).mkdir()  # so that the data cannot get theirs
    with pytest.raises(OSError, match=r"step-10\.data"):
        Checkpoints(state(10.0), tmp_path).save(10)
    assert Checkpoints(state(0.0), tmp_path).steps() == [5]


def test_every_variable_must_match(tmp_path):
    save(tmp_path, 5)
    more = state(0.0)
    more.another = tf.Variable(1.0)
    with pytest.raises(UsageError, match="does not fit the model"):
        Checkpoints(more, tmp_path).restore()
    fewer = tf.train.Checkpoint(count=tf.Variable(0, dtype=tf.int64))
    with pytest.raises(UsageError, match="does not fit the model"):
        Checkpoints(fewer, tmp_path).restore()


def test_what_an_ended_save_left_is_no_checkpoint_and_is_removed(tmp_path):
    save(tmp_path, 5)
    whole = sorted(os.listdir(tmp_path))
    (tmp_path / "saving_temp").mkdir()
    (tmp_path / "saving_temp" / "part-00000-of-00001.data").write_text("x")
    for name in (
        "saving.index",
        "saving.data-00000-of-00001",
        "saving.index.tempstate123",
        "step-10.data-00000-of-00001",
    ):
        (tmp_path / name).write_text("x")
    (tmp_path / "best").mkdir()
    (tmp_path / "step-10-mine.txt").write_text("x")
    assert restored(tmp_path) == (5, [])
    Checkpoints(state(0.0), tmp_path).remove_partial()
    assert sorted(os.listdir(tmp_path)) == sorted([*whole, "best", "step-10-mine.txt"])


SAVE = """
    import resource, sys, pathlib
    from zoo import runtime
    tf = runtime.import_tensorflow()
    from zoo.checkpoints import Checkpoints
    limit, step = int(sys.argv[2]), int(sys.argv[3])
    value = tf.fill([20_000], float(step))
    checkpoint = tf.train.Checkpoint(
        weights=tf.Variable(value), count=tf.Variable(step, dtype=tf.int64)
    )
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    checkpoints = Checkpoints(checkpoint, pathlib.Path(sys.argv[1]))
    try:
        while True:
            checkpoints.save(step)
            print("saved", flush=True)
            if limit:
                break
    except tf.errors.OpError as error:
        print(error.message)
"""


def test_a_full_disk_leaves_the_checkpoints_before_it(tmp_path):
    save(tmp_path, 5, 10)
    before = sorted(os.listdir(tmp_path))
    with python(SAVE, tmp_path, 30_000, 20, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as full:
        out, err = full.communicate()
    assert "File too large" in out
    assert err == ""
    assert sorted(os.listdir(tmp_path)) == before
    assert restored(tmp_path) == (10, [])


def test_killed_on_sight_of_a_half_written_checkpoint(tmp_path):
    save(tmp_path, 5)
    for _ in range(3):
        with python(SAVE, tmp_path, 0, 20, stdout=subprocess.PIPE) as process:
            wait_for(lambda: temporary_files(tmp_path), process)
            process.kill()
        step, said = restored(tmp_path)
        assert step in (5, 20)
        assert not said
        Checkpoints(state(0.0), tmp_path).remove_partial()
        assert not temporary_files(tmp_path)


# The best


def best_of(directory, value=0.0) -> Best:
    return Best(state(value), directory)


def restored_best(directory) -> tuple[float | None, list[str]]:
    """The value whose state came back whole, if it is the one recorded, and what was said."""
    said = []
    target = state(-1.0)
    best = Best(target, directory)
    if best.restore(said.append) is None:
        return None, said
    value = float(target.weights.numpy()[0])
    assert np.all(target.weights.numpy() == value)
    assert best.record()["value"] == value
    return value, said


def test_the_best_is_the_first_of_the_lowest(tmp_path):
    directory = tmp_path / "best"
    value, said = restored_best(directory)
    assert value is None
    assert said == [f"There is no best checkpoint in {directory}"]
    for step, value in ((10, 7.0), (20, 9.0), (30, 5.0), (40, 5.0), (50, 6.0)):
        best_of(directory, value).offer(0, step, "distance", value)
    best_of(directory).offer(0, 60, "distance", float("nan"))
    record = json.loads((directory / "best.json").read_text())
    assert record == {
        "step": 30,
        "measure": "distance",
        "value": 5.0,
        "checkpoint": "step-30",
        "history": [[0, 10, 7.0], [0, 30, 5.0]],
    }
    assert restored_best(directory) == (5.0, [])
    names = ["best.json", "step-30.data-00000-of-00001", "step-30.index"]
    assert sorted(os.listdir(directory)) == names
    # After a roll-back the same step comes by again: the pair before stays whole until the end.
    best_of(directory, 4.0).offer(1, 30, "distance", 4.0)
    assert restored_best(directory) == (4.0, [])
    best_of(directory, 3.0).offer(2, 30, "distance", 3.0)
    assert restored_best(directory) == (3.0, [])
    assert sorted(os.listdir(directory)) == names


def test_the_best_before_is_what_an_uninterrupted_run_knew_then(tmp_path):
    best = best_of(tmp_path)
    assert best.value_before(0, 10) is None
    for rollbacks, step, value in ((0, 10, 7.0), (0, 30, 5.0), (1, 20, 4.0)):
        best.offer(rollbacks, step, "distance", value)
    known = {(0, 10): None, (0, 20): 7.0, (0, 30): 7.0, (0, 40): 5.0, (1, 20): 5.0, (1, 21): 4.0}
    for moment, value in known.items():
        assert best.value_before(*moment) == value


def test_a_kill_between_any_two_operations_leaves_a_whole_best(tmp_path):
    best_of(tmp_path, 7.0).offer(0, 10, "distance", 7.0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    best_of(tmp_path, 5.0).offer(0, 20, "distance", 5.0)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    index, data = "step-20.index", "step-20.data-00000-of-00001"
    added = (
        {"saving.data-00000-of-00001": after[data][:99]},
        {data: after[data], "saving.index": after[index]},
        {data: after[data], index: after[index]},
        {data: after[data], index: after[index], ".best.json.123.tmp": b"{"},
        after,  # best.json too, and the old one is not removed yet
    )
    for stage in added:
        for path in tmp_path.iterdir():
            path.unlink()
        for name, content in {**before, **stage}.items():
            (tmp_path / name).write_bytes(content)
        whole = 5.0 if stage is after else 7.0
        assert restored_best(tmp_path) == (whole, [])
        best_of(tmp_path).remove_partial()
        assert restored_best(tmp_path) == (whole, [])
        best_of(tmp_path, 5.0).offer(0, 20, "distance", 5.0)
        (tmp_path / ".best.json.123.tmp").unlink(missing_ok=True)  # Run.record's to remove
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == after


def test_a_damaged_best_is_named(tmp_path):
    best_of(tmp_path, 7.0).offer(0, 10, "distance", 7.0)
    data_file(tmp_path, 10).write_bytes(b"")
    value, said = restored_best(tmp_path)
    assert value is None
    assert len(said) == 1
    assert f"{tmp_path / 'step-10'} is damaged" in said[0]
    (tmp_path / "best.json").write_text("{")
    assert restored_best(tmp_path) == (None, [f"There is no best checkpoint in {tmp_path}"])


OFFER = """
    import sys, pathlib
    from zoo import runtime
    tf = runtime.import_tensorflow()
    from zoo.checkpoints import Best
    checkpoint = tf.train.Checkpoint(
        weights=tf.Variable(tf.zeros([20_000])), count=tf.Variable(0, dtype=tf.int64)
    )
    best = Best(checkpoint, pathlib.Path(sys.argv[1]))
    value = float(sys.argv[2])
    while True:
        value -= 1.0
        checkpoint.weights.assign(tf.fill([20_000], value))
        best.offer(0, int(-value) // 3, "distance", value)
"""


@pytest.mark.slow
def test_killed_while_it_finds_ever_better_ones(tmp_path):
    value = 0.0
    best_of(tmp_path, value).offer(0, 0, "distance", value)
    for sight in ("saving*", "*-again.index", ".best.json.*"):
        with python(OFFER, tmp_path, value) as process:
            wait_for(lambda: list(tmp_path.glob(sight)), process)  # noqa: B023
            process.kill()
        found, said = restored_best(tmp_path)
        assert not said
        assert found <= value
        value = found
    # Each kill may have come before the first better one was whole.
    with python(OFFER, tmp_path, value) as process:
        record = tmp_path / "best.json"
        wait_for(lambda: json.loads(record.read_text())["value"] < value, process)
        process.kill()
    found, said = restored_best(tmp_path)
    assert not said
    assert found < value


def test_json_numbers_are_kept_exactly(tmp_path):
    run = begin(tmp_path)
    run.write_json("metrics.json", {"value": 0.1 + 0.2})
    run.close()
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"value": 0.1 + 0.2}

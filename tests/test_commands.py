"""The commands as their users meet them: real processes, real data, small nets."""

import contextlib
import fcntl
import io
import json
import os
import pathlib
import pty
import re
import resource
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest
import tensorflow as tf
from commands import (
    FOREVER,
    ROOT,
    SMALL,
    assert_done,
    assert_refused,
    contents,
    enliven,
    run,
    start,
    temporary_files,
    train,
    wait_for,
)
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import export.__main__
import zoo
import zoo.__main__
import zoo.flags
import zoo.generative
import zoo.models
import zoo.restore
import zoo.sample
import zoo.stylize
from zoo.checkpoints import Checkpoints
from zoo.data import source
from zoo.errors import UsageError
from zoo.rundir import Run

COMMANDS = ["zoo", *zoo.__main__.COMMANDS]
SCALARS = ["loss", "reconstruction", "kl"]
STEPS = 40
TRAINED = (
    f"--total_steps={STEPS}",
    "--checkpoint_every=10",
    "--sample_every=20",
    "--eval_every=20",
    "--steps_per_loop=7",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run: its directory, which no test may change, and the process that made it."""
    path = tmp_path_factory.mktemp("runs") / "a run"
    return path, train(path, *TRAINED)


@pytest.fixture
def copy(trained, tmp_path):
    """The same run, to be changed."""
    return shutil.copytree(trained[0], tmp_path / "run")


def picture(source: str | os.PathLike | bytes) -> Image.Image:
    """A picture file, or its bytes; its frames can still be counted."""
    data = source if isinstance(source, bytes) else pathlib.Path(source).read_bytes()
    return Image.open(io.BytesIO(data))


def duration(animation: Image.Image) -> int:
    """Milliseconds. Both formats show two equal pictures as one that lasts."""
    total = 0
    for frame in range(animation.n_frames):
        animation.seek(frame)
        animation.load()
        total += animation.info["duration"]
    return total


# What needs no TensorFlow


@pytest.mark.parametrize("module", COMMANDS)
def test_help_is_quick(module):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(module, "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert_done(done)
    assert module in done.stdout or "python -m" in done.stdout
    assert after.ru_utime - before.ru_utime < 0.5
    command = [sys.executable, "-X", "importtime", "-m", module, "--help"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in listed.splitlines()}
    assert "absl" in imported
    assert not imported & {"tensorflow", "keras", "numpy", "PIL", "tensorboard"}


def test_the_lists():
    done = run("zoo")
    assert_done(done)
    for name, summary in {**zoo.models.names(), **source.names(), **zoo.__main__.COMMANDS}.items():
        assert re.search(rf"^  {re.escape(name)} +{re.escape(summary)}$", done.stdout, re.MULTILINE)
    assert zoo.__version__ in done.stdout
    assert_refused(run("zoo", "train"), "'train'", "python -m zoo.train")


def test_a_reader_that_goes_away_is_no_error():
    with start("zoo.train", "--help") as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize(
    ("arguments", "words"),
    (
        ((), ("--model is missing", "vae")),
        (("--model=vea",), ("unknown model 'vea'", "did you mean vae?")),
        (("--model=vae", "--dataset=glyhps"), ("unknown data set", "did you mean glyphs")),
        (("--model=vae", "--dataset=glyphs/harp"), ("did you mean glyphs/hard",)),
        (("--model=vae", "--lattent_dim=4"), ("Did you mean: latent_dim",)),
        (("--model=vae", "--total_steps=0"), ("--total_steps=0",)),
        (("--model=vae", "--batch_size=-8"), ("--batch_size=-8",)),
        (("--model=vae", "--image_size=0"), ("--image_size=0",)),
        (("--model=vae", "--image_size=5000"), ("5000", "2048")),
        (("--model=vae", "--profile=9"), ("--profile=9: expected START:STOP",)),
        (("--model=vae", "--profile=9:9"), ("--profile=9:9: expected START:STOP",)),
        (("--model=vae", "extra"), ("'extra'",)),
        (("--model=vae", "--flagfile=missing.flags"), ("missing.flags",)),
    ),
)
def test_train_refuses_bad_flags_before_it_does_anything(arguments, words, tmp_path):
    assert_refused(run("zoo.train", *arguments, cwd=tmp_path), *words)
    assert not os.listdir(tmp_path)


def test_data_that_no_disk_holds_are_refused(tmp_path):
    done = run("zoo.train", "--model=vae", "--image_size=2048", f"--run_dir={tmp_path / 'run'}")
    assert_refused(done, "234.4 GiB: too much for this machine's memory", "--image_size")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("module", ("zoo.sample", "export"))
def test_only_runs_are_read(module, tmp_path):
    out = tmp_path / "out.png"
    assert_refused(run(module, f"--out={out}"), "--run_dir")
    for path in (tmp_path, tmp_path / "missing"):
        done = run(module, f"--run_dir={path}", f"--out={out}")
        assert_refused(done, f"{path} is not a run directory")
    assert not os.listdir(tmp_path)


# A run from start to end


def test_a_run_says_what_happens_in_plain_lines(trained):
    path, done = trained
    assert_done(done)
    out = done.stdout
    assert out.isprintable() or set(out) - set("\n") == {c for c in out if c.isprintable()}
    lines = out.splitlines()
    assert lines[0] == f"vae on glyphs, run directory {path}"
    assert re.search(r"^\d[\d,]+ parameters, 60,000 examples$", out, re.MULTILINE)
    number = r"-?\d[\d.e+-]*"
    progress = rf"^vae: step {STEPS}/{STEPS}, {number} steps/s, 00:00 left"
    progress += "".join(rf", {name} {number}" for name in SCALARS) + "$"
    assert re.search(progress, out, re.MULTILINE)
    assert re.search(rf"^Step {STEPS}, test split: negative_elbo {number}, ", out, re.MULTILINE)
    assert re.search(rf" fd_glyphs {number}, .* recall {number}, ", out)
    pictures = [line.removeprefix("Pictures: ") for line in lines if line.startswith("Pictures: ")]
    assert {pathlib.Path(p).name for p in pictures} == {
        f"step-{STEPS:08d}-{name}.png"
        for name in ("samples_mixture", "samples_prior", "reconstructions")
    }
    assert all(picture(path).width > 400 for path in pictures)
    more = f": python -m zoo.sample --run_dir={shlex.quote(str(path))}"
    words = rf"^More pictures, of step {STEPS}, the best evaluated \(negative_elbo {number}\)"
    assert re.search(words + re.escape(more), out, re.MULTILINE)
    assert lines[-1] == f"Curves: tensorboard --logdir={shlex.quote(str(path.parent))}"


def test_a_run_is_complete(trained):
    path, _ = trained
    assert sorted(os.listdir(path)) == [
        ".zoo-lock",
        "best",
        "checkpoints",
        "data.json",
        "eval",
        "flags.txt",
        "metrics.json",
        "samples",
        "train",
        "versions.json",
    ]
    assert not temporary_files(path)
    metrics = json.loads((path / "metrics.json").read_text())
    assert (metrics["step"], metrics["split"], metrics["examples"]) == (STEPS, "test", 10_000)
    assert metrics["measures"]["negative_elbo"] == pytest.approx(
        metrics["measures"]["reconstruction"] + metrics["measures"]["kl"]
    )
    assert (
        0
        < metrics["thorough_measures"]["importance_weighted_nll"]
        < metrics["measures"]["negative_elbo"]
    )
    assert {"fd_glyphs", "recall", "coverage"} <= metrics["sample_measures"].keys()
    protocol = metrics["protocol"]
    assert protocol["num_samples"] == protocol["num_real"] == 4000
    assert protocol["sampler"] == "mixture"
    assert sorted(p.name for p in (path / "checkpoints").glob("*.index")) == [
        "step-20.index",
        "step-30.index",
        "step-40.index",
    ]
    best = json.loads((path / "best" / "best.json").read_text())
    assert (best["step"], best["measure"], best["checkpoint"]) == (40, "negative_elbo", "step-40")
    assert metrics["best"] == {name: best[name] for name in ("step", "measure", "value")}
    assert sorted(p.name for p in (path / "best").glob("*.index")) == ["step-40.index"]


def events(directory: pathlib.Path) -> EventAccumulator:
    return EventAccumulator(str(directory), size_guidance={"tensors": 0}).Reload()


def test_tensorboard_holds_everything(trained):
    path, _ = trained
    training, held_out = events(path / "train"), events(path / "eval")

    def series(source: EventAccumulator, tag: str) -> dict[int, np.ndarray]:
        return {e.step: tf.make_ndarray(e.tensor_proto) for e in source.Tensors(tag)}

    blocks = [7, 10, 17, 20, 27, 30, 37, 40]
    speeds = ["steps_per_second", "images_per_second", "share_waiting_for_data"]
    took = [f"process/{name}" for name in ("processor_seconds", "peak_mebibytes")]
    for tag in [*SCALARS, *(f"speed/{name}" for name in speeds), *took]:
        values = series(training, tag)
        assert list(values) == blocks, tag
        assert np.isfinite(list(values.values())).all()
    speed, images = (series(training, f"speed/{name}") for name in speeds[:2])
    assert all(images[step] == pytest.approx(8 * speed[step]) for step in blocks)
    for tag in took:  # both only grow; TensorFlow alone takes seconds and a hundred MiB
        values = list(series(training, tag).values())
        assert 1 < values[0]
        assert values == sorted(values)
    assert 100 < values[0] < 20_000
    for tag in ("negative_elbo", "reconstruction", "kl", "entropy_floor"):
        assert list(series(held_out, tag)) == [20, 40], tag
    metrics = json.loads((path / "metrics.json").read_text())
    assert series(held_out, "kl")[40] == pytest.approx(metrics["measures"]["kl"], rel=0.1)

    for tag in ("samples_mixture", "samples_prior", "reconstructions"):
        sheets = series(training, tag)
        assert list(sheets) == [20, 40], tag
        assert training.SummaryMetadata(tag).plugin_data.plugin_name == "images"
        png = (path / "samples" / f"step-00000040-{tag}.png").read_bytes()
        width, height, from_events = sheets[40]
        shown, saved = picture(from_events), picture(png)
        assert (shown.width, shown.height) == (int(width), int(height)) == saved.size
        assert np.array_equal(np.asarray(shown.convert("RGB")), np.asarray(saved.convert("RGB")))
    walk = picture(series(training, "walk")[40][2])
    assert (walk.format, duration(walk)) == ("GIF", 32 * 50)

    flags = series(training, "flags")[0].item().decode()
    assert "| latent_dim | 4 |" in flags
    assert training.SummaryMetadata("flags").plugin_data.plugin_name == "text"
    assert "Projector" in series(training, "reading")[0].item().decode()
    hparams = held_out.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"latent_dim" in hparams

    latents = np.loadtxt(path / "train" / "latents.tsv", delimiter="\t")
    classes = (path / "train" / "classes.tsv").read_text().splitlines()
    assert latents.shape == (1000, 4)
    assert len(classes) == 1000
    assert set(classes) == set(source.load("glyphs").class_names)
    assert "thumbnails.png" in (path / "train" / "projector_config.pbtxt").read_text()
    assert (path / "train" / "thumbnails.png").exists()


def test_a_finished_run_says_so_and_is_left_as_it_is(trained):
    path, first = trained
    before = contents(path)
    done = train(path, *TRAINED)
    assert_done(done)
    assert f"This run is finished at step {STEPS}" in done.stdout
    # Naming the size that the data have anyway is no other run.
    assert "is finished" in train(path, *TRAINED, "--image_size=28").stdout
    assert done.stdout.endswith(first.stdout[first.stdout.index(f"\nStep {STEPS}, ") + 1 :])
    # Not further than that, nor under other flags, nor where something else is.
    assert_refused(train(path, "--total_steps=39"), "--total_steps=40 or more")
    past = train(path, "--total_steps=60", "--profile=30:50")
    assert_refused(past, "--profile=30:50: this run goes from step 40 to 60")
    other = train(path, "--total_steps=40", "--beta=4")
    assert_refused(other, "--beta was 1.0, is 4.0", "--overwrite")
    parent = train(path.parent)
    assert_refused(parent, "not a run directory and not empty", "--run_dir")
    assert contents(path) == before
    assert os.listdir(path.parent) == [path.name]


def test_code_that_changed_is_not_taken_for_damage(copy):
    """As if the model's default width had changed since: the checkpoint is whole all the same."""
    flags = copy / "flags.txt"
    flags.write_text(flags.read_text().replace("--hidden=8\n", "--hidden=9\n"))
    done = run("zoo.sample", f"--run_dir={copy}", "--count=1")
    assert_refused(done, "does not fit the model", "step-40")
    assert_refused(train(copy, *TRAINED, "--hidden=9"), "does not fit the model")


def test_more_steps_go_on_from_the_last(copy, trained):
    versions = copy / "versions.json"
    versions.write_text(json.dumps({**json.loads(versions.read_text()), "keras": "3.0.0"}))
    done = train(copy, *TRAINED, "--total_steps=50")
    assert done.returncode == 0, done
    assert "this run goes on elsewhere (keras 3.0.0 before and" in done.stderr
    assert f"Resuming from step {STEPS}\n" in done.stdout
    assert json.loads((copy / "metrics.json").read_text())["step"] == 50
    assert "--total_steps=50\n" in (copy / "flags.txt").read_text()
    last = "checkpoints/step-40.data-00000-of-00001"
    assert (copy / last).read_bytes() == (trained[0] / last).read_bytes()


def test_a_last_state_that_is_not_the_best(copy, trained):
    """A learning rate that ruins the net: both are measured, and the better one is taken."""
    flags = copy / "flags.txt"
    flags.write_text(flags.read_text().replace("--learning_rate=0.004\n", "--learning_rate=3.0\n"))
    before = contents(copy / "best")
    done = train(copy, *TRAINED, "--total_steps=50", "--learning_rate=3")
    assert_done(done)
    assert contents(copy / "best") == before
    metrics = json.loads((copy / "metrics.json").read_text())
    assert (metrics["step"], metrics["best"]["step"]) == (50, 40)
    first = json.loads((trained[0] / "metrics.json").read_text())
    for kind in ("measures", "thorough_measures", "sample_measures"):
        assert metrics["best"][kind] == first[kind]
        assert metrics[kind].keys() == first[kind].keys()
    assert metrics["measures"]["negative_elbo"] > first["measures"]["negative_elbo"]
    assert re.search(r"^Step 50, test split: negative_elbo", done.stdout, re.MULTILINE)
    assert re.search(r"^Step 40, the best evaluated \(negative_elbo ", done.stdout, re.MULTILINE)
    assert "More pictures, of step 40 (of step 50: --checkpoint=last): " in done.stdout
    for checkpoint, path in (("best", "best/step-40"), ("last", "checkpoints/step-50")):
        arguments = (f"--checkpoint={checkpoint}", "--count=1")
        sampled = run("zoo.sample", f"--run_dir={copy}", *arguments)
        assert_done(sampled)
        assert f"{copy}/{path})" in sampled.stdout
    # A damaged one is not taken, and the last is.
    (copy / "best" / "step-40.data-00000-of-00001").write_bytes(b"")
    sampled = run("zoo.sample", f"--run_dir={copy}", "--count=1")
    assert_done(sampled)
    assert re.search(r"best/step-40 is damaged .*: taking the last$", sampled.stdout, re.MULTILINE)
    assert f"{copy}/checkpoints/step-50)" in sampled.stdout


def test_overwriting_starts_anew(copy, trained):
    (copy / "notes.txt").write_text("mine")
    done = train(copy, *TRAINED, "--total_steps=10", "--beta=4", "--overwrite")
    assert_done(done)
    assert "Resuming" not in done.stdout
    assert json.loads((copy / "metrics.json").read_text())["step"] == 10
    assert (copy / "notes.txt").read_text() == "mine"
    assert sorted(p.name for p in (copy / "samples").iterdir()) == [
        f"step-00000010-{name}.png"
        for name in ("reconstructions", "samples_mixture", "samples_prior")
    ]
    assert len(list((copy / "train").glob("events*"))) == 1


def test_a_checkpoint_cut_short_costs_its_steps_only(copy, trained):
    data = copy / "checkpoints" / "step-40.data-00000-of-00001"
    good = data.read_bytes()
    data.write_bytes(good[: len(good) // 2])
    done = train(copy, *TRAINED)
    assert_done(done)
    damaged = [line for line in done.stdout.splitlines() if "damaged" in line]
    assert len(damaged) == 1
    assert f"{copy}/checkpoints/step-40" in damaged[0]
    assert "Resuming from step 30\n" in done.stdout
    # Trained again, it is the same to the bit.
    assert data.read_bytes() == good
    for name in ("metrics.json", "samples/step-00000040-samples_prior.png"):
        assert (copy / name).read_bytes() == (trained[0] / name).read_bytes()


def test_killed_after_its_last_step_only_the_rest_is_done(copy, trained):
    (copy / "metrics.json").unlink()
    (copy / "checkpoints" / "step-10.data-00000-of-00001").touch()
    (copy / "checkpoints" / "saving.index").touch()
    before = contents(trained[0] / "checkpoints")
    done = train(copy, *TRAINED)
    assert_done(done)
    assert "finished" not in done.stdout
    assert (copy / "metrics.json").read_bytes() == (trained[0] / "metrics.json").read_bytes()
    assert contents(copy / "checkpoints") == before


def test_no_whole_checkpoint_left(copy):
    for data in (copy / "checkpoints").glob("*.data*"):
        data.write_bytes(b"")
    before = contents(copy)
    done = train(copy, *TRAINED)
    assert_refused(done, "none of the 3 checkpoints", "--overwrite")
    assert done.stdout.count("is damaged") == 3
    last = run("zoo.sample", f"--run_dir={copy}", "--checkpoint=last")
    assert_refused(last, "none of the 3 checkpoints")
    assert contents(copy) == before


def test_a_damaged_record_is_named(copy):
    (copy / "metrics.json").write_text("{")
    assert_refused(train(copy, *TRAINED), f"{copy}/metrics.json is damaged")
    (copy / "data.json").write_text("{")
    assert_refused(run("zoo.sample", f"--run_dir={copy}"), f"{copy}/data.json is damaged")


# What can go wrong while it trains


def test_images_that_the_model_refuses_leave_no_directory(tmp_path):
    done = train(tmp_path / "run", "--image_size=30")
    assert_refused(done, "30x30", "multiples of 4", "--image_size")
    assert "Drawing" not in done.stdout
    assert not os.listdir(tmp_path)


def test_a_file_in_place_of_the_run_directory(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        assert_refused(train(path), str(path), "--run_dir")
    assert (tmp_path / "file").read_text() == "mine"


# Too little for the first checkpoint, or for the growing event file.
@pytest.mark.usefixtures("trained")  # its data are cached
@pytest.mark.parametrize("kilobytes", (20, 150))
def test_a_full_disk(tmp_path, kilobytes):
    limit = (kilobytes * 1024, kilobytes * 1024)
    arguments = ("--total_steps=100", "--checkpoint_every=10", "--sample_every=10")
    done = train(
        tmp_path, *arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    )
    assert_refused(done, f"cannot write to {tmp_path}", "File too large", "make room")
    assert not temporary_files(tmp_path)
    saved = sorted((tmp_path / "checkpoints").glob("*.index"))
    assert bool(saved) == (kilobytes == 150)
    again = train(tmp_path, *arguments)
    assert_done(again)
    assert ("Resuming from step" in again.stdout) == bool(saved)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    arguments = ("--steps_per_loop=5", "--checkpoint_every=2")
    arguments += ("--total_steps=1000", "--learning_rate=1e25", "--max_rollbacks=2")
    done = train(tmp_path, *arguments)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    words = r"became non-finite between steps \d+ and \d+; given up after 2 roll-backs: "
    assert re.match(rf"error: loss.* {words}", done.stderr)
    assert str(tmp_path / "checkpoints") in done.stderr
    for attempt in (1, 2):
        words = (
            rf"^Loss.* became non-finite .*: going back to step \d+, .* \(attempt {attempt} of 2\)$"
        )
        assert re.search(words, done.stdout, re.MULTILINE)
    first, last = map(int, re.search(r"steps (\d+) and (\d+)", done.stderr).groups())
    assert 1 <= first <= last <= first + 1
    # Nothing of it was saved.
    saved = [int(p.stem.removeprefix("step-")) for p in (tmp_path / "checkpoints").glob("*.index")]
    assert saved
    assert max(saved) < first
    reader = tf.train.load_checkpoint(str(tmp_path / "checkpoints" / f"step-{max(saved)}"))
    for name in reader.get_variable_to_dtype_map():
        value = np.asarray(reader.get_tensor(name))
        assert value.dtype.kind != "f" or np.isfinite(value).all(), name


def test_a_run_that_failed_after_its_best_says_what_is_kept(copy):
    flags = copy / "flags.txt"
    flags.write_text(
        flags.read_text().replace("--learning_rate=0.004\n", "--learning_rate=1e+25\n")
    )
    arguments = ("--learning_rate=1e25", "--total_steps=1000", "--max_rollbacks=0")
    done = train(copy, *TRAINED, *arguments)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert re.search(
        rf"given up after 0 roll-backs: its best state, of step {STEPS} \(negative_elbo [\d.]+\), "
        rf"is kept in {copy}/best and can be sampled and exported; train with a lower",
        done.stderr,
    )
    assert_done(run("zoo.sample", f"--run_dir={copy}", "--count=1"))


@pytest.mark.usefixtures("trained")
def test_a_damaged_cache_is_drawn_again(tmp_path, data_cache, monkeypatch):
    cache = tmp_path / "cache"
    shutil.copytree(data_cache, cache)
    monkeypatch.setenv("ZOO_CACHE_DIR", str(cache))
    (file,) = cache.glob("glyphs-28px-test-10000-*.arrays/image.npy")
    good = file.read_bytes()
    file.write_bytes(good[: len(good) // 2])
    done = train(tmp_path / "run", "--total_steps=2")
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert str(file.parent) in done.stderr
    assert "damaged" in done.stderr
    assert "Drawing glyphs (test)" in done.stdout
    assert "Drawing glyphs (train)" not in done.stdout
    assert done.stdout.isascii()
    assert file.read_bytes() == good


# Stopping


@contextlib.contextmanager
def training(run_dir: pathlib.Path, *arguments: str):
    """A run that would go on for ever, past its first checkpoints."""
    with start("zoo.train", *SMALL, f"--run_dir={run_dir}", *arguments) as process:
        try:
            yield process
        finally:
            process.kill()


def test_one_signal_saves_and_says_how_to_go_on(tmp_path):
    path = tmp_path / "a run"
    arguments = (f"--total_steps={FOREVER}", "--steps_per_loop=50", "--checkpoint_every=1000000")
    with training(path, *arguments) as process:
        wait_for(lambda: list((path / "samples").glob("*.png")), process)
        # Meanwhile nobody else may train there.
        assert_refused(train(path, *arguments), "another process is training")
        assert_refused(train(path, *arguments, "--overwrite"), "another process is training")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert err == ""
    assert "Stopping after this block" in out
    step, command = re.search(
        r"^Stopped at step (\d+), .* go on: (.*)$", out, re.MULTILINE
    ).groups()
    assert int(step) % 50 == 0
    assert (path / "checkpoints" / f"step-{step}.index").exists()
    assert not temporary_files(path)

    # The line that it printed goes on, and stops as well when it is terminated.
    words = shlex.split(command)
    assert words[:2] == ["python", "-m"]
    before = set((path / "samples").iterdir())
    with start(*words[2:]) as process:
        try:
            wait_for(lambda: set((path / "samples").iterdir()) - before, process)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert err == ""
    assert f"Resuming from step {step}\n" in out
    assert int(re.search(r"^Stopped at step (\d+)", out, re.MULTILINE).group(1)) > int(step)


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM))
def test_a_second_signal_ends_at_once_even_within_a_block(tmp_path, number):
    forever = [f"--{name}={FOREVER}" for name in ("total_steps", "steps_per_loop", "sample_every")]
    forever += [f"--{name}={FOREVER}" for name in ("checkpoint_every", "eval_every")]
    with training(tmp_path, *forever) as process:
        wait_for(lambda: list((tmp_path / "eval").glob("events*")), process)
        for line in process.stdout:
            if "parameters" in line:
                break
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=2)  # the block has begun, and never ends
        process.send_signal(number)
        assert select.select([process.stdout], [], [], 5)[0], "nothing is said"
        assert "Stopping after this block; once more" in process.stdout.readline()
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=5) == 128 + number
        assert process.stderr.read() == ""
    assert os.listdir(tmp_path / "checkpoints")


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM))
def test_a_signal_before_the_first_step_leaves_nothing(tmp_path, number):
    path = tmp_path / "run"
    with training(path) as process:
        assert process.stdout.readline().startswith("vae on glyphs")
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err.startswith("interrupted: the same command")
    assert err.count("\n") == 1
    assert not path.exists()


# A terminal


def test_a_terminal_shows_a_bar(tmp_path):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))
    arguments = ("--total_steps=60", "--steps_per_loop=5")
    with start(
        "zoo.train", *SMALL, f"--run_dir={tmp_path}", *arguments, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        # Reading fails when the last process that has the terminal ends.
        with contextlib.suppress(OSError):
            while data := os.read(ours, 4096):
                shown += data
    os.close(ours)
    assert process.returncode == 0
    text = shown.decode()
    bars = re.findall(r"\rvae: +\d+%\|[^\r]*\| (\d+)/60 \[[^\r]*step/s[^\r]*\]", text)
    assert {int(step) for step in bars} & set(range(5, 61, 5))
    assert re.search(r"loss=[\d.]+, reconstruction=[\d.]+, kl=[\d.e-]+\]", text)
    assert "vae: step" not in text  # the line for pipes
    assert re.search(r"\r +\rEvaluating on the test split\r\n", text)  # it is wiped off
    assert "oneDNN" not in text


def test_real_errors_of_tensorflow_still_appear():
    code = """
        import os
        from zoo import runtime
        with runtime._filtered(runtime._CHATTER):
            os.write(2, b"I0000 oneDNN custom operations are on. You may see\\n")
            os.write(2, b"E0000 something real\\n")
        os.write(2, b"between\\n")
        with runtime._filtered(runtime._CHATTER):
            os.write(2, b"WARNING: before absl::InitializeLog() is called\\nF0000 the last words")
            os.abort()
    """
    code = "\n".join(line.removeprefix("        ") for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == "E0000 something real\nbetween\nF0000 the last words"
    assert done.returncode == -signal.SIGABRT


def test_a_gpu_that_tensorflow_cannot_use_is_mentioned(tmp_path):
    code = "from zoo import runtime; runtime._NVIDIA_DRIVER = {!r}; runtime.import_tensorflow({})"
    for driver, options, words in (
        (tmp_path, "", "finds no GPU"),
        (tmp_path, "gpu=False", ""),
        (tmp_path / "none", "", ""),
    ):
        command = [sys.executable, "-c", code.format(str(driver), options)]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0
        assert words in done.stderr
        assert bool(done.stderr) == bool(words)


# Pictures and exports


def cells(path: pathlib.Path, count: int, columns: int) -> list[bytes]:
    """The pictures of a sheet of 28x28 images, each twice as large and one pixel apart."""
    sheet = np.asarray(picture(path))
    tops = [(1 + 57 * (i // columns), 1 + 57 * (i % columns)) for i in range(count)]
    return [sheet[top : top + 56, left : left + 56].tobytes() for top, left in tops]


def sample(run_dir: pathlib.Path, out: pathlib.Path, *arguments: str) -> pathlib.Path:
    """zoo.sample in this process, which has TensorFlow already."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert zoo.sample.main([f"--run_dir={run_dir}", f"--out={out}", *arguments]) == 0
    assert said.getvalue().startswith(f"{out} (seed ")
    return out


def test_the_same_seed_gives_the_same_pictures(trained, tmp_path):
    path, _ = trained
    before = contents(path)
    done = run("zoo.sample", f"--run_dir={path}", "--count=9", f"--out={tmp_path / 'nine.png'}")
    assert_done(done)
    assert f"{tmp_path / 'nine.png'} (seed 0, sampler mixture, {path}/best/step-40)" in (
        done.stdout
    )
    again = sample(path, tmp_path / "again.png", "--count=9", "--seed=0")
    assert again.read_bytes() == (tmp_path / "nine.png").read_bytes()
    nine = cells(tmp_path / "nine.png", 9, columns=3)
    # 100 are computed in two parts.
    hundred = cells(sample(path, tmp_path / "hundred.png", "--count=100"), 100, columns=10)
    assert hundred[:9] == nine
    assert len(set(hundred)) == 100
    assert cells(sample(path, tmp_path / "one.png", "--count=1"), 1, columns=1) == nine[:1]
    other = cells(sample(path, tmp_path / "other.png", "--count=9", "--seed=1"), 9, columns=3)
    assert not set(other) & set(nine)
    prior = sample(path, tmp_path / "prior.png", "--count=9", "--sampler=prior")
    assert not set(cells(prior, 9, columns=3)) & set(nine)
    assert not temporary_files(tmp_path)
    assert contents(path) == before


def test_a_label_by_name_or_number(trained, tmp_path):
    path, _ = trained
    sheets = {
        sample(path, tmp_path / f"{label}.png", "--count=4", f"--label={label}").read_bytes()
        for label in (3, 4)
    }
    assert len(sheets) == 2
    names = ("moon", "sea", "tree")
    assert [zoo.sample.class_number(text, names) for text in ("sea", "1", "tree")] == [1, 1, 2]
    for text in ("lake", "3", "-1", ""):
        with pytest.raises(UsageError, match=f"--label={text}: .* moon, sea, tree"):
            zoo.sample.class_number(text, names)


def begun(path: pathlib.Path, *arguments: str) -> pathlib.Path:
    """A run of this model that has its first checkpoint, untrained."""
    settings = zoo.flags.parse_training(arguments)
    names = source.load("glyphs").class_names
    begun = Run.lock(path, settings.recorded())
    begun.record(settings.recorded(), {"image_shape": [28, 28, 1], "class_names": names})
    model = zoo.restore.build_model(settings, (28, 28, 1), names)
    enliven(model.average_generator)
    Checkpoints(model.checkpoint(), begun.checkpoints).save(0)
    begun.close()
    return path


def test_a_conditional_model_draws_a_class_a_column(tmp_path, capsys):
    path = begun(tmp_path / "run", "--model=cgan", "--latent_dim=4", "--width=4")
    arguments = [f"--run_dir={path}", f"--out={tmp_path / 'all.png'}", "--count=20", "--seed=3"]
    assert zoo.sample.main(arguments) == 0
    first, _ = capsys.readouterr().out.splitlines()
    assert first == f"There is no best checkpoint in {path}/best: taking the last"
    sheet = cells(tmp_path / "all.png", 20, columns=10)
    assert picture(tmp_path / "all.png").size == (571, 115)
    model = zoo.restore.restore(path, "last").model
    seeds = zoo.generative.row_seeds(3, 20)
    images = zoo.generative.sample_images(model, seeds, (np.arange(20) + 3) % 10)
    for shown, image in zip(sheet, images, strict=True):
        assert shown == image[..., 0].repeat(2, axis=0).repeat(2, axis=1).tobytes()
    assert zoo.sample.main([*arguments, "--label=6"]) == 0
    of_six = cells(tmp_path / "all.png", 20, columns=4)
    assert of_six[3] == sheet[3]
    assert of_six[4] != sheet[4]


def test_a_model_without_classes_refuses_a_label(tmp_path):
    path = begun(tmp_path / "run", "--model=dcgan", "--latent_dim=4", "--width=4")
    with pytest.raises(UsageError, match="--label=6: a dcgan draws no class apart: leave it out"):
        zoo.sample.main([f"--run_dir={path}", "--label=6"])


@pytest.mark.parametrize("ending", ("webp", "gif"))
def test_a_walk_is_animated(trained, tmp_path, ending):
    arguments = ("--walk", "--count=3", "--frames=5")
    out = sample(trained[0], tmp_path / f"walk.{ending}", *arguments)
    walk = picture(out)
    assert (walk.format, walk.info["loop"]) == (ending.upper(), 0)
    assert duration(walk) == 15 * 50
    assert walk.n_frames > 10
    again = sample(trained[0], tmp_path / f"again.{ending}", *arguments)
    assert again.read_bytes() == out.read_bytes()
    labelled = sample(trained[0], tmp_path / f"labelled.{ending}", *arguments, "--label=1")
    assert labelled.read_bytes() != out.read_bytes()


def test_pictures_land_in_the_run_by_default(copy):
    assert_done(run("zoo.sample", f"--run_dir={copy}", "--count=1"))
    assert picture(copy / "samples.png").size == (58, 58)
    with contextlib.redirect_stdout(io.StringIO()):
        zoo.sample.main([f"--run_dir={copy}", "--walk", "--count=2", "--frames=2"])
    assert duration(picture(copy / "walk.webp")) == 4 * 50
    # They are no obstacle to it, and no part of it.
    assert "finished" in train(copy, *TRAINED).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    (
        (("--label=eleven",), ("--label=eleven", "7, 8, 9")),
        (("--label=10",), ("--label=10",)),
        (("--sampler=best",), ("--sampler=best", "mixture, prior")),
        (("--sampler=prior", "--label=1"), ("label", "mixture")),
        (("--out=grid.jpg",), ("grid.jpg", ".png")),
        (("--out=grid.gif",), ("grid.gif", ".png")),
        (("--out=walk.png", "--walk"), ("walk.png", ".webp or .gif")),
        (("--count=0",), ("--count=0",)),
        (("--frames=-1", "--walk"), ("--frames=-1",)),
        (("--seed=-1",), ("--seed=-1",)),
    ),
)
def test_sample_refuses(trained, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        zoo.sample.main([f"--run_dir={trained[0]}", *arguments])
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(("module", "name"), (("zoo.sample", "grid.png"), ("export", "served")))
def test_an_unwritable_place(trained, tmp_path, module, name):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file" / name, tmp_path / "file" / "deeper" / name):
        done = run(module, f"--run_dir={trained[0]}", f"--out={out}")
        assert_refused(done, f"cannot write {out}", "choose another --out")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_an_export_to_a_full_disk_leaves_nothing(trained, tmp_path):
    limit = (30_000, 30_000)
    arguments = (f"--run_dir={trained[0]}", f"--out={tmp_path}")
    done = run(
        "export", *arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    )
    assert_refused(done, f"cannot write to {tmp_path}", "File too large", "--out")
    assert not os.listdir(tmp_path)


def test_a_run_without_a_checkpoint(copy):
    shutil.rmtree(copy / "checkpoints")
    assert_refused(run("zoo.sample", f"--run_dir={copy}", "--checkpoint=last"), "no checkpoint yet")
    shutil.rmtree(copy / "best")
    assert_refused(run("zoo.sample", f"--run_dir={copy}"), "no checkpoint yet")
    (copy / "data.json").unlink()
    assert_refused(run("export", f"--run_dir={copy}", f"--out={copy}/x"), "no data.json")


def test_export_is_verified_numbered_and_told(trained, tmp_path):
    path = trained[0]
    for version, checkpoint, of in (
        ("1", "best", "best/step-40"),
        ("2", "30", "checkpoints/step-30"),
    ):
        arguments = (f"--run_dir={path}", f"--out={tmp_path / 'digits'}")
        done = run("export", *arguments, f"--checkpoint={checkpoint}")
        assert_done(done)
        assert done.stdout.startswith(f"{tmp_path / 'digits' / version} from {path}/{of}")
        assert "sample: verified in a fresh process, max abs difference 0.0e+00" in done.stdout
        assert "sample_png: verified in a fresh process, equal bit for bit" in done.stdout
    assert sorted(os.listdir(tmp_path / "digits")) == ["1", "2"]
    best, other = ((tmp_path / "digits" / name / "README.md").read_text() for name in "12")
    assert best.startswith("# digits\n")
    flags = (path / "flags.txt").read_text()
    assert f"```\n{flags}```" in best
    assert "Data: `glyphs`, classes from 0: 0, 1, 2, 3" in best
    assert "Rights in the data: none of others" in best
    assert "Weights of step 40, `best/step-40`" in best
    metrics = json.loads((path / "metrics.json").read_text())
    for kind in ("measures", "thorough_measures", "sample_measures"):
        for name, value in metrics[kind].items():
            assert f"| {name} | {value:.4g} |" in best
    assert '"sampler": "mixture"' in best
    for name, version in json.loads((path / "versions.json").read_text()).items():
        assert f"{name} {version}" in best
    assert "Weights of step 30" in other
    assert "Nothing was measured at this step." in other


def test_a_checkpoint_by_its_step(trained, tmp_path, capsys):
    arguments = [f"--run_dir={trained[0]}", f"--out={tmp_path / 'one.png'}", "--count=1"]
    for step in ("20", "30"):
        assert zoo.sample.main([*arguments, f"--checkpoint={step}"]) == 0
        assert f"{trained[0]}/checkpoints/step-{step})" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"--checkpoint=25: .* 20, 30, 40, 40 \(the best\)"):
        zoo.sample.main([*arguments, "--checkpoint=25"])
    for command in (zoo.sample, zoo.stylize, export.__main__):
        with pytest.raises(UsageError, match="--checkpoint=bset: expected best, last or the num"):
            command.main(["--checkpoint=bset"])


def test_the_best_checkpoint_by_its_step_when_it_is_no_longer_among_the_last(copy, capsys):
    for file in (copy / "checkpoints").glob("step-40.*"):
        file.unlink()
    out = f"--out={copy / 'one.png'}"
    assert zoo.sample.main([f"--run_dir={copy}", out, "--count=1", "--checkpoint=40"]) == 0
    assert f"{copy}/best/step-40)" in capsys.readouterr().out
    (copy / "checkpoints" / "step-30.data-00000-of-00001").write_bytes(b"")
    with pytest.raises(UsageError, match=r"checkpoint .*/step-30 is damaged"):
        zoo.sample.main([f"--run_dir={copy}", out, "--checkpoint=30"])


@pytest.mark.slow
def test_a_run_made_to_collapse_goes_back_then_gives_up_with_its_best_kept(tmp_path):
    """A learning rate of 10 saturates the generator: every sample is the same picture."""
    arguments = ("--model=dcgan", "--width=4", "--latent_dim=4", "--batch_size=8")
    arguments += ("--learning_rate=10", "--total_steps=1500", "--max_rollbacks=1")
    done = run("zoo.train", *arguments, f"--run_dir={tmp_path}", timeout=400)
    assert done.returncode == 1, done
    back = re.search(r"going back to step (\d+), .*attempt 1 of 1", done.stdout)
    assert back, done.stdout
    assert int(back[1]) < 1000
    assert "Training has collapsed by step 1000: its samples" in done.stdout
    assert done.stderr.count("\n") == 1
    assert "given up after 1 roll-back:" in done.stderr
    assert "is kept" in done.stderr
    best = json.loads((tmp_path / "best" / "best.json").read_text())
    assert best["step"] < 1000
    assert_done(run("zoo.sample", f"--run_dir={tmp_path}", "--count=4"))

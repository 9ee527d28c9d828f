"""Runs on people's own pictures: resumed exactly, or not at all."""

import json
import os
import pathlib

import commands
import numpy as np
import pytest
from PIL import Image

from zoo import hooks, train
from zoo.data import cache, source
from zoo.errors import UsageError

SIZE = 16


@pytest.fixture(autouse=True)
def directories(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path):
    for number in range(60):
        save(tmp_path / "photos" / f"{number:02}.png", number)
    return tmp_path / "photos"


def save(path: pathlib.Path, number: int) -> None:
    path.parent.mkdir(exist_ok=True)
    random = np.random.default_rng(number)
    Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)


def run(run_dir: str, steps: int, *arguments: str) -> None:
    flags = [f"--dataset=folder:{os.getcwd()}/photos", f"--image_size={SIZE}"]
    flags += [f"--run_dir={run_dir}", f"--total_steps={steps}", "--checkpoint_every=2"]
    assert train.main([*commands.SMALL, *flags, *arguments]) == 0


def result(run_dir: str) -> dict:
    return json.loads(pathlib.Path(run_dir, "metrics.json").read_text())


def stopping_at(step: int):
    def stop(self, block) -> None:
        if block.step >= step:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("where", (pytest.param("memory", marks=pytest.mark.slow), "disk"))
def test_a_resumed_run_is_the_uninterrupted_one(folder, monkeypatch, where):
    if where == "disk":
        monkeypatch.setattr(cache, "memory", lambda: 0)
        images = source.load(f"folder:{folder}", SIZE).arrays("train")["image"]
        assert isinstance(images, np.memmap)
    augmented = "--data_augment=flip, crop,color"
    # A step's learning rate follows from --total_steps: the first part must ask for all of them.
    run("whole", 8, augmented)
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(hooks.Scalars, "__call__", stopping_at(4))
        run("parts", 8, augmented)
    assert not pathlib.Path("parts/metrics.json").exists()
    run("parts", 8, augmented)
    assert result("parts")["measures"] == result("whole")["measures"]
    assert "--data_augment=flip, crop,color" in pathlib.Path("parts/flags.txt").read_text()
    run("plain", 8)
    assert result("plain")["measures"] != result("whole")["measures"]


def test_pictures_that_changed_are_not_taken_for_the_same(folder):
    run("run", 2)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    facts = json.loads(pathlib.Path("run/data.json").read_text())
    assert len(facts["data_hash"]) == 12 and len(np.load("run/data.npy")) == 60
    (folder / "03.png").unlink()
    save(folder / "04.png", 104)
    for number in (60, 61, 62):
        save(folder / f"{number}.png", number)
    with pytest.raises(UsageError) as caught:
        run("run", 4)
    message = str(caught.value)
    assert "2 of 60 are gone or changed, 4 are new" in message and "\n" not in message
    assert "put them back, choose another --run_dir, or start anew with --overwrite" in message
    # As they were, though written anew: the run goes on.
    for path in folder.iterdir():
        path.unlink()
    for name, content in before.items():
        (folder / name).write_bytes(content)
    run("run", 4)
    assert result("run")["step"] == 4
    # Another name is another place in the order.
    (folder / "00.png").rename(folder / "99.png")
    with pytest.raises(UsageError, match="changed|order"):
        run("run", 6)
    run("run", 6, "--overwrite")
    assert result("run")["step"] == 6


def test_a_picture_that_vanishes_or_breaks_meanwhile_is_left_out(folder, caplog):
    loaded = source.load(f"folder:{folder}", SIZE)
    gone, broken = (folder / loaded.files["train"][index][0] for index in (2, 5))
    gone.unlink()
    broken.write_bytes(broken.read_bytes()[:100])
    arrays = loaded.arrays("train")
    assert len(arrays["image"]) == loaded.num_examples["train"] - 2
    (record,) = caplog.records
    assert "2 of" in record.getMessage() and gone.name in record.getMessage()


def test_unknown_augmentations_are_refused():
    with pytest.raises(UsageError, match="unknown augmentation 'flipp': did you mean flip"):
        train.main(["--model=vae", "--data_augment=crop,flipp"])

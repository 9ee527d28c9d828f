import logging

import numpy as np
import pytest
from PIL import Image

from zoo import train
from zoo.data import source
from zoo.errors import UsageError


@pytest.fixture(autouse=True)
def cache_directory(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


def save(path, red, size=(12, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (red, 0, 0)).save(path)


def save_joined(path, number, height=10):
    """A of (number, 0, 0) and B of (0, number, 0), side by side."""
    picture = np.zeros((height, 2 * height, 3), np.uint8)
    picture[:, :height, 0] = picture[:, height:, 1] = number
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def numbers(arrays, channel=1):
    """What is painted in A, after a look that B belongs to it."""
    image, target = arrays["image"], arrays["target"]
    assert image.dtype == target.dtype == np.uint8 and image.shape == target.shape
    assert image.shape[1:] == (8, 8, 3) and not arrays["label"].any()
    assert (image[..., 0] == image[:, :1, :1, 0]).all() and not image[..., 1:].any()
    assert (target[..., channel] == image[..., 0]).all()
    return image[:, 0, 0, 0].tolist()


def test_side_by_side(tmp_path):
    for number in range(40):
        save_joined(tmp_path / f"{number:02}.png", number)
    loaded = source.load(f"pairs:{tmp_path}", 8)
    assert loaded.image_shape == (8, 8, 3) and loaded.class_names == (tmp_path.name,)
    found = [numbers(loaded.arrays(split)) for split in ("train", "test")]
    assert found[0] == sorted(found[0]) and sorted(sum(found, [])) == list(range(40))
    example = loaded.example(2, "train")
    assert example["image"][0, 0].tolist() == [found[0][2], 0, 0]
    assert example["target"][0, 0].tolist() == [0, found[0][2], 0]


@pytest.mark.parametrize("test", ("test", "val"))
def test_side_by_side_with_splits_of_their_own(tmp_path, test):
    for number in range(12):
        save_joined(tmp_path / "train" / f"{number:02}.png", number)
    for number in range(12, 16):
        save_joined(tmp_path / test / f"{number:02}.png", number)
    loaded = source.load(f"pairs:{tmp_path}", 8)
    assert numbers(loaded.arrays("train")) == list(range(12))
    assert numbers(loaded.arrays("test")) == [12, 13, 14, 15]


@pytest.mark.parametrize("names", ("AB", ("trainA", "trainB")))
def test_two_folders(tmp_path, names):
    for number in range(30):
        save(tmp_path / names[0] / f"{number:02}.png", number)
        save(tmp_path / names[1] / f"{number:02}.bmp", number, (20, 14))
    loaded = source.load(f"pairs:{tmp_path}", 8)
    found = [numbers(loaded.arrays(split), 0) for split in ("train", "test")]
    assert sorted(sum(found, [])) == list(range(30)) and found[1]


def test_two_folders_a_split(tmp_path):
    for folder, some in (("train", range(9)), ("test", range(9, 12))):
        for number in some:
            save(tmp_path / f"{folder}A" / f"{number:02}.png", number)
            save(tmp_path / f"{folder}B" / f"{number:02}.png", number)
    loaded = source.load(f"pairs:{tmp_path}", 8)
    assert numbers(loaded.arrays("train"), 0) == list(range(9))
    assert numbers(loaded.arrays("test"), 0) == [9, 10, 11]


def test_a_pair_with_a_broken_half_is_left_out(tmp_path, caplog):
    for number in range(20):
        save(tmp_path / "A" / f"{number:02}.png", number)
        save(tmp_path / "B" / f"{number:02}.png", number)
    loaded = source.load(f"pairs:{tmp_path}", 8)
    broken = loaded.files["train"][4][0].split("\0")[1]
    (tmp_path / broken).write_bytes(b"none")
    with caplog.at_level(logging.WARNING):
        arrays = loaded.arrays("train")
    assert len(numbers(arrays, 0)) == loaded.num_examples["train"] - 1
    (record,) = caplog.records
    assert broken in record.getMessage() and "\0" not in record.getMessage()


def refusal(path):
    with pytest.raises(UsageError) as caught:
        source.load(f"pairs:{path}", 8)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "none")
    assert "0 pairs found" in refusal(tmp_path)
    save(tmp_path / "A" / "a.png", 1)
    assert "a sub-folder A, but no B" in refusal(tmp_path)
    save(tmp_path / "B" / "a.jpg", 1)
    assert "1 pairs found" in refusal(tmp_path)
    save(tmp_path / "B" / "b.jpg", 1)
    assert "1 pictures are only in A or only in B, the first is B/b.jpg" in refusal(tmp_path)
    save(tmp_path / "B" / "a.png", 1)
    assert "B/a.jpg and B/a.png have the same name" in refusal(tmp_path)
    with pytest.raises(UsageError, match="names no folder: expected pairs:PATH"):
        source.load("pairs:")


def test_models_of_single_pictures_train_on_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    size = ["--architecture=mlp", "--hidden=8", "--total_steps=2", "--batch_size=4"]
    for number in range(40):
        save_joined(
            tmp_path / "two" / ("test" if number < 8 else "train") / f"{number}.png", number
        )
    assert train.main(["--model=vae", "--dataset=pairs:two", "--image_size=8", *size]) == 0
    assert (tmp_path / "runs" / "vae-two" / "metrics.json").exists()

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from zoo.data import brushes, paintings
from zoo.errors import UsageError

SHEET_SHA256 = "fa746e9ddbbe53091f379d862484372b0879743de184362c5a1bae72bcc9126a"


def sheet_sha256() -> str:
    pictures = [
        paintings.paint(style, index, image_size=size)
        for style in paintings.CLASS_NAMES
        for index in range(8)
        for size in (32, 64)
    ]
    # Too few pictures to show how NumPy's float32 functions differ between processors; these do.
    x = np.linspace(0.01, 30, 50_000, dtype=np.float32)
    for function in (np.sin, np.cos):
        pictures.append(brushes.rounded(function, x))
    pictures += [brushes.rounded(np.exp, -x), brushes.rounded(np.arctan2, x, 3 - x)]
    pictures.append(brushes.rounded(np.power, x, 0.7))
    return hashlib.sha256(b"".join(picture.tobytes() for picture in pictures)).hexdigest()


def test_shapes_dtypes_and_labels():
    images, labels = paintings.draw(range(20))
    assert images.shape == (20, 64, 64, 3) and images.dtype == np.uint8
    assert labels.dtype == np.int32 and labels.tolist() == [*range(10), *range(10)]
    assert paintings.draw([])[0].shape == (0, 64, 64, 3)


def test_the_ten_styles():
    assert paintings.CLASS_NAMES == (
        *("grid", "circles", "colorfield", "dots", "strokes"),
        *("waves", "marble", "hills", "glass", "planes"),
    )
    assert paintings.VARIANTS == ("", *paintings.CLASS_NAMES)


def test_an_example_does_not_depend_on_the_others():
    images, labels = paintings.draw(range(40), split="test", seed=3)
    alone, label = paintings.draw([27], split="test", seed=3)
    assert (alone[0] == images[27]).all() and label[0] == labels[27]
    order = [39, 0, 12, 12]
    assert (paintings.draw(order, split="test", seed=3)[0] == images[order]).all()


def test_example_i_is_picture_i_div_10_of_style_i_mod_10():
    images, _ = paintings.draw([27])
    assert (images[0] == paintings.paint("hills", 2)).all()


def test_a_variant_is_one_style():
    images, labels = paintings.draw(range(5), variant="glass")
    assert set(labels.tolist()) == {0}
    assert paintings.class_names("glass") == ("glass",)
    assert paintings.class_names() == paintings.CLASS_NAMES
    for index, image in enumerate(images):
        assert (image == paintings.paint("glass", index)).all()


def test_splits_and_seeds_share_no_picture():
    drawn = [
        paintings.draw(range(300), split=split, seed=seed, image_size=32)[0]
        for split in ("train", "test")
        for seed in (0, 1)
    ]
    assert len({picture.tobytes() for pictures in drawn for picture in pictures}) == 1200


@pytest.mark.parametrize("style", paintings.CLASS_NAMES)
def test_same_composition_at_every_size(style):
    for index in range(3):
        small = paintings.paint(style, index).astype(float)
        large = paintings.paint(style, index, image_size=256)
        reduced = large.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
        other = paintings.paint(style, index + 3).astype(float)
        assert np.corrcoef(small.ravel(), reduced.ravel())[0, 1] > 0.97
        assert np.corrcoef(small.ravel(), other.ravel())[0, 1] < 0.97


@pytest.mark.parametrize("style", paintings.CLASS_NAMES)
@pytest.mark.parametrize("image_size", (paintings.MIN_SIZE, 37, 200))
def test_other_sizes_are_painted(style, image_size):
    picture = paintings.paint(style, 0, image_size=image_size)
    assert picture.shape == (image_size, image_size, 3)
    assert picture.std() > 5


def test_same_bytes_everywhere():
    digest = sheet_sha256()
    assert digest == SHEET_SHA256, (
        f"paintings look different; if their code (or Pillow, which draws outlines) was meant to "
        f"change them: new SHEET_SHA256 = {digest!r}"
    )


def test_same_bytes_without_the_newer_instructions_of_this_processor():
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    if not found:
        pytest.skip("this processor has no instructions to switch off")
    code = (
        "import sys; sys.path[:0] = ['tests']; import test_paintings as t; print(t.sheet_sha256())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(found)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == sheet_sha256()


def test_noise_takes_the_same_numbers_at_every_size():
    after = []
    for size in (8, 64, 512):
        random = brushes.Random(1)
        brushes.noise(random, size, 8, 4)
        after.append(random.uniform())
    assert len(set(after)) == 1


def test_noise_is_smooth_and_centred():
    fields = np.stack([brushes.noise(brushes.Random(n), 64, 4) for n in range(50)])
    assert abs(fields.mean()) < 0.05 and 0.2 < fields.std() < 0.8
    assert np.abs(np.diff(fields, axis=2)).mean() < 0.3 * fields.std()


def test_enlarged_lattice_reproduces_planes():
    lattice = np.arange(8.0)[None, :] + 10 * np.arange(8.0)[:, None]
    x, y = brushes.coordinates(20)
    assert np.allclose(brushes.enlarged(lattice, 20), 5 * x + 1 + 10 * (5 * y + 1), atol=1e-4)


def features(images: np.ndarray) -> np.ndarray:
    """Edges at three scales and contrast, per channel: how a picture is made, not its colours."""
    images = images.astype(np.float32) / 255
    columns = [images.std(axis=(1, 2)), images.mean(axis=1).std(axis=1)]
    columns.append(images.mean(axis=2).std(axis=1))
    for step in (1, 2, 4):
        for axis in (1, 2):
            edges = np.abs(np.diff(images[:, ::step, ::step], axis=axis))
            columns += [edges.mean(axis=(1, 2)), (edges < 0.02).mean(axis=(1, 2))]
    return np.concatenate(columns, axis=1)


def test_simple_features_tell_the_styles():
    train, train_labels = paintings.draw(range(500), image_size=32)
    test, test_labels = paintings.draw(range(300), split="test", image_size=32)
    a, b = features(train), features(test)
    mean, std = a.mean(axis=0), a.std(axis=0)
    a, b = (a - mean) / std, (b - mean) / std
    squared = (a * a).sum(axis=1) - 2 * b @ a.T
    accuracy = (train_labels[squared.argmin(axis=1)] == test_labels).mean()
    assert accuracy > 0.7  # chance is 0.1


@pytest.mark.parametrize(
    ("arguments", "words"),
    (
        ({"split": "valid"}, "'valid'"),
        ({"variant": "cubism"}, "'cubism'"),
        ({"image_size": -1}, "8 to 2048"),
        ({"indices": [-1]}, "-1"),
    ),
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(UsageError, match=words):
        paintings.draw(**{"indices": [0], **arguments})


def test_unknown_style_is_named():
    with pytest.raises(UsageError, match="'cubism'"):
        paintings.paint("cubism", 0)

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from zoo.data import paintings, parallel, scenes
from zoo.errors import UsageError

SHEET_SHA256 = "84ece3954b44d6b59461a4e1f83148a6031555a84cf5a4e771e9841fa52c9f61"


def sheet_sha256() -> str:
    drawn = [scenes.draw(range(24), image_size=size)[0].tobytes() for size in (32, 64)]
    return hashlib.sha256(b"".join(drawn)).hexdigest()


def luminance(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float64) @ [0.299, 0.587, 0.114]


def test_shapes_dtypes_and_labels():
    images, labels = scenes.draw(range(8))
    assert images.shape == (8, 128, 128, 3) and images.dtype == np.uint8
    assert labels.dtype == np.int32 and labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert scenes.draw([])[0].shape == (0, 128, 128, 3)
    assert scenes.CLASS_NAMES == ("leaves", "still_lifes", "landscapes", "hills")
    assert scenes.VARIANTS == ("", *scenes.CLASS_NAMES)


def test_an_example_does_not_depend_on_the_others():
    images, labels = scenes.draw(range(16), split="test", seed=3, image_size=32)
    order = [13, 0, 5, 5]
    alone, label = scenes.draw(order, split="test", seed=3, image_size=32)
    assert (alone == images[order]).all() and (label == labels[order]).all()


@pytest.mark.parametrize(("number", "name"), tuple(enumerate(scenes.CLASS_NAMES)))
def test_a_variant_is_one_class(number, name):
    images, labels = scenes.draw(range(3), variant=name, image_size=32)
    mixed, _ = scenes.draw([number, 4 + number, 8 + number], image_size=32)
    assert labels.tolist() == [0, 0, 0] and scenes.class_names(name) == (name,)
    assert (images == mixed).all()


def test_splits_seeds_and_paintings_share_no_picture():
    drawn = [
        scenes.draw(range(60), split=split, seed=seed, image_size=24)[0]
        for split in ("train", "test")
        for seed in (0, 1)
    ]
    assert len({picture.tobytes() for pictures in drawn for picture in pictures}) == 240
    hills, _ = scenes.draw([0], variant="hills", image_size=24)
    assert (hills[0] != paintings.paint("hills", 0, image_size=24)).any()


@pytest.mark.parametrize("name", scenes.CLASS_NAMES)
def test_same_composition_at_every_size(name):
    small, _ = scenes.draw(range(4), variant=name, image_size=64)
    large, _ = scenes.draw(range(4), variant=name, image_size=256)
    reduced = large.reshape(4, 64, 4, 64, 4, 3).mean(axis=(2, 4))
    for index in range(4):
        same = np.corrcoef(small[index].ravel(), reduced[index].ravel())[0, 1]
        other = np.corrcoef(small[index].ravel(), reduced[index - 1].ravel())[0, 1]
        assert same > 0.97 and other < 0.97


@pytest.mark.parametrize("name", scenes.CLASS_NAMES)
@pytest.mark.parametrize("image_size", (scenes.MIN_SIZE, 37, 300))
def test_other_sizes_are_drawn(name, image_size):
    images, _ = scenes.draw([0], variant=name, image_size=image_size)
    assert images.shape == (1, image_size, image_size, 3)
    assert images.std() > 5


def test_whichever_process_draws():
    options = {"image_size": 32, "split": "test", "seed": 2}
    tasks = np.split(np.arange(24), 4)
    parts = parallel.draw_in_parallel("zoo.data.scenes", tasks, processes=2, **options)
    drawn, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    expected, expected_labels = scenes.draw(range(24), **options)
    assert (drawn == expected).all() and (labels == expected_labels).all()


def test_same_bytes_everywhere():
    digest = sheet_sha256()
    assert digest == SHEET_SHA256, (
        f"scenes look different; if their code was meant to change them: SHEET_SHA256 = {digest!r}"
    )


def test_same_bytes_without_the_newer_instructions_of_this_processor():
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    if not found:
        pytest.skip("this processor has no instructions to switch off")
    code = "import sys; sys.path[:0] = ['tests']; import test_scenes as t; print(t.sheet_sha256())"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(found)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == sheet_sha256()


@pytest.mark.parametrize("name", scenes.CLASS_NAMES)
def test_strong_edges_soft_ones_and_empty_areas(name):
    """What style transfer needs of a content picture, on differences of neighbouring pixels."""
    images, _ = scenes.draw(range(12), variant=name, image_size=96)
    grey = luminance(images)
    across = np.abs(np.diff(grey, axis=2))
    assert (across > 40).mean() > 0.001  # of 255: outlines
    assert ((across > 4) & (across < 20)).mean() > 0.02  # texture and shading
    smooth = across.reshape(12, 8, 12, 95)[..., :88].reshape(12, 8, 12, 8, 11).max(axis=(2, 4))
    assert (smooth < 12).any(axis=(1, 2)).mean() > 0.5  # most pictures have an empty block
    assert luminance(images).std(axis=(1, 2)).min() > 12


def test_pictures_of_a_class_differ_in_light_and_colour():
    for name in scenes.CLASS_NAMES:
        images, _ = scenes.draw(range(30), variant=name, image_size=24)
        mean = images.mean(axis=(1, 2))
        assert mean.mean(axis=1).std() > 8
        assert (mean - mean.mean(axis=1, keepdims=True)).std(axis=0).max() > 8


def test_balls_cast_shadows_away_from_the_lamp():
    ball = scenes._Ball((0.0, 0.0, 0.0), 0.5, np.ones((2, 3), np.float32), 0, (1.0, 0.0, 0.0))
    lamp = (0.6, 0.8, 0.0)
    # On the table, y = -0.6: where the line to the lamp goes through the middle of the ball, and
    # where it misses it by far; and behind the ball as the lamp sees it, for points above.
    x = np.array([[-0.45, 2.0, -3.0]], np.float32)
    zero = np.zeros_like(x)
    place = (x, zero - np.float32(0.6), zero)
    light = scenes._light(place, (zero, zero + 1, zero), lamp, [ball])
    open_air = 0.38 + 0.85 * 0.8
    assert light[0, 0] < 0.38
    assert light[0, 1] == pytest.approx(open_air, abs=0.03)
    assert light[0, 2] == pytest.approx(open_air, abs=0.03)
    above = scenes._light((zero, zero + 2, zero), (zero, zero + 1, zero), lamp, [ball])
    assert above[0, 0] == pytest.approx(open_air, abs=1e-5)


@pytest.mark.parametrize("shape", sorted(set(scenes._SHAPES), key=lambda shape: shape.__name__))
def test_outlines_are_as_wide_and_high_as_told(shape):
    u = np.linspace(-1.5, 1.5, 301, dtype=np.float32)[None, :]
    v = np.linspace(-1.5, 1.5, 301, dtype=np.float32)[:, None]
    slim = 0.6
    inside = shape(u, v, slim) < 0
    height = slim * (0.7 if shape is scenes._lens else 1)
    assert np.abs(u[0, inside.any(axis=0)]).max() == pytest.approx(1, abs=0.011)
    assert np.abs(v[inside.any(axis=1), 0]).max() == pytest.approx(height, abs=0.011)
    assert inside[150, 150]


@pytest.mark.parametrize(
    ("arguments", "words"),
    (
        ({"split": "valid"}, "'valid'"),
        ({"variant": "portraits"}, "'portraits'"),
        ({"image_size": 7}, "8 to 2048"),
        ({"indices": [3, -1]}, "-1"),
    ),
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(UsageError, match=words):
        scenes.draw(**{"indices": [0], **arguments})

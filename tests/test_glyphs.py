import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from zoo.data import glyphs
from zoo.errors import UsageError

SHEET_SHA256 = "1d494766c1b809e84c0eb735c06fa6ba350cfed9391ab72a043ea19d8c4a9a91"


def sheet_sha256() -> str:
    parts = [
        glyphs.draw(range(300)),
        glyphs.draw(range(100), split="test", variant="hard"),
        glyphs.draw(range(20), seed=7, image_size=64),
    ]
    return hashlib.sha256(b"".join(images.tobytes() for images, _ in parts)).hexdigest()


def test_shapes_dtypes_and_range():
    images, labels = glyphs.draw(range(30))
    assert images.shape == (30, 28, 28, 1) and images.dtype == np.uint8
    assert labels.shape == (30,) and labels.dtype == np.int32
    assert images.min() == 0 and (images.max(axis=(1, 2, 3)) == 255).all()
    assert glyphs.draw([])[0].shape == (0, 28, 28, 1)


def test_labels_are_the_index_modulo_ten():
    assert glyphs.draw([0, 9, 10, 59_999])[1].tolist() == [0, 9, 0, 9]
    assert glyphs.CLASS_NAMES == tuple("0123456789")


@pytest.mark.parametrize("variant", glyphs.VARIANTS)
def test_an_example_does_not_depend_on_the_others(variant):
    # More than one geometry batch and many raster tiles.
    images, _ = glyphs.draw(range(glyphs.BATCH + 100), variant=variant)
    for index in (0, 7, 300, glyphs.BATCH - 1, glyphs.BATCH + 99):
        assert (glyphs.draw([index], variant=variant)[0][0] == images[index]).all()
    shuffled = np.random.default_rng(0).permutation(len(images))[:500]
    assert (glyphs.draw(shuffled, variant=variant)[0] == images[shuffled]).all()


def test_splits_share_no_image_and_no_image_repeats():
    train, _ = glyphs.draw(range(4000))
    test, _ = glyphs.draw(range(2000), split="test")
    assert len({image.tobytes() for image in (*train, *test)}) == 6000


def test_seed_and_variant_change_every_image():
    first, _ = glyphs.draw(range(50))
    for other in (glyphs.draw(range(50), seed=1)[0], glyphs.draw(range(50), variant="hard")[0]):
        assert (first != other).any(axis=(1, 2, 3)).all()
    assert (glyphs.draw([3], seed=-1)[0] == glyphs.draw([3], seed=2**64 - 1)[0]).all()


def test_random_numbers_are_uniform_and_independent():
    numbers = glyphs._random_numbers(np.arange(4000), 1, 0)
    assert numbers.shape == (4000, 102) and numbers.min() >= 0 and numbers.max() < 1
    assert np.abs(numbers.mean(axis=0) - 0.5).max() < 5 * (1 / 12 / 4000) ** 0.5
    assert np.abs(numbers.var(axis=0) - 1 / 12).max() < 0.006
    correlations = np.corrcoef(np.concatenate([numbers[:-1], numbers[1:]], axis=1).T)
    assert np.abs(correlations - np.eye(204)).max() < 0.09
    assert len(np.unique(numbers)) == numbers.size


def test_same_bytes_everywhere():
    digest = sheet_sha256()
    assert digest == SHEET_SHA256, f"glyphs are drawn differently: new SHEET_SHA256 = {digest!r}"


def test_same_bytes_without_the_newer_instructions_of_this_processor():
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    if not found:
        pytest.skip("this processor has no instructions to switch off")
    code = "import sys; sys.path[:0] = ['tests']; import test_glyphs as t; print(t.sheet_sha256())"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(found)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == sheet_sha256()


def test_the_raster_gets_rounded_numbers():
    numbers = glyphs._random_numbers(np.arange(50), 1, 0)
    for values in glyphs._segments(np.arange(50) % 10, numbers, 28, 1.0):
        assert values.dtype == np.float32
        assert (values * 4096 == np.rint(values * 4096)).all()


def test_a_larger_image_is_the_same_digit():
    small, _ = glyphs.draw(range(60))
    large, _ = glyphs.draw(range(60), image_size=112)
    reduced = large.reshape(60, 28, 4, 28, 4).mean(axis=(2, 4))
    for a, b in zip(small, reduced, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("image_size", (glyphs.MIN_SIZE, 33, 128))
def test_other_sizes_are_drawn(image_size):
    images, _ = glyphs.draw(range(10), image_size=image_size)
    assert images.shape == (10, image_size, image_size, 1)
    assert (images.max(axis=(1, 2, 3)) > 100).all()


def test_the_raster_is_the_distance_to_the_segments():
    """The windows around the segments leave out nothing: compare with every pixel of every one."""
    numbers = glyphs._random_numbers(np.arange(20), 1, 0)
    starts, ends, radii = glyphs._segments(np.arange(20) % 10, numbers, 28, 1.5)
    centres = np.arange(28) + 0.5
    x, y = centres[None, :], centres[:, None]
    ink = np.full((20, 28, 28), -9.0)
    for segment in range(glyphs.NUM_SEGMENTS):
        for image in range(20):
            (ax, ay), (bx, by) = starts[segment, :, image], ends[segment, :, image]
            dx, dy = float(bx - ax), float(by - ay)
            t = ((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-6)
            t = np.clip(t, 0, 1)
            distance = np.hypot(x - ax - t * dx, y - ay - t * dy)
            ink[image] = np.maximum(ink[image], radii[segment, image] - distance)
    soft = np.clip(ink / 1.3 + 0.5, 0, 1)
    expected = np.rint(255 * soft * soft * (3 - 2 * soft))
    drawn = glyphs._raster(starts, ends, radii, 28).astype(int)
    assert np.abs(drawn - expected).max() <= 1


def test_splines_pass_through_their_control_points():
    weights = glyphs._catmull_rom(5, 9)
    assert np.allclose(weights[::2], np.eye(5))
    assert np.allclose(weights.sum(axis=1), 1)
    line = np.arange(5.0)
    assert np.allclose(weights @ line, np.linspace(0, 4, 9))


def test_nearest_neighbour_tells_the_classes():
    train, train_labels = glyphs.draw(range(2000))
    test, test_labels = glyphs.draw(range(500), split="test")
    a, b = (images.reshape(len(images), -1) / 255.0 for images in (train, test))
    squared = (a * a).sum(axis=1) - 2 * b @ a.T
    accuracy = (train_labels[squared.argmin(axis=1)] == test_labels).mean()
    assert accuracy > 0.95


@pytest.mark.parametrize(
    ("arguments", "words"),
    (
        ({"split": "valid"}, "'valid'"),
        ({"variant": "easy"}, "'easy'"),
        ({"image_size": 4}, "8 to 2048"),
        ({"indices": [-1]}, "-1"),
    ),
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(UsageError, match=words):
        glyphs.draw(**{"indices": [0], **arguments})

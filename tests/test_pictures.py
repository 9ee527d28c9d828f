"""Sheets and animations, read back as a viewer would."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from zoo import pictures
from zoo.errors import UsageError


def shades(count, size=4, channels=1):
    images = np.arange(1, count + 1, dtype=np.uint8) * 20
    return np.tile(images.reshape(-1, 1, 1, 1), (1, size, size, channels))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_places_images_row_by_row(channels):
    sheet = pictures.grid(shades(5, channels=channels), 3, gap=2, scale=1)
    assert sheet.shape == (2 * 6 + 2, 3 * 6 + 2, channels)
    for index in range(5):
        row, column = divmod(index, 3)
        top, left = 2 + 6 * row, 2 + 6 * column
        assert (sheet[top : top + 4, left : left + 4] == 20 * (index + 1)).all()
    assert len(np.unique(sheet[8:, 14:])) == 1  # the sixth place is empty


def test_small_images_are_enlarged_by_repeating_pixels():
    assert pictures.grid(shades(1, size=28), 1).shape == (58, 58, 1)
    assert pictures.grid(shades(1, size=64), 1).shape == (66, 66, 1)
    image = np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1)
    sheet = pictures.grid(image, 1, gap=0, scale=2)[..., 0]
    np.testing.assert_array_equal(sheet, [[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_png_bytes_hold_the_same_pixels(channels, mode):
    random = np.random.Generator(np.random.PCG64(0))
    image = random.integers(0, 256, (5, 7, channels)).astype(np.uint8)
    opened = Image.open(io.BytesIO(pictures.encode(image)))
    assert opened.format == "PNG"
    assert opened.mode == mode
    np.testing.assert_array_equal(np.asarray(opened).reshape(image.shape), image)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_animation_has_its_frames_and_never_ends(kind, channels):
    frames = shades(6, size=28, channels=channels)
    opened = Image.open(io.BytesIO(pictures.animate(frames, kind, size=56, milliseconds=40)))
    assert opened.format == kind
    assert opened.n_frames == 6
    assert opened.size == (56, 56)
    assert opened.info["loop"] == 0
    for number in range(6):
        opened.seek(number)
        pixel = np.asarray(opened.convert("L"), np.float32).mean()
        assert pixel == pytest.approx(20 * (number + 1), abs=6)


def test_the_ending_names_the_format():
    assert pictures.format_of(pathlib.Path("a.PNG"), ".png") == "PNG"
    assert pictures.format_of(pathlib.Path("a.webp"), ".webp", ".gif") == "WEBP"
    with pytest.raises(UsageError, match=r"a\.jpg: expected a name ending in \.webp or \.gif"):
        pictures.format_of(pathlib.Path("a.jpg"), ".webp", ".gif")

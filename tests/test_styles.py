"""Style pictures by name, by file, by folder, and the lines for what is none of these."""

import numpy as np
import pytest
from PIL import Image

from zoo.data import paintings, styles
from zoo.errors import UsageError


def picture(path, height=20, width=30):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, width // 2 :] = (200, 100, 0)
    Image.fromarray(pixels).save(path)
    return path


def test_embedded_styles_by_name():
    found = styles.load("glass, strokes", 32)
    assert found.names == ("glass", "strokes")
    assert found.images.shape == (2, 32, 32, 3)
    drawn = [paintings.paint("glass", index, image_size=32) for index in range(12)]
    assert any((image == found.images[0]).all() for image in drawn)


def test_many_paintings_of_all_styles():
    found = styles.load("paintings", 8)
    assert len(found.names) == len(set(found.names)) == 10 * styles.PICTURES_A_STYLE
    kinds = {name.partition("-")[0] for name in found.names}
    assert kinds == set(paintings.CLASS_NAMES)


def test_files_and_folders_are_cut_square(tmp_path):
    (tmp_path / "mine").mkdir()
    picture(tmp_path / "mine" / "b.png")
    picture(tmp_path / "mine" / "a.jpg", 40, 20)
    found = styles.load(f"{tmp_path / 'mine'},{picture(tmp_path / 'other.png')}", 16)
    assert found.names == ("a", "b", "other")
    np.testing.assert_array_equal(found.images[1], found.images[2])
    # 20 of 30 columns are left, half of them dark.
    np.testing.assert_array_equal(found.images[1][:, :6], 0)
    np.testing.assert_array_equal(
        found.images[1][:, 10:], np.broadcast_to((200, 100, 0), (16, 6, 3))
    )


def test_the_hash_follows_the_pixels(tmp_path):
    first = styles.load("glass", 16)
    assert first.hash == styles.load("glass", 16).hash
    assert first.hash not in (styles.load("dots", 16).hash, styles.load("glass", 17).hash)
    both = first + styles.load("dots", 16)
    assert both.names == ("glass", "dots")
    assert both.hash == styles.load("glass,dots", 16).hash


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "--styles=: expected at least one style"),
        (" , ", "--styles= , : expected at least one style"),
        ("none.png", "style 'none.png' is no file and none of the embedded styles: grid, circles"),
        ("glass,dots,glass", "--styles=glass,dots,glass: glass is there twice"),
    ],
)
def test_what_names_no_style_is_refused(spec, message):
    with pytest.raises(UsageError, match=message):
        styles.load(spec, 16)

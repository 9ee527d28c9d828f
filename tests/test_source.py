import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from zoo.data import brushes, glyphs, paintings, scenes, source
from zoo.errors import UsageError


@pytest.fixture(autouse=True)
def cache_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def few_examples(monkeypatch):
    monkeypatch.setattr(glyphs, "NUM_EXAMPLES", {"train": 120, "test": 30})
    monkeypatch.setattr(paintings, "NUM_EXAMPLES", {"train": 40, "test": 10})
    monkeypatch.setattr(scenes, "NUM_EXAMPLES", {"train": 24, "test": 8})


def test_names_have_summaries():
    names = source.names()
    assert names["glyphs"] == ("hand-drawn digits, ten classes, 28x28 grey, drawn by our own code.")
    assert names["paintings"].startswith("ten named styles")
    assert names["scenes"].startswith("photo-like content pictures")
    assert names.keys() == {"glyphs", "paintings", "scenes"}


def test_listing_and_drawing_import_nothing_heavy():
    code = """
import sys
from zoo.data import source
source.names()
assert "numpy" not in sys.modules
import zoo.data.glyphs, zoo.data.paintings, zoo.data.scenes, zoo.data.cache, zoo.data.parallel
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_load_describes_without_drawing(cache_directory):
    loaded = source.load("glyphs")
    assert loaded.name == "glyphs" and loaded.image_shape == (28, 28, 1)
    assert loaded.class_names == glyphs.CLASS_NAMES
    assert loaded.num_examples == {"train": 60_000, "test": 10_000}
    assert source.load("paintings/hills", 96).image_shape == (96, 96, 3)
    assert source.load("paintings/hills").class_names == ("hills",)
    assert source.load("glyphs/hard").class_names == glyphs.CLASS_NAMES
    assert list(cache_directory.iterdir()) == []
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded.name = "other"


@pytest.mark.parametrize(
    ("name", "image_size"),
    (("glyphs", None), ("glyphs/hard", 20), ("paintings/waves", 32), ("scenes", 24)),
)
@pytest.mark.parametrize("split", ("train", "test"))
def test_arrays_equal_the_examples(few_examples, name, image_size, split):
    loaded = source.load(name, image_size, seed=4)
    arrays = loaded.arrays(split)
    count = loaded.num_examples[split]
    assert arrays["image"].shape == (count, *loaded.image_shape)
    assert arrays["image"].dtype == np.uint8 and arrays["label"].dtype == np.int32
    for index in (0, 7, count - 1):
        example = loaded.example(index, split)
        assert (example["image"] == arrays["image"][index]).all()
        assert example["label"] == arrays["label"][index] and type(example["label"]) is int
    module = sys.modules[f"zoo.data.{name.partition('/')[0]}"]
    images, labels = module.draw(
        range(count),
        split=split,
        seed=4,
        image_size=loaded.image_shape[0],
        variant=name.partition("/")[2],
    )
    assert (images == arrays["image"]).all() and (labels == arrays["label"]).all()


def test_arrays_are_drawn_once(few_examples, monkeypatch, cache_directory):
    loaded = source.load("glyphs")
    reports = []
    first = loaded.arrays("test", on_progress=lambda *report: reports.append(report))
    assert reports == [(30, 30)]
    monkeypatch.setattr(glyphs, "draw", None)
    again = loaded.arrays("test")
    assert (first["image"] == again["image"]).all()
    assert len(list(cache_directory.glob("*.arrays"))) == 1


def test_every_way_to_differ_has_a_file_of_its_own(few_examples, monkeypatch, cache_directory):
    source.load("glyphs").arrays("train")
    source.load("glyphs").arrays("test")
    source.load("glyphs/hard").arrays("test")
    source.load("glyphs", 20).arrays("test")
    source.load("glyphs", seed=1).arrays("test")
    monkeypatch.setattr(glyphs, "NUM_EXAMPLES", {"train": 120, "test": 31})
    assert len(source.load("glyphs").arrays("test")["image"]) == 31
    assert len(list(cache_directory.glob("*.arrays"))) == 6


def test_changed_code_is_drawn_anew(few_examples, monkeypatch, tmp_path):
    source.load("glyphs").arrays("test")
    changed = tmp_path / "glyphs.py"
    with open(glyphs.__file__) as file:
        changed.write_text(file.read() + "# changed\n")
    monkeypatch.setattr(glyphs, "__file__", str(changed))
    source.load("glyphs").arrays("test")
    assert len(list(tmp_path.glob("*.arrays"))) == 2


@pytest.mark.parametrize("name", ("paintings", "scenes"))
def test_changed_code_that_others_share_is_drawn_anew(few_examples, monkeypatch, tmp_path, name):
    loaded = source.load(name, 16)
    loaded.arrays("test")
    changed = tmp_path / "brushes.py"
    with open(brushes.__file__) as file:
        changed.write_text(file.read() + "# changed\n")
    monkeypatch.setattr(brushes, "__file__", str(changed))
    loaded.arrays("test")
    assert len(list(tmp_path.glob("*.arrays"))) == 2


@pytest.mark.parametrize(
    ("name", "words"),
    (
        ("glyfs", "did you mean glyphs"),
        ("painting", "did you mean paintings"),
        ("glyphs/hrad", "did you mean glyphs/hard"),
        ("paintings/hill", "did you mean paintings/hills"),
        ("glyphs/", "known: glyphs"),
        ("", "known: glyphs"),
        ("cache", "known: glyphs"),
        ("../glyphs", "known: glyphs"),
    ),
)
def test_unknown_names_are_answered_with_the_nearest(name, words):
    with pytest.raises(UsageError, match=words):
        source.load(name)


@pytest.mark.parametrize("image_size", (0, -28, 3, 100_000))
def test_sizes_that_cannot_be_drawn_are_refused(image_size):
    with pytest.raises(UsageError, match=f"image_size is {image_size}: .* 8 to 2048"):
        source.load("glyphs", image_size)


def test_an_index_out_of_range_says_the_range():
    loaded = source.load("paintings")
    for index in (-1, 2_000):
        with pytest.raises(IndexError, match=f"example {index} of paintings .*0 to 1999"):
            loaded.example(index, "test")
    assert loaded.example(1_999, "test")["label"] == 9


def test_an_unknown_split_is_named():
    with pytest.raises(UsageError, match=r"'tset'.*did you mean test"):
        source.load("glyphs").example(0, "tset")
    with pytest.raises(UsageError, match="'valid'"):
        source.load("glyphs").arrays("valid")

import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from zoo import photos
from zoo.data import folder, source
from zoo.errors import UsageError


@pytest.fixture(autouse=True)
def cache_directory(tmp_path_factory, monkeypatch):
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ZOO_CACHE_DIR", str(directory))
    return directory


def save(path, colour=(200, 100, 50), size=(12, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def save_many(root, count, where=""):
    """Pictures of one colour each, (number, 100, 50), in order of their names."""
    for number in range(count):
        save(root / where / f"{number:03}.png", (number, 100, 50))


def both(loaded):
    return {split: loaded.arrays(split) for split in ("train", "test")}


def test_a_flat_folder(tmp_path):
    save_many(tmp_path / "my photos", 60)
    (tmp_path / "my photos" / "notes.txt").write_text("not a picture")
    (tmp_path / "my photos" / "empty").mkdir()
    name = f"folder:{tmp_path}/my photos"
    loaded = source.load(name, 16)
    assert isinstance(loaded, source.Source)
    assert loaded.name == name and loaded.image_shape == (16, 16, 3)
    assert loaded.class_names == ("my photos",)
    assert sum(loaded.num_examples.values()) == 60 and 1 <= loaded.num_examples["test"] <= 15
    numbers = []
    for split, arrays in both(loaded).items():
        images, labels = arrays["image"], arrays["label"]
        assert images.shape == (loaded.num_examples[split], 16, 16, 3)
        assert images.dtype == np.uint8 and labels.dtype == np.int32 and not labels.any()
        assert (images == images[:, :1, :1]).all() and (images[..., 1:] == [100, 50]).all()
        shades = images[:, 0, 0, 0].tolist()
        assert shades == sorted(shades)
        numbers += shades
    assert sorted(numbers) == list(range(60))


def test_a_sub_folder_is_a_class(tmp_path):
    save_many(tmp_path, 20, "zebras")
    save_many(tmp_path, 20, "cats")
    save_many(tmp_path, 3, ".hidden")
    (tmp_path / "empty").mkdir()
    loaded = source.load(f"folder:{tmp_path}", 8)
    assert loaded.class_names == ("cats", "zebras")
    labels = np.concatenate([arrays["label"] for arrays in both(loaded).values()])
    assert np.bincount(labels).tolist() == [20, 20]
    for split, arrays in both(loaded).items():
        for index, (path, label) in enumerate(loaded.files[split]):
            assert path.split("/")[0] == loaded.class_names[label]
            assert arrays["image"][index, 0, 0, 0] == int(path[-7:-4])
            assert arrays["label"][index] == label


@pytest.mark.parametrize("split", ("train", "test"))
def test_arrays_equal_the_examples(tmp_path, split):
    random = np.random.default_rng(0)
    for number in range(12):
        shape = random.integers(9, 40, 2)
        picture = Image.fromarray(random.integers(0, 256, (*shape, 3), dtype=np.uint8))
        picture.save(tmp_path / f"{number}.png")
    loaded = source.load(f"folder:{tmp_path}", 10)
    arrays = loaded.arrays(split)
    for index in range(loaded.num_examples[split]):
        example = loaded.example(index, split)
        assert (example["image"] == arrays["image"][index]).all()
        assert example["label"] == 0 and type(example["label"]) is int
    with pytest.raises(IndexError, match=r"example 12 of folder:.*expected 0 to"):
        loaded.example(12, split)
    with pytest.raises(UsageError, match="'valid'"):
        loaded.arrays("valid")


def test_the_middle_square_resized(tmp_path):
    # Red, a square of green over blue, red; then the same upright.
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[..., 0] = 255
    wide[:20, 40:80] = 0, 255, 0
    wide[20:, 40:80] = 0, 0, 255
    Image.fromarray(wide).save(tmp_path / "a.png")
    Image.fromarray(wide.transpose(1, 0, 2)).save(tmp_path / "b.png")
    loaded = source.load(f"folder:{tmp_path}", 16)
    images = {
        path: loaded.example(index, split)["image"]
        for split in ("train", "test")
        for index, (path, _) in enumerate(loaded.files[split])
    }
    for image in (images["a.png"], images["b.png"].transpose(1, 0, 2)):
        assert (image[:4] == (0, 255, 0)).all() and (image[12:] == (0, 0, 255)).all()


def test_resizing_averages(tmp_path):
    chequers = np.indices((64, 64)).sum(axis=0) % 2 * np.uint8(255)
    for name in "ab":
        Image.fromarray(chequers.astype(np.uint8)).save(tmp_path / f"{name}.png")
    image = source.load(f"folder:{tmp_path}", 8).example(0)["image"]
    assert image.shape == (8, 8, 3) and np.abs(image.astype(int) - 127.5).max() < 12


def test_the_default_size(tmp_path):
    save_many(tmp_path, 2)
    assert source.load(f"folder:{tmp_path}").image_shape == (128, 128, 3)


@pytest.mark.parametrize("count", (2, 3, 5))
def test_each_split_has_a_picture(tmp_path, count):
    for attempt in range(20):
        root = tmp_path / str(attempt)
        for number in range(count):
            save(root / f"{attempt}-{number}.png")
        sizes = source.load(f"folder:{root}").num_examples
        assert min(sizes.values()) >= 1 and sum(sizes.values()) == count


def test_a_tenth_is_for_testing_and_stays_there():
    names = [f"holiday/IMG_{number}.jpg".encode() for number in range(4000)]
    tested = folder.held_out(names)
    assert 0.08 < tested.mean() < 0.12
    assert (folder.held_out(names[::2]) == tested[::2]).all()


def test_reading_in_several_processes_changes_nothing(tmp_path):
    save_many(tmp_path, 80)
    loaded = source.load(f"folder:{tmp_path}", 8)
    reports = []
    arrays = loaded.arrays("train", on_progress=lambda *report: reports.append(report))
    count = loaded.num_examples["train"]
    assert reports[-1] == (count, count) and len(reports) > 2
    images, labels = folder.draw(
        loaded.files["train"], root=tmp_path, shape=(8, 8, 3), reader=folder.read
    )
    assert (arrays["image"] == images).all() and (arrays["label"] == labels).all()


def test_pictures_are_read_once(tmp_path, monkeypatch):
    save_many(tmp_path, 6)
    before = both(source.load(f"folder:{tmp_path}", 8))
    monkeypatch.setattr(photos, "read_square", None)
    again = both(source.load(f"folder:{tmp_path}", 8))
    for split in before:
        assert (before[split]["image"] == again[split]["image"]).all()


def test_changed_pictures_are_read_anew(tmp_path, cache_directory):
    save_many(tmp_path, 2)
    name = f"folder:{tmp_path}"

    def red():
        images = [arrays["image"] for arrays in both(source.load(name, 8)).values()]
        return sorted(np.concatenate(images)[:, 0, 0, 0].tolist())

    assert red() == [0, 1]
    status = (tmp_path / "001.png").stat()
    save(tmp_path / "001.png", (77, 0, 0))
    os.utime(tmp_path / "001.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert red() == [0, 77]
    save(tmp_path / "002.png", (88, 0, 0))
    assert red() == [0, 77, 88]
    (tmp_path / "000.png").unlink()
    assert red() == [77, 88]
    files = len(list(cache_directory.glob("*.arrays")))
    both(source.load(name, 9))
    assert len(list(cache_directory.glob("*.arrays"))) == files + 2


def test_unreadable_files_are_left_out_with_one_warning(tmp_path, caplog):
    save_many(tmp_path, 30)
    loaded = source.load(f"folder:{tmp_path}", 8)
    whole = loaded.arrays("train")
    broken = [loaded.files["train"][index][0] for index in (3, 7, 11)]
    (tmp_path / broken[0]).write_bytes(b"no picture")
    (tmp_path / broken[1]).write_bytes(b"")
    content = (tmp_path / broken[2]).read_bytes()
    (tmp_path / broken[2]).write_bytes(content[: len(content) - 20])
    kept = np.delete(whole["image"], (3, 7, 11), axis=0)
    for _ in range(2):  # read, and from the cache
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            arrays = source.load(f"folder:{tmp_path}", 8).arrays("train")
        assert (arrays["image"] == kept).all() and len(arrays["label"]) == len(kept)
        (record,) = caplog.records
        message = record.getMessage()
        assert f"3 of {len(whole['image'])} pictures" in message and broken[0] in message
        assert "\n" not in message
    with pytest.raises(UsageError, match=broken[0]):
        source.load(f"folder:{tmp_path}", 8).example(3)


def refusal(name, image_size=None):
    with pytest.raises(UsageError) as caught:
        source.load(name, image_size)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_refused(tmp_path):
    assert "names no folder: expected folder:PATH" in refusal("folder:")
    assert f"{tmp_path}/missing does not exist" in refusal(f"folder:{tmp_path}/missing")
    save(tmp_path / "one" / "a.png")
    assert "is no folder" in refusal(f"folder:{tmp_path}/one/a.png")
    assert "1 pictures found" in refusal(f"folder:{tmp_path}/one")
    (tmp_path / "none").mkdir()
    assert "0 pictures found" in refusal(f"folder:{tmp_path}/none")
    assert ".jpg" in refusal(f"folder:{tmp_path}/none")
    save_many(tmp_path / "mixed", 2)
    save(tmp_path / "mixed" / "thumbs" / "a.png")
    assert "sub-folder thumbs" in refusal(f"folder:{tmp_path}/mixed")
    for size in (0, 7, 2049):
        assert f"image_size is {size}: " in refusal(f"folder:{tmp_path}/mixed", size)
    assert "or folder:PATH" in refusal("foldr:/tmp")


def test_a_folder_that_may_not_be_read(tmp_path):
    save_many(tmp_path / "locked", 2)
    (tmp_path / "locked").chmod(0)
    try:
        if os.access(tmp_path / "locked", os.R_OK):
            pytest.skip("this user may read everything")
        assert "cannot read the folder" in refusal(f"folder:{tmp_path}/locked")
    finally:
        (tmp_path / "locked").chmod(0o700)


def test_no_readable_picture_at_all(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_bytes(b"text")
    loaded = source.load(f"folder:{tmp_path}", 8)
    with pytest.raises(
        UsageError, match=r"none of the \d pictures .* can be read.*\.jpg"
    ) as caught:
        loaded.arrays("train")
    assert "\n" not in str(caught.value)


def test_paths_are_completed(tmp_path, monkeypatch):
    save_many(tmp_path / "home" / "pictures", 2)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home")
    for name in ("folder:~/pictures", "folder:pictures", "folder:pictures/", "folder:./pictures"):
        loaded = source.load(name)
        assert loaded.name == name and loaded.root == tmp_path / "home" / "pictures"


def test_short_names(tmp_path, monkeypatch):
    assert source.short_name("glyphs") == "glyphs"
    assert source.short_name("glyphs/hard") == "glyphs-hard"
    assert source.short_name("folder:/home/me/my photos") == "my-photos"
    assert source.short_name("folder:/home/me/Blüten: 2024/") == "Blüten-2024"
    assert source.short_name("folder:/") == "folder"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert source.short_name("folder:.") == "here"
    assert source.short_name("folder:..") == tmp_path.name
    assert len(source.short_name("folder:/" + "x" * 250)) <= 60


def test_reading_imports_no_tensorflow():
    code = "import sys, zoo.data.folder; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

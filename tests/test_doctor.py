"""The doctor on hostile files, on duplicates, and what it writes; training on the same files."""

import contextlib
import io
import itertools
import json
import logging
import os
import pathlib
import shutil
import tempfile

import commands
import corpus
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from zoo import photos
from zoo.data import doctor, duplicates, mending, paintings, source
from zoo.data import folder as folders
from zoo.errors import UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The corpus, made once and never changed."""
    root = tmp_path_factory.mktemp("corpus") / "mine"
    root.mkdir()
    corpus.make(root)
    before = commands.contents(root)
    yield root
    assert commands.contents(root) == before


@pytest.fixture(scope="module")
def cases():
    return {case.path: case for case in corpus.CASES}


@pytest.fixture(scope="module")
def diagnosis(folder):
    return doctor.diagnose(f"folder:{folder}", corpus.SIZE)


@pytest.fixture(autouse=True)
def cache_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return path


def save_good(root, count=80, where="", seed=0):
    """Pictures that are no duplicates of each other, nor too few to train on."""
    for number in range(count):
        save(root / where / f"{number:03}.png", corpus.pattern(seed + number))


def look(root, size=corpus.SIZE):
    return doctor.diagnose(f"folder:{root}", size)


def findings(diagnosed):
    return {file.path: set(file.findings) for file in diagnosed.files}


# Every hostile file.


def test_the_corpus_is_large(cases):
    assert len(cases) == len(corpus.CASES)
    assert sum(bool(case.findings) for case in corpus.CASES) >= 60
    assert set().union(*(case.findings for case in corpus.CASES)) == set(doctor.FINDINGS) - {
        "unreadable", "duplicate", "near_duplicate", "leak", "two_classes",
    }  # fmt: skip


def test_each_file_is_named_once_for_what_it_is(diagnosis, cases):
    found = {file.path: sorted(file.findings) for file in diagnosis.files}
    assert len(found) == len(diagnosis.files)
    assert found == {path: sorted(case.findings) for path, case in cases.items()}
    for file in diagnosis.files:
        assert bool(file.why) == bool(set(file.findings) & (corpus.LEFT_OUT | {"deeper_folder"}))
        assert file.why.isprintable()
    assert not diagnosis.stops


def test_training_sees_what_the_table_says(folder, cases, caplog):
    loaded = source.load(f"folder:{folder}", corpus.SIZE)
    readable = {path for path, case in cases.items() if case.is_readable}
    listed = {path for files in loaded.files.values() for path, _ in files}
    assert listed == readable | {
        path for path, case in cases.items() if case.findings & corpus.LEFT_OUT
    }
    for split, files in loaded.files.items():
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            arrays = loaded.arrays(split)
        kept = [(path, label) for path, label in files if path in readable]
        assert arrays["label"].tolist() == [label for _, label in kept]
        (record,) = caplog.records
        assert f"{len(files) - len(kept)} of {len(files)} pictures" in record.getMessage()
        assert "python -m zoo.data doctor --dataset=folder:" in record.getMessage()
        assert "\n" not in record.getMessage()
        for (path, _), image in zip(kept, arrays["image"], strict=True):
            for (y, x), color in cases[path].colors.items():
                pixel = image[int(y * corpus.SIZE), int(x * corpus.SIZE)].astype(int)
                assert np.abs(pixel - color).max() <= cases[path].tolerance, path


def test_the_examination_reads_as_training_does(folder, cases):
    for path, case in cases.items():
        if case.is_readable:
            image, nature = photos.examine(folder / path)
            np.testing.assert_array_equal(image, photos.read(folder / path))
            assert (nature.height, nature.width) == image.shape[:2]


def test_the_command(folder, diagnosis, tmp_path):
    report, sheet, copy = tmp_path / "r.json", tmp_path / "sheet.webp", tmp_path / "clean"
    done = commands.run(
        "zoo.data", "doctor", f"--dataset=folder:{folder}", f"--image_size={corpus.SIZE}",
        f"--json={report}", f"--sheet={sheet}", f"--fix_into={copy}",
    )  # fmt: skip
    commands.assert_done(done)
    assert "Nothing here stops training." in done.stdout
    assert "two\\nlines.png" in done.stdout and "\x1b" not in done.stdout
    found = json.loads(report.read_text(encoding="ascii"))
    assert found == json.loads(json.dumps(doctor.report(diagnosis)))
    assert found["findings"]["name_not_utf8"]["files"] == [os.fsdecode(b"a/latin-\xe9.png")]
    assert photos.read(sheet).shape[1] > 900
    assert not commands.temporary_files(tmp_path)

    mended = look(copy)
    assert not mended.stops
    still = set().union(*findings(mended).values())
    mends = {name for name, found in doctor.FINDINGS.items() if found.fix != "copied"}
    assert still & mends == {"other_file"}  # The log.
    assert mended.classes().keys() == diagnosis.classes().keys()
    counts = [
        sum(map(sum, (c.values() for c in d.classes().values()))) for d in (mended, diagnosis)
    ]
    assert counts[0] == counts[1] == sum(file.is_readable for file in diagnosis.files)
    _, _, *log = (copy / mending.LOG).read_text(encoding="utf-8").splitlines()
    assert len(log) == len(diagnosis.files)
    for line, file in zip(log, diagnosis.files, strict=True):
        name, new, what = line.split("\t")
        if what == "copied":
            assert (copy / file.path).read_bytes() == (folder / file.path).read_bytes()
            assert name == new
        if what.startswith("rewritten") and "\\" not in new:
            mine, theirs = photos.read(copy / new), photos.read(folder / file.path)
            assert np.abs(mine.astype(int) - theirs).mean() < 4
            with Image.open(copy / new) as opened:
                assert opened.mode == "RGB"
        assert (new == "-") == what.startswith("left out")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_copy_is_upright(tmp_path, orientation):
    save_good(tmp_path / "in")
    picture = corpus.pattern(500, corner=(255, 0, 0))
    save(tmp_path / "in" / "x.jpg", picture, exif=corpus.exif(orientation), quality=95)
    mending.fix_into(tmp_path / "out", look(tmp_path / "in"))
    with Image.open(tmp_path / "out" / "x.jpg") as copy:
        assert copy.getexif().get(0x0112, 1) == 1
        pixels = np.asarray(copy)
    y, x = corpus.CORNERS[corpus.SHOWN[orientation]]
    pixel = pixels[int(y * corpus.SIZE), int(x * corpus.SIZE)].astype(int)
    assert np.abs(pixel - (255, 0, 0)).max() < 30


@contextlib.contextmanager
def as_somebody():
    """Root may read everything: become nobody meanwhile."""
    if os.geteuid():
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_what_may_not_be_read():
    with tempfile.TemporaryDirectory() as place:
        root = pathlib.Path(place) / "mine"
        save_good(root, 30, "a")
        os.chmod(place, 0o755)
        forbidden = [root / "a" / f"{number:03}.png" for number in (3, 17)]
        for path in forbidden:
            path.chmod(0)
        with as_somebody():
            if os.access(forbidden[0], os.R_OK):
                pytest.skip("this user may read everything")
            found = findings(look(root))
            assert {path for path, kinds in found.items() if "unreadable" in kinds} == {
                "a/003.png", "a/017.png"
            }  # fmt: skip
            loaded = source.load(f"folder:{root}", 8)
            # Not `arrays`, which reads its own code: nobody may not, where only root may enter.
            listed = [file for split in loaded.files.values() for file in split]
            _, labels = folders.draw(listed, root=root, shape=(8, 8, 3), reader=folders.read)
            assert (labels != source.UNREADABLE).sum() == 28
        (root / "a").chmod(0)
        with as_somebody():
            assert any("cannot read the folder" in stop for stop in look(root).stops)
        (root / "a").chmod(0o755)


# Duplicates.


def jpeg(image, quality):
    data = corpus.encoded(image, "JPEG", quality=quality)
    return np.asarray(Image.open(io.BytesIO(data)))


EDITS = {
    "half the size": lambda image: photos.resize(image, 48, 48),
    "another shape": lambda image: photos.resize(image, 100, 90),
    "JPEG 30": lambda image: jpeg(image, 30),
    "brighter": lambda image: np.asarray(
        ImageEnhance.Brightness(Image.fromarray(image)).enhance(1.3)
    ),
    "darker": lambda image: np.asarray(
        ImageEnhance.Brightness(Image.fromarray(image)).enhance(0.7)
    ),
    "grey": lambda image: np.asarray(Image.fromarray(image).convert("L").convert("RGB")),
    "cut by 2 %": lambda image: image[1:-1, 1:-1],
}


@pytest.fixture(scope="module")
def painted():
    """Eight paintings of each style, 96 pixels; not those that the thresholds were chosen on."""
    return np.stack([
        paintings.paint(style, 5000 + number, image_size=96)
        for style in paintings.CLASS_NAMES
        for number in range(8)
    ])  # fmt: skip


def test_paintings_of_one_style_are_no_duplicates(painted):
    assert duplicates.near(*duplicates.fingerprints(painted)) == []


@pytest.mark.parametrize("edit", EDITS)
def test_edited_pictures_are_near_duplicates(painted, edit):
    prints = [duplicates.fingerprint(image) for image in painted]
    prints += [duplicates.fingerprint(EDITS[edit](image)) for image in painted]
    hashes, thumbnails = (np.stack(part) for part in zip(*prints, strict=True))
    found = duplicates.near(hashes, thumbnails)
    count = len(painted)
    for group in found:
        assert len({index % count for index in group}) == 1
    assert len(found) >= 0.9 * count  # Cut by 2 %, some are missed.


def test_near_hashes_are_those_of_all_pairs():
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**63, 200, dtype=np.uint64)
    for _ in range(14):  # One bit more each time: up to 14 apart, and 28 between them.
        flips = np.uint64(1) << random.integers(0, 64, 200, dtype=np.uint64)
        hashes = np.concatenate([hashes, hashes[-200:] ^ flips])
    hashes = np.unique(hashes)
    distances = np.bitwise_count(hashes[:, None] ^ hashes[None])
    expected = {(a, b) for a, b in np.argwhere(distances <= 11).tolist() if a < b}
    found = {
        (min(pair), max(pair))
        for left, right in duplicates._near_hashes(hashes)
        for pair in zip(left.tolist(), right.tolist(), strict=True)
    }
    assert found == expected and len(expected) > 10_000
    assert list(itertools.chain(*duplicates._near_hashes(hashes[:0]))) is not None


def test_groups_of_near_duplicates():
    images = np.stack([corpus.pattern(seed) for seed in (1, 2, 1, 3, 1, 2)])
    images[2] = images[2] // 2 + 60
    assert duplicates.near(*duplicates.fingerprints(images)) == [[0, 2, 4], [1, 5]]
    recolored = np.stack([images[0], images[0][..., ::-1]])  # Light much the same, no colour is.
    assert duplicates.near(*duplicates.fingerprints(recolored)) == []
    blank = np.full((5, 48, 48, 3), 90, np.uint8)
    assert duplicates.near(*duplicates.fingerprints(blank)) == []
    assert duplicates.near(np.zeros(0, np.uint64), np.zeros((0, 16, 16, 3), np.uint8)) == []


def two_in(split, loaded):
    return [path for path, _ in loaded.files[split]][:2]


def test_leaks_and_pictures_of_two_classes(tmp_path):
    root = tmp_path / "mine"
    save_good(root, 60, "a")
    save_good(root, 60, "b", seed=1000)
    loaded = source.load(f"folder:{root}", corpus.SIZE)
    train = [path for path, _ in loaded.files["train"] if path.startswith("a/")]
    train_b = [path for path, _ in loaded.files["train"] if path.startswith("b/")]
    test = [path for path, _ in loaded.files["test"] if path.startswith("a/")]
    shutil.copy(root / train[0], root / train[1])  # the same bytes, one split, one class
    shutil.copy(root / train[2], root / test[0])  # over the splits
    brighter = photos.read(root / train[3]) // 2 + 90
    save(root / train_b[0], brighter)  # over the classes, nearly
    diagnosed = look(root)
    assert findings(diagnosed) == {file.path: set() for file in diagnosed.files} | {
        train[0]: {"duplicate"},
        train[1]: {"duplicate"},
        train[2]: {"duplicate", "leak"},
        test[0]: {"duplicate", "leak"},
        train[3]: {"near_duplicate", "two_classes"},
        train_b[0]: {"near_duplicate", "two_classes"},
    }
    assert sorted(map(sorted, diagnosed.duplicates)) == sorted(
        [sorted(train[:2]), sorted([train[2], test[0]])]
    )
    assert diagnosed.near_duplicates == [[train[3], train_b[0]]]
    assert not diagnosed.stops
    # Training finds them in what it has read.
    examples = {split: loaded.arrays(split) for split in ("train", "test")}
    warning = doctor.check(loaded, examples)
    assert f"1 of {len(examples['test']['image'])} test pictures are in the train split" in warning
    assert "2 pictures lie under two classes" in warning
    assert f"doctor --dataset=folder:{root}" in warning
    counts = mending.fix_into(tmp_path / "clean", diagnosed)
    assert counts == {"copied": 118, "rewritten": 0, "left out": 2}
    assert not look(tmp_path / "clean").duplicates


def test_nothing_to_say(tmp_path):
    save_good(tmp_path)
    diagnosed = look(tmp_path)
    assert not set().union(*findings(diagnosed).values())
    assert not diagnosed.stops and not diagnosed.remarks
    loaded = source.load(f"folder:{tmp_path}", corpus.SIZE)
    assert doctor.listing_warning(loaded) is None
    examples = {split: loaded.arrays(split) for split in ("train", "test")}
    assert doctor.check(loaded, examples) is None


def test_classes_of_different_sizes(tmp_path):
    save_good(tmp_path, 120, "many")
    save_good(tmp_path, 9, "few", seed=900)
    (remark, *_) = look(tmp_path).remarks
    assert "many has 120 pictures, few 9" in remark


# What is refused, and what is written.


def test_what_stops_training(tmp_path):
    save_good(tmp_path / "few", 5)
    assert any("pictures to test on" in stop for stop in look(tmp_path / "few").stops)
    save_good(tmp_path / "mixed", 80)
    save_good(tmp_path / "mixed", 3, "inside")
    assert any("sub-folder inside" in stop for stop in look(tmp_path / "mixed").stops)
    save_good(tmp_path / "broken", 80)
    for path in (tmp_path / "broken").iterdir():
        path.write_bytes(b"text")
    assert look(tmp_path / "broken").stops
    done = commands.run("zoo.data", "doctor", f"--dataset=folder:{tmp_path}/mixed")
    assert (done.returncode, done.stderr) == (1, "")
    assert "Training stops: " in done.stdout


def test_too_few_readable_pictures_to_test_on(tmp_path):
    save_good(tmp_path, 80)
    loaded = source.load(f"folder:{tmp_path}", 8)
    for path, _ in loaded.files["test"][3:]:
        (tmp_path / path).write_bytes(b"text")
    examples = {split: loaded.arrays(split) for split in ("train", "test")}
    with pytest.raises(UsageError, match=r"has 3 pictures to test on: .*zoo.data doctor"):
        doctor.check(loaded, examples)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["doctor", "--dataset=folder:PATH"]),
        (["docter", "--dataset=folder:."], ["did you mean doctor?"]),
        (["doctor"], ["--dataset is missing"]),
        (["doctor", "--dataset=glyphs"], ["--dataset=glyphs", "for folders of pictures"]),
        (["doctor", "--dataset=folder:/nowhere/at/all"], ["does not exist"]),
        (["doctor", "--dataset=folder:{}", "--image_size=3"], ["image_size is 3"]),
        (["doctor", "--dataset=folder:{}", "--sheet=/tmp/a.gif"], ["--sheet=/tmp/a.gif", ".png"]),
        (["doctor", "--dataset=folder:{}", "--json={}/a.json"], ["--json=", "outside"]),
        (["doctor", "--dataset=folder:{}", "--fix_into={}/a/copy"], ["--fix_into=", "outside"]),
        (["doctor", "--dataset=folder:{}", "--fix_into={}/../full"], ["is there already"]),
        (["doctor", "--dataset=folder:{}", "--fix_into={}/../link/copy"], ["outside"]),
    ],
)
def test_wrong_usage(tmp_path, arguments, words):
    root = tmp_path / "mine"
    save_good(root, 2, "a")
    save(tmp_path / "full" / "a.png", corpus.pattern(1))
    (tmp_path / "link").symlink_to("mine/a")
    before = commands.contents(tmp_path)
    done = commands.run("zoo.data", *(argument.format(root) for argument in arguments))
    commands.assert_refused(done, *words)
    assert commands.contents(tmp_path) == before


def test_names_in_the_copy(tmp_path):
    root = tmp_path / "mine"
    save_good(root)
    save(root / "x.png", corpus.pattern(2001))
    Image.fromarray(corpus.pattern(2002)).convert("L").save(root / "x.gif")
    Image.fromarray(corpus.pattern(2003)).convert("L").save(root / "X.bmp")
    save(root / "y.png", corpus.pattern(2004), format="JPEG")
    long = "ü" * 125  # 250 bytes
    save(root / f"{long}.png", corpus.pattern(2005))
    Image.fromarray(corpus.pattern(2006)).convert("L").save(root / f"{long}.gif")
    mending.fix_into(tmp_path / "clean", look(root))
    copy = tmp_path / "clean"
    names = {path.name for path in copy.iterdir()} - {f"{n:03}.png" for n in range(80)}
    assert {"x.png", "y.jpg", f"{long}.png", mending.LOG} < names and len(names) == 7
    assert (copy / "x.png").read_bytes() == (root / "x.png").read_bytes()
    assert (copy / "y.jpg").read_bytes() == (root / "y.png").read_bytes()
    assert len({name.lower() for name in names}) == 7


def test_a_copy_is_whole_or_not_there(tmp_path, monkeypatch):
    save_good(tmp_path / "mine")
    diagnosed = look(tmp_path / "mine")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(UsageError, match="No space left"):
        mending.fix_into(tmp_path / "clean", diagnosed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
    monkeypatch.undo()
    (tmp_path / "clean").mkdir()
    assert mending.fix_into(tmp_path / "clean", diagnosed)["copied"] == 80


def test_training_on_the_corpus(folder, tmp_path):
    done = commands.train(
        tmp_path / "run", f"--dataset=folder:{folder}", "--image_size=16", "--total_steps=2"
    )
    assert done.returncode == 0, done
    lines = done.stderr.splitlines()
    assert len(lines) == 3, done.stderr  # The listing, and what of each split cannot be read.
    assert "1 x link that leads back to itself" in lines[0] and "2 x link to nowhere" in lines[0]
    assert all("python -m zoo.data doctor" in line for line in lines)

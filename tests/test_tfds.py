"""Data sets of TensorFlow Datasets: written here by its own writer, or looked for in vain."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from zoo import train
from zoo.data import glyphs, scenes, source
from zoo.errors import UsageError

tfds = pytest.importorskip("tensorflow_datasets")


@pytest.fixture(autouse=True)
def directories(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    # Whoever runs this: nothing is reached.
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    return tmp_path


def picture(number, height=20, width=30, channels=3):
    """Of one colour, but for its left and right quarter."""
    values = np.full((height, width, channels), number, np.uint8)
    values[:, : width // 6] = values[:, -width // 6 :] = 255
    return values


def prepared(tmp_path, name, splits, features, make):
    """Writes a data set {split: count} by tfds's own writer."""

    def info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label") if "label" in features else None,
            disable_shuffling=True,
        )

    def generate(self, split):
        for number in range(splits[split]):
            yield number, make(number)

    body = {
        "VERSION": tfds.core.Version("1.0.0"),
        "_info": info,
        "_split_generators": lambda self, _: {s: self._generate_examples(s) for s in splits},
        "_generate_examples": generate,
        "name": name,
        "__module__": __name__,
    }
    with tfds.core.registered.skip_registration():
        made = type(name.title(), (tfds.core.GeneratorBasedBuilder,), body)
    made(data_dir=tmp_path / "tfds").download_and_prepare()
    return f"tfds:{name}"


def labelled(shape=(None, None, 3), names=("cat", "dog", "eel")):
    return {
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(names=names),
    }


def test_a_data_set_with_splits_and_classes(tmp_path):
    name = prepared(
        tmp_path,
        "zoo_animals",
        {"train": 70, "test": 12},
        labelled(),
        lambda n: {"image": picture(n), "label": n % 3},
    )
    loaded = source.load(name, 10)
    assert loaded.image_shape == (10, 10, 3)
    assert loaded.num_examples == {"train": 70, "test": 12}
    assert loaded.class_names == ("cat", "dog", "eel")
    for split, count in loaded.num_examples.items():
        arrays, digests = loaded.arrays_and_digests(split)
        assert arrays["image"].shape == (count, 10, 10, 3) and arrays["image"].dtype == np.uint8
        # The white edges are beyond the middle square.
        assert (arrays["image"] == np.arange(count)[:, None, None, None]).all()
        assert arrays["label"].tolist() == [n % 3 for n in range(count)]
        assert arrays["label"].dtype == np.int32 and len(set(digests.tolist())) == count
        for index in (0, count - 1):
            example = loaded.example(index, split)
            assert (example["image"] == arrays["image"][index]).all()
            assert example["label"] == arrays["label"][index] and type(example["label"]) is int
    assert source.load(name).image_shape == (128, 128, 3)
    with pytest.raises(IndexError, match="expected 0 to 11"):
        loaded.example(12, "test")
    with pytest.raises(UsageError, match="image_size is 7"):
        source.load(name, 7)


def test_grey_squares_stay_as_they_are(tmp_path):
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (20, 28, 28, 1), dtype=np.uint8)
    name = prepared(
        tmp_path,
        "zoo_grey",
        {"train": 15, "validation": 5},
        labelled(shape=(28, 28, 1)),
        lambda n: {"image": pictures[n], "label": 0},
    )
    loaded = source.load(name)
    assert loaded.image_shape == (28, 28, 1)
    assert loaded.num_examples == {"train": 15, "test": 5}
    assert (loaded.arrays("train")["image"] == pictures[:15]).all()


def test_a_split_that_is_missing_is_drawn_and_always_the_same(tmp_path):
    name = prepared(
        tmp_path,
        "zoo_whole",
        {"everything": 200},
        {"image": tfds.features.Image(), "colours": tfds.features.Sequence(np.int64)},
        lambda n: {"image": picture(n, 9, 9), "colours": [n, n]},
    )
    loaded = source.load(name, 9)
    assert loaded.class_names == ("zoo_whole",)  # a feature that is no class is left aside
    assert sum(loaded.num_examples.values()) == 200 and 8 <= loaded.num_examples["test"] <= 35
    numbers = {}
    for split in ("train", "test"):
        arrays = loaded.arrays(split)
        assert not arrays["label"].any()
        numbers[split] = arrays["image"][:, 4, 4, 0].tolist()
        assert (loaded.example(3, split)["image"] == arrays["image"][3]).all()
    assert sorted(numbers["train"] + numbers["test"]) == list(range(200))
    assert source.load(name, 10).arrays("test")["image"][:, 4, 4, 0].tolist() == numbers["test"]


def test_what_cannot_be_trained_on_is_refused(tmp_path):
    name = prepared(
        tmp_path,
        "zoo_words",
        {"train": 3},
        {"text": tfds.features.Text()},
        lambda n: {"text": "word"},
    )
    with pytest.raises(UsageError, match="has no feature `image`.*it has text"):
        source.load(name)
    name = prepared(
        tmp_path,
        "zoo_depths",
        {"train": 3},
        {"image": tfds.features.Image(shape=(4, 4, 1), dtype=np.float32)},
        lambda n: {"image": np.ones((4, 4, 1), np.float32)},
    )
    with pytest.raises(UsageError, match="float32: expected uint8"):
        source.load(name)
    name = prepared(
        tmp_path, "zoo_one", {"train": 1}, labelled(), lambda n: {"image": picture(n), "label": 0}
    )
    with pytest.raises(UsageError, match="1 examples; expected two"):
        source.load(name)
    with pytest.raises(UsageError, match="names no data set"):
        source.load("tfds:")
    with pytest.raises(UsageError, match=r"'tfds:mnsit'.*did you mean tfds:mnist"):
        source.load("tfds:mnsit")
    with pytest.raises(UsageError, match="did you mean tfds:mnist"):
        source.load("mnist")


def test_examples_without_a_label_are_left_out(tmp_path, caplog):
    name = prepared(
        tmp_path,
        "zoo_partly",
        {"train": 10, "test": 10},
        labelled(),
        lambda n: {"image": picture(n), "label": -1 if n == 4 else 1},
    )
    arrays = source.load(name, 8).arrays("train")
    assert arrays["image"][:, 4, 4, 0].tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    (record,) = caplog.records
    assert "1 of 10 pictures" in record.getMessage() and "number 4" in record.getMessage()


def test_damaged_records_are_a_refusal(tmp_path):
    name = prepared(
        tmp_path,
        "zoo_damaged",
        {"train": 10, "test": 10},
        labelled(),
        lambda n: {"image": picture(n), "label": 1},
    )
    (file,) = (tmp_path / "tfds").rglob("*train.tfrecord*")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    with pytest.raises(UsageError, match="cannot read .*zoo_damaged") as caught:
        source.load(name, 8).arrays("train")
    assert "\n" not in str(caught.value)


def test_it_is_trained_on(tmp_path, monkeypatch, capsys):
    name = prepared(
        tmp_path,
        "zoo_trained",
        {"train": 40, "test": 8},
        labelled(shape=(16, 16, 1)),
        lambda n: {"image": picture(n, 16, 16, 1), "label": n % 3},
    )
    monkeypatch.chdir(tmp_path)
    size = ["--architecture=mlp", "--hidden=8", "--total_steps=3", "--batch_size=4"]
    assert train.main(["--model=vae", f"--dataset={name}", "--image_size=16", *size]) == 0
    assert (tmp_path / "runs" / "vae-zoo_trained" / "metrics.json").exists()
    assert "zoo_trained" in capsys.readouterr().out


@pytest.mark.parametrize("how", ("refused", "never answered"))
def test_without_a_network_it_ends_at_once(tmp_path, monkeypatch, capfd, how):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        if how == "never answered":
            address = f"http://127.0.0.1:{silent.getsockname()[1]}"
            monkeypatch.setenv("https_proxy", address)
            monkeypatch.setenv("HTTPS_PROXY", address)
        began = time.monotonic()
        with pytest.raises(UsageError) as caught:
            source.load("tfds:mnist")
        assert time.monotonic() - began < 60  # tfds alone: 205 s, or for ever
    message = str(caught.value)
    assert "\n" not in message and "storage.googleapis.com does not answer" in message
    assert str(tmp_path / "tfds" / "mnist") in message and "glyphs, paintings or scenes" in message
    assert "TFDS_DATA_DIR" in message
    assert capfd.readouterr().err == ""
    assert not list((tmp_path / "tfds").rglob("*"))


DOWNLOADING = """
from zoo import flags
from zoo.data import source, tfds
tfds._answers = lambda address: True
flags.run_command(lambda argv: source.load("tfds:mnist"))
"""


def test_a_download_that_fails_says_why(monkeypatch):
    done = subprocess.run([sys.executable, "-c", DOWNLOADING], capture_output=True, text=True)
    assert done.returncode == 2
    assert "cannot be downloaded (" in done.stderr.splitlines()[-1]
    assert "127.0.0.1" in done.stderr.splitlines()[-1]


def test_a_download_that_hangs_can_be_stopped(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("https_proxy", address)
        monkeypatch.setenv("HTTPS_PROXY", address)
        process = subprocess.Popen(
            [sys.executable, "-c", DOWNLOADING],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        try:
            assert "Downloading tfds:mnist" in process.stdout.readline()
            silent.settimeout(120)
            connection, _ = silent.accept()  # the other process asks
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(30) == 128 + signal.SIGINT
            with pytest.raises(ProcessLookupError):
                for _ in range(100):
                    os.killpg(process.pid, 0)
                    time.sleep(0.1)
            connection.close()
        finally:
            process.stdout.close()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


# Our own sets as tfds's.

REGISTERED = """
{imports}
print(tfds.builder_cls("glyphs").__module__, tfds.builder("paintings/hills").builder_config.name)
print(tfds.builder("scenes").info.features["image"].shape)
"""


@pytest.mark.parametrize(
    "imports",
    (
        "import zoo.data; import tensorflow_datasets as tfds",
        "import tensorflow_datasets as tfds; import zoo.data",
        "import zoo.data.source; from tensorflow_datasets import core; "
        "import tensorflow_datasets as tfds",
    ),
)
def test_they_are_known_whatever_is_imported_first(imports):
    code = REGISTERED.format(imports=imports)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert done.stdout.split() == ["zoo.data.builders", "hills", "(128,", "128,", "3)"], done.stderr


def test_importing_the_zoo_imports_no_tfds():
    code = "import sys, zoo.data.source; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"tensorflow_datasets", "wrapt"} & set(done.stdout.split())


def test_they_have_the_same_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(glyphs, "NUM_EXAMPLES", {"train": 50, "test": 10})
    monkeypatch.setattr(scenes, "NUM_EXAMPLES", {"train": 6, "test": 4})
    for name in ("glyphs", "scenes/hills"):
        ours = source.load(name)
        for split in ("train", "test"):
            theirs = tfds.load(name, split=split, data_dir=tmp_path / "tfds")
            arrays = ours.arrays(split)
            examples = list(theirs.as_numpy_iterator())
            assert len(examples) == ours.num_examples[split]
            for index, example in enumerate(examples):
                assert (example["image"] == arrays["image"][index]).all()
                assert example["label"] == arrays["label"][index]
    back = source.load("tfds:glyphs").arrays("test")
    ours = source.load("glyphs").arrays("test")
    assert (back["image"] == ours["image"]).all() and (back["label"] == ours["label"]).all()


def test_a_picture_of_a_jpeg(tmp_path):
    """Decoded once, not twice: what tfds stores of a JPEG is the file itself."""
    Image.fromarray(picture(90, 64, 96)).save(tmp_path / "a.jpg", quality=95)
    name = prepared(
        tmp_path,
        "zoo_jpegs",
        {"train": 4, "test": 4},
        labelled(),
        lambda n: {"image": tmp_path / "a.jpg", "label": 1},
    )
    Image.fromarray(picture(90, 64, 96)).save(tmp_path / "b.jpg", quality=95)
    folder = source.load(f"folder:{tmp_path}", 16).arrays("train")["image"]
    assert (source.load(name, 16).arrays("train")["image"] == folder[0]).all()

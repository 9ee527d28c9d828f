"""SavedModels: verified before they have a name, and a wrong one is never published."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from zoo import pictures, runtime

tf = runtime.import_tensorflow()

import contract  # noqa: E402
from commands import ROOT  # noqa: E402

from export import savedmodel, verify  # noqa: E402
from zoo.errors import UsageError  # noqa: E402
from zoo.generative import row_seeds  # noqa: E402
from zoo.models import vae  # noqa: E402


@pytest.fixture(scope="module")
def model():
    return vae.build(vae.TINY, image_shape=(8, 8, 1), num_classes=10, total_steps=10)


def save(model, directory, monkeypatch):
    """Two endpoints, without the verification, which is not what is tested."""
    few = {name: model.endpoints()[name] for name in ("decode", "sample_png")}
    monkeypatch.setattr(model, "endpoints", lambda: few)
    report = '{"png_equal_bit_for_bit": {}}'
    monkeypatch.setattr(savedmodel, "_verify_in_fresh_process", lambda path: report)
    return savedmodel.write(model, directory)


def test_versions_count_up(model, tmp_path, monkeypatch):
    assert save(model, tmp_path, monkeypatch).name == "1"
    (tmp_path / "7").mkdir()
    assert save(model, tmp_path, monkeypatch).name == "8"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "7", "8"]


def test_any_process_gets_the_same_images_from_the_same_seeds(served, tmp_path):
    model = contract.build("vae", num_classes=3)
    contract.make_loop(model).run_block(2)  # as `served` does
    seeds = row_seeds(11, 3)
    code = f"""
import sys
sys.modules["keras"] = None
import numpy as np, tensorflow as tf
loaded = tf.saved_model.load({str(served("vae") / "1")!r})
seeds = tf.constant({seeds.tolist()}, tf.int64)
for name in ("serving_default", "sample"):
    np.save({str(tmp_path)!r} + "/" + name, loaded.signatures[name](seed=seeds)["images"])
"""
    subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True)
    expected = model.sample(tf.constant(seeds)).numpy()
    for name in ("serving_default", "sample"):
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), expected, atol=1e-5)


def test_only_what_an_endpoint_uses_is_exported(model, tmp_path, monkeypatch):
    """A GAN's discriminator and the generator that its average follows stay at home."""
    gan = contract.build("dcgan", num_classes=3)
    path = save(gan, tmp_path, monkeypatch)
    sizes = [
        np.prod(shape)
        for name, shape in tf.train.list_variables(str(path / "variables" / "variables"))
        if name.endswith("VARIABLE_VALUE")
    ]
    assert sum(sizes) == gan.average_generator.count_params()


def test_a_model_that_differs_is_not_published(model, tmp_path, off_by_a_little):
    with pytest.raises(RuntimeError, match="decode at batch 3: images differs by 0.001"):
        savedmodel.write(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_one_line(model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot write .*file/served"):
        savedmodel.write(model, tmp_path / "file" / "served")


def test_a_png_file_that_differs_is_not_published(model, tmp_path, monkeypatch):
    """By one level at one place, which another processor's rounding may do, but not this one's."""
    requests = savedmodel.live_requests

    def off_by_a_little(*arguments):
        arrays = requests(*arguments)
        files = arrays["sample_png/16/out/png_bytes"].tolist()
        pixels = np.asarray(Image.open(io.BytesIO(files[4]))).copy()
        pixels[3, 3] ^= 1
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        files[4] = buffer.getvalue()
        arrays["sample_png/16/out/png_bytes"] = np.array(files)
        return arrays

    monkeypatch.setattr(savedmodel, "live_requests", off_by_a_little)
    with pytest.raises(RuntimeError, match="PNG files are not equal bit for bit"):
        savedmodel.write(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def copy(served, tmp_path):
    """A served model, to be damaged."""
    shutil.copytree(served("vae"), tmp_path / "vae")
    return tmp_path / "vae"


def check(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "export.verify", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_verification_can_be_repeated(copy):
    """Of a directory of versions, the newest by number."""
    shutil.copytree(copy / "1", copy / "10")
    (copy / "9").mkdir()
    done = check(copy)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((copy / "1" / "verification.json").read_text())
    data = copy / "10" / "variables" / "variables.data-00000-of-00001"
    damaged = bytearray(data.read_bytes())
    damaged[len(damaged) // 2] ^= 64
    data.write_bytes(damaged)
    done = check(copy)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{copy / '10'} failed its verification: " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--help"], 0, ""),
        ([], 2, "expected one directory"),
        (["a", "b"], 2, "expected one directory"),
        (["--fast"], 2, "expected one directory"),
        (["/nowhere"], 2, "/nowhere holds no exported model: expected saved_model.pb"),
    ],
)
def test_what_cannot_be_verified(arguments, code, words):
    done = check(*arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert bool(done.stdout) != bool(done.stderr)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decode/1/out/images": np.zeros((1, 8, 8, 2))}, "shape"),
        ({"paint/1/in/x": np.zeros(1), "paint/1/out/y": np.zeros(1)}, "signature paint is missing"),
        ({"decode/1/out/images": np.full((1, 8, 8, 1), np.nan)}, "differs by nan"),
        (
            {
                "sample_png/1/in/seed": np.zeros((1, 2), np.int64),
                "sample_png/1/out/png_bytes": np.array(
                    [pictures.encode(np.zeros((8, 8, 1), "u1"))]
                ),
            },
            "of its values, by up to",
        ),
    ],
)
def test_the_verification_names_what_is_wrong(copy, change, message, monkeypatch):
    arrays = {"decode/1/in/latents": np.zeros((1, 4), np.float32), **change}
    np.savez(copy / "1" / verify.REQUESTS, **arrays)
    done = check(copy / "1")
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]


def test_what_killed_exports_left_is_removed_and_a_living_ones_is_not(model, tmp_path, monkeypatch):
    """A server that polls the directory sees neither."""
    stale, others = tmp_path / ".export-stale.tmp", tmp_path / ".mine.tmp"
    for path in (stale, others):
        (path / "model").mkdir(parents=True)
    code = f"""
import sys, time, types
from export import savedmodel
with savedmodel._locked(savedmodel.pathlib.Path({str(tmp_path / ".export-alive.tmp")!r})):
    print("holds it", flush=True)
    time.sleep(600)
"""
    (tmp_path / ".export-alive.tmp").mkdir()
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"holds it\n"
            save(model, tmp_path, monkeypatch)
            names = {path.name for path in tmp_path.iterdir()}
            assert names == {"1", ".export-alive.tmp", ".mine.tmp"}
        finally:
            process.kill()
    save(model, tmp_path, monkeypatch)
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2", ".mine.tmp"}

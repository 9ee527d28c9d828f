"""SavedModels: verified before they have a name, and a wrong one is never published."""

import json
import subprocess
import sys

import numpy as np
import pytest

from zoo import runtime

tf = runtime.import_tensorflow()

from export import savedmodel, verify  # noqa: E402
from zoo.errors import UsageError  # noqa: E402
from zoo.generative import row_seeds  # noqa: E402
from zoo.models import vae  # noqa: E402


@pytest.fixture(scope="module")
def model():
    return vae.build(vae.TINY, image_shape=(8, 8, 1), num_classes=10, total_steps=10)


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("served")
    return savedmodel.write(model, directory)


def test_versions_count_up_and_the_report_is_beside_the_model(model, served):
    assert served.name == "1"
    report = json.loads((served / "verification.json").read_text())
    assert report["batch_sizes"] == [1, 3, 16]
    assert set(report["max_abs_difference"]) == set(model.endpoints())
    assert max(report["max_abs_difference"].values()) <= savedmodel.TOLERANCE
    (served.parent / "7").mkdir()
    assert savedmodel.write(model, served.parent).name == "8"


def test_any_process_gets_the_same_images_from_the_same_seeds(model, served):
    seeds = row_seeds(11, 3)
    code = f"""
import sys
sys.modules["keras"] = None
import numpy as np, tensorflow as tf
loaded = tf.saved_model.load({str(served)!r})
seeds = tf.constant({seeds.tolist()}, tf.int64)
for name in ("serving_default", "sample"):
    np.save({str(served.parent)!r} + "/" + name, loaded.signatures[name](seed=seeds)["images"])
"""
    subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True)
    expected = model.sample(tf.constant(seeds)).numpy()
    for name in ("serving_default", "sample"):
        np.testing.assert_allclose(np.load(served.parent / f"{name}.npy"), expected, atol=1e-5)


def test_a_model_that_differs_is_not_published(model, tmp_path, monkeypatch):
    requests = savedmodel._requests

    def off_by_a_little(*arguments):
        arrays = requests(*arguments)
        arrays["decode/3/out/images"] = arrays["decode/3/out/images"] + 1e-3
        return arrays

    monkeypatch.setattr(savedmodel, "_requests", off_by_a_little)
    with pytest.raises(RuntimeError, match="decode at batch 3: images differs by 0.001"):
        savedmodel.write(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_one_line(model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot write .*file/served"):
        savedmodel.write(model, tmp_path / "file" / "served")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decode/1/out/images": np.zeros((1, 8, 8, 2))}, "shape"),
        ({"paint/1/in/x": np.zeros(1), "paint/1/out/y": np.zeros(1)}, "signature paint is missing"),
        ({"decode/1/out/images": np.full((1, 8, 8, 1), np.nan)}, "differs by nan"),
    ],
)
def test_the_verification_names_what_is_wrong(served, tmp_path, change, message):
    arrays = {"decode/1/in/latents": np.zeros((1, 4), np.float32), **change}
    np.savez(tmp_path / "requests.npz", **arrays)
    command = [sys.executable, "-I", verify.__file__, served, tmp_path / "requests.npz", "1e-5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]

"""ONNX and LiteRT: what is written agrees with the model, and the table of what can be is true."""

import json
import pathlib
import re
import subprocess
import sys

import commands
import keras
import numpy as np
import pytest
from PIL import Image

from zoo import runtime

tf = runtime.import_tensorflow()

import zoo.models  # noqa: E402
from export import latents, runtimes, savedmodel  # noqa: E402
from zoo.errors import UsageError  # noqa: E402
from zoo.generative import normal_per_seed, stateless_normal, uniform_per_seed  # noqa: E402
from zoo.style_nets import fixed_grain  # noqa: E402

TABLE = pathlib.Path(runtimes.__file__).with_name("README.md")
# The others' endpoints are of the same kinds.
QUICK = {"style"}
SEEDS = np.array([[0, 0], [0, 1], [7, 2**40], [-1, -(2**63)], [2**63 - 1, -5]])


def build(name: str, **options):
    """A model of 10 classes that draws, and repaints, more than grey."""
    module = zoo.models.load(name)
    channels = 3 if name in ("adain", "style") else 1
    keras.utils.set_random_seed(3)
    config = module.Config(**{**vars(module.TINY), **options})
    model = module.build(config, image_shape=(8, 8, channels), num_classes=10, total_steps=10)
    model.prepare()
    if name == "style":
        for factors in model.net.grain:
            factors.assign(tf.ones_like(factors))
    elif name not in ("adain", "vae"):
        commands.enliven(model.average_generator)
    return model


def need(form: str) -> None:
    for package in runtimes.PACKAGES[form]:
        pytest.importorskip(package)


def marked(names):
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def small():
    return build("gan")


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # kat_vectors of the authors' Random123
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([2**32 - 1] * 4, [2**32 - 1] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_its_authors_numbers(counter, key, expected):
    words = latents.philox([np.array(word) for word in counter], key)
    assert " ".join(f"{word:08x}" for word in words) == expected


@pytest.mark.parametrize("size", [1, 4, 7, 100])
def test_the_bits_are_tensorflows(size):
    key = latents.purpose_key("latents")
    ours = latents.random_bits(SEEDS ^ key, size, "latents")  # the key twice is no key
    theirs = [
        tf.random.stateless_uniform([size], seed, None, None, tf.uint32, alg="philox").numpy()
        for seed in SEEDS
    ]
    np.testing.assert_array_equal(ours, theirs)


def test_numpy_draws_what_the_zoo_draws():
    uniforms = uniform_per_seed(tf.constant(SEEDS), "component", 9)
    np.testing.assert_array_equal(latents.uniform(SEEDS, 9, "component"), uniforms)
    normals = normal_per_seed(tf.constant(SEEDS), 20_000)
    np.testing.assert_allclose(latents.normal(SEEDS, 20_000, "latents"), normals, atol=1e-6)


def test_graphs_draw_what_the_zoo_draws():
    bits = np.arange(0, 2**32, 2**9 * 37)  # both ends and, between them, every 37th value
    bits = np.append(bits, 2**32 - 1)
    expected = tf.math.ndtri(tf.constant((bits // 2**9 + 0.5) * 2.0**-23, tf.float32))
    np.testing.assert_allclose(runtimes._normal(tf.constant(bits)), expected, atol=2e-6)
    draws = runtimes._normal(runtimes._random_bits(tf.constant(SEEDS), 9, "latents"))
    np.testing.assert_allclose(draws, normal_per_seed(tf.constant(SEEDS), 9), atol=2e-6)


@pytest.mark.parametrize("size", [(12, 20), (37, 30)])
def test_grain_of_pictures_of_unknown_size(size):
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])])
    def grain(images):
        return runtimes._grain(images)

    padded = [-(-side // 4) * 4 for side in size]
    for ours, theirs in zip(grain(tf.zeros([1, *size, 3])), fixed_grain(*padded), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)
    known = runtimes._grain(tf.zeros([1, *size, 3]))
    np.testing.assert_array_equal(known[0], stateless_normal(known[0].shape, [0, 4]))


@pytest.mark.parametrize("form", runtimes.PACKAGES)
@pytest.mark.parametrize("name", marked(zoo.models.names()))
def test_every_endpoint_is_what_the_table_says(name, form, tmp_path):
    need(form)
    model = build(name)
    path = runtimes.write(model, tmp_path / name, form)  # RuntimeError if they do not agree
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    report = json.loads((path / "verification.json").read_text())
    assert report["batch_sizes"] == [1, 3, 16]
    differences = report["max_abs_difference"]
    assert (path / "latents.py").exists() == ("latents.py" in differences) == model.draws
    rows = table(name, form)
    assert set(rows) == set(model.endpoints())
    for endpoint, (_, convertible, refusal) in runtimes.endpoints(model, form).items():
        if runtimes._takes_any_size(model.endpoints()[endpoint]):
            yes = "yes, any size" if form == "onnx" else "yes, one size"
        else:
            yes = "yes"
        assert rows[endpoint] == (f"no: {refusal}" if refusal else yes)
        assert (endpoint in differences) != bool(refusal)
        if refusal:
            with pytest.raises(ValueError, match="not to be had in"):
                convert(model, form, convertible, tmp_path)
    run_the_readmes_program(path)


@pytest.mark.parametrize("form", runtimes.PACKAGES)
@pytest.mark.parametrize(
    ("operation", "body"),
    [
        (
            "StatelessRandomUniformFullIntV2",
            lambda x: tf.random.stateless_uniform(
                [2], tf.cast(x[:2], tf.int64), None, None, tf.uint32, "philox"
            ),
        ),
        ("EncodePng", lambda x: tf.io.encode_png(tf.cast(x, tf.uint8)[:, None, None])),
        ("DecodeImage", lambda x: tf.io.decode_image(tf.strings.as_string(x)[0])),
    ],
)
def test_an_operation_said_to_be_impossible_is(operation, body, form, small, tmp_path):
    need(form)
    signature = [tf.TensorSpec([None], tf.float32, name="x")]
    function = tf.function(lambda x: {"y": body(x)}, input_signature=signature, autograph=False)
    assert runtimes._refusal(function, form) == runtimes.IMPOSSIBLE[operation]
    with pytest.raises(ValueError, match="not to be had in"):
        convert(small, form, function, tmp_path)


def table(name: str, form: str) -> dict[str, str]:
    """Endpoint -> what export/README.md says of it."""
    column = 3 if form == "onnx" else 4
    rows = [line.split("|") for line in TABLE.read_text().splitlines()]
    return {
        row[2].strip(): row[column].strip() for row in rows if row[1:2] and row[1].strip() == name
    }


def convert(model, form: str, function, directory: pathlib.Path) -> None:
    if form == "onnx":
        runtimes.to_onnx(function)
    else:
        savedmodel.write_archive({"it": function}, directory / "saved_model")
        runtimes.to_litert(directory / "saved_model", ["it"])


def run_the_readmes_program(path: pathlib.Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (path / "README.md").read_text(), re.DOTALL)
    for name in ("images", "style_images"):
        Image.linear_gradient("L").resize((20, 12)).save(path / f"{name}.jpg")
    alone = 'import sys\nsys.modules["tensorflow"] = sys.modules["zoo"] = None\n'
    command = [sys.executable, "-c", alone + program]
    subprocess.run(command, cwd=path, check=True, capture_output=True)
    with Image.open(path / "pictures.png") as picture:
        assert picture.size in ((64, 8), (20, 12), (8, 8))


def test_a_model_that_differs_is_not_published(small, tmp_path, off_by_a_little):
    need("litert")
    with pytest.raises(RuntimeError, match="decode at batch 3: images differs by 0.001"):
        runtimes.write(small, tmp_path / "out", "litert")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", runtimes.PACKAGES)
def test_without_the_packages_the_extra_is_named(small, form, tmp_path, monkeypatch):
    monkeypatch.setitem(runtimes.PACKAGES, form, ("no_such_package",))
    with pytest.raises(UsageError, match=rf"needs no_such_package: .*'zoo-art\[{form}\]'"):
        runtimes.write(small, tmp_path / "out", form)


def test_nothing_is_written_over(small, tmp_path):
    need("litert")
    with pytest.raises(UsageError, match="is there already: remove it, or choose another --out"):
        runtimes.write(small, tmp_path, "litert")


def test_a_size_is_for_models_that_take_any(small, tmp_path):
    need("litert")
    with pytest.raises(UsageError, match="--image_size=16: this model's pictures are 8x8"):
        runtimes.write(small, tmp_path / "out", "litert", image_size=16)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", runtimes.PACKAGES)
def test_what_computes_in_bfloat16_is_refused(form, tmp_path):
    need(form)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build("dcgan")
    finally:
        keras.config.set_dtype_policy("float32")
    with pytest.raises(UsageError, match="can do nothing of this model: .* in bfloat16"):
        runtimes.write(model, tmp_path / "out", form)
    with pytest.raises(ValueError, match="not to be had in"):
        convert(model, form, model.endpoints()["decode"], tmp_path)


def test_the_command(tmp_path):
    need("litert")
    run_dir, out = tmp_path / "run", tmp_path / "served"
    commands.assert_done(commands.train(run_dir, "--total_steps=2"))
    arguments = [f"--run_dir={run_dir}", f"--out={out}"]
    done = commands.run("export", *arguments, "--format=onnx", "--image_size=8")
    commands.assert_refused(done, "--image_size is for --format=litert")
    done = commands.run("export", *arguments, "--format=litert")
    commands.assert_done(done)
    assert f"{out} from " in done.stdout
    assert "decode: verified in a fresh process" in done.stdout

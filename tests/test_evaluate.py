"""`python -m zoo.evaluate`: a run, its SavedModel and a folder of its pictures agree."""

import contextlib
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from zoo import runtime

tf = runtime.import_tensorflow()

from commands import enliven  # noqa: E402

import zoo.flags  # noqa: E402
from export import savedmodel  # noqa: E402
from zoo import evaluate, hooks, restore  # noqa: E402
from zoo.checkpoints import Checkpoints  # noqa: E402
from zoo.data import glyphs, scenes  # noqa: E402
from zoo.errors import UsageError  # noqa: E402
from zoo.generative import fold_seed, row_seeds, sample_images, to_float, to_uint8  # noqa: E402
from zoo.metrics.quality import SampleQuality  # noqa: E402
from zoo.metrics.reconstruction import measure  # noqa: E402
from zoo.rundir import Run  # noqa: E402

COUNT = 130
CGAN = ("--model=cgan", "--latent_dim=4", "--width=4")
VAE = ("--model=vae", "--latent_dim=4", "--width=4", "--hidden=8", "--importance_samples=3")
STYLE = ("--model=style", "--width=4", "--residual_blocks=1", "--styles=dots,glass")


@pytest.fixture(scope="module", autouse=True)
def small_data():
    """The data sets as they are, but for their number: by the code, not by a stand-in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyphs, "NUM_EXAMPLES", {"train": 300, "test": 200})
        patch.setattr(scenes, "NUM_EXAMPLES", {"train": 8, "test": 5})
        yield


def begun(path, shape, class_names, *arguments):
    """A run directory with one checkpoint, as training begins it."""
    settings = zoo.flags.parse_training([*arguments, f"--run_dir={path}"])
    model = restore.build_model(settings, shape, class_names)
    with contextlib.closing(Run.lock(path, settings.recorded())) as run:
        run.record(settings.recorded(), {"image_shape": shape, "class_names": class_names})
        if settings.run.model == "cgan":
            enliven(model.average_generator)
        Checkpoints(model.checkpoint(), run.checkpoints).save(0)
    return path, model


@pytest.fixture(scope="module")
def gan(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "cgan"
    return begun(path, (28, 28, 1), glyphs.CLASS_NAMES, *CGAN, "--seed=3")


@pytest.fixture(scope="module")
def served(gan, tmp_path_factory):
    directory = tmp_path_factory.mktemp("served")
    savedmodel.write(gan[1], directory)
    return directory


@pytest.fixture(scope="module")
def evaluated(gan):
    assert evaluate.main([f"--run_dir={gan[0]}", f"--num_samples={COUNT}", "--num_seeds=2"]) == 0
    return json.loads((gan[0] / "evaluation.json").read_text())


def test_a_run_is_measured_as_at_the_end_of_its_training(gan, evaluated):
    _, model = gan
    images, labels = glyphs.draw(range(200), split="test")
    expected = [
        SampleQuality(images[:COUNT], glyphs.CLASS_NAMES).measure(
            sample_images(model, seeds, model.default_labels(seeds)), model.default_labels(seeds)
        )
        for seeds in (row_seeds(fold_seed(seed, "quality"), COUNT) for seed in (3, 4))
    ]
    for name, value in evaluated["sample_measures"].items():
        values = [measures[name] for measures in expected]
        assert value == pytest.approx(np.mean(values))
        spread = evaluated["spread"]["sample_measures"][name]
        assert spread == pytest.approx(np.std(values, ddof=1), abs=1e-9)
    assert evaluated["sample_measures"]["class_accuracy"] < 0.5
    assert evaluated["real_measures"]["class_accuracy"] > 0.95
    assert evaluated["real_measures"]["fd_glyphs"] < 0.1 * evaluated["sample_measures"]["fd_glyphs"]
    examples = {"image": images, "label": labels}
    means = hooks.means(model, model.evaluate_batch, examples)
    assert evaluated["measures"] == pytest.approx(means)
    assert evaluated["novelty_measures"]["novelty_pixels"] > 0


def test_what_figures_depend_on_is_written_beside_them(gan, evaluated):
    protocol = evaluated["protocol"]
    assert (protocol["dataset"], protocol["split"]) == ("glyphs", "test")
    assert (protocol["seed"], protocol["num_seeds"]) == (3, 2)
    assert (protocol["num_samples"], protocol["num_real"]) == (COUNT, COUNT)
    assert len(protocol["extractor_hash"]) == len(protocol["reference_hash"]) == 12
    assert {"zoo", "tensorflow", "keras", "numpy"} <= set(evaluated["versions"])
    assert evaluated["subject"]["checkpoint"].endswith("step-0")
    assert evaluated["step"] == 0
    with Image.open(gan[0] / "evaluation.png") as sheet:
        assert sheet.size == (8 * 57 + 1, 8 * 57 + 1)  # 32 pairs, four in a row, enlarged twice


def test_what_is_served_has_the_figures_of_the_run(gan, served, evaluated, capsys):
    argv = [f"--saved_model={served}", "--dataset=glyphs", f"--num_samples={COUNT}"]
    assert evaluate.main([*argv, "--seed=3", "--num_seeds=2"]) == 0
    found = json.loads((served / "1" / "evaluation.json").read_text())
    assert found["sample_measures"] == pytest.approx(evaluated["sample_measures"], rel=1e-2)
    assert found["real_measures"] == pytest.approx(evaluated["real_measures"])
    evaluate.check_same_protocol(evaluated, found)
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if "fd_glyphs" in line)
    assert f"{found['sample_measures']['fd_glyphs']:.5g}" in line
    assert f"{found['real_measures']['fd_glyphs']:.4g}" in line
    assert "Too few samples" in out


def test_a_folder_of_pictures_has_the_figures_of_their_model(gan, evaluated, tmp_path):
    """Of the same pictures; a sub-folder a class, so that their classes are known."""
    _, model = gan
    seeds = row_seeds(fold_seed(3, "quality"), COUNT)
    labels = model.default_labels(seeds)
    images = sample_images(model, seeds, labels)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "drawn" / glyphs.CLASS_NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(folder / f"{number:03}.png")
    out = tmp_path / "folder.json"
    argv = [f"--samples={tmp_path / 'drawn'}", "--reference=glyphs", f"--out={out}"]
    assert evaluate.main(argv) == 0
    found = json.loads(out.read_text())["sample_measures"]
    real = glyphs.draw(range(COUNT), split="test")[0]
    expected = SampleQuality(real, glyphs.CLASS_NAMES).measure(images, labels)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


def pictures(directory, count, size=16, seed=0):
    directory.mkdir()
    random = np.random.Generator(np.random.PCG64(seed))
    for number in range(count):
        pixels = random.integers(0, 256, [size, size, 3]).astype(np.uint8)
        Image.fromarray(pixels).save(directory / f"{number}.png")
    return directory


def test_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours, theirs = pictures(tmp_path / "a", 12), pictures(tmp_path / "b", 14, seed=1)
    assert evaluate.main([f"--samples={ours}", f"--reference={theirs}"]) == 0
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert (found["protocol"]["num_samples"], found["protocol"]["num_real"]) == (12, 12)
    assert "fd_paintings" in found["sample_measures"]
    assert "novelty_measures" not in found


def test_mixed_sizes_are_refused_unless_they_are_cut(tmp_path):
    folder = pictures(tmp_path / "a", 8)
    Image.new("RGB", (20, 16)).save(folder / "wide.png")
    argv = [f"--samples={folder}", f"--reference={folder}", f"--out={tmp_path / 'out.json'}"]
    with pytest.raises(UsageError, match=r"16x16 \(.\.png\) and 20x16 \(wide\.png\).*--image_size"):
        evaluate.main(argv)
    assert evaluate.main([*argv, "--image_size=16"]) == 0


def test_pictures_in_colour_are_not_compared_with_grey_ones(tmp_path):
    folder = pictures(tmp_path / "a", 8, size=28)
    with pytest.raises(UsageError, match="in colour; the reference is grey"):
        evaluate.main([f"--samples={folder}", "--reference=glyphs", f"--out={tmp_path}/o.json"])


def test_an_autoencoder_is_measured_by_what_it_gives_back(tmp_path):
    path, model = begun(tmp_path / "vae", (28, 28, 1), glyphs.CLASS_NAMES, *VAE)
    assert evaluate.main([f"--run_dir={path}", "--num_samples=100", "--checkpoint=last"]) == 0
    found = json.loads((path / "evaluation.json").read_text())
    images, _ = glyphs.draw(range(200), split="test")
    answers = to_uint8(model(to_float(tf.constant(images[:100]))).numpy())
    reconstruction = found["reconstruction_measures"]
    active = int(np.sum(np.var(model.embed(images), axis=0, ddof=1) > 0.01))
    assert reconstruction.pop("active_units") == active
    assert reconstruction == pytest.approx(measure(images[:100], answers), rel=1e-3)
    terms = found["measures"]
    assert terms["negative_elbo"] == pytest.approx(terms["reconstruction"] + terms["kl"])
    thorough = found["thorough_measures"]
    nats = thorough["importance_weighted_nll"]
    bits = thorough["importance_weighted_bits_per_dim"]
    assert bits == pytest.approx(nats / (784 * np.log(2)))
    assert nats < terms["negative_elbo"] + 5
    assert found["protocol"]["importance_samples"] == 3


def test_a_model_that_repaints_is_measured_layer_by_layer(tmp_path):
    path, _ = begun(tmp_path / "style", (32, 32, 3), ("dots", "glass"), *STYLE, "--image_size=32")
    assert evaluate.main([f"--run_dir={path}", "--checkpoint=last"]) == 0
    found = json.loads((path / "evaluation.json").read_text())
    layers = [value for name, value in found["measures"].items() if name.startswith("style/")]
    assert len(layers) == 4
    assert found["measures"]["style"] == pytest.approx(np.mean(layers), rel=1e-5)
    assert "sample_measures" not in found
    assert found["protocol"]["perceptual"] == "random"
    with pytest.raises(UsageError, match="draws none"):
        evaluate.main([f"--run_dir={path}", "--num_samples=10"])


def test_figures_of_another_protocol_are_not_replaced_unasked(gan, tmp_path):
    path = shutil.copytree(gan[0], tmp_path / "run", ignore=shutil.ignore_patterns("evaluation.*"))
    argv = [f"--run_dir={path}", "--checkpoint=last"]
    assert evaluate.main([*argv, "--num_samples=40"]) == 0
    before = (path / "evaluation.json").read_bytes()
    with pytest.raises(UsageError, match="num_real was 40, is 50; .*--overwrite"):
        evaluate.main([*argv, "--num_samples=50"])
    assert (path / "evaluation.json").read_bytes() == before
    assert evaluate.main([*argv, "--num_samples=50", "--overwrite"]) == 0
    (path / "evaluation.json").write_text("{")
    with pytest.raises(UsageError, match="evaluation.json: cannot be read"):
        evaluate.main(argv)


def test_broken_weights_are_named(gan, tmp_path):
    path = shutil.copytree(gan[0], tmp_path / "run", ignore=shutil.ignore_patterns("evaluation.*"))
    model = restore.restore(path, "last").model
    model.average_generator.weights[0].assign(
        np.full(model.average_generator.weights[0].shape, np.nan)
    )
    Checkpoints(model.checkpoint(), path / "checkpoints").save(1)
    with pytest.raises(UsageError, match="NaN or infinite values: its weights are broken"):
        evaluate.main([f"--run_dir={path}", "--num_samples=40"])
    assert not (path / "evaluation.json").exists()


def test_wrong_subjects_are_refused_in_one_line(gan, served, tmp_path):
    run, model = f"--run_dir={gan[0]}", f"--saved_model={served}"
    empty = tmp_path / "empty"
    empty.mkdir()
    broken = shutil.copytree(served, tmp_path / "broken")
    (broken / "1" / "saved_model.pb").write_bytes(b"no protocol buffer")
    other = tmp_path / "other"
    archive = tf.Module()
    archive.double = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec([], tf.float32)])
    tf.saved_model.save(archive, str(other), signatures={"double": archive.double})
    for argv, words in (
        ([], "nothing to evaluate"),
        ([run, model], "--run_dir and --saved_model to evaluate"),
        ([model], "--saved_model needs --dataset"),
        ([f"--samples={empty}"], "--samples needs --reference"),
        ([f"--samples={empty}", "--reference=glyphs"], "0 pictures found"),
        ([f"--run_dir={empty}"], "not a run directory"),
        ([f"--saved_model={empty}", "--dataset=glyphs"], "expected the directory of a SavedModel"),
        ([f"--saved_model={broken}", "--dataset=glyphs"], "cannot be loaded"),
        ([f"--saved_model={other}", "--dataset=glyphs"], "expected a signature `sample`"),
        ([model, "--dataset=paintings"], "has pictures of shape"),
        ([run, "--split=validation", f"--out={tmp_path}/a.json"], "unknown split 'validation'"),
        ([run, "--num_samples=5", f"--out={tmp_path}/a.json"], "5 real images: expected at least"),
        ([run, f"--out={tmp_path}/a.txt"], "ending in .json"),
        ([run, "--num_samples=0"], "--num_samples=0"),
        ([run, "--reference=glyphs"], "expected --dataset"),
        ([run, "--image_size=32"], "its own size"),
    ):
        with pytest.raises(UsageError, match=words) as raised:
            evaluate.main(argv)
        assert "\n" not in str(raised.value)

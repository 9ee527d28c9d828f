"""Hooks: means in float64, who is the best, walks that close, files that TensorBoard reads."""

import numpy as np
import pytest

from zoo import runtime

tf = runtime.import_tensorflow()

from commands import enliven  # noqa: E402
from tensorboard.backend.event_processing.event_accumulator import (  # noqa: E402
    EventAccumulator,
)

from experiments import measure  # noqa: E402
from zoo import hooks, pictures  # noqa: E402
from zoo.adversarial import JUDGED_AFTER  # noqa: E402
from zoo.checkpoints import Best  # noqa: E402
from zoo.data import glyphs  # noqa: E402
from zoo.generative import interpolate, row_seeds, sample_images, to_uint8  # noqa: E402
from zoo.loop import Block, CollapseError  # noqa: E402
from zoo.metrics.quality import SampleQuality  # noqa: E402
from zoo.models import cgan, vae  # noqa: E402


def build():
    return vae.build(vae.TINY, image_shape=(8, 8, 1), num_classes=10, total_steps=10)


def build_conditional():
    return cgan.build(cgan.TINY, image_shape=(8, 8, 1), num_classes=10, total_steps=10)


def examples(count):
    images, labels = glyphs.draw(range(count), image_size=8)
    return {"image": images, "label": labels}


@pytest.mark.parametrize("count", [3, 500, 1203])
def test_means_are_over_all_examples_whatever_the_batches(count):
    def brightness(batch, noise):
        values = tf.cast(batch["image"], tf.float32)
        return {"brightness": tf.reduce_mean(values, [1, 2, 3])}

    data = examples(count)
    found = hooks.means(build(), brightness, data)
    assert found["brightness"] == pytest.approx(data["image"].mean(), rel=1e-6)


def test_the_noise_of_means_is_the_same_at_every_step_and_differs_by_batch():
    model, drawn = build(), []

    def draw(batch, noise):
        return {"draw": noise.normal("draw")}

    for step in (0, 100):
        model.step.assign(step)
        drawn.append(hooks.means(model, draw, examples(1000))["draw"])
    assert drawn[0] == drawn[1]
    assert abs(drawn[0]) < 0.2
    half = hooks.means(model, draw, examples(500))["draw"]
    assert half != drawn[0]


def events(directory):
    return EventAccumulator(str(directory), size_guidance={"tensors": 0}).Reload()


def test_evaluation_offers_the_state_with_its_selection_measure(tmp_path):
    model, data = build(), examples(600)
    best = Best(model.checkpoint(), tmp_path / "best")
    writer = tf.summary.create_file_writer(str(tmp_path))
    hooks.Evaluate(writer, data, best=best)(5, model)
    writer.flush()
    record = best.record()
    means = hooks.means(model, model.evaluate_batch, data)
    assert (record["step"], record["measure"]) == (5, "negative_elbo")
    assert record["value"] == means["negative_elbo"]
    written = events(tmp_path)
    assert set(written.Tags()["tensors"]) == set(model.evaluation_names)


def test_a_model_judged_by_its_samples_is_measured_by_them(tmp_path, monkeypatch):
    """An untrained net draws grey: by its distance it would be the best so far, but it is none."""
    monkeypatch.setattr(hooks, "PERIODIC_SAMPLES", 70)
    model, data = build_conditional(), examples(100)
    model.step.assign(JUDGED_AFTER)
    quality = SampleQuality(data["image"])
    best = Best(model.checkpoint(), tmp_path / "best")
    writer = tf.summary.create_file_writer(str(tmp_path))
    evaluate = hooks.Evaluate(writer, data, quality, best)
    with pytest.raises(CollapseError, match="collapsed by step 7: .* diversity"):
        evaluate(7, model)
    assert best.record() is None
    monkeypatch.setattr(model, "collapse", lambda measures, before: "")
    evaluate(8, model)
    writer.flush()
    measured = hooks.sample_measures(model, quality, 70)
    assert (best.record()["step"], best.record()["measure"]) == (8, quality.frechet_name)
    assert best.record()["value"] == measured[quality.frechet_name]
    written = events(tmp_path)
    for name, value in measured.items():
        values = {
            e.step: tf.make_ndarray(e.tensor_proto) for e in written.Tensors(f"samples/{name}")
        }
        assert list(values) == [7, 8]  # a collapse can be looked at
        assert values[8] == pytest.approx(value)
    for name in model.histograms(data):
        assert written.SummaryMetadata(name).plugin_data.plugin_name == "histograms"


def test_measured_samples_are_of_all_classes_and_of_no_sheet(monkeypatch):
    drawn = []

    class Spy:
        def measure(self, images, labels):
            drawn.append((images, labels))
            return {}

    model = build_conditional()
    enliven(model.average_generator)
    for _ in range(2):
        hooks.sample_measures(model, Spy(), 20)
    images, labels = drawn[0]
    assert sorted(labels) == sorted([*range(10)] * 2)
    assert np.array_equal(images, drawn[1][0])
    for seed in (model.seed, 1):
        sheet = sample_images(model, row_seeds(seed, 20), labels)
        assert not any(np.array_equal(a, b) for a in images for b in sheet)


def test_a_conditional_walk_stays_in_the_class_of_its_first_seed():
    model = build_conditional()
    enliven(model.average_generator)
    walked = hooks.walk(model, seed=4, count=3, frames=2)
    assert np.array_equal(
        walked, hooks.walk(model, seed=4, count=3, frames=2, labels=np.full(3, 4))
    )
    other = hooks.walk(model, seed=4, count=3, frames=2, labels=np.full(3, 5))
    assert not np.array_equal(walked, other)


def test_a_path_meets_its_anchors_and_closes():
    anchors = np.array([[1.0, 0.0], [0.0, 3.0], [-2.0, 0.1]])
    path = interpolate(anchors, 10)
    assert path.shape == (30, 2)
    assert path.dtype == np.float32
    np.testing.assert_allclose(path[::10], anchors, atol=1e-6)
    # A quarter turn at an even pace, its length growing evenly from 1 to 3.
    angles = np.arctan2(path[:10, 1], path[:10, 0])
    np.testing.assert_allclose(angles, np.arange(10) * np.pi / 20, atol=1e-6)
    np.testing.assert_allclose(
        np.linalg.norm(path[:10], axis=1), 1 + 0.2 * np.arange(10), rtol=1e-6
    )
    steps = np.linalg.norm(np.diff(np.concatenate([path, path[:1]]), axis=0), axis=1)
    assert steps.max() < 1.0


@pytest.mark.parametrize("second", [[2.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
def test_straight_and_opposite_directions_are_walked_straight(second):
    path = interpolate(np.array([[1.0, 0.0], second]), 4)
    assert np.isfinite(path).all()
    np.testing.assert_allclose(path[2], (np.array([1.0, 0.0]) + second) / 2, atol=1e-6)


def test_a_walk_shows_what_its_latents_decode_to():
    model = build()
    frames = hooks.walk(model, seed=4, count=3, frames=5, sampler="prior")
    assert frames.shape == (15, 8, 8, 1)
    seeds = tf.constant([[4, 0], [4, 1], [4, 2]], tf.int64)
    anchors = to_uint8(model.sample(seeds, sampler="prior").numpy())
    difference = frames[::5].astype(int) - anchors
    assert np.abs(difference).max() <= 1


def test_the_projector_files_fit_together(tmp_path):
    model, data = build(), examples(7)
    names = tuple("abcdefghij")
    hooks.write_projector(tmp_path, model, data["image"], data["label"], names)
    latents = np.loadtxt(tmp_path / "latents.tsv", delimiter="\t")
    np.testing.assert_allclose(latents, model.embed(data["image"]), rtol=1e-3, atol=1e-4)
    assert (tmp_path / "classes.tsv").read_text().split("\n") == list("abcdefg")
    config = (tmp_path / "projector_config.pbtxt").read_text()
    assert all((tmp_path / name).exists() for name in ("latents.tsv", "classes.tsv"))
    assert '"thumbnails.png" single_image_dim: 8 single_image_dim: 8' in config
    with pictures.Image.open(tmp_path / "thumbnails.png") as sprite:
        assert sprite.size == (24, 24)  # 3 x 3 places for 7 thumbnails
        assert (np.asarray(sprite)[:8, 8:16] == data["image"][1, ..., 0]).all()


def test_scalars_of_many_blocks_take_no_memory(tmp_path):
    """TensorFlow's eager constants keep every different Python float: 5 MiB of these calls."""
    scalars = hooks.Scalars(tf.summary.create_file_writer(str(tmp_path)), 4)

    def call(number: int) -> None:
        scalars(Block(number, {"loss": number / 7, "kl": number / 11}, number / 13, 0.1))

    for number in range(500):
        call(number)
    before = measure.resident_bytes()
    for number in range(500, 2500):
        call(number)
    assert measure.resident_bytes() - before < 2 * 2**20

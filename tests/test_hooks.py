"""Hooks: means in float64, walks that close, files that TensorBoard reads."""

import numpy as np
import pytest

from zoo import runtime

tf = runtime.import_tensorflow()

from zoo import hooks, pictures  # noqa: E402
from zoo.data import glyphs  # noqa: E402
from zoo.generative import to_uint8  # noqa: E402
from zoo.models import vae  # noqa: E402


def build():
    return vae.build(vae.TINY, image_shape=(8, 8, 1), num_classes=10, total_steps=10)


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


def test_a_path_meets_its_anchors_and_closes():
    anchors = np.array([[1.0, 0.0], [0.0, 3.0], [-2.0, 0.1]])
    path = hooks.interpolate(anchors, 10)
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
    path = hooks.interpolate(np.array([[1.0, 0.0], second]), 4)
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

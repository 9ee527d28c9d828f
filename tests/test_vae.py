"""What is special to the VAE: nets, likelihoods, bounds and the mixture that it samples."""

import keras
import numpy as np
import pytest

from zoo import runtime

tf = runtime.import_tensorflow()

from zoo.data import glyphs, paintings, pipeline  # noqa: E402
from zoo.errors import UsageError  # noqa: E402
from zoo.generative import Noise, row_seeds  # noqa: E402
from zoo.loop import Loop  # noqa: E402
from zoo.models import vae  # noqa: E402


def build(image_shape=(28, 28, 1), num_classes=10, total_steps=100, **fields):
    keras.utils.set_random_seed(3)
    return vae.build(
        vae.Config(**fields),
        image_shape=image_shape,
        num_classes=num_classes,
        total_steps=total_steps,
        seed=3,
    )


def dense(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


def conv(size: int, inputs: int, outputs: int) -> int:
    return (size * size * inputs + 1) * outputs


def test_the_default_nets_have_the_documented_layers():
    encoder = conv(8, 1, 64) + dense(7 * 7 * 64, 256) + dense(256, 2 * 16)
    decoder = dense(16, 256) + dense(256, 7 * 7 * 64)
    decoder += conv(4, 64, 32) + conv(3, 32, 32) + conv(3, 32, 4)
    model = build()
    assert model.encoder.count_params() == encoder
    assert model.decoder.count_params() == decoder
    assert model.mixture.count_params() == 10 * 17 * 17
    assert model.count_params() == encoder + decoder + 2890


def test_the_mlp_is_784_400_40():
    model = build(architecture="mlp", hidden=400, latent_dim=40)
    assert model.encoder.count_params() == dense(784, 400) + dense(400, 2 * 40)
    assert model.decoder.count_params() == dense(40, 400) + dense(400, 784)


@pytest.mark.parametrize(
    "shape", [(8, 8, 1), (28, 28, 1), (36, 36, 3), (32, 64, 3), (100, 100, 1), (128, 128, 3)]
)
def test_any_multiple_of_four_is_reconstructed_at_its_own_size(shape):
    model = build(image_shape=shape, width=4, hidden=8)
    images = np.zeros((2, *shape), np.uint8)
    assert model(tf.constant(images)).shape == (2, *shape)


def test_other_sizes_are_refused_with_a_way_out():
    with pytest.raises(UsageError, match="30x28.*multiples of 4.*--architecture=mlp"):
        build(image_shape=(30, 28, 1))
    model = build(image_shape=(30, 29, 1), architecture="mlp", hidden=8)
    assert model(tf.zeros([1, 30, 29, 1])).shape == (1, 30, 29, 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"latent_dim": 0},
        {"width": -1},
        {"hidden": 0},
        {"learning_rate": 0.0},
        {"beta": -1.0},
        {"warmup_steps": -1},
        {"mixture_components": 0},
        {"importance_samples": 0},
    ],
)
def test_bad_config_values_are_named(fields):
    name, value = next(iter(fields.items()))
    with pytest.raises(UsageError, match=f"--{name}={value}"):
        vae.Config(**fields)


def test_the_data_choose_the_likelihood():
    assert build().likelihood == "bernoulli"
    assert build(image_shape=(28, 28, 3)).likelihood == "discretized_logistic"
    assert build(image_shape=(28, 28, 3), likelihood="gaussian").likelihood == "gaussian"


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "discretized_logistic"])
def test_every_likelihood_learns_colour(likelihood):
    images, labels = paintings.draw(range(64), image_size=16)
    model = build((16, 16, 3), likelihood=likelihood, width=8, hidden=32, total_steps=120)
    data = {"image": images, "label": labels}
    loop = Loop(model, lambda step, context: pipeline.batches(data, 32), total_steps=120)
    first = loop.run_block(10).scalars["loss"]
    loop.run_block(100)
    last = loop.run_block(10).scalars["loss"]
    assert last < first - 20


def batch(count=50):
    images, labels = glyphs.draw(range(count))
    return {"image": tf.constant(images), "label": tf.constant(labels)}


def test_beta_weighs_the_kl_and_nothing_else():
    noise = Noise(0, tf.constant(0), 50)
    plain = build().compute_losses(batch(), noise, training=False)
    heavy = build(beta=4.0).compute_losses(batch(), noise, training=False)
    np.testing.assert_array_equal(plain.reports["kl"], heavy.reports["kl"])
    expected = plain.reports["reconstruction"] + 4 * plain.reports["kl"]
    np.testing.assert_allclose(heavy.objectives["loss"], expected, rtol=1e-6)
    measures = build(beta=4.0).evaluate_batch(batch(), noise)
    np.testing.assert_allclose(measures["negative_elbo"], plain.objectives["loss"], rtol=1e-6)


def test_the_importance_weighted_bound_with_one_sample_is_an_elbo_and_tightens():
    """With K = 1 its mean over noise is the ELBO; more samples only lower it (Burda, thm. 1)."""
    bounds = {}
    for samples in (1, 30):
        model = build(importance_samples=samples)
        values = [
            model.thorough_measures(batch(), Noise(0, tf.constant(step), 50))
            for step in range(40 // samples + 1)
        ]
        bounds[samples] = np.mean([v["importance_weighted_nll"].numpy() for v in values])
    elbos = [
        build().evaluate_batch(batch(), Noise(1, tf.constant(step), 50))["negative_elbo"].numpy()
        for step in range(41)
    ]
    assert bounds[1] == pytest.approx(np.mean(elbos), abs=0.2)
    assert bounds[30] < bounds[1]


def test_the_bound_is_exact_where_the_likelihood_ignores_latents():
    """log p(x) is then known: both bounds differ from it by the KL alone, or not at all."""
    model = build(image_shape=(8, 8, 1), width=4, hidden=8, importance_samples=500)
    for weight in model.decoder.trainable_weights:
        weight.assign(tf.zeros_like(weight))
    for weight in model.encoder.layers[-1].trainable_weights:
        weight.assign(0.3 * tf.ones_like(weight))
    images, labels = glyphs.draw(range(4), image_size=8)
    noise = Noise(0, tf.constant(0), 4)
    bound = model.thorough_measures({"image": tf.constant(images)}, noise)
    exact = 64 * np.log(2)
    np.testing.assert_allclose(bound["importance_weighted_nll"], exact, rtol=0.02)
    elbo = model.evaluate_batch({"image": tf.constant(images), "label": labels}, noise)
    np.testing.assert_allclose(elbo["negative_elbo"] - elbo["kl"], exact, rtol=1e-5)


def two_clouds(count=4000):
    random = np.random.Generator(np.random.PCG64(1))
    labels = random.integers(0, 2, count).astype(np.int32)
    centres = np.array([[4.0, 0.0], [-3.0, 2.0]])
    skew = np.array([[1.0, 0.8], [0.0, 0.5]])
    values = centres[labels] + random.standard_normal((count, 2)) @ skew
    return values.astype(np.float32), labels, centres, skew.T @ skew


@pytest.mark.parametrize("labelled", [True, False])
def test_the_mixture_finds_the_clouds_it_is_shown(labelled):
    values, labels, centres, covariance = two_clouds()
    keras.utils.set_random_seed(0)
    mixture = vae.Mixture(2, 2)
    variance = 0.01
    logvar = tf.fill([100, 2], float(np.log(variance)))
    for start in [*range(0, 4000, 100)] * 15:
        rows = slice(start, start + 100)
        mixture.update(
            tf.constant(values[rows]), logvar, tf.constant(labels[rows]) if labelled else None
        )
    share, mean, factor = (value.numpy() for value in mixture.gaussians())
    order = np.argsort(-mean[:, 0])
    np.testing.assert_allclose(share[order], [1 - labels.mean(), labels.mean()], atol=0.05)
    np.testing.assert_allclose(mean[order], centres, atol=0.25)
    for component in order:
        found = factor[component] @ factor[component].T
        expected = covariance + (variance + 1e-3) * np.eye(2)
        np.testing.assert_allclose(found, expected, atol=0.3)


def test_the_mixture_draws_what_it_has_found():
    values, labels, centres, covariance = two_clouds()
    mixture = vae.Mixture(2, 2)
    for start in [*range(0, 4000, 100)] * 10:
        rows = slice(start, start + 100)
        mixture.update(
            tf.constant(values[rows]), tf.fill([100, 2], -12.0), tf.constant(labels[rows])
        )
    random = np.random.Generator(np.random.PCG64(2))
    draws = tf.constant(random.standard_normal((20_000, 2)), tf.float32)
    ones = mixture.sample(draws, tf.zeros([20_000]), tf.ones([20_000], tf.int32)).numpy()
    np.testing.assert_allclose(ones.mean(0), centres[1], atol=0.15)
    np.testing.assert_allclose(np.cov(ones.T), covariance, atol=0.15)
    uniforms = tf.constant(random.random(20_000), tf.float32)
    both = mixture.sample(draws, uniforms, None).numpy()
    assert np.mean(both[:, 0] > 0.5) == pytest.approx(1 - labels.mean(), abs=0.05)


def test_a_component_that_is_never_seen_is_never_drawn_nor_breaks_the_others():
    mixture = vae.Mixture(3, 2)
    values, labels, _, _ = two_clouds()
    for _ in range(60):
        for start in range(0, 4000, 100):
            rows = slice(start, start + 100)
            mixture.update(
                tf.constant(values[rows]), tf.fill([100, 2], -12.0), tf.constant(labels[rows])
            )
    share, mean, factor = mixture.gaussians()
    assert float(share[2]) < 1e-5
    assert all(np.isfinite(value.numpy()).all() for value in (share, mean, factor))


def test_samplers_and_labels():
    model = build(width=4, hidden=8)
    seeds = tf.constant(row_seeds(0, 4))
    prior = model.sample_latents(seeds, sampler="prior").numpy()
    again = build(width=4, hidden=8).sample_latents(seeds, sampler="prior").numpy()
    np.testing.assert_array_equal(prior, again)
    assert np.abs(prior - model.sample_latents(seeds).numpy()).max() > 0.1
    with pytest.raises(UsageError, match="prior"):
        model.sample_latents(seeds, tf.zeros([4], tf.int32), sampler="prior")


def test_a_short_training_gives_recognisable_classes():
    """Samples of a label are nearer to that class's mean picture than to any other's."""
    images, labels = glyphs.draw(range(2000))
    model = build(total_steps=250)
    data = {"image": images, "label": labels}
    Loop(model, lambda step, context: pipeline.batches(data, 64), total_steps=250).train()
    means = np.stack([images[labels == label].mean(0) for label in range(10)]) / 255.0
    wanted = np.repeat(np.arange(10, dtype=np.int32), 20)
    drawn = model.sample(tf.constant(row_seeds(0, 200)), tf.constant(wanted)).numpy()
    distance = ((drawn[:, None] - means[None]) ** 2).sum((2, 3, 4))
    assert np.mean(distance.argmin(1) == wanted) > 0.7


def test_the_learning_rate_rises_then_falls_to_a_hundredth():
    schedule = vae.optimizers(vae.Config(), 1000)["loss"]._learning_rate
    assert float(schedule(0)) == pytest.approx(4e-4)
    assert float(schedule(100)) == pytest.approx(4e-3)
    assert float(schedule(1000)) == pytest.approx(4e-5)

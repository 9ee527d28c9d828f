"""Losses against closed forms and independent NumPy computations, gradients included."""

import math

import numpy as np
import pytest

from zoo import runtime

tf = runtime.import_tensorflow()

from zoo import losses  # noqa: E402

RANDOM = np.random.Generator(np.random.PCG64(0))


def grey(shape=(3, 4, 4, 1)):
    return RANDOM.random(shape).astype(np.float32)


def eight_bit(shape=(3, 4, 4, 3)):
    return (RANDOM.integers(0, 256, shape) / 255).astype(np.float32)


def test_bernoulli_nll_is_the_cross_entropy_summed_over_pixels():
    images, logits = grey(), 3 * RANDOM.standard_normal((3, 4, 4, 1)).astype(np.float32)
    chance = 1 / (1 + np.exp(-logits.astype("f8")))
    expected = -(images * np.log(chance) + (1 - images) * np.log1p(-chance)).sum((1, 2, 3))
    np.testing.assert_allclose(losses.bernoulli_nll(images, logits), expected, rtol=1e-5)
    # 784 fair coins.
    coins = losses.bernoulli_nll(tf.ones([1, 28, 28, 1]), tf.zeros([1, 28, 28, 1]))
    assert float(coins[0]) == pytest.approx(784 * math.log(2), rel=1e-6)


def test_bernoulli_nll_stays_finite_at_large_logits():
    logits = tf.constant([[[[-100.0], [100.0]]]])
    assert float(losses.bernoulli_nll(tf.constant([[[[0.0], [1.0]]]]), logits)[0]) == 0.0
    assert float(losses.bernoulli_nll(tf.constant([[[[1.0], [0.0]]]]), logits)[0]) == 200.0


def test_bernoulli_entropy_is_the_floor_of_the_cross_entropy():
    images = np.clip(grey(), 0.01, 0.99)
    floor = losses.bernoulli_entropy(images)
    best = losses.bernoulli_nll(images, np.log(images / (1 - images)))
    np.testing.assert_allclose(floor, best, rtol=1e-5)
    assert float(losses.bernoulli_entropy(tf.fill([1, 2, 2, 1], 0.5))[0]) == pytest.approx(
        4 * math.log(2)
    )
    black_and_white = tf.constant([[[[0.0], [1.0]]]])
    assert float(losses.bernoulli_entropy(black_and_white)[0]) == 0.0


def test_gaussian_nll_is_minus_the_log_density():
    images, mean = eight_bit(), eight_bit()
    log_scale = np.array([-1.0, 0.0, 0.5], np.float32)
    scale = np.exp(log_scale.astype("f8"))
    density = np.exp(-0.5 * ((images - mean) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))
    expected = -np.log(density).sum((1, 2, 3))
    np.testing.assert_allclose(losses.gaussian_nll(images, mean, log_scale), expected, rtol=1e-5)


def test_the_best_gaussian_scale_is_the_root_mean_square_error():
    """Rybkin et al. 2021, equation 8: there the derivative of the likelihood vanishes."""
    images, mean = eight_bit(), eight_bit()
    log_scale = tf.constant(0.5 * np.log(np.mean((images - mean) ** 2)))
    with tf.GradientTape() as tape:
        tape.watch(log_scale)
        nll = tf.reduce_sum(losses.gaussian_nll(images, mean, log_scale))
    assert float(tape.gradient(nll, log_scale)) == pytest.approx(0.0, abs=1e-3)


def logistic_bin(value: int, mean: float, scale: float) -> float:
    def below(edge: float) -> float:
        return 1 / (1 + math.exp(-(edge - mean) / scale))

    upper = 1.0 if value == 255 else below((value + 0.5) / 255)
    lower = 0.0 if value == 0 else below((value - 0.5) / 255)
    return upper - lower


@pytest.mark.parametrize("scale", [0.003, 0.05, 1.0])
def test_discretized_logistic_gives_each_of_256_values_its_bin(scale):
    mean, log_scale = 0.4, math.log(scale)
    values = tf.reshape(tf.range(256, dtype=tf.float32) / 255, [256, 1, 1, 1])
    nll = losses.discretized_logistic_nll(values, tf.fill([256, 1, 1, 1], mean), log_scale).numpy()
    probabilities = np.array([logistic_bin(value, mean, scale) for value in range(256)])
    assert probabilities.sum() == pytest.approx(1.0)
    assert np.exp(-nll.astype("f8")).sum() == pytest.approx(1.0, abs=1e-4)
    clear = probabilities > 1e-12  # beyond, the reference itself cancels
    np.testing.assert_allclose(nll[clear], -np.log(probabilities[clear]), rtol=2e-3, atol=1e-4)


def test_discretized_logistic_has_finite_gradients_far_from_the_mean():
    images = tf.constant(eight_bit())
    mean = tf.Variable(1.0 - images)
    log_scale = tf.Variable([-7.0, -7.0, -7.0])
    with tf.GradientTape() as tape:
        nll = losses.discretized_logistic_nll(images, mean, log_scale)
    for gradient in tape.gradient(nll, [mean, log_scale]):
        assert np.isfinite(gradient.numpy()).all()


def test_gaussian_kl_is_the_closed_form_and_its_estimate():
    mean = np.array([[0.0, 0.0], [1.0, -2.0]], np.float32)
    logvar = np.array([[0.0, 0.0], [math.log(0.25), 0.5]], np.float32)
    kl = losses.gaussian_kl(mean, logvar).numpy()
    assert kl[0] == 0.0
    variance = np.exp(logvar[1])
    assert kl[1] == pytest.approx(0.5 * np.sum(mean[1] ** 2 + variance - 1 - logvar[1]))
    # E_q[log q - log p] by 200,000 draws.
    draws = mean[1] + np.sqrt(variance) * RANDOM.standard_normal((200_000, 2))
    ratio = losses.gaussian_log_density(
        tf.constant(draws, tf.float32), mean[1], logvar[1]
    ) - losses.gaussian_log_density(tf.constant(draws, tf.float32), 0.0, 0.0)
    assert float(tf.reduce_mean(ratio)) == pytest.approx(float(kl[1]), abs=0.02)


def test_gaussian_log_density_is_the_normal_one():
    values = RANDOM.standard_normal((5, 3)).astype(np.float32)
    expected = (-0.5 * values**2 - 0.5 * math.log(2 * math.pi)).sum(-1)
    np.testing.assert_allclose(losses.gaussian_log_density(values, 0.0, 0.0), expected, rtol=1e-5)
    shifted = losses.gaussian_log_density(2 * values + 1, 1.0, math.log(4.0))
    np.testing.assert_allclose(shifted, expected - 3 * math.log(2), rtol=1e-5)


def test_importance_weighted_bound_averages_weights_not_their_logs():
    log_weights = np.log(np.array([[1.0, 2.0], [3.0, 2.0]], np.float32))
    np.testing.assert_allclose(
        losses.importance_weighted_bound(log_weights), np.log([2.0, 2.0]), rtol=1e-6
    )
    one = RANDOM.standard_normal((1, 4)).astype(np.float32)
    np.testing.assert_allclose(losses.importance_weighted_bound(one), one[0], rtol=1e-6)
    huge = tf.constant([[-2000.0], [-2001.0]])
    assert np.isfinite(losses.importance_weighted_bound(huge).numpy()).all()

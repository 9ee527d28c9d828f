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


def random_array(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


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


KINDS = ("non_saturating", "least_squares", "hinge", "wasserstein")
LOGITS = np.array([-7.0, -2.5, -0.6, 0.3, 0.8, 1.7, 6.0])  # beside the corners of hinge, -1 and 1


def chance(logits):
    return 1 / (1 + np.exp(-logits))


def paid_for_real(kind: str, logits, smoothing=0.0):
    target = 1 - smoothing
    return {
        # The cross-entropy with that target.
        "non_saturating": -target * np.log(chance(logits))
        - (1 - target) * np.log(1 - chance(logits)),
        "least_squares": (logits - target) ** 2 / 2,
        "hinge": np.maximum(0, 1 - logits),
        "wasserstein": -logits,
    }[kind]


def paid_for_fake(kind: str, logits):
    return {
        "non_saturating": -np.log(1 - chance(logits)),
        "least_squares": logits**2 / 2,
        "hinge": np.maximum(0, 1 + logits),
        "wasserstein": logits,
    }[kind]


def paid_by_generator(kind: str, logits):
    return {
        "non_saturating": -np.log(chance(logits)),
        "least_squares": (logits - 1) ** 2 / 2,
        "hinge": -logits,
        "wasserstein": -logits,
    }[kind]


def assert_value_and_slope(ours, formula) -> None:
    logits = tf.constant(LOGITS, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        paid = ours(logits)
    assert paid.shape == logits.shape
    np.testing.assert_allclose(paid, formula(LOGITS), rtol=1e-5, atol=1e-6)
    slope = (formula(LOGITS + 1e-5) - formula(LOGITS - 1e-5)) / 2e-5
    np.testing.assert_allclose(tape.gradient(paid, logits), slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_adversarial_losses_and_their_slopes_are_the_papers(kind):
    assert_value_and_slope(
        lambda logits: losses.real_loss(kind, logits), lambda logits: paid_for_real(kind, logits)
    )
    assert_value_and_slope(
        lambda logits: losses.fake_loss(kind, logits), lambda logits: paid_for_fake(kind, logits)
    )
    assert_value_and_slope(
        lambda logits: losses.generator_loss(kind, logits),
        lambda logits: paid_by_generator(kind, logits),
    )


@pytest.mark.parametrize("smoothing", [0.1, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_smoothing_lowers_the_target_of_the_losses_that_have_one(kind, smoothing):
    assert_value_and_slope(
        lambda logits: losses.real_loss(kind, logits, smoothing),
        lambda logits: paid_for_real(kind, logits, smoothing),
    )


def test_adversarial_cross_entropies_are_exact_at_large_logits():
    far = tf.Variable([-100.0, 100.0])
    with tf.GradientTape(persistent=True) as tape:
        paid = {
            "real": losses.real_loss("non_saturating", far),
            "smoothed": losses.real_loss("non_saturating", far, 0.1),
            "fake": losses.fake_loss("non_saturating", far),
            "generator": losses.generator_loss("non_saturating", far),
        }
    expected = {
        "real": ([100, 0], [-1, 0]),
        "smoothed": ([90, 10], [-0.9, 0.1]),
        "fake": ([0, 100], [0, 1]),
        "generator": ([100, 0], [-1, 0]),
    }
    for name, (value, slope) in expected.items():
        np.testing.assert_allclose(paid[name], value, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(tape.gradient(paid[name], far), slope, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("function", ["real_loss", "fake_loss", "generator_loss"])
def test_unknown_adversarial_losses_are_refused(function):
    with pytest.raises(ValueError, match="unknown adversarial loss 'saturating'"):
        getattr(losses, function)("saturating", tf.zeros([1]))


P_REAL, P_FAKE = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.4, 0.2, 0.1, 0.3])


def value_and_slope_at(kind: str, logits: np.ndarray, smoothing: float = 0.0):
    """What a discriminator with these logits pays in expectation over four possible pictures."""
    values = tf.constant(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(values)
        paid = tf.reduce_sum(
            P_REAL * losses.real_loss(kind, values, smoothing)
            + P_FAKE * losses.fake_loss(kind, values)
        )
    return float(paid), tape.gradient(paid, values).numpy()


def test_the_best_non_saturating_discriminator_measures_the_jensen_shannon_divergence():
    """Goodfellow et al. 2014, proposition 1 and theorem 1: D = p_r / (p_r + p_f)."""
    value, slope = value_and_slope_at("non_saturating", np.log(P_REAL / P_FAKE))
    middle = (P_REAL + P_FAKE) / 2
    divergence = (P_REAL * np.log(P_REAL / middle) + P_FAKE * np.log(P_FAKE / middle)).sum() / 2
    assert value == pytest.approx(2 * math.log(2) - 2 * divergence, rel=1e-6)
    np.testing.assert_allclose(slope, 0, atol=1e-6)


def test_one_sided_smoothing_scales_the_best_discriminator():
    """Salimans et al. 2016, section 3.4, with β = 0: D = (1 - s) p_r / (p_r + p_f)."""
    best = 0.9 * P_REAL / (P_REAL + P_FAKE)
    slope = value_and_slope_at("non_saturating", np.log(best / (1 - best)), 0.1)[1]
    np.testing.assert_allclose(slope, 0, atol=1e-6)


def test_the_best_least_squares_discriminator_is_the_real_share():
    """Mao et al. 2017, equation 5 with a = 0, b = 1: D = p_r / (p_r + p_f)."""
    value, slope = value_and_slope_at("least_squares", P_REAL / (P_REAL + P_FAKE))
    np.testing.assert_allclose(slope, 0, atol=1e-6)
    assert value == pytest.approx((P_REAL * P_FAKE / (P_REAL + P_FAKE)).sum() / 2, rel=1e-6)


def test_the_best_hinge_discriminator_measures_the_total_variation():
    """Lim & Ye 2017, section 4: the best logit is the sign of p_r - p_f."""
    value, _ = value_and_slope_at("hinge", np.sign(P_REAL - P_FAKE))
    assert value == pytest.approx(2 - np.abs(P_REAL - P_FAKE).sum(), rel=1e-6)
    for other in (-2.0, -0.5, 0.5, 2.0):
        assert value_and_slope_at("hinge", np.full(4, other))[0] > value


def test_the_wasserstein_critic_pays_the_difference_of_means():
    logits = np.array([3.0, -1.0, 0.5, 2.0])
    value, _ = value_and_slope_at("wasserstein", logits)
    assert value == pytest.approx(P_FAKE @ logits - P_REAL @ logits, rel=1e-6)


def pictures(count: int = 3) -> np.ndarray:
    return RANDOM.standard_normal((count, 4, 4, 2)).astype(np.float32)


def linear(weights):
    return lambda images: tf.reduce_sum(images * weights, [1, 2, 3])


def quadratic(weights):
    """½ Σ weights · images², whose gradient at images is weights · images."""
    return lambda images: 0.5 * tf.reduce_sum(weights * images**2, [1, 2, 3])


@pytest.mark.parametrize("mixing", [0.0, 0.3, 1.0])
def test_gradient_penalty_of_a_linear_critic_is_the_same_everywhere(mixing):
    weights = tf.Variable(pictures(1)[0])
    real, fake = tf.constant(pictures()), tf.constant(pictures())
    with tf.GradientTape() as tape:
        penalty = losses.gradient_penalty(linear(weights), real, fake, tf.fill([3], mixing))
    norm = np.linalg.norm(weights.numpy())
    np.testing.assert_allclose(penalty, np.full(3, (norm - 1) ** 2), rtol=1e-5)
    expected = 3 * 2 * (norm - 1) * weights.numpy() / norm
    np.testing.assert_allclose(tape.gradient(penalty, weights), expected, rtol=1e-4, atol=1e-5)


def test_gradient_penalty_is_taken_between_each_pair_of_examples():
    weights = tf.Variable(0.3 * pictures(1)[0])
    real, fake = pictures(), pictures()
    mixing = np.array([0.0, 1.0, 0.3], np.float32)
    with tf.GradientTape() as tape:
        penalty = losses.gradient_penalty(
            quadratic(weights), tf.constant(real), tf.constant(fake), tf.constant(mixing)
        )
    at = np.stack([fake[0], real[1], 0.3 * real[2] + 0.7 * fake[2]])
    slopes = weights.numpy() * at
    norms = np.linalg.norm(slopes.reshape(3, -1), axis=1)
    np.testing.assert_allclose(penalty, (norms - 1) ** 2, rtol=1e-4)
    factors = (2 * (norms - 1) / norms)[:, None, None, None]
    expected = (factors * slopes * at).sum(0)
    np.testing.assert_allclose(tape.gradient(penalty, weights), expected, rtol=1e-3, atol=1e-4)


def test_gradient_penalty_of_a_flat_critic_has_a_finite_gradient():
    weights = tf.Variable(tf.zeros([4, 4, 2]))
    with tf.GradientTape() as tape:
        penalty = losses.gradient_penalty(
            linear(weights), tf.constant(pictures()), tf.constant(pictures()), tf.zeros([3])
        )
    np.testing.assert_allclose(penalty, np.ones(3), rtol=1e-5)
    assert np.isfinite(tape.gradient(penalty, weights).numpy()).all()


def test_r1_penalty_is_half_the_squared_slope_at_each_real_example():
    weights, real = tf.Variable(pictures(1)[0]), pictures()
    with tf.GradientTape(persistent=True) as tape:
        flat = losses.r1_penalty(linear(weights), tf.constant(real))
        curved = losses.r1_penalty(quadratic(weights), tf.constant(real))
    values = weights.numpy()
    np.testing.assert_allclose(flat, np.full(3, (values**2).sum() / 2), rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(flat, weights), 3 * values, rtol=1e-5)
    np.testing.assert_allclose(curved, ((values * real) ** 2).sum((1, 2, 3)) / 2, rtol=1e-5)
    expected = (values * real**2).sum(0)
    np.testing.assert_allclose(tape.gradient(curved, weights), expected, rtol=1e-4, atol=1e-5)


def test_gram_matrix_is_the_mean_product_of_channels():
    features = random_array(2, 3, 4, 5)
    expected = np.einsum("bhwc,bhwd->bcd", features, features) / 12
    np.testing.assert_allclose(losses.gram_matrix(tf.constant(features)), expected, rtol=1e-5)


def test_gram_loss_is_relative_to_the_style():
    features, style = random_array(2, 3, 4, 5), random_array(1, 6, 2, 5)
    ours = np.einsum("bhwc,bhwd->bcd", features, features) / 12
    theirs = np.einsum("bhwc,bhwd->bcd", style, style) / 12
    expected = ((ours - theirs) ** 2).sum((1, 2)) / (theirs**2).sum()
    found = losses.gram_loss(tf.constant(features), tf.constant(style))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    nothing = losses.gram_loss(tf.zeros([1, 3, 4, 5]), tf.constant(style))
    np.testing.assert_allclose(nothing, [1.0], rtol=1e-5)


def test_gram_loss_knows_no_places():
    features = random_array(1, 4, 4, 3)
    moved = features.reshape(1, 16, 3)[:, np.random.default_rng(0).permutation(16)]
    found = losses.gram_loss(tf.constant(features), tf.constant(moved.reshape(1, 4, 4, 3)))
    np.testing.assert_allclose(found, [0.0], atol=1e-9)


def test_content_loss_is_1_for_the_mean_and_0_for_itself():
    content = random_array(2, 3, 4, 5)
    mean = np.broadcast_to(content.mean((1, 2), keepdims=True), content.shape)
    np.testing.assert_allclose(losses.content_loss(tf.constant(mean), content), [1, 1], rtol=1e-5)
    np.testing.assert_array_equal(losses.content_loss(tf.constant(content), content), [0, 0])


def test_moments_loss():
    features, style = random_array(2, 3, 4, 5), 2.0 * random_array(2, 6, 2, 5) + 1.0
    mean, wanted_mean = features.mean((1, 2)), style.mean((1, 2))
    deviation = np.sqrt(features.var((1, 2)) + 1e-5)
    wanted_deviation = np.sqrt(style.var((1, 2)) + 1e-5)
    distance = ((mean - wanted_mean) ** 2 + (deviation - wanted_deviation) ** 2).sum(1)
    expected = distance / (wanted_mean**2 + wanted_deviation**2).sum(1)
    found = losses.moments_loss(tf.constant(features), tf.constant(style))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_patch_distance_of_single_pixels_is_the_wasserstein_distance_of_their_values():
    images, style = random_array(2, 8, 8, 3), random_array(1, 8, 8, 3)
    filters = np.eye(3, dtype=np.float32)[None, None]
    places = (np.arange(64, dtype=np.float32) + 0.5) / 64  # each pixel once
    found = losses.patch_distance(*map(tf.constant, (images, style, filters, places)))

    def halved(x):
        return x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2, 3).mean((2, 4))

    def values(x):  # at the places, as many as there are pixels, by rank
        x = x.reshape(x.shape[0], -1, 3)
        return np.sort(x[:, (places[: x.shape[1]] * x.shape[1]).astype(int)], axis=1)

    expected = np.zeros(2)
    for _ in range(3):
        expected += np.abs(values(images) - values(style)).mean((1, 2))
        images, style = halved(images), halved(style)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_patch_distance_stops_where_a_patch_no_longer_fits():
    images = tf.constant(random_array(1, 13, 13, 3))
    filters, places = tf.ones([7, 7, 3, 1]), tf.constant([0.0, 0.5])
    brighter = losses.patch_distance(images + 0.1, images, filters, places)
    np.testing.assert_allclose(brighter, [0.1 * 7 * 7 * 3], rtol=1e-4)


def test_edge_loss_is_what_is_missing_of_an_edge():
    content = np.zeros((1, 2, 4, 3), np.float32)
    content[:, :, 2:] = 0.6  # one edge to the right in each of two rows: two of six differences
    weaker, stronger, turned = content * 0.5, content * 1.5, 0.6 - content
    expected = {0: 0.5 * 0.5 * 0.3 / 3, 1: 0.0, 2: 0.5 * 0.5 * 1.2 / 3}
    for number, images in enumerate((weaker, stronger, turned)):
        found = losses.edge_loss(tf.constant(images), tf.constant(content))
        np.testing.assert_allclose(found, [expected[number]], atol=1e-6)


def test_edge_loss_keeps_no_edge_that_is_a_rounding_error():
    content = np.full((1, 4, 4, 3), 0.5, np.float32)
    content[:, :, 2:] += 1e-6
    images = np.zeros((1, 4, 4, 3), np.float32)
    images[:, :, :2] = 1.0  # a strong edge, the other way round
    found = losses.edge_loss(tf.constant(images), tf.constant(content))
    np.testing.assert_array_equal(found, [0.0])


def test_edge_loss_looks_at_three_sizes():
    content = np.zeros((1, 8, 8, 3), np.float32)
    content[:, 4:] = 1.0
    # Of the differences downwards 1 in 7 is an edge, halved 1 in 3, and halved again 1 in 1.
    expected = 0.5 * (0.5 / 7 + 1 / 3 + 1)
    found = losses.edge_loss(tf.zeros([1, 8, 8, 3]), tf.constant(content))
    np.testing.assert_allclose(found, [expected], rtol=1e-5)


def test_total_variation_is_the_mean_distance_of_neighbours():
    images = random_array(2, 4, 5, 3)
    expected = np.abs(np.diff(images, axis=1)).mean((1, 2, 3))
    expected += np.abs(np.diff(images, axis=2)).mean((1, 2, 3))
    np.testing.assert_allclose(losses.total_variation(images), expected, rtol=1e-5)

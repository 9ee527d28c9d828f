"""Losses as pure functions of tensors, per example [B] unless the docstring says otherwise.

Shape letters: B examples, H W C image height, width, channels, Z latent dimensions.
"""

import math
from collections.abc import Callable

import tensorflow as tf

LOG_TWO_PI = math.log(2.0 * math.pi)


def _sum_pixels(values: tf.Tensor) -> tf.Tensor:
    """[B, H, W, C] -> [B]."""
    return tf.reduce_sum(values, axis=[1, 2, 3])


def bernoulli_nll(images: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of pixels in [0, 1] under Bernoulli(sigmoid(logits)), nats per image.

    images, logits: [B, H, W, C]. Kingma & Welling 2014, appendix C.1. For grey pixels its lowest
    value is `bernoulli_entropy(images)`, not 0.
    """
    # Two passes over the pixels; tf.nn.sigmoid_cross_entropy_with_logits takes more.
    return _sum_pixels(tf.nn.softplus(logits) - images * logits)


def bernoulli_entropy(images: tf.Tensor) -> tf.Tensor:
    """The least that `bernoulli_nll` can be for these pixels in [0, 1], nats per image."""
    return -_sum_pixels(tf.math.xlogy(images, images) + tf.math.xlog1py(1.0 - images, -images))


def gaussian_nll(images: tf.Tensor, mean: tf.Tensor, log_scale: tf.Tensor) -> tf.Tensor:
    """-log N(images; mean, exp(log_scale)**2), nats per image; negative where the fit is close.

    images, mean: [B, H, W, C] in [0, 1]; log_scale: broadcast to them, learned and shared by all
    pixels in σ-VAE (Rybkin, Daniilidis & Levine 2021, section 3).
    """
    squared = tf.square((images - mean) * tf.exp(-log_scale))
    return _sum_pixels(0.5 * (squared + LOG_TWO_PI) + log_scale)


def discretized_logistic_nll(images: tf.Tensor, mean: tf.Tensor, log_scale: tf.Tensor) -> tf.Tensor:
    """-log P of 8-bit pixels under a logistic cut into 256 bins, nats per image.

    images, mean: [B, H, W, C] in [0, 1], images on the grid k / 255; log_scale: broadcast to
    them. The first and last bins take the tails. Kingma et al. 2016 (IAF), appendix C; Salimans
    et al. 2017 (PixelCNN++), section 2.1. Divide by H·W·C·ln 2 for bits per dimension.
    """
    half_bin = 0.5 / 255.0
    inverse_scale = tf.exp(-log_scale)
    upper = (images - mean + half_bin) * inverse_scale
    lower = (images - mean - half_bin) * inverse_scale
    # log(sigmoid(upper) - sigmoid(lower)), without the cancellation of the plain difference.
    width = 2.0 * half_bin * inverse_scale
    inside = (
        tf.math.log_sigmoid(upper) + tf.math.log_sigmoid(-lower) + tf.math.log1p(-tf.exp(-width))
    )
    first = tf.math.log_sigmoid(upper)
    last = tf.math.log_sigmoid(-lower)
    log_probability = tf.where(
        images < half_bin, first, tf.where(images > 1.0 - half_bin, last, inside)
    )
    return -_sum_pixels(log_probability)


def gaussian_kl(mean: tf.Tensor, logvar: tf.Tensor) -> tf.Tensor:
    """KL(N(mean, exp(logvar)) || N(0, I)), nats per image; mean, logvar: [B, Z].

    Kingma & Welling 2014, appendix B: summed over latents, never averaged.
    """
    return 0.5 * tf.reduce_sum(tf.square(mean) + tf.exp(logvar) - 1.0 - logvar, axis=-1)


def gaussian_log_density(
    values: tf.Tensor, mean: tf.Tensor | float, logvar: tf.Tensor | float
) -> tf.Tensor:
    """log N(values; mean, exp(logvar)), summed over the last axis: [..., Z] -> [...]."""
    mean, logvar = tf.convert_to_tensor(mean), tf.convert_to_tensor(logvar)
    squared = tf.square(values - mean) * tf.exp(-logvar)
    return -0.5 * tf.reduce_sum(squared + logvar + LOG_TWO_PI, axis=-1)


def importance_weighted_bound(log_weights: tf.Tensor) -> tf.Tensor:
    """log (1/K) Σ_k exp(log_weights[k]): [K, B] -> [B], a lower bound of log p(x) in nats.

    log_weights[k] = log p(x, z_k) - log q(z_k | x), z_k ~ q. Burda, Grosse & Salakhutdinov 2016,
    equation 8; K = 1 is the ELBO.
    """
    num_samples = tf.cast(tf.shape(log_weights)[0], log_weights.dtype)
    return tf.reduce_logsumexp(log_weights, axis=0) - tf.math.log(num_samples)


def real_loss(kind: str, logits: tf.Tensor, smoothing: float = 0.0) -> tf.Tensor:
    """What a discriminator pays for its logits [B] of real examples: [B].

    kind: "non_saturating" (Goodfellow et al. 2014, equation 1), "least_squares" (Mao et al. 2017,
    equation 9, a = 0, b = 1), "hinge" (Lim & Ye 2017; Miyato et al. 2018, equation 16) or
    "wasserstein" (Arjovsky et al. 2017, equation 2). smoothing: the target is 1 - smoothing
    (Salimans et al. 2016, section 3.4); hinge and wasserstein have no target.
    """
    if kind == "non_saturating":
        return tf.nn.softplus(-logits) + smoothing * logits
    if kind == "least_squares":
        return 0.5 * tf.square(logits - (1.0 - smoothing))
    if kind == "hinge":
        return tf.nn.relu(1.0 - logits)
    if kind == "wasserstein":
        return -logits
    raise ValueError(f"unknown adversarial loss {kind!r}")


def fake_loss(kind: str, logits: tf.Tensor) -> tf.Tensor:
    """What a discriminator pays for its logits [B] of generated examples: [B]; see `real_loss`."""
    if kind == "non_saturating":
        return tf.nn.softplus(logits)
    if kind == "least_squares":
        return 0.5 * tf.square(logits)
    if kind == "hinge":
        return tf.nn.relu(1.0 + logits)
    if kind == "wasserstein":
        return tf.identity(logits)
    raise ValueError(f"unknown adversarial loss {kind!r}")


def generator_loss(kind: str, logits: tf.Tensor) -> tf.Tensor:
    """What a generator pays for the logits [B] of its examples: [B]; see `real_loss`.

    non_saturating: -log D(G(z)) (Goodfellow et al. 2014, section 3); least_squares: Mao et al.'s
    equation 9 with c = 1; hinge and wasserstein: -D(G(z)).
    """
    if kind == "non_saturating":
        return tf.nn.softplus(-logits)
    if kind == "least_squares":
        return 0.5 * tf.square(logits - 1.0)
    if kind in ("hinge", "wasserstein"):
        return -logits
    raise ValueError(f"unknown adversarial loss {kind!r}")


def gradient_penalty(
    critic: Callable[[tf.Tensor], tf.Tensor], real: tf.Tensor, fake: tf.Tensor, mixing: tf.Tensor
) -> tf.Tensor:
    """(‖∇ critic‖ - 1)² between real and fake examples: [B].

    Gulrajani et al. 2017, algorithm 1: at mixing · real + (1 - mixing) · fake, mixing [B] from
    U[0, 1], one number an example, shared by its pixels; the norm is over all axes but the first.
    critic: [B, H, W, C] -> logits [B], each of its own example alone (no batch normalization).
    """
    mixing = tf.reshape(mixing, [-1] + [1] * (real.shape.rank - 1))
    between = fake + mixing * (real - fake)
    # The square root has no derivative at 0.
    return tf.square(tf.sqrt(_squared_gradient(critic, between) + 1e-12) - 1.0)


def r1_penalty(critic: Callable[[tf.Tensor], tf.Tensor], real: tf.Tensor) -> tf.Tensor:
    """½ ‖∇ critic‖² at real examples: [B]. Mescheder et al. 2018, equation 9 over gamma."""
    return 0.5 * _squared_gradient(critic, real)


def _squared_gradient(critic: Callable[[tf.Tensor], tf.Tensor], examples: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape() as tape:
        tape.watch(examples)
        logits = critic(examples)
    # The sum over the batch: each logit depends on its own example.
    gradient = tape.gradient(logits, examples)
    return tf.reduce_sum(tf.square(gradient), axis=list(range(1, examples.shape.rank)))

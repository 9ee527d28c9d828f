"""Losses as pure functions of tensors, per example [B] unless the docstring says otherwise.

Shape letters: B examples, H W C image height, width, channels, Z latent dimensions.
"""

import math
from collections.abc import Callable

import tensorflow as tf

from zoo.layers import halve

LOG_TWO_PI = math.log(2.0 * math.pi)
_TINY = 1e-8
_PATCH_LEVELS = 3
_LEAST_EDGE = 1e-5


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


def gram_matrix(features: tf.Tensor) -> tf.Tensor:
    """features [B, H, W, C] -> [B, C, C]: products of channels, averaged over places.

    Gatys, Ecker & Bethge 2016, equation 3, over H · W. In float32 whatever the features' type.
    """
    places = tf.cast(tf.shape(features)[1] * tf.shape(features)[2], tf.float32)
    rows = tf.reshape(tf.cast(features, tf.float32), [tf.shape(features)[0], -1, features.shape[3]])
    return tf.matmul(rows, rows, transpose_a=True) / places


def gram_loss(features: tf.Tensor, style_features: tf.Tensor) -> tf.Tensor:
    """Squared distance of the two Gram matrices over the square of the style's: [B].

    features: [B, H, W, C]; style_features: [B or 1, H', W', C]. Gatys, Ecker & Bethge 2016,
    equation 4, but relative, so that layers and nets of any scale weigh alike.
    """
    wanted = gram_matrix(style_features)
    distance = tf.reduce_sum(tf.square(gram_matrix(features) - wanted), axis=[1, 2])
    return distance / (tf.reduce_sum(tf.square(wanted), axis=[1, 2]) + _TINY)


def content_loss(features: tf.Tensor, content_features: tf.Tensor) -> tf.Tensor:
    """Squared distance of features [B, H, W, C] over the content's variance between places: [B].

    Gatys, Ecker & Bethge 2016, equation 1, but relative: 1 is as far as a picture of the content's
    mean feature.
    """
    features = tf.cast(features, tf.float32)
    wanted = tf.cast(content_features, tf.float32)
    spread = tf.math.reduce_variance(wanted, axis=[1, 2])
    distance = tf.reduce_mean(tf.square(features - wanted), axis=[1, 2, 3])
    return distance / (tf.reduce_mean(spread, axis=-1) + _TINY)


def moments_loss(features: tf.Tensor, style_features: tf.Tensor) -> tf.Tensor:
    """Squared distance of the channels' means and of their standard deviations: [B].

    features: [B, H, W, C]; style_features: [B or 1, H', W', C]. Huang & Belongie 2017, equation
    13, relative to the style's mean square.
    """
    mean, deviation = channel_moments(features)
    wanted_mean, wanted_deviation = channel_moments(style_features)
    distance = tf.square(mean - wanted_mean) + tf.square(deviation - wanted_deviation)
    size = tf.square(wanted_mean) + tf.square(wanted_deviation)
    return tf.reduce_sum(distance, axis=[1, 2, 3]) / (tf.reduce_sum(size, axis=[1, 2, 3]) + _TINY)


def channel_moments(features: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and standard deviation over places: [B, H, W, C] -> two [B, 1, 1, C] float32."""
    mean, variance = tf.nn.moments(tf.cast(features, tf.float32), axes=[1, 2], keepdims=True)
    return mean, tf.sqrt(variance + 1e-5)


def patch_distance(
    images: tf.Tensor, style_images: tf.Tensor, filters: tf.Tensor, places: tf.Tensor
) -> tf.Tensor:
    """Sliced Wasserstein distance between the patches of two pictures, over a pyramid: [B].

    images: [B, H, W, C]; style_images: [B or 1, H', W', C]; filters: [P, P, C, K], the directions
    that patches are projected on; places: [M] in [0, 1), at which patches are looked at, fewer
    where there are fewer patches. Per direction the mean distance of the sorted projections; levels
    at full, half and quarter size, as long as a patch fits into both. Elnekave & Weiss 2022 (GPDM),
    section 3.
    """
    total = tf.zeros([1])
    for level in range(_PATCH_LEVELS):
        if level:
            if min(*images.shape[1:3], *style_images.shape[1:3]) < 2 * filters.shape[0]:
                break
            images, style_images = halve(images), halve(style_images)
        reach = filters.shape[0] - 1
        counts = [(x.shape[1] - reach) * (x.shape[2] - reach) for x in (images, style_images)]
        few = places[: min(places.shape[0], *counts)]
        ours, theirs = (_projections(x, filters, few) for x in (images, style_images))
        total += tf.reduce_mean(tf.abs(ours - theirs), axis=[1, 2])
    return total


def _projections(images: tf.Tensor, filters: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """[B, K, M], sorted: what the filters see at the places."""
    responses = tf.nn.conv2d(images, filters, 1, "VALID")
    count = responses.shape[1] * responses.shape[2]
    rows = tf.reshape(responses, [-1, count, filters.shape[3]])
    chosen = tf.gather(rows, tf.cast(places * count, tf.int32), axis=1)
    return tf.sort(tf.transpose(chosen, [0, 2, 1]))


def edge_loss(images: tf.Tensor, content: tf.Tensor) -> tf.Tensor:
    """How much weaker the edges of images are than the content's at the same place: [B].

    images, content: [B, H, W, C]. An edge is a difference of neighbours in brightness; it may be
    stronger, but not weaker or turned round. Mean over places at full (weight one half), half and
    quarter size. No paper: found in this project's own study of style transfer.
    """
    total = tf.zeros([1])
    for level, weight in enumerate((0.5, 1.0, 1.0)):
        if level:
            if min(images.shape[1:3]) < 4:
                break
            images, content = halve(images), halve(content)
        for ours, theirs in zip(_differences(images), _differences(content), strict=True):
            # In flat areas a rounding error has no direction that should be kept.
            direction = tf.where(tf.abs(theirs) > _LEAST_EDGE, tf.sign(theirs), 0.0)
            missing = tf.nn.relu(direction * (theirs - ours))
            total += 0.5 * weight * tf.reduce_mean(missing, axis=[1, 2])
    return total


def _differences(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Of brightness, downwards and to the right: [B, H-1, W] and [B, H, W-1]."""
    grey = tf.reduce_mean(images, axis=-1)
    return grey[:, 1:] - grey[:, :-1], grey[:, :, 1:] - grey[:, :, :-1]


def total_variation(images: tf.Tensor) -> tf.Tensor:
    """Mean distance of neighbours, downwards plus to the right: images [B, H, W, C] -> [B]."""
    down, right = images[:, 1:] - images[:, :-1], images[:, :, 1:] - images[:, :, :-1]
    return tf.reduce_mean(tf.abs(down), [1, 2, 3]) + tf.reduce_mean(tf.abs(right), [1, 2, 3])

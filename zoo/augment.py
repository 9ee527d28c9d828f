"""DiffAugment: the same kinds of random change for real and generated pictures alike.

Zhao et al. 2020 (2006.10738), section 3.3 and their code: a discriminator that sees few real
pictures only changed cannot learn them by heart, and the generator's gradient goes through the
changes. Images here are in [-1, 1], where 0, the grey that fills gaps, is the paper's.

Shape letters: B examples, H W C image height, width, channels.
"""

from collections.abc import Callable

import tensorflow as tf

from zoo import errors
from zoo.generative import Noise


def augment(images: tf.Tensor, policy: str, noise: Noise, purpose: str) -> tf.Tensor:
    """images [B, H, W, C] in [-1, 1] -> the same, each changed at random; policy: see `parse`."""
    for name in parse(policy):
        images = _POLICIES[name](images, noise, f"{purpose}/{name}")
    return images


def parse(policy: str) -> list[str]:
    """The changes that a comma-separated list names, in its order; UsageError for unknown ones."""
    names = [name.strip() for name in policy.split(",") if name.strip()]
    for name in names:
        if name not in _POLICIES:
            raise errors.unknown("augmentation", name, _POLICIES)
    return names


def _flip(images: tf.Tensor, noise: Noise, purpose: str) -> tf.Tensor:
    """Mirrors left and right, one time in two."""
    mirrored = noise.uniform(purpose, 1, 1, 1) < 0.5
    return tf.where(mirrored, images[:, :, ::-1], images)


def _translation(images: tf.Tensor, noise: Noise, purpose: str) -> tf.Tensor:
    """Moves by up to an eighth of the size, whole pixels, each way alike; 0 fills the gap."""
    height, width = images.shape[1:3]
    draws = noise.uniform(purpose, 2)
    down, right = (_shift(draws[:, axis], side) for axis, side in enumerate((height, width)))
    images = tf.einsum("bij,bjwc->biwc", tf.cast(down, images.dtype), images)
    return tf.einsum("bij,bhjc->bhic", tf.cast(right, images.dtype), images)


def _shift(draws: tf.Tensor, side: int) -> tf.Tensor:
    """draws [B] of U[0, 1) -> matrices [B, side, side] that move pixels by a whole number."""
    most = round(side / 8)
    offsets = tf.cast(tf.floor(draws * (2 * most + 1)), tf.int32) - most
    # Indices outside have a row of zeros.
    return tf.one_hot(tf.range(side) + offsets[:, None], side)


def _cutout(images: tf.Tensor, noise: Noise, purpose: str) -> tf.Tensor:
    """Sets a square of half the size to 0, centred anywhere, so cut at the edges."""
    height, width = images.shape[1:3]
    draws = noise.uniform(purpose, 2)
    rows, columns = (_span(draws[:, axis], side) for axis, side in enumerate((height, width)))
    cut = rows[:, :, None, None] & columns[:, None, :, None]
    return tf.where(cut, tf.zeros([], images.dtype), images)


def _span(draws: tf.Tensor, side: int) -> tf.Tensor:
    """draws [B] of U[0, 1) -> bool [B, side]: half of the positions, around a random centre."""
    length = side // 2
    starts = tf.cast(tf.floor(draws * (side + 1 - length % 2)), tf.int32)[:, None] - length // 2
    return (tf.range(side) >= starts) & (tf.range(side) < starts + length)


def _color(images: tf.Tensor, noise: Noise, purpose: str) -> tf.Tensor:
    """Brightness ±0.5, saturation 0 to 2 times, contrast 0.5 to 1.5 times."""
    draws = tf.cast(noise.uniform(purpose, 3, 1, 1, 1), images.dtype)
    images += draws[:, 0] - 0.5
    grey = tf.reduce_mean(images, axis=3, keepdims=True)
    images = grey + (images - grey) * 2.0 * draws[:, 1]
    mean = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
    return mean + (images - mean) * (0.5 + draws[:, 2])


_POLICIES: dict[str, Callable[[tf.Tensor, Noise, str], tf.Tensor]] = {
    "flip": _flip,
    "translation": _translation,
    "cutout": _cutout,
    "color": _color,
}

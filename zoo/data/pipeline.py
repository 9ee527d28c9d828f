"""Batches of a source in an order that is a function of (seed, step), endless and shuffled.

Position p of the run (step · batch size + row) is example shuffle_e(p mod n) of epoch e = p // n;
the permutation is computed per index, so any step is reached at once, with no shuffle buffer to
save. So is what augmentation does at p, a function of (seed, p): neither depends on how the run is
cut into batches, replicas or sessions. Images stay uint8: the model converts them on its device.
Arrays whose names begin with "style" are a second collection, in an order of their own; a
`np.memmap` is read row by row.
"""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from zoo.data import cache

_NEVER = 2**62
# What is augmented: both pictures of a pair turn alike, colours are changed in the first.
_PICTURES = ("image", "target")
_LEAST_CROP = 0.8
_MOST_CHANGE = 0.2
_ORDER, _STYLE_ORDER = 0x5A00, 0x5A01


def batches(
    examples: dict[str, np.ndarray],
    batch_size: int,
    *,
    seed: int = 0,
    start_step: int = 0,
    context: tf.distribute.InputContext | None = None,
    augment: Sequence[str] = (),
) -> tf.data.Dataset:
    """Endless dataset of {"image": [B, H, W, C] uint8, "label": [B] int32} from start_step on.

    examples: by name, of one length, and of another those whose names begin with "style";
    batch_size is global; with a distribution context each element is one replica's share, and
    the shares of all replicas together are the batch that one replica would have seen. augment:
    some of `zoo.data.source.AUGMENTATIONS`.
    """
    pipelines = context.num_input_pipelines if context else 1
    replicas = context.num_replicas_in_sync if context else 1
    first_replica = context.input_pipeline_id * (replicas // pipelines) if context else 0
    if batch_size % replicas:
        raise ValueError(
            f"batch_size {batch_size} does not divide by {replicas} replicas: "
            f"use a multiple of {replicas}"
        )
    share, per_pipeline = batch_size // replicas, replicas // pipelines
    rows = {name: _rows(values) for name, values in examples.items()}
    counts = {_order(name): len(values) for name, values in examples.items()}

    def load(number: tf.Tensor) -> dict[str, tf.Tensor]:
        step, replica = number // per_pipeline, first_replica + number % per_pipeline
        positions = step * batch_size + replica * share + tf.range(share, dtype=tf.int64)
        indices = {
            order: shuffled(positions, count, seed, order) for order, count in counts.items()
        }
        batch = {name: rows_of(indices[_order(name)]) for name, rows_of in rows.items()}
        return _augmented(batch, positions, seed, augment) if augment else batch

    numbers = tf.data.Dataset.range(start_step * per_pipeline, _NEVER)
    # Drawing a batch costs less than handing it between threads: one worker of its own, no tuning.
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.map_parallelization = False
    options.threading.private_threadpool_size = 1
    return numbers.map(load).prefetch(4).with_options(options)


def _rows(values: np.ndarray) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function of indices [B] that gives those rows."""
    if not isinstance(values, np.memmap):
        tensor = _tensor(values)
        return lambda indices: tf.gather(tensor, indices)

    def read(indices: tf.Tensor) -> tf.Tensor:
        rows = tf.numpy_function(
            lambda numbers: np.array(values[numbers]), [indices], values.dtype, stateful=False
        )
        return tf.ensure_shape(rows, [indices.shape[0], *values.shape[1:]])

    return read


def _tensor(values: np.ndarray) -> tf.Tensor:
    """A copy; of an array that lies as TensorFlow needs it none, for a gigabyte takes a second."""
    if values.ctypes.data % cache.ALIGNMENT or not values.flags.carray:
        return tf.constant(values)
    return tf.experimental.dlpack.from_dlpack(values.__dlpack__())


def _order(name: str) -> int:
    return _STYLE_ORDER if name.startswith("style") else _ORDER


def shuffled(positions: tf.Tensor, count: int, seed: int, order: int = _ORDER) -> tf.Tensor:
    """positions [B] int64 of an endless run -> indices [B] int32, each epoch a permutation.

    order: a number that tells apart the orders of several collections of one run.
    """
    epoch = tf.cast(positions // count, tf.int32)
    size = tf.size(positions)
    key = tf.stack([tf.fill([size], seed), epoch, tf.fill([size], order)], axis=1)
    # The public tf.random.experimental.index_shuffle pads batched seeds wrongly.
    return tf.raw_ops.RandomIndexShuffle(
        index=tf.cast(positions % count, tf.int32), seed=key, max_index=count - 1, rounds=4
    )


def _augmented(
    batch: dict[str, tf.Tensor], positions: tf.Tensor, seed: int, names: Sequence[str]
) -> dict[str, tf.Tensor]:
    """The pictures of a batch at these positions [B] of the run, each changed at random."""
    draws = _uniform(positions, seed, 7)  # as many whatever is asked for
    changed = {}
    for key in _PICTURES:
        if key not in batch:
            continue
        images = batch[key]
        if "crop" in names:
            images = _cropped(images, draws[:, 0], draws[:, 1], draws[:, 2])
        if "flip" in names:
            images = tf.where(draws[:, 3, None, None, None] < 0.5, images[:, :, ::-1], images)
        if "color" in names and key == _PICTURES[0]:
            images = _coloured(images, draws[:, 4:])
        if images.dtype != batch[key].dtype:
            images = tf.cast(tf.round(tf.clip_by_value(images, 0.0, 255.0)), batch[key].dtype)
        changed[key] = images
    return {**batch, **changed}


def _uniform(positions: tf.Tensor, seed: int, count: int) -> tf.Tensor:
    """positions [B] int64 -> float32 [B, count] from U[0, 1), each row a function of its position.

    SplitMix64 (Steele et al. 2014): tf.random.stateless_* take one seed for all rows, and the
    shuffle above is too uneven to draw by (chi square 183 of 50 bins).
    """
    start = hashlib.blake2b(f"augmentation {seed}".encode(), digest_size=8).digest()
    numbers = tf.cast(positions[:, None] * count + tf.range(count, dtype=tf.int64), tf.uint64)
    bits = _uint64(int.from_bytes(start, "big")) + numbers * _uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = _mixed(bits, shift) * _uint64(factor)
    # float32 has all of these fractions.
    bits = tf.bitwise.right_shift(_mixed(bits, 31), _uint64(40))
    return tf.cast(bits, tf.float32) / 2**24


def _mixed(bits: tf.Tensor, shift: int) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, _uint64(shift)))


def _uint64(number: int) -> tf.Tensor:
    return tf.constant(number, tf.uint64)


def _cropped(images: tf.Tensor, sides: tf.Tensor, down: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """A square of 0.8 to 1 of the side, anywhere, as large as before: float32, bilinear."""
    height, width = images.shape[1:3]
    side = _LEAST_CROP + (1 - _LEAST_CROP) * sides
    top, left = (1 - side) * down, (1 - side) * right
    boxes = tf.stack([top, left, top + side, left + side], axis=1)
    return tf.image.crop_and_resize(images, boxes, tf.range(tf.shape(images)[0]), [height, width])


def _coloured(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Brightness ±0.2, contrast and saturation 0.8 to 1.2 times; draws [B, 3]. float32."""
    images = tf.cast(images, tf.float32)
    changes = _MOST_CHANGE * (2 * draws[:, :, None, None, None] - 1)
    images += 255 * changes[:, 0]
    mean = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
    images = mean + (images - mean) * (1 + changes[:, 1])
    grey = tf.reduce_mean(images, axis=3, keepdims=True)
    return grey + (images - grey) * (1 + changes[:, 2])

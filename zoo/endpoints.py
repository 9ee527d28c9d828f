"""Served functions that several models share: drawing by seed, truncation, pictures as files.

An endpoint is a `tf.function` with an input signature, batch dimension first, that returns tensors
by name; its docstring says what each input may be, and stands in the model card. Names of strings
that hold bytes end in `_bytes`: TensorFlow Serving's REST API has them in base64.

Shape letters: N pictures, H W C picture, Z latent_dim.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from zoo.generative import GenerativeModel, between

SEED = tf.TensorSpec([None, 2], tf.int64, name="seed")
LABEL = tf.TensorSpec([None], tf.int32, name="label")
STRENGTH = tf.TensorSpec([None], tf.float32, name="strength")
IMAGE_BYTES = tf.TensorSpec([None], tf.string, name="image_bytes")
_SHARE = tf.TensorSpec([None], tf.float32, name="t")
_TRUNCATION = tf.TensorSpec([None], tf.float32, name="truncation")

MOST_PIXELS = 2**22
"""Of a picture that comes as a file: a net of styles takes about half a gigabyte a million."""
LEAST_SIDE = 8
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"


def endpoint(function: Callable[..., dict[str, tf.Tensor]], *inputs: tf.TensorSpec) -> Any:
    """The function, whose docstring says what its inputs may be, ready to be served."""
    return tf.function(function, input_signature=list(inputs), autograph=False)


def drawing(
    model: GenerativeModel,
    latent_dim: int,
    *,
    labelled: bool,
    truncation: tuple[Callable, str] | None = None,
) -> dict[str, Any]:
    """sample, sample_png, interpolate, decode; sample_label and its PNG; sample_truncated.

    labelled: whether a class can be asked for. truncation: a function of latents [N, Z] and
    truncation [N] that keeps them near the middle, and what its values mean.
    """
    latents_spec = tf.TensorSpec([None, latent_dim], tf.float32, name="latents")
    # A conditional model needs to know the class wherever it decodes.
    classes = [LABEL] if model.conditional else []

    def known(label: tf.Tensor) -> tf.Tensor:
        least, most = tf.reduce_min(label), tf.reduce_max(label)
        right = (least >= 0) & (most < model.num_classes)
        expected = f"expected labels from 0 to {model.num_classes - 1}"
        # Of no rows, least is above most.
        with tf.control_dependencies([_check(right | (least > most), expected)]):
            return tf.identity(label)

    def sample(seed):
        """Pictures by seed; a class each, if there are classes, that the seed decides too.

        seed: any two numbers a picture. images: in [0, 1]; picture i depends on row i alone.
        """
        return {"images": model.sample(seed)}

    def sample_png(seed):
        """The pictures of `sample`, as PNG files.

        seed: any two numbers a picture.
        """
        return {"png_bytes": to_png(model.sample(seed))}

    def sample_label(seed, label):
        """Pictures of the classes that are asked for.

        seed: any two numbers a picture. label: class, from 0. images: in [0, 1].
        """
        return {"images": model.sample(seed, known(label))}

    def sample_label_png(seed, label):
        """The pictures of `sample_label`, as PNG files.

        seed: any two numbers a picture. label: class, from 0.
        """
        return {"png_bytes": to_png(model.sample(seed, known(label)))}

    def interpolate(seed_a, seed_b, t, *label):
        """Pictures between two seeds' pictures.

        seed_a, seed_b: as in `sample`. t: 0 is the first, 1 the second, along an arc between their
        latents. label, if there is one: class, from 0. images: in [0, 1].
        """
        classes = [known(each) for each in label]
        first, second = (model.sample_latents(seed, *classes) for seed in (seed_a, seed_b))
        return {"images": model.decode(between(first, second, t), *classes)}

    def decode(latents, *label):
        """Pictures from latents.

        latents: as they are drawn or encoded, most within -3 and 3. label, if there is one: class,
        from 0. images: in [0, 1].
        """
        return {"images": model.decode(latents, *(known(each) for each in label))}

    endpoints = {"sample": endpoint(sample, SEED), "sample_png": endpoint(sample_png, SEED)}
    if labelled:
        endpoints["sample_label"] = endpoint(sample_label, SEED, LABEL)
        endpoints["sample_label_png"] = endpoint(sample_label_png, SEED, LABEL)
    if truncation:

        def sample_truncated(seed, truncation, *label):
            classes = [known(each) for each in label]
            latents = truncate(model.sample_latents(seed, *classes), truncation)
            return {"images": model.decode(latents, *classes)}

        truncate, meaning = truncation
        sample_truncated.__doc__ = (
            "Pictures by seed, more alike and more typical.\n\n"
            f"seed: as in `sample`. truncation: {meaning}\n"
            "label, if there is one: class, from 0. images: in [0, 1]."
        )
        endpoints["sample_truncated"] = endpoint(sample_truncated, SEED, _TRUNCATION, *classes)
    ends = (tf.TensorSpec(SEED.shape, SEED.dtype, name=f"seed_{which}") for which in "ab")
    endpoints["interpolate"] = endpoint(interpolate, *ends, _SHARE, *classes)
    endpoints["decode"] = endpoint(decode, latents_spec, *classes)
    return endpoints


def to_png(images: tf.Tensor) -> tf.Tensor:
    """images [N, H, W, 1 or 3] float32 in [0, 1] -> [N] PNG files, rounded to nearest."""
    levels = tf.round(tf.clip_by_value(images, 0.0, 1.0) * 255.0)
    return tf.io.encode_png(tf.cast(levels, tf.uint8))


def from_bytes(data: tf.Tensor) -> tf.Tensor:
    """One JPEG or PNG file -> [H, W, 3] float32 in [0, 1]; grey becomes colour, alpha is dropped.

    Anything else fails, and so does, before a pixel is decoded, what its header says is too large
    or too small. A photo's EXIF orientation is not looked at.
    """
    is_png = tf.equal(tf.strings.substr(data, 0, len(_PNG)), _PNG)
    is_jpeg = tf.equal(tf.strings.substr(data, 0, len(_JPEG)), _JPEG)
    with tf.control_dependencies([_check(is_png | is_jpeg, "expected a JPEG or PNG file")]):
        sides = tf.cond(is_png, lambda: _png_sides(data), lambda: _jpeg_sides(data))  # H, W
    pixels = tf.reduce_prod(tf.cast(sides, tf.int64))
    checks = [
        _check(tf.reduce_min(sides) >= LEAST_SIDE, f"expected sides from {LEAST_SIDE} pixels"),
        _check(pixels <= MOST_PIXELS, f"expected up to {MOST_PIXELS} pixels"),
    ]
    with tf.control_dependencies(checks):
        # This one reads both formats.
        image = tf.io.decode_png(tf.identity(data), channels=3)
    return tf.cast(image, tf.float32) / 255.0


def _check(holds: tf.Tensor, message: str) -> tf.Operation:
    return tf.debugging.Assert(holds, [message])


def _png_sides(data: tf.Tensor) -> tf.Tensor:
    # Signature, length and name of the first chunk, then width and height, big-endian.
    sides = tf.io.decode_raw(tf.strings.substr(data, 16, 8), tf.int32, little_endian=False)
    return tf.reverse(sides, [0])


def _jpeg_sides(data: tf.Tensor) -> tf.Tensor:
    return tf.io.extract_jpeg_shape(data)[:2]


def each_file(function: Callable[..., tf.Tensor], rows: Sequence[tf.Tensor]) -> tf.Tensor:
    """Row by row, as pictures differ in size: function(*row) -> [1, H, W, 3]; gives PNG files [N].

    One after the other, so that memory is that of one.
    """
    return tf.map_fn(
        lambda row: to_png(function(*row))[0],
        tuple(rows),
        fn_output_signature=tf.TensorSpec([], tf.string),
        parallel_iterations=1,
    )

"""Generators and discriminators that several adversarial models share.

Pictures are in [-1, 1]. With `num_classes` a net is conditional: the generator by class-conditional
BatchNorm or by concatenation, the discriminator by projection, concatenation or an auxiliary
classifier.

Shape letters: B examples, H W C image, Z latent_dim, K classes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from zoo import errors
from zoo.adversarial import Verdict
from zoo.layers import (
    BatchNormalization,
    ConditionalBatchNormalization,
    Conv2D,
    Dense,
    LayerNormalization,
    double,
    halve,
)

SMALL = 64
"""Pictures below this side have the nets of the 28x28 variant."""
EMBEDDING = 32
"""Dimensions of a class beside the latents."""
HEAD = 128
"""Units of the layer whose inner product with a class's embedding is the projection."""


def sizes(image_shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """The grids from the picture's own down to its base, whose shorter side is 4 to 7.

    UsageError for a picture that does not halve cleanly down to there.
    """
    grid = image_shape[:2]
    grids = [grid]
    while min(grid) > 7:
        if grid[0] % 2 or grid[1] % 2:
            break
        grid = (grid[0] // 2, grid[1] // 2)
        grids.append(grid)
    if not 4 <= min(grid) <= 7 or len(grids) < 2:
        height, width, _ = image_shape
        raise errors.UsageError(
            f"{height}x{width} pictures do not halve down to a side of 4 to 7: choose an "
            "--image_size such as 28, 32, 48, 56, 64, 96, 128"
        )
    return grids


def normal(stddev: float = 0.02) -> keras.initializers.Initializer:
    """DCGAN's initial weights: N(0, 0.02) (Radford et al. 2016, section 4)."""
    return keras.initializers.RandomNormal(0.0, stddev)


class Doubling(layers.Layer):
    """[B, H, W, C] -> [B, 2H, 2W, units] by a 4x4 transposed convolution, or by enlarging first.

    how: "transposed", or "nearest" or "bilinear" before a 3x3 convolution, which leaves no
    checkerboard (Odena et al. 2016).
    """

    def __init__(self, units: int, how: str = "transposed", **kwargs):
        super().__init__(**kwargs)
        self.how = how
        options = {"padding": "same", "use_bias": False, "kernel_initializer": normal()}
        options["dtype"] = self.dtype_policy
        if how == "transposed":
            self.convolution = layers.Conv2DTranspose(units, 4, strides=2, **options)
        else:
            self.convolution = Conv2D(units, 3, **options)

    def call(self, values: tf.Tensor) -> tf.Tensor:
        return self.convolution(values if self.how == "transposed" else double(values, self.how))


class ConvolutionalGenerator(layers.Layer):
    """DCGAN's generator: latents projected to a small grid, doubled up to the picture.

    At 64 pixels and above its layer table is that of Radford et al. 2016, figure 1, at the width
    of their code: base grid x 8·width, then 4x4 transposed convolutions to 4·width, 2·width,
    width, C. Below 64 there are fewer doublings and one more layer: 2·width or 4·width at the
    base, width at half the picture's size, width / 4 at its size, a 3x3 convolution to C.
    BatchNorm and ReLU after each but the last, tanh.

    num_classes: conditional, by an embedding of the label beside the latents and BatchNorm of the
    class (Brock et al. 2019, section 3.1, have both), or with `concatenate` by the label alone
    beside the latents.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        width: int,
        upsampling: str = "transposed",
        num_classes: int = 0,
        concatenate: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        grids = sizes(image_shape)
        self.num_classes, self.concatenate = num_classes, concatenate
        widths = [width * 2**power for power in reversed(range(len(grids) - 1))]
        small = min(image_shape[:2]) < SMALL
        if small:
            widths.append(max(4, width // 4))
        self.base = (*grids[-1], widths[0])
        self.project = Dense(math.prod(self.base), use_bias=False, kernel_initializer=normal())
        if num_classes and not concatenate:
            self.embedding = Dense(EMBEDDING, use_bias=False, kernel_initializer=normal(0.03))
        self.doublings = [Doubling(units, upsampling) for units in widths[1:]]
        self.norms = [_generator_norm(0 if concatenate else num_classes) for _ in widths]
        if small:
            self.last: layers.Layer = Conv2D(
                image_shape[-1], 3, padding="same", kernel_initializer=normal(), dtype="float32"
            )
        else:
            self.last = Doubling(image_shape[-1], upsampling, dtype="float32")

    def call(
        self, latents: tf.Tensor, labels: tf.Tensor | None = None, training: bool = False
    ) -> tf.Tensor:
        """latents [B, Z], labels [B] or None -> [B, H, W, C] float32 in [-1, 1]."""
        if self.num_classes:
            chosen = tf.one_hot(labels, self.num_classes, dtype=latents.dtype)
            chosen = chosen if self.concatenate else self.embedding(chosen)
            latents = tf.concat([latents, chosen], axis=1)
        values = tf.reshape(self.project(latents), [-1, *self.base])
        for number, norm in enumerate(self.norms):
            if number:
                values = self.doublings[number - 1](values)
            values = tf.nn.relu(_normalised(norm, values, labels, training))
        return tf.tanh(self.last(values))


def _generator_norm(num_classes: int) -> layers.Layer:
    return ConditionalBatchNormalization(num_classes) if num_classes else BatchNormalization()


def _normalised(norm: layers.Layer | None, values, labels, training: bool) -> tf.Tensor:
    """values by any of the norms, or as they are by None."""
    if norm is None:
        return values
    if isinstance(norm, ConditionalBatchNormalization):
        return norm(values, labels, training=training)
    if isinstance(norm, BatchNormalization):
        return norm(values, training=training)
    return norm(values)


def discriminator_norm(kind: str) -> layers.Layer | None:
    """kind: "batch" (always of the batch itself: real and fake apart), "layer" or "none"."""
    if kind == "batch":
        return BatchNormalization(moving=False)
    return LayerNormalization() if kind == "layer" else None


class Head(layers.Layer):
    """Features [B, F] -> Verdict: a logit, and what a conditional discriminator adds to it.

    conditioning "projection": the inner product of the features with the label's embedding
    (Miyato & Koyama 2018, equation 4), after a dense layer of `hidden` units if that is not 0;
    "auxiliary": logits of the classes too (Odena et al. 2017, section 3).
    """

    def __init__(
        self,
        *,
        num_classes: int = 0,
        conditioning: str = "",
        hidden: int = 0,
        spectral_norm: bool = False,
        use_bias: bool = True,
        initializer: Callable[[], Any] = normal,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_classes, self.conditioning = num_classes, conditioning
        options = {"spectral_norm": spectral_norm, "kernel_initializer": initializer()}
        self.hidden = Dense(hidden, **options) if hidden else None
        self.logit = Dense(1, use_bias=use_bias, dtype="float32", **options)
        if conditioning == "auxiliary":
            self.classes = Dense(num_classes, dtype="float32", **options)

    def build(self, input_shape):
        if self.conditioning == "projection":
            units = self.hidden.units if self.hidden else input_shape[-1]
            self.embedding = Dense(
                units,
                use_bias=False,
                spectral_norm=self.logit.spectral_norm,
                kernel_initializer=normal(0.05),
                dtype="float32",
            )
        super().build(input_shape)

    def call(self, features: tf.Tensor, labels: tf.Tensor | None = None) -> Verdict:
        """features [B, F], labels [B] or None -> float32 logits."""
        if self.hidden:
            features = tf.nn.leaky_relu(self.hidden(features), 0.2)
        features = tf.cast(features, tf.float32)
        logits = self.logit(features)[:, 0]
        if self.conditioning == "projection":
            embedded = self.embedding(tf.one_hot(labels, self.num_classes))
            logits += tf.reduce_sum(embedded * features, axis=1)
        classes = self.classes(features) if self.conditioning == "auxiliary" else None
        return Verdict(logits, classes)


class ConvolutionalDiscriminator(layers.Layer):
    """DCGAN's discriminator: 4x4 convolutions that halve the picture, then its Head.

    At 64 pixels and above: width, 2·width, 4·width, 8·width (Radford et al. 2016 and their code).
    Below: width / 2, width, 2·width, down to a side of 4 or less, with He's initial weights: so
    few values meet in the first of them that after N(0, 0.02) the learning rate is too high for
    them. LeakyReLU of slope 0.2, a norm after each convolution but the first.

    conditioning: "concatenation" gives the label as K more channels of the picture (Mirza &
    Osindero 2014, for convolutions); for the others see Head.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        width: int,
        norm: str = "batch",
        spectral_norm: bool = False,
        num_classes: int = 0,
        conditioning: str = "",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_classes, self.conditioning = num_classes, conditioning
        grids = sizes(image_shape)
        first, count, initializer = width, len(grids) - 1, normal
        if min(image_shape[:2]) < SMALL:
            first, initializer = max(4, width // 2), keras.initializers.HeNormal
            count += min(grids[-1]) > 4
        self.convolutions = [
            Conv2D(
                first * 2**number,
                4,
                strides=2,
                padding="same",
                # A norm takes the bias away.
                use_bias=number > 0 and norm == "none",
                kernel_initializer=initializer(),
                spectral_norm=spectral_norm,
            )
            for number in range(count)
        ]
        self.norms = [discriminator_norm(norm) for _ in range(count - 1)]
        self.head = Head(
            num_classes=num_classes,
            conditioning="" if conditioning == "concatenation" else conditioning,
            hidden=HEAD if conditioning in ("projection", "auxiliary") else 0,
            spectral_norm=spectral_norm,
            use_bias=bool(conditioning),
        )

    def call(
        self, images: tf.Tensor, labels: tf.Tensor | None = None, training: bool = False
    ) -> Verdict:
        """images [B, H, W, C] in [-1, 1], labels [B] or None -> Verdict."""
        values = images
        if self.conditioning == "concatenation":
            values = with_label_maps(values, labels, self.num_classes)
        for number, convolution in enumerate(self.convolutions):
            values = convolution(values)
            if number:
                values = _normalised(self.norms[number - 1], values, labels, training)
            values = tf.nn.leaky_relu(values, 0.2)
        return self.head(tf.reshape(values, [-1, math.prod(values.shape[1:])]), labels)


def with_label_maps(images: tf.Tensor, labels: tf.Tensor, num_classes: int) -> tf.Tensor:
    """images [B, H, W, C], labels [B] -> [B, H, W, C + K]: the label one-hot at every pixel."""
    maps = tf.one_hot(labels, num_classes, dtype=images.dtype)[:, None, None, :]
    maps = tf.tile(maps, [1, *images.shape[1:3], 1])
    return tf.concat([images, maps], axis=3)


class ResidualBlock(layers.Layer):
    """Two 3x3 convolutions beside a shortcut; `resample`: "up", "down" or "".

    Gulrajani et al. 2017, appendix F; Miyato et al. 2018, figure 8. A generator's block has
    BatchNorm before each ReLU (norm="batch"); `first`: a discriminator's first block, whose input
    is the picture, has no ReLU before its first convolution and pools before its shortcut's.
    """

    def __init__(
        self,
        units: int,
        *,
        resample: str = "",
        norm: str = "none",
        spectral_norm: bool = False,
        first: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.units, self.resample, self.first = units, resample, first
        self.spectral_norm = spectral_norm
        self.norms = [
            BatchNormalization() if norm == "batch" else discriminator_norm(norm) for _ in range(2)
        ]

    def build(self, input_shape):
        channels = input_shape[-1]
        # Gulrajani et al.: the first convolution keeps the width unless it doubles the grid.
        inner = self.units if self.resample == "up" or self.first else channels
        # BatchNorm takes every bias away, and Adam would make steps of their rounding errors.
        options: dict[str, Any] = {
            "padding": "same",
            "spectral_norm": self.spectral_norm,
            "use_bias": not isinstance(self.norms[0], BatchNormalization),
        }
        he = keras.initializers.HeUniform
        self.convolutions = [
            Conv2D(units, 3, kernel_initializer=he(), **options) for units in (inner, self.units)
        ]
        self.shortcut = None
        if self.resample or channels != self.units:
            self.shortcut = Conv2D(self.units, 1, **options)
        super().build(input_shape)

    def call(self, values: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self._shortcut(values) + self._residual(values, training)

    def _residual(self, values: tf.Tensor, training: bool) -> tf.Tensor:
        for number, (norm, convolution) in enumerate(
            zip(self.norms, self.convolutions, strict=True)
        ):
            if number or not self.first:
                values = tf.nn.relu(_normalised(norm, values, None, training))
            if self.resample == "up" and not number:
                values = double(values, "nearest")
            values = convolution(values)
        return halve(values) if self.resample == "down" else values

    def _shortcut(self, values: tf.Tensor) -> tf.Tensor:
        if self.shortcut is None:
            return values
        # A 1x1 convolution and enlarging or averaging may change places: on the smaller grid it
        # is a quarter of the work.
        if self.resample == "up":
            return double(self.shortcut(values), "nearest")
        if self.resample == "down":
            return self.shortcut(halve(values))
        return self.shortcut(values)


class ResidualGenerator(layers.Layer):
    """Latents to a small grid, a residual block for each doubling, BatchNorm, ReLU, 3x3, tanh.

    Gulrajani et al. 2017, appendix F (width 128); Miyato et al. 2018, table 4 (width 256).
    """

    def __init__(self, image_shape: tuple[int, int, int], *, width: int, **kwargs):
        super().__init__(**kwargs)
        grids = sizes(image_shape)
        self.base = (*grids[-1], width)
        self.project = Dense(math.prod(self.base))
        self.blocks = [ResidualBlock(width, resample="up", norm="batch") for _ in grids[1:]]
        self.norm = BatchNormalization()
        self.last = Conv2D(image_shape[-1], 3, padding="same", dtype="float32")

    def call(
        self, latents: tf.Tensor, labels: tf.Tensor | None = None, training: bool = False
    ) -> tf.Tensor:
        """latents [B, Z] -> [B, H, W, C] float32 in [-1, 1]."""
        values = tf.reshape(self.project(latents), [-1, *self.base])
        for block in self.blocks:
            values = block(values, training=training)
        return tf.tanh(self.last(tf.nn.relu(self.norm(values, training=training))))


class ResidualDiscriminator(layers.Layer):
    """Residual blocks, two of which halve the picture, then ReLU, pooling over pixels, a Head.

    Four blocks of one width at 32 pixels, as in Gulrajani et al. 2017, appendix F (pooling by the
    mean, width 128) and Miyato et al. 2018, table 4 (by the sum, spectrally normalised); larger
    pictures have more blocks that halve, down to a side of 4 to 8.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        width: int,
        pooling: str = "mean",
        norm: str = "none",
        spectral_norm: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.pooling = pooling
        halvings = max(2, len(sizes(image_shape)) - 2)
        options: dict[str, Any] = {"norm": norm, "spectral_norm": spectral_norm}
        resamples: Sequence[str] = ["down"] * halvings + ["", ""]
        self.blocks = [
            ResidualBlock(width, resample=resample, first=not number, **options)
            for number, resample in enumerate(resamples)
        ]
        self.head = Head(spectral_norm=spectral_norm, initializer=keras.initializers.GlorotUniform)

    def call(
        self, images: tf.Tensor, labels: tf.Tensor | None = None, training: bool = False
    ) -> Verdict:
        """images [B, H, W, C] in [-1, 1] -> Verdict."""
        values = images
        for block in self.blocks:
            values = block(values, training=training)
        pool = tf.reduce_sum if self.pooling == "sum" else tf.reduce_mean
        return self.head(pool(tf.nn.relu(values), axis=[1, 2]))

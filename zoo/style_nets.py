"""Nets that repaint a picture of any size: Johnson et al.'s, and AdaIN's decoder.

A style is one vector: a scale and a shift for each normalised channel of the net (Dumoulin, Shlens
& Kudlur 2017, equation 5), so that styles are mixed by mixing their vectors, and a new one is
learned by training its vector alone. Borders are padded by reflection.

Shape letters: B examples, H W C picture, h w a layer's size, S styles, P numbers of a style.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import layers

from zoo.generative import stateless_normal
from zoo.layers import double

EPSILON = 1e-5


class ReflectedConvolution(layers.Layer):
    """Enlarges by two if asked to, then a convolution over a picture continued by reflection."""

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        *,
        stride: int = 1,
        upsampling: str = "",
        bias: bool = False,
    ):
        """upsampling: "nearest" or "bilinear" enlarges first."""
        super().__init__()
        self.stride, self.upsampling, self.reach = stride, upsampling, kernel_size // 2
        self.filters = filters
        self.convolution = layers.Conv2D(
            filters, kernel_size, strides=stride, padding="valid", use_bias=bias
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        if self.upsampling:
            x = double(x, self.upsampling)
        reach = [self.reach, self.reach]
        return self.convolution(tf.pad(x, [[0, 0], reach, reach, [0, 0]], "REFLECT"))


def normalise(
    x: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor
) -> tf.Tensor:
    """Instance normalisation (Ulyanov, Vedaldi & Lempitsky 2016) with given statistics.

    x: [B, H, W, C]; mean, variance: [B, 1, 1, C] float32; scale, shift: [B, C].
    """
    factor = scale[:, None, None] * tf.math.rsqrt(variance + EPSILON)
    return x * tf.cast(factor, x.dtype) + tf.cast(shift[:, None, None] - mean * factor, x.dtype)


class TransformerNet(layers.Layer):
    """Johnson, Alahi & Fei-Fei 2016 (supplement, table 1) with conditional instance normalisation.

    9x9-w, 3x3-2w and 3x3-4w that halve, residual blocks of two 3x3-4w, ReLU inside only, two
    enlarged 3x3-2w and 3x3-w, 9x9-3 and a sigmoid (Dumoulin et al., table 1). w is 32 and there
    are five blocks in the paper. Of our own: where the picture is flat, a net has nothing to make
    strokes of; so grain, times a learned factor for each channel (Karras, Laine & Aila 2019,
    section 2, for generators), is added at a quarter and at half of the size.
    """

    def __init__(
        self,
        num_styles: int,
        *,
        width: int = 32,
        residual_blocks: int = 5,
        kernel_size: int = 9,
        upsampling: str = "nearest",
    ):
        # Pictures, statistics and styles stay float32; only convolutions are told otherwise.
        super().__init__(autocast=False)
        self.num_styles = num_styles
        self.entry = [
            ReflectedConvolution(width, kernel_size),
            ReflectedConvolution(2 * width, 3, stride=2),
            ReflectedConvolution(4 * width, 3, stride=2),
        ]
        self.middle = [ReflectedConvolution(4 * width, 3) for _ in range(2 * residual_blocks)]
        self.exit = [
            ReflectedConvolution(2 * width, 3, upsampling=upsampling),
            ReflectedConvolution(width, 3, upsampling=upsampling),
        ]
        self.last = ReflectedConvolution(3, kernel_size, bias=True)
        self.last.convolution.dtype_policy = keras.DTypePolicy("float32")
        self.convolutions = [*self.entry, *self.middle, *self.exit]
        self.style_size = 2 * sum(layer.filters for layer in self.convolutions)
        options = {"dtype": "float32", "autocast": False}
        # One variable a style: a new one can be trained while the others stay as they are.
        self.styles = [
            self.add_weight(
                name=f"style_{number}",
                shape=(self.style_size,),
                initializer=self._neutral,
                **options,
            )
            for number in range(num_styles)
        ]
        self.grain = [
            self.add_weight(
                name=f"grain_{number}", shape=(width * times,), initializer="zeros", **options
            )
            for number, times in enumerate((4, 2))
        ]

    def _neutral(self, shape, dtype=None) -> tf.Tensor:
        """Scales of 1, then shifts of 0."""
        half = shape[0] // 2
        return tf.concat([tf.ones([half]), tf.zeros([half])], axis=0)

    def call(
        self,
        images: tf.Tensor,
        weights: tf.Tensor,
        grain: Sequence[tf.Tensor] | None = None,
    ) -> tf.Tensor:
        """images [B, H, W, 3] in [0, 1], at least 8 pixels high and wide; weights [B, S].

        grain: [B, h, w, 1] at a quarter and at half of the size; `fixed_grain` by default, so that
        a picture is always painted alike. Gives [B, H, W, 3] float32 in [0, 1].
        """
        affine = self.affine(weights)
        x = 2.0 * pad_to_multiple(images, 4) - 1.0
        grain = grain or fixed_grain(tf.shape(x)[1], tf.shape(x)[2])
        x = tf.cast(x, self.compute_dtype)
        for number, layer in enumerate(self.entry):
            x = tf.nn.relu(self._normalised(layer(x), affine[number]))
        x = self.grained(x, grain, 0)
        for number in range(0, len(self.middle), 2):
            at = len(self.entry) + number
            y = tf.nn.relu(self._normalised(self.middle[number](x), affine[at]))
            x += self._normalised(self.middle[number + 1](y), affine[at + 1])
        for number, layer in enumerate(self.exit):
            at = len(self.entry) + len(self.middle) + number
            x = tf.nn.relu(self._normalised(layer(x), affine[at]))
            if number == 0:
                x = self.grained(x, grain, 1)
        x = tf.sigmoid(tf.cast(self.last(x), tf.float32))
        return cut(x, images)

    def grained(self, x: tf.Tensor, grain: Sequence[tf.Tensor], number: int) -> tf.Tensor:
        """x [B, h, w, C] with the grain of that number."""
        return x + tf.cast(self.grain[number] * grain[number], x.dtype)

    def affine(self, weights: tf.Tensor) -> list[tuple[tf.Tensor, tf.Tensor]]:
        """weights [B, S] -> scale and shift, each [B, C], of every normalised layer."""
        mixed = tf.matmul(weights, tf.stack([tf.convert_to_tensor(style) for style in self.styles]))
        sizes = [layer.filters for layer in self.convolutions]
        scales, shifts = tf.split(mixed, 2, axis=1)
        return list(
            zip(tf.split(scales, sizes, axis=1), tf.split(shifts, sizes, axis=1), strict=True)
        )

    @staticmethod
    def _normalised(x: tf.Tensor, affine: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        mean, variance = tf.nn.moments(tf.cast(x, tf.float32), axes=[1, 2], keepdims=True)
        return normalise(x, mean, variance, *affine)


def fixed_grain(height: int | tf.Tensor, width: int | tf.Tensor) -> list[tf.Tensor]:
    """[1, h, w, 1] at a quarter and at half of the size: the same for all pictures of a size."""
    return [
        stateless_normal([1, height // times, width // times, 1], tf.constant([0, times], tf.int64))
        for times in (4, 2)
    ]


def pad_to_multiple(images: tf.Tensor, multiple: int) -> tf.Tensor:
    """Continues [B, H, W, C] by reflection, down and to the right, to multiples of a number."""
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    # Of no negative number: what its remainder is differs between runtimes.
    down, right = ((multiple - size % multiple) % multiple for size in (height, width))
    return tf.pad(images, [[0, 0], [0, down], [0, right], [0, 0]], "REFLECT")


def cut(x: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """x [B, H', W', 3] without what `pad_to_multiple` added to images [B, H, W, 3]."""
    return tf.ensure_shape(x[:, : tf.shape(images)[1], : tf.shape(images)[2]], images.shape)


class Decoder(layers.Layer):
    """From a layer of an encoder back to a picture: its convolutions mirrored, no normalisation.

    Huang & Belongie 2017, section 6: nearest enlarging in place of pooling, reflection padding.
    """

    def __init__(self, blocks: Sequence[Sequence[int]], upsampling: str = "nearest"):
        """blocks: the encoder's channels after each of its convolutions, block by block."""
        super().__init__()
        channels = [count for block in blocks for count in block]
        begins = [number == 0 for block in blocks for number in range(len(block))]
        # The inverse of convolution n gives n - 1's channels; it is enlarged after the inverse of
        # a block's first convolution, before which the encoder had halved.
        outputs = [3, *channels[:-1]]
        self.convolutions = [
            ReflectedConvolution(
                outputs[number],
                3,
                upsampling=upsampling if number + 1 < len(begins) and begins[number + 1] else "",
                bias=True,
            )
            for number in reversed(range(len(channels)))
        ]
        self.convolutions[-1].convolution.dtype_policy = keras.DTypePolicy("float32")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, h, w, C] -> [B, H, W, 3] float32."""
        *inner, last = self.convolutions
        for layer in inner:
            x = tf.nn.relu(layer(x))
        return tf.cast(last(x), tf.float32)

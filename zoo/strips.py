"""The nets that repaint pictures, run on a picture of any size in bounded memory.

The result is that of the net on the whole picture, but for the rounding of sums. A layer is
computed in strips, rows from edge to edge, from those rows of the layers below that it reaches;
the picture is continued by reflection at its own borders only. Instance normalisation wants the
mean and variance of the whole picture: each normalised layer costs one more pass over what is
below it. Maps at a quarter of the picture's size are held whole: for `TransformerNet` three, of
`4 width` channels, which is 3 * width bytes a pixel; an encoder's last layer once.

Shape letters: H W picture, h rows of a strip, C channels of a layer, S styles.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from zoo import perceptual
from zoo.generative import to_float
from zoo.layers import double
from zoo.style_nets import (
    EPSILON,
    Decoder,
    ReflectedConvolution,
    TransformerNet,
    fixed_grain,
)

SMALLEST = 16
"""Pictures must have as many pixels in height and width."""
# Numbers in the largest tensor of a strip, 16 MiB: with fewer, rows that strips share cost time.
_STRIP_NUMBERS = 2**22


class Moments(NamedTuple):
    """Of a layer: mean and variance of each channel, float64 [C], over a number of places."""

    mean: np.ndarray
    variance: np.ndarray
    places: int


def pooled(parts: Iterable[Moments]) -> Moments:
    """The moments of all places together (Chan, Golub & LeVeque 1979)."""
    mean, squares, places = np.zeros(1), np.zeros(1), 0
    for part in parts:
        total = places + part.places
        apart = part.mean - mean
        squares = squares + part.variance * part.places + apart**2 * (places * part.places / total)
        mean = mean + apart * (part.places / total)
        places = total
    return Moments(mean, squares / places, places)


def paint(
    net: TransformerNet,
    image: np.ndarray,
    weights: np.ndarray,
    statistics: Sequence[Moments] | None = None,
) -> Iterator[np.ndarray]:
    """What the net makes of one picture, from top to bottom: [h, W, 3] float32 in [0, 1].

    image: [H, W, 3], uint8, or float32 in [0, 1]; weights: [S], of the styles; statistics: of
    every normalised layer in place of the picture's own, e.g. those of a whole animation, whose
    frames would flicker else.
    """
    prepared = _Prepared(net, image, weights, statistics)
    last = dataclasses.replace(_step(net.last), finish=lambda x, first: tf.sigmoid(x))
    for first, x in _strips(prepared.middle, [*prepared.steps, last]):
        yield _cut(x, first, image)


def statistics(
    net: TransformerNet, images: Iterable[np.ndarray], weights: np.ndarray
) -> list[Moments]:
    """The moments of every normalised layer over all these pictures, for `paint`."""
    each = [_Prepared(net, image, weights, None).statistics for image in images]
    return [pooled(layer) for layer in zip(*each, strict=True)]


def encoded(encoder: perceptual.Encoder, images: Iterable[np.ndarray]) -> Moments:
    """Mean and variance of the encoder's last layer over pictures, for `exchange`."""
    return pooled(_moments(x) for image in images for _, x in _strips(*_encoding(encoder, image)))


def exchange(
    encoder: perceptual.Encoder,
    decoder: Decoder,
    image: np.ndarray,
    style: Moments,
    strength: float,
    own: Moments | None = None,
) -> Iterator[np.ndarray]:
    """`AdaIN.stylize` of one picture, from top to bottom: [h, W, 3] float32 in [0, 1].

    image: as for `paint`; style: of the style picture; own: in place of the picture's own moments,
    e.g. those of a whole animation.
    """
    features, moments = _stored(*_encoding(encoder, image))
    factor, offset = _affine(own or moments, np.sqrt(style.variance + EPSILON), style.mean)
    share = np.float32(strength)
    factor, offset = 1.0 + share * (factor - 1.0), share * offset
    *inner, last = [_step(layer) for layer in decoder.convolutions]
    steps = [dataclasses.replace(step, finish=lambda x, first: tf.nn.relu(x)) for step in inner]

    def decode(read: Callable[[tf.Tensor], tf.Tensor]) -> Iterator[np.ndarray]:
        for first, x in _strips(_Rows(features, read), [*steps, last]):
            yield _cut(x, first, image)

    styled, first = decode(lambda x: x * factor + offset), 0
    if strength == 1:
        yield from (np.clip(strip, 0.0, 1.0) for strip in styled)
        return
    for strip, plain in zip(styled, decode(tf.identity), strict=True):
        original = to_float(tf.convert_to_tensor(image[first : first + len(strip)])).numpy()
        yield np.clip(strip + (1 - share) * (original - plain), 0.0, 1.0)
        first += len(strip)


class _Rows(NamedTuple):
    """A map held whole, [H, W, C], and what is done to rows [1, h, W, C] of it on reading."""

    array: np.ndarray
    read: Callable[[tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class _Step:
    """A layer, as one sees it that computes some rows of it.

    Output row n is made of rows from n * stride - reach on, `window` of them, of what is below,
    enlarged by two first if upsampling says how; columns likewise, reach further on both sides.
    """

    layer: Callable[[tf.Tensor], tf.Tensor]
    """[1, h', W', C'] with what it reaches on all sides -> [1, h, W, C]."""
    channels: int
    window: int
    reach: int = 0
    stride: int = 1
    upsampling: str = ""
    border: str = "REFLECT"
    """How the map below is continued, a mode of tf.pad."""
    finish: Callable[[tf.Tensor, int], tf.Tensor] = lambda x, first: x
    """What is done to the outcome number by number: its rows, and which is the first of them."""

    def size(self, below: int) -> int:
        """Height or width of the layer."""
        return (2 * below if self.upsampling else below) // self.stride

    def _window(self, first: int, last: int) -> tuple[int, int]:
        return first * self.stride - self.reach, (last - 1) * self.stride - self.reach + self.window

    def inputs(self, first: int, last: int, height: int) -> tuple[int, int]:
        """Begin and end of the rows of the map below, of this height, for rows first to last."""
        top, bottom = self._window(first, last)
        if not self.upsampling:
            return max(top, 0), min(bottom, height)
        # A row that is enlarged lies between two, of which it takes its share.
        top, bottom = max(top, 0), min(bottom, 2 * height)
        return max((top - 1) // 2, 0), min(bottom // 2 + 1, height)

    def __call__(self, x: tf.Tensor, begin: int, height: int, first: int, last: int) -> tf.Tensor:
        """Rows first to last, of x, which has the map's rows from begin on; see `inputs`."""
        if self.upsampling:
            x, begin, height = double(x, self.upsampling), 2 * begin, 2 * height
        top, bottom = self._window(first, last)
        x = x[:, max(top, 0) - begin : min(bottom, height) - begin]
        rows, columns = [max(-top, 0), max(bottom - height, 0)], [self.reach, self.reach]
        x = self.layer(tf.pad(x, [[0, 0], rows, columns, [0, 0]], self.border))
        return self.finish(tf.cast(x, tf.float32), first)


def _step(layer: ReflectedConvolution) -> _Step:
    return _Step(
        layer.convolution,
        channels=layer.filters,
        window=2 * layer.reach + 1,
        reach=layer.reach,
        stride=layer.stride,
        upsampling=layer.upsampling,
    )


def _shapes(below: _Rows, steps: Sequence[_Step]) -> list[tuple[int, int, int]]:
    """Height, width and channels of a map and of the layers on it."""
    height, width, channels = below.array.shape
    shapes = [(height, width, channels)]
    for step in steps:
        height, width = step.size(height), step.size(width)
        shapes.append((height, width, step.channels))
    return shapes


def _strips(below: _Rows, steps: Sequence[_Step]) -> Iterator[tuple[int, tf.Tensor]]:
    """The last of some layers on a map, strip by strip: its first row, and [1, h, W, C] float32."""
    shapes = _shapes(below, steps)
    heights = [height for height, _, _ in shapes]
    numbers = [height * width * channels for height, width, channels in shapes]
    numbers += [4 * numbers[n] for n, step in enumerate(steps) if step.upsampling]
    rows = max(1, heights[-1] * _STRIP_NUMBERS // max(numbers))
    for first in range(0, heights[-1], rows):
        ranges = [(first, min(first + rows, heights[-1]))]
        for step, height in zip(reversed(steps), reversed(heights[:-1]), strict=True):
            ranges.insert(0, step.inputs(*ranges[0], height))
        begin, end = ranges[0]
        x = below.read(tf.convert_to_tensor(below.array[None, begin:end]))
        for number, step in enumerate(steps):
            x = step(x, ranges[number][0], heights[number], *ranges[number + 1])
        yield first, x


def _stored(below: _Rows, steps: Sequence[_Step]) -> tuple[np.ndarray, Moments]:
    """The last of some layers on a map, whole, with its moments."""
    stored = np.empty(_shapes(below, steps)[-1], np.float32)
    parts = []
    for first, x in _strips(below, steps):
        stored[first : first + x.shape[1]] = x[0]
        parts.append(_moments(x))
    return stored, pooled(parts)


class _Prepared:
    """A picture half-way through a net: all that is left to do is one pass.

    Attributes:
      statistics: of every normalised layer.
      middle: the map after the residual blocks.
      steps: the layers that follow, up to the last normalised one.
    """

    def __init__(
        self,
        net: TransformerNet,
        image: np.ndarray,
        weights: np.ndarray,
        statistics: Sequence[Moments] | None,
    ):
        self.statistics = list(statistics or ())
        self._is_given = statistics is not None
        affine = net.affine(tf.constant(weights, tf.float32)[None])
        self._affine = [(scale[0].numpy(), shift[0].numpy()) for scale, shift in affine]
        picture = _Rows(_continued(image, 4), lambda x: 2.0 * to_float(x) - 1.0)
        quarter, half = fixed_grain(*picture.array.shape[:2])
        # Layers are numbered through the entry, the middle and the exit.
        steps: list[_Step] = []
        for number, layer in enumerate(net.entry[:-1]):
            steps.append(self._normalised(picture, [*steps, _step(layer)], number))
        at = len(net.entry)
        x = self._store(picture, [*steps, _step(net.entry[-1])], at - 1)
        np.maximum(x, 0.0, out=x)
        factor = tf.convert_to_tensor(net.grain[0]).numpy()
        for row, grain in zip(x, quarter[0].numpy(), strict=True):
            row += factor * grain
        for number in range(at, at + len(net.middle), 2):
            first, second = (_step(layer) for layer in net.middle[number - at :][:2])
            y = self._store(_Rows(x, tf.identity), [first], number)
            x += self._store(_Rows(y, tf.nn.relu), [second], number + 1)
        at += len(net.middle)
        self.middle = _Rows(x, tf.identity)
        self.steps = [self._normalised(self.middle, [_step(net.exit[0])], at, half, net.grain[1])]
        for number, layer in enumerate(net.exit[1:], start=at + 1):
            self.steps.append(self._normalised(self.middle, [*self.steps, _step(layer)], number))

    def _normalised(
        self,
        below: _Rows,
        steps: list[_Step],
        number: int,
        grain: tf.Tensor | None = None,
        grain_factor: tf.Tensor | None = None,
    ) -> _Step:
        """The last of the steps with normalisation, ReLU and grain, [1, H, W, 1] times [C]."""
        if not self._is_given:
            self.statistics.append(pooled(_moments(x) for _, x in _strips(below, steps)))
        factor, offset = _affine(self.statistics[number], *self._affine[number])

        def finish(x: tf.Tensor, first: int) -> tf.Tensor:
            x = tf.nn.relu(x * factor + offset)
            if grain is not None:
                x += grain_factor * grain[:, first : first + x.shape[1]]
            return x

        return dataclasses.replace(steps[-1], finish=finish)

    def _store(self, below: _Rows, steps: list[_Step], number: int) -> np.ndarray:
        """The last of the steps, whole and normalised."""
        stored, moments = _stored(below, steps)
        if not self._is_given:
            self.statistics.append(moments)
        factor, offset = _affine(self.statistics[number], *self._affine[number])
        stored *= factor
        stored += offset
        return stored


def _encoding(encoder: perceptual.Encoder, image: np.ndarray) -> tuple[_Rows, list[_Step]]:
    """The picture and the encoder's layers on it."""
    steps: list[_Step] = []
    for name, (kernel, bias) in encoder.kernels.items():
        if name.endswith("_1") and steps:
            pool = functools.partial(tf.nn.max_pool2d, ksize=2, strides=2, padding="VALID")
            steps.append(_Step(pool, channels=steps[-1].channels, window=2, stride=2))
        layer = functools.partial(_convolve, kernel, bias)
        steps.append(_Step(layer, channels=bias.shape[0], window=3, reach=1, border="CONSTANT"))
    picture = _continued(image, 2 ** (len(encoder.channels) - 1))
    return _Rows(picture, lambda x: perceptual.prepared(encoder.net, to_float(x))), steps


def _convolve(kernel, bias, x: tf.Tensor) -> tf.Tensor:
    kernel, bias = tf.convert_to_tensor(kernel), tf.convert_to_tensor(bias)
    return tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "VALID") + bias)


def _continued(image: np.ndarray, multiple: int) -> np.ndarray:
    """As `zoo.style_nets.pad_to_multiple`: [H, W, 3] to multiples of a number."""
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST:
        raise ValueError(f"{height} x {width} pixels: expected {SMALLEST} or more on each side")
    return np.pad(image, ((0, -height % multiple), (0, -width % multiple), (0, 0)), "reflect")


def _cut(x: tf.Tensor, first: int, image: np.ndarray) -> np.ndarray:
    """Rows [1, h, W', 3] from row `first` on, without what `_continued` added."""
    return x[0, : max(image.shape[0] - first, 0), : image.shape[1]].numpy()


def _moments(x: tf.Tensor) -> Moments:
    """Of a strip [1, h, W, C]."""
    mean, variance = tf.nn.moments(x, axes=[0, 1, 2])
    return Moments(
        mean.numpy().astype(np.float64),
        variance.numpy().astype(np.float64),
        x.shape[1] * x.shape[2],
    )


def _affine(
    moments: Moments, scale: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Factor and offset, [C] float32, that give a layer the deviation scale and the mean shift."""
    factor = scale / np.sqrt(moments.variance + EPSILON)
    return factor.astype(np.float32), (shift - moments.mean * factor).astype(np.float32)

"""Extractors: the small classifiers that come with the zoo and turn pictures into features.

`glyphs.npz` tells our digits apart (28x28x1), `paintings.npz` our ten styles (32x32x3); both are
written by `python -m experiments.extractor`. Four 3x3 convolutions with ReLU (32, 64, 128, 64
channels; strides 1, 2, 2, 1), average pooling by 2, 64 dense ReLU units, which are the features,
and logits. A file holds float16 weights with the batch normalisation folded into them, and features
are float32 sums of just these numbers. A distance means something only beside the hash of the file
whose features it measures.

Shape letters: N images, H W C height, width, channels, F features, K classes.
"""

import functools
import hashlib
import io
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from zoo.errors import UsageError, unknown

CHANNELS = (32, 64, 128, 64)
STRIDES = (1, 2, 2, 1)
KERNEL_SIZE = 3
POOLING = 2
NUM_FEATURES = 64
# Every chunk is filled up to this size, so that a picture is computed alike whatever its company.
CHUNK = 250
RESIZE = "antialiased bilinear"
_FOLDER = pathlib.Path(__file__).parent
_BY_CHANNELS = {1: "glyphs", 3: "paintings"}


class Outputs(NamedTuple):
    """What the net makes of N images: features [N, F] and probabilities [N, K], float64."""

    features: np.ndarray
    probabilities: np.ndarray


class MeasureNames(NamedTuple):
    """What measures by an extractor are called: an FID is Inception's alone."""

    frechet: str
    kernel: str
    score: str


class FeatureNet(Protocol):
    """What sample quality asks of a net; see `Extractor`."""

    name: str
    names: MeasureNames
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    hash: str
    resize: str
    kernel_scale: float | None
    num_features: int

    def outputs(self, images: np.ndarray) -> Outputs:
        """uint8 [N, H, W, C] -> features and probabilities."""


class Extractor:
    """A classifier whose last hidden layer serves as the features of pictures.

    It computes on the CPU, in float32, with constants: the same figures with and without a GPU,
    under any Keras dtype policy, and no variable that a checkpoint could meet.

    Attributes:
      name: of the file, without its ending.
      names: of the measures that use it: fd_, kd_, classifier_score_ and its name.
      class_names: what the columns of the probabilities stand for, K of them.
      image_shape: (H, W, C) that the net sees; other sizes are resized.
      hash: the first 12 hexadecimal digits of the file's SHA-256.
      resize: how, where they are resized.
      kernel_scale: of features in a kernel distance; None: that of the real ones.
      num_features: F.
    """

    resize = RESIZE
    kernel_scale: float | None = None
    num_features = NUM_FEATURES

    def __init__(self, path: pathlib.Path):
        data = path.read_bytes()
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        self.name = path.stem
        self.names = MeasureNames(
            f"fd_{self.name}", f"kd_{self.name}", f"classifier_score_{self.name}"
        )
        self.hash = hashlib.sha256(data).hexdigest()[:12]
        self.class_names = tuple(map(str, arrays.pop("class_names")))
        height, width, channels = arrays.pop("image_shape").tolist()
        self.image_shape: tuple[int, int, int] = (height, width, channels)
        with tf.device("CPU:0"):
            weights = {name: tf.constant(array, tf.float32) for name, array in arrays.items()}
        chunk = tf.TensorSpec([CHUNK, height, width, channels], tf.float32)
        self._net = tf.function(
            lambda pixels: network(weights, pixels), input_signature=[chunk], autograph=False
        )
        self._compare = tf.function(
            lambda pixels, others: map_distance(maps(weights, pixels), maps(weights, others)),
            input_signature=[chunk, chunk],
            autograph=False,
        )

    @classmethod
    def load(cls, name: str) -> "Extractor":
        """The extractor "glyphs" or "paintings"; UsageError for other names."""
        known = sorted(_BY_CHANNELS.values())
        if name not in known:
            raise unknown("extractor", name, known)
        return cls(_FOLDER / f"{name}.npz")

    @classmethod
    @functools.cache
    def for_images(cls, image_shape: tuple[int, ...]) -> "Extractor":
        """The one for (H, W, C) images: glyphs for one channel, paintings for three."""
        if image_shape[-1] not in _BY_CHANNELS:
            raise UsageError(
                f"images have {image_shape[-1]} channels; no extractor sees those: expected 1 or 3"
            )
        return cls.load(_BY_CHANNELS[image_shape[-1]])

    def features(self, images: np.ndarray) -> np.ndarray:
        """images uint8 [N, H, W, C] -> float64 [N, F], each ≥ 0; see `outputs`."""
        return self.outputs(images).features

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """images uint8 [N, H, W, C] -> float64 [N, K], rows sum to 1; see `outputs`."""
        return self.outputs(images).probabilities

    def outputs(self, images: np.ndarray) -> Outputs:
        """Both of uint8 [N, H, W, C] with any H and W; UsageError for other images.

        Pictures of another size than the net's are resized: linear, with antialiasing, unrounded.
        """
        features, logits = [np.empty([0, NUM_FEATURES])], [np.empty([0, len(self.class_names)])]
        for pixels, count in self._chunks(images):
            outputs = self._net(pixels)
            features.append(outputs[0].numpy()[:count])
            logits.append(outputs[1].numpy()[:count])
        return Outputs(np.concatenate(features), softmax(np.concatenate(logits)))

    def perceptual_distances(self, images: np.ndarray, others: np.ndarray) -> np.ndarray:
        """How unlike each pair looks to the convolutions: two uint8 [N, H, W, C] -> [N], 0 to 2.

        As LPIPS (Zhang et al. 2018, equation 1) without its learned weights, and on this net.
        """
        found = [np.empty([0])]
        pairs = zip(self._chunks(images), self._chunks(others), strict=True)
        for (pixels, count), (other, _) in pairs:
            found.append(self._compare(pixels, other).numpy()[:count])
        return np.concatenate(found)

    def _chunks(self, images: np.ndarray) -> Iterator[tuple[tf.Tensor, int]]:
        """Images as the net sees them, CHUNK at a time, and how many of these are not filling."""
        images = np.asarray(images)
        channels = self.image_shape[-1]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != channels:
            raise UsageError(
                f"images are {images.dtype} {list(images.shape)}; the extractor {self.name} "
                f"expects uint8 [N, H, W, {channels}]"
            )
        for start in range(0, len(images), CHUNK):
            chunk = images[start : start + CHUNK]
            blank = np.zeros([CHUNK - len(chunk), *chunk.shape[1:]], np.uint8)
            with tf.device("CPU:0"):
                pixels = tf.cast(np.concatenate([chunk, blank]), tf.float32) / 255.0
                if chunk.shape[1:3] != self.image_shape[:2]:
                    pixels = tf.image.resize(pixels, self.image_shape[:2], antialias=True)
            yield pixels, len(chunk)


def network(weights: Mapping[str, tf.Tensor], pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """pixels [N, H, W, C] float32 in [0, 1] -> features [N, F], logits [N, K]."""
    x = tf.nn.avg_pool2d(maps(weights, pixels)[-1], POOLING, POOLING, "VALID")
    x = tf.reshape(x, [x.shape[0], -1])
    features = tf.nn.relu(x @ weights["features_kernel"] + weights["features_bias"])
    return features, features @ weights["logits_kernel"] + weights["logits_bias"]


def maps(weights: Mapping[str, tf.Tensor], pixels: tf.Tensor) -> list[tf.Tensor]:
    """pixels [N, H, W, C] float32 in [0, 1] -> what each convolution sees, [N, h, w, c]."""
    found, x = [], pixels
    for number, stride in enumerate(STRIDES):
        x = tf.nn.conv2d(x, weights[f"conv{number}_kernel"], stride, "SAME")
        x = tf.nn.relu(x + weights[f"conv{number}_bias"])
        found.append(x)
    return found


def map_distance(ours: list[tf.Tensor], theirs: list[tf.Tensor]) -> tf.Tensor:
    """Lists of [N, h, w, c] -> [N]: squared distances of the unit vectors of each place, averaged.

    Over places, then over the maps. Where nothing fires the vector is 0.
    """
    distances = []
    for a, b in zip(ours, theirs, strict=True):
        difference = tf.math.l2_normalize(a, -1, 1e-10) - tf.math.l2_normalize(b, -1, 1e-10)
        distances.append(tf.reduce_mean(tf.reduce_sum(tf.square(difference), axis=-1), axis=[1, 2]))
    return tf.add_n(distances) / len(distances)


def softmax(logits: np.ndarray) -> np.ndarray:
    """[N, K] -> [N, K], rows sum to 1."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return exponentials / exponentials.sum(axis=1, keepdims=True)

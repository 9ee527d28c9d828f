"""Nets in whose features content and style are compared; they are never trained here.

`vgg16` and `vgg19` (Simonyan & Zisserman 2015) with ImageNet weights, which Keras downloads or a
file holds; `random`, which comes with the zoo and needs neither: four 3x3 convolutions of
orthogonal random weights, each filter shifted and scaled until its response to our paintings has
mean near 0 and deviation 1, written by `python -m experiments.perceptual`. Random nets carry
colour and the size of strokes well (Ustyuzhaninov et al. 2017), but know no objects: losses of
different nets do not compare, so a run records the net and the hash of its weights.

Shape letters: B images, h w C height, width and channels of a layer.
"""

import hashlib
import pathlib
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from zoo.errors import UsageError, reason, unknown

# ImageNet's mean, in the order blue, green, red of the original weights, on a scale to 255.
VGG_MEAN = (103.939, 116.779, 123.68)
_FOLDER = pathlib.Path(__file__).parent / "metrics"


class Net(NamedTuple):
    """What a net is made of, and where its authors look."""

    channels: tuple[tuple[int, ...], ...]
    """Of each 3x3 convolution, block by block; the picture is halved between blocks."""
    style_layers: tuple[str, ...]
    content_layer: str
    encoding_layer: str
    """Where AdaIN exchanges the statistics."""


_VGG_STYLE = tuple(f"conv{block}_1" for block in (1, 2, 3, 4, 5))
NETS = {
    "random": Net(
        channels=((32,), (64,), (128, 128), (128,)),
        style_layers=("conv1_1", "conv2_1", "conv3_1", "conv4_1"),
        content_layer="conv3_1",
        encoding_layer="conv3_1",
    ),
    # Johnson, Alahi & Fei-Fei 2016, section 3.2.
    "vgg16": Net(
        channels=((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
        style_layers=("conv1_2", "conv2_2", "conv3_3", "conv4_3"),
        content_layer="conv2_2",
        encoding_layer="conv4_1",
    ),
    # Gatys, Ecker & Bethge 2016, section 3; Huang & Belongie 2017 for the encoding.
    "vgg19": Net(
        channels=((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
        style_layers=_VGG_STYLE,
        content_layer="conv4_2",
        encoding_layer="conv4_1",
    ),
}


class Weights(NamedTuple):
    """Of one net: layer name -> kernel [3, 3, C', C] and bias [C], and the hash of the file."""

    arrays: dict[str, tuple[np.ndarray, np.ndarray]]
    hash: str


class Perceptual:
    """A net, up to its last named layer.

    Attributes:
      name: of the net, `random`, `vgg16` or `vgg19`.
      weights: as loaded, with their hash.
      style_layers, content_layer: where its authors compare.
    """

    def __init__(self, name: str, weights: Weights, pooling: str = "average"):
        """pooling: "average" (Gatys et al.) or "max" (as VGG was trained)."""
        self.name, self.weights = name, weights
        self.style_layers = NETS[name].style_layers
        self.content_layer = NETS[name].content_layer
        self._pool = {"average": tf.nn.avg_pool2d, "max": tf.nn.max_pool2d}[pooling]
        self._tensors = {
            layer: (tf.constant(kernel, tf.float32), tf.constant(bias, tf.float32))
            for layer, (kernel, bias) in weights.arrays.items()
        }

    def __call__(self, images: tf.Tensor, *layers: str) -> dict[str, tf.Tensor]:
        """images [B, H, W, 3] float32 in [0, 1] -> layer name -> [B, h, w, C], after its ReLU.

        layers: which; by default those of style and content.
        """
        wanted = set(layers or (*self.style_layers, self.content_layer))
        return features(self.name, self._tensors, images, wanted, self._pool)


def features(name: str, weights, images: tf.Tensor, wanted: set[str], pool) -> dict[str, tf.Tensor]:
    """See `Perceptual.__call__`; weights: layer name -> (kernel, bias)."""
    x = prepared(name, images)
    found = {}
    for layer in layer_names(name):
        if layer.endswith("_1") and layer != "conv1_1":
            x = pool(x, 2, 2, "SAME")
        kernel, bias = weights[layer]
        # The style's own dtype decides: under mixed precision, compute as the caller does.
        x = tf.nn.relu(
            tf.nn.conv2d(x, tf.cast(kernel, x.dtype), 1, "SAME") + tf.cast(bias, x.dtype)
        )
        if layer in wanted:
            found[layer] = x
        if len(found) == len(wanted):
            break
    return found


def prepared(name: str, images: tf.Tensor) -> tf.Tensor:
    if name == "random":
        return 2.0 * images - 1.0
    return images[..., ::-1] * 255.0 - tf.constant(VGG_MEAN, images.dtype)


def layer_names(name: str) -> list[str]:
    """conv1_1, conv1_2, … of a net, in their order."""
    return [
        f"conv{block}_{number}"
        for block, channels in enumerate(NETS[name].channels, start=1)
        for number in range(1, len(channels) + 1)
    ]


class Encoder(keras.layers.Layer):
    """A net up to its encoding layer, as part of a model: its weights are in the checkpoint.

    They are 0 until `load` or a checkpoint fills them.
    """

    def __init__(self, name: str):
        super().__init__(trainable=False)
        self.net = name
        self.layer = NETS[name].encoding_layer
        self.channels: list[list[int]] = []
        self.kernels: dict[str, tuple[keras.Variable, keras.Variable]] = {}
        inputs, names = 3, iter(layer_names(name))
        for block in NETS[name].channels:
            self.channels.append([])
            for channels in block:
                layer = next(names)
                self.kernels[layer] = (
                    self.add_weight(shape=(3, 3, inputs, channels), initializer="zeros"),
                    self.add_weight(shape=(channels,), initializer="zeros"),
                )
                self.channels[-1].append(channels)
                inputs = channels
                if layer == self.layer:
                    return

    def load(self, weights: Weights) -> None:
        """Takes the weights over."""
        for layer, variables in self.kernels.items():
            for variable, array in zip(variables, weights.arrays[layer], strict=True):
                variable.assign(array)

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """images [B, H, W, 3] in [0, 1] -> [B, h, w, C]; H, W multiples of all its halvings."""
        weights = {
            layer: tuple(tf.convert_to_tensor(variable) for variable in variables)
            for layer, variables in self.kernels.items()
        }
        return features(self.net, weights, images, {self.layer}, tf.nn.max_pool2d)[self.layer]


def load(name: str, path: str = "", pooling: str = "average") -> Perceptual:
    """The net of that name; UsageError where its weights cannot be had.

    path: a weights file of Keras's VGG16 or VGG19 without their dense layers, instead of a
    download.
    """
    return Perceptual(name, load_weights(name, path), pooling)


def load_weights(name: str, path: str = "") -> Weights:
    """The weights of the net of that name; see `load`."""
    if name not in NETS:
        raise unknown("perceptual net", name, NETS)
    if name == "random":
        if path:
            raise UsageError(
                f"--perceptual_weights={path}: the random net has its own; add --perceptual=vgg16 "
                "or vgg19"
            )
        return _shipped_weights()
    application = {"vgg16": keras.applications.VGG16, "vgg19": keras.applications.VGG19}[name]
    if not path:
        return _from_keras(_downloaded(name, application))
    file = pathlib.Path(path)
    if not file.is_file():
        raise UsageError(f"--perceptual_weights={path}: no such file; expected {name}'s weights")
    return _from_keras(_read(name, application, file))


def _shipped_weights() -> Weights:
    data = (_FOLDER / "random.npz").read_bytes()
    with np.load(_FOLDER / "random.npz", allow_pickle=False) as archive:
        arrays = {
            layer: (archive[f"{layer}_kernel"], archive[f"{layer}_bias"])
            for layer in layer_names("random")
        }
    return Weights(arrays, hashlib.sha256(data).hexdigest()[:12])


def _downloaded(name: str, application) -> keras.Model:
    try:
        return application(include_top=False, weights="imagenet")
    except Exception as error:  # urllib's, ssl's and Keras's own: none in common
        raise UsageError(
            f"--perceptual={name} needs ImageNet weights, and they could not be downloaded "
            f"({reason(error)}): give a file with --perceptual_weights=PATH, or use "
            "--perceptual=random, which needs none"
        ) from error


def _read(name: str, application, file: pathlib.Path) -> keras.Model:
    net = application(include_top=False, weights=None)
    try:
        net.load_weights(file)
    except Exception as error:  # h5py's, zipfile's and Keras's own: none in common
        raise UsageError(
            f"--perceptual_weights={file}: not the weights of {name} ({reason(error)}); expected a "
            f"file of keras.applications.{application.__name__}(include_top=False)"
        ) from error
    return net


def _from_keras(net: keras.Model) -> Weights:
    digest = hashlib.sha256()
    arrays = {}
    for layer in net.layers:
        if isinstance(layer, keras.layers.Conv2D):
            kernel, bias = layer.get_weights()
            block, number = layer.name.removeprefix("block").split("_conv")
            arrays[f"conv{block}_{number}"] = (kernel, bias)
            digest.update(kernel.tobytes() + bias.tobytes())
    return Weights(arrays, digest.hexdigest()[:12])

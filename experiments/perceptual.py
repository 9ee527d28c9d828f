"""`python -m experiments.perceptual`: makes the random net of `zoo.perceptual` anew.

Orthogonal 3x3 filters from a seed; then, layer by layer, each filter is scaled so that its
response to paintings has deviation 1 and shifted so that its mean is near 0 (Mishkin & Matas 2016,
LSUV, here per filter): about half of the units then fire, as in a trained net.
"""

import dataclasses
import io
import pathlib
from typing import TYPE_CHECKING

from zoo import files, flags
from zoo.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

CHANNELS = (32, 64, 128, 128, 128)
NUM_PAINTINGS, SIZE = 60, 64
SHIFT = 0.3


@dataclasses.dataclass(frozen=True)
class PerceptualFlags:
    """What the command can be told."""

    out: str = "random.npz"
    """File to write."""
    seed: int = 0
    """Of the filters."""


def main(argv: list[str]) -> int:
    """Makes the net, writes it and tells its hash; returns the exit code."""
    usage = "python -m experiments.perceptual [--flag=value ...]"
    options = flags.parse_options(PerceptualFlags, usage, argv)
    if options is None:
        return 0
    from zoo import runtime

    runtime.import_tensorflow()
    import numpy as np

    weights = make(options.seed)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **weights)  # type: ignore[arg-type]
    out = pathlib.Path(options.out)
    try:
        files.write(out, buffer.getvalue())
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}; choose another --out") from error
    print(f"{out}: {len(buffer.getvalue()):,} bytes")
    return 0


def make(seed: int) -> "dict[str, np.ndarray]":
    """Name -> float16 array: kernel and bias of each layer."""
    import numpy as np
    import tensorflow as tf

    from zoo import perceptual
    from zoo.data import paintings

    random = np.random.Generator(np.random.PCG64(seed))
    # Beyond those that a data set holds, so that no one is measured by pictures of its own.
    images, _ = paintings.draw(range(NUM_PAINTINGS), split="test", seed=1, image_size=SIZE)
    arrays: dict[str, np.ndarray] = {}
    layers = perceptual.layer_names("random")
    inputs = 3
    for layer, channels in zip(layers, CHANNELS, strict=True):
        kernel = _orthogonal(random, inputs, channels)
        arrays[f"{layer}_kernel"], arrays[f"{layer}_bias"] = kernel, np.zeros(channels, np.float32)
        response = _response(tf.constant(images), layers, layer, arrays)
        mean, deviation = response.mean((0, 1, 2)), response.std((0, 1, 2))
        shift = random.normal(0.0, SHIFT, channels)
        arrays[f"{layer}_kernel"] = (kernel / deviation).astype(np.float16)
        arrays[f"{layer}_bias"] = (shift - mean / deviation).astype(np.float16)
        inputs = channels
    return arrays


def _orthogonal(random, inputs: int, channels: int):
    """[3, 3, inputs, channels] float32 with orthogonal columns, or rows where those are fewer."""
    import numpy as np

    values = random.normal(size=(9 * inputs, channels))
    transposed = values.shape[0] < values.shape[1]
    q, r = np.linalg.qr(values.T if transposed else values)
    q *= np.sign(np.diag(r))
    return (q.T if transposed else q).reshape(3, 3, inputs, channels).astype(np.float32)


def _response(images, layers: list[str], layer: str, arrays) -> "np.ndarray":
    """What the layer's filters see, before bias and ReLU."""
    import tensorflow as tf

    from zoo import perceptual
    from zoo.generative import to_float

    weights = {
        name: (
            tf.cast(arrays[f"{name}_kernel"], tf.float32),
            tf.cast(arrays[f"{name}_bias"], tf.float32),
        )
        for name in layers[: layers.index(layer) + 1]
    }
    x = to_float(images)
    if layer == layers[0]:
        x = 2.0 * x - 1.0
    else:
        before = layers[layers.index(layer) - 1]
        x = perceptual.features("random", weights, x, {before}, tf.nn.avg_pool2d)[before]
        if layer.endswith("_1"):
            x = tf.nn.avg_pool2d(x, 2, 2, "SAME")
    return tf.nn.conv2d(x, weights[layer][0], 1, "SAME").numpy()


if __name__ == "__main__":
    flags.run_command(main)

"""`python -m experiments.extractor`: trains a net whose features measure the quality of samples.

Writes `zoo/metrics/<dataset>.npz`, see zoo.metrics.extractors. Another file makes every Fréchet and
kernel distance measured before incomparable. The recipe is that of the quality study: noise of a
random strength on every picture, Adam with a cosine schedule, batch normalisation that forgets fast
enough for so few steps (momentum .9; with .99 its averages lag and the test accuracy was .62).
"""

import dataclasses
import io
import pathlib
from typing import TYPE_CHECKING, Literal

from zoo import files, flags
from zoo.data import source
from zoo.errors import UsageError, check_positive

if TYPE_CHECKING:  # --help must not wait for them
    import keras
    import numpy as np

BATCH_SIZE = 64
LEARNING_RATE = 2e-3
MOMENTUM = 0.9
EPSILON = 1e-3
DROPOUT = 0.3
NOISE = 0.12
"""Standard deviation of the strongest noise; pixels are in [0, 1]."""


@dataclasses.dataclass(frozen=True)
class ExtractorFlags:
    """What the training of an extractor can be told."""

    dataset: Literal["glyphs", "paintings"] = "glyphs"
    """What the net learns to tell apart: ten digits, or ten styles."""
    out: str = "extractor.npz"
    """File to write the net to."""
    seed: int = 0
    """Of weights, noise and data order."""
    num_images: int | None = None
    """How many images to train on; by default 12000 glyphs or 8000 paintings."""
    epochs: int | None = None
    """How often to see each; by default 4 for glyphs and 8 for paintings."""

    def __post_init__(self):
        check_positive(num_images=self.num_images, epochs=self.epochs)
        if not 0 <= self.seed < 2**31:
            raise UsageError(f"--seed={self.seed}: expected 0 to {2**31 - 1}")
        if self.num_images is not None and self.num_images < BATCH_SIZE:
            raise UsageError(f"--num_images={self.num_images}: expected a batch, {BATCH_SIZE}")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What differs between the data sets."""

    image_size: int
    num_images: int
    num_test: int
    """One half against the other gives the floor of the distances."""
    epochs: int
    flips: bool
    """Whether a picture seen in a mirror is one of the same class."""


RECIPES = {
    "glyphs": Recipe(image_size=28, num_images=12_000, num_test=8_000, epochs=4, flips=False),
    "paintings": Recipe(image_size=32, num_images=8_000, num_test=4_000, epochs=8, flips=True),
}


def main(argv: list[str]) -> int:
    """Trains, writes and tells how good the net is; returns the exit code."""
    usage = "python -m experiments.extractor [--flag=value ...]"
    options = flags.parse_options(ExtractorFlags, usage, argv)
    if options is None:
        return 0
    out = pathlib.Path(options.out)
    if out.is_dir():
        raise UsageError(f"cannot write {out}: expected --out to name a file")
    recipe = RECIPES[options.dataset]
    recipe = dataclasses.replace(
        recipe,
        num_images=options.num_images or recipe.num_images,
        epochs=options.epochs or recipe.epochs,
    )

    from zoo import runtime

    runtime.import_tensorflow()
    from zoo.metrics.extractors import Extractor

    data = dataclasses.replace(
        source.load(options.dataset, recipe.image_size),
        num_examples={"train": recipe.num_images, "test": recipe.num_test},
    )
    model = train(recipe, data.arrays("train"), len(data.class_names), options.seed)
    try:
        files.write(out, serialize(model, data.class_names))
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}; choose another --out") from error
    extractor = Extractor(out)
    for name, value in report(extractor, data.arrays("test")).items():
        print(f"{name:28} {value:10.4f}")
    print(f"{out}: {out.stat().st_size} bytes, hash {extractor.hash}")
    return 0


def build(image_shape: tuple[int, int, int], num_classes: int, seed: int) -> "keras.Sequential":
    """The net of zoo.metrics.extractors, as it is trained: batch normalisation and dropout apart.

    [N, H, W, C] in [0, 1] -> logits [N, K].
    """
    import keras

    from zoo.metrics import extractors

    model = keras.Sequential([keras.Input(image_shape)])
    for number, (channels, stride) in enumerate(
        zip(extractors.CHANNELS, extractors.STRIDES, strict=True)
    ):
        convolution = keras.layers.Conv2D(
            channels,
            extractors.KERNEL_SIZE,
            stride,
            padding="same",
            use_bias=False,
            name=f"conv{number}",
        )
        norm = keras.layers.BatchNormalization(
            momentum=MOMENTUM, epsilon=EPSILON, name=f"norm{number}"
        )
        for layer in (convolution, norm, keras.layers.ReLU()):
            model.add(layer)
    model.add(keras.layers.AveragePooling2D(extractors.POOLING))
    model.add(keras.layers.Flatten())
    model.add(keras.layers.Dense(extractors.NUM_FEATURES, activation="relu", name="features"))
    model.add(keras.layers.Dropout(DROPOUT, seed=seed))
    model.add(keras.layers.Dense(num_classes, name="logits"))
    return model


def train(
    recipe: Recipe, examples: "dict[str, np.ndarray]", num_classes: int, seed: int
) -> "keras.Sequential":
    """A net trained on {"image": uint8 [N, H, W, C], "label": int32 [N]}, as seed alone has it."""
    import keras
    import tensorflow as tf

    from zoo.data import pipeline
    from zoo.generative import Noise, to_float
    from zoo.optimizers import Adam

    keras.utils.set_random_seed(seed)
    image_shape = examples["image"].shape[1:]
    model = build(image_shape, num_classes, seed)
    steps = len(examples["image"]) // BATCH_SIZE * recipe.epochs
    optimizer = Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps))
    optimizer.build(model.trainable_variables)

    @tf.function(autograph=False)
    def train_step(batch: dict[str, tf.Tensor], step: tf.Tensor) -> tf.Tensor:
        noise = Noise(seed, step, BATCH_SIZE)
        images = to_float(batch["image"])
        if recipe.flips:
            mirrored = noise.uniform("flip", 1, 1, 1) < 0.5
            images = tf.where(mirrored, images[:, :, ::-1], images)
        images += NOISE * noise.uniform("strength", 1, 1, 1) * noise.normal("noise", *image_shape)
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
            )
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    batches = pipeline.batches(examples, BATCH_SIZE, seed=seed)
    for step, batch in enumerate(batches.take(steps)):
        loss = train_step(batch, tf.constant(step, tf.int64))
        if (step + 1) % 100 == 0:
            print(f"step {step + 1} of {steps}: loss {float(loss):.4f}", flush=True)
    return model


def serialize(model: "keras.Sequential", class_names: tuple[str, ...]) -> bytes:
    """The trained net as the bytes of an extractor's file."""
    import numpy as np

    from zoo.metrics.extractors import STRIDES

    arrays = {}
    for number in range(len(STRIDES)):
        kernel = model.get_layer(f"conv{number}").kernel.numpy()
        gamma, beta, mean, variance = model.get_layer(f"norm{number}").get_weights()
        scale = gamma / np.sqrt(variance + EPSILON)
        arrays[f"conv{number}_kernel"] = kernel * scale  # [3, 3, in, out], scaled by output
        arrays[f"conv{number}_bias"] = beta - mean * scale
    for name in ("features", "logits"):
        arrays[f"{name}_kernel"], arrays[f"{name}_bias"] = model.get_layer(name).get_weights()
    arrays = {name: array.astype(np.float16) for name, array in arrays.items()}
    arrays["class_names"] = np.array(class_names)
    arrays["image_shape"] = np.array(model.input_shape[1:])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def report(extractor, test: "dict[str, np.ndarray]") -> dict[str, float]:
    """How well the net tells test images apart, and what its distances are between real ones."""
    import numpy as np

    from zoo.metrics import distances

    features, probabilities = extractor.outputs(test["image"])
    first, second = np.array_split(features, 2)
    trace = float(np.trace(distances.moments(features).covariance))
    floor = distances.frechet_distance(first, second)
    kernel, error = distances.kernel_distance(first, second)
    return {
        "test accuracy": float(np.mean(probabilities.argmax(axis=1) == test["label"])),
        "trace of the covariance": trace,
        f"floor, {len(first)} against {len(second)}": floor,
        "floor / trace": floor / trace,
        "kernel distance x1000": 1000 * kernel,
        "its standard error x1000": 1000 * error,
    }


if __name__ == "__main__":
    flags.run_command(main)

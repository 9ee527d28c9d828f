"""What happens every so often outside the loop: callables (step, model) that change no state."""

import math
import os
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from zoo import files, pictures
from zoo.generative import SAMPLE_CHUNK, GenerativeModel, Noise, row_seeds, to_uint8
from zoo.loop import Block

EVALUATION_PIXELS = 500 * 28 * 28


class Scalars:
    """on_block: writes a block's scalars and its speed to TensorBoard."""

    def __init__(self, writer: tf.summary.SummaryWriter, batch_size: int):
        self._writer, self._batch_size = writer, batch_size

    def __call__(self, block: Block) -> None:
        with self._writer.as_default(step=block.step):
            for name, value in block.scalars.items():
                tf.summary.scalar(name, value)
            tf.summary.scalar("speed/steps_per_second", block.steps_per_second)
            tf.summary.scalar("speed/images_per_second", block.steps_per_second * self._batch_size)
            tf.summary.scalar("speed/share_waiting_for_data", block.input_wait)


class Sheets:
    """Writes the model's sheets, from the same seeds each time, as PNG and to TensorBoard."""

    def __init__(
        self,
        writer: tf.summary.SummaryWriter,
        directory: pathlib.Path,
        batch: Mapping[str, np.ndarray],
    ):
        """batch: the held-out examples that a model may show its picture of."""
        self._writer, self._directory = writer, directory
        self._batch = {name: tf.constant(values) for name, values in batch.items()}

    def __call__(self, step: int, model: GenerativeModel) -> None:
        with self._writer.as_default(step=step):
            for name, sheet in model.sheets(self._batch).items():
                picture = pictures.grid(to_uint8(np.asarray(sheet.images)), sheet.columns)
                path = self._directory / f"step-{step:08d}-{name}.png"
                files.write(path, pictures.encode(picture))
                tf.summary.image(name, picture[None])
            write_animation("walk", walk(model, seed=model.seed, count=4, frames=8), step)


class Evaluate:
    """Means of `model.evaluate_batch` over held-out examples, to TensorBoard."""

    def __init__(self, writer: tf.summary.SummaryWriter, examples: Mapping[str, np.ndarray]):
        self._writer, self._examples = writer, examples

    def __call__(self, step: int, model: GenerativeModel) -> None:
        measures = means(model, model.evaluate_batch, self._examples)
        with self._writer.as_default(step=step):
            for name, value in measures.items():
                tf.summary.scalar(name, value)


def means(
    model: GenerativeModel,
    measure: Callable[[dict[str, tf.Tensor], Noise], Mapping[str, tf.Tensor]],
    examples: Mapping[str, np.ndarray],
) -> dict[str, float]:
    """Mean over all examples of each per-example measure, summed in float64.

    The noise of batch i is a function of (model.seed, i): the same weights give the same figures
    at every step.
    """
    count, height, width, _ = examples["image"].shape
    size = max(1, min(EVALUATION_PIXELS // (height * width), count))
    measure = _compiled(model, measure)
    sums: dict[str, float] = {}
    for number in range(math.ceil(count / size)):
        rows = slice(number * size, min((number + 1) * size, count))
        batch = {name: tf.constant(values[rows]) for name, values in examples.items()}
        for name, value in measure(batch, tf.constant(number, tf.int64)).items():
            sums[name] = sums.get(name, 0.0) + float(np.sum(value.numpy(), dtype=np.float64))
    return {name: value / count for name, value in sums.items()}


def _compiled(model: GenerativeModel, measure: Callable) -> Callable:
    """The measure as a tf.function of (batch, batch number), traced once a model."""
    functions = model.__dict__.setdefault("_zoo_measures", {})
    key = getattr(measure, "__func__", measure)
    if key not in functions:

        def run(batch, number):
            seed = model.seed ^ 0x5EED
            return measure(batch, Noise(seed, number, tf.shape(batch["image"])[0]))

        functions[key] = tf.function(run, autograph=False, reduce_retracing=True)
    return functions[key]


def walk(
    model: GenerativeModel,
    *,
    seed: int,
    count: int = 8,
    frames: int = 12,
    labels: np.ndarray | None = None,
    **sampler: str,
) -> np.ndarray:
    """A closed walk through `count` latents, `frames` pictures from each to the next.

    Returns uint8 [count · frames, H, W, C]. Between two latents their direction turns at an even
    pace and their length changes evenly (spherical interpolation, White 2016, section 2.1).
    """
    anchors = model.sample_latents(tf.constant(row_seeds(seed, count)), labels, **sampler)
    path = interpolate(np.asarray(anchors), frames)
    label = None if labels is None else np.repeat(labels, frames)
    decoded = []
    for start in range(0, len(path), SAMPLE_CHUNK):
        rows = slice(start, start + SAMPLE_CHUNK)
        chunk = None if label is None else tf.constant(label[rows], tf.int32)
        decoded.append(to_uint8(model.decode(tf.constant(path[rows]), chunk).numpy()))
    return np.concatenate(decoded)


def interpolate(anchors: np.ndarray, frames: int) -> np.ndarray:
    """anchors [N, Z] -> a closed path [N · frames, Z] that meets anchor i at i · frames."""
    ends = np.roll(anchors, -1, axis=0)
    lengths = [np.linalg.norm(points, axis=1, keepdims=True) for points in (anchors, ends)]
    product = lengths[0] * lengths[1]
    cosine = np.sum(anchors * ends, axis=1, keepdims=True) / np.where(product > 0, product, 1.0)
    angle = np.arccos(np.clip(np.where(product > 0, cosine, 1.0), -1.0, 1.0))
    # Along a straight line, or to the opposite side, there is no turn to take: go straight.
    turns = np.sin(angle) > 1e-4
    sine, product = np.where(turns, np.sin(angle), 1.0), np.where(turns, product, 1.0)
    path = []
    for share in np.arange(frames) / frames:
        direction = np.sin((1 - share) * angle) * anchors * lengths[1]
        direction += np.sin(share * angle) * ends * lengths[0]
        length = (1 - share) * lengths[0] + share * lengths[1]
        straight = (1 - share) * anchors + share * ends
        path.append(np.where(turns, length * direction / (sine * product), straight))
    return np.stack(path, axis=1).reshape(-1, anchors.shape[1]).astype(np.float32)


def write_animation(name: str, frames: np.ndarray, step: int) -> None:
    """An animated GIF in TensorBoard's image tab, by the current default writer."""
    data = pictures.animate(frames, "GIF", size=112)
    metadata = tf.compat.v1.SummaryMetadata(
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="images")
    )
    height, width = frames.shape[1:3]
    tf.summary.write(
        name, tf.constant([str(width).encode(), str(height).encode(), data]), step, metadata
    )


def write_projector(
    directory: pathlib.Path,
    model: GenerativeModel,
    images: np.ndarray,
    labels: np.ndarray,
    class_names: tuple[str, ...],
) -> None:
    """Encoded images with a thumbnail and a class each, for TensorBoard's projector.

    images: uint8 [N, H, W, C]; directory: a TensorBoard run that has an event file. Models that
    do not encode have no projector.
    """
    latents = model.embed(images)
    if latents is None:
        return
    side = math.ceil(math.sqrt(len(images)))
    blank = np.zeros((side * side - len(images), *images.shape[1:]), np.uint8)
    sprite = pictures.grid(np.concatenate([images, blank]), side, gap=0, scale=1)
    names = [class_names[label] if class_names else str(label) for label in labels]
    rows = ("\t".join(f"{value:.5g}" for value in row) for row in latents)
    files.write(directory / "latents.tsv", "\n".join(rows).encode())
    files.write(directory / "classes.tsv", "\n".join(names).encode())
    files.write(directory / "thumbnails.png", pictures.encode(sprite))
    height, width = images.shape[1:3]
    config = f"""embeddings {{
  tensor_name: "latents"
  tensor_path: "latents.tsv"
  metadata_path: "classes.tsv"
  sprite {{ image_path: "thumbnails.png" single_image_dim: {width} single_image_dim: {height} }}
}}
"""
    files.write(directory / "projector_config.pbtxt", config.encode())


def write_hparams(directory: pathlib.Path, values: Mapping[str, str]) -> None:
    """The run's entry in TensorBoard's HParams tab; directory: where its eval scalars are."""
    from tensorboard.plugins.hparams import api

    with tf.summary.create_file_writer(os.fspath(directory)).as_default():
        api.hparams({name: _number(value) for name, value in values.items()})


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text

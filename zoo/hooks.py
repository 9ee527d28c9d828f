"""What happens every so often outside the loop: callables (step, model) that change no state."""

import math
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from zoo import files, pictures
from zoo.checkpoints import Best
from zoo.generative import (
    SAMPLE_CHUNK,
    GenerativeModel,
    Noise,
    fold_seed,
    interpolate,
    row_seeds,
    sample_images,
    to_uint8,
)
from zoo.loop import Block, CollapseError
from zoo.metrics.quality import SampleQuality

EVALUATION_PIXELS = 500 * 28 * 28
PERIODIC_SAMPLES = 2000
JUDGED_BY_SAMPLES = "frechet_distance"


class Scalars:
    """on_block: writes a block's scalars, its speed and what the process took to TensorBoard."""

    def __init__(self, writer: tf.summary.SummaryWriter, batch_size: int):
        self._writer, self._batch_size = writer, batch_size

    def __call__(self, block: Block) -> None:
        scalars = {
            **block.scalars,
            "speed/steps_per_second": block.steps_per_second,
            "speed/images_per_second": block.steps_per_second * self._batch_size,
            "speed/share_waiting_for_data": block.input_wait,
            "process/processor_seconds": time.process_time(),
            "process/peak_mebibytes": _peak_bytes() / 2**20,
        }
        _write_scalars(self._writer, block.step, scalars)


def _write_scalars(
    writer: tf.summary.SummaryWriter, step: int, scalars: Mapping[str, float]
) -> None:
    # Not as Python's numbers: TensorFlow keeps each different one for ever, 800 bytes.
    with writer.as_default(step=np.int64(step)):
        for name, value in scalars.items():
            tf.summary.scalar(name, np.float32(value))


def _peak_bytes() -> int:
    """The most memory so far: of the first GPU that computes here, else of this process."""
    if tf.config.list_logical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    # Linux counts in kibibytes, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


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
        with self._writer.as_default(step=np.int64(step)):
            for name, sheet in model.sheets(self._batch).items():
                picture = pictures.grid(to_uint8(np.asarray(sheet.images)), sheet.columns)
                path = self._directory / f"step-{step:08d}-{name}.png"
                files.write(path, pictures.encode(picture))
                tf.summary.image(name, picture[None])
            if model.draws:
                write_animation("walk", walk(model, seed=model.seed, count=4, frames=8), step)


class Evaluate:
    """Means of `model.evaluate_batch` over held-out examples, to TensorBoard, and the best state.

    Where the model is judged by its samples, they are measured too. CollapseError if the model
    calls the measures a collapse; else its state is offered as the best.
    """

    def __init__(
        self,
        writer: tf.summary.SummaryWriter,
        examples: Mapping[str, np.ndarray],
        quality: SampleQuality | None = None,
        best: Best | None = None,
    ):
        """quality: of samples; for models whose `selection_measure` is JUDGED_BY_SAMPLES."""
        self._writer, self._examples = writer, examples
        self._quality, self._best = quality, best

    def __call__(self, step: int, model: GenerativeModel) -> None:
        measures = means(model, model.evaluate_batch, self._examples)
        name, samples = model.selection_measure, {}
        if self._quality:
            name = self._quality.frechet_name
            samples = sample_measures(model, self._quality, PERIODIC_SAMPLES)
        _write_scalars(self._writer, step, {**measures, **_prefixed("samples", samples)})
        with self._writer.as_default(step=np.int64(step)):
            for key, values in model.histograms(next(_batches(self._examples))).items():
                tf.summary.histogram(key, values)
        measures |= samples
        if self._quality:
            measures[JUDGED_BY_SAMPLES] = samples[name]
        rollbacks = int(model.rollbacks.numpy())
        before = self._best.value_before(rollbacks, step) if self._best else None
        if reason := model.collapse(measures, before):
            raise CollapseError(f"training has collapsed by step {step}: {reason}")
        if self._best:
            self._best.offer(rollbacks, step, name, measures[model.selection_measure])


def _prefixed(prefix: str, measures: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in measures.items()}


def sample_measures(model: GenerativeModel, quality: SampleQuality, count: int) -> dict[str, float]:
    """The quality of `count` samples, always of the same seeds, which no sheet shows.

    They are of the classes in turn where the model is conditional, and of its first sampler.
    """
    seeds = row_seeds(fold_seed(model.seed, "quality"), count)
    labels = model.default_labels(seeds)
    return quality.measure(sample_images(model, seeds, labels), labels)


def means(
    model: GenerativeModel,
    measure: Callable[[dict[str, tf.Tensor], Noise], Mapping[str, tf.Tensor]],
    examples: Mapping[str, np.ndarray],
) -> dict[str, float]:
    """Mean over all examples of each per-example measure, summed in float64.

    The noise of batch i is a function of (model.seed, i): the same weights give the same figures
    at every step.
    """
    measure = _compiled(model, measure)
    sums: dict[str, float] = {}
    for number, batch in enumerate(_batches(examples)):
        for name, value in measure(batch, tf.constant(number, tf.int64)).items():
            sums[name] = sums.get(name, 0.0) + float(np.sum(value.numpy(), dtype=np.float64))
    return {name: value / len(examples["image"]) for name, value in sums.items()}


def _batches(examples: Mapping[str, np.ndarray]) -> Iterator[dict[str, tf.Tensor]]:
    """The examples in their order, in batches of at most EVALUATION_PIXELS."""
    count, height, width, _ = examples["image"].shape
    size = max(1, EVALUATION_PIXELS // (height * width))
    for start in range(0, count, size):
        rows = slice(start, start + size)
        yield {name: tf.constant(values[rows]) for name, values in examples.items()}


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

    labels [count]: the class of each latent; by default a conditional model stays in one, that of
    its first seed. Returns uint8 [count · frames, H, W, C]. Between two latents their direction
    turns at an even pace and their length changes evenly (spherical interpolation, White 2016,
    section 2.1).
    """
    seeds = row_seeds(seed, count)
    defaults = model.default_labels(seeds)
    if labels is None and defaults is not None:
        labels = np.repeat(defaults[:1], count)
    anchors = model.sample_latents(tf.constant(seeds), labels, **sampler)
    path = interpolate(np.asarray(anchors), frames)
    label = None if labels is None else np.repeat(labels, frames)
    decoded = []
    for start in range(0, len(path), SAMPLE_CHUNK):
        rows = slice(start, start + SAMPLE_CHUNK)
        chunk = None if label is None else tf.constant(label[rows], tf.int32)
        decoded.append(to_uint8(model.decode(tf.constant(path[rows]), chunk).numpy()))
    return np.concatenate(decoded)


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

"""What can be evaluated: a run's model, an exported SavedModel, or a folder of pictures.

Shape letters: N pictures, B a batch of them, H W C height, width, channels, Z latent dimensions.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from zoo import restore as restoring
from zoo.data import folder, source
from zoo.errors import UsageError, reason
from zoo.generative import (
    fold_seed,
    labels_in_turn,
    row_seeds,
    sample_batches,
    to_float,
    to_uint8,
)
from zoo.hooks import EVALUATION_PIXELS

Batches = Iterator[tuple[np.ndarray, np.ndarray | None]]
"""(images uint8 [B, H, W, C], labels [B] or None), by and by."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
      facts: what it is, for the record.
      image_shape: (H, W, C) of its pictures.
      samples: (seed, count) -> that many, the same for the same seed; None if it draws none.
      reconstruct: uint8 [N, H, W, C] -> uint8 [N, H, W, C]; None if it cannot.
      encode: uint8 [N, H, W, C] -> [N, Z]; None if it cannot.
      restored: the run that it is of, or None.
      count: how many pictures there are, if there are only so many.
      loaded: what must live as long as its functions.
    """

    facts: dict[str, Any]
    image_shape: tuple[int, ...]
    samples: Callable[[int, int], Batches] | None
    reconstruct: Callable[[np.ndarray], np.ndarray] | None = None
    encode: Callable[[np.ndarray], np.ndarray] | None = None
    restored: restoring.Restored | None = None
    count: int | None = None
    loaded: Any = None


class Pictures(NamedTuple):
    """images uint8 [N, H, W, C], labels int32 [N] or None, and what those stand for."""

    images: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...]


def of_run(run_dir: str, checkpoint: str) -> Subject:
    """The model of a run, `prepare`d; UsageError as of `zoo.restore.restore`."""
    restored = restoring.restore(run_dir, checkpoint)
    model = restored.model
    model.prepare()

    def samples(seed: int, count: int) -> Batches:
        seeds = _seeds(seed, count)
        return _drawn(model.sample_function, seeds, model.default_labels(seeds))

    reconstruct = model.endpoints().get("reconstruct")
    # Whether it encodes shows when it is asked to.
    probe = np.zeros([1, *model.image_shape], np.uint8)
    return Subject(
        facts={
            "kind": "run",
            "path": os.path.abspath(run_dir),
            "model": restored.settings.run.model,
            "checkpoint": restored.checkpoint,
        },
        image_shape=model.image_shape,
        samples=samples if model.draws else None,
        reconstruct=reconstruct and _by_chunks(lambda x: _pictures(reconstruct(to_float(x)))),
        encode=_by_chunks(model.embed) if model.embed(probe) is not None else None,
        restored=restored,
    )


def of_saved_model(directory: str, num_classes: int) -> Subject:
    """An exported model, by its signatures alone; UsageError if it has no `sample`.

    directory: of the SavedModel, or of its numbered versions, of which the latest counts.
    """
    path = saved_model_path(directory)
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:  # protobuf's, OSError and TensorFlow's own: none in common
        raise UsageError(
            f"--saved_model={path} cannot be loaded ({reason(error)}): export it again"
        ) from error
    signatures = dict(loaded.signatures)
    if "sample" not in signatures:
        known = ", ".join(sorted(signatures)) or "none"
        raise UsageError(
            f"--saved_model={path}: expected a signature `sample`, found {known}: a model that "
            "draws nothing is evaluated by its --run_dir"
        )
    sample = signatures["sample"]
    if _is_in_turn(signatures, num_classes):
        sample = signatures["sample_label"]
    takes = sample.structured_input_signature[1]
    images = sample(**_blank(takes))["images"]

    def draw(seeds: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
        asked = {} if labels is None else {"label": labels}
        return sample(seed=seeds, **asked)["images"]

    def samples(seed: int, count: int) -> Batches:
        seeds = _seeds(seed, count)
        labels = labels_in_turn(seeds, num_classes) if "label" in takes else None
        return _drawn(draw, seeds, labels)

    reconstruct, encode = signatures.get("reconstruct"), signatures.get("encode")
    return Subject(
        facts={"kind": "saved_model", "path": os.path.abspath(path)},
        image_shape=tuple(images.shape[1:]),
        samples=samples,
        reconstruct=reconstruct
        and _by_chunks(lambda x: _pictures(reconstruct(images=to_float(x)))),
        encode=encode and _by_chunks(lambda x: encode(images=to_float(x))["mean"]),
        loaded=loaded,
    )


def of_pictures(directory: str, pictures: Pictures) -> Subject:
    """What `read_folder` found there, in its order."""

    def samples(seed: int, count: int) -> Batches:
        labels = pictures.labels
        yield pictures.images[:count], None if labels is None else labels[:count]

    return Subject(
        facts={"kind": "folder", "path": os.path.abspath(directory)},
        image_shape=pictures.images.shape[1:],
        samples=samples,
        count=len(pictures.images),
    )


def read_folder(directory: str, image_size: int | None, *, grey: bool = False) -> Pictures:
    """All pictures of a folder; UsageError if it has none, or where they do not go together.

    image_size: to cut and resize to; by default they must be squares of one size. grey: leave one
    channel of pictures that have no colour.
    """
    data = folder.load(source.FOLDER + directory, image_size or common_size(directory))
    splits = [data.arrays(split) for split in data.num_examples]
    images, labels = (np.concatenate([arrays[name] for arrays in splits]) for name in splits[0])
    if grey:
        if not (images == images[..., :1]).all():
            raise UsageError(f"{directory} holds pictures in colour; the reference is grey")
        images = images[..., :1]
    return Pictures(images, labels, data.class_names)


def saved_model_path(directory: str) -> pathlib.Path:
    """The SavedModel in a directory: itself, or the latest of its numbered versions."""
    path = pathlib.Path(directory)
    versions = [path]
    if path.is_dir() and not (path / "saved_model.pb").exists():
        numbered = (entry for entry in path.iterdir() if entry.name.isdecimal())
        versions += sorted(numbered, key=lambda entry: int(entry.name))
    if not (versions[-1] / "saved_model.pb").exists():
        raise UsageError(
            f"--saved_model={directory}: expected the directory of a SavedModel, as "
            "`python -m export` writes it"
        )
    return versions[-1]


def _is_in_turn(signatures: dict[str, Any], num_classes: int) -> bool:
    """Whether `sample` draws the classes in turn: then `sample_label` draws the same, by name."""
    if "sample_label" not in signatures:
        return False
    seeds = _seeds(0, num_classes)
    labels = tf.constant(labels_in_turn(seeds, num_classes))
    images = signatures["sample"](seed=tf.constant(seeds))["images"]
    named = signatures["sample_label"](seed=tf.constant(seeds), label=labels)["images"]
    return bool(tf.reduce_max(tf.abs(images - named)) < 1e-3)


def _seeds(seed: int, count: int) -> np.ndarray:
    """Those of `zoo.hooks.sample_measures`, which no sheet shows."""
    return row_seeds(fold_seed(seed, "quality"), count)


def _drawn(sample: Callable, seeds: np.ndarray, labels: np.ndarray | None) -> Batches:
    done = 0
    for images in sample_batches(_finite(sample), seeds, labels):
        rows = slice(done, done + len(images))
        yield images, None if labels is None else labels[rows]
        done += len(images)


def _finite(sample: Callable) -> Callable:
    def checked(*arguments: Any, **options: Any) -> tf.Tensor:
        images = sample(*arguments, **options)
        if not bool(tf.reduce_all(tf.math.is_finite(images))):
            raise UsageError(
                "the model draws pictures with NaN or infinite values: its weights are broken; "
                "choose another checkpoint"
            )
        return images

    return checked


def _by_chunks(function: Callable) -> Callable[[np.ndarray], np.ndarray]:
    def run(images: np.ndarray) -> np.ndarray:
        size = max(1, EVALUATION_PIXELS // (images.shape[1] * images.shape[2]))
        return np.concatenate(
            [
                np.asarray(function(images[start : start + size]))
                for start in range(0, len(images), size)
            ]
        )

    return run


def _pictures(answer: dict[str, tf.Tensor]) -> np.ndarray:
    return to_uint8(answer["images"].numpy())


def _blank(signature: dict[str, tf.TensorSpec]) -> dict[str, tf.Tensor]:
    return {name: tf.zeros([1, *spec.shape[1:]], spec.dtype) for name, spec in signature.items()}


def common_size(directory: str) -> int:
    """Of a folder of square pictures of one size; UsageError for others."""
    data = folder.load(source.FOLDER + directory)
    first: tuple[str, tuple[int, int]] | None = None
    for path, _ in (file for files in data.files.values() for file in files):
        try:
            with Image.open(data.root / path) as image:
                size = image.size
        except (OSError, ValueError):  # named when it is read
            continue
        first = first or (path, size)
        if size != first[1] or size[0] != size[1]:
            raise UsageError(
                f"{directory} holds pictures of {_times(first[1])} ({first[0]}) and "
                f"{_times(size)} ({path}): expected squares of one size, or --image_size=N to cut "
                "and resize them all"
            )
    return first[1][0] if first else source.DEFAULT_SIZE


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"

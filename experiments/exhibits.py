"""The pictures of a comparison: samples of the same seeds, and those that look least real.

No eye chooses: samples are of the seeds (0, 0), (0, 1), …, as `python -m zoo.sample --seed=0` draws
them, and the failures are those among the first NUM_JUDGED whose features are farthest from every
real picture's. Weights are those of the last step, as for the measures.
"""

from typing import NamedTuple

import keras
import numpy as np

from experiments.records import Record
from zoo import pictures, restore
from zoo.data import source
from zoo.errors import UsageError
from zoo.generative import row_seeds, sample_images
from zoo.metrics import distances
from zoo.metrics.extractors import Extractor

NUM_SHOWN, NUM_JUDGED, NUM_FAILURES = 40, 500, 10
_COLUMNS = 10
_NUM_REAL = 4000


class Exhibit(NamedTuple):
    """Of one run; pictures are PNG bytes, None where there are none."""

    size: str
    """Of the model, in words."""
    samples: bytes | None
    failures: bytes | None
    """The failures, and below each the real picture that is nearest to it."""
    seeds: tuple[int, ...]
    """Of the failures: the second number of each."""
    distances: tuple[float, ...]
    """Of the failures to those real pictures, over the median of all judged."""


def make(record: Record) -> Exhibit:
    """UsageError where the run has no checkpoint of its last step."""
    keras.backend.clear_session()
    restored = restore.restore(record.path, "last", say=lambda line: None)
    model = restored.model
    steps = record.settings.run.total_steps
    if int(model.step.numpy()) != steps:
        raise UsageError(f"{record.path} has no checkpoint of its last step {steps}")
    size = model.summary_line()
    if not model.draws:
        sheets = sorted((record.path / "samples").glob(f"step-{steps:08d}-*.png"))
        return Exhibit(size, sheets[0].read_bytes() if sheets else None, None, (), ())
    seeds = row_seeds(0, NUM_JUDGED)
    images = sample_images(model, seeds, model.default_labels(seeds))
    run = record.settings.run
    real = source.load(run.dataset, run.image_size).arrays("test")["image"][:_NUM_REAL]
    extractor = Extractor.for_images(images.shape[1:])
    apart = distances.pairwise_distances(extractor.features(images), extractor.features(real))
    nearest = apart.min(axis=1)
    worst = np.argsort(-nearest, kind="stable")[:NUM_FAILURES]
    pairs = np.concatenate([images[worst], real[apart[worst].argmin(axis=1)]])
    return Exhibit(
        size,
        pictures.encode(pictures.grid(images[:NUM_SHOWN], _COLUMNS)),
        pictures.encode(pictures.grid(pairs, len(worst))),
        tuple(worst.tolist()),
        tuple((nearest[worst] / np.median(nearest)).tolist()),
    )

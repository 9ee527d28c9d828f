"""Does a model draw pictures of its own, or those that it was trained on?

A sample's distance to its nearest training picture says nothing alone: how near do real pictures
come that were not trained on? So held-out pictures are measured in the same way, as in Meehan,
Chaudhuri & Dasgupta 2020. Samples far nearer than those are copies; samples farther away are bad
rather than new. Pixels see plain copies; features also those that were moved a little.
"""

from typing import Any, NamedTuple

import numpy as np

from zoo.errors import UsageError
from zoo.metrics import distances
from zoo.metrics.extractors import Extractor
from zoo.metrics.quality import MAX_ROWS, some

NEAR_SHARE = 0.01
NEIGHBOURS = 50


class Found(NamedTuple):
    """The nearest training pictures of M samples.

    Attributes:
      measures: by name. novelty_pixels and novelty_features: the samples' median distance to
        their nearest training picture over that of held-out pictures; about 1 for new real ones, 0
        for copies. near_copies_*: the share of samples nearer to one than 99 % of the held-out
        pictures are; about .01 for new real ones.
      suspicion: [M]: distance to the nearest training picture over the mean distance to the nearest
        50 (after Carlini et al. 2023, section 4.2), by pixels or by features, whichever is less: 0
        is a copy, 1 is as far from all. Other than the distance, it does not single out pictures
        of a kind that is all alike.
      nearest: [M]: the number of that training picture.
    """

    measures: dict[str, float]
    suspicion: np.ndarray
    nearest: np.ndarray


class Novelty:
    """Measures how far samples are from the pictures that a model was trained on."""

    def __init__(self, train: np.ndarray, held_out: np.ndarray):
        """Both uint8 [N, H, W, C]; at most MAX_ROWS of held_out count."""
        self._extractor = Extractor.for_images(train.shape[1:])
        self._train = self._views(train)
        self._held_out = {
            name: distances.nearest(rows, self._train[name], 1)[0]
            for name, rows in self._views(some(held_out)).items()
        }
        if not all(np.median(found) for found in self._held_out.values()):
            raise UsageError(
                "half of the held-out pictures are training pictures: novelty has no measure; "
                "expected splits that have none in common"
            )

    def measure(self, samples: np.ndarray) -> Found:
        """Samples uint8 [M, H, W, C]; at most MAX_ROWS of them, so that memory is bounded."""
        if len(samples) > MAX_ROWS:
            raise ValueError(f"{len(samples)} samples; expected at most {MAX_ROWS}")
        measures: dict[str, float] = {}
        suspicions, numbers = [], []
        for name, rows in self._views(samples).items():
            k = min(NEIGHBOURS, len(self._train[name]))
            found, number = distances.nearest(rows, self._train[name], k)
            nearest, real = found[:, 0], self._held_out[name]
            measures[f"novelty_{name}"] = float(np.median(nearest) / np.median(real))
            near = np.quantile(real, NEAR_SHARE)
            measures[f"near_copies_{name}"] = float(np.mean(nearest < near))
            # Copies of pictures that are there 50 times are copies too.
            suspicions.append(nearest / np.maximum(found.mean(axis=1), 1e-12))
            numbers.append(number[:, 0])
        which = np.argmin(suspicions, axis=0)
        every = np.arange(len(samples))
        return Found(measures, np.stack(suspicions)[which, every], np.stack(numbers)[which, every])

    def protocol(self) -> dict[str, Any]:
        """What the measures depend on beside the samples."""
        return {
            "novelty": "medians of distances to the nearest of the training pictures, samples' "
            f"over held-out pictures', at most {MAX_ROWS} of each",
            "num_train": len(self._train["pixels"]),
        }

    def _views(self, images: np.ndarray) -> dict[str, np.ndarray]:
        features = self._extractor.features(images)
        return {"pixels": images.reshape(len(images), -1), "features": features}

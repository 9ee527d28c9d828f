"""The quality of samples in one dictionary of numbers: near the real pictures, and all of them?

No number says both: a Fréchet distance does not see copies, precision is high for noise whose
distances are all alike. Read distance, recall and coverage together: 100 of our pictures, repeated
20 times, are closer by distance than pictures with a little grain (at 28 and at 32 pixels), but
their recall is 0.
"""

from typing import Any

import numpy as np

from zoo.errors import UsageError
from zoo.metrics import distances
from zoo.metrics.extractors import RESIZE, Extractor

NEIGHBOURS = 5
# Beyond, neighbours and diversity, which grow with the square, would take longer than the rest.
MAX_ROWS = 2000
SUBSET_SIZE, NUM_SUBSETS = 1000, 10


class SampleQuality:
    """Measures samples against held-out real images.

    Attributes:
      extractor: the net whose features are compared, chosen by the number of channels.
      frechet_name: "fd_glyphs" or "fd_paintings".
      kernel_name: "kd_glyphs" or "kd_paintings".
    """

    def __init__(self, real: np.ndarray, class_names: tuple[str, ...] = ()):
        """real: uint8 [N, H, W, C], N > 5; class_names: what the labels of samples stand for.

        The features of the real images are computed here, once.
        """
        self.extractor = Extractor.for_images(real.shape[1:])
        self.frechet_name = f"fd_{self.extractor.name}"
        self.kernel_name = f"kd_{self.extractor.name}"
        self._check_count("real images", len(real))
        self._image_shape, self._num_real = real.shape[1:], len(real)
        self._knows_classes = tuple(class_names) == self.extractor.class_names
        self._features = self.extractor.features(real)
        self._moments = distances.moments(self._features)
        self._distance = distances.mean_distance(_some(real))
        if not self._distance:
            raise UsageError("the real images are all the same: expected different ones")

    def measure(self, images: np.ndarray, labels: np.ndarray | None = None) -> dict[str, float]:
        """Name -> number, for samples uint8 [M, H, W, C] of the real images' size, M > 5.

        fd_*: Fréchet distance; relative_fd_*: the same over the trace of the real covariance,
        which makes it comparable between nets; kd_*: kernel distance × 1000; precision, recall,
        density, coverage (k = 5); diversity of the pixels.
        Where the class names are the extractor's also class_entropy, of the classes it sees over
        its maximum log K: 1 if all are equally frequent; and, given labels [M], class_accuracy,
        the share of samples that it sees as what they should be.
        """
        self._check_count("samples", len(images))
        if images.shape[1:] != self._image_shape:
            raise UsageError(
                f"samples have shape {list(images.shape[1:])}, the real images "
                f"{list(self._image_shape)}: expected the same"
            )
        features, probabilities = self.extractor.outputs(images)
        frechet = distances.frechet_distance_of_moments(self._moments, distances.moments(features))
        kernel, _ = distances.kernel_distance(
            self._features, features, subset_size=SUBSET_SIZE, num_subsets=NUM_SUBSETS
        )
        neighbours = distances.precision_recall_density_coverage(
            _some(self._features), _some(features), NEIGHBOURS
        )
        measures = {
            self.frechet_name: frechet,
            f"relative_{self.frechet_name}": frechet / float(np.trace(self._moments.covariance)),
            self.kernel_name: 1000.0 * kernel,
            **neighbours._asdict(),
            "diversity": distances.mean_distance(_some(images)) / self._distance,
        }
        if self._knows_classes:
            seen = probabilities.argmax(axis=1)
            measures["class_entropy"] = _relative_entropy(seen, probabilities.shape[1])
            if labels is not None:
                measures["class_accuracy"] = float(np.mean(seen == np.asarray(labels)))
        return measures

    def protocol(self, num_samples: int | None = None) -> dict[str, Any]:
        """All that the numbers depend on beside the pictures; only equal protocols compare."""
        protocol = {
            "extractor": self.extractor.name,
            "extractor_hash": self.extractor.hash,
            "extractor_input": list(self.extractor.image_shape),
            "image_shape": list(self._image_shape),
            "resize": None if self._image_shape == self.extractor.image_shape else RESIZE,
            "reference": "held-out real images",
            "num_real": self._num_real,
            "num_samples": num_samples,
            "kernel": "((x·y / D) + 1)**3, unbiased, over the root mean square of real features",
            "kernel_scale": 1000,
            "kernel_subsets": f"{NUM_SUBSETS} of at most {SUBSET_SIZE}",
            "neighbours": NEIGHBOURS,
            "neighbours_and_diversity_rows": f"at most {MAX_ROWS} of each set, evenly at random",
            "diversity": "mean pixel distance of two samples over that of two real images",
        }
        return {name: value for name, value in protocol.items() if value is not None}

    @staticmethod
    def _check_count(what: str, count: int) -> None:
        if count <= NEIGHBOURS:
            raise UsageError(f"{count} {what}: expected at least {NEIGHBOURS + 1}")


def _some(rows: np.ndarray) -> np.ndarray:
    """At most MAX_ROWS, the same for sets of one size; not the first, as sets may be sorted."""
    if len(rows) <= MAX_ROWS:
        return rows
    random = np.random.Generator(np.random.PCG64(0))
    return rows[random.permutation(len(rows))[:MAX_ROWS]]


def _relative_entropy(classes: np.ndarray, num_classes: int) -> float:
    shares = np.bincount(classes, minlength=num_classes) / len(classes)
    shares = shares[shares > 0]
    return float(np.sum(shares * np.log(1.0 / shares)) / np.log(num_classes))

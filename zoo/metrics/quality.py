"""The quality of samples in one dictionary of numbers: near the real pictures, and all of them?

No number says both: a Fréchet distance does not see copies, precision is high for noise whose
distances are all alike. Read distance, recall and coverage together: 100 of our pictures, repeated
20 times, are closer by distance than pictures with a little grain (at 28 and at 32 pixels), but
their recall is 0.
"""

import hashlib
from typing import Any

import numpy as np

from zoo.errors import UsageError
from zoo.metrics import distances
from zoo.metrics.extractors import Extractor, FeatureNet

NEIGHBOURS = 5
# Beyond, neighbours and diversity, which grow with the square, would take longer than the rest.
MAX_ROWS = 2000
SUBSET_SIZE, NUM_SUBSETS = 1000, 10
_KERNEL_ROWS = SUBSET_SIZE * NUM_SUBSETS


class SampleQuality:
    """Measures samples against held-out real images.

    Attributes:
      extractor: the net whose features are compared, chosen by the number of channels.
      frechet_name: "fd_glyphs", "fd_paintings" or, of the Inception of 2015 alone, "fid".
      kernel_name: "kd_glyphs", "kd_paintings" or "kid".
    """

    def __init__(
        self,
        real: np.ndarray,
        class_names: tuple[str, ...] = (),
        extractor: FeatureNet | None = None,
    ):
        """real: uint8 [N, H, W, C], N > 5; class_names: what the labels of samples stand for.

        The features of the real images are computed here, once.
        """
        self.extractor = extractor or Extractor.for_images(real.shape[1:])
        self.frechet_name, self.kernel_name, self.score_name = self.extractor.names
        self._check_count("real images", len(real))
        self.image_shape, self._num_real = real.shape[1:], len(real)
        self.knows_classes = tuple(class_names) == self.extractor.class_names
        features = self._outputs(real).features
        self.moments = distances.moments(features)
        self.features = some(features, _KERNEL_ROWS)
        self.near_features = some(features)
        self.distance = distances.mean_distance(some(real))
        if not self.distance:
            raise UsageError("the real images are all the same: expected different ones")
        self._hash = hashlib.sha256(real.tobytes()).hexdigest()[:12]

    def measure(self, images: np.ndarray, labels: np.ndarray | None = None) -> dict[str, float]:
        """Name -> number, for samples uint8 [M, H, W, C] of the real images' size, M > 5.

        fd_* or fid: Fréchet distance; relative_*: the same over the trace of the real covariance,
        which makes it comparable between nets; kd_* or kid: kernel distance × 1000; precision,
        recall, density, coverage (k = 5); diversity of the pixels; classifier_score_* or
        inception_score: exp of the mean KL divergence of a picture's classes from those of all
        (Salimans et al. 2016, section 4), 1 to K.
        Where the class names are the extractor's also class_entropy, of the classes it sees over
        its maximum log K: 1 if all are equally frequent; and, given labels [M], class_accuracy,
        the share of samples that it sees as what they should be.
        """
        measurement = Measurement(self, len(images))
        measurement.add(images, labels)
        return measurement.result()

    def protocol(self, num_samples: int | None = None) -> dict[str, Any]:
        """All that the numbers depend on beside the pictures; only equal protocols compare."""
        same_size = self.image_shape == self.extractor.image_shape
        scale = self.extractor.kernel_scale
        protocol = {
            "extractor": self.extractor.name,
            "extractor_hash": self.extractor.hash,
            "extractor_input": list(self.extractor.image_shape),
            "image_shape": list(self.image_shape),
            "resize": None if same_size else self.extractor.resize,
            "reference": "held-out real images",
            "reference_hash": self._hash,
            "num_real": self._num_real,
            "num_samples": num_samples,
            "kernel": "((x·y / D) + 1)**3, unbiased"
            + (", over the root mean square of real features" if scale is None else ""),
            "kernel_scale": 1000,
            "kernel_subsets": f"{NUM_SUBSETS} of at most {SUBSET_SIZE}",
            "neighbours": NEIGHBOURS,
            "neighbours_and_diversity_rows": f"at most {MAX_ROWS} of each set, evenly at random",
            "diversity": "mean pixel distance of two samples over that of two real images",
        }
        return {name: value for name, value in protocol.items() if value is not None}

    def _outputs(self, images: np.ndarray):
        outputs = self.extractor.outputs(images)
        if not np.isfinite(outputs.features).all():
            raise UsageError(
                f"{self.extractor.name} gives features that are not finite: its file is damaged"
            )
        return outputs

    @staticmethod
    def _check_count(what: str, count: int) -> None:
        if count <= NEIGHBOURS:
            raise UsageError(
                f"{count} {what}: expected at least {NEIGHBOURS + 1}, and thousands for figures "
                "that mean something: Fréchet distances grow by about 1 / their number"
            )


class Measurement:
    """Of samples that come in batches; memory does not grow with their number.

    The figures are those of all samples at once, whatever the batches.
    """

    def __init__(self, quality: SampleQuality, count: int):
        """count: how many samples will come."""
        quality._check_count("samples", count)
        net = quality.extractor
        self._quality, self._expected, self._count = quality, count, 0
        self._moments = distances.RunningMoments(net.num_features)
        self._features = Rows(count, _KERNEL_ROWS)
        self._near_features, self._pixels = Rows(count), Rows(count)
        self._seen, self._matches, self._labelled = np.zeros(0, np.int64), 0, 0
        self._sum_of_probabilities, self._sum_of_logs = np.zeros(0), 0.0

    def add(self, images: np.ndarray, labels: np.ndarray | None = None) -> None:
        """The next samples, uint8 [B, H, W, C]; labels [B]: what they should be."""
        quality = self._quality
        if images.shape[1:] != quality.image_shape:
            raise UsageError(
                f"samples have shape {list(images.shape[1:])}, the real images "
                f"{list(quality.image_shape)}: expected the same"
            )
        features, probabilities = quality._outputs(images)
        self._moments.add(features)
        for rows, values in (
            (self._features, features),
            (self._near_features, features),
            (self._pixels, images),
        ):
            rows.add(values)
        if not self._count:
            self._seen = np.zeros(probabilities.shape[1], np.int64)
            self._sum_of_probabilities = np.zeros(probabilities.shape[1])
        self._sum_of_probabilities += probabilities.sum(axis=0)
        self._sum_of_logs += np.sum(probabilities * _log(probabilities))
        seen = probabilities.argmax(axis=1)
        self._seen += np.bincount(seen, minlength=len(self._seen))
        if labels is not None:
            self._matches += int(np.sum(seen == np.asarray(labels)))
            self._labelled += len(images)
        self._count += len(images)

    def result(self) -> dict[str, float]:
        """See `SampleQuality.measure`."""
        if self._count != self._expected:
            raise ValueError(f"{self._count} samples came; expected {self._expected}")
        quality = self._quality
        frechet = distances.frechet_distance_of_moments(quality.moments, self._moments.moments())
        kernel, _ = distances.kernel_distance(
            quality.features,
            self._features.rows,
            subset_size=SUBSET_SIZE,
            num_subsets=NUM_SUBSETS,
            scale=quality.extractor.kernel_scale,
        )
        neighbours = distances.precision_recall_density_coverage(
            quality.near_features, self._near_features.rows, NEIGHBOURS
        )
        shares = self._sum_of_probabilities / self._count
        information = self._sum_of_logs / self._count - np.sum(shares * _log(shares))
        measures = {
            quality.frechet_name: frechet,
            f"relative_{quality.frechet_name}": frechet
            / float(np.trace(quality.moments.covariance)),
            quality.kernel_name: 1000.0 * kernel,
            **neighbours._asdict(),
            "diversity": distances.mean_distance(self._pixels.rows) / quality.distance,
            quality.score_name: float(np.exp(information)),
        }
        if quality.knows_classes:
            shares = self._seen / self._count
            entropy = -np.sum(shares * _log(shares)) / np.log(len(shares))
            measures["class_entropy"] = abs(float(entropy))  # of one class: 0, and not -0
            if self._labelled:
                measures["class_accuracy"] = self._matches / self._labelled
        return measures


class Rows:
    """At most `most` of `count` rows that come in batches, evenly at random.

    The same ones for sets of one size, whatever the batches; not the first, as sets may be sorted.

    Attributes:
      rows: those kept, [least of most and count, ...].
    """

    def __init__(self, count: int, most: int = MAX_ROWS):
        chosen = _chosen(count, most)
        self._places = np.full(count, -1)
        self._places[chosen] = np.arange(len(chosen))
        self._kept, self._count = len(chosen), 0
        self.rows = np.empty(0)

    def add(self, rows: np.ndarray) -> None:
        """The next rows."""
        if not self._count:
            self.rows = np.empty([self._kept, *rows.shape[1:]], rows.dtype)
        places = self._places[self._count : self._count + len(rows)]
        kept = places >= 0
        self.rows[places[kept]] = rows[kept]
        self._count += len(rows)


def some(rows: np.ndarray, most: int = MAX_ROWS) -> np.ndarray:
    """What `Rows` keeps of these."""
    return rows if len(rows) <= most else rows[_chosen(len(rows), most)]


def _chosen(count: int, most: int) -> np.ndarray:
    if count <= most:
        return np.arange(count)
    return np.random.Generator(np.random.PCG64(0)).permutation(count)[:most]


def _log(values: np.ndarray) -> np.ndarray:
    """log, and 0 where it would be multiplied by 0."""
    return np.log(np.where(values > 0, values, 1.0))

"""Distances between two sets of pictures, as pure NumPy functions of their features, in float64.

Shape letters: N rows of the real set, M rows of the samples, D features. Fewer rows than a distance
needs, rows of another length, and values that are not finite raise ValueError.
"""

from typing import NamedTuple

import numpy as np

# Columns, and of the larger set rows, that are taken at a time where pictures are compared.
_BLOCK_COLUMNS, _BLOCK_ROWS = 4096, 8192


class Moments(NamedTuple):
    """The Gaussian that has the mean [D] and the unbiased covariance [D, D] of some features."""

    mean: np.ndarray
    covariance: np.ndarray


class Neighbours(NamedTuple):
    """Shares of pictures among the k-nearest-neighbour balls of the other set.

    Attributes:
      precision: of samples inside any ball of the real set, 0 to 1.
      recall: of real pictures inside any ball of the samples, 0 to 1.
      density: balls of the real set that hold a sample, on average, over k; about 1 for real ones.
      coverage: of real balls that hold any sample, 0 to 1.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def moments(features: np.ndarray) -> Moments:
    """features [N, D], N ≥ 2 -> their mean and covariance."""
    (features,) = _checked(2, features)
    return Moments(features.mean(0), np.atleast_2d(np.cov(features, rowvar=False)))


class RunningMoments:
    """The moments of rows that come in batches, in memory that does not grow with their number.

    Chan, Golub & LeVeque 1983, equation 2.1: each batch is centred on its own mean, so that nothing
    cancels, however far from zero the features are.
    """

    def __init__(self, width: int):
        """width: D."""
        self.count = 0
        self._mean = np.zeros(width)
        self._scatter = np.zeros([width, width])

    def add(self, features: np.ndarray) -> None:
        """features [M, D], M ≥ 1."""
        (features,) = _checked(1, features)
        mean = features.mean(0)
        centred = features - mean
        total = self.count + len(features)
        shift = mean - self._mean
        self._scatter += centred.T @ centred
        self._scatter += np.outer(shift, shift) * (self.count * len(features) / total)
        self._mean += shift * (len(features) / total)
        self.count = total

    def moments(self) -> Moments:
        """Of all rows so far, two or more."""
        if self.count < 2:
            raise ValueError(f"{self.count} rows have no covariance; expected at least 2")
        return Moments(self._mean.copy(), self._scatter / (self.count - 1))


def frechet_distance(real: np.ndarray, samples: np.ndarray) -> float:
    """Fréchet distance of the Gaussians fitted to [N, D] and [M, D], in squared feature units.

    Heusel et al. 2017, equation 6. Biased upwards by about 1 / M: compare equal M only.
    """
    real, samples = _checked(2, real, samples)
    return frechet_distance_of_moments(moments(real), moments(samples))


def frechet_distance_of_moments(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|² + tr(C_a + C_b - 2 (C_a C_b)^½)."""
    # The eigenvalues of C_a C_b are the squared singular values of C_a^½ C_b^½. These need no
    # further root, which would turn rounding of 1e-16 into 1e-8.
    product = _root(a.covariance) @ _root(b.covariance)
    overlap = np.linalg.svd(product, compute_uv=False).sum()
    spread = np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * overlap
    return max(0.0, float(np.sum((a.mean - b.mean) ** 2) + spread))


def kernel_distance(
    real: np.ndarray,
    samples: np.ndarray,
    *,
    subset_size: int = 1000,
    num_subsets: int = 10,
    seed: int = 0,
    scale: float | None = None,
) -> tuple[float, float]:
    """Squared maximum mean discrepancy of [N, D] and [M, D], and its standard error; no units.

    Bińkowski et al. 2018 (KID), section 4: the kernel (x·y / D + 1)³, the unbiased estimate, which
    may be negative, averaged over subsets of equal size (smaller ones if a set has fewer rows).
    The error is that of drawing subsets, not that of drawing the sets: 0 where they are the sets.
    scale: what features are multiplied by, 1 in the paper. By default 1 over the root mean square
    of the real ones, as those of our nets have no scale of their own.
    """
    real, samples = _checked(2, real, samples)
    size = min(subset_size, len(real), len(samples))
    scale = scale or 1.0 / np.sqrt(np.mean(real**2))
    random = np.random.Generator(np.random.PCG64(seed))
    values = []
    for _ in range(num_subsets):
        x = scale * real[random.permutation(len(real))[:size]]
        y = scale * samples[random.permutation(len(samples))[:size]]
        within = _mean_kernel_of_others(x) + _mean_kernel_of_others(y)
        values.append(within - 2.0 * np.mean(_kernel(x, y)))
    error = np.std(values, ddof=1) / np.sqrt(num_subsets) if num_subsets > 1 else np.nan
    return float(np.mean(values)), float(error)


def precision_recall_density_coverage(
    real: np.ndarray, samples: np.ndarray, k: int = 5
) -> Neighbours:
    """What share of each set [N, D], [M, D] lies near the other; more than k rows each.

    A picture's ball reaches to its k-th nearest neighbour in its own set. Precision and recall:
    Kynkäänniemi et al. 2019, section 3; density and coverage: Naeem et al. 2020, section 3, whose
    code leaves a ball's boundary outside. Time and memory grow with (N + M)².
    """
    real, samples = _checked(k + 1, real, samples)
    real_radii = np.partition(pairwise_distances(real, real), k, axis=1)[:, k]  # [N]
    sample_radii = np.partition(pairwise_distances(samples, samples), k, axis=1)[:, k]  # [M]
    between = pairwise_distances(real, samples)  # [N, M]
    in_real_ball = between < real_radii[:, None]
    return Neighbours(
        precision=float(in_real_ball.any(axis=0).mean()),
        recall=float((between < sample_radii).any(axis=1).mean()),
        density=float(in_real_ball.sum(axis=0).mean() / k),
        coverage=float(in_real_ball.any(axis=1).mean()),
    )


def diversity(real: np.ndarray, samples: np.ndarray) -> float:
    """Mean distance of two samples over that of two real ones: [N, ...], [M, ...], flattened.

    0: all samples are one picture; 1: as diverse as the data; noise has more.
    """
    return mean_distance(samples) / mean_distance(real)


def mean_distance(rows: np.ndarray) -> float:
    """Mean Euclidean distance of two different rows of [N, ...], each flattened; N ≥ 2."""
    rows = rows.reshape(len(rows), -1)
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} row has no distance to another; expected at least 2")
    return float(pairwise_distances(rows, rows).sum() / (len(rows) * (len(rows) - 1)))


def pairwise_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances of rows: [N, D], [M, D] -> float64 [N, M]."""
    squared, a_norms, b_norms = np.zeros([len(a), len(b)]), np.zeros(len(a)), np.zeros(len(b))
    # Some columns at a time: pictures as float64 may not fit into memory.
    for start in range(0, a.shape[1], _BLOCK_COLUMNS):
        columns = slice(start, start + _BLOCK_COLUMNS)
        x, y = np.asarray(a[:, columns], np.float64), np.asarray(b[:, columns], np.float64)
        squared += x @ y.T
        a_norms += np.sum(x * x, axis=1)
        b_norms += np.sum(y * y, axis=1)
    # In place: passes over memory are what takes the time.
    squared *= -2.0
    squared += a_norms[:, None]
    squared += b_norms
    # Equal rows must be at distance 0, not at the root of a rounding error.
    squared[squared < 1e-12 * (a_norms.max() + b_norms.max())] = 0.0
    return np.sqrt(squared, out=squared)


def nearest(queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each query [M, D] the k nearest of rows [N, D]: distances and numbers [M, k], sorted.

    Searched in float32, a block of rows at a time, then measured in float64: 0 for an equal row.
    k is at most N.
    """
    x = np.asarray(queries, np.float32)
    every = np.arange(len(x))[:, None]
    order, number = np.empty([len(x), 0], np.float32), np.empty([len(x), 0], np.int64)
    for start in range(0, len(rows), _BLOCK_ROWS):
        y = np.asarray(rows[start : start + _BLOCK_ROWS], np.float32)
        # |y|² - 2 x·y orders them as their distances do.
        found = x @ y.T
        found *= -2.0
        found += np.einsum("nd,nd->n", y, y)
        best = np.argpartition(found, min(k, len(y)) - 1, axis=1)[:, :k]
        order = np.concatenate([order, found[every, best]], axis=1)
        number = np.concatenate([number, start + best], axis=1)
        best = np.argpartition(order, min(k, order.shape[1]) - 1, axis=1)[:, :k]
        order, number = order[every, best], number[every, best]
    distance = np.empty(number.shape)
    for row, (query, others) in enumerate(zip(queries, number, strict=True)):
        distance[row] = np.linalg.norm(rows[others] - query.astype(np.float64), axis=1)
    best = np.argsort(distance, axis=1, kind="stable")
    return distance[every, best], number[every, best]


def _checked(least: int, *sets: np.ndarray) -> list[np.ndarray]:
    arrays = [np.asarray(features, np.float64) for features in sets]
    widths = {array.shape[1:] for array in arrays}
    if any(array.ndim != 2 or len(array) < least for array in arrays) or len(widths) > 1:
        shapes = " and ".join(str(list(array.shape)) for array in arrays)
        raise ValueError(
            f"features have shape {shapes}; expected [N, D], one D, at least {least} rows"
        )
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("features hold NaN or infinite values; expected finite ones")
    return arrays


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root of a positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(covariance)
    # Below this an eigenvalue is rounding, and its root would not be small.
    noise = len(values) * np.finfo(np.float64).eps * values.max()
    return (vectors * np.sqrt(np.where(values > noise, values, 0.0))) @ vectors.T


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    base = x @ y.T
    base /= x.shape[1]
    base += 1.0
    return base * base * base


def _mean_kernel_of_others(x: np.ndarray) -> float:
    """Mean of the kernel over pairs of different rows."""
    kernel = _kernel(x, x)
    return (kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1))

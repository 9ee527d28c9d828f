"""Distances between two sets of pictures, as pure NumPy functions of their features, in float64.

Shape letters: N rows of the real set, M rows of the samples, D features. Fewer rows than a distance
needs, or rows of another length, raise ValueError.
"""

from typing import NamedTuple

import numpy as np


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
) -> tuple[float, float]:
    """Squared maximum mean discrepancy of [N, D] and [M, D], and its standard error; no units.

    Bińkowski et al. 2018 (KID), section 4: the kernel (x·y / D + 1)³, the unbiased estimate, which
    may be negative, averaged over subsets of equal size (smaller ones if a set has fewer rows).
    The error is that of drawing subsets, not that of drawing the sets: 0 where they are the sets.
    Our deviation: all features are first divided by the root mean square of the real ones, as
    those of our nets have no scale of their own.
    """
    real, samples = _checked(2, real, samples)
    size = min(subset_size, len(real), len(samples))
    scale = 1.0 / np.sqrt(np.mean(real**2))
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
    (rows,) = _checked(2, rows.reshape(len(rows), -1))
    return float(pairwise_distances(rows, rows).sum() / (len(rows) * (len(rows) - 1)))


def pairwise_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances of rows: [N, D], [M, D] -> [N, M]."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    a_norms, b_norms = np.sum(a * a, axis=1), np.sum(b * b, axis=1)
    # In place: passes over memory are what takes the time.
    squared = a @ b.T
    squared *= -2.0
    squared += a_norms[:, None]
    squared += b_norms
    # Equal rows must be at distance 0, not at the root of a rounding error.
    squared[squared < 1e-12 * (a_norms.max() + b_norms.max())] = 0.0
    return np.sqrt(squared, out=squared)


def _checked(least: int, *sets: np.ndarray) -> list[np.ndarray]:
    arrays = [np.asarray(features, np.float64) for features in sets]
    widths = {array.shape[1:] for array in arrays}
    if any(array.ndim != 2 or len(array) < least for array in arrays) or len(widths) > 1:
        shapes = " and ".join(str(list(array.shape)) for array in arrays)
        raise ValueError(
            f"features have shape {shapes}; expected [N, D], one D, at least {least} rows"
        )
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

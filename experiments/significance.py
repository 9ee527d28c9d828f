"""Confidence intervals and paired tests for the few seeds that one can afford, in plain Python.

Abramowitz & Stegun is their Handbook of Mathematical Functions, 1964.
"""

import itertools
import math
import statistics
from collections.abc import Sequence

LEVEL = 0.95
# 2**16 sign patterns take 0.1 s; with more seeds the t test is trusted anyway.
_MOST_FLIPPED = 16


def t_within(t: float, degrees: int) -> float:
    """P(|T| ≤ t) of Student's distribution; Abramowitz & Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(odd, degrees - 1, 2):
        total += term
        term *= cosine * cosine * (k + 1) / (k + 2)
    return 2.0 / math.pi * (angle + sine * total) if odd else sine * total


def t_quantile(level: float, degrees: int) -> float:
    """The t with P(|T| ≤ t) = level, 0 ≤ level < 1, by bisection."""
    low, high = 0.0, 1.0
    while t_within(high, degrees) < level:
        high *= 2.0
    while (middle := (low + high) / 2.0) not in (low, high):
        if t_within(middle, degrees) < level:
            low = middle
        else:
            high = middle
    return high


def interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Mean, and half the width of its confidence interval by Student's t: nan for one value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan
    error = statistics.stdev(values, mean) / math.sqrt(len(values))
    return mean, t_quantile(level, len(values) - 1) * error


def paired_t(differences: Sequence[float]) -> float:
    """Two-sided p of Student's paired test that the mean difference is 0; two or more of them."""
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences, mean) / math.sqrt(len(differences))
    if error == 0.0:
        return float(mean == 0.0)
    return 1.0 - t_within(abs(mean) / error, len(differences) - 1)


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p of the exact test that each difference may as well have the other sign.

    The share of all sign patterns whose sum is as far from 0; nan for more than 16 differences.
    """
    if len(differences) > _MOST_FLIPPED:
        return math.nan
    found = abs(math.fsum(differences))
    # Patterns whose sum is the same but for rounding count as equal.
    least = found - 1e-12 * math.fsum(map(abs, differences))
    patterns = itertools.product((1.0, -1.0), repeat=len(differences))
    as_far = sum(
        abs(math.fsum(map(float.__mul__, pattern, map(float, differences)))) >= least
        for pattern in patterns
    )
    return as_far / 2 ** len(differences)


def least_sign_flip(count: int) -> float:
    """The smallest p that `sign_flip` can give for so many differences."""
    return 2.0 ** (1 - count)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction for several tests at once, in the order of the p values (Holm 1979)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected

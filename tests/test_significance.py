"""Quantiles and tests against printed tables, closed forms and counts by hand."""

import math

import pytest

from experiments.significance import (
    holm,
    interval,
    least_sign_flip,
    paired_t,
    sign_flip,
    t_quantile,
    t_within,
)


# Abramowitz & Stegun, table 26.10.
@pytest.mark.parametrize(
    ("level", "degrees", "quantile"),
    [
        (0.95, 1, 12.706),
        (0.95, 2, 4.303),
        (0.95, 3, 3.182),
        (0.95, 4, 2.776),
        (0.95, 9, 2.262),
        (0.95, 10, 2.228),
        (0.95, 30, 2.042),
        (0.95, 120, 1.980),
        (0.90, 5, 2.015),
        (0.99, 1, 63.657),
        (0.99, 4, 4.604),
        (0.99, 30, 2.750),
        (0.999, 8, 5.041),
    ],
)
def test_quantiles_are_those_of_the_table(level, degrees, quantile):
    assert t_quantile(level, degrees) == pytest.approx(quantile, abs=6e-4)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 7.0])
def test_closed_forms(t):
    """One degree is Cauchy's distribution; two have t / sqrt(2 + t²); many are nearly normal."""
    assert t_within(t, 1) == pytest.approx(2 / math.pi * math.atan(t), abs=1e-15)
    assert t_within(t, 2) == pytest.approx(t / math.sqrt(2 + t * t), abs=1e-15)
    assert t_within(t, 100_000) == pytest.approx(math.erf(t / math.sqrt(2)), abs=1e-4)


@pytest.mark.parametrize("degrees", [3, 4, 7, 8])
def test_the_density_integrates_to_it(degrees):
    constant = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2))
    constant /= math.sqrt(degrees * math.pi)

    def density(x):
        return constant * (1 + x * x / degrees) ** (-(degrees + 1) / 2)

    points = 20_000
    width = 1.7 / points
    area = 2 * width * sum(density((i + 0.5) * width) for i in range(points))
    assert t_within(1.7, degrees) == pytest.approx(area, abs=1e-8)


def test_the_interval_of_a_textbook():
    """Student 1908: hours of sleep gained by drug B over A, ten patients."""
    gains = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    mean, half = interval(gains)
    assert (mean, half) == (pytest.approx(1.58), pytest.approx(0.8799, abs=1e-4))
    assert paired_t(gains) == pytest.approx(0.002833, abs=1e-6)
    # Each sign pattern that keeps the sum: all of one sign, the patient without gain either way.
    assert sign_flip(gains) == 4 / 1024
    assert math.isnan(interval([3.0])[1])


def test_differences_that_do_not_vary():
    assert paired_t([0.0, 0.0, 0.0]) == 1.0
    assert paired_t([0.5, 0.5, 0.5]) == 0.0


def test_sign_flips_counted_by_hand():
    assert sign_flip([1, 2, 3]) == 2 / 8 == least_sign_flip(3)
    # |1 + 2 - 3| = 0: every pattern is as far.
    assert sign_flip([1, 2, -3]) == 1.0
    # 1 - 2 + 4 = 3; as far: ±(1+2+4), ±(-1+2+4), ±(1-2+4), and ±(-1-2+4) = 1 is not.
    assert sign_flip([1, -2, 4]) == 6 / 8
    # Rounding must not tell equal sums apart: 0.1 + 0.2 and 0.3.
    assert sign_flip([0.1, 0.2, -0.3]) == 1.0
    assert [least_sign_flip(n) for n in (1, 5, 6)] == [1.0, 1 / 16, 1 / 32]
    assert math.isnan(sign_flip([1.0] * 17))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []

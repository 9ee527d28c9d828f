"""L-BFGS against optima that are known otherwise."""

import numpy as np
import pytest
import tensorflow as tf

from zoo.lbfgs import minimise

RANDOM = np.random.default_rng(0)


def quadratic(size: int = 40, condition: float = 1e4):
    """½ xᵀAx - bᵀx with its gradient, and the solution of Ax = b."""
    rotation = np.linalg.qr(RANDOM.standard_normal((size, size)))[0]
    matrix = rotation * np.geomspace(1, condition, size) @ rotation.T
    right = RANDOM.standard_normal(size)
    return (
        lambda x: (0.5 * x @ matrix @ x - right @ x, matrix @ x - right),
        np.linalg.solve(matrix, right),
    )


def rosenbrock(x: np.ndarray):
    ahead, behind = x[1:], x[:-1]
    gap = ahead - behind**2
    gradient = np.zeros_like(x)
    gradient[1:] += 200 * gap
    gradient[:-1] += -400 * behind * gap - 2 * (1 - behind)
    return np.sum(100 * gap**2 + (1 - behind) ** 2), gradient


def test_a_convex_quadratic_ends_at_the_solution_of_its_equations():
    function, solution = quadratic()
    found = minimise(function, np.zeros(40), iterations=1000)
    np.testing.assert_allclose(found.point, solution, atol=1e-6)
    assert found.loss == pytest.approx(function(solution)[0], rel=1e-9)


def test_curvature_beats_the_gradient_alone():
    """Gradient descent at its best constant rate, 2 / (least + greatest curvature)."""
    function, solution = quadratic(condition=1e3)
    lowest = function(solution)[0]
    found = minimise(function, np.zeros(40), iterations=60)
    x = np.zeros(40)
    for _ in range(found.evaluations):
        x -= 2 / 1001 * function(x)[1]
    assert found.loss - lowest < 0.01 * (function(x)[0] - lowest)


@pytest.mark.parametrize("size", [2, 10])
def test_rosenbrock_ends_at_ones(size):
    start = np.where(np.arange(size) % 2, 1.0, -1.2)
    found = minimise(rosenbrock, start, iterations=300)
    np.testing.assert_allclose(found.point, 1, atol=1e-5)
    assert found.converged and found.evaluations < 300


def test_a_picture_in_float32_by_tensors_of_its_shape():
    """½ Σ weight · (x - wanted)² + its smoothness: a linear system, too large for a dense solver.

    Its solution is where the gradient, taken here by hand in float64, is 0.
    """
    shape = (48, 64, 3)
    wanted = RANDOM.random(shape).astype(np.float32)
    weight = RANDOM.uniform(0.1, 2, shape).astype(np.float32)

    @tf.function(autograph=False)
    def function(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            down, right = x[1:] - x[:-1], x[:, 1:] - x[:, :-1]
            loss = tf.reduce_sum(weight * (x - wanted) ** 2)
            loss = 0.5 * (loss + tf.reduce_sum(down**2) + tf.reduce_sum(right**2))
        return loss, tape.gradient(loss, x)

    start = np.full(shape, 0.5, np.float32)
    found = minimise(lambda x: function(tf.constant(x)), start, iterations=100)
    assert found.point.dtype == np.float32 and found.point.shape == shape
    assert (start == 0.5).all()
    x = found.point.astype("f8")
    gradient = weight * (x - wanted)
    for axis in (0, 1):
        steps = np.diff(x, axis=axis)
        first, last = [(0, 0)] * 3, [(0, 0)] * 3
        first[axis], last[axis] = (1, 0), (0, 1)
        gradient += np.pad(steps, first) - np.pad(steps, last)
    assert abs(gradient).max() < 1e-3  # at the start: above 0.5
    assert function.experimental_get_tracing_count() == 1


def test_accepted_losses_only_fall_and_each_step_is_told():
    told = []
    found = minimise(
        rosenbrock,
        np.array([-1.2, 1.0]),
        iterations=25,
        on_step=lambda step, point, loss: told.append((step, rosenbrock(point)[0], loss)),
    )
    steps, recomputed, losses = zip(*told, strict=True)
    assert steps == tuple(range(1, 26)) and found.steps == 25 and not found.converged
    assert recomputed == losses and losses[-1] == found.loss
    assert (np.diff([rosenbrock(np.array([-1.2, 1.0]))[0], *losses]) < 0).all()


def test_stops_at_once_where_the_gradient_is_zero():
    found = minimise(rosenbrock, np.ones(5), iterations=50)
    assert found.converged and found.evaluations == 1 and found.steps == 0
    np.testing.assert_array_equal(found.point, np.ones(5))


def test_stops_where_float32_shows_no_lower_loss():
    wanted = np.float32([0.3, -0.7])

    def function(x):
        return np.float32(1e4) + np.sum((x - wanted) ** 2), 2 * (x - wanted)

    found = minimise(function, np.zeros(2, np.float32), iterations=1000)
    assert found.converged and found.evaluations < 100
    np.testing.assert_allclose(found.point, wanted, atol=0.05)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_backs_off_from_losses_that_are_not_finite(bad):
    """x - 0.3 log x is least at 0.3, and has no value where the first step lands, x <= 0."""
    asked = []

    def function(x):
        asked.append(x[0])
        if x[0] <= 0:
            return bad, np.array([1.0])
        return x[0] - 0.3 * np.log(x[0]), 1 - 0.3 / x

    found = minimise(function, np.array([0.5]), iterations=100)
    assert asked[1] <= 0
    assert found.point[0] == pytest.approx(0.3, abs=1e-6)


def test_backs_off_where_only_the_gradient_is_not_finite():
    def function(x):
        return (x[0] - 1) ** 2, np.array([np.nan]) if x[0] > 1.2 else 2 * (x - 1)

    found = minimise(function, np.array([0.5]), iterations=50)
    assert found.point[0] == pytest.approx(1, abs=1e-6)


def test_a_start_without_a_loss_is_refused():
    with pytest.raises(ValueError, match="starts from a loss or gradient that is not finite"):
        minimise(lambda x: (np.nan, x), np.ones(3), iterations=5)


def test_bounds_hold_and_the_optimum_in_the_box_is_found():
    """A separable quadratic: its optimum in the box is its optimum, cut to the box."""
    wanted = RANDOM.uniform(-1, 2, 200)
    scale = np.geomspace(1, 1e3, 200)
    seen = []

    def function(x):
        seen.append((x.min(), x.max()))
        return 0.5 * np.sum(scale * (x - wanted) ** 2), scale * (x - wanted)

    found = minimise(function, np.full(200, 7.0), iterations=300, bounds=(0.0, 1.0))
    assert np.min(seen) >= 0 and np.max(seen) <= 1
    np.testing.assert_allclose(found.point, wanted.clip(0, 1), atol=1e-5)
    assert found.converged


def test_bounds_hold_where_numbers_depend_on_each_other():
    """Rosenbrock with x <= 0.5: the least along the wall is at y = x², found by hand."""
    found = minimise(rosenbrock, np.array([-0.2, 0.4]), iterations=300, bounds=(-0.5, 0.5))
    np.testing.assert_allclose(found.point, [0.5, 0.25], atol=1e-5)


def test_a_loss_with_kinks_is_followed_to_its_least():
    """Σ |x - wanted|, whose gradient never vanishes on the way."""
    wanted = RANDOM.standard_normal(6)
    found = minimise(
        lambda x: (np.abs(x - wanted).sum(), np.sign(x - wanted)), np.zeros(6), iterations=300
    )
    assert found.loss < 0.02 * np.abs(wanted).sum()

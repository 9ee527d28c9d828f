"""L-BFGS: minimises a smooth function of many numbers from its losses and gradients. NumPy only.

Nocedal & Wright 2006, algorithms 7.4 and 7.5. Deviations: the length of a step is found by
bisection for the weak Wolfe conditions (Lewis & Overton 2013, algorithm 2.6), which also ends where
a loss has kinks, as those of edges and neighbours do; with bounds, numbers that the gradient
presses against a bound are held there, and each step is cut back into the box (Bertsekas 1982).

Shape letter: N numbers, whatever the shape of the array that holds them.
"""

import collections
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_DECREASE, _CURVATURE = 1e-4, 0.9
_TRIALS = 20


class Minimum(NamedTuple):
    """Where the search ended.

    `steps` were accepted and `evaluations` made; `converged` says that it ended early, because
    the gradient was 0 or no step lowered the loss by what its precision can show.
    """

    point: np.ndarray
    loss: float
    steps: int
    evaluations: int
    converged: bool


def minimise(
    function: Callable[[np.ndarray], tuple[Any, Any]],
    start: np.ndarray,
    *,
    iterations: int,
    history: int = 10,
    bounds: tuple[float, float] | None = None,
    on_step: Callable[[int, np.ndarray, float], None] | None = None,
) -> Minimum:
    """Takes up to `iterations` steps from `start`, a float array of any shape and not changed.

    function: point -> (loss, gradient), as NumPy or tensors; a loss or gradient that is not finite
    shortens the step. bounds: least and greatest value of every number. on_step is told each
    accepted (step, point, loss), step from 1; the losses only fall. ValueError if the loss or the
    gradient at the start is not finite.
    """
    evaluations = 0

    def clip(point: np.ndarray) -> np.ndarray:
        return point if bounds is None else np.clip(point, *bounds)

    def evaluate(point: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal evaluations
        evaluations += 1
        loss, gradient = function(point.reshape(start.shape))
        loss, gradient = float(loss), np.asarray(gradient, point.dtype).ravel()
        finite = math.isfinite(loss) and np.isfinite(gradient).all()
        return (loss if finite else math.inf), gradient

    point = clip(start.ravel().copy())
    loss, gradient = evaluate(point)
    if not math.isfinite(loss):
        raise ValueError(f"L-BFGS starts from a loss or gradient that is not finite: {loss}")
    pairs: collections.deque = collections.deque(maxlen=history)
    step = 0
    while step < iterations:
        free = np.ones(point.shape, bool)
        if bounds is not None:
            low, high = bounds
            free = ~((point <= low) & (gradient > 0) | (point >= high) & (gradient < 0))
        slope = np.where(free, gradient, 0)
        norm = float(np.linalg.norm(slope))
        if norm == 0:
            break
        direction = np.where(free, -_times_inverse_hessian(slope, pairs), 0)
        # The gradient alone does not tell how far to go: at first by a length of 1.
        length = 1.0 if pairs else 1.0 / norm
        found = _search(evaluate, clip, point, loss, gradient, direction, length)
        if found is None and not pairs:
            break
        if found is None:
            # The curvature may be out of date: once more, straight down.
            pairs.clear()
            continue
        after, loss, gradient_after = found
        moved, bent = after - point, gradient_after - gradient
        # Only what curves upwards keeps the Hessian positive; beyond rounding, or it misleads.
        if np.vdot(moved, bent) > 1e-10 * np.linalg.norm(moved) * np.linalg.norm(bent):
            pairs.append((moved, bent))
        point, gradient = after, gradient_after
        step += 1
        if on_step:
            on_step(step, point.reshape(start.shape), loss)
    return Minimum(point.reshape(start.shape), loss, step, evaluations, step < iterations)


def _times_inverse_hessian(gradient: np.ndarray, pairs) -> np.ndarray:
    """Algorithm 7.4: gradient [N] times the inverse Hessian that the (moved, bent) pairs tell."""
    result = gradient.copy()
    shares = []
    for moved, bent in reversed(pairs):
        share = np.vdot(moved, result) / np.vdot(moved, bent)
        shares.append(share)
        result -= share * bent
    if pairs:
        moved, bent = pairs[-1]
        result *= np.vdot(moved, bent) / np.vdot(bent, bent)
    for (moved, bent), share in zip(pairs, reversed(shares), strict=True):
        result += (share - np.vdot(bent, result) / np.vdot(moved, bent)) * moved
    return result


def _search(
    evaluate, clip, point: np.ndarray, loss: float, gradient: np.ndarray, direction, length: float
) -> tuple[np.ndarray, float, np.ndarray] | None:
    """(point, loss, gradient) after a step along the direction that meets the weak Wolfe
    conditions; else the last that lowers the loss enough; None if none does.
    """
    shortest, longest = 0.0, math.inf
    best = None
    for _ in range(_TRIALS):
        after = clip(point + point.dtype.type(length) * direction)
        moved = after - point
        expected = float(np.vdot(gradient, moved))
        if best is not None and (expected >= 0 or np.array_equal(after, best[0])):
            return best
        if expected >= 0:
            # Nothing moved, or the bounds turned the step uphill.
            longest = length
        else:
            loss_after, gradient_after = evaluate(after)
            # Also strictly lower, as a small decrease may be rounded away; false for NaN.
            if loss_after < loss and loss_after <= loss + _DECREASE * expected:
                best = after, loss_after, gradient_after
                if np.vdot(gradient_after, moved) >= _CURVATURE * expected:
                    return best
                shortest = length
            else:
                longest = length
        length = (shortest + longest) / 2 if longest < math.inf else 2 * shortest
    return best

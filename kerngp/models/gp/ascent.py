"""A quasi-Newton ascent for values that are known up to a random error and cost minutes each.

    step = argmax of  g's - 1/2 s'Bs,  within the bounds and a box |s| <= radius
    accepted unless the value falls by more than its error; otherwise the box shrinks
    B: BFGS updates, from all evaluations, also those not accepted

A line search as in L-BFGS-B asks for the same theta again and again once differences are below the error;
here every evaluation is a step. B is what earlier, cheaper evaluations on fewer rows have taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import BFGS, lsq_linear

from ..hyperparameters import Hyperparameters
from .evidence import Evidence, Objective

RADIUS = 1.0  # of the first box: a factor e for each hyperparameter
SHRINK, GROW = 0.3, 2.0
# Two thetas whose log evidences differ by less than half a nat are less than a posterior standard deviation
# of theta apart.
HALF_NAT = 0.5


@dataclass(frozen=True)
class Ascent:
    """Where an ascent ended.

    Attributes
    ----------
    h : Hyperparameters
    evidence : Evidence
    curvature : ndarray of shape (p, p)
        B, positive definite.
    converged : bool
        Whether no step promised half a nat.
    """

    h: Hyperparameters
    evidence: Evidence
    curvature: np.ndarray
    converged: bool


def ascend(
    objective: Objective, h: Hyperparameters, curvature: np.ndarray, *, least: int, most: int
) -> Ascent:
    """Evaluate at h and go up.

    Parameters
    ----------
    objective : Objective
    h : Hyperparameters
        Where to start; theta is moved into the bounds.
    curvature : ndarray of shape (p, p)
        A guess of minus the second derivatives, positive definite.
    least, most : int
        Evaluations, that of the start included.

    Examples
    --------
    See `kerngp.models.gp.learn`.
    """
    low, high = h.bounds[:, 0], h.bounds[:, 1]
    h = h.at(np.clip(h.theta, low, high))
    here, B, radius = objective(h, True), curvature, RADIUS
    for count in range(1, most):
        if here.gradient is None or here.failed:
            break
        box = np.maximum(low - h.theta, -radius), np.minimum(high - h.theta, radius)
        step = _best_step(here.gradient, B, *box)
        promise = float(here.gradient @ step - 0.5 * step @ B @ step)
        if promise < HALF_NAT and count >= least:
            return Ascent(h, here, B, True)
        there_h = h.at(h.theta + step)
        there = objective(there_h, True)
        if there.failed or there.gradient is None:
            radius = SHRINK * float(np.abs(step).max(initial=0))
            continue
        B = updated(B, [(step, here.gradient - there.gradient)])
        gain, error = there.above(here)
        if gain >= -max(2 * error, HALF_NAT):
            radius = min(RADIUS, max(radius, GROW * float(np.abs(step).max(initial=0))))
            h, here = there_h, there
        else:
            radius = SHRINK * float(np.abs(step).max(initial=0))
    return Ascent(h, here, B, False)


def updated(B: np.ndarray, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """B after BFGS updates by steps and decreases of the gradient, damped to stay positive definite."""
    make: Any = BFGS  # the stubs do not know that init_scale may be a matrix
    memory = make(exception_strategy="damp_update", init_scale=B)
    memory.initialize(len(B), "hess")
    for step, decrease in pairs:
        if np.abs(step).max(initial=0) > 0 and np.abs(decrease).max(initial=0) > 0:
            memory.update(step, decrease)
    return memory.get_matrix()


def _best_step(g: np.ndarray, B: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """argmax of g's - 1/2 s'Bs in a box, as the least squares problem |R s - R'^-1 g|, R'R = B."""
    R = np.linalg.cholesky(B).T
    free = high - low > 1e-12  # lsq_linear wants room between its bounds
    step = np.zeros_like(g)
    if free.any():
        target = np.linalg.solve(R.T, g)
        step[free] = lsq_linear(R[:, free], target, (low[free], high[free])).x
    return step

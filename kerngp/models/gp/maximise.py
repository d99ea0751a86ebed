"""The largest value of a function of theta within bounds, as scikit-learn's Gaussian processes search it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.optimize
from sklearn.utils import check_random_state
from sklearn.utils.optimize import _check_optimize_result

from ...errors import OptionError

Value = Callable[[np.ndarray, bool], tuple[float, np.ndarray | None]]
"""A value and, if the second argument is True, its gradient."""


def maximise(
    f: Value,
    theta: np.ndarray,
    bounds: np.ndarray,
    *,
    optimizer: Any = "fmin_l_bfgs_b",
    n_restarts: int = 0,
    random_state: Any = None,
    ftol: float | None = None,
) -> tuple[np.ndarray, float]:
    """Where the largest value found is, and the value.

    Parameters
    ----------
    f : callable (theta, gradient) -> (value, gradient or None)
    theta : ndarray of shape (p,)
        Where the first search starts.
    bounds : ndarray of shape (p, 2)
    optimizer : "fmin_l_bfgs_b" or callable
        ``optimizer(obj_func, initial_theta, bounds=bounds)`` returns where its minimum of ``obj_func`` is and
        the minimum; ``obj_func(theta, eval_gradient=True)`` is what it is for scikit-learn: minus f.
    n_restarts : int
        Further searches, from random places within the bounds.
    random_state : int, RandomState or None
    ftol : float, optional
        L-BFGS-B ends when an iteration gains less, relative to the value. Default: SciPy's, 2e-9.

    Raises
    ------
    OptionError
        If the optimizer is unknown, or there are restarts and the bounds are not finite.

    Warns
    -----
    ConvergenceWarning
        If L-BFGS-B says that it did not converge.

    Examples
    --------
    >>> def f(theta, gradient):
    ...     return -float((theta**2).sum()), -2 * theta
    >>> where, value = maximise(f, np.ones(2), np.array([[-2.0, 2.0], [0.5, 2.0]]))
    >>> where.round(6), round(value, 6)
    (array([0. , 0.5]), -0.25)
    """

    def objective(theta: np.ndarray, eval_gradient: bool = True) -> Any:
        value, gradient = f(theta, eval_gradient)
        return (-value, -gradient) if eval_gradient and gradient is not None else -value

    starts = [np.asarray(theta)]
    if n_restarts > 0:
        if not np.isfinite(bounds).all():
            raise OptionError(
                "Multiple optimizer restarts (n_restarts_optimizer>0) requires that all bounds are finite."
            )
        rng = check_random_state(random_state)
        starts += [rng.uniform(bounds[:, 0], bounds[:, 1]) for _ in range(n_restarts)]
    found = [_search(objective, start, bounds, optimizer, ftol) for start in starts]
    where, least = min(found, key=lambda pair: pair[1])
    return where, -float(least)


def _search(
    objective: Callable[..., Any], theta: np.ndarray, bounds: np.ndarray, optimizer: Any, ftol: float | None
) -> tuple[np.ndarray, float]:
    if callable(optimizer):
        found: Any = optimizer(objective, theta, bounds=bounds)
        return found
    if not isinstance(optimizer, str) or optimizer != "fmin_l_bfgs_b":
        raise OptionError(f"Unknown optimizer {optimizer}.")
    options = {} if ftol is None else {"ftol": ftol}
    result = scipy.optimize.minimize(
        objective, theta, method="L-BFGS-B", jac=True, bounds=bounds, options=options
    )
    _check_optimize_result("lbfgs", result)
    return result.x, result.fun

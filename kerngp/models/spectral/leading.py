"""The leading eigenvectors of an operator, as an estimator asks for them."""

from __future__ import annotations

import warnings
from typing import Any

from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from ... import errors
from ...solvers import LinearOperator
from ...solvers.functions import Eigenpairs, eigsh
from ..running import Run


def leading(
    estimator: Any,
    A: LinearOperator,
    count: int,
    tol: float | None,
    max_iter: int,
    random_state: Any,
    run: Run,
) -> Eigenpairs:
    """The largest eigenvalues and their eigenvectors, by a block Krylov method.

    Warns
    -----
    ConvergenceWarning
        scikit-learn's, if ``max_iter`` passes were not enough.
    """
    seed = int(check_random_state(random_state).randint(2**31 - 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.ConvergenceWarning)  # of the solver; the estimator's follows
        found = eigsh(A, count, tol=tol, max_iter=max_iter, random_state=seed)
    worst = float(found.residuals.max())
    run.say(f"{found.products} passes, largest residual {worst:.1e}")
    if not found.converged:
        name = type(estimator).__name__
        warnings.warn(
            f"{name}: {max_iter} passes left a residual of {worst:.1e} in the {count} leading eigenvectors; "
            "ask for fewer of them, or accept a larger tolerance.",
            ConvergenceWarning,
            stacklevel=5,
        )
    return found

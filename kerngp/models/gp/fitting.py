"""From data and hyperparameters to a posterior: what a fit of Gaussian process regression computes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from ...errors import OptionError
from ...solvers import Solution
from ..hyperparameters import Hyperparameters
from ..inputs import to_numpy
from .dense import dense_evidence
from .evidence import Evidence, Objective
from .exact_posterior import ExactPosterior
from .iterative_posterior import IterativePosterior
from .learn import Step, learn
from .matrix_free import MatrixFreeEvidence
from .plan import GPPlan

Tensor = torch.Tensor

# Noise, relative to the variances of the targets, below which solves take long and rounding shows.
LITTLE_NOISE = 1e-6


@dataclass(frozen=True)
class Search:
    """How hyperparameters are learned and systems solved; the fields are those of the regressor."""

    optimizer: Any
    n_restarts: int
    random_state: Any
    seed: int
    tol: float
    max_iter: int
    n_probes: int
    callback: Callable[[Any], Any] | None


@dataclass(frozen=True)
class TrainingData:
    """Rows, targets and their noise.

    Attributes
    ----------
    X : Tensor of shape (n, D), or ndarray of what the kernel takes
    Y : ndarray of shape (n, t), float64
        Normalised.
    alpha : ndarray of shape () or (n,), float64
        Added to the diagonal.
    """

    X: Any
    Y: np.ndarray
    alpha: np.ndarray

    @classmethod
    def of(cls, X: Any, y: Any, alpha: Any) -> TrainingData:
        """Targets of shape (n,) or (n, t), and the estimator's alpha, checked.

        Raises
        ------
        OptionError
            If alpha does not fit.
        """
        y = np.asarray(y, dtype=np.float64)
        return cls(X, y.reshape(len(y), -1), check_alpha(alpha, len(y)))

    def objective(self, dense: bool, search: Search) -> Objective:
        """The log marginal likelihood as a function of hyperparameters."""
        if dense:
            X = to_numpy(self.X)
            return lambda h, gradient: dense_evidence(h, X, self.Y, self.alpha, gradient)
        return MatrixFreeEvidence(
            self.X, self.Y, self.alpha, probes=search.n_probes, random_state=search.seed
        )

    def posterior(
        self, h: Hyperparameters, weights: np.ndarray, L: np.ndarray | None, search: Search
    ) -> ExactPosterior | IterativePosterior:
        """The posterior of weights and a Cholesky factor that are known."""
        if L is not None:
            return ExactPosterior(h, to_numpy(self.X), self.alpha, L, weights)
        alpha, w = (torch.as_tensor(v, device=self.X.device) for v in (self.alpha, weights))
        return IterativePosterior(h, self.X, alpha, w, search.tol, search.max_iter, search.seed)


@dataclass(frozen=True)
class Fitted:
    """What a fit found.

    Attributes
    ----------
    h : Hyperparameters
    posterior : ExactPosterior or IterativePosterior
    evidence : Evidence
        At h.
    history : tuple of Step
        Of learning.
    solution : Solution or None
        Of the final solve, where it iterated.
    """

    h: Hyperparameters
    posterior: ExactPosterior | IterativePosterior
    evidence: Evidence
    history: tuple[Step, ...] = ()
    solution: Solution | None = None

    @property
    def weights(self) -> Tensor:
        """A^-1 Y, shape (n, t)."""
        return torch.as_tensor(self.posterior.weights)

    @property
    def factor(self) -> Tensor | None:
        """The Cholesky factor, where there is one."""
        return torch.from_numpy(self.posterior.L) if isinstance(self.posterior, ExactPosterior) else None

    @property
    def summary(self) -> str:
        """For the log."""
        e = self.evidence
        error = f" (standard error {e.standard_error:.2g})" if e.standard_error else ""
        solve = "" if self.solution is None else f"; {self.solution.message}"
        return f"log marginal likelihood {e.value:.6g}{error}, {len(self.history)} steps{solve}"


def check_parameters(estimator: Any) -> None:
    """Raise for constructor arguments out of range.

    Raises
    ------
    OptionError
    """
    kernel, optimizer, tol = estimator.kernel, estimator.optimizer, estimator.tol
    if isinstance(kernel, str) and kernel == "precomputed":
        raise OptionError(
            "kernel='precomputed' has no hyperparameters and no prior at new points; pass a kernel, or a "
            "function of two rows."
        )
    if isinstance(optimizer, str) and optimizer != "fmin_l_bfgs_b":
        raise OptionError(f"Unknown optimizer {optimizer}.")
    if not (optimizer is None or isinstance(optimizer, str) or callable(optimizer)):
        raise OptionError(f"optimizer={optimizer!r}; expected 'fmin_l_bfgs_b', a callable or None.")
    if not isinstance(tol, Real) or not 0 < float(tol) < 1:
        raise OptionError(f"tol={tol!r}; expected a number between 0 and 1, such as 1e-6.")
    counts = (("n_restarts_optimizer", 0), ("max_iter", 1), ("n_probes", 2), ("n_targets", 1))
    for name, least in counts:
        value = getattr(estimator, name)
        if name == "n_targets" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise OptionError(f"{name}={value!r}; expected an integer of at least {least}.")


def check_alpha(alpha: Any, n: int) -> np.ndarray:
    """alpha as a number or one for each row, float64.

    Raises
    ------
    OptionError
        If it is neither, negative or not finite.
    """
    try:
        a = np.asarray(to_numpy(alpha), dtype=np.float64)
    except (TypeError, ValueError):
        raise OptionError(f"alpha={alpha!r}; expected a number or one for each row.") from None
    if a.size == 1:
        a = a.reshape(())
    elif a.shape != (n,):
        raise OptionError(
            f"alpha must be a scalar or an array with same number of entries as y. ({len(a)} != {n})"
        )
    if not np.all(np.isfinite(a)) or np.any(a < 0):
        raise OptionError(f"alpha={alpha!r}; expected finite numbers >= 0.")
    return a


def fit_process(h: Hyperparameters, data: TrainingData, plan: GPPlan, search: Search) -> Fitted:
    """Learn hyperparameters if that is asked for, and solve for the weights.

    Raises
    ------
    numpy.linalg.LinAlgError, SolveError
        If the matrix is not positive definite.
    """
    objective = data.objective(plan.dense, search)
    history: tuple[Step, ...] = ()
    if search.optimizer is not None and len(h.theta):
        found = learn(
            h,
            data.X,
            data.Y,
            data.alpha,
            plan,
            objective=objective,
            optimizer=search.optimizer,
            n_restarts=search.n_restarts,
            random_state=search.random_state if plan.dense else search.seed,
            callback=search.callback,
        )
        h, evidence, history = found.h, found.evidence, found.history
        h.warn_at_bounds()
    else:
        evidence = objective(h, False)
    if plan.dense:
        return Fitted(h, _exact(h, data), evidence, history)
    assert isinstance(objective, MatrixFreeEvidence)
    alpha, Y = (torch.as_tensor(v, device=data.X.device) for v in (data.alpha, data.Y))
    posterior, solution = IterativePosterior.fit(
        h,
        data.X,
        Y,
        alpha,
        tol=search.tol,
        max_iter=search.max_iter,
        seed=search.seed,
        x0=evidence.dual,
        prepared=objective.factor,
        callback=search.callback,
    )
    _warn_little_noise(posterior)
    return Fitted(h, posterior, evidence, history, solution)


def _exact(h: Hyperparameters, data: TrainingData) -> ExactPosterior:
    try:
        return ExactPosterior.fit(h, to_numpy(data.X), data.Y, data.alpha)
    except np.linalg.LinAlgError as error:
        error.args = (
            f"The kernel, {h.kernel}, is not returning a positive definite matrix. Try gradually increasing "
            "the 'alpha' parameter of your GaussianProcessRegressor estimator.",
            *error.args,
        )
        raise


def _warn_little_noise(posterior: IterativePosterior) -> None:
    size = float(posterior.A.diag().double().mean())
    if float(posterior.noise.min()) < LITTLE_NOISE * size:
        warnings.warn(
            f"The noise of the targets is {float(posterior.noise.min()):.1e}, below {LITTLE_NOISE} of their "
            f"variance {size:.1e}: with so many rows solves are slow and inaccurate. Set alpha to the "
            "variance of the noise in y, or add WhiteKernel() to the kernel, which learns it.",
            ConvergenceWarning,
            stacklevel=4,
        )

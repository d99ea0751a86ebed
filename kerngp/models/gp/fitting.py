"""From data and hyperparameters to a posterior: what a fit of Gaussian process regression computes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
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
    history : tuple
        The steps of learning.
    solution : Solution or None
        Of the final solve, where it iterated.
    """

    h: Hyperparameters
    posterior: ExactPosterior | IterativePosterior
    evidence: Evidence
    history: tuple = ()
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

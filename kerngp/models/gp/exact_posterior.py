"""The posterior by a stored Cholesky factor: for few rows, and for kernels without a formula.

A = k(X, X) + diag(alpha) = L L',   c = A^-1 Y                  (Rasmussen and Williams, alg. 2.1)
mean = k(Z, X) c,   V = L^-1 k(X, Z),   covariance = k(Z, Z) - V' V
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import torch

from ...options import current
from ...solvers.functions.estimate import Estimate, exact
from ..hyperparameters import Hyperparameters
from ..inputs import to_numpy
from .pathwise import pathwise
from .posterior import Marginals, Posterior, check_covariance, prior_covariance, prior_variance

Tensor = torch.Tensor

# Points up to which samples are drawn from their covariance, as scikit-learn does.
JOINT_POINTS = 4000


@dataclass(frozen=True)
class ExactPosterior(Posterior):
    """The posterior of n rows by Cholesky factorisation in float64.

    Attributes
    ----------
    h : Hyperparameters
    X : ndarray of shape (n, D), or sequence of what the kernel takes
    alpha : ndarray of shape () or (n,), float64
        Added to the diagonal.
    L : ndarray of shape (n, n)
        Lower Cholesky factor of A.
    weights : ndarray of shape (n, t)
        A^-1 Y.
    """

    h: Hyperparameters
    X: Any
    alpha: np.ndarray
    L: np.ndarray
    weights: np.ndarray

    @classmethod
    def fit(cls, h: Hyperparameters, X: Any, Y: np.ndarray, alpha: np.ndarray) -> ExactPosterior:
        """Factorise and solve.

        Parameters
        ----------
        h, X, alpha : see the attributes
        Y : ndarray of shape (n, t)

        Raises
        ------
        numpy.linalg.LinAlgError
            If A is not positive definite.
        """
        A = np.array(h.matrix(X), dtype=np.float64)
        A[np.diag_indices_from(A)] += alpha
        L = scipy.linalg.cholesky(A, lower=True, overwrite_a=True, check_finite=False)
        return cls(h, X, alpha, L, scipy.linalg.cho_solve((L, True), Y, check_finite=False))

    def mean(self, Z: Any) -> Tensor:
        """See `Posterior.mean`."""
        Z = to_numpy(Z)
        return _tensor(np.concatenate([self.h.matrix(z, self.X) @ self.weights for z in self._pieces(Z)]))

    def marginals(self, Z: Any) -> Marginals:
        """See `Posterior.marginals`."""
        Z = to_numpy(Z)
        means, explained = [], []
        for z in self._pieces(Z):
            K = self.h.matrix(z, self.X)
            V = self._whiten(K)
            means.append(K @ self.weights)
            explained.append(np.einsum("ij,ij->j", V, V))
        variance = prior_variance(self.h, Z) - _tensor(np.concatenate(explained))
        return Marginals(_tensor(np.concatenate(means)), variance, torch.zeros_like(variance), "Cholesky")

    def joint(self, Z: Any) -> tuple[Tensor, Tensor]:
        """See `Posterior.joint`."""
        Z = to_numpy(Z)
        check_covariance(len(Z))
        K = self.h.matrix(Z, self.X)
        V = self._whiten(K)
        return _tensor(K @ self.weights), prior_covariance(self.h, Z) - _tensor(V.T @ V)

    @property
    def joint_points(self) -> int:  # type: ignore[override]
        """Without a formula there is the covariance alone."""
        return JOINT_POINTS if self.h.has_formula else sys.maxsize

    def deviations(self, Z: Any, count: int, seed: int) -> Tensor:
        """See `Posterior.deviations`: pathwise."""

        def weigh(B: Tensor) -> Tensor:
            return _tensor(scipy.linalg.cho_solve((self.L, True), B.numpy(), check_finite=False))

        X, Z = _tensor(self.X), _tensor(to_numpy(Z))
        return pathwise(self.h.formula(), X, Z, torch.as_tensor(self.alpha), weigh, count, seed)

    def inverse_diagonal(self) -> Estimate:
        """See `Posterior.inverse_diagonal`."""
        (invert,) = scipy.linalg.get_lapack_funcs(("potri",), (self.L,))
        inverse, info = invert(self.L, lower=True)  # L itself is not overwritten
        if info != 0:
            raise np.linalg.LinAlgError("the Cholesky factor is singular.")
        return exact(_tensor(np.diag(inverse).copy()))

    def _whiten(self, K: np.ndarray) -> np.ndarray:
        return scipy.linalg.solve_triangular(self.L, K.T, lower=True, check_finite=False)

    def _pieces(self, Z: Any) -> Iterator[Any]:
        """Z in pieces whose matrices fit into the memory limit."""
        step = max(1, current().memory_limit // (3 * 8 * len(self.X)))
        return (Z[i : i + step] for i in range(0, len(Z), step))


def _tensor(value: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(value, dtype=np.float64))

"""What a Gaussian process predicts: the interface of all that can predict, and the prior.

Everything here is in the units of the process: a regressor that normalised its targets undoes that itself.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from ...errors import ShapeError
from ...options import current
from ...solvers.functions.estimate import Estimate
from ..hyperparameters import Hyperparameters
from ..inputs import bytes_text, to_numpy

Tensor = torch.Tensor

# Standard errors of standard deviations, relative, that are worth a warning.
ROUGH = 0.1


@dataclass(frozen=True)
class Marginals:
    """Mean and variance at each of m points, for t targets that share the variance.

    Attributes
    ----------
    mean : Tensor of shape (m, t), float64
    variance : Tensor of shape (m,), float64
        Not clipped: rounding may make it negative.
    error : Tensor of shape (m,), float64
        Of the variance: 0 where it was computed by factorisation, otherwise a standard error or a bound.
    how : str
        For people: "Cholesky", "solves", ...
    """

    mean: Tensor
    variance: Tensor
    error: Tensor
    how: str

    def clipped(self) -> Tensor:
        """Variances, those that rounding has made negative set to 0, with scikit-learn's warning."""
        negative = self.variance < 0
        if not bool(negative.any()):
            return self.variance
        text = "Predicted variances smaller than 0. Setting those variances to 0."
        warnings.warn(text, UserWarning, stacklevel=4)
        return torch.where(negative, 0.0, self.variance)

    def judge(self) -> None:
        """Warn of standard deviations that are rough; they have half the relative error of variances."""
        known = self.variance > 0
        ratio = self.error[known] / (2 * self.variance[known])
        rough = float(ratio.median()) if len(ratio) else 0.0
        if rough > ROUGH:
            warnings.warn(
                f"Standard deviations by {self.how} are known to {100 * rough:.0f} % (the median of their "
                "errors, see predict_distribution). Few points have a solve each: predict at most 64.",
                ConvergenceWarning,
                stacklevel=4,
            )


class Posterior(ABC):
    """A Gaussian process given data. Points are tensors of shape (m, D), or what the kernel takes.

    Attributes
    ----------
    joint_points : int
        Points up to which samples are best drawn from `joint`.
    """

    joint_points: int

    @abstractmethod
    def mean(self, Z: Any) -> Tensor:
        """The mean at the points Z, shape (m, t)."""

    @abstractmethod
    def marginals(self, Z: Any) -> Marginals:
        """Mean and variance at every point."""

    @abstractmethod
    def joint(self, Z: Any) -> tuple[Tensor, Tensor]:
        """Mean (m, t) and covariance (m, m).

        Raises
        ------
        ShapeError
            If the covariance exceeds the memory limit.
        """

    @abstractmethod
    def deviations(self, Z: Any, count: int, seed: int) -> Tensor:
        """Draws less the mean, shape (m, count), for more points than ``joint_points``."""

    @abstractmethod
    def inverse_diagonal(self) -> Estimate:
        """The diagonal of A^-1, A the covariance of the training targets."""


@dataclass(frozen=True)
class Prior:
    """A process without data, of mean 0; it predicts as a `Posterior` does."""

    h: Hyperparameters
    targets: int

    def mean(self, Z: Any) -> Tensor:
        """Zeros of shape (m, t)."""
        return torch.zeros(len(Z), self.targets, dtype=torch.float64)

    def marginals(self, Z: Any) -> Marginals:
        """See `Posterior.marginals`."""
        variance = prior_variance(self.h, Z)
        return Marginals(self.mean(Z), variance, torch.zeros_like(variance), "prior")

    def joint(self, Z: Any) -> tuple[Tensor, Tensor]:
        """See `Posterior.joint`."""
        check_covariance(len(Z))
        return self.mean(Z), prior_covariance(self.h, Z)


def prior_variance(h: Hyperparameters, Z: Any) -> Tensor:
    """k(z, z) with the kernel's white noise, shape (m,), float64 on the CPU."""
    return torch.from_numpy(np.array(h.diag(to_numpy(Z)), dtype=np.float64))


def prior_covariance(h: Hyperparameters, Z: Any) -> Tensor:
    """k(Z, Z) with the kernel's white noise, shape (m, m), float64 on the CPU."""
    return torch.from_numpy(np.array(h.matrix(to_numpy(Z)), dtype=np.float64))


def check_covariance(m: int, n: int = 0) -> None:
    """Refuse a covariance of m points, with m vectors of length n, that exceeds the memory limit.

    Raises
    ------
    ShapeError
    """
    size, limit = 8 * m * (2 * m + n), current().memory_limit
    if size > limit:
        raise ShapeError(
            f"the covariance of {m:,} points and its work space take {bytes_text(size)}, more than the limit "
            f"of {bytes_text(limit)}; ask for fewer points at once, for return_std, or raise memory_limit."
        )

"""The free hyperparameters of a kernel as a vector theta of logarithms, as scikit-learn counts them.

What learns hyperparameters needs no more than this: it is the same for kernel objects of scikit-learn and
for kernels of this package.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from ..errors import ShapeError
from .kernel_base import Kernel

Tensor = torch.Tensor


class Hyperparameters(ABC):
    """A kernel of either language as a function of theta. Immutable.

    Attributes
    ----------
    kernel : object
        The kernel at ``theta``, in the language it was given in: what an estimator shows as ``kernel_``.
    theta : ndarray of shape (p,)
        Logarithms of the hyperparameters that are not fixed, in scikit-learn's order.
    bounds : ndarray of shape (p, 2)
        Logarithms.
    names : tuple of str
        One for each entry of theta, such as "k1__length_scale[2]".
    n_features : int
        Columns of the points.
    """

    kernel: Any
    theta: np.ndarray
    bounds: np.ndarray
    names: tuple[str, ...]
    n_features: int

    @property
    @abstractmethod
    def has_formula(self) -> bool:
        """Whether there is a formula: otherwise matrices are all there is."""

    @abstractmethod
    def at(self, theta: np.ndarray) -> Hyperparameters:
        """The same kernel at another theta.

        Raises
        ------
        ShapeError
            If theta has not p numbers.
        """

    @abstractmethod
    def formula(self, theta: Tensor | None = None) -> Kernel:
        """The kernel as a formula.

        Parameters
        ----------
        theta : Tensor of shape (p,), optional
            Default ``self.theta``. Hyperparameters are differentiable functions of it, in its dtype, on its
            device. A kernel need not depend on all of it: ask autograd with ``allow_unused=True``.

        Raises
        ------
        OptionError
            If there is none.
        """

    @abstractmethod
    def matrix(self, X: np.ndarray, Y: np.ndarray | None = None) -> np.ndarray:
        """k(X, Y) in float64; with Y None k(X, X) with white noise. For few rows.

        Raises
        ------
        ShapeError
            If it exceeds the memory limit.
        """

    @abstractmethod
    def diag(self, X: np.ndarray) -> np.ndarray:
        """The diagonal of k(X, X) in float64, with white noise."""

    @abstractmethod
    def gradient(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """k(X, X) and its derivatives by theta, shapes (n, n) and (n, n, p). For few rows.

        Raises
        ------
        ShapeError
            If they exceed the memory limit.
        """

    def warn_at_bounds(self) -> None:
        """Warn, in scikit-learn's words, of hyperparameters that ended at a bound."""
        for name, value, (low, high) in zip(self.names, self.theta, self.bounds, strict=True):
            if np.isclose(value, low):
                side, action, bound = "lower", "Decreasing", low
            elif np.isclose(value, high):
                side, action, bound = "upper", "Increasing", high
            else:
                continue
            stem, _, index = name.partition("[")
            warnings.warn(
                f"The optimal value found for dimension {index[:-1] or 0} of parameter {stem} is close to "
                f"the specified {side} bound {float(f'{np.exp(bound):.6g}')}. {action} the bound and calling "
                "fit again may find a better value.",
                ConvergenceWarning,
                stacklevel=2,
            )

    def check_theta(self, theta: np.ndarray) -> np.ndarray:
        """theta as float64, if it has as many numbers as there are hyperparameters."""
        out = np.asarray(theta, dtype=np.float64)
        if out.shape != self.theta.shape:
            raise ShapeError(
                f"theta has shape {out.shape}; expected {self.theta.shape}, one logarithm for each of "
                f"{', '.join(self.names) or 'no hyperparameters'}."
            )
        return out

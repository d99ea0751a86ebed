"""A kernel that is known through its matrix only has no hyperparameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..errors import OptionError
from .hyperparameters import Hyperparameters
from .kernel_base import Kernel
from .matrix_kernel import MatrixKernel, check_size

Tensor = torch.Tensor


class MatrixHyperparameters(Hyperparameters):
    """See `Hyperparameters`; theta is empty.

    Parameters
    ----------
    kernel : MatrixKernel
    n_features : int
    """

    def __init__(self, kernel: MatrixKernel, n_features: int):
        self.kernel, self.n_features = kernel, n_features
        self.theta, self.bounds, self.names = np.empty(0), np.empty((0, 2)), ()

    @property
    def has_formula(self) -> bool:
        return False

    def at(self, theta: np.ndarray) -> MatrixHyperparameters:
        self.check_theta(theta)
        return self

    def formula(self, theta: Tensor | None = None) -> Kernel:
        raise OptionError(
            f"{self.kernel.name} has no formula, so that its matrix must fit into memory. Use fewer rows, or "
            "write it as a formula (see kerngp.models.FormulaKernel)."
        )

    def matrix(self, X: Any, Y: Any = None) -> np.ndarray:
        return self.kernel.matrix(X, X if Y is None else Y)

    def diag(self, X: Any) -> np.ndarray:
        if self.kernel.precomputed:
            return np.diagonal(X).astype(np.float64)
        return np.array([self.kernel.matrix(X[k : k + 1], X[k : k + 1])[0, 0] for k in range(len(X))])

    def gradient(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        check_size(self.kernel.name, len(X), len(X))
        return self.matrix(X), np.empty((len(X), len(X), 0))

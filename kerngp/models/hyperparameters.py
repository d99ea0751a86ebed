"""The free hyperparameters of a kernel as a vector theta of logarithms, as scikit-learn counts them.

What learns hyperparameters needs no more than this: it is the same for kernel objects of scikit-learn and
for kernels of this package.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch

from ..errors import ShapeError
from ..options import current
from .inputs import bytes_text
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
        """The same kernel at another theta."""

    @abstractmethod
    def formula(self, theta: Tensor | None = None) -> Kernel:
        """The kernel as a formula.

        Parameters
        ----------
        theta : Tensor of shape (p,), optional
            Default ``self.theta``. Hyperparameters are differentiable functions of it, in its dtype, on its
            device.

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
    def gradient(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """k(X, X) and its derivatives by theta, shapes (n, n) and (n, n, p). For few rows.

        Raises
        ------
        ShapeError
            If they exceed the memory limit.
        """


def check_size(kernel: Any, rows: int, columns: int, count: int = 1) -> None:
    """Whether ``count`` matrices in float64 stay below the memory limit in force.

    Raises
    ------
    ShapeError
        If they do not.
    """
    size, limit = 8 * rows * columns * count, current().memory_limit
    if size > limit:
        what = "matrix" if count == 1 else "matrix, with its derivatives,"
        raise ShapeError(
            f"the {rows} x {columns} {what} of kernel={kernel!r} takes {bytes_text(size)}, more than the "
            f"limit of {bytes_text(limit)}; use fewer rows or a kernel that has a formula (see "
            "kerngp.models.FormulaKernel), which needs no matrix, or raise the limit with memory_limit or "
            "kerngp.options.options(memory_limit=...)."
        )

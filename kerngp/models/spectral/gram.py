"""Kernel values of an estimator: stored matrices of few points, products of many.

Stored matrices of scikit-learn's named kernels are computed by scikit-learn: for few points that is the
quickest way, and the numbers are the same. Everything larger is an operator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from sklearn.metrics.pairwise import pairwise_kernels

from ...errors import OptionError, ShapeError
from ...options import current
from ...solvers import Dense, LinearOperator
from ..inputs import bytes_text
from ..kernel_base import Kernel
from ..kernel_matrix import kernel_matrix
from ..pairwise import PAIRWISE
from ..resolve import MatrixKernel, check_domain, resolve_kernel

Tensor = torch.Tensor

STORED_ROWS = 4000  # up to here a stored matrix is quicker than products of an operator
BLOCK_BYTES = 1 << 25  # of a stored part of a larger matrix


@dataclass(frozen=True)
class Gram:
    """A kernel that is ready to be applied to points.

    Attributes
    ----------
    kernel : Kernel or MatrixKernel
    name : str or None
        scikit-learn's name of it.
    params : dict
        gamma, degree and coef0 of the named kernel.
    """

    kernel: Kernel | MatrixKernel
    name: str | None
    params: dict[str, Any]

    def stores(self, rows: int) -> bool:
        """Whether the matrix of this many points is better stored, or cannot be had otherwise."""
        return isinstance(self.kernel, MatrixKernel) or rows <= STORED_ROWS

    def matrix(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """k(x_i, y_j), stored, in the dtype of x; with y None k(x_i, x_j) with white noise.

        Raises
        ------
        ShapeError
            If it exceeds the memory limit in force.
        """
        other = x if y is None else y
        if isinstance(self.kernel, MatrixKernel):
            a = x.cpu().numpy()
            found = self.kernel.matrix(a, a if other is x else other.cpu().numpy())
            return torch.from_numpy(found).to(x.device, x.dtype)
        size, limit = x.element_size() * len(x) * len(other), current().memory_limit
        if size > limit:
            raise ShapeError(
                f"the {len(x)} x {len(other)} kernel matrix takes {bytes_text(size)}, more than the limit of "
                f"{bytes_text(limit)}; use a solver that does not store it (eigen_solver='krylov'), or raise "
                "memory_limit."
            )
        if self.name is None or x.device.type != "cpu":
            return kernel_matrix(self.kernel, x, y).dense()
        b = None if other is x else other.numpy()
        found = pairwise_kernels(x.numpy(), b, metric=self.name, filter_params=True, **self.params)
        return torch.from_numpy(found).to(x.dtype)

    def operator(self, x: Tensor, *, weights: Tensor | None = None, noise: bool = True) -> LinearOperator:
        """The matrix w_i k(x_i, x_j) w_j; only a kernel without a formula stores it.

        Parameters
        ----------
        x : Tensor of shape (n, n_features)
        weights : Tensor of shape (n,), optional
        noise : bool
            Whether white noise is added on the diagonal. It is not multiplied by weights.
        """
        if isinstance(self.kernel, Kernel):
            return kernel_matrix(self.kernel, x, None if noise else x, weights=weights)
        values = self.matrix(x)
        return Dense(values if weights is None else values * torch.outer(weights, weights), symmetric=True)

    def product(self, x: Tensor, y: Tensor, b: Tensor) -> Tensor:
        """The sums over j of k(x_i, y_j) b_j, in linear memory, for b of shape (len(y), columns)."""
        if isinstance(self.kernel, Kernel) and (self.name is None or not self.stores(len(y))):
            return kernel_matrix(self.kernel, x, y) @ b
        if isinstance(self.kernel, MatrixKernel) and self.kernel.precomputed:
            return self.matrix(x, y) @ b
        out = x.new_empty(len(x), b.shape[1])
        step = max(1, BLOCK_BYTES // (8 * max(1, len(y))))
        for start in range(0, len(x), step):
            part = x[start : start + step]
            torch.matmul(self.matrix(part, y), b, out=out[start : start + step])
        return out


def gram(
    kernel: Any,
    x: Tensor,
    *,
    gamma: Any = None,
    degree: Any = None,
    coef0: Any = None,
    kernel_params: dict[str, Any] | None = None,
) -> Gram:
    """The kernel behind an estimator's arguments, for points like x; None stands for the default.

    Raises
    ------
    OptionError, FormulaError, DataError
        For arguments out of range, and for points that the kernel is not meant for.
    """
    for g in gamma if isinstance(gamma, (tuple, list)) else (gamma,):
        check_number("gamma", g, least=0.0, optional=True)
    check_number("degree", degree, least=0.0, optional=True)
    check_number("coef0", coef0, optional=True)
    degree, coef0 = 3 if degree is None else degree, 1 if coef0 is None else coef0
    if isinstance(kernel, str):
        check_domain(kernel, x.cpu().numpy())
    found = resolve_kernel(
        kernel, x.shape[1], gamma=gamma, degree=degree, coef0=coef0, kernel_params=kernel_params
    )
    named = isinstance(kernel, str) and kernel in PAIRWISE
    params = {"degree": degree, "coef0": coef0} | ({} if gamma is None else {"gamma": gamma})
    return Gram(found, kernel if named else None, params)


def check_number(name: str, value: Any, *, least: float | None = None, optional: bool = False) -> None:
    """Raise `OptionError` for what is not a finite number of at least ``least``."""
    if value is None and optional:
        return
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise OptionError(f"{name}={value!r}; expected a finite number.")
    if least is not None and value < least:
        raise OptionError(f"{name}={value!r}; expected a number >= {least:g}.")


def check_count(name: str, value: Any, *, least: int = 1, optional: bool = False) -> None:
    """Raise `OptionError` for what is not an integer of at least ``least``."""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise OptionError(f"{name}={value!r}; expected an integer of at least {least}.")


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise `OptionError` for what is not one of the choices."""
    if value not in choices:
        raise OptionError(f"{name}={value!r} is unknown; expected one of {choices}.")

"""The data of one kernel ridge fit, and the linear system they make.

With weights w = s^2 the system (K + alpha W^-1) c = y is solved in the symmetric form
(S K S + alpha I) d = S y, c = S d: S K S is a formula like K, and a weight of zero needs no division.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from sklearn.metrics.pairwise import pairwise_kernels

from ...errors import OptionError, ShapeError
from ...solvers import Dense, LinearOperator
from ..kernel_base import Kernel
from ..kernel_matrix import kernel_matrix, white_noise
from ..resolve import MatrixKernel

Tensor = torch.Tensor


@dataclass(frozen=True)
class RidgeProblem:
    """Training data and a kernel, on the device of the computation. Rows of weight 0 are left out.

    Attributes
    ----------
    kernel : Kernel or MatrixKernel
    X : Tensor of shape (n, D)
    Y : Tensor of shape (n, E), float64
    weight : Tensor of shape (n,), float64, or None
    named : dict, optional
        What `sklearn.metrics.pairwise.pairwise_kernels` is told, for a kernel that it knows. Whole
        matrices of such kernels are inner products, and its own are the quickest.
    """

    kernel: Kernel | MatrixKernel
    X: Tensor
    Y: Tensor
    weight: Tensor | None = None
    named: dict[str, Any] | None = None

    @cached_property
    def rows(self) -> Tensor | None:
        """The rows in use, if these are not all."""
        if self.weight is None or bool((self.weight > 0).all()):
            return None
        return self.weight.nonzero().squeeze(-1)

    @cached_property
    def scale(self) -> Tensor | None:
        """The diagonal of S, of the rows in use."""
        return None if self.weight is None else self.used(self.weight).sqrt()

    def used(self, t: Tensor) -> Tensor:
        """The rows in use."""
        return t if self.rows is None else t[self.rows]

    @property
    def count(self) -> int:
        """How many rows are in use."""
        return len(self.X) if self.rows is None else len(self.rows)

    @cached_property
    def points(self) -> Tensor:
        """X, of the rows in use."""
        return self.used(self.X)

    @cached_property
    def targets(self) -> Tensor:
        """S Y, of the rows in use."""
        Y = self.used(self.Y)
        return Y if self.scale is None else self.scale.unsqueeze(-1) * Y

    def operator(self) -> LinearOperator:
        """S K S, of the rows in use."""
        if isinstance(self.kernel, Kernel):
            return kernel_matrix(self.kernel, self.points, weights=self.scale)
        return Dense(self.stored(), psd=True)

    def stored(self) -> Tensor:
        """The same as a float64 matrix that may be overwritten."""
        if isinstance(self.kernel, Kernel) and self.named is None:
            matrix = kernel_matrix(self.kernel, self.points.double(), weights=self.scale).dense()
            return matrix if matrix.is_contiguous() else matrix.contiguous()
        if self.named is not None:
            points = self.points.double().cpu().numpy()
            matrix = torch.from_numpy(pairwise_kernels(points, filter_params=True, **self.named))
        else:
            matrix = self._given()
        matrix = matrix.to(self.X.device)
        if self.scale is not None:
            matrix.mul_(self.scale.unsqueeze(-1)).mul_(self.scale)
        return matrix

    def _given(self) -> Tensor:
        """K of a kernel that has matrices only: a copy."""
        assert isinstance(self.kernel, MatrixKernel)
        X, n = self.X.cpu().numpy(), len(self.X)
        matrix = self.kernel.matrix(X, X)
        if matrix.shape != (n, n):
            raise ShapeError(
                f"{self.kernel.name} gives a matrix of shape {matrix.shape} for {n} rows; "
                f"fit needs ({n}, {n})."
            )
        if self.rows is None:
            return torch.from_numpy(np.array(matrix))
        rows = self.rows.cpu().numpy()
        return torch.from_numpy(matrix[np.ix_(rows, rows)])

    def coefficients(self, d: Tensor) -> Tensor:
        """c = S d for all rows, zero where the weight is."""
        c = d if self.scale is None else self.scale.unsqueeze(-1) * d
        if self.rows is None:
            return c
        return c.new_zeros((len(self.X), c.shape[-1])).index_copy_(0, self.rows, c)

    def whole(self, t: Tensor) -> Tensor:
        """Numbers of the rows in use as those of all rows, NaN elsewhere."""
        if self.rows is None:
            return t
        return t.new_full((len(self.X), *t.shape[1:]), torch.nan).index_copy_(0, self.rows, t)

    # ------------------------------------------------------------ for inducing points

    def between(self, X: Tensor, Z: Tensor) -> LinearOperator:
        """The matrix k(x_i, z_m), without white noise."""
        if isinstance(self.kernel, Kernel):
            return kernel_matrix(self.kernel, X, Z)
        matrix = self.kernel.matrix(X.cpu().numpy(), Z.cpu().numpy())
        return Dense(torch.from_numpy(matrix).to(X.device, X.dtype))

    def noise(self) -> Tensor | None:
        """White noise of the kernel: a number, one for each row in use, or None."""
        if isinstance(self.kernel, MatrixKernel):
            return None
        found = white_noise(self.kernel, self.points)
        return None if found is None else found.double()

    def require_points(self) -> None:
        """Raise OptionError for a precomputed matrix."""
        if isinstance(self.kernel, MatrixKernel) and self.kernel.precomputed:
            raise OptionError(
                "solver='inducing' chooses among points; kernel='precomputed' has none: use 'cholesky' or "
                "'pcg'."
            )

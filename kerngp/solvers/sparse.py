"""A sparse matrix: products and transposed products in the time of its entries."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .operator import LinearOperator

Tensor = torch.Tensor


class Sparse(LinearOperator):
    """A matrix given by its rows, each entry once: ``values[k]`` at column ``columns[k]``.

    Products are differentiable in what is multiplied; the entries are constants.

    Parameters
    ----------
    starts : int64 tensor of shape (M + 1,)
        Row r has the entries ``starts[r]`` to ``starts[r + 1]``.
    columns : integer tensor of shape (K,)
    values : tensor of shape (K,)
    shape : (M, N)
    transposed : bool
        The operator is the transpose, N x M.

    Examples
    --------
    >>> A = Sparse(torch.tensor([0, 1, 3]), torch.tensor([0, 0, 1]), torch.ones(3), (2, 2))
    >>> A @ torch.tensor([1.0, 2.0]), A.T @ torch.tensor([1.0, 2.0])
    (tensor([1., 3.]), tensor([3., 2.]))
    """

    def __init__(
        self,
        starts: Tensor,
        columns: Tensor,
        values: Tensor,
        shape: tuple[int, int],
        transposed: bool = False,
    ):
        self.starts, self.column_of, self.values = starts, columns, values.detach()
        self.stored, self.transposed = shape, transposed
        self.shape = shape[::-1] if transposed else shape
        self.torch_dtype, self.device = values.dtype, values.device
        self.symmetric = self.psd = False

    @functools.cached_property
    def _matrix(self) -> Any:
        return (_scipy if self.device.type == "cpu" else _torch)(self)

    def multiply(self, b: Tensor) -> Tensor:
        """The product with b of shape (N, E), without a gradient."""
        if isinstance(self._matrix, Tensor):
            return self._matrix @ b
        return torch.from_numpy(self._matrix @ b.detach().numpy())

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        if exact and self.torch_dtype != torch.float64:
            return self.with_tensors([self.values.double()])._matmul(b, exact)
        flat = b.movedim(-2, 0).reshape(b.shape[-2], -1)  # sparse products know two axes
        out: Any = _Product.apply(self, flat)
        return out.reshape(self.shape[-2], *b.shape[:-2], b.shape[-1]).movedim(0, -2)

    def _transpose(self) -> Sparse:
        return Sparse(self.starts, self.column_of, self.values, self.stored, not self.transposed)

    def _diag(self) -> Tensor:
        row = torch.repeat_interleave(torch.arange(self.stored[0], device=self.device), self.starts.diff())
        on = row == self.column_of
        out = self.values.new_zeros(self.stored[0])
        out[row[on]] = self.values[on]
        return out

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        units = self.values.new_zeros(self.shape[-2], len(idx))
        units[idx, torch.arange(len(idx), device=self.device)] = 1.0
        rows = self.T.matmul(units).T
        return rows if cols is None else rows[:, cols]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.values,)

    def with_tensors(self, tensors: Sequence[Tensor]) -> Sparse:
        """See `LinearOperator.with_tensors`."""
        return Sparse(self.starts, self.column_of, tensors[0], self.stored, self.transposed)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, A: Sparse, b: Tensor) -> Tensor:
        ctx.operator = A
        return A.multiply(b)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        out: Any = _Product.apply(ctx.operator.T, g)
        return None, out


def _scipy(A: Sparse) -> Any:
    """For SciPy: its products take a tenth of the time of torch's."""
    from scipy.sparse import csr_array

    small = max(len(A.values), *A.stored) < np.iinfo(np.int32).max
    index = np.int32 if small else np.int64
    parts = (A.values.numpy(), A.column_of.numpy().astype(index), A.starts.numpy().astype(index))
    stored = csr_array(parts, shape=A.stored)
    return stored.T if A.transposed else stored


def _torch(A: Sparse) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support")
        stored = torch.sparse_csr_tensor(
            A.starts, A.column_of.long(), A.values, A.stored, check_invariants=False
        )
        return stored.transpose(0, 1).to_sparse_csr() if A.transposed else stored

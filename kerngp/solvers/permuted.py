"""An operator whose rows and columns were put in another order, seen in the caller's."""

from __future__ import annotations

import torch

from .operator import LinearOperator, Remake

Tensor = torch.Tensor
CHUNK = 64  # entries of the diagonal taken at once


class Permuted(LinearOperator):
    """B with B[rows[k], columns[l]] = A[k, l].

    Parameters
    ----------
    base : LinearOperator
        A.
    rows, columns : int64 tensors (M,) and (N,)
        Permutations.

    Examples
    --------
    >>> from kerngp.solvers import Dense
    >>> Permuted(Dense(torch.eye(2)), torch.tensor([1, 0]), torch.tensor([0, 1])).dense()
    tensor([[0., 1.],
            [1., 0.]])
    """

    def __init__(self, base: LinearOperator, rows: Tensor, columns: Tensor):
        self.base, self.row_order, self.column_order = base, rows, columns
        self.shape, self.torch_dtype, self.device = base.shape, base.torch_dtype, base.device
        self.same = base.shape[-1] == base.shape[-2] and torch.equal(rows, columns)
        self.symmetric = base.symmetric and self.same
        self.psd = base.psd and self.same

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        out = self.base._matmul(b.index_select(-2, self.column_order), exact)
        return out.index_select(-2, torch.argsort(self.row_order))

    def _transpose(self) -> Permuted:
        return Permuted(self.base._transpose(), self.column_order, self.row_order)

    def _diag(self) -> Tensor:
        k, l = torch.argsort(self.row_order), torch.argsort(self.column_order)  # noqa: E741
        if self.same:
            return self.base._diag().index_select(-1, k)
        parts = zip(k.split(CHUNK), l.split(CHUNK), strict=True)
        return torch.cat([self.base._rows(a, b).diagonal(dim1=-2, dim2=-1) for a, b in parts], -1)

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        k, l = torch.argsort(self.row_order), torch.argsort(self.column_order)  # noqa: E741
        return self.base._rows(k[idx], l if cols is None else l[cols])

    def _submatrices(self, idx: Tensor, exact: bool) -> Tensor:
        if not self.same:
            return super()._submatrices(idx, exact)
        return self.base._submatrices(torch.argsort(self.row_order)[idx], exact)

    def _submatrix(self, rows: Tensor | None, cols: Tensor | None) -> LinearOperator:
        k = torch.argsort(self.row_order)
        k = k if rows is None else k[rows]
        if self.same and rows is cols:
            return self.base._submatrix(k, k)
        l = torch.argsort(self.column_order)  # noqa: E741
        return self.base._submatrix(k, l if cols is None else l[cols])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.base.tensors

    def remade(self, new: Remake) -> Permuted:
        """See `LinearOperator.remade`."""
        return Permuted(self.base.remade(new), self.row_order, self.column_order)

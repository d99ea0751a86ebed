"""Some rows and columns of an operator that has no better way to be cut."""

from __future__ import annotations

import torch

from .operator import LinearOperator, Remake

Tensor = torch.Tensor
CHUNK = 64  # entries of the diagonal taken at once


class Selected(LinearOperator):
    """The entries A[rows, cols]; products are those of all of A with zeros put in and rows left out.

    Parameters
    ----------
    base : LinearOperator
        A.
    rows, cols : int64 tensors, optional
        None stands for all. Equal ones are the same tensor.

    Examples
    --------
    >>> from kerngp.solvers import identity
    >>> Selected(identity(3), torch.tensor([2, 0]), None).dense()
    tensor([[0., 0., 1.],
            [1., 0., 0.]], dtype=torch.float64)
    """

    def __init__(self, base: LinearOperator, rows: Tensor | None, cols: Tensor | None):
        self.base, self.picked_rows, self.picked_cols = base, rows, cols
        M, N = base.shape[-2:]
        self.shape = (
            *base.shape[:-2],
            M if rows is None else len(rows),
            N if cols is None else len(cols),
        )
        self.torch_dtype, self.device = base.torch_dtype, base.device
        self.symmetric, self.psd = base.symmetric and rows is cols, base.psd and rows is cols

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        rows, cols = self.picked_rows, self.picked_cols
        if cols is not None:
            full = b.new_zeros((*b.shape[:-2], self.base.shape[-1], b.shape[-1]))
            b = full.index_add(-2, cols, b)
        out = self.base._matmul(b, exact)
        return out if rows is None else out.index_select(-2, rows)

    def _transpose(self) -> Selected:
        return Selected(self.base.T, self.picked_cols, self.picked_rows)

    def _diag(self) -> Tensor:
        k, l = self._index(-2), self._index(-1)  # noqa: E741
        if self.picked_rows is self.picked_cols:
            return self.base._diag().index_select(-1, k)
        parts = zip(k.split(CHUNK), l.split(CHUNK), strict=True)
        return torch.cat([self.base._rows(a, b).diagonal(dim1=-2, dim2=-1) for a, b in parts], -1)

    def _index(self, axis: int) -> Tensor:
        picked = self.picked_rows if axis == -2 else self.picked_cols
        return torch.arange(self.shape[axis], device=self.device) if picked is None else picked

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        picked = self.picked_cols
        if picked is not None and cols is not None:
            picked = picked[cols]
        return self.base._rows(self._index(-2)[idx], cols if picked is None else picked)

    def _submatrix(self, rows: Tensor | None, cols: Tensor | None) -> LinearOperator:
        k = self.picked_rows if rows is None else self._index(-2)[rows]
        if rows is cols and self.picked_rows is self.picked_cols:
            return self.base._submatrix(k, k)
        return self.base._submatrix(k, self.picked_cols if cols is None else self._index(-1)[cols])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.base.tensors

    def remade(self, new: Remake) -> Selected:
        """See `LinearOperator.remade`."""
        return Selected(self.base.remade(new), self.picked_rows, self.picked_cols)

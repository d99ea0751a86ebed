"""The operators that others are made of: matrices, diagonals, sums and multiples. All are final."""

from __future__ import annotations

from typing import Any

import torch

from ...engine.arrays import adopt, is_number
from ...errors import ShapeError
from ..checks import Scalar, everywhere, require_square
from .base import LinearOperator, Remake, unique

Tensor = torch.Tensor


class Dense(LinearOperator):
    """A matrix that is stored.

    Parameters
    ----------
    matrix : array of shape (*batch, M, N)
    symmetric, psd : bool
    """

    def __init__(self, matrix: Any, *, symmetric: bool = False, psd: bool = False):
        self.matrix = adopt("matrix", matrix)
        if self.matrix.dim() < 2:
            raise ShapeError(f"matrix has shape {tuple(self.matrix.shape)}; expected (*batch, M, N).")
        self.shape, self.torch_dtype = tuple(self.matrix.shape), self.matrix.dtype
        self.device, self.psd, self.symmetric = self.matrix.device, psd, symmetric or psd

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        if not exact or self.torch_dtype == torch.float64:
            return self.matrix @ b
        step = max(1, (1 << 22) // max(1, self.matrix[..., :1, :].numel()))  # a few rows in float64 at a time
        rows = (self.matrix[..., i : i + step, :].double() for i in range(0, max(1, self.shape[-2]), step))
        return torch.cat([r @ b for r in rows], -2)

    def _transpose(self) -> Dense:
        return Dense(self.matrix.mT)

    def _diag(self) -> Tensor:
        return self.matrix.diagonal(dim1=-2, dim2=-1)

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        rows = self.matrix[..., idx, :]
        return rows if cols is None else rows[..., cols]

    def _submatrices(self, idx: Tensor, exact: bool) -> Tensor:
        found = self.matrix[..., idx.unsqueeze(-1), idx.unsqueeze(-2)]
        return found.double() if exact else found

    def _submatrix(self, rows: Tensor | None, cols: Tensor | None) -> Dense:
        m = self.matrix if rows is None else self.matrix[..., rows, :]
        same = rows is cols
        return Dense(
            m if cols is None else m[..., cols],
            symmetric=self.symmetric and same,
            psd=self.psd and same,
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.matrix,)

    def remade(self, new: Remake) -> Dense:
        """See `LinearOperator.remade`."""
        return Dense(new(self.matrix, 2), symmetric=self.symmetric, psd=self.psd)

    def _merge(self, other: LinearOperator) -> LinearOperator | None:
        if not isinstance(other, Dense):
            return None
        return Dense(
            self.matrix + other.matrix,
            symmetric=self.symmetric and other.symmetric,
            psd=self.psd and other.psd,
        )


class Diagonal(LinearOperator):
    """diag(values), or one value times the identity.

    Parameters
    ----------
    values : array of shape (*batch, n), or a number
    n : int, optional
        Needed for a number.
    """

    def __init__(self, values: Any, *, n: int | None = None):
        self.values = (
            adopt("values", values)
            if not is_number(values)
            else torch.tensor(float(values), dtype=torch.float64)
        )
        v = self.values
        if v.dim() == 0 and n is None:
            raise ShapeError("Diagonal of one number has no size; pass n=..., or use alpha * identity(n).")
        if n is not None and v.dim() and v.shape[-1] not in (1, n):
            raise ShapeError(f"values has shape {tuple(v.shape)}; expected ({n},) or a number.")
        size = n if n is not None else v.shape[-1]
        self.shape, self.torch_dtype, self.device = (*v.shape[:-1], size, size), v.dtype, v.device
        self.symmetric, self.psd = True, everywhere(v.detach() >= 0)

    def _full(self) -> Tensor:
        return self.values.expand(*self.shape[:-1])

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        return self._full().to(b.dtype).unsqueeze(-1) * b

    def _transpose(self) -> Diagonal:
        return self

    def _diag(self) -> Tensor:
        return self._full()

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        cols = torch.arange(self.shape[-1], device=self.device) if cols is None else cols
        return (idx.unsqueeze(-1) == cols) * self._full()[..., idx].unsqueeze(-1)

    def _submatrices(self, idx: Tensor, exact: bool) -> Tensor:
        values = self._full().double() if exact else self._full()
        return (idx.unsqueeze(-1) == idx.unsqueeze(-2)) * values[..., idx].unsqueeze(-1)

    def _submatrix(self, rows: Tensor | None, cols: Tensor | None) -> LinearOperator:
        if rows is not None and rows is cols and len(rows.unique()) == len(rows):
            return Diagonal(self._full()[..., rows])
        return super()._submatrix(rows, cols)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.values,)

    def remade(self, new: Remake) -> Diagonal:
        """See `LinearOperator.remade`."""
        return Diagonal(_remade_values(self.values, new), n=self.shape[-1])


def _remade_values(values: Tensor, new: Remake) -> Tensor:
    """A diagonal; one number that has become a batch of numbers gets an axis for the rows."""
    core = min(1, values.dim())
    found = new(values, core)
    return found.unsqueeze(-1) if found.dim() > core == 0 else found


class AddedDiagonal(LinearOperator):
    """base + diag(values): what kernel ridge regression and Gaussian processes solve with.

    Parameters
    ----------
    base : LinearOperator
        Square.
    values : array of shape (*batch, n), or a number
        Kept in its own dtype; products use the base's.
    """

    def __init__(self, base: LinearOperator, values: Any):
        require_square(base, "adding to the diagonal")
        d = Diagonal(values, n=base.shape[-1])
        if d.device != base.device:
            d = Diagonal(d.values.to(base.device), n=base.shape[-1])
        self.base, self.values = base, d.values
        self.shape = (*torch.broadcast_shapes(base.shape[:-2], d.shape[:-2]), *base.shape[-2:])
        self.torch_dtype, self.device = base.torch_dtype, base.device
        self.symmetric, self.psd = base.symmetric, base.psd and d.psd

    def _diagonal(self) -> Diagonal:
        return Diagonal(self.values.to(self.torch_dtype), n=self.shape[-1])

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        return self.base._matmul(b, exact) + Diagonal(self.values.to(b.dtype), n=self.shape[-1])._matmul(
            b, exact
        )

    def _transpose(self) -> AddedDiagonal:
        return AddedDiagonal(self.base.T, self.values)

    def _diag(self) -> Tensor:
        return self.base._diag() + self._diagonal()._diag()

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        return self.base._rows(idx, cols) + self._diagonal()._rows(idx, cols)

    def _submatrices(self, idx: Tensor, exact: bool) -> Tensor:
        found = self.base._submatrices(idx, exact)
        d = Diagonal(self.values.to(found.dtype), n=self.shape[-1])
        if bool((idx.sort(-1)[0].diff(dim=-1) == 0).any()):  # an index twice: entries beside the diagonal
            return found + d._submatrices(idx, exact)
        return found + torch.diag_embed(d._full()[..., idx])

    def _submatrix(self, rows: Tensor | None, cols: Tensor | None) -> LinearOperator:
        base = self.base._submatrix(rows, cols)
        part = Diagonal(self.values, n=self.shape[-1])._submatrix(rows, cols)
        return AddedDiagonal(base, part.values) if isinstance(part, Diagonal) else Sum((base, part))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return unique((*self.base.tensors, self.values))

    def remade(self, new: Remake) -> AddedDiagonal:
        """See `LinearOperator.remade`."""
        return AddedDiagonal(self.base.remade(new), _remade_values(self.values, new))


class Sum(LinearOperator):
    """A sum of operators that could not be merged into one."""

    def __init__(self, terms: tuple[LinearOperator, ...]):
        self.terms = terms
        self.shape = (*torch.broadcast_shapes(*(t.shape[:-2] for t in terms)), *terms[0].shape[-2:])
        self.torch_dtype, self.device = terms[0].torch_dtype, terms[0].device
        self.psd = all(t.psd for t in terms)
        self.symmetric = all(t.symmetric for t in terms)

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        return _total([t._matmul(b, exact) for t in self.terms])

    def _transpose(self) -> Sum:
        return Sum(tuple(t.T for t in self.terms))

    def _diag(self) -> Tensor:
        return _total([t._diag().to(self.torch_dtype) for t in self.terms])

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        return _total([t._rows(idx, cols).to(self.torch_dtype) for t in self.terms])

    def _submatrix(self, rows: Tensor | None, cols: Tensor | None) -> Sum:
        return Sum(tuple(t._submatrix(rows, cols) for t in self.terms))

    def _submatrices(self, idx: Tensor, exact: bool) -> Tensor:
        dtype = torch.float64 if exact else self.torch_dtype
        return _total([t._submatrices(idx, exact).to(dtype) for t in self.terms])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return unique([t for term in self.terms for t in term.tensors])

    def remade(self, new: Remake) -> Sum:
        """See `LinearOperator.remade`."""
        return Sum(tuple(term.remade(new) for term in self.terms))


class Scaled(LinearOperator):
    """alpha * base, for a base that cannot take the factor in."""

    def __init__(self, base: LinearOperator, alpha: Scalar):
        self.base = base
        self.alpha = (
            alpha
            if isinstance(alpha, Tensor)
            else torch.tensor(alpha, dtype=torch.float64, device=base.device)
        )
        batch = torch.broadcast_shapes(base.shape[:-2], self.alpha.shape)
        self.shape, self.torch_dtype, self.device = (*batch, *base.shape[-2:]), base.torch_dtype, base.device
        self.symmetric, self.psd = base.symmetric, base.psd and everywhere(self.alpha.detach() >= 0)

    def _factor(self, axes: int, dtype: torch.dtype) -> Tensor:
        """alpha, to multiply what has ``axes`` axes after those of the batch."""
        return self.alpha[(..., *[None] * axes)].to(dtype)

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        return self._factor(2, b.dtype) * self.base._matmul(b, exact)

    def _transpose(self) -> Scaled:
        return Scaled(self.base.T, self.alpha)

    def _diag(self) -> Tensor:
        return self._factor(1, self.torch_dtype) * self.base._diag()

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        return self._factor(2, self.torch_dtype) * self.base._rows(idx, cols)

    def _submatrices(self, idx: Tensor, exact: bool) -> Tensor:
        found = self.base._submatrices(idx, exact)
        return self._factor(3, found.dtype) * found

    def _submatrix(self, rows: Tensor | None, cols: Tensor | None) -> LinearOperator:
        return Scaled(self.base._submatrix(rows, cols), self.alpha)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return unique((*self.base.tensors, self.alpha))

    def remade(self, new: Remake) -> Scaled:
        """See `LinearOperator.remade`."""
        return Scaled(self.base.remade(new), new(self.alpha, 0))


def _total(parts: list[Tensor]) -> Tensor:
    out = parts[0]
    for part in parts[1:]:
        out = out + part
    return out

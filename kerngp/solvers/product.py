"""Products of operators, which are applied one after the other and never formed."""

from __future__ import annotations

import torch

from ..engine.autodiff import transpose
from ..errors import DeviceError, DTypeError, ShapeError
from .kernel_operator import KernelOperator
from .operator import LinearOperator, Remake, unique

Tensor = torch.Tensor
BLOCK = 1 << 22  # numbers of a block of rows, where entries are needed


def compose(A: LinearOperator, B: LinearOperator) -> Product:
    """A B. Symmetric and psd where that can be seen: K.T @ K and K.T @ P @ K of kernels, A @ A.

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Examples
    --------
    >>> import torch
    >>> from kerngp.solvers import Dense
    >>> A = Dense(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), symmetric=True)
    >>> compose(A, A).psd, (A @ A) @ torch.ones(2)
    (True, tensor([9., 9.]))
    """
    if A.shape[-1] != B.shape[-2]:
        raise ShapeError(
            f"cannot multiply operators of shapes {A.shape} and {B.shape}: {A.shape[-1]} columns meet "
            f"{B.shape[-2]} rows."
        )
    if A.device != B.device:
        raise DeviceError(f"cannot multiply operators on {A.device} and {B.device}; move one of them.")
    if A.torch_dtype != B.torch_dtype:
        raise DTypeError(
            f"cannot multiply operators of dtypes {A.torch_dtype} and {B.torch_dtype}: convert one with cast."
        )
    return Product((*_factors(A), *_factors(B)))


def _factors(A: LinearOperator) -> tuple[LinearOperator, ...]:
    return A.factors if isinstance(A, Product) else (A,)


def _tags(factors: tuple[LinearOperator, ...]) -> tuple[bool, bool]:
    """Whether a product is provably symmetric, and psd: the same from both ends."""
    if not factors:
        return True, True
    if len(factors) == 1:
        return factors[0].symmetric, factors[0].psd
    return _tags(factors[1:-1]) if _adjoint(factors[0], factors[-1]) else (False, False)


def _adjoint(A: LinearOperator, B: LinearOperator) -> bool:
    """Whether A is known to be the transpose of B."""
    if A is B:
        return A.symmetric
    if isinstance(A, KernelOperator) and isinstance(B, KernelOperator):
        same = len(A.args) == len(B.args) and all(a is b for a, b in zip(A.args, B.args, strict=True))
        plain = A.blocks == B.blocks == (1, 1)
        return same and plain and transpose(A.formula) is B.formula and _same_pairs(A, B.T)
    return False


def _same_pairs(A: KernelOperator, B: LinearOperator) -> bool:
    assert isinstance(B, KernelOperator)
    if A.ranges is None or B.ranges is None:
        return A.ranges is B.ranges
    return A.ranges.equals(B.ranges)


class Product(LinearOperator):
    """The product of operators.

    Parameters
    ----------
    factors : tuple of LinearOperator
        Of matching shapes, one dtype and one device; the last one is applied first.
    tags : (symmetric, psd), optional
        Where they are known better than the factors show.
    """

    def __init__(self, factors: tuple[LinearOperator, ...], tags: tuple[bool, bool] | None = None):
        self.factors, self._tags = factors, tags
        batch = torch.broadcast_shapes(*(f.shape[:-2] for f in factors))
        self.shape = (*batch, factors[0].shape[-2], factors[-1].shape[-1])
        self.torch_dtype, self.device = factors[0].torch_dtype, factors[0].device
        self.symmetric, self.psd = tags or _tags(factors)

    @property
    def entries(self) -> float:
        """Those of all factors."""
        return sum(f.entries for f in self.factors)

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        for f in reversed(self.factors):
            b = f._matmul(b, exact)
        return b

    def _transpose(self) -> Product:
        return Product(tuple(f.T for f in reversed(self.factors)))

    def _diag(self) -> Tensor:
        left, right = self.factors[0], Product(self.factors[1:]).T
        n, step = self.shape[-1], max(1, BLOCK // max(1, left.shape[-1]))
        parts = []
        for start in range(0, max(1, n), step):
            idx = torch.arange(start, min(n, start + step), device=self.device)
            parts.append((left._rows(idx, None) * right._rows(idx, None)).sum(-1))
        return torch.cat(parts, -1).expand(self.shape[:-1])

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        rows = self.factors[0]._rows(idx, None)
        for f in self.factors[1:]:
            rows = f.T.matmul(rows.mT.contiguous()).mT
        return rows if cols is None else rows[..., cols]

    def _submatrix(self, rows: Tensor | None, cols: Tensor | None) -> Product:
        first, *middle, last = self.factors
        first = first if rows is None else first._submatrix(rows, None)
        last = last if cols is None else last._submatrix(None, cols)
        same = rows is cols
        return Product((first, *middle, last), (self.symmetric and same, self.psd and same))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return unique([t for f in self.factors for t in f.tensors])

    def remade(self, new: Remake) -> Product:
        """See `LinearOperator.remade`."""
        made = {id(f): f.remade(new) for f in self.factors}
        return Product(tuple(made[id(f)] for f in self.factors), self._tags)  # equal factors stay equal

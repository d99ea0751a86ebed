"""Sums and multiples of operators, in the simplest form they have."""

from __future__ import annotations

from typing import Any

import torch

from ...engine.arrays import adopt
from ...errors import DeviceError, DTypeError, FormulaError, ShapeError
from ..checks import everywhere, scalar
from .base import LinearOperator
from .basic import AddedDiagonal, Dense, Diagonal, Scaled, Sum

Tensor = torch.Tensor


def add(A: LinearOperator, B: Any) -> LinearOperator:
    """A + B. Diagonals are collected, terms that know how to merge become one operator.

    Raises
    ------
    FormulaError
        If B is no operator; a number does not say whether it means every entry or the diagonal.
    ShapeError, DTypeError, DeviceError
    """
    if not isinstance(B, LinearOperator):
        raise FormulaError(f"cannot add a {type(B).__name__} to an operator; for alpha on the diagonal write "
                           "A + alpha * identity(n), for a matrix Dense(matrix).")  # fmt: skip
    if A.shape[-2:] != B.shape[-2:]:
        raise ShapeError(f"cannot add operators of shapes {A.shape} and {B.shape}.")
    if A.device != B.device:
        raise DeviceError(f"cannot add an operator on {B.device} to one on {A.device}; move one of them.")
    if isinstance(A, Diagonal) and isinstance(B, Diagonal):
        return Diagonal(*_sum_values(A.values, B.values), n=A.shape[-1])
    if isinstance(A, Diagonal):
        A, B = B, A
    if isinstance(B, Diagonal):
        if isinstance(A, AddedDiagonal):
            return AddedDiagonal(A.base, *_sum_values(A.values, B.values))
        return AddedDiagonal(A, B.values)
    if A.torch_dtype != B.torch_dtype:
        raise DTypeError(
            f"cannot add operators of dtypes {A.torch_dtype} and {B.torch_dtype}; convert one with cast()."
        )
    if isinstance(A, AddedDiagonal) or isinstance(B, AddedDiagonal):
        bases = [X.base if isinstance(X, AddedDiagonal) else X for X in (A, B)]
        values = [X.values for X in (A, B) if isinstance(X, AddedDiagonal)]
        return AddedDiagonal(add(*bases), *_sum_values(*values))
    terms = [*(A.terms if isinstance(A, Sum) else (A,)), *(B.terms if isinstance(B, Sum) else (B,))]
    merged: list[LinearOperator] = []
    for term in terms:
        for k, other in enumerate(merged):
            both = other._merge(term)
            if both is not None:
                merged[k] = both
                break
        else:
            merged.append(term)
    return merged[0] if len(merged) == 1 else Sum(tuple(merged))


def _sum_values(*values: Tensor) -> tuple[Tensor]:
    if len(values) == 1:
        return (values[0],)
    a, b = (v.to(torch.promote_types(values[0].dtype, values[1].dtype)) for v in values)
    return (a + b,)


def scale(A: LinearOperator, alpha: Any) -> LinearOperator:
    """alpha * A for a number or a 0-d tensor alpha."""
    alpha = scalar(alpha)
    if isinstance(alpha, Tensor) and alpha.device != A.device:
        alpha = alpha.to(A.device)
    if isinstance(A, Diagonal):
        return Diagonal(A.values * alpha, n=A.shape[-1])
    if isinstance(A, AddedDiagonal):
        return AddedDiagonal(scale(A.base, alpha), A.values * alpha)
    if isinstance(A, Sum):
        return Sum(tuple(scale(term, alpha) for term in A.terms))
    if isinstance(A, Scaled):
        return Scaled(A.base, A.alpha * alpha)
    return A._scale(alpha) or Scaled(A, alpha)


def identity(n: int, *, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Diagonal:
    """The identity matrix. In ``A + alpha * identity(n)`` the dtype follows A.

    Examples
    --------
    >>> import torch
    >>> (Dense(torch.ones(2, 2)) + 3.0 * identity(2)).dense()
    tensor([[4., 1.],
            [1., 4.]])
    """
    return Diagonal(torch.ones((), dtype=dtype, device=device), n=n)


def as_operator(A: Any) -> LinearOperator:
    """Operators pass through; a matrix becomes `Dense`, symmetric if its entries are."""
    if isinstance(A, LinearOperator):
        return A
    t = adopt("A", A)
    if t.dim() < 2:
        raise ShapeError(f"A has shape {tuple(t.shape)}; expected an operator or a matrix (*batch, M, N).")
    square = t.shape[-1] == t.shape[-2]
    return Dense(t, symmetric=square and everywhere(t.detach() == t.detach().mT))

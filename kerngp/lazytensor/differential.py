"""Symbolic differential operators as methods, under KeOps's names and with its order of arguments.

A variable is given as the LazyTensor that stands for it, made of the same array or the same symbol as
in the formula; any other part of the formula will do as well.
"""

from __future__ import annotations

from typing import Any

from ..engine import differential
from ..engine.expr import Expr
from ..engine.operands import read
from ..engine.ops import concat, widen
from .tensor import LazyTensor, _lazy, combine


def grad(self: LazyTensor, other: Any, gradin: Any) -> LazyTensor:
    """The adjoint of the differential in the variable ``other``, applied to ``gradin``.

    Examples
    --------
    >>> import torch
    >>> x_i, y_j = LazyTensor(torch.ones(4, 1, 3)), LazyTensor(torch.zeros(1, 5, 3))
    >>> K = (-((x_i - y_j) ** 2).sum(-1)).exp()
    >>> K.grad(x_i, 1).sum(dim=1).shape
    torch.Size([4, 3])
    """
    return combine(differential.grad, self, other, gradin)


def diff(self: LazyTensor, other: Any, diffin: Any) -> LazyTensor:
    """The differential in the variable ``other``, applied to the direction ``diffin``."""
    return combine(differential.diff, self, other, diffin)


def grad_matrix(self: LazyTensor, other: Any) -> LazyTensor:
    """The Jacobian in the variable ``other``: the gradients of all components, one after the other."""
    return combine(differential.grad_matrix, self, other)


def divergence(self: LazyTensor, var: Any) -> LazyTensor:
    """The sum of the derivatives of component k in component k of the variable ``var``."""
    return combine(differential.divergence, self, var)


def laplacian(self: LazyTensor, var: Any) -> LazyTensor:
    """The sum of the second derivatives in the components of the variable ``var``, for scalars."""
    return combine(differential.laplacian, self, var)


def trace_operator(self: LazyTensor, var: Any) -> LazyTensor:
    """The trace of the matrix M, where self = M ``var``; ``var`` itself is then needed no more."""
    traced = combine(differential.trace_operator, self, var)
    return _lazy(*read(traced.expr, traced.operands))


def difference_matrix(self: LazyTensor, other: Any) -> LazyTensor:
    """All differences x_k - y_l of the components of two vectors, by rows."""
    return combine(_differences, self, other)


DIFFERENTIAL = (
    grad,
    diff,
    grad_matrix,
    divergence,
    laplacian,
    trace_operator,
    difference_matrix,
)


def _differences(x: Expr, y: Expr) -> Expr:
    return concat(*(widen(x[k], y.dim) - y for k in range(x.dim)))

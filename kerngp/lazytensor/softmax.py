"""Softmax over the rows, the columns or the components of a LazyTensor: again a LazyTensor."""

from __future__ import annotations

from ..engine.arrays import TORCH
from ..engine.inner import INNER
from ..engine.operands import indexed
from ..engine.reductions import LOGSUMEXP
from ..errors import FormulaError
from .reduce import tensors
from .tensor import LazyTensor, _lazy, combine


def log_softmax(self: LazyTensor, axis: int | None = None, dim: int | None = None) -> LazyTensor:
    """f - log sum exp f along an axis. One pass computes the sums; the result is lazy again.

    Parameters
    ----------
    axis, dim : int
        The axis along which the exponentials sum to 1, under its numpy or its torch name.

    Raises
    ------
    FormulaError
    """
    if self.is_complex:
        raise FormulaError("a softmax of complex numbers is not defined; take it of their .real or abs().")
    letter = self._letter(axis if dim is None else dim)
    if letter == "":
        return combine("sub", self, combine(INNER["logsumexp"], self))
    sums = tensors(self.expr, self.operands, LOGSUMEXP, letter, {})
    return combine("sub", self, _lazy(*indexed(sums, "ji".index(letter), TORCH, "the sums")))


def softmax(self: LazyTensor, axis: int | None = None, dim: int | None = None) -> LazyTensor:
    """exp f / sum exp f along an axis, lazily: ``K.softmax(axis=1) @ b`` is attention.

    Differentiable. Where all entries along the axis are -inf the result is NaN, as in torch.

    Parameters
    ----------
    axis, dim : int
        The axis along which the result sums to 1, under its numpy or its torch name.

    Raises
    ------
    FormulaError

    Examples
    --------
    >>> import torch
    >>> K = LazyTensor(torch.zeros(3, 1, 1)) * LazyTensor(torch.zeros(1, 4, 1))
    >>> K.softmax(axis=1) @ torch.arange(4.0)
    tensor([1.5000, 1.5000, 1.5000])
    """
    return combine("exp", log_softmax(self, axis, dim))

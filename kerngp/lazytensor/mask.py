"""`mask`: a LazyTensor with fewer pairs."""

from __future__ import annotations

from typing import Any

from ..engine.operands import restrict
from ..engine.ranges import Ranges
from ..errors import FormulaError, ShapeError
from .tensor import LazyTensor, combine


def mask(self: LazyTensor, keep: Any) -> LazyTensor:
    """The same values for fewer pairs: the others are not there for any reduction.

    Parameters
    ----------
    keep : LazyTensor of shape (..., M, N), or a block structure
        Entries stay where it is not zero: ``K.mask(D_ij < 1)``. A block structure is a `Ranges`, or the
        tuple that `from_matrix` makes; pairs outside of its blocks are not computed at all.

    Returns
    -------
    LazyTensor. As a matrix (in ``K @ b`` and `dense`) it is 0 at the other pairs.

    Raises
    ------
    ShapeError, DTypeError, FormulaError

    Examples
    --------
    >>> import torch
    >>> from kerngp.lazytensor import Vi, Vj
    >>> x = torch.tensor([[0.0], [1.0], [3.0]])
    >>> D = (Vi(x) - Vj(x)).abs()
    >>> D.mask(D > 0).min(axis=1).flatten()
    tensor([1., 1., 2.])
    """
    if isinstance(keep, Ranges | tuple | list):
        new = LazyTensor(self)
        blocks = Ranges.of(keep)
        if new.ranges is not None:
            raise FormulaError("this LazyTensor has ranges already; set K.ranges to replace them.")
        new.ranges = blocks
        return new
    if not isinstance(keep, LazyTensor):
        raise FormulaError(
            f"keep is a {type(keep).__name__}; expected a LazyTensor, such as a comparison of two, or a "
            "block structure, as from_matrix makes it."
        )
    if keep.expr.dim != 1:
        raise ShapeError(f"keep has shape {keep.shape}; expected a number for each pair.")
    kept = combine("ne", keep, 0.0)
    new = LazyTensor(self)
    new.operands = restrict(self.operands, kept.expr, kept.operands)
    return new

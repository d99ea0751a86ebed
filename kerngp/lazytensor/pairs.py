"""What reductions and `dense` see of a LazyTensor with a mask or a block structure."""

from __future__ import annotations

import torch

from ..engine.expr import Expr
from ..engine.operands import Operands
from ..engine.ops import ifelse
from ..engine.reductions import Reduction
from ..errors import FormulaError


def visible(expr: Expr, keep: Expr | None, r: Reduction) -> Expr:
    """The formula to reduce: where the mask takes an entry out, a value that the reduction does not see.

    Raises
    ------
    FormulaError
        The reduction has no such value.
    """
    if keep is None:
        return expr
    if r.absent is None:
        raise FormulaError(f"{r.name} is not defined for masked entries; use a mask of ranges instead.")
    return ifelse(keep - 0.5, expr, r.absent)


def shown(full: torch.Tensor, operands: Operands) -> torch.Tensor:
    """All values, (..., M, N, D), with 0 for the pairs that the block structure leaves out."""
    if operands.ranges is None:
        return full
    M, N = operands.sizes
    i, j = torch.arange(M)[:, None], torch.arange(N)
    kept = operands.ranges.check(M, N).contains(i, j).to(full.device)
    return torch.where(kept[..., None], full, full.new_zeros(()))

"""Single values of a formula, computed by the engine: whole blocks and diagonals.

Entry (i, j) is a sum over one pair. With the columns (or, for the diagonal, all points) as batch
axes, `map_reduce` computes all of them in generated code, and its derivatives are those of the
formula: finite at coincident points, where torch's own derivative of a square root is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from .. import options as _options
from ..errors import FormulaError
from .expr import Expr, variables
from .mapreduce import map_reduce
from .plan import Output, measure, shapes_of
from .reductions import SUM

Tensor = torch.Tensor
Sizes = tuple[int | None, int | None]


def entries(
    expr: Expr,
    args: Sequence[Tensor],
    *,
    sizes: Sizes = (None, None),
    options: _options.Options | None = None,
) -> Tensor:
    """All values F_ij, shape (*batch, M, N, dim), differentiable.

    Parameters
    ----------
    expr : Expr
    args : sequence of torch.Tensor
        As for `map_reduce`.
    sizes : (M, N)
        Needed only when no argument is indexed by that axis.
    options : Options, optional
        Entries are always computed in the exact form.

    Raises
    ------
    ShapeError, DTypeError, DeviceError, FormulaError

    Examples
    --------
    >>> import torch
    >>> from kerngp.engine.expr import Vi, Vj
    >>> entries(Vi(0, 1) * Vj(1, 1), (torch.tensor([[2.0]]), torch.tensor([[3.0], [4.0]])))[..., 0]
    tensor([[6., 8.]])
    """
    g = measure((Output(expr, SUM),), shapes_of(tuple(args)), sizes)
    # the shorter axis joins the batch: its variables become (..., n, 1, dim), the others (..., 1, m, dim)
    if g.M <= g.N:
        lifted = _lift(expr, args, {"i": -2, "j": -3, "p": -2})
        out = map_reduce(expr, SUM, lifted, axis="i", sizes=(1, g.N), options=_exact(options))
        assert isinstance(out, Tensor)
        return out.expand(*g.batch, g.M, g.N, expr.dim)
    lifted = _lift(expr, args, {"i": -3, "j": -2, "p": -2})
    out = map_reduce(expr, SUM, lifted, sizes=(g.M, 1), options=_exact(options))
    assert isinstance(out, Tensor)
    return out.expand(*g.batch, g.N, g.M, expr.dim).transpose(-3, -2)


def diagonal(
    expr: Expr,
    args: Sequence[Tensor],
    *,
    sizes: Sizes = (None, None),
    options: _options.Options | None = None,
) -> Tensor:
    """The values F_ii, shape (*batch, M, dim), differentiable.

    Raises
    ------
    FormulaError
        If there are not as many rows as columns.

    Examples
    --------
    >>> import torch
    >>> from kerngp.engine.expr import Vi, Vj
    >>> x = torch.tensor([[2.0], [3.0]])
    >>> diagonal(Vi(0, 1) * Vj(1, 1), (x, x)).flatten()
    tensor([4., 9.])
    """
    g = measure((Output(expr, SUM),), shapes_of(tuple(args)), sizes)
    if g.M != g.N:
        raise FormulaError(f"the diagonal needs as many rows as columns, got M={g.M} and N={g.N}.")
    lifted = _lift(expr, args, {"i": -2, "j": -2, "p": -2})
    out = map_reduce(expr, SUM, lifted, sizes=(1, 1), options=_exact(options))
    assert isinstance(out, Tensor)
    return out.squeeze(-2).expand(*g.batch, g.M, expr.dim)


def _lift(expr: Expr, args: Sequence[Tensor], where: dict[str, int]) -> list[Tensor]:
    axes = {v.attr[0]: v.attr[2] for v in variables(expr)}
    return [a.unsqueeze(where[axes[k]]) if k in axes else a for k, a in enumerate(args)]


def _exact(options: _options.Options | None) -> _options.Options:
    return replace(options or _options.current(), precision="exact")

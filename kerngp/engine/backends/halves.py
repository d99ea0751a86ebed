"""What surrounds the kernels of any backend: symmetric sums as two halves, and formulas of one side alone."""

from __future__ import annotations

import torch

from ..evaluate import evaluate
from ..expr import Expr, variables
from ..plan import Geometry, Output
from ..symmetry import Halved, halve

Tensor = torch.Tensor


def halved(outputs: tuple[Output, ...], args: tuple[Tensor, ...], g: Geometry, above: int) -> Halved | None:
    """The sum as two half sums, if i and j are the same points (``above`` or more) and may be exchanged."""
    if len(outputs) != 1 or g.M != g.N or g.M < above or g.ranges is not None:
        return None
    found = variables(outputs[0].expr)
    rows = [v.attr[0] for v in found if v.attr[2] == "i"]
    columns = [v.attr[0] for v in found if v.attr[2] == "j"]
    same = tuple((i, j) for i in rows for j in columns if _same(args[i], args[j]))
    return halve(outputs[0], len(args), same) if same else None


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride())


def joined(
    h: Halved, results: list[tuple[Tensor, ...]], args: tuple[Tensor, ...], dim: int, g: Geometry
) -> Tensor:
    """The whole sum from its halves."""
    (rows,), (columns,) = results
    total = rows + columns
    if h.post is not None:
        total = (total * side(h.post, args, g)).to(g.dtype)
    return total.expand(*g.batch, g.M, dim)


def without_pairs(
    o: Output, results: tuple[Tensor, ...], g: Geometry, state: bool = False
) -> tuple[Tensor, ...]:
    """Results for i (for j where ``o`` is a sum over i), with the neutral element where there is no pair.

    With ``state``, these are states, of which results are still to be made.
    """
    if g.ranges is None:
        return results
    n, half = (g.N, g.ranges.j) if o.axis == "i" else (g.M, g.ranges.i)
    rows = half.missing(n).to(g.device)
    if len(rows):
        r = o.reduction
        empty = r.neutral(r, (*g.batch, len(rows), o.expr.dim), g.dtype, g.device)
        empty = empty if state else r.final(r, empty)
        both = zip(results, empty, strict=True)
        return tuple(x.index_copy(len(g.batch), rows, value.to(x.dtype)) for x, value in both)
    return results


def side(f: Expr, args: tuple[Tensor, ...], g: Geometry) -> Tensor:
    """A formula that depends on one side only: (*batch or broadcastable, rows, dim)."""
    values = {}
    for v in variables(f):
        a = args[v.attr[0]]
        values[v.attr[0]] = a[..., None, :] if v.attr[2] == "p" else a
    return evaluate(f, values, torch.empty(0, dtype=g.dtype, device=g.device))

"""The definition of every result: formulas evaluated by torch, tile by tile.

It runs wherever torch runs, in any float dtype, with memory bounded by ``memory_limit``; every
other backend is tested against it in float64, and it serves what no other backend supports.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from ..autodiff import transpose
from ..evaluate import evaluate
from ..expr import Expr, postorder, variables
from ..plan import Geometry, Output
from ..reduction import over_rows, typed

name = "reference"


def place(v: Expr, a: torch.Tensor, rows: slice, cols: slice) -> torch.Tensor:
    """The argument of a variable, cut to a tile and laid out as (..., m, n, dim)."""
    axis = v.attr[2]
    if axis == "i":
        return a[..., rows, :].unsqueeze(-2)
    if axis == "j":
        return a[..., cols, :].unsqueeze(-3)
    return a[..., None, None, :]


def block(f: Expr, args: tuple[torch.Tensor, ...], g: Geometry, rows: slice, cols: slice) -> torch.Tensor:
    """The values f_ij of a tile, shape (*batch, m, n, dim)."""
    values = {v.attr[0]: place(v, args[v.attr[0]], rows, cols) for v in variables(f)}
    like = torch.empty(0, dtype=g.dtype, device=g.device)
    m, n = len(range(*rows.indices(g.M))), len(range(*cols.indices(g.N)))
    return evaluate(f, values, like).expand(*g.batch, m, n, f.dim)


def _widest(f: Expr) -> int:
    """Components a tile needs at once for each pair, roughly: the two widest nodes."""
    dims = sorted((e.dim for e in postorder(f) if {"i", "j"} <= e.axes), reverse=True)[:3]
    return max(sum(dims), f.dim + 1)


def _reduce(
    o: Output, args: tuple[torch.Tensor, ...], g: Geometry, memory_limit: int
) -> tuple[torch.Tensor, ...]:
    r = o.reduction
    f = -o.expr if r.negated else o.expr
    per_pair = 8 * (_widest(f) + (3 * r.law.size if r.law else 0)) * max(1, math.prod(g.batch))
    pairs = max(1, min(memory_limit, 1 << 26) // per_pair)
    n = max(1, min(g.N, int(pairs**0.5) * 4))
    m = max(1, min(g.M, pairs // n))
    if not g.M and o.axis != "ij":
        return _cast(o, r.final(r, r.neutral(r, (*g.batch, 0, f.dim), g.dtype, g.device)), g)
    whole = r.neutral(r, (*g.batch, f.dim), g.dtype, g.device)
    parts: list[tuple[torch.Tensor, ...]] = []
    for rows, columns in _blocks(g, m):
        state = r.neutral(r, (*g.batch, rows.stop - rows.start, f.dim), g.dtype, g.device)
        for first, last in columns:
            for j0 in range(first, last, n):
                tile = block(f, args, g, rows, slice(j0, min(last, j0 + n)))
                state = r.merge(r, state, r.tile(r, tile, j0))
        if o.axis == "ij":
            whole = r.merge(r, whole, over_rows(r, state))
        else:
            parts.append(r.final(r, state))
    if o.axis == "ij":
        return _cast(o, r.final(r, whole), g)
    row_axis = len(g.batch)
    return _cast(o, tuple(torch.cat(p, row_axis) for p in zip(*parts, strict=True)), g)


def _cast(o: Output, found: tuple[torch.Tensor, ...], g: Geometry) -> tuple[torch.Tensor, ...]:
    return tuple(typed(x, kind, g.dtype) for x, kind in zip(found, o.reduction.outputs, strict=True))


def _blocks(g: Geometry, m: int) -> Iterator[tuple[slice, list[list[int]]]]:
    """All rows in their order, at most m at a time, with the ranges of columns that they meet."""
    if g.ranges is None:
        targets, starts, sources = [[0, g.M]], [0, 1], [[0, g.N]]
    else:
        half = g.ranges.i
        targets, starts, sources = half.targets.tolist(), half.starts.tolist(), half.sources.tolist()
    at = 0
    for c, (first, last) in enumerate([*targets, [g.M, g.M]]):
        if first > at:
            yield slice(at, first), []  # in no range
        for i0 in range(first, last, m):
            yield slice(i0, min(last, i0 + m)), sources[starts[c] : starts[c + 1]]
        at = last


def run(
    outputs: tuple[Output, ...], args: tuple[torch.Tensor, ...], g: Geometry, memory_limit: int
) -> list[tuple[torch.Tensor, ...]]:
    """Each output's tensors. Every output costs a pass of its own here."""
    half = g.dtype in (torch.float16, torch.bfloat16)
    work = replace(g, dtype=torch.float32) if half else g
    args = tuple(a.float() if half else a for a in args)
    results = []
    for o in outputs:
        if o.axis == "i":
            turned = Output(transpose(o.expr), o.reduction, "j")
            found = _reduce(turned, args, work.exchanged(), memory_limit)
        else:
            found = _reduce(o, args, work, memory_limit)
        results.append(_cast(o, found, g))
    return results

"""Data in the computer's memory, computed on a device piece by piece.

Rows and columns are cut so that a piece fits; results of pieces of the reduced axis are merged as parts of
j are, those of the kept axis are put side by side. So the data may be larger than the device's memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from ..expr import variables
from ..plan import Geometry, Output
from ..reduction import Reduction, typed

Tensor = torch.Tensor
Run = Callable[[tuple[Output, ...], tuple[Tensor, ...], Geometry], list[tuple[Tensor, ...]]]


def run_in_pieces(
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    g: Geometry,
    place: torch.device,
    room: int,
    run: Run,
) -> list[tuple[Tensor, ...]]:
    """Move pieces of the arguments to ``place``, ``run`` them, and collect the results where they came from.

    ``room`` is the number of bytes a piece may take there.
    """
    axes = {v.attr[0]: v.attr[2] for v in variables(*(o.expr for o in outputs))}
    both = tuple(replace(o, reduction=_mergeable(o.reduction)) for o in outputs)
    rows = _cuts(g.M, _bytes(args, axes, "i", g.M), room // 2)
    columns = _cuts(g.N, _bytes(args, axes, "j", g.N), room // 2)
    found: list[dict[tuple[int, int], tuple[Tensor, ...]]] = [{} for _ in outputs]
    for i, (i0, i1) in enumerate(rows):
        for j, (j0, j1) in enumerate(columns):
            piece = tuple(
                [_piece(a, axes.get(k, ""), (i0, i1), (j0, j1)).to(place) for k, a in enumerate(args)]
            )
            ranges = None if g.ranges is None else g.ranges.clip((i0, i1), (j0, j1))
            part = run(both, piece, replace(g, M=i1 - i0, N=j1 - j0, device=place, ranges=ranges))
            for o, table, values in zip(both, found, part, strict=True):
                values = tuple([v.to(g.device) for v in values])
                _shift_index(o, values, j0 if o.axis == "j" else i0)
                kept = {"j": (i, 0), "i": (0, j), "ij": (0, 0)}[o.axis]
                table[kept] = _merge(o.reduction, table[kept], values) if kept in table else values
    results = []
    for o, table in zip(outputs, found, strict=True):
        parts = [table[key] for key in sorted(table)]
        axis = len(g.batch)
        joined = [torch.cat(p, axis) for p in zip(*parts, strict=True)] if len(parts) > 1 else parts[0]
        results.append(_finished(o.reduction, tuple(joined), g))
    return results


def _mergeable(r: Reduction) -> Reduction:
    """With the results that are needed to merge: the state, or of selections value and index."""
    if r.law is not None:
        return r.raw
    return replace(r, outputs=("value", "index")) if r.selects and r.outputs != ("value", "index") else r


def _finished(r: Reduction, found: tuple[Tensor, ...], g: Geometry) -> tuple[Tensor, ...]:
    if r.law is not None:
        found = r.final(r, found)
        return tuple([typed(x, kind, g.dtype) for x, kind in zip(found, r.outputs, strict=True)])
    named = dict(zip(_mergeable(r).outputs, found, strict=True))
    return tuple([named[kind] for kind in r.outputs])


def _bytes(args: tuple[Tensor, ...], axes: dict[int, str], axis: str, n: int) -> int:
    """Bytes of the arguments of an axis, their packed copies and a result of the same size."""
    size = sum(a.numel() * a.element_size() for k, a in enumerate(args) if axes.get(k) == axis)
    return 3 * size + 16 * n


def _cuts(n: int, size: int, room: int) -> list[tuple[int, int]]:
    count = max(1, min(n, -(-size // max(1, room))))
    step = -(-n // count)
    return [(start, min(n, start + step)) for start in range(0, n, step)]


def _piece(a: Tensor, axis: str, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    if axis not in ("i", "j"):
        return a
    lo, hi = rows if axis == "i" else columns
    return a[..., lo:hi, :]


def _shift_index(o: Output, values: tuple[Tensor, ...], first: int) -> None:
    for value, kind in zip(values, o.reduction.outputs, strict=True):
        if kind == "index":
            value += torch.where(value < 0, 0, first)


def _merge(r: Reduction, a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Results over two ranges of the reduced axis, ``a`` over the first, as one."""
    if r.law is not None:
        return r.merge(r, a, b)
    if r.code == "sum":
        return (a[0] + b[0],)
    if r.code == "logsumexp":
        return (torch.logaddexp(a[0], b[0]),)
    sign = -1 if r.negated else 1
    states = [
        (sign * v, i) if r.code == "kmin" else (sign * v.unsqueeze(-2), i.unsqueeze(-2)) for v, i in (a, b)
    ]
    value, index = r.merge(r, *states)
    value = sign * value
    return (value, index) if r.code == "kmin" else (value.squeeze(-2), index.squeeze(-2))

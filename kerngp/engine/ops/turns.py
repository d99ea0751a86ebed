"""Components in turn: two vectors made one, and one vector parted; the layout of complex numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...errors import FormulaError
from ..expr import Expr, Op, const, define, node
from .base import value_of, widen, zero

__all__: list[str] = []


def _interleave_dim(dims: tuple[int, ...], attr: tuple) -> int:
    if dims[0] != dims[1]:
        raise FormulaError(f"interleave of vectors of dims {dims}: they must be equal.")
    return 2 * dims[0]


def _interleave(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    shape = np.broadcast_shapes(a.shape, b.shape)
    return torch.stack([a.expand(shape), b.expand(shape)], -1).flatten(-2)


def _fold_interleave(args: tuple[Expr, ...], attr: tuple) -> Expr | None:
    a, b = args
    if a.op == b.op == "alternate" and a.args == b.args and (a.attr, b.attr) == ((0,), (1,)):
        return a.args[0]
    v = value_of(a)
    return widen(const(v), 2 * a.dim) if v is not None and v == value_of(b) else None


def _lower_interleave(low: Any, f: Expr, d: Any) -> Any:
    if isinstance(d, int):
        return low.component(f.args[d % 2], d // 2)
    half = low.halved(d)
    first, second = (low.component(a, half) for a in f.args)
    return low.e.index_select(low.e.index_mod(d.value, 2), 1, first, second)


define(
    Op(
        "interleave",
        2,
        _interleave_dim,
        _interleave,
        lambda e, g: (node("alternate", g, attr=(0,)), node("alternate", g, attr=(1,))),
        lower=_lower_interleave,
        cuts=lambda e, cuts: {2 * c for part in cuts for c in part},
        fold=_fold_interleave,
        sign=lambda s, attr: s[0] if s[0] == s[1] else 0,
        doc="the components of a and of b in turn",
    )
)


def _alternate_dim(dims: tuple[int, ...], attr: tuple) -> int:
    if dims[0] % 2 or attr[0] not in (0, 1):
        raise FormulaError(f"alternate components {attr} of a vector of dim {dims[0]}: the dim must be even.")
    return dims[0] // 2


def _fold_alternate(args: tuple[Expr, ...], attr: tuple) -> Expr | None:
    (a,), (k,) = args, attr
    if a.op == "interleave":
        return a.args[k]
    return widen(a.args[0], a.dim // 2) if a.op == "expand" else None


define(
    Op(
        "alternate",
        1,
        _alternate_dim,
        lambda a, k: a[..., k::2],
        lambda e, g: (node("interleave", *((g, zero(g.dim)) if e.attr[0] == 0 else (zero(g.dim), g))),),
        lower=lambda low, f, d: low.component(f.args[0], low.doubled(d, f.attr[0])),
        cuts=lambda e, cuts: {max(0, c - e.attr[0] + 1) // 2 for c in cuts[0]},
        fold=_fold_alternate,
        sign=lambda s, attr: s[0],
        doc="components k, k + 2, k + 4, ..., for k = 0 or 1",
    )
)

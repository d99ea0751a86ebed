"""Vectors: sums, and ops that only move components."""

from __future__ import annotations

import numpy as np
import torch

from ...errors import FormulaError
from ..expr import Expr, Op, as_expr, const, define, node
from .base import value_of, widen, zero

__all__ = ["concat", "elem", "extract", "total"]


def _fold_sum(args: tuple[Expr, ...], attr: tuple) -> Expr | None:
    (a,) = args
    if a.dim == 1:
        return a
    if a.op == "expand":
        return node("mul", const(float(a.dim)), a.args[0])
    if a.op == "mul" and a.args[0].dim == 1:  # sum(c v) = c sum(v)
        return node("mul", a.args[0], node("sum", a.args[1]))
    if a.op == "mul" and a.args[1].dim == 1:
        return node("mul", a.args[1], node("sum", a.args[0]))
    if a.op == "neg":
        return -node("sum", a.args[0])
    if a.op == "extract_t":
        return node("sum", a.args[0])
    if a.op == "elem_t":
        return a.args[0]
    return None


define(
    Op(
        "sum",
        1,
        lambda dims, attr: 1,
        lambda a: a.sum(-1, keepdim=True),
        lambda e, g: (widen(g, e.args[0].dim),),
        lower=lambda low, e, d: low.total(e.args[0]),
        fold=_fold_sum,
        sign=lambda s, attr: s[0],
        doc="sum of the components",
    )
)


def _expand_dim(dims: tuple[int, ...], attr: tuple) -> int:
    if dims[0] != 1:
        raise FormulaError(f"expand takes a scalar, got a vector of dim {dims[0]}.")
    return attr[0]


define(
    Op(
        "expand",
        1,
        _expand_dim,
        lambda a, n: a.expand(*a.shape[:-1], n),
        lambda e, g: (node("sum", g),),
        pieces=lambda e: ((0, e.dim, 0, None),),
        fold=lambda args, attr: args[0] if attr[0] == 1 else None,
        sign=lambda s, attr: s[0],
        doc="a scalar repeated n times",
    )
)


def _elem_dim(dims: tuple[int, ...], attr: tuple) -> int:
    if not 0 <= attr[0] < dims[0]:
        raise FormulaError(f"elem: index {attr[0]} is out of range for a vector of dim {dims[0]}.")
    return 1


def _extract_dim(dims: tuple[int, ...], attr: tuple) -> int:
    start, length = attr
    if start < 0 or length < 1 or start + length > dims[0]:
        raise FormulaError(
            f"extract: [{start}, {start + length}) is out of range for a vector of dim {dims[0]}."
        )
    return length


def _fold_extract(args: tuple[Expr, ...], attr: tuple) -> Expr | None:
    (a,), (start, length) = args, attr
    if length == a.dim:
        return a
    if a.op == "expand":
        return widen(a.args[0], length)
    if a.op == "extract":
        return node("extract", a.args[0], attr=(start + a.attr[0], length))
    if a.op == "concat":
        p, q = a.args
        if start + length <= p.dim:
            return node("extract", p, attr=(start, length))
        if start >= p.dim:
            return node("extract", q, attr=(start - p.dim, length))
    return None


def _fold_elem(args: tuple[Expr, ...], attr: tuple) -> Expr | None:
    (a,), m = args, attr[0]
    if a.dim == 1:
        return a
    if a.op == "expand":
        return a.args[0]
    if a.op == "extract":
        return node("elem", a.args[0], attr=(m + a.attr[0],))
    if a.op == "concat":
        p, q = a.args
        return node("elem", p, attr=(m,)) if m < p.dim else node("elem", q, attr=(m - p.dim,))
    return None


def _pad(a: torch.Tensor, start: int, n: int) -> torch.Tensor:
    return torch.nn.functional.pad(a, (start, n - start - a.shape[-1]))


define(
    Op(
        "elem",
        1,
        _elem_dim,
        lambda a, m: a[..., m : m + 1],
        lambda e, g: (node("elem_t", g, attr=(e.args[0].dim, e.attr[0])),),
        pieces=lambda e: ((0, 1, 0, e.attr[0]),),
        fold=_fold_elem,
        sign=lambda s, attr: s[0],
        doc="component m",
    )
)
define(
    Op(
        "elem_t",
        1,
        lambda dims, attr: attr[0],
        lambda a, n, m: _pad(a, m, n),
        lambda e, g: (node("elem", g, attr=(e.attr[1],)),),
        pieces=lambda e: (
            (0, e.attr[1], None, 0),
            (e.attr[1], e.attr[1] + 1, 0, -e.attr[1]),
            (e.attr[1] + 1, e.attr[0], None, 0),
        ),
        fold=lambda args, attr: zero(attr[0]) if value_of(args[0]) == 0 else None,
        sign=lambda s, attr: s[0],
        doc="a vector of dim n, zero but for component m",
    )
)
define(
    Op(
        "extract",
        1,
        _extract_dim,
        lambda a, s, n: a[..., s : s + n],
        lambda e, g: (node("extract_t", g, attr=(e.attr[0], e.args[0].dim)),),
        pieces=lambda e: ((0, e.attr[1], 0, e.attr[0]),),
        fold=_fold_extract,
        sign=lambda s, attr: s[0],
        doc="components start, ..., start + length - 1",
    )
)
define(
    Op(
        "extract_t",
        1,
        lambda dims, attr: attr[1],
        lambda a, s, n: _pad(a, s, n),
        lambda e, g: (node("extract", g, attr=(e.attr[0], e.args[0].dim)),),
        pieces=lambda e: (
            (0, e.attr[0], None, 0),
            (e.attr[0], e.attr[0] + e.args[0].dim, 0, -e.attr[0]),
            (e.attr[0] + e.args[0].dim, e.attr[1], None, 0),
        ),
        fold=lambda args, attr: zero(attr[1]) if value_of(args[0]) == 0 else None,
        sign=lambda s, attr: s[0],
        doc="a vector of dim n, zero but for the components from start on",
    )
)


def _concat(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    shape = np.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    return torch.cat([a.expand(*shape, a.shape[-1]), b.expand(*shape, b.shape[-1])], -1)


define(
    Op(
        "concat",
        2,
        lambda dims, attr: sum(dims),
        _concat,
        lambda e, g: (
            node("extract", g, attr=(0, e.args[0].dim)),
            node("extract", g, attr=(e.args[0].dim, e.args[1].dim)),
        ),
        pieces=lambda e: ((0, e.args[0].dim, 0, 0), (e.args[0].dim, e.dim, 1, -e.args[0].dim)),
        sign=lambda s, attr: s[0] if s[0] == s[1] else 0,
        doc="the components of a, then those of b",
    )
)


def total(a: Expr | float) -> Expr:
    """The sum of the components."""
    return node("sum", as_expr(a))


def elem(a: Expr, m: int) -> Expr:
    """Component m."""
    return a[m]


def extract(a: Expr, start: int, length: int) -> Expr:
    """Components start, ..., start + length - 1."""
    return node("extract", a, attr=(start, length))


def concat(*parts: Expr) -> Expr:
    """The components of all arguments, one after the other."""
    out = parts[0]
    for p in parts[1:]:
        out = node("concat", out, p)
    return out

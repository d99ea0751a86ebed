"""Sums, products, quotients and powers."""

from __future__ import annotations

import math

import torch

from ..expr import Expr, const, node
from .base import elementwise, first, folded, value_of, widen, zero

__all__ = ["inv", "power", "square"]


def _fold_add(args: tuple[Expr, ...], attr: tuple) -> Expr | None:
    a, b = args
    dim = max(a.dim, b.dim)
    if value_of(a) == 0:
        return widen(b, dim)
    if value_of(b) == 0:
        return widen(a, dim)
    if b.op == "neg":
        return node("sub", a, b.args[0])
    return None


def _fold_sub(args: tuple[Expr, ...], attr: tuple) -> Expr | None:
    a, b = args
    dim = max(a.dim, b.dim)
    if value_of(b) == 0:
        return widen(a, dim)
    if value_of(a) == 0:
        return node("neg", widen(b, dim))
    if b.op == "neg":
        return node("add", a, b.args[0])
    return None


def _fold_mul(args: tuple[Expr, ...], attr: tuple) -> Expr | None:
    a, b = args
    dim = max(a.dim, b.dim)
    for x, y in ((a, b), (b, a)):
        v = value_of(x)
        if v == 0:
            return zero(dim)
        if v == 1:
            return widen(y, dim)
        if v == -1:
            return node("neg", widen(y, dim))
        if y.op == "neg" and v is not None:
            return node("mul", const(-v), widen(y.args[0], dim))
        if v is not None and y.op == "mul":  # c (c' z) = (c c') z
            for p, q in (y.args, y.args[::-1]):
                w = value_of(p)
                if w is not None:
                    return node("mul", const(v * w), widen(q, dim))
    if value_of(b) is not None and value_of(a) is None:
        return node("mul", b, a)  # constants stand first
    return None


def _fold_div(args: tuple[Expr, ...], attr: tuple) -> Expr | None:
    a, b = args
    v = value_of(b)
    if v is not None and v != 0 and math.isfinite(1 / v):
        return node("mul", const(1 / v), a) if math.frexp(v)[0] in (0.5, -0.5) or v == 1 else None
    return zero(max(a.dim, b.dim)) if value_of(a) == 0 and v is not None and v != 0 else None


def _sum_sign(s: tuple[int, ...], attr: tuple) -> int:
    return s[0] if s[0] == s[1] else 0


def _product_sign(s: tuple[int, ...], attr: tuple) -> int:
    return s[0] * s[1]


elementwise(
    "add",
    2,
    torch.add,
    lambda t, a, b: t.add(a, b),
    lambda g, a, b: (g, g),
    fold=first(folded(lambda a, b: a + b), _fold_add),
    sign=_sum_sign,
    doc="a + b",
)
elementwise(
    "sub",
    2,
    torch.sub,
    lambda t, a, b: t.sub(a, b),
    lambda g, a, b: (g, -g),
    fold=first(folded(lambda a, b: a - b), _fold_sub),
    sign=lambda s, attr: s[0] if s[0] == -s[1] else 0,
    doc="a - b",
)
elementwise(
    "mul",
    2,
    torch.mul,
    lambda t, a, b: t.mul(a, b),
    lambda g, a, b: (g * b, g * a),
    fold=first(folded(lambda a, b: a * b), _fold_mul),
    sign=_product_sign,
    doc="a * b",
)
elementwise(
    "div",
    2,
    torch.div,
    lambda t, a, b: t.div(a, b),
    lambda g, a, b: (g / b, -(g * a) / square(b)),
    fold=first(folded(lambda a, b: a / b), _fold_div),
    sign=_product_sign,
    doc="a / b",
)
elementwise(
    "neg",
    1,
    torch.neg,
    lambda t, a: t.neg(a),
    lambda g, a: (-g,),
    fold=first(folded(lambda a: -a), lambda args, attr: args[0].args[0] if args[0].op == "neg" else None),
    sign=lambda s, attr: -s[0],
    doc="-a",
)
square = elementwise(
    "square",
    1,
    torch.square,
    lambda t, a: t.mul(a, a),
    lambda g, a: (g * (2.0 * a),),
    fold=first(
        folded(lambda a: a * a), lambda args, attr: square(args[0].args[0]) if args[0].op == "neg" else None
    ),
    sign=lambda s, attr: 1,
    doc="a ** 2",
)


def _powi(a: torch.Tensor, n: int) -> torch.Tensor:
    return a**n


def _fold_powi(args: tuple[Expr, ...], attr: tuple) -> Expr | None:
    (a,), n = args, attr[0]
    if n == 0:
        return widen(const(1.0), a.dim)
    return {1: a, 2: square(a), -1: inv(a)}.get(n)


elementwise(
    "powi",
    1,
    _powi,
    lambda t, a, n: t.call("powi", a, n),
    lambda g, a, n: (g * (float(n) * a ** (n - 1)),),
    fold=first(_fold_powi, folded(lambda a, n: a**n)),
    sign=lambda s, attr: 1 if attr[0] % 2 == 0 or s[0] > 0 else 0,
    doc="a ** n for an integer n",
)
elementwise(
    "pow",
    2,
    torch.pow,
    lambda t, a, b: t.call("pow", a, b),
    lambda g, a, b: (g * (b * node("pow", a, b - 1.0)), g * (node("pow", a, b) * node("log", a))),
    fold=folded(math.pow),
    sign=lambda s, attr: int(s[0] > 0),
    doc="a ** b for real b (NaN where a < 0)",
)
inv = elementwise(
    "inv",
    1,
    torch.reciprocal,
    lambda t, a: t.div(t.const(1.0), a),
    lambda g, a: (-g * square(inv(a)),),
    fold=folded(lambda a: 1 / a),
    sign=lambda s, attr: s[0],
    doc="1 / a",
)


def power(a: Expr, n: float | Expr) -> Expr:
    """a ** n; an integer n keeps negative bases."""
    return a**n

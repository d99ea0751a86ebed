"""Signs, steps, limits, comparisons, roundings: functions that are constant or linear in pieces."""

from __future__ import annotations

import math

import torch

from ..expr import Expr, as_expr, node
from .base import elementwise, folded, same_sign

__all__ = [
    "absolute",
    "ceil",
    "clamp",
    "floor",
    "ifelse",
    "maximum",
    "minimum",
    "mod",
    "relu",
    "rounded",
    "sign",
    "step",
]


def _step(a: torch.Tensor) -> torch.Tensor:
    return (a >= 0).to(a.dtype)


def _ifelse(c: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.where(c >= 0, a, b)


def _clamp(a: torch.Tensor, lo: torch.Tensor, hi: torch.Tensor) -> torch.Tensor:
    a = torch.where(a < lo, lo, a)  # comparisons: a limit that is NaN does not limit
    return torch.where(a > hi, hi, a)


def _code_clamp(t, a, lo, hi):
    a = t.select(t.lt(a, lo), lo, a)
    return t.select(t.gt(a, hi), hi, a)


def _grad_clamp(g, a, lo, hi):
    inside = ifelse(minimum(a - lo, hi - a), g, 0.0)
    return inside, ifelse(a - lo, 0.0, ifelse(hi - lo, g, 0.0)), ifelse(hi - maximum(a, lo), 0.0, g)


def _sign(a: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.isnan(a), a, torch.sign(a))  # torch has sign(NaN) = 0


def _code_sign(t, a):
    one = t.select(t.gt(a, 0.0), t.const(1.0), t.const(0.0))
    return t.select(t.lt(a, 0.0), t.const(-1.0), t.select(t.isnan(a), a, one))


def _keep_nan(t, a, b, r):
    return t.select(t.isnan(a), a, t.select(t.isnan(b), b, r))


absolute = elementwise(
    "abs",
    1,
    torch.abs,
    lambda t, a: t.abs(a),
    lambda g, a: (g * sign(a),),
    fold=folded(lambda a: abs(a)),
    sign=lambda s, attr: 1,
    doc="|a|",
)
sign = elementwise(
    "sign", 1, _sign, _code_sign, lambda g, a: (None,), sign=lambda s, attr: s[0], doc="-1, 0 or 1"
)
step = elementwise(
    "step",
    1,
    _step,
    lambda t, a: t.select(t.ge(a, 0.0), t.const(1.0), t.const(0.0)),
    lambda g, a: (None,),
    sign=lambda s, attr: 1,
    doc="1 if a >= 0 else 0",
)
relu = elementwise(
    "relu",
    1,
    torch.relu,
    lambda t, a: t.maximum(0.0, a),
    lambda g, a: (g * step(a),),
    sign=lambda s, attr: 1,
    doc="max(a, 0)",
)
ifelse = elementwise(
    "ifelse",
    3,
    _ifelse,
    lambda t, c, a, b: t.select(t.ge(c, 0.0), a, b),
    lambda g, c, a, b: (None, ifelse(c, g, 0.0), ifelse(c, 0.0, g)),
    sign=lambda s, attr: s[1] if s[1] == s[2] else 0,
    doc="a where c >= 0, else b",
)
minimum = elementwise(
    "minimum",
    2,
    torch.minimum,
    lambda t, a, b: _keep_nan(t, a, b, t.minimum(a, b)),
    lambda g, a, b: (ifelse(b - a, g, 0.0), ifelse(b - a, 0.0, g)),
    fold=folded(min),
    sign=lambda s, attr: -1 if -1 in s else int(s == (1, 1)),
    doc="the smaller of a and b",
)
maximum = elementwise(
    "maximum",
    2,
    torch.maximum,
    lambda t, a, b: _keep_nan(t, a, b, t.maximum(a, b)),
    lambda g, a, b: (ifelse(a - b, g, 0.0), ifelse(a - b, 0.0, g)),
    fold=folded(max),
    sign=lambda s, attr: 1 if 1 in s else -int(s == (-1, -1)),
    doc="the larger of a and b",
)
clamp = elementwise(
    "clamp", 3, _clamp, _code_clamp, _grad_clamp, doc="a limited to [lo, hi]; hi wins where lo > hi"
)
for _name, _test, _torch in (
    ("lt", "a < b", torch.lt),
    ("le", "a <= b", torch.le),
    ("gt", "a > b", torch.gt),
    ("ge", "a >= b", torch.ge),
    ("eq", "a == b", torch.eq),
    ("ne", "a != b", torch.ne),
):
    elementwise(
        _name,
        2,
        lambda a, b, f=_torch: f(a, b).to(torch.promote_types(a.dtype, b.dtype)),
        lambda t, a, b, n=_name: t.select(getattr(t, n)(a, b), t.const(1.0), t.const(0.0)),
        lambda g, a, b: (None, None),
        sign=lambda s, attr: 1,
        doc=f"1 where {_test}, else 0",
    )

floor = elementwise(
    "floor",
    1,
    torch.floor,
    lambda t, a: t.floor(a),
    lambda g, a: (None,),
    fold=folded(math.floor),
    sign=same_sign,
    doc="the largest integer <= a",
)
ceil = elementwise(
    "ceil",
    1,
    torch.ceil,
    lambda t, a: t.neg(t.floor(t.neg(a))),
    lambda g, a: (None,),
    fold=folded(math.ceil),
    sign=same_sign,
    doc="the smallest integer >= a",
)


def _round(a: torch.Tensor, digits: int) -> torch.Tensor:
    scale = 10.0 ** abs(digits)
    return torch.round(a * scale) / scale if digits >= 0 else torch.round(a / scale) * scale


def _code_round(t, a, digits: int):
    scale = 10.0 ** abs(digits)
    if digits == 0:
        return t.round_even(a)
    if digits > 0:
        return t.div(t.round_even(t.mul(a, scale)), scale)
    return t.mul(t.round_even(t.div(a, scale)), scale)


elementwise(
    "round",
    1,
    _round,
    _code_round,
    lambda g, a, digits: (None,),
    sign=same_sign,
    doc="a rounded to some decimal digits; halves go to the even neighbour",
)


def rounded(a: Expr | float, digits: int = 0) -> Expr:
    """a rounded to so many decimal digits; halves go to the even neighbour, as in NumPy and torch."""
    return node("round", as_expr(a), attr=(int(digits),))


def mod(a: Expr | float, n: Expr | float, start: Expr | float = 0.0) -> Expr:
    """a less the multiple of n that takes it to [start, start + n)."""
    a, n = as_expr(a), as_expr(n)
    return a - n * floor((a - start) / n)

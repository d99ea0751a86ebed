"""Trigonometric functions, their inverses, and sin(x) / x."""

from __future__ import annotations

import math

import torch

from ..expr import Expr, as_expr, node
from .arithmetic import square
from .base import elementwise, folded, function, nonnegative, same_sign
from .elementary import sqrt

__all__ = ["acos", "asin", "atan", "atan2", "cos", "sin", "sinc", "sinxdivx", "tan"]

sin = function("sin", torch.sin, lambda a: cos(a), fold=folded(math.sin), doc="sin(a)")
cos = function("cos", torch.cos, lambda a: -sin(a), fold=folded(math.cos), doc="cos(a)")
asin = elementwise(
    "asin",
    1,
    torch.asin,
    lambda t, a: t.call("asin", a),
    lambda g, a: (g / sqrt((1.0 - a) * (1.0 + a)),),
    fold=folded(math.asin),
    sign=same_sign,
    doc="arc sine of a",
)
acos = elementwise(
    "acos",
    1,
    torch.acos,
    lambda t, a: t.call("acos", a),
    lambda g, a: (-g / sqrt((1.0 - a) * (1.0 + a)),),
    fold=folded(math.acos),
    sign=nonnegative,
    doc="arc cosine of a",
)
atan = elementwise(
    "atan",
    1,
    torch.atan,
    lambda t, a: t.call("atan", a),
    lambda g, a: (g / (1.0 + square(a)),),
    fold=folded(math.atan),
    sign=same_sign,
    doc="arc tangent of a",
)
atan2 = elementwise(
    "atan2",
    2,
    torch.atan2,
    lambda t, a, b: t.call("atan2", a, b),
    lambda g, a, b: (g * (b / (square(a) + square(b))), g * (-a / (square(a) + square(b)))),
    fold=folded(math.atan2),
    doc="angle of the point (b, a)",
)


def tan(a: Expr | float) -> Expr:
    """sin(a) / cos(a)."""
    return sin(a) / cos(a)


def _sinxdivx(a: torch.Tensor, n: int) -> torch.Tensor:
    """S_n, the n-th derivative: Taylor's series near 0; elsewhere from a S_n + n S_(n-1) = sin^(n)(a)."""
    first = (n + 1) // 2
    taylor = torch.zeros_like(a)
    for k in range(first + 16 + 2 * n, first - 1, -1):
        taylor = taylor * a * a + (-1.0) ** k / (math.factorial(2 * k - n) * (2 * k + 1))
    taylor = taylor * a if n % 2 else taylor
    value = torch.sin(a) / a
    for k in range(1, n + 1):
        value = (torch.sin(a + k * (math.pi / 2)) - k * value) / a
    return torch.where(a.abs() <= n + 1, taylor, torch.where(a.abs() == math.inf, torch.zeros_like(a), value))


_sinc = elementwise(
    "sinxdivx",
    1,
    _sinxdivx,
    lambda t, a, n: t.call("sinxdivx", a, n),
    lambda g, a, n: (g * _sinc(a, attr=(n + 1,)),),
    doc="the n-th derivative of sin(a) / a, which is 1 at 0",
)


def sinxdivx(a: Expr | float) -> Expr:
    """sin(a) / a, and 1 at 0."""
    return node("sinxdivx", as_expr(a), attr=(0,))


def sinc(a: Expr | float) -> Expr:
    """sin(pi a) / (pi a), and 1 at 0."""
    return sinxdivx(math.pi * as_expr(a))

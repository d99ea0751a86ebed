"""Exponentials, logarithms and roots."""

from __future__ import annotations

import math

import torch

from ..expr import node
from .base import elementwise, first, folded, function, nonnegative

__all__ = ["exp", "log", "rsqrt", "sqrt", "xlogx"]


def _rsqrt(a: torch.Tensor) -> torch.Tensor:
    return torch.where(a == 0, torch.zeros_like(a), torch.rsqrt(a))


exp = function("exp", torch.exp, lambda a: exp(a), fold=folded(math.exp), sign=nonnegative, doc="exp(a)")
log = elementwise(
    "log",
    1,
    torch.log,
    lambda t, a: t.call("log", a),
    lambda g, a: (g / a,),
    fold=folded(math.log),
    doc="log(a)",
)
xlogx = elementwise(
    "xlogx",
    1,
    lambda a: torch.special.xlogy(a, a),
    lambda t, a: t.select(t.eq(a, 0.0), 0.0, t.mul(a, t.call("log", a))),
    lambda g, a: (g * (log(a) + 1.0),),
    fold=folded(lambda a: a * math.log(a) if a else 0.0),
    doc="a log(a), and 0 at 0",
)
sqrt = elementwise(
    "sqrt",
    1,
    torch.sqrt,
    lambda t, a: t.sqrt(a),
    lambda g, a: (g * (0.5 * rsqrt(a)),),
    fold=first(
        folded(math.sqrt), lambda args, attr: abs(args[0].args[0]) if args[0].op == "square" else None
    ),
    sign=lambda s, attr: 1,
    doc="sqrt(a); its derivative at 0 is taken as 0 (see rsqrt)",
)
rsqrt = elementwise(
    "rsqrt",
    1,
    _rsqrt,
    lambda t, a: t.call("rsqrt", a),
    lambda g, a: (g * (-0.5 * rsqrt(a) ** 3),),
    fold=folded(lambda a: 0.0 if a == 0 else a**-0.5),
    sign=lambda s, attr: 1,
    doc="1 / sqrt(a), and 0 at a = 0, so that gradients of norms vanish at coincident points",
)


def _code_exp_scaled(t, q, c):
    return t.call("exp_scaled_nonpos", q, c)


elementwise(
    "exp_scaled",
    1,
    lambda q, c: torch.exp(c * q),
    _code_exp_scaled,
    lambda g, q, c: (g * (c * node("exp_scaled", q, attr=(c,))),),
    sign=lambda s, attr: 1,
    doc="exp(c q) for a number c < 0 and q >= 0",
    public=False,
)


def _code_exp_nonpos(t, a):
    return t.call("exp_nonpos", a, accurate=False)


elementwise(
    "exp_nonpos",
    1,
    torch.exp,
    _code_exp_nonpos,
    lambda g, a: (g * node("exp_nonpos", a),),
    sign=lambda s, attr: 1,
    doc="exp(a) for a <= 0",
    public=False,
)

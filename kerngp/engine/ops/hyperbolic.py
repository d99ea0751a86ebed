"""Hyperbolic functions and their relatives: what is built of exp(a), without losing digits near 0."""

from __future__ import annotations

import math

import torch

from .arithmetic import square
from .base import elementwise, folded, function, nonnegative, same_sign
from .elementary import exp

__all__ = ["cosh", "expm1", "log1p", "sigmoid", "sinh", "softplus", "tanh"]

expm1 = function(
    "expm1", torch.expm1, exp, fold=folded(math.expm1), sign=same_sign, doc="exp(a) - 1, accurate near 0"
)
log1p = elementwise(
    "log1p",
    1,
    torch.log1p,
    lambda t, a: t.call("log1p", a),
    lambda g, a: (g / (1.0 + a),),
    fold=folded(math.log1p),
    sign=same_sign,
    doc="log(1 + a), accurate near 0",
)
sinh = function(
    "sinh", torch.sinh, lambda a: cosh(a), fold=folded(math.sinh), sign=same_sign, doc="hyperbolic sine of a"
)
cosh = function(
    "cosh", torch.cosh, sinh, fold=folded(math.cosh), sign=nonnegative, doc="hyperbolic cosine of a"
)
tanh = function(
    "tanh",
    torch.tanh,
    lambda a: 1.0 - square(tanh(a)),
    fold=folded(math.tanh),
    sign=same_sign,
    doc="hyperbolic tangent of a",
)
sigmoid = function(
    "sigmoid", torch.sigmoid, lambda a: sigmoid(a) * sigmoid(-a), sign=nonnegative, doc="1 / (1 + exp(-a))"
)
softplus = function(
    "softplus",
    lambda a: torch.logaddexp(a, torch.zeros_like(a)),
    sigmoid,
    sign=nonnegative,
    doc="log(1 + exp(a))",
)

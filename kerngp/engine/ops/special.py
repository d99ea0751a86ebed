"""The error function, the gamma function's logarithm and its derivatives."""

from __future__ import annotations

import math

import torch

from ..expr import Expr, as_expr, node
from ..series import bernoulli, cotangent
from .arithmetic import square
from .base import elementwise, folded, function, nonnegative, same_sign
from .elementary import exp

__all__ = ["digamma", "erf", "erfc", "lgamma", "polygamma"]

_SLOPE = 2 / math.sqrt(math.pi)

erf = function(
    "erf",
    torch.erf,
    lambda a: _SLOPE * exp(-square(a)),
    fold=folded(math.erf),
    sign=same_sign,
    doc="error function of a",
)
erfc = function(
    "erfc",
    torch.erfc,
    lambda a: -_SLOPE * exp(-square(a)),
    fold=folded(math.erfc),
    sign=nonnegative,
    doc="1 - erf(a), accurate where it is small",
)


def _polygamma(a: torch.Tensor, n: int) -> torch.Tensor:
    """By the recurrence, Stirling's series and the reflection formula; torch's own is good to 1e-9 only."""
    left = a <= 0
    y = torch.where(left, 1 - a, a)
    total = sum((y + k) ** -(n + 1) for k in range(20)) * math.factorial(n)
    w = 1 / (y + 20)
    total = total + w ** (n + 1) * (math.factorial(n) / 2)
    total = total + (w**n * math.factorial(n - 1) if n else torch.log(w))
    for k, b in enumerate(bernoulli(17)[2::2], 1):
        total = total + w ** (2 * k + n) * float(b * math.factorial(2 * k + n - 1) / math.factorial(2 * k))
    right = total * (-1) ** (n + 1)
    d = torch.where(left, a - torch.round(a), torch.full_like(a, 0.25))
    cot = torch.sin((0.5 - d.abs()) * math.pi) / torch.sin(d * math.pi)
    mirror = sum(c * cot**k for k, c in enumerate(cotangent(n))) * math.pi ** (n + 1)
    value = torch.where(left, right * (-1) ** n - mirror, right)
    value = torch.where(a == math.inf, torch.full_like(a, 0.0 if n else math.inf), value)
    pole = left & (a == torch.floor(a))
    return torch.where(pole, torch.full_like(a, math.inf if n % 2 else math.nan), value)


elementwise(
    "polygamma",
    1,
    _polygamma,
    lambda t, a, n: t.call("polygamma", a, n),
    lambda g, a, n: (g * polygamma(a, n + 1),),
    doc="the (n + 1)-st derivative of log |gamma|",
)


def polygamma(a: Expr | float, n: int) -> Expr:
    """The (n + 1)-st derivative of log |gamma(a)|."""
    return node("polygamma", as_expr(a), attr=(n,))


def digamma(a: Expr | float) -> Expr:
    """The derivative of log |gamma(a)|."""
    return polygamma(a, 0)


lgamma = function("lgamma", torch.lgamma, digamma, fold=folded(math.lgamma), doc="log |gamma(a)|")

"""Kernel profiles of a squared distance.

Written as functions of q = r^2 because their derivatives in q stay finite at coincident points.
"""

from __future__ import annotations

import torch

from .base import elementwise
from .elementary import exp, sqrt

__all__ = ["matern32_profile", "matern52_profile"]


def _matern32(q: torch.Tensor) -> torch.Tensor:
    s = torch.sqrt(3 * q)
    return (1 + s) * torch.exp(-s)


def _matern52(q: torch.Tensor) -> torch.Tensor:
    s = torch.sqrt(5 * q)
    return (1 + s + s * s / 3) * torch.exp(-s)


def _code_matern32(t, q):
    s = t.sqrt(t.mul(q, 3.0))
    e = t.call("exp_scaled_nonpos", s, -1.0)
    return t.fma(s, e, e)


def _code_matern52(t, q):
    s = t.sqrt(t.mul(q, 5.0))
    e = t.call("exp_scaled_nonpos", s, -1.0)
    return t.mul(t.fma(t.fma(s, 1.0 / 3.0, 1.0), s, 1.0), e)


matern32_profile = elementwise(
    "matern32_profile",
    1,
    _matern32,
    _code_matern32,
    lambda g, q: (g * (-1.5 * exp(-sqrt(3.0 * q))),),
    sign=lambda s, attr: 1,
    doc="(1 + sqrt(3 q)) exp(-sqrt(3 q)) of a squared distance q >= 0",
)
matern52_profile = elementwise(
    "matern52_profile",
    1,
    _matern52,
    _code_matern52,
    lambda g, q: (g * ((-5.0 / 6.0) * ((1.0 + sqrt(5.0 * q)) * exp(-sqrt(5.0 * q)))),),
    sign=lambda s, attr: 1,
    doc="(1 + s + s^2/3) exp(-s), s = sqrt(5 q), of a squared distance q >= 0",
)

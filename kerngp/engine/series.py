"""Exact coefficients of the series around the gamma function."""

from __future__ import annotations

import functools
import math
from fractions import Fraction


@functools.cache
def bernoulli(count: int) -> tuple[Fraction, ...]:
    """B_0, B_1 = -1/2, B_2, ..., ``count`` of them."""
    found = [Fraction(1)]
    for m in range(1, count):
        found.append(-sum(math.comb(m + 1, k) * found[k] for k in range(m)) / Fraction(m + 1))
    return tuple(found)


@functools.cache
def cotangent(n: int) -> tuple[int, ...]:
    """The n-th derivative of cot, a polynomial in cot: coefficients, lowest power first."""
    p = (0, 1)
    for _ in range(n):
        derivative = [k * c for k, c in enumerate(p)][1:]
        p = tuple(
            -(derivative[k] if k < len(derivative) else 0) - (derivative[k - 2] if k >= 2 else 0)
            for k in range(len(p) + 1)
        )
    return p

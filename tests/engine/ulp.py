"""Errors of floating-point results in ulps of the exact value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np

PRECISION = 160


@dataclass(frozen=True)
class Exact:
    """Exact values (high + low) * 2**exponent, 1 <= |high| < 2; high is 0, inf or NaN where the value is."""

    high: np.ndarray
    low: np.ndarray
    exponent: np.ndarray


def exact_values(function: Callable[..., Any], *arguments: np.ndarray) -> Exact:
    """``function`` (from mpf to mpf) of every row of arguments, at `PRECISION` bits."""
    size = arguments[0].size
    high, low, exponent = np.empty(size), np.zeros(size), np.zeros(size, np.int64)
    with mpmath.workprec(PRECISION):
        for q, row in enumerate(zip(*(a.tolist() for a in arguments), strict=True)):
            r = function(*map(mpmath.mpf, row))
            if mpmath.isfinite(r) and r != 0:
                half, power = mpmath.frexp(r)
                r, exponent[q] = 2 * half, power - 1
                low[q] = float(r - float(r))
            high[q] = float(r)
    return Exact(high, low, exponent)


def ulp_errors(got: np.ndarray, exact: Exact) -> np.ndarray:
    """|got - exact| in ulps of the dtype (of the subnormal spacing below the normal range).

    Zeros, infinities and NaN must agree: anything else is an infinite error. Beyond the largest number,
    inf is correct.
    """
    info = np.finfo(got.dtype)
    with np.errstate(all="ignore"):
        # in two steps, each exact: 2**-exponent alone may overflow
        half = exact.exponent // 2
        scaled = np.ldexp(np.ldexp(got.astype(np.float64), -half), half - exact.exponent)
        unit = np.ldexp(1.0, np.minimum(exact.exponent - info.minexp, 0) + info.nmant)
        errors = np.abs((scaled - exact.high) - exact.low) * unit
    ordinary = np.isfinite(exact.high) & (exact.high != 0)
    overflow = ordinary & (exact.exponent >= info.maxexp)
    errors[overflow] = np.where(got[overflow] == np.sign(exact.high[overflow]) * np.inf, 0.0, np.inf)
    agree = (got == exact.high) | (np.isnan(got) & np.isnan(exact.high))
    errors[~ordinary] = np.where(agree[~ordinary], 0.0, np.inf)
    # just below the largest number both roundings are within an ulp
    edge = ordinary & ~overflow & np.isinf(got)
    near = (exact.exponent == info.maxexp - 1) & (2.0 - np.abs(exact.high) <= 2.0**-info.nmant)
    errors[edge] = np.where(near[edge], 1.0, np.inf)
    return np.where(ordinary & np.isnan(got), np.inf, errors)

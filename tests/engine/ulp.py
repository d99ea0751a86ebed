"""Errors of floating-point results in ulps of the exact value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np

PRECISION = 160


def exact_values(exact: Callable[..., Any], *arguments: np.ndarray) -> list[Any]:
    """``exact`` (from mpf to mpf) of every row of arguments, at `PRECISION` bits."""
    with mpmath.workprec(PRECISION):
        return [exact(*map(mpmath.mpf, row)) for row in zip(*(a.tolist() for a in arguments), strict=True)]


def ulp_errors(got: np.ndarray, exact: list[Any]) -> np.ndarray:
    """|got - exact| in ulps of the dtype (of the subnormal spacing below the normal range).

    Zeros, infinities and NaN must agree: anything else is an infinite error. Beyond the largest number,
    inf is correct.
    """
    info = np.finfo(got.dtype)
    bits = info.nmant
    largest = mpmath.mpf(float(info.max))
    errors = np.empty(got.size)
    with mpmath.workprec(PRECISION):
        for q, (value, r) in enumerate(zip(got.tolist(), exact, strict=True)):
            if mpmath.isnan(r) or mpmath.isnan(value):
                errors[q] = 0.0 if mpmath.isnan(r) and np.isnan(value) else np.inf
            elif mpmath.isinf(r) or r == 0:
                errors[q] = 0.0 if value == r else np.inf
            elif abs(r) > largest * (1 + mpmath.mpf(2) ** -(bits + 2)):
                errors[q] = 0.0 if value == mpmath.sign(r) * mpmath.inf else np.inf
            elif np.isinf(value):
                errors[q] = 0.0 if abs(r) > largest * (1 - mpmath.mpf(2) ** -bits) else np.inf
            else:
                exponent = max(mpmath.frexp(r)[1] - 1, info.minexp)
                errors[q] = float(mpmath.ldexp(abs(r - value), bits - exponent))
    return errors

"""What lowering rules share: their registry, polynomials, double words.

The double-word arithmetic is that of T. J. Dekker, *A floating-point technique for extending the available
precision* (1971).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..formats import FORMATS

Target = Any  # an emitter: the primitives, `dtype`, `width` and `fused`
Value = Any  # a block of the target; numbers are accepted as real operands everywhere

RULES: dict[str, Callable[..., Value]] = {}


def rule(name: str) -> Callable[[Callable[..., Value]], Callable[..., Value]]:
    def register(function: Callable[..., Value]) -> Callable[..., Value]:
        RULES[name] = function
        return function

    return register


def horner(t: Target, x: Value, coefficients: tuple[float, ...]) -> Value:
    p: Value = coefficients[-1]
    for c in coefficients[-2::-1]:
        p = t.fma(x, p, c)
    return p


def two_sum(t: Target, a: Value, b: Value) -> tuple[Value, Value]:
    """``a + b`` rounded, and its error exactly."""
    s = t.add(a, b)
    from_b = t.sub(s, a)
    return s, t.add(t.sub(a, t.sub(s, from_b)), t.sub(b, from_b))


def fast_two_sum(t: Target, a: Value, b: Value) -> tuple[Value, Value]:
    """The same for ``|a| >= |b|`` (equal exponents and ``a == 0`` are fine too)."""
    s = t.add(a, b)
    return s, t.sub(b, t.sub(s, a))


def two_prod(t: Target, a: Value, b: Value, dtype: str) -> tuple[Value, Value]:
    """``a * b`` rounded, and its error exactly; without fusion by splitting the factors into halves."""
    p = t.mul(a, b)
    if t.fused:
        return p, t.fma(a, b, t.neg(p))

    def halves(x: Value) -> tuple[Value, Value]:
        wide = t.mul(x, FORMATS[dtype].split)
        high = t.sub(wide, t.sub(wide, x))
        return high, t.sub(x, high)

    (ah, al), (bh, bl) = halves(a), halves(b)
    cross = t.add(t.add(t.sub(t.mul(ah, bh), p), t.mul(ah, bl)), t.mul(al, bh))
    return p, t.add(cross, t.mul(al, bl))


def double_mul(t: Target, a: tuple[Value, Value], b: tuple[Value, Value]) -> tuple[Value, Value]:
    """Product of two double words of the target's dtype."""
    p, error = two_prod(t, a[0], b[0], t.dtype)
    error = t.fma(a[0], b[1], t.fma(a[1], b[0], error))
    return fast_two_sum(t, p, error)

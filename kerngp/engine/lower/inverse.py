"""Lowering rules of the inverse trigonometric functions."""

from __future__ import annotations

import math

from ..formats import FORMATS, HALF_PI, words
from .tools import Target, Value, horner, rule

TAN_PI_8 = math.sqrt(2) - 1


def _odd(t: Target, r: Value, z: Value, series: tuple[float, ...], offset: Value | float = 0.0) -> Value:
    """r + r z P(z) + offset, for an offset of the size of a rounding."""
    return t.add(r, t.fma(t.mul(z, r), horner(t, z, series), offset))


@rule("atan")
def _atan(t: Target, x: Value) -> Value:
    """Arc tangent, at most 2 ulp: about 0, 1 or infinity by the addition theorem."""
    f, (high, low) = FORMATS[t.dtype], words(HALF_PI, t.dtype)
    a = t.abs(x)
    middle, far = t.gt(a, TAN_PI_8), t.gt(a, 1 / TAN_PI_8)
    above = t.select(far, -1.0, t.select(middle, t.sub(a, 1.0), a))
    below = t.select(far, a, t.select(middle, t.add(a, 1.0), 1.0))
    r = t.div(above, below)
    start = t.select(far, high, t.select(middle, high / 2, 0.0))
    rest = t.select(far, low, t.select(middle, low / 2, 0.0))
    return t.copysign(t.add(start, _odd(t, r, t.mul(r, r), f.atan, rest)), x)


@rule("atan2")
def _atan2(t: Target, y: Value, x: Value) -> Value:
    """The angle of the point (x, y), at most 3 ulp, with the zeros and infinities of C."""
    f, (high, low) = FORMATS[t.dtype], words(HALF_PI, t.dtype)
    y, x = (t.const(v) if isinstance(v, int | float) else v for v in (y, x))
    size_x, size_y = t.abs(x), t.abs(y)
    steep = t.gt(size_y, size_x)
    least, most = t.select(steep, size_x, size_y), t.select(steep, size_y, size_x)
    shrink = t.select(t.gt(most, 2.0 ** (f.bias - 2)), 0.25, 1.0)  # their sum must not overflow
    both = t.mask_and(t.eq(least, math.inf), t.eq(most, math.inf))
    least = t.select(both, 1.0, t.mul(least, shrink))
    most = t.select(both, 1.0, t.select(t.eq(most, 0.0), 1.0, t.mul(most, shrink)))
    middle = t.gt(least, t.mul(most, TAN_PI_8))
    above = t.select(middle, t.sub(least, most), least)
    r = t.div(above, t.select(middle, t.add(least, most), most))
    rest = t.select(middle, low / 2, 0.0)
    angle = t.add(t.select(middle, high / 2, 0.0), _odd(t, r, t.mul(r, r), f.atan, rest))
    angle = t.select(steep, t.add(t.sub(high, angle), low), angle)
    left = t.ilt(t.bits(x), 0)
    angle = t.select(left, t.add(t.sub(2 * high, angle), 2 * low), angle)
    return t.copysign(angle, y)


def _asin_parts(t: Target, x: Value) -> tuple[Value, Value]:
    """Whether |x| > 1/2, and asin(r) with r = |x|, or r = sqrt((1 - |x|) / 2) in that case."""
    a = t.abs(x)
    large = t.gt(a, 0.5)
    half = t.mul(t.sub(1.0, a), 0.5)
    z = t.select(large, half, t.mul(a, a))
    return large, _odd(t, t.select(large, t.sqrt(half), a), z, FORMATS[t.dtype].asin)


@rule("asin")
def _asin(t: Target, x: Value) -> Value:
    """Arc sine, at most 4 ulp; NaN beyond 1."""
    high, low = words(HALF_PI, t.dtype)
    large, w = _asin_parts(t, x)
    return t.copysign(t.select(large, t.add(t.fma(w, -2.0, high), low), w), x)


@rule("acos")
def _acos(t: Target, x: Value) -> Value:
    """Arc cosine, at most 3 ulp; NaN beyond 1."""
    high, low = words(HALF_PI, t.dtype)
    large, w = _asin_parts(t, x)
    twice = t.mul(w, 2.0)
    outer = t.select(t.lt(x, 0.0), t.add(t.sub(2 * high, twice), 2 * low), twice)
    return t.select(large, outer, t.sub(high, t.sub(t.copysign(w, x), low)))

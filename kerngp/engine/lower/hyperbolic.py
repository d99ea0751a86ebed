"""Lowering rules of functions near exp(x) - 1 and log(1 + x): no digits are lost where those are small."""

from __future__ import annotations

import math

from ..formats import FORMATS, LOG2E
from .tools import Target, Value, horner, rule, two_sum


def _exp_parts(t: Target, x: Value) -> tuple[Value, Value]:
    """``m`` and ``q`` with e**x == 4 q (1 + m), q a power of two and |m| < 1/2.

    Of x >= log(8 max), where all results are infinite, and of x so small that e**x is lost beside 1/4,
    the limits.
    """
    f = FORMATS[t.dtype]
    x = t.minimum(f.log_max + 0.5, t.maximum(-(f.mantissa + 6.0), x))  # constants first: NaN survives
    magic = f.magic + f.bias - 2
    shifted = t.fma(x, float(LOG2E), magic)
    n = t.sub(shifted, magic)
    r = t.fma(n, -f.ln2[1], t.fma(n, -f.ln2[0], x))
    m = t.fma(t.mul(horner(t, r, f.exp), r), r, r)
    return m, t.real_from_bits(t.shl(t.bits(shifted), f.mantissa))


def _quarter(t: Target, x: Value) -> Value:
    """(e**x - 1) / 4, which is finite wherever sinh(x) is."""
    m, q = _exp_parts(t, x)
    return t.fma(m, q, t.sub(q, 0.25))


@rule("expm1")
def _expm1(t: Target, x: Value) -> Value:
    """e**x - 1, at most 3 ulp."""
    return t.mul(_quarter(t, x), 4.0)


@rule("log1p")
def _log1p(t: Target, x: Value) -> Value:
    """log(1 + x), at most 3 ulp: the logarithm of the rounded sum, and what rounding took from it."""
    u, lost = two_sum(t, t.const(1.0), x)
    r = t.call("log", u)
    return t.select(t.mask_and(t.gt(u, 0.0), t.lt(u, math.inf)), t.add(r, t.div(lost, u)), r)


@rule("sinh")
def _sinh(t: Target, x: Value) -> Value:
    """(e**x - e**-x) / 2, at most 3 ulp."""
    q = _quarter(t, t.abs(x))
    s = t.add(q, t.div(q, t.fma(q, 4.0, 1.0)))
    return t.copysign(t.mul(s, 2.0), x)


@rule("cosh")
def _cosh(t: Target, x: Value) -> Value:
    """(e**x + e**-x) / 2, at most 3 ulp."""
    m, q = _exp_parts(t, t.abs(x))
    e = t.fma(m, q, q)
    return t.mul(t.add(e, t.div(1.0, t.mul(e, 16.0))), 2.0)


@rule("tanh")
def _tanh(t: Target, x: Value) -> Value:
    """Hyperbolic tangent, at most 4 ulp."""
    size = t.minimum(10.0 if t.dtype == "float32" else 20.0, t.abs(x))
    q = _quarter(t, t.mul(size, 2.0))
    return t.copysign(t.div(q, t.add(q, 0.5)), x)


@rule("sigmoid")
def _sigmoid(t: Target, x: Value) -> Value:
    """1 / (1 + e**-x), at most 3 ulp."""
    z = t.call("exp", t.neg(t.abs(x)))
    return t.div(t.select(t.ge(x, 0.0), 1.0, z), t.add(z, 1.0))


@rule("softplus")
def _softplus(t: Target, x: Value) -> Value:
    """log(1 + e**x), at most 4 ulp."""
    return t.add(t.maximum(0.0, x), t.call("log1p", t.call("exp", t.neg(t.abs(x)))))

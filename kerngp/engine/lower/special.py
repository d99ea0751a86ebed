"""Lowering rules of the error function, the gamma function's logarithm, and sin(x) / x.

The tail of erfc is exp(-x**2) times a function that hardly varies, a polynomial in (x - 4) / (x + 4)
(M. Shepherd and J. Laframboise, *Chebyshev approximation of (1 + 2x) exp(x**2) erfc(x)*, 1981). log gamma
and its derivatives are Stirling's series, reached by the recurrence, and the reflection formula.
"""

from __future__ import annotations

import math
from fractions import Fraction

from ..formats import FORMATS
from ..series import bernoulli, cotangent
from .tools import Target, Value, horner, rule, two_prod


# ---------------------------------------------------------------------- error function
def _erfc_of_size(t: Target, a: Value) -> Value:
    """erfc(a) for a >= 0; the square in the exponent is exact."""
    a = t.minimum(11.0 if t.dtype == "float32" else 28.0, a)
    square, lost = two_prod(t, a, a, t.dtype)
    e = t.call("exp", t.neg(square))
    e = t.fma(e, t.neg(lost), e)
    u = t.div(t.sub(a, 4.0), t.add(a, 4.0))
    g = t.add(horner(t, u, FORMATS[t.dtype].erfcx), 1.0)
    return t.mul(e, t.div(g, t.fma(a, 2.0, 1.0)))


def _erf_near(t: Target, x: Value) -> Value:
    """erf(x) for |x| <= 1."""
    return t.fma(x, horner(t, t.mul(x, x), FORMATS[t.dtype].erf), x)


@rule("erf")
def _erf(t: Target, x: Value) -> Value:
    """Error function, at most 2 ulp."""
    a = t.abs(x)
    far = t.copysign(t.sub(1.0, _erfc_of_size(t, a)), x)
    return t.select(t.lt(a, 1.0), _erf_near(t, x), far)


@rule("erfc")
def _erfc(t: Target, x: Value) -> Value:
    """1 - erf(x), at most 4 ulp also where it is small."""
    a = t.abs(x)
    value = _erfc_of_size(t, a)
    value = t.select(t.lt(x, 0.0), t.sub(2.0, value), value)
    return t.select(t.lt(a, 0.5), t.sub(1.0, _erf_near(t, x)), value)


# ---------------------------------------------------------------------- gamma function
def _turn(t: Target, x: Value) -> tuple[Value, Value]:
    """|sin(pi x)| and |cos(pi x)|, exact to their last digits however large x is."""
    f = FORMATS[t.dtype]
    d = t.abs(t.sub(x, t.round_even(x)))
    far = t.gt(d, 0.25)
    r = t.mul(t.select(far, t.sub(0.5, d), d), math.pi)
    z = t.mul(r, r)
    sine = t.fma(t.mul(z, r), horner(t, z, f.sin), r)
    cosine = t.fma(t.mul(z, z), horner(t, z, f.cos), t.fma(z, -0.5, 1.0))
    return t.select(far, cosine, sine), t.select(far, sine, cosine)


@rule("lgamma")
def _lgamma(t: Target, x: Value) -> Value:
    """log |gamma(x)|, at most 4 ulp of the larger of 1 and the result, and relatively so for x > 0."""
    f = FORMATS[t.dtype]
    a = t.abs(x)
    # for a < 8: log gamma(2 + u) and the logarithm of a product, by gamma(a + 1) = a gamma(a)
    v, above = a, t.const(1.0)
    for _ in range(6):
        more = t.gt(v, 2.5)
        v = t.select(more, t.sub(v, 1.0), v)
        above = t.select(more, t.mul(above, v), above)
    one, none = t.lt(a, 1.5), t.lt(a, 0.5)
    u = t.select(none, a, t.select(one, t.sub(a, 1.0), t.sub(v, 2.0)))
    below = t.select(none, t.mul(a, t.add(a, 1.0)), a)
    large = t.ge(a, 8.0)
    ell = t.call("log", t.select(large, a, t.select(one, below, above)))
    small = t.fma(u, horner(t, u, f.lgamma), t.select(one, t.neg(ell), ell))
    b = bernoulli(18)
    series = [float(b[2 * k] / (2 * k * (2 * k - 1))) for k in range(1, 4 if t.dtype == "float32" else 9)]
    w = t.div(1.0, a)
    tail = t.fma(w, horner(t, t.mul(w, w), tuple(series)), 0.5 * math.log(2 * math.pi) - 0.5)
    value = t.select(large, t.fma(t.sub(a, 0.5), t.sub(ell, 1.0), tail), small)
    # gamma(-a) gamma(a) = -pi / (a sin(pi a))
    mirrored = t.sub(t.sub(math.log(math.pi), t.call("log", t.mul(a, _turn(t, a)[0]))), value)
    value = t.select(t.lt(x, 0.0), mirrored, value)
    value = t.select(t.lt(a, 2.0**-f.mantissa / 4), t.neg(ell), value)
    return t.select(t.eq(a, math.inf), math.inf, value)


@rule("polygamma")
def _polygamma(t: Target, x: Value, n: int) -> Value:
    """The (n + 1)-st derivative of log gamma: digamma for n = 0, then trigamma, ...

    At most 8 ulp of the larger of 1 and the result. At 0, -1, -2, ... infinite for odd n, NaN for even n.
    """
    single = t.dtype == "float32"
    left = t.le(x, 0.0)
    y = t.select(left, t.sub(1.0, x), x)
    least, terms = (6.0 + n, 5) if single else (12.0 + n, 9)
    total = t.const(0.0)
    for _ in range(int(least)):
        small = t.lt(y, least)
        step = t.call("powi", t.div(1.0, y), n + 1)
        total = t.select(small, t.add(total, step), total)
        y = t.select(small, t.add(y, 1.0), y)
    w = t.div(1.0, y)
    b = bernoulli(2 * terms + 1)
    series = [
        float(b[2 * k] * Fraction(math.factorial(2 * k + n - 1), math.factorial(2 * k)))
        for k in range(1, terms + 1)
    ]
    z = t.mul(w, w)
    tail = t.fma(z, horner(t, z, tuple(series)), t.mul(w, math.factorial(n) / 2))
    # (-1)**(n + 1) psi_n(y) = w**n ((n - 1)! + n! w / 2 + ...), with -log y for (-1)! w**0
    head = t.neg(t.call("log", y)) if n == 0 else t.const(float(math.factorial(n - 1)))
    value = t.mul(t.call("powi", w, n), t.add(head, tail)) if n else t.add(head, tail)
    value = t.add(value, t.mul(total, float(math.factorial(n))))
    value = value if n % 2 else t.neg(value)
    sine, cosine = _turn(t, x)
    cot = t.div(cosine, sine)
    cot = t.select(t.lt(x, t.round_even(x)), t.neg(cot), cot)
    mirror = t.mul(horner(t, cot, tuple(map(float, cotangent(n)))), math.pi ** (n + 1))
    value = t.select(left, t.sub(t.neg(value) if n % 2 else value, mirror), value)
    pole = t.mask_and(left, t.eq(t.floor(x), x))
    return t.select(pole, math.inf if n % 2 else math.nan, value)


# ---------------------------------------------------------------------- sin(x) / x
@rule("sinxdivx")
def _sinxdivx(t: Target, x: Value, n: int) -> Value:
    """The n-th derivative of sin(x) / x, at most 4 ulp of 1.

    Near 0 its Taylor series; elsewhere, with S_n for it, x S_n + n S_(n-1) is the n-th derivative of sin.
    """
    near = n + 1.0
    count, eps = 1, 2.0 ** -(FORMATS[t.dtype].mantissa + 5)
    while near ** (2 * count) / math.factorial(2 * count) > eps:
        count += 1
    first = (n + 1) // 2
    series = [(-1.0) ** k / (math.factorial(2 * k - n) * (2 * k + 1)) for k in range(first, first + count)]
    taylor = horner(t, t.mul(x, x), tuple(series))
    taylor = t.mul(taylor, x) if n % 2 else taylor
    waves = [t.call("sin", x)]
    if n:
        waves += [t.call("cos", x), t.neg(waves[0])]
        waves.append(t.neg(waves[1]))
    value = t.div(waves[0], x)
    for k in range(1, n + 1):
        value = t.div(t.fma(value, -float(k), waves[k % 4]), x)
    value = t.select(t.eq(t.abs(x), math.inf), 0.0, value)
    return t.select(t.le(t.abs(x), near), taylor, value)

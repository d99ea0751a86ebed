"""Lowering rules of exponentials, logarithm, powers, sine and cosine.

Sources: the argument reductions are those of W. J. Cody and W. Waite, *Software Manual for the Elementary
Functions* (1980), and of M. Payne and R. Hanek, *Radian reduction for trigonometric functions* (1983).
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction

from ..formats import FORMATS, HALF_PI, LOG2E, float_bits, words
from .tools import Target, Value, double_mul, fast_two_sum, horner, rule, two_prod, two_sum

# 1272 bits of 2/pi: enough to reduce the largest double and still have 110 good bits
_TWO_OVER_PI = int(
    "a2f9836e4e441529fc2757d1f534ddc0db6295993c439041fe5163abdebbc561b7246e3a424dd2e0"
    "06492eea09d1921cfe1deb1cb129a73ee88235f52ebb4484e99c7026b45f7e413991d639835339f4"
    "9c845f8bbdf9283b1ff897ffde05980fef2f118b5a0a6d1f6d367ecf27cb09b74f463f669e5fea2d"
    "7527bac7ebe5f17b3d0739f78a5292ea6bfb5fb11f8d5d0856033046fc7b6babf0cfbc209af436",
    16,
)


# ---------------------------------------------------------------------- exponentials
def _remainder(t: Target, x: Value, high: float, low: float, minus_n: Value) -> Value:
    """``x * (high + low) - n``, accurate although the terms cancel."""
    if t.fused:
        return t.fma(x, low, t.fma(x, high, minus_n))
    product, error = two_prod(t, x, t.const(high), t.dtype)
    return t.add(t.add(product, minus_n), t.fma(x, low, error))


def _scale_any(t: Target, p: Value, shifted: Value) -> Value:
    """``p * 2**n`` rounded once for any ``n``, where ``shifted`` is ``n`` plus magic plus twice the bias.

    Two factors of about ``2**(n / 2)``: the first product is exact, subnormal and infinite results are right.
    """
    f = FORMATS[t.dtype]
    if t.scaling:
        return t.scale(p, t.sub(shifted, f.magic + 2 * f.bias))
    twice = t.isub(t.bits(shifted), float_bits(f.magic, t.dtype))
    low = t.lshr(twice, 1)
    high = t.isub(twice, low)
    p = t.mul(p, t.real_from_bits(t.shl(low, f.mantissa)))
    return t.mul(p, t.real_from_bits(t.shl(high, f.mantissa)))


@rule("exp")
def _exp(t: Target, x: Value) -> Value:
    """e**x, at most 2 ulp: overflows to inf, reaches 0 through the subnormals."""
    f = FORMATS[t.dtype]
    x = t.minimum(f.log_max, t.maximum(f.log_zero, x))  # constants first: a NaN of x survives
    magic = f.magic + 2 * f.bias
    shifted = t.fma(x, float(LOG2E), magic)
    n = t.sub(shifted, magic)
    r = t.fma(n, -f.ln2[1], t.fma(n, -f.ln2[0], x))
    p = t.fma(t.fma(horner(t, r, f.exp), r, 1.0), r, 1.0)
    return _scale_any(t, p, shifted)


@rule("exp2")
def _exp2(t: Target, x: Value) -> Value:
    """2**x, at most 2 ulp over the full range."""
    f = FORMATS[t.dtype]
    limit = f.bias + f.mantissa + 5.0
    return _exp2_sum(t, t.minimum(limit, t.maximum(-limit, x)), None)


def _exp2_sum(t: Target, high: Value, low: Value | None) -> Value:
    """2**(high + low) over the full range, for ``|high|`` within the exponents and ``low`` small beside 1."""
    f = FORMATS[t.dtype]
    magic = f.magic + 2 * f.bias
    shifted = t.add(high, magic)
    r = t.sub(high, t.sub(shifted, magic))
    r = r if low is None else t.add(r, low)
    return _scale_any(t, t.fma(horner(t, r, f.exp2), r, 1.0), shifted)


@rule("exp_scaled")
def _exp_scaled(t: Target, x: Value, c: float) -> Value:
    """exp(c * x) for a constant ``c``, at most 2 ulp over the full range."""
    f = FORMATS[t.dtype]
    high, low = words(Fraction(c) * LOG2E, t.dtype)
    limit = f.bias + f.mantissa + 5.0
    magic = f.magic + 2 * f.bias
    bounded = x if high == 0 else t.minimum(limit / abs(high), t.maximum(-limit / abs(high), x))
    shifted = t.fma(bounded, high, magic)
    r = _remainder(t, bounded, high, low, t.sub(magic, shifted))
    return _scale_any(t, t.fma(horner(t, r, f.exp2), r, 1.0), shifted)


@rule("exp2_scaled_nonpos")
def _exp2_scaled_nonpos(t: Target, x: Value, k: float, accurate: bool = False) -> Value:
    """2**(k * x) where ``k * x <= 0`` is known: the cheap form of the inner loops.

    The result is at most 2 ulp from 2**(k * x) with ``k`` rounded to the dtype, or with any ``k`` when
    ``accurate``; below 2**-126.5 (2**-1022.5 in float64) it is exactly 0, or the subnormal number where
    the machine scales by powers of two itself. A NaN of ``x`` survives, whatever its payload: the clamp
    has its constant first, and the last step multiplies by the power of two (an addition to the
    exponent's bits, as cheap, turns some NaNs into numbers).
    """
    return _exp2_cheap(t, x, Fraction(k), accurate)


@rule("exp_scaled_nonpos")
def _exp_scaled_nonpos(t: Target, x: Value, c: float, accurate: bool = False) -> Value:
    """exp(c * x) where ``c * x <= 0`` is known, for a constant ``c``.

    The cheap form rounds ``c * log2(e)`` to the dtype: its error is 2 ulp plus one for each unit of
    ``|c * x|``, no more than a rounding of ``x`` would cause (without fused multiply-add, and where the
    machine scales by powers of two, twice that).
    ``accurate=True`` spends one instruction more and stays within 2 ulp. Results below 2**-126.5
    (2**-1022.5 in float64) are exactly 0, or subnormal as above; NaN stays NaN.
    """
    return _exp2_cheap(t, x, Fraction(c) * LOG2E, accurate)


@rule("exp_nonpos")
def _exp_nonpos(t: Target, x: Value, accurate: bool = True) -> Value:
    """exp(x) where ``x <= 0`` is known, at most 2 ulp; results below 2**-126.5 (2**-1022.5) are exactly 0."""
    return _exp2_cheap(t, x, LOG2E, accurate)


def _exp2_cheap(t: Target, x: Value, k: Fraction, accurate: bool) -> Value:
    f = FORMATS[t.dtype]
    high, low = words(k, t.dtype)
    if high == 0:
        return t.add(t.mul(x, 0.0), 1.0)  # 1, and NaN where x is NaN
    if t.scaling and not (accurate and low):
        # no clamp: the fraction of an infinity is 0, and scaling saturates
        turns = x if high == 1.0 else t.mul(x, high)
        r = t.fraction(turns)
        return t.scale(t.fma(horner(t, r, f.exp2), r, 1.0), t.round_even(turns))
    # the clamp lands where the exponent field becomes 0, so the product below is exactly 0
    limit = -f.bias / high
    q = t.minimum(limit, x) if high < 0 else t.maximum(limit, x)
    magic = f.magic + f.bias
    if high == -1.0 and not (accurate and low):
        shifted = t.sub(magic, q)
        r = t.sub(t.sub(magic, shifted), q)
    elif high == 1.0 and not (accurate and low):
        shifted = t.add(q, magic)
        r = t.add(q, t.sub(magic, shifted))
    else:
        shifted = t.fma(q, high, magic)
        minus_n = t.sub(magic, shifted)
        r = _remainder(t, q, high, low, minus_n) if accurate else t.fma(q, high, minus_n)
    p = t.fma(horner(t, r, f.exp2), r, 1.0)
    return t.mul(p, t.real_from_bits(t.shl(t.bits(shifted), f.mantissa)))


# ---------------------------------------------------------------------- logarithm and powers
def _decompose(t: Target, x: Value) -> tuple[Value, Value]:
    """Real ``e`` and ``m`` in [sqrt(1/2), sqrt(2)) with ``x == 2**e * m``, for finite ``x > 0``."""
    f = FORMATS[t.dtype]
    small = t.lt(x, 2.0 ** (1 - f.bias))
    x = t.select(small, t.mul(x, 2.0**f.mantissa), x)
    i = t.iadd(t.bits(x), (f.bias << f.mantissa) - f.sqrt_half_bits)
    biased = t.real_from_bits(t.ior(t.lshr(i, f.mantissa), float_bits(f.magic, t.dtype)))
    offset = f.magic + f.bias
    e = t.sub(biased, t.select(small, offset + f.mantissa, offset))
    m = t.real_from_bits(t.iadd(t.iand(i, (1 << f.mantissa) - 1), f.sqrt_half_bits))
    return e, m


@rule("log")
def _log(t: Target, x: Value) -> Value:
    """Natural logarithm, at most 2 ulp, subnormals included; -inf at 0, NaN below.

    With f = m - 1 and s = f / (2 + f): log(1 + f) = f - (f**2 / 2 - s (f**2 / 2 + s**2 P(s**2))).
    """
    f = FORMATS[t.dtype]
    e, m = _decompose(t, x)
    g = t.sub(m, 1.0)
    s = t.div(g, t.add(g, 2.0))
    z = t.mul(s, s)
    half_square = t.mul(t.mul(g, 0.5), g)
    tail = t.fma(s, t.fma(z, horner(t, z, f.log), half_square), t.mul(e, f.ln2[1]))
    r = t.fma(e, f.ln2[0], t.sub(g, t.sub(half_square, tail)))
    r = t.select(t.lt(x, math.inf), r, x)
    return t.select(t.gt(x, 0.0), r, t.select(t.eq(x, 0.0), -math.inf, math.nan))


def _log2_double(t: Target, x: Value) -> tuple[Value, Value]:
    """log2 of finite ``x > 0`` as a double word.

    With s = (m - 1) / (m + 1) and z = s**2 it is 2 atanh(s) / ln 2 = s (A + z (B + z C(z))), and only A and
    B need two words.
    """
    f = FORMATS[t.dtype]
    e, m = _decompose(t, x)
    g = t.sub(m, 1.0)
    high = t.add(m, 1.0)
    low = t.sub(m, t.sub(high, 1.0))
    inverse = t.div(1.0, high)
    s0 = t.mul(g, inverse)
    p, error = two_prod(t, s0, high, t.dtype)
    remainder = t.sub(t.sub(t.sub(g, p), error), t.mul(s0, low))
    s = fast_two_sum(t, s0, t.mul(remainder, inverse))
    z = double_mul(t, s, s)
    a, b = words(2 * LOG2E, t.dtype), words(2 * LOG2E / 3, t.dtype)
    inner = fast_two_sum(t, t.const(b[0]), t.fma(z[0], horner(t, z[0], f.log2), b[1]))
    inner = double_mul(t, inner, z)
    total, error = fast_two_sum(t, t.const(a[0]), inner[0])
    mantissa = double_mul(t, (total, t.add(error, t.add(inner[1], a[1]))), s)
    whole, error = fast_two_sum(t, e, mantissa[0])
    return fast_two_sum(t, whole, t.add(error, mantissa[1]))


@rule("pow")
def _pow(t: Target, x: Value, y: Value) -> Value:
    """x**y, at most 2 ulp, with the special cases of C: x**0 = 1**y = 1, NaN for x < 0 and fractional y."""
    f = FORMATS[t.dtype]
    x, y = (t.const(v) if isinstance(v, int | float) else v for v in (x, y))
    size = t.abs(x)
    high, low = _log2_double(t, size)
    # a larger |y| overflows or underflows unless |x| is 1; the clamp keeps every product finite
    clamp = 2.0 ** (f.mantissa + 18)
    product, error = two_prod(t, t.minimum(clamp, t.maximum(-clamp, y)), high, t.dtype)
    error = t.fma(t.minimum(clamp, t.maximum(-clamp, y)), low, error)
    limit = f.bias + f.mantissa + 5.0
    error = t.minimum(1.0, t.maximum(-1.0, error))
    r = _exp2_sum(t, t.minimum(limit, t.maximum(-limit, product)), error)

    grows = t.gt(y, 0.0)
    r = t.select(t.eq(size, 0.0), t.select(grows, 0.0, math.inf), r)
    r = t.select(t.eq(size, math.inf), t.select(grows, math.inf, 0.0), r)
    integer = t.eq(t.floor(y), y)
    half = t.mul(y, 0.5)
    odd = t.mask_and(integer, t.ne(t.floor(half), half))
    r = t.select(t.mask_and(odd, t.ilt(t.bits(x), 0)), t.neg(r), r)
    undefined = t.mask_and(t.mask_and(t.lt(x, 0.0), t.gt(x, -math.inf)), t.mask_not(integer))
    r = t.select(undefined, math.nan, r)
    r = t.select(t.mask_or(t.isnan(x), t.isnan(y)), math.nan, r)
    return t.select(t.mask_or(t.eq(y, 0.0), t.eq(x, 1.0)), 1.0, r)


@rule("powi")
def _powi(t: Target, x: Value, n: int) -> Value:
    """x**n for a Python int ``n`` by repeated squaring: about ``|n|`` half ulps.

    A negative power is the reciprocal of the positive one, so it is 0 already where that overflows.
    """
    if n < 0:
        return t.div(1.0, _powi(t, x, -n))
    result, square = None, x
    while n:
        if n & 1:
            result = square if result is None else t.mul(result, square)
        n >>= 1
        square = t.mul(square, square) if n else square
    return t.const(1.0) if result is None else result


@rule("rsqrt")
def _rsqrt(t: Target, x: Value) -> Value:
    """1 / sqrt(x), at most 2 ulp, and 0 at 0: the engine's convention keeps coincident points finite."""
    return t.select(t.eq(x, 0.0), 0.0, t.div(1.0, t.sqrt(x)))


# ---------------------------------------------------------------------- sine and cosine
@rule("sin")
def _sin(t: Target, x: Value) -> Value:
    """Sine, at most 2 ulp for every finite argument; NaN at infinities. The sign of a zero is not kept."""
    return _quadrant(t, *_reduce(t, x), quarter=0)


@rule("cos")
def _cos(t: Target, x: Value) -> Value:
    """Cosine, at most 2 ulp for every finite argument; NaN at infinities."""
    return _quadrant(t, *_reduce(t, x), quarter=1)


def _quadrant(t: Target, r: Value, shifted: Value, quarter: int) -> Value:
    """sin(r + (n + quarter) pi/2), the turn count ``n`` modulo 4 being the low bits of ``shifted``."""
    f = FORMATS[t.dtype]
    turn = t.bits(shifted)
    turn = t.iadd(turn, quarter) if quarter else turn
    z = t.mul(r, r)
    sine = t.fma(t.mul(z, r), horner(t, z, f.sin), r)
    half = t.mul(z, 0.5)
    one = t.sub(1.0, half)
    lost = t.sub(t.sub(1.0, one), half)
    cosine = t.add(one, t.fma(t.mul(z, z), horner(t, z, f.cos), lost))
    value = t.select(t.ieq(t.iand(turn, 1), 0), sine, cosine)
    sign = t.shl(t.iand(turn, 2), 30 if t.dtype == "float32" else 62)
    return t.real_from_bits(t.ixor(t.bits(value), sign))


def _reduce(t: Target, x: Value) -> tuple[Value, Value]:
    """``r`` in about [-pi/4, pi/4] and magic + n with x = r + n pi/2 (n modulo 4 for large arguments).

    The words of pi/2 make every step but the last exact up to the bound; blocks with a larger argument take a
    branch that reduces with all the digits of 2/pi.
    """
    f = FORMATS[t.dtype]
    words, bound = (f.half_pi, f.turn_bound[0]) if t.fused else (f.half_pi_split, f.turn_bound[1])
    shifted = t.fma(x, float(1 / HALF_PI), f.magic)
    n = t.sub(shifted, f.magic)
    r = x
    for word in words:
        r = t.fma(n, -word, r)
    large = t.gt(t.abs(x), bound)
    r_out, shifted_out = t.var(r), t.var(shifted)
    with t.if_then(t.any(large), likely=False):
        r_large, shifted_large = _reduce_large(t, x)
        r_out.set(t.select(large, r_large, r))
        shifted_out.set(t.select(large, shifted_large, shifted))
    return r_out.get(), shifted_out.get()


def _reduce_large(t: Target, x: Value) -> tuple[Value, Value]:
    """`_reduce` for any argument, one cell after the other: rare, so the code is kept small."""
    rows, columns = x.shape
    size = rows * columns * t.width
    arguments, remainders, turns = (t.alloca(size) for _ in range(3))
    for at, cell in enumerate(x):
        t.store_vec(cell, arguments, at * t.width)
    with t.loop(0, size, t.width) as i:
        r, shifted = _payne_hanek(t, t.block([[t.load_vec(arguments, i)]]))
        t.store_vec(r, remainders, i)
        t.store_vec(shifted, turns, i)

    def grid(base: Value) -> Value:
        return t.block(
            [[t.load_vec(base, (i * columns + j) * t.width) for j in range(columns)] for i in range(rows)]
        )

    return grid(remainders), grid(turns)


@functools.cache
def _two_over_pi_chunks(count: int) -> tuple[float, ...]:
    """2/pi times 2**600 in pieces of 53 bits (the factor keeps the last ones normal numbers)."""
    mask = (1 << 53) - 1
    return tuple(
        math.ldexp((_TWO_OVER_PI >> (1272 - 53 * (k + 1))) & mask, 600 - 53 * (k + 1)) for k in range(count)
    )


def _payne_hanek(t: Target, x: Value) -> tuple[Value, Value]:
    """The turns x * 2/pi modulo 4 in triple words of float64, then their fraction times pi/2.

    Every partial product is exact as two words, and multiples of four are dropped before they are added.
    Infinities become NaN on the way.
    """
    table = t.table(_two_over_pi_chunks(5 if t.dtype == "float32" else 22), "float64")
    wide = t.mul(t.to_f64(x), 2.0**-600)
    zero = t.const(0.0, like=wide)
    sums = [t.var(zero) for _ in range(3)]
    with t.loop(0, 5 if t.dtype == "float32" else 22) as k:
        chunk = t.block([[t.load_splat(table, k)]])
        high, middle, low = (s.get() for s in sums)
        for part in two_prod(t, wide, chunk, "float64"):
            part = t.fma(t.round_even(t.mul(part, 0.25)), -4.0, part)
            high, error = two_sum(t, high, part)
            middle, error = two_sum(t, middle, error)
            low = t.add(low, error)
        for s, value in zip(sums, (high, middle, low), strict=True):
            s.set(value)
    high, middle = two_sum(t, sums[0].get(), sums[1].get())
    low = sums[2].get()
    n = t.round_even(high)
    fraction, middle = two_sum(t, t.sub(high, n), middle)
    pi = words(HALF_PI, "float64")
    r, error = two_prod(t, fraction, t.const(pi[0], like=wide), "float64")
    rest = t.fma(fraction, pi[1], t.mul(t.add(middle, low), pi[0]))
    n = t.fma(t.round_even(t.mul(n, 0.25)), -4.0, n)
    return t.to_real(t.add(r, t.add(error, rest))), t.add(t.to_real(n), FORMATS[t.dtype].magic)

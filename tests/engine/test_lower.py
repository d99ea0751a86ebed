"""The lowering rules against exact values, over the whole range of both dtypes."""

from __future__ import annotations

import dataclasses
import functools
import platform
import re
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
import simd_harness
from ulp import PRECISION, Exact, exact_values, ulp_errors

from kerngp.engine import formats
from kerngp.engine.lower import elementary as lower
from kerngp.engine.lower.tools import horner
from kerngp.engine.render import llvm

DTYPES = ("float32", "float64")
INF, NAN = mpmath.inf, mpmath.nan


# ---------------------------------------------------------------------- exact functions
def exact_exp(x: Any) -> Any:
    if mpmath.isnan(x):
        return NAN
    if abs(x) > 2000:  # beyond either format: a number certain to round to inf or 0
        return INF if x > 0 else mpmath.exp(-2000)
    return mpmath.exp(x)


def exact_log(x: Any) -> Any:
    if mpmath.isnan(x) or x < 0:
        return NAN
    return -INF if x == 0 else mpmath.log(x)


def exact_turning(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def exact(x: Any) -> Any:
        if not mpmath.isfinite(x):
            return NAN
        with mpmath.workprec(PRECISION + max(0, mpmath.frexp(x)[1])):
            return function(x)

    return exact


def exact_rsqrt(x: Any) -> Any:
    if mpmath.isnan(x) or x < 0:
        return NAN
    return mpmath.mpf(0) if x == 0 else 1 / mpmath.sqrt(x)


def bounded(function: Callable[[Any], Any], limit: float = 2000.0) -> Callable[[Any], Any]:
    """Beyond the limit the function is constant, or beyond either format."""

    def exact(x: Any) -> Any:
        return NAN if mpmath.isnan(x) else function(max(min(x, mpmath.mpf(limit)), mpmath.mpf(-limit)))

    return exact


def overflowing(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def exact(x: Any) -> Any:
        if abs(x) > 2000:
            return INF * mpmath.sign(function(mpmath.sign(x)))
        return function(x)

    return exact


def exact_arc(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: function(x) if abs(x) <= 1 else NAN


def exact_log1p(x: Any) -> Any:
    if mpmath.isnan(x) or x < -1:
        return NAN
    return -INF if x == -1 else mpmath.log1p(x)


def exact_softplus(x: Any) -> Any:
    return x if mpmath.isnan(x) or x > 2000 else mpmath.log1p(mpmath.exp(max(x, mpmath.mpf(-2000))))


# ---------------------------------------------------------------------- arguments
def every_exponent(dtype: str, count: int, seed: int = 0) -> np.ndarray:
    """Random bit patterns: all exponents, both signs, NaN and subnormals."""
    integer = {"float32": np.uint32, "float64": np.uint64}[dtype]
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.iinfo(integer).max, count, dtype=integer, endpoint=True).view(dtype)


def special(dtype: str) -> np.ndarray:
    info = np.finfo(dtype)
    positive = [0.0, np.inf, np.nan, 1.0, 0.5, 2.0, info.tiny, info.max, info.smallest_subnormal, info.eps]
    values = np.array(positive, dtype)
    with np.errstate(over="ignore"):
        around = np.concatenate([np.nextafter(values, np.array(v, dtype)) for v in (np.inf, 0.0)])
    powers = np.ldexp(np.ones(1, dtype), np.arange(info.minexp - info.nmant, info.maxexp, 7))
    every = np.concatenate([values, around, powers, powers * np.array(1.5, dtype)]).astype(dtype)
    return np.concatenate([every, -every])


def spread(dtype: str, low: float, high: float, count: int = 800) -> np.ndarray:
    return np.random.default_rng(1).uniform(low, high, count).astype(dtype)


def exponents(dtype: str) -> np.ndarray:
    """Arguments of an exponential: everything, and densely where it is neither 0 nor inf."""
    limit = {"float32": 110.0, "float64": 760.0}[dtype]
    edges = (
        [-150, -149, -127, -126, 127, 128] if dtype == "float32" else [-1075, -1074, -1023, -1022, 1023, 1024]
    )
    near = (np.array(edges)[:, None] * [1.0, np.log(2), np.log(2) / 1.3]).ravel()
    near = (near[:, None] * (1 + np.linspace(-1e-3, 1e-3, 9))).ravel().astype(dtype)
    return np.concatenate(
        [every_exponent(dtype, 400), special(dtype), spread(dtype, -limit, limit), spread(dtype, -2, 2), near]
    )


def angles(dtype: str) -> np.ndarray:
    """Random angles of every size, and the neighbours of multiples of pi/2 up to the largest numbers."""
    top = 37 if dtype == "float32" else 307
    with mpmath.workprec(1400):
        factors = [*range(1, 60), *(int(mpmath.mpf(10) ** k) for k in range(2, top, 5)), 2**20 + 1, 637]
        multiples = np.array([float(mpmath.pi / 2 * k) for k in factors]).astype(dtype)
    nearby = np.concatenate([multiples, np.nextafter(multiples, np.array(0, dtype))])
    # the numbers of each format nearest to a multiple of pi/2
    hardest = np.array([16367173 * 2.0**72] if dtype == "float32" else [6381956970095103 * 2.0**797], dtype)
    usual = [spread(dtype, -10, 10), spread(dtype, -1e4, 1e4, 400), spread(dtype, -1e7, 1e7, 400)]
    return np.concatenate([every_exponent(dtype, 400), special(dtype), nearby, -nearby, hardest, *usual])


def logarithms(dtype: str) -> np.ndarray:
    close = (1 + np.random.default_rng(2).normal(size=400) * 1e-3).astype(dtype)
    return np.concatenate([every_exponent(dtype, 600), special(dtype), spread(dtype, 0.5, 2.0), close])


def nonpositive(dtype: str) -> np.ndarray:
    """Arguments <= 0 whose exponential is a normal number."""
    limit = {"float32": 87.0, "float64": 708.0}[dtype]
    tiny = -np.abs(special(dtype))
    return np.concatenate([spread(dtype, -limit, 0.0), spread(dtype, -2, 0), tiny[tiny > -limit]])


def around(dtype: str) -> np.ndarray:
    """Everything, densely where the functions near exp(x) - 1 bend."""
    near = [spread(dtype, -b, b, 300) for b in (0.1, 1.0, 3.0, 30.0, 100.0, 1000.0)]
    return np.concatenate([every_exponent(dtype, 300), special(dtype), *near])


@dataclasses.dataclass(frozen=True)
class Case:
    rule: Callable[..., Any]
    exact: Callable[..., Any]
    arguments: Callable[[str], np.ndarray]
    bound: float = 2.0


def called(name: str, *constants: float, **options: Any) -> Callable[..., Any]:
    return lambda e, *operands: e.call(name, *operands, *constants, **options)


CASES = {
    "exp": Case(called("exp"), exact_exp, exponents),
    "exp2": Case(called("exp2"), lambda x: exact_exp(x * mpmath.ln2), exponents),
    "exp_scaled": Case(called("exp_scaled", -1.3), lambda x: exact_exp(x * mpmath.mpf(-1.3)), exponents),
    "exp_nonpos": Case(called("exp_nonpos"), exact_exp, nonpositive),
    "exp_scaled_nonpos": Case(
        called("exp_scaled_nonpos", -0.7, accurate=True),
        lambda x: exact_exp(x * mpmath.mpf(-0.7)),
        lambda dtype: -nonpositive(dtype),
    ),
    "exp2_scaled_nonpos": Case(
        called("exp2_scaled_nonpos", -1.0),
        lambda x: exact_exp(-x * mpmath.ln2),
        lambda dtype: -nonpositive(dtype),
    ),
    "log": Case(called("log"), exact_log, logarithms),
    "sin": Case(called("sin"), exact_turning(mpmath.sin), angles),
    "cos": Case(called("cos"), exact_turning(mpmath.cos), angles),
    "rsqrt": Case(called("rsqrt"), exact_rsqrt, logarithms),
    "expm1": Case(called("expm1"), lambda x: exact_exp(x) if x > 2000 else bounded(mpmath.expm1)(x), around),
    "log1p": Case(called("log1p"), exact_log1p, around),
    "sinh": Case(called("sinh"), overflowing(mpmath.sinh), around),
    "cosh": Case(called("cosh"), overflowing(mpmath.cosh), around),
    "tanh": Case(called("tanh"), bounded(mpmath.tanh), around, 3.0),
    "sigmoid": Case(called("sigmoid"), bounded(lambda x: 1 / (1 + mpmath.exp(-x))), around),
    "softplus": Case(called("softplus"), exact_softplus, around),
    "atan": Case(called("atan"), mpmath.atan, around),
    "asin": Case(called("asin"), exact_arc(mpmath.asin), around),
    "acos": Case(called("acos"), exact_arc(mpmath.acos), around),
    "erf": Case(called("erf"), bounded(mpmath.erf, 60), around),
    "erfc": Case(called("erfc"), bounded(mpmath.erfc, 60), around, 3.0),
}


@functools.cache
def exact_case(name: str, dtype: str) -> tuple[np.ndarray, Exact]:
    x = CASES[name].arguments(dtype)
    return x, exact_values(CASES[name].exact, x)


def worst(name: str, dtype: str, rule: Callable[..., Any] | None = None, **options: Any) -> float:
    x, exact = exact_case(name, dtype)
    return float(ulp_errors(simd_harness.evaluate(rule or CASES[name].rule, x, **options), exact).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_error_in_ulps(name: str, dtype: str) -> None:
    assert worst(name, dtype) <= CASES[name].bound


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_error_without_fused_multiply_add(name: str, dtype: str) -> None:
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    tm = simd_harness.machine(cpu="x86-64") if x86 else None
    assert worst(name, dtype, fma=False, tm=tm) <= CASES[name].bound + 1


@pytest.mark.parametrize("scaling", simd_harness.scalings())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("exp")])
def test_error_where_the_machine_scales(name: str, dtype: str, scaling: str) -> None:
    assert worst(name, dtype, scaling=scaling) <= CASES[name].bound


@pytest.mark.parametrize("scaling", simd_harness.scalings())
@pytest.mark.parametrize("dtype", DTYPES)
def test_pow_where_the_machine_scales(dtype: str, scaling: str) -> None:
    rng = np.random.default_rng(5)
    x = np.exp(rng.normal(size=500) * 20).astype(dtype)
    y = (rng.uniform(-1, 1, 500) * {"float32": 105.0, "float64": 746.0}[dtype] / np.log(x)).astype(dtype)
    exact = exact_values(lambda a, b: exact_exp(b * mpmath.log(a)), x, y)
    assert ulp_errors(simd_harness.evaluate(called("pow"), x, y, scaling=scaling), exact).max() <= 2.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_model_of_scaling_is_the_machine(dtype: str) -> None:
    """What other processors test instead of the instructions, tested where they exist."""
    if "machine" not in simd_harness.scalings():
        pytest.skip("this processor has no AVX-512DQ")
    x = np.concatenate([every_exponent(dtype, 3000), special(dtype), spread(dtype, -1200, 1200)])
    n = np.concatenate([np.rint(spread(dtype, -1100, 1100, x.size - 4)), [np.inf, -np.inf, 1e30, -1e30]])
    x = np.where(np.isinf(x), np.array(1.5, dtype), x)
    n = n.astype(dtype)
    for rule, arrays in (
        (lambda e, a: e.fraction(a), [x]),
        (lambda e, a, b: e.scale(a, b), [np.full_like(n, 1.25), n]),
    ):
        model, machine = (simd_harness.evaluate(rule, *arrays, scaling=s) for s in ("model", "machine"))
        assert np.array_equal(model, machine, equal_nan=True)


@pytest.mark.parametrize("name", ["exp", "exp2", "log", "sin", "cos", "rsqrt"])
def test_float32_densely_against_float64(name: str) -> None:
    """A quarter of a million bit patterns; NumPy in float64 is exact enough to judge float32."""
    x = every_exponent("float32", 1 << 18, seed=3)
    got = simd_harness.evaluate(CASES[name].rule, x)
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        reference = 1 / np.sqrt(wide) if name == "rsqrt" else getattr(np, name)(wide)
        spacing = np.maximum(np.spacing(np.abs(reference).astype(np.float32)), np.float32(1e-45)).astype(
            np.float64
        )
        finite = np.isfinite(reference.astype(np.float32)) & (wide != 0)
        errors = np.abs(got - reference)[finite] / spacing[finite]
    assert errors.max() <= 2.0
    assert np.array_equal(np.isnan(got), np.isnan(reference) & (wide != 0 if name == "rsqrt" else True))


# ---------------------------------------------------------------------- powers
@pytest.mark.parametrize("dtype", DTYPES)
def test_pow_in_ulps(dtype: str) -> None:
    rng = np.random.default_rng(4)
    limit = {"float32": 105.0, "float64": 746.0}[dtype]
    x = np.concatenate(
        [np.exp(rng.normal(size=900) * 20), rng.uniform(0.5, 2, 900), 1 + rng.normal(size=300) * 1e-3]
    )
    y = rng.uniform(-limit, limit, x.size) / np.log(x)
    tiny = np.full(60, np.finfo(dtype).tiny / 7)
    x, y = np.concatenate([x, tiny]).astype(dtype), np.concatenate([y, rng.uniform(-1, 1, 60)]).astype(dtype)
    exact = exact_values(lambda a, b: exact_exp(b * mpmath.log(a)), x, y)
    errors = ulp_errors(simd_harness.evaluate(called("pow"), x, y), exact)
    assert errors.max() <= 2.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_pow_special_cases_are_those_of_c(dtype: str) -> None:
    info = np.finfo(dtype)
    positive = [
        0.0,
        1.0,
        2.0,
        3.0,
        0.5,
        0.1,
        1.5,
        7.0,
        np.inf,
        np.nan,
        info.max,
        info.tiny,
        2.0**24,
        2.0**53,
        2.0**23 + 1,
    ]
    values = np.array(positive + [-v for v in positive], dtype)
    x, y = (grid.ravel() for grid in np.meshgrid(values, values))
    got = simd_harness.evaluate(called("pow"), x, y)
    with np.errstate(all="ignore"):
        expected = np.power(x.astype(np.float64), y.astype(np.float64)).astype(dtype)
    assert np.array_equal(np.isnan(got), np.isnan(expected))
    number = ~np.isnan(expected)
    assert np.array_equal(np.signbit(got[number]), np.signbit(expected[number]))
    ordinary = number & np.isfinite(expected) & (expected != 0)
    assert np.array_equal(got[number & ~ordinary], expected[number & ~ordinary])
    np.testing.assert_array_max_ulp(got[ordinary], expected[ordinary], 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 10, 31, -1, -2, -5])
def test_powi_by_repeated_squaring(n: int, dtype: str) -> None:
    info = np.finfo(dtype)
    x = np.concatenate([spread(dtype, -3, 3, 300), np.array([1.0, -1.0, np.nan], dtype)])
    got = simd_harness.evaluate(called("powi", n), x)
    np.testing.assert_allclose(
        got, x.astype(np.longdouble) ** n, rtol=(abs(n) + 1) * info.eps, atol=abs(n) * info.tiny
    )


def test_powi_passes_special_values_on() -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf])
    assert np.array_equal(simd_harness.evaluate(called("powi", -3), x), [np.inf, -np.inf, 0.0, -0.0])
    assert np.array_equal(simd_harness.evaluate(called("powi", 0), x), np.ones(4))


# ---------------------------------------------------------------------- angles of points, gamma, sin(x) / x
@pytest.mark.parametrize("dtype", DTYPES)
def test_atan2_in_ulps(dtype: str) -> None:
    rng = np.random.default_rng(6)
    y, x = (rng.normal(size=(2, 1500)) * np.exp(rng.normal(size=(2, 1500)) * 6)).astype(dtype)
    errors = ulp_errors(simd_harness.evaluate(called("atan2"), y, x), exact_values(mpmath.atan2, y, x))
    assert errors.max() <= 3.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_atan2_special_cases_are_those_of_c(dtype: str) -> None:
    info = np.finfo(dtype)
    values = np.array([0.0, 1.0, 2.5, info.max, info.tiny, info.smallest_subnormal, np.inf, np.nan], dtype)
    y, x = (grid.ravel() for grid in np.meshgrid(*[np.concatenate([values, -values])] * 2))
    got, want = simd_harness.evaluate(called("atan2"), y, x), np.arctan2(y, x)
    assert np.array_equal(np.isnan(got), np.isnan(want))
    number = ~np.isnan(want)
    assert np.array_equal(np.signbit(got[number]), np.signbit(want[number]))
    np.testing.assert_array_max_ulp(got[number], want[number], 3)


def worst_of_size(got: np.ndarray, exact: list[Any]) -> float:
    """The largest error in ulps of the larger of 1 and the exact value; inf where NaN or inf disagree."""
    eps = float(np.finfo(got.dtype).eps)
    errors = []
    for g, e in zip(got.tolist(), exact, strict=True):
        if mpmath.isfinite(e) and np.isfinite(g):
            errors.append(float(abs(mpmath.mpf(g) - e) / max(1, abs(e))) / eps)
        else:
            errors.append(0.0 if g == e or (np.isnan(g) and mpmath.isnan(e)) else np.inf)
    return max(errors)


def gamma_arguments(dtype: str) -> np.ndarray:
    rng = np.random.default_rng(7)
    positive = [rng.uniform(0.1, b, 300) for b in (1.0, 3.0, 12.0, 300.0)]
    negative = np.floor(rng.uniform(-12, 0, 200)) + rng.uniform(0.2, 0.8, 200)
    return np.concatenate([*positive, negative, [1.0, 2.0, 0.0, -1.0, -2.0, np.inf, np.nan]]).astype(dtype)


def exact_lgamma(x: Any) -> Any:
    if not mpmath.isfinite(x) or (x <= 0 and x == mpmath.floor(x)):
        return NAN if mpmath.isnan(x) else INF
    return mpmath.log(abs(mpmath.gamma(x)))


def exact_polygamma(n: int) -> Callable[[Any], Any]:
    def exact(x: Any) -> Any:
        if mpmath.isnan(x) or x == INF:
            return NAN if mpmath.isnan(x) else mpmath.mpf(0) if n else INF
        if x <= 0 and x == mpmath.floor(x):
            return INF if n % 2 else NAN
        return mpmath.psi(n, x)

    return exact


@pytest.mark.parametrize("dtype", DTYPES)
def test_lgamma(dtype: str) -> None:
    x = gamma_arguments(dtype)
    got = simd_harness.evaluate(called("lgamma"), x)
    assert worst_of_size(got, [exact_lgamma(mpmath.mpf(v)) for v in x.tolist()]) <= 4.0
    # relative to the value also near its zeros at 1 and 2
    x = np.concatenate([x[x > 0], 1 + spread(dtype, -0.2, 0.2, 200), 2 + spread(dtype, -0.2, 0.2, 200)])
    assert ulp_errors(simd_harness.evaluate(called("lgamma"), x), exact_values(exact_lgamma, x)).max() <= 4.0
    huge = np.array([1e-30, -1e-30, 1e30, np.inf, -np.inf], dtype)
    exact = [exact_lgamma(mpmath.mpf(v)) for v in huge[:2].tolist()]
    exact += [mpmath.re(mpmath.loggamma(mpmath.mpf(huge[2].item()))), INF, INF]
    assert worst_of_size(simd_harness.evaluate(called("lgamma"), huge), exact) <= 4.0


@pytest.mark.parametrize("n", range(4))
@pytest.mark.parametrize("dtype", DTYPES)
def test_polygamma(dtype: str, n: int) -> None:
    x = gamma_arguments(dtype)
    exact = [exact_polygamma(n)(mpmath.mpf(v)) for v in x.tolist()]
    assert worst_of_size(simd_harness.evaluate(called("polygamma", n), x), exact) <= 8.0


@pytest.mark.parametrize("n", range(4))
@pytest.mark.parametrize("dtype", DTYPES)
def test_derivatives_of_sinxdivx(dtype: str, n: int) -> None:
    x = np.concatenate([spread(dtype, -b, b, 100) for b in (0.01, 5.0, 100.0)])

    def exact(v: float) -> Any:  # the recurrence, with digits enough for what it loses near 0
        with mpmath.workprec(400):
            value = mpmath.sin(v) / v
            for k in range(1, n + 1):
                value = (mpmath.sin(v + k * mpmath.pi / 2) - k * value) / v
            return value

    special_x = np.array([0.0, np.inf, -np.inf, np.nan], dtype)
    got = simd_harness.evaluate(called("sinxdivx", n), np.concatenate([x, special_x]))
    at_zero = mpmath.cos(n * mpmath.pi / 2) / (n + 1)
    wants = [*map(exact, x.tolist()), at_zero, mpmath.mpf(0), mpmath.mpf(0), NAN]
    assert worst_of_size(got, wants) <= 4.0


# ---------------------------------------------------------------------- what the cheap forms promise
CHEAP = {
    "exp_nonpos": (called("exp_nonpos"), -1.0),
    "exp_scaled_nonpos": (called("exp_scaled_nonpos", -0.7), 0.7),
    "exp_scaled_nonpos_accurate": (called("exp_scaled_nonpos", -0.7, accurate=True), 0.7),
    "exp2_scaled_nonpos": (called("exp2_scaled_nonpos", -1.0), np.log(2)),
    "exp2_scaled_nonpos_up": (called("exp2_scaled_nonpos", 1.0), -np.log(2)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CHEAP)
def test_cheap_exponential_underflows_to_exact_zero(name: str, dtype: str) -> None:
    rule, scale = CHEAP[name]
    lowest = {"float32": 126.5, "float64": 1022.5}[dtype] * np.log(2)
    info = np.finfo(dtype)
    below = np.linspace(lowest * 1.0001, lowest * 3, 500) / scale
    x = np.concatenate([below, np.sign(scale) * np.array([1e30, info.max, np.inf])]).astype(dtype)
    assert np.array_equal(simd_harness.evaluate(rule, x), np.zeros_like(x))
    # between there and the smallest normal number the result is within one of those
    x = (np.linspace(lowest * 0.99, lowest * 1.01, 1000) / scale).astype(dtype)
    exact = np.exp(-np.abs(x.astype(np.longdouble) * scale))
    assert np.abs(simd_harness.evaluate(rule, x) - exact).max() < info.tiny
    zero = np.zeros(8, dtype)
    assert np.array_equal(simd_harness.evaluate(rule, zero), np.ones(8, dtype))


@pytest.mark.parametrize("scaling", simd_harness.scalings())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["exp_scaled_nonpos", "exp2_scaled_nonpos", "exp2_scaled_nonpos_up"])
def test_cheap_exponential_where_the_machine_scales(name: str, dtype: str, scaling: str) -> None:
    """Subnormal results instead of zeros, and zeros beyond; infinities and huge arguments too."""
    rule, scale = CHEAP[name]
    info = np.finfo(dtype)
    lowest = {"float32": 126.5, "float64": 1022.5}[dtype] * np.log(2)
    x = (np.linspace(lowest * 0.99, lowest * 1.05, 1000) / scale).astype(dtype)
    exact = np.exp(-np.abs(x.astype(np.longdouble) * scale))
    assert np.abs(simd_harness.evaluate(rule, x, scaling=scaling) - exact).max() < 1e-4 * info.tiny
    x = np.concatenate([np.linspace(lowest * 1.3, lowest * 3, 500) / abs(scale), [1e30, info.max, np.inf]])
    x = (np.sign(scale) * x).astype(dtype)
    assert np.array_equal(simd_harness.evaluate(rule, x, scaling=scaling), np.zeros_like(x))
    assert np.array_equal(simd_harness.evaluate(rule, 0 * x[:8], scaling=scaling), np.ones(8, dtype))


@pytest.mark.parametrize("scaling", ["", *simd_harness.scalings()])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cheap_scaled_exponential_is_as_good_as_a_rounded_argument(dtype: str, scaling: str) -> None:
    x, exact = exact_case("exp_scaled_nonpos", dtype)
    errors = ulp_errors(simd_harness.evaluate(called("exp_scaled_nonpos", -0.7), x, scaling=scaling), exact)
    roundings = 2 if scaling else 1
    assert np.all(errors <= 2.0 + roundings * 0.7 * x)


def payload_nans(dtype: str) -> np.ndarray:
    """Quiet NaNs of both signs with bits in every place of the payload."""
    if dtype == "float32":
        bits = np.array([0x7FC00000 | (1 << k) for k in range(22)] + [0x7FFFFFFF, 0x7FC00000], np.uint32)
        return np.concatenate([bits, bits | np.uint32(1 << 31)]).view(np.float32)
    bits = np.array([0x7FF8000000000000 | (1 << k) for k in range(51)] + [(1 << 63) - 1], np.uint64)
    return np.concatenate([bits, bits | np.uint64(1 << 63)]).view(np.float64)


@pytest.mark.parametrize("scaling", ["", *simd_harness.scalings()])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*CASES, *CHEAP])
def test_every_nan_stays_nan(name: str, dtype: str, scaling: str) -> None:
    rule = CHEAP[name][0] if name in CHEAP else CASES[name].rule
    assert np.isnan(simd_harness.evaluate(rule, payload_nans(dtype), scaling=scaling)).all()


# ---------------------------------------------------------------------- negative controls
@pytest.mark.parametrize("dtype", DTYPES)
def test_control_the_checker_measures_ulps(dtype: str) -> None:
    info = np.finfo(dtype)
    x = np.array([1.0, 1.75, -3.0, info.tiny, info.tiny / 8, info.smallest_subnormal, info.max], dtype)
    exact = exact_values(lambda v: v, x)
    assert np.array_equal(ulp_errors(x, exact), np.zeros(x.size))
    with np.errstate(over="ignore"):
        assert np.array_equal(
            ulp_errors(np.nextafter(x, np.sign(x) * np.array(np.inf, dtype)), exact), np.ones(7)
        )
    half = exact_values(lambda v: v * (1 + mpmath.mpf(2) ** -(info.nmant + 1)), x[:1])
    assert ulp_errors(x[:1], half).tolist() == [0.5]
    for wrong in (np.nan, np.inf, -np.inf):
        assert np.isinf(ulp_errors(np.full(6, wrong, dtype), exact_values(lambda v: v, x[:6]))).all()
    special_values = np.array([0.0, np.inf, -np.inf, np.nan], dtype)
    exact = exact_values(lambda v: v, special_values)
    assert np.array_equal(ulp_errors(special_values, exact), np.zeros(4))
    assert np.isinf(ulp_errors(np.array([info.tiny, info.max, np.inf, 0.0], dtype), exact)).all()


def damaged_format(monkeypatch: pytest.MonkeyPatch, dtype: str, **changes: Any) -> None:
    monkeypatch.setitem(formats.FORMATS, dtype, dataclasses.replace(formats.FORMATS[dtype], **changes))


@pytest.mark.parametrize("name", ["exp", "exp_nonpos", "exp_scaled_nonpos"])
def test_control_swallowed_nan_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    smaller, larger = llvm.Emitter.minimum, llvm.Emitter.maximum
    monkeypatch.setattr(llvm.Emitter, "minimum", lambda e, a, b: smaller(e, b, a))
    monkeypatch.setattr(llvm.Emitter, "maximum", lambda e, a, b: larger(e, b, a))
    assert not np.isnan(simd_harness.evaluate(CASES[name].rule, payload_nans("float32"))).all()


def test_control_exponent_addition_loses_payload_nans(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_addition(t: Any, x: Any) -> Any:
        f = formats.FORMATS[t.dtype]
        shifted = t.sub(f.magic, x)
        r = t.sub(t.sub(f.magic, shifted), x)
        p = t.fma(horner(t, r, f.exp2), r, 1.0)
        return t.real_from_bits(t.iadd(t.bits(p), t.shl(t.bits(shifted), f.mantissa)))

    assert not np.isnan(simd_harness.evaluate(by_addition, payload_nans("float32"))).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_control_shorter_polynomials_are_caught(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    f = formats.FORMATS[dtype]
    short = {field: getattr(f, field)[:-1] for field in ("exp", "exp2", "sin", "cos", "log")}
    damaged_format(monkeypatch, dtype, **short)
    for name in ("exp", "exp2", "exp_nonpos", "sin", "cos", "log"):
        assert worst(name, dtype) > CASES[name].bound, name


@pytest.mark.parametrize("dtype", DTYPES)
def test_control_short_pi_is_caught(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged_format(monkeypatch, dtype, half_pi=formats.FORMATS[dtype].half_pi[:2])
    assert worst("sin", dtype) > 2.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_control_missing_large_reduction_is_caught(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged_format(monkeypatch, dtype, turn_bound=(float("inf"), float("inf")))
    assert worst("cos", dtype) > 2.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_control_single_word_logarithm_is_caught(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    double = lower._log2_double
    monkeypatch.setattr(lower, "_log2_double", lambda t, x: (double(t, x)[0], t.const(0.0)))
    with pytest.raises(AssertionError):
        test_pow_in_ulps(dtype)


def test_control_lost_low_word_of_scale_is_caught() -> None:
    assert worst("exp_scaled_nonpos", "float32", rule=called("exp_scaled_nonpos", -0.7)) > 2.0


# ---------------------------------------------------------------------- other instruction sets
TARGETS = {
    "avx2": ("x86_64-unknown-linux-gnu", "haswell", 32, "ymm"),
    "avx512": ("x86_64-unknown-linux-gnu", "skylake-avx512", 64, "zmm"),
    "neon": ("aarch64-unknown-linux-gnu", "neoverse-n1", 16, None),
}
EMITTED = {
    **{name: (case.rule, 1) for name, case in CASES.items()},
    "pow": (called("pow"), 2),
    "powi": (called("powi", 5), 1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", TARGETS)
def test_rules_become_vector_code_without_library_calls(target: str, dtype: str) -> None:
    triple, cpu, size, register = TARGETS[target]
    lane = 4 if dtype == "float32" else 8
    register = register or {4: r"v\d+\.4s", 8: r"v\d+\.2d"}[lane]
    for name, (rule, arity) in EMITTED.items():
        text = simd_harness.assembly(rule, arity, dtype, size // lane, triple, cpu)
        assert re.search(register, text), f"{name} has no {register}"
        calls = re.findall(r"^\s+(?:callq?|bl|blr)\s.*$", text, re.M)
        assert not calls, f"{name} calls {calls}"


def test_control_library_calls_are_seen() -> None:
    text = simd_harness.assembly(
        lambda e, x: e.intrinsic("llvm.exp", x), 1, "float32", 8, "x86_64-unknown-linux-gnu", "haswell"
    )
    assert re.search(r"^\s+(?:callq?|bl|blr)\s", text, re.M)


@pytest.mark.parametrize("width", [2, 4, 16])
def test_rules_do_not_depend_on_the_width(width: int) -> None:
    x = angles("float32")
    for name in ("exp", "sin"):
        expected = simd_harness.evaluate(CASES[name].rule, x)
        got = simd_harness.evaluate(CASES[name].rule, x, width=width, rows=3)
        assert np.array_equal(expected, got, equal_nan=True)

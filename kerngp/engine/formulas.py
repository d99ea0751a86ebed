"""Kernel formulas by name, each stated once.

Every formula takes x and y *in units of the lengthscale*: ``matern32(x / l, y / l)``. Work on x
alone or on y alone is done once per row, not once per pair, so a lengthscale (one number, or one
for each component) costs nothing, and no formula needs to know about it. Shape parameters follow
as formulas or numbers. `models/kernels.py` wraps these functions as kernel objects; strings name
them in formulas.

Examples
--------
>>> from kerngp.engine.expr import Pm, Vi, Vj
>>> x, y, lengthscale = Vi(0, 3), Vj(1, 3), Pm(2, 3)
>>> FORMULAS["matern32"](x / lengthscale, y / lengthscale).op
'matern32_profile'
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..errors import FormulaError
from .expr import Expr, as_expr, node
from .ops import (
    concat,
    cos,
    dot,
    exp,
    inv,
    log,
    matern32_profile,
    matern52_profile,
    normalize,
    rsqrt,
    sin,
    sinc,
    sqdist,
    sqrt,
    square,
    step,
    total,
)

FORMULAS: dict[str, Callable[..., Expr]] = {}


def named(*names: str) -> Callable[[Callable[..., Expr]], Callable[..., Expr]]:
    """Enter a formula in the registry under its names; a name can be given only once."""

    def enter(f: Callable[..., Expr]) -> Callable[..., Expr]:
        for name in names:
            if name in FORMULAS:
                raise FormulaError(f"formula {name!r} is already defined; choose another name.")
            FORMULAS[name] = f
        return f

    return enter


# ---------------------------------------------------------------- functions of the distance


@named("gaussian", "rbf")
def gaussian(x: Expr, y: Expr) -> Expr:
    """exp(-|x - y|^2 / 2)."""
    return exp(-0.5 * sqdist(x, y))


@named("laplacian")
def laplacian(x: Expr, y: Expr) -> Expr:
    """exp(-sum_d |x_d - y_d|), the product of one-dimensional exponential kernels."""
    return exp(-total(abs(x - y)))


@named("matern12", "exponential")
def matern12(x: Expr, y: Expr) -> Expr:
    """exp(-r), r = |x - y|; its gradient at x = y, where none exists, is taken as 0."""
    return exp(-sqrt(sqdist(x, y)))


@named("matern32")
def matern32(x: Expr, y: Expr) -> Expr:
    """(1 + s) exp(-s), s = sqrt(3) |x - y|."""
    return matern32_profile(sqdist(x, y))


@named("matern52")
def matern52(x: Expr, y: Expr) -> Expr:
    """(1 + s + s^2 / 3) exp(-s), s = sqrt(5) |x - y|."""
    return matern52_profile(sqdist(x, y))


@named("rational_quadratic")
def rational_quadratic(x: Expr, y: Expr, alpha: Expr | float = 1.0) -> Expr:
    """(1 + |x - y|^2 / (2 alpha))^-alpha, a mixture of Gaussians over lengthscales."""
    alpha = as_expr(alpha)
    return exp(-(alpha * log(1.0 + sqdist(x, y) * (0.5 * inv(alpha)))))


@named("cauchy")
def cauchy(x: Expr, y: Expr) -> Expr:
    """1 / (1 + |x - y|^2)."""
    return inv(1.0 + sqdist(x, y))


@named("inverse_multiquadric")
def inverse_multiquadric(x: Expr, y: Expr) -> Expr:
    """1 / sqrt(1 + |x - y|^2)."""
    return rsqrt(1.0 + sqdist(x, y))


@named("periodic")
def periodic(x: Expr, y: Expr, lengthscale: Expr | float = 1.0) -> Expr:
    """exp(-2 sum_d sin^2(pi (x_d - y_d)) / l_d^2); x and y in units of the period.

    Written as a Gaussian of points on circles: |e^{2 pi i x} - e^{2 pi i y}|^2 = 4 sin^2(pi (x - y)),
    so that sines are taken once for each row and never for each pair.
    """
    scale = inv(as_expr(lengthscale))

    def circle(z: Expr) -> Expr:
        angle = (2.0 * math.pi) * z
        return concat(cos(angle) * scale, sin(angle) * scale)

    return gaussian(circle(x), circle(y))


@named("exp_sine_squared")
def exp_sine_squared(x: Expr, y: Expr, lengthscale: Expr | float = 1.0) -> Expr:
    """exp(-2 sin^2(pi |x - y|) / l^2); x and y in units of the period.

    Indefinite beyond one component. The sine of pi r is pi r sinc(r), with all its derivatives at r = 0.
    """
    d2 = sqdist(x, y)
    return exp((-2.0 * math.pi**2) * (d2 * square(sinc(sqrt(d2)) / as_expr(lengthscale))))


# ---------------------------------------------------------------- functions of the scalar product


@named("linear")
def linear(x: Expr, y: Expr) -> Expr:
    """<x, y>."""
    return dot(x, y)


@named("polynomial")
def polynomial(x: Expr, y: Expr, degree: int | Expr | float = 3, coef0: Expr | float = 1.0) -> Expr:
    """(<x, y> + coef0)^degree; an integer degree is a product, any other needs a positive base."""
    return (dot(x, y) + as_expr(coef0)) ** degree


@named("cosine")
def cosine(x: Expr, y: Expr) -> Expr:
    """<x, y> / (|x| |y|), and 0 where x or y vanishes."""
    return dot(normalize(x), normalize(y))


@named("sigmoid")
def sigmoid(x: Expr, y: Expr, coef0: Expr | float = 1.0) -> Expr:
    """tanh(<x, y> + coef0); symmetric but not positive semi-definite."""
    return hyperbolic_tangent(dot(x, y) + as_expr(coef0))


def hyperbolic_tangent(z: Expr) -> Expr:
    """tanh(z). No exponential overflows and the derivative at 0 is 1, because sign(z) is a constant here."""
    sign = 2.0 * step(z) - 1.0
    e = exp(-2.0 * (sign * z))
    return sign * ((1.0 - e) / (1.0 + e))


# ---------------------------------------------------------------- histograms


@named("additive_chi2")
def additive_chi2(x: Expr, y: Expr) -> Expr:
    """-sum_d (x_d - y_d)^2 / (x_d + y_d) of non-negative vectors; 0 / 0 counts as 0."""
    s = x + y
    return -total(square(x - y) / (s + node("eq", s, as_expr(0.0))))


@named("chi2")
def chi2(x: Expr, y: Expr) -> Expr:
    """exp(-sum_d (x_d - y_d)^2 / (x_d + y_d)) of non-negative vectors."""
    return exp(additive_chi2(x, y))

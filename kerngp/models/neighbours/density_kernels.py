"""Kernels of density estimates: formulas of the distance, their integrals, and random radii."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from ...engine.expr import Expr, node
from ...engine.ops import cos, square

# log of the integral over the radius, int_0^1 (or infinity) k(r) r^(d-1) dr, for bandwidth 1
Integral = Callable[[int], float]
Radii = Callable[[np.random.RandomState, int, int], np.ndarray]


@dataclass(frozen=True)
class DensityKernel:
    """A kernel k(r) of the scaled distance r = d / h.

    Attributes
    ----------
    formula : callable (r) -> Expr
        log k if ``logarithmic``, else k where r < 1; elsewhere it is 0.
    logarithmic : bool
        Whether k is positive everywhere, and its logarithm is the formula.
    integral : callable
        log of the integral of k(r) r^(D - 1) over r, for D dimensions.
    radii : callable (random, D, size) -> ndarray
        Random numbers with a density proportional to k(r) r^(D - 1).
    """

    formula: Callable[[Expr], Expr]
    logarithmic: bool
    integral: Integral
    radii: Radii

    def expression(self, distance: Expr, scale: Expr) -> Expr:
        """The formula of a distance and 1 / h."""
        r = distance * scale
        return self.formula(r) if self.logarithmic else self.formula(r) * node("lt", r, 1.0 + 0.0 * scale)

    def log_norm(self, bandwidth: float, dim: int) -> float:
        """log of the factor by which k(d / h) becomes a density of dim-dimensional points.

        The area of the unit sphere times the integral over the radius is what it divides by.
        """
        sphere = math.log(2.0) + 0.5 * dim * math.log(math.pi) - float(gammaln(0.5 * dim))
        return -sphere - self.integral(dim) - dim * math.log(bandwidth)


def _gaussian(r: Expr) -> Expr:
    return -0.5 * square(r)


def _one(r: Expr) -> Expr:
    return 1.0 + 0.0 * r


def _epanechnikov(r: Expr) -> Expr:
    return 1.0 - square(r)


def _exponential(r: Expr) -> Expr:
    return -r


def _linear(r: Expr) -> Expr:
    return 1.0 - r


def _cosine(r: Expr) -> Expr:
    return cos(r * (0.5 * math.pi))


# ---------------------------------------------------------------- integrals


def _gaussian_integral(d: int) -> float:
    return (0.5 * d - 1.0) * math.log(2.0) + float(gammaln(0.5 * d))


def _cosine_integral(d: int) -> float:
    """By the series of sin(pi s / 2), s = 1 - r: sum_k (-1)^k (pi/2)^(2k+1) (d-1)! / (d+2k+1)!."""
    term = total = 1.0
    for k in range(12):
        term *= -((0.5 * math.pi) ** 2) / ((d + 2 * k + 2) * (d + 2 * k + 3))
        total += term
    return math.log(0.5 * math.pi) - math.log(d * (d + 1.0)) + math.log(total)


# ---------------------------------------------------------------- random radii


def _cosine_radii(random: np.random.RandomState, d: int, size: int) -> np.ndarray:
    """By rejection: cos(pi r / 2) is at most pi/2 times 1 - r."""
    out = np.empty(0)
    while len(out) < size:
        r = random.beta(d, 2.0, size=size)
        kept = random.uniform(size=size) * 0.5 * np.pi * (1.0 - r) < np.cos(0.5 * np.pi * r)
        out = np.concatenate([out, r[kept]])
    return out[:size]


DENSITY_KERNELS = {
    "gaussian": DensityKernel(
        _gaussian, True, _gaussian_integral, lambda g, d, n: np.sqrt(g.chisquare(d, size=n))
    ),
    "tophat": DensityKernel(
        _one, False, lambda d: -math.log(d), lambda g, d, n: g.uniform(size=n) ** (1.0 / d)
    ),
    "epanechnikov": DensityKernel(
        _epanechnikov,
        False,
        lambda d: math.log(2.0) - math.log(d * (d + 2.0)),
        lambda g, d, n: np.sqrt(g.beta(0.5 * d, 2.0, size=n)),
    ),
    "exponential": DensityKernel(
        _exponential, True, lambda d: float(gammaln(d)), lambda g, d, n: g.gamma(d, size=n)
    ),
    "linear": DensityKernel(
        _linear, False, lambda d: -math.log(d * (d + 1.0)), lambda g, d, n: g.beta(d, 2.0, size=n)
    ),
    "cosine": DensityKernel(_cosine, False, _cosine_integral, _cosine_radii),
}

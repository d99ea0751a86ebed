"""Formulas with a name of their own: scalar products, norms, distances."""

from __future__ import annotations

from ...errors import FormulaError
from ..expr import Expr, const, node
from .arithmetic import square
from .elementary import rsqrt, sqrt
from .tensors import symsqnorm

__all__ = [
    "dot",
    "mean",
    "nonzero",
    "norm2",
    "normalize",
    "sqdist",
    "sqnorm2",
    "weighted_sqdist",
    "weighted_sqnorm",
]


def dot(a: Expr, b: Expr) -> Expr:
    """Scalar product <a, b>; two vectors of one dim."""
    if a.dim != b.dim:
        raise FormulaError(f"scalar product of vectors of dims {a.dim} and {b.dim}: they must be equal.")
    return node("sum", a * b)


def mean(a: Expr) -> Expr:
    """The mean of the components."""
    return node("sum", a) / a.dim


def nonzero(a: Expr) -> Expr:
    """1 for each component that is not 0 (NaN is not), else 0."""
    return node("ne", a, const(0.0))


def sqnorm2(a: Expr) -> Expr:
    """Squared Euclidean norm."""
    return node("sum", square(a))


def norm2(a: Expr) -> Expr:
    """Euclidean norm; gradient 0 at the origin."""
    return sqrt(sqnorm2(a))


def normalize(a: Expr) -> Expr:
    """a / |a|, and 0 at the origin."""
    return rsqrt(sqnorm2(a)) * a


def sqdist(a: Expr, b: Expr) -> Expr:
    """Squared Euclidean distance."""
    if a.dim != b.dim:
        raise FormulaError(f"squared distance of vectors of dims {a.dim} and {b.dim}: they must be equal.")
    return sqnorm2(a - b)


def weighted_sqnorm(s: Expr, a: Expr) -> Expr:
    """<a, S a>: s holds one weight, one weight for each component, or a D x D matrix by rows."""
    if s.dim == 1:
        return s * sqnorm2(a)
    if s.dim == a.dim:
        return node("sum", s * square(a))
    if s.dim == a.dim**2:
        return symsqnorm(s, a)
    raise FormulaError(
        f"weights of dim {s.dim} for a vector of dim {a.dim}: expected 1, {a.dim} or {a.dim**2}."
    )


def weighted_sqdist(s: Expr, a: Expr, b: Expr) -> Expr:
    """<a - b, S (a - b)>; see `weighted_sqnorm` for the forms of s."""
    return weighted_sqnorm(s, a - b)

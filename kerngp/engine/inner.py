"""Reductions over the components of one vector, as formulas: f_ij in, a scalar for each pair out."""

from __future__ import annotations

from collections.abc import Callable

from .expr import Expr, const, node
from .ops import clamp, exp, ifelse, log, maximum, minimum, total

# log-sum-exp shifts by the largest component, kept finite in every float dtype the engine computes in
_LARGE = 3e38


def vector_min(f: Expr) -> Expr:
    """The smallest component."""
    return _fold(f, minimum)


def vector_max(f: Expr) -> Expr:
    """The largest component."""
    return _fold(f, maximum)


def vector_argmin(f: Expr) -> Expr:
    """The number of the smallest component, as a float (ties: the first)."""
    best, where = f[0], ifelse(f[0], 0.0, 0.0)  # still a formula of f, so that the sizes of a call are known
    for k in range(1, f.dim):
        where = ifelse(f[k] - best, where, float(k))
        best = minimum(best, f[k])
    return where


def vector_argmax(f: Expr) -> Expr:
    """The number of the largest component, as a float (ties: the first)."""
    return vector_argmin(-f)


def vector_logsumexp(f: Expr) -> Expr:
    """log of the sum of the exponentials of the components."""
    shift = clamp(vector_max(f), -_LARGE, _LARGE)
    return shift + log(total(exp(f - shift)))


def vector_prod(f: Expr) -> Expr:
    """The product of the components."""
    return _fold(f, lambda a, b: a * b)


def vector_mean(f: Expr) -> Expr:
    """The mean of the components."""
    return total(f) / float(f.dim)


def vector_count(f: Expr) -> Expr:
    """How many components are nonzero."""
    return total(node("ne", f, const(0.0)))


def vector_any(f: Expr) -> Expr:
    """1 if a component is nonzero, else 0."""
    return vector_max(node("ne", f, const(0.0)))


def vector_all(f: Expr) -> Expr:
    """1 if all components are nonzero, else 0."""
    return vector_min(node("ne", f, const(0.0)))


def _fold(f: Expr, step: Callable[[Expr, Expr], Expr]) -> Expr:
    out = f[0]
    for k in range(1, f.dim):
        out = step(out, f[k])
    return out


INNER: dict[str, Callable[[Expr], Expr]] = {
    "sum": total,
    "min": vector_min,
    "max": vector_max,
    "argmin": vector_argmin,
    "argmax": vector_argmax,
    "logsumexp": vector_logsumexp,
    "prod": vector_prod,
    "mean": vector_mean,
    "count": vector_count,
    "any": vector_any,
    "all": vector_all,
}

"""Reductions over the components of one vector, as formulas: f_ij in, a scalar for each pair out."""

from __future__ import annotations

from collections.abc import Callable

from .expr import Expr
from .ops import (
    clamp,
    exp,
    log,
    mean,
    nonzero,
    prod,
    total,
    vector_argmax,
    vector_argmin,
    vector_max,
    vector_min,
)

# log-sum-exp shifts by the largest component, kept finite in every float dtype the engine computes in
_LARGE = 3e38


def vector_logsumexp(f: Expr) -> Expr:
    """log of the sum of the exponentials of the components."""
    shift = clamp(vector_max(f), -_LARGE, _LARGE)
    return shift + log(total(exp(f - shift)))


def vector_count(f: Expr) -> Expr:
    """How many components are nonzero."""
    return total(nonzero(f))


def vector_any(f: Expr) -> Expr:
    """1 if a component is nonzero, else 0."""
    return vector_max(nonzero(f))


def vector_all(f: Expr) -> Expr:
    """1 if all components are nonzero, else 0."""
    return vector_min(nonzero(f))


INNER: dict[str, Callable[[Expr], Expr]] = {
    "sum": total,
    "mean": mean,
    "prod": prod,
    "min": vector_min,
    "max": vector_max,
    "argmin": vector_argmin,
    "argmax": vector_argmax,
    "logsumexp": vector_logsumexp,
    "count": vector_count,
    "any": vector_any,
    "all": vector_all,
}

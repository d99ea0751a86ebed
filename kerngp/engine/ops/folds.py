"""The largest and the smallest component of a vector, and where they are; one-hot vectors."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ...errors import FormulaError
from ..expr import Expr, Op, define, node

__all__ = ["one_hot", "prod", "vector_argmax", "vector_argmin", "vector_max", "vector_min"]


def _one_hot_dim(dims: tuple[int, ...], attr: tuple) -> int:
    if dims[0] != 1 or attr[0] < 1:
        raise FormulaError(
            f"one_hot: expected a number and a length of at least 1, got a vector of dim {dims[0]} and "
            f"length {attr[0]}."
        )
    return attr[0]


def _one_hot(a: torch.Tensor, n: int) -> torch.Tensor:
    return (torch.floor(a + 0.5) == torch.arange(n, dtype=a.dtype, device=a.device)).to(a.dtype)


def _lower_one_hot(low, e: Expr, d):
    t = low.e
    place = t.floor(t.add(low.scalar(e.args[0]), 0.5))
    return t.select(t.eq(place, low.number(d)), t.const(1.0), t.const(0.0))


define(
    Op(
        "one_hot",
        1,
        _one_hot_dim,
        _one_hot,
        lambda e, g: (None,),
        lower=_lower_one_hot,
        sign=lambda s, attr: 1,
        doc="a vector of length n, 1 at the component whose number is a, rounded, and 0 elsewhere",
    )
)


def _better(largest: bool) -> Callable:
    """Step of a search; the first of equal components wins, and a NaN ends it, as in torch."""

    def step(t, state: tuple, x, number) -> tuple:
        best, where = state
        beats = t.gt(x, best) if largest else t.lt(x, best)
        beats = t.mask_and(t.mask_or(beats, t.isnan(x)), t.mask_not(t.isnan(best)))
        return t.select(beats, x, best), t.select(beats, number, where)

    return step


def _search(name: str, largest: bool, word: str) -> None:
    start = (-math.inf if largest else math.inf, 0.0)
    step = _better(largest)
    amax, arg = (torch.amax, torch.argmax) if largest else (torch.amin, torch.argmin)
    define(
        Op(
            f"arg{name}",
            1,
            lambda dims, attr: 1,
            lambda a: arg(a, -1, keepdim=True).to(a.dtype),
            lambda e, g: (None,),
            lower=lambda low, e, d: low.fold(e.args[0], start, step)[1],
            sign=lambda s, attr: 1,
            doc=f"the number of the {word} component, the first of equal ones",
        )
    )
    define(
        Op(
            name,
            1,
            lambda dims, attr: 1,
            lambda a: amax(a, -1, keepdim=True),
            lambda e, g: (one_hot(node(f"arg{name}", e.args[0]), e.args[0].dim) * g,),
            lower=lambda low, e, d: low.fold(e.args[0], start, step)[0],
            fold=lambda args, attr: args[0] if args[0].dim == 1 else None,
            sign=lambda s, attr: s[0],
            doc=f"the {word} component",
        )
    )


_search("max", True, "largest")
_search("min", False, "smallest")


def one_hot(a: Expr, n: int) -> Expr:
    """A vector of length n: 1 at the component whose number is a, rounded, and 0 elsewhere."""
    return node("one_hot", a, attr=(n,))


def vector_max(a: Expr) -> Expr:
    """The largest component."""
    return node("max", a)


def vector_min(a: Expr) -> Expr:
    """The smallest component."""
    return node("min", a)


def vector_argmax(a: Expr) -> Expr:
    """The number of the largest component, the first of equal ones."""
    return node("argmax", a)


def vector_argmin(a: Expr) -> Expr:
    """The number of the smallest component, the first of equal ones."""
    return node("argmin", a)


def prod(a: Expr) -> Expr:
    """The product of the components, of halves: its derivatives need no quotient."""
    left: list[Expr] = []
    while a.dim > 1:
        half = a.dim // 2
        if a.dim % 2:
            left.append(a[a.dim - 1])
        a = a[:half] * a[half : 2 * half]
    for x in left:
        a = a * x
    return a

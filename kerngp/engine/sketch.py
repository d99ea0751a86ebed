"""Formulas while `torch.compile` looks on: their texts.

The compiler cannot follow how formulas are interned, but it calls functions of constants and takes
their results for constants. So what LazyTensors build under its eyes is a text, with what they ask of
a formula; the operator of `compiled` reads texts anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .expr import Expr
from .operands import Places, put_together
from .text import formula_of, formula_text


class Sketch:
    """A formula's text, its dim and its op."""

    __slots__ = ("dim", "op", "text")

    def __init__(self, text: str, dim: int, op: str) -> None:
        self.text, self.dim, self.op = text, dim, op

    # a graph may break while a sketch is alive: it can then be read like the formula it stands for

    @property
    def args(self) -> tuple[Expr, ...]:
        return formula_of(self.text).args

    @property
    def attr(self) -> tuple:
        return formula_of(self.text).attr

    @property
    def axes(self) -> frozenset[str]:
        return formula_of(self.text).axes

    def __repr__(self) -> str:
        return repr(formula_of(self.text))


def sketch(
    make: str | Callable[..., Expr], attr: tuple, places: tuple[Places, ...], parts: tuple[Any, ...]
) -> Any:
    """`operands.build` of sketches and formulas."""
    return Sketch(*_put_together(make, attr, places, *[known(p) for p in parts]))


def known(f: Any) -> Any:
    """What a function of constants can be given: a text, or a formula from before."""
    return f.text if isinstance(f, Sketch) else f


def formula(given: str | Sketch | Expr) -> Expr:
    """The formula that a text or a sketch stands for."""
    if isinstance(given, Sketch):
        return formula_of(given.text)
    return formula_of(given) if isinstance(given, str) else given


@torch.compiler.assume_constant_result
def _put_together(make: Any, attr: tuple, places: tuple[Places, ...], *given: str | Expr) -> tuple:
    f = put_together(make, attr, places, *map(formula, given))
    return formula_text(f), f.dim, f.op

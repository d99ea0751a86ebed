"""Rows of a table, looked up by their number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from ...errors import FormulaError
from ..expr import Expr, Op, define, node
from .folds import one_hot
from .tensors import tensorprod

__all__ = ["gather"]

FEW = 4  # rows that are compared one by one, without a loop


def _dim(dims: tuple[int, ...], attr: tuple) -> int:
    rows, dim = attr
    if dims != (rows * dim, 1):
        raise FormulaError(
            f"gather: expected a table of {rows} x {dim} numbers and one index, got vectors of dims {dims}."
        )
    return dim


def _reference(table: torch.Tensor, index: torch.Tensor, rows: int, dim: int) -> torch.Tensor:
    shape = np.broadcast_shapes(table.shape[:-1], index.shape[:-1])
    at = torch.floor(index + 0.5)
    exists = (at >= 0) & (at < rows)
    first = torch.where(exists, at, torch.zeros_like(at)).long() * dim
    places = (first + torch.arange(dim, device=index.device)).expand(*shape, dim)
    found = torch.gather(table.expand(*shape, rows * dim), -1, places)
    return torch.where(exists, found, torch.full_like(found, math.nan))


def _lower(low: Any, e: Expr, d: Any) -> Any:
    (table, index), (rows, dim), t = e.args, e.attr, low.e
    at, column = t.floor(t.add(low.scalar(index), 0.5)), d if isinstance(d, int) else d.value

    if rows > FEW and table.op == "var" and table.axes == {"p"}:  # in memory, the same for all pairs
        exists = t.mask_and(t.ge(at, 0.0), t.lt(at, float(rows)))
        safe = t.select(exists, at, t.const(0.0))
        found = t.gather(safe, lambda r: low.leaf(table, low.place((r, column), (rows, dim))))
        return t.select(exists, found, t.const(math.nan))

    def look(r: Any, found: Any, number: Any) -> Any:
        return t.select(t.eq(at, number), low.component(table, low.place((r, column), (rows, dim))), found)

    if rows <= FEW:
        found = t.const(math.nan)
        for r in range(rows):
            found = look(r, found, t.const(float(r)))
        return found
    low.settle(table)
    register = t.var(t.expand(t.const(math.nan), low.shape(e.axes)))
    with t.loop(0, rows) as r, low.scope():
        register.set(look(r, register.get(), t.index_real(r)))
    return register.get()


define(
    Op(
        "gather",
        2,
        _dim,
        _reference,
        lambda e, g: (tensorprod(one_hot(e.args[1], e.attr[0]), g), None),
        lower=_lower,
        sign=lambda s, attr: s[0],
        doc="row number a, rounded, of a table stored by rows; NaN where there is no such row",
    )
)


def gather(table: Expr, index: Expr, dim: int) -> Expr:
    """Row number ``index``, rounded, of a table of rows of ``dim`` numbers; NaN where there is no such row.

    Raises
    ------
    FormulaError
        If the table is not made of whole rows, or the index is no number.
    """
    if dim < 1 or table.dim % dim:
        raise FormulaError(f"gather: a table of {table.dim} numbers has no rows of {dim}.")
    return node("gather", table, index, attr=(table.dim // dim, dim))

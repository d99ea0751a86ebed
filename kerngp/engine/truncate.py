"""Which pairs of a decaying kernel matter: boxes of points are skipped where a bound says all is small."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import OptionError, ShapeError
from .bounds import Interval, magnitude
from .expr import Expr, variables
from .plan import Output, measure, shapes_of
from .ranges import Ranges
from .reductions import SUM
from .tree import Tree, build_tree

Tensor = torch.Tensor

LEAF = 64  # points of a leaf: about a tile of rows
MOST = 1 << 23  # pairs of leaves; larger leaves are taken beyond
CHUNK = 1 << 14  # pairs of boxes bounded at once, in the cache
ROUNDING = 1e-9  # relative, allowed for in bounds


@dataclass(frozen=True, eq=False)
class Near:
    """The pairs that matter.

    rows, columns : orders of i and of j in which near points are neighbours.
    ranges : the pairs, in these orders.
    """

    rows: Tensor
    columns: Tensor
    ranges: Ranges


def near_pairs(
    expr: Expr,
    args: Sequence[Tensor],
    tol: float,
    *,
    sizes: tuple[int | None, int | None] = (None, None),
    leaf: int = LEAF,
) -> Near:
    """Blocks of pairs that hold every pair with |F_ij| > tol.

    Parameters
    ----------
    expr : Expr
    args : sequence of torch.Tensor
        As for `map_reduce`, without batch axes.
    tol : float
        What is left out has |F_ij| <= tol, in every component, up to the rounding of F itself.
    sizes : (M, N)
        Needed only when no argument is indexed by that axis.
    leaf : int
        Points of the smallest boxes.

    Raises
    ------
    ShapeError, OptionError, and those of `map_reduce`.

    Examples
    --------
    >>> from kerngp.engine.expr import Vi, Vj
    >>> from kerngp.engine.ops import exp, sqdist
    >>> x = torch.linspace(0, 100, 1000)[:, None]
    >>> near_pairs(exp(-sqdist(Vi(0, 1), Vj(1, 1))), (x, x), 1e-6).ranges.pairs
    180750
    """
    if not (tol >= 0 and math.isfinite(tol)):
        raise OptionError(f"tol={tol!r}: expected a number >= 0.")
    g = measure((Output(expr, SUM),), shapes_of(tuple(args)), sizes)
    if g.batch:
        raise ShapeError(f"the arguments have batch axes {g.batch}; truncate one batch element at a time.")
    leaf = max(2, leaf, math.isqrt(g.M * g.N // MOST))
    trees = [_tree(expr, args, axis, n, leaf) for axis, n in (("i", g.M), ("j", g.N))]
    if 0 in (g.M, g.N):
        pairs = np.zeros((2, 0), np.int64)
    else:
        pairs = _descend(expr, args, trees[0], trees[1], tol)
    ranges = Ranges.from_pairs(trees[0].leaves, trees[1].leaves, pairs[0], pairs[1])
    rows, columns = (torch.from_numpy(t.order).to(g.device) for t in trees)
    return Near(rows, columns, ranges)


def _tree(expr: Expr, args: Sequence[Tensor], axis: str, n: int, leaf: int) -> Tree:
    own = [args[v.attr[0]].detach().double() for v in variables(expr) if v.attr[2] == axis]
    if n == 0:
        return Tree(np.zeros(0, np.int64), np.zeros(1, np.int64))
    return build_tree(torch.cat(own, -1) if own else torch.zeros(n, 1), leaf)


def _descend(expr: Expr, args: Sequence[Tensor], rows: Tree, columns: Tree, tol: float) -> np.ndarray:
    """Pairs of leaves with a large bound, from the roots downwards: pairs of small bound end on the way."""
    boxes: dict[int, list[Interval]] = {}
    for v in variables(expr):
        a = args[v.attr[0]]
        if v.attr[2] == "p":
            value = a.detach().double().cpu()
            boxes[v.attr[0]] = [(value, value)]
        else:
            boxes[v.attr[0]] = (rows if v.attr[2] == "i" else columns).boxes(a)
    bound = functools.partial(_bound, expr, boxes)
    level, pairs = [0, 0], np.zeros((2, 1), np.int64)
    while True:
        parts = [pairs[:, k : k + CHUNK] for k in range(0, pairs.shape[1], CHUNK)]
        small = [bound(part, level).numpy() * (1 + ROUNDING) <= tol for part in parts]
        pairs = pairs[:, ~np.concatenate(small)] if small else pairs
        left = [rows.depth - level[0], columns.depth - level[1]]
        if not any(left) or not pairs.size:
            return pairs
        for side in (0, 1):
            if left[side] == max(left):
                pairs = np.repeat(pairs, 2, 1)
                pairs[side] = 2 * pairs[side] + np.arange(pairs.shape[1]) % 2
                level[side] += 1


def _bound(expr: Expr, boxes: dict[int, list[Interval]], pairs: np.ndarray, level: list[int]) -> Tensor:
    """The largest |F| over pairs of boxes."""
    at: dict[int, Interval] = {}
    for v in variables(expr):
        k, _, axis = v.attr
        if axis == "p":
            at[k] = boxes[k][0]
        else:
            side = "ij".index(axis)
            lo, hi = boxes[k][level[side]]
            node = torch.from_numpy(pairs[side])
            at[k] = lo[node], hi[node]
    return magnitude(expr, at).expand(pairs.shape[1])

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
Box = tuple[np.ndarray, np.ndarray]  # lowest and highest values of each node of a level

LEAF = 64  # points of a leaf: about a tile of rows
MOST = 1 << 23  # pairs of leaves; larger leaves are taken beyond
CHUNK = 1 << 13  # pairs of boxes bounded at once, in the cache
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
    >>> near_pairs(exp(-sqdist(Vi(0, 1), Vj(1, 1))), (x, x), 1e-6).ranges.pairs / 1000**2 < 0.2
    True
    """
    if not (tol >= 0 and math.isfinite(tol)):
        raise OptionError(f"tol={tol!r}: expected a number >= 0.")
    g = measure((Output(expr, SUM),), shapes_of(tuple(args)), sizes)
    if g.batch:
        raise ShapeError(f"the arguments have batch axes {g.batch}; truncate one batch element at a time.")
    leaf = max(2, leaf, math.isqrt(g.M * g.N // MOST))
    own = [[args[v.attr[0]] for v in variables(expr) if v.attr[2] == axis] for axis in "ij"]
    rows = _tree(own[0], g.M, leaf)
    shared = g.M == g.N and list(map(id, own[0])) == list(map(id, own[1]))
    trees = (rows, rows if shared else _tree(own[1], g.N, leaf))
    if 0 in (g.M, g.N):
        pairs = np.zeros((2, 0), np.int64)
    else:
        pairs = _descend(expr, args, trees[0], trees[1], tol)
    ranges = Ranges.from_pairs(trees[0].leaves, trees[1].leaves, pairs[0], pairs[1])
    order_i, order_j = (torch.from_numpy(t.order).to(g.device) for t in trees)
    return Near(order_i, order_j, ranges)


def _tree(own: list[Tensor], n: int, leaf: int) -> Tree:
    """The tree of all that a formula knows of the points of one axis."""
    if n == 0:
        return Tree(np.zeros(0, np.int64), np.zeros(1, np.int64))
    points = [a.detach().double() for a in own]
    return build_tree(torch.cat(points, -1) if own else torch.zeros(n, 1), leaf)


def _descend(expr: Expr, args: Sequence[Tensor], rows: Tree, columns: Tree, tol: float) -> np.ndarray:
    """Pairs of leaves with a large bound, from the roots downwards: pairs of small bound end on the way."""
    boxes: dict[int, list[Box]] = {}
    for v in variables(expr):
        a = args[v.attr[0]]
        if v.attr[2] == "p":
            value = a.detach().double().cpu().numpy()
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


def _bound(expr: Expr, boxes: dict[int, list[Box]], pairs: np.ndarray, level: list[int]) -> Tensor:
    """The largest |F| over pairs of boxes."""
    at: dict[int, Interval] = {}
    for v in variables(expr):
        k, _, axis = v.attr
        if axis == "p":
            lo, hi = boxes[k][0]
        else:
            side = "ij".index(axis)
            lo, hi = (end[pairs[side]] for end in boxes[k][level[side]])
        at[k] = torch.from_numpy(lo), torch.from_numpy(hi)
    return magnitude(expr, at).expand(pairs.shape[1])

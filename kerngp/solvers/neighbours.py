"""For each point the nearest among those before it, in an order of the points.

Near means highly correlated: |a_ij| / sqrt(a_ii a_jj) is large. There are three ways, from cheap to general:
a k-d tree where the formula shows a distance in few dimensions, a pass of the engine over the pairs
(i, j < i) for any formula, and rows of the operator.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from .. import options as _options
from ..engine.expr import Expr, Pm, Vi, Vj, node, variables
from ..engine.mapreduce import map_reduce
from ..engine.ops import sqdist
from ..engine.ranges import Ranges
from ..engine.reductions import KMIN_ARGKMIN
from .coordinates import coordinates
from .kernel_operator import KernelOperator
from .meter import count
from .operator import AddedDiagonal, LinearOperator

Tensor = torch.Tensor
TREE_DIMENSIONS = 10  # beyond this a tree looks at nearly all points
GROWTH = 1.5  # of the sets that trees are built for
FAR = 4.0  # added to what comes later in the order; correlations and scaled distances are at most 1
BLOCKS = 32  # of rows in a pass: the pairs of a block with itself are computed in vain


def neighbours_before(A: LinearOperator, order: Tensor, m: int, points: Tensor | None = None) -> Tensor:
    """The m nearest of the points before each one, nearest first; a few far ones may be missed.

    Parameters
    ----------
    A : LinearOperator of shape (n, n), symmetric
    order : int64 tensor of shape (n,)
        ``order[0]`` comes first.
    m : int
    points : tensor of shape (n, D), optional
        See `coordinates`, which is asked if they are not given.

    Returns
    -------
    int32 tensor of shape (n, m)
        Row i belongs to point i, whatever its place in the order; -1 where there are fewer.
    """
    n = A.shape[-1]
    width, m = m, min(m, n - 1)
    K = A.base if isinstance(A, AddedDiagonal) else A
    with torch.no_grad():
        points = coordinates(K) if points is None else points
        if points is not None and not bool(torch.isfinite(points).all()):
            points = None
        if m == 0:
            found = order.new_full((n, m), -1)
        elif points is not None and points.shape[1] <= TREE_DIMENSIONS:
            with count("neighbours", 0):
                found = _by_tree(points[order], m)
        elif points is not None:
            found = _by_distance(points[order].to(K.torch_dtype), m)
        elif isinstance(K, KernelOperator) and K.blocks == (1, 1) and K.ranges is None:
            found = _by_formula(K, _scales(A), order, m)
        else:
            found = _by_rows(A, _scales(A), order, m)
        # from places in the order to numbers of points
        out = torch.full((n, width), -1, dtype=torch.int32, device=order.device)
        out[order, :m] = torch.where(found >= 0, order[found.clamp_min(0)], found).to(torch.int32)
    return out


def _scales(A: LinearOperator) -> Tensor:
    """1 / sqrt(a_ii), which makes correlations of entries."""
    d = A.diag().double()
    return torch.where(d > 0, d.rsqrt(), torch.zeros_like(d))


# ---------------------------------------------------------------- k-d trees


def _by_tree(points: Tensor, m: int) -> Tensor:
    """Nearest predecessors by trees of growing prefixes, whose nearest points are sorted out by place.

    A point in the last third of its prefix has at least two thirds of its nearest points before it.
    Those of the first prefix are all asked for.
    """
    from scipy.spatial import KDTree

    X = points.double().cpu().numpy()
    n, threads = len(X), _options.current().threads or torch.get_num_threads()
    out = torch.full((n, m), -1, dtype=torch.int64)
    start, stop = 0, min(n, 4 * m)
    while start < n:
        tree = KDTree(X[:stop])
        k = stop if start == 0 else min(stop, round(GROWTH * m) + 1)
        for i in range(start, stop, 1 << 16):
            rows = torch.arange(i, min(stop, i + (1 << 16)))
            _, near = tree.query(X[i : i + len(rows)], k=k, workers=threads)
            near = torch.from_numpy(near).reshape(len(rows), k)  # k = 1 has no axis of its own
            out[rows] = _first(near, near < rows.unsqueeze(-1), m)
        start, stop = stop, min(n, int(GROWTH * stop) + 1)
    return out.to(points.device)


def _first(values: Tensor, wanted: Tensor, m: int) -> Tensor:
    """The first m wanted values of each row; -1 where there are fewer."""
    place = wanted.cumsum(-1)
    wanted = wanted & (place <= m)
    out = values.new_full((len(values), m + 1), -1)
    out.scatter_(-1, torch.where(wanted, place - 1, m), torch.where(wanted, values, -1))
    return out[:, :m]


# ---------------------------------------------------------------- the engine


def _by_distance(points: Tensor, m: int) -> Tensor:
    """By squared distances, of points moved into a box of diagonal 1."""
    low, high = points.amin(0), points.amax(0)
    x = (points - low) / (high - low).norm()
    D = x.shape[1]
    return _pass(sqdist(Vi(0, D), Vj(1, D)), [x, x], len(x), m, None)


def _by_formula(K: KernelOperator, scales: Tensor, order: Tensor, m: int) -> Tensor:
    """By the correlations of any formula."""
    args, moved = list(K.args), {}
    for v in variables(K.formula):
        k, _, axis = v.attr
        if axis != "p":
            args[k] = moved.setdefault(id(K.args[k]), K.args[k][order])
    r = scales[order].to(K.torch_dtype).unsqueeze(-1)
    near = -abs(K.formula) * (Vi(len(args), 1) * Vj(len(args) + 1, 1))
    return _pass(near, [*args, r, r], K.sizes[0], m, K.options)


def _pass(f: Expr, args: list[Tensor], n: int, m: int, options: _options.Options | None) -> Tensor:
    """The m smallest f(i, j) of each i over j < i: a pass over the lower half, block by block."""
    like, free = args[0], len(args)
    place = torch.arange(n, dtype=like.dtype, device=like.device).unsqueeze(-1)
    far = torch.full((1,), FAR, dtype=like.dtype, device=like.device)
    masked = f + Pm(free + 2, 1) * node("ge", Vj(free + 1, 1), Vi(free, 1))
    ranges = _lower(n)
    exact = replace(options or _options.current(), precision="exact")
    with count("neighbours", float(ranges.pairs)):
        found = map_reduce(
            masked, KMIN_ARGKMIN(m), (*args, place, place, far), sizes=(n, n), ranges=ranges, options=exact
        )
    values, index = found[0].squeeze(-1), found[1].squeeze(-1)
    return torch.where(values < FAR / 2, index, -1)


def _lower(n: int) -> Ranges:
    """Blocks of rows with all columns up to their ends."""
    ends = torch.linspace(0, n, min(BLOCKS, n) + 1).round().long()
    blocks = torch.stack([ends[:-1], ends[1:]], 1)
    return Ranges.from_matrix(blocks, blocks, torch.ones(len(blocks), len(blocks), dtype=torch.bool).tril())


# ---------------------------------------------------------------- rows


def _by_rows(A: LinearOperator, scales: Tensor, order: Tensor, m: int) -> Tensor:
    """By rows of the operator, each up to its own diagonal."""
    n = len(order)
    out = order.new_full((n, m), -1)
    step = max(1, min(n, _options.current().memory_limit // (32 * n)))
    for i in range(1, n, step):
        rows = torch.arange(i, min(n, i + step), device=order.device)
        stop = int(rows[-1])
        with count("neighbours", float(len(rows) * stop)):
            block = A.rows(order[rows], order[:stop]).double().abs()
        near = block * scales[order[:stop]]
        near[torch.arange(stop, device=order.device) >= rows.unsqueeze(-1)] = -1.0
        values, index = near.nan_to_num(-1.0).topk(min(m, stop), dim=-1)
        out[rows, : index.shape[-1]] = torch.where(values >= 0, index, -1)
    return out

"""Sums of differences as columns of one product.

sum_j s_ij (u_i - v_j) = (u_i - c) sum_j s_ij - sum_j s_ij (v_j - c), which is one product of s with the
columns (v - c, 1). Gradients of kernel sums have this form, with u - v the difference inside the kernel's
own distance: then both terms are small wherever s is not, and what cancels is as small as in the expanded
distance.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from .expr import Expr, const, var
from .ops import concat
from .plan import Output
from .reductions import SUM
from .rewrite import distances, factor, factors, product, simplify


@dataclass(frozen=True, eq=False)
class Moments:
    """``output`` has the sums of s (v - c), then that of s; c is a new parameter, the last argument.

    The result is ``post`` (``own`` sum - sums), of i alone.
    """

    output: Output
    own: Expr
    post: Expr | None


@functools.lru_cache(maxsize=4096)
def moments(output: Output, args: int) -> Moments | None:
    """The columns of a sum of differences, or None if the output is none."""
    if output.reduction is not SUM or output.axis != "j":
        return None
    f = simplify(output.expr)
    found = dict.fromkeys(distances(f, 1))
    if len(found) != 1 or f.dim == 1:
        return None
    difference = next(iter(found)).args[0].args[0]
    turned = difference.args[1] - difference.args[0]
    parts = factors(f)
    differences = [p for p in parts if p in (difference, turned)]
    if len(differences) != 1:
        return None
    parts.remove(differences[0])
    u, v = differences[0].args
    if "j" in u.axes:
        u, v = v, u
        parts.append(const(-1.0))
    rest = product(parts)
    split = None if rest is None else factor(rest, "j")
    if split is None or split.pair is None or split.pair.dim != 1:
        return None
    if split.signal is not None and split.signal.dim != 1:
        return None
    centre = var(args, v.dim, "p")
    own, away = u - centre, v - centre
    if split.signal is None:
        columns = concat(away, const(1.0))
    else:
        columns = concat(split.signal * away, split.signal)
    return Moments(Output(split.pair * columns, SUM), own, split.post)

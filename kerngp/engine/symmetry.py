"""K(x, x) b with each unordered pair visited once.

If the pair factor k of a sum over j is symmetric and i and j index the same points, then
sum_j k_ij b_j = sum_{j in T(i) or after} k_ij b_j + sum_{j before T(i)} k_ji b_j, with T(i) the tile
of i: a pass over the upper triangle gives the first sum by rows and the second by columns.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from .expr import Expr, rebuild, var, variables, with_args
from .plan import Output
from .reductions import SUM
from .rewrite import factor, product, simplify

COMMUTATIVE = ("add", "mul", "minimum", "maximum")


@dataclass(frozen=True)
class Halved:
    """Outputs by row and by column over the upper triangle; their sum times ``post`` is the result.

    Arguments ``copies`` are to be appended, in this order, for the second output.
    """

    outputs: tuple[Output, Output]
    copies: tuple[int, ...]
    post: Expr | None


@functools.lru_cache(maxsize=4096)
def halve(output: Output, args: int, same: tuple[tuple[int, int], ...]) -> Halved | None:
    """The two half sums, or None if the formula is not symmetric.

    ``same`` lists (i-argument, j-argument) that hold the same points.
    """
    if output.reduction is not SUM or output.axis != "j":
        return None
    parts = factor(simplify(output.expr), "j")
    if parts.pair is None or parts.pair.dim != 1 or (parts.signal is not None and parts.signal.dim != 1):
        return None
    swap = dict(same) | {j: i for i, j in same}
    if any(v.attr[2] != "p" and v.attr[0] not in swap for v in variables(parts.pair)):
        return None
    if canonical(parts.pair) is not canonical(_exchange(parts.pair, swap)):
        return None
    copies: tuple[int, ...] = ()
    other = parts.pair
    first = parts.pair
    if parts.signal is not None:
        copies = tuple(v.attr[0] for v in variables(parts.signal))
        table = {k: args + n for n, k in enumerate(copies)}
        turned = rebuild(
            parts.signal,
            lambda e, a: (
                var(table[e.attr[0]], e.attr[1], "p" if e.attr[2] == "p" else "i")
                if e.op == "var"
                else with_args(e, a)
            ),
        )
        first, other = _times(parts.pair, parts.signal), _times(parts.pair, turned)
    return Halved((Output(first, SUM, "j"), Output(other, SUM, "i")), copies, parts.post)


def _times(a: Expr, b: Expr) -> Expr:
    out = product([a, b])
    assert out is not None
    return out


def _exchange(f: Expr, swap: dict[int, int]) -> Expr:
    """f(y, x): each variable is replaced by its partner on the other axis."""

    def change(e: Expr, args: tuple[Expr, ...]) -> Expr:
        if e.op == "var" and e.attr[2] != "p":
            return var(swap[e.attr[0]], e.attr[1], "j" if e.attr[2] == "i" else "i")
        return with_args(e, args)

    return rebuild(f, change)


@functools.lru_cache(maxsize=4096)
def canonical(f: Expr) -> Expr:
    """A representative of formulas equal up to a + b = b + a, a b = b a, (a - b)^2 = (b - a)^2."""

    def change(e: Expr, args: tuple[Expr, ...]) -> Expr:
        if e.op in COMMUTATIVE:
            args = tuple(sorted(args, key=lambda a: a.digest))
        elif e.op in ("square", "abs") and args[0].op == "sub":
            p, q = sorted(args[0].args, key=lambda a: a.digest)
            args = (with_args(args[0], (p, q)),)
        return with_args(e, args)

    return rebuild(f, change)

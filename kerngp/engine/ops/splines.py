"""B-splines: the values of all basis functions at a point."""

from __future__ import annotations

from ...errors import FormulaError
from ..expr import Expr, node

__all__ = ["bspline"]


def bspline(knots: Expr, x: Expr, order: int = 0) -> Expr:
    """The B-splines of degree ``order`` at x, by the recurrence of Cox and de Boor.

    Parameters
    ----------
    knots : Expr
        Ascending knots t_0, ..., t_(K - 1); equal ones are allowed.
    x : Expr
        A number. Pieces are on [t_k, t_(k + 1)), so all splines vanish at the last knot and outside.
    order : int
        0 for steps, 1 for hats, 3 for cubic splines.

    Returns
    -------
    Expr
        A vector of dim K - order - 1, differentiable to any order in x and in the knots.

    Raises
    ------
    FormulaError
        Too few knots for the order, or an x that is no number.
    """
    if x.dim != 1 or order < 0 or knots.dim < order + 2:
        raise FormulaError(
            f"bspline: expected an order >= 0, at least order + 2 knots and a scalar x, got order {order}, "
            f"{knots.dim} knots and x of dim {x.dim}."
        )
    pieces = knots.dim - 1
    b = node("le", knots[:pieces], x) * node("lt", x, knots[1:])
    for k in range(1, order + 1):
        count = pieces - k
        first, last = knots[: count + 1], knots[k:]
        proper = node("lt", first, last)  # 0 where knots coincide: the quotient there is taken as 0
        w = proper * (x - first) / (last - first + (1.0 - proper))
        b = w[:count] * b[:count] + (1.0 - w[1:]) * b[1:]
    return b

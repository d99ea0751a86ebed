"""Derivatives of formulas, as formulas: vjp, jvp, and the exchange of i and j."""

from __future__ import annotations

from .expr import OPS, Expr, postorder, rebuild, var, variables, with_args
from .ops import widen


def vjp(f: Expr, cotangent: Expr, wrt: tuple[Expr, ...]) -> tuple[Expr | None, ...]:
    """Cotangents of the nodes ``wrt``, given that of ``f`` (same dim); None where f does not depend on it.

    Examples
    --------
    >>> from kerngp.engine.expr import Vi, Vj
    >>> x, y, g = Vi(0, 1), Vj(1, 1), Vi(2, 1)
    >>> vjp(x * y, g, (x,))
    (mul(Vi(2,1), Vj(1,1)),)
    """
    needed: set[Expr] = set()
    order = list(postorder(f))
    for e in order:
        if e in wrt or any(a in needed for a in e.args):
            needed.add(e)
    grads: dict[Expr, Expr] = {f: widen(cotangent, f.dim)}
    for e in reversed(order):
        if e not in grads or e not in needed or not e.args:
            continue
        for a, g in zip(e.args, OPS[e.op].vjp(e, grads[e]), strict=True):
            if g is not None and a in needed:
                grads[a] = grads[a] + g if a in grads else g
    return tuple(grads.get(v) if v in needed else None for v in wrt)


def jvp(f: Expr, tangents: dict[Expr, Expr]) -> Expr | None:
    """Directional derivative of f: the transpose of its vjp, which is linear in the cotangent."""
    free = 1 + max((v.attr[0] for v in variables(f, *tangents, *tangents.values())), default=0)
    e = var(free, f.dim, "p")
    total: Expr | None = None
    for v, g in zip(tangents, vjp(f, e, tuple(tangents)), strict=True):
        if g is None:
            continue
        (term,) = vjp(g, tangents[v], (e,))
        if term is not None:
            total = term if total is None else total + term
    return total


def transpose(f: Expr) -> Expr:
    """Exchange i and j: the formula of the transposed matrix."""
    return on_axes(f, {"i": "j", "j": "i", "p": "p"})


def on_axes(f: Expr, axes: dict[str, str]) -> Expr:
    """Index variables by other axes."""

    def change(e: Expr, args: tuple[Expr, ...]) -> Expr:
        if e.op == "var":
            return var(e.attr[0], e.attr[1], axes[e.attr[2]])
        return with_args(e, args)

    return rebuild(f, change)


def rename(f: Expr, indices: dict[int, int]) -> Expr:
    """Give variables new positions in the argument list."""

    def change(e: Expr, args: tuple[Expr, ...]) -> Expr:
        if e.op == "var":
            k, dim, axis = e.attr
            return var(indices[k] if k in indices else k, dim, axis)
        return with_args(e, args)

    return rebuild(f, change)

"""What the records of ops share: broadcasting, cotangents, folding of constants.

Elementwise ops broadcast dim 1 against dim D. ``code`` is written in the primitives of a target
(`render.llvm.Emitter` on the CPU); ``t.call(name, ...)`` asks the target for a function it either
has or lowers by a rule of `engine.lower`.
"""

from __future__ import annotations

from collections.abc import Callable

from ...errors import FormulaError
from ..expr import Expr, Op, as_expr, const, define, node

__all__ = [
    "elementwise",
    "first",
    "folded",
    "function",
    "nonnegative",
    "same_dim",
    "same_sign",
    "unbroadcast",
    "value_of",
    "widen",
    "zero",
]


def same_dim(dims: tuple[int, ...], attr: tuple) -> int:
    big = max(dims)
    if any(d not in (1, big) for d in dims):
        raise FormulaError(f"elementwise op on vectors of dims {dims}: they must be equal, or 1.")
    return big


def unbroadcast(g: Expr, dim: int) -> Expr:
    """Cotangent of an argument that was broadcast from ``dim`` to ``g.dim``."""
    return node("sum", g) if dim == 1 and g.dim > 1 else g


def elementwise(
    name: str,
    arity: int,
    reference: Callable,
    code: Callable,
    partials: Callable[..., tuple],
    *,
    fold: Callable | None = None,
    sign: Callable | None = None,
    doc: str = "",
    public: bool = True,
) -> Callable[..., Expr]:
    """Define an elementwise op; returns the function that builds its nodes.

    ``partials(g, *args, *attr)`` returns g * d(op)/d(arg) for each arg, None where that is zero.
    """

    def vjp(e: Expr, g: Expr) -> tuple[Expr | None, ...]:
        grads = partials(g, *e.args, *e.attr)
        return tuple(
            None if h is None else unbroadcast(widen(h, e.dim), a.dim)
            for h, a in zip(grads, e.args, strict=True)
        )

    define(Op(name, arity, same_dim, reference, vjp, code=code, fold=fold, sign=sign, doc=doc, public=public))

    def build(*args: Expr | float, attr: tuple = ()) -> Expr:
        return node(name, *map(as_expr, args), attr=attr)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{doc}."
    return build


def function(name: str, reference: Callable, derivative: Callable[[Expr], Expr], **settings) -> Callable:
    """Define an elementwise op of one argument that targets know by its own name."""
    return elementwise(
        name,
        1,
        reference,
        lambda t, a: t.call(name, a),
        lambda g, a: (g * derivative(a),),
        **settings,
    )


def same_sign(s: tuple[int, ...], attr: tuple) -> int:
    """Sign rule of an increasing function through the origin."""
    return s[0]


def nonnegative(s: tuple[int, ...], attr: tuple) -> int:
    """Sign rule of a function that is never negative."""
    return 1


def widen(x: Expr, dim: int) -> Expr:
    """x, broadcast to ``dim`` if it is a scalar standing for a vector."""
    if x.dim == dim:
        return x
    return node("expand", x, attr=(dim,))


def value_of(e: Expr) -> float | None:
    """The number a node stands for, looking through ``expand``; None if it is not constant."""
    while e.op == "expand":
        e = e.args[0]
    return e.attr[0] if e.op == "const" else None


def zero(dim: int) -> Expr:
    return widen(const(0.0), dim)


def folded(f: Callable[..., float]) -> Callable:
    """Fold rule of an op that evaluates when all its arguments are constants."""

    def fold(args: tuple[Expr, ...], attr: tuple) -> Expr | None:
        values = [value_of(a) for a in args]
        if any(v is None for v in values):
            return None
        try:
            return widen(const(f(*values, *attr)), max(a.dim for a in args))
        except (ValueError, OverflowError, ZeroDivisionError):
            return None  # leave inf and NaN to the arithmetic of the device

    return fold


def first(*rules: Callable) -> Callable:
    """The first rule that applies."""

    def fold(args: tuple[Expr, ...], attr: tuple) -> Expr | None:
        return next((r for r in (rule(args, attr) for rule in rules) if r is not None), None)

    return fold

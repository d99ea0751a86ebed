"""Every math op, one record each: dimensions, code, definition and derivative; composites below.

Elementwise ops broadcast dim 1 against dim D. ``code`` is written in the primitives of a target
(`render.llvm.Emitter` on the CPU); ``t.call(name, ...)`` asks the target for a function it either
has or lowers by a rule of `lower.py`. Adding an op is adding one `define(...)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from ..errors import FormulaError
from .expr import OPS, Expr, Op, as_expr, const, define, node

__all__ = ["OPS"]  # extended by `public` below


def public(f: Callable) -> Callable:
    """Mark a composite or constructor as part of the formula vocabulary."""
    __all__.append(f.__name__)
    return f


# ---------------------------------------------------------------- dimensions and cotangents


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
) -> Op:
    """Define an elementwise op. ``partials(g, *args, *attr)`` returns g * d(op)/d(arg) for each arg."""

    def vjp(e: Expr, g: Expr) -> tuple[Expr | None, ...]:
        grads = partials(g, *e.args, *e.attr)
        return tuple(
            None if h is None else unbroadcast(widen(h, e.dim), a.dim)
            for h, a in zip(grads, e.args, strict=True)
        )

    return define(
        Op(name, arity, same_dim, reference, vjp, code=code, fold=fold, sign=sign, doc=doc, public=public)
    )


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


# ---------------------------------------------------------------- arithmetic


def _fold_add(args: tuple[Expr, ...], attr: tuple) -> Expr | None:
    a, b = args
    dim = max(a.dim, b.dim)
    if value_of(a) == 0:
        return widen(b, dim)
    if value_of(b) == 0:
        return widen(a, dim)
    if b.op == "neg":
        return node("sub", a, b.args[0])
    return None


def _fold_sub(args: tuple[Expr, ...], attr: tuple) -> Expr | None:
    a, b = args
    dim = max(a.dim, b.dim)
    if value_of(b) == 0:
        return widen(a, dim)
    if value_of(a) == 0:
        return node("neg", widen(b, dim))
    if b.op == "neg":
        return node("add", a, b.args[0])
    return None


def _fold_mul(args: tuple[Expr, ...], attr: tuple) -> Expr | None:
    a, b = args
    dim = max(a.dim, b.dim)
    for x, y in ((a, b), (b, a)):
        v = value_of(x)
        if v == 0:
            return zero(dim)
        if v == 1:
            return widen(y, dim)
        if v == -1:
            return node("neg", widen(y, dim))
        if y.op == "neg" and v is not None:
            return node("mul", const(-v), widen(y.args[0], dim))
        if v is not None and y.op == "mul":  # c (c' z) = (c c') z
            for p, q in (y.args, y.args[::-1]):
                w = value_of(p)
                if w is not None:
                    return node("mul", const(v * w), widen(q, dim))
    if value_of(b) is not None and value_of(a) is None:
        return node("mul", b, a)  # constants stand first
    return None


def _fold_div(args: tuple[Expr, ...], attr: tuple) -> Expr | None:
    a, b = args
    v = value_of(b)
    if v is not None and v != 0 and math.isfinite(1 / v):
        return node("mul", const(1 / v), a) if math.frexp(v)[0] in (0.5, -0.5) or v == 1 else None
    return zero(max(a.dim, b.dim)) if value_of(a) == 0 and v is not None and v != 0 else None


def _sum_sign(s: tuple[int, ...], attr: tuple) -> int:
    return s[0] if s[0] == s[1] else 0


def _product_sign(s: tuple[int, ...], attr: tuple) -> int:
    return s[0] * s[1]


elementwise(
    "add",
    2,
    torch.add,
    lambda t, a, b: t.add(a, b),
    lambda g, a, b: (g, g),
    fold=first(folded(lambda a, b: a + b), _fold_add),
    sign=_sum_sign,
    doc="a + b",
)
elementwise(
    "sub",
    2,
    torch.sub,
    lambda t, a, b: t.sub(a, b),
    lambda g, a, b: (g, -g),
    fold=first(folded(lambda a, b: a - b), _fold_sub),
    sign=lambda s, attr: s[0] if s[0] == -s[1] else 0,
    doc="a - b",
)
elementwise(
    "mul",
    2,
    torch.mul,
    lambda t, a, b: t.mul(a, b),
    lambda g, a, b: (g * b, g * a),
    fold=first(folded(lambda a, b: a * b), _fold_mul),
    sign=_product_sign,
    doc="a * b",
)
elementwise(
    "div",
    2,
    torch.div,
    lambda t, a, b: t.div(a, b),
    lambda g, a, b: (g / b, -(g * a) / square(b)),
    fold=first(folded(lambda a, b: a / b), _fold_div),
    sign=_product_sign,
    doc="a / b",
)
elementwise(
    "neg",
    1,
    torch.neg,
    lambda t, a: t.neg(a),
    lambda g, a: (-g,),
    fold=first(folded(lambda a: -a), lambda args, attr: args[0].args[0] if args[0].op == "neg" else None),
    sign=lambda s, attr: -s[0],
    doc="-a",
)
elementwise(
    "square",
    1,
    torch.square,
    lambda t, a: t.mul(a, a),
    lambda g, a: (g * (2.0 * a),),
    fold=first(
        folded(lambda a: a * a), lambda args, attr: square(args[0].args[0]) if args[0].op == "neg" else None
    ),
    sign=lambda s, attr: 1,
    doc="a ** 2",
)


def _powi(a: torch.Tensor, n: int) -> torch.Tensor:
    return a**n


def _fold_powi(args: tuple[Expr, ...], attr: tuple) -> Expr | None:
    (a,), n = args, attr[0]
    if n == 0:
        return widen(const(1.0), a.dim)
    return {1: a, 2: square(a), -1: inv(a)}.get(n)


elementwise(
    "powi",
    1,
    _powi,
    lambda t, a, n: t.call("powi", a, n),
    lambda g, a, n: (g * (float(n) * a ** (n - 1)),),
    fold=first(_fold_powi, folded(lambda a, n: a**n)),
    sign=lambda s, attr: 1 if attr[0] % 2 == 0 or s[0] > 0 else 0,
    doc="a ** n for an integer n",
)
elementwise(
    "pow",
    2,
    torch.pow,
    lambda t, a, b: t.call("pow", a, b),
    lambda g, a, b: (g * (b * node("pow", a, b - 1.0)), g * (node("pow", a, b) * log(a))),
    fold=folded(math.pow),
    sign=lambda s, attr: int(s[0] > 0),
    doc="a ** b for real b (NaN where a < 0)",
)
elementwise(
    "inv",
    1,
    torch.reciprocal,
    lambda t, a: t.div(t.const(1.0), a),
    lambda g, a: (-g * square(inv(a)),),
    fold=folded(lambda a: 1 / a),
    sign=lambda s, attr: s[0],
    doc="1 / a",
)

# ---------------------------------------------------------------- elementary functions


def _rsqrt(a: torch.Tensor) -> torch.Tensor:
    return torch.where(a == 0, torch.zeros_like(a), torch.rsqrt(a))


elementwise(
    "exp",
    1,
    torch.exp,
    lambda t, a: t.call("exp", a),
    lambda g, a: (g * exp(a),),
    fold=folded(math.exp),
    sign=lambda s, attr: 1,
    doc="exp(a)",
)
elementwise(
    "log",
    1,
    torch.log,
    lambda t, a: t.call("log", a),
    lambda g, a: (g / a,),
    fold=folded(math.log),
    doc="log(a)",
)
elementwise(
    "sin",
    1,
    torch.sin,
    lambda t, a: t.call("sin", a),
    lambda g, a: (g * cos(a),),
    fold=folded(math.sin),
    doc="sin(a)",
)
elementwise(
    "cos",
    1,
    torch.cos,
    lambda t, a: t.call("cos", a),
    lambda g, a: (-(g * sin(a)),),
    fold=folded(math.cos),
    doc="cos(a)",
)
elementwise(
    "sqrt",
    1,
    torch.sqrt,
    lambda t, a: t.sqrt(a),
    lambda g, a: (g * (0.5 * rsqrt(a)),),
    fold=first(
        folded(math.sqrt), lambda args, attr: absolute(args[0].args[0]) if args[0].op == "square" else None
    ),
    sign=lambda s, attr: 1,
    doc="sqrt(a); its derivative at 0 is taken as 0 (see rsqrt)",
)
elementwise(
    "rsqrt",
    1,
    _rsqrt,
    lambda t, a: t.call("rsqrt", a),
    lambda g, a: (g * (-0.5 * rsqrt(a) ** 3),),
    fold=folded(lambda a: 0.0 if a == 0 else a**-0.5),
    sign=lambda s, attr: 1,
    doc="1 / sqrt(a), and 0 at a = 0, so that gradients of norms vanish at coincident points",
)

# ---------------------------------------------------------------- steps and choices


def _step(a: torch.Tensor) -> torch.Tensor:
    return (a >= 0).to(a.dtype)


def _ifelse(c: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.where(c >= 0, a, b)


def _clamp(a: torch.Tensor, lo: torch.Tensor, hi: torch.Tensor) -> torch.Tensor:
    a = torch.where(a < lo, lo, a)  # comparisons: a limit that is NaN does not limit
    return torch.where(a > hi, hi, a)


def _code_clamp(t, a, lo, hi):
    a = t.select(t.lt(a, lo), lo, a)
    return t.select(t.gt(a, hi), hi, a)


def _grad_clamp(g, a, lo, hi):
    inside = ifelse(minimum(a - lo, hi - a), g, 0.0)
    return inside, ifelse(a - lo, 0.0, ifelse(hi - lo, g, 0.0)), ifelse(hi - maximum(a, lo), 0.0, g)


def _sign(a: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.isnan(a), a, torch.sign(a))  # torch has sign(NaN) = 0


def _code_sign(t, a):
    one = t.select(t.gt(a, 0.0), t.const(1.0), t.const(0.0))
    return t.select(t.lt(a, 0.0), t.const(-1.0), t.select(t.isnan(a), a, one))


def _keep_nan(t, a, b, r):
    return t.select(t.isnan(a), a, t.select(t.isnan(b), b, r))


elementwise(
    "abs",
    1,
    torch.abs,
    lambda t, a: t.abs(a),
    lambda g, a: (g * sign(a),),
    fold=folded(lambda a: abs(a)),
    sign=lambda s, attr: 1,
    doc="|a|",
)
elementwise("sign", 1, _sign, _code_sign, lambda g, a: (None,), sign=lambda s, attr: s[0], doc="-1, 0 or 1")
elementwise(
    "step",
    1,
    _step,
    lambda t, a: t.select(t.ge(a, 0.0), t.const(1.0), t.const(0.0)),
    lambda g, a: (None,),
    sign=lambda s, attr: 1,
    doc="1 if a >= 0 else 0",
)
elementwise(
    "relu",
    1,
    torch.relu,
    lambda t, a: t.maximum(0.0, a),
    lambda g, a: (g * step(a),),
    sign=lambda s, attr: 1,
    doc="max(a, 0)",
)
elementwise(
    "ifelse",
    3,
    _ifelse,
    lambda t, c, a, b: t.select(t.ge(c, 0.0), a, b),
    lambda g, c, a, b: (None, ifelse(c, g, 0.0), ifelse(c, 0.0, g)),
    sign=lambda s, attr: s[1] if s[1] == s[2] else 0,
    doc="a where c >= 0, else b",
)
elementwise(
    "minimum",
    2,
    torch.minimum,
    lambda t, a, b: _keep_nan(t, a, b, t.minimum(a, b)),
    lambda g, a, b: (ifelse(b - a, g, 0.0), ifelse(b - a, 0.0, g)),
    fold=folded(min),
    sign=lambda s, attr: -1 if -1 in s else int(s == (1, 1)),
    doc="the smaller of a and b",
)
elementwise(
    "maximum",
    2,
    torch.maximum,
    lambda t, a, b: _keep_nan(t, a, b, t.maximum(a, b)),
    lambda g, a, b: (ifelse(a - b, g, 0.0), ifelse(a - b, 0.0, g)),
    fold=folded(max),
    sign=lambda s, attr: 1 if 1 in s else -int(s == (-1, -1)),
    doc="the larger of a and b",
)
elementwise("clamp", 3, _clamp, _code_clamp, _grad_clamp, doc="a limited to [lo, hi]; hi wins where lo > hi")
for _name, _test, _torch in (
    ("lt", "a < b", torch.lt),
    ("le", "a <= b", torch.le),
    ("gt", "a > b", torch.gt),
    ("ge", "a >= b", torch.ge),
    ("eq", "a == b", torch.eq),
    ("ne", "a != b", torch.ne),
):
    elementwise(
        _name,
        2,
        lambda a, b, f=_torch: f(a, b).to(torch.promote_types(a.dtype, b.dtype)),
        lambda t, a, b, n=_name: t.select(getattr(t, n)(a, b), t.const(1.0), t.const(0.0)),
        lambda g, a, b: (None, None),
        sign=lambda s, attr: 1,
        doc=f"1 where {_test}, else 0",
    )


def _code_exp_scaled(t, q, c):
    return t.call("exp_scaled_nonpos", q, c)


elementwise(
    "exp_scaled",
    1,
    lambda q, c: torch.exp(c * q),
    _code_exp_scaled,
    lambda g, q, c: (g * (c * node("exp_scaled", q, attr=(c,))),),
    sign=lambda s, attr: 1,
    doc="exp(c q) for a number c < 0 and q >= 0",
    public=False,
)


def _code_exp_nonpos(t, a):
    return t.call("exp_nonpos", a, accurate=False)


elementwise(
    "exp_nonpos",
    1,
    torch.exp,
    _code_exp_nonpos,
    lambda g, a: (g * node("exp_nonpos", a),),
    sign=lambda s, attr: 1,
    doc="exp(a) for a <= 0",
    public=False,
)

# ---------------------------------------------------------------- kernel profiles of a squared distance
# Written as functions of q = r^2 because their derivatives in q stay finite at coincident points.


def _matern32(q: torch.Tensor) -> torch.Tensor:
    s = torch.sqrt(3 * q)
    return (1 + s) * torch.exp(-s)


def _matern52(q: torch.Tensor) -> torch.Tensor:
    s = torch.sqrt(5 * q)
    return (1 + s + s * s / 3) * torch.exp(-s)


def _code_matern32(t, q):
    s = t.sqrt(t.mul(q, 3.0))
    e = t.call("exp_scaled_nonpos", s, -1.0)
    return t.fma(s, e, e)


def _code_matern52(t, q):
    s = t.sqrt(t.mul(q, 5.0))
    e = t.call("exp_scaled_nonpos", s, -1.0)
    return t.mul(t.fma(t.fma(s, 1.0 / 3.0, 1.0), s, 1.0), e)


elementwise(
    "matern32_profile",
    1,
    _matern32,
    _code_matern32,
    lambda g, q: (g * (-1.5 * exp(-sqrt(3.0 * q))),),
    sign=lambda s, attr: 1,
    doc="(1 + sqrt(3 q)) exp(-sqrt(3 q)) of a squared distance q >= 0",
)
elementwise(
    "matern52_profile",
    1,
    _matern52,
    _code_matern52,
    lambda g, q: (g * ((-5.0 / 6.0) * ((1.0 + sqrt(5.0 * q)) * exp(-sqrt(5.0 * q)))),),
    sign=lambda s, attr: 1,
    doc="(1 + s + s^2/3) exp(-s), s = sqrt(5 q), of a squared distance q >= 0",
)

# ---------------------------------------------------------------- vectors: sums and moves


def _fold_sum(args: tuple[Expr, ...], attr: tuple) -> Expr | None:
    (a,) = args
    if a.dim == 1:
        return a
    if a.op == "expand":
        return node("mul", const(float(a.dim)), a.args[0])
    if a.op == "mul" and a.args[0].dim == 1:  # sum(c v) = c sum(v)
        return node("mul", a.args[0], node("sum", a.args[1]))
    if a.op == "mul" and a.args[1].dim == 1:
        return node("mul", a.args[1], node("sum", a.args[0]))
    if a.op == "neg":
        return -node("sum", a.args[0])
    if a.op == "extract_t":
        return node("sum", a.args[0])
    if a.op == "elem_t":
        return a.args[0]
    return None


define(
    Op(
        "sum",
        1,
        lambda dims, attr: 1,
        lambda a: a.sum(-1, keepdim=True),
        lambda e, g: (widen(g, e.args[0].dim),),
        fold=_fold_sum,
        sign=lambda s, attr: s[0],
        doc="sum of the components",
    )
)


def _expand_dim(dims: tuple[int, ...], attr: tuple) -> int:
    if dims[0] != 1:
        raise FormulaError(f"expand takes a scalar, got a vector of dim {dims[0]}.")
    return attr[0]


define(
    Op(
        "expand",
        1,
        _expand_dim,
        lambda a, n: a.expand(*a.shape[:-1], n),
        lambda e, g: (node("sum", g),),
        pieces=lambda e: ((0, e.dim, 0, None),),
        fold=lambda args, attr: args[0] if attr[0] == 1 else None,
        sign=lambda s, attr: s[0],
        doc="a scalar repeated n times",
    )
)


def _elem_dim(dims: tuple[int, ...], attr: tuple) -> int:
    if not 0 <= attr[0] < dims[0]:
        raise FormulaError(f"elem: index {attr[0]} is out of range for a vector of dim {dims[0]}.")
    return 1


def _extract_dim(dims: tuple[int, ...], attr: tuple) -> int:
    start, length = attr
    if start < 0 or length < 1 or start + length > dims[0]:
        raise FormulaError(
            f"extract: [{start}, {start + length}) is out of range for a vector of dim {dims[0]}."
        )
    return length


def _fold_extract(args: tuple[Expr, ...], attr: tuple) -> Expr | None:
    (a,), (start, length) = args, attr
    if length == a.dim:
        return a
    if a.op == "expand":
        return widen(a.args[0], length)
    if a.op == "extract":
        return node("extract", a.args[0], attr=(start + a.attr[0], length))
    if a.op == "concat":
        p, q = a.args
        if start + length <= p.dim:
            return node("extract", p, attr=(start, length))
        if start >= p.dim:
            return node("extract", q, attr=(start - p.dim, length))
    return None


def _fold_elem(args: tuple[Expr, ...], attr: tuple) -> Expr | None:
    (a,), m = args, attr[0]
    if a.dim == 1:
        return a
    if a.op == "expand":
        return a.args[0]
    if a.op == "extract":
        return node("elem", a.args[0], attr=(m + a.attr[0],))
    if a.op == "concat":
        p, q = a.args
        return node("elem", p, attr=(m,)) if m < p.dim else node("elem", q, attr=(m - p.dim,))
    return None


def _pad(a: torch.Tensor, start: int, n: int) -> torch.Tensor:
    return torch.nn.functional.pad(a, (start, n - start - a.shape[-1]))


define(
    Op(
        "elem",
        1,
        _elem_dim,
        lambda a, m: a[..., m : m + 1],
        lambda e, g: (node("elem_t", g, attr=(e.args[0].dim, e.attr[0])),),
        pieces=lambda e: ((0, 1, 0, e.attr[0]),),
        fold=_fold_elem,
        sign=lambda s, attr: s[0],
        doc="component m",
    )
)
define(
    Op(
        "elem_t",
        1,
        lambda dims, attr: attr[0],
        lambda a, n, m: _pad(a, m, n),
        lambda e, g: (node("elem", g, attr=(e.attr[1],)),),
        pieces=lambda e: (
            (0, e.attr[1], None, 0),
            (e.attr[1], e.attr[1] + 1, 0, -e.attr[1]),
            (e.attr[1] + 1, e.attr[0], None, 0),
        ),
        fold=lambda args, attr: zero(attr[0]) if value_of(args[0]) == 0 else None,
        sign=lambda s, attr: s[0],
        doc="a vector of dim n, zero but for component m",
    )
)
define(
    Op(
        "extract",
        1,
        _extract_dim,
        lambda a, s, n: a[..., s : s + n],
        lambda e, g: (node("extract_t", g, attr=(e.attr[0], e.args[0].dim)),),
        pieces=lambda e: ((0, e.attr[1], 0, e.attr[0]),),
        fold=_fold_extract,
        sign=lambda s, attr: s[0],
        doc="components start, ..., start + length - 1",
    )
)
define(
    Op(
        "extract_t",
        1,
        lambda dims, attr: attr[1],
        lambda a, s, n: _pad(a, s, n),
        lambda e, g: (node("extract", g, attr=(e.attr[0], e.args[0].dim)),),
        pieces=lambda e: (
            (0, e.attr[0], None, 0),
            (e.attr[0], e.attr[0] + e.args[0].dim, 0, -e.attr[0]),
            (e.attr[0] + e.args[0].dim, e.attr[1], None, 0),
        ),
        fold=lambda args, attr: zero(attr[1]) if value_of(args[0]) == 0 else None,
        sign=lambda s, attr: s[0],
        doc="a vector of dim n, zero but for the components from start on",
    )
)


def _concat(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    shape = np.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    return torch.cat([a.expand(*shape, a.shape[-1]), b.expand(*shape, b.shape[-1])], -1)


define(
    Op(
        "concat",
        2,
        lambda dims, attr: sum(dims),
        _concat,
        lambda e, g: (
            node("extract", g, attr=(0, e.args[0].dim)),
            node("extract", g, attr=(e.args[0].dim, e.args[1].dim)),
        ),
        pieces=lambda e: ((0, e.args[0].dim, 0, 0), (e.args[0].dim, e.dim, 1, -e.args[0].dim)),
        sign=lambda s, attr: s[0] if s[0] == s[1] else 0,
        doc="the components of a, then those of b",
    )
)


# ---------------------------------------------------------------- constructors


def _unary(name: str, python_name: str | None = None) -> Callable[[Expr | float], Expr]:
    def build(a: Expr | float) -> Expr:
        return node(name, as_expr(a))

    build.__name__ = build.__qualname__ = python_name or name
    build.__doc__ = OPS[name].doc
    return public(build)


square, inv, exp, log, sin, cos = map(_unary, ("square", "inv", "exp", "log", "sin", "cos"))
sqrt, rsqrt, sign, step, relu = map(_unary, ("sqrt", "rsqrt", "sign", "step", "relu"))
matern32_profile, matern52_profile = map(_unary, ("matern32_profile", "matern52_profile"))
absolute, total = _unary("abs", "absolute"), _unary("sum", "total")


@public
def ifelse(c: Expr, a: Expr | float, b: Expr | float) -> Expr:
    """a where c >= 0, else b."""
    return node("ifelse", c, as_expr(a), as_expr(b))


@public
def clamp(a: Expr, lo: Expr | float, hi: Expr | float) -> Expr:
    """a limited to [lo, hi]."""
    return node("clamp", a, as_expr(lo), as_expr(hi))


@public
def minimum(a: Expr | float, b: Expr | float) -> Expr:
    """The smaller of a and b, componentwise."""
    return node("minimum", as_expr(a), as_expr(b))


@public
def maximum(a: Expr | float, b: Expr | float) -> Expr:
    """The larger of a and b, componentwise."""
    return node("maximum", as_expr(a), as_expr(b))


@public
def power(a: Expr, n: float | Expr) -> Expr:
    """a ** n; an integer n keeps negative bases."""
    return a**n


@public
def elem(a: Expr, m: int) -> Expr:
    """Component m."""
    return a[m]


@public
def extract(a: Expr, start: int, length: int) -> Expr:
    """Components start, ..., start + length - 1."""
    return node("extract", a, attr=(start, length))


@public
def concat(*parts: Expr) -> Expr:
    """The components of all arguments, one after the other."""
    out = parts[0]
    for p in parts[1:]:
        out = node("concat", out, p)
    return out


# ---------------------------------------------------------------- composites


@public
def dot(a: Expr, b: Expr) -> Expr:
    """Scalar product <a, b>; two vectors of one dim."""
    if a.dim != b.dim:
        raise FormulaError(f"scalar product of vectors of dims {a.dim} and {b.dim}: they must be equal.")
    return node("sum", a * b)


@public
def sqnorm2(a: Expr) -> Expr:
    """Squared Euclidean norm."""
    return node("sum", square(a))


@public
def norm2(a: Expr) -> Expr:
    """Euclidean norm; gradient 0 at the origin."""
    return sqrt(sqnorm2(a))


@public
def normalize(a: Expr) -> Expr:
    """a / |a|, and 0 at the origin."""
    return rsqrt(sqnorm2(a)) * a


@public
def sqdist(a: Expr, b: Expr) -> Expr:
    """Squared Euclidean distance."""
    if a.dim != b.dim:
        raise FormulaError(f"squared distance of vectors of dims {a.dim} and {b.dim}: they must be equal.")
    return sqnorm2(a - b)


@public
def weighted_sqnorm(s: Expr, a: Expr) -> Expr:
    """<a, S a>: s holds one weight, one weight for each component, or a D x D matrix by rows."""
    if s.dim == 1:
        return s * sqnorm2(a)
    if s.dim == a.dim:
        return node("sum", s * square(a))
    if s.dim == a.dim**2:
        rows = [a[k] * dot(extract(s, k * a.dim, a.dim), a) for k in range(a.dim)]
        out = rows[0]
        for r in rows[1:]:
            out = out + r
        return out
    raise FormulaError(
        f"weights of dim {s.dim} for a vector of dim {a.dim}: expected 1, {a.dim} or {a.dim**2}."
    )


@public
def weighted_sqdist(s: Expr, a: Expr, b: Expr) -> Expr:
    """<a - b, S (a - b)>; see `weighted_sqnorm` for the forms of s."""
    return weighted_sqnorm(s, a - b)

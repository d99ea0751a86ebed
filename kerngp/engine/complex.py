"""Complex numbers as formulas: D of them are a vector of dim 2 D, real and imaginary parts in turn.

Two ops move components, `interleave` and `alternate`; everything else is arithmetic on the vectors of the
parts, so that every function here has derivatives of any order. Parts of an interleaved formula are the
formulas it was made of: a chain of complex operations never forms the vectors in between.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..errors import FormulaError
from .expr import Expr, Op, const, define, node
from .ops import atan2, cos, exp, ifelse, log, rsqrt, sin, sqrt, square, total, value_of, widen, zero
from .vocabulary import word

# ---------------------------------------------------------------- moves


def _interleave_dim(dims: tuple[int, ...], attr: tuple) -> int:
    if dims[0] != dims[1]:
        raise FormulaError(f"interleave of vectors of dims {dims}: they must be equal.")
    return 2 * dims[0]


def _interleave(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    shape = np.broadcast_shapes(a.shape, b.shape)
    return torch.stack([a.expand(shape), b.expand(shape)], -1).flatten(-2)


def _fold_interleave(args: tuple[Expr, ...], attr: tuple) -> Expr | None:
    a, b = args
    if a.op == b.op == "alternate" and a.args == b.args and (a.attr, b.attr) == ((0,), (1,)):
        return a.args[0]
    v = value_of(a)
    return widen(const(v), 2 * a.dim) if v is not None and v == value_of(b) else None


def _lower_interleave(low: Any, f: Expr, d: Any) -> Any:
    if isinstance(d, int):
        return low.component(f.args[d % 2], d // 2)
    half = low.halved(d)
    first, second = (low.component(a, half) for a in f.args)
    return low.e.index_select(low.e.index_mod(d.value, 2), 1, first, second)


define(
    Op(
        "interleave",
        2,
        _interleave_dim,
        _interleave,
        lambda e, g: (node("alternate", g, attr=(0,)), node("alternate", g, attr=(1,))),
        lower=_lower_interleave,
        cuts=lambda e, cuts: {2 * c for part in cuts for c in part},
        fold=_fold_interleave,
        sign=lambda s, attr: s[0] if s[0] == s[1] else 0,
        doc="the components of a and of b in turn",
    )
)


def _alternate_dim(dims: tuple[int, ...], attr: tuple) -> int:
    if dims[0] % 2 or attr[0] not in (0, 1):
        raise FormulaError(f"alternate components {attr} of a vector of dim {dims[0]}: the dim must be even.")
    return dims[0] // 2


def _fold_alternate(args: tuple[Expr, ...], attr: tuple) -> Expr | None:
    (a,), (k,) = args, attr
    if a.op == "interleave":
        return a.args[k]
    return widen(a.args[0], a.dim // 2) if a.op == "expand" else None


define(
    Op(
        "alternate",
        1,
        _alternate_dim,
        lambda a, k: a[..., k::2],
        lambda e, g: (node("interleave", *((g, zero(g.dim)) if e.attr[0] == 0 else (zero(g.dim), g))),),
        lower=lambda low, f, d: low.component(f.args[0], low.doubled(d, f.attr[0])),
        cuts=lambda e, cuts: {max(0, c - e.attr[0] + 1) // 2 for c in cuts[0]},
        fold=_fold_alternate,
        sign=lambda s, attr: s[0],
        doc="components k, k + 2, k + 4, ..., for k = 0 or 1",
    )
)

# ---------------------------------------------------------------- parts


def pair(re: Expr, im: Expr) -> Expr:
    """re + i im; of two dims one may be 1."""
    dim = max(re.dim, im.dim)
    return node("interleave", widen(re, dim), widen(im, dim))


def _part(z: Expr, k: int) -> Expr:
    if z.dim % 2:
        raise FormulaError(
            f"a complex vector has an even dim, real and imaginary parts in turn; this one has dim {z.dim}."
        )
    return z.args[k] if z.op == "interleave" else node("alternate", z, attr=(k,))


def real(z: Expr) -> Expr:
    """The real parts."""
    return _part(z, 0)


def imag(z: Expr) -> Expr:
    """The imaginary parts."""
    return _part(z, 1)


def real_to_complex(x: Expr) -> Expr:
    """x + 0 i."""
    return pair(x, const(0.0))


def imag_to_complex(x: Expr) -> Expr:
    """0 + i x."""
    return pair(const(0.0), x)


def conj(z: Expr) -> Expr:
    """re - i im."""
    return pair(real(z), -imag(z))


def square_abs(z: Expr) -> Expr:
    """|z|^2, real."""
    return square(real(z)) + square(imag(z))


def modulus(z: Expr) -> Expr:
    """|z|, real; gradient 0 at 0."""
    return sqrt(square_abs(z))


def angle(z: Expr) -> Expr:
    """The angle of z, real, in (-pi, pi]."""
    return atan2(imag(z), real(z))


# ---------------------------------------------------------------- arithmetic


def add(z: Expr, w: Expr) -> Expr:
    """z + w."""
    return pair(real(z) + real(w), imag(z) + imag(w))


def subtract(z: Expr, w: Expr) -> Expr:
    """z - w."""
    return pair(real(z) - real(w), imag(z) - imag(w))


def mult(z: Expr, w: Expr) -> Expr:
    """z w, component by component."""
    a, b, c, d = real(z), imag(z), real(w), imag(w)
    return pair(a * c - b * d, a * d + b * c)


def scale(r: Expr, z: Expr) -> Expr:
    """r z for real r."""
    return pair(r * real(z), r * imag(z))


def real_scal(r: Expr, z: Expr) -> Expr:
    """r z, where one of the two is a real scalar: the one of dim 1."""
    return scale(r, z) if r.dim == 1 else scale(z, r)


def divide(z: Expr, w: Expr) -> Expr:
    """z / w, component by component."""
    a, b, c, d = real(z), imag(z), real(w), imag(w)
    size = square(c) + square(d)
    return pair((a * c + b * d) / size, (b * c - a * d) / size)


def inverse(z: Expr) -> Expr:
    """1 / z."""
    size = square_abs(z)
    return pair(real(z) / size, -imag(z) / size)


def power(z: Expr, n: int) -> Expr:
    """z ** n for an integer n, by repeated squaring."""
    if n < 0:
        return inverse(power(z, -n))
    out = None
    while n:
        if n % 2:
            out = z if out is None else mult(out, z)
        n //= 2
        z = mult(z, z) if n else z
    return real_to_complex(widen(const(1.0), z.dim // 2)) if out is None else out


def sum_of(z: Expr) -> Expr:
    """The sum of the components, one complex number."""
    return pair(total(real(z)), total(imag(z)))


def repeat(z: Expr, dim: int) -> Expr:
    """One complex number repeated; ``dim`` counts real and imaginary parts."""
    if z.dim != 2 or dim < 2 or dim % 2:
        raise FormulaError(
            f"a complex number (dim 2) is repeated into an even dim; got dim {z.dim} and {dim}."
        )
    return pair(widen(real(z), dim // 2), widen(imag(z), dim // 2))


# ---------------------------------------------------------------- functions


def exponential(z: Expr) -> Expr:
    """exp(z)."""
    size = exp(real(z))
    return pair(size * cos(imag(z)), size * sin(imag(z)))


def logarithm(z: Expr) -> Expr:
    """log(z), with imaginary part in (-pi, pi]."""
    return pair(0.5 * log(square_abs(z)), angle(z))


def exp1j(x: Expr) -> Expr:
    """exp(i x) for real x."""
    return pair(cos(x), sin(x))


def square_root(z: Expr) -> Expr:
    """The root with real part >= 0, and imaginary part >= 0 on the negative axis; 0 at 0."""
    a, b = real(z), imag(z)
    # of the two parts the larger is a root, and the other follows from 2 re im = b: nothing cancels
    q = 0.5 * (modulus(z) + abs(a))
    large, small = sqrt(q), (0.5 * abs(b)) * rsqrt(q)
    turn = ifelse(b, 1.0, -1.0)
    return pair(ifelse(a, large, small), turn * ifelse(a, small, large))


for _name, _signature, _build in (
    ("ComplexReal", "f", real),
    ("ComplexImag", "f", imag),
    ("Real2Complex", "f", real_to_complex),
    ("Imag2Complex", "f", imag_to_complex),
    ("Conj", "f", conj),
    ("ComplexAbs", "f", modulus),
    ("ComplexAngle", "f", angle),
    ("ComplexSquareAbs", "f", square_abs),
    ("ComplexSum", "f", sum_of),
    ("ComplexSumT", "fn", repeat),
    ("ComplexAdd", "ff", add),
    ("ComplexSubtract", "ff", subtract),
    ("ComplexMult", "ff", mult),
    ("ComplexRealScal", "ff", real_scal),
    ("ComplexDivide", "ff", divide),
    ("ComplexInverse", "f", inverse),
    ("ComplexPow", "fn", power),
    ("ComplexExp", "f", exponential),
    ("ComplexExp1j", "f", exp1j),
    ("ComplexLog", "f", logarithm),
    ("ComplexSqrt", "f", square_root),
):
    word(_name, _signature, _build, (_build.__doc__ or "").split("\n")[0].rstrip("."))

"""Complex numbers as formulas: D of them are a vector of dim 2 D, real and imaginary parts in turn.

Everything is arithmetic on the vectors of the parts, so that every function here has derivatives of any
order. Parts of an interleaved formula are the formulas it was made of: a chain of complex operations never
forms the vectors in between.
"""

from __future__ import annotations

from ..errors import FormulaError
from .expr import Expr, const, node
from .ops import atan2, cos, exp, ifelse, log, rsqrt, sin, sqrt, square, total, widen
from .vocabulary import word

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

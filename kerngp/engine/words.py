"""The words of KeOps's formula strings for math ops, with its argument order, and those it lacks.

Symbolic derivatives and complex numbers have tables of their own.
"""

from __future__ import annotations

from ..errors import FormulaError
from . import ops
from .expr import Expr, const, node
from .vocabulary import WORDS, word

__all__ = ["WORDS"]


def _int_cst(n: int) -> Expr:
    return const(float(n))


def _rat_cst(p: int, q: int) -> Expr:
    if q == 0:
        raise FormulaError(f"RatCst({p}, {q}): the denominator is 0.")
    return const(p / q)


def _zero(dim: int) -> Expr:
    if dim < 1:
        raise FormulaError(f"Zero({dim}): expected a dimension of at least 1.")
    return ops.zero(dim)


def _sum_t(a: Expr, dim: int) -> Expr:
    if a.dim != 1 or dim < 1:
        raise FormulaError(
            f"SumT repeats a number at least once, got a vector of dim {a.dim} to repeat {dim} times."
        )
    return ops.widen(a, dim)


def _elem_t(a: Expr, n: int, m: int) -> Expr:
    if a.dim != 1 or not 0 <= m < n:
        raise FormulaError(
            f"ElemT puts a number at place m of a vector of dim n, got a vector of dim {a.dim}, n={n}, m={m}."
        )
    return node("elem_t", a, attr=(n, m))


def _extract_t(a: Expr, start: int, dim: int) -> Expr:
    if start < 0 or start + a.dim > dim:
        raise FormulaError(
            f"ExtractT: {a.dim} components from {start} on do not fit into a vector of dim {dim}."
        )
    return node("extract_t", a, attr=(start, dim))


def _scalar_weight(s: Expr, a: Expr) -> Expr:
    if s.dim != 1:
        raise FormulaError(f"SqNormIso: expected a weight of dim 1, got {s.dim}.")
    return ops.weighted_sqnorm(s, a)


def _diagonal_weights(s: Expr, a: Expr) -> Expr:
    if s.dim != a.dim:
        raise FormulaError(f"SqNormDiag: expected weights of dim {a.dim}, got {s.dim}.")
    return ops.total(s * ops.square(a))


def _diff_clamp_int(a: Expr, low: int, high: int) -> Expr:
    return node("ge", a, const(float(low))) * node("le", a, const(float(high)))


def _factorize(f: Expr, g: Expr) -> Expr:
    return f  # shared parts are one node already


# ---------------------------------------------------------------- constants

word("IntCst", "n", _int_cst, "the integer n")
word("RatCst", "nn", _rat_cst, "p / q, in double precision")
word("IntInv", "n", lambda n: _rat_cst(1, n), "1 / n, in double precision")
word("Zero", "n", _zero, "a vector of dim zeros")

# ---------------------------------------------------------------- arithmetic

word("Add", "ff", lambda a, b: a + b, "a + b")
word("Subtract", "ff", lambda a, b: a - b, "a - b")
word("Minus", "f", lambda a: -a, "-a")
word("Mult", "ff", lambda a, b: a * b, "a b, componentwise")
word("Divide", "ff", lambda a, b: a / b, "a / b, componentwise")
word("Square", "f", ops.square, "a^2")
word("Inv", "f", ops.inv, "1 / a")
word("Pow", "fn", lambda a, m: a**m, "a^m for an integer m")
word("Powf", "ff", lambda a, b: node("pow", a, b), "a^b for real b; NaN where a < 0")
word("Factorize", "ff", _factorize, "f: what it shares with g is computed once anyway")
word("AutoFactorize", "f", lambda f: f, "f: what occurs twice in it is computed once anyway")

# ---------------------------------------------------------------- functions of each component

for _name, _build in {
    "Exp": ops.exp,
    "Log": ops.log,
    "XLogX": ops.xlogx,
    "Sqrt": ops.sqrt,
    "Rsqrt": ops.rsqrt,
    "Sin": ops.sin,
    "Cos": ops.cos,
    "Tan": ops.tan,
    "Asin": ops.asin,
    "Acos": ops.acos,
    "Atan": ops.atan,
    "SinXDivX": ops.sinxdivx,
    "Sinc": ops.sinc,
    "Sinh": ops.sinh,
    "Cosh": ops.cosh,
    "Tanh": ops.tanh,
    "Expm1": ops.expm1,
    "Log1p": ops.log1p,
    "Sigmoid": ops.sigmoid,
    "Softplus": ops.softplus,
    "Erf": ops.erf,
    "Erfc": ops.erfc,
    "Lgamma": ops.lgamma,
    "Digamma": ops.digamma,
    "Abs": ops.absolute,
    "Sign": ops.sign,
    "Step": ops.step,
    "ReLU": ops.relu,
    "Floor": ops.floor,
    "Ceil": ops.ceil,
}.items():
    word(_name, "f", _build, (_build.__doc__ or "").rstrip("."))

word("Atan2", "ff", ops.atan2, "angle of the point (b, a)")
word("Polygamma", "fn", ops.polygamma, "the (n + 1)-st derivative of log |gamma(a)|")
word("Round", "fn", ops.rounded, "a rounded to that many decimal digits, halves to even", optional=1)
word("Mod", "fff", ops.mod, "a - n floor((a - start) / n)", optional=1)
word("Minimum", "ff", ops.minimum, "the smaller of a and b, componentwise")
word("Maximum", "ff", ops.maximum, "the larger of a and b, componentwise")
word("Clamp", "fff", ops.clamp, "a limited to [b, c]")
word("ClampInt", "fnn", lambda x, a, b: ops.clamp(x, float(a), float(b)), "x limited to [a, b], integers")
word("DiffClampInt", "fnn", _diff_clamp_int, "1 where low <= a <= high, else 0")
word("IfElse", "fff", ops.ifelse, "b where a >= 0, else c")
word("Equal", "ff", lambda a, b: node("eq", a, b), "1 where a = b, else 0")
word("NotEqual", "ff", lambda a, b: node("ne", a, b), "1 where a != b, else 0")
word("LessThan", "ff", lambda a, b: node("lt", a, b), "1 where a < b, else 0")
word("LessOrEqual", "ff", lambda a, b: node("le", a, b), "1 where a <= b, else 0")

# ---------------------------------------------------------------- vectors

word("Sum", "f", ops.total, "the sum of the components")
word("Mean", "f", ops.mean, "the mean of the components")
word("Prod", "f", ops.prod, "the product of the components")
word("Max", "f", ops.vector_max, "the largest component")
word("Min", "f", ops.vector_min, "the smallest component")
word("ArgMax", "f", ops.vector_argmax, "the number of the largest component, the first of equal ones")
word("ArgMin", "f", ops.vector_argmin, "the number of the smallest component, the first of equal ones")
word("OneHot", "fn", ops.one_hot, "a vector of dim n, 1 at component a, rounded")
word("SumT", "fn", _sum_t, "a number, repeated dim times")
word("Elem", "fn", ops.elem, "component m")
word("ElemT", "fnn", _elem_t, "a vector of dim n, zero but for component m")
word("Extract", "fnn", ops.extract, "length components, from start on")
word("ExtractT", "fnn", _extract_t, "a vector of that dim, zero but for a from start on")
word("Concat", "ff", ops.concat, "the components of a, then those of b")
word(
    "Gather", "ffn", ops.gather, "row number g, rounded, of the table f, which is stored by rows of n numbers"
)

# ---------------------------------------------------------------- norms, distances, matrices

word("Scalprod", "ff", lambda a, b: a | b, "<a, b>; a number meets every component of the other")
word("SqNorm2", "f", ops.sqnorm2, "|a|^2")
word("Norm2", "f", ops.norm2, "|a|")
word("Normalize", "f", ops.normalize, "a / |a|, and 0 at 0")
word("SqDist", "ff", ops.sqdist, "|a - b|^2")
word("SqNormIso", "ff", _scalar_weight, "s |a|^2 for a number s")
word("SqNormDiag", "ff", _diagonal_weights, "sum of s_k a_k^2")
word("SymSqNorm", "ff", ops.symsqnorm, "<a, S a> for a matrix S, by rows")
word("WeightedSqNorm", "ff", ops.weighted_sqnorm, "<a, S a> for S of dim 1, D or D * D")
word("WeightedSqDist", "fff", ops.weighted_sqdist, "<a - b, S (a - b)> for S of dim 1, D or D * D")
word("MatVecMult", "ff", ops.matvecmult, "the matrix a, by rows, times b")
word("VecMatMult", "ff", ops.vecmatmult, "b times the matrix a, by rows")
word("TensorProd", "ff", ops.tensorprod, "the matrix a b^T, by rows")
word("TensorDot", "ffttttt", ops.tensordot, "tensors contracted over some of their axes", optional=1)
word("Kron", "fftt", ops.kron, "the Kronecker product of tensors")
word("BSpline", "ffn", ops.bspline, "the B-splines of degree order at x, for given knots")
word("SoftDTW_SqDist", "fff", ops.softdtw_sqdist, "soft-DTW of two series, of squared differences")

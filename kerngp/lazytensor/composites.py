"""Methods of LazyTensor for math ops that take more than operands, with KeOps's names and order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..engine import ops
from ..errors import FormulaError
from .tensor import LazyTensor, combine

METHODS: list[Callable] = []


def method(f: Callable) -> Callable:
    """Enter a function as a method."""
    METHODS.append(f)
    return f


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise FormulaError(f"{name}={value!r}: expected an integer, it is part of the formula.")
    return value.__index__()


def _integers(name: str, values: int | Sequence[int]) -> tuple[int, ...]:
    if hasattr(values, "__index__"):
        values = (values,)  # type: ignore[assignment]
    return tuple(_integer(name, k) for k in values)  # type: ignore[union-attr]


# ---------------------------------------------------------------- components


@method
def sinxdivx(self: LazyTensor) -> LazyTensor:
    """Elementwise: sin(a) / a, and 1 at 0."""
    return combine(ops.sinxdivx, self)


@method
def sinc(self: LazyTensor) -> LazyTensor:
    """Elementwise: sin(pi a) / (pi a), and 1 at 0."""
    return combine(ops.sinc, self)


@method
def tan(self: LazyTensor) -> LazyTensor:
    """Elementwise: tangent of a."""
    return combine(ops.tan, self)


@method
def digamma(self: LazyTensor) -> LazyTensor:
    """Elementwise: the derivative of log |gamma(a)|."""
    return combine(ops.digamma, self)


@method
def polygamma(self: LazyTensor, n: int) -> LazyTensor:
    """Elementwise: the (n + 1)-st derivative of log |gamma(a)|."""
    return combine(ops.polygamma, self, attr=(_integer("n", n),))


@method
def round(self: LazyTensor, other: int = 0) -> LazyTensor:
    """Elementwise: rounded to so many decimal digits; halves go to the even neighbour."""
    return combine(ops.rounded, self, attr=(_integer("other", other),))


@method
def mod(self: LazyTensor, modulus: Any, offset: Any = 0) -> LazyTensor:
    """Elementwise: self less the multiple of ``modulus`` that takes it to [offset, offset + modulus)."""
    return combine(ops.mod, self, modulus, offset)


# ---------------------------------------------------------------- vectors


@method
def one_hot(self: LazyTensor, D: int) -> LazyTensor:
    """A vector of dim D for each number: 1 at the component of that number, rounded."""
    return combine(ops.one_hot, self, attr=(_integer("D", D),))


@method
def bspline(self: LazyTensor, x: Any, k: int = 0) -> LazyTensor:
    """The B-splines of degree k at the numbers x; self holds the knots."""
    return combine(ops.bspline, self, x, attr=(_integer("k", k),))


@method
def softdtw_sqdist(self: LazyTensor, other: Any, gamma: Any) -> LazyTensor:
    """Soft dynamic time warping of two series, of squared differences, with smoothing gamma > 0."""
    return combine(ops.softdtw_sqdist, self, other, gamma)


# ---------------------------------------------------------------- matrices and tensors, stored by rows


@method
def matvecmult(self: LazyTensor, other: Any) -> LazyTensor:
    """The matrix self times the vector other."""
    return combine(ops.matvecmult, self, other)


@method
def vecmatmult(self: LazyTensor, other: Any) -> LazyTensor:
    """The vector self times the matrix other."""
    return combine(ops.vecmatmult, self, other)


@method
def tensorprod(self: LazyTensor, other: Any) -> LazyTensor:
    """The matrix of all products of a component of self and one of other."""
    return combine(ops.tensorprod, self, other)


@method
def keops_tensordot(
    self: LazyTensor,
    other: Any,
    dimfa: int | Sequence[int],
    dimfb: int | Sequence[int],
    contfa: int | Sequence[int],
    contfb: int | Sequence[int],
    *permute: int | Sequence[int],
) -> LazyTensor:
    """Tensors of shapes dimfa and dimfb, contracted over axes contfa and contfb; see `ops.tensordot`."""
    axes = (dimfa, dimfb, contfa, contfb, *permute)
    names = ("dimfa", "dimfb", "contfa", "contfb", "permute")
    return combine(ops.tensordot, self, other, attr=tuple(map(_integers, names, axes)))


@method
def keops_kron(self: LazyTensor, other: Any, dimfself: Sequence[int], dimfother: Sequence[int]) -> LazyTensor:
    """The Kronecker product of two tensors with as many axes."""
    return combine(
        ops.kron, self, other, attr=(_integers("dimfself", dimfself), _integers("dimfother", dimfother))
    )


# ---------------------------------------------------------------- KeOps's hints to its compiler


@method
def factorize(self: LazyTensor, other: Any) -> LazyTensor:
    """self: what a formula shares with another one is computed once anyway."""
    return self


@method
def auto_factorize(self: LazyTensor) -> LazyTensor:
    """self: what occurs twice in a formula is computed once anyway."""
    return self

"""Products of vectors that stand for matrices and tensors, stored by rows.

All of them are one op, a sum of products over a grid of indices, whose derivatives are such sums again.
"""

from __future__ import annotations

import math

import torch

from ...errors import FormulaError
from ..expr import Expr, Op, define, node
from .base import value_of, zero

__all__ = ["kron", "matvecmult", "symsqnorm", "tensordot", "tensorprod", "vecmatmult"]

Axes = tuple[int, ...]


def _shape(axes: Axes, sizes: Axes) -> Axes:
    return tuple(sizes[k] for k in axes)


def _dim(dims: tuple[int, ...], attr: tuple) -> int:
    sizes, *both, out = attr
    for dim, axes in zip(dims, both, strict=True):
        if dim != math.prod(_shape(axes, sizes)):
            raise FormulaError(f"a vector of dim {dim} is no tensor of shape {_shape(axes, sizes)}.")
    return math.prod(_shape(out, sizes))


def _reference(
    a: torch.Tensor, b: torch.Tensor, sizes: Axes, left: Axes, right: Axes, out: Axes
) -> torch.Tensor:
    x = a.reshape(*a.shape[:-1], *_shape(left, sizes))
    y = b.reshape(*b.shape[:-1], *_shape(right, sizes))
    product = torch.einsum(x, [..., *left], y, [..., *right], [..., *out])
    return product.reshape(*product.shape[: product.dim() - len(out)], -1)


def _vjp(e: Expr, g: Expr) -> tuple[Expr, Expr]:
    (a, b), (sizes, left, right, out) = e.args, e.attr
    return (
        node("contract", g, b, attr=(sizes, out, right, left)),
        node("contract", g, a, attr=(sizes, out, left, right)),
    )


def _lower(low, e: Expr, d):
    (a, b), (sizes, left, right, out) = e.args, e.attr
    summed = tuple(k for k in range(len(sizes)) if k not in out)
    kept = dict(zip(out, low.digits(d, _shape(out, sizes)), strict=True))

    def terms(*position):
        at = kept | dict(zip(summed, position, strict=True))
        return tuple(
            low.component(f, low.place(tuple(at[k] for k in axes), _shape(axes, sizes)))
            for f, axes in ((a, left), (b, right))
        )

    return low.inner(e, _shape(summed, sizes), terms)


def _fold(args: tuple[Expr, ...], attr: tuple) -> Expr | None:
    return zero(_dim(tuple(a.dim for a in args), attr)) if 0 in map(value_of, args) else None


define(
    Op(
        "contract",
        2,
        _dim,
        _reference,
        _vjp,
        lower=_lower,
        fold=_fold,
        sign=lambda s, attr: s[0] * s[1],
        doc="sum of products a[left] b[right] over the indices that are not in out",
    )
)


def _axes(name: str, axes: Axes, count: int) -> None:
    if len(set(axes)) != len(axes) or any(not 0 <= k < count for k in axes):
        raise FormulaError(f"{name}={axes}: expected different axes of a tensor of {count} axes, from 0 on.")


def tensordot(
    a: Expr, b: Expr, dims_a: Axes, dims_b: Axes, cont_a: Axes, cont_b: Axes, permute: Axes = ()
) -> Expr:
    """The tensors a and b of shapes ``dims_a`` and ``dims_b``, contracted over ``cont_a`` and ``cont_b``.

    The axes that are left, those of a before those of b, go to the places ``permute``, if it is given.

    Raises
    ------
    FormulaError
        Dimensions or axes that do not fit.
    """
    _axes("contfa", cont_a, len(dims_a))
    _axes("contfb", cont_b, len(dims_b))
    if [dims_a[k] for k in cont_a] != [dims_b[k] for k in cont_b]:
        raise FormulaError(
            f"tensordot: axes {cont_a} of shape {dims_a} and axes {cont_b} of shape {dims_b} are "
            "contracted, so they must have equal lengths."
        )
    left = tuple(range(len(dims_a)))
    partner = dict(zip(cont_b, cont_a, strict=True))
    right, sizes = [], list(dims_a)
    for k, n in enumerate(dims_b):
        right.append(partner.get(k, len(sizes)))
        if k not in partner:
            sizes.append(n)
    out = [k for k in range(len(sizes)) if k not in cont_a]
    if permute:
        if sorted(permute) != list(range(len(out))):
            raise FormulaError(
                f"permute={permute}: expected a permutation of the {len(out)} axes that are left."
            )
        out = [out[permute.index(k)] for k in range(len(out))]
    return node("contract", a, b, attr=(tuple(sizes), left, tuple(right), tuple(out)))


def kron(a: Expr, b: Expr, dims_a: Axes, dims_b: Axes) -> Expr:
    """The Kronecker product of two tensors with as many axes, as numpy.kron."""
    if len(dims_a) != len(dims_b):
        raise FormulaError(
            f"kron: shapes {dims_a} and {dims_b} must have as many axes; insert axes of length 1."
        )
    n = len(dims_a)
    return tensordot(a, b, dims_a, dims_b, (), (), (*range(0, 2 * n, 2), *range(1, 2 * n, 2)))


def _columns(what: str, matrix: Expr, vector: Expr) -> int:
    if matrix.dim % vector.dim:
        raise FormulaError(
            f"{what}: a matrix of {matrix.dim} numbers does not fit a vector of dim {vector.dim}."
        )
    return matrix.dim // vector.dim


def matvecmult(a: Expr, b: Expr) -> Expr:
    """The matrix a, stored by rows, times the column b."""
    return node("contract", a, b, attr=((_columns("matvecmult", a, b), b.dim), (0, 1), (1,), (0,)))


def vecmatmult(b: Expr, a: Expr) -> Expr:
    """The row b times the matrix a, stored by rows."""
    return node("contract", b, a, attr=((b.dim, _columns("vecmatmult", a, b)), (0,), (0, 1), (1,)))


def tensorprod(a: Expr, b: Expr) -> Expr:
    """The matrix a b^T, stored by rows."""
    return node("contract", a, b, attr=((a.dim, b.dim), (0,), (1,), (0, 1)))


def symsqnorm(s: Expr, a: Expr) -> Expr:
    """<a, S a> for the matrix S, stored by rows."""
    if s.dim != a.dim**2:
        raise FormulaError(f"weights of dim {s.dim} for a vector of dim {a.dim}: expected {a.dim**2}.")
    return node("sum", matvecmult(s, a) * a)

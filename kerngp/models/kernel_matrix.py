"""From a kernel and points to the operator of its matrix."""

from __future__ import annotations

from typing import Any

import torch

from ..engine.arrays import adopt
from ..engine.entries import diagonal
from ..engine.expr import Expr, Vi, Vj
from ..errors import DeviceError, DTypeError, ShapeError
from ..solvers import AddedDiagonal, KernelOperator, LinearOperator
from .kernel_base import Arguments, Kernel, points

Tensor = torch.Tensor


def kernel_matrix(kernel: Kernel, x: Any, y: Any = None, *, weights: Tensor | None = None) -> LinearOperator:
    """The matrix k(x_i, y_j), or k(x_i, x_j) plus the kernel's white noise if y is None.

    The same object given twice is known to give a symmetric matrix; white noise is between a point and
    itself, and x and y are two sets of points even then, so that it has none.

    Parameters
    ----------
    kernel : Kernel
    x, y : arrays of shape (M, D) and (N, D)
    weights : tensor of shape (M,), optional
        With y None: the matrix w_i k(x_i, x_j) w_j, still one formula. White noise is not multiplied.

    Returns
    -------
    LinearOperator
        `KernelOperator`, with `AddedDiagonal` around it if there is white noise.

    Raises
    ------
    ShapeError, DTypeError, DeviceError
        If x and y do not fit together or to the kernel.
    """
    a = _points("x", x)
    symmetric = y is None or y is x
    b = a if symmetric else _points("y", y)
    _agree(a, b)
    arguments = Arguments(2, a)
    parts = kernel.parts(*points(a.shape[-1]), arguments)
    # a zero formula is a parameter too, so that it carries the dtype and device of x
    formula = arguments.add(0.0) if parts.formula is None else parts.formula
    args: tuple[Tensor, ...] = (a, b, *arguments.values)
    if weights is not None:
        column = weights.to(a.dtype).reshape(-1, 1)
        n = len(args)
        formula = Vi(n, 1) * formula * Vj(n + 1, 1)
        args = (*args, column, column)
    sizes = (a.shape[-2], b.shape[-2])
    operator = KernelOperator(formula, args, sizes, symmetric=symmetric, psd=symmetric and kernel.psd)
    if parts.nugget is None or y is not None:
        return operator
    return AddedDiagonal(operator, _at_points(parts.nugget, args, sizes))


def white_noise(kernel: Kernel, x: Any) -> Tensor | None:
    """What ``kernel(x)`` adds to the diagonal of ``kernel(x, x)``: a number, one for each point, or None."""
    a = _points("x", x)
    arguments = Arguments(2, a)
    parts = kernel.parts(*points(a.shape[-1]), arguments)
    if parts.nugget is None:
        return None
    return _at_points(parts.nugget, (a, a, *arguments.values), (a.shape[-2], a.shape[-2]))


def _at_points(nugget: Expr, args: tuple[Tensor, ...], sizes: tuple[int, int]) -> Tensor:
    if nugget.axes & {"i", "j"}:
        return diagonal(nugget, args, sizes=sizes)[..., 0]
    return diagonal(nugget, args, sizes=(1, 1)).reshape(())


def _points(name: str, value: Any) -> Tensor:
    t = adopt(name, value)
    if t.dim() < 2:
        raise ShapeError(
            f"{name} has shape {tuple(t.shape)}; expected (points, columns): "
            f"for points with one coordinate pass {name}[:, None]."
        )
    return t


def _agree(a: Tensor, b: Tensor) -> None:
    if a.shape[-1] != b.shape[-1]:
        raise ShapeError(f"x has {a.shape[-1]} columns and y has {b.shape[-1]}; they must be equal.")
    if a.dtype != b.dtype:
        raise DTypeError(f"x has dtype {a.dtype} and y has {b.dtype}; convert one of them.")
    if a.device != b.device:
        raise DeviceError(f"x is on {a.device} and y on {b.device}; move one of them.")

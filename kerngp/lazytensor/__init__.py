"""Symbolic matrices under KeOps's names: `LazyTensor`, and `Vi`, `Vj`, `Pm` for its variables."""

from __future__ import annotations

from typing import Any

from .complex import ComplexLazyTensor
from .kernel import KernelFunction, kernel
from .lookup import lookup
from .methods import install
from .tensor import LazyTensor

__all__ = ["ComplexLazyTensor", "KernelFunction", "LazyTensor", "Pm", "Vi", "Vj", "kernel", "lookup"]

install()


def Vi(x_or_index: Any, dim: int | None = None) -> LazyTensor:
    """An array (M, D) indexed by i, or a symbolic variable (index, dim).

    Examples
    --------
    >>> import torch
    >>> Vi(torch.zeros(4, 3)).shape
    (4, 1, 3)
    """
    return _variable(x_or_index, dim, 0)


def Vj(x_or_index: Any, dim: int | None = None) -> LazyTensor:
    """An array (N, D) indexed by j, or a symbolic variable (index, dim); see `Vi`."""
    return _variable(x_or_index, dim, 1)


def Pm(x_or_index: Any, dim: int | None = None) -> LazyTensor:
    """A parameter: a number, a vector (D,), or a symbolic variable (index, dim); see `Vi`."""
    return _variable(x_or_index, dim, 2)


def _variable(x: Any, dim: int | None, axis: int) -> LazyTensor:
    return LazyTensor(x, axis=axis) if dim is None else LazyTensor((x, dim, axis))

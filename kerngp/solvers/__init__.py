"""Linear operators, and solvers that only multiply with them."""

from __future__ import annotations

from .kernel_operator import KernelOperator
from .operator import AddedDiagonal, Dense, Diagonal, LinearOperator, as_operator, cast, identity

__all__ = [
    "AddedDiagonal",
    "Dense",
    "Diagonal",
    "KernelOperator",
    "LinearOperator",
    "as_operator",
    "cast",
    "identity",
]

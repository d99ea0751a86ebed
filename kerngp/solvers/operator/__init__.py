"""Linear operators: what one is, the small ones, and their algebra."""

from __future__ import annotations

from .algebra import add, as_operator, identity, scale
from .base import LinearOperator, Remake, cast, unique
from .basic import AddedDiagonal, Dense, Diagonal, Scaled, Sum

__all__ = [
    "AddedDiagonal",
    "Dense",
    "Diagonal",
    "LinearOperator",
    "Remake",
    "Scaled",
    "Sum",
    "add",
    "as_operator",
    "cast",
    "identity",
    "scale",
    "unique",
]

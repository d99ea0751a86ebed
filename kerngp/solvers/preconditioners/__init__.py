"""Preconditioners: operators that approximate an inverse, and recipes that make them."""

from __future__ import annotations

from .none import NoPreconditioner
from .rpcholesky import LowRankInverse, RPCholesky

__all__ = ["LowRankInverse", "NoPreconditioner", "RPCholesky"]

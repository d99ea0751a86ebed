"""Preconditioners: operators that approximate an inverse, and recipes that make them."""

from __future__ import annotations

from .base import Preconditioner
from .low_rank import LowRank, LowRankInverse
from .none import Identity, NoPreconditioner
from .rpcholesky import RPCholesky

__all__ = ["Identity", "LowRank", "LowRankInverse", "NoPreconditioner", "Preconditioner", "RPCholesky"]

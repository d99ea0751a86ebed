"""Preconditioners: operators that approximate an inverse, and recipes that make them."""

from __future__ import annotations

from .base import Preconditioner
from .custom import CustomPreconditioner
from .jacobi import DiagonalInverse, Jacobi
from .low_rank import LowRank, LowRankInverse
from .none import Identity, NoPreconditioner
from .nystrom import Nystrom
from .recipes import RECIPES, as_preconditioner
from .rpcholesky import RPCholesky
from .vecchia import Vecchia, VecchiaInverse

__all__ = [
    "RECIPES",
    "CustomPreconditioner",
    "DiagonalInverse",
    "Identity",
    "Jacobi",
    "LowRank",
    "LowRankInverse",
    "NoPreconditioner",
    "Nystrom",
    "Preconditioner",
    "RPCholesky",
    "Vecchia",
    "VecchiaInverse",
    "as_preconditioner",
]

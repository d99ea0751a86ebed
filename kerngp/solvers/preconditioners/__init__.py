"""Preconditioners: operators that approximate an inverse, and recipes that make them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from .base import Preconditioner
from .custom import CustomPreconditioner, as_preconditioner
from .jacobi import DiagonalInverse, Jacobi
from .low_rank import LowRank, LowRankInverse
from .none import Identity, NoPreconditioner
from .nystrom import Nystrom
from .rpcholesky import RPCholesky
from .vecchia import Vecchia, VecchiaInverse

RECIPES: dict[str, Callable[[], Any]] = {
    "none": NoPreconditioner,
    "rpcholesky": partial(RPCholesky, 500),
    "vecchia": Vecchia,
    "nystrom": partial(Nystrom, 500),
    "jacobi": Jacobi,
}
"""Recipes by name."""

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

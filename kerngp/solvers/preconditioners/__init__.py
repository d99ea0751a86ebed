"""Preconditioners: operators that approximate an inverse, and recipes that make them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from .base import Preconditioner
from .low_rank import LowRank, LowRankInverse
from .none import Identity, NoPreconditioner
from .rpcholesky import RPCholesky
from .vecchia import Vecchia, VecchiaInverse

RECIPES: dict[str, Callable[[], Any]] = {
    "none": NoPreconditioner,
    "rpcholesky": partial(RPCholesky, 500),
    "vecchia": Vecchia,
}
"""Recipes by name."""

__all__ = [
    "RECIPES",
    "Identity",
    "LowRank",
    "LowRankInverse",
    "NoPreconditioner",
    "Preconditioner",
    "RPCholesky",
    "Vecchia",
    "VecchiaInverse",
]

"""Preconditioners: operators that approximate an inverse, and recipes that make them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from .none import NoPreconditioner
from .rpcholesky import LowRankInverse, RPCholesky

RECIPES: dict[str, Callable[[], Any]] = {
    "none": NoPreconditioner,
    "rpcholesky": partial(RPCholesky, 500),
}
"""Recipes by name."""

__all__ = ["RECIPES", "LowRankInverse", "NoPreconditioner", "RPCholesky"]

"""What a caller means by a preconditioner: a name, a recipe, an operator or a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...errors import DeviceError, OptionError, ShapeError
from ..operator import LinearOperator
from .base import Preconditioner
from .custom import CustomPreconditioner
from .jacobi import Jacobi
from .none import NoPreconditioner
from .nystrom import Nystrom
from .rpcholesky import RPCholesky
from .vecchia import Vecchia

RECIPES: dict[str, Callable[[], Any]] = {
    "none": NoPreconditioner,
    "rpcholesky": RPCholesky,
    "vecchia": Vecchia,
    "nystrom": Nystrom,
    "jacobi": Jacobi,
}
"""Recipes by name."""


def as_preconditioner(value: Any, A: LinearOperator) -> Preconditioner:
    """The preconditioner of A that ``value`` means.

    Parameters
    ----------
    value : None, str, Preconditioner, recipe, LinearOperator or callable
        A name of `RECIPES` stands for that recipe; a recipe is built; an operator or a function r -> M r
        must be symmetric positive definite and approximate the inverse of A.
    A : LinearOperator

    Raises
    ------
    OptionError, ShapeError, DeviceError
        If it is none of these, or does not fit A.

    Examples
    --------
    >>> from kerngp.solvers import identity
    >>> M = as_preconditioner(lambda r: 0.5 * r, 2.0 * identity(3))
    >>> M.description, M @ torch.ones(3, dtype=torch.float64)
    ('custom', tensor([0.5000, 0.5000, 0.5000], dtype=torch.float64))
    """
    if value is None:
        value = NoPreconditioner()
    if isinstance(value, str):
        if value not in RECIPES:
            raise OptionError(
                f"preconditioner={value!r}: expected one of {', '.join(map(repr, RECIPES))}, a recipe "
                "such as RPCholesky(rank=100), or a LinearOperator."
            )
        value = RECIPES[value]()
    if hasattr(value, "build"):
        with torch.no_grad():
            value = value.build(A)
    if callable(value) and not isinstance(value, LinearOperator):
        apply: Any = value
        value = CustomPreconditioner(apply, A.shape[-1], device=A.device)
    if not isinstance(value, LinearOperator):
        raise OptionError(
            f"preconditioner is a {type(value).__name__}; expected a LinearOperator or a function r -> M r "
            "that approximates the inverse of A, or a recipe such as RPCholesky(rank=100)."
        )
    if value.shape[-2:] != A.shape[-2:]:
        raise ShapeError(
            f"preconditioner has shape {value.shape}, the operator {A.shape}; they must be equal."
        )
    if value.device != A.device:
        raise DeviceError(
            f"preconditioner is on {value.device}, the operator on {A.device}; move one of them."
        )
    if isinstance(value, Preconditioner):
        return value
    return CustomPreconditioner(value, A.shape[-1], device=A.device)

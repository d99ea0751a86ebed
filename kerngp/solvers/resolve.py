"""From what a caller names to what is run: methods and preconditioners, by object, recipe or name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, NamedTuple, Protocol

import torch

from ..errors import OptionError
from .alternating import AlternatingProjection
from .askotch import ASkotch
from .auto import Auto, choose
from .cg import CG
from .cholesky import Cholesky
from .operator import LinearOperator
from .preconditioners import NoPreconditioner, as_preconditioner
from .refine import Refine
from .sdd import StochasticDualDescent
from .solution import Progress, Solution

Tensor = torch.Tensor

METHODS: dict[str, Any] = {
    "alternating": AlternatingProjection,
    "askotch": ASkotch,
    "auto": Auto,
    "cg": CG,
    "cholesky": Cholesky,
    "refine": Refine,
    "sdd": StochasticDualDescent,
}
"""Methods by name; each is built without arguments, or with those of `LIMITS` that it has."""

LIMITS = ("tol", "max_iter", "time_limit")


class Method(Protocol):
    """What `solve` needs of an algorithm: plain numbers in, a Solution out, no gradients."""

    def run(
        self,
        A: LinearOperator,
        b: Tensor,
        *,
        preconditioner: LinearOperator | None = None,
        x0: Tensor | None = None,
        callback: Callable[[Progress], Any] | None = None,
    ) -> Solution:
        """Solve A x = b for b of shape (*batch, N, E)."""
        ...


class Recipe(Protocol):
    """A way to make a preconditioner for an operator."""

    def build(self, A: LinearOperator) -> LinearOperator:
        """An operator that approximates the inverse of A, symmetric positive definite."""
        ...


class Resolved(NamedTuple):
    """What is run, and why: sentences for the report, none if the caller chose."""

    method: Method
    preconditioner: LinearOperator | None
    lines: tuple[str, ...] = ()


def resolve(
    A: LinearOperator,
    b: Tensor,
    method: Any,
    preconditioner: Any,
    limits: Mapping[str, Any],
    callback: Callable[[Progress], Any] | None = None,
) -> Resolved:
    """The method and the preconditioner for this system, whichever way they were named.

    Parameters
    ----------
    A, b
        Plain numbers: no transform has a part in them.
    method : Method or str
    preconditioner : LinearOperator, Recipe, str or None
    limits : dict
        Those of `LIMITS` that the caller gave.
    callback : callable, optional
        Told of the phases of a choice.

    Raises
    ------
    OptionError, ShapeError, DeviceError
    """
    found = _method(method, limits)
    if isinstance(found, Auto):
        M = NoPreconditioner().build(A) if _is("none", preconditioner) else _preconditioner(preconditioner, A)
        choice = choose(A, b, found.cg(), found.random_state, preconditioner=M, callback=callback)
    elif isinstance(found, CG) and _is("auto", preconditioner):
        choice = choose(A, b, found, direct=False, callback=callback)
    else:
        return Resolved(found, _preconditioner(preconditioner, A))
    return Resolved(choice.method, choice.preconditioner, choice.lines)


def _method(method: Any, limits: Mapping[str, Any]) -> Method:
    if isinstance(method, str):
        return _named(method, limits)
    if not callable(getattr(method, "run", None)) or isinstance(method, type):
        raise OptionError(
            f"method is {method!r}; expected a solver such as CG(), or one of {_names(METHODS)}."
        )
    if limits:
        raise OptionError(
            f"{_names(limits)} and a method were given: {method!r} has limits of its own; set them there, as "
            "in CG(tol=1e-6), or give the method by its name."
        )
    return method


def _named(name: str, limits: Mapping[str, Any]) -> Method:
    if name not in METHODS:
        raise OptionError(f"method={name!r}: expected a solver such as CG(), or one of {_names(METHODS)}.")
    known = {f.name for f in fields(METHODS[name])}
    for limit in limits:
        if limit not in known:
            raise OptionError(f"method={name!r} has no {limit}; it takes {_names(known) or 'no limits'}.")
    return METHODS[name](**limits)


def _is(name: str, given: Any) -> bool:
    return isinstance(given, str) and given == name


def _preconditioner(given: Any, A: LinearOperator) -> LinearOperator | None:
    """What is given, built; None for no preconditioner, and for "auto", which is left to the method."""
    if given is None or _is("auto", given) or _is("none", given):
        return None
    return as_preconditioner(given, A)


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(names)))

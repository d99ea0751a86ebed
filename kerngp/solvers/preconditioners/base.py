"""What a preconditioner is: an operator M that approximates the inverse of another, and a little more."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from ...errors import BackendUnavailable
from ..certificate import fixed_floor
from ..operator import LinearOperator, Remake, identity
from ..solution import Note

Tensor = torch.Tensor
P = TypeVar("P")
ALIKE = 4.0  # alphas within this factor share a preconditioner


class Preconditioner(LinearOperator):
    """M = P^-1 for a symmetric positive definite P that approximates A.

    Solvers need its products alone, so that any operator will do for them. Functions of A - its
    log-determinant, its trace, samples - also need the square root and the determinant of P,
    certificates a bound.

    Attributes
    ----------
    floor : float or None
        No eigenvalue of M A is smaller, provably (1 if P <= A); None if nothing is known.
    description : str
        For reports: "RPCholesky, rank 200".
    notes : tuple of Note
        What a user should know of how it was made.
    """

    work = "preconditioner"
    floor: float | None = None
    description: str = ""
    notes: tuple[Note, ...] = ()

    @abstractmethod
    def root(self) -> LinearOperator:
        """A square operator L with M = L' L: L A L' is symmetric and close to the identity."""

    @abstractmethod
    def logdet(self) -> Tensor:
        """log det P, float64, shape ()."""

    def floor_for(self, A: LinearOperator, shifts: Tensor | None = None) -> Tensor | None:
        """A number below all eigenvalues of M (A + shifts[e] I), provably, by column; None if unknown.

        ``floor`` is that of the operator M was made for, and says nothing of one with other entries or
        with less on its diagonal: who can tell them apart does so here.
        """
        return fixed_floor(self.floor, shifts)

    @abstractmethod
    def refresh(self, A: LinearOperator) -> Preconditioner:
        """The preconditioner of the same recipe for other values: other hyperparameters, another alpha.

        Choices that were expensive to make (pivots, neighbours) are kept, numbers are computed anew.
        """

    def shifted(self, K: LinearOperator, shifts: Sequence[float]) -> Sequence[Preconditioner]:
        """The same recipe for K + s I, for each s of the increasing ``shifts``; this one is for the first.

        Here by `refresh`, once for shifts that are alike; others know how to share more.
        """

        def make(s: float) -> Preconditioner:
            return self if s == shifts[0] else self.refresh(shift(K, s))

        return shared(shifts, self.floor is not None, make)

    def remade(self, new: Remake) -> LinearOperator:
        """See `LinearOperator.remade`; most preconditioners are of one matrix and have no batch."""
        tensors = [new(t, t.dim()) for t in self.tensors]
        if any(t.dim() != old.dim() for t, old in zip(tensors, self.tensors, strict=True)):
            raise BackendUnavailable(
                f"torch.vmap over the tensors of a {type(self).__name__} is not defined. Solve the systems "
                "one by one."
            )
        return self.with_tensors(tensors)


def shift(K: LinearOperator, s: float) -> LinearOperator:
    """K + s I."""
    return K + s * identity(K.shape[-1], device=K.device)


def shared(shifts: Sequence[float], below: bool, make: Callable[[float], P]) -> list[P]:
    """``make`` called once for each group of increasing ``shifts`` that are alike; one result for each shift.

    For P = K + rho I all eigenvalues of P^-1 (K + s I) lie between 1 and s / rho. A preconditioner from
    below serves larger shifts as well as its own and keeps its floor; others are made for the middle.
    """
    found: list[P] = []
    while len(found) < len(shifts):
        group = [s for s in shifts[len(found) :] if s <= ALIKE * shifts[len(found)]]
        middle = group[0] if below or len(group) == 1 else (group[0] * group[-1]) ** 0.5
        found += [make(middle)] * len(group)
    return found

"""No preconditioner, as a recipe: for loops over recipes."""

from __future__ import annotations

from dataclasses import dataclass

from ..operator import LinearOperator, identity


@dataclass(frozen=True)
class NoPreconditioner:
    """The identity.

    Examples
    --------
    >>> from kerngp.solvers import identity
    >>> NoPreconditioner().build(identity(3)).shape
    (3, 3)
    """

    def build(self, A: LinearOperator) -> LinearOperator:
        """The identity of the size of A."""
        return identity(A.shape[-1], device=A.device)

"""What a solver returns, what it reports while it runs, and the names of its outcomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Status(Enum):
    """How a solve ended; the value says what happened and what to do about it."""

    converged = "the residual is below the tolerance."
    stopped = "the callback asked to stop."
    max_iter = (
        "the iterations ran out. Raise max_iter, use a preconditioner such as RPCholesky(rank=...), "
        "or add more to the diagonal."
    )
    stagnated = (
        "rounding errors stop the residual from falling further; x is the best iterate. Use float64 "
        "(for the right-hand side at least), loosen tol, or add more to the diagonal."
    )
    indefinite = (
        "the matrix (or the preconditioner) is not positive definite to working precision. Add more to "
        "the diagonal, use float64, and check that the kernel is positive definite."
    )
    nan = "NaN or infinity appeared in the right-hand side, the matrix or the preconditioner. Check the data."


SEVERITY = (
    Status.converged,
    Status.stopped,
    Status.max_iter,
    Status.stagnated,
    Status.indefinite,
    Status.nan,
)


@dataclass(frozen=True)
class Progress:
    """What a callback is told.

    Attributes
    ----------
    iteration : int
    total : int
        The most iterations there can be.
    residual_norms : torch.Tensor
        Relative residual of each column, as the recursion knows it.
    active : int
        Columns still being worked on.
    phase : str
        "iterate", or the name of a preparation of which ``iteration`` of ``total`` steps are done.
    """

    iteration: int
    total: int
    residual_norms: Any
    active: int
    phase: str = "iterate"

    @property
    def residual(self) -> float:
        """The largest relative residual."""
        r = self.residual_norms
        return float(r.max()) if r.numel() else 0.0


@dataclass(frozen=True)
class Solution:
    """The outcome of a solve.

    Attributes
    ----------
    x : array
        In the library, shape and dtype of the right-hand side. NaN where there is no answer.
    status : Status
        The worst over all columns.
    iterations : int
    residual_norms : array of shape (*batch, E), or () for a vector
        |b - A x| / |b| of the x returned, computed from its definition; 0 where b = 0.
    history : array of shape (iterations + 1, *batch, E)
        Relative residuals along the way, as the recursion knew them.
    products : int
        How often the whole matrix was passed over.
    method : str
    detail : str
        What is particular to this solve, for messages.
    extra : dict
        Results of one method only, such as "centers".
    """

    x: Any
    status: Status
    iterations: int
    residual_norms: Any
    history: Any
    products: int = 0
    method: str = ""
    detail: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def converged(self) -> bool:
        """Whether every column reached the tolerance."""
        return self.status is Status.converged

    @property
    def message(self) -> str:
        """One sentence: outcome, residual, remedy."""
        r = self.residual_norms
        worst = float(r.max()) if getattr(r, "size", 0) and (not callable(r.size) or r.numel()) else 0.0
        detail = f" ({self.detail})" if self.detail else ""
        return (
            f"{self.method} ended with status {self.status.name} after {self.iterations} iterations, "
            f"relative residual {worst:.1e}{detail}: {self.status.value}"
        )

"""What a solver returns, what it reports while it runs, and the names of its outcomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Status(Enum):
    """How a solve ended; the value says what happened and what to do about it."""

    converged = "the residual is below the tolerance."
    stopped = "the callback or Ctrl-C asked to stop; x is the best iterate."
    time_limit = (
        "the time ran out; x is the best iterate. Raise time_limit, loosen the tolerance, or use "
        "method='auto' to choose among preconditioners."
    )
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
    Status.time_limit,
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
class Note:
    """Something a user should know of a solve that went as it should.

    Attributes
    ----------
    code : str
        Short and stable, for programs: "F32_ALPHA", "REFINED", "SWITCHED", "ESCALATED" ...
    text : str
        For people.
    """

    code: str
    text: str


@dataclass(frozen=True)
class Certificate:
    """An upper bound on the error of the solution, known without the solution.

    Attributes
    ----------
    error : torch.Tensor of shape (*batch, E)
        Of |x* - x| in the norm of A, sqrt(d' A d), for x* the exact solution.
    kind : {"bound", "estimate"}
        "bound" holds in exact arithmetic: the preconditioner is fixed and below A, and products are
        exact. Otherwise it is an estimate.
    reason : str
        Why it is no more than an estimate; empty for a bound.
    """

    error: Any
    kind: str
    reason: str = ""

    def prediction_error(self, k_xx: Any) -> Any:
        """What f(x) = sum_i k(x, x_i) alpha_i is off by at most, at points with the prior variances k(x, x).

        |f*(x) - f(x)| <= sqrt(k(x, x)) |alpha* - alpha|_A, for A = K + alpha I with the kernel k: a guarantee
        at every point if ``kind`` is "bound".

        Parameters
        ----------
        k_xx : number or torch.Tensor
            Broadcasts with ``error``; the largest one gives a bound that holds everywhere.

        Examples
        --------
        >>> import torch
        >>> Certificate(torch.tensor([0.5]), "bound").prediction_error(4.0)
        tensor([1.])
        """
        return k_xx**0.5 * self.error


@dataclass(frozen=True)
class Report:
    """What is known of a solve beyond its result; every solver fills in what it knows.

    Attributes
    ----------
    choice : tuple of str
        Why this method was chosen, one sentence a line.
    preconditioner : str
    passes : float
        Entries computed for everything together - products, preconditioner, neighbour search, races,
        restarts - in units of one pass over the matrix.
    seconds : dict
        Where the time went; "total" is that of the whole solve.
    ritz : (float, float), optional
        Smallest and largest Ritz value of the preconditioned operator: bounds from inside of its spectrum.
    certificate : Certificate, optional
    suggested_alpha : float, optional
        How much more on the diagonal would make an indefinite matrix positive definite (an estimate).
    attainable : float, optional
        The relative residual below which rounding errors do not let it fall, estimated.
    notes : tuple of Note
    tol : float, optional
        The relative residual that was asked for.
    """

    choice: tuple[str, ...] = ()
    preconditioner: str = ""
    passes: float = float("nan")
    seconds: dict[str, float] = field(default_factory=dict)
    ritz: tuple[float, float] | None = None
    certificate: Certificate | None = None
    suggested_alpha: float | None = None
    attainable: float | None = None
    notes: tuple[Note, ...] = ()
    tol: float | None = None


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
    report : Report
        What the solve cost and what is known of its error.
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
    report: Report = field(default_factory=Report)

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

    def explain(self) -> str:
        """How the solve went, on one screen, as ``print`` shows it; see `kerngp.solvers.report.explain`."""
        from .report import explain

        return explain(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything but x as plain data that JSON can hold; see `kerngp.solvers.report.to_dict`."""
        from .report import to_dict

        return to_dict(self)

    def plot(self, ax: Any = None) -> Any:
        """The residuals of each column, drawn by matplotlib; see `kerngp.solvers.report.plot`."""
        from .report import plot

        return plot(self, ax)

    def __str__(self) -> str:
        return self.explain()

    def __repr__(self) -> str:
        steps = f"{self.iterations} iteration{'' if self.iterations == 1 else 's'}"
        return f"Solution({self.method}: {self.status.name}, {steps}, x of shape {tuple(self.x.shape)})"

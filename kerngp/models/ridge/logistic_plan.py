"""What a fit of kernel logistic regression will do, decided from sizes alone."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import OptionError
from ...solvers.inducing.plan import check_memory, memory, most_centers
from ...solvers.preconditioners.rpcholesky import default_rank
from ..inputs import bytes_text

SOLVERS = ("auto", "newton", "inducing")

# Rows up to which the kernel matrix is stored: its entries are then computed once.
STORED_ROWS = 4000
# Rows up to which every row has a coefficient. A step of Newton's iteration takes some passes of N^2 entries.
NEWTON_ROWS = 50_000
# Rows up to which the preconditioner has full rank: its factor is then that of the matrix.
FULL_RANK = 500


@dataclass(frozen=True)
class LogisticPlan:
    """Forecast of a fit.

    Attributes
    ----------
    solver : {"newton", "inducing"}
    rows, features, columns : int
        ``columns`` is the number of functions: 1 for two classes.
    stored : bool
        Whether the kernel matrix is stored.
    n_centers : int
        Inducing points; 0 for "newton".
    rank : int
        Of the preconditioner of "newton".
    memory : int
        Bytes beyond the input.
    reason : str
    """

    solver: str
    rows: int
    features: int
    columns: int
    stored: bool
    n_centers: int
    rank: int
    memory: int
    reason: str

    def __str__(self) -> str:
        how = "matrix stored" if self.stored else "matrix-free"
        extra = (
            f"{self.n_centers:,} inducing points" if self.n_centers else f"preconditioner of rank {self.rank}"
        )
        return (
            f"{self.rows:,} rows x {self.features} features, {self.columns} function(s): "
            f"solver={self.solver}, "
            f"{how}, {extra} ({self.reason}); memory {bytes_text(self.memory)}"
        )


def make_logistic_plan(
    rows: int,
    features: int,
    columns: int = 1,
    *,
    solver: str = "auto",
    n_centers: int | None = None,
    rank: int | None = None,
    memory_limit: int = 1 << 30,
    dense: bool = False,
) -> LogisticPlan:
    """Choose the solver and forecast its memory.

    Parameters
    ----------
    rows, features, columns : int
    solver : {"auto", "newton", "inducing"}
    n_centers : int, optional
        Asks for inducing points if ``solver="auto"``.
    rank : int, optional
        Of the preconditioner.
    memory_limit : int
        Bytes that matrices may take.
    dense : bool
        The kernel has no formula.

    Raises
    ------
    OptionError
        If the matrices do not fit into the memory limit.

    Examples
    --------
    >>> make_logistic_plan(300_000, 10).solver
    'inducing'
    """
    square = 8 * rows**2
    if solver != "auto":
        reason = "as asked"
    elif n_centers is not None:
        solver, reason = "inducing", "n_centers is given"
    elif dense:
        solver, reason = "newton", "the kernel has no formula"
    elif rows <= NEWTON_ROWS:
        solver, reason = "newton", f"at most {NEWTON_ROWS:,} rows"
    else:
        solver, reason = "inducing", f"more than {NEWTON_ROWS:,} rows"

    if solver == "inducing":
        centers = min(rows, n_centers or most_centers(rows, memory_limit))
        need = memory(rows, features, columns, centers, memory_limit=memory_limit)
        check_memory(need, rows, centers, memory_limit)
        return LogisticPlan(solver, rows, features, columns, False, centers, 0, need.total, reason)
    stored = dense or (rows <= STORED_ROWS and 2 * square <= memory_limit)
    if stored and square > memory_limit:
        raise OptionError(
            f"the {rows:,} x {rows:,} kernel matrix takes {bytes_text(square)}, more than the limit of "
            f"{bytes_text(memory_limit)}; use a kernel with a formula, fewer rows, or a larger memory_limit."
        )
    if rank is None:
        rank = rows if rows <= FULL_RANK else default_rank(rows, memory_limit)
    rank = min(rows, rank)
    total = 8 * rows * (rank + 10 * columns) + (square if stored else 0)
    return LogisticPlan(solver, rows, features, columns, stored, 0, rank, total, reason)

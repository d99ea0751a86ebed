"""What a kernel ridge fit will do, decided from sizes alone, before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import OptionError
from ...solvers.inducing.plan import check_memory, choose_form, memory, most_centers
from ...solvers.preconditioners.rpcholesky import default_rank
from ..inputs import bytes_text

SOLVERS = ("auto", "cholesky", "pcg", "inducing")

# Rows up to which the dense factorisation is taken: N^3 / 3 flops and two N x N matrices in double
# precision cost less there than the passes of an iterative solver, and the result is exact.
CHOLESKY_ROWS = 4000
# Rows up to which the full system is solved by conjugate gradients. A pass costs N^2 kernel values:
# above this, tens of passes take hours on a CPU, and inducing points minutes.
PCG_ROWS = 100_000
# Passes that were typical for well-posed problems; used for the forecast only.
TYPICAL_ITERATIONS = {"cholesky": 1, "pcg": 50, "inducing": 20}


@dataclass(frozen=True)
class RidgePlan:
    """Forecast of a fit: which solver on how much data, with how much memory and work.

    Attributes
    ----------
    solver : {"cholesky", "pcg", "inducing"}
    rows, features, targets : int
    n_centers : int
        Inducing points; 0 for the other solvers.
    rank : int
        Rank of the preconditioner, or the most that one takes that is chosen; 0 for the other solvers.
    race : {"", "preconditioners", "methods"}
        What is chosen by a short race once the data are there, see `kerngp.solvers.Auto`.
    memory : int
        Bytes beyond the input.
    iterations : int
        Expected number of iterations; an estimate, the tolerance decides.
    pairs : int
        Kernel values computed in all iterations together.
    reason : str
    """

    solver: str
    rows: int
    features: int
    targets: int
    n_centers: int
    rank: int
    race: str
    memory: int
    iterations: int
    pairs: int
    reason: str

    def __str__(self) -> str:
        extra = ""
        if self.n_centers:
            extra = f", {self.n_centers:,} inducing points"
        elif self.race:
            extra = f", a race chooses among {self.race}"
        elif self.rank:
            extra = f", preconditioner of rank {self.rank}"
        work = "1 pass" if self.solver == "cholesky" else f"about {self.iterations} iterations"
        return (
            f"{self.rows:,} rows x {self.features} features, {self.targets} target(s): "
            f"solver={self.solver}{extra} ({self.reason}); memory {bytes_text(self.memory)}, {work}, "
            f"{self.pairs:.2g} kernel values"
        )


def make_plan(
    rows: int,
    features: int,
    targets: int = 1,
    *,
    solver: str = "auto",
    n_centers: int | None = None,
    rank: int | None = None,
    memory_limit: int = 1 << 30,
    dense: bool = False,
    matrices: int = 2,
    alphas: int = 1,
    probes: int = 0,
) -> RidgePlan:
    """Choose the solver and forecast its cost.

    Parameters
    ----------
    rows, features, targets : int
        Sizes of the training data.
    solver : {"auto", "cholesky", "pcg", "inducing"}
    n_centers : int, optional
        Asks for inducing points if ``solver="auto"``.
    rank : int, optional
        Of the preconditioner.
    memory_limit : int
        Bytes that dense matrices may take.
    dense : bool
        The kernel matrix exists anyway (precomputed, or a function of two rows).
    matrices : int
        N x N matrices that a direct solver holds.
    alphas : int
        Penalties that are worked with at once.
    probes : int
        Random vectors solved for beside the targets, with every alpha.

    Raises
    ------
    OptionError
        If the solver's matrices do not fit into the memory limit.
    """
    square = matrices * 8 * rows**2
    asked = solver
    if solver != "auto":
        reason = "as asked"
    elif n_centers is not None:
        solver, reason = "inducing", "n_centers is given"
    elif dense:
        solver, reason = "cholesky", "the kernel matrix is dense"
    elif rows <= CHOLESKY_ROWS and square <= memory_limit:
        solver, reason = "cholesky", f"at most {CHOLESKY_ROWS:,} rows"
    elif rows <= PCG_ROWS:
        solver, reason = "pcg", f"at most {PCG_ROWS:,} rows"
    else:
        solver, reason = "inducing", f"more than {PCG_ROWS:,} rows"

    most = most_centers(rows, memory_limit, alphas=alphas)
    centers = min(rows, n_centers or most) if solver == "inducing" else 0
    race = _race(asked, rows, rank) if solver == "pcg" else ""
    rank = min(rows, rank if rank is not None else default_rank(rows, memory_limit)) if solver == "pcg" else 0
    if solver == "inducing":
        need = memory(rows, features, targets, centers, alphas=alphas, memory_limit=memory_limit)
        check_memory(need, rows, centers, memory_limit)
        total = need.total
    elif solver == "cholesky":
        total = square
        if square - 48 * targets * rows > memory_limit:
            raise OptionError(
                f"solver='cholesky' needs {bytes_text(square)} for {matrices} {rows:,} x {rows:,} matrices, "
                f"more than the limit of {bytes_text(memory_limit)}; use solver='pcg' or n_centers, or raise "
                "the limit with kerngp.options.options(memory_limit=...)."
            )
    else:
        columns = alphas * (targets + probes) if probes else targets
        total = 8 * rows * (rank + 6 * columns) + (8 * rows**2 if dense else 0)
    iterations = TYPICAL_ITERATIONS[solver]
    pairs = iterations * rows * rows
    if solver == "inducing":
        # the products are formed in every iteration (with the transpose, too), or added up once
        once = choose_form(rows, features, centers, targets) == "normal"
        pairs = 2 * rows * centers * (1 if once else iterations)
    return RidgePlan(solver, rows, features, targets, centers, rank, race, total, iterations, pairs, reason)


def _race(asked: str, rows: int, rank: int | None) -> str:
    """What is raced: nothing where a rank was given, or where a race would take longer than the solve."""
    if rank is not None or rows <= CHOLESKY_ROWS:
        return ""
    return "methods" if asked == "auto" else "preconditioners"

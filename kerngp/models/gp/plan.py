"""What learning a Gaussian process will do, decided from sizes alone, before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import OptionError
from ..inputs import bytes_text

SOLVERS = ("auto", "dense", "matrix-free")

# Rows up to which matrices are factorised: exact, and sooner done than a pass for each product.
DENSE_ROWS = 4000
# Matrices of n x n beside the p derivatives that one evaluation of value and gradient holds at a time.
DENSE_MATRICES = 4
# Of a matrix-free evaluation: products for one solve, and what its gradient costs in products.
PRODUCTS, GRADIENT = 15, 4
# Evaluations that a search was seen to take: by factorisation, and on all rows after a start on a subset.
DENSE_STEPS, STEPS = 40, 8


@dataclass(frozen=True)
class GPPlan:
    """Forecast of a fit.

    Attributes
    ----------
    solver : {"dense", "matrix-free"}
    rows, features, outputs : int
    hyperparameters : int
        Free ones; 0 if none are learned.
    subset : int
        Rows that the search starts on; all for "dense".
    probes : int
        Random vectors of the log-determinant; 0 for "dense".
    memory : int
        Bytes beyond the input.
    steps : int
        Expected evaluations on all rows; an estimate.
    pairs : int
        Kernel values computed in all of them together.
    reason : str
    """

    solver: str
    rows: int
    features: int
    outputs: int
    hyperparameters: int
    subset: int
    probes: int
    memory: int
    steps: int
    pairs: int
    reason: str

    @property
    def dense(self) -> bool:
        """Whether matrices are stored and factorised."""
        return self.solver == "dense"

    def __str__(self) -> str:
        start = "" if self.dense or not self.hyperparameters else f", start on {self.subset:,} rows"
        return (
            f"{self.rows:,} rows x {self.features} features, {self.outputs} output(s), "
            f"{self.hyperparameters} hyperparameters: {self.solver} ({self.reason}){start}; memory "
            f"{bytes_text(self.memory)}, about {self.steps} evaluation(s), {self.pairs:.2g} kernel values"
        )


def make_gp_plan(
    rows: int,
    features: int,
    outputs: int = 1,
    *,
    hyperparameters: int = 0,
    has_formula: bool = True,
    solver: str = "auto",
    subset: int = 1000,
    probes: int = 16,
    memory_limit: int = 1 << 30,
) -> GPPlan:
    """Choose between factorisation and products, and forecast the cost.

    Parameters
    ----------
    rows, features, outputs : int
        Sizes of the training data.
    hyperparameters : int
        Free ones that are to be learned.
    has_formula : bool
        Without a formula there is only the matrix.
    solver : {"auto", "dense", "matrix-free"}
    subset : int
        Rows that a matrix-free search starts on.
    probes : int
        Random vectors of a matrix-free search.
    memory_limit : int
        Bytes that dense matrices may take.

    Raises
    ------
    OptionError
        If dense matrices are needed and do not fit into the memory limit, or there is no formula for
        ``solver="matrix-free"``.

    Examples
    --------
    >>> print(make_gp_plan(100, 2, hyperparameters=3))
    100 rows x 2 features, 1 output(s), 3 hyperparameters: dense (at most 4,000 rows); memory 0.5 MiB, about \
40 evaluation(s), 4e+05 kernel values
    """
    if solver not in SOLVERS:
        raise OptionError(f"solver={solver!r}: expected one of {SOLVERS}.")
    if solver == "matrix-free" and not has_formula:
        raise OptionError("solver='matrix-free' needs a kernel with a formula; use solver='dense'.")
    need = 8 * rows**2 * (DENSE_MATRICES + hyperparameters)
    if solver != "auto":
        reason = "as asked"
    elif not has_formula:
        solver, reason = "dense", "the kernel has no formula"
    elif rows <= DENSE_ROWS and need <= memory_limit:
        solver, reason = "dense", f"at most {DENSE_ROWS:,} rows"
    elif rows <= DENSE_ROWS:
        solver, reason = "matrix-free", "matrices exceed the memory limit"
    else:
        solver, reason = "matrix-free", f"more than {DENSE_ROWS:,} rows"

    if solver == "dense":
        # without derivatives two matrices do; a larger need than the limit is refused only then
        least = 2 * 8 * rows**2
        if least > memory_limit and rows > DENSE_ROWS:
            raise OptionError(
                f"{rows:,} rows need {bytes_text(least)} for two dense matrices, more than the limit of "
                f"{bytes_text(memory_limit)}. Use a kernel with a formula, fewer rows, or a larger "
                "memory_limit."
            )
        steps = DENSE_STEPS if hyperparameters else 1
        pairs = steps * rows**2 * (1 + hyperparameters)
        return GPPlan(solver, rows, features, outputs, hyperparameters, rows, 0, need, steps, pairs, reason)
    steps = STEPS if hyperparameters else 1
    columns = probes + outputs
    memory = 8 * rows * (columns * (PRODUCTS + 6) + 60) + 8 * subset**2 * (DENSE_MATRICES + hyperparameters)
    pairs = steps * rows**2 * (PRODUCTS + (GRADIENT if hyperparameters else 0))
    subset = min(rows, subset)
    return GPPlan(
        solver, rows, features, outputs, hyperparameters, subset, probes, memory, steps, pairs, reason
    )

"""``method="auto"``: which method solves this system soonest, by measuring and calculating.

1. A system so small that measuring would cost more than solving is factorised.
2. One product is timed, on a part of the matrix if it is large. Cholesky is taken if it fits into
   memory and costs less than a few products.
3. Otherwise preconditioners race on a few rows (`race.py`). Their iteration counts, and rates of this
   machine (`cost.py`), predict the time of each at full size; the least wins and is built.
4. If even that takes longer than the time limit, a method of blocks is taken: it will not get to the
   tolerance either, but its first passes bring more.
5. While it runs the forecast is checked, and the method changed if it was wrong (`switch.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .. import options as _options
from ..errors import KerngpError, ShapeError
from .alternating import AlternatingProjection
from .askotch import ASkotch
from .block_descent import default_block
from .cg import CG, Callback
from .checks import require_square
from .cost import (
    Machine,
    Prediction,
    Workload,
    cheapest,
    cholesky_fits,
    cholesky_seconds,
    forecasts,
    machine,
    promising,
    timed,
    workload,
)
from .kernel_operator import KernelOperator
from .operator import AddedDiagonal, Dense, Diagonal, LinearOperator, Scaled, Sum
from .permuted import Permuted
from .race import SHARE, Heat, growth, iterations, race, rows_for, subsample
from .solution import Progress, Solution
from .switch import Direct, Switching

Tensor = torch.Tensor
TINY = 5e7  # operations: below, a factorisation takes less time than measuring anything
FEW_PRODUCTS = 10  # no iteration is expected to need fewer, race included
TYPICAL = 30  # products that a well prepared solve needs
PATIENCE = 100  # products that a system without any forecast is expected to need
LEAST_SAMPLE, PART = 4096, 8  # rows that a product is timed on: all, or a part of them


@dataclass(frozen=True)
class Choice:
    """How a system will be solved, and why.

    Attributes
    ----------
    method : Method
    preconditioner : LinearOperator or None
        Built.
    lines : tuple of str
        The reasons, for people.
    predictions : tuple of Prediction
        The best of each kind, the cheapest first; empty where none were needed.
    """

    method: Any
    preconditioner: LinearOperator | None
    lines: tuple[str, ...]
    predictions: tuple[Prediction, ...] = ()


@dataclass(frozen=True)
class Auto:
    """The method that is expected to take the least time, found out by measuring.

    Parameters
    ----------
    tol : float
        On |b - A x| / |b|, for every column.
    max_iter : int
    time_limit : float, optional
        Seconds, the choice included.
    random_state : int
        Seed of the rows that preconditioners race on, and of their own choices. The choice itself
        depends on measured times as well.

    Examples
    --------
    >>> import torch
    >>> from kerngp.solvers import Dense, identity
    >>> A = Dense(torch.ones(4, 4), psd=True) + identity(4)
    >>> solution = Auto().run(A, torch.ones(4, 1, dtype=torch.float64))
    >>> solution.method, solution.report.choice
    ('Cholesky', ('n = 4: a factorisation takes less time than measuring anything would.',))
    """

    tol: float = 1e-6
    max_iter: int = 1000
    time_limit: float | None = None
    random_state: int = 0

    def __post_init__(self) -> None:
        self.cg()  # checks the values

    def cg(self) -> CG:
        """The conjugate gradients that it may choose."""
        return CG(tol=self.tol, max_iter=self.max_iter, time_limit=self.time_limit)

    def run(
        self,
        A: LinearOperator,
        b: Tensor,
        *,
        preconditioner: LinearOperator | None = None,
        x0: Tensor | None = None,
        callback: Callback | None = None,
    ) -> Solution:
        """Choose and solve A x = b for b of shape (*batch, N, E). No gradients here: see `solve`."""
        choice = choose(A, b, self.cg(), self.random_state, preconditioner=preconditioner, callback=callback)
        solution = choice.method.run(A, b, preconditioner=choice.preconditioner, x0=x0, callback=callback)
        return replace(solution, report=replace(solution.report, choice=choice.lines))


def choose(
    A: LinearOperator,
    b: Tensor,
    cg: CG | None = None,
    random_state: int = 0,
    *,
    preconditioner: LinearOperator | None = None,
    direct: bool = True,
    callback: Callback | None = None,
) -> Choice:
    """Method and preconditioner for A x = b, and the reasons.

    Parameters
    ----------
    A : LinearOperator of shape (*batch, N, N), symmetric
    b : Tensor of shape (*batch, N, E)
    cg : CG
        Tolerance and limits; a time limit holds for the choice as well.
    random_state : int
        Seed of the rows that preconditioners race on, and of their own choices.
    preconditioner : LinearOperator, optional
        One that is to be used: it is not chosen then.
    direct : bool
        Whether a factorisation is among the choices.
    callback : callable, optional
        Told of the phases, as a `Progress` each.

    Raises
    ------
    ShapeError
        If A is not square or not known to be symmetric.
    """
    cg = cg or CG()
    require_square(A, 'method="auto"')
    if not A.symmetric:
        raise ShapeError(
            f'method="auto" chooses among solvers of symmetric operators, got {A!r}; declare it '
            "(symmetric=True or psd=True) if it is, or solve the normal equations."
        )
    n = A.shape[-1]
    if preconditioner is not None:
        return Choice(cg, preconditioner, ("conjugate gradients, as a preconditioner was given.",))
    if not bool(torch.isfinite(b).all()) or not bool(b.any()):
        return Choice(cg, None, ("the right-hand side is zero or not finite: there is nothing to choose.",))
    if direct and math.prod(A.shape[:-2]) * n**3 / 3 <= TINY:
        why = f"n = {n}: a factorisation takes less time than measuring anything would."
        return Choice(Direct(cg), None, (why,))
    with torch.no_grad():
        start = time.perf_counter()
        choice = _measured(A, b, cg, random_state, direct, callback)
        return replace(choice, method=_in_time(choice.method, time.perf_counter() - start))


def _in_time(method: Any, spent: float) -> Any:
    """The method with the time that is left."""
    if isinstance(method, (Direct, Switching)):
        return replace(method, cg=_in_time(method.cg, spent))
    limit = method.time_limit
    return method if limit is None else replace(method, time_limit=max(0.0, limit - spent))


def _measured(
    A: LinearOperator, b: Tensor, cg: CG, random_state: int, direct: bool, callback: Callback | None
) -> Choice:
    start = time.perf_counter()
    _tell(callback, b, "measuring")
    m, w, how = machine(A.device.type), *_times(A, b)
    lines = [
        f"n = {w.n}, {w.columns} right-hand side{'s' if w.columns > 1 else ''}: "
        f"a product takes {seconds_text(w.product)} ({how})."
    ]
    factorise = _about_cholesky(m, w, lines) if direct else math.inf
    if factorise <= FEW_PRODUCTS * w.product:
        return Choice(Direct(cg), None, (*lines, f"Cholesky: less than {FEW_PRODUCTS} products would take."))
    if not raceable(A):
        return _without_race(A, m, w, factorise, cg, lines)
    worth = min(factorise, TYPICAL * w.product)
    rows = rows_for(m, w, worth)
    _tell(callback, b, "race of preconditioners")
    small, small_b = subsample(A, b, rows, random_state)
    heat = SHARE * min(factorise, PATIENCE * w.product)
    heats = race(small, small_b, promising(w), m, w, cg.tol, heat, random_state)
    decision = decide(m, w, heats, rows, factorise)
    spent = time.perf_counter() - start
    lines.append(f"A race on {rows} rows at the same alpha / n ({seconds_text(spent)} up to here) predicts:")
    lines += [f"  {line}" for line in decision.lines]
    if not decision.predictions and math.isfinite(factorise):
        return Choice(Direct(cg), None, (*lines, "Cholesky."))
    if not decision.predictions:
        return Choice(cg, None, (*lines, "Conjugate gradients, for lack of anything that worked."))
    left = math.inf if cg.time_limit is None else max(0.0, cg.time_limit - spent)
    if decision.predictions[0].seconds > left:
        return _in_few_passes(w, cg, random_state, left, lines)
    _tell(callback, b, f"preconditioner: {decision.predictions[0].name}")
    return _build(A, cg, random_state, heats, decision.predictions, lines)


@dataclass(frozen=True)
class Decision:
    """What follows from measured numbers.

    Attributes
    ----------
    predictions : tuple of Prediction
        The cheapest first; empty if Cholesky is cheaper than any.
    lines : tuple of str
        What each candidate would take.
    """

    predictions: tuple[Prediction, ...]
    lines: tuple[str, ...]


def decide(
    m: Machine, w: Workload, heats: Sequence[Heat], rows: int, factorise: float = math.inf
) -> Decision:
    """The best size of each family, the cheapest first: pure arithmetic.

    Parameters
    ----------
    m, w : Machine, Workload
    heats : sequence of Heat
    rows : int
        Of the race.
    factorise : float
        Seconds that Cholesky would take; infinite if it is out of the question.
    """
    families = {h.family.name: h.family for h in heats}
    candidates: list[Prediction] = []
    lines: list[str] = []
    for name, family in families.items():
        mine = [h for h in heats if h.family.name == name]
        larger = max(1.0, w.n / max(1, rows)) ** growth(family, mine)
        good = {size: its * larger for size, its in iterations(mine).items()}
        if not good:
            lines.append(f"{name}: not possible ({mine[0].failed})")
        candidates += forecasts(m, w, family, good)
    ranking = cheapest(candidates)
    for p in ranking:
        count = f"{p.iterations:.0f} iterations" if math.isfinite(p.iterations) else "no convergence"
        lines.append(f"{p.name}: {count}, {seconds_text(p.seconds)}, of it {seconds_text(p.setup)} to set up")
    iterate = bool(ranking) and ranking[0].seconds <= factorise
    return Decision(tuple(ranking) if iterate else (), tuple(lines))


def _in_few_passes(w: Workload, cg: CG, random_state: int, left: float, lines: list[str]) -> Choice:
    """What brings a good x soonest where none will reach the tolerance in time: a method of blocks."""
    passes = left / w.product
    lines.append(
        f"{seconds_text(left)} are left, {passes:.1f} products: too few for conjugate gradients, which "
        "are worse than methods of blocks until they have nearly converged."
    )
    # factors of all blocks are kept: default_block(n) numbers for each row
    stored = 8.0 * w.n * default_block(w.n) <= w.memory / 4
    kind = AlternatingProjection if stored else ASkotch
    lines.append(f"{kind.__name__}.")
    return Choice(kind(tol=cg.tol, time_limit=cg.time_limit, random_state=random_state), None, tuple(lines))


def _build(
    A: LinearOperator,
    cg: CG,
    random_state: int,
    heats: Sequence[Heat],
    ranking: Sequence[Prediction],
    lines: list[str],
) -> Choice:
    """The winner at full size; the next one if it cannot be built."""
    for k, p in enumerate(ranking):
        try:
            M = None if p.family.recipe is None else p.family.recipe(p.size, random_state).build(A)
        except KerngpError as error:
            lines.append(f"{p.name} could not be built: {error}")
            continue
        lines.append(f"Conjugate gradients with {p.name}.")
        expected = _expected(heats, p)
        method = Switching(cg, p, expected, tuple(ranking[k + 1 :]), random_state)
        return Choice(method, M, tuple(lines), tuple(ranking))
    lines.append("Conjugate gradients.")
    return Choice(cg, None, tuple(lines), tuple(ranking))


def _expected(heats: Sequence[Heat], p: Prediction) -> tuple[float, ...]:
    """Residuals of the finished heat of the family nearest in size."""
    mine = [h for h in heats if h.family.name == p.family.name and h.finished]
    return min(mine, key=lambda h: abs(h.size - p.size)).residuals if mine else ()


def _without_race(
    A: LinearOperator, m: Machine, w: Workload, factorise: float, cg: CG, lines: list[str]
) -> Choice:
    """Batches, and operators whose entries are expensive: a plain choice."""
    lines.append(
        "No race: the operator is a batch." if len(A.shape) > 2 else "No race: its entries are expensive."
    )
    if factorise <= PATIENCE * w.product:
        lines.append(f"Cholesky: less than {PATIENCE} products would take.")
        return Choice(Direct(cg), None, tuple(lines))
    lines.append("Conjugate gradients without preconditioner.")
    return Choice(cg, None, tuple(lines))


def _about_cholesky(m: Machine, w: Workload, lines: list[str]) -> float:
    """Seconds of a factorisation, infinite if it does not fit."""
    if not cholesky_fits(w):
        need = 8.0 * w.batch * w.n**2 / 2**30
        lines.append(f"Cholesky needs {need:.1f} GiB, the memory_limit is {w.memory / 2**30:.1f} GiB.")
        return math.inf
    seconds = cholesky_seconds(m, w)
    lines.append(f"Cholesky would take {seconds_text(seconds)}.")
    return seconds


def raceable(A: LinearOperator) -> bool:
    """Whether single entries are cheap, and there is one matrix only."""
    if len(A.shape) > 2:
        return False
    if isinstance(A, Sum):
        return all(map(raceable, A.terms))
    if isinstance(A, (AddedDiagonal, Scaled, Permuted)):
        return raceable(A.base)
    return isinstance(A, (KernelOperator, Dense, Diagonal))


def _times(A: LinearOperator, b: Tensor) -> tuple[Workload, str]:
    """The workload, with measured times, and how they were measured."""
    n = A.shape[-1]
    rows = max(LEAST_SAMPLE, n // PART)
    part, how = A, "measured"
    if rows < n:
        index = torch.arange(rows, device=A.device) * n // rows
        part, b = A.submatrix(index, index), b[..., index, :]
        how = f"measured on {rows} rows"
    scale, v = (n / part.shape[-1]) ** 2, b.to(A.torch_dtype)
    product = scale * min(timed(lambda: part.matmul(v), A.device) for _ in range(2))
    exact = product
    if A.torch_dtype != torch.float64:
        exact = scale * min(timed(lambda: part.matmul(b.double(), exact=True), A.device) for _ in range(2))
    memory = _options.current().memory_limit
    return workload(A, b.shape[-1], product, exact, memory), how


def _tell(callback: Callback | None, b: Tensor, phase: str) -> None:
    if callback is not None:
        callback(Progress(0, 1, b.new_zeros(0), b.shape[-1], phase))


def seconds_text(seconds: float) -> str:
    """A time for people.

    Examples
    --------
    >>> seconds_text(0.0123), seconds_text(75.0), seconds_text(8000.0)
    ('12 ms', '75 s', '2.2 h')
    """
    if not math.isfinite(seconds):
        return "forever"
    for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= (2.0 if unit != "s" else 1.0) * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds * 1000:.2g} ms"

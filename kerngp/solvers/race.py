"""Preconditioners run against each other on a few rows, so that the whole system need not find out.

For n_s rows drawn at random, K_s + (n_s / n) diag(alpha) has about the spectrum of K + diag(alpha),
divided by n / n_s: kernel matrices of samples share lambda = alpha / n. Conjugate gradients on the
stored n_s x n_s matrix, once for each candidate, tell how many iterations the whole system will take.
A candidate is called off as soon as what it has taken would cost more, at full size, than the best so
far by a margin, and none may take more than a small share of the best so far.

How iterations grow with the number of rows is measured, not assumed: those who have finished run once
more on half of the rows (`growth`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..errors import KerngpError
from .cg import CG
from .cost import Family, Machine, Workload, forecasts, predict
from .meter import count
from .operator import AddedDiagonal, Dense, LinearOperator
from .solution import Progress, Status

Tensor = torch.Tensor
LEAST_ROWS, MOST_ROWS = 500, 3000
MOST_COLUMNS = 4
MARGIN = 2.0  # times the best prediction: other sizes of the same kind may still be better
HOPELESS = 4.0  # times the best prediction: no other size is tried, and none runs on
SOON = 25  # iterations after which a rate tells whether one is hopeless
FAR = 1 / 3  # of the way to the tolerance, in logarithms: from there the rate tells the rest
PRODUCTS = 150  # about what a race takes
SHARE = 0.05  # of what the solve may cost, for one heat
GROWTH = (0.2, 0.7)  # exponents that were seen


@dataclass(frozen=True)
class Heat:
    """What one candidate did.

    Attributes
    ----------
    family : Family
    size : int
    iterations : float
        To the tolerance; extrapolated from the rate if it was called off, infinite without progress.
    residuals : tuple of float
        The largest relative residual before and after each iteration.
    finished : bool
    far : bool
        Whether it was called off so late that the extrapolation can be trusted.
    failed : str
        Why there is no preconditioner of this kind, or why it does not work.
    half : float
        Iterations on half of the rows; NaN if that was not tried, or not finished.
    """

    family: Family
    size: int
    iterations: float
    residuals: tuple[float, ...] = ()
    finished: bool = False
    failed: str = ""
    far: bool = False
    half: float = math.nan


def iterations(heats: Sequence[Heat]) -> dict[int, float]:
    """Iterations by size: of those who finished or got far, or for lack of any what others headed for."""
    known = {h.size: h.iterations for h in heats if h.finished or h.far}
    return known or {h.size: h.iterations for h in heats if not h.failed}


def growth(family: Family, heats: Sequence[Heat]) -> float:
    """The power of the number of rows with which iterations grow, at the same alpha / n.

    Examples
    --------
    >>> from kerngp.solvers.cost import SPARSE
    >>> growth(SPARSE, [Heat(SPARSE, 15, 40.0, half=20.0)])
    0.7
    """
    pairs = [(h.iterations, h.half) for h in heats if h.family is family and math.isfinite(h.half)]
    if not pairs:
        return family.growth
    exponent = math.log2(sum(p[0] for p in pairs) / sum(p[1] for p in pairs))
    return min(GROWTH[1], max(GROWTH[0], exponent))


def rows_for(m: Machine, w: Workload, worth: float) -> int:
    """How many rows the race may have, if the solve may cost ``worth`` seconds."""
    rows = math.sqrt(max(0.0, SHARE * worth) * m.stream / (8.0 * PRODUCTS))
    return min(w.n, int(min(MOST_ROWS, max(LEAST_ROWS, rows))))


def subsample(A: LinearOperator, b: Tensor, rows: int, random_state: int) -> tuple[LinearOperator, Tensor]:
    """The system on some rows, stored in float64, at the same lambda."""
    n = A.shape[-1]
    generator = torch.Generator().manual_seed(random_state)
    index = torch.randperm(n, generator=generator)[:rows].sort().values.to(A.device)
    base = A.base if isinstance(A, AddedDiagonal) else A
    with count("race", float(rows) ** 2):
        entries = base.rows(index, index).double()
    small: LinearOperator = Dense(entries, psd=base.psd, symmetric=True)
    if isinstance(A, AddedDiagonal):
        d = A.values.detach().double().expand(n)[index] * (rows / n)
        small = AddedDiagonal(small, d)
    return small, b[index, :MOST_COLUMNS].double()


def halved(small: LinearOperator, b: Tensor) -> tuple[LinearOperator, Tensor]:
    """Every second row of a stored system, at the same lambda."""
    index = torch.arange(0, b.shape[0], 2, device=b.device)
    part = small.submatrix(index, index)
    if isinstance(part, AddedDiagonal):
        part = AddedDiagonal(part.base, part.values * 0.5)
    return part, b[index]


def race(
    small: LinearOperator,
    b: Tensor,
    families: Sequence[Family],
    m: Machine,
    w: Workload,
    tol: float,
    seconds: float,
    random_state: int = 0,
) -> tuple[Heat, ...]:
    """All families on a small stored system, in the given order; then those in reach with a larger size.

    A heat may take ``seconds``, or its share of the best prediction so far. What is done here is arithmetic
    on stored entries, so no meter counts it; its time is booked.
    """
    heats: list[Heat] = []
    costs: dict[str, float] = {}
    best = math.inf
    rounds = [(f, size, k) for k in (0, 1) for f in families for size in f.raced(b.shape[0])[k : k + 1]]
    with count("race", 0.0), torch.no_grad():
        for family, size, k in rounds:
            if k and costs[family.name] > HOPELESS * best:
                continue
            most = max(seconds, SHARE * best) if math.isfinite(best) else seconds
            heat = _run(small, b, family, size, m, w, tol, best, most, random_state)
            heats.append(heat)
            ahead = forecasts(m, w, family, iterations([h for h in heats if h.family is family]))
            costs[family.name] = min((p.seconds for p in ahead), default=math.inf)
            best = min(best, costs[family.name])
        if w.n <= 2 * b.shape[0]:
            return tuple(heats)
        most = max(seconds, SHARE * best) if math.isfinite(best) else seconds
        half, half_b = halved(small, b)
        for k, heat in enumerate(heats):
            if heat.finished and heat.family.measured and costs[heat.family.name] <= MARGIN * best:
                again = _run(half, half_b, heat.family, heat.size, m, w, tol, math.inf, most, random_state)
                heats[k] = replace(heat, half=again.iterations if again.finished else math.nan)
    return tuple(heats)


def _run(
    small: LinearOperator,
    b: Tensor,
    family: Family,
    size: int,
    m: Machine,
    w: Workload,
    tol: float,
    best: float,
    seconds: float,
    random_state: int,
) -> Heat:
    try:
        M = None if family.recipe is None else family.recipe(size, random_state).build(small)
    except KerngpError as error:
        return Heat(family, size, math.inf, failed=str(error))
    end, seen = time.perf_counter() + seconds, [1.0]

    def cost(iterations: float) -> float:
        return predict(m, w, family, size, iterations).seconds / best

    def called_off(p: Progress) -> bool:
        seen.append(p.residual)
        hopeless = len(seen) > SOON and cost(_extrapolated(seen, tol)) > HOPELESS
        return hopeless or cost(p.iteration) > MARGIN or time.perf_counter() > end

    limit = min(2000, 10 * b.shape[0])
    solution = CG(tol=tol, max_iter=limit).run(small, b, preconditioner=M, callback=called_off)
    worst = solution.history.reshape(len(solution.history), -1).amax(-1) if b.shape[-1] else torch.zeros(1)
    residuals = tuple(float(r) for r in worst)
    if solution.status in (Status.indefinite, Status.nan):
        return Heat(family, size, math.inf, residuals, failed=solution.status.value)
    if solution.status is Status.converged:
        return Heat(family, size, float(solution.iterations), residuals, True)
    far = min(residuals) <= tol**FAR * residuals[0]
    return Heat(family, size, _extrapolated(residuals, tol), residuals, far=far)


def _extrapolated(residuals: Sequence[float], tol: float) -> float:
    """Iterations to the tolerance at the rate of the second half, as conjugate gradients gather speed."""
    steps, reached = len(residuals) - 1, min(residuals)
    if steps < 1 or reached >= 0.9 * residuals[0]:
        return math.inf
    middle = min(residuals[: steps // 2 + 1])
    fall = max(
        math.log(residuals[0] / reached) / steps, math.log(middle / reached) / max(1, steps - steps // 2)
    )
    return max(float(steps + 1), steps + math.log(reached / (tol * residuals[0])) / fall)


def lagging(residuals: Sequence[float], expected: Sequence[float], stretch: float, least: int = 10) -> bool:
    """Whether a run makes less than half the progress that the race has promised.

    Progress is the fall of the logarithm of the best residual. ``expected`` are residuals of the race, whose
    iteration k stands for iteration ``stretch * k`` here. Nothing is said before ``least`` iterations,
    nor before a fall by 10 was due.
    """
    k = len(residuals) - 1
    if k < least or not expected:
        return False
    due = max(min(expected[: int(k / max(stretch, 1e-9)) + 1]), 1e-300)
    done = min(max(min(residuals), 1e-300), 1.0)
    return due <= 0.1 and math.log(done) > 0.5 * math.log(due)

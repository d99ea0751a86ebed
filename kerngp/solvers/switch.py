"""A solve that was predicted to go well, watched, and continued in another way if it does not."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .cg import CG, Callback
from .cholesky import Cholesky
from .cost import Prediction
from .operator import LinearOperator
from .race import lagging
from .solution import Note, Progress, Solution, Status

Tensor = torch.Tensor
CLEARLY = 0.8  # of what remains: another preconditioner must be at least so much cheaper


@dataclass(frozen=True)
class _Limited:
    """A method whose tolerance and limits are those of its conjugate gradients."""

    cg: CG

    @property
    def tol(self) -> float:
        """Of the residual."""
        return self.cg.tol

    @property
    def max_iter(self) -> int:
        """Iterations, of all stages together."""
        return self.cg.max_iter

    @property
    def time_limit(self) -> float | None:
        """Seconds."""
        return self.cg.time_limit


@dataclass(frozen=True)
class Direct(_Limited):
    """Cholesky, and conjugate gradients where it fails: a singular system may well have a solution.

    Parameters
    ----------
    cg : CG
        Its tolerance decides whether the factorisation was accurate enough.
    """

    def run(
        self,
        A: LinearOperator,
        b: Tensor,
        *,
        preconditioner: LinearOperator | None = None,
        x0: Tensor | None = None,
        callback: Callback | None = None,
    ) -> Solution:
        """Solve A x = b for b of shape (*batch, N, E). No gradients here: see `solve`."""
        first = Cholesky(self.tol).run(A, b)
        if first.status in (Status.converged, Status.nan):
            return first
        if first.status is Status.indefinite:
            start, why = x0, f"the factorisation failed ({first.detail})"
        else:
            worst = float(first.residual_norms.max())
            start, why = first.x, f"the factorisation left a residual of {worst:.1e}"
        note = Note(
            "CHOLESKY_FAILED", f"{why}: conjugate gradients went on, without any change of the matrix."
        )
        second = self.cg.run(A, b, preconditioner=preconditioner, x0=start, callback=callback)
        return joined(first, second, note)


@dataclass(frozen=True)
class Switching(_Limited):
    """Conjugate gradients that change their preconditioner once, if theirs is not what was predicted.

    Parameters
    ----------
    cg : CG
    chosen : Prediction
    expected : tuple of float
        Relative residuals after each iteration of the race.
    others : tuple of Prediction
        Of other kinds, the cheapest first.
    random_state : int

    Notes
    -----
    After a change ``extra`` of the solution holds the "method" and "preconditioner" it ended with.
    """

    chosen: Prediction
    expected: tuple[float, ...] = ()
    others: tuple[Prediction, ...] = ()
    random_state: int = 0

    def run(
        self,
        A: LinearOperator,
        b: Tensor,
        *,
        preconditioner: LinearOperator | None = None,
        x0: Tensor | None = None,
        callback: Callback | None = None,
    ) -> Solution:
        """Solve A x = b for b of shape (*batch, N, E). No gradients here: see `solve`."""
        if x0 is not None or not self.others:  # the race started from 0: no forecast
            return self.cg.run(A, b, preconditioner=preconditioner, x0=x0, callback=callback)
        pace, start = _Pace(self, callback), time.perf_counter()
        first = self.cg.run(A, b, preconditioner=preconditioner, callback=pace)
        if pace.instead is None or first.status is not Status.stopped:
            return first
        recipe = pace.instead.family.recipe
        M = None if recipe is None else recipe(pace.instead.size, self.random_state).build(A)
        limit, spent = self.cg.time_limit, time.perf_counter() - start
        cg = replace(
            self.cg,
            max_iter=max(0, self.cg.max_iter - first.iterations),
            time_limit=None if limit is None else max(0.0, limit - spent),
        )
        second = cg.run(A, b, preconditioner=M, x0=first.x, callback=callback)
        note = Note(
            "SWITCHED",
            f"{self.chosen.name} reduced the residual to {pace.residuals[-1]:.1e} in {first.iterations} "
            f"iterations, where {self.chosen.iterations:.0f} were predicted to suffice; "
            f"{pace.instead.name} went on.",
        )
        both = joined(first, second, note)
        return replace(both, extra={**both.extra, "method": self.cg, "preconditioner": M})


class _Pace:
    """A callback that compares residuals with the forecast."""

    def __init__(self, plan: Switching, callback: Callback | None):
        self.plan, self.callback = plan, callback
        self.residuals: list[float] = [1.0]
        self.instead: Prediction | None = None

    def __call__(self, progress: Progress) -> Any:
        answer = self.callback(progress) if self.callback is not None else None
        if answer or progress.phase != "iterate":
            return answer
        self.residuals.append(progress.residual)
        plan = self.plan
        stretch = plan.chosen.iterations / max(1, len(plan.expected) - 1)
        if lagging(self.residuals, plan.expected, stretch):
            self.instead = better(plan.chosen, plan.others, self.residuals, plan.tol)
        return self.instead is not None


def better(
    chosen: Prediction, others: Sequence[Prediction], residuals: Sequence[float], tol: float
) -> Prediction | None:
    """The cheapest of the others, if it is clearly cheaper than what remains at the rate so far."""
    reached = max(min(min(residuals), 1.0), 1e-300)
    left = math.log(reached / tol) if reached > tol else 0.0
    rate = -math.log(reached) / max(1, len(residuals) - 1)
    remaining = chosen.iteration * left / rate if rate > 0 else math.inf
    share = left / -math.log(tol)
    costs = [(p.setup + p.iterations * p.iteration * share, k) for k, p in enumerate(others)]
    if not costs or min(costs)[0] >= CLEARLY * remaining:
        return None
    return others[min(costs)[1]]


def joined(first: Solution, second: Solution, *notes: Note) -> Solution:
    """Two stages as one solution: the result of the second, the costs of both."""
    report = replace(second.report, notes=(*first.report.notes, *notes, *second.report.notes))
    return replace(
        second,
        iterations=first.iterations + second.iterations,
        history=torch.cat([first.history, second.history[1:]]),
        products=first.products + second.products,
        report=report,
    )

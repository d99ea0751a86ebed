"""Newton's iteration for kernel models with a concave likelihood: minimise  loss(f) + alpha / 2 |f|^2.

Each step solves the quadratic model only as exactly as it is worth (Dembo, Eisenstat and Steihaug, 1982) and
is shortened until the objective falls enough: far away the model is poor, near the minimum the steps are
full and the number of exact digits doubles. What the coefficients of f are is up to a `Space`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..errors import SolveError
from ..solvers import Progress, Status
from ..solvers.watch import Watch
from .likelihoods import Curvature, Likelihood

Tensor = torch.Tensor
Callback = Callable[[Progress], Any] | None

LOOSEST = 0.1  # relative accuracy of a step where the model is poor anyway
ENOUGH = 1e-4  # of the decrease that the model promises (Armijo)
SLOWER = 3.0  # by how much alpha falls from step to step
ROUNDING = 1e-13  # of the objective: differences below it say nothing
HALVINGS = 40


@dataclass(frozen=True)
class Step:
    """A change of the coefficients and of f, and how much it promises.

    Attributes
    ----------
    c, f : Tensor
    decrement : float
        The derivative of the objective along the step, negated: the square of its length in the norm of the
        Hessian, if the step is Newton's.
    iterations : int
        Of the solver inside.
    """

    c: Tensor
    f: Tensor
    decrement: float
    iterations: int


class Space(ABC):
    """How f depends on coefficients c, linearly, and what its norm is."""

    @abstractmethod
    def step(self, c: Tensor, f: Tensor, at: Curvature, alpha: float, tol: float) -> Step:
        """Newton's step from c, to the relative accuracy ``tol``."""

    @abstractmethod
    def inner(self, c: Tensor, f: Tensor, d: Tensor, g: Tensor) -> float:
        """The inner product of the functions with the coefficients c and d, and the values f and g."""


@dataclass(frozen=True)
class Minimum:
    """Where the iteration ended.

    Attributes
    ----------
    c, f : Tensor
    iterations : int
        Newton's steps.
    inner : int
        Iterations of the solver inside, all steps together.
    error : float
        Estimated relative distance to the minimum before the last step, in the norm of the Hessian.
    status : Status
    loss, energy : float
        The two parts of the objective; ``energy`` is |f|^2.
    """

    c: Tensor
    f: Tensor
    iterations: int
    inner: int
    error: float
    status: Status
    loss: float
    energy: float

    @property
    def converged(self) -> bool:
        """Whether the tolerance was reached."""
        return self.status is Status.converged


def minimise(
    likelihood: Likelihood,
    space: Space,
    alpha: float,
    c: Tensor,
    f: Tensor,
    *,
    tol: float = 1e-6,
    max_iter: int = 100,
    loosest: float = LOOSEST,
    callback: Callback = None,
) -> Minimum:
    """Newton's iteration from the coefficients c with the values f.

    Parameters
    ----------
    likelihood : Likelihood
    space : Space
    alpha : float
        Positive.
    c, f : Tensor
    tol : float
        The last step is the first that is at most ``tol`` times as long as f, in the norm of the Hessian.
    max_iter : int
        At least 1.
    loosest : float
        Relative accuracy of the first step.
    callback : callable, optional
        Told of every step; returning True stops.

    Raises
    ------
    SolveError
        If a NaN appears.
    """
    loss, energy = likelihood.loss(f), space.inner(c, f, c, f)
    at = Minimum(c, f, 0, 0, 1.0, Status.max_iter, loss, energy)
    with Watch(callback) as watch:
        while at.iterations < max_iter:
            curvature = likelihood.curvature(at.f)
            accuracy = min(loosest, max(at.error, 0.1 * tol))
            step = space.step(at.c, at.f, curvature, alpha, accuracy)
            at = _moved(likelihood, space, alpha, at, step, curvature)
            if at.error <= tol:
                return replace(at, status=Status.converged)
            if at.status is Status.stagnated:
                return at
            progress = Progress(at.iterations, max_iter, torch.tensor([at.error]), 1, phase="newton")
            verdict = watch.verdict(progress)
            if verdict is not None:
                return replace(at, status=verdict)
    return at


def follow(
    likelihood: Likelihood,
    space: Space,
    alpha: float,
    c: Tensor,
    f: Tensor,
    *,
    easy: float,
    tol: float = 1e-6,
    max_iter: int = 100,
    loosest: float = LOOSEST,
    callback: Callback = None,
) -> Minimum:
    """`minimise` after single steps with alphas that fall from ``easy`` to ``alpha``.

    For a small alpha the quadratic model is good near the minimum only; the minimum for a larger one is in
    that neighbourhood, and easier to come by (Marteau-Ferey, Bach and Rudi, 2019).
    """
    steps = inner = 0
    count = math.ceil(math.log(easy / alpha) / math.log(SLOWER)) if easy > alpha else 0
    settings: dict[str, Any] = {"loosest": loosest, "tol": tol, "callback": callback}
    for k in range(min(count, max_iter - 1)):
        at = minimise(likelihood, space, alpha * SLOWER ** (count - k), c, f, max_iter=1, **settings)
        c, f, steps, inner = at.c, at.f, steps + at.iterations, inner + at.inner
        if at.status is Status.stopped:
            return replace(at, iterations=steps, inner=inner)
    at = minimise(likelihood, space, alpha, c, f, max_iter=max_iter - steps, **settings)
    return replace(at, iterations=at.iterations + steps, inner=at.inner + inner)


def _moved(
    likelihood: Likelihood, space: Space, alpha: float, at: Minimum, step: Step, curvature: Curvature
) -> Minimum:
    """The state after a step, shortened as far as need be."""
    before = at.loss + 0.5 * alpha * at.energy
    cross, square = space.inner(at.c, at.f, step.c, step.f), space.inner(step.c, step.f, step.c, step.f)
    if not all(math.isfinite(number) for number in (step.decrement, cross, square, before)):
        raise SolveError(
            "NaN or infinity in Newton's iteration: the kernel overflows or is not defined for these data. "
            "Check its parameters, or scale the columns of X."
        )
    length = alpha * at.energy + float((at.f * curvature(at.f)).sum())
    error = (max(step.decrement, 0.0) / max(length, step.decrement, torch.finfo(torch.float64).tiny)) ** 0.5
    t = 1.0
    for _ in range(HALVINGS):
        f = at.f + t * step.f
        loss, energy = likelihood.loss(f), at.energy + 2.0 * t * cross + t * t * square
        slack = ROUNDING * abs(before)
        if loss + 0.5 * alpha * energy <= before - ENOUGH * t * step.decrement + slack:
            inner, c = at.inner + step.iterations, at.c + t * step.c
            return Minimum(c, f, at.iterations + 1, inner, error, Status.max_iter, loss, energy)
        t *= 0.5
    inner = at.inner + step.iterations
    return replace(at, iterations=at.iterations + 1, inner=inner, error=error, status=Status.stagnated)

"""The linear system of kernel ridge regression, solved in one of three ways."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from ...errors import SolveError
from ...solvers import (
    CG,
    Auto,
    InducingPoints,
    LinearOperator,
    RPCholesky,
    Solution,
    Status,
    solve_shifted,
)
from .direct import solve_direct
from .plan import RidgePlan
from .problem import RidgeProblem

Tensor = torch.Tensor


@dataclass(frozen=True)
class Settings:
    """What iterative solvers are told."""

    tol: float = 1e-6
    max_iter: int = 1000
    seed: int = 0
    callback: Callable[[Any], Any] | None = None

    def iterative(self, plan: RidgePlan, alpha: float) -> tuple[Any, Any]:
        """Method and preconditioner for the full system; ``alpha`` is the smallest."""
        if plan.race == "methods":
            return Auto(self.tol, self.max_iter, random_state=self.seed), None
        method = CG(self.tol, self.max_iter)
        if plan.race == "preconditioners":
            return method, "auto"
        return method, RPCholesky(plan.rank, random_state=self.seed) if plan.rank and alpha > 0 else None

    def inducing(self, plan: RidgePlan) -> InducingPoints:
        """The method on inducing points."""
        return InducingPoints(plan.n_centers, self.tol, self.max_iter, random_state=self.seed)


@dataclass(frozen=True)
class RidgeResult:
    """The function f(x) = sum_m coef_m k(x, points_m), and what the solver said."""

    coef: Tensor
    points: Tensor
    solution: Solution


def solve_ridge(
    p: RidgeProblem,
    alpha: np.ndarray,
    plan: RidgePlan,
    settings: Settings,
    *,
    x0: Tensor | None = None,
    preconditioner: LinearOperator | None = None,
) -> RidgeResult:
    """Coefficients by the planned solver, for one alpha for each target: all targets at once.

    Parameters
    ----------
    p : RidgeProblem
    alpha : ndarray of shape (n_targets,)
    plan : RidgePlan
    settings : Settings
    x0 : Tensor of shape (rows in use, n_targets), optional
        Where conjugate gradients start: a first guess of d.
    preconditioner : LinearOperator, optional
        For conjugate gradients, instead of one that the plan says.

    Raises
    ------
    SolveError
        If NaN or infinity appears: the kernel overflows, or is not defined for these data.
    """
    if plan.solver == "inducing":
        p.require_points()
        found = _inducing(p, alpha, settings.inducing(plan), settings)
        judge(found, plan)
        return RidgeResult(found.x, found.extra["centers"], found)
    if plan.solver == "cholesky":
        found = solve_direct(p.stored(), p.targets, alpha)
    else:
        method, recipe = settings.iterative(plan, float(alpha.min()))
        if preconditioner is not None:
            method, recipe = CG(settings.tol, settings.max_iter), preconditioner
        found = solve_shifted(
            p.operator(),
            p.targets,
            alpha.tolist(),
            method,
            preconditioner=recipe,
            x0=x0,
            callback=settings.callback,
            on_fail="ignore",
        )
    judge(found, plan)
    return RidgeResult(p.coefficients(found.x), p.X, found)


def _inducing(p: RidgeProblem, alpha: np.ndarray, method: InducingPoints, settings: Settings) -> Solution:
    """The best f that is a sum over centers. White noise d_i acts like a weight 1 / (alpha + d_i)."""
    Y, noise = p.used(p.Y), p.noise()
    weight = torch.ones(len(Y)) if p.weight is None else p.used(p.weight)
    weight = weight.to(Y.device, torch.float64)
    distinct, which = np.unique(alpha, return_inverse=True)

    def one(alphas: Any, w: Tensor, targets: Tensor) -> Solution:
        return method.solve(
            p.between, p.points, targets, alphas, sample_weight=w, callback=settings.callback,
            on_fail="ignore",
        )  # fmt: skip

    if noise is None or noise.dim() == 0:
        shift = 0.0 if noise is None else float(noise)
        if len(distinct) == 1:
            return one(float(distinct[0]) + shift, weight, Y)
        return _of_each(one(torch.from_numpy(distinct + shift).to(Y.device), weight, Y), which)
    parts = [one(1.0, weight / (a + noise), Y) for a in distinct.tolist()]
    return parts[0] if len(parts) == 1 else _of_each(_stacked(parts), which)


def _stacked(parts: list[Solution]) -> Solution:
    """Solutions for the same centres and targets as one with a leading axis."""
    worst = max(parts, key=lambda s: list(Status).index(s.status))
    longest = max(len(s.history) for s in parts)
    last = [torch.cat([s.history, s.history[-1:].repeat(longest - len(s.history), 1)]) for s in parts]
    return replace(
        worst,
        x=torch.stack([s.x for s in parts]),
        residual_norms=torch.stack([s.residual_norms for s in parts]),
        history=torch.stack(last, 1),
        iterations=sum(s.iterations for s in parts),
    )


def _of_each(s: Solution, which: np.ndarray) -> Solution:
    """Of solutions for several alphas the one of each target."""
    a = torch.from_numpy(which).to(s.x.device)
    e = torch.arange(len(a), device=a.device)
    return replace(
        s,
        x=s.x[a, :, e].mT.contiguous(),
        residual_norms=s.residual_norms[a, e],
        history=s.history[:, a, e],
    )


def judge(s: Solution, plan: RidgePlan) -> None:
    """Turn an unfinished solve into scikit-learn's warning, an impossible one into an error."""
    if s.method == "least squares":
        return  # it has its own warning
    if s.status is Status.nan or not bool(torch.isfinite(s.x).all()):
        raise SolveError(
            f"KernelRidge(solver={plan.solver!r}) failed: {s.message} The data are finite, so the kernel "
            "overflows or is not defined for them: check its parameters, or scale the columns of X."
        )
    if s.status not in (Status.converged, Status.stopped):
        warnings.warn(
            f"KernelRidge(solver={plan.solver!r}): {s.message} In KernelRidge that means a larger alpha, "
            f"{'preconditioner_rank' if plan.solver == 'pcg' else 'tol'} or max_iter.",
            ConvergenceWarning,
            stacklevel=5,
        )

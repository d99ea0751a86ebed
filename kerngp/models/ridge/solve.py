"""The linear system of kernel ridge regression, solved in one of three ways.

With weights w = s^2 the system (K + alpha W^-1) c = y is solved in the symmetric form
(S K S + alpha I) d = S y, c = S d: S K S is a formula like K, and a weight of zero needs no division.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from ...engine.arrays import adopt
from ...errors import OptionError, ShapeError, SolveError
from ...solvers import (
    CG,
    Cholesky,
    Dense,
    InducingPoints,
    LinearOperator,
    RPCholesky,
    Solution,
    Status,
    cast,
    identity,
    solve,
)
from ..kernel_base import Kernel
from ..kernel_matrix import kernel_matrix, white_noise
from ..resolve import MatrixKernel
from .plan import RidgePlan

Tensor = torch.Tensor

# A direct solve whose residual is not small has met a singular matrix without noticing it.
SINGULAR_RESIDUAL = 1e-8


@dataclass(frozen=True)
class RidgeProblem:
    """Training data of one fit. ``used`` marks the rows with a positive weight."""

    kernel: Kernel | MatrixKernel
    X: np.ndarray
    Y: np.ndarray
    alpha: np.ndarray
    weight: np.ndarray | None
    used: np.ndarray
    device: torch.device

    def kernel_of_tensors(self, X: Tensor, Z: Tensor) -> LinearOperator:
        """The matrix k(x_i, z_m), without white noise."""
        if isinstance(self.kernel, Kernel):
            return kernel_matrix(self.kernel, X, Z)
        matrix = self.kernel.matrix(X.cpu().numpy(), Z.cpu().numpy())
        return Dense(torch.from_numpy(matrix).to(X.device, X.dtype))


@dataclass(frozen=True)
class RidgeResult:
    """The function f(x) = sum_m coef_m k(x, points_m), and what the solver said."""

    coef: np.ndarray
    points: np.ndarray
    solutions: list[Solution]


Callback = Callable[[Any], Any] | None


def kernel_operator(kernel: Kernel, X: np.ndarray, Z: np.ndarray, device: torch.device) -> LinearOperator:
    """The matrix k(x_i, z_m) for NumPy arrays."""
    return kernel_matrix(kernel, adopt("X", X, device=device), adopt("X_fit_", Z, device=device))


def solve_ridge(
    p: RidgeProblem, plan: RidgePlan, tol: float, max_iter: int, seed: int, callback: Callback
) -> RidgeResult:
    """Coefficients by the planned solver.

    Raises
    ------
    SolveError
        If NaN or infinity appears: the kernel overflows, or is not defined for these data.
    """
    rows = slice(None) if p.used.all() else p.used
    if plan.solver == "inducing":
        return _inducing(
            p, rows, plan, InducingPoints(plan.n_centers, tol, max_iter, random_state=seed), callback
        )
    scale = None if p.weight is None else np.sqrt(p.weight[rows])
    K = _operator(p, rows, scale)
    Y = torch.from_numpy(p.Y[rows] if scale is None else p.Y[rows] * scale[:, None]).to(K.device)

    def one(alpha: float, targets: Tensor) -> tuple[Tensor, Solution]:
        A = K + alpha * identity(K.shape[-1], device=K.device)
        if plan.solver == "cholesky":
            return _cholesky(A, targets)
        recipe = RPCholesky(plan.rank, random_state=seed) if plan.rank and alpha > 0 else None
        return _iterate(A, targets, CG(tol, max_iter), recipe, callback)

    x, solutions = _by_alpha(p.alpha, Y, one)
    for s in solutions:
        _judge(s, plan)
    coef = np.zeros(p.Y.shape)
    coef[rows] = x.cpu().numpy() if scale is None else x.cpu().numpy() * scale[:, None]
    return RidgeResult(coef, p.X, solutions)


def _iterate(
    A: LinearOperator, Y: Tensor, method: CG, recipe: RPCholesky | None, callback: Callback
) -> tuple[Tensor, Solution]:
    """Conjugate gradients; where float32 products cannot reach the tolerance, float64 ones go on."""
    P = recipe.build(A) if recipe else None
    s = solve(A, Y, method, preconditioner=P, callback=callback, on_fail="ignore")
    if s.status is not Status.stagnated or A.torch_dtype == torch.float64:
        return s.x, s
    A = cast(A, torch.float64)
    t = solve(A, Y, method, preconditioner=P, x0=s.x, callback=callback, on_fail="ignore")
    both = replace(t, iterations=s.iterations + t.iterations, products=s.products + t.products)
    return t.x, replace(both, history=torch.cat([s.history, t.history]))


def _inducing(
    p: RidgeProblem, rows: Any, plan: RidgePlan, method: InducingPoints, callback: Callback
) -> RidgeResult:
    """The best f that is a sum over centers. White noise d_i acts like a weight 1 / (alpha + d_i)."""
    if isinstance(p.kernel, MatrixKernel) and p.kernel.precomputed:
        raise OptionError(
            "solver='inducing' chooses among points; kernel='precomputed' has none: use 'cholesky' or 'pcg'."
        )
    X = adopt("X", p.X[rows], device=p.device)
    Y = torch.from_numpy(p.Y[rows]).to(p.device)
    weight = torch.ones(len(Y)) if p.weight is None else torch.from_numpy(p.weight[rows])
    weight = weight.to(p.device, torch.float64)
    noise = None if isinstance(p.kernel, MatrixKernel) else white_noise(p.kernel, X)

    def one(alpha: float, targets: Tensor) -> tuple[Tensor, Solution]:
        w = weight
        if noise is not None and noise.dim() == 0:
            alpha = alpha + float(noise)
        elif noise is not None:
            alpha, w = 1.0, weight / (alpha + noise.detach().double())
        s = method.solve(
            p.kernel_of_tensors, X, targets, alpha, sample_weight=w, callback=callback, on_fail="ignore"
        )
        return s.x, s

    x, solutions = _by_alpha(p.alpha, Y, one)
    for s in solutions:
        _judge(s, plan)
    return RidgeResult(x.cpu().numpy(), solutions[0].extra["centers"].cpu().numpy(), solutions)


def _operator(p: RidgeProblem, rows: Any, scale: np.ndarray | None) -> LinearOperator:
    """K, or S K S with weights, on the rows in use."""
    if isinstance(p.kernel, Kernel):
        x = adopt("X", p.X[rows], device=p.device)
        return kernel_matrix(
            p.kernel, x, weights=None if scale is None else torch.from_numpy(scale).to(p.device)
        )
    matrix = p.kernel.matrix(p.X, p.X)
    if matrix.shape != (len(p.X), len(p.X)):
        raise ShapeError(
            f"{p.kernel.name} gives a matrix of shape {matrix.shape} for {len(p.X)} rows; "
            f"fit needs ({len(p.X)}, {len(p.X)})."
        )
    matrix = matrix[rows][:, rows]
    if scale is not None:
        matrix = matrix * np.outer(scale, scale)
    return Dense(torch.tensor(matrix, device=p.device), psd=True)


def _by_alpha(
    alphas: np.ndarray, Y: Tensor, one: Callable[[float, Tensor], tuple[Tensor, Solution]]
) -> tuple[Tensor, list[Solution]]:
    """Targets with the same alpha are solved together."""
    parts, columns, solutions = [], [], []
    for alpha in dict.fromkeys(alphas.tolist()):
        chosen = np.flatnonzero(alphas == alpha)
        x, s = one(alpha, Y[:, torch.from_numpy(chosen).to(Y.device)])
        parts.append(x)
        columns.append(chosen)
        solutions.append(s)
    order = torch.from_numpy(np.argsort(np.concatenate(columns))).to(Y.device)
    return torch.cat(parts, -1)[:, order], solutions


def _cholesky(A: LinearOperator, Y: Tensor) -> tuple[Tensor, Solution]:
    """The direct solve; a singular matrix is solved in the least squares sense, as in scikit-learn."""
    s = solve(A, Y, Cholesky(SINGULAR_RESIDUAL), on_fail="ignore")
    if s.status in (Status.converged, Status.nan):
        return s.x, s
    warnings.warn(
        "Singular matrix in solving dual problem. Using least-squares solution instead. "
        "A larger alpha makes the solution unique.",
        UserWarning,
        stacklevel=5,
    )
    matrix, B = A.dense().double().cpu().numpy(), Y.cpu().numpy()
    x = np.linalg.lstsq(matrix, B, rcond=None)[0]
    norms = np.linalg.norm(B - matrix @ x, axis=0) / np.maximum(
        np.linalg.norm(B, axis=0), np.finfo(float).tiny
    )
    x = torch.from_numpy(x).to(Y.device)
    found = replace(s, x=x, residual_norms=torch.from_numpy(norms), method="least squares")
    return x, found


def _judge(s: Solution, plan: RidgePlan) -> None:
    """Turn an unfinished solve into scikit-learn's warning, an impossible one into an error."""
    if plan.solver == "cholesky" and s.status in (Status.indefinite, Status.stagnated):
        return  # least squares took over, with its own warning
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
            stacklevel=4,
        )

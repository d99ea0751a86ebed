"""Leave-one-out residuals of ridge fits without leaving one out.

With weights s^2 and (S K S + alpha I) d = S y, G the inverse of that matrix,

    y_i - f_-i(x_i) = d_i / (s_i G_ii)

for the fit f_-i to all other rows. With Q diag(L) Q' = S K S one eigendecomposition serves every alpha.
Where there is no matrix, G_ii is estimated (one fit), or replaced by the mean of all of them, which is
generalized cross-validation (many alphas): the trace of G comes from a few random probes, solved for
together with the targets in one run for all alphas.

On inducing points f = H y is linear, too, and y_i - f_-i(x_i) = (y_i - f_i) / (1 - H_ii) for the fit to the
other rows with the same centres. With B = W^1/2 Knm T^-1, Kmm = T' T and B' B = V diag(L) V' that is
closed form in two passes over the rows.

References
----------
Rifkin and Lippert, Notes on regularized least squares, 2007. Golub, Heath and Wahba, Generalized
cross-validation as a method for choosing a good ridge parameter, 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.linalg
import torch

from ...errors import OptionError, SolveError
from ...options import current
from ...solvers import (
    CG,
    Dense,
    LinearOperator,
    Preconditioner,
    Solution,
    diagonal_inverse,
    identity,
    solve,
)
from ...solvers.auto import choose
from ...solvers.functions.estimate import rademacher
from ...solvers.inducing.centers import choose_centers
from ...solvers.inducing.equations import Blocks, chunks
from ...solvers.inducing.factors import independent, upper
from ...solvers.inducing.plan import block_numbers
from ...solvers.inducing.preconditioner import Rows, exact
from ...solvers.preconditioners.by_column import ByColumn
from .plan import RidgePlan
from .problem import RidgeProblem
from .solve import Settings, judge

Tensor = torch.Tensor

FEW = 4  # alphas up to which an inverse of each takes less time than the eigenvectors for all
COARSE = 1e-4  # tolerance that is enough to compare alphas by
PROBE_TOL = 1e-2
TRACE_PROBES = 4
DIAGONAL_PROBES = 64


@dataclass(frozen=True)
class LeaveOneOut:
    """Residuals of the fits that leave out one row each, of the rows in use.

    Attributes
    ----------
    residuals : Tensor of shape (J, n, E)
        y_i - f_-i(x_i) for each of J alphas.
    spread : Tensor of shape (J, 1, 1) or (J, n, E)
        Standard error of the residuals, relative to them; 0 where they are exact.
    start : Tensor of shape (J, n, E), optional
        The d of each alpha, coarsely.
    parts : sequence of J preconditioners, optional
    """

    residuals: Tensor
    spread: Tensor
    start: Tensor | None = None
    parts: Sequence[Any] | None = None


def of_alphas(p: RidgeProblem, plan: RidgePlan, alphas: list[float], settings: Settings) -> LeaveOneOut:
    """For every alpha, about at the cost of one.

    Raises
    ------
    OptionError
        If an alpha is not positive.
    SolveError
        If the kernel is not finite or not positive semi-definite.
    """
    _check(alphas)
    if plan.solver == "inducing":
        return _exact(_inducing(p, plan, alphas, settings))
    if plan.solver == "cholesky":
        return _exact(_stored(p, alphas))
    return _probed(p, plan, alphas, settings)


def of_targets(p: RidgeProblem, plan: RidgePlan, alpha: np.ndarray, settings: Settings) -> LeaveOneOut:
    """For one alpha for each target; each entry of the diagonal is estimated where there is no matrix.

    Returns
    -------
    LeaveOneOut
        With J = 1.
    """
    distinct, which = np.unique(alpha, return_inverse=True)
    _check(distinct.tolist())
    if plan.solver != "pcg":
        found = of_alphas(p, plan, distinct.tolist(), settings)
    else:
        parts = [_estimated(p, plan, a, settings) for a in distinct.tolist()]
        residuals, spread = (torch.stack([getattr(f, n) for f in parts]) for n in ("residuals", "spread"))
        found = LeaveOneOut(residuals, spread)
    a = torch.from_numpy(which)
    e = torch.arange(len(a))
    spread = found.spread.expand(found.residuals.shape)
    residuals, spread = (t[a, :, e].mT.unsqueeze(0) for t in (found.residuals, spread))
    return LeaveOneOut(residuals, spread)


def _check(alphas: list[float]) -> None:
    if min(alphas) <= 0:
        raise OptionError(f"alpha={min(alphas)!r}: leave-one-out residuals need an alpha > 0.")


def _exact(residuals: Tensor) -> LeaveOneOut:
    return LeaveOneOut(residuals, residuals.new_zeros((len(residuals), 1, 1)))


def _raw(p: RidgeProblem, residuals: Tensor) -> Tensor:
    """Residuals of y from those of S y."""
    return residuals if p.scale is None else residuals / p.scale.unsqueeze(-1)


# ---------------------------------------------------------------- stored matrices


def _stored(p: RidgeProblem, alphas: list[float]) -> Tensor:
    K = p.stored()
    if not bool(torch.isfinite(K.sum())):
        raise SolveError("the kernel overflows or is not defined for these data: scale the columns of X.")
    if len(alphas) <= FEW:
        found = [_by_inverse(K, p.targets, a) for a in alphas]
        if all(f is not None for f in found):
            return _raw(p, torch.stack([f for f in found if f is not None]))
    if K.device.type == "cpu":  # LAPACK's relatively robust representations: twice as fast as torch
        L, Q = map(torch.from_numpy, scipy.linalg.eigh(K.numpy(), overwrite_a=True, check_finite=False))
    else:
        L, Q = torch.linalg.eigh(K)
    del K
    inverse = 1.0 / (L + torch.tensor(alphas, dtype=L.dtype, device=L.device).unsqueeze(-1))
    d = torch.einsum("nk,jk,ke->jne", Q, inverse, Q.mT @ p.targets)
    return _raw(p, d / (inverse @ Q.square_().mT).unsqueeze(-1))


def _by_inverse(K: Tensor, Y: Tensor, alpha: float) -> Tensor | None:
    """For one alpha, if the matrix has a factor."""
    A = K.clone()
    A.diagonal().add_(alpha)
    L, info = torch.linalg.cholesky_ex(A)
    if int(info):
        return None
    return torch.cholesky_solve(Y, L) / torch.cholesky_inverse(L).diagonal().unsqueeze(-1)


# ---------------------------------------------------------------- products only


def _probed(p: RidgeProblem, plan: RidgePlan, alphas: list[float], settings: Settings) -> LeaveOneOut:
    """Generalized cross-validation. Probes are the same for all alphas: what is compared errs alike."""
    K, Y = p.operator(), p.targets
    distinct = sorted(set(alphas))
    method, M = _prepared(K, Y, plan, distinct[0], replace(settings, tol=max(settings.tol, COARSE)))
    parts = [None] * len(distinct) if M is None else M.shifted(K, distinct)
    parts = [parts[distinct.index(a)] for a in alphas]
    found = _path(K, Y, alphas, method, parts, settings)
    judge(found, plan)
    Z = rademacher((len(Y), TRACE_PROBES), settings.seed, Y.device)
    # z' x converges twice as fast as the residual of x
    probed = _path(K, Z, alphas, replace(method, tol=PROBE_TOL), parts, settings)
    judge(probed, plan)
    samples = (Z * probed.x).sum(-2) / len(Y)  # each an estimate of trace(G) / n
    mean = samples.mean(-1)
    spread = samples.std(-1) / TRACE_PROBES**0.5 / mean
    residuals = _raw(p, found.x / mean[:, None, None])
    return LeaveOneOut(residuals, spread[:, None, None], found.x, parts)


def _path(
    K: LinearOperator, B: Tensor, alphas: list[float], cg: CG, parts: Sequence[Any], settings: Settings
) -> Solution:
    """All systems (K + alpha I) X = B in one run, with x of shape (J, n, E)."""
    J, E = len(alphas), B.shape[-1]
    different = list(dict.fromkeys(parts))
    which = torch.tensor([different.index(part) for part in parts], device=B.device).repeat_interleave(E)
    M = different[0] if len(different) == 1 else ByColumn(different, which)
    shifts = torch.tensor(alphas, dtype=torch.float64, device=B.device).repeat_interleave(E)
    found = cg.run(K, B.repeat(1, J), preconditioner=M, shifts=shifts, callback=settings.callback)
    return replace(found, x=found.x.unflatten(-1, (J, E)).movedim(-2, 0))


def _prepared(
    K: LinearOperator, Y: Tensor, plan: RidgePlan, alpha: float, settings: Settings
) -> tuple[CG, Preconditioner | None]:
    """Conjugate gradients for K + alpha I, and the preconditioner, built."""
    A, method = K + alpha * identity(K.shape[-1], device=K.device), CG(settings.tol, settings.max_iter)
    if not plan.race:
        recipe = settings.iterative(plan, alpha)[1]
        return method, None if recipe is None else recipe.build(A)
    choice = choose(A, Y, method, settings.seed, direct=False, callback=settings.callback)
    M = choice.preconditioner
    return method, M if isinstance(M, Preconditioner) else None


def _estimated(p: RidgeProblem, plan: RidgePlan, alpha: float, settings: Settings) -> LeaveOneOut:
    """Residuals and their relative errors, (n, E), for one alpha: each G_ii estimated."""
    K, Y = p.operator(), p.targets
    A = K + alpha * identity(K.shape[-1], device=K.device)
    method, M = _prepared(K, Y, plan, alpha, settings)
    found = solve(A, Y, method, preconditioner=M, callback=settings.callback, on_fail="ignore")
    judge(found, plan)
    G = diagonal_inverse(
        A,
        preconditioner=M,
        probes=DIAGONAL_PROBES,
        method=replace(method, tol=max(settings.tol, COARSE)),
        random_state=settings.seed,
    )
    # G_ii is at least 1 / A_ii, and at most 1 / alpha
    value = torch.maximum(G.value, 1.0 / A.diag().double()).clamp_max(1.0 / alpha)
    residuals = _raw(p, found.x / value.unsqueeze(-1))
    return LeaveOneOut(residuals, (G.standard_error / value).unsqueeze(-1).expand(residuals.shape))


# ---------------------------------------------------------------- inducing points


def _inducing(p: RidgeProblem, plan: RidgePlan, alphas: list[float], settings: Settings) -> Tensor:
    """White noise d_i acts like a weight 1 / (alpha + d_i), as in the fit."""
    p.require_points()
    X, noise = p.points, p.noise()
    weight = torch.ones(len(X), dtype=torch.float64, device=X.device)
    if p.weight is not None:
        weight = p.used(p.weight)
    # the centres of `InducingPoints` with the same seed
    Z = X[choose_centers(p.between, X, plan.n_centers, "uniform", settings.seed)].double()
    factor = independent(p.between(Z, Z), 1e-12)
    if factor is None:
        raise SolveError("the kernel overflows or is not defined for these data: scale the columns of X.")
    T, keep = factor
    if not len(keep):
        return p.used(p.Y).expand(len(alphas), *p.used(p.Y).shape)
    Z = Z[keep]
    if noise is None or noise.dim() == 0:
        shift = 0.0 if noise is None else float(noise)
        return _closed_form(p, Z, T, weight, [a + shift for a in alphas])
    return torch.cat([_closed_form(p, Z, T, weight / (a + noise), [1.0]) for a in alphas])


def _closed_form(p: RidgeProblem, Z: Tensor, T: Tensor, w: Tensor, alphas: list[float]) -> Tensor:
    X, root = p.points.double(), w.sqrt().unsqueeze(-1)
    Y = root * p.used(p.Y)
    stored = isinstance(p.between(X[:1], Z[:1]), Dense)
    K = Blocks(p.between, X, Z) if stored else p.between(X, Z)
    numbers = block_numbers(current().memory_limit)
    G, moment = exact(Rows(K, w, numbers, lambda progress: None), T, Y)
    assert moment is not None
    L, V = torch.linalg.eigh(G)
    inverse = 1.0 / (L.clamp_min(0.0) + torch.tensor(alphas).to(L).unsqueeze(-1))  # (J, m)
    M = upper(T, V)  # rows W^1/2 Knm M are those of B V
    u = inverse.unsqueeze(-1) * (M.mT @ moment)  # (J, m, E)
    out = Y.new_empty((len(alphas), *Y.shape))
    for rows in chunks(len(X), len(Z), X.device, numbers):
        B = root[rows] * (K.rows(rows) @ M)
        left = (1.0 - B.square() @ inverse.mT).clamp_min(torch.finfo(B.dtype).eps)  # 1 - H_ii, (b, J)
        out[:, rows] = (Y[rows] - B @ u) / left.mT.unsqueeze(-1)
    return out / root

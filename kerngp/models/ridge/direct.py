"""Ridge systems whose matrix is stored: factorised, in the least squares sense where that is impossible."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from scipy.linalg.blas import dsymm  # type: ignore[attr-defined]
from scipy.linalg.lapack import dpotrf, dpotrs  # type: ignore[attr-defined]

from ...solvers import Cholesky, Dense, Report, Solution, Status

Tensor = torch.Tensor

# A factorisation whose residual is not small has met a singular matrix without noticing it.
SINGULAR_RESIDUAL = 1e-8


def solve_direct(K: Tensor, Y: Tensor, alpha: np.ndarray) -> Solution:
    """Solve (K + alpha_e I) x_e = y_e by a factorisation for each different alpha.

    Parameters
    ----------
    K : Tensor of shape (n, n), float64, contiguous, symmetric
        Is overwritten.
    Y : Tensor of shape (n, E), float64
    alpha : ndarray of shape (E,)

    Returns
    -------
    Solution
        With method "least squares" if a matrix was singular; scikit-learn's warning is given then.
    """
    one: Callable[[Tensor, Tensor], Solution] = _lapack if K.device.type == "cpu" else _torch
    diagonal, parts = K.diagonal().clone(), []
    groups = [(a, np.flatnonzero(alpha == a)) for a in dict.fromkeys(alpha.tolist())]
    for k, (a, columns) in enumerate(groups):
        if k:
            _restore(K)
        K.diagonal().copy_(diagonal + a)
        parts.append(one(K, Y[:, torch.from_numpy(columns).to(Y.device)]))
    if len(parts) == 1:
        return parts[0]
    order = torch.from_numpy(np.argsort(np.concatenate([c for _, c in groups]))).to(Y.device)
    worst = max(parts, key=lambda s: (s.status is Status.nan, s.method == "least squares"))
    norms = torch.cat([s.residual_norms for s in parts])[order]
    x = torch.cat([s.x for s in parts], -1)[:, order]
    return replace(worst, x=x, residual_norms=norms, history=_history(norms))


def _lapack(K: Tensor, B: Tensor) -> Solution:
    """In place: the factor takes one triangle, the other one keeps the matrix for the residual."""
    a, b, diagonal = K.numpy().T, np.asfortranarray(B.numpy()), K.diagonal().clone()
    factor, info = dpotrf(a, lower=1, clean=0, overwrite_a=1)
    x = dpotrs(factor, b, lower=1)[0] if info == 0 else b
    K.diagonal().copy_(diagonal)
    if info == 0 and np.isfinite(x).all():
        norms = _relative(b - dsymm(1.0, a, x, lower=0), b)
        if norms.max(initial=0.0) <= SINGULAR_RESIDUAL:
            return _solution(x, norms, Status.converged, "Cholesky")
    _restore(K)
    if not np.isfinite(a).all() or not np.isfinite(b).all():
        return _solution(np.full_like(b, np.nan), np.full(b.shape[1], np.nan), Status.nan, "Cholesky")
    return _least_squares(a, b)


def _torch(K: Tensor, B: Tensor) -> Solution:
    """On any device."""
    found = Cholesky(SINGULAR_RESIDUAL).run(Dense(K, psd=True), B)
    if found.status in (Status.converged, Status.nan):
        return found
    found = _least_squares(K.cpu().numpy(), B.cpu().numpy())
    return replace(found, x=found.x.to(B.device))


def _restore(K: Tensor) -> None:
    """The triangle that a factor may have taken, from the other one."""
    K.copy_(K.tril().add_(K.tril(-1).mT))


def _least_squares(a: np.ndarray, b: np.ndarray) -> Solution:
    """What scikit-learn does with a singular matrix."""
    warnings.warn(
        "Singular matrix in solving dual problem. Using least-squares solution instead. "
        "A larger alpha makes the solution unique.",
        UserWarning,
        stacklevel=7,
    )
    x = np.linalg.lstsq(a, b, rcond=None)[0]
    return _solution(x, _relative(b - a @ x, b), Status.stagnated, "least squares")


def _relative(residual: np.ndarray, b: np.ndarray) -> np.ndarray:
    size = np.linalg.norm(b, axis=0)
    return np.linalg.norm(residual, axis=0) / np.where(size > 0, size, 1.0)


def _solution(x: np.ndarray, norms: np.ndarray, status: Status, method: str) -> Solution:
    r = torch.from_numpy(norms)
    return Solution(torch.from_numpy(x), status, 1, r, _history(r), 1, method, report=Report(passes=1.0))


def _history(norms: Tensor) -> Tensor:
    return torch.stack([torch.ones_like(norms), norms])

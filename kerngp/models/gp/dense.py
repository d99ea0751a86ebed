"""The log marginal likelihood by Cholesky factorisation: for few rows, and for kernels without a formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
import torch

from ...solvers import Note
from ..hyperparameters import Hyperparameters
from ..kernel_hyperparameters import derivatives
from .evidence import Evidence, no_evidence

DERIVATIVES = 1 << 27  # bytes of derivatives that are stored at a time, if there is a formula

NOT_POSITIVE = Note(
    "NOT_POSITIVE_DEFINITE", "the kernel matrix is not positive definite; a larger alpha makes it so."
)


def dense_evidence(
    h: Hyperparameters, X: Any, Y: np.ndarray, alpha: float | np.ndarray, gradient: bool = False
) -> Evidence:
    """As `sklearn.gaussian_process.GaussianProcessRegressor.log_marginal_likelihood` computes it.

    Parameters
    ----------
    h : Hyperparameters
    X : Tensor, array or sequence of length n
        A sequence of whatever the kernel takes, if it is one of scikit-learn's for structured data.
    Y : ndarray of shape (n, t) or (n,)
    alpha : float or ndarray of shape (n,)
        Added to the diagonal.
    gradient : bool

    Returns
    -------
    Evidence
        Of value -inf, and no error, if the matrix is not positive definite.
    """
    X = X.detach().cpu().numpy() if isinstance(X, torch.Tensor) else X
    Y = np.asarray(Y, dtype=np.float64)
    Y = Y[:, None] if Y.ndim == 1 else Y
    n, t = Y.shape
    at_once = not h.has_formula or 8 * n**2 * len(h.theta) <= DERIVATIVES
    K, dK = h.gradient(X) if gradient and at_once else (np.array(h.matrix(X)), None)
    K[np.diag_indices(n)] += alpha
    try:
        L = scipy.linalg.cholesky(K, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return no_evidence(h, n, NOT_POSITIVE)
    C = scipy.linalg.cho_solve((L, True), Y, check_finite=False)
    value = -0.5 * np.einsum("ij,ij->", Y, C) - t * np.log(np.diag(L)).sum() - 0.5 * n * t * np.log(2 * np.pi)
    slope = _slope(L, C, h, X, dK) if gradient else None
    return Evidence(float(value), slope, torch.from_numpy(C), n)


def _slope(L: np.ndarray, C: np.ndarray, h: Hyperparameters, X: Any, dK: np.ndarray | None) -> np.ndarray:
    """1/2 trace((C C' - t A^-1) dA) for each theta, from blocks of rows if dA is not at hand."""
    inner = C @ C.T
    inner -= C.shape[1] * scipy.linalg.cho_solve((L, True), np.eye(len(L)), check_finite=False)
    if dK is not None:
        return 0.5 * (inner.ravel() @ dK.reshape(-1, dK.shape[-1]))
    x, out = torch.as_tensor(X, dtype=torch.float64), np.zeros(len(h.theta))
    step = max(1, DERIVATIVES // (8 * len(L) * len(out)))
    for start in range(0, len(L), step):
        rows = slice(start, start + step)
        part = derivatives(h, x, rows).numpy()
        out += 0.5 * (inner[rows].ravel() @ part.reshape(-1, len(out)))
    return out

"""The Laplace approximation of a Gaussian process classifier by factorisation: for few rows.

With y in {0, 1}, p(y | f) the logistic function, pi = p(1 | f), W = diag(pi (1 - pi)), S = W^1/2 and
B = I + S K S = L L' (Rasmussen and Williams, 2006, algorithms 3.1, 3.2 and 5.1):

    the mode     f = K a,  a = b - S B^-1 S K b,  b = W f + y - pi       Newton's iteration
    the value    log Z = -1/2 a'f + log p(y | f) - 1/2 log det B
    its slope    1/2 a' dK a - 1/2 trace(S B^-1 S dK) + v' dK (y - pi),  v = s - S B^-1 S K s,
                 s = -1/2 (1 - diag B^-1) (1 - 2 pi)

The last line is their implicit term, s_2' s_3, with the posterior variances written as
W_i var_i = 1 - (B^-1)_ii: one inverse serves both terms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from scipy.linalg.lapack import dpotri  # type: ignore[attr-defined]
from scipy.special import erf, expit

from ...errors import SolveError
from ...solvers import Note
from ..hyperparameters import Hyperparameters
from .evidence import Evidence, no_evidence

# The logistic function as a combination of error functions of f times these factors (Williams and Barber,
# 1998, appendix A): the least squares fit at f = 0, 0.6, 2, 3.5, 4.5 and infinity.
FACTORS = np.array([0.41, 0.4, 0.37, 0.44, 0.39])[:, np.newaxis]
WEIGHTS = np.array([-1854.8214151, 3516.89893646, 221.29346712, 128.12323805, -2010.49422654])[:, np.newaxis]

ENOUGH = 1e-10  # the iteration ends when the value grows by less, as in scikit-learn


@dataclass(frozen=True)
class Mode:
    """The approximation for one kernel matrix.

    Attributes
    ----------
    value : float
        The approximate log marginal likelihood.
    f, a : ndarray of shape (n,)
        The mode and K^-1 f, of the last iteration.
    pi, root : ndarray of shape (n,)
        Probabilities and S, where the last iteration started.
    L : ndarray of shape (n, n)
        The lower factor of B there.
    iterations : int
    converged : bool
    """

    value: float
    f: np.ndarray
    a: np.ndarray
    pi: np.ndarray
    root: np.ndarray
    L: np.ndarray
    iterations: int
    converged: bool


class DenseLaplace:
    """The approximate evidence of one data set, by factorisation.

    Parameters
    ----------
    X : ndarray of shape (n, d), or a sequence of what the kernel takes
    y : ndarray of shape (n,)
        0 or 1.
    max_iter : int
        Steps of Newton's iteration.
    warm : bool
        Start at the last mode instead of 0.

    Attributes
    ----------
    last : ndarray of shape (n,) or None
        The last mode.
    """

    def __init__(self, X: Any, y: np.ndarray, *, max_iter: int = 100, warm: bool = False):
        self.X, self.y, self.max_iter, self.warm = X, y, max_iter, warm
        self.last: np.ndarray | None = None

    def mode(self, K: np.ndarray) -> Mode:
        """The mode for a kernel matrix."""
        mode = find_mode(K, self.y, self.last if self.warm else None, self.max_iter)
        self.last = mode.f
        return mode

    def __call__(self, h: Hyperparameters, gradient: bool = False) -> Evidence:
        """The approximate log marginal likelihood at a theta, -inf if it has none."""
        K, dK = h.gradient(self.X) if gradient else (h.matrix(self.X), None)
        try:
            mode = self.mode(K)
        except SolveError as error:
            return no_evidence(h, len(self.y), Note("NO_EVIDENCE", str(error)))
        return Evidence(mode.value, None if dK is None else slope(mode, K, dK, self.y), None, len(self.y))


def find_mode(K: np.ndarray, y: np.ndarray, start: np.ndarray | None = None, max_iter: int = 100) -> Mode:
    """Newton's iteration for the mode of the posterior.

    Parameters
    ----------
    K : ndarray of shape (n, n)
    y : ndarray of shape (n,)
        0 or 1.
    start : ndarray of shape (n,), optional
        f to start with; default 0.
    max_iter : int

    Raises
    ------
    SolveError
        If B is not positive definite: K is not positive semi-definite, or not finite.
    """
    f = np.zeros(len(y)) if start is None else start
    signs = 2.0 * y - 1.0
    best = -np.inf
    iteration, converged = 0, False
    while not converged and iteration < max_iter:
        iteration += 1
        pi = expit(f)
        W = pi * (1 - pi)
        root = np.sqrt(W)
        scaled = root[:, np.newaxis] * K
        B = scaled * root
        B.flat[:: len(y) + 1] += 1.0
        L = _factor(B)
        b = W * f + (y - pi)
        a = b - root * scipy.linalg.cho_solve((L, True), scaled @ b, check_finite=False)
        f = K @ a
        value = -0.5 * (a @ f) - np.logaddexp(0.0, -signs * f).sum() - np.log(np.diag(L)).sum()
        converged = bool(value - best < ENOUGH)
        best = best if converged else value
    return Mode(float(best), f, a, pi, root, L, iteration, converged)


def slope(mode: Mode, K: np.ndarray, dK: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The derivatives of the value, (p,), for the derivatives dK of K, (n, n, p)."""
    inverse, _ = dpotri(mode.L, lower=1)
    s = -0.5 * (1.0 - np.diag(inverse)) * (1.0 - 2.0 * mode.pi)
    factor = (mode.L, True)
    v = s - mode.root * scipy.linalg.cho_solve(factor, mode.root * (K @ s), check_finite=False)
    # dK is symmetric: the lower half of the inverse stands for both, its diagonal for one
    half = np.tril(inverse, -1)
    half *= mode.root[:, np.newaxis] * mode.root
    both = np.outer(0.5 * mode.a, mode.a) + np.outer(v, y - mode.pi) - half
    both.flat[:: len(y) + 1] -= 0.5 * np.diag(inverse) * mode.root**2
    return both.ravel() @ dK.reshape(-1, dK.shape[-1])


def latent_variance(L: np.ndarray, root: np.ndarray, cross: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Posterior variances at points with the prior variances ``prior``, (m,), and "
    "``cross`` = k(X, points)."""
    v = scipy.linalg.solve_triangular(L, root[:, np.newaxis] * cross, lower=True, check_finite=False)
    return prior - np.einsum("ij,ij->j", v, v)


def probabilities(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """The logistic function averaged over N(mean, variance), (m, 2): of class 0 and of class 1."""
    integrals = erf(FACTORS * mean / np.sqrt(1.0 + 2.0 * variance * FACTORS**2)) / 2
    one = (WEIGHTS * integrals).sum(axis=0) + 0.5 * WEIGHTS.sum()
    return np.stack((1 - one, one), axis=1)


def _factor(B: np.ndarray) -> np.ndarray:
    try:
        return scipy.linalg.cholesky(B, lower=True, overwrite_a=True)
    except (np.linalg.LinAlgError, ValueError) as error:
        raise SolveError(
            "the Laplace approximation has no value: the kernel matrix is not positive semi-definite or not "
            "finite. Check the data and the kernel's parameters; a WhiteKernel added to it "
            "helps against rounding."
        ) from error

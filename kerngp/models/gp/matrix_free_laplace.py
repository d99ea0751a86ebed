"""The Laplace approximation of a Gaussian process classifier from products alone: memory linear in the rows.

The quantities are those of `laplace`. The mode is found by Newton's iteration with inexact steps
(`kerngp.models.newton`), log det B is estimated from random signs about a low-rank preconditioner, and so is
its derivative by S, which holds the posterior variances that the implicit term needs:

    d log det B / d S_i = 2 S_i var_i,   s = -1/4 S (d log det B / d S) (1 - 2 pi)

The slope of log Z is then that of 1/2 a' K a + v' K (y - pi) - 1/2 log det B by theta alone, for a, v, pi, S
fixed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ...errors import KerngpError
from ...options import current
from ...solvers import CG, AddedDiagonal, LinearOperator, Note, RPCholesky, logdet, solve
from ...solvers.preconditioners.low_rank import LowRankInverse
from ...solvers.preconditioners.rpcholesky import default_rank
from ..dual_space import DualNewton, DualSpace
from ..hyperparameters import Hyperparameters
from ..kernel_base import Kernel
from ..kernel_matrix import kernel_matrix, white_noise
from ..likelihoods import Curvature, Sigmoid
from ..newton import LOOSEST, Minimum, minimise
from .evidence import Evidence, no_evidence

Tensor = torch.Tensor

NEWTON_TOL = 1e-5  # of the mode, while hyperparameters are learned
SOLVE_TOL = 1e-4  # of the solve in the implicit term
VARIANCE_TOL = 1e-3  # of solves for variances, whose errors are of the order of its square
COLUMNS = 64  # solved together


@dataclass(frozen=True)
class FreeMode:
    """The approximation at one theta.

    Attributes
    ----------
    kernel : Kernel
    space : DualSpace
    at : Curvature
        At the mode.
    found : Minimum
        ``c`` is a, ``f`` the mode, each of shape (n, 1).
    inverse : LowRankInverse
        The preconditioner of B.
    """

    kernel: Kernel
    space: DualSpace
    at: Curvature
    found: Minimum
    inverse: LowRankInverse

    @property
    def pi(self) -> Tensor:
        """Probabilities of class 1, (n,)."""
        return torch.sigmoid(self.found.f[:, 0])

    @property
    def root(self) -> Tensor:
        """S, (n,)."""
        return self.at.root[:, 0]

    def half_solve(self, s: Tensor, tol: float) -> Tensor:
        """(I + W K)^-1 s for s of shape (n,)."""
        b = s.unsqueeze(-1)
        dual = DualNewton(self.space.K, self.at, 1.0, self.space.factor)
        u, _ = dual.solve(self.at.right(self.space.values(b)), tol)
        return (b - self.at.left(u))[:, 0]


class MatrixFreeLaplace:
    """The approximate evidence of one data set, to be evaluated at many thetas that are near each other.

    It keeps the random signs, the pivots of the preconditioner and the last mode.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Computed on its device.
    y : ndarray of shape (n,)
        0 or 1.
    probes : int
        Random signs, at least 2.
    tol : float
        Of the mode, see `kerngp.models.newton.minimise`.
    max_iter : int
        Steps of Newton's iteration.
    rank : int, optional
        Of the preconditioner.
    random_state : int
    """

    def __init__(
        self,
        X: Tensor,
        y: np.ndarray,
        *,
        probes: int = 16,
        tol: float = NEWTON_TOL,
        max_iter: int = 100,
        rank: int | None = None,
        random_state: int = 0,
    ):
        self.X, self.tol, self.max_iter, self.probes = X.detach(), tol, max_iter, probes
        self.y = torch.as_tensor(y, dtype=torch.float64, device=X.device)
        self.rank = default_rank(len(X), current().memory_limit) if rank is None else max(1, rank)
        self.random_state = random_state
        self.last: Tensor | None = None  # a of the last mode
        self._pivoted: LowRankInverse | None = None

    def mode(self, h: Hyperparameters, *, tol: float | None = None, callback: Any = None) -> FreeMode:
        """The mode at a theta, from the last one.

        Raises
        ------
        SolveError
            If there is none: the kernel is not finite.
        """
        kernel = h.formula()
        K = kernel_matrix(kernel, self.X)
        base = K.base if isinstance(K, AddedDiagonal) else K
        one = AddedDiagonal(base, torch.ones((), dtype=torch.float64, device=self.X.device))
        if self._pivoted is None:
            self._pivoted = RPCholesky(self.rank, random_state=self.random_state).build(one)
        else:
            self._pivoted = self._pivoted.refresh(one)
        space = DualSpace(K, self._pivoted.low_rank.factor.double())
        likelihood = Sigmoid(self.y.unsqueeze(-1), torch.ones_like(self.y))
        c = torch.zeros_like(likelihood.y) if self.last is None else self.last
        f = torch.zeros_like(c) if self.last is None else space.values(c)
        found = minimise(
            likelihood,
            space,
            1.0,
            c,
            f,
            tol=self.tol if tol is None else tol,
            max_iter=self.max_iter,
            loosest=LOOSEST,
            callback=callback,
        )
        self.last = found.c
        at = likelihood.curvature(found.f)
        return FreeMode(kernel, space, at, found, self._inverse(K, at.root[:, 0]))

    def _inverse(self, K: LinearOperator, root: Tensor) -> LowRankInverse:
        """(I + S F'F S + S D S)^-1 for white noise D."""
        assert self._pivoted is not None
        low_rank = self._pivoted.low_rank
        d = torch.ones_like(root)
        if isinstance(K, AddedDiagonal):
            d = d + root.square() * K.values.detach().double()
        scaled = replace(low_rank, factor=low_rank.factor * root.to(low_rank.factor.dtype))
        return LowRankInverse(scaled, d, name="RPCholesky")

    def __call__(self, h: Hyperparameters, gradient: bool = False) -> Evidence:
        """The approximate log marginal likelihood at a theta.

        Parameters
        ----------
        h : Hyperparameters
            With a formula.
        gradient : bool

        Returns
        -------
        Evidence
            Of value -inf, with a note, if a solve failed.
        """
        with torch.no_grad():
            try:
                mode = self.mode(h)
                return self._evidence(h, mode, gradient)
            except KerngpError as error:
                return no_evidence(h, len(self.X), Note("NO_EVIDENCE", str(error)))

    def _evidence(self, h: Hyperparameters, mode: FreeMode, gradient: bool) -> Evidence:
        theta = torch.tensor(h.theta, dtype=torch.float64, device=self.X.device)
        root = mode.root.clone()
        wanted = gradient and len(h.theta) > 0
        with torch.set_grad_enabled(wanted):
            theta.requires_grad_(wanted)
            root.requires_grad_(wanted)
            kernel = h.formula(theta) if wanted else mode.kernel
            estimate = logdet(
                weighted(kernel, self.X, root),
                preconditioner=mode.inverse,
                probes=self.probes,
                tol=1e-5,
                exact_below=0,
                random_state=self.random_state,
            )
        found = mode.found
        value = -0.5 * found.energy - found.loss - 0.5 * float(estimate.value)
        slope = np.zeros(0) if gradient else None
        if wanted:
            by_theta, by_root = torch.autograd.grad(
                estimate.value, (theta, root), allow_unused=True, materialize_grads=True
            )
            slope = (self._explicit(h, mode, by_root) - 0.5 * by_theta).cpu().numpy()
        return Evidence(
            value,
            slope,
            found.c,
            len(self.X),
            standard_error=0.5 * float(estimate.standard_error),
            residual=found.error,
            products=estimate.products + found.inner,
        )

    def _explicit(self, h: Hyperparameters, mode: FreeMode, by_root: Tensor) -> Tensor:
        """The slope of 1/2 a' K a + v' K (y - pi)."""
        s = -0.25 * mode.root * by_root * (1.0 - 2.0 * mode.pi)
        v = mode.half_solve(s, SOLVE_TOL)
        left = torch.stack([0.5 * mode.found.c[:, 0], v], -1)
        right = torch.stack([mode.found.c[:, 0], self.y - mode.pi], -1)
        theta = torch.tensor(h.theta, dtype=torch.float64, device=self.X.device, requires_grad=True)
        with torch.enable_grad():
            K = kernel_matrix(h.formula(theta), self.X)
            value = (left * K.matmul(right.to(self.X.dtype)).double()).sum()
            (slope,) = torch.autograd.grad(value, theta, allow_unused=True, materialize_grads=True)
        return slope


def weighted(kernel: Kernel, X: Tensor, root: Tensor) -> AddedDiagonal:
    """B = I + S K S, with white noise of the kernel as part of K."""
    base = kernel_matrix(kernel, X, X, weights=root)
    noise = white_noise(kernel, X)
    d = torch.ones_like(root) if noise is None else 1.0 + root.square() * noise.double()
    return AddedDiagonal(base, d)


def latent(mode: FreeMode, X: Tensor, points: Tensor) -> Tensor:
    """The posterior mean at points, (m,): one pass."""
    c = mode.found.c.to(X.dtype)
    return (kernel_matrix(mode.kernel, points, X) @ c)[:, 0].double()


def latent_variance(mode: FreeMode, X: Tensor, points: Tensor) -> Tensor:
    """The posterior variance at points, (m,), by solves of many columns at a time.

    k' S B^-1 S k is the value of a quadratic at its maximum, so the error of a solve enters by its square.
    """
    B = weighted(mode.kernel, X, mode.root)
    prior = kernel_matrix(mode.kernel, points).diag().double()
    out = []
    for some, var in zip(points.split(COLUMNS), prior.split(COLUMNS), strict=True):
        q = mode.root.unsqueeze(-1) * kernel_matrix(mode.kernel, X, some).dense().double()
        u = solve(B, q, CG(VARIANCE_TOL), preconditioner=mode.inverse, on_fail="warn").x
        out.append((var - (q * u).sum(0)).clamp_min(0.0))
    return torch.cat(out) if out else prior

"""The posterior by products with the kernel matrix, which is never stored: for many rows.

An approximate solution x of A x = k, k = k(X, z), gives 2 k'x - x'A x, which is below k' A^-1 k by exactly
|x - A^-1 k|^2 in the norm of A. So variances are never too small, and their error is the square of what
conjugate gradients certify: it is that square which decides when a solve has been good enough.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from sklearn.exceptions import ConvergenceWarning

from ...errors import SolveError
from ...solvers import CG, Diagonal, KernelOperator, LinearOperator, Solution, Status, identity, solve
from ...solvers.auto import choose
from ...solvers.functions import diagonal_inverse
from ...solvers.functions.estimate import Estimate
from ...solvers.operator import cast
from ..hyperparameters import Hyperparameters
from ..kernel_base import Kernel
from ..kernel_matrix import kernel_matrix, white_noise
from .pathwise import pathwise
from .posterior import Marginals, Posterior, check_covariance
from .random_variance import RandomVariance

Tensor = torch.Tensor

# Points up to which each has a solve of its own; more share what `RandomVariance` prepares once.
SOLVED_POINTS = 64
# Columns of a solve for variances.
COLUMNS = 64
# Relative residuals tried one after the other until the variances are good to VARIANCE_TOL of themselves.
RESIDUALS = (1e-2, 1e-4, 1e-7)
VARIANCE_TOL = 1e-3
# Of the random vectors that samples and random variances are made of: far below their own spread.
SAMPLE_TOL = 1e-3
LOO_PROBES = 64


@dataclass(frozen=True)
class IterativePosterior(Posterior):
    """The posterior of n rows, in memory linear in n.

    Attributes
    ----------
    h : Hyperparameters
        With a formula.
    X : Tensor of shape (n, D)
    alpha : Tensor of shape () or (n,), float64
        Added to the diagonal.
    weights : Tensor of shape (n, t), float64
        A^-1 Y.
    tol, max_iter : float, int
        Of solves.
    seed : int
        Of everything random.
    prepared : LinearOperator, optional
        A preconditioner of A; by default one is chosen by measuring, when it is first needed.
    """

    h: Hyperparameters
    X: Tensor
    alpha: Tensor
    weights: Tensor
    tol: float = 1e-6
    max_iter: int = 1000
    seed: int = 0
    prepared: LinearOperator | None = field(default=None, repr=False)
    joint_points: ClassVar[int] = SOLVED_POINTS

    @classmethod
    def fit(
        cls,
        h: Hyperparameters,
        X: Tensor,
        Y: Tensor,
        alpha: Tensor,
        *,
        tol: float,
        max_iter: int,
        seed: int,
        x0: Tensor | None = None,
        prepared: LinearOperator | None = None,
        callback: Callable[[Any], Any] | None = None,
    ) -> tuple[IterativePosterior, Solution]:
        """Solve for the weights.

        Returns
        -------
        IterativePosterior
        Solution

        Raises
        ------
        SolveError
            If A is not positive definite, or NaN appears.

        Warns
        -----
        ConvergenceWarning
            If the tolerance was not reached.
        """
        start = cls(h, X, alpha, torch.zeros_like(Y), tol, max_iter, seed, prepared)
        solution = start.solve(Y, tol, x0=x0, callback=callback)
        if solution.status in (Status.nan, Status.indefinite):
            error = SolveError(
                f"the kernel, {h.kernel}, does not give a positive definite matrix: {solution.message} "
                "Try gradually increasing the 'alpha' parameter of your GaussianProcessRegressor estimator."
            )
            error.solution = solution
            raise error
        _warn_unfinished(solution, "the weights of the mean")
        return cls(h, X, alpha, solution.x, tol, max_iter, seed, start.preconditioner), solution

    # ------------------------------------------------------------ parts

    @cached_property
    def kernel(self) -> Kernel:
        """The formula."""
        return self.h.formula()

    @cached_property
    def A(self) -> LinearOperator:
        """The covariance of the training targets."""
        n, device = len(self.X), self.X.device
        K = kernel_matrix(self.kernel, self.X)
        if self.alpha.dim() == 0:
            return K + float(self.alpha) * identity(n, device=device)
        return K + Diagonal(self.alpha)

    @cached_property
    def preconditioner(self) -> LinearOperator | None:
        """What was given, else the winner of a race."""
        if self.prepared is not None:
            return self.prepared
        probe = torch.randn(
            len(self.X), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(self.seed)
        )
        choice = choose(self.A, probe.to(self.X.device), CG(self.tol), self.seed, direct=False)
        return choice.preconditioner

    @cached_property
    def noise(self) -> Tensor:
        """The part of A's diagonal that belongs to observations, not to points; () or (n,), float64."""
        white = white_noise(self.kernel, self.X)
        return self.alpha if white is None else self.alpha + white.double()

    def cross(self, Z: Tensor) -> KernelOperator:
        """k(Z, X), without white noise."""
        K = kernel_matrix(self.kernel, Z.to(self.X.device, self.X.dtype), self.X)
        assert isinstance(K, KernelOperator)  # two sets of points have no noise around it
        return K

    def solve(self, B: Tensor, tol: float, x0: Tensor | None = None, callback: Any = None) -> Solution:
        """A x = B by conjugate gradients; the status is for the caller to judge."""
        method = CG(tol, self.max_iter)
        return solve(
            self.A,
            B,
            method,
            preconditioner=self.preconditioner,
            x0=x0,
            callback=callback,
            on_fail="ignore",
        )

    # ------------------------------------------------------------ predictions

    def mean(self, Z: Tensor) -> Tensor:
        """See `Posterior.mean`: one pass over the pairs."""
        K = self.cross(Z)
        return K.matmul(self.weights.to(K.torch_dtype)).double().cpu()

    def marginals(self, Z: Tensor) -> Marginals:
        """See `Posterior.marginals`: few points by solves, many by `RandomVariance`."""
        prior = self._prior_diagonal(Z)
        if len(Z) <= SOLVED_POINTS or not bool((self.noise > 0).all()):
            pieces = zip(Z.split(COLUMNS), prior.split(COLUMNS), strict=True)
            solved = [self._solutions(z, v)[1:] for z, v in pieces]
            explained, error = (torch.cat(parts) for parts in zip(*solved, strict=True))
            return Marginals(self.mean(Z), (prior - explained).cpu(), error.cpu(), "solves")
        explained, error = self.random_variance.explained(self.cross(Z))
        # an estimate that its own error hides is no more than that error
        variance = torch.maximum(prior - explained, error)
        return Marginals(self.mean(Z), variance.cpu(), error.cpu(), self.random_variance.description)

    def joint(self, Z: Tensor) -> tuple[Tensor, Tensor]:
        """See `Posterior.joint`: a solve for every point."""
        check_covariance(len(Z), len(self.X))
        K, diagonal = self.cross(Z), self._prior_diagonal(Z)
        pieces = zip(Z.split(COLUMNS), diagonal.split(COLUMNS), strict=True)
        solved = [self._solutions(z, v)[0] for z, v in pieces]
        S = torch.cat(solved, -1)
        known = [
            2 * K.matmul(s, exact=True) - S.T @ self.A.matmul(s, exact=True) for s in S.split(COLUMNS, dim=-1)
        ]
        explained = torch.cat(known, -1)
        prior = cast(kernel_matrix(self.kernel, Z.to(self.X.device, self.X.dtype)), torch.float64).dense()
        return self.mean(Z), (prior - 0.5 * (explained + explained.T)).cpu()

    def deviations(self, Z: Tensor, count: int, seed: int) -> Tensor:
        """See `Posterior.deviations`: pathwise."""

        def weigh(B: Tensor) -> Tensor:
            solution = self.solve(B, SAMPLE_TOL)
            _warn_unfinished(solution, "samples")
            return solution.x

        Z = Z.to(self.X.device, self.X.dtype)
        return pathwise(self.kernel, self.X, Z, self.alpha, weigh, count, seed).cpu()

    def inverse_diagonal(self) -> Estimate:
        """See `Posterior.inverse_diagonal`: random, with its standard error."""
        found = diagonal_inverse(
            self.A,
            preconditioner=self.preconditioner,
            probes=LOO_PROBES,
            method=CG(SAMPLE_TOL, self.max_iter),
            random_state=self.seed,
        )
        return found

    @cached_property
    def random_variance(self) -> RandomVariance:
        """What variances of many points share; made when it is first needed."""
        return RandomVariance.prepare(
            self.A, self.preconditioner, lambda B: self.solve(B, SAMPLE_TOL), SAMPLE_TOL, self.seed
        )

    # ------------------------------------------------------------ solves for variances

    def _prior_diagonal(self, Z: Tensor) -> Tensor:
        """k(z, z) with white noise, float64."""
        return kernel_matrix(self.kernel, Z.to(self.X.device, self.X.dtype)).diag().double()

    def _solutions(self, Z: Tensor, prior: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x ~ A^-1 k, 2 k'x - x'A x for k = k(X, z), and what that may lack; more exact until it will do.

        ``prior`` holds k(z, z), from which the second is to be taken.
        """
        K = cast(self.cross(Z), torch.float64).dense().T.contiguous()
        x, explained, error = torch.zeros_like(K), torch.zeros_like(prior), torch.full_like(prior, torch.inf)
        least = float(self.noise.min())
        todo = torch.arange(len(Z), device=K.device)
        for k, tol in enumerate(RESIDUALS):
            b = K[:, todo]
            s = self.solve(b, tol, x0=x[:, todo] if k else None)
            r = b - self.A.matmul(s.x, exact=True)
            x[:, todo] = s.x
            explained[todo] = ((b + r) * s.x).sum(0)
            bound = r.square().sum(0) / least if least > 0 else torch.full_like(r[0], torch.inf)
            known = s.report.certificate
            error[todo] = bound if known is None else torch.minimum(bound, known.error.to(bound) ** 2)
            good = error[todo] <= VARIANCE_TOL * (prior - explained)[todo]
            todo = todo[~good]
            if not len(todo) or s.status not in (Status.converged, Status.stopped):
                break
        return x, explained, error


def _warn_unfinished(solution: Solution, what: str) -> None:
    """scikit-learn's warning for a solve that did not reach its tolerance."""
    if solution.status not in (Status.converged, Status.stopped):
        warnings.warn(
            f"GaussianProcessRegressor, {what}: {solution.message} A larger max_iter, a larger tol, or more "
            "noise (alpha, or a WhiteKernel in the kernel) helps.",
            ConvergenceWarning,
            stacklevel=4,
        )

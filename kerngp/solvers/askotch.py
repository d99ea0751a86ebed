"""ASkotch: accelerated sketch-and-project with blocks of rows drawn at random.

    w = v = z = 0
    repeat
        B = b rows drawn at random
        d = P_B^-1 (A[B, :] z - r_B)                     P_B approximates A_BB
        w = z,  w_B = w_B - d
        v = beta v + (1 - beta) z,  v_B = v_B - gamma d
        z = a v + (1 - a) w
    beta = 1 - sqrt(mu / nu),  gamma = 1 / sqrt(mu nu),  a = 1 / (1 + gamma nu),  nu = n / b,  mu nu <= 1

(Rathore, Frangella, Yang, Derezinski, Udell, 2024.) P_B is A_BB itself, by Cholesky, as long as its
b^3 / 3 operations are no more than the n b entries of the product cost; that is better than any
approximation. Larger blocks are approximated by F F' + rho I, where F comes from randomly pivoted Cholesky
of the block, and the step is divided by the largest eigenvalue of P_B^-1 A_BB, from power iterations.

The rate needs mu below the least eigenvalue of the expected projection, which nobody knows. The authors take
the number on the diagonal, which has a unit; here the product mu nu is given, so that what v remembers is a
number of passes, 1 / sqrt(mu nu), whatever the size of blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .. import options as _options
from ..errors import OptionError
from .block_descent import (
    Failure,
    Sampled,
    Scheme,
    block_factor,
    check_count,
    check_limits,
    default_block,
    descend,
    indefinite,
)
from .operator import AddedDiagonal, LinearOperator, cast
from .preconditioners.rpcholesky import LowRankInverse, RPCholesky
from .solution import Progress, Solution, Status

Tensor = torch.Tensor
POWER_STEPS = 10


@dataclass(frozen=True)
class ASkotch:
    """Accelerated sketch-and-project, for symmetric positive definite operators of any size.

    Memory is that of a few right-hand sides and of one block. The method for a million unknowns and more,
    where the passes that can be paid for are few.

    Parameters
    ----------
    tol : float
        On |b - A x| / |b|, for every column.
    max_passes : float
        Most passes over the matrix; the residual computed at the end, and every ``refresh`` passes,
        comes on top.
    block : int, optional
        Rows drawn at a time. Default: as many as can be factorised in the time of their product with
        the whole matrix.
    rank : int, optional
        Of the approximation of a block. Default: the block itself where that is affordable, otherwise a
        twentieth of its rows.
    acceleration : float
        The product mu nu, at most 1: no acceleration. Smaller numbers remember more passes.
    time_limit : float, optional
        Seconds.
    refresh : float
        Passes between two computations of the true residual.
    patience : float
        Passes without any progress after which a column counts as stagnated.
    random_state : int
        Seed of the blocks.

    Examples
    --------
    >>> import torch
    >>> from kerngp.solvers import Dense, identity, solve
    >>> x = torch.linspace(0, 9, 300, dtype=torch.float64)
    >>> A = Dense(torch.exp(-(x[:, None] - x).abs()), psd=True) + 0.1 * identity(300)
    >>> solve(A, x.sin(), ASkotch(block=100)).converged
    True
    """

    tol: float = 1e-4
    max_passes: float = 200
    block: int | None = None
    rank: int | None = None
    acceleration: float = 0.5
    time_limit: float | None = None
    refresh: float = 10
    patience: float = 100
    random_state: int = 0

    def __post_init__(self) -> None:
        check_limits(self)
        check_count("block", self.block)
        check_count("rank", self.rank)
        if not 0 < self.acceleration <= 1:
            raise OptionError(f"acceleration={self.acceleration!r}: expected a number above 0, at most 1.")

    def run(
        self,
        A: LinearOperator,
        b: Tensor,
        *,
        preconditioner: LinearOperator | None = None,
        x0: Tensor | None = None,
        callback: Callable[[Progress], Any] | None = None,
    ) -> Solution:
        """Solve A x = b for b of shape (*batch, n, E). No gradients here: see `solve`."""
        return descend(
            "ASkotch",
            self,
            A,
            b,
            make=lambda A, residual: _Sketches(self, A, residual),
            preconditioner=preconditioner,
            x0=x0,
            callback=callback,
        )


class _Sketches(Scheme):
    def __init__(self, method: ASkotch, A: LinearOperator, residual: Tensor):
        n = A.shape[-1]
        self.method, self.A, self.exact = method, A, cast(A, torch.float64)
        self.block = min(n, method.block or default_block(n))
        self.rank = method.rank or _affordable_rank(self.block, n)
        self.share = self.block / n
        self.description = f"blocks of {self.block}" + ("" if self.rank is None else f", rank {self.rank}")
        self.generator = torch.Generator().manual_seed(method.random_state)
        self.mu_nu, self.length, self.steps = method.acceleration, 1.0, 0
        self._begin(residual)

    def _begin(self, residual: Tensor) -> None:
        self.R = residual
        self.w, self.v, self.z = (torch.zeros_like(residual) for _ in range(3))
        self.sampled = Sampled(residual)

    def step(self) -> Tensor | None:
        """Project onto the equations of a few rows."""
        n, dtype = self.A.shape[-1], self.A.torch_dtype
        rows = torch.randperm(n, generator=self.generator)[: self.block].to(self.A.device)
        inverse = self._inverse(rows)
        if isinstance(inverse, Failure):
            self.failure = inverse
            return None
        gradient = self.A.submatrix(rows).matmul(self.z.to(dtype)).double() - self.R[rows]
        d = self.length * inverse(gradient)
        self.steps += 1
        nu, root = 1 / self.share, math.sqrt(self.mu_nu)
        beta, gamma = 1 - root / nu, 1 / root
        a = 1 / (1 + gamma * nu)
        self.v = beta * self.v + (1 - beta) * self.z
        self.v[rows] -= gamma * d
        self.w = self.z
        self.w[rows] -= d
        self.z = a * self.v + (1 - a) * self.w
        if self.rank is None and self.block == n:
            return torch.zeros_like(gradient[0])  # that was a direct solve
        return self.sampled.add(gradient)

    def _inverse(self, rows: Tensor) -> Callable[[Tensor], Tensor] | Failure:
        """The product with P_B^-1, scaled to a safe step."""
        if self.rank is None:
            L = block_factor(self.exact, rows)
            return L if isinstance(L, Failure) else lambda g: torch.cholesky_solve(g, L)
        block = self.exact.submatrix(rows, rows)
        broken = _not_positive(self.exact, rows, block.diag())
        if broken is not None:
            return broken
        P = _approximate_inverse(block, self.rank, self.method.random_state + self.steps)
        if isinstance(P, Failure):
            return P
        largest = _largest_eigenvalue(block, P, self.generator)
        return lambda g: P.matmul(g) / largest

    def offset(self) -> Tensor:
        """The last projection."""
        return self.w

    def recentre(self, residual: Tensor, keep: Tensor) -> None:
        """All three sequences move by the offset."""
        w = self.w[:, keep]
        self.v, self.z, self.w = self.v[:, keep] - w, self.z[:, keep] - w, torch.zeros_like(w)
        self.R = residual
        self.sampled.drop(keep)

    def restart(self, residual: Tensor, keep: Tensor) -> None:
        """The sequences are forgotten."""
        self._begin(residual)

    def damp(self) -> bool:
        """No more acceleration, then half the step."""
        if self.mu_nu < 1:
            self.mu_nu = 1.0
        elif self.rank is None or self.length < 1e-3:
            return False  # exact projections cannot be too long
        else:
            self.length /= 2
        return True


def _affordable_rank(block: int, n: int) -> int | None:
    """None where a Cholesky factor of the block is affordable."""
    affordable = block <= 4 * default_block(n) and 32 * block * block <= _options.current().memory_limit
    return None if affordable else max(100, block // 20)


def _not_positive(A: LinearOperator, rows: Tensor, d: Tensor) -> Failure | None:
    """What the diagonal d of a block gives away."""
    if not bool(torch.isfinite(d).all()):
        return Failure(Status.nan, "the diagonal of the matrix is not finite")
    if bool((d > 0).all()):
        return None
    return indefinite(A, rows[d.argmin()][None], d.min().reshape(1, 1))


def _approximate_inverse(block: LinearOperator, rank: int, seed: int) -> LowRankInverse | Failure:
    """(F F' + rho I)^-1; rho is the diagonal plus the least eigenvalue that F has."""
    K, diagonal = (block.base, block.values) if isinstance(block, AddedDiagonal) else (block, 0.0)
    low_rank = RPCholesky(rank, random_state=seed).approximate(K)
    F = low_rank.factor.double()
    if not bool(torch.isfinite(F).all()):
        return Failure(Status.nan, "a block of the matrix is not finite")
    least = torch.linalg.eigvalsh(F @ F.T)[0] if len(F) else block.diag().mean()
    rho = least.clamp_min(torch.finfo(torch.float64).tiny).expand(block.shape[-1])
    return LowRankInverse(low_rank, rho + diagonal)


def _largest_eigenvalue(A: LinearOperator, P: LinearOperator, generator: torch.Generator) -> Tensor:
    """Of P A, by power iterations."""
    q = torch.randn(A.shape[-1], 1, generator=generator, dtype=torch.float64).to(A.device)
    for _ in range(POWER_STEPS):
        q = P.matmul(A.matmul(q / q.norm()))
    return q.norm()

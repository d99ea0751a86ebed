"""Randomly pivoted Cholesky: a low-rank approximation K ~ F F' from a few rows, and its preconditioner.

Simple form (Chen, Epperly, Tropp, Webber, 2022): pick a pivot s with probability d_s / sum(d), where
d is the diagonal of what is not yet approximated; eliminate it; repeat. The accelerated form below
(Epperly, Tropp, Webber, 2024) draws the same pivots in blocks:

    d = diag(K), F empty
    repeat until there are r pivots
        I = b indices drawn independently, P(s) = d_s / sum(d)
        H = K[I, I] - F[I] F[I]'                       the residual matrix at the proposals
        go through H by Cholesky, keeping proposal j with probability H_jj / (H_jj at the start)
        F_new = (K[:, I] - F F[I]') L^-T               I, L: what was kept and its Cholesky factor
        d = d - row sums of F_new^2

The work is r rows of K and n r^2 operations, nearly all of it matrix products. sum(d) is the error
trace(K - F F') exactly, and 1 + sum(d) / mu bounds the condition number that is left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ... import options as _options
from ...errors import OptionError, ShapeError
from ..checks import require_square
from ..operator import LinearOperator
from .low_rank import LowRank, LowRankInverse, split

Tensor = torch.Tensor


@dataclass(frozen=True)
class RPCholesky:
    """Accelerated randomly pivoted Cholesky: a recipe for a preconditioner of K + diag(alpha).

    Parameters
    ----------
    rank : int, optional
        Most pivots. Fewer are taken when the error reaches rounding level. Default: see `default_rank`.
    block : int, optional
        Proposals at a time. Default: a tenth of the rank, at least 10.
    random_state : int
        Seed of the pivots: the same seed gives the same preconditioner.

    Examples
    --------
    >>> import torch
    >>> from kerngp.solvers import CG, Dense, identity, solve
    >>> x = torch.linspace(0, 1, 200, dtype=torch.float64)
    >>> A = Dense(torch.exp(-((x[:, None] - x) ** 2)), psd=True) + 1e-6 * identity(200)
    >>> solve(A, x.sin(), CG(), preconditioner=RPCholesky(20)).iterations < 6
    True
    """

    rank: int | None = None
    block: int | None = None
    random_state: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "block"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise OptionError(f"{name}={value!r}: expected a positive integer.")

    def build(self, A: LinearOperator) -> LowRankInverse:
        """The operator (F F' + diag(alpha))^-1 for A = K + diag(alpha).

        Raises
        ------
        ShapeError
            If A has a batch or is not square.
        OptionError
            If A is not of that form with a positive alpha: without it the approximation is singular.
        """
        K, d = split(A, "RPCholesky")
        return LowRankInverse(self.approximate(K), d, name="RPCholesky", renew=self._renew, base=K)

    def approximate(self, K: LinearOperator) -> LowRank:
        """F with K ~ F' F, in the dtype of K.

        Parameters
        ----------
        K : LinearOperator of shape (n, n), positive semi-definite

        Raises
        ------
        ShapeError
            If K has a batch or is not square.
        """
        require_square(K, "RPCholesky")
        if len(K.shape) != 2:
            raise ShapeError(f"RPCholesky works on one matrix; the operator has shape {K.shape}.")
        with torch.no_grad():
            return self._approximate(K)

    def _approximate(self, K: LinearOperator) -> LowRank:
        n = K.shape[-1]
        rank = min(n, self.rank or default_rank(n, _options.current().memory_limit))
        generator = torch.Generator().manual_seed(self.random_state)
        state = _Elimination.start(K, rank)
        while state.going():
            proposed = _draw(state.d, self._block(rank), generator)
            u = torch.rand(len(proposed), generator=generator, dtype=torch.float64)
            if not state.eliminate(K, proposed, u):
                break  # only numbers at rounding level were drawn
        return state.result()

    def _renew(self, old: LowRank, K: LinearOperator) -> LowRank:
        """The approximation of another matrix from the same pivots, those at rounding level left out."""
        require_square(K, "RPCholesky")
        state = _Elimination.start(K, len(old.pivots))
        for proposed in old.pivots.split(self._block(len(old.pivots))):
            state.eliminate(K, proposed, torch.zeros(len(proposed), dtype=torch.float64))
        return state.result()

    def _block(self, rank: int) -> int:
        return self.block or max(10, math.ceil(rank / 10))


def default_rank(rows: int, memory_limit: int) -> int:
    """2 sqrt(N), at least 100, as long as the factor stays below a quarter of the memory limit."""
    return max(1, min(rows, max(100, round(2 * math.sqrt(rows))), memory_limit // 4 // (8 * rows)))


@dataclass
class _Elimination:
    """Pivots eliminated so far: the first k rows of F, and the diagonal d of what is left."""

    F: Tensor
    pivots: Tensor
    diagonal: Tensor  # of K
    d: Tensor
    k: int = 0

    @staticmethod
    def start(K: LinearOperator, rank: int) -> _Elimination:
        # products of float16 factors would not be worth having
        dtype = torch.float64 if K.torch_dtype == torch.float64 else torch.float32
        d = K.diag().double().clamp_min(0)
        F = torch.zeros((rank, K.shape[-1]), dtype=dtype, device=K.device)
        return _Elimination(F, torch.zeros(rank, dtype=torch.int64, device=K.device), d, d)

    def going(self) -> bool:
        """Whether there is room for more pivots, and something left to approximate."""
        floor = 20 * torch.finfo(self.F.dtype).eps * float(self.diagonal.sum())
        return self.k < len(self.F) and float(self.d.sum()) > floor

    def eliminate(self, K: LinearOperator, proposed: Tensor, u: Tensor) -> int:
        """Keep proposal j with probability H_jj / (H_jj at the start), decided by u; how many were kept."""
        F, k = self.F, self.k
        residual = K.rows(proposed, proposed).double() - _gram(F[:k, proposed])
        noise = 20 * torch.finfo(F.dtype).eps * self.diagonal[proposed]
        kept, L = _reject(residual, len(F) - k, u, noise)
        kept, L = kept.to(F.device), L.to(F.device, F.dtype)
        new, stop = proposed[kept], k + len(kept)
        if len(kept):
            rows = K.rows(new).to(F.dtype)
            rows.addmm_(F[:k, new].T.contiguous(), F[:k], alpha=-1.0)
            torch.linalg.solve_triangular(L, rows, upper=False, out=F[k:stop])
            self.pivots[k:stop] = new
            self.d = (self.d - F[k:stop].square().sum(0, dtype=torch.float64)).clamp_min(0)
            self.d[new] = 0.0
        self.k = stop
        return len(kept)

    def result(self) -> LowRank:
        F, pivots, trace = self.F[: self.k], self.pivots[: self.k], float(self.diagonal.sum())
        rounding = _rounding(F, pivots, trace, float(self.diagonal[pivots].sum()))
        return LowRank(F, pivots, trace, float(self.d.sum()), rounding)


def _rounding(F: Tensor, pivots: Tensor, trace: float, pivot_trace: float) -> float:
    """About how far F is, in the Frobenius norm, from what exact arithmetic gives for the same pivots.

    With L L' = K[S, S] the exact rows are L^-1 K[S, :]. Each entry of K[S, :] - L F is a sum of up to
    r + 4 roundings of numbers up to sqrt(k_ss k_jj), whose errors are independent and add up like
    sqrt(r + 4); L^-1 then carries them into F.
    """
    r = len(pivots)
    if r == 0:
        return 0.0
    L = F[:, pivots].double().T
    inverse = torch.linalg.solve_triangular(L, torch.eye(r, dtype=L.dtype, device=L.device), upper=False)
    norm = (torch.linalg.matrix_norm(inverse, 1) * torch.linalg.matrix_norm(inverse, torch.inf)).sqrt()
    return float(norm) * torch.finfo(F.dtype).eps * math.sqrt((r + 4) * trace * pivot_trace)


def _draw(d: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Independent indices with probabilities proportional to d, by inversion (any number of them)."""
    total = d.cumsum(0)
    u = torch.rand(count, generator=generator, dtype=torch.float64).to(d.device) * total[-1]
    return torch.searchsorted(total, u, right=True).clamp_max(len(d) - 1)


def _gram(F: Tensor) -> Tensor:
    F = F.double()
    return F.T @ F


def _reject(H: Tensor, most: int, u: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Rejection sampling of proposals: those kept, and the Cholesky factor of H at them."""
    H, noise = H.cpu().clone(), noise.cpu()
    size = H.shape[0]
    start = H.diagonal().clone()
    L = torch.zeros_like(H)
    kept: list[int] = []
    for j in range(size):
        # a second draw of one index has nothing left but rounding errors, which must not be kept
        rounded = H[j, j] <= 1e-14 * start[j] or H[j, j] <= noise[j]
        if len(kept) == most or rounded or u[j] * start[j] >= H[j, j]:
            continue
        column = H[:, j] / H[j, j].sqrt()
        L[:, len(kept)] = column
        H[j + 1 :, j + 1 :] -= torch.outer(column[j + 1 :], column[j + 1 :])
        kept.append(j)
    index = torch.tensor(kept, dtype=torch.int64)
    return index, L[index][:, : len(kept)].to(H.dtype)

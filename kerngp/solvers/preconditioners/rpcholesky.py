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
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...errors import OptionError, ShapeError
from ..checks import require_square
from ..operator import AddedDiagonal, LinearOperator

Tensor = torch.Tensor


@dataclass(frozen=True)
class LowRank:
    """K ~ factor' factor.

    Attributes
    ----------
    factor : Tensor of shape (rank, n)
    pivots : Tensor of shape (rank,)
        The rows of K that were read.
    trace, trace_error : float
        Of K, and of K - factor' factor (which is positive semi-definite).
    """

    factor: Tensor
    pivots: Tensor
    trace: float
    trace_error: float


@dataclass(frozen=True)
class RPCholesky:
    """Accelerated randomly pivoted Cholesky: a recipe for a preconditioner of K + diag(alpha).

    Parameters
    ----------
    rank : int
        Most pivots. Fewer are taken when the error reaches rounding level.
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

    rank: int
    block: int | None = None
    random_state: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "block"):
            value = getattr(self, name)
            if value is None and name == "block":
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
        if not isinstance(A, AddedDiagonal):
            raise OptionError(
                f"RPCholesky needs an operator K + alpha * identity(n), got {A!r}; add a positive "
                "diagonal, or pass an operator as preconditioner."
            )
        d = A.values.detach().to(torch.float64).expand(A.shape[:-1])
        if not bool((d > 0).all()):
            raise OptionError(f"RPCholesky needs a positive diagonal; the least is {float(d.min())}.")
        return LowRankInverse(self.approximate(A.base), d)

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
        n, rank = K.shape[-1], min(self.rank, K.shape[-1])
        # products of float16 factors would not be worth having
        dtype = torch.float64 if K.torch_dtype == torch.float64 else torch.float32
        generator = torch.Generator().manual_seed(self.random_state)
        d = K.diag().double().clamp_min(0)
        trace = float(d.sum())
        floor = 20 * torch.finfo(dtype).eps * trace
        F = torch.zeros((rank, n), dtype=dtype, device=K.device)
        pivots = torch.zeros(rank, dtype=torch.int64, device=K.device)
        block = self.block or max(10, math.ceil(self.rank / 10))
        k = 0
        while k < rank and float(d.sum()) > floor:
            proposed = _draw(d, block, generator)
            residual = K.rows(proposed, proposed).double() - _gram(F[:k, proposed])
            kept, L = _reject(residual, rank - k, generator)
            if not len(kept):
                break  # only numbers at rounding level were drawn
            new, stop = proposed[kept], k + len(kept)
            rows = K.rows(new).to(dtype)
            rows.addmm_(F[:k, new].T.contiguous(), F[:k], alpha=-1.0)
            torch.linalg.solve_triangular(L.to(dtype), rows, upper=False, out=F[k:stop])
            pivots[k:stop] = new
            d = (d - F[k:stop].square().sum(0, dtype=torch.float64)).clamp_min(0)
            d[new] = 0.0
            k = stop
        return LowRank(F[:k], pivots[:k], trace, float(d.sum()))


def _draw(d: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Independent indices with probabilities proportional to d, by inversion (any number of them)."""
    total = d.cumsum(0)
    u = torch.rand(count, generator=generator, dtype=torch.float64).to(d.device) * total[-1]
    return torch.searchsorted(total, u, right=True).clamp_max(len(d) - 1)


def _gram(F: Tensor) -> Tensor:
    F = F.double()
    return F.T @ F


def _reject(H: Tensor, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rejection sampling of proposals: those kept, and the Cholesky factor of H at them."""
    H = H.cpu().clone()
    size = H.shape[0]
    start = H.diagonal().clone()
    u = torch.rand(size, generator=generator, dtype=torch.float64)
    L = torch.zeros_like(H)
    kept: list[int] = []
    for j in range(size):
        # a second draw of one index has nothing left but rounding errors, which must not be kept
        if len(kept) == most or H[j, j] <= 1e-14 * start[j] or u[j] * start[j] >= H[j, j]:
            continue
        column = H[:, j] / H[j, j].sqrt()
        L[:, len(kept)] = column
        H[j + 1 :, j + 1 :] -= torch.outer(column[j + 1 :], column[j + 1 :])
        kept.append(j)
    index = torch.tensor(kept, dtype=torch.int64)
    return index, L[index][:, : len(kept)].to(H.dtype)


class LowRankInverse(LinearOperator):
    """(F' F + diag(d))^-1 by Woodbury's identity, in float64 whatever the dtype of F.

    Parameters
    ----------
    low_rank : LowRank
    d : Tensor of shape (n,), positive, float64

    Attributes
    ----------
    trace_error : float
        trace(K - F' F), a measure of what the preconditioner does not know.
    pivots : Tensor
    """

    work = "preconditioner"

    def __init__(self, low_rank: LowRank, d: Tensor):
        self.low_rank, self.d = low_rank, d
        self.pivots, self.trace_error = low_rank.pivots, low_rank.trace_error
        n = low_rank.factor.shape[1]
        self.shape, self.torch_dtype, self.device = (n, n), torch.float64, d.device
        self.symmetric = self.psd = True
        # F is float32 at times, but what it holds is used as it is, exactly: half the memory, no harm
        self._inner = _factorise(self._sandwich())

    def _chunks(self) -> list[slice]:
        n, rank = self.shape[0], max(1, self.low_rank.factor.shape[0])
        step = max(1, (1 << 22) // rank)
        return [slice(i, min(n, i + step)) for i in range(0, n, step)]

    def _sandwich(self) -> Tensor:
        """I + F d^-1 F'."""
        F, d = self.low_rank.factor, self.d
        total = torch.eye(F.shape[0], dtype=torch.float64, device=d.device)
        for c in self._chunks():
            part = F[:, c].double() / d[c].sqrt()
            total += part @ part.T
        return total

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        F, d = self.low_rank.factor, self.d
        scaled = b / d.unsqueeze(-1)
        small = b.new_zeros((*b.shape[:-2], F.shape[0], b.shape[-1]))
        for c in self._chunks():
            small = small + F[:, c].double() @ scaled[..., c, :]
        small = self._inner @ (self._inner.T @ small)
        out = torch.empty_like(scaled)
        for c in self._chunks():
            out[..., c, :] = scaled[..., c, :] - (F[:, c].double().T @ small) / d[c].unsqueeze(-1)
        return out

    def _transpose(self) -> LowRankInverse:
        return self

    def _entries(self, idx: Tensor) -> Tensor:
        """The rows of F' S with S S' the inverse of I + F d^-1 F', divided by d."""
        return (self.low_rank.factor[:, idx].double().T @ self._inner) / self.d[idx].unsqueeze(-1)

    def _diag(self) -> Tensor:
        everything = torch.arange(self.shape[0], device=self.device)
        return 1.0 / self.d - self._entries(everything).square().sum(-1)

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        cols = torch.arange(self.shape[0], device=self.device) if cols is None else cols
        straight = (idx.unsqueeze(-1) == cols) / self.d[idx].unsqueeze(-1)
        return straight - self._entries(idx) @ self._entries(cols).T

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.low_rank.factor, self.d)

    def with_tensors(self, tensors: Sequence[Tensor]) -> LowRankInverse:
        """See `LinearOperator.with_tensors`."""
        old = self.low_rank
        return LowRankInverse(LowRank(tensors[0], old.pivots, old.trace, old.trace_error), tensors[1])


def _factorise(M: Tensor) -> Tensor:
    """S with S S' = M^-1 for M = I + something positive semi-definite."""
    L, info = torch.linalg.cholesky_ex(M)
    if int(info) == 0:
        return torch.linalg.solve_triangular(
            L.mT, torch.eye(M.shape[0], dtype=M.dtype, device=M.device), upper=True
        )
    # rounding of huge entries has hidden the I; no eigenvalue can be below one
    values, vectors = torch.linalg.eigh(M)
    return vectors / values.clamp_min(1.0).sqrt()

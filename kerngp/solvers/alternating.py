"""Alternating projection: exact solves in the blocks of a fixed partition, the worst block first.

    r = b
    repeat
        B = the block with the largest |r_B|                    Gauss-Southwell
        u = (A_BB)^-1 r_B                                       Cholesky factors are kept
        x_B = x_B + u,  r = r - A[:, B] u

(Wu, Wenger, Jones, Pleiss, Gardner, AISTATS 2024.) A block costs as many entries as it has rows of the
matrix; the residual is known all the time. Each step minimises the energy exactly, so nothing can diverge.
The first pass brings a good model; what blocks do not see of each other is then slow to come, so that a few
passes make a good start for conjugate gradients. Blocks of strongly correlated rows leave the least to that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .. import options as _options
from .block_descent import Failure, Scheme, block_factor, check_count, check_limits, default_block, descend
from .operator import LinearOperator, cast
from .partition import local_blocks
from .solution import Progress, Solution

Tensor = torch.Tensor


@dataclass(frozen=True)
class AlternatingProjection:
    """Alternating projection, for symmetric positive definite operators of any size.

    Parameters
    ----------
    tol : float
        On |b - A x| / |b|, for every column.
    max_passes : float
        Most passes over the matrix; the residual computed at the end, and every ``refresh`` passes,
        comes on top.
    block : int, optional
        Most rows of a block. Default: as many as can be factorised in the time of some products with
        the whole matrix, since factors are kept.
    local : bool
        Blocks are made of strongly correlated rows; otherwise they are contiguous.
    time_limit : float, optional
        Seconds.
    refresh : float
        Passes between two computations of the true residual.
    patience : float
        Passes without any progress after which a column counts as stagnated.
    random_state : int
        Seed of the partition.

    Examples
    --------
    Two passes as the start of conjugate gradients:

    >>> import torch
    >>> from kerngp.solvers import Dense, identity, solve
    >>> x = torch.linspace(0, 9, 300, dtype=torch.float64)
    >>> A = Dense(torch.exp(-(x[:, None] - x).abs()), psd=True) + 0.1 * identity(300)
    >>> start = solve(A, x.sin(), AlternatingProjection(max_passes=2, block=100), on_fail="ignore").x
    >>> solve(A, x.sin(), x0=start).converged
    True
    """

    tol: float = 1e-4
    max_passes: float = 200
    block: int | None = None
    local: bool = True
    time_limit: float | None = None
    refresh: float = 10
    patience: float = 100
    random_state: int = 0

    def __post_init__(self) -> None:
        check_limits(self)
        check_count("block", self.block)

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
            "AlternatingProjection",
            self,
            A,
            b,
            make=lambda A, residual: _Projections(self, A, residual),
            preconditioner=preconditioner,
            x0=x0,
            callback=callback,
        )


class _Projections(Scheme):
    def __init__(self, method: AlternatingProjection, A: LinearOperator, residual: Tensor):
        n = A.shape[-1]
        size = method.block or max(1, min(n, 2 * default_block(n)))
        if method.local:
            generator = torch.Generator().manual_seed(method.random_state)
            self.blocks = local_blocks(A, size, generator)
        else:
            self.blocks = list(torch.arange(n, device=A.device).split(size))
        self.owner = torch.empty(n, dtype=torch.int64, device=A.device)
        for k, rows in enumerate(self.blocks):
            self.owner[rows] = k
        self.A, self.exact = A, cast(A, torch.float64)
        self.share = 1 / len(self.blocks)
        self.description = f"{len(self.blocks)} blocks of at most {size}"
        self.factors: dict[int, Tensor] = {}
        self.room = _options.current().memory_limit // 4  # bytes for factors; others are computed anew
        self.size = residual.norm(dim=0)
        self.R, self.X = residual.clone(), torch.zeros_like(residual)

    def step(self) -> Tensor | None:
        """Solve in the worst block."""
        k = self._worst()
        rows, L = self.blocks[k], self._factor(k)
        if isinstance(L, Failure):
            self.failure = L
            return None
        u = torch.cholesky_solve(self.R[rows], L)
        self.X[rows] += u
        self.R -= self.A.submatrix(None, rows).matmul(u.to(self.A.torch_dtype)).double()
        return self.R.norm(dim=0)

    def _worst(self) -> int:
        weight = (self.R / self.size).square().sum(1)
        return int(weight.new_zeros(len(self.blocks)).index_add(0, self.owner, weight).argmax())

    def _factor(self, k: int) -> Tensor | Failure:
        if k in self.factors:
            return self.factors[k]
        L = block_factor(self.exact, self.blocks[k])
        if isinstance(L, Tensor) and 8 * L.numel() <= self.room:
            self.factors[k] = L
            self.room -= 8 * L.numel()
        return L

    def offset(self) -> Tensor:
        """What the projections have added."""
        return self.X

    def recentre(self, residual: Tensor, keep: Tensor) -> None:
        """The residual, free of rounding, takes the place of the one at hand."""
        self.R, self.X, self.size = residual.clone(), torch.zeros_like(residual), self.size[keep]

    restart = recentre

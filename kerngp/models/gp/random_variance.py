"""Posterior variances of many points from what is prepared once: subspaces, and random vectors for the rest.

For a basis W with W' A W = I the part |W'k|^2 of k' A^-1 k is known exactly. W spans the range of a randomly
pivoted Cholesky factor, the same for all points: what is smooth. To it come, for each point, the unit
vectors of its nearest rows J, made orthogonal to W: E = e_J - W (A W)_J'. With r = k - A W W'k,

    |W'k|^2 + r_J' S^-1 r_J,     S = E' A E = A_JJ - (A W)_J (A W)_J'

is the most that any x in the span of both can explain, so variances from it are never too small. (Sang and
Huang, 2012, add local to common terms likewise.) What is left is the square length q' A^-1 q of
q = r - A E S^-1 r_J. With vectors u ~ N(0, A^-1), which are solves A u = g for g ~ N(0, A),

    q' A^-1 q = expectation of (q'u)^2,     q'u = k'u - (W'k)' W'Au - r_J' S^-1 ((Au)_J - (A W)_J W'Au)

(Papandreou and Yuille, 2011). So the estimate is unbiased, and its error is sqrt(2 / s) of what both
subspaces have missed. All points together cost one pass with the columns of W and u, one for their nearest
rows, and small factorisations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...engine.entries import entries
from ...engine.expr import Vj, variables
from ...engine.mapreduce import map_reduce
from ...engine.reductions import KMIN_ARGKMIN
from ...options import current
from ...solvers import KernelOperator, LinearOperator, RPCholesky, Solution
from ...solvers.functions import sample
from ...solvers.preconditioners.low_rank import LowRankInverse

Tensor = torch.Tensor

RANK = 256
VECTORS = 64
NEAREST = 24


@dataclass(frozen=True)
class RandomVariance:
    """The quadratic form k' A^-1 k for any k, from products with k and some of its entries.

    Attributes
    ----------
    A : LinearOperator of shape (n, n)
    basis : Tensor of shape (n, r), float64
        W.
    image : Tensor of shape (n, r)
        A W.
    vectors : Tensor of shape (n, s), float64
        u.
    noise : Tensor of shape (n, s)
        A u.
    truncation : float
        Relative error of u, as samples and solves report it.
    """

    A: LinearOperator
    basis: Tensor
    image: Tensor
    vectors: Tensor
    noise: Tensor
    truncation: float

    @classmethod
    def prepare(
        cls,
        A: LinearOperator,
        preconditioner: LinearOperator | None,
        weigh: Callable[[Tensor], Solution],
        tol: float,
        seed: int,
    ) -> RandomVariance:
        """Basis and vectors for A.

        Parameters
        ----------
        A : AddedDiagonal
            With a positive diagonal.
        preconditioner : LinearOperator, optional
            Of A, for the samples.
        weigh : callable
            A^-1 on columns.
        tol : float
            Relative error of the samples.
        seed : int
        """
        n = A.shape[-1]
        fits = max(16, current().memory_limit // (12 * 8 * n))
        low_rank = RPCholesky(min(RANK, n, fits), random_state=seed).build(A)
        assert isinstance(low_rank, LowRankInverse)
        Q = torch.linalg.qr(low_rank.low_rank.factor.double().T).Q
        AQ = A.matmul(Q, exact=True)
        L = torch.linalg.cholesky(Q.T @ AQ)
        W, AW = (torch.linalg.solve_triangular(L, B.T, upper=False).T for B in (Q, AQ))
        g = sample(A, VECTORS, preconditioner=preconditioner or low_rank, tol=tol, random_state=seed)
        solved = weigh(g.value)
        known = solved.report.certificate
        error = float(g.error.max()) + (0.0 if known is None else float(known.error.max()) / n**0.5)
        return cls(A, W, AW, solved.x, A.matmul(solved.x, exact=True), error)

    @property
    def description(self) -> str:
        """For people."""
        near, (r, s) = min(NEAREST, len(self.basis)), (self.basis.shape[1], self.vectors.shape[1])
        return f"a subspace of rank {r}, {near} nearest rows and {s} random vectors"

    def explained(self, K: KernelOperator) -> tuple[Tensor, Tensor]:
        """k' A^-1 k for every row k of K, and its standard error; both of shape (m,), float64."""
        r, n = self.basis.shape[1], len(self.basis)
        both = torch.cat([self.basis, self.vectors], -1)
        products = K.matmul(both.to(K.torch_dtype)).double()
        near = nearest(K, self.A.diag(), min(NEAREST, n))
        step = max(1, current().memory_limit // (4 * 8 * near.shape[1] * both.shape[1]))
        seen = self.basis.T @ self.noise
        parts = []
        for rows in torch.arange(len(near), device=near.device).split(step):
            J, inside = near[rows], products[rows, :r]
            local, moved = self._local(K, rows, J, inside, seen)
            rest = (products[rows, r:] - inside @ seen - moved).square().mean(-1)
            parts.append((inside.square().sum(-1) + local, rest))
        known, rest = (torch.cat(p) for p in zip(*parts, strict=True))
        relative = (2.0 / self.vectors.shape[1] + (2.0 * self.truncation) ** 2) ** 0.5
        return known + rest, relative * rest + 10 * torch.finfo(K.torch_dtype).eps * known

    def _local(
        self, K: KernelOperator, rows: Tensor, J: Tensor, inside: Tensor, seen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """r_J' S^-1 r_J, shape (m,), and r_J' S^-1 E'Au, shape (m, s)."""
        AW = self.image[J]
        S = self.A.submatrices(J, exact=True) - AW @ AW.mT
        r = entries_at(K, rows, J) - (AW @ inside.unsqueeze(-1)).squeeze(-1)
        # S is at least the noise; rounding of its two terms can be more than that
        S = S + 1e-14 * self.A.diag().double().max() * torch.eye(J.shape[1]).to(S)
        c = torch.linalg.solve(S, r.unsqueeze(-1)).squeeze(-1)
        Au = self.noise[J] - AW @ seen
        return (r * c).sum(-1), (c.unsqueeze(-2) @ Au).squeeze(-2)


def nearest(K: KernelOperator, diagonal: Tensor, count: int) -> Tensor:
    """The columns j of the largest |k_ij| / sqrt(diagonal_j) in every row, shape (m, count), int64."""
    scale = diagonal.to(K.torch_dtype).rsqrt().unsqueeze(-1)
    near = -abs(K.formula) * Vj(len(K.args), 1)
    found = map_reduce(near, KMIN_ARGKMIN(count), (*K.args, scale), sizes=K.sizes)
    return found[1].squeeze(-1).long()


def entries_at(K: KernelOperator, rows: Tensor, J: Tensor) -> Tensor:
    """The entries of some rows at columns of their own, shape (m, p), float64."""
    axis = {v.attr[0]: v.attr[2] for v in variables(K.formula)}
    pick = {"i": lambda a: a[rows].unsqueeze(-2), "j": lambda a: a[J], "p": lambda a: a}
    args = [pick[axis.get(k, "p")](a).double() for k, a in enumerate(K.args)]
    return entries(K.formula, args, sizes=(1, J.shape[1]))[..., 0, :, 0]

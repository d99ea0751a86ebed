"""Posterior variances of many points from what is prepared once: a subspace, and random vectors for the rest.

For a basis W with W' A W = I the part k'W W'k of k' A^-1 k is known exactly. What is left is the square
length r' A^-1 r of r = k - A W W'k, and with vectors u ~ N(0, A^-1), which are solves A u = g for g ~ N(0, A),

    r' A^-1 r = expectation of (r'u)^2,     r'u = k'u - (W'k)'(W'A u)

So the estimate is unbiased, its error is sqrt(2 / s) of the part that W has missed, and all points together
cost one pass with the columns of W and u. W spans the range of a randomly pivoted Cholesky factor.
(The random part is that of Papandreou and Yuille, 2011; a subspace as control variate makes it sharp.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...options import current
from ...solvers import LinearOperator, RPCholesky, Solution
from ...solvers.functions import sample
from ...solvers.preconditioners.low_rank import LowRankInverse

Tensor = torch.Tensor

RANK = 256
VECTORS = 64


@dataclass(frozen=True)
class RandomVariance:
    """The quadratic form k' A^-1 k for any k, from products with k alone.

    Attributes
    ----------
    basis : Tensor of shape (n, r), float64
        W.
    vectors : Tensor of shape (n, s), float64
        u.
    seen : Tensor of shape (r, s)
        W'A u.
    truncation : float
        Relative error of u, as samples and solves report it.
    """

    basis: Tensor
    vectors: Tensor
    seen: Tensor
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
        fits = max(16, current().memory_limit // (8 * 8 * n))
        recipe = RPCholesky(min(RANK, n, fits), random_state=seed)
        low_rank = recipe.build(A)
        assert isinstance(low_rank, LowRankInverse)
        Q = torch.linalg.qr(low_rank.low_rank.factor.double().T).Q
        L = torch.linalg.cholesky(Q.T @ A.matmul(Q, exact=True))
        W = torch.linalg.solve_triangular(L, Q.T, upper=False).T
        g = sample(A, VECTORS, preconditioner=preconditioner or low_rank, tol=tol, random_state=seed)
        solved = weigh(g.value)
        known = solved.report.certificate
        error = float(g.error.max()) + (0.0 if known is None else float(known.error.max()) / n**0.5)
        return cls(W, solved.x, W.T @ A.matmul(solved.x, exact=True), error)

    @property
    def description(self) -> str:
        """For people."""
        return f"a subspace of rank {self.basis.shape[1]} and {self.vectors.shape[1]} random vectors"

    def explained(self, K: LinearOperator) -> tuple[Tensor, Tensor]:
        """k' A^-1 k for every row k of K, and its standard error; both of shape (m,), float64."""
        r, s = self.basis.shape[1], self.vectors.shape[1]
        both = torch.cat([self.basis, self.vectors], -1)
        products = K.matmul(both.to(K.torch_dtype)).double()
        inside = products[:, :r]
        rest = (products[:, r:] - inside @ self.seen).square().mean(-1)
        known = inside.square().sum(-1)
        relative = (2.0 / s + (2.0 * self.truncation) ** 2) ** 0.5
        return known + rest, relative * rest + 10 * torch.finfo(K.torch_dtype).eps * known

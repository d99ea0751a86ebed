"""The Nystrom approximation from a random sketch: low rank where there are products only.

    G = n x r standard normal numbers, Q R = G          (Q: orthonormal columns)
    Y = K Q                                             r products, in one pass
    nu = eps sqrt(n) |Y|_F;  Y = Y + nu Q               so that rounding cannot make the core indefinite
    C C' = Q' Y;  B = Y C'^-1;  B = U S V'
    F'F = U max(S^2 - nu, 0) U'

(Frangella, Tropp, Udell, 2021; the shift is that of Tropp, Yurtsever, Udell, Cevher, 2017). In exact
arithmetic F'F <= K + nu. It is as good as randomly pivoted Cholesky of the same rank, and costs a pass
with r columns where that costs r rows: for sums, products and functions of matrices, whose rows
are no cheaper than all of them. The rank can be found by the way: sketches are doubled, and the new
half of each, before it is used, tells how good the approximation by the old half is (Halko,
Martinsson, Tropp, 2011).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ... import options as _options
from ...errors import OptionError, ShapeError, SolveError
from ..checks import require_square
from ..operator import LinearOperator
from .low_rank import LowRank, LowRankInverse, split
from .rpcholesky import default_rank

Tensor = torch.Tensor
WITNESSES = 10  # columns that judge an approximation: right with probability 1 - 10^-10


@dataclass(frozen=True)
class Nystrom:
    """Nystrom approximation from a Gaussian sketch: a recipe for a preconditioner of K + diag(alpha).

    Parameters
    ----------
    rank : int, optional
        Columns of the sketch; with ``tol`` those of the first one. Default: 2 sqrt(n), at least 100.
    tol : float, optional
        Double the sketch until the norm of K - F'F is, almost certainly, at most ``tol`` times the
        least alpha: the condition number that is left is then at most 1 + tol. 10 is a good value.
    max_rank : int, optional
        Where doubling ends at the latest. Default: what a quarter of ``options.memory_limit`` holds.
    random_state : int

    Examples
    --------
    >>> from kerngp.solvers import CG, Dense, identity, solve
    >>> x = torch.linspace(0, 1, 200, dtype=torch.float64)
    >>> A = Dense(torch.exp(-((x[:, None] - x) ** 2)), psd=True) + 1e-6 * identity(200)
    >>> solve(A, x.sin(), CG(), preconditioner=Nystrom(20)).iterations < 6
    True
    """

    rank: int | None = None
    tol: float | None = None
    max_rank: int | None = None
    random_state: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "max_rank"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise OptionError(f"{name}={value!r}: expected a positive integer.")
        if self.tol is not None and not self.tol > 0:
            raise OptionError(f"tol={self.tol!r}: expected a positive number, such as 10.")

    def build(self, A: LinearOperator) -> LowRankInverse:
        """The operator (F'F + diag(alpha))^-1 for A = K + diag(alpha).

        Raises
        ------
        ShapeError
            If A has a batch or is not square.
        OptionError
            If A is not of that form with a positive alpha: without it the approximation is singular.
        SolveError
            If a product holds NaN or infinity.
        """
        K, d = split(A, "Nystrom")
        low, sketched = self._approximate(K, float(d.min()))
        again = replace(self, rank=sketched, tol=None)
        renew = lambda old, K: again.approximate(K)  # noqa: E731
        return LowRankInverse(low, d, name="Nystrom", renew=renew, base=K)

    def approximate(self, K: LinearOperator) -> LowRank:
        """F with K ~ F'F, float64, from ``rank`` columns.

        Its traces are estimates, and it has no pivots.

        Parameters
        ----------
        K : LinearOperator of shape (n, n), positive semi-definite

        Raises
        ------
        ShapeError
            If K has a batch or is not square.
        """
        return self._approximate(K, None)[0]

    def _approximate(self, K: LinearOperator, alpha: float | None) -> tuple[LowRank, int]:
        """The approximation, and how many columns were sketched."""
        require_square(K, "Nystrom")
        if len(K.shape) != 2:
            raise ShapeError(f"Nystrom works on one matrix; the operator has shape {K.shape}.")
        n, limit = K.shape[-1], _options.current().memory_limit
        rank = min(n, self.rank or default_rank(n, limit))
        most = min(n, self.max_rank or max(rank, limit // 4 // (8 * max(1, n))))
        generator = torch.Generator().manual_seed(self.random_state)
        with torch.no_grad():
            sketch = _Sketch.empty(K).grow(K, rank, generator)
            while self.tol is not None and alpha is not None and sketch.size < most:
                old, low = sketch, sketch.low_rank(K)
                sketch = sketch.grow(K, min(sketch.size, most - sketch.size), generator)
                if sketch.error_of(low, old.size) <= self.tol * alpha:
                    break
            return sketch.low_rank(K), sketch.size


@dataclass(frozen=True)
class _Sketch:
    """Orthonormal columns Q, Y = K Q, and R with Q R = G the normal numbers drawn."""

    Q: Tensor
    Y: Tensor
    R: Tensor

    @staticmethod
    def empty(K: LinearOperator) -> _Sketch:
        nothing = torch.zeros((K.shape[-1], 0), dtype=torch.float64, device=K.device)
        return _Sketch(nothing, nothing, nothing[:0])

    @property
    def size(self) -> int:
        return self.Q.shape[1]

    def grow(self, K: LinearOperator, more: int, generator: torch.Generator) -> _Sketch:
        """With ``more`` further columns."""
        G = torch.randn(len(self.Q), more, generator=generator, dtype=torch.float64).to(self.Q)
        rest, known = G, self.R.new_zeros((self.size, more))
        for _ in range(2):  # once loses digits where little is left
            part = self.Q.T @ rest
            rest, known = rest - self.Q @ part, known + part
        Q, corner = torch.linalg.qr(rest)
        Y = K.matmul(Q.to(K.torch_dtype)).double()
        if not bool(torch.isfinite(Y).all()):
            raise SolveError("Nystrom: a product holds NaN or infinity; check the data and the parameters.")
        return _Sketch(torch.cat([self.Q, Q], 1), torch.cat([self.Y, Y], 1), torch.cat([known, corner]))

    def low_rank(self, K: LinearOperator) -> LowRank:
        n, r = self.Q.shape
        if not n or not float(self.Y.norm()):
            return LowRank(self.Y.T[:0], torch.zeros(0, dtype=torch.int64, device=K.device), 0.0, 0.0, 0.0)
        eps = max(torch.finfo(K.torch_dtype).eps, torch.finfo(torch.float64).eps)
        nu = eps * math.sqrt(n) * float(self.Y.norm())
        Y = self.Y + nu * self.Q
        core = self.Q.T @ Y
        values, vectors = torch.linalg.eigh(0.5 * (core + core.T))
        B = Y @ (vectors / values.clamp_min(nu).sqrt())
        U, S, _ = torch.linalg.svd(B, full_matrices=False)
        kept = S.square() > 2 * nu
        F = ((S.square() - nu).clamp_min(0).sqrt() * U)[:, kept].T.contiguous()
        trace = n / r * float((self.Q * self.Y).sum())  # Q is uniform, so that this is right on average
        none = torch.zeros(0, dtype=torch.int64, device=K.device)
        left = max(0.0, trace - float(F.square().sum()))
        # what F'F may exceed K by: the shift, and rounded products, twice, since K Q may be off by nu
        return LowRank(F, none, trace, left, math.sqrt(4 * nu))

    def error_of(self, low: LowRank, old: int) -> float:
        """An upper bound of |K - F'F| that is wrong once in 10^10, from columns it has not seen."""
        R = self.R[:, -min(WITNESSES, self.size - old) :]
        E = self.Y @ R - low.factor.T @ (low.factor @ (self.Q @ R))
        return 10 * math.sqrt(2 / math.pi) * float(E.norm(dim=0).max())

"""The distribution of a statistic tr(A P B P') over all permutations P, for centred A and B.

Its mean and variance are known exactly. Both tests of this package have such statistics: the squared maximum
mean discrepancy, where B is the matrix aa' of labels, and the Hilbert-Schmidt independence criterion.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import stats

from ...engine.autodiff import rename
from ...engine.expr import Expr, Pm, Vi, Vj
from ...engine.mapreduce import map_reduce
from ...engine.ops import concat, square
from ...engine.reductions import SUM
from ...solvers import KernelOperator

Tensor = torch.Tensor


@dataclass(frozen=True)
class Invariants:
    """What the moments need to know of a centred matrix A.

    Attributes
    ----------
    n : int
        Rows.
    trace : float
        Sum of a_ii.
    squares : float
        Sum of a_ij^2 over all i and j.
    diagonal_squares : float
        Sum of a_ii^2.
    """

    n: int
    trace: float
    squares: float
    diagonal_squares: float

    def _skewed(self) -> float:
        n = self.n
        return n * (n + 1) * self.diagonal_squares - (n - 1) * (self.trace**2 + 2 * self.squares)


def permutation_moments(a: Invariants, b: Invariants) -> tuple[float, float]:
    """Mean and variance of tr(A P B P') over all permutations, n >= 4.

    References
    ----------
    Kazi-Aoual, Hitier, Sabatier and Lebreton, Refined approximations to permutation tests for multivariate
    inference, 1995, section 3.
    """
    n = a.n
    mean = a.trace * b.trace / (n - 1)
    spread = ((n - 1) * a.squares - a.trace**2) * ((n - 1) * b.squares - b.trace**2)
    variance = 2 * spread / ((n - 1) ** 2 * (n + 1) * (n - 2))
    variance += a._skewed() * b._skewed() / ((n + 1) * n * (n - 1) * (n - 2) * (n - 3))
    return mean, max(variance, 0.0)


def gamma_pvalue(statistic: float, mean: float, variance: float) -> float:
    """The chance of a Gamma variable with these moments to be at least ``statistic``."""
    if variance <= 1e-28 * max(mean, abs(statistic)) ** 2 or mean <= 0:
        return 1.0  # every permutation gives the same
    return float(stats.gamma.sf(statistic, mean**2 / variance, scale=variance / mean))


@dataclass(frozen=True)
class CentredKernel:
    """H K H as a formula, with what was needed for it. All tensors are float64.

    Attributes
    ----------
    formula : Expr
        Of a pair of points.
    args : tuple of Tensor
    diagonal, centred_diagonal : Tensor of shape (n,)
        Of K, and of H K H.
    sums : Tensor of shape (n,)
        Of the rows of K.
    """

    formula: Expr
    args: tuple[Tensor, ...]
    diagonal: Tensor
    centred_diagonal: Tensor
    sums: Tensor

    @staticmethod
    def of(K: KernelOperator) -> CentredKernel:
        """One pass."""
        n, k = K.shape[-1], len(K.args)
        sums = K @ torch.ones(n, dtype=K.torch_dtype, device=K.device)
        means = sums / n
        total = means.mean()
        diagonal = K.diag()
        formula = K.formula - Vi(k, 1) - Vj(k + 1, 1) + Pm(k + 2, 1)
        column = means[:, None]
        args = (*K.args, column, column, total.reshape(1))
        return CentredKernel(formula, args, diagonal, diagonal - 2 * means + total, sums)

    def shifted(self, by: int) -> Expr:
        """The formula with its arguments ``by`` places further on."""
        return rename(self.formula, {i: i + by for i in range(len(self.args))})

    def invariants(self, squares: float) -> Invariants:
        """With the sum of squares, which takes another pass."""
        d = self.centred_diagonal
        return Invariants(len(d), float(d.sum()), squares, float(d.square().sum()))

    def squares(self) -> float:
        """The sum of squares of all entries: one pass."""
        n = len(self.diagonal)
        out = map_reduce(square(self.formula), SUM, self.args, sizes=(n, n))
        assert isinstance(out, Tensor)
        return float(out.sum())


def product_sums(a: CentredKernel, b: CentredKernel) -> Tensor:
    """The sums over j of a_ij b_ij, a_ij^2 and b_ij^2: one pass, shape (n, 3)."""
    n, f, g = len(a.diagonal), a.formula, b.shifted(len(a.args))
    out = map_reduce(concat(f * g, square(f), square(g)), SUM, (*a.args, *b.args), sizes=(n, n))
    assert isinstance(out, Tensor)
    return out

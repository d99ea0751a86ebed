"""Functions f = sum_m c_m k(., z_m) on centres z, and Newton's steps for them: Newton-Falkon.

In the coordinates u = T c, with Kmm = T' T, f = Phi u for Phi = Knm T^-1, and |f|^2 = |u|^2. Newton's step is

    (Phi' W Phi + alpha I) du = Phi' r - alpha u.

It is solved by conjugate gradients, whose products are two passes over the pairs of rows and centres, with
the preconditioner of a sample of rows: one weight a row, the mean of the eigenvalues of its W (Marteau-Ferey,
Bach and Rudi, Globally convergent Newton methods for ill-conditioned generalized self-concordant losses,
2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...errors import SolveError
from ...options import current
from ...solvers import CG, LinearOperator, Progress, Status
from ...solvers.inducing.factors import Whitening, independent, upper, whiten
from ...solvers.inducing.plan import block_numbers
from ...solvers.inducing.preconditioner import Rows, estimate
from ...solvers.operator import cast
from ..kernel_base import Kernel
from ..kernel_matrix import kernel_matrix
from ..likelihoods import Curvature
from ..newton import Space, Step

Tensor = torch.Tensor

MOST = 500  # iterations of conjugate gradients in one step


@dataclass(frozen=True)
class InducingSpace(Space):
    """Coordinates u of shape (m, C).

    Attributes
    ----------
    K : LinearOperator of shape (n, m)
    T : Tensor of shape (m, m)
        Upper triangular, float64.
    centers : Tensor of shape (m, D)
        Those that the others do not determine.
    seed : int
        Of the sample.
    """

    K: LinearOperator
    T: Tensor
    centers: Tensor
    seed: int

    @staticmethod
    def of(kernel: Kernel, X: Tensor, centers: Tensor, seed: int) -> InducingSpace:
        """With the factor of the matrix of the centres.

        Raises
        ------
        SolveError
            If the kernel is not finite there, or vanishes.
        """
        level = 1e-6 if X.dtype != torch.float64 else 1e-12
        Z = centers.double()
        found = independent(kernel_matrix(kernel, Z, Z), level)
        if found is None or not len(found[1]):
            raise SolveError(
                "the kernel matrix of the centers is not finite, or zero; check the kernel's parameters, or "
                "scale the columns of X."
            )
        T, keep = found
        Z = centers[keep]
        return InducingSpace(kernel_matrix(kernel, X, Z), T, Z, seed)

    def coefficients(self, u: Tensor) -> Tensor:
        """c = T^-1 u."""
        return upper(self.T, u)

    def values(self, u: Tensor) -> Tensor:
        """f = Phi u, with products in float64."""
        return self.K.matmul(self.coefficients(u), exact=True)

    def inner(self, c: Tensor, f: Tensor, d: Tensor, g: Tensor) -> float:
        """See `Space.inner`."""
        return float((c * d).sum())

    def step(self, c: Tensor, f: Tensor, at: Curvature, alpha: float, tol: float) -> Step:
        """See `Space.step`."""
        g = upper(self.T, self.K.T.matmul(at.residual, exact=True), transposed=True) - alpha * c
        numbers = block_numbers(current().memory_limit)
        rows = Rows(cast(self.K, torch.float64), at.mean, numbers, _go_on)
        S = estimate("sampled", rows, self.T, self.seed, torch.float64)
        if not bool(torch.isfinite(S.diagonal()).all()):
            raise SolveError("the kernel is not finite for these data: check its parameters, or scale X.")
        whitened = Whitened(self, at, alpha, whiten(S, torch.tensor(alpha, dtype=torch.float64)))
        found = CG(tol, MOST).run(whitened, whitened.into(g))
        if found.status is Status.nan:
            raise SolveError(f"a step of Newton's iteration has no value: {found.message}")
        du = whitened.C.solve(found.x.reshape(c.shape))
        df = self.values(du)
        return Step(du, df, max(float((g * du).sum()), 0.0), found.iterations)


class Whitened(LinearOperator):
    """C^-T (Phi' W Phi + alpha I) C^-1 on vectors (m, C), one row after the other.

    Parameters
    ----------
    space : InducingSpace
    at : Curvature
    alpha : float
    C : Whitening
        With C' C close to the matrix between.
    """

    def __init__(self, space: InducingSpace, at: Curvature, alpha: float, C: Whitening):
        self.space, self.at, self.alpha, self.C = space, at, alpha, C
        size = len(space.T) * at.root.shape[1]
        self.shape, self.torch_dtype, self.device = (size, size), space.K.torch_dtype, space.K.device
        self.symmetric = self.psd = True

    @property
    def entries(self) -> float:
        """Of two passes."""
        return 2.0 * self.space.K.entries

    def into(self, g: Tensor) -> Tensor:
        """C^-T g as one column."""
        return self.C.adjoint(g).reshape(-1, 1)

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        if b.shape[-1] != 1:
            return torch.cat([self._matmul(column, exact) for column in b.split(1, -1)], -1)
        K, T = self.space.K, self.space.T
        u = self.C.solve(b.reshape(len(T), -1).double())
        f = K._matmul(upper(T, u).to(b.dtype), exact).double()
        back = K.T._matmul(self.at(f).to(b.dtype), exact).double()
        return self.into(upper(T, back, transposed=True) + self.alpha * u).to(b.dtype)

    def _transpose(self) -> Whitened:
        return self

    def _diag(self) -> Tensor:
        return self.dense().diagonal()

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        unit = torch.zeros((self.shape[0], len(idx)), dtype=self.torch_dtype, device=self.device)
        unit[idx, torch.arange(len(idx), device=self.device)] = 1.0
        rows = self._matmul(unit, False).mT
        return rows if cols is None else rows[:, cols]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.space.K.tensors

    def with_tensors(self, tensors: object) -> Whitened:
        """See `LinearOperator.with_tensors`; factors and curvature are float64 always."""
        K = self.space.K.with_tensors(list(tensors))  # type: ignore[call-overload]
        space = InducingSpace(K, self.space.T, self.space.centers, self.space.seed)
        return Whitened(space, self.at, self.alpha, self.C)


def _go_on(progress: Progress) -> None:
    """The preparation of one step is short."""

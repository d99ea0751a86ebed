"""Functions f = K a with a coefficient for every row, and Newton's steps for them without K in memory.

The gradient of loss + alpha / 2 a'K a by f is r - alpha a, negated, with r the residual of the likelihood;
Newton's step for the curvature W = Q Q' is

    da = (r_a - Q B^-1 Q' K r_a) / alpha,   B = alpha I + Q' K Q,   r_a = r - alpha a.

B is solved by conjugate gradients, preconditioned by its inverse for a low rank F'F ~ K in the place of K:

    B^-1 ~ (I - Q' F' H^-1 F Q) / alpha,   H = alpha I + F W F'                       (Woodbury)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import SolveError
from ..solvers import CG, LinearOperator, RPCholesky, Status
from ..solvers.operator import AddedDiagonal
from .likelihoods import Curvature
from .newton import Space, Step

Tensor = torch.Tensor

MOST = 1000  # iterations of conjugate gradients in one step
TRIES = 5
SHARPER = 0.03
CORE = 2000  # rows of H where it couples the classes
BLOCK = 1 << 22  # numbers of F that are scaled at a time


@dataclass(frozen=True)
class DualSpace(Space):
    """Coefficients a of shape (n, C).

    Attributes
    ----------
    K : LinearOperator of shape (n, n)
        White noise may be on its diagonal.
    factor : Tensor of shape (rank, n) or None
        F; None for no preconditioner.
    """

    K: LinearOperator
    factor: Tensor | None

    @staticmethod
    def of(K: LinearOperator, rank: int, seed: int) -> DualSpace:
        """With the factor of randomly pivoted Cholesky of that rank; 0 for none."""
        base = K.base if isinstance(K, AddedDiagonal) else K
        factor = RPCholesky(rank, random_state=seed).approximate(base).factor.double() if rank else None
        return DualSpace(K, factor)

    def values(self, c: Tensor) -> Tensor:
        """f = K c, with products in float64."""
        return self.K.matmul(c, exact=True)

    def inner(self, c: Tensor, f: Tensor, d: Tensor, g: Tensor) -> float:
        """See `Space.inner`: c' K d."""
        return float((c * g).sum())

    def step(self, c: Tensor, f: Tensor, at: Curvature, alpha: float, tol: float) -> Step:
        """See `Space.step`.

        For a small alpha the difference in da cancels, so that the error of what is solved for may exceed the
        step: then the solve goes on.
        """
        r = at.residual - alpha * c
        dual = DualNewton(self.K, at, alpha, self.factor)
        rhs, u, iterations = at.right(self.values(r)), None, 0
        for _ in range(TRIES):
            u, more = dual.solve(rhs, tol, u)
            iterations += more
            da = (r - at.left(u)) / alpha
            df = self.values(da)
            decrement = float((r * df).sum())
            length = alpha * self.inner(da, df, da, df) + float((df * at(df)).sum())
            if abs(length - decrement) <= 0.5 * abs(decrement) or decrement == 0.0:
                break
            tol = max(SHARPER * tol, 1e-14)
        return Step(da, df, max(decrement, 0.0), iterations)


class DualNewton(LinearOperator):
    """B = alpha I + Q' K Q on vectors (n, C), one row after the other.

    Parameters
    ----------
    K : LinearOperator of shape (n, n)
    at : Curvature
    alpha : float
    factor : Tensor of shape (rank, n), optional
    """

    def __init__(self, K: LinearOperator, at: Curvature, alpha: float, factor: Tensor | None):
        self.K, self.at, self.alpha, self.factor = K, at, alpha, factor
        self.shape = (at.root.numel(), at.root.numel())
        self.torch_dtype, self.device = K.torch_dtype, K.device
        self.symmetric = self.psd = True

    def solve(self, b: Tensor, tol: float, start: Tensor | None = None) -> tuple[Tensor, int]:
        """B^-1 b for b of shape (n, C), from ``start``, and how many iterations it took.

        Raises
        ------
        SolveError
            If a NaN appears.
        """
        M = None if self.factor is None else DualPreconditioner(self.at, self.alpha, self.factor)
        x0 = None if start is None else start.reshape(-1, 1)
        found = CG(tol, MOST).run(self, b.reshape(-1, 1), preconditioner=M, x0=x0)
        if found.status is Status.nan:
            raise SolveError(f"a step of Newton's iteration has no value: {found.message}")
        return found.x.reshape(b.shape), found.iterations

    @property
    def entries(self) -> float:
        """Columns share the entries of K."""
        return self.K.entries

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        if b.shape[-1] != 1:
            return torch.cat([self._matmul(column, exact) for column in b.split(1, -1)], -1)
        v = b.reshape(self.at.root.shape).double()
        product = self.K._matmul(self.at.left(v).to(b.dtype), exact).double()
        return (self.alpha * v + self.at.right(product)).reshape(-1, 1).to(b.dtype)

    def _transpose(self) -> DualNewton:
        return self

    def _diag(self) -> Tensor:
        k = self.K.diag().double().unsqueeze(-1)
        unit = 0.0 if self.at.unit is None else self.at.unit.square()
        # |(I - s s') e_c|^2 in the norm of diag(root^2)
        square = self.at.root.square()
        weight = (
            square
            if self.at.unit is None
            else (square * (1.0 - 2.0 * unit) + unit * (square * unit).sum(-1, keepdim=True))
        )
        return (self.alpha + k * weight).reshape(-1).to(self.torch_dtype)

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        unit = torch.zeros((self.shape[0], len(idx)), dtype=self.torch_dtype, device=self.device)
        unit[idx, torch.arange(len(idx), device=self.device)] = 1.0
        rows = self._matmul(unit, False).mT
        return rows if cols is None else rows[:, cols]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.K.tensors

    def with_tensors(self, tensors: object) -> DualNewton:
        """See `LinearOperator.with_tensors`; the curvature is float64 always."""
        return DualNewton(self.K.with_tensors(list(tensors)), self.at, self.alpha, self.factor)  # type: ignore[call-overload]


class DualPreconditioner(LinearOperator):
    """An approximate inverse of `DualNewton`, from F'F in the place of K: (I - Q' F' H^-1 F Q) / alpha.

    Parameters
    ----------
    at : Curvature
    alpha : float
    factor : Tensor of shape (rank, n)
        Where W is not diagonal, only the first `CORE` / C rows are used: H has a block for each pair of
        classes.
    """

    work = "preconditioner"

    def __init__(self, at: Curvature, alpha: float, factor: Tensor):
        columns = at.root.shape[1]
        kept = factor if at.unit is None else factor[: max(1, CORE // columns)]
        self.at, self.alpha, self.factor = at, alpha, kept.double()
        size = at.root.numel()
        self.shape, self.torch_dtype, self.device = (size, size), torch.float64, factor.device
        self.symmetric = self.psd = True
        self.inner = self._inner()

    def _inner(self) -> Tensor:
        """Cholesky factors of H = alpha I + F W F': one for each column of f, or one for all of them."""
        (rank, n), (root, unit) = self.factor.shape, (self.at.root.mT, self.at.unit)
        C, step = len(root), max(1, BLOCK // (len(root) * max(1, rank)))
        H = self.factor.new_zeros((C, rank, rank))
        mixed = None if unit is None else self.factor.new_zeros((C * rank, C * rank))
        for k in range(0, n, step):
            part = self.factor[:, k : k + step] * root[:, None, k : k + step]
            H += part @ part.mT
            if mixed is not None and unit is not None:
                both = (part * unit.mT[:, None, k : k + step]).flatten(0, 1)
                mixed += both @ both.mT
        H = H if mixed is None else (torch.block_diag(*H) - mixed).unsqueeze(0)
        H.diagonal(dim1=-2, dim2=-1).add_(self.alpha)
        L, info = torch.linalg.cholesky_ex(H)
        if bool((info != 0).any()):  # rounding of entries much larger than alpha
            values, V = torch.linalg.eigh(H)
            root = V * values.clamp_min(self.alpha).sqrt().unsqueeze(-2)
            L = torch.linalg.qr(root.mT).R.mT
        return L

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        if b.shape[-1] != 1:
            return torch.cat([self._matmul(column, exact) for column in b.split(1, -1)], -1)
        v = b.reshape(self.at.root.shape)
        small = (self.factor @ self.at.left(v)).mT.reshape(len(self.inner), -1, 1)
        small = torch.cholesky_solve(small, self.inner).reshape(v.shape[1], -1).mT
        return ((v - self.at.right(self.factor.mT @ small)) / self.alpha).reshape(-1, 1)

    def _transpose(self) -> DualPreconditioner:
        return self

    def _diag(self) -> Tensor:
        return self.dense().diagonal()

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        unit = torch.zeros((self.shape[0], len(idx)), dtype=torch.float64, device=self.device)
        unit[idx, torch.arange(len(idx), device=self.device)] = 1.0
        rows = self._matmul(unit, False).mT
        return rows if cols is None else rows[:, cols]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.factor, self.at.root)

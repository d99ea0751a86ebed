"""The direct solve: all entries in float64, one factorisation A = L L'."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from .. import options as _options
from ..errors import OptionError, ShapeError
from .cg import Callback
from .indefinite import alpha_for, least_from
from .operator import LinearOperator, cast
from .solution import Report, Solution, Status

Tensor = torch.Tensor


@dataclass(frozen=True)
class Cholesky:
    """Dense Cholesky factorisation, for symmetric positive definite operators of small size.

    Entries are computed and factorised in float64 whatever the operator's dtype. A matrix that is not
    positive definite to working precision ends with status ``indefinite`` and x = NaN; the report says how
    much it lacks on the diagonal, and nothing is ever added behind the caller's back. Needs 16 N^2 bytes
    and N^3 / 3 operations.

    Parameters
    ----------
    tol : float
        On |b - A x| / |b|, for every column, of x as it is returned. A solve that misses it, because the
        matrix is nearly singular or x was rounded to float32, ends with status ``stagnated``.

    Examples
    --------
    >>> import torch
    >>> from kerngp.solvers import Dense, solve
    >>> A = Dense(torch.tensor([[4.0, 2.0], [2.0, 3.0]]), psd=True)
    >>> solve(A, torch.tensor([6.0, 5.0]), Cholesky()).x
    tensor([1., 1.])
    """

    tol: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 < self.tol < 1:
            raise OptionError(f"tol={self.tol!r}: expected a number between 0 and 1, such as 1e-6.")

    def run(
        self,
        A: LinearOperator,
        b: Tensor,
        *,
        preconditioner: LinearOperator | None = None,
        x0: Tensor | None = None,
        callback: Callback | None = None,
    ) -> Solution:
        """Solve A x = b for b of shape (*batch, N, E); the keywords of iterative methods have no effect."""
        if not A.symmetric:
            raise ShapeError(
                f"Cholesky needs a symmetric operator, got {A!r}; declare it (symmetric=True) if it is."
            )
        self.check_memory(A)
        with torch.no_grad():
            matrix, B = cast(A, torch.float64).dense(), b.double()
            nothing = torch.full_like(B, torch.nan)
            finite = bool(torch.isfinite(B).all()) and bool(torch.isfinite(matrix).all())
            if not finite:
                return self._solution(nothing, b, B, matrix, Status.nan)
            L, detail = factorise(matrix)
            if L is None:
                found = self._solution(nothing, b, B, matrix, Status.indefinite, detail)
                return replace(found, report=Report(suggested_alpha=_suggested_alpha(matrix)))
            found = self._solution(torch.cholesky_solve(B, L), b, B, matrix, Status.converged)
            if bool((found.residual_norms <= self.tol).all()):
                return found
            finite = bool(torch.isfinite(found.x).all())
            return replace(found, status=Status.stagnated if finite else Status.nan)

    @staticmethod
    def check_memory(A: LinearOperator) -> None:
        """Refuse before the machine starts to swap.

        Raises
        ------
        OptionError
            If the matrix does not fit into ``options.memory_limit``.
        """
        size, limit = 8 * math.prod(A.shape), _options.current().memory_limit
        if size > limit:
            raise OptionError(
                f"Cholesky needs the whole matrix, {size / 2**30:.1f} GiB for shape {A.shape}, but the "
                f"memory_limit is {limit / 2**30:.1f} GiB; use CG(), or raise the limit with kerngp.options."
            )

    @staticmethod
    def _solution(
        x: Tensor, b: Tensor, B: Tensor, matrix: Tensor, status: Status, detail: str = ""
    ) -> Solution:
        x = x.to(b.dtype)
        size = B.norm(dim=-2)
        norms = (B - matrix @ x.double()).norm(dim=-2) / torch.where(size > 0, size, torch.ones_like(size))
        history = torch.stack([torch.ones_like(norms), norms])
        return Solution(x, status, 1, norms, history, products=1, method="Cholesky", detail=detail)


def factorise(matrix: Tensor) -> tuple[Tensor | None, str]:
    """L with A = L L', in the dtype of the matrix; None, and why, if that is not positive definite."""
    L, info = torch.linalg.cholesky_ex(matrix)
    if not bool((info != 0).any()):
        return L, ""
    first = int(info[info != 0].reshape(-1)[0])
    return None, f"the leading block of {first} rows is not positive definite"


def _suggested_alpha(matrix: Tensor) -> float:
    """For a matrix (*batch, N, N) that has no factor, from where elimination ends in each of the batch.

    The leading block B of k - 1 rows is positive definite, that of k rows is not: with c the k-th column
    above the diagonal, (-B^-1 c, 1) is a direction of negative curvature.
    """
    n = matrix.shape[-1]
    flat = matrix.reshape(-1, n, n)
    start = flat.new_zeros(len(flat), n, 1)
    for k, failed in enumerate(torch.linalg.cholesky_ex(flat)[1].tolist()):
        if failed:
            last = failed - 1
            L = torch.linalg.cholesky(flat[k, :last, :last])
            start[k, :last] = -torch.cholesky_solve(flat[k, :last, last:failed], L)
            start[k, last] = 1.0
    least = least_from(lambda v: flat @ v, start)
    return alpha_for(least, n, float(flat.diagonal(dim1=-2, dim2=-1).abs().max()))

"""Extreme eigenvalues: a block Krylov method with restarts, and bounds of the largest one.

    V orthonormal, W = A V
    repeat
        Rayleigh-Ritz: V'W = Y diag(theta) Y'
        residuals W y - theta V y of the wanted pairs; all small: done
        V = [V, the largest residuals made orthonormal], W = A V        one pass with a block of columns

Without restarts that is block Lanczos (Golub and Underwood, 1977), which finds in a few passes what a
single vector needs dozens for (Musco and Musco, 2015); and a pass with twenty columns costs hardly
more than one with a single column. When V is full, the best Ritz vectors are kept, as in the thick restart
of Wu and Simon (2000). W is stored, so that residuals cost no products and rounding errors do not
pile up in a recursion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from ... import options as _options
from ...engine.transforms import refuse
from ...errors import OptionError, ShapeError, SolveError
from ..operator import LinearOperator, as_operator, cast
from ..preconditioners.base import Preconditioner
from ..preconditioners.recipes import as_preconditioner
from ..solution import Status
from . import estimate as _estimate
from .congruence import require_symmetric
from .lanczos import EPS, check_finite, lanczos

Tensor = torch.Tensor
WHICH = ("largest", "smallest")


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenvalues and eigenvectors.

    Attributes
    ----------
    values : torch.Tensor of shape (k,), float64
        The largest in descending order, or the smallest in ascending order.
    vectors : torch.Tensor of shape (n, k), float64
        Orthonormal columns.
    residuals : torch.Tensor of shape (k,)
        |A v - theta v|, computed in float64: there is an eigenvalue of A within this distance.
    products : int
        Passes over the matrix.
    status : Status
        ``converged``, or ``max_iter`` if a residual is above the tolerance.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    products: int
    status: Status = Status.converged

    @property
    def converged(self) -> bool:
        """Whether all residuals are below the tolerance."""
        return self.status is Status.converged


def eigsh(
    A: Any,
    k: int = 6,
    *,
    which: str = "largest",
    preconditioner: Any = None,
    tol: float | None = None,
    max_iter: int = 200,
    block: int | None = None,
    exact_below: int = 500,
    random_state: int = 0,
) -> Eigenpairs:
    """The k largest or smallest eigenvalues of a symmetric operator, and their eigenvectors.

    Not differentiable: results are constants.

    Parameters
    ----------
    A : LinearOperator or array of shape (n, n)
    k : int
    which : {"largest", "smallest"}
        By value, not by magnitude.
    preconditioner : Preconditioner, recipe, name, LinearOperator or callable, optional
        Of A, for the smallest eigenvalues, which are slow to find otherwise: residuals are multiplied
        by it (Davidson, 1975).
    tol : float, optional
        On residuals relative to the largest |eigenvalue| seen. Default: 1e-8, for a float32 operator
        1e-5, as its products are no better.
    max_iter : int
        Most passes.
    block : int, optional
        Columns of a product. Default: k + 2, at most 32.
    exact_below : int
        Up to this n the matrix is computed and decomposed in float64.
    random_state : int

    Raises
    ------
    ShapeError, OptionError
    SolveError
        If a product holds NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If ``max_iter`` passes were not enough.

    Examples
    --------
    >>> found = eigsh(torch.diag(torch.arange(1.0, 11.0)), 2)
    >>> found.values
    tensor([10.,  9.], dtype=torch.float64)
    """
    A = as_operator(A)
    require_symmetric("eigsh", A)
    refuse("eigsh", A.tensors)
    if len(A.shape) != 2:
        raise ShapeError(f"eigsh works on one matrix; the operator has shape {A.shape}.")
    if which not in WHICH:
        raise OptionError(f"which={which!r}: expected one of {WHICH}.")
    if tol is None:
        tol = 1e-8 if A.torch_dtype == torch.float64 else 1e-5
    _estimate.check_tolerance(tol)
    _estimate.check_count("k", k, 1)
    _estimate.check_count("max_iter", max_iter, 1)
    n = A.shape[-1]
    if k > n:
        raise OptionError(f"k={k}: the operator has {n} eigenvalues.")
    width = min(n, _estimate.check_count("block", min(k + 2, 32) if block is None else block, 1))
    sign = 1.0 if which == "largest" else -1.0
    with torch.no_grad():
        if n <= exact_below or 3 * (k + width) > n:
            return _decompose(A, k, sign)
        M = None if preconditioner is None or sign > 0 else as_preconditioner(preconditioner, A)
        found = _Subspace(A, M, k, sign, width, random_state).run(tol, max_iter)
    if not found.converged:
        _estimate.warn_unfinished("eigsh", "max_iter", max_iter, float(found.residuals.max()))
    return found


def _decompose(A: LinearOperator, k: int, sign: float) -> Eigenpairs:
    size, limit = 8 * A.shape[-1] ** 2, _options.current().memory_limit
    if size > limit:
        raise OptionError(
            f"eigsh needs the whole matrix for k={k} of {A.shape[-1]} eigenvalues, {size / 2**30:.1f} GiB; "
            f"the memory_limit is {limit / 2**30:.1f} GiB. Ask for fewer, or raise it with kerngp.options."
        )
    matrix = cast(A, torch.float64).dense()
    check_finite(matrix, "the entries of the matrix")
    values, vectors = torch.linalg.eigh(sign * matrix)
    values, vectors = sign * values[-k:].flip(0), vectors[:, -k:].flip(1)
    return Eigenpairs(values, vectors, (matrix @ vectors - values * vectors).norm(dim=0), 1)


class _Subspace:
    """The iteration for the largest eigenvalues of sign A."""

    def __init__(
        self, A: LinearOperator, M: Preconditioner | None, k: int, sign: float, block: int, seed: int
    ):
        self.A, self.M, self.k, self.sign, self.block = A, M, k, sign, block
        room = _options.current().memory_limit // (16 * A.shape[-1])  # of V and W
        self.most = max(k + 5 * block, min(A.shape[-1], max(3 * k, 2 * k + 8 * block), room))
        self.products = 0
        start = _estimate.gaussian((A.shape[-1], block), seed, A.device)
        self.V = torch.linalg.qr(start)[0]
        self.W = self._product(self.V)

    def run(self, tol: float, max_iter: int) -> Eigenpairs:
        while True:
            theta, Y = torch.linalg.eigh(0.5 * (self.V.T @ self.W + self.W.T @ self.V))
            theta, Y = theta.flip(0), Y.flip(1)
            scale = float(theta.abs().max())
            found = min(self.k, len(theta))
            R = self.W @ Y[:, :found] - (self.V @ Y[:, :found]) * theta[:found]
            norms = R.norm(dim=0)
            enough = len(theta) >= self.k and bool((norms <= tol * scale).all())
            if enough or self.products >= max_iter:
                return self._result(theta, Y, scale, tol)
            if self.V.shape[1] + self.block > self.most:
                keep = Y[:, : self.most - 4 * self.block]
                self.V, self.W = self.V @ keep, self.W @ keep
            if not self._extend(R, norms > 0.1 * tol * scale):
                return self._result(theta, Y, scale, tol)

    def _extend(self, R: Tensor, open_: Tensor) -> bool:
        """Take in the residuals of pairs that are not accurate yet, the first ones first."""
        new = R[:, open_][:, : self.block]
        new = new if self.M is None else self.M.matmul(new.to(self.M.torch_dtype)).double()
        new = new / new.norm(dim=0)
        if new.shape[1] < self.block:  # fill up by random directions, which find what was overlooked
            more = _estimate.gaussian((len(new), self.block - new.shape[1]), self.products, new.device)
            new = torch.cat([new, more / more.norm(dim=0)], 1)
        for _ in range(2):
            new = torch.linalg.qr(new - self.V @ (self.V.T @ new))[0]
        new = new[:, (self.V.T @ new).norm(dim=0) < 1e-8]
        if not new.shape[1]:
            return False
        self.V, self.W = torch.cat([self.V, new], 1), torch.cat([self.W, self._product(new)], 1)
        return True

    def _product(self, v: Tensor) -> Tensor:
        self.products += 1
        out = self.sign * self.A.matmul(v.to(self.A.torch_dtype)).double()
        check_finite(out, "a product with the operator")
        return out

    def _result(self, theta: Tensor, Y: Tensor, scale: float, tol: float) -> Eigenpairs:
        vectors, values = self.V @ Y[:, : self.k], self.sign * theta[: self.k]
        true = self.A.matmul(vectors, exact=True) - values * vectors
        residuals = true.norm(dim=0)
        good = len(values) == self.k and bool((residuals <= 2 * tol * scale).all())
        status = Status.converged if good else Status.max_iter
        return Eigenpairs(values, vectors, residuals, self.products + 1, status)


@dataclass(frozen=True)
class Bounds:
    """lower <= number <= upper; the lower one always, the upper one with a probability.

    Attributes
    ----------
    lower, upper : torch.Tensor of shape (*batch), float64
    products : int
    """

    lower: Tensor
    upper: Tensor
    products: int


def largest_eigenvalue(A: Any, *, steps: int = 20, failure: float = 1e-6, random_state: int = 0) -> Bounds:
    """Bounds of the largest eigenvalue of a positive semi-definite operator, such as step sizes need.

    Lanczos from a random vector. The largest Ritz value theta is below, and with probability
    1 - ``failure`` the eigenvalue is at most theta / (1 - e) where

        1.648 sqrt(n) exp(-sqrt(e) (2 k - 1)) = failure          k: steps

    (Kuczynski and Wozniakowski, 1992). Absolute row sums bound it as well, but cost a pass over |A|.

    Parameters
    ----------
    A : LinearOperator or array of shape (*batch, n, n)
    steps : int
        Products with one column. If they are too few for ``failure`` the upper bound is infinite.
    failure : float
        In (0, 1).
    random_state : int

    Raises
    ------
    ShapeError, OptionError, SolveError

    Examples
    --------
    >>> bounds = largest_eigenvalue(torch.diag(torch.linspace(0, 1, 300)))
    >>> bool(bounds.lower <= 1.0 <= bounds.upper)
    True
    """
    A = as_operator(A)
    require_symmetric("largest_eigenvalue", A)
    refuse("largest_eigenvalue", A.tensors)
    _estimate.check_count("steps", steps, 1)
    if not 0 < failure < 1:
        raise OptionError(f"failure={failure!r}: expected a probability between 0 and 1.")
    n = A.shape[-1]
    if n == 0:
        raise ShapeError("largest_eigenvalue: the operator has no rows, and no eigenvalues.")
    with torch.no_grad():
        start = _estimate.gaussian((n, 1), random_state, A.device).expand(*A.shape[:-2], n, 1)
        krylov = lanczos(lambda v: A.matmul(v.to(A.torch_dtype)).double(), start, steps)
        theta = krylov.eigh()[0][..., 0, :]
        rest, low, top = krylov.beta[..., 0, -1], theta[..., 0], theta[..., -1]
    rounding = math.sqrt(n) * max(10 * EPS, torch.finfo(A.torch_dtype).eps)
    if bool((low < -100 * rounding * top.abs()).any()):
        raise SolveError(
            f"largest_eigenvalue: an eigenvalue is {float(low.min()):.1e} or less; the bound holds for "
            "positive semi-definite operators only. Shift the operator by its smallest eigenvalue (eigsh)."
        )
    e = (math.log(1.648 * math.sqrt(n) / failure) / (2 * krylov.steps - 1)) ** 2
    # nothing was left over: the space is invariant, and a random vector has a part in every eigenspace
    factor = torch.where(rest == 0, 1.0, 1 / (1 - e) if e < 1 else math.inf)
    return Bounds(top, factor * top * (1 + rounding), krylov.steps)

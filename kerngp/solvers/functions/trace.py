"""Traces and diagonals: of the inverse by Hutchinson's estimator, of a matrix that only multiplies by XTrace.

For signs z with independent entries (Hutchinson, 1990; Bekas, Kokiopoulou, Saad, 2007, for diagonals)

    trace A^-1 = c trace M + mean of z' (A^-1 z - c M z)
    diag  A^-1 = c diag M  + mean of z * (A^-1 z - c M z)

where M is the preconditioner, whose own diagonal is known: a control variate, which leaves the variance
of what M does not know of the inverse. The coefficient c is that of least squares, for each z from the
others, so that nothing is biased: a poor M is used as far as it helps. Each z costs one linear solve;
all of them are solved together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from ...engine.transforms import refuse
from ...errors import OptionError, SolveError
from ..cg import CG
from ..checks import require_square
from ..operator import AddedDiagonal, LinearOperator, as_operator, cast
from ..preconditioners.base import Preconditioner
from ..preconditioners.recipes import as_preconditioner
from ..solution import Status
from ..solve import Method, solve
from . import estimate as _estimate
from .congruence import require_symmetric
from .estimate import Estimate
from .lanczos import check_finite

Tensor = torch.Tensor


def trace_inverse(
    A: Any,
    *,
    preconditioner: Any = None,
    probes: int = 16,
    method: Method | str | None = None,
    exact_below: int = 1000,
    random_state: int = 0,
) -> Estimate:
    """trace A^-1 of a symmetric positive definite operator.

    Differentiable, to any order, in every tensor that A is made of; the preconditioner counts as constant.

    Parameters
    ----------
    A : LinearOperator or array of shape (*batch, n, n)
    preconditioner : Preconditioner, recipe, name, LinearOperator or callable, optional
        For the solves, and as control variate.
    probes : int
        Random vectors, at least 2.
    method : solver or name, default CG()
        What solves with them: see `solve`.
    exact_below : int
        Up to this n the inverse is computed in float64.
    random_state : int

    Returns
    -------
    Estimate
        With value and errors of shape (*batch). ``truncation`` is what the residuals of the solves leave.

    Raises
    ------
    ShapeError, OptionError
    SolveError
        If a NaN appears or A is not positive definite.

    Warns
    -----
    ConvergenceWarning
        If a solve failed.

    Examples
    --------
    >>> from kerngp.solvers import Dense, RPCholesky, identity
    >>> x = torch.linspace(0, 1, 100, dtype=torch.float64)
    >>> A = Dense(torch.exp(-((x[:, None] - x) ** 2)), psd=True) + 0.01 * identity(100)
    >>> found = trace_inverse(A, preconditioner=RPCholesky(10), exact_below=0)
    >>> abs(float(found.value / torch.linalg.inv(A.dense()).trace()) - 1) < 1e-6
    True
    """
    A = as_operator(A)
    job = _Job("trace_inverse", A, preconditioner, probes, method, random_state)
    if A.shape[-1] <= exact_below or not A.shape[-1]:
        return _estimate.exact(job.inverse().diagonal(dim1=-2, dim2=-1).sum(-1))
    return job.weighted_trace(None)


def effective_dimension(
    A: Any,
    *,
    preconditioner: Any = None,
    probes: int = 16,
    method: Method | str | None = None,
    exact_below: int = 1000,
    random_state: int = 0,
) -> Estimate:
    """trace K (K + D)^-1 for A = K + D, D diagonal: the degrees of freedom of a ridge regression.

    Computed as n - trace D A^-1; otherwise as `trace_inverse`.

    Parameters
    ----------
    A : AddedDiagonal
        K + alpha * identity(n), or K + Diagonal(d).
    preconditioner, probes, method, exact_below, random_state
        See `trace_inverse`.

    Raises
    ------
    OptionError
        If A is not of that form with a positive diagonal.

    Examples
    --------
    >>> from kerngp.solvers import Dense, identity
    >>> A = Dense(torch.diag(torch.tensor([3.0, 1.0, 0.0])), psd=True) + 1.0 * identity(3)
    >>> float(effective_dimension(A).value)
    1.25
    """
    if not isinstance(A, AddedDiagonal) or not bool((A.values.detach() > 0).all()):
        raise OptionError(
            f"effective_dimension needs an operator K + alpha * identity(n) with alpha > 0, got {A!r}."
        )
    job = _Job("effective_dimension", A, preconditioner, probes, method, random_state)
    d = A.values.double().expand(A.shape[:-1])
    if A.shape[-1] <= exact_below or not A.shape[-1]:
        return _estimate.exact(A.shape[-1] - (d * job.inverse().diagonal(dim1=-2, dim2=-1)).sum(-1))
    found = job.weighted_trace(d)
    return replace(found, value=A.shape[-1] - found.value)


def diagonal_inverse(
    A: Any,
    *,
    preconditioner: Any = None,
    probes: int = 64,
    method: Method | str | None = None,
    exact_below: int = 1000,
    random_state: int = 0,
) -> Estimate:
    """The diagonal of A^-1: what leave-one-out errors and marginal variances are made of.

    Parameters
    ----------
    A, preconditioner, probes, method, exact_below, random_state
        See `trace_inverse`. Entries are known far less accurately than their sum: a good
        preconditioner helps more than many probes.

    Returns
    -------
    Estimate
        With value and errors of shape (*batch, n).

    Examples
    --------
    >>> from kerngp.solvers import Dense
    >>> diagonal_inverse(Dense(torch.diag(torch.tensor([1.0, 2.0, 4.0])), psd=True)).value
    tensor([1.0000, 0.5000, 0.2500], dtype=torch.float64)
    """
    A = as_operator(A)
    job = _Job("diagonal_inverse", A, preconditioner, probes, method, random_state)
    if A.shape[-1] <= exact_below or not A.shape[-1]:
        return _estimate.exact(job.inverse().diagonal(dim1=-2, dim2=-1))
    Z = job.signs()
    X, rough, known = job.solve(Z)
    size = X.detach().square().mean(-2, keepdim=True).sqrt()
    truncation = (known["residuals"].unsqueeze(-2) * size).mean(-1).expand(X.shape[:-1])
    return job.estimate(controlled(Z * X, Z * rough, job.M.diag().double()), truncation, known)


@dataclass(frozen=True)
class _Job:
    """What the estimates of the inverse share."""

    what: str
    A: LinearOperator
    preconditioner: Any
    probes: int
    method: Method | str | None
    random_state: int

    def __post_init__(self) -> None:
        require_symmetric(self.what, self.A)
        _estimate.check_count("probes", self.probes, 2, " (the standard error comes from their spread)")

    @cached_property
    def M(self) -> Preconditioner:
        """Built when it is needed: not for matrices that are factorised."""
        return as_preconditioner(self.preconditioner, self.A)

    def inverse(self) -> Tensor:
        """All entries of A^-1, float64."""
        matrix = cast(self.A, torch.float64).dense()
        check_finite(matrix.detach(), "the entries of the matrix")
        L, info = torch.linalg.cholesky_ex(matrix)
        if bool((info != 0).any()):
            raise SolveError(f"{self.what}: the matrix is not positive definite. {Status.indefinite.value}")
        return torch.cholesky_solve(torch.eye(matrix.shape[-1]).to(matrix), L)

    def signs(self) -> Tensor:
        Z = _estimate.rademacher((self.A.shape[-1], self.probes), self.random_state, self.A.device)
        return Z.expand(*self.A.shape[:-2], *Z.shape)

    def solve(self, Z: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """A^-1 Z, M Z and what else is known of the solve."""
        solution = solve(self.A, Z, self.method or CG(), preconditioner=self.M)
        if solution.status in (Status.nan, Status.indefinite):
            error = SolveError(f"{self.what}: {solution.message}")
            error.solution = solution
            raise error
        with torch.no_grad():
            rough = self.M.matmul(Z.detach().to(self.M.torch_dtype)).double()
        known = {"status": solution.status, "notes": solution.report.notes, "products": solution.products}
        return solution.x, rough, known | {"residuals": solution.residual_norms}

    def weighted_trace(self, d: Tensor | None) -> Estimate:
        """trace A^-1, or trace D A^-1 by vectors D^1/2 z."""
        Z, diagonal = self.signs(), self.M.diag().double()
        if d is not None:
            Z, diagonal = d.sqrt().unsqueeze(-1) * Z, diagonal * d
        X, rough, known = self.solve(Z)
        samples = (Z * X).sum(-2, keepdim=True)
        known_part = (Z * rough).sum(-2, keepdim=True)
        size = (X.norm(dim=-2) * Z.norm(dim=-2)).detach()
        truncation = (known["residuals"] * size).mean(-1)  # z'(A^-1 z - x) = (A^-1 z)' r
        return self.estimate(
            controlled(samples, known_part, diagonal.sum(-1, keepdim=True)).squeeze(-2), truncation, known
        )

    def estimate(self, samples: Tensor, truncation: Tensor, known: dict) -> Estimate:
        rest = {k: known[k] for k in ("status", "products", "notes")}
        return _estimate.random_estimate(samples, truncation, **rest)


def controlled(samples: Tensor, known: Tensor, mean: Tensor) -> Tensor:
    """samples - c (known - mean), (..., m, s), without a gradient through c (known - mean).

    Parameters
    ----------
    samples, known : Tensor of shape (*batch, m, s)
        Of m quantities, which share the coefficient c of each of the s columns.
    mean : Tensor of shape (*batch, m)
        What ``known`` is on average.
    """
    known, mean = known.detach(), mean.detach().unsqueeze(-1)
    # a difference that is no more than rounding must not be made much of
    known = torch.where((known - mean).abs() > 1e-12 * mean.abs(), known - mean, 0.0)
    return samples - coefficients(samples.detach(), known) * known


def coefficients(samples: Tensor, known: Tensor) -> Tensor:
    """What `controlled` multiplies ``known`` by, which has mean 0: of a column, from the others."""
    if samples.shape[-1] < 4:
        return torch.ones_like(samples[..., :1, :])  # too few to find it
    x, y = known - known.mean(-1, keepdim=True), samples - samples.mean(-1, keepdim=True)
    xy, xx = (x * y).sum(-2, keepdim=True), (x * x).sum(-2, keepdim=True)
    # without column i means move as well: the sums lose s / (s - 1) of what i contributes
    lost = samples.shape[-1] / (samples.shape[-1] - 1)
    top, bottom = xy.sum(-1, keepdim=True) - lost * xy, xx.sum(-1, keepdim=True) - lost * xx
    size = xx.sum(-1, keepdim=True)
    return torch.where(bottom > 1e-12 * size, top / torch.where(bottom > 0, bottom, 1.0), 1.0)


def trace(A: Any, *, probes: int | None = None, random_state: int = 0) -> Estimate:
    """The trace of a square operator: of its diagonal, or estimated from products alone.

    With ``probes``, by XTrace (Epperly, Tropp, Webber, 2024): half of the products sketch the range of A,
    the others are exact there; every vector in turn is left out of the sketch and estimates what the
    sketch has missed. Exact, up to rounding, if the rank of A is below probes / 2. The samples
    share their sketch, and their spread tells too little: the standard error is twice what it says.

    Parameters
    ----------
    A : LinearOperator or array of shape (n, n)
    probes : int, optional
        Vectors that A is multiplied with, at least 4. Default: none, the diagonal is added up (n entries;
        of a product of operators, all of them). Differentiable in that case alone.
    random_state : int

    Raises
    ------
    ShapeError, OptionError
    SolveError
        If a product holds NaN or infinity.

    Examples
    --------
    >>> A = torch.diag(0.5 ** torch.arange(100, dtype=torch.float64))
    >>> float(trace(A).value)
    2.0
    >>> abs(float(trace(A, probes=60).value) - 2.0) < 1e-3
    True
    """
    A = as_operator(A)
    require_square(A, "trace")
    if probes is None:
        d = A.diag().double()
        check_finite(d.detach(), "the diagonal")
        return _estimate.exact(d.sum(-1))
    _estimate.check_count("probes", probes, 4, " (two sketches of at least two)")
    if len(A.shape) != 2:
        raise OptionError(f"trace from products works on one matrix; the operator has shape {A.shape}.")
    refuse("a trace from products", A.tensors)
    with torch.no_grad():
        G = _estimate.gaussian((A.shape[-1], min(probes // 2, A.shape[-1])), random_state, A.device)
        return _xtrace(lambda v: A.matmul(v.to(A.torch_dtype)).double(), G, torch.finfo(A.torch_dtype).eps)


def _xtrace(multiply: Callable[[Tensor], Tensor], G: Tensor, eps: float) -> Estimate:
    """XTrace with test vectors in the columns of G.

    Leaving out column i of Y = A G = Q R takes the direction s_i out of the range of Q, the one that all
    other columns of R are orthogonal to: column i of R'^-1, normalised.
    """
    n, m = G.shape
    Y = multiply(G)
    check_finite(Y, "a product with the operator")
    Q, R = torch.linalg.qr(Y)
    Z = multiply(Q)
    H = Q.T @ Z
    values = torch.linalg.svdvals(R)
    if m == n or float(values[-1]) <= 10 * n * eps * float(values[0]):  # Q holds the whole range of A
        error = torch.tensor(n * eps * float(H.norm()), dtype=torch.float64, device=G.device)
        return Estimate(H.trace(), error, error, probes=2 * m, products=2)
    S = torch.linalg.inv(R).T
    S = S / S.norm(dim=0)
    W = Q.T @ G
    C = W - S * (S * W).sum(0)  # what the other columns see of vector i
    inside = H.trace() - (S * (H @ S)).sum(0)
    outside = (G * Y).sum(0) - (C * R).sum(0) - ((Z.T @ G) * C).sum(0) + (C * (H @ C)).sum(0)
    length = (n - m + 1) / (G.square().sum(0) - C.square().sum(0))
    samples = inside + length * outside
    found = _estimate.random_estimate(samples, torch.zeros_like(samples[0]), products=2)
    return replace(found, probes=2 * m, standard_error=2.0 * found.standard_error)

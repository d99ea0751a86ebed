"""Square roots applied to vectors, by Lanczos: what random samples with a given covariance are made of.

    A^1/2 b ~ |b| Q T^1/2 e_1
    R z = A L' B^-1/2 z,  R R' = A          B = L A L', for a preconditioner L'L of A

The second form needs far fewer products, and any root will do for a sample. (Pleiss and others, 2020,
reach the same by contour integrals without keeping a basis; for their price in products see there.)
The error is bounded by integrals over the residuals r_t of shifted systems (B + t) x = z, which Lanczos
knows: with Ritz values theta

    |r_t| = |z| prod b_j / prod (theta_j + t)
    A^1/2:   |error| <= 1/pi int t^1/2 / (l + t) |r_t| dt                        0 <= l <= spectrum
    B^-1/2:  |B^1/2 error| <= 1/pi int t^-1/2 max_{x >= l} x^1/2 / (x + t) |r_t| dt

since x^-1/2 = 1/pi int t^-1/2 / (x + t) dt (Frommer and Schweitzer, 2016). l is what the preconditioner
guarantees, otherwise half the smallest Ritz value, and the bound then an estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...engine.arrays import kind_of, restore
from ...engine.transforms import refuse
from ...errors import SolveError
from ..checks import columns
from ..operator import LinearOperator, as_operator, cast
from ..solution import Note, Status
from . import estimate as _estimate
from .congruence import Congruence, check_positive, in_sufficient_precision, require_symmetric
from .lanczos import EPS, Krylov, check_finite, in_groups

Tensor = torch.Tensor


@dataclass(frozen=True)
class RootProduct:
    """A root of an operator times vectors.

    Attributes
    ----------
    value : array
        In the shape and library of what was multiplied.
    error : torch.Tensor of shape (*batch, E)
        Relative error of each column, a bound or an estimate (see the functions); 0 if computed by
        factorisation.
    products : int
        Passes over the matrix.
    status : Status
        ``max_iter`` if an error is above the tolerance.
    notes : tuple of Note
    """

    value: Any
    error: Tensor
    products: int = 0
    status: Status = Status.converged
    notes: tuple[Note, ...] = ()

    @property
    def converged(self) -> bool:
        """Whether all errors are below the tolerance."""
        return self.status is Status.converged


def sqrt_product(
    A: Any, b: Any, *, tol: float = 1e-6, steps: int = 200, exact_below: int = 1000
) -> RootProduct:
    """A^1/2 b for the symmetric root of a positive semi-definite operator.

    Not differentiable: the result is a constant.

    Parameters
    ----------
    A : LinearOperator or array of shape (*batch, n, n)
    b : array of shape (n,), (n, E) or (*batch, n, E)
    tol : float
        On |error| / |A^1/2 b| of every column. Without a positive diagonal beside a positive
        semi-definite matrix the error is estimated. Products are formed in float64 where those in
        float32 would miss it.
    steps : int
        Most products for each group of columns that fits into ``options.memory_limit``.
    exact_below : int
        Up to this n the matrix is computed and decomposed in float64.

    Returns
    -------
    RootProduct

    Raises
    ------
    ShapeError, DTypeError, DeviceError, OptionError
    SolveError
        If a NaN appears, or A has an eigenvalue that is negative beyond rounding.

    Warns
    -----
    ConvergenceWarning
        If ``steps`` were not enough.

    Examples
    --------
    >>> sqrt_product(torch.diag(torch.tensor([1.0, 4.0, 9.0])), torch.ones(3)).value
    tensor([1., 2., 3.])
    """
    A, kind = as_operator(A), kind_of(b)
    require_symmetric("sqrt_product", A)
    _check(tol, steps)
    given, vector = columns("b", b, A.shape, None, A.device)
    refuse("sqrt_product", (given, *A.tensors))
    B = (
        given.detach()
        .double()
        .expand(*torch.broadcast_shapes(A.shape[:-2], given.shape[:-2]), *given.shape[-2:])
    )
    with torch.no_grad():
        check_finite(B, "b")
        found = _root(A, B, tol, steps, exact_below)
    if not found.converged:
        _estimate.warn_unfinished("sqrt_product", "steps", steps, float(found.error.max()))
    value = found.value.to(given.dtype)
    return replace(found, value=restore(value.squeeze(-1) if vector else value, kind))


def sample(
    A: Any,
    count: int = 1,
    *,
    preconditioner: Any = None,
    tol: float = 1e-4,
    steps: int = 200,
    exact_below: int = 1000,
    random_state: int = 0,
) -> RootProduct:
    """Independent samples of the normal distribution with covariance A and mean 0.

    Without a preconditioner A^1/2 z, otherwise R z for another root R R' = A, which takes fewer products.
    Not differentiable.

    Parameters
    ----------
    A : LinearOperator or array of shape (*batch, n, n), positive semi-definite
    count : int
    preconditioner : Preconditioner, recipe, name, LinearOperator or callable, optional
        Of A, which must then be positive definite.
    tol : float
        On the error of every sample, relative to its size; with a preconditioner both measured as the
        normal distribution does, by (x, A^-1 x)^1/2.
    steps, exact_below
        See `sqrt_product`.
    random_state : int
        The same seed gives the same z.

    Returns
    -------
    RootProduct
        With value of shape (*batch, n, count), float64.

    Raises
    ------
    ShapeError, OptionError
    SolveError
        If a NaN appears or A is not positive semi-definite (definite, with a preconditioner).

    Examples
    --------
    >>> from kerngp.solvers import Dense
    >>> x = sample(Dense(torch.diag(torch.tensor([1.0, 100.0])), psd=True), 2000).value
    >>> x.std(1).round()
    tensor([ 1., 10.], dtype=torch.float64)
    """
    A = as_operator(A)
    require_symmetric("sample", A)
    refuse("sample", A.tensors)
    _check(tol, steps)
    _estimate.check_count("count", count, 0)
    z = _estimate.gaussian((*A.shape[:-1], count), random_state, A.device)
    with torch.no_grad():
        if preconditioner is None or A.shape[-1] <= exact_below:
            found = _root(A, z, tol, steps, exact_below)
        else:
            found = _preconditioned(Congruence.of("sample", A, preconditioner), z, tol, steps)
    if not found.converged:
        _estimate.warn_unfinished("sample", "steps", steps, float(found.error.max()))
    return found


def _check(tol: float, steps: int) -> None:
    _estimate.check_tolerance(tol)
    _estimate.check_count("steps", steps, 1)


# ---------------------------------------------------------------- how


@dataclass(frozen=True)
class _Function:
    """What is applied to the basis, and what is known of its error.

    Attributes
    ----------
    ritz : callable
        The eigenvalues of T, checked, and its eigenvectors.
    error : callable
        Of a Krylov space and its Ritz values: the relative error of every column.
    finish : callable
        Of B, a Krylov space and `ritz` of it: the columns.
    allowed : callable
        Of a Krylov space and its smallest Ritz value: how large the rounding of products may be.
    """

    ritz: Callable[[Krylov], tuple[Tensor, Tensor]]
    error: Callable[[Krylov, Tensor], Tensor]
    finish: Callable[[Congruence, Krylov, tuple[Tensor, Tensor]], Tensor]
    allowed: Callable[[Krylov, float], float]


def _root(A: LinearOperator, b: Tensor, tol: float, steps: int, exact_below: int) -> RootProduct:
    if A.shape[-1] <= exact_below or not b.numel():
        return _decompose(A, b)
    B = Congruence.of("sqrt_product", A, None)
    rounding = 10 * math.sqrt(A.shape[-1]) * torch.finfo(A.torch_dtype).eps

    def size(krylov: Krylov) -> Tensor:
        return krylov.alpha[..., 0].clamp_min(0).sqrt()  # |A^1/2 b| / |b|

    def ritz(krylov: Krylov) -> tuple[Tensor, Tensor]:
        theta, Y = krylov.eigh()
        return _not_negative(theta, rounding), Y

    def allowed(krylov: Krylov, lowest: float) -> float:
        # a change E of A changes its root by |E| / (2 lowest^1/2) at most, and by |E|^1/2
        change = tol * float(size(krylov).min())
        return max(2 * lowest**0.5 * change, change**2)

    how = _Function(
        ritz,
        lambda k, theta: _ratio(sqrt_bound(k, theta, B.floor), size(k) * k.norms),
        lambda B, k, eigh: k.apply(torch.sqrt, eigh),
        allowed,
    )
    return _applied(B, b, how, tol, steps)


def _preconditioned(B: Congruence, z: Tensor, tol: float, steps: int) -> RootProduct:
    def ritz(krylov: Krylov) -> tuple[Tensor, Tensor]:
        theta, Y = krylov.eigh()
        check_positive("sample", theta)
        return theta, Y

    how = _Function(
        ritz,
        lambda k, theta: _ratio(rsqrt_bound(k, theta, B.floor), k.norms),
        lambda B, k, eigh: B.times_A(B.right(k.apply(torch.rsqrt, eigh))),
        lambda k, lowest: max(tol, 1e-3) * lowest,
    )
    return _applied(B, z, how, tol, steps)


def _applied(B: Congruence, b: Tensor, how: _Function, tol: float, steps: int) -> RootProduct:
    def enough(krylov: Krylov) -> bool:
        return bool((how.error(krylov, how.ritz(krylov)[0]) <= tol).all())

    def run(B: Congruence) -> tuple[RootProduct, float]:
        values, errors, allowed, products = [], [], math.inf, 0
        for krylov in in_groups(B, b, steps, enough):
            eigh = how.ritz(krylov)
            values.append(how.finish(B, krylov, eigh))
            errors.append(how.error(krylov, eigh[0]))
            allowed = min(allowed, how.allowed(krylov, float(eigh[0].min())))
            products += krylov.steps
        error = torch.cat(errors, -1)
        status = Status.converged if bool((error <= tol).all()) else Status.max_iter
        return RootProduct(torch.cat(values, -1), error, products, status), allowed

    found, notes = in_sufficient_precision(B, b, run)
    return replace(found, notes=notes)


def _decompose(A: LinearOperator, b: Tensor) -> RootProduct:
    matrix = cast(A, torch.float64).dense()
    check_finite(matrix, "the entries of the matrix")
    values, vectors = torch.linalg.eigh(matrix)
    values = _not_negative(values, 10 * max(1, A.shape[-1]) * torch.finfo(A.torch_dtype).eps)
    value = vectors @ (values.sqrt().unsqueeze(-1) * (vectors.mT @ b))
    return RootProduct(value, torch.zeros_like(value[..., 0, :] if value.shape[-2] else value.sum(-2)))


def _not_negative(theta: Tensor, rounding: float) -> Tensor:
    """Eigenvalues with those below zero by rounding put to zero; others are an error."""
    if theta.numel():
        low, high = theta[..., 0], theta[..., -1]
        wrong = low < -rounding * high.abs()
        if bool(wrong.any()):
            raise SolveError(
                f"the matrix has no real square root: an eigenvalue is {float(low[wrong].min()):.1e} "
                f"or less, the largest {float(high.max()):.1e}. Check that the kernel is positive "
                "semi-definite, add to the diagonal, or use float64."
            )
    return theta.clamp_min(0.0)


# ---------------------------------------------------------------- bounds


def sqrt_bound(krylov: Krylov, theta: Tensor, floor: float | None) -> Tensor:
    """An upper bound of |A^1/2 b - |b| Q T^1/2 e_1|, (*batch, s)."""
    least = _least(theta, floor).unsqueeze(-1)
    return _integral(krylov, theta, lambda t: t.sqrt() / (least + t))


def rsqrt_bound(krylov: Krylov, theta: Tensor, floor: float | None) -> Tensor:
    """An upper bound of the error of B^-1/2 z in the norm of B, (*batch, s)."""
    least = _least(theta, floor).unsqueeze(-1)
    return _integral(
        krylov, theta, lambda t: torch.where(t < least, (least / t).sqrt() / (least + t), 0.5 / t)
    )


def _least(theta: Tensor, floor: float | None) -> Tensor:
    return 0.5 * theta[..., 0] if floor is None else torch.full_like(theta[..., 0], floor)


def _integral(krylov: Krylov, theta: Tensor, weight: Callable[[Tensor], Tensor]) -> Tensor:
    """1 / pi times the integral of weight(t) |r_t| over t > 0, by the trapezoidal rule in log t."""
    scale = theta[..., -1].clamp_min(torch.finfo(theta.dtype).tiny)
    top = krylov.beta.log().sum(-1)
    total, step = torch.zeros_like(scale), 0.5
    for nodes in torch.arange(-50.0, 30.0, step, dtype=theta.dtype, device=theta.device).split(20):
        t = scale.unsqueeze(-1) * nodes.exp()
        logs = (theta.unsqueeze(-2) + t.unsqueeze(-1)).log().sum(-1)
        residual = krylov.norms.unsqueeze(-1) * (top.unsqueeze(-1) - logs).exp()
        total = total + step * (t * weight(t) * residual).sum(-1)
    return torch.where(krylov.beta[..., -1] > 0, total / math.pi, 0.0)


def _ratio(error: Tensor, size: Tensor) -> Tensor:
    return torch.where(error > 0, error / size + 10 * EPS, 0.0)

"""The logarithm of the determinant: stochastic Lanczos quadrature about a preconditioner.

For a preconditioner M = L'L = P^-1 and B = L A L', which is close to the identity,

    log det A = log det P + trace log B
    trace log B ~ mean of z' log(B) z over random signs z
    z' log(B) z ~ |z|^2 e_1' log(T) e_1                    T of the Lanczos process with B and z

(Ubaru, Chen, Saad, 2017; Gardner and others, 2018). The variance of the mean is that of the
off-diagonal of log B, so a good preconditioner takes nearly all of it away; log det P is known. Gauss
quadrature overestimates the integral of a logarithm, Gauss-Radau quadrature with a node below the
spectrum underestimates it (Golub and Meurant, 2010): their middle is the value, half their distance
the error. The node is what the preconditioner or the diagonal guarantees, otherwise half the smallest
Ritz value, and the error then no more than an estimate.

The same T and basis give B^-1 z, and with it the gradient, for the same z,

    d log det A ~ mean of (A^-1 v)' dA w                   v = L^-1 z, A^-1 v = L' B^-1 z, w = L' z
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...engine.transforms import refuse
from ...errors import BackendUnavailable, SolveError
from ..operator import LinearOperator, as_operator, cast
from ..solution import Status
from . import estimate as _estimate
from .congruence import Congruence, check_positive, in_sufficient_precision, require_symmetric
from .estimate import Estimate
from .lanczos import EPS, Krylov, check_finite, in_groups, tridiagonal

Tensor = torch.Tensor


def logdet(
    A: Any,
    *,
    preconditioner: Any = None,
    probes: int = 16,
    steps: int = 200,
    tol: float = 1e-4,
    exact_below: int = 1000,
    random_state: int = 0,
) -> Estimate:
    """log det A of a symmetric positive definite operator.

    Differentiable once in every tensor that A is made of (to any order where it is computed by
    factorisation), by an estimate from the same random vectors. These depend on ``random_state`` alone, so
    that two calls with different hyperparameters differ smoothly.

    Parameters
    ----------
    A : LinearOperator or array of shape (*batch, n, n)
    preconditioner : Preconditioner, recipe, name, LinearOperator or callable, optional
        What approximates the inverse of A: the better, the smaller the standard error and the fewer
        the products.
    probes : int
        Random vectors, at least 2. The standard error falls with their square root.
    steps : int
        Most products with A for each group of vectors that fits into ``options.memory_limit``.
    tol : float
        The iteration ends when its own error is below ``tol`` times the value (or ``tol`` itself, of
        values below 1) or a tenth of the standard error; and, if there is a gradient, relative residuals
        of A^-1 v are below ``tol``.
    exact_below : int
        Up to this n all entries are computed, and factorised in float64.
    random_state : int

    Returns
    -------
    Estimate
        With value and errors of shape (*batch).

    Raises
    ------
    ShapeError, OptionError
    SolveError
        If a NaN appears, or A is not positive definite to working precision: there is no value.
    BackendUnavailable
        For an estimate in forward mode, under transforms of `torch.func`, and for its second derivatives.

    Warns
    -----
    ConvergenceWarning
        If ``steps`` were not enough; the standard error holds what is missing.

    Examples
    --------
    >>> from kerngp.solvers import Dense, RPCholesky, identity
    >>> x = torch.linspace(0, 1, 100, dtype=torch.float64)
    >>> A = Dense(torch.exp(-((x[:, None] - x) ** 2)), psd=True) + 0.01 * identity(100)
    >>> found = logdet(A, preconditioner=RPCholesky(10), exact_below=0)
    >>> abs(float(found.value - torch.logdet(A.dense()))) < 1e-6
    True
    """
    A = as_operator(A)
    _estimate.check_count("probes", probes, 2, " (the standard error comes from their spread)")
    _estimate.check_count("steps", steps, 1)
    _estimate.check_tolerance(tol)
    if A.shape[-1] <= exact_below or A.shape[-1] == 0:
        return _exact(A)
    refuse("an estimated logdet", A.tensors)
    wanted = torch.is_grad_enabled()
    with torch.no_grad():
        B = Congruence.of("logdet", A, preconditioner)
        gradient = wanted and any(t.requires_grad for t in A.tensors)
        Z = _estimate.rademacher((A.shape[-1], probes), random_state, A.device)
        Z, limits = Z.expand(*A.shape[:-2], *Z.shape), _Limits(steps, tol, gradient)
        run, notes = in_sufficient_precision(B, Z, lambda B: _run(B, Z, limits))
    if not run.converged:
        _estimate.warn_unfinished("logdet", "steps", steps, float(run.gaps.mean(-1).max()))
    found = _estimate.random_estimate(
        run.samples,
        run.gaps.mean(-1),
        B.M.logdet().detach(),
        products=run.products,
        status=Status.converged if run.converged else Status.max_iter,
        notes=notes,
    )
    if run.pairs is None:
        return found
    value = _Attached.apply(found.value, A, *run.pairs, *A.tensors)
    return replace(found, value=value)


def _exact(A: LinearOperator) -> Estimate:
    require_symmetric("logdet", A)
    matrix = cast(A, torch.float64).dense()
    check_finite(matrix, "the entries of the matrix")
    L, info = torch.linalg.cholesky_ex(matrix)
    if bool((info != 0).any()):
        raise SolveError(
            f"logdet: the matrix is not positive definite; the leading block of {int(info[info != 0].min())} "
            "rows is not. Add more to the diagonal, and check that the kernel is positive definite."
        )
    return _estimate.exact(2.0 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1))


# ---------------------------------------------------------------- the estimate


@dataclass(frozen=True)
class _Limits:
    steps: int
    tol: float
    gradient: bool


@dataclass(frozen=True)
class _Run:
    """Samples of trace log B, (*batch, s), half the distance of both rules, and A^-1 v, w, (*batch, n, s)."""

    samples: Tensor
    gaps: Tensor
    pairs: tuple[Tensor, Tensor] | None
    converged: bool
    products: int


def _run(B: Congruence, Z: Tensor, limits: _Limits) -> tuple[_Run, float]:
    """The estimate, and the rounding that its smallest Ritz value allows."""
    offset = B.M.logdet()

    def enough(krylov: Krylov) -> bool:
        theta, Y = krylov.eigh()
        if bool((theta[..., 0] <= 10 * EPS * theta[..., -1]).any()):
            return True
        samples, gaps = quadrature(krylov, theta, Y, B.floor)
        spread = samples.std(-1) / Z.shape[-1] ** 0.5 if samples.shape[-1] > 1 else torch.zeros(())
        value = (samples.mean(-1) + offset).abs().clamp_min(1.0)
        good = gaps.mean(-1) <= torch.maximum(0.1 * spread.to(value), limits.tol * value)
        if not bool(good.all()):
            return False
        return not limits.gradient or float(krylov.residuals((theta, Y)).max()) <= limits.tol

    samples, gaps, solved, lowest, converged, products = [], [], [], float("inf"), True, 0
    for krylov in in_groups(B, Z, limits.steps, enough):
        theta, Y = krylov.eigh()
        check_positive("logdet", theta)
        lowest, products = min(lowest, float(theta.min())), products + krylov.steps
        converged = converged and enough(krylov)
        for store, values in zip((samples, gaps), quadrature(krylov, theta, Y, B.floor), strict=True):
            store.append(values)
        if limits.gradient:
            solved.append(B.right(krylov.apply(torch.reciprocal, (theta, Y))))
    pairs = (torch.cat(solved, -1), B.right(Z)) if limits.gradient else None
    return _Run(torch.cat(samples, -1), torch.cat(gaps, -1), pairs, converged, products), 1e-3 * lowest


def quadrature(
    krylov: Krylov,
    theta: Tensor,
    Y: Tensor,
    floor: float | None,
    f: Callable[[Tensor], Tensor] = torch.log,
) -> tuple[Tensor, Tensor]:
    """v' f(B) v for every start vector, (*batch, s), and how far it may be off.

    ``f`` is a function whose even derivatives have one sign and whose odd ones the other, as log and the
    reciprocal. ``floor`` is a lower bound of the spectrum of B; without one half the smallest Ritz value is
    taken.
    """
    size, weights = krylov.norms.square(), Y[..., 0, :].square()
    gauss = (weights * f(theta)).sum(-1) * size
    rounding = EPS * theta[..., -1] * (weights / theta).sum(-1) * size
    least = theta[..., 0]
    node = 0.5 * least if floor is None else least.clamp_max(floor / 0.999) * 0.999
    rest = krylov.beta[..., -1]
    last = node + rest.square() * (Y[..., -1, :].square() / (theta - node.unsqueeze(-1))).sum(-1)
    longer = tridiagonal(torch.cat([krylov.alpha, last.unsqueeze(-1)], -1), krylov.beta)
    theta, Y = torch.linalg.eigh(longer)
    values = f(theta.clamp_min(torch.finfo(theta.dtype).tiny))
    radau = (Y[..., 0, :].square() * values).sum(-1) * size
    return 0.5 * (gauss + radau), 0.5 * (gauss - radau).abs() + rounding


# ---------------------------------------------------------------- its gradient


class _Attached(torch.autograd.Function):
    """A value that is known, with the gradient mean of (u' dA w) over columns."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, A: LinearOperator, u: Tensor, w: Tensor, *tensors: Tensor) -> Tensor:
        ctx.A, ctx.u, ctx.w = A, u, w
        ctx.save_for_backward(*tensors)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        tensors, wanted = ctx.saved_tensors, ctx.needs_input_grad[4:]
        with torch.enable_grad():
            fresh = [t.detach().requires_grad_(w) for t, w in zip(tensors, wanted, strict=True)]
            A = ctx.A.with_tensors(fresh)
            product = A.matmul(ctx.w.to(A.torch_dtype)).double()
            form = (grad.detach() * (ctx.u * product).sum(-2).mean(-1)).sum()
            chosen = [t for t in fresh if t.requires_grad]
            parts = iter(torch.autograd.grad(form, chosen, allow_unused=True))
        grads = [next(parts) if w else None for w in wanted]
        if torch.is_grad_enabled():  # create_graph: say so when it is used
            grads = [None if g is None else _Once.apply(g, grad, *tensors) for g in grads]
        return (None, None, None, None, *grads)


class _Once(torch.autograd.Function):
    """A gradient that is a function of what it depends on, but has no derivative here."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, *inputs: Tensor) -> Tensor:
        return g.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise BackendUnavailable(
            "second derivatives of an estimated logdet are not defined; raise exact_below to the size of the "
            "matrix to have it factorised, which is differentiable to any order."
        )

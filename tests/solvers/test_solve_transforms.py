"""Solves under forward mode and the transforms of torch.func, against dense linear algebra by torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad

from kerngp import LazyTensor
from kerngp.engine.expr import Pm, Vi, Vj
from kerngp.engine.ops import exp, sqdist
from kerngp.errors import BackendUnavailable, ConvergenceWarning, ShapeError, SolveError
from kerngp.options import options
from kerngp.solvers import (
    CG,
    Cholesky,
    Dense,
    Diagonal,
    KernelOperator,
    LinearOperator,
    NoPreconditioner,
    RPCholesky,
    identity,
    kernel_solve,
    solve,
)
from kerngp.solvers.permuted import Permuted

Tensor = torch.Tensor
F = torch.float64
N = 4
GAUSS = exp(-Pm(2, 1) * sqdist(Vi(0, 2), Vj(1, 2)))
EXACT = CG(tol=1e-13)
ORDER = torch.tensor([2, 0, 3, 1])
POINTS = torch.tensor([[0.0, 0.1], [0.9, 0.4], [0.3, 1.2], [1.1, 1.0]], dtype=F)
RHS = torch.tensor([[1.0, 0.3], [-0.5, 1.0], [0.2, 0.7], [0.8, -1.0]], dtype=F)

# every kind of operator: a matrix as a function of one tensor t, and the same by torch. Points, rates,
# factors and diagonals depend on t, and so does the right-hand side.


def rate(t: Tensor) -> Tensor:
    return 1.0 + 0.5 * t.sum().cos()


def eye(t: Tensor) -> Tensor:
    return torch.eye(N, dtype=t.dtype)


def kernel(t: Tensor) -> LinearOperator:
    return KernelOperator(GAUSS, (t, t, rate(t)[None]), psd=True)


def congruence(K: LinearOperator, D: LinearOperator) -> LinearOperator:
    return K @ D @ K


def kernel_by_torch(t: Tensor) -> Tensor:
    return torch.exp(-rate(t) * (t[:, None] - t).square().sum(-1))


KINDS: dict[str, tuple[Callable[[Tensor], LinearOperator], Callable[[Tensor], Tensor]]] = {
    "dense": (
        lambda t: Dense(t.sum() * eye(t) + t @ t.T, psd=True),
        lambda t: t.sum() * eye(t) + t @ t.T,
    ),
    "diagonal": (lambda t: Diagonal(1.0 + t[:, 0].square()), lambda t: torch.diag(1.0 + t[:, 0].square())),
    "number": (
        lambda t: kernel(t) + t.sum() * identity(N),
        lambda t: kernel_by_torch(t) + t.sum() * eye(t),
    ),
    "noise": (
        lambda t: kernel(t) + Diagonal(1.0 + t[:, 0]),
        lambda t: kernel_by_torch(t) + torch.diag(1.0 + t[:, 0]),
    ),
    "scaled": (
        lambda t: t.sum() * kernel(t) + identity(N),
        lambda t: t.sum() * kernel_by_torch(t) + eye(t),
    ),
    "scaled dense": (
        lambda t: t.sum() * Permuted(Dense(t @ t.T, psd=True), ORDER, ORDER) + identity(N),
        lambda t: t.sum() * (t @ t.T)[ORDER.argsort()][:, ORDER.argsort()] + eye(t),
    ),
    "sum": (
        lambda t: kernel(t) + Dense(t @ t.T, psd=True) + t[0, 1] * identity(N),
        lambda t: kernel_by_torch(t) + t @ t.T + t[0, 1] * eye(t),
    ),
    "product": (
        lambda t: congruence(kernel(t), Diagonal(t[:, 1].exp())) + identity(N),
        lambda t: kernel_by_torch(t) @ torch.diag(t[:, 1].exp()) @ kernel_by_torch(t) + eye(t),
    ),
}


def solved(kind: str) -> Callable[[Tensor], Tensor]:
    def f(t: Tensor) -> Tensor:
        return solve(KINDS[kind][0](t), RHS * (1.0 + t.sum()), EXACT, on_fail="ignore").x

    return f


def by_torch(kind: str) -> Callable[[Tensor], Tensor]:
    # torch.linalg.solve itself is wrong in derivatives of forward derivatives; the inverse is not
    return lambda t: torch.linalg.inv(KINDS[kind][1](t)) @ (RHS * (1.0 + t.sum()))


# ---------------------------------------------------------------- transforms

MANY = torch.stack([POINTS, 0.5 * POINTS + 0.1, POINTS.flip(0) + 0.2])
Transform = Callable[[Callable[[Tensor], Tensor]], Tensor]


def number(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda t: f(t).sin().sum()


def dual(f: Callable[[Tensor], Tensor]) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(POINTS, POINTS.cos()))).tangent


def backward_of_dual(f: Callable[[Tensor], Tensor]) -> Tensor:
    t = POINTS.clone().requires_grad_()
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(f(forward_ad.make_dual(t, POINTS.cos()))).tangent
    return torch.autograd.grad(tangent.sin().sum(), t)[0]


def late_vjp(f: Callable[[Tensor], Tensor]) -> Tensor:
    value, pull = torch.func.vjp(f, POINTS)
    return torch.vmap(pull)(torch.stack([value, value.cos()]))[0]


FIRST: dict[str, Transform] = {
    "grad": lambda f: torch.func.grad(number(f))(POINTS),
    "jacrev": lambda f: torch.func.jacrev(f)(POINTS),
    "jacfwd": lambda f: torch.func.jacfwd(f)(POINTS),
    "jvp": lambda f: torch.func.jvp(f, (POINTS,), (POINTS.cos(),))[1],
    "vjp": late_vjp,
    "vmap": lambda f: torch.vmap(f)(MANY),
    "vmap, axis 1": lambda f: torch.vmap(f, in_dims=1, out_dims=2)(MANY.movedim(0, 1)),
    "dual": dual,
}
DEEPER: dict[str, Transform] = {
    "hessian": lambda f: torch.func.hessian(number(f))(POINTS),
    "jacrev of jacfwd": lambda f: torch.func.jacrev(torch.func.jacfwd(number(f)))(POINTS),
    "jacfwd of jacfwd": lambda f: torch.func.jacfwd(torch.func.jacfwd(number(f)))(POINTS),
    "jacrev of jacrev": lambda f: torch.func.jacrev(torch.func.jacrev(number(f)))(POINTS),
    "vmap of grad": lambda f: torch.vmap(torch.func.grad(number(f)))(MANY),
    "jvp of vmap": lambda f: torch.func.jvp(torch.vmap(f), (MANY,), (MANY.cos(),))[1],
    "vmap of jvp": lambda f: torch.vmap(lambda t: torch.func.jvp(f, (t,), (t.cos(),))[1])(MANY),
    "jacrev of vmap": lambda f: torch.func.jacrev(lambda t: torch.vmap(f)(t).sum((1, 2)))(MANY),
    "vmap of vmap": lambda f: torch.vmap(torch.vmap(f))(torch.stack([MANY, MANY + 0.1])),
    "vmap of hessian": lambda f: torch.vmap(torch.func.hessian(number(f)))(MANY),
    "backward of dual": backward_of_dual,
}


def compare(transform: Transform, kind: str) -> None:
    torch.testing.assert_close(transform(solved(kind)), transform(by_torch(kind)), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("transform", FIRST)
def test_every_kind_of_operator(transform: str, kind: str) -> None:
    compare(FIRST[transform], kind)


@pytest.mark.parametrize("transform", DEEPER)
@pytest.mark.parametrize("kind", ["sum", "scaled dense"])
def test_nested(transform: str, kind: str) -> None:
    compare(DEEPER[transform], kind)


def test_third_order() -> None:
    def third(f: Callable[[Tensor], Tensor]) -> Tensor:
        along = lambda s: number(f)(POINTS * (1.0 + s))  # noqa: E731
        return torch.func.jacfwd(torch.func.jacrev(torch.func.jacfwd(along)))(torch.zeros((), dtype=F))

    compare(third, "number")


# ---------------------------------------------------------------- what surrounds the solve


@pytest.mark.parametrize("method", [EXACT, Cholesky(), "cg", "cholesky", "auto"])
@pytest.mark.parametrize("transform", ["hessian", "vmap of grad"])
def test_methods(transform: str, method: Any) -> None:
    limits = {"tol": 1e-13} if method == "cg" else {}

    def f(t: Tensor) -> Tensor:
        return solve(KINDS["number"][0](t), RHS, method, on_fail="ignore", **limits).x

    want = DEEPER[transform](lambda t: torch.linalg.inv(KINDS["number"][1](t)) @ RHS)
    torch.testing.assert_close(DEEPER[transform](f), want, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("transform", {**FIRST, **DEEPER})
def test_a_preconditioner_of_the_same_numbers(transform: str) -> None:
    """An operator made of what is transformed: it is unwrapped and batched with the matrix."""

    def f(t: Tensor) -> Tensor:
        A = KINDS["noise"][0](t)
        P = Diagonal(1.0 / (2.0 + t[:, 0]))
        return solve(A, RHS, EXACT, preconditioner=P, on_fail="ignore").x

    call = {**FIRST, **DEEPER}[transform]
    want = call(lambda t: torch.linalg.inv(KINDS["noise"][1](t)) @ RHS)
    torch.testing.assert_close(call(f), want, rtol=1e-7, atol=1e-7)


class Once(NoPreconditioner):
    """The identity as a recipe that counts how often it is built."""

    built = 0

    def build(self, A: LinearOperator) -> LinearOperator:
        Once.built += 1
        return super().build(A)


@pytest.mark.parametrize("transform", ["grad", "jacrev", "jacfwd", "hessian", "jacfwd of jacfwd"])
def test_a_recipe_is_built_once(transform: str) -> None:
    Once.built, calls = 0, []

    def f(t: Tensor) -> Tensor:
        calls.append(t)
        return solve(KINDS["noise"][0](t), RHS, EXACT, preconditioner=Once(), on_fail="ignore").x

    {**FIRST, **DEEPER}[transform](f)
    assert Once.built == len(calls) == 1


def test_a_recipe_for_one_matrix() -> None:
    def f(t: Tensor) -> Tensor:
        return solve(KINDS["number"][0](t), RHS, EXACT, preconditioner=RPCholesky(3), on_fail="ignore").x

    for transform in ("jacrev", "jacfwd", "hessian"):  # their vmaps have one matrix
        call = {**FIRST, **DEEPER}[transform]
        want = call(lambda t: torch.linalg.inv(KINDS["number"][1](t)) @ RHS)
        torch.testing.assert_close(call(f), want, rtol=1e-7, atol=1e-7)
    with pytest.raises(ShapeError, match="RPCholesky works on one matrix"):
        torch.vmap(f)(MANY)


def test_many_right_hand_sides_are_one_solve() -> None:
    passes = []
    A = KINDS["number"][0](POINTS)
    s = torch.vmap(
        lambda b: solve(A, b, EXACT, callback=lambda p: passes.append(p.active), on_fail="ignore").x
    )
    b = torch.randn(3, N, 2, dtype=F)
    torch.testing.assert_close(s(b), torch.linalg.solve(A.dense(), b), rtol=0, atol=1e-10)
    assert passes[0] == 6 and len(passes) <= 2 * N


def test_results_that_are_not_differentiated() -> None:
    def f(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        s = solve(KINDS["number"][0](t), RHS, CG(tol=1e-3), x0=0.1 * RHS)
        return s.x, s.residual_norms, s.history

    x, norms, history = torch.vmap(f)(MANY)
    for k, t in enumerate(MANY):
        A = KINDS["number"][1](t)
        torch.testing.assert_close(norms[k], (RHS - A @ x[k]).norm(dim=0) / RHS.norm(dim=0))
        torch.testing.assert_close(history[k, 0], (RHS - 0.1 * A @ RHS).norm(dim=0) / RHS.norm(dim=0))
        alone = f(t)
        torch.testing.assert_close(x[k], alone[0], rtol=0, atol=1e-2)


def test_failures_are_told() -> None:
    def f(t: Tensor) -> Tensor:
        return solve(KINDS["number"][0](t), RHS, CG(tol=1e-12, max_iter=1)).x

    with pytest.warns(ConvergenceWarning, match="max_iter"):
        torch.vmap(f)(MANY)
    b = torch.eye(N, dtype=F)[:, :1]
    A = torch.diag(torch.tensor([1.0, 10.0, 100.0, 1000.0], dtype=F))

    def g(t: Tensor) -> Tensor:  # an eigenvector: one iteration; its gradient needs more
        return solve(Dense(t * A, psd=True), b, CG(tol=1e-12, max_iter=2), on_fail="raise").x.exp().sum()

    with pytest.raises(SolveError, match="gradient of a solve"):
        torch.func.grad(g)(torch.ones((), dtype=F))


def test_what_has_no_batch_says_so() -> None:
    class Opaque(Dense):
        def remade(self, new: Any) -> Any:
            return LinearOperator.remade(self, new)

    with pytest.raises(BackendUnavailable, match="vmap over the tensors of a Opaque"):
        torch.vmap(lambda t: solve(Opaque(t @ t.T + eye(t), psd=True), RHS).x)(MANY)


def test_float32() -> None:
    t = POINTS.float()

    def f(t: Tensor) -> Tensor:
        return solve(KINDS["number"][0](t), RHS, CG(tol=1e-6)).x

    for transform in (torch.func.jacrev, torch.func.jacfwd):
        got = transform(f)(t)
        want = transform(lambda t: torch.linalg.inv(KINDS["number"][1](t.double())) @ RHS)(POINTS)
        torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=1e-3)


def test_lazytensors_and_many_alphas_by_vmap() -> None:
    def f(alpha: Tensor) -> Tensor:
        x_i, x_j = LazyTensor(POINTS[:, None]), LazyTensor(POINTS[None])
        K = (-((x_i - x_j) ** 2).sum(-1)).exp().operator(psd=True)
        return kernel_solve(K, RHS, alpha, 1e-12)

    alphas = torch.tensor([0.1, 1.0, 10.0], dtype=F)
    K = torch.exp(-(POINTS[:, None] - POINTS).square().sum(-1))
    for k, a in enumerate(torch.vmap(f)(alphas)):
        torch.testing.assert_close(a, torch.linalg.solve(K + alphas[k] * eye(K), RHS), rtol=0, atol=1e-9)


def test_the_older_vmap_of_torch() -> None:
    f, want = solved("number"), torch.func.jacrev(by_torch("number"))(POINTS)
    got = torch.autograd.functional.jacobian(f, POINTS, vectorize=True)
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-7)
    t = POINTS.clone().requires_grad_()
    seeds = torch.eye(2 * N, dtype=F).reshape(2 * N, N, 2)
    (got,) = torch.autograd.grad(f(t), t, seeds, is_grads_batched=True)
    torch.testing.assert_close(got, want.flatten(0, 1), rtol=1e-7, atol=1e-7)


def test_derivatives_keep_the_options_of_the_call(launches: Any) -> None:
    t = POINTS.clone().requires_grad_()
    with options(backend="reference"):
        x = solve(KINDS["number"][0](t), RHS, EXACT, on_fail="ignore").x
    used = launches.compiled
    (g,) = torch.autograd.grad(x.sum(), t)
    assert launches.compiled == used
    (h,) = torch.autograd.grad((torch.linalg.inv(KINDS["number"][1](t)) @ RHS).sum(), t)
    torch.testing.assert_close(g, h)


def test_selected_rows_and_columns() -> None:
    keep = torch.tensor([0, 2, 3])

    def f(t: Tensor) -> Tensor:
        A = congruence(kernel(t), Diagonal(t[:, 1].exp())).submatrix(keep, keep) + identity(3)
        return solve(A, RHS[keep], EXACT, on_fail="ignore").x

    def by_inverse(t: Tensor) -> Tensor:
        A = kernel_by_torch(t) @ torch.diag(t[:, 1].exp()) @ kernel_by_torch(t)
        return torch.linalg.inv(A[keep][:, keep] + torch.eye(3, dtype=F)) @ RHS[keep]

    for transform in ("jacrev", "vmap of grad"):
        call = {**FIRST, **DEEPER}[transform]
        torch.testing.assert_close(call(f), call(by_inverse), rtol=1e-7, atol=1e-7)

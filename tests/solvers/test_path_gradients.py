"""Many alphas at once, differentiated: in the matrix, the right-hand side and the alphas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

from kerngp.engine.expr import Pm, Vi, Vj
from kerngp.engine.ops import exp, sqdist
from kerngp.errors import BackendUnavailable, ConvergenceWarning, OptionError, SolveError
from kerngp.solvers import (
    CG,
    Cholesky,
    Dense,
    KernelOperator,
    RPCholesky,
    Status,
    solve_path,
)

Tensor = torch.Tensor
F = torch.float64
N = 5
GAUSS = exp(-Pm(2, 1) * sqdist(Vi(0, 2), Vj(1, 2)))
ALPHAS = torch.tensor([0.4, 3.0, 1.0], dtype=F)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(N, 2, dtype=F, requires_grad=True)


@pytest.fixture
def b() -> Tensor:
    return torch.randn(N, 2, dtype=F, requires_grad=True)


def operator(x: Tensor, rate: Tensor) -> KernelOperator:
    return KernelOperator(GAUSS, (x, x, rate.reshape(1)), psd=True)


def by_torch(x: Tensor, rate: Tensor, b: Tensor, alphas: Tensor) -> Tensor:
    K = torch.exp(-rate * (x[:, None] - x).square().sum(-1))
    return torch.stack([torch.linalg.inv(K + a * torch.eye(N, dtype=F)) @ b for a in alphas])


@pytest.mark.parametrize("method", [CG(tol=1e-13), Cholesky()], ids=["CG", "Cholesky"])
def test_first_and_second_order(x, b, method) -> None:
    rate = torch.tensor(0.7, dtype=F, requires_grad=True)
    alphas = ALPHAS.clone().requires_grad_()

    def f(x, rate, b, alphas):
        return solve_path(operator(x, rate), b, alphas, method, on_fail="ignore").x

    assert torch.autograd.gradcheck(f, (x, rate, b, alphas))
    assert torch.autograd.gradgradcheck(f, (x, rate, b, alphas), fast_mode=True)
    torch.testing.assert_close(f(x, rate, b, alphas), by_torch(x, rate, b, alphas), rtol=0, atol=1e-9)


@pytest.mark.parametrize("transform", ["jacrev", "jacfwd", "hessian", "vmap of b", "vmap of x", "dual"])
def test_transforms(x, b, transform) -> None:
    x, b, rate = x.detach(), b.detach(), torch.tensor(0.7, dtype=F)

    def along(f):
        if transform == "hessian":
            return torch.func.hessian(lambda s: f(x, rate * s, b, ALPHAS * s).sin().sum())(rate)
        if transform == "vmap of b":
            return torch.vmap(lambda b: f(x, rate, b, ALPHAS))(torch.stack([b, b.cos(), b.sin()]))
        if transform == "vmap of x":
            return torch.vmap(lambda x: f(x, rate, b, ALPHAS))(torch.stack([x, 2 * x]))
        if transform == "dual":
            with forward_ad.dual_level():
                alphas = forward_ad.make_dual(ALPHAS, ALPHAS.cos())
                return forward_ad.unpack_dual(f(x, rate, b, alphas)).tangent
        return getattr(torch.func, transform)(lambda a: f(x, rate, b, a))(ALPHAS)

    def ours(x, rate, b, alphas):
        return solve_path(operator(x, rate), b, alphas, CG(tol=1e-13), on_fail="ignore").x

    torch.testing.assert_close(along(ours), along(by_torch), rtol=1e-7, atol=1e-7)


def test_vmap_over_alphas_says_what_to_do(x, b) -> None:
    f = torch.vmap(lambda a: solve_path(operator(x.detach(), ALPHAS[0]), b.detach(), a).x)
    with pytest.raises(BackendUnavailable, match="give all of them in one call"):
        f(torch.stack([ALPHAS, ALPHAS]))


def test_alphas_of_several_tensors(b) -> None:
    one, two = (torch.tensor(v, dtype=F, requires_grad=True) for v in (1.0, 3.0))
    K = Dense(torch.eye(N, dtype=F), psd=True)
    s = solve_path(K, b.detach(), [one, 2.0, two], "cg", tol=1e-12)
    grads = torch.autograd.grad(s.x.sum(), (one, two))
    want = [-b.detach().sum() / (1 + v) ** 2 for v in (1.0, 3.0)]
    torch.testing.assert_close(torch.stack(grads), torch.stack(want))


@pytest.mark.parametrize("preconditioner", ["rpcholesky", "auto", None, RPCholesky(3), lambda r: 0.5 * r])
@pytest.mark.parametrize("method", ["cg", "auto", "cholesky"])
def test_names(x, b, method, preconditioner) -> None:
    s = solve_path(
        operator(x, ALPHAS[0]), b[:, 0], [1.0, 0.2, 1.0], method, preconditioner=preconditioner, tol=1e-10
    )
    want = by_torch(x, ALPHAS[0], b[:, :1], torch.tensor([1.0, 0.2, 1.0]))
    assert s.status is Status.converged and s.x.shape == (3, N) and s.residual_norms.shape == (3,)
    torch.testing.assert_close(s.x, want[..., 0], rtol=0, atol=1e-7)
    (g,) = torch.autograd.grad(s.x.sum(), x, retain_graph=True)
    (h,) = torch.autograd.grad(want.sum(), x)
    torch.testing.assert_close(g, h, rtol=1e-6, atol=1e-6)


def test_an_operator_serves_all(x, b) -> None:
    K = operator(x.detach(), ALPHAS[0])
    P = Dense(torch.linalg.inv(K.dense() + torch.eye(N, dtype=F)), psd=True)
    s = solve_path(K, b.detach(), ALPHAS, CG(tol=1e-12), preconditioner=P)
    want = by_torch(x, ALPHAS[0], b, ALPHAS).detach()
    torch.testing.assert_close(s.x, want, rtol=0, atol=1e-9)


def test_numpy_and_float32(x, b) -> None:
    K, rhs = np.eye(3, dtype=np.float32), np.ones(3, dtype=np.float32)
    found = solve_path(K, rhs, [1.0, 3.0], CG(tol=1e-5))
    assert isinstance(found.x, np.ndarray) and found.x.dtype == np.float32
    np.testing.assert_allclose(found.x, [[0.5] * 3, [0.25] * 3], rtol=1e-6)


def test_failures(b) -> None:
    K = Dense(torch.diag(torch.logspace(0, 6, N, dtype=F)), psd=True)
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        solve_path(K, b, [1e-3, 1.0], CG(tol=1e-12, max_iter=2))
    with pytest.raises(SolveError, match="max_iter"):
        solve_path(K, b, [1e-3, 1.0], CG(tol=1e-12, max_iter=2), on_fail="raise")
    with pytest.raises(OptionError, match="on_fail='no'"):
        solve_path(K, b, [1.0], on_fail="no")
    with pytest.raises(OptionError, match="expected finite numbers, none of them negative"):
        solve_path(K, b, torch.tensor([1.0, -1.0]))
    B = Dense(torch.diag(torch.tensor([-2.0, 1, 1, 1, 1], dtype=F)), symmetric=True)
    s = solve_path(B, b, [1.0, 5.0], "cholesky", on_fail="ignore")
    assert s.status is Status.indefinite
    assert bool(torch.isnan(s.x[0]).all()) and bool(torch.isfinite(s.x[1]).all())

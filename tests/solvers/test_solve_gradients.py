"""The differentiation rule of `solve`: first and second order, in the matrix and in the right-hand side."""

from __future__ import annotations

import warnings

import pytest
import torch

from kerngp.engine.expr import Pm, Vi, Vj
from kerngp.engine.ops import exp, sqdist
from kerngp.errors import ConvergenceWarning, SolveError
from kerngp.solvers import (
    CG,
    Cholesky,
    Dense,
    Diagonal,
    KernelOperator,
    KernelSystem,
    Solution,
    Status,
    identity,
    solve,
)
from kerngp.solvers.resolve import METHODS

F = torch.float64
GAUSS = exp(-Pm(2, 1) * sqdist(Vi(0, 2), Vj(1, 2)))
N = 4


@pytest.fixture
def x():
    return torch.randn(N, 2, dtype=F, requires_grad=True)


@pytest.fixture
def b():
    return torch.randn(N, 2, dtype=F, requires_grad=True)


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=F, requires_grad=True)


@pytest.mark.parametrize("method", [CG(tol=1e-13), Cholesky()], ids=["CG", "Cholesky"])
def test_dense(method, b):
    root = torch.randn(N, N, dtype=F, requires_grad=True)

    def f(root, b, alpha):
        A = Dense(root @ root.T, psd=True) + alpha * identity(N)
        return solve(A, b, method, on_fail="ignore").x

    assert torch.autograd.gradcheck(f, (root, b, number(0.5)))
    assert torch.autograd.gradgradcheck(f, (root, b, number(0.5)))


def test_kernel(x, b):
    def f(x, rate, scale, alpha, b):
        K = KernelOperator(GAUSS, (x, x, rate.reshape(1)), psd=True)
        return solve(scale * K + alpha * identity(N), b, CG(tol=1e-13), on_fail="ignore").x

    inputs = (x, number(0.7), number(1.5), number(0.3), b)
    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs)


def test_arguments_that_depend_on_each_other(x, b):
    """y = 2 x as a second argument: its gradient must reach x once, not twice."""

    def f(x, b):
        y = x + 1e-1 * torch.sin(x)
        K = KernelOperator(GAUSS, (x, y, torch.ones(1, dtype=F)), symmetric=True)
        A = K + KernelOperator(GAUSS, (y, x, torch.ones(1, dtype=F)), symmetric=True) + 1.0 * identity(N)
        return solve(A, b, CG(tol=1e-13), on_fail="ignore").x

    assert torch.autograd.gradcheck(f, (x, b))


def test_diagonal_matrix(b):
    d = torch.rand(N, dtype=F).add(0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda d, b: solve(Diagonal(d), b, CG(tol=1e-13)).x, (d, b))


def test_vector_and_shared_right_hand_side():
    root = torch.randn(2, N, N, dtype=F)
    A = (root @ root.mT + torch.eye(N, dtype=F)).requires_grad_()
    b = torch.randn(N, dtype=F, requires_grad=True)

    def f(A, b):
        return solve(Dense((A + A.mT) / 2, psd=True), b, CG(tol=1e-13)).x

    assert f(A, b).shape == (2, N)
    assert torch.autograd.gradcheck(f, (A, b))


def test_agrees_with_torch(x, b):
    rate = number(0.7)
    K = KernelOperator(GAUSS, (x, x, rate.reshape(1)), psd=True) + 0.1 * identity(N)
    q = (x[:, None] - x).square().sum(-1)
    want = torch.linalg.solve(torch.exp(-rate * q) + 0.1 * torch.eye(N, dtype=F), b).square().sum()
    got = solve(K, b, CG(tol=1e-12)).x.square().sum()
    for one, other in zip(
        torch.autograd.grad(got, (x, rate, b)), torch.autograd.grad(want, (x, rate, b)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


def test_only_what_is_asked_for(x, b):
    K = KernelOperator(GAUSS, (x.detach(), x.detach(), torch.ones(1, dtype=F)), psd=True) + 1.0 * identity(N)
    (g,) = torch.autograd.grad(solve(K, b, CG(tol=1e-12)).x.sum(), b)
    torch.testing.assert_close(g, torch.linalg.solve(K.dense(), torch.ones(N, 2, dtype=F)))
    assert not solve(K, b.detach()).x.requires_grad


def test_float32():
    x = torch.randn(30, 2, requires_grad=True)
    b = torch.randn(30, 1, dtype=F)
    K = KernelOperator(GAUSS, (x, x, torch.ones(1)), psd=True) + 0.5 * identity(30)
    (g,) = torch.autograd.grad(solve(K, b).x.square().sum(), x)
    y = x.detach().double().requires_grad_()
    L = KernelOperator(GAUSS, (y, y, torch.ones(1, dtype=F)), psd=True) + 0.5 * identity(30)
    (h,) = torch.autograd.grad(solve(L, b, CG(tol=1e-12)).x.square().sum(), y)
    assert g.dtype == torch.float32
    torch.testing.assert_close(g.double(), h, rtol=1e-4, atol=1e-4)


def test_preconditioner_serves_the_gradient(b):
    A = torch.diag(torch.logspace(0, 6, N, dtype=F)).requires_grad_()
    P = Dense(torch.diag(torch.logspace(0, -6, N, dtype=F)), psd=True)
    s = solve(Dense(A, psd=True), b, CG(tol=1e-10, max_iter=3), preconditioner=P, on_fail="raise")
    torch.autograd.grad(s.x.sum(), (A, b))  # would raise if three iterations were not enough again


def test_failure_in_the_gradient_is_reported():
    A = torch.diag(torch.logspace(0, 5, 50, dtype=F))
    b = torch.zeros(50, dtype=F)
    b[0] = 1.0  # an eigenvector: one iteration
    b.requires_grad_()
    s = solve(Dense(A, psd=True), b, CG(tol=1e-10, max_iter=5), on_fail="raise")
    with pytest.raises(SolveError, match="gradient of a solve"):
        s.x.backward(torch.ones(50, dtype=F))
    s = solve(Dense(A, psd=True), b, CG(tol=1e-10, max_iter=5))
    with pytest.warns(ConvergenceWarning, match="gradient of a solve"):
        s.x.backward(torch.ones(50, dtype=F))


UNPREPARED = ("alternating", "askotch", "cholesky")  # a preconditioner changes nothing
CASES = [
    (method, preconditioner)
    for method in sorted(METHODS)
    for preconditioner in (None, "jacobi", "rpcholesky")
    if method != "sdd" and (preconditioner is None or method not in UNPREPARED)  # sdd: slow, in test_table
]


@pytest.mark.parametrize(("method", "preconditioner"), CASES)
def test_every_method(method, preconditioner, x, b):
    """The rule does not know which method found x."""

    def f(x, alpha, b):
        A = KernelOperator(GAUSS, (x, x, torch.ones(1, dtype=F)), psd=True) + alpha * identity(N)
        return solve(A, b, method, preconditioner=preconditioner, tol=1e-13, on_fail="ignore").x

    assert torch.autograd.gradcheck(f, (x, number(0.8), b))
    if preconditioner is None:
        assert torch.autograd.gradgradcheck(f, (x, number(0.8), b), fast_mode=True)


class LU:
    """A method of the user's own, for any square matrix; takes note of the preconditioners it is given."""

    tol = 1e-12

    def __init__(self):
        self.given = []

    def run(self, A, b, *, preconditioner=None, x0=None, callback=None):
        self.given.append(None if preconditioner is None else preconditioner.dense())
        x = torch.linalg.solve(A.dense(), b)
        norms = (b - A.matmul(x)).norm(dim=-2) / b.norm(dim=-2)
        return Solution(x, Status.converged, 1, norms, norms[None])


def test_matrices_that_are_not_symmetric(b):
    """The gradient solves with the transpose, and with the preconditioner's."""
    M = (torch.randn(N, N, dtype=F) + 4 * torch.eye(N, dtype=F)).requires_grad_()
    assert torch.autograd.gradcheck(lambda M, b: solve(Dense(M), b, LU()).x, (M, b))
    assert torch.autograd.gradgradcheck(lambda M, b: solve(Dense(M), b, LU()).x, (M, b))
    method, P = LU(), torch.randn(N, N, dtype=F)
    solve(Dense(M), b, method, preconditioner=Dense(P)).x.sum().backward()
    forward, backward = method.given
    torch.testing.assert_close(backward, forward.T)


# ---------------------------------------------------------------- KernelSystem


def test_kernel_solve_gradients(x, b):
    call = KernelSystem(GAUSS * Vj(3, 2), 3)

    def f(x, rate, b, alpha):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return call(x, x, rate, b, alpha=alpha, eps=1e-13)

    inputs = (x, torch.tensor([0.7], dtype=F, requires_grad=True), b, number(0.3))
    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs)

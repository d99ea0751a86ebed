"""The diagonal as a preconditioner."""

from __future__ import annotations

import pytest
import torch
from preconditioner_cases import PreconditionerCase, kernel_system

from kerngp.errors import OptionError, ShapeError
from kerngp.solvers import CG, Dense, Diagonal, Jacobi, solve

F = torch.float64
NOISE = torch.logspace(-3, 2, 60, dtype=F)


class TestJacobi(PreconditionerCase):
    def recipe(self):
        return Jacobi()

    def operator(self):
        return kernel_system().base + Diagonal(NOISE)

    def changed(self):
        return kernel_system(lengthscale=0.7).base + Diagonal(2.0 * NOISE)

    def same_choices(self, M, A):
        return torch.diag(1.0 / A.dense().diagonal())


def test_floor_is_known_with_a_diagonal_alone():
    A = kernel_system()
    assert Jacobi().build(A).floor == pytest.approx(0.05 / 1.05)
    assert Jacobi().build(A.base).floor is None
    assert Jacobi().build(Dense(A.dense(), psd=True)).floor is None


def test_bad_scaling_is_cured():
    K = kernel_system(100, lengthscale=0.1).dense()
    s = torch.logspace(-6, 6, 100, dtype=F)
    A = Dense(s[:, None] * K * s, psd=True)
    with_it = solve(A, s, CG(), preconditioner=Jacobi())
    assert with_it.converged
    assert with_it.iterations < 0.2 * solve(A, s, CG(), on_fail="ignore").iterations


def test_batch_and_float32():
    K = torch.stack([kernel_system(30, lengthscale=s).dense() for s in (0.2, 0.4)])
    d = torch.rand(2, 30, dtype=F) + 0.1
    M = Jacobi().build(Dense(K, psd=True) + Diagonal(d))
    want = torch.diag_embed(1.0 / (1.05 + d))
    torch.testing.assert_close(M.dense(), want)
    torch.testing.assert_close(M.logdet(), -torch.logdet(want))
    b = torch.ones(30, 3, dtype=F)
    torch.testing.assert_close(M @ b, want @ b)
    single = Jacobi().build(kernel_system(7, dtype=torch.float32))
    assert single.torch_dtype == F
    torch.testing.assert_close(single.diag(), torch.full((7,), 1 / 1.05, dtype=F), rtol=1e-6, atol=0)


def test_messages():
    for d in ([1.0, 0.0], [1.0, -1.0], [1.0, torch.nan]):
        with pytest.raises(OptionError, match="positive diagonal"):
            Jacobi().build(Dense(torch.diag(torch.tensor(d)), symmetric=True))
    with pytest.raises(ShapeError, match="square"):
        Jacobi().build(Dense(torch.zeros(2, 3)))

"""The Nystrom approximation from a sketch: what it is, how good it is, and what it does for the iteration."""

from __future__ import annotations

import pytest
import torch
from preconditioner_cases import PreconditionerCase, kernel_system

from kerngp.errors import OptionError, ShapeError, SolveError
from kerngp.options import options
from kerngp.solvers import CG, Dense, Nystrom, RPCholesky, Status, cast, identity, solve
from kerngp.solvers.meter import metering

F = torch.float64


class TestNystrom(PreconditionerCase):
    def recipe(self):
        return Nystrom(20, random_state=3)

    def same_choices(self, M, A):
        return self.recipe().build(A).dense()


class TestAdaptive(PreconditionerCase):
    def recipe(self):
        return Nystrom(4, tol=5.0)

    def same_choices(self, M, A):
        return Nystrom(M.low_rank.factor.shape[0]).build(A).dense()


class TestFloat32(PreconditionerCase):
    def recipe(self):
        return Nystrom(30)

    def operator(self):
        return kernel_system(dtype=torch.float32)

    def changed(self):
        return kernel_system(alpha=0.02, lengthscale=0.7, dtype=torch.float32)

    def same_choices(self, M, A):
        return self.recipe().build(A).dense()


def spectrum(values: torch.Tensor) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(len(values), len(values), generator=g, dtype=F))[0]
    A = (Q * values) @ Q.T
    return 0.5 * (A + A.T)


@pytest.mark.parametrize("n", [1, 2, 7, 31, 200])
def test_below_the_matrix_and_near_the_best(n):
    values = torch.logspace(0, -8, n, dtype=F)
    K = spectrum(values)
    for rank in (1, 5, 31):
        low = Nystrom(rank).approximate(Dense(K, psd=True))
        rest = K - low.factor.T @ low.factor
        assert low.factor.shape[0] <= min(rank, n)
        assert float(torch.linalg.eigvalsh(rest).min()) > -(low.rounding**2)
        assert low.rounding < 1e-6
        assert float(torch.linalg.matrix_norm(rest, 2)) <= 3 * float(values[rank // 2 :].sum()) + 1e-12


def test_the_shift_leaves_no_trace():
    """A matrix of low rank is found exactly, without the shift that made its core definite."""
    values = torch.zeros(100, dtype=F)
    values[:5] = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    low = Nystrom(20).approximate(Dense(spectrum(values), psd=True))
    assert low.factor.shape == (5, 100)
    torch.testing.assert_close(
        torch.linalg.svdvals(low.factor).square(), values[:5].flip(0), rtol=1e-8, atol=0
    )
    assert Nystrom(5).approximate(Dense(torch.zeros(9, 9, dtype=F), psd=True)).factor.shape == (0, 9)


@pytest.mark.parametrize("dtype", [F, torch.float32])
def test_floor_at_tiny_alpha(dtype):
    for alpha in (1e-3, 1e-6, 1e-9):
        A = kernel_system(80, lengthscale=2.0, alpha=alpha, dtype=dtype)
        M = Nystrom(60).build(A)
        dense = cast(A, F).dense()
        least = float(torch.linalg.eigvals(M.dense() @ dense).real.min())
        assert M.floor is None or M.floor <= least * (1 + 1e-6)
        assert float(torch.linalg.eigvalsh(M.dense()).min()) > 0


def test_adaptive_rank_meets_its_tolerance():
    values = torch.logspace(2, -20, 300, dtype=F)
    A = Dense(spectrum(values), psd=True) + 1e-2 * identity(300)
    M = Nystrom(8, tol=10.0).build(A)
    rest = A.dense() - M.low_rank.factor.T @ M.low_rank.factor - 1e-2 * torch.eye(300, dtype=F)
    assert float(torch.linalg.matrix_norm(rest, 2)) <= 10 * 1e-2
    assert 8 < M.low_rank.factor.shape[0] < 300
    loose = Nystrom(8, tol=1e3).build(A).low_rank.factor.shape[0]
    assert loose < M.low_rank.factor.shape[0]
    assert Nystrom(8, tol=1e-9, max_rank=20).build(A).low_rank.factor.shape[0] == 20
    assert Nystrom(8, tol=1e-9).build(A).low_rank.factor.shape[0] <= 300


def test_products_only():
    """One product with all columns; nothing else is asked of the operator."""
    A = kernel_system(300)
    with metering() as meter:
        Nystrom(50).build(A)
    assert meter.entries == {"products": 300.0**2}


@pytest.mark.parametrize("dtype", [F, torch.float32])
def test_iterations_fall_as_with_pivots(dtype):
    A = kernel_system(500, lengthscale=1.0, alpha=1e-3, dtype=dtype)
    b = torch.ones(500, dtype=F)
    counts = []
    for recipe in (None, RPCholesky(80), Nystrom(80)):
        s = solve(A, b, CG(tol=1e-6), preconditioner=recipe)
        assert s.status is Status.converged
        counts.append(s.iterations)
    assert counts[2] < 0.4 * counts[0]
    assert counts[2] < 1.5 * counts[1]


def test_refresh_with_another_alpha_keeps_the_factor():
    A = kernel_system()
    M = Nystrom(20).build(A)
    with metering() as meter:
        again = M.refresh(A.base + 0.5 * identity(60))
    assert not meter.entries
    assert again.low_rank.factor is M.low_rank.factor


def test_default_rank_follows_the_memory():
    assert Nystrom().build(kernel_system(150)).low_rank.factor.shape[0] <= 100
    with options(memory_limit=1 << 20):
        assert Nystrom().approximate(kernel_system(2000).base).factor.shape[0] <= 16


def test_messages():
    A = kernel_system()
    for name in ("rank", "max_rank"):
        with pytest.raises(OptionError, match=f"{name}=0"):
            Nystrom(**{name: 0})
    with pytest.raises(OptionError, match="tol=-1"):
        Nystrom(tol=-1)
    with pytest.raises(OptionError, match=r"alpha \* identity"):
        Nystrom().build(A.base)
    with pytest.raises(ShapeError, match="one matrix"):
        Nystrom().approximate(Dense(torch.zeros(2, 3, 3)))
    with pytest.raises(ShapeError, match="square"):
        Nystrom().approximate(Dense(torch.zeros(2, 3)))
    with pytest.raises(SolveError, match="NaN"):
        Nystrom().approximate(Dense(torch.full((3, 3), torch.nan)))

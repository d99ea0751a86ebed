"""Vecchia's factor against its definition, what it does for the iteration, and hard matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from operator_cases import OperatorCase
from preconditioner_cases import PreconditionerCase, kernel_system

from kerngp.engine.expr import Pm, Vi, Vj
from kerngp.engine.formulas import FORMULAS
from kerngp.engine.ops import concat, exp, sqdist
from kerngp.errors import OptionError, ShapeError
from kerngp.options import options
from kerngp.solvers import CG, Dense, Diagonal, KernelOperator, Status, Vecchia, cast, identity, solve
from kerngp.solvers.meter import metering
from kerngp.solvers.preconditioners import VecchiaInverse
from kerngp.solvers.sparse import Sparse, _torch

F = torch.float64


def by_definition(A: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
    """L, dense, row by row."""
    L = torch.zeros_like(A)
    for i, row in enumerate(parents.tolist()):
        idx = torch.tensor([k for k in row if k >= 0] + [i])
        w = torch.linalg.inv(A[idx][:, idx])[:, -1]
        L[i, idx] = w / w[-1].sqrt()
    return L


class TestVecchia(PreconditionerCase):
    def recipe(self):
        return Vecchia(8)

    def same_choices(self, M, A):
        L = by_definition(A.dense(), M.parents)
        return L.T @ L

    def test_factor(self):
        A, M = self.build()
        self.close(M.factor.dense(), by_definition(A.dense(), M.parents))
        assert M.floor is None
        assert M.notes == ()
        assert M.description == "Vecchia, 8 neighbours"


class TestVecchiaDense(TestVecchia):
    def operator(self):
        return Dense(kernel_system().dense(), psd=True)

    def changed(self):
        return Dense(kernel_system(alpha=0.02, lengthscale=0.7).dense(), psd=True)


class TestVecchiaDiagonalThatVaries(TestVecchia):
    tolerance = 1e-8

    def operator(self):
        return kernel_system(alpha=0.0) + Diagonal(torch.logspace(-4, 1, 60, dtype=F))


class TestVecchiaOperator(OperatorCase):
    tolerance = 1e-10

    def create(self):
        return Vecchia(3).build(kernel_system(12))

    def evaluate(self, operator):
        L = torch.zeros(operator.shape, dtype=F)
        for i, row in enumerate(operator.parents.tolist()):
            for k, j in enumerate([*row, i]):
                if j >= 0:
                    L[i, j] = operator.weights[i, k]
        return L.T @ L

    def test_cast(self):
        single = cast(self.create(), torch.float32)
        assert single.torch_dtype == F  # the arithmetic is float64
        torch.testing.assert_close(single.dense(), self.create().dense(), rtol=1e-4, atol=1e-4)


def sparse_matrix(transposed: bool = False) -> Sparse:
    columns = torch.tensor([0, 4, 2, 1, 0, 3], dtype=torch.int32)
    values = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=F)
    return Sparse(torch.tensor([0, 2, 2, 3, 6]), columns, values, (4, 5), transposed)


class TestSparse(OperatorCase):
    def create(self):
        return sparse_matrix()

    def evaluate(self, operator):
        out = torch.zeros(4, 5, dtype=operator.torch_dtype)
        row = torch.tensor([0, 0, 2, 3, 3, 3])
        out[row, operator.column_of.long()] = operator.values
        return out.T if operator.transposed else out


class TestSparseTransposed(TestSparse):
    def create(self):
        return sparse_matrix(transposed=True)


class TestSparseSquare(OperatorCase):
    def create(self):
        columns, values = torch.tensor([1, 0, 1, 2]), torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=F)
        return Sparse(torch.tensor([0, 1, 3, 4]), columns, values, (3, 3))

    def evaluate(self, operator):
        a, b, c, d = operator.values
        zero = torch.zeros_like(a)
        rows = (torch.stack([zero, a, zero]), torch.stack([b, c, zero]), torch.stack([zero, zero, d]))
        return torch.stack(rows)


@pytest.mark.parametrize("transposed", [False, True])
def test_sparse_products_on_other_devices(transposed, monkeypatch):
    """By torch instead of SciPy."""
    A = sparse_matrix(transposed)
    want = A.dense()
    monkeypatch.setattr("kerngp.solvers.sparse._scipy", _torch)
    B = sparse_matrix(transposed)
    assert isinstance(B._matrix, torch.Tensor)
    torch.testing.assert_close(B.dense(), want)


def test_sparse_products_are_differentiable_in_the_vector():
    A = sparse_matrix()
    b = torch.randn(2, 5, 3, dtype=F, requires_grad=True)
    assert torch.autograd.gradcheck(A.matmul, (b,))
    assert torch.autograd.gradgradcheck(lambda v: A.matmul(v).square(), (b,))


# ---------------------------------------------------------------- the approximation


@pytest.mark.parametrize("n", [1, 2, 7, 31, 33, 100])
@pytest.mark.parametrize("dtype", [F, torch.float32])
def test_all_neighbours_give_the_inverse(n, dtype):
    A = kernel_system(n, dtype=dtype)
    M = Vecchia(n + 5).build(A)
    b = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=F)
    exact = cast(A, F).dense()
    # entries are computed in float64 from the arguments whatever their dtype
    torch.testing.assert_close(M @ b, torch.linalg.solve(exact, b), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(M.logdet(), torch.linalg.slogdet(exact)[1])


def test_no_neighbours_give_the_diagonal():
    A = kernel_system(20)
    torch.testing.assert_close(Vecchia(0).build(A).dense(), torch.diag(1 / A.diag()))


def test_kullback_leibler_falls_with_neighbours():
    A = kernel_system(300).dense()
    logdet = torch.linalg.slogdet(A)[1]
    last, first = float("inf"), 0.5 * float(A.diagonal().log().sum() - logdet)
    for m in (0, 2, 5, 10, 30):
        M = Vecchia(m).build(Dense(A, psd=True))
        L = M.factor.dense()
        # of N(0, A) from N(0, (L'L)^-1): (trace(L A L') - n - logdet(L'L) - logdet(A)) / 2, the trace is n
        torch.testing.assert_close((L @ A @ L.T).diagonal(), torch.ones(300, dtype=F))
        divergence = 0.5 * float(M.logdet() - logdet)
        assert 0 < divergence <= min(last, first) + 1e-9
        last = divergence
    assert last < 0.01 * first


def points_on_a_sphere(n: int) -> torch.Tensor:
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(2), dtype=F)
    return x / x.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("dtype", [F, torch.float32])
def test_few_iterations_where_low_rank_is_of_no_use(dtype):
    n = 2000
    x = points_on_a_sphere(n).to(dtype)
    K = KernelOperator(FORMULAS["matern32"](Vi(0, 3) / Pm(2, 1), Vj(1, 3) / Pm(2, 1)),
                       (x, x, torch.tensor([0.2], dtype=dtype)), psd=True)  # fmt: skip
    A, b = K + 8e-3 * identity(n), torch.sin(9 * x[:, :1].double())
    plain = solve(A, b, CG(tol=1e-6, max_iter=60), on_fail="ignore")
    assert plain.status is Status.max_iter
    s = solve(A, b, CG(tol=1e-6), preconditioner=Vecchia(30))
    assert s.converged
    assert s.iterations <= (10 if dtype == F else 20)


def test_work_is_counted():
    with metering() as meter:
        Vecchia(10).build(kernel_system(500))
    assert set(meter.entries) == {"neighbours", "rows"}
    assert meter.entries["rows"] == 500 * 11**2 + 500
    assert meter.seconds["neighbours"] > 0


def test_refresh_searches_no_neighbours():
    M = Vecchia(10).build(kernel_system(500))
    with metering() as meter:
        again = M.refresh(kernel_system(500, alpha=1e-3, lengthscale=0.2))
    assert set(meter.entries) == {"rows"}
    assert again.parents is M.parents


def test_refresh_over_steps_of_hyperparameters():
    A = kernel_system(400, dim=3)
    b = torch.randn(400, 1, generator=torch.Generator().manual_seed(0), dtype=F)
    M = Vecchia(20).build(A)
    for step in range(4):
        A = kernel_system(400, alpha=10.0 ** (-1 - step), lengthscale=0.3 + 0.1 * step, dim=3)
        M = M.refresh(A)
        s = solve(A, b, CG(tol=1e-8), preconditioner=M)
        assert s.converged
        assert s.iterations == solve(A, b, CG(tol=1e-8), preconditioner=Vecchia(20)).iterations


def test_seeds_give_different_orders():
    A = kernel_system()
    assert not torch.equal(Vecchia(4).build(A).parents, Vecchia(4, random_state=1).build(A).parents)


def test_chunks(monkeypatch):
    A = kernel_system(100)
    whole = Vecchia(6).build(A)
    monkeypatch.setattr("kerngp.solvers.preconditioners.vecchia.CHUNK", 7 * 49)
    torch.testing.assert_close(Vecchia(6).build(A).weights, whole.weights, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------- hard matrices


@pytest.mark.parametrize("alpha", [1e-12, 0.0])
def test_equal_points(alpha):
    """Singular without alpha: what is dependent is left out, said, and the iteration is not hurt."""
    x = torch.rand(60, 2, generator=torch.Generator().manual_seed(0), dtype=F).repeat_interleave(3, 0)
    K = KernelOperator(FORMULAS["matern32"](Vi(0, 2), Vj(1, 2)), (x, x), psd=True)
    A = K + alpha * identity(180)
    M = Vecchia(12).build(A)
    assert torch.isfinite(M.weights).all()
    assert float(torch.linalg.eigvalsh(M.dense()).min()) > 0
    b = K @ torch.randn(180, 1, generator=torch.Generator().manual_seed(1), dtype=F)
    s = solve(A, b, CG(tol=1e-8), preconditioner=M, on_fail="ignore")
    assert float((b - A @ s.x).norm() / b.norm()) < 1e-8
    assert s.iterations < 40
    if alpha == 0.0:
        assert M.dropped > 0
        (note,) = M.notes
        assert note.code == "DEPENDENT_NEIGHBOURS"
        assert f"{M.dropped} of" in note.text
        assert note in solve(A, b, CG(tol=1e-6), preconditioner=M, on_fail="ignore").report.notes
        # what is left are inverses: every row has unit variance under A
        L = M.factor.dense()
        torch.testing.assert_close(
            (L @ K.dense() @ L.T).diagonal(), torch.ones(180, dtype=F), rtol=1e-6, atol=0
        )


def test_all_points_equal():
    x = torch.zeros(40, 2, dtype=F)
    M = Vecchia(5).build(KernelOperator(exp(-sqdist(Vi(0, 2), Vj(1, 2))), (x, x), psd=True))
    torch.testing.assert_close(M.dense(), torch.eye(40, dtype=F))


def test_smooth_kernel_without_a_diagonal():
    """Blocks of condition numbers beyond 1e16."""
    x = torch.rand(200, 1, generator=torch.Generator().manual_seed(0), dtype=F)
    K = KernelOperator(exp(-sqdist(Vi(0, 1), Vj(1, 1))), (x, x), psd=True)
    M = Vecchia(20).build(K)
    assert M.dropped > 0
    assert torch.isfinite(M.weights).all()
    assert bool((M.weights[:, -1] > 0).all())
    # variances of rows are 1 but for roundings
    L = M.factor.dense()
    torch.testing.assert_close((L @ K.dense() @ L.T).diagonal(), torch.ones(200, dtype=F), rtol=0.1, atol=0)


@pytest.mark.parametrize("size", [1e-150, 1e150])
def test_scale(size):
    A = kernel_system(50).dense()
    M, scaled = Vecchia(6).build(Dense(A, psd=True)), Vecchia(6).build(Dense(size * A, psd=True))
    torch.testing.assert_close(size * scaled.dense(), M.dense())


def test_indefinite_blocks_stand_for_themselves():
    A = torch.ones(6, 6, dtype=F) * 2.0
    A.fill_diagonal_(1.0)  # positive on the diagonal, indefinite in every pair
    M = Vecchia(3).build(Dense(A, symmetric=True))
    torch.testing.assert_close(M.dense(), torch.eye(6, dtype=F))
    assert M.dropped == 12


def test_nan_reaches_the_solver():
    x = torch.rand(40, 2, generator=torch.Generator().manual_seed(0), dtype=F)
    x[5, 0] = torch.nan
    A = KernelOperator(exp(-sqdist(Vi(0, 2), Vj(1, 2))), (x, x), psd=True) + 0.1 * identity(40)
    s = solve(A, torch.ones(40, dtype=F), preconditioner=Vecchia(5), on_fail="ignore")
    assert s.status is Status.nan


def test_several_outputs():
    x = torch.rand(30, 2, generator=torch.Generator().manual_seed(0), dtype=F)
    k = FORMULAS["matern32"](Vi(0, 2), Vj(1, 2))
    K = KernelOperator(concat(k, 0.5 * k, 0.5 * k, 2.0 * k), (x, x), psd=True, blocks=(2, 2))
    A = K + 0.1 * identity(60)
    M = Vecchia(8).build(A)
    torch.testing.assert_close(M.factor.dense(), by_definition(A.dense(), M.parents))
    assert torch.linalg.eigvals(M.dense() @ A.dense()).real.max() < 3


def test_columns_and_batches():
    M = Vecchia(5).build(kernel_system(40))
    b = torch.randn(2, 3, 40, 4, dtype=F)
    torch.testing.assert_close(M.matmul(b), M.dense() @ b)
    assert M.matmul(torch.zeros(40, 0, dtype=F)).shape == (40, 0)


def test_gradients_of_a_solve():
    x = torch.rand(6, 2, generator=torch.Generator().manual_seed(0), dtype=F, requires_grad=True)
    b = torch.ones(6, dtype=F, requires_grad=True)

    def solved(x, b):
        K = KernelOperator(exp(-sqdist(Vi(0, 2), Vj(1, 2))), (x, x), psd=True)
        return solve(K + 0.1 * identity(6), b, CG(tol=1e-12), preconditioner=Vecchia(2)).x

    assert torch.autograd.gradcheck(solved, (x, b))


def test_messages():
    A = kernel_system(20)
    bad: list[Any] = [-1, 2.5, True]
    for value in bad:
        with pytest.raises(OptionError, match="neighbours="):
            Vecchia(value)
    with pytest.raises(ShapeError, match="one matrix"):
        Vecchia().build(Dense(torch.zeros(2, 3, 3), psd=True))
    with pytest.raises(ShapeError, match="square"):
        Vecchia().build(Dense(torch.zeros(2, 3)))
    with pytest.raises(ShapeError, match="symmetric=True"):
        Vecchia().build(Dense(torch.eye(3)))
    with pytest.raises(OptionError, match=r"least diagonal entry is -1\.0"):
        Vecchia().build(Dense(-torch.eye(3, dtype=F), symmetric=True))
    with pytest.raises(ShapeError, match="new operator"):
        Vecchia(4).build(A).refresh(kernel_system(21))
    assert isinstance(Vecchia(4).build(A), VecchiaInverse)


# ---------------------------------------------------------------- many amounts on the diagonal


@pytest.mark.parametrize("n", [3, 33, 300])
def test_many_shifts_cost_the_entries_of_one(n):
    K = kernel_system(n, alpha=1e-6, lengthscale=0.2).base
    shifts = torch.logspace(-3, 2, 20, dtype=F).tolist()
    first = Vecchia(10).build(K + shifts[0] * identity(n))
    with metering() as alone:
        first.refresh(K)
    with metering() as together:
        found = first.shifted(K, shifts)
    assert together.entries["rows"] == alone.entries["rows"]
    assert len(found) == 20
    for s, M in zip(shifts, found, strict=True):
        A = K.dense() + s * torch.eye(n, dtype=F)
        values = torch.linalg.eigvals(M.dense() @ A).real
        best = torch.linalg.eigvals(first.refresh(Dense(A, psd=True)).dense() @ A).real
        assert float(values.max() / values.min()) <= 1.3 * float(best.max() / best.min())


def test_few_shifts_are_not_interpolated():
    K = kernel_system(50, alpha=1e-6, lengthscale=0.2).base
    for shifts in ([0.0, 0.0], [0.0, 1e-3, 1.0], [1e-3], [1e-8, 1e-2, 1e2]):
        first = Vecchia(5).build(K + shifts[0] * identity(50))
        for s, M in zip(shifts, first.shifted(K, shifts), strict=True):
            expected = first.refresh(K + s * identity(50)).dense()
            torch.testing.assert_close(
                M.dense(), expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max())
            )


def test_zero_beside_many_shifts():
    K = kernel_system(40, alpha=1e-6, lengthscale=0.2).base + 1e-2 * identity(40)
    shifts = [0.0, *torch.linspace(1, 5, 9, dtype=F).tolist()]
    first = Vecchia(39).build(K)
    found = first.shifted(K, shifts)
    assert found[0] is first
    for s, M in zip(shifts, found, strict=True):
        values = torch.linalg.eigvals(M.dense() @ (K.dense() + s * torch.eye(40, dtype=F))).real
        assert float(values.max() / values.min()) < 1.2


def test_shifts_share_factors_where_memory_is_short():
    K = kernel_system(60, alpha=1e-6, lengthscale=0.2).base
    shifts = torch.logspace(-3, 2, 20, dtype=F).tolist()
    first = Vecchia(20).build(K + shifts[0] * identity(60))
    with options(memory_limit=1 << 20):
        few = {id(M) for M in first.shifted(K, shifts)}
    assert len(few) == 7 < len({id(M) for M in first.shifted(K, shifts)}) == 20


def test_shifts_of_another_size():
    first = Vecchia(4).build(kernel_system(20))
    with pytest.raises(ShapeError, match="the new operator"):
        first.shifted(kernel_system(21).base, [1.0, 2.0])

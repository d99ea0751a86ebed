"""The operators of the algebra against dense matrices, and the rules by which they combine."""

from __future__ import annotations

import pytest
import torch
from operator_cases import OperatorCase

from kerngp.engine.expr import Vi, Vj
from kerngp.engine.ops import exp, sqdist
from kerngp.engine.ranges import from_matrix
from kerngp.errors import DeviceError, DTypeError, FormulaError, ShapeError
from kerngp.solvers import AddedDiagonal, Dense, Diagonal, KernelOperator, as_operator, cast, identity, solve
from kerngp.solvers.operator import Scaled, Sum
from kerngp.solvers.preconditioners import LowRank, LowRankInverse

F = torch.float64


def leaf(*shape: int, seed: int = 0) -> torch.Tensor:
    t = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F)
    return t.requires_grad_()


class TestDense(OperatorCase):
    def create(self):
        return Dense(leaf(7, 5))

    def evaluate(self, operator):
        return operator.matrix


class TestDenseBatch(OperatorCase):
    def create(self):
        return Dense(leaf(2, 3, 4, 4))

    def evaluate(self, operator):
        return operator.matrix


class TestDensePsd(OperatorCase):
    def create(self):
        A = leaf(6, 6).detach()
        return Dense(A @ A.T, psd=True)

    def evaluate(self, operator):
        return operator.matrix


class TestProduct(OperatorCase):
    def create(self):
        return Dense(leaf(6, 3)) @ Dense(leaf(3, 4, seed=1)) @ Diagonal(leaf(4, seed=2))

    def evaluate(self, operator):
        A, B, d = operator.tensors
        return A @ B @ torch.diag(d)


class TestSquare(OperatorCase):
    def create(self):
        A = Dense(leaf(2, 5, 5).detach(), symmetric=True)
        A = Dense((A.matrix + A.matrix.mT).requires_grad_(), symmetric=True)
        return A @ A

    def evaluate(self, operator):
        return operator.tensors[0] @ operator.tensors[0]


class TestGram(OperatorCase):
    def create(self):
        x, y = leaf(5, 2), leaf(7, 2, seed=1)
        K = KernelOperator(exp(-sqdist(Vi(0, 2), Vj(1, 2))), (x, y))
        return K.T @ K

    def evaluate(self, operator):
        x, y = operator.tensors
        K = torch.exp(-(torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist") ** 2))
        return K.mT @ K


class TestDiagonal(OperatorCase):
    def create(self):
        return Diagonal(leaf(6))

    def evaluate(self, operator):
        return torch.diag(operator.values)


class TestDiagonalBatch(OperatorCase):
    def create(self):
        return Diagonal(leaf(2, 6).abs().detach().requires_grad_())

    def evaluate(self, operator):
        return torch.diag_embed(operator.values)


class TestIdentity(OperatorCase):
    def create(self):
        return identity(5) * leaf(1, seed=3)

    def evaluate(self, operator):
        return operator.values * torch.eye(5, dtype=F)


class TestAddedDiagonal(OperatorCase):
    def create(self):
        return AddedDiagonal(Dense(leaf(6, 6)), leaf(6, seed=1))

    def evaluate(self, operator):
        return operator.base.matrix + torch.diag(operator.values)


class TestAddedNumber(OperatorCase):
    def create(self):
        A = leaf(6, 6).detach()
        return Dense((A @ A.T).requires_grad_(), psd=True) + torch.tensor(
            0.3, dtype=F, requires_grad=True
        ) * identity(6)

    def evaluate(self, operator):
        return operator.base.matrix + operator.values * torch.eye(6, dtype=F)


class TestSum(OperatorCase):
    def create(self):
        return Sum((Dense(leaf(6, 5)), Scaled(Dense(leaf(6, 5, seed=1)), torch.tensor(2.0, dtype=F))))

    def evaluate(self, operator):
        return operator.terms[0].matrix + operator.terms[1].alpha * operator.terms[1].base.matrix


class TestScaled(OperatorCase):
    def create(self):
        return Dense(leaf(4, 6)) * torch.tensor(-1.5, dtype=F, requires_grad=True)

    def evaluate(self, operator):
        return operator.alpha * operator.base.matrix


class TestLowRankInverse(OperatorCase):
    tolerance = 1e-11

    def create(self):
        factor, d = leaf(3, 8).detach(), leaf(8, seed=1).detach().abs() + 0.1
        return LowRankInverse(LowRank(factor, torch.arange(3), 1.0, 0.0), d)

    def evaluate(self, operator):
        F_, d = operator.low_rank.factor, operator.d
        return torch.linalg.inv(F_.T @ F_ + torch.diag(d))

    def test_cast(self):
        single = cast(self.create(), torch.float32)
        assert single.torch_dtype == F  # a float32 factor is used in float64 arithmetic
        torch.testing.assert_close(single.dense(), self.create().dense(), rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- how operators combine


def test_diagonals_are_collected():
    K, L = Dense(leaf(4, 4)), Dense(leaf(4, 4, seed=1))
    A = 0.5 * identity(4) + (K + Diagonal(torch.ones(4, dtype=F))) + L + identity(4)
    assert isinstance(A, AddedDiagonal)
    assert isinstance(A.base, Dense)  # dense matrices merge
    torch.testing.assert_close(A.dense(), K.matrix + L.matrix + 2.5 * torch.eye(4, dtype=F))


def test_python_sum():
    K = [Dense(leaf(3, 3, seed=s)) for s in range(3)]
    torch.testing.assert_close(sum(K).dense(), K[0].matrix + K[1].matrix + K[2].matrix)


def test_scale_reaches_inside():
    A = 2.0 * (Dense(torch.ones(3, 3, dtype=F), psd=True) + 0.5 * identity(3))
    assert isinstance(A, AddedDiagonal)
    assert A.psd
    assert not (-A).psd
    torch.testing.assert_close(A.dense(), 2 * torch.ones(3, 3, dtype=F) + torch.eye(3, dtype=F))


def test_number_of_the_diagonal_follows_the_base():
    A = Dense(torch.ones(3, 3)) + 0.1 * identity(3)
    assert A.torch_dtype == torch.float32
    assert (A @ torch.ones(3)).dtype == torch.float32


def test_float32_exact_product_is_better():
    x = torch.randn(400, 400, generator=torch.Generator().manual_seed(0))
    b = torch.randn(400, 1, generator=torch.Generator().manual_seed(1))
    want = x.double() @ b.double()
    plain, exact = Dense(x) @ b, Dense(x).matmul(b.double(), exact=True)
    assert exact.dtype == F
    assert (exact - want).abs().max() < 1e-12 < (plain.double() - want).abs().max()


def test_as_operator():
    assert as_operator(torch.eye(3)).symmetric
    assert not as_operator([[1.0, 2.0], [3.0, 4.0]]).symmetric
    with pytest.raises(ShapeError, match="expected an operator or a matrix"):
        as_operator(torch.zeros(3))


def test_tensor_times_operator():
    A = torch.tensor(2.0, dtype=F) * Dense(torch.eye(3, dtype=F))
    torch.testing.assert_close(A.dense(), 2 * torch.eye(3, dtype=F))


def test_repeated_tensors_count_once():
    m = leaf(3, 3)
    assert len(Sum((Dense(m), Dense(m))).tensors) == 1


def test_messages():
    A = Dense(torch.eye(3))
    with pytest.raises(DTypeError, match="float64.*float32|float32.*float64"):
        A + Dense(torch.eye(3, dtype=F))
    with pytest.raises(DTypeError, match="b has dtype torch.float32, expected torch.float64"):
        A.matmul(torch.ones(3), exact=True)
    with pytest.raises(DeviceError, match="meta"):
        A + Dense(torch.eye(3, device="meta"))
    with pytest.raises(DeviceError, match="b is on meta, the operator on cpu"):
        A @ torch.ones(3, device="meta")
    with pytest.raises(ShapeError, match="alpha \\* identity"):
        Diagonal(2.0)
    with pytest.raises(ShapeError, match="batch shape"):
        Dense(torch.zeros(2, 3, 3)) @ torch.zeros(4, 3, 1)
    with pytest.raises(FormulaError, match="cannot add a Tensor"):
        A + torch.eye(3)
    with pytest.raises(ShapeError, match="vector of integers"):
        A.rows([0.5])
    with pytest.raises(ShapeError, match="adding to the diagonal needs a square operator, got 2 x 3"):
        AddedDiagonal(Dense(torch.zeros(2, 3)), 1.0)


def test_integers_are_converted():
    A = Dense(torch.eye(3, dtype=F))
    assert (A @ torch.tensor([1, 2, 3])).dtype == F


def test_products_are_tagged_where_that_can_be_seen() -> None:
    x, y = torch.randn(5, 2, dtype=F), torch.randn(7, 2, dtype=F)
    K = KernelOperator(exp(-sqdist(Vi(0, 2), Vj(1, 2))), (x, y))
    L = KernelOperator(exp(-sqdist(Vi(0, 2), Vj(1, 2))), (x + 1.0, y))
    P = KernelOperator(exp(-sqdist(Vi(0, 2), Vj(1, 2))), (x, x), psd=True)
    S = Dense(-torch.eye(5, dtype=F), symmetric=True)
    blocks = from_matrix(torch.tensor([[0, 2], [2, 5]]), torch.tensor([[0, 3], [3, 7]]), torch.eye(2).bool())
    cut = KernelOperator(exp(-sqdist(Vi(0, 2), Vj(1, 2))), (x, y), ranges=blocks)
    for A, tags in (
        (K.T @ K, (True, True)),
        (cut.T @ cut, (True, True)),
        (K.T @ cut, (False, False)),
        (K @ K.T, (True, True)),
        (K.T @ (P @ K), (True, True)),
        (K.T @ S @ K, (True, False)),
        (K.T @ L, (False, False)),
        (P @ P, (True, True)),
        (P @ S, (False, False)),
    ):
        assert (A.symmetric, A.psd) == tags
    with pytest.raises(DTypeError, match="cannot multiply"):
        K @ cast(K.T, torch.float32)


def test_solving_with_a_gram_matrix() -> None:
    x, y = torch.randn(30, 2, dtype=F), torch.randn(20, 2, dtype=F)
    K = KernelOperator(exp(-sqdist(Vi(0, 2), Vj(1, 2))), (x, y))
    A, b = K.T @ K + 0.1 * identity(20), torch.randn(20, dtype=F)
    torch.testing.assert_close(solve(A, b).x, torch.linalg.solve(A.dense(), b), rtol=1e-4, atol=1e-5)

"""Matrices of formulas against the same matrices written in torch."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from operator_cases import OperatorCase

from kerngp import options
from kerngp.engine.expr import Pm, Vi, Vj
from kerngp.engine.ops import concat, exp, sqdist
from kerngp.errors import FormulaError, ShapeError
from kerngp.solvers import AddedDiagonal, Diagonal, KernelOperator, identity
from kerngp.solvers.operator import Sum

F = torch.float64
GAUSS = exp(-Pm(2, 1) * sqdist(Vi(0, 3), Vj(1, 3)))


def points(n: int, dim: int = 3, seed: int = 0) -> torch.Tensor:
    t = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=F)
    return t.requires_grad_()


def rate(value: float = 0.4) -> torch.Tensor:
    return torch.tensor([value], dtype=F, requires_grad=True)


def gauss(x: torch.Tensor, y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    return torch.exp(-s * (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1))


class TestKernel(OperatorCase):
    def create(self):
        return KernelOperator(GAUSS, (points(7), points(5, seed=1), rate()))

    def evaluate(self, operator):
        return gauss(*operator.args)


class TestKernelPsd(OperatorCase):
    def create(self):
        x = points(33)
        return KernelOperator(GAUSS, (x, x, rate()), psd=True)

    def evaluate(self, operator):
        return gauss(*operator.args)


class TestKernelBatch(OperatorCase):
    def create(self):
        x = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(2), dtype=F).requires_grad_()
        return KernelOperator(GAUSS, (x, points(5, seed=1), rate()))

    def evaluate(self, operator):
        return gauss(*operator.args)


class TestKernelBlocks(OperatorCase):
    """2 x 3 blocks g(x, y) C, with six different entries in C."""

    formula = concat(*((k + 1.0) * GAUSS for k in range(6)))

    def create(self):
        return KernelOperator(self.formula, (points(4), points(5, seed=1), rate()), blocks=(2, 3))

    def evaluate(self, operator):
        C = torch.arange(1.0, 7.0, dtype=operator.torch_dtype).reshape(2, 3)
        return torch.kron(gauss(*operator.args), C)


class TestKernelSquareBlocks(OperatorCase):
    """Blocks g(x, y) C with a symmetric C are a symmetric matrix."""

    formula = concat(2.0 * GAUSS, GAUSS, GAUSS, 3.0 * GAUSS)

    def create(self):
        x = points(7)
        return KernelOperator(self.formula, (x, x, rate()), blocks=(2, 2), psd=True)

    def evaluate(self, operator):
        C = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=operator.torch_dtype)
        return torch.kron(gauss(*operator.args), C)


class TestMergedSum(OperatorCase):
    """Two kernels on the same points: one formula."""

    def create(self):
        x, y = points(7), points(5, seed=1)
        K = KernelOperator(GAUSS, (x, y, rate()))
        L = KernelOperator(exp(-sqdist(Vi(1, 3), Vj(0, 3))), (y, x))
        return 0.5 * K + L * torch.tensor(2.0, dtype=F, requires_grad=True)

    def evaluate(self, operator):
        assert isinstance(operator, KernelOperator)
        x, y, s, half, two = operator.args
        q = (x.unsqueeze(1) - y).square().sum(-1)
        return half * torch.exp(-s * q) + two * torch.exp(-q)


# ---------------------------------------------------------------- one formula for sums and multiples


def test_sum_shares_arguments():
    x = points(9)
    K = KernelOperator(GAUSS, (x, x, rate()), psd=True)
    L = KernelOperator(exp(-sqdist(Vi(0, 3), Vj(1, 3))), (x, x), psd=True)
    A = K + L
    assert isinstance(A, KernelOperator)
    assert len(A.args) == 3  # x as i, x as j, the rate
    assert A.psd
    torch.testing.assert_close(A.dense(), K.dense() + L.dense())


def test_sum_of_many_is_one_pass(launches):
    x = points(9).detach()
    K = KernelOperator(GAUSS, (x, x, rate().detach()), psd=True)
    A = K + 2.0 * K - 0.5 * K + 0.1 * identity(9)
    b = torch.ones(9, dtype=F)
    want = 2.5 * (K @ b) + 0.1 * b
    launches.clear()
    torch.testing.assert_close(A @ b, want)
    assert launches.compiled + launches.reference == 1


def test_different_data_merge_too():
    x, z = points(9), points(9, seed=3)
    A = KernelOperator(GAUSS, (x, x, rate())) + KernelOperator(GAUSS, (z, z, rate(0.1)))
    assert isinstance(A, KernelOperator)
    torch.testing.assert_close(A.dense(), gauss(x, x, rate()) + gauss(z, z, rate(0.1)))


def test_different_blocks_or_options_do_not_merge():
    x = points(6)
    K = KernelOperator(GAUSS, (x, x, rate()))
    B = KernelOperator(concat(GAUSS, GAUSS, GAUSS, GAUSS), (points(3), points(3), rate()), blocks=(2, 2))
    assert isinstance(K + B, Sum)
    L = KernelOperator(GAUSS, (x, x, rate()), options=options.Options(precision="exact"))
    assert isinstance(K + L, Sum)
    torch.testing.assert_close((K + B).dense(), K.dense() + B.dense())


def test_a_new_factor_is_a_new_number_not_new_code():
    x = points(5)
    K = KernelOperator(GAUSS, (x, x, rate()))
    assert (2.0 * K).formula is (3.0 * K).formula
    assert (1.0 * K) is K


def test_factors_keep_the_tags():
    x = points(5)
    K = KernelOperator(GAUSS, (x, x, rate()), psd=True)
    assert (2.0 * K).psd
    assert not (-2.0 * K).psd
    assert (-2.0 * K).symmetric
    assert not (K - K).psd
    assert (K * torch.tensor(2.0)).psd


def test_diagonal_of_a_kernel():
    x, d = points(5), torch.rand(5, dtype=F)
    K = KernelOperator(GAUSS, (x, x, rate()), psd=True)
    A = K + Diagonal(d) + 0.5 * identity(5)
    assert isinstance(A, AddedDiagonal)
    assert isinstance(A.base, KernelOperator)
    torch.testing.assert_close(A.dense(), K.dense() + torch.diag(d) + 0.5 * torch.eye(5, dtype=F))


@pytest.mark.parametrize("n", [1, 7, 31, 33, 1000])
def test_sizes_with_tails(n):
    x, y = points(n).detach().float(), points(17, seed=1).detach().float()
    K = KernelOperator(GAUSS, (x, y, rate().detach().float()))
    b = torch.randn(17, 2)
    want = gauss(x.double(), y.double(), rate().detach()) @ b.double()
    torch.testing.assert_close((K @ b).double(), want, rtol=1e-5, atol=1e-5)
    last = gauss(x[-1:].double(), y.double(), rate().detach())
    torch.testing.assert_close(K.rows([n - 1]).double(), last, rtol=1e-5, atol=1e-6)


def test_empty():
    K = KernelOperator(GAUSS, (points(0), points(5), rate()))
    assert (K @ torch.ones(5, dtype=F)).shape == (0,)
    assert torch.equal(K.T @ torch.ones(0, dtype=F), torch.zeros(5, dtype=F))
    assert K.dense().shape == (0, 5)


def test_gradients_to_second_order():
    x, s = points(4), rate()
    b = torch.randn(4, 2, dtype=F, requires_grad=True)

    def product(x, s, b):
        return KernelOperator(GAUSS, (x, x, s), psd=True) @ b

    assert torch.autograd.gradcheck(product, (x, s, b))
    assert torch.autograd.gradgradcheck(product, (x, s, b))


def test_numpy_arguments():
    x = np.random.default_rng(0).normal(size=(6, 3))
    K = KernelOperator(GAUSS, (x, x, np.array([0.4])), psd=True)
    assert K.args[0] is K.args[1]
    np.testing.assert_allclose(K @ np.ones(6), gauss(*K.args).numpy() @ np.ones(6))


def test_scipy_solves():
    x = points(40).detach()
    A = KernelOperator(GAUSS, (x, x, rate().detach()), psd=True) + 0.1 * identity(40)
    b = np.random.default_rng(0).normal(size=40)
    solution, info = scipy.sparse.linalg.cg(A, b, rtol=1e-10)
    assert info == 0
    np.testing.assert_allclose(A.dense().numpy() @ solution, b, atol=1e-8)
    values = scipy.sparse.linalg.eigsh(A.scipy(), k=2, return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(values), torch.linalg.eigvalsh(A.dense())[-2:].numpy(), rtol=1e-8)


def test_scipy_float32_operator_takes_float64_vectors():
    x = points(40).detach().float()
    A = KernelOperator(GAUSS, (x, x, rate().detach().float()), psd=True) + 1.0 * identity(40)
    assert A.dtype == np.float32
    b = np.ones(40)
    solution, info = scipy.sparse.linalg.cg(A, b, rtol=1e-4)
    assert info == 0
    assert solution.dtype == np.float64
    np.testing.assert_allclose(A.dense().numpy() @ solution, b, atol=1e-3)


def test_messages():
    x = points(5)
    with pytest.raises(FormulaError, match=r"formula has dim 1; blocks=\(2, 2\) needs dim 4"):
        KernelOperator(GAUSS, (x, x, rate()), blocks=(2, 2))
    with pytest.raises(FormulaError, match="formula is a str"):
        KernelOperator("Exp(-x)", (x, x))  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="a symmetric operator is square; this one is 5 x 4"):
        KernelOperator(GAUSS, (x, points(4), rate()), psd=True)
    with pytest.raises(ShapeError, match="argument 2"):
        KernelOperator(GAUSS, (x, x))
    with pytest.raises(ShapeError, match="sizes"):
        KernelOperator(exp(Vi(0, 1)), (points(5, 1),))
    B = KernelOperator(concat(GAUSS, GAUSS), (x, points(10), rate()), blocks=(2, 1))
    with pytest.raises(ShapeError, match="blocks"):
        B.diag()

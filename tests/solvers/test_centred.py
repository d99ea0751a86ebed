"""The centred kernel matrix as an operator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from operator_cases import OperatorCase

from kerngp.engine.expr import Vi, Vj
from kerngp.engine.ops import exp, sqdist
from kerngp.errors import ShapeError
from kerngp.models import RBF
from kerngp.solvers import Dense, KernelOperator, LinearOperator
from kerngp.solvers.centred import Centred

Tensor = torch.Tensor
X = torch.rand(7, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class TestCentred(OperatorCase):
    def create(self) -> LinearOperator:
        x = X.clone().requires_grad_()
        return Centred(KernelOperator(exp(-sqdist(Vi(0, 2), Vj(1, 2))), (x, x), psd=True))

    def evaluate(self, operator: Any) -> Tensor:
        (x,) = operator.tensors
        K = torch.exp(-((x[:, None] - x[None]) ** 2).sum(-1))
        H = torch.eye(7, dtype=torch.float64) - 1 / 7
        return H @ K @ H


def test_rows_sum_to_zero_and_means_are_those_of_the_rows():
    K = RBF(0.7)(X)
    A = Centred(K)
    torch.testing.assert_close(A @ torch.ones(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64))
    torch.testing.assert_close(A.means, K.dense().mean(1))
    assert A.psd and A.T is A


def test_only_square_matrices():
    with pytest.raises(ShapeError, match="square"):
        Centred(Dense(torch.zeros(2, 3)))

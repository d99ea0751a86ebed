"""Functions of NumPy and torch on LazyTensors, and arrays on the left of operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kerngp import LazyTensor, Vi
from kerngp.engine.expr import OPS

M, N, D = 7, 5, 3
UNARY = ["exp", "sin", "cos", "square", "abs", "sign", "negative", "reciprocal", "sqrt", "log"]
BINARY = ["add", "subtract", "multiply", "divide", "maximum", "minimum", "less", "less_equal", "greater",
          "greater_equal", "equal", "not_equal"]  # fmt: skip


@pytest.fixture
def pair() -> tuple[Any, Any]:
    return torch.rand(M, 1, D, dtype=torch.float64) + 0.5, torch.rand(1, N, D, dtype=torch.float64) + 0.5


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_argument(pair, name: str) -> None:
    x, y = pair
    lazy = LazyTensor(x) - LazyTensor(y) if name not in ("sqrt", "log") else LazyTensor(x) * LazyTensor(y)
    full = x - y if name not in ("sqrt", "log") else x * y
    want = getattr(torch, name)(full)
    torch.testing.assert_close(getattr(torch, name)(lazy).dense(), want)
    torch.testing.assert_close(getattr(np, name)(lazy).dense(), want)


@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two_arguments(pair, name: str) -> None:
    x, y = pair
    y[0, 0] = x[0, 0]
    in_torch = getattr(torch, "eq" if name == "equal" else name)
    want = in_torch(x, y).double()
    in_numpy = LazyTensor(x.numpy()), LazyTensor(y.numpy())
    for got in (
        in_torch(LazyTensor(x), LazyTensor(y)),
        in_torch(x, LazyTensor(y)),
        in_torch(LazyTensor(x), y),
        getattr(np, name)(*in_numpy),
        getattr(np, name)(x.numpy(), in_numpy[1]),
        getattr(np, name)(in_numpy[0], y.numpy()),
    ):
        assert isinstance(got, LazyTensor)
        torch.testing.assert_close(torch.as_tensor(got.dense()), want)


def test_every_torch_name_of_an_elementwise_op_works(pair) -> None:
    """Ops that torch knows under our own name."""
    x, _ = pair
    tried = 0
    for name, op in OPS.items():
        f = getattr(torch, name, None)
        if op.public and op.code is not None and op.arity == 1 and callable(f) and name != "polygamma":
            torch.testing.assert_close(f(Vi(0.3 * x[:, 0])).dense(), f(0.3 * x))
            tried += 1
    assert tried >= 10


@pytest.mark.parametrize("array", [torch.Tensor.clone, torch.Tensor.numpy], ids=["torch", "numpy"])
def test_arrays_stand_on_either_side(pair, array) -> None:
    x, y = pair
    a, lazy, full = array(x), LazyTensor(array(y)), y
    for f in (
        lambda a, b: a + b,
        lambda a, b: a - b,
        lambda a, b: a * b,
        lambda a, b: a / b,
        lambda a, b: a**b,
        lambda a, b: b**a,
        lambda a, b: (a < b) * 1.0 * b,
        lambda a, b: (a >= b) * 1.0 * b,
    ):
        got, want = f(a, lazy), f(x, full)
        assert isinstance(got, LazyTensor)
        torch.testing.assert_close(torch.as_tensor(got.dense()), want)
    scalar = np.float64(2.0) * lazy / np.float32(4.0)
    torch.testing.assert_close(torch.as_tensor(scalar.dense()), 0.5 * full.expand(1, N, D))
    K = (LazyTensor(a) * lazy).sum(-1)
    v = array(torch.ones(2, M, dtype=torch.float64))
    torch.testing.assert_close(
        torch.as_tensor(v @ K), torch.ones(2, M, dtype=torch.float64) @ (x * y).sum(-1)
    )
    torch.testing.assert_close(torch.as_tensor((a | lazy).dense()), (x * y).sum(-1))


def test_in_place_operators_bind_the_result(pair) -> None:
    x, y = pair
    for a in (x.clone(), x.numpy().copy()):
        kept, b = a, LazyTensor(y if isinstance(a, torch.Tensor) else y.numpy())
        a += b
        assert isinstance(a, LazyTensor)
        torch.testing.assert_close(torch.as_tensor(a.dense()), x + y)
        assert (torch.as_tensor(kept) == x).all()


def test_powers_keep_integer_exponents() -> None:
    x = torch.tensor([[-2.0], [3.0]])
    assert torch.pow(Vi(x), 3).expr is (Vi(x) ** 3).expr
    torch.testing.assert_close(np.power(Vi(x), 3).dense(), x**3)
    torch.testing.assert_close(torch.pow(2.0, Vi(x)).dense(), 2**x)


def test_torchs_order_of_arguments(pair) -> None:
    x, y = pair
    torch.testing.assert_close(torch.polygamma(1, Vi(x[:, 0])).dense(), torch.polygamma(1, x))
    torch.testing.assert_close(torch.remainder(Vi(x[:, 0]), 0.4).dense(), torch.remainder(x, 0.4))
    torch.testing.assert_close(np.arctan2(x, LazyTensor(y)).dense(), torch.atan2(x, y))


def test_reductions_by_name(pair) -> None:
    x, y = pair
    K, full = LazyTensor(x) * LazyTensor(y), x * y
    torch.testing.assert_close(torch.sum(K, dim=1), full.sum(1))
    torch.testing.assert_close(torch.logsumexp(K, dim=1), full.logsumexp(1))
    torch.testing.assert_close(torch.softmax(K, dim=1).dense(), full.softmax(1))
    torch.testing.assert_close(torch.nn.functional.softmax(K, dim=0).dense(), full.softmax(0))
    torch.testing.assert_close(torch.amax(K, 1), full.amax(1))
    torch.testing.assert_close(np.sum(K, axis=1), full.sum(1))
    torch.testing.assert_close(
        torch.cat([LazyTensor(x), LazyTensor(y)], dim=-1).dense()[:, :, :D], x.expand(M, N, D)
    )
    torch.testing.assert_close(torch.matmul(K.sum(-1), torch.ones(N, dtype=torch.float64)), full.sum((1, 2)))


def test_complex_functions() -> None:
    z = torch.randn(M, 1, 1, dtype=torch.complex128)
    torch.testing.assert_close(torch.exp(LazyTensor(z)).dense(), z.exp()[..., 0])
    np.testing.assert_allclose(np.exp(LazyTensor(z.numpy())).dense(), np.exp(z.numpy())[..., 0])
    np.testing.assert_allclose(np.conj(LazyTensor(z.numpy())).dense(), np.conj(z.numpy())[..., 0])
    w = z.numpy() * LazyTensor(z.real.numpy())
    np.testing.assert_allclose(w.dense(), (z.numpy() * z.real.numpy())[..., 0])


def test_functions_without_a_meaning_are_refused(pair) -> None:
    x, y = pair
    K = LazyTensor(x) * LazyTensor(y)
    for f in (
        lambda: torch.linalg.svd(K),
        lambda: torch.add(K, K, alpha=2),
        lambda: np.spacing(K),
        lambda: np.add.reduce(K),
        lambda: np.add(x.numpy(), K, out=np.empty((M, N, D))),
        lambda: torch.equal(K, K),
    ):
        with pytest.raises(TypeError):
            f()

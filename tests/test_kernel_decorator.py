"""``@kernel``: plain functions of two points, as LazyTensors and as kernels of estimators."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

import kerngp
from kerngp import LazyTensor, Vi, kernel
from kerngp.engine import expr, ops
from kerngp.errors import FormulaError, ShapeError
from kerngp.models import RBF, KernelRidge

F = torch.float64


@kernel
def gaussian(x, y, lengthscale=1.0):
    """The squared exponential."""
    return (-((x - y) ** 2).sum(-1) / (2 * lengthscale**2)).exp()


@kernel
def with_functions(x, y, scale=2.0):
    return torch.exp(-torch.sqrt(((x - y) ** 2).sum(-1)) / scale) * np.cos(0.3 * (x * y).sum(-1))


def dense(x: torch.Tensor, y: torch.Tensor, lengthscale: float | torch.Tensor = 1.0) -> torch.Tensor:
    return torch.exp(-(((x[..., :, None, :] - y[..., None, :, :]) / lengthscale) ** 2).sum(-1) / 2)


def test_it_is_a_lazytensor(launches) -> None:
    X, Y, b = torch.randn(7, 3, dtype=F), torch.randn(5, 3, dtype=F), torch.randn(5, dtype=F)
    K = gaussian(X, Y, lengthscale=0.3)
    assert isinstance(K, LazyTensor) and K.shape == (7, 5)
    torch.testing.assert_close(K @ b, dense(X, Y, 0.3) @ b)
    assert launches.compiled == 1 and launches.reference == 0
    torch.testing.assert_close(gaussian(X).dense(), dense(X, X))
    torch.testing.assert_close(
        with_functions(X, Y).dense(),
        torch.exp(-torch.cdist(X, Y) / 2) * torch.cos(0.3 * X @ Y.T),
        rtol=1e-6,
        atol=1e-9,
    )


def test_points_of_all_kinds() -> None:
    t = torch.linspace(0, 1, 4, dtype=F)
    torch.testing.assert_close(gaussian(t).dense(), dense(t[:, None], t[:, None]))
    batch = torch.randn(2, 4, 3, dtype=F)
    torch.testing.assert_close(gaussian(batch, batch + 1).dense(), dense(batch, batch + 1))
    X = np.random.default_rng(0).standard_normal((4, 2))
    assert isinstance(gaussian(X) @ np.ones(4), np.ndarray)
    np.testing.assert_allclose(gaussian(X.tolist()).dense(), gaussian(X).dense())
    lazy = gaussian(Vi(t[:, None]), LazyTensor(t[None, :, None]))
    torch.testing.assert_close(lazy.dense(), dense(t[:, None], t[:, None]))


def test_hyperparameters_are_differentiable() -> None:
    X = torch.randn(4, 2, dtype=F)
    for lengthscale in (torch.tensor(0.7, dtype=F), torch.tensor([0.7, 1.9], dtype=F)):

        def f(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
            return scaled(x, X, s=s).sum(axis=1)

        assert torch.autograd.gradcheck(f, (X.clone().requires_grad_(), lengthscale.requires_grad_()))
        torch.testing.assert_close(f(X, lengthscale)[:, 0], dense(X, X, lengthscale).sum(1))


@kernel
def scaled(x, y, s=1.0):
    return (-(((x - y) / s) ** 2).sum(-1) / 2).exp()


def test_the_points_of_i_and_j_are_one_array() -> None:
    X = torch.randn(40, 3, dtype=F)
    K = gaussian(X, X)
    assert K.operands.values[0] is K.operands.values[1]


def test_of_formulas_it_is_a_formula() -> None:
    x, y, s = expr.Vi(0, 2), expr.Vj(1, 2), expr.Pm(2, 1)
    f = gaussian(x, y, lengthscale=s)
    assert isinstance(f, expr.Expr) and {v.attr for v in expr.variables(f)} == {v.attr for v in (x, y, s)}
    args = torch.randn(4, 2, dtype=F), torch.randn(3, 2, dtype=F), torch.tensor([0.7], dtype=F)
    from kerngp.engine.mapreduce import dense as values

    torch.testing.assert_close(values(f, args)[..., 0], dense(args[0], args[1], 0.7))
    # composite points, and numbers that are not simple
    g = gaussian(3.0 * x[0], ops.sin(y[1]), lengthscale=0.37)
    want = dense(3 * args[0][:, :1], args[1][:, 1:].sin(), 0.37)
    torch.testing.assert_close(values(g, args)[..., 0], want)


@pytest.mark.parametrize("params", [None, {"lengthscale": 0.6}])
def test_it_is_a_kernel_of_an_estimator(params) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 2))
    y = np.sin(X[:, 0]) + X[:, 1]
    ours = KernelRidge(alpha=0.1, kernel=gaussian, kernel_params=params).fit(X, y)
    theirs = KernelRidge(alpha=0.1, kernel=RBF(lengthscale=0.6 if params else 1.0)).fit(X, y)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-6, atol=1e-8)
    again = pickle.loads(pickle.dumps(ours))
    np.testing.assert_allclose(again.predict(X), ours.predict(X))


def test_what_it_tells_of_itself() -> None:
    assert gaussian.__name__ == "gaussian" and gaussian.__doc__ == "The squared exponential."
    assert gaussian.hyperparameters == {"lengthscale": 1.0}
    assert repr(gaussian) == "kernel(gaussian(x, y, lengthscale=1.0))"
    assert copy.deepcopy(gaussian) is gaussian and pickle.loads(pickle.dumps(gaussian)) is gaussian
    assert kerngp.torch.kernel is kerngp.numpy.kernel is kernel


def test_bad_kernels_are_explained() -> None:
    with pytest.raises(FormulaError, match="takes 1 arguments"):
        kernel(lambda x: x)
    with pytest.raises(FormulaError, match="takes a function of two points, got a float"):
        kernel(3.0)  # type: ignore[arg-type]
    with pytest.raises(FormulaError, match="returned a float; expected a formula"):
        kernel(lambda x, y: 1.0)(torch.ones(2, 1), torch.ones(2, 1))
    with pytest.raises(ShapeError, match="single number"):
        gaussian(1.0, torch.ones(2, 1))
    inner = torch.ones(1)
    with pytest.raises(FormulaError, match="uses an array"):
        kernel(lambda x, y: (x * y).sum(-1) * inner)(expr.Vi(0, 2), expr.Vj(1, 2))
    with pytest.raises(TypeError, match="unexpected keyword argument 'sigma'"):
        gaussian(torch.ones(2, 1), torch.ones(2, 1), sigma=1.0)

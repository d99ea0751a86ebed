"""Formulas by name: values against NumPy, derivatives against finite differences, also at x = y."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch

from kerngp.engine.expr import Pm, Vi, Vj
from kerngp.engine.formulas import FORMULAS, hyperbolic_tangent, named
from kerngp.engine.mapreduce import dense, map_reduce
from kerngp.engine.reductions import SUM
from kerngp.errors import FormulaError
from kerngp.options import options

ALPHA, DEGREE, COEF0, LENGTHSCALE = 1.7, 3, 0.6, 0.8


def distance(x, y):
    return np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1))


def histogram(x, y):
    d, s = x[:, None] - y[None], x[:, None] + y[None]
    return np.divide(d**2, s, out=np.zeros_like(s), where=s != 0).sum(-1)


def cosine(x, y):
    return (x @ y.T) / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1)[None]


# name -> (parameters, the definition in NumPy)
CASES = {
    "gaussian": ((), lambda x, y: np.exp(-(distance(x, y) ** 2) / 2)),
    "rbf": ((), lambda x, y: np.exp(-(distance(x, y) ** 2) / 2)),
    "laplacian": ((), lambda x, y: np.exp(-np.abs(x[:, None] - y[None]).sum(-1))),
    "matern12": ((), lambda x, y: np.exp(-distance(x, y))),
    "exponential": ((), lambda x, y: np.exp(-distance(x, y))),
    "matern32": ((), lambda x, y: (1 + 3**0.5 * distance(x, y)) * np.exp(-(3**0.5) * distance(x, y))),
    "matern52": (
        (),
        lambda x, y: (
            (1 + 5**0.5 * distance(x, y) + 5 / 3 * distance(x, y) ** 2) * np.exp(-(5**0.5) * distance(x, y))
        ),
    ),
    "rational_quadratic": ((ALPHA,), lambda x, y: (1 + distance(x, y) ** 2 / (2 * ALPHA)) ** -ALPHA),
    "cauchy": ((), lambda x, y: 1 / (1 + distance(x, y) ** 2)),
    "inverse_multiquadric": ((), lambda x, y: 1 / np.sqrt(1 + distance(x, y) ** 2)),
    "periodic": (
        (LENGTHSCALE,),
        lambda x, y: np.exp(-2 * (np.sin(math.pi * (x[:, None] - y[None])) ** 2).sum(-1) / LENGTHSCALE**2),
    ),
    "exp_sine_squared": (
        (LENGTHSCALE,),
        lambda x, y: np.exp(-2 * (np.sin(math.pi * distance(x, y)) / LENGTHSCALE) ** 2),
    ),
    "linear": ((), lambda x, y: x @ y.T),
    "polynomial": ((DEGREE, COEF0), lambda x, y: (x @ y.T + COEF0) ** DEGREE),
    "cosine": ((), cosine),
    "sigmoid": ((COEF0,), lambda x, y: np.tanh(x @ y.T + COEF0)),
    "additive_chi2": ((), lambda x, y: -histogram(x, y)),
    "chi2": ((), lambda x, y: np.exp(-histogram(x, y))),
}
# where the function of x has no gradient at x = y
ROUGH = {"laplacian", "matern12", "exponential"}
# where its second derivative is infinite or direction dependent at x = y
NO_HESSIAN = ROUGH


def data(m=31, n=7, dim=3, seed=0):
    """Positive points; the first rows of x and y coincide."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0.2, 2.0, (m, dim)), rng.uniform(0.2, 2.0, (n, dim))
    y[0] = x[0]
    return x, y


def values(name, x, y):
    f = FORMULAS[name](Vi(0, x.shape[1]), Vj(1, x.shape[1]), *CASES[name][0])
    assert f.dim == 1
    return f


def test_every_formula_has_a_case():
    assert set(CASES) == set(FORMULAS)


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("dim", [1, 3, 20])
def test_value(name, dim):
    x, y = data(dim=dim)
    f = values(name, x, y)
    got = dense(f, (torch.tensor(x), torch.tensor(y)))[..., 0].numpy()
    np.testing.assert_allclose(got, CASES[name][1](x, y), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sum_runs_on_the_default_backend(name, dtype):
    x, y = data(33, 1000)
    b = np.random.default_rng(1).standard_normal((1000, 2))
    f = values(name, x, y)
    args = [torch.tensor(a, dtype=dtype) for a in (x, y, b)]
    got = map_reduce(f * Vj(2, 2), SUM, args).double().numpy()
    want = CASES[name][1](*(a.double().numpy() for a in args[:2])) @ args[2].double().numpy()
    scale = np.abs(want).max()
    assert np.abs(got - want).max() < scale * (1e-4 if dtype == torch.float32 else 1e-11)


@pytest.mark.parametrize("name", sorted(set(CASES) - ROUGH))
def test_gradient_also_at_coincident_points(name):
    x, y = data(5, 4, 2)
    args = [torch.tensor(a, requires_grad=True) for a in (x, y)]
    f = values(name, x, y)
    b = torch.ones(4, 1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, y: map_reduce(f * Vj(2, 1), SUM, (x, y, b)), args)


@pytest.mark.parametrize("name", sorted(set(CASES) - NO_HESSIAN))
def test_second_derivative_also_at_coincident_points(name):
    x, y = data(4, 3, 2)
    args = [torch.tensor(a, requires_grad=True) for a in (x, y)]
    f = values(name, x, y)
    b = torch.ones(3, 1, dtype=torch.float64)

    def function(x, y):
        return map_reduce(f * Vj(2, 1), SUM, (x, y, b))

    # Matern 3/2 is C^2 with an unbounded third derivative at x = y: finite differences are off by O(eps).
    # The rules of differentiation are those of every backend; the reference one compiles nothing.
    with options(backend="reference"):
        assert torch.autograd.gradgradcheck(function, args, atol=1e-4)


@pytest.mark.parametrize("name", sorted(ROUGH))
def test_gradient_of_rough_formulas_vanishes_at_coincident_points(name):
    x = torch.full((1, 2), 0.7, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone()
    f = values(name, x, y)
    (g,) = torch.autograd.grad(map_reduce(f, SUM, (x, y)).sum(), x)
    assert torch.equal(g, torch.zeros_like(x))


def test_shape_parameters_may_be_arguments_with_gradients():
    x, y = (torch.tensor(a) for a in data(5, 4, 2))
    alpha = torch.tensor([1.3], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([0.7, 1.9], dtype=torch.float64, requires_grad=True)
    a, b = Vi(0, 2) / Pm(3, 2), Vj(1, 2) / Pm(3, 2)
    f = FORMULAS["rational_quadratic"](a, b, Pm(2, 1))
    assert torch.autograd.gradcheck(lambda p, s: map_reduce(f, SUM, (x, y, p, s)), (alpha, scale))
    with options(backend="reference"):
        assert torch.autograd.gradgradcheck(lambda p, s: map_reduce(f, SUM, (x, y, p, s)), (alpha, scale))


def test_hyperbolic_tangent_neither_overflows_nor_loses_its_slope():
    z = torch.tensor(
        [[-1000.0], [-30.0], [-1e-9], [0.0], [1e-9], [0.3], [30.0], [1000.0]], dtype=torch.float64
    )
    z.requires_grad_()
    out = map_reduce(hyperbolic_tangent(Vi(0, 1)), SUM, (z,), sizes=(8, 1))
    (slope,) = torch.autograd.grad(out.sum(), z)
    torch.testing.assert_close(out, torch.tanh(z), rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(slope, 1 - torch.tanh(z) ** 2, rtol=1e-12, atol=1e-15)


def test_chi2_counts_zero_over_zero_as_zero_also_in_gradients():
    x = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    out = map_reduce(FORMULAS["chi2"](Vi(0, 2), Vj(1, 2)), SUM, (x, torch.tensor([[0.0, 3.0]]).double()))
    assert out.item() == pytest.approx(math.exp(-3.0))
    assert torch.isfinite(torch.autograd.grad(out.sum(), x)[0]).all()


def test_a_name_is_given_once():
    with pytest.raises(FormulaError, match="'gaussian' is already defined"):
        named("gaussian")(FORMULAS["linear"])


def test_dimensions_are_checked():
    with pytest.raises(FormulaError, match=r"3.*2"):
        FORMULAS["matern52"](Vi(0, 3), Vj(1, 2))


def test_formulas_take_points_first_and_describe_themselves():
    for name, f in FORMULAS.items():
        assert list(inspect.signature(f).parameters)[:2] == ["x", "y"], name
        assert f.__doc__, name

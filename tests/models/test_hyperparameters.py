"""Hyperparameters: theta as scikit-learn counts it, matrices, derivatives, formulas under autograd."""

from __future__ import annotations

import pickle
import re
import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import kernels as sk

from kerngp.engine.ops import dot, exp, sqdist
from kerngp.errors import OptionError, ShapeError
from kerngp.models import (
    RBF,
    ActiveDims,
    Cauchy,
    Constant,
    ExpSineSquared,
    FormulaKernel,
    Linear,
    Matern,
    Periodic,
    Polynomial,
    RationalQuadratic,
    White,
)
from kerngp.models.compound import CompoundHyperparameters
from kerngp.models.kernel_hyperparameters import derivatives
from kerngp.models.resolve import hyperparameters
from kerngp.options import options

ARD = [0.5, 1.0, 2.0]
WHITE = sk.WhiteKernel(0.3)
FIXED = "fixed"

THEIRS = [
    sk.ConstantKernel(2.5),
    WHITE,
    sk.RBF(0.7),
    sk.RBF(ARD),
    sk.RBF(ARD, [(0.1, 1), (0.2, 2), (0.3, 3)]),
    sk.RBF(0.7, FIXED),
    sk.Matern(0.7, nu=0.5),
    sk.Matern(ARD, nu=0.5),
    sk.Matern(ARD, nu=1.5),
    sk.Matern(ARD, nu=2.5),
    sk.Matern(ARD, nu=np.inf),
    sk.RationalQuadratic(0.8, 1.4),
    sk.RationalQuadratic(0.8, 1.4, alpha_bounds=FIXED),
    sk.ExpSineSquared(0.8, 1.4),
    sk.ExpSineSquared(0.8, 1.4, length_scale_bounds=FIXED),
    sk.DotProduct(0.7),
    sk.RBF(0.7) ** 2,
    sk.DotProduct(0.7) ** 3,
    2.0 * sk.RBF(ARD) + WHITE,
    sk.ConstantKernel(2.0, FIXED) * sk.RationalQuadratic(0.8, 1.4) + sk.WhiteKernel(0.1, FIXED),
    (2.0 * sk.RBF(0.7) + WHITE) * (sk.DotProduct(0.4) + sk.WhiteKernel(0.2)),
    ((sk.RBF(0.7) + WHITE) ** 2 + sk.ExpSineSquared(1.3, 2.1)) ** 1.5 * 0.3,
    ActiveDims(sk.RBF([0.5, 2.0]), [2, 0]) * sk.Matern(0.9) + ActiveDims(sk.DotProduct() + WHITE, [1]),
]  # fmt: skip
# what scikit-learn differentiates by differences, and what has no formula
ROUGH = [
    *(sk.PairwiseKernel(0.6, metric=m) for m in ("linear", "chi2", "poly", "rbf", "laplacian", "sigmoid")),
    sk.Matern(0.7, nu=1.0),
]


def ids(kernels):
    return [re.sub(" at 0x.*", "", f"{k}-{kernel!r}"[:60]) for k, kernel in enumerate(kernels)]


def points(n=9, dim=3):
    x = np.random.default_rng(1).uniform(0.1, 1.5, (n, dim))
    if n > 2:
        x[1] = x[0]  # coincident points are not one observation
    return x


def elsewhere(h, seed=0):
    """The kernel at a random theta."""
    return h.at(h.theta + np.random.default_rng(seed).uniform(-0.5, 0.5, h.theta.shape))


# ---------------------------------------------------------------- scikit-learn's kernels


@pytest.mark.parametrize("theirs", THEIRS + ROUGH, ids=ids(THEIRS + ROUGH))
def test_theta_bounds_and_names_of_scikit_learn(theirs):
    h = hyperparameters(theirs, 3)
    assert h.kernel is theirs and h.n_features == 3
    np.testing.assert_array_equal(h.theta, theirs.theta)
    np.testing.assert_array_equal(h.bounds, np.reshape(theirs.bounds, (-1, 2)))
    assert len(h.names) == len(h.theta) == len(set(h.names))
    params = theirs.get_params()
    for name, value in zip(h.names, np.exp(h.theta), strict=True):
        stem, _, index = name.partition("[")
        whole = params[stem]
        assert value == pytest.approx(whole[int(index[:-1])] if index else whole)
    other = elsewhere(h)
    np.testing.assert_allclose(other.theta, other.kernel.theta)
    assert other.kernel == theirs.clone_with_theta(other.theta)
    np.testing.assert_array_equal(h.theta, theirs.theta)  # nothing was changed


@pytest.mark.parametrize("theirs", THEIRS, ids=ids(THEIRS))
def test_matrices_and_derivatives_by_the_object_and_by_the_formula(theirs):
    h, x = elsewhere(hyperparameters(theirs, 3)), points()
    assert h.has_formula
    K, G = h.gradient(x)
    assert K.shape == (9, 9) and G.shape == (9, 9, len(h.theta))
    np.testing.assert_array_equal(K, h.kernel(x))
    np.testing.assert_array_equal(h.matrix(x), K)
    np.testing.assert_array_equal(h.matrix(x, x[:2]), h.kernel(x, x[:2]))
    np.testing.assert_array_equal(h.diag(x), h.kernel.diag(x))
    with options(backend="reference"):
        theta = torch.tensor(h.theta)
        np.testing.assert_allclose(h.formula(theta)(x).dense(), K, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(h.formula()(x).dense(), K, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(derivatives(h, torch.tensor(x)), G, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("theirs", THEIRS, ids=ids(THEIRS))
def test_autograd_goes_through_products(theirs):
    h, x = elsewhere(hyperparameters(theirs, 3)), points()
    b = torch.tensor(np.random.default_rng(2).standard_normal((9, 2)))
    theta = torch.tensor(h.theta, requires_grad=True)
    want = np.einsum("ie,ijp,je->p", b, h.gradient(x)[1], b)
    if not len(theta):
        assert want.shape == (0,)
        return
    with options(backend="reference"):
        K = h.formula(theta)(torch.tensor(x))
        (grad,) = torch.autograd.grad((b * (K @ b)).sum(), theta)
    np.testing.assert_allclose(grad, want, rtol=1e-9, atol=1e-10)


def test_autograd_through_compiled_kernels_to_second_order():
    kernel = (2.0 * sk.RBF(ARD) + WHITE) * (sk.DotProduct(0.4) + WHITE) + sk.ExpSineSquared(1.3, 2.1) ** 2
    h, x = hyperparameters(kernel, 3), torch.tensor(points(7))
    b = torch.tensor(np.random.default_rng(2).standard_normal((7, 2)))
    theta = torch.tensor(h.theta, requires_grad=True)

    def product(theta):
        return h.formula(theta)(x) @ b

    assert torch.autograd.gradcheck(product, theta)
    with options(backend="reference"):
        assert torch.autograd.gradgradcheck(product, theta, atol=1e-4)


def test_theta_decides_dtype():
    h, x = hyperparameters(2.0 * sk.RBF(ARD) + WHITE, 3), torch.tensor(points(33)).float()
    theta = torch.tensor(h.theta, dtype=torch.float32, requires_grad=True)
    out = h.formula(theta)(x) @ torch.ones(33)
    (grad,) = torch.autograd.grad(out.sum(), theta)
    assert out.dtype == grad.dtype == torch.float32
    want = h.gradient(x.numpy())[1].sum((0, 1))
    np.testing.assert_allclose(grad, want, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("theirs", ROUGH, ids=ids(ROUGH))
def test_derivatives_where_scikit_learn_takes_differences(theirs):
    h, x = hyperparameters(theirs, 3), points()
    K, G = h.gradient(x)
    np.testing.assert_array_equal(K, theirs(x))
    if h.has_formula:
        with options(backend="reference"):
            np.testing.assert_allclose(derivatives(h, torch.tensor(x)), G, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    "kernel",
    [sk.Matern(nu=1.0) + WHITE, sk.PairwiseKernel(metric=lambda a, b, gamma: np.sum(gamma * (a @ b)))],
)
def test_without_formula(kernel):
    h, x = hyperparameters(kernel, 3), points()
    assert not h.has_formula
    with pytest.raises(OptionError, match="no formula, so that its matrix must fit into memory. Use fewer"):
        h.formula()
    assert h.gradient(x)[1].shape == (9, 9, len(h.theta))
    with options(memory_limit=1 << 20):
        with pytest.raises(
            ShapeError, match="the 400 x 400 matrix of kernel=.* more than the limit of 1.0 MiB"
        ):
            h.matrix(points(400))
        assert h.matrix(points(300)[:, :1], points(2)[:, :1]).shape == (300, 2)
        with pytest.raises(ShapeError, match="300 x 300 matrix with its derivatives"):
            h.gradient(points(300))


# ---------------------------------------------------------------- kernels of this package


def bilinear(x, y, scale, weight):
    return weight * exp(-sqdist(x / scale, y / scale)) + dot(x, y)


OURS = [
    RBF(0.7),
    RBF(ARD),
    RBF(torch.tensor(ARD)),
    Matern(0.5, ARD),
    Matern(1.5, 0.7, bounds=(1e-2, 1e2)),
    RationalQuadratic(ARD, 1.4),
    RationalQuadratic(0.8, 1.4, bounds={"alpha": "fixed"}),
    Cauchy(ARD),
    Periodic(ARD, [1.0, 2.0, 3.0]),
    ExpSineSquared(0.8, 1.4),
    Linear(ARD, active_dims=[2, 0, 1]),
    Polynomial(2, 0.7, 1.3),
    Polynomial(2, 0.7, 1.3, bounds={"coef0": (0.1, 10)}),
    Constant(2.0),
    White(0.3),
    2.0 * RBF(ARD) + White(0.3),
    (2.0 * RBF(0.7) + White(0.3)) * (Linear(0.4, active_dims=[1]) + White(0.2)),
    ((RBF(0.7) + White(0.3, bounds="fixed")) ** 2 + 3.0) ** 1.5 * 0.3,
    FormulaKernel(bilinear, {"weight": 0.4, "scale": ARD}),
]  # fmt: skip


@pytest.mark.parametrize("ours", OURS, ids=ids(OURS))
def test_derivatives_of_our_kernels_by_differences(ours):
    h, x = elsewhere(hyperparameters(ours, 3)), points()
    assert h.has_formula
    with options(backend="reference"):
        K, G = h.gradient(x)
        np.testing.assert_array_equal(K, h.kernel(x).dense())
        np.testing.assert_array_equal(h.matrix(x, x), h.kernel(x, x).dense())
        np.testing.assert_array_equal(h.diag(x), np.diagonal(K))
        assert G.shape == (9, 9, len(h.theta))
        for k, unit in enumerate(np.eye(len(h.theta))):
            above, below = (h.at(h.theta + step * unit).matrix(x) for step in (1e-5, -1e-5))
            np.testing.assert_allclose(G[..., k], (above - below) / 2e-5, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("ours", OURS, ids=ids(OURS))
def test_at_gives_numbers_and_formula_gives_tensors(ours):
    h = hyperparameters(ours, 3)
    other = elsewhere(h)
    assert other.names == h.names and h.kernel is ours
    np.testing.assert_array_equal(other.bounds, h.bounds)
    np.testing.assert_allclose(h.at(other.theta).theta, other.theta, rtol=1e-12)
    assert "tensor" not in repr(other.kernel)
    theta = torch.tensor(other.theta, requires_grad=True)
    b = torch.tensor(np.random.default_rng(2).standard_normal((9, 2)))
    x = points()
    with options(backend="reference"):
        K = h.formula(theta)(torch.tensor(x))
        (grad,) = torch.autograd.grad((b * (K @ b)).sum(), theta)
        want = np.einsum("ie,ijp,je->p", b, other.gradient(x)[1], b)
    np.testing.assert_allclose(grad, want, rtol=1e-9, atol=1e-10)
    assert h.formula() is ours


def test_order_is_alphabetical_as_in_scikit_learn():
    ours = 2.0 * RationalQuadratic(0.8, 1.4) + White(0.3)
    theirs = 2.0 * sk.RationalQuadratic(0.8, 1.4) + WHITE
    h = hyperparameters(ours, 3)
    assert h.names == (
        "left__factor",
        "left__kernel__alpha",
        "left__kernel__lengthscale",
        "right__noise",
    )
    np.testing.assert_allclose(h.theta, theirs.theta)


def test_compiled_gradient_of_many_sizes():
    h = hyperparameters(2.0 * RBF(ARD) + White(0.3), 3)
    theirs = 2.0 * sk.RBF(ARD) + WHITE
    for n in (1, 2, 33):
        x = points(n)
        for got, want in zip(h.gradient(x), theirs(x, eval_gradient=True), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


# ---------------------------------------------------------------- names, strings, functions, formulas


def test_gammas_of_strings():
    text = "gaussian(x,y) * (1 + linear(x,y)**2) + 2*cauchy(x[1:], y[1:])"
    h = hyperparameters(text, 3, gamma=[0.7, None, None])
    assert h.names == ("gamma0", "gamma2")  # linear has none
    np.testing.assert_allclose(np.exp(h.theta), [0.7, 1 / 3])
    x = points()
    g, c = np.exp(elsewhere(h).theta)
    squared = ((x[:, None] - x[None]) ** 2)[..., 1:].sum(-1)
    full = ((x[:, None] - x[None]) ** 2).sum(-1)
    with options(backend="reference"):
        got = elsewhere(h).matrix(x)
    np.testing.assert_allclose(got, np.exp(-g * full) * (1 + (x @ x.T) ** 2) + 2 / (1 + c * squared))


@pytest.mark.parametrize(
    ("kernel", "names"),
    [
        ("rbf", ("gamma",)),
        ("poly", ("gamma",)),
        ("sigmoid", ("gamma",)),
        ("linear", ()),
        (lambda x, y, scale: exp(-sqdist(x, y) / scale), ("scale",)),
        (lambda a, b: float(a @ b), ()),
        ("precomputed", ()),
    ],
)
def test_what_else_stands_for_a_kernel(kernel, names):
    h = hyperparameters(kernel, 3, kernel_params={"scale": 2.0} if names == ("scale",) else None)
    assert h.names == names and h.theta.shape == (len(names),) and h.bounds.shape == (len(names), 2)
    x = points()
    X = x @ x.T if kernel == "precomputed" else x
    with options(backend="reference"):
        K, G = h.gradient(X)
        np.testing.assert_allclose(h.at(h.theta).matrix(X), K)
        np.testing.assert_allclose(h.diag(X), np.diagonal(K))
    assert G.shape == (9, 9, len(names))
    if not h.has_formula:
        with pytest.raises(OptionError, match="has no formula"):
            h.formula()


def test_one_kernel_for_each_class():
    parts = [hyperparameters(k, 3) for k in (sk.RBF(ARD), 2.0 * sk.Matern(0.7), sk.RBF(1.0, FIXED))]
    h = CompoundHyperparameters(parts)
    assert h.names[0] == "kernels[0]__length_scale[0]" and len(h.names) == 5
    other, x = elsewhere(h), points()
    assert isinstance(other.kernel, sk.CompoundKernel)
    np.testing.assert_allclose(other.theta, other.kernel.theta)
    np.testing.assert_array_equal(h.bounds, np.concatenate([p.bounds for p in parts]))
    np.testing.assert_array_equal(other.matrix(x, x[:2]), other.kernel(x, x[:2]))
    np.testing.assert_array_equal(other.diag(x), other.kernel.diag(x))
    same = hyperparameters(sk.CompoundKernel([sk.RBF(ARD), sk.RBF([2.0, 3.0, 4.0])]), 3)
    for got, want in zip(same.gradient(x), same.kernel(x, eval_gradient=True), strict=True):
        np.testing.assert_array_equal(got, want)
    with pytest.raises(OptionError, match="2 kernels side by side"):
        same.formula()
    ours = CompoundHyperparameters([hyperparameters(k, 3) for k in (RBF(), Matern())])
    assert ours.at(np.zeros(2)).kernel == (RBF(), Matern())


# ---------------------------------------------------------------- all


def warned(h):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        h.warn_at_bounds()
    assert all(w.category is ConvergenceWarning for w in caught)
    return [str(w.message) for w in caught]


def test_warnings_at_bounds_are_scikit_learns():
    theirs = hyperparameters(sk.RBF([0.1, 1.0, 2.0], (0.1, 2.0)), 3)
    ours = hyperparameters(RBF([0.1, 1.0, 2.0], bounds=(0.1, 2.0)), 3)
    texts = warned(theirs)
    assert [t.replace("length_scale", "lengthscale") for t in texts] == warned(ours)
    assert len(texts) == 2 and "dimension 2 of parameter length_scale" in texts[1]
    assert warned(CompoundHyperparameters([theirs, ours])) == texts + warned(ours)
    assert warned(hyperparameters(2.0 * RBF() + White(), 3)) == []
    assert warned(hyperparameters("precomputed", 3)) == []


@pytest.mark.parametrize("kernel", [2.0 * sk.RBF(ARD), 2.0 * RBF(ARD), "poly"], ids=repr)
def test_pickles_and_refusals(kernel):
    h = hyperparameters(kernel, 3)
    again = pickle.loads(pickle.dumps(h))
    assert repr(again.kernel) == repr(h.kernel) and again.names == h.names
    with pytest.raises(ShapeError, match="theta has shape .* one logarithm for each of"):
        h.at(np.zeros(9))
    with pytest.raises(OptionError, match="kernel=3 is a int"):
        hyperparameters(3, 3)

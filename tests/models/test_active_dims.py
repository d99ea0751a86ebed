"""ActiveDims has the whole interface of scikit-learn's kernels."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, DotProduct, Exponentiation, Product, Sum, WhiteKernel

from kerngp.errors import OptionError, ShapeError
from kerngp.models import ActiveDims

INNER = 2.0 * RBF([0.5, 2.0], (1e-2, 1e2)) + WhiteKernel(0.1, "fixed")


def data(n=11):
    return np.random.default_rng(0).standard_normal((n, 5))


def test_it_is_the_kernel_of_the_columns():
    X, Y = data(), data(4) + 1.0
    k = ActiveDims(INNER, [3, 1])
    np.testing.assert_array_equal(k(X), INNER(X[:, [3, 1]]))
    np.testing.assert_array_equal(k(X, Y), INNER(X[:, [3, 1]], Y[:, [3, 1]]))
    np.testing.assert_array_equal(k.diag(X), INNER.diag(X[:, [3, 1]]))
    for got, want in zip(k(X, eval_gradient=True), INNER(X[:, [3, 1]], eval_gradient=True), strict=True):
        np.testing.assert_array_equal(got, want)


def test_hyperparameters_under_nested_names():
    k = ActiveDims(INNER, [3, 1])
    np.testing.assert_array_equal(k.theta, INNER.theta)
    np.testing.assert_array_equal(k.bounds, INNER.bounds)
    assert k.n_dims == 3
    assert [h.name for h in k.hyperparameters] == [
        "kernel__k1__k1__constant_value",
        "kernel__k1__k2__length_scale",
        "kernel__k2__noise_level",
    ]
    assert [h.fixed for h in k.hyperparameters] == [False, False, True]
    assert k.get_params()["kernel__k2__noise_level"] == 0.1 and "kernel__k2" not in k.get_params(deep=False)
    k = clone(k).set_params(kernel__k2__noise_level=0.7, dims=(0, 1))
    assert k.kernel.k2.noise_level == 0.7 and k.dims == (0, 1)
    assert INNER.k2.noise_level == 0.1
    other = k.clone_with_theta(k.theta + 1.0)
    np.testing.assert_allclose(other.theta, k.theta + 1.0)
    assert other != k


def test_operators_equality_repr():
    a, b = ActiveDims(RBF(), [0]), ActiveDims(RBF(), [1])
    assert isinstance(a + b, Sum) and isinstance(2.0 * a, Product) and isinstance(a**2, Exponentiation)
    assert a == ActiveDims(RBF(), (0,)) and a != b and a != RBF() and a != ActiveDims(RBF(), [0, 1])
    assert repr(a * 2.0) == "ActiveDims(RBF(length_scale=1), [0]) * 1.41**2"
    assert a.is_stationary() and not ActiveDims(DotProduct(), [0]).is_stationary()
    assert a.requires_vector_input
    assert pickle.loads(pickle.dumps(a)) == a == clone(a)


def test_in_an_estimator_of_scikit_learn():
    X = data(40)
    y = np.sin(X[:, 2]) + 0.1 * X[:, 0]
    inner = 2.0 * RBF() + WhiteKernel()
    model = GaussianProcessRegressor(ActiveDims(inner, [2])).fit(X, y)
    plain = GaussianProcessRegressor(inner).fit(X[:, [2]], y)
    np.testing.assert_array_equal(model.predict(X), plain.predict(X[:, [2]]))
    assert model.kernel_.kernel == plain.kernel_


@pytest.mark.parametrize(
    ("dims", "error", "message"),
    [
        ([5], ShapeError, r"dims=\[5\] of ActiveDims: column 5 does not exist, the points have 5"),
        ([-1], OptionError, "dims of ActiveDims is .* expected column numbers"),
        ([], OptionError, "expected column numbers"),
        (None, OptionError, "expected column numbers"),
        ([1, 1], OptionError, "a column stands there twice"),
    ],
)
def test_refusals(dims, error, message):
    with pytest.raises(error, match=message):
        ActiveDims(RBF(), dims)(data())

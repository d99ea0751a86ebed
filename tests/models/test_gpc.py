"""Gaussian process classification against scikit-learn, and from products alone against factorisation."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessClassifier as Theirs
from sklearn.gaussian_process.kernels import RBF, CompoundKernel, ConstantKernel, Matern, WhiteKernel

from kerngp import models as ours
from kerngp.errors import DataError, OptionError
from kerngp.models import GaussianProcessClassifier
from kerngp.models.gp.laplace import find_mode, slope
from kerngp.models.gp.matrix_free_laplace import MatrixFreeLaplace
from kerngp.models.resolve import hyperparameters

KERNELS = [
    ConstantKernel(2.0) * RBF([1.0, 2.0]),
    ConstantKernel(3.0) * Matern(0.7, nu=1.5) + WhiteKernel(0.1),
    Matern(1.0, nu=0.8),  # without a formula
]


def data(n: int, classes: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.RandomState(seed)
    X = rng.uniform(-2, 2, (n, 2))
    y = np.digitize(np.sin(2 * X[:, 0]) + X[:, 1] + 0.3 * rng.randn(n), np.linspace(-0.5, 0.5, classes - 1))
    y[:classes] = np.arange(classes)
    return X, y


# ------------------------------------------------------------ by factorisation


@pytest.mark.parametrize("n", [2, 7, 31, 33, 200])
@pytest.mark.parametrize("kernel", KERNELS, ids=["rbf", "matern", "bessel"])
def test_results_are_those_of_scikit_learn(n, kernel):
    X, y = data(n)
    P, _ = data(20, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        a, b = (M(kernel, optimizer=None).fit(X, y) for M in (GaussianProcessClassifier, Theirs))
    np.testing.assert_allclose(a.predict_proba(P), b.predict_proba(P), atol=1e-9)
    assert (a.predict(P) == b.predict(P)).all()
    for x, z in zip(a.latent_mean_and_variance(P), b.latent_mean_and_variance(P), strict=True):
        np.testing.assert_allclose(x, z, atol=1e-8)
    for name in ("pi_", "W_sr_", "L_"):
        np.testing.assert_allclose(
            getattr(a.base_estimator_, name), getattr(b.base_estimator_, name), atol=1e-9
        )
    theta = kernel.theta + 0.3
    (v, g), (w, d) = (m.log_marginal_likelihood(theta, eval_gradient=True) for m in (a, b))
    assert v == pytest.approx(w, rel=1e-9)
    np.testing.assert_allclose(g, d, rtol=1e-6, atol=1e-8)


def test_learned_hyperparameters():
    X, y = data(60)
    a, b = (M(KERNELS[0]).fit(X, y) for M in (GaussianProcessClassifier, Theirs))
    np.testing.assert_allclose(a.kernel_.theta, b.kernel_.theta, atol=1e-4)
    assert a.log_marginal_likelihood_value_ == pytest.approx(b.log_marginal_likelihood_value_, abs=1e-6)
    assert isinstance(a.kernel_, type(b.kernel_)) and a.base_estimator_.learning_history_[-1].rows == 60


@pytest.mark.parametrize("multi_class", ["one_vs_rest", "one_vs_one"])
def test_more_classes(multi_class):
    X, y = data(60, 4)
    P, _ = data(20, seed=1)
    kernel = 2.0 * RBF(1.0)
    a, b = (
        M(kernel, optimizer=None, multi_class=multi_class).fit(X, y)
        for M in (GaussianProcessClassifier, Theirs)
    )
    assert (a.predict(P) == b.predict(P)).all() and a.kernel_ == b.kernel_
    assert a.log_marginal_likelihood() == pytest.approx(b.log_marginal_likelihood())
    if multi_class == "one_vs_rest":
        np.testing.assert_allclose(a.predict_proba(P), b.predict_proba(P), atol=1e-9)
        assert a.log_marginal_likelihood(a.kernel_.theta) == pytest.approx(a.log_marginal_likelihood())
        with pytest.raises(ValueError, match="Shape of theta must be either 2 or 8"):
            a.log_marginal_likelihood(np.ones(3))
        with pytest.raises(NotImplementedError):
            a.log_marginal_likelihood(np.ones(2), eval_gradient=True)
    else:
        with pytest.raises(ValueError, match="one_vs_one multi-class mode does not support"):
            a.predict_proba(P)
    with pytest.raises(ValueError, match="only supported for binary classification"):
        a.latent_mean_and_variance(P)


def test_duplicates_and_constant_columns():
    X, y = data(20)
    X = np.hstack([np.repeat(X[:10], 2, axis=0), np.ones((20, 1))])
    a, b = (M(RBF(1.0)).fit(X, y) for M in (GaussianProcessClassifier, Theirs))
    np.testing.assert_allclose(a.predict_proba(X), b.predict_proba(X), atol=1e-5)


def test_our_kernels_and_strings():
    X, y = data(50)
    expected = Theirs(2.0 * RBF(0.8), optimizer=None).fit(X, y).predict_proba(X)
    kernels = (2.0 * ours.RBF(0.8), f"gaussian(x,y) * {1.0} + gaussian(x,y)")
    for kernel in kernels[:1]:
        found = GaussianProcessClassifier(kernel, optimizer=None).fit(X, y)
        np.testing.assert_allclose(found.predict_proba(X), expected, atol=1e-9)
    learned = GaussianProcessClassifier(ours.RBF(0.8)).fit(X, y)
    theirs = Theirs(RBF(0.8)).fit(X, y)
    assert isinstance(learned.kernel_, ours.Kernel)
    np.testing.assert_allclose(learned.predict_proba(X), theirs.predict_proba(X), atol=1e-4)
    assert GaussianProcessClassifier("gaussian(x,y) + cauchy(x,y)").fit(X, y).score(X, y) > 0.8
    several = GaussianProcessClassifier(ours.RBF(0.8), optimizer=None).fit(X, data(50, 3)[1])
    assert len(several.kernel_) == 3


def test_the_mode_is_one():
    X, y = data(40)
    K = (2.0 * RBF(1.0))(X)
    mode = find_mode(K, y)
    pi = 1 / (1 + np.exp(-mode.f))
    np.testing.assert_allclose(mode.a, y - pi, atol=1e-8)
    np.testing.assert_allclose(K @ mode.a, mode.f, atol=1e-12)


def test_the_slope_is_the_derivative():
    X, y = data(40)
    kernel = KERNELS[1]
    K, dK = kernel(X, eval_gradient=True)
    found = slope(find_mode(K, y), K, dK, y)
    step = 1e-4
    for k in range(len(found)):
        up, down = (
            find_mode(kernel.clone_with_theta(kernel.theta + s * np.eye(len(found))[k])(X), y).value
            for s in (step, -step)
        )
        assert found[k] == pytest.approx((up - down) / (2 * step), rel=1e-3, abs=1e-4)


# ------------------------------------------------------------ from products alone


def free(kernel, **parameters) -> GaussianProcessClassifier:
    return GaussianProcessClassifier(kernel, solver="matrix-free", random_state=0, **parameters)


@pytest.mark.parametrize("n", [7, 33, 300])
@pytest.mark.parametrize("kernel", KERNELS[:2], ids=["rbf", "matern"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_give_what_factors_give(n, kernel, dtype):
    X, y = (a if a.dtype.kind == "i" else a.astype(dtype) for a in data(n))
    P = data(20, seed=1)[0].astype(dtype)
    a = free(kernel, optimizer=None, tol=1e-8).fit(X, y)
    b = GaussianProcessClassifier(kernel, optimizer=None).fit(X, y)
    assert not a.base_estimator_.plan_.dense and b.base_estimator_.plan_.dense
    assert a.predict_proba(P).dtype == dtype
    tol = 1e-5 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(a.predict_proba(P), b.predict_proba(P), atol=tol)
    for x, z in zip(a.latent_mean_and_variance(P), b.latent_mean_and_variance(P), strict=True):
        np.testing.assert_allclose(x, z, atol=10 * tol)
    error = a.base_estimator_.log_marginal_likelihood_error_
    assert abs(a.log_marginal_likelihood_value_ - b.log_marginal_likelihood_value_) <= 4 * error + 1e-3
    with pytest.raises(AttributeError, match="matrix-free"):
        _ = a.base_estimator_.L_


@pytest.mark.parametrize("kernel", KERNELS[:2], ids=["rbf", "matern"])
def test_many_probes_give_the_value_and_the_slope(kernel):
    X, y = data(150)
    K, dK = kernel(X, eval_gradient=True)
    mode = find_mode(K, y)
    objective = MatrixFreeLaplace(torch.from_numpy(X), y, probes=400, tol=1e-8, rank=20)
    found = objective(hyperparameters(kernel, 2), True)
    assert abs(found.value - mode.value) <= 4 * found.standard_error
    assert 0 < found.standard_error < 0.2
    known = slope(mode, K, dK, y)
    np.testing.assert_allclose(found.gradient, known, atol=0.03 * np.abs(known).max())


def test_values_at_near_thetas_have_the_same_error():
    X, y = data(200)
    objective = MatrixFreeLaplace(torch.from_numpy(X), y, probes=4, tol=1e-8, rank=20)
    kernel = KERNELS[0]
    errors = []
    for theta in (kernel.theta, kernel.theta + 0.02):
        k = kernel.clone_with_theta(theta)
        errors.append(objective(hyperparameters(k, 2)).value - find_mode(k(X), y).value)
    assert abs(errors[0] - errors[1]) < 0.3 * max(abs(errors[0]), 1e-3)


def test_learning_from_products(monkeypatch):
    monkeypatch.setattr("kerngp.models.gp.binary.SUBSET", 100)
    X, y = data(400)
    a = free(KERNELS[0]).fit(X, y)
    b = GaussianProcessClassifier(KERNELS[0]).fit(X, y)
    history = a.base_estimator_.learning_history_
    assert history[0].rows == 100 and [step.rows for step in history[-5:]] == [400] * 5
    reached = b.log_marginal_likelihood(a.kernel_.theta)
    assert b.log_marginal_likelihood_value_ - reached < 0.5
    assert reached > b.log_marginal_likelihood(KERNELS[0].theta) + 0.5


def test_pickled_models_predict():
    X, y = data(60)
    for model in (free(KERNELS[0], optimizer=None), GaussianProcessClassifier(KERNELS[0], optimizer=None)):
        model.fit(X, y)
        again = pickle.loads(pickle.dumps(model))
        np.testing.assert_allclose(again.predict_proba(X), model.predict_proba(X), atol=1e-6)
        assert again.log_marginal_likelihood(KERNELS[0].theta) == pytest.approx(
            model.log_marginal_likelihood_value_, abs=1e-4
        )


@pytest.mark.parametrize("solver", ["dense", "matrix-free"])
@pytest.mark.parametrize("classes", [2, 3])
def test_results_follow_X(solver, classes):
    X, y = data(40, classes)
    x = torch.from_numpy(X)
    parameters = {"optimizer": None, "solver": solver}
    a = GaussianProcessClassifier(KERNELS[0], **parameters).fit(x, torch.from_numpy(y))
    b = GaussianProcessClassifier(KERNELS[0], **parameters).fit(X, y)
    assert isinstance(a.predict_proba(x), torch.Tensor) and isinstance(a.predict(x), torch.Tensor)
    np.testing.assert_allclose(a.predict_proba(x).numpy(), b.predict_proba(X), atol=1e-9)
    names = np.array(["a", "b", "c"])[y]
    assert set(GaussianProcessClassifier(KERNELS[0], **parameters).fit(x, names).predict(x)) <= set(names)


# ------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"optimizer": "adam"}, "optimizer='adam'"),
        ({"multi_class": "all"}, "multi-class mode 'all'"),
        ({"solver": "magic"}, "solver='magic'"),
        ({"max_iter_predict": 0}, "max_iter_predict=0"),
        ({"n_restarts_optimizer": -1}, "n_restarts_optimizer=-1"),
        ({"tol": 1.0}, "tol=1.0"),
        ({"kernel": CompoundKernel([RBF()])}, "cannot be a CompoundKernel"),
        ({"kernel": KERNELS[2], "solver": "matrix-free"}, "formula"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(OptionError, match=message):
        GaussianProcessClassifier(**parameters).fit(*data(8))


def test_bad_data():
    X, y = data(20)
    with pytest.raises(DataError, match="requires 2 or more distinct classes; got 1 class"):
        GaussianProcessClassifier().fit(X, np.ones(20))
    with pytest.raises(ValueError, match="NaN"):
        GaussianProcessClassifier().fit(np.where(X > 1, np.nan, X), y)


def test_an_unfinished_mode_is_told():
    with pytest.warns(ConvergenceWarning, match="max_iter_predict=1"):
        GaussianProcessClassifier(KERNELS[0], optimizer=None, max_iter_predict=1).fit(*data(30))


def test_the_plan_is_known_before():
    model = GaussianProcessClassifier(KERNELS[0])
    assert model.plan((100, 2)).dense and not model.plan((50_000, 2)).dense
    assert GaussianProcessClassifier(KERNELS[2]).plan((5_000, 2)).dense
    assert clone(model).get_params()["kernel"] == KERNELS[0]

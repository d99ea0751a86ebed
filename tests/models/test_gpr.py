"""GaussianProcessRegressor beside scikit-learn's, and what goes beyond it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor as Theirs
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern, WhiteKernel

from kerngp import models
from kerngp.errors import OptionError, ShapeError, SolveError
from kerngp.models import GaussianProcessRegressor
from kerngp.models.gp import iterative_posterior, random_variance

KERNEL = ConstantKernel(2.0) * RBF([0.5, 0.7, 0.9]) + WhiteKernel(0.02)


def data(n: int, targets: int = 0, m: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.RandomState(n)
    X = rng.uniform(size=(n, 3))
    y = np.sin(5 * X[:, 0]) + X[:, 1] + 0.1 * rng.normal(size=n)
    if targets:
        y = np.stack([(k + 1) * y + 0.1 * rng.normal(size=n) for k in range(targets)], 1)
    return X, y, rng.uniform(size=(m, 3))


def pair(n: int, targets: int = 0, kernel=KERNEL, **parameters):
    X, y, Z = data(n, targets)
    with np.errstate(all="ignore"):
        return (
            Theirs(kernel, **parameters).fit(X, y),
            GaussianProcessRegressor(kernel, **parameters).fit(X, y),
            Z,
        )


# ---------------------------------------------------------------- as scikit-learn


@pytest.mark.parametrize("n", [1, 2, 7, 31, 33, 300])
@pytest.mark.parametrize("targets", [0, 1, 2])
def test_numbers_of_a_fixed_kernel(n: int, targets: int):
    theirs, ours, Z = pair(n, targets, optimizer=None, normalize_y=True, alpha=1e-3)
    for name in ("X_train_", "y_train_", "alpha_", "L_", "log_marginal_likelihood_value_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9, atol=1e-9)
    pairs = [(ours.predict(Z), theirs.predict(Z))]
    for options in ({"return_std": True}, {"return_cov": True}):
        pairs += zip(ours.predict(Z, **options), theirs.predict(Z, **options), strict=True)
    for a, b in pairs:
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(ours.sample_y(Z, 3), theirs.sample_y(Z, 3), rtol=1e-6, atol=1e-6)
    assert ours.log_marginal_likelihood_error_ == 0 and ours.n_iter_ == 1


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "parameters", [{}, {"n_restarts_optimizer": 2, "random_state": 3}, {"alpha": np.linspace(0.01, 0.1, 31)}]
)
def test_what_is_learned(parameters: dict):
    theirs, ours, Z = pair(31, 2, normalize_y=True, **parameters)
    np.testing.assert_allclose(ours.kernel_.theta, theirs.kernel_.theta, atol=1e-5)
    np.testing.assert_allclose(
        ours.predict(Z, return_std=True), theirs.predict(Z, return_std=True), atol=1e-6
    )
    theta = theirs.kernel_.theta + 0.1
    for a, b in zip(
        ours.log_marginal_likelihood(theta, True), theirs.log_marginal_likelihood(theta, True), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-8)
    assert len(ours.learning_history_) == ours.n_iter_ > 5
    assert ours.kernel.theta != pytest.approx(ours.kernel_.theta)  # the parameter is not touched


def test_the_prior():
    theirs, ours = Theirs(KERNEL, n_targets=2), GaussianProcessRegressor(KERNEL, n_targets=2)
    Z = data(5)[2]
    for a, b in zip(ours.predict(Z, return_cov=True), theirs.predict(Z, return_cov=True), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    np.testing.assert_allclose(ours.predict(Z, return_std=True)[1], theirs.predict(Z, return_std=True)[1])
    assert ours.sample_y(Z, 4).shape == (20, 2, 4)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_kernels_of_this_package_are_learned_alike():
    X, y, Z = data(40)
    theirs = Theirs(ConstantKernel(1.5) * RBF(0.8) + WhiteKernel(0.1)).fit(X, y)
    ours = GaussianProcessRegressor(models.Constant(1.5) * models.RBF(0.8) + models.White(0.1)).fit(X, y)
    assert isinstance(ours.kernel_, models.Kernel)
    assert ours.log_marginal_likelihood_value_ == pytest.approx(
        theirs.log_marginal_likelihood_value_, abs=1e-6
    )
    np.testing.assert_allclose(ours.predict(Z), theirs.predict(Z), atol=1e-4)
    with pytest.warns(ConvergenceWarning, match="close to the specified lower bound 0.5. Decreasing"):
        GaussianProcessRegressor(models.RBF(1.0, bounds=(0.5, 2.0)), alpha=0.01).fit(X, np.sin(50 * y))


def row_kernel(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.exp(-0.5 * np.square(x - y).sum() / 0.36))


def test_strings_and_functions_of_rows():
    X, y, Z = data(33)
    expected = Theirs(RBF(0.6), alpha=0.01, optimizer=None).fit(X, y).predict(Z, return_std=True)
    rows = GaussianProcessRegressor(row_kernel, alpha=0.01).fit(X, y)
    np.testing.assert_allclose(rows.predict(Z, return_std=True), expected, atol=1e-8)
    np.testing.assert_allclose(pickle.loads(pickle.dumps(rows)).predict(Z), expected[0], atol=1e-8)
    string = GaussianProcessRegressor("gaussian(x,y)", alpha=0.01, optimizer=None).fit(X, y)
    expected = Theirs(RBF(1.5**0.5), alpha=0.01, optimizer=None).fit(X, y)  # gamma = 1 / 3
    np.testing.assert_allclose(string.predict(Z), expected.predict(Z), atol=1e-8)


def test_duplicates_and_constant_columns():
    X, y, Z = data(31)
    X = np.column_stack([np.vstack([X, X[:5]]), np.ones(36)])
    y, Z = np.r_[y, y[:5] + 0.1], np.column_stack([Z, np.ones(20)])
    theirs, ours = (
        G(RBF(0.7), alpha=1e-2, optimizer=None).fit(X, y) for G in (Theirs, GaussianProcessRegressor)
    )
    np.testing.assert_allclose(
        ours.predict(Z, return_std=True), theirs.predict(Z, return_std=True), atol=1e-8
    )


# ---------------------------------------------------------------- arrays, state, errors


def test_torch_and_float32():
    X, y, Z = data(31)
    exact = GaussianProcessRegressor(KERNEL, optimizer=None).fit(X, y).predict(Z, return_std=True)
    for solver in ("dense", "matrix-free"):
        model = GaussianProcessRegressor(KERNEL, optimizer=None, solver=solver)
        model.fit(torch.tensor(X, dtype=torch.float32), torch.tensor(y))
        found = model.predict(torch.tensor(Z, dtype=torch.float32), return_std=True)
        for a, b in zip(found, exact, strict=True):
            assert isinstance(a, torch.Tensor) and a.dtype == torch.float32
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
        assert isinstance(model.alpha_, torch.Tensor) and model.X_train_.dtype == torch.float32
        quantiles = model.predict_quantiles(torch.tensor(Z, dtype=torch.float32), [0.5])
        np.testing.assert_allclose(quantiles[:, 0], found[0])


@pytest.mark.parametrize("solver", ["dense", "matrix-free"])
def test_pickle_and_clone(solver: str):
    X, y, Z = data(60)
    model = GaussianProcessRegressor(KERNEL, optimizer=None, solver=solver).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_allclose(
        again.predict(Z, return_std=True), model.predict(Z, return_std=True), rtol=1e-3
    )
    np.testing.assert_allclose(again.loo_predict().std, model.loo_predict().std)
    assert "_posterior" not in pickle.dumps(clone(model)).decode("latin1")
    assert not hasattr(clone(model), "alpha_") and clone(model).solver == solver


def test_a_factor_exists_for_few_rows_only():
    X, y, _ = data(40)
    assert GaussianProcessRegressor(KERNEL, optimizer=None).fit(X, y).L_.shape == (40, 40)
    model = GaussianProcessRegressor(KERNEL, optimizer=None, solver="matrix-free").fit(X, y)
    with pytest.raises(AttributeError, match="40 rows were fitted without a matrix"):
        model.L_  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'L_'"):
        GaussianProcessRegressor().L_  # noqa: B018
    model.set_params(solver="dense").fit(X, y)
    assert model.L_.shape == (40, 40)


def test_errors_name_what_is_wrong():
    X, y, Z = data(12)
    model = GaussianProcessRegressor(KERNEL, optimizer=None).fit(X, y)
    bad = X.copy()
    bad[3, 1] = np.nan
    for call in (lambda: GaussianProcessRegressor().fit(bad, y), lambda: model.predict(bad)):
        with pytest.raises(ValueError, match="NaN"):
            call()
    for parameters, match in [
        ({"alpha": -1.0}, "alpha=-1.0"),
        ({"alpha": np.ones(5)}, "alpha must be a scalar or an array with same number of entries"),
        ({"optimizer": "adam"}, "Unknown optimizer adam"),
        ({"optimizer": 3}, "optimizer=3"),
        ({"tol": 2.0}, "tol=2.0"),
        ({"n_probes": 1}, "n_probes=1"),
        ({"solver": "lu"}, "solver='lu'"),
        ({"kernel": "precomputed"}, "precomputed"),
    ]:
        with pytest.raises(OptionError, match=match):
            GaussianProcessRegressor(**parameters).fit(X, y)
    with pytest.raises(OptionError, match="quantiles"):
        model.predict_quantiles(Z, [1.5])
    with pytest.raises(ShapeError, match="covariance of 5,000 points"):
        model.set_params(memory_limit=1 << 20).predict(np.zeros((5000, 3)), return_cov=True)


def test_plan():
    plan = GaussianProcessRegressor(KERNEL).plan((300_000, 3))
    assert plan.solver == "matrix-free" and "300,000 rows" in str(plan)
    assert GaussianProcessRegressor(KERNEL).fit(*data(31)[:2]).plan_.dense


def test_a_callback_ends_learning():
    seen = []
    X, y, _ = data(31)
    model = GaussianProcessRegressor(KERNEL, callback=lambda step: bool(seen.append(step)) or len(seen) == 3)
    model.fit(X, y)
    assert len(seen) == model.n_iter_ == 3
    assert model.log_marginal_likelihood_value_ == pytest.approx(max(s.value for s in seen))


# ---------------------------------------------------------------- quantiles, leave-one-out


def test_quantiles_of_a_normal_distribution():
    X, y, Z = data(31, 2)
    model = GaussianProcessRegressor(KERNEL, optimizer=None).fit(X, y)
    mean, std = model.predict(Z, return_std=True)
    found = model.predict_quantiles(Z)
    assert found.shape == (20, 2, 2)
    np.testing.assert_allclose(
        found, mean[..., None] + std[..., None] * np.array([-1.959964, 1.959964]), atol=1e-5
    )


@pytest.mark.parametrize("targets", [0, 2])
def test_leave_one_out_is_a_fit_of_the_others(targets: int):
    X, y, _ = data(33, targets)
    alpha = np.linspace(1e-3, 1e-1, 33)
    model = GaussianProcessRegressor(KERNEL, optimizer=None, alpha=alpha, normalize_y=True).fit(X, y)
    found, scale = model.loo_predict(), y.std(0)
    for i in (0, 17, 32):
        rest = np.arange(33) != i
        other = Theirs(KERNEL, optimizer=None, alpha=alpha[rest]).fit(
            X[rest], ((y - y.mean(0)) / scale)[rest]
        )
        mean, std = (v[0] for v in other.predict(X[i : i + 1], return_std=True))
        mean, std = mean * scale + y.mean(0), np.sqrt(std**2 + alpha[i]) * scale
        np.testing.assert_allclose(found.mean[i], mean, rtol=1e-8)
        np.testing.assert_allclose(found.std[i], std, rtol=1e-8)
        density = -0.5 * ((y[i] - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
        np.testing.assert_allclose(found.log_density[i], density, rtol=1e-8)
    assert not np.any(found.std_error) and not np.any(found.mean_error)


def test_leave_one_out_from_random_vectors():
    X, y, _ = data(1100)  # from 1,000 rows on the diagonal of the inverse is estimated
    kernel = ConstantKernel(1.0) * Matern(0.05, nu=0.5) + WhiteKernel(0.1)
    exact = GaussianProcessRegressor(kernel, optimizer=None).fit(X, y).loo_predict()
    model = GaussianProcessRegressor(kernel, optimizer=None, solver="matrix-free", n_probes=4).fit(X, y)
    found = model.loo_predict()
    assert np.median(found.std_error) > 0
    z = (found.std - exact.std) / found.std_error
    assert 0.3 < np.sqrt(np.mean(z**2)) < 3
    np.testing.assert_allclose(found.mean, exact.mean, atol=6 * found.mean_error.max())


# ---------------------------------------------------------------- without the matrix


@pytest.fixture(scope="module")
def both():
    X, y, Z = data(300, 2, m=150)
    kernel = ConstantKernel(2.0) * Matern([0.5, 0.7, 0.9], nu=2.5) + WhiteKernel(0.02)
    options = {"optimizer": None, "normalize_y": True, "alpha": np.linspace(1e-3, 1e-2, 300)}
    free = GaussianProcessRegressor(kernel, solver="matrix-free", n_probes=64, **options).fit(X, y)
    return Theirs(kernel, **options).fit(X, y), free, Z


@pytest.mark.parametrize("m", [1, 2, 31, 64])
def test_few_points_have_solves(both, m: int):
    dense, free, Z = both
    (mean, std), found = dense.predict(Z[:m], return_std=True), free.predict_distribution(Z[:m])
    np.testing.assert_allclose(found.mean, mean, atol=1e-5)
    np.testing.assert_allclose(found.std, std, rtol=1e-3)
    assert found.how == "solves" and np.all(found.std >= std * (1 - 1e-9))  # never too sure
    assert np.all(found.std - std <= found.std_error * 1.01 + 1e-9)
    np.testing.assert_allclose(
        free.predict(Z[:m], return_cov=True)[1], dense.predict(Z[:m], return_cov=True)[1], atol=1e-4
    )
    assert free.log_marginal_likelihood_value_ == pytest.approx(
        dense.log_marginal_likelihood_value_, abs=4 * free.log_marginal_likelihood_error_
    )


def test_many_points_share_a_subspace(both):
    dense, free, Z = both
    found = free.predict_distribution(Z)
    np.testing.assert_allclose(found.std, dense.predict(Z, return_std=True)[1], rtol=1e-3)
    assert "random vectors" in found.how
    np.testing.assert_array_equal(free.predict(Z, return_std=True)[1], found.std)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("rank", "near"), [(20, 1), (5, 8)])
def test_the_error_of_variances_is_known(monkeypatch: pytest.MonkeyPatch, rank: int, near: int):
    monkeypatch.setattr(random_variance, "RANK", rank)
    monkeypatch.setattr(random_variance, "NEAREST", near)
    X, y, Z = data(500, m=200)
    kernel = Matern(0.3, nu=1.5) + WhiteKernel(0.01)
    exact = Theirs(kernel, optimizer=None).fit(X, y).predict(Z, return_std=True)[1]
    found = (
        GaussianProcessRegressor(kernel, optimizer=None, solver="matrix-free")
        .fit(X, y)
        .predict_distribution(Z)
    )
    z = (found.std**2 - exact**2) / (2 * exact * found.std_error)
    assert np.median(found.std_error / exact) > 0.003  # there is something left to estimate
    assert abs(np.mean(z)) < 1 and 0.3 < np.sqrt(np.mean(z**2)) < 2


def test_rough_standard_deviations_are_announced(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(random_variance, "RANK", 16)
    monkeypatch.setattr(random_variance, "NEAREST", 1)
    monkeypatch.setattr(random_variance, "VECTORS", 4)
    X, y, Z = data(300, m=100)
    model = GaussianProcessRegressor(RBF(0.3), alpha=1e-3, optimizer=None, solver="matrix-free").fit(X, y)
    with pytest.warns(ConvergenceWarning, match="known to"):
        model.predict(Z, return_std=True)


@pytest.mark.parametrize("solver", ["dense", "matrix-free"])
def test_samples_have_the_moments_of_the_posterior(monkeypatch: pytest.MonkeyPatch, solver: str):
    monkeypatch.setattr("kerngp.models.gp.exact_posterior.JOINT_POINTS", 8)  # pathwise from here on
    monkeypatch.setattr(iterative_posterior, "SOLVED_POINTS", 8)
    monkeypatch.setattr(iterative_posterior.IterativePosterior, "joint_points", 8)
    X, y, Z = data(100, 2, m=12)
    model = GaussianProcessRegressor(KERNEL, optimizer=None, alpha=0.01, normalize_y=True, solver=solver).fit(
        X, y
    )
    mean, cov = (
        Theirs(KERNEL, optimizer=None, alpha=0.01, normalize_y=True).fit(X, y).predict(Z, return_cov=True)
    )
    drawn = model.sample_y(Z, 4000, random_state=1)
    assert drawn.shape == (12, 2, 4000)
    for t in range(2):
        scale = np.sqrt(np.diag(cov[..., t]))
        assert np.all(np.abs(drawn[:, t].mean(-1) - mean[:, t]) < 4.5 * scale / np.sqrt(4000))
        correlation = np.cov(drawn[:, t]) / np.outer(scale, scale)
        np.testing.assert_allclose(correlation, cov[..., t] / np.outer(scale, scale), atol=0.12)
    np.testing.assert_array_equal(drawn, model.sample_y(Z, 4000, random_state=1))


def test_learning_without_the_matrix():
    X, y, Z = data(250)
    kernel = ConstantKernel(1.0) * RBF([1.0, 1.0, 1.0], (0.1, 10)) + WhiteKernel(0.1)
    dense = Theirs(kernel).fit(X, y)
    free = GaussianProcessRegressor(kernel, solver="matrix-free", random_state=0).fit(X, y)
    assert [s.rows for s in free.learning_history_[-5:]] == [250] * 5
    gap = dense.log_marginal_likelihood_value_ - dense.log_marginal_likelihood(free.kernel_.theta)
    assert gap < 1.0
    np.testing.assert_allclose(free.predict(Z), dense.predict(Z), atol=0.05)
    assert free.log_marginal_likelihood_error_ > 0 and free.solution_.converged


def test_too_little_noise_is_announced():
    X, y, _ = data(60)
    with pytest.warns(ConvergenceWarning, match="Set alpha to the"):
        GaussianProcessRegressor(Matern(0.5, nu=0.5), optimizer=None, solver="matrix-free").fit(X, y)


def test_a_matrix_that_is_not_positive_definite():
    X, y, _ = data(60)
    with pytest.raises(np.linalg.LinAlgError, match="not returning a positive definite matrix"):
        GaussianProcessRegressor(models.Linear(), alpha=0, optimizer=None).fit(X, y)
    negative = -1.0 * models.RBF(1.0) + models.White(0.1)
    with pytest.raises((SolveError, np.linalg.LinAlgError), match="positive definite"):
        GaussianProcessRegressor(negative, alpha=0, optimizer=None, solver="matrix-free").fit(X, y)

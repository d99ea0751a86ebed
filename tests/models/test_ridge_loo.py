"""Leave-one-out predictions in closed form against fits that leave one row out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge as Theirs
from sklearn.metrics.pairwise import pairwise_kernels
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from kerngp.engine.ops import dot
from kerngp.errors import OptionError, SolveError
from kerngp.models import RBF, FormulaKernel, KernelRidge, White
from kerngp.models.ridge import loo

SOLVERS = ["cholesky", "pcg", "inducing"]


def data(n=61, dim=3, targets=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, dim))
    return X, np.sin(X @ rng.standard_normal((dim, targets))) + 0.1 * rng.standard_normal((n, targets))


def by_refitting(model, X, y, w=None):
    """The definition."""
    out = np.full(y.shape, np.nan)
    for i in range(len(X)):
        if w is not None and w[i] == 0:
            continue
        rest = np.arange(len(X)) != i
        out[i] = model.fit(X[rest], y[rest], None if w is None else w[rest]).predict(X[i : i + 1])[0]
    return out


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("n", [2, 7, 31, 61])
def test_against_refitting(n, solver):
    X, y = data(n)
    ours = KernelRidge(alpha=0.3, kernel="rbf", solver=solver, tol=1e-12)
    want = cross_val_predict(Theirs(alpha=0.3, kernel="rbf"), X, y, cv=LeaveOneOut())
    np.testing.assert_allclose(ours.loo_predict(X, y), want, atol=1e-6)
    np.testing.assert_allclose(ours.loo_predict(X, y[:, 0]), want[:, 0], atol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_weights_an_alpha_for_each_target_and_duplicates(solver):
    X, y = data(33, targets=3)
    X[5] = X[4]
    w = np.random.default_rng(1).uniform(0.2, 2, 33)
    w[[3, 20]] = 0
    alpha = [0.1, 2.0, 0.1]
    ours = KernelRidge(alpha=alpha, kernel="rbf", solver=solver, tol=1e-12)
    want = by_refitting(Theirs(alpha=np.array(alpha), kernel="rbf"), X, y, w)
    found = ours.loo_predict(X, y, w)
    assert np.isnan(found[[3, 20]]).all()
    np.testing.assert_allclose(found, want, atol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("varying", [False, True])
def test_white_noise(solver, varying):
    X, y = data(31)
    noise = FormulaKernel(dot) * White(0.2) if varying else White(0.2)
    kernel = RBF() + noise
    ours = KernelRidge(alpha=0.1, kernel=kernel, solver=solver, tol=1e-12)
    want = by_refitting(KernelRidge(alpha=0.1, kernel=kernel, solver="cholesky"), X, y)
    np.testing.assert_allclose(ours.loo_predict(X, y), want, atol=1e-6)


def test_precomputed():
    X, y = data()
    K = pairwise_kernels(X, metric="rbf")
    want = KernelRidge(alpha=0.3, kernel="rbf").loo_predict(X, y)
    kept = K.copy()
    np.testing.assert_allclose(
        KernelRidge(alpha=0.3, kernel="precomputed").loo_predict(K, y), want, atol=1e-9
    )
    np.testing.assert_array_equal(K, kept)


def test_fewer_centers_share_them():
    X, y = data(120)
    model = KernelRidge(alpha=0.3, kernel="rbf", n_centers=15, tol=1e-12)
    Z = model.fit(X, y).X_fit_
    found = model.loo_predict(X, y)
    for i in (0, 60, 119):
        rest = np.arange(120) != i
        Knm, Kmm = (pairwise_kernels(a, Z, metric="rbf", gamma=1 / 3) for a in (X[rest], Z))
        c = np.linalg.solve(Knm.T @ Knm + 0.3 * Kmm, Knm.T @ y[rest])
        want = pairwise_kernels(X[i : i + 1], Z, metric="rbf", gamma=1 / 3) @ c
        np.testing.assert_allclose(found[i], want[0], atol=1e-6)


def test_many_alphas_by_eigenvectors_are_those_by_inverses():
    X, y = data(40, targets=6)
    alpha = np.logspace(-2, 2, 6)
    assert len(alpha) > loo.FEW
    found = KernelRidge(alpha=alpha, kernel="rbf").loo_predict(X, y)
    for e, a in enumerate(alpha):
        alone = KernelRidge(alpha=a, kernel="rbf").loo_predict(X, y[:, e])
        np.testing.assert_allclose(found[:, e], alone, atol=1e-9)


@pytest.mark.parametrize("raced", [False, True])
def test_estimated_diagonals_are_within_their_errors(raced, monkeypatch):
    if raced:
        monkeypatch.setattr("kerngp.models.ridge.plan.CHOLESKY_ROWS", 500)
    X, y = data(1100, targets=1)
    y = y[:, 0]
    parameters = {"alpha": 0.5, "kernel": "rbf", "gamma": 0.7, "tol": 1e-8}
    exact, zero = KernelRidge(**parameters, solver="cholesky").loo_predict(X, y, return_std=True)
    np.testing.assert_array_equal(zero, 0)
    found, error = KernelRidge(**parameters, solver="pcg").loo_predict(X, y, return_std=True)
    off = np.abs(found - exact)
    assert off.max() > 0 and np.mean(off <= 2 * error + 1e-6) > 0.85
    assert off.mean() < 0.02 * np.std(y - exact)


@pytest.mark.parametrize("solver", SOLVERS)
def test_arrays_follow_x(solver):
    X, y = data()
    x = torch.tensor(X, dtype=torch.float32)
    found = KernelRidge(kernel="rbf", solver=solver).loo_predict(x, y)
    assert isinstance(found, torch.Tensor) and found.dtype == torch.float32
    want = KernelRidge(kernel="rbf").loo_predict(X, y)
    np.testing.assert_allclose(found.numpy(), want, atol=1e-4)


def test_a_fit_stays_as_it_was():
    X, y = data()
    model = KernelRidge(kernel="rbf").fit(X, y)
    before = dict(vars(model))
    model.loo_predict(X[:, :2], y)
    assert vars(model) == before


def test_refusals():
    X, y = data()
    with pytest.raises(OptionError, match="alpha=0.0: leave-one-out residuals need an alpha > 0"):
        KernelRidge(alpha=0).loo_predict(X, y)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        KernelRidge().loo_predict(np.full_like(X, np.nan), y)
    with np.errstate(over="ignore"), pytest.raises(SolveError, match="the kernel overflows"):
        KernelRidge(kernel="poly", degree=400, coef0=1e3).loo_predict(X * 1e3, y)

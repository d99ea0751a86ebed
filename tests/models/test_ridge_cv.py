"""KernelRidgeCV: the numbers of RidgeCV with the linear kernel, and what its solvers have in common."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import RidgeCV
from sklearn.metrics import make_scorer, mean_absolute_error
from sklearn.metrics.pairwise import pairwise_kernels
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kerngp.errors import OptionError
from kerngp.models import RBF, KernelRidge, KernelRidgeCV, White

EXACT = ["cholesky", "inducing"]
ALPHAS = np.logspace(-2, 2, 7)


def data(n=60, dim=4, targets=None, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, dim))
    Y = np.stack([X.sum(1) + rng.standard_normal(n), np.sin(2 * X[:, 0]) + 0.1 * rng.standard_normal(n)], 1)
    return X, Y if targets else Y[:, 0]


def agree(ours, theirs, X):
    np.testing.assert_allclose(ours.cv_results_, theirs.cv_results_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(ours.best_score_, theirs.best_score_, rtol=1e-6)
    np.testing.assert_allclose(ours.alpha_, theirs.alpha_)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), atol=1e-6)


@pytest.mark.parametrize("solver", EXACT)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scoring", [None, "r2", "neg_mean_absolute_error"])
@pytest.mark.parametrize(("targets", "per_target"), [(None, False), (2, False), (2, True)])
def test_against_ridge_cv(solver, weighted, scoring, targets, per_target):
    X, y = data(targets=targets)
    w = np.random.default_rng(1).uniform(0.1, 2, 60) if weighted else None
    settings = {"scoring": scoring, "alpha_per_target": per_target, "store_cv_results": True}
    theirs = RidgeCV(ALPHAS, fit_intercept=False, **settings).fit(X, y, w)
    agree(KernelRidgeCV(ALPHAS, **settings, solver=solver, tol=1e-10).fit(X, y, w), theirs, X)


def test_precomputed_and_a_scorer():
    X, y = data()
    scorer = make_scorer(mean_absolute_error, greater_is_better=False)
    settings = {"scoring": scorer, "store_cv_results": True}
    theirs = RidgeCV(ALPHAS, fit_intercept=False, **settings).fit(X, y)
    ours = KernelRidgeCV(ALPHAS, kernel="precomputed", **settings).fit(X @ X.T, y)
    np.testing.assert_allclose(ours.cv_results_, theirs.cv_results_, rtol=1e-6, atol=1e-9)
    assert ours.alpha_ == theirs.alpha_


@pytest.mark.parametrize("solver", [*EXACT, "pcg"])
def test_the_fit_is_that_of_kernel_ridge(solver):
    X, y = data(targets=2)
    w = np.linspace(0, 2, 60)
    ours = KernelRidgeCV(ALPHAS, kernel="rbf", solver=solver, alpha_per_target=True, tol=1e-10).fit(X, y, w)
    same = KernelRidge(ours.alpha_, kernel="rbf", solver=solver, tol=1e-10).fit(X, y, w)
    np.testing.assert_allclose(ours.predict(X), same.predict(X), atol=1e-8)
    assert ours.solver_ == solver and ours.solution_.converged and ours.n_iter_ >= 1
    assert len(set(ours.alpha_)) == 2


@pytest.mark.parametrize("solver", EXACT)
def test_leave_one_out_results_are_those_of_loo_predict(solver):
    X, y = data(31)
    w = np.ones(31)
    w[4] = 0
    ours = KernelRidgeCV([0.1, 3.0], kernel=RBF() + White(0.1), solver=solver, store_cv_results=True).fit(
        X, y, w
    )
    for k, alpha in enumerate((0.1, 3.0)):
        model = KernelRidge(alpha, kernel=RBF() + White(0.1), solver=solver)
        want = (y - model.loo_predict(X, y, w)) ** 2
        np.testing.assert_allclose(ours.cv_results_[:, k], want, atol=1e-9)
        np.testing.assert_allclose(ours.scores_[k], -np.nanmean(want))
    assert np.isnan(ours.cv_results_[4]).all()


def test_generalized_cross_validation_by_probes():
    X, y = data(300)
    K = pairwise_kernels(X, metric="rbf")
    want = []
    for alpha in ALPHAS:
        G = np.linalg.inv(K + alpha * np.eye(300))
        want.append(-np.mean((G @ y / np.mean(np.diag(G))) ** 2))
    for rank in (0, None):
        ours = KernelRidgeCV(ALPHAS, kernel="rbf", solver="pcg", preconditioner_rank=rank, tol=1e-8)
        ours.fit(X, y)
        assert np.all(ours.score_errors_ > 0)
        assert np.all(np.abs(ours.scores_ - want) <= 4 * ours.score_errors_ + 1e-3 * np.abs(want))
        assert ours.alpha_ == ALPHAS[np.argmax(want)]
        assert ours.best_score_ == ours.scores_.max()


def test_beyond_the_dense_threshold(monkeypatch):
    X, y = data(700)
    exact = KernelRidgeCV(ALPHAS, kernel="rbf").fit(X, y)
    monkeypatch.setattr("kerngp.models.ridge.plan.CHOLESKY_ROWS", 500)
    ours = KernelRidgeCV(ALPHAS, kernel="rbf").fit(X, y)
    assert (exact.solver_, ours.solver_) == ("cholesky", "pcg")
    assert ours.alpha_ == exact.alpha_
    np.testing.assert_allclose(ours.scores_, exact.scores_, rtol=0.15)
    np.testing.assert_allclose(ours.predict(X), exact.predict(X), atol=1e-4)


def test_folds():
    X, y = data()
    cv = KFold(4, shuffle=True, random_state=0)
    w = np.linspace(0.1, 2, 60)
    theirs = RidgeCV(ALPHAS, fit_intercept=False, cv=cv).fit(X, y, w)
    ours = KernelRidgeCV(ALPHAS, cv=cv).fit(X, y, w)
    assert ours.alpha_ == theirs.alpha_
    np.testing.assert_allclose(ours.best_score_, theirs.best_score_, rtol=1e-6)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), atol=1e-6)
    assert KernelRidgeCV([0.0, 1.0], kernel="rbf", cv=3).fit(X, y).scores_.shape == (2,)
    K = KernelRidgeCV(ALPHAS, kernel="precomputed", cv=cv).fit(X @ X.T, y, w)
    np.testing.assert_allclose(K.scores_, ours.scores_, rtol=1e-6)


def test_searches_and_pipelines():
    X, y = data()
    model = KernelRidgeCV(ALPHAS, kernel="rbf")
    search = GridSearchCV(model, {"gamma": [1e-3, 0.1, 10.0]}, cv=3).fit(X, y)
    assert search.best_params_["gamma"] != 10.0
    pipe = make_pipeline(StandardScaler(), clone(model)).fit(X, y)
    again = pickle.loads(pickle.dumps(pipe))
    np.testing.assert_array_equal(again.predict(X), pipe.predict(X))


@pytest.mark.parametrize("cv", [None, 3])
def test_arrays_follow_x(cv):
    X, y = data(targets=2)
    x = torch.tensor(X, dtype=torch.float32)
    model = KernelRidgeCV([0.1, 1.0], kernel="rbf", cv=cv, store_cv_results=cv is None).fit(
        x, torch.tensor(y)
    )
    kept = (model.dual_coef_, model.X_fit_, model.predict(x), *([model.cv_results_] if cv is None else []))
    assert all(isinstance(a, torch.Tensor) and a.dtype == torch.float32 for a in kept)
    want = KernelRidgeCV([0.1, 1.0], kernel="rbf", cv=cv).fit(X, y)
    np.testing.assert_allclose(model.predict(x).numpy(), want.predict(X), atol=1e-4)


def test_the_log_says_what_was_chosen(caplog):
    X, y = data()
    with caplog.at_level(logging.INFO, logger="kerngp"):
        model = KernelRidgeCV(ALPHAS).fit(X, y)
    assert model.plan(X, y) == model.plan_
    assert "KernelRidgeCV.fit: 60 rows" in caplog.text and f"alpha {model.alpha_}, score" in caplog.text


BAD = [
    ({"alphas": []}, r"alphas=\[\]; expected finite numbers, positive, at least one"),
    ({"alphas": [1.0, 0.0]}, "positive"),
    ({"alphas": [-1.0], "cv": 3}, "not negative"),
    ({"alphas": "x"}, "alphas='x'"),
    ({"alphas": [np.nan]}, "finite"),
    ({"cv": 3, "store_cv_results": True}, "cv!=None and store_cv_results=True are incompatible"),
    ({"cv": 3, "alpha_per_target": True}, "cv!=None and alpha_per_target=True are incompatible"),
    ({"memory_limit": 5}, "memory_limit=5; expected an integer of at least"),
]


@pytest.mark.parametrize(("parameters", "message"), BAD)
def test_bad_parameters(parameters, message):
    with pytest.raises(OptionError, match=message):
        KernelRidgeCV(**parameters).fit(*data())

"""Kernel logistic regression against scikit-learn, and its solvers against each other."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from kerngp.errors import DataError, OptionError
from kerngp.models import RBF, KernelLogisticRegression, Linear, White


def data(n: int, classes: int, features: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.RandomState(seed)
    X = rng.randn(n, features)
    y = np.digitize(X[:, 0] + 0.7 * rng.randn(n), np.linspace(-0.7, 0.7, max(classes - 1, 1)))
    y[:classes] = np.arange(classes)
    return X, y


def reference(alpha: float) -> LogisticRegression:
    return LogisticRegression(C=1 / alpha, fit_intercept=False, solver="newton-cg", tol=1e-12, max_iter=1000)


@pytest.mark.parametrize("n", [5, 7, 31, 33, 300])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("alpha", [1.0, 0.01])
def test_a_linear_kernel_is_linear_logistic_regression(n, classes, alpha):
    X, y = data(n, classes)
    ours = KernelLogisticRegression(alpha, kernel="linear").fit(X, y)
    theirs = reference(alpha).fit(X, y)
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)
    np.testing.assert_allclose(ours.predict_log_proba(X), np.log(ours.predict_proba(X)), atol=1e-9)
    assert (ours.predict(X) == theirs.predict(X)).all()


def test_one_vs_rest():
    X, y = data(80, 3)
    ours = KernelLogisticRegression(0.1, kernel="linear", multi_class="one_vs_rest").fit(X, y)
    theirs = OneVsRestClassifier(reference(0.1)).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize("class_weight", [{0: 2.0, 1: 0.5, 2: 1.0}, "balanced"])
def test_weights(class_weight):
    X, y = data(90, 3)
    theirs = reference(1.0).set_params(class_weight=class_weight).fit(X, y)
    ours = KernelLogisticRegression(kernel="linear", class_weight=class_weight).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)
    w = np.random.RandomState(1).rand(90)
    w[10:20] = 0.0
    theirs = reference(1.0).fit(X, y, w)
    ours = KernelLogisticRegression(kernel="linear").fit(X, y, w)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)
    assert (ours.dual_coef_[10:20] == 0).all()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("multi_class", ["multinomial", "one_vs_rest"])
def test_every_point_a_center(classes, multi_class):
    X, y = data(150, classes, 2)
    settings = {"alpha": 0.1, "gamma": 1.0, "multi_class": multi_class, "tol": 1e-8}
    dense = KernelLogisticRegression(**settings).fit(X, y)
    centers = KernelLogisticRegression(**settings, solver="inducing", n_centers=150).fit(X, y)
    np.testing.assert_allclose(centers.predict_proba(X), dense.predict_proba(X), atol=1e-7)
    assert centers.objective_ == pytest.approx(dense.objective_, rel=1e-9)


def test_few_centers_cost_little():
    X, y = data(400, 3, 2)
    full = KernelLogisticRegression(1.0, gamma=0.5).fit(X, y)
    some = KernelLogisticRegression(1.0, gamma=0.5, n_centers=60).fit(X, y)
    assert some.solver_ == "inducing" and some.X_fit_.shape == (60, 2) and some.dual_coef_.shape == (60, 3)
    assert full.objective_ <= some.objective_ * (1 + 1e-9)
    assert some.objective_ <= 1.001 * full.objective_


@pytest.mark.parametrize("rank", [0, 40])
@pytest.mark.parametrize("alpha", [1.0, 1e-3])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_matrix_need_not_be_stored(rank, alpha, classes, monkeypatch):
    X, y = data(300, classes, 2)
    kernel = 2.0 * RBF(0.7) + White(0.1)
    stored = KernelLogisticRegression(alpha, kernel=kernel).fit(X, y)
    monkeypatch.setattr("kerngp.models.ridge.logistic_plan.STORED_ROWS", 10)
    free = KernelLogisticRegression(alpha, kernel=kernel, preconditioner_rank=rank).fit(X, y)
    assert stored.plan_.stored and not free.plan_.stored
    np.testing.assert_allclose(free.predict_proba(X), stored.predict_proba(X), atol=1e-5)


def test_the_gradient_vanishes():
    X, y = data(60, 2)
    model = KernelLogisticRegression(0.5, kernel=RBF(1.0)).fit(X, y)
    # at the minimum alpha c = y - p
    np.testing.assert_allclose(0.5 * model.dual_coef_, y - model.predict_proba(X)[:, 1], atol=1e-9)


def test_precomputed_callable_and_strings():
    X, y = data(50, 3)
    expected = KernelLogisticRegression(kernel="linear").fit(X, y).predict_proba(X[:9])
    gram = KernelLogisticRegression(kernel="precomputed").fit(X @ X.T, y)
    rows = KernelLogisticRegression(kernel=lambda a, b: float(np.dot(a, b))).fit(X, y)
    text = KernelLogisticRegression(kernel="linear(x,y)").fit(X, y)
    for found in (gram.predict_proba(X[:9] @ X.T), rows.predict_proba(X[:9]), text.predict_proba(X[:9])):
        np.testing.assert_allclose(found, expected, atol=1e-7)


def test_constant_columns_and_duplicates():
    X, y = data(40, 2)
    X = np.hstack([np.repeat(X[:20], 2, axis=0), np.ones((40, 1))])
    ours = KernelLogisticRegression(kernel="linear").fit(X, y)
    np.testing.assert_allclose(
        ours.decision_function(X), reference(1.0).fit(X, y).decision_function(X), atol=1e-6
    )


@pytest.mark.parametrize("solver", ["newton", "inducing"])
def test_results_follow_X(solver):
    X, y = data(60, 3)
    expected = KernelLogisticRegression(solver=solver, n_centers=30).fit(X, y)
    x = torch.from_numpy(X).float()
    model = KernelLogisticRegression(solver=solver, n_centers=30).fit(x, torch.from_numpy(y))
    for found in (model.predict_proba(x), model.dual_coef_, model.X_fit_, model.decision_function(x)):
        assert isinstance(found, torch.Tensor) and found.dtype == torch.float32
    assert isinstance(model.predict(x), torch.Tensor)
    np.testing.assert_allclose(model.predict_proba(x).numpy(), expected.predict_proba(X), atol=1e-4)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again.predict_proba(x), model.predict_proba(x))


def test_labels_may_be_strings():
    X, y = data(40, 2)
    names = np.array(["no", "yes"])[y]
    model = KernelLogisticRegression().fit(torch.from_numpy(X), names)
    assert set(model.predict(torch.from_numpy(X))) <= {"no", "yes"}


def test_unfinished_work_is_told():
    X, y = data(40, 3)
    with pytest.warns(ConvergenceWarning, match="max_iter=1 steps"):
        KernelLogisticRegression(1e-3, max_iter=1).fit(X, y)
    steps = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = KernelLogisticRegression(1e-3, callback=lambda p: steps.append(p) or len(steps) == 3).fit(
            X, y
        )
    assert model.n_iter_ == 3 and steps[-1].phase == "newton"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"alpha": 0.0}, "alpha=0.0"),
        ({"tol": 2}, "tol=2"),
        ({"max_iter": 0}, "max_iter=0"),
        ({"solver": "magic"}, "solver='magic'"),
        ({"multi_class": "auto"}, "multi_class='auto'"),
        ({"kernel": 1.0 * RBF() + White(0.1), "n_centers": 5}, "white noise"),
        ({"kernel": "precomputed", "n_centers": 5}, "needs a kernel with a formula"),
    ],
)
def test_bad_parameters(parameters, message):
    X, y = data(8, 2)
    X = X @ X.T if parameters.get("kernel") == "precomputed" else X
    with pytest.raises(OptionError, match=message):
        KernelLogisticRegression(**parameters).fit(X, y)


def test_bad_data():
    X, y = data(20, 2)
    with pytest.raises(DataError, match="at least 2 classes"):
        KernelLogisticRegression().fit(X, np.ones(20))
    with pytest.raises(ValueError, match="NaN"):
        KernelLogisticRegression().fit(np.where(X > 1, np.nan, X), y)


def test_the_plan_is_known_before():
    model = KernelLogisticRegression(kernel=Linear())
    assert model.plan((100, 3)).stored
    assert model.plan((20_000, 3)).solver == "newton" and not model.plan((20_000, 3)).stored
    plan = model.plan((300_000, 3), np.arange(300_000) % 7)
    assert plan.solver == "inducing" and plan.columns == 7 and "inducing points" in str(plan)
    assert clone(model).get_params() == model.get_params()


FAR = {
    "check_class_weight_classifiers": "there is no intercept: under a local kernel the weights of one class "
    "are not felt far from its rows"
}
POINTS = {"check_decision_proba_consistency": "it passes points where a matrix is asked for"}


@parametrize_with_checks(
    [
        KernelLogisticRegression(kernel=2.0 * RBF(3.0)),
        KernelLogisticRegression(multi_class="one_vs_rest"),
        KernelLogisticRegression(kernel="precomputed"),
    ],
    expected_failed_checks=lambda estimator: FAR | (POINTS if estimator.kernel == "precomputed" else {}),
)
def test_contract(estimator, check):
    check(estimator)

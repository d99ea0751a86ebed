"""KernelRidgeClassifier: RidgeClassifier with the linear kernel, and what kernels add."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.datasets import make_circles, make_multilabel_classification
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import cross_val_score

from kerngp.models import RBF, KernelRidgeClassifier

SOLVERS = ["cholesky", "pcg", "inducing"]


def data(classes, n=91, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 4))
    return X, np.argmax(X @ rng.standard_normal((4, classes)) + 0.5 * rng.standard_normal((n, classes)), 1)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0}])
def test_against_ridge_classifier(solver, classes, class_weight):
    X, y = data(classes)
    w = np.random.default_rng(1).uniform(0.0, 2, 91)
    theirs = RidgeClassifier(0.5, fit_intercept=False, class_weight=class_weight).fit(X, y, w)
    ours = KernelRidgeClassifier(0.5, class_weight=class_weight, solver=solver, tol=1e-10).fit(X, y, w)
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=1e-6)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    assert ours.score(X, y, w) == theirs.score(X, y, w)


def test_labels_of_any_kind():
    X, y = data(3)
    names = np.array(["ant", "bee", "cow"])[y]
    model = KernelRidgeClassifier(kernel="rbf").fit(X, names)
    want = KernelRidgeClassifier(kernel="rbf").fit(X, y).predict(X)
    np.testing.assert_array_equal(model.predict(X), np.array(["ant", "bee", "cow"])[want])
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_several_labels_at_once():
    X, y = make_multilabel_classification(80, 5, n_classes=3, random_state=0)
    theirs = RidgeClassifier(fit_intercept=False).fit(X, y)
    ours = KernelRidgeClassifier().fit(X, y)
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=1e-6)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


def test_circles_need_a_kernel():
    X, y = make_circles(200, noise=0.05, factor=0.5, random_state=0)
    assert cross_val_score(KernelRidgeClassifier(0.1, kernel=RBF(0.5)), X, y).mean() > 0.98
    assert cross_val_score(KernelRidgeClassifier(0.1), X, y).mean() < 0.7


@pytest.mark.parametrize("classes", [2, 3])
def test_arrays_follow_x(classes):
    X, y = data(classes)
    model = KernelRidgeClassifier(kernel="rbf").fit(torch.tensor(X), torch.tensor(y))
    found = model.predict(torch.tensor(X))
    assert isinstance(found, torch.Tensor) and isinstance(model.classes_, torch.Tensor)
    assert found.dtype == torch.int64 and isinstance(model.dual_coef_, torch.Tensor)
    np.testing.assert_array_equal(found, KernelRidgeClassifier(kernel="rbf").fit(X, y).predict(X))
    strings = KernelRidgeClassifier(kernel="rbf").fit(torch.tensor(X), y.astype(str))
    np.testing.assert_array_equal(strings.predict(torch.tensor(X)), found.numpy().astype(str))


def test_plan_knows_the_targets():
    for classes, targets in ((2, 1), (3, 3)):
        X, y = data(classes)
        model = KernelRidgeClassifier(kernel="rbf")
        assert model.plan(X, y).targets == targets
        assert model.fit(X, y).plan_ == model.plan(X, y)


def test_refusals():
    X, y = data(2)
    with pytest.raises(ValueError, match="Unknown label type"):
        KernelRidgeClassifier().fit(X, X[:, 0])
    with pytest.raises(ValueError, match="Input X contains NaN"):
        KernelRidgeClassifier().fit(np.full_like(X, np.nan), y)

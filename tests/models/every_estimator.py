"""Every estimator, once for each way it works: what the tests of the contract and of saving run through."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import clone, is_clusterer
from sklearn.gaussian_process import kernels as sk
from sklearn.utils import get_tags

from kerngp.models import (
    RBF,
    GaussianProcessClassifier,
    GaussianProcessRegressor,
    KernelDensity,
    KernelLogisticRegression,
    KernelPCA,
    KernelRidge,
    KernelRidgeClassifier,
    KernelRidgeCV,
    KMeans,
    KNeighborsClassifier,
    KNeighborsRegressor,
    Matern,
    NearestNeighbors,
    Nystroem,
    SpectralClustering,
    White,
)

# any rows will do: these go through scikit-learn's checks, too
FOR_ANY_ROWS: list[Any] = [
    KernelRidge(),
    KernelRidge(solver="pcg"),
    KernelRidge(solver="inducing"),
    KernelRidge(kernel=2.0 * RBF(3.0) + White(0.1)),
    KernelRidge(kernel="precomputed"),
    KernelRidgeCV(),
    KernelRidgeCV(solver="pcg"),
    KernelRidgeClassifier(),
    KernelRidgeClassifier(kernel="rbf", solver="inducing"),
    NearestNeighbors(),
    NearestNeighbors(algorithm="brute"),
    KNeighborsClassifier(),
    KNeighborsRegressor(weights="distance"),
    KMeans(n_clusters=3, n_init=2, random_state=0),
    KernelDensity(),
    Nystroem(n_components=10, random_state=0),
    Nystroem(n_components=10, sampling="rpcholesky", random_state=0),
    KernelPCA(n_components=3, fit_inverse_transform=True),
    KernelPCA(2, kernel="rbf", eigen_solver="krylov", fit_inverse_transform=True),
    SpectralClustering(n_clusters=3, random_state=0),
    SpectralClustering(3, eigen_solver="krylov", random_state=0),
    GaussianProcessRegressor(),
    GaussianProcessRegressor(alpha=0.01, solver="matrix-free"),
    GaussianProcessClassifier(),
    GaussianProcessClassifier(solver="matrix-free"),
    KernelLogisticRegression(),
    KernelLogisticRegression(kernel="rbf", solver="inducing"),
]

# these are meant for the four columns of `data_for`, or differ from the above in what they keep
ESTIMATORS: list[Any] = [
    *FOR_ANY_ROWS,
    KernelRidge(kernel=Matern(2.5, np.array([1.0, 2.0, 3.0]), active_dims=(0, 1, 2)), solver="pcg"),
    KernelRidge(kernel=sk.RBF(2.0) * sk.ConstantKernel(3.0)),
    KernelRidge(kernel="gaussian(x,y) + linear(x,y)"),
    NearestNeighbors(algorithm="ball_tree"),
    NearestNeighbors(metric="minkowski", p=3, algorithm="brute"),
    NearestNeighbors(metric="braycurtis", algorithm="brute"),
    KernelDensity(kernel="exponential", bandwidth="scott"),
    KernelPCA(n_components=3, kernel="rbf"),
]

# by class: checks of scikit-learn that fail, and why
DRAWS = "the draws of first centers depend on the order of the rows, as in scikit-learn"
EXPECTED_FAILURES: dict[str, dict[str, str]] = {
    "KMeans": {f"check_sample_weight_equivalence_on_{name}_data": DRAWS for name in ("dense", "sparse")},
    "KernelLogisticRegression": {
        "check_class_weight_classifiers": "there is no intercept: under a local kernel the weights of one "
        "class are not felt far from its rows"
    },
    "KernelRidgeClassifier": {
        "check_class_weight_classifiers": "wants one class everywhere; f has no intercept, as with "
        "RidgeClassifier(fit_intercept=False)"
    },
}

# everything an estimator answers about rows
METHODS = (
    "predict",
    "predict_proba",
    "predict_log_proba",
    "decision_function",
    "transform",
    "score_samples",
    "kneighbors",
)


def name_of(estimator: Any) -> str:
    """The estimator as pytest shows it."""
    return "".join(str(estimator).split())[:90]


def data_for(estimator: Any, n: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Rows and targets that it can be fitted to, as its tags say."""
    rng = np.random.default_rng(5)
    X = rng.normal(size=(n, 4))
    tags = get_tags(estimator)
    y = X[:, 0] - X[:, 1] ** 2
    if tags.estimator_type == "classifier":
        y = np.array(["no", "yes"])[(y > np.median(y)).astype(int)]
    if tags.input_tags.positive_only:
        X = abs(X)
    return (X @ X.T if tags.input_tags.pairwise else X), y


def fitted(estimator: Any) -> Any:
    """A fitted copy."""
    return clone(estimator).fit(*data_for(estimator))


def answers(model: Any, X: Any) -> dict[str, Any]:
    """What a fitted estimator says of rows, by method; of a clusterer, the clusters of the fit."""
    found = {"labels_": model.labels_} if is_clusterer(model) else {}
    for method in METHODS:
        if hasattr(model, method):
            out = getattr(model, method)(X)
            parts = out if isinstance(out, tuple) else (out,)
            found |= {f"{method}{k}": part for k, part in enumerate(parts)}
    return found

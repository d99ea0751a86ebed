"""Estimators whose kernel is a combination given by a string."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.kernel_ridge import KernelRidge as Theirs
from sklearn.metrics.pairwise import chi2_kernel
from sklearn.model_selection import GridSearchCV

from kerngp.errors import DataError, FormulaError, OptionError, ShapeError
from kerngp.models import KernelRidge

TEXT = "gaussian(x,y) * (1 + linear(x,y)**2)"


def data(n: int = 61, dim: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(seed).standard_normal((n, dim))
    return X, np.sin(X.sum(1))


def predictions(K, K_new, y, alpha):
    return K_new @ np.linalg.solve(K + alpha * np.eye(len(K)), y)


def matrix(text: str, gammas: dict[str, float]):
    def of(A, B):
        g = gammas
        squared = cdist(A, B, "sqeuclidean")
        return {
            TEXT: lambda: np.exp(-g["gaussian"] * squared) * (1 + (A @ B.T) ** 2),
            "laplacian(x,y)": lambda: np.exp(-np.sqrt(g["laplacian"]) * cdist(A, B)),
            "laplacian( a[1:], b[1:] ) + 2*cauchy(a[0],b[0])": lambda: (
                np.exp(-np.sqrt(g["laplacian"]) * cdist(A[:, 1:], B[:, 1:]))
                + 2 / (1 + g["cauchy"] * cdist(A[:, :1], B[:, :1], "sqeuclidean"))
            ),
        }[text]()

    return of


@pytest.mark.parametrize("solver", ["cholesky", "pcg", "inducing"])
@pytest.mark.parametrize("gamma", [None, 0.7, (0.3, 0.9)])
@pytest.mark.parametrize("text", [TEXT, "laplacian(x,y)", "laplacian( a[1:], b[1:] ) + 2*cauchy(a[0],b[0])"])
def test_against_dense_algebra(text, gamma, solver):
    if text == "laplacian(x,y)" and isinstance(gamma, tuple):
        gamma = (0.3,)
    X, y = data()
    X_new = data(17, seed=1)[0]
    values = gamma if isinstance(gamma, tuple) else [0.25 if gamma is None else gamma] * 2
    names = {TEXT: ["gaussian"], "laplacian(x,y)": ["laplacian"]}.get(text, ["laplacian", "cauchy"])
    K = matrix(text, dict(zip(names, values)))
    model = KernelRidge(
        alpha=0.1,
        kernel=text,
        gamma=gamma,
        solver=solver,
        tol=1e-12,
        n_centers=len(X) if solver == "inducing" else None,
    )
    got = model.fit(X, y).predict(X_new)
    want = predictions(K(X, X), K(X_new, X), y, 0.1)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7 * np.abs(want).max())


def test_laplacian_alone_is_scikit_learns():
    X, y = data()
    X_new = data(17, seed=1)[0]
    bare = KernelRidge(kernel="laplacian", gamma=0.5).fit(X, y).predict(X_new)
    np.testing.assert_allclose(bare, Theirs(kernel="laplacian", gamma=0.5).fit(X, y).predict(X_new))
    K = [np.exp(-np.sqrt(0.5) * cdist(A, X)) for A in (X, X_new)]
    text = KernelRidge(kernel="laplacian(x,y)", gamma=0.5).fit(X, y).predict(X_new)
    np.testing.assert_allclose(text, predictions(*K, y, 1.0))
    assert np.abs(text - bare).max() > 1e-2


def test_the_estimator_is_one_of_scikit_learns():
    X, y = data()
    model = KernelRidge(kernel=TEXT, gamma=[0.2, None])
    assert clone(model).get_params() == model.get_params()
    fitted = pickle.loads(pickle.dumps(model.fit(X, y)))
    np.testing.assert_array_equal(fitted.predict(X), model.predict(X))
    search = GridSearchCV(KernelRidge(kernel=TEXT), {"gamma": [0.1, (0.3, None)]}, cv=3).fit(X, y)
    assert search.best_params_["gamma"] in (0.1, (0.3, None))


def test_histograms_are_not_negative():
    X, y = data()
    text = "chi2(x[1:3], y[1:3]) + gaussian(x,y)"
    with pytest.raises(DataError, match="chi2"):
        KernelRidge(kernel=text).fit(X, y)
    X[:, 1:3] = np.abs(X[:, 1:3])
    model = KernelRidge(kernel=text).fit(X, y)
    with pytest.raises(DataError, match="chi2"):
        model.predict(-X)
    K = np.exp(-0.25 * cdist(X, X, "sqeuclidean")) + chi2_kernel(X[:, 1:3], gamma=0.5)
    np.testing.assert_allclose(model.predict(X), predictions(K, K, y, 1.0))


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"kernel": "gaussian(x,y) * linear(u,v)"}, FormulaError, r"pairs of variables \(x, y\), \(u, v\)"),
        ({"kernel": "gausian(x,y)"}, FormulaError, "did you mean gaussian"),
        ({"kernel": "gaussian(x[3:9], y)"}, FormulaError, "dims 1 and 4"),
        ({"kernel": "gaussian(x[4], y[4])"}, FormulaError, "index 4 is out of range"),
        (
            {"kernel": TEXT, "gamma": (0.1, 0.2, 0.3)},
            ShapeError,
            "has 3 entries; .* 2 kernels, gaussian, linear",
        ),
        ({"kernel": "rbf", "gamma": (0.1, 0.2)}, OptionError, "kernel='rbf' has one parameter"),
        ({"kernel": TEXT, "gamma": (0.1, -0.2)}, OptionError, "gamma=-0.2; expected a number >= 0"),
        ({"kernel": TEXT, "gamma": ("a", 1)}, OptionError, "gamma='a'; expected a finite number"),
        ({"kernel": "gaussian"}, OptionError, r"a combination such as 'gaussian\(x,y\)"),
    ],
)
def test_errors(parameters, error, message):
    X, y = data()
    with pytest.raises(error, match=message):
        KernelRidge(**parameters).fit(X, y)

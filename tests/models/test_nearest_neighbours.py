"""Estimators of nearest neighbours, compared with scikit-learn's."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
import scipy.sparse
import sklearn.neighbors as theirs
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

from kerngp.models import KNeighborsClassifier, KNeighborsRegressor, NearestNeighbors
from kerngp.models.neighbours import base


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(301, 4)), rng.integers(0, 3, size=301), rng.normal(size=(33, 4))


@pytest.mark.parametrize("algorithm", ["auto", "brute", "kd_tree", "ball_tree"])
def test_the_same_neighbours(data: tuple, algorithm: str):
    X, _, Q = data
    ours = NearestNeighbors(algorithm=algorithm, radius=1.0).fit(X)
    his = theirs.NearestNeighbors(algorithm="brute", radius=1.0).fit(X)
    for queries in (Q, None):
        for a, b in zip(ours.kneighbors(queries), his.kneighbors(queries), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-10)
        for mode in ("connectivity", "distance"):
            a, b = (m.kneighbors_graph(queries, 3, mode) for m in (ours, his))
            assert a.format == "csr" and type(a) is type(b)
            np.testing.assert_allclose(a.toarray(), b.toarray(), atol=1e-10)
            a, b = (m.radius_neighbors_graph(queries, mode=mode) for m in (ours, his))
            np.testing.assert_allclose(a.toarray(), b.toarray(), atol=1e-10)
        for sort in (False, True):
            found = ours.radius_neighbors(queries, sort_results=sort)
            expected = his.radius_neighbors(queries, sort_results=True)
            for a, b in zip(found[1], expected[1], strict=True):
                assert sorted(a.tolist()) == sorted(b.tolist())
                assert not sort or a.tolist() == b.tolist()


@pytest.mark.parametrize("weights", ["uniform", "distance", lambda d: np.exp(-d), None])
def test_classes_and_means(data: tuple, weights):
    X, y, Q = data
    Q = np.vstack([Q, X[:3]])  # distances of 0
    for targets in (y, np.stack([y, y[::-1]], 1), y.astype(str)):
        ours = KNeighborsClassifier(7, weights=weights).fit(X, targets)
        his = theirs.KNeighborsClassifier(7, weights=weights, algorithm="kd_tree").fit(X, targets)
        for queries in (Q, None):
            assert np.array_equal(ours.predict(queries), his.predict(queries))
            a, b = (np.asarray(m.predict_proba(queries)) for m in (ours, his))
            np.testing.assert_allclose(a, b, atol=1e-12)
        assert ours.score(X, targets) == his.score(X, targets) if targets.ndim == 1 else True
    for targets in (X[:, 0], X[:, :2], y):
        ours = KNeighborsRegressor(7, weights=weights).fit(X, targets)
        his = theirs.KNeighborsRegressor(7, weights=weights, algorithm="kd_tree").fit(X, targets)
        for queries in (Q, None):
            np.testing.assert_allclose(ours.predict(queries), his.predict(queries), atol=1e-12)
            assert ours.predict(queries).shape == his.predict(queries).shape


def test_votes_in_blocks(data: tuple, monkeypatch: pytest.MonkeyPatch):
    X, y, Q = data
    whole = KNeighborsClassifier(weights="distance").fit(X, y)
    blocks = KNeighborsClassifier(weights="distance", memory_limit=1 << 20).fit(X, y)
    monkeypatch.setattr(type(blocks), "_memory", lambda self: 1000)
    assert np.array_equal(blocks.predict(Q), whole.predict(Q))


def test_everything_follows_X(data: tuple, dtype: torch.dtype):
    X, y, Q = (torch.from_numpy(a) for a in data)
    X, Q = X.to(dtype), Q.to(dtype)
    model = NearestNeighbors().fit(X)
    distance, index = model.kneighbors(Q)
    assert distance.dtype == dtype and index.dtype == torch.int64
    expected = theirs.NearestNeighbors().fit(X.numpy()).kneighbors(Q.numpy())
    assert np.array_equal(index, expected[1])
    np.testing.assert_allclose(distance, expected[0], rtol=1e-5)
    near = model.radius_neighbors(Q)[1]
    assert all(isinstance(a, torch.Tensor) for a in near)
    classes = KNeighborsClassifier().fit(X, y)
    assert isinstance(classes.predict(Q), torch.Tensor) and isinstance(classes.predict_proba(Q), torch.Tensor)
    assert isinstance(KNeighborsRegressor().fit(X, y).predict(Q), torch.Tensor)
    assert isinstance(model.kneighbors(Q.numpy())[0], np.ndarray)


def test_trees_take_over_where_they_pay(data: tuple, monkeypatch: pytest.MonkeyPatch):
    X, _, Q = data
    expected = NearestNeighbors(radius=1.0).fit(X)
    monkeypatch.setattr(base, "tree_pays", lambda rows, features: True)
    tree = NearestNeighbors(radius=1.0).fit(X)
    assert "SciPy" in tree._search.name and "engine" in expected._search.name
    for queries in (Q, None):
        for a, b in zip(tree.kneighbors(queries), expected.kneighbors(queries), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)
        for a, b in zip(
            tree.radius_neighbors(queries)[1], expected.radius_neighbors(queries)[1], strict=True
        ):
            assert a.tolist() == b.tolist()
    assert "engine" in NearestNeighbors(metric="cosine").fit(X)._search.name


def test_sparse_and_precomputed_data(data: tuple):
    X, y, Q = data
    sparse = scipy.sparse.csr_array(np.where(np.abs(X) > 0.5, X, 0))
    for a, b in zip(
        NearestNeighbors().fit(sparse).kneighbors(sparse[:5]),
        theirs.NearestNeighbors().fit(sparse).kneighbors(sparse[:5]),
        strict=True,
    ):
        np.testing.assert_allclose(a, b)
    D = theirs.NearestNeighbors().fit(X).kneighbors_graph(X, 301, mode="distance").toarray()
    ours = KNeighborsClassifier(metric="precomputed").fit(D, y)
    assert np.array_equal(ours.predict(D[:7]), KNeighborsClassifier().fit(X, y).predict(X[:7]))


def test_constant_columns_and_duplicates():
    X = np.repeat(np.array([[0.0, 5.0], [1.0, 5.0]]), 4, axis=0)
    distance, index = NearestNeighbors(n_neighbors=4).fit(X).kneighbors()
    assert distance.tolist() == [[0.0] * 3 + [1.0]] * 8
    assert set(index[0].tolist()) == {1, 2, 3, 4}


def test_usable_as_estimators(data: tuple, caplog: pytest.LogCaptureFixture):
    X, y, Q = data
    search = GridSearchCV(KNeighborsClassifier(), {"n_neighbors": [1, 5]}, cv=3).fit(X, y)
    assert search.best_params_["n_neighbors"] in (1, 5)
    model = clone(NearestNeighbors(metric="minkowski", p=3)).fit(X)
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.kneighbors(Q)[1], model.kneighbors(Q)[1])
    assert (model.effective_metric_, model.n_samples_fit_) == ("minkowski", 301)
    with caplog.at_level(logging.INFO, logger="kerngp"):
        model.kneighbors(Q)
    assert "NearestNeighbors.kneighbors: 33 queries, 301 points, all pairs by the engine" in caplog.text


def test_refusals(data: tuple):
    X, y, _ = data
    with pytest.raises(NotFittedError):
        NearestNeighbors().kneighbors(X)
    with pytest.raises(ValueError, match="NaN"):
        NearestNeighbors().fit(np.array([[np.nan], [1.0]]))
    model = NearestNeighbors().fit(X)
    with pytest.raises(ValueError, match="Expected n_neighbors <= n_samples_fit"):
        model.kneighbors(X, 302)
    with pytest.raises(ValueError, match="Expected n_neighbors < n_samples_fit"):
        model.kneighbors(None, 301)
    with pytest.raises(TypeError, match="enter integer value"):
        model.kneighbors(X, 2.5)
    with pytest.raises(ValueError, match="features"):
        model.kneighbors(X[:, :2])
    for bad in ({"algorithm": "quick"}, {"metric": "unknown"}, {"radius": -1.0}, {"p": 0}, {"leaf_size": 0}):
        with pytest.raises(ValueError, match=f"(?i){next(iter(bad))}"):
            NearestNeighbors(**bad).fit(X)
    with pytest.raises(ValueError, match="weights"):
        KNeighborsClassifier(weights="heavy").fit(X, y)
    with pytest.raises(ValueError, match="zero weights"):
        KNeighborsClassifier(weights=np.zeros_like).fit(X, y).predict(X)

"""k-means finds scikit-learn's clusters from the same draws."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import sklearn.cluster as theirs
import torch
from sklearn.exceptions import ConvergenceWarning

from kerngp.models import KMeans
from kerngp.models.neighbours import lloyd


def blobs(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, columns)) + 3 * rng.integers(0, 3, size=(rows, 1))


@pytest.mark.parametrize(
    ("rows", "columns", "k"), [(7, 1, 2), (31, 3, 7), (33, 2, 1), (300, 2, 3), (2000, 5, 20)]
)
@pytest.mark.parametrize("init", ["k-means++", "random", "array"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_same_clusters(rows: int, columns: int, k: int, init, weighted: bool):
    X = blobs(rows, columns)
    w = np.random.default_rng(1).uniform(size=rows) if weighted else None
    init = X[:k].copy() if init == "array" else init
    a, b = (
        m(k, init=init, random_state=3, max_iter=50).fit(X, sample_weight=w) for m in (KMeans, theirs.KMeans)
    )
    assert np.array_equal(a.labels_, b.labels_) and a.labels_.dtype == np.int32
    np.testing.assert_allclose(a.cluster_centers_, b.cluster_centers_, atol=1e-10)
    assert a.inertia_ == pytest.approx(b.inertia_) and a.n_iter_ == b.n_iter_
    Q = blobs(33, columns, seed=2)
    assert np.array_equal(a.predict(Q), b.predict(Q))
    np.testing.assert_allclose(a.transform(Q), b.transform(Q), atol=1e-7)
    assert a.score(Q) == pytest.approx(b.score(Q))


def test_in_blocks(monkeypatch: pytest.MonkeyPatch):
    X = blobs(301, 2)
    expected = KMeans(4, random_state=0).fit(X)
    monkeypatch.setattr(lloyd, "BLOCK", 64)
    found = KMeans(4, random_state=0).fit(X)
    np.testing.assert_allclose(found.cluster_centers_, expected.cluster_centers_, atol=1e-12)
    assert found.inertia_ == pytest.approx(expected.inertia_)


def test_empty_clusters_are_relocated():
    X = np.array([[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [1.0, 1.0]])
    first = np.array([[0.5, 0.5], [3.0, 3.0]])
    a, b = (m(2, n_init=1, init=first).fit(X) for m in (KMeans, theirs.KMeans))
    np.testing.assert_allclose(a.cluster_centers_, b.cluster_centers_)
    assert np.array_equal(a.labels_, b.labels_) and a.n_iter_ == b.n_iter_


def test_more_clusters_than_different_points():
    X = np.repeat([[0.0], [1.0]], 5, axis=0)
    with pytest.warns(ConvergenceWarning, match=r"distinct clusters \(2\)"):
        model = KMeans(3, random_state=0).fit(X)
    assert model.inertia_ == 0 and np.isfinite(model.cluster_centers_).all()


def test_everything_follows_X(dtype: torch.dtype):
    X = torch.from_numpy(blobs(300, 3)).to(dtype)
    model = KMeans(3, random_state=0).fit(X, sample_weight=torch.ones(300))
    assert model.cluster_centers_.dtype == model.transform(X).dtype == dtype
    assert model.labels_.dtype == model.predict(X).dtype == torch.int32
    expected = KMeans(3, random_state=0).fit(X.numpy())
    assert np.array_equal(model.labels_, expected.labels_)
    assert torch.equal(model.predict(X), model.labels_)


def test_runs_callables_and_initial_centers():
    X = blobs(60, 2)
    seen = []

    def init(data: np.ndarray, k: int, random_state: np.random.RandomState) -> np.ndarray:
        seen.append(data.mean())
        return data[random_state.choice(len(data), k, replace=False)]

    KMeans(3, init=init, n_init=2, random_state=0).fit(X)
    assert len(seen) == 2 and np.abs(seen).max() < 1e-12
    with pytest.warns(RuntimeWarning, match="only one init"):
        KMeans(3, init=X[:3], n_init=2).fit(X)
    many = KMeans(5, init="random", n_init=8, random_state=0).fit(X).inertia_
    assert many <= KMeans(5, init="random", n_init=1, random_state=0).fit(X).inertia_


def test_a_callback_watches_and_stops():
    X, seen = blobs(500, 2), []

    def stop(progress) -> bool:
        seen.append(progress.residual)
        return len(seen) == 2

    model = KMeans(8, init="random", n_init=5, random_state=0, tol=0, callback=stop).fit(X)
    assert len(seen) == model.n_iter_ == 2
    assert np.array_equal(model.labels_, model.predict(X))


def test_verbose(capsys: pytest.CaptureFixture):
    KMeans(2, random_state=0, verbose=1).fit(blobs(50, 2))
    out = capsys.readouterr().out
    assert "Initialization complete" in out and "Iteration 0, inertia" in out and "strict convergence." in out


def test_transforms_into_tables():
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame(blobs(30, 2), columns=["a", "b"])
    out = KMeans(3, random_state=0).set_output(transform="pandas").fit_transform(X)
    assert list(out.columns) == ["kmeans0", "kmeans1", "kmeans2"]


def test_refusals():
    X = blobs(5, 2)
    with pytest.raises(ValueError, match="n_samples=5 should be >= n_clusters=6"):
        KMeans(6).fit(X)
    for bad in ({"n_clusters": 0}, {"init": "best"}, {"n_init": 0}, {"tol": -1.0}, {"algorithm": "auto"}):
        with warnings.catch_warnings(), pytest.raises(ValueError, match=next(iter(bad))):
            KMeans(**{"n_clusters": 2, **bad}).fit(X)
    with pytest.raises(ValueError, match="initial centers"):
        KMeans(2, init=X[:3]).fit(X)
    with pytest.raises(ValueError, match="zero"):
        KMeans(2).fit(X, sample_weight=np.zeros(5))

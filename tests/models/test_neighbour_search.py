"""Searches for near points give what scikit-learn's brute force gives, for every metric."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise_distances

from kerngp.engine.expr import Expr, Vi, Vj
from kerngp.engine.ops import sqdist, total
from kerngp.errors import OptionError, ShapeError
from kerngp.models.neighbours.metrics import resolve_metric
from kerngp.models.neighbours.search import MOST_INSERTED, PairSearch, TreeSearch, tree_pays
from kerngp.options import options

SHAPE = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 3.0]])
METRICS = [
    ("euclidean", {}, "normal"),
    ("sqeuclidean", {}, "normal"),
    ("manhattan", {}, "normal"),
    ("chebyshev", {}, "normal"),
    ("minkowski", {"p": 3}, "normal"),
    ("minkowski", {"p": 2.5, "w": np.array([1.0, 2.0, 0.5])}, "normal"),
    ("cosine", {}, "normal"),
    ("canberra", {}, "normal"),
    ("braycurtis", {}, "normal"),
    ("seuclidean", {"V": np.array([1.0, 2.0, 0.5])}, "normal"),
    ("mahalanobis", {"VI": SHAPE}, "normal"),
    ("haversine", {}, "angles"),
    ("hamming", {}, "digits"),
    ("jaccard", {}, "truths"),
    ("dice", {}, "truths"),
    ("sokalsneath", {}, "truths"),
    ("rogerstanimoto", {}, "truths"),
    ("russellrao", {}, "truths"),
]
IDS = [f"{name}-{'-'.join(params)}" if params else name for name, params, _ in METRICS]


def data(kind: str, rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "angles":
        return rng.uniform(-1.5, 1.5, size=(rows, 2))
    if kind == "digits":
        return rng.integers(0, 3, size=(rows, 12)).astype(float)
    if kind == "truths":
        return rng.integers(0, 2, size=(rows, 12)).astype(float)
    return rng.normal(size=(rows, 3))


def distances(name: str, params: dict, kind: str, Q: np.ndarray, X: np.ndarray) -> np.ndarray:
    if kind == "truths":
        return pairwise_distances(Q.astype(bool), X.astype(bool), metric=name)
    return pairwise_distances(Q, X, metric=name, **params)


def search_of(name, params, X: np.ndarray, kind=PairSearch):
    metric = resolve_metric(name, params, X.shape[1])
    assert metric is not None
    return kind.of(metric, torch.from_numpy(X))


@pytest.mark.parametrize(("name", "params", "kind"), METRICS, ids=IDS)
def test_metrics(name: str, params: dict, kind: str):
    X, Q = data(kind, 61), data(kind, 7, seed=1)
    all_of_them = distances(name, params, kind, Q, X)
    found, index = search_of(name, params, X).nearest(torch.from_numpy(Q), 5)
    np.testing.assert_allclose(found, np.sort(all_of_them, axis=1)[:, :5], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found, np.take_along_axis(all_of_them, index.numpy(), 1), atol=1e-7)
    radius = 0.999 * float(np.median(all_of_them)) + 1e-3
    near = search_of(name, params, X).within(torch.from_numpy(Q), radius)
    assert near.counts.tolist() == (all_of_them <= radius).sum(1).tolist()
    expected = [np.sort(row[row <= radius]) for row in all_of_them]
    np.testing.assert_allclose(near.distance, np.concatenate(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rows", [2, 7, 31, 33, 300])
@pytest.mark.parametrize("search", [PairSearch, TreeSearch])
def test_sizes(rows: int, search: type):
    X = data("normal", rows)
    k = min(6, rows - 1)
    D = pairwise_distances(X)
    np.fill_diagonal(D, np.inf)
    found, index = search_of("euclidean", {}, X, search).nearest(None, k)
    np.testing.assert_allclose(found, np.sort(D, axis=1)[:, :k], atol=1e-12)
    assert not (index.numpy() == np.arange(rows)[:, None]).any()
    near = search_of("euclidean", {}, X, search).within(None, 1.0)
    assert near.counts.tolist() == (D <= 1.0).sum(1).tolist()
    by_number = near.by_number()
    rows_of = np.repeat(np.arange(rows), near.counts)
    assert np.array_equal(np.stack([rows_of, by_number.index.numpy()]), np.nonzero(D <= 1.0))
    np.testing.assert_allclose(by_number.distance, D[D <= 1.0], atol=1e-12)


def test_many_neighbours_are_selected_from_stored_rows():
    X, k = data("normal", 300), MOST_INSERTED + 7
    D = pairwise_distances(X)
    search = search_of("euclidean", {}, X)
    with options(memory_limit=1 << 20):  # rows in several blocks
        found, index = search.nearest(torch.from_numpy(X), k)
    np.testing.assert_allclose(found, np.sort(D, axis=1)[:, :k], atol=1e-7)
    np.testing.assert_allclose(found, np.take_along_axis(D, index.numpy(), 1), atol=1e-7)


def test_ties_go_to_the_first_point():
    X = np.array([[1.0], [0.0], [0.0], [1.0], [0.0]])
    _, index = search_of("euclidean", {}, X).nearest(torch.zeros(1, 1, dtype=torch.float64), 4)
    assert index.tolist() == [[1, 2, 4, 0]]


def test_a_point_with_many_copies_is_left_out_once():
    X = np.zeros((6, 2))
    distance, index = search_of("euclidean", {}, X).nearest(None, 2)
    assert index.shape == (6, 2) and not distance.any()


def test_a_radius_for_each_query():
    X = np.arange(5.0)[:, None]
    queries, radii = torch.zeros(3, 1, dtype=torch.float64), np.array([0.0, 1.0, 3.5])
    near = search_of("manhattan", {}, X).within(queries, radii)
    assert near.counts.tolist() == [1, 2, 4]


def test_no_point_within():
    near = search_of("euclidean", {}, np.ones((3, 2))).within(torch.zeros(2, 2, dtype=torch.float64), 0.5)
    assert near.counts.tolist() == [0, 0] and len(near.index) == 0


def test_close_points_far_from_the_origin(dtype: torch.dtype):
    # expanded squared distances would lose all digits
    X = (1e3 + torch.arange(50.0).reshape(-1, 1) / 64).to(dtype)
    metric = resolve_metric("euclidean", {}, 1)
    assert metric is not None
    found, index = PairSearch.of(metric, X).nearest(X[:3], 2)
    assert index.tolist() == [[0, 1], [1, 0], [2, 1]]
    assert found.tolist() == [[0.0, 1 / 64]] * 3 and found.dtype == dtype


def city(x: Expr, y: Expr) -> Expr:
    return total(abs(x - y))


def scaled(x: Expr, y: Expr, factor: Expr | float) -> Expr:
    return total(abs(x - y)) * factor


def test_formulas_of_the_user():
    X = data("normal", 31)
    D = pairwise_distances(X, metric="manhattan")
    for metric, params, factor in ((city, {}, 1.0), (scaled, {"factor": 3.0}, 3.0)):
        found, _ = search_of(metric, params, X).nearest(torch.from_numpy(X), 4)
        np.testing.assert_allclose(found, factor * np.sort(D, axis=1)[:, :4], atol=1e-12)
    found, _ = search_of(sqdist(Vi(0, 3), Vj(1, 3)), {}, X).nearest(torch.from_numpy(X), 4)
    np.testing.assert_allclose(
        found, np.sort(pairwise_distances(X, metric="sqeuclidean"), 1)[:, :4], atol=1e-9
    )


def test_what_has_no_formula():
    def rows(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.abs(np.asarray(x) - np.asarray(y)).sum())

    for metric in ("correlation", "nan_euclidean", "precomputed", "seuclidean", "mahalanobis", rows):
        assert resolve_metric(metric, {}, 3) is None


def test_refusals():
    with pytest.raises(ShapeError, match="w has shape"):
        resolve_metric("minkowski", {"p": 3, "w": [1.0]}, 3)
    with pytest.raises(OptionError, match="has no parameters"):
        resolve_metric("cosine", {"V": 1}, 3)
    with pytest.raises(OptionError, match="positive"):
        resolve_metric("minkowski", {"p": -1}, 3)
    with pytest.raises(ShapeError, match="haversine"):
        resolve_metric("haversine", {}, 3)


def test_searches_are_pickled():
    X = data("normal", 31)
    for kind in (PairSearch, TreeSearch):
        search = search_of("minkowski", {"p": 3}, X, kind)
        again = pickle.loads(pickle.dumps(search))
        assert torch.equal(again.nearest(None, 3)[1], search.nearest(None, 3)[1])


def test_trees_are_for_few_columns_and_many_rows():
    assert tree_pays(100_000, 3) and not tree_pays(1000, 3) and not tree_pays(10**9, 16)

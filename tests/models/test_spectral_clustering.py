"""Spectral clustering."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.cluster import SpectralClustering as Theirs
from sklearn.datasets import make_blobs, make_circles
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.pairwise import rbf_kernel

from kerngp.errors import OptionError
from kerngp.models import RBF, SpectralClustering
from kerngp.models.spectral import gram
from kerngp.solvers import LinearOperator

BLOBS: Any = make_blobs(600, n_features=3, centers=4, cluster_std=1.0, random_state=0)
X, Y = BLOBS
CIRCLES, RING = make_circles(600, factor=0.3, noise=0.05, random_state=0)
KEYWORDS = {"n_clusters": 4, "gamma": 0.2, "random_state": 0}


@pytest.mark.parametrize("labels", ["kmeans", "discretize", "cluster_qr"])
@pytest.mark.parametrize("solver", [None, "arpack", "lobpcg"])
@pytest.mark.parametrize("stored", [True, False])
def test_labels_of_scikit_learn(solver: str, labels: str, stored: bool, monkeypatch: pytest.MonkeyPatch):
    if not stored:
        monkeypatch.setattr(gram, "STORED_ROWS", 100)
        monkeypatch.setattr(SpectralClustering, "_inner", None)  # scikit-learn's is not asked
    ours = SpectralClustering(eigen_solver=solver, assign_labels=labels, **KEYWORDS).fit(X)
    theirs: Any = Theirs(assign_labels=labels, **KEYWORDS).fit(X)
    assert adjusted_rand_score(ours.labels_, theirs.labels_) == 1.0
    assert isinstance(ours.affinity_matrix_, np.ndarray if stored else LinearOperator)
    b = np.ones(len(X))
    np.testing.assert_allclose(ours.affinity_matrix_ @ b, theirs.affinity_matrix_ @ b, rtol=1e-9)


def test_rings_are_found_without_storing_the_matrix():
    found = SpectralClustering(2, gamma=30.0, eigen_solver="krylov", random_state=0).fit_predict(CIRCLES)
    assert adjusted_rand_score(found, RING) == 1.0


@pytest.mark.parametrize("affinity", ["laplacian", RBF(1.5), "gaussian(x,y) * cauchy(x,y)"])
def test_kernels(affinity: object):
    known = SpectralClustering(4, affinity=affinity, random_state=0, gamma=0.2).fit(X)
    free = SpectralClustering(4, affinity=affinity, random_state=0, gamma=0.2, eigen_solver="krylov").fit(X)
    assert adjusted_rand_score(known.labels_, free.labels_) == 1.0
    assert adjusted_rand_score(known.labels_, Y) > 0.8


def test_graphs():
    ours = SpectralClustering(4, affinity="nearest_neighbors", random_state=0).fit(X)
    theirs = Theirs(4, affinity="nearest_neighbors", random_state=0).fit(X)
    np.testing.assert_array_equal(ours.labels_, theirs.labels_)
    assert scipy.sparse.issparse(ours.affinity_matrix_)
    K = rbf_kernel(X, gamma=0.2)
    given = SpectralClustering(4, affinity="precomputed", random_state=0).fit(K)
    assert adjusted_rand_score(given.labels_, SpectralClustering(**KEYWORDS).fit(X).labels_) == 1.0


def test_torch_in_torch_out():
    x = torch.from_numpy(X).float()
    for solver in (None, "krylov"):
        labels = SpectralClustering(eigen_solver=solver, **KEYWORDS).fit_predict(x)
        assert isinstance(labels, torch.Tensor)
        known = Theirs(**KEYWORDS).fit(X.astype(np.float32)).labels_
        assert adjusted_rand_score(labels.numpy(), known) == 1.0
    labels = SpectralClustering(4, affinity="nearest_neighbors", random_state=0).fit_predict(x)
    assert isinstance(labels, torch.Tensor)


def test_points_without_neighbours_are_said():
    far = np.vstack([X[:520], [[1e4, 0.0, 0.0]]])
    with pytest.warns(UserWarning, match="not fully connected"):
        labels = SpectralClustering(2, eigen_solver="krylov", random_state=0).fit_predict(far)
    assert labels.shape == (521,)


def test_square_data_are_not_an_affinity():
    with pytest.warns(UserWarning, match="affinity=precomputed"):
        SpectralClustering(2).fit(X[:3])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"n_clusters": 0}, "n_clusters"),
        ({"eigen_solver": "dense"}, "eigen_solver"),
        ({"assign_labels": "best"}, "assign_labels"),
        ({"eigen_tol": -1.0}, "eigen_tol"),
        ({"eigen_solver": "krylov", "affinity": "nearest_neighbors"}, "krylov"),
        ({"eigen_solver": "krylov", "affinity": "additive_chi2"}, "negative sum"),
    ],
)
def test_bad_parameters(arguments: dict, text: str):
    with pytest.raises(OptionError, match=text):
        SpectralClustering(**arguments).fit(np.abs(X))


def test_algebraic_multigrid_needs_a_graph(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gram, "STORED_ROWS", 100)
    with pytest.raises(OptionError, match="sparse graph"):
        SpectralClustering(eigen_solver="amg").fit(X)


def test_pickle():
    model = SpectralClustering(eigen_solver="krylov", **KEYWORDS).fit(X)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.labels_, model.labels_)
    np.testing.assert_allclose(again.affinity_matrix_.diag(), 1.0)

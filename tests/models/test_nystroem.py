"""Nystroem features."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.kernel_approximation import Nystroem as Theirs
from sklearn.metrics.pairwise import rbf_kernel

from kerngp.errors import OptionError, ShapeError
from kerngp.models import RBF, Matern, Nystroem
from kerngp.models.spectral import gram

RNG = np.random.default_rng(0)
X = RNG.random((300, 3))


@pytest.mark.parametrize("n", [1, 2, 7, 31, 33, 300])
@pytest.mark.parametrize("kernel", ["rbf", "laplacian", "chi2"])
def test_numbers_of_scikit_learn(n: int, kernel: str):
    count, new = min(n, 20), RNG.random((11, 3))
    ours = Nystroem(kernel, gamma=2.0, n_components=count, random_state=3).fit(X[:n])
    theirs = Theirs(kernel, gamma=2.0, n_components=count, random_state=3).fit(X[:n])
    np.testing.assert_array_equal(ours.component_indices_, theirs.component_indices_)
    np.testing.assert_array_equal(ours.components_, theirs.components_)
    np.testing.assert_allclose(ours.normalization_, theirs.normalization_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(ours.transform(new), theirs.transform(new), rtol=1e-6, atol=1e-8)


def test_float32():
    ours = Nystroem(gamma=9.0, n_components=10, random_state=0).fit(X.astype(np.float32))
    found = ours.transform(X.astype(np.float32))
    assert found.dtype == ours.components_.dtype == ours.normalization_.dtype == np.float32
    known = Theirs(gamma=9.0, n_components=10, random_state=0).fit(X).transform(X)
    np.testing.assert_allclose(found, known, atol=1e-3)


@pytest.mark.parametrize("kernel", [RBF(0.4), Matern(nu=1.5, lengthscale=0.5), "gaussian(x,y) + cauchy(x,y)"])
@pytest.mark.parametrize("stored", [True, False])
def test_kernels_of_this_package(kernel: object, stored: bool, monkeypatch: pytest.MonkeyPatch):
    if not stored:
        monkeypatch.setattr(gram, "STORED_ROWS", 0)
    Z = Nystroem(kernel, n_components=40, random_state=0).fit_transform(X[:40])
    x = torch.from_numpy(X[:40])
    known = gram.gram(kernel, x).matrix(x).numpy()
    np.testing.assert_allclose(Z @ Z.T, known, atol=1e-8)


def test_torch_in_torch_out():
    x = torch.from_numpy(X)
    model = Nystroem(n_components=10, random_state=0).fit(x)
    for name in ("components_", "component_indices_", "normalization_"):
        assert isinstance(getattr(model, name), torch.Tensor), name
    known = Nystroem(n_components=10, random_state=0).fit_transform(X)
    torch.testing.assert_close(model.transform(x), torch.from_numpy(known))
    assert isinstance(model.transform(X), np.ndarray)


def test_pivoted_cholesky_needs_fewer_points():
    K = rbf_kernel(X, gamma=3.0)
    errors = {}
    for sampling in ("uniform", "rpcholesky"):
        found = [
            Nystroem(gamma=3.0, n_components=60, sampling=sampling, random_state=s).fit_transform(X)
            for s in range(5)
        ]
        errors[sampling] = np.mean([np.trace(K - Z @ Z.T) for Z in found])
    assert errors["rpcholesky"] < 0.6 * errors["uniform"]


def test_pivots_end_where_the_kernel_is_reproduced():
    doubled = np.repeat(X[:5], 4, 0)
    model = Nystroem(gamma=3.0, n_components=15, sampling="rpcholesky", random_state=0).fit(doubled)
    assert model.components_.shape == (5, 3)
    assert len(np.unique(model.components_, axis=0)) == 5
    assert model.get_feature_names_out().shape == (5,)
    Z = model.transform(doubled)
    np.testing.assert_allclose(Z @ Z.T, rbf_kernel(doubled, gamma=3.0), atol=1e-10)


def test_precomputed():
    K = rbf_kernel(X[:30])
    known = Nystroem(n_components=12, random_state=0).fit(X[:30])
    model = Nystroem("precomputed", n_components=12, random_state=0).fit(K)
    np.testing.assert_allclose(
        model.transform(rbf_kernel(X[:50], X[:30])), known.transform(X[:50]), atol=1e-9
    )
    full = Theirs(kernel="precomputed", n_components=30, random_state=1).fit(K)
    ours = Nystroem("precomputed", n_components=30, random_state=1).fit(K)
    np.testing.assert_array_equal(ours.component_indices_, full.component_indices_)
    with pytest.raises(ShapeError, match="square"):
        Nystroem("precomputed").fit(X)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"n_components": 0}, "n_components"),
        ({"sampling": "best"}, "sampling"),
        ({"kernel": RBF(), "gamma": 1.0}, "Don't pass gamma"),
        ({"kernel": "nothing"}, "nothing"),
    ],
)
def test_bad_parameters(arguments: dict, text: str):
    with pytest.raises(OptionError, match=text):
        Nystroem(**arguments).fit(X)


def test_pickle_and_memory_limit():
    model = Nystroem(n_components=10, random_state=0, memory_limit=1 << 20).fit(X)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.transform(X[:20]), model.transform(X[:20]))
    with pytest.raises(ShapeError, match="limit"):
        Nystroem(n_components=700, memory_limit=1 << 20).fit(RNG.random((700, 2)))

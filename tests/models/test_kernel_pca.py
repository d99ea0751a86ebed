"""Kernel principal components."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import KernelPCA as Theirs
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics.pairwise import rbf_kernel

from kerngp.errors import OptionError, ShapeError
from kerngp.models import RBF, KernelPCA, White
from kerngp.models.spectral import gram

RNG = np.random.default_rng(0)
X = RNG.normal(size=(700, 4)) * [2.0, 1.5, 1.0, 0.5]
NEW = RNG.normal(size=(33, 4))


@pytest.mark.parametrize("n", [2, 7, 31, 33, 300])
@pytest.mark.parametrize("kernel", ["linear", "poly", "rbf", "cosine"])
@pytest.mark.parametrize("solver", ["auto", "krylov"])
def test_numbers_of_scikit_learn(n: int, kernel: str, solver: str):
    count = min(n - 1, 3)
    ours = KernelPCA(count, kernel=kernel, eigen_solver=solver, random_state=0).fit(X[:n])
    theirs: Any = Theirs(count, kernel=kernel, eigen_solver="dense").fit(X[:n])
    np.testing.assert_allclose(ours.eigenvalues_, theirs.eigenvalues_, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(ours.eigenvectors_, theirs.eigenvectors_, atol=1e-6)
    np.testing.assert_allclose(ours.transform(NEW), theirs.transform(NEW), atol=1e-6)


@pytest.mark.parametrize("kernel", ["rbf", "poly", RBF(1.5)])
def test_matrix_free_equals_stored(kernel: object, monkeypatch: pytest.MonkeyPatch):
    stored = KernelPCA(4, kernel=kernel, fit_inverse_transform=True, alpha=0.1).fit(X)
    monkeypatch.setattr(gram, "STORED_ROWS", 100)
    with monkeypatch.context() as only:
        only.setattr(KernelPCA, "_stored", None)  # it is not called
        free = KernelPCA(4, kernel=kernel, fit_inverse_transform=True, alpha=0.1, random_state=0).fit(X)
    np.testing.assert_allclose(free.eigenvalues_, stored.eigenvalues_, rtol=1e-8)
    np.testing.assert_allclose(free.transform(NEW), stored.transform(NEW), atol=1e-6)
    Z = stored.transform(NEW)
    back = stored.inverse_transform(Z)
    np.testing.assert_allclose(free.inverse_transform(Z), back, atol=1e-4 * np.abs(back).max())


def test_inverse_transform_is_scikit_learns():
    ours = KernelPCA(3, kernel="rbf", gamma=0.1, fit_inverse_transform=True, alpha=0.01).fit(X[:100])
    theirs = Theirs(3, kernel="rbf", gamma=0.1, fit_inverse_transform=True, alpha=0.01).fit(X[:100])
    Z = theirs.transform(NEW)
    np.testing.assert_allclose(ours.inverse_transform(Z), theirs.inverse_transform(Z), atol=1e-6)
    np.testing.assert_allclose(ours.dual_coef_, theirs.dual_coef_, rtol=1e-5, atol=1e-6)
    with pytest.raises(NotFittedError):
        KernelPCA(3).fit(X[:100]).inverse_transform(Z)


def test_fit_transform_is_fit_and_transform():
    for solver in ("dense", "krylov"):
        model = KernelPCA(3, kernel="rbf", eigen_solver=solver, random_state=0)
        np.testing.assert_allclose(model.fit_transform(X), model.transform(X), atol=1e-7)


def test_linear_memory_of_precomputed_and_callables_is_not_claimed():
    K = rbf_kernel(X[:60])
    known = KernelPCA(2, kernel="rbf", gamma=0.25).fit(X[:60])
    for solver in ("auto", "krylov"):
        model = KernelPCA(2, kernel="precomputed", eigen_solver=solver).fit(K)
        np.testing.assert_allclose(model.eigenvalues_, known.eigenvalues_, rtol=1e-9)
    before = K.copy()
    KernelPCA(2, kernel="precomputed", copy_X=False).fit(K)
    np.testing.assert_array_equal(K, before)


def test_float32_and_torch():
    known = KernelPCA(3, kernel="rbf").fit(X[:200])
    for solver in ("dense", "krylov"):
        x = torch.from_numpy(X[:200]).float()
        model = KernelPCA(3, kernel="rbf", eigen_solver=solver, fit_inverse_transform=True).fit(x)
        for name in ("eigenvalues_", "eigenvectors_", "X_fit_", "dual_coef_", "X_transformed_fit_"):
            value = getattr(model, name)
            assert isinstance(value, torch.Tensor) and value.dtype == torch.float32, name
        found = model.transform(torch.from_numpy(NEW).float())
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, known.transform(NEW), atol=1e-3)


def test_duplicates_and_constant_columns():
    doubled = np.repeat(X[:20], 2, 0)
    doubled[:, 3] = 1.0
    ours, theirs = KernelPCA(kernel="rbf").fit(doubled), Theirs(kernel="rbf").fit(doubled)
    assert ours.eigenvalues_.shape == theirs.eigenvalues_.shape
    assert ours.get_feature_names_out().shape == ours.eigenvalues_.shape
    np.testing.assert_allclose(ours.transform(NEW)[:, :5], theirs.transform(NEW)[:, :5], atol=1e-6)
    same = np.ones((6, 2))
    assert KernelPCA(2, remove_zero_eig=True, eigen_solver="krylov").fit(same).eigenvalues_.shape == (0,)


def test_white_noise_of_training_points():
    plain, noisy = KernelPCA(2, kernel=RBF(2.0)), KernelPCA(2, kernel=RBF(2.0) + White(0.5))
    plain.fit(X[:50])
    noisy.fit(X[:50])
    np.testing.assert_allclose(noisy.eigenvalues_, plain.eigenvalues_ + 0.5)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"n_components": 0}, "n_components"),
        ({"eigen_solver": "lanczos"}, "eigen_solver"),
        ({"alpha": -1.0}, "alpha"),
        ({"tol": -1.0}, "tol"),
        ({"max_iter": 0}, "max_iter"),
    ],
)
def test_bad_parameters(arguments: dict, text: str):
    with pytest.raises(OptionError, match=text):
        KernelPCA(**arguments).fit(X[:20])


def test_nan_is_refused():
    bad = X[:20].copy()
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        KernelPCA().fit(bad)


def test_unfinished_eigenvectors_warn():
    with pytest.warns(ConvergenceWarning, match="1 passes left a residual"):
        KernelPCA(3, kernel="rbf", eigen_solver="krylov", max_iter=1).fit(X)


def test_the_memory_limit_asks_for_krylov():
    with pytest.raises(ShapeError, match="krylov"):
        KernelPCA(2, kernel="rbf", eigen_solver="dense", memory_limit=1 << 20).fit(X)
    KernelPCA(2, kernel="rbf", eigen_solver="krylov", memory_limit=1 << 20).fit(X)


def test_pickle():
    model = KernelPCA(2, kernel="rbf", eigen_solver="krylov").fit(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).transform(NEW), model.transform(NEW))

"""Predictions block by block, memory maps, the memory limit, and stored matrices factorised in place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge as Theirs

from kerngp.errors import OptionError
from kerngp.models import RBF, KernelRidge, KernelRidgeClassifier, White
from kerngp.models.ridge import base, predict
from kerngp.models.ridge.direct import solve_direct
from kerngp.models.ridge.plan import CHOLESKY_ROWS, make_plan
from kerngp.solvers import Status


def data(n=97, dim=3, targets=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, dim))
    return X, np.sin(X @ rng.standard_normal((dim, targets)))


# ---------------------------------------------------------------- blocks


@pytest.mark.parametrize("step", [1, 2, 7, 31, 96, 97, 300])
@pytest.mark.parametrize("kernel", ["rbf", "precomputed"])
def test_blocks_of_any_size_agree(step, kernel, monkeypatch):
    X, y = data()
    new = data(97, seed=1)[0]
    if kernel == "precomputed":
        X, new = X @ X.T, new @ data()[0].T
    model = KernelRidge(kernel=kernel).fit(X, y)
    whole = model.predict(new)
    monkeypatch.setattr(base, "block_rows", lambda *sizes: step)
    np.testing.assert_allclose(model.predict(new), whole, rtol=1e-12, atol=1e-12)
    tensor = model.predict(torch.from_numpy(new))
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(tensor.numpy(), whole, rtol=1e-12, atol=1e-12)


def test_a_memory_map_is_read_in_blocks(tmp_path, monkeypatch):
    X, y = data()
    new = data(500, seed=1)[0].astype(np.float32)
    np.save(tmp_path / "new.npy", new)
    mapped = np.load(tmp_path / "new.npy", mmap_mode="r")
    sizes = []
    read = predict.read_rows
    monkeypatch.setattr(predict, "read_rows", lambda *a, **k: sizes.append(len(a[1])) or read(*a, **k))
    model = KernelRidge(kernel="rbf", memory_limit=1 << 20).fit(X, y)
    found = model.predict(mapped)
    assert sizes == [500]  # it fits
    monkeypatch.setattr(base, "block_rows", lambda *sizes: 128)
    sizes.clear()
    np.testing.assert_allclose(model.predict(mapped), found, rtol=1e-12)
    assert sizes == [128, 128, 128, 116]


def test_blocks_follow_the_memory_limit():
    small, large = (predict.block_rows(10, 1, 0, limit) for limit in (1 << 20, 1 << 30))
    assert small == 512 and large > 1000 * small
    assert predict.block_rows(10, 1, 10**9, 1 << 20) == 1


def test_what_is_wrong_in_a_later_block_is_refused(monkeypatch):
    X, y = data()
    model = KernelRidge(kernel="chi2").fit(abs(X), y)
    monkeypatch.setattr(base, "block_rows", lambda *sizes: 10)
    bad = abs(X)
    bad[95, 1] = np.nan
    with pytest.raises(ValueError, match="Input X contains NaN"):
        model.predict(bad)
    bad[95, 1] = -1
    with pytest.raises(ValueError, match="Negative values in data passed to kernel='chi2'"):
        model.predict(bad)


def test_classes_stream_too(monkeypatch):
    X, y = data()
    model = KernelRidgeClassifier(kernel="rbf").fit(X, np.argmax(y, 1))
    whole = model.predict(X)
    monkeypatch.setattr(base, "block_rows", lambda *sizes: 10)
    np.testing.assert_array_equal(model.predict(X), whole)


# ---------------------------------------------------------------- memory


def test_the_memory_limit_of_the_estimator():
    X, y = data(400)
    small = KernelRidge(kernel="rbf", memory_limit=1 << 20)
    assert small.plan(X, y).solver == "pcg" and small.fit(X, y).solver_ == "pcg"
    assert KernelRidge(kernel="rbf").plan(X, y).solver == "cholesky"
    with pytest.raises(OptionError, match="solver='cholesky' needs .* more than the limit of 1.0 MiB"):
        KernelRidge(solver="cholesky", memory_limit=1 << 20).fit(X, y)
    with pytest.raises(OptionError, match="memory_limit=12; expected an integer of at least 1048576"):
        KernelRidge(memory_limit=12).fit(X, y)


def test_a_float32_map_is_not_copied_by_conjugate_gradients(tmp_path):
    X, y = data(700)
    np.save(tmp_path / "x.npy", X.astype(np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    model = KernelRidge(kernel="rbf", solver="pcg").fit(mapped, y)
    assert np.shares_memory(model.X_fit_, mapped) and model.dual_coef_.dtype == np.float32
    want = Theirs(kernel="rbf").fit(X, y).predict(X)
    np.testing.assert_allclose(model.predict(mapped), want, atol=1e-4)


@pytest.mark.parametrize(
    ("solver", "rank", "rows", "race"),
    [
        ("auto", None, CHOLESKY_ROWS + 1, "methods"),
        ("pcg", None, CHOLESKY_ROWS + 1, "preconditioners"),
        ("pcg", None, CHOLESKY_ROWS, ""),
        ("auto", 50, CHOLESKY_ROWS + 1, ""),
        ("auto", None, CHOLESKY_ROWS, ""),
    ],
)
def test_what_is_raced(solver, rank, rows, race):
    plan = make_plan(rows, 5, solver=solver, rank=rank)
    assert plan.race == race
    assert ("a race chooses among" in str(plan)) == bool(race)


# ---------------------------------------------------------------- stored matrices


@pytest.mark.parametrize("n", [1, 2, 7, 31, 33, 300])
def test_direct_solves(n):
    rng = np.random.default_rng(n)
    F, Y = torch.from_numpy(rng.standard_normal((n, n))), torch.from_numpy(rng.standard_normal((n, 3)))
    K, alpha = F @ F.T, np.array([0.5, 2.0, 0.5])
    found = solve_direct(K.clone(), Y, alpha)
    for e in range(3):
        want = torch.linalg.solve(K + alpha[e] * torch.eye(n, dtype=K.dtype), Y[:, e])
        torch.testing.assert_close(found.x[:, e], want, rtol=1e-8, atol=1e-8)
    assert found.status is Status.converged and found.residual_norms.shape == (3,)


def test_a_singular_matrix_among_regular_ones():
    F, Y = torch.ones(4, 1, dtype=torch.float64), torch.arange(8.0, dtype=torch.float64).reshape(4, 2)
    K = F @ F.T
    with pytest.warns(UserWarning, match="Singular matrix in solving dual problem"):
        found = solve_direct(K.clone(), Y, np.array([0.0, 1.0]))
    torch.testing.assert_close(found.x[:, 0], torch.linalg.pinv(K) @ Y[:, 0])
    torch.testing.assert_close(found.x[:, 1], torch.linalg.solve(K + torch.eye(4, dtype=K.dtype), Y[:, 1]))
    assert found.method == "least squares" and not found.converged


def test_nan_is_no_singular_matrix():
    K = torch.full((3, 3), torch.nan, dtype=torch.float64)
    assert solve_direct(K, torch.ones(3, 1, dtype=torch.float64), np.ones(1)).status is Status.nan


@pytest.mark.parametrize("solver", ["cholesky", "pcg", "inducing"])
def test_fitted_arrays_follow_x(solver):
    X, y = data()
    x = torch.tensor(X, dtype=torch.float32)
    model = KernelRidge(kernel=RBF() + White(0.1), solver=solver).fit(x, y.tolist())
    for a in (model.dual_coef_, model.X_fit_, model.predict(x)):
        assert isinstance(a, torch.Tensor) and a.dtype == torch.float32
    want = KernelRidge(kernel=RBF() + White(0.1)).fit(X, y).predict(X)
    np.testing.assert_allclose(model.predict(x).numpy(), want, atol=1e-4)


def test_explain_says_how_it_went():
    X, y = data(300)
    for solver in ("cholesky", "pcg", "inducing"):
        assert "converged" in KernelRidge(kernel="rbf", solver=solver).fit(X, y).solution_.explain()

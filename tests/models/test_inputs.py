"""Data of every library come in checked, stay where they are, and results go back as X came."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils._array_api import move_estimator_to
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted

from kerngp.errors import BackendUnavailable, DataError, OptionError, ShapeError
from kerngp.models.inputs import (
    Origin,
    check_same_origin,
    check_weights,
    fitted_origin,
    read,
    read_rows,
    to_numpy,
)
from kerngp.options import options

X = np.random.default_rng(3).normal(size=(7, 3))
Y = X @ [1.0, -2.0, 0.5]


class Centroid(RegressorMixin, BaseEstimator):
    """Inner products with the weighted mean of y x: an estimator that does no more than read its inputs."""

    def __init__(self, sparse: bool = True):
        self.sparse = sparse

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self.sparse
        tags.regressor_tags.poor_score = True
        tags.array_api_support = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Centroid:
        rows, y, origin = read(self, X, y, sparse=self.sparse, y_numeric=True)
        w = torch.from_numpy(check_weights(1.0 if sample_weight is None else sample_weight, len(y)))
        mean = (w[:, None].to(rows) * rows * torch.tensor(y).to(rows)[:, None]).sum(0) / w.sum()
        self.center_ = origin.give(mean)
        return self

    def predict(self, X: Any) -> Any:
        check_is_fitted(self)
        rows, origin = read_rows(self, X, reset=False, method="predict", sparse=self.sparse)
        return origin.give(rows @ torch.as_tensor(to_numpy(self.center_)).to(rows))


@parametrize_with_checks([Centroid(), Centroid(sparse=False)])
def test_scikit_learns_checks(estimator: Any, check: Any):
    check(estimator)


def test_libraries_agree():
    expected = Centroid().fit(X, Y).predict(X)
    for rows in (
        X.tolist(),
        pd.DataFrame(X),
        np.asfortranarray(X),
        scipy.sparse.csr_array(X),
        torch.from_numpy(X),
    ):
        np.testing.assert_allclose(Centroid().fit(rows, Y).predict(rows), expected, rtol=1e-12)


# ---------------------------------------------------------------- tensors


@pytest.mark.parametrize("n", [1, 2, 31, 33, 300])
def test_a_tensor_is_taken_as_it_is(n: int, dtype: torch.dtype):
    x = torch.randn(n, 4, dtype=dtype).T.contiguous().T
    rows, origin = read_rows(Centroid(), x, reset=True)
    assert rows.data_ptr() == x.data_ptr() and rows.dtype == dtype and torch.equal(rows, x)
    assert isinstance(origin.give(rows), torch.Tensor) and origin.give(rows).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.float16, torch.bfloat16])
def test_other_dtypes_become_float64(dtype: torch.dtype):
    rows, _ = read_rows(Centroid(), torch.eye(3, dtype=dtype), reset=True)
    assert torch.equal(rows, torch.eye(3, dtype=torch.float64))


def test_a_tensor_that_requires_gradients_is_detached():
    x = torch.tensor(X, requires_grad=True)
    rows, _ = read_rows(Centroid(), x, reset=True)
    assert not rows.requires_grad and rows.data_ptr() == x.data_ptr()
    y = torch.tensor(Y, requires_grad=True)
    assert isinstance(read(Centroid(), x, y)[1], np.ndarray)


def test_negated_views():
    x = torch.view_as_complex(torch.randn(4, 3, 2, dtype=torch.float64)).conj().imag
    assert x.is_neg()
    rows, _ = read_rows(Centroid(), x, reset=True)
    assert not rows.is_neg() and torch.equal(rows, x)
    assert np.array_equal(to_numpy(x), rows.numpy())


def test_tensors_are_checked_where_they_are():
    """Nothing is fetched from their device but single numbers."""

    class Device(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            assert func.__name__ not in ("numpy", "__array__", "cpu", "tolist"), func
            return super().__torch_function__(func, types, args, kwargs or {})

    read_rows(Centroid(), torch.from_numpy(X).as_subclass(Device), reset=True)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.tensor([[1.0, torch.nan]]), "Input X contains NaN"),
        (torch.tensor([[1.0], [-torch.inf]]), "Input X contains infinity"),
        (torch.zeros(3), "Expected 2D array, got 1D array instead"),
        (torch.tensor(3.0), "Expected 2D array, got scalar array instead"),
        (torch.zeros(2, 2, 2), "with dim 3"),
        (torch.zeros(0, 3), "Found array with 0 sample"),
        (torch.zeros(3, 0), "Found array with 0 feature"),
        (torch.zeros(2, 2, dtype=torch.complex64), "Complex data not supported"),
        (torch.zeros(2, 2).to_sparse(), "sparse tensor"),
    ],
)
def test_bad_tensors(x: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        read_rows(Centroid(), x, reset=True)


def test_checks_of_the_caller():
    x = torch.tensor([[1.0, torch.nan]])
    assert read_rows(Centroid(), x, reset=True, ensure_all_finite="allow-nan")[0].isnan().sum() == 1
    assert read_rows(Centroid(), x, reset=True, ensure_all_finite=False)[0].isnan().sum() == 1
    with pytest.raises(DataError, match="infinity"):
        read_rows(
            Centroid(), torch.tensor([[torch.nan, torch.inf]]), reset=True, ensure_all_finite="allow-nan"
        )
    with pytest.raises(DataError, match="Negative values in data passed to X in Centroid"):
        read_rows(Centroid(), torch.tensor([[-1.0]]), reset=True, ensure_non_negative=True)
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        read_rows(Centroid(), torch.ones(1, 2), reset=True, ensure_min_samples=2)


def test_the_columns_of_the_fit():
    model = Centroid().fit(torch.from_numpy(X), torch.from_numpy(Y))
    assert model.n_features_in_ == 3
    with pytest.raises(ValueError, match="X has 2 features, but Centroid is expecting 3 features"):
        model.predict(torch.ones(2, 2))
    named = Centroid().fit(pd.DataFrame(X, columns=["a", "b", "c"]), Y)
    assert named.feature_names_in_.tolist() == ["a", "b", "c"]
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        named.predict(torch.from_numpy(X))


def test_targets_are_checked():
    x = torch.from_numpy(X)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        read(Centroid(), x, Y[:5])
    with pytest.raises(ValueError, match="Input y contains NaN"):
        read(Centroid(), x, torch.full((7,), torch.nan))
    with pytest.raises(ValueError, match="requires y to be passed"):
        read(Centroid(), x, None)
    assert read(Centroid(), x, list("abcdefg"))[1].dtype.kind in "UO"


# ---------------------------------------------------------------- memory


def test_memory_maps_are_not_copied(tmp_path):
    for order, x in (("C", X), ("F", np.asfortranarray(X))):
        np.save(tmp_path / f"{order}.npy", x)
        mapped = np.load(tmp_path / f"{order}.npy", mmap_mode="r")
        rows, origin = read_rows(Centroid(), mapped, reset=True)
        assert rows.data_ptr() == mapped.__array_interface__["data"][0]
        assert isinstance(origin.give(rows), np.ndarray) and np.array_equal(rows.numpy(), X)


def test_sparse_matrices_up_to_the_limit():
    wide = scipy.sparse.eye_array(400, format="csr")
    assert read_rows(Centroid(), wide, reset=True)[0].shape == (400, 400)
    with options(memory_limit=2**20), pytest.raises(ShapeError, match="X is a sparse matrix of shape"):
        read_rows(Centroid(), wide, reset=True)
    with pytest.raises(TypeError, match="[Ss]parse data was passed"):
        read_rows(Centroid(), wide, reset=True, sparse=False)


def test_tables():
    frame = pd.DataFrame({"a": pd.array([1, 2, 3], dtype="Int64"), "b": [0.5, 1.5, 2.5]})
    rows, origin = read_rows(Centroid(), frame, reset=True)
    assert rows.tolist() == [[1, 0.5], [2, 1.5], [3, 2.5]] and isinstance(origin.give(rows), np.ndarray)
    narwhals = pytest.importorskip("narwhals")
    assert torch.equal(read_rows(Centroid(), narwhals.from_native(frame), reset=True)[0], rows)
    missing = frame.assign(a=pd.array([1, None, 3], dtype="Int64"))
    with pytest.raises(ValueError, match="Input X contains NaN"):
        read_rows(Centroid(), missing, reset=True)


# ---------------------------------------------------------------- devices and other libraries


def test_devices():
    with pytest.raises(OptionError, match="device='nowhere' is no device"):
        read_rows(Centroid(), X, reset=True, device="nowhere")
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailable, match="torch sees no CUDA device"):
            read_rows(Centroid(), X, reset=True, device="cuda")


@pytest.mark.gpu
def test_a_tensor_on_a_gpu_stays_there():
    x = torch.from_numpy(X).cuda()
    model = Centroid().fit(x, torch.from_numpy(Y).cuda(), torch.ones(7).cuda())
    assert model.center_.is_cuda and model.predict(x).is_cuda
    with pytest.raises(DataError, match="Input X contains NaN"):
        model.predict(torch.full((1, 3), torch.nan, device="cuda"))


@pytest.fixture(params=["CPU_DEVICE", "device1"])
def strict(request: pytest.FixtureRequest):
    """Arrays of a library that has two devices, both in the computer's memory."""
    xp = pytest.importorskip("array_api_strict")
    device = xp.Device(request.param)
    return lambda a: xp.asarray(a, device=device)


def test_arrays_of_other_libraries(strict):
    model = Centroid().fit(strict(X), strict(Y), strict(np.ones(7)))
    for result in (model.center_, model.predict(strict(X))):
        assert type(result) is type(strict(X)) and result.device == strict(X).device
    np.testing.assert_allclose(
        to_numpy(model.predict(strict(X))), Centroid().fit(X, Y).predict(X), rtol=1e-12
    )
    origin = pickle.loads(pickle.dumps(Origin.of(strict(X))))
    assert origin.same(Origin.of(strict(Y))) and origin.give(torch.ones(2)).device == strict(X).device


def test_results_follow_the_call_without_dispatch(strict):
    model = Centroid().fit(X, Y)
    assert isinstance(model.predict(torch.from_numpy(X)), torch.Tensor)
    assert type(model.predict(strict(X))) is type(strict(X))


def test_with_dispatch_the_library_is_that_of_the_fit(strict):
    if not _dispatch_is_possible():
        pytest.skip("SCIPY_ARRAY_API is not set")
    with sklearn.config_context(array_api_dispatch=True):
        model = Centroid().fit(strict(X), Y)
        model.predict(strict(X))
        for other in (X, X.tolist(), torch.from_numpy(X)):
            with pytest.raises(ValueError, match=r"Centroid.predict\(\) must use the same namespace"):
                model.predict(other)
        import array_api_strict as xp

        moved = move_estimator_to(model, xp, xp.Device("CPU_DEVICE"))
        moved.predict(xp.asarray(X))
    check_same_origin(model, X, "predict")


def _dispatch_is_possible() -> bool:
    try:
        with sklearn.config_context(array_api_dispatch=True):
            return True
    except RuntimeError:
        return False


def test_devices_of_one_library_differ():
    xp = pytest.importorskip("array_api_strict")
    one, two = (Origin.of(xp.asarray(X, device=xp.Device(name))) for name in ("CPU_DEVICE", "device1"))
    assert (
        not one.same(two)
        and one.same(one)
        and not one.same(Origin())
        and Origin().same(Origin.of(X.tolist()))
    )
    assert "device1" in str(two) and str(Origin()) == "numpy on cpu"


def test_the_origin_of_a_model():
    model = Centroid()
    assert fitted_origin(model) is None
    model.classes_, model.value_, model.center_ = np.array(["a"]), np.float64(1), torch.ones(2)
    assert fitted_origin(model).kind.name == "torch"


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1.0, 2.0], "sample_weight has shape"),
        ([[1.0]] * 7, "sample_weight has shape"),
        ([-1.0] + [1.0] * 6, "1 negative"),
        ([0.0] * 7, "sample_weight is zero for all rows"),
        ([np.nan] * 7, "sample_weight contains NaN"),
    ],
)
def test_bad_weights(weight: list, message: str):
    with pytest.raises(ValueError, match=message):
        check_weights(weight, 7)


def test_weights():
    assert check_weights(2, 3).tolist() == [2, 2, 2]
    assert check_weights(torch.tensor([0, 2]), 2).tolist() == [0, 2]

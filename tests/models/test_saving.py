"""Models come back from files as they were, and files can do no harm."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from every_estimator import ESTIMATORS, answers, data_for, fitted, name_of
from sklearn.gaussian_process import kernels as sk
from sklearn.linear_model import Ridge

import kerngp
import kerngp.models as models
from kerngp.engine.expr import Vi, Vj
from kerngp.engine.ops import exp, sqdist
from kerngp.errors import BackendUnavailable, DataError, OptionError
from kerngp.models import KernelRidge, load, save
from kerngp.models.inputs import Origin
from kerngp.models.plain import Flattener, class_of, revive
from kerngp.solvers import Status

SUFFIXES = [".npz", ".safetensors"]


@pytest.fixture(params=SUFFIXES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == ".safetensors":
        pytest.importorskip("safetensors")
    return tmp_path / f"model{request.param}"


def close(found: Any, expected: Any, key: str) -> None:
    """Equal, but for the last digits: arrays come back in another order of memory, sums in another order."""
    if np.asarray(expected).dtype.kind == "f":
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12, err_msg=key)
    else:
        np.testing.assert_array_equal(found, expected, err_msg=key)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=name_of)
def test_a_model_comes_back(estimator: Any, path: Path):
    model = fitted(estimator)
    save(model, path)
    again = load(path)
    assert type(again) is type(model) and str(again) == str(model)
    assert set(vars(again)) == set(model.__getstate__()) - {"_sklearn_version"}
    for name, value in vars(again).items():  # what was stored is stored to the last bit
        if isinstance(value, (np.ndarray, torch.Tensor)):
            np.testing.assert_array_equal(value, getattr(model, name), err_msg=name)
    X = data_for(estimator)[0]
    expected, found = answers(model, X), answers(again, X)
    assert expected.keys() == found.keys()
    for key in expected:
        assert type(expected[key]) is type(found[key]), key
        close(found[key], expected[key], key)
    again.fit(*data_for(estimator))  # it is an estimator like any other


def test_an_unfitted_estimator(path: Path):
    save(KernelRidge(alpha=np.inf, gamma=[0.1, None]), path)
    again = load(path)
    assert again.alpha == np.inf and again.gamma == [0.1, None] and not hasattr(again, "dual_coef_")


KERNELS = [
    models.RBF(0.3),
    2.5 * models.Matern(1.5, [1.0, 2.0], active_dims=(0, 2)) * models.Periodic(1.0, 2.0) + models.White(0.1),
    models.RationalQuadratic(torch.tensor([0.1], dtype=torch.float64), 0.7) + models.Constant(3.0),
    sk.ConstantKernel(2.0, "fixed") * sk.Matern([1.0, 2.0], nu=0.7) + sk.WhiteKernel(),
    sk.CompoundKernel([sk.RBF(), sk.DotProduct() ** 2]),
    sk.Exponentiation(sk.ExpSineSquared(), 3),
    sk.PairwiseKernel(metric="laplacian"),
]


@pytest.mark.parametrize("kernel", KERNELS, ids=name_of)
def test_kernels(kernel: Any, path: Path):
    save(kernel, path)
    again = load(path)
    assert again == kernel and type(again) is type(kernel)


def test_formulas(path: Path):
    formula = exp(-sqdist(Vi(0, 4), Vj(1, 4)))
    model = fitted(KernelRidge(kernel=formula))
    save(model, path)
    assert load(path).kernel is formula


def test_tensors_stay_tensors(path: Path):
    X, y = map(torch.from_numpy, data_for(KernelRidge()))
    model = KernelRidge(kernel=models.RBF(torch.tensor(0.5))).fit(X, y)
    save(model, path)
    assert torch.equal(load(path).predict(X), model.predict(X))
    assert load(path).kernel.lengthscale.dtype == torch.float32


def plain_and_back(value: Any) -> Any:
    flat = Flattener()
    text = json.dumps(flat.plain(value, "x"), allow_nan=False)
    return revive(json.loads(text), flat.arrays)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        2**70,
        0.1,
        -np.inf,
        "ä",
        [1, [2.0, (3,)]],
        {"a": 1, 2: (None,), ("b", 1): {}},
        np.float32(0.1),
        np.int8(3),
        np.str_("s"),
        np.bool_(True),
        torch.float16,
        torch.device("cpu"),
        Status.stagnated,
    ],
    ids=repr,
)
def test_values(value: Any):
    again = plain_and_back(value)
    assert again == value and type(again) is type(value)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 3)),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(1.5, dtype=np.float32),
        np.array([True, False]),
        np.array(["a", "bc"]),
        np.array([["a", None], [1, "b"]], dtype=object),
        np.array([np.nan, np.inf]),
        np.arange(3, dtype=">i4"),
    ],
    ids=repr,
)
def test_arrays(array: np.ndarray):
    again = plain_and_back(array)
    assert again.dtype == array.dtype and again.shape == array.shape
    np.testing.assert_array_equal(again, array)


def test_other_arrays():
    t = torch.randn(3, 2).to(torch.bfloat16)
    assert plain_and_back(t).dtype == t.dtype and torch.equal(plain_and_back(t), t)
    for make in (scipy.sparse.csr_array, scipy.sparse.csc_matrix, scipy.sparse.coo_array):
        again = plain_and_back(make(np.eye(3)))
        assert type(again) is make and np.array_equal(again.toarray(), np.eye(3))
    xp = pytest.importorskip("array_api_strict")
    assert np.array_equal(plain_and_back(xp.asarray([1.0, 2.0])), [1.0, 2.0])
    assert plain_and_back(Origin.of(t)).same(Origin.of(t))
    random = np.random.RandomState(3)
    again = plain_and_back(random)
    assert np.array_equal(again.normal(size=4), random.normal(size=4))


def test_an_array_is_stored_once():
    a = np.zeros(3)
    flat = Flattener()
    flat.plain({"one": a, "two": (a, a.copy())}, "")
    assert list(flat.arrays) == ["one", "two.1"]
    again = plain_and_back([a, a])
    assert again[0] is again[1]


# ---------------------------------------------------------------- refusals


def nothing(*args: Any) -> None: ...


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (KernelRidge(callback=nothing), "^callback is .*a callback to None"),
        (KernelRidge(kernel=nothing), "^kernel is .*a kernel as a kernel of kerngp.models"),
        (KernelRidge(kernel_params={"a": [nothing]}), "^kernel_params.a.0 is"),
        (KernelRidge(alpha=np.array([object()])), "^alpha.0 is"),
        (Ridge(), "^the model is Ridge"),
        ("text", "expected an estimator or a kernel"),
        (type("Mine", (KernelRidge,), {})(), "of the class test_saving.Mine"),
    ],
)
def test_what_is_not_saved(model: Any, message: str, tmp_path: Path):
    with pytest.raises(DataError, match=message):
        save(model, tmp_path / "m.npz")
    assert not (tmp_path / "m.npz").exists()


def test_names():
    with pytest.raises(OptionError, match=r"ends in \.npz or \.safetensors"):
        save(KernelRidge(), "model.pkl")
    with pytest.raises(OptionError, match=r"ends in \.npz or \.safetensors"):
        load("model")
    with pytest.raises(FileNotFoundError):
        load("there is none.npz")


def test_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(BackendUnavailable, match="safetensors is not installed"):
        save(KernelRidge(), tmp_path / "m.safetensors")


def written(folder: Path, body: Any, **changes: Any) -> Path:
    """A file of anybody's."""
    head = {"format": 1, "version": kerngp.__version__, "model": body} | changes
    path = folder / "foreign.npz"
    np.savez(path, kerngp=np.frombuffer(json.dumps(head).encode(), np.uint8), a=np.zeros(2))
    return path


class Bomb:
    def __reduce__(self) -> tuple:
        return (warnings.warn, ("executed",))


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "sklearn.linear_model.Ridge",
        "sklearn.gaussian_process.kernels.np",
        "sklearn.gaussian_process.kernels.Hyperparameter",
        "kerngp.models.inputs.Tensor",
        "kerngp.models.inputs.np",
        "kerngp.models.saving.Path",
        "kerngp.models.load",
        "kerngp.models.missing.Thing",
        "kerngp.engine.expr.Expr",
        "kerngp.models..os.system",
        "kerngp.models.KernelRidge.fit",
        "",
    ],
)
def test_other_classes_are_not_made(name: str, tmp_path: Path):
    path = written(tmp_path, {"$": "object", "class": name, "state": {"$": "dict", "items": []}})
    with pytest.raises(DataError, match="the file asks for"):
        load(path)
    with pytest.raises(DataError):
        class_of(name)


@pytest.mark.parametrize(
    "body",
    [
        3,
        [1],
        {"$": "object"},
        {"$": "function", "name": "os.system"},
        {"no": "tag"},
        {"$": "array", "name": "missing"},
        {"$": "array", "name": "a"},
        {"$": "enum", "class": "kerngp.models.KernelRidge", "member": "fit"},
        {"$": "enum", "class": "kerngp.solvers.Status", "member": "fit"},
        {"$": "dtype", "name": "load"},
        {"$": "sparse", "class": "toarray", "shape": [1, 1], "parts": {}},
        {"$": "scalar", "dtype": "rubbish", "value": 1},
        {"$": "labels", "dtype": "U1", "shape": [2], "values": ["a", "b", "c"]},
        {"$": "formula", "text": '[["system", [], null]]'},
    ],
    ids=str,
)
def test_damaged_files(body: Any, tmp_path: Path):
    with pytest.raises(DataError):
        load(written(tmp_path, body))


def test_other_files(tmp_path: Path):
    (tmp_path / "text.npz").write_text("text")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.savez(tmp_path / "pickled.npz", kerngp=np.array([Bomb()], dtype=object))
    np.save(tmp_path / "single.npy", np.zeros(3))
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a bomb would warn
        for name in ("text", "other", "pickled", "single"):
            with pytest.raises(DataError, match="was not written by kerngp.models.save"):
                load(tmp_path / f"{name}.npz")


def test_versions(tmp_path: Path):
    body = Flattener().plain(models.RBF(1.0), "")
    assert load(written(tmp_path, body)) == models.RBF(1.0)
    with pytest.warns(UserWarning, match="was written by kerngp 9.9"):
        load(written(tmp_path, body, version="9.9"))
    with pytest.raises(DataError, match="has the format 2"):
        load(written(tmp_path, body, format=2))

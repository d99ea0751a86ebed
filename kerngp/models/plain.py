"""Objects as plain data: numbers, texts, lists and named arrays, from which they can be made again.

Only classes of `kerngp.models` and `kerngp.solvers`, scikit-learn's kernels and a few of its helpers are
known. Functions are not, but for those that write formulas: making an object from plain data runs no code
that the data bring along.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Mapping
from enum import Enum
from types import FunctionType
from typing import Any

import numpy as np
import scipy.sparse
import torch
from scipy.spatial import KDTree
from sklearn.gaussian_process.kernels import Kernel as SklearnKernel
from sklearn.neighbors import NearestNeighbors

from ..engine.arrays import NUMPY, TORCH, Kind, is_array
from ..engine.expr import Expr
from ..engine.text import formula_of, formula_text
from ..errors import DataError
from .inputs import to_numpy

TAG = "$"  # a dictionary with this key stands for what JSON has no word for

OURS = re.compile(r"kerngp\.(models|solvers)(\.[a-z_0-9]+)*")
FORMULAS = re.compile(
    r"kerngp\.(engine\.ops(\.[a-z]+)?|models\.neighbours\.metrics)"
)  # their functions make formulas
SKLEARN_KERNELS = "sklearn.gaussian_process.kernels"
# what our estimators keep of scikit-learn's: public name of the class
SKLEARN_HELPERS = (
    "sklearn.multiclass.OneVsOneClassifier",
    "sklearn.multiclass.OneVsRestClassifier",
    "sklearn.preprocessing.KernelCenterer",
    "sklearn.preprocessing.LabelBinarizer",
    "sklearn.preprocessing.LabelEncoder",
)


class Flattener:
    """Collects the arrays of an object while it is made plain. An array met twice is stored once."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._known: dict[int, tuple[str, Any]] = {}  # with the array itself: ids are of living objects only

    def plain(self, value: Any, path: str) -> Any:
        """The value as JSON can hold it; ``path`` says where it is, for messages and as name of its arrays.

        Raises
        ------
        DataError
            For functions and for objects of unknown classes.
        """
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {TAG: "float", "value": repr(value)}
        if type(value) is list:
            return [self.plain(v, f"{path}.{k}") for k, v in enumerate(value)]
        for kind, test, write, _ in _FORMS:
            if test(value):
                return {TAG: kind, **write(self, value, path)}
        raise DataError(
            f"{path or 'the model'} is {value!r:.100}, of the class {type(value).__module__}."
            f"{type(value).__qualname__}, which cannot be stored as plain data. {_remedy(value)}"
        )

    def store(self, array: np.ndarray, path: str) -> str:
        """Keep an array; returns its name."""
        known = self._known.get(id(array))
        if known is None:
            name = path or "value"
            while name in self.arrays:
                name += "_"
            self.arrays[name] = array
            self._known[id(array)] = known = (name, array)
        return known[0]


def revive(node: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The object that `Flattener.plain` wrote.

    Raises
    ------
    DataError
        For classes that are not known, and for data that nothing was written as.
    """
    if isinstance(node, list):
        return [revive(v, arrays) for v in node]
    if not isinstance(node, dict):
        return node
    read = _READERS.get(str(node.get(TAG)))
    if read is None:
        raise DataError(f"the file holds something unknown, {str(node)[:100]}; it was not written by kerngp.")
    try:
        return read(node, arrays)
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        if isinstance(e, DataError):
            raise
        raise DataError(f"the file is damaged: {str(node)[:100]} cannot be read ({e!r}).") from e


def class_name(cls: type) -> str | None:
    """The name a known class is stored under, its public one if it has one; None for others."""
    if OURS.fullmatch(cls.__module__):
        if cls.__qualname__ != cls.__name__:
            return None
        for package in ("kerngp.models", "kerngp.solvers"):
            if vars(importlib.import_module(package)).get(cls.__name__) is cls:
                return f"{package}.{cls.__name__}"
        return f"{cls.__module__}.{cls.__name__}"
    if cls.__module__ == SKLEARN_KERNELS and issubclass(cls, SklearnKernel):
        return f"{SKLEARN_KERNELS}.{cls.__name__}"
    return next((name for name in SKLEARN_HELPERS if _imported(name) is cls), None)


def class_of(name: str) -> type:
    """The known class of this name.

    Raises
    ------
    DataError
        For every other name; nothing outside kerngp and scikit-learn is ever imported.
    """
    module, _, _ = name.rpartition(".")
    if OURS.fullmatch(module) or module == SKLEARN_KERNELS or name in SKLEARN_HELPERS:
        try:
            found = _imported(name)
        except ImportError:
            found = None
        if isinstance(found, type) and class_name(found) is not None:
            return found
    raise DataError(
        f"the file asks for {name!r}; only estimators and kernels of kerngp and kernels of scikit-learn are "
        "loaded. A newer version of kerngp may know it."
    )


def _function_name(function: Any) -> str | None:
    """The name of a function of ours that makes formulas; None for others."""
    if not isinstance(function, FunctionType) or not FORMULAS.fullmatch(function.__module__):
        return None
    name = f"{function.__module__}.{function.__name__}"
    return name if _imported(name) is function else None


def _imported(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute, None)


def _remedy(value: Any) -> str:
    if callable(value):
        return (
            "A function would have to be trusted when it is loaded: set a callback to None; write a kernel "
            "as a kernel of kerngp.models, as a formula or as a text."
        )
    return "Classes of kerngp, kernels of scikit-learn, arrays and plain Python data can be."


# ---------------------------------------------------------------- one pair of functions for each form


def _write_numbers(f: Flattener, a: np.ndarray, path: str) -> dict[str, Any]:
    return {"name": f.store(a, path)}


def _read_numbers(node: dict, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    return arrays[node["name"]]


def _write_labels(f: Flattener, a: np.ndarray, path: str) -> dict[str, Any]:
    values = [f.plain(v, f"{path}.{k}") for k, v in enumerate(a.reshape(-1).tolist())]
    return {"dtype": a.dtype.str, "shape": list(a.shape), "values": values}


def _read_labels(node: dict, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    out = np.empty(node["shape"], dtype=np.dtype(node["dtype"]))
    out.reshape(-1)[:] = revive(node["values"], arrays)
    return out


def _write_tensor(f: Flattener, t: torch.Tensor, path: str) -> dict[str, Any]:
    return {"name": f.store(to_numpy(t), path), "dtype": str(t.dtype).removeprefix("torch.")}


def _read_tensor(node: dict, arrays: Mapping[str, np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(arrays[node["name"]]).to(_torch(node["dtype"], torch.dtype))


def _write_sparse(f: Flattener, a: Any, path: str) -> dict[str, Any]:
    rows = a.tocsr()
    parts = {name: f.store(getattr(rows, name), f"{path}.{name}") for name in ("data", "indices", "indptr")}
    return {"class": type(a).__name__, "shape": list(a.shape), "parts": parts}


def _read_sparse(node: dict, arrays: Mapping[str, np.ndarray]) -> Any:
    form, _, family = node["class"].partition("_")
    if family not in ("array", "matrix"):
        raise DataError(f"{node['class']!r} is no sparse matrix.")
    parts = tuple(arrays[node["parts"][name]] for name in ("data", "indices", "indptr"))
    make = scipy.sparse.csr_array if family == "array" else scipy.sparse.csr_matrix
    return make(parts, shape=tuple(node["shape"])).asformat(form)


def _write_scalar(f: Flattener, value: np.generic, path: str) -> dict[str, Any]:
    return {"dtype": value.dtype.str, "value": f.plain(value.item(), path)}


def _read_scalar(node: dict, arrays: Mapping[str, np.ndarray]) -> Any:
    return np.dtype(node["dtype"]).type(revive(node["value"], arrays))


def _write_tuple(f: Flattener, value: tuple, path: str) -> dict[str, Any]:
    return {"items": f.plain(list(value), path)}


def _write_dict(f: Flattener, value: dict, path: str) -> dict[str, Any]:
    items = [[f.plain(k, path), f.plain(v, f"{path}.{k}" if path else str(k))] for k, v in value.items()]
    return {"items": items}


def _read_dict(node: dict, arrays: Mapping[str, np.ndarray]) -> dict:
    return {revive(k, arrays): revive(v, arrays) for k, v in node["items"]}


def _write_random(f: Flattener, value: np.random.RandomState, path: str) -> dict[str, Any]:
    return {"state": f.plain(value.get_state(legacy=True), path)}


def _read_random(node: dict, arrays: Mapping[str, np.ndarray]) -> np.random.RandomState:
    out = np.random.RandomState()
    out.set_state(revive(node["state"], arrays))
    return out


def _write_object(f: Flattener, value: Any, path: str) -> dict[str, Any]:
    return {"class": class_name(type(value)), "state": f.plain(value.__getstate__(), path)}


def _read_object(node: dict, arrays: Mapping[str, np.ndarray]) -> Any:
    out, state = object.__new__(class_of(node["class"])), revive(node["state"], arrays)
    if hasattr(out, "__setstate__"):
        out.__setstate__(state)
    else:
        vars(out).update(state or {})
    return out


def _read_enum(node: dict, arrays: Mapping[str, np.ndarray]) -> Enum:
    cls = class_of(node["class"])
    if not issubclass(cls, Enum):
        raise DataError(f"{node['class']} has no member {node['member']!r}.")
    return cls[node["member"]]


def _read_function(node: dict, arrays: Mapping[str, np.ndarray]) -> Any:
    name = str(node["name"])
    function = _imported(name) if FORMULAS.fullmatch(name.rpartition(".")[0]) else None
    if function is None or _function_name(function) is None:
        raise DataError(f"the file asks for the function {name!r}; only those that make formulas are known.")
    return function


def _write_tree(f: Flattener, tree: KDTree, path: str) -> dict[str, Any]:
    return {"points": f.store(np.asarray(tree.data), path), "leafsize": int(tree.leafsize)}


def _write_neighbours(f: Flattener, model: NearestNeighbors, path: str) -> dict[str, Any]:
    params = f.plain(model.get_params(deep=False), path)
    return {"params": params, "points": f.plain(model._fit_X, f"{path}.points")}  # pyright: ignore


def _read_neighbours(node: dict, arrays: Mapping[str, np.ndarray]) -> NearestNeighbors:
    return NearestNeighbors(**revive(node["params"], arrays)).fit(revive(node["points"], arrays))


def _torch(name: str, kind: type) -> Any:
    value = getattr(torch, name, None)
    if not isinstance(value, kind):
        raise DataError(f"torch has no {name!r}.")
    return value


def _is_labels(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "USO"


def _is_known(value: Any) -> bool:
    return not isinstance(value, type) and class_name(type(value)) is not None


def _is_foreign(value: Any) -> bool:
    return is_array(value) and hasattr(value, "__dlpack__")


Write = Callable[[Flattener, Any, str], dict[str, Any]]
Read = Callable[[dict, Mapping[str, np.ndarray]], Any]

# name of the form, what has it, how it is written, how it is read; the first that fits is taken
_FORMS: tuple[tuple[str, Callable[[Any], bool], Write, Read], ...] = (
    (
        "array",
        lambda v: isinstance(v, np.ndarray) and v.dtype.kind in "biuf",
        lambda f, a, path: _write_numbers(f, np.asarray(a), path),
        _read_numbers,
    ),
    ("labels", _is_labels, _write_labels, _read_labels),
    ("scalar", lambda v: isinstance(v, np.generic) and v.dtype.kind in "biufU", _write_scalar, _read_scalar),
    ("tensor", lambda v: isinstance(v, torch.Tensor), _write_tensor, _read_tensor),
    # arrays of other libraries come back as NumPy's
    ("foreign", _is_foreign, lambda f, a, path: _write_numbers(f, to_numpy(a), path), _read_numbers),
    ("sparse", scipy.sparse.issparse, _write_sparse, _read_sparse),
    ("tuple", lambda v: type(v) is tuple, _write_tuple, lambda n, arrays: tuple(revive(n["items"], arrays))),
    ("dict", lambda v: type(v) is dict, _write_dict, _read_dict),
    ("float", lambda v: False, lambda f, v, path: {}, lambda n, arrays: float(n["value"])),
    (
        "enum",
        lambda v: isinstance(v, Enum) and _is_known(v),
        lambda f, v, path: {"class": class_name(type(v)), "member": v.name},
        _read_enum,
    ),
    (
        "formula",
        lambda v: isinstance(v, Expr),
        lambda f, v, path: {"text": formula_text(v)},
        lambda n, arrays: formula_of(n["text"]),
    ),
    (
        "library",
        lambda v: isinstance(v, Kind),
        lambda f, v, path: {"name": v.name},
        lambda n, arrays: TORCH if n["name"] == TORCH.name else NUMPY,
    ),
    (
        "device",
        lambda v: isinstance(v, torch.device),
        lambda f, v, path: {"name": str(v)},
        lambda n, arrays: torch.device("cpu"),  # where tensors are loaded
    ),
    (
        "dtype",
        lambda v: isinstance(v, torch.dtype),
        lambda f, v, path: {"name": str(v).removeprefix("torch.")},
        lambda n, arrays: _torch(n["name"], torch.dtype),
    ),
    (
        "function",
        lambda v: _function_name(v) is not None,
        lambda f, v, path: {"name": _function_name(v)},
        _read_function,
    ),
    # trees are planted again
    (
        "tree",
        lambda v: type(v) is KDTree,
        _write_tree,
        lambda n, arrays: KDTree(arrays[n["points"]], n["leafsize"]),
    ),
    (
        "neighbours",
        lambda v: type(v) is NearestNeighbors and hasattr(v, "_fit_X"),
        _write_neighbours,
        _read_neighbours,
    ),
    ("random", lambda v: isinstance(v, np.random.RandomState), _write_random, _read_random),
    ("object", _is_known, _write_object, _read_object),
)
_READERS = {kind: read for kind, _, _, read in _FORMS}

"""Fitted models as files that need no pickle and are safe to load, whoever wrote them."""

from __future__ import annotations

import json
import sys
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.gaussian_process.kernels import Kernel as SklearnKernel

from ..errors import BackendUnavailable, DataError, OptionError
from .kernel_base import Kernel
from .plain import Flattener, revive

FORMAT = 1
KEY = "kerngp"  # of the description, among the arrays
VERSION: str = sys.modules[__name__.partition(".")[0]].__version__  # the package stands above its models


def save(model: Any, path: str | Path) -> None:
    """Write a fitted estimator, or a kernel, to one file: its arrays, and the rest as JSON.

    Parameters
    ----------
    model : estimator or kernel of kerngp, or kernel of scikit-learn
        With its parameters, its kernel and everything fitted, estimators inside it included.
    path : str or Path
        ``.npz`` for NumPy's format, ``.safetensors`` for that of the package of this name. A file of that
        name is replaced.

    Raises
    ------
    DataError
        If something is a Python function (a callback, a kernel that is a function), or of an unknown class;
        the message says which attribute.
    OptionError
        If the name ends otherwise.

    Notes
    -----
    Tensors are written from any device and loaded on the CPU; arrays of other libraries become NumPy's.
    Hyperparameters that require gradients lose them.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from kerngp.models import KernelRidge, load, save
    >>> model = KernelRidge(kernel="rbf").fit([[0.0], [1.0]], [0.0, 1.0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(model, Path(folder) / "model.npz")
    ...     again = load(Path(folder) / "model.npz")
    >>> bool((again.predict([[0.5]]) == model.predict([[0.5]])).all())
    True
    """
    if not isinstance(model, (BaseEstimator, Kernel, SklearnKernel)):
        raise DataError(f"model is a {type(model).__name__}; expected an estimator or a kernel.")
    flat = Flattener()
    body = flat.plain(model, "")
    head = {"format": FORMAT, "version": VERSION, "model": body}
    _write(_checked(path), json.dumps(head, allow_nan=False), flat.arrays)


def load(path: str | Path) -> Any:
    """The model that `save` wrote.

    Nothing in the file is executed: only classes of kerngp and kernels of scikit-learn are made, from numbers
    and texts. It is safe to load files of unknown origin, as far as reading numbers is.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    estimator or kernel

    Raises
    ------
    DataError
        If the file was not written by `save`, by a later version of it, or names an unknown class.
    FileNotFoundError
    """
    text, arrays = _read(_checked(path))
    try:
        head = json.loads(text)
        number, version, body = head["format"], head["version"], head["model"]
    except (ValueError, TypeError, KeyError) as e:
        raise DataError(f"{path} was not written by kerngp.models.save ({e!r}).") from e
    if number != FORMAT:
        raise DataError(
            f"{path} has the format {number}, this version of kerngp reads {FORMAT}; update kerngp."
        )
    if version != VERSION:
        warnings.warn(
            f"{path} was written by kerngp {version}, this is {VERSION}: fit again if results differ.",
            UserWarning,
            stacklevel=2,
        )
    model = revive(body, arrays)
    if not isinstance(model, (BaseEstimator, Kernel, SklearnKernel)):
        raise DataError(f"{path} holds a {type(model).__name__}; expected an estimator or a kernel.")
    return model


def _checked(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix not in (".npz", ".safetensors"):
        raise OptionError(f"path={str(path)!r}: expected a name that ends in .npz or .safetensors.")
    return path


def _write(path: Path, text: str, arrays: Mapping[str, np.ndarray]) -> None:
    if path.suffix == ".safetensors":
        native = {k: np.asarray(a, dtype=a.dtype.newbyteorder("="), order="C") for k, a in arrays.items()}
        _safetensors().numpy.save_file(native, str(path), metadata={KEY: text})
        return
    with open(path, "wb") as file:  # a name would be changed
        np.savez(file, allow_pickle=False, **{KEY: np.frombuffer(text.encode(), np.uint8)}, **arrays)


def _read(path: Path) -> tuple[str, Mapping[str, np.ndarray]]:
    try:
        return _read_safetensors(path) if path.suffix == ".safetensors" else _read_npz(path)
    except (KeyError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as e:
        raise DataError(f"{path} was not written by kerngp.models.save ({e!r}).") from e


def _read_npz(path: Path) -> tuple[str, Mapping[str, np.ndarray]]:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return bytes(arrays.pop(KEY)).decode(), arrays


def _read_safetensors(path: Path) -> tuple[str, Mapping[str, np.ndarray]]:
    library = _safetensors()
    try:
        with library.safe_open(str(path), framework="np") as file:
            return (file.metadata() or {})[KEY], {name: file.get_tensor(name) for name in file.keys()}
    except library.SafetensorError as e:
        raise ValueError(str(e)) from e


def _safetensors() -> Any:
    try:
        import safetensors.numpy  # pyright: ignore[reportMissingImports]
    except ImportError as e:
        raise BackendUnavailable("safetensors is not installed; install it, or save as .npz.") from e
    return safetensors

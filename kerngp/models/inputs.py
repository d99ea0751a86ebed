"""Data as they come, brought to torch tensors, and results brought back; refusals say which argument and why.

Everything follows X: results and fitted arrays are of X's library, on X's device, whatever y was.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import scipy.sparse
import torch
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from ..engine.arrays import NUMPY, Kind, adopt, kind_of, restore
from ..errors import BackendUnavailable, DataError, OptionError, ShapeError
from ..options import current

Tensor = torch.Tensor


@dataclass(frozen=True)
class Origin:
    """Where X came from. Picklable: an estimator may keep it.

    Attributes
    ----------
    kind : Kind
        Its library.
    device : torch.device
        Where X was; results return there, wherever they were computed.
    """

    kind: Kind = NUMPY
    device: torch.device = torch.device("cpu")

    def give(self, value: Tensor) -> Any:
        """A result, or a fitted array, as an array like X."""
        return restore(value.detach().to(self.device), self.kind)


def read_rows(
    estimator: Any, X: Any, *, reset: bool, device: str | None = None, sparse: bool = True, **checks: Any
) -> tuple[Tensor, Origin]:
    """X as a tensor of shape (n_samples, n_features), float32 or float64, and where results belong.

    Feature names and their number are set on the estimator (``reset=True``, in `fit`) or compared with it.
    float32 stays float32, everything else becomes float64. Memory is shared where that is possible: treat
    the tensor as read-only.

    Parameters
    ----------
    estimator : BaseEstimator
    X : array, table or sparse matrix of shape (n_samples, n_features)
        torch tensors (of any device), NumPy arrays and memory maps, pandas and polars tables, nested lists,
        arrays of other libraries. A sparse matrix is made dense if that fits into the memory limit.
    reset : bool
    device : str, optional
        Where to compute; default where X is.
    sparse : bool
        Whether sparse matrices are accepted.
    **checks
        For `sklearn.utils.check_array`, such as ``ensure_min_samples=2``.

    Raises
    ------
    ValueError, TypeError
        With scikit-learn's messages, for what is not a finite matrix of numbers with the fitted columns.
    """
    rows, _, origin = _read(estimator, X, "no_validation", reset, device, sparse, checks)
    return rows, origin


def read(
    estimator: Any, X: Any, y: Any, *, device: str | None = None, sparse: bool = True, **checks: Any
) -> tuple[Tensor, np.ndarray, Origin]:
    """X as `read_rows` gives it in `fit`, y as a NumPy array, and where results belong.

    Parameters
    ----------
    estimator : BaseEstimator
    X : see `read_rows`
    y : array of shape (n_samples,) or (n_samples, n_targets)
        Of any library and device.
    device, sparse : see `read_rows`
    **checks
        For `sklearn.utils.check_X_y`, such as ``multi_output=True, y_numeric=True``.
    """
    return _read(estimator, X, to_numpy(y), True, device, sparse, checks)


def _read(
    estimator: Any, X: Any, y: Any, reset: bool, device: str | None, sparse: bool, checks: dict[str, Any]
) -> tuple[Tensor, Any, Origin]:
    origin = Origin(kind_of(X), X.device if isinstance(X, Tensor) else torch.device("cpu"))
    rows = dense_rows(to_numpy(X), "X") if sparse else to_numpy(X)
    valid = validate_data(estimator, rows, y, reset=reset, dtype=[np.float64, np.float32], **checks)
    rows, y = valid if isinstance(valid, tuple) else (valid, None)
    return adopt("X", rows, device=compute_device(device, X)), y, origin


def compute_device(device: str | None, X: Any) -> torch.device:
    """The device that was asked for, else that of X.

    Raises
    ------
    OptionError, BackendUnavailable
        If there is no such device.
    """
    if device is None:
        return X.device if isinstance(X, Tensor) else torch.device("cpu")
    try:
        out = torch.device(device)
    except (RuntimeError, TypeError):
        raise OptionError(
            f"device={device!r} is no device; expected a name such as 'cpu' or 'cuda:0'."
        ) from None
    if out.type == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable(f"device={device!r}: torch sees no CUDA device; use device='cpu'.")
    return out


def bytes_text(n: int) -> str:
    """A number of bytes as people read it."""
    return f"{n / 2**30:.2f} GiB" if n >= 2**30 else f"{n / 2**20:.1f} MiB"


def to_numpy(value: Any) -> Any:
    """torch tensors as NumPy arrays of their memory; everything else unchanged."""
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach().cpu()
    return (value.float() if value.dtype in (torch.float16, torch.bfloat16) else value).numpy()


def dense_rows(X: Any, name: str) -> Any:
    """A sparse matrix made dense, if that fits into the memory limit; everything else unchanged.

    Raises
    ------
    ShapeError
        If it does not fit.
    """
    if not scipy.sparse.issparse(X):
        return X
    size, limit = 8 * X.shape[0] * X.shape[1], current().memory_limit
    if size > limit:
        raise ShapeError(
            f"{name} is a sparse matrix of shape {X.shape}; as a dense array it takes "
            f"{bytes_text(size)}, more than the limit of {bytes_text(limit)}. Reduce its columns "
            "(for instance with TruncatedSVD), or raise the limit with "
            "kerngp.options.options(memory_limit=...)."
        )
    return X.toarray()


def check_weights(sample_weight: Any, rows: int) -> np.ndarray:
    """Weights as float64, one for each row.

    Raises
    ------
    ShapeError, DataError
        If there are not as many as rows, or if they are negative, not finite, or all zero.
    """
    if isinstance(sample_weight, Real):
        sample_weight = np.full(rows, float(sample_weight))
    w = check_array(sample_weight, ensure_2d=False, dtype="float64", input_name="sample_weight")
    if w.shape != (rows,):
        raise ShapeError(
            f"sample_weight has shape {w.shape}; expected ({rows},), one weight for each row of X."
        )
    if np.any(w < 0):
        raise DataError(f"sample_weight has {int((w < 0).sum())} negative entries; expected weights >= 0.")
    if not np.any(w > 0):
        raise DataError(
            "sample_weight is zero for all rows: nothing to fit; expected at least one positive weight."
        )
    return w


def check_non_negative(X: np.ndarray, kernel: str) -> None:
    """Raise if X has negative entries, for kernels of histograms."""
    if np.any(X < 0):
        raise DataError(
            f"Negative values in data passed to kernel={kernel!r}: it compares histograms, X must be >= 0."
        )

"""Data as they come, brought to torch tensors, and results brought back; refusals say which argument and why.

Everything follows X: results and fitted arrays are of X's library, on X's device, whatever y was.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import scipy.sparse
import sklearn
import torch
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from ..engine.arrays import NUMPY, Kind, adopt, adopt_any, check_finite, is_array, kind_of, restore
from ..errors import BackendUnavailable, DataError, OptionError, ShapeError
from ..options import current

Tensor = torch.Tensor

CPU = torch.device("cpu")


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
    device: torch.device = CPU

    @classmethod
    def of(cls, X: Any) -> Origin:
        """Where an array is. Lists, tables and sparse matrices count as NumPy's."""
        kind = kind_of(X)
        return cls() if kind.name == NUMPY.name else cls(kind, adopt_any("X", X).device)

    def give(self, value: Tensor) -> Any:
        """A result, or a fitted array, as an array like X."""
        return restore(value.detach().to(self.device), self.kind)

    def same(self, other: Origin) -> bool:
        """Whether both name one library and one device."""
        ours, theirs = (self.kind.name, self.kind.device), (other.kind.name, other.kind.device)
        return ours == theirs and self.device == other.device

    def __str__(self) -> str:
        return f"{self.kind.name} on {self.kind.device or self.device}"


def read_rows(
    estimator: Any,
    X: Any,
    *,
    reset: bool,
    method: str | None = None,
    device: str | None = None,
    sparse: bool = True,
    **checks: Any,
) -> tuple[Tensor, Origin]:
    """X as a tensor of shape (n_samples, n_features), float32 or float64, and where results belong.

    Feature names and their number are set on the estimator (``reset=True``, in `fit`) or compared with it.
    float32 stays float32, everything else becomes float64. Memory is shared where that is possible: treat
    the tensor as read-only. A torch tensor that requires gradients is detached: estimators have none.

    Parameters
    ----------
    estimator : BaseEstimator
    X : array, table or sparse matrix of shape (n_samples, n_features)
        torch tensors and arrays of other libraries with DLPack (of any device, where they are checked), NumPy
        arrays and memory maps, pandas and polars tables, nested lists. A sparse matrix is made dense if that
        fits into the memory limit.
    reset : bool
    method : str, optional
        The public method that reads, such as "predict". With ``array_api_dispatch`` X must then come from
        where the fitted arrays are, see `check_same_origin`.
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
    if method is not None:
        check_same_origin(estimator, X, method)
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
    kind = kind_of(X)
    if kind.name == NUMPY.name:
        rows = dense_rows(X, "X") if sparse else X
        valid = validate_data(estimator, rows, y, reset=reset, dtype=[np.float64, np.float32], **checks)
        rows, y = valid if isinstance(valid, tuple) else (valid, None)
        return adopt("X", rows, device=compute_device(device, X)), y, Origin()
    rows = adopt_any("X", X).detach()
    y = _check_tensor(estimator, rows, y, reset, checks)
    dtype = rows.dtype if rows.dtype == torch.float32 else torch.float64
    return rows.to(compute_device(device, rows), dtype).resolve_neg(), y, Origin(kind, rows.device)


def _check_tensor(estimator: Any, X: Tensor, y: Any, reset: bool, checks: dict[str, Any]) -> Any:
    """Check X where it is, and y; returns y.

    All but the numbers is checked by scikit-learn, on a stand-in of X's shape that takes no memory.
    """
    if X.is_complex():
        raise DataError(f"Complex data not supported: X has dtype {X.dtype}; pass real numbers.")
    if X.layout != torch.strided:
        raise DataError(f"X is a sparse tensor, of layout {X.layout}; convert it with .to_dense().")
    shown: Any = np.broadcast_to(np.zeros(1), tuple(X.shape)) if X.dim() == 2 else to_numpy(X)
    of_shape = checks | {"ensure_all_finite": False}
    finite, positive = checks.get("ensure_all_finite", True), of_shape.pop("ensure_non_negative", False)
    valid = validate_data(estimator, shown, y, reset=reset, dtype=[np.float64, np.float32], **of_shape)
    if finite and X.is_floating_point():
        check_finite("X", X.masked_fill(X.isnan(), 0) if finite == "allow-nan" else X)
    if positive and bool((X < 0).any()):
        raise DataError(f"Negative values in data passed to X in {type(estimator).__name__}.")
    return valid[1] if isinstance(valid, tuple) else None


def check_same_origin(estimator: Any, X: Any, method: str) -> None:
    """With scikit-learn's ``array_api_dispatch``, X must be of the library and on the device of the fit.

    Without it anything is accepted: results follow the X of the call.

    Raises
    ------
    DataError
    """
    if not sklearn.get_config().get("array_api_dispatch"):
        return
    fitted, given = fitted_origin(estimator), Origin.of(X)
    if fitted is not None and not fitted.same(given):
        raise DataError(
            f"Inputs passed to {type(estimator).__name__}.{method}() must use the same namespace and the "
            f"same device as those passed to fit(): X is {given}, in fit it was {fitted}. Convert X, or "
            "turn array_api_dispatch off."
        )


def fitted_origin(estimator: Any) -> Origin | None:
    """Where the fitted arrays of an estimator are; None if it has none."""
    for name, value in vars(estimator).items():
        of_labels = name in ("classes_", "feature_names_in_")  # these stay NumPy's
        if name.endswith("_") and not of_labels and is_array(value) and not isinstance(value, np.generic):
            return Origin.of(value)
    return None


def compute_device(device: str | None, X: Any) -> torch.device:
    """The device that was asked for, else that of X, if X is a tensor.

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
    """Tensors, and arrays of other libraries with DLPack, as NumPy arrays; everything else unchanged."""
    if kind_of(value).name == NUMPY.name:
        return value
    t = adopt_any("value", value).detach().cpu().resolve_neg()
    return (t.float() if t.dtype in (torch.float16, torch.bfloat16) else t).numpy()


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
    w = check_array(to_numpy(sample_weight), ensure_2d=False, dtype="float64", input_name="sample_weight")
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


def check_non_negative(X: Any, kernel: str) -> None:
    """Raise if an array or tensor has negative entries, for kernels of histograms."""
    if (X < 0).any():
        raise DataError(
            f"Negative values in data passed to kernel={kernel!r}: it compares histograms, X must be >= 0."
        )

"""Training data as they come, brought to dense NumPy arrays; refusals say which argument and why."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import scipy.sparse
import torch
from sklearn.utils import check_array

from ..errors import DataError, ShapeError
from ..options import current


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

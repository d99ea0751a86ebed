"""Predictions of f(x) = sum_m c_m k(x, z_m), block by block: new rows may be more than memory holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..inputs import Origin, read_rows
from ..kernel_base import Kernel
from ..kernel_matrix import kernel_matrix
from ..resolve import MatrixKernel

Tensor = torch.Tensor

SHARE = 8  # a block takes this part of the memory limit


def block_rows(features: int, targets: int, stored: int, memory_limit: int) -> int:
    """Rows of a block.

    Parameters
    ----------
    features, targets : int
    stored : int
        Numbers of the kernel matrix that are stored for each row: the points, or 0 for a formula.
    memory_limit : int
        Bytes.

    Examples
    --------
    >>> block_rows(10, 1, 0, 1 << 30) > 10 * block_rows(10, 1, 1000, 1 << 30)
    True
    """
    # rows as they are read, converted and packed; two results; entries and what they are computed from
    numbers = 3 * features + 2 * targets + 2 * stored
    return max(1, memory_limit // SHARE // (8 * numbers))


def row_blocks(estimator: Any, X: Any, step: int, **checks: Any) -> Iterator[tuple[Tensor, Origin]]:
    """Validated rows, ``step`` at a time, and where results belong.

    NumPy arrays, memory maps among them, are read and converted block by block; a map never is in memory
    as a whole.
    """
    if isinstance(X, np.ndarray) and X.ndim == 2 and len(X) > step:
        for start in range(0, len(X), step):
            yield read_rows(estimator, X[start : start + step], reset=False, **checks)
        return
    rows, origin = read_rows(estimator, X, reset=False, **checks)
    for block in rows.split(step):
        yield block, origin


def values(kernel: Kernel | MatrixKernel, X: Tensor, points: Tensor, coef: Tensor) -> Tensor:
    """f at the rows of X, in the dtype of the points, where these are: one pass over the pairs.

    Parameters
    ----------
    kernel : Kernel or MatrixKernel
    X : Tensor of shape (n, D)
    points : Tensor of shape (m, D)
    coef : Tensor of shape (m, E)

    Raises
    ------
    ShapeError
        If a block of one row of a stored matrix exceeds the memory limit.
    """
    X = X.to(points.device, points.dtype)
    if isinstance(kernel, Kernel):
        return kernel_matrix(kernel, X, points) @ coef
    matrix = torch.from_numpy(kernel.matrix(X.cpu().numpy(), points.cpu().numpy()))
    return (matrix.to(coef.device) @ coef.double()).to(points.dtype)

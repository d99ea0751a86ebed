"""Kernels that are known through their matrix only, and what may be stored of matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ShapeError
from ..options import current
from .inputs import bytes_text


@dataclass(frozen=True)
class MatrixKernel:
    """A kernel that computes whole matrices with NumPy.

    Attributes
    ----------
    function : callable (X, Y) -> ndarray of shape (M, N)
    name : str
        For messages.
    precomputed : bool
        The matrix is what the user passes as X, so there are no points.
    """

    function: Callable[[np.ndarray, np.ndarray], Any]
    name: str
    precomputed: bool = False

    def matrix(self, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
        """The matrix in double precision.

        Raises
        ------
        ShapeError
            If it exceeds the memory limit in force.
        """
        check_size(self.name, X.shape[0], Y.shape[0])
        return np.asarray(self.function(X, Y), dtype=np.float64)


def check_size(name: str, rows: int, columns: int, count: int = 1) -> None:
    """Whether ``count`` matrices of float64 stay below the memory limit in force.

    Raises
    ------
    ShapeError
        If they do not; ``name`` says what the matrix is of.
    """
    size, limit = 8 * rows * columns * count, current().memory_limit
    if size > limit:
        what = "matrix" if count == 1 else "matrix with its derivatives"
        raise ShapeError(
            f"the {rows} x {columns} {what} of {name} takes {bytes_text(size)}, "
            f"more than the limit of {bytes_text(limit)}; write the kernel as a formula (see "
            "kerngp.models.FormulaKernel), which needs no matrix, use fewer rows, or raise the limit with "
            "kerngp.options.options(memory_limit=...)."
        )

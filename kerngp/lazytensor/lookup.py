"""Rows of a table, chosen by labels of i or j or by the values of a formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..engine.arrays import is_array
from ..engine.ops import gather
from ..errors import DTypeError, FormulaError, ShapeError
from .tensor import LazyTensor, combine

LARGEST = {torch.float16: 11, torch.bfloat16: 8, torch.float32: 24}  # integers up to 2 ** bits are exact


def lookup(table: Any, index: Any, axis: int | None = None) -> LazyTensor:
    """The rows ``table[index]`` as vectors of a formula.

    Parameters
    ----------
    table : array (K, D), or (K,) for numbers
        Differentiable with torch.
    index : array of integers, or LazyTensor
        Labels in the layout of `LazyTensor`: (M, 1, 1) for i, (1, N, 1) for j, or (M,) with ``axis``.
        Or a formula with scalar values, such as a label distance, which are rounded; where one is not
        the number of a row, the result is NaN. Labels are the fast way: their rows are taken beforehand.
    axis : {None, 0, 1}
        For labels of shape (M,) or (M, 1): 0 for i, 1 for j.

    Raises
    ------
    ShapeError, DTypeError, FormulaError
        Also for labels outside 0, ..., K - 1.

    Examples
    --------
    >>> import torch
    >>> table = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    >>> lookup(table, torch.tensor([2, 0]), axis=0).dense()[:, 0]
    tensor([[0.5000, 0.5000],
            [1.0000, 0.0000]])
    """
    if not is_array(table):
        table = np.asarray(table, dtype=np.float64)
    if table.ndim not in (1, 2) or 0 in table.shape:
        raise ShapeError(f"table has shape {tuple(table.shape)}; expected (K, D) or (K,), not empty.")
    rows, dim = table.shape[0], 1 if table.ndim == 1 else table.shape[1]
    if isinstance(index, LazyTensor):
        return _by_formula(table, index, rows, dim)
    labels = index if isinstance(index, torch.Tensor) else torch.from_numpy(np.array(index))
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DTypeError(f"index has dtype {labels.dtype}; expected integers, or a LazyTensor of values.")
    labels = labels.long()
    if labels.numel() and not (0 <= int(labels.min()) and int(labels.max()) < rows):
        bad = int(labels[(labels < 0) | (labels >= rows)].flatten()[0])
        raise FormulaError(f"label {bad} of index is out of range: the table has {rows} rows.")
    if axis is None and (labels.dim() < 3 or labels.shape[-1] != 1):
        raise ShapeError(
            f"index has shape {tuple(labels.shape)}; expected (..., M, 1, 1) or (..., 1, N, 1), or (M,) with "
            "axis=0 (over i) or 1 (over j)."
        )
    if axis is not None and labels.dim() == 1:
        labels = labels[:, None]
    places = labels.squeeze(-1)
    picked = table[places] if isinstance(table, torch.Tensor) else table[places.cpu().numpy()]
    return LazyTensor(picked[..., None] if table.ndim == 1 else picked, axis)


def _by_formula(table: Any, index: LazyTensor, rows: int, dim: int) -> LazyTensor:
    if index.ndim != 1 or index.is_complex:
        raise ShapeError(f"index has shape {index.shape} and dtype {index.dtype}; expected real scalars.")
    flat = LazyTensor(table.reshape(-1))
    for operands in (flat.operands, index.operands):
        bits = LARGEST.get(operands.dtype, 53) if operands.dtype is not None else 53
        if rows > 1 << bits:
            raise DTypeError(
                f"a table of {rows} rows cannot be indexed in {operands.dtype}, which holds integers up to "
                f"{1 << bits}; use a wider dtype or integer labels."
            )
    return combine(gather, flat, index, attr=(dim,))

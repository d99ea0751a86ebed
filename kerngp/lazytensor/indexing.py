"""Entries: ``K[...]``, components, rows and columns; the diagonal; the whole array.

One key picks components, as in KeOps: ``K[k]``, ``K[k:l]``, ``K[..., k]``. A tuple picks rows, columns, and
components if it has a third key: slices and index arrays give a smaller LazyTensor, made of some rows of
its operands; an integer gives numbers, as does a pair of index arrays, which picks single entries.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch

from .. import options as _options
from ..engine.arrays import NUMPY, restore
from ..engine.entries import diagonal, entries
from ..engine.expr import Expr
from ..engine.mapreduce import dense as every_value
from ..engine.operands import Operands
from ..engine.reductions import SUM
from ..errors import FormulaError, OptionError, ShapeError
from .pairs import shown, visible
from .reduce import concrete
from .tensor import LazyTensor, _lazy, combine

ALL = slice(None)
Pick = slice | torch.Tensor  # rows that are kept; an integer is a slice of one row


def index(K: LazyTensor, key: Any) -> Any:
    """The meaning of ``K[key]``.

    Raises
    ------
    FormulaError
        Naming the key and what was expected.
    """
    if not isinstance(key, tuple):
        return _components(K, key)
    if len(key) == 1:
        return index(K, key[0])
    *batch, rows, columns, last = _by_axis(K, key)
    if any(k != ALL for k in batch):
        raise FormulaError(f"index {key!r}: batch axes cannot be indexed; write ':' for each of them.")
    if not _is_all(last):
        K = _components(K, last)
    if _is_all(rows) and _is_all(columns):
        return K
    M, N = K.operands.sizes
    i, j = _pick(rows, M, "row"), _pick(columns, N, "column")
    slices = isinstance(rows, slice) or isinstance(columns, slice)
    if isinstance(i, torch.Tensor) and isinstance(j, torch.Tensor) and not slices:
        if i.dim() == j.dim() == 2 and i.shape[1] == 1 and j.shape[0] == 1:  # numpy.ix_
            return _restrict(_restrict(K, "i", i.flatten()), "j", j.flatten())
        return _at_pairs(K, i, j)
    if any(isinstance(k, torch.Tensor) and k.dim() != 1 for k in (i, j)):
        raise FormulaError(f"index {key!r}: index arrays have one axis.")
    picked = _restrict(_restrict(K, "i", i), "j", j)
    drop = [axis for axis, k in ((-3, rows), (-2, columns)) if _is_integer(k)]
    return _numbers(picked, drop) if drop else picked


def dense(self: LazyTensor) -> Any:
    """The whole array, of shape `shape`, stored; refused above ``options.memory_limit`` bytes.

    Pairs that a mask or ranges leave out are 0.

    Raises
    ------
    OptionError
    """
    return _deliver(self, _all(self))


def numpy(self: LazyTensor) -> np.ndarray:
    """The whole array as a NumPy array; see `dense`."""
    values = _all(self)
    return NUMPY.leave(values.squeeze(-1) if self.ndim == 1 else values)


def _all(K: LazyTensor) -> torch.Tensor:
    o = concrete(K.operands)
    limit = _options.current().memory_limit
    size = math.prod(K._shape) * (8 if o.dtype is None else o.dtype.itemsize) * (1 + K.is_complex)
    if size > limit:
        raise OptionError(
            f"dense() of shape {K.shape} takes {size / 2**30:.3g} GiB, above memory_limit = "
            f"{limit / 2**30:.3g} GiB; reduce it lazily, or raise options(memory_limit=...)."
        )
    full = every_value(_entries(K), o.tensors(), sizes=o.sizes)
    full = shown(full.expand(*K._shape[:-1], full.shape[-1]), o)
    return (K._finish(full) if K._finish else full).contiguous()


def diag(self: LazyTensor) -> Any:
    """The entries (i, i), an array (..., M), or (..., M, D) of vectors.

    Raises
    ------
    FormulaError
        If there are not as many rows as columns.
    """
    return _deliver(self, _diagonal(self))


def trace(self: LazyTensor) -> Any:
    """The sum of the diagonal; see `diag`."""
    return _deliver(self, _diagonal(self).sum(-2))


# ---------------------------------------------------------------- what a key means


def _by_axis(K: LazyTensor, key: tuple) -> tuple:
    """One key for each axis: batch axes, rows, columns, components."""
    total, given = K.dim(), len(key)
    dots = [n for n, k in enumerate(key) if k is Ellipsis]
    if len(dots) == 1 and given - 1 <= total:
        return (*key[: dots[0]], *(ALL,) * (total - given + 1), *key[dots[0] + 1 :])
    if not dots and given == total:
        return key
    if not dots and given in (2, 3):
        return (*(ALL,) * K.nbatchdims, *key, *(ALL,) * (3 - given))
    raise FormulaError(
        f"index {key!r} of a LazyTensor of shape {K.shape}: expected K[rows, columns], "
        "K[rows, columns, components], or one key for the components, K[k] or K[..., k]."
    )


def _components(K: LazyTensor, key: Any) -> LazyTensor:
    D = K.ndim
    if isinstance(key, slice):
        start, stop, step = key.indices(D)
        if step != 1 or stop <= start:
            raise FormulaError(f"slice {key} of vectors of dim {D}: expected start < stop and step 1.")
        return combine("extract", K, attr=(start, stop - start))
    if not _is_integer(key):
        raise FormulaError(f"index {key!r} of the components: expected an integer or a slice.")
    k = key.__index__()
    if not -D <= k < D:
        raise FormulaError(f"index {k} is out of range for vectors of dim {D}.")
    return combine("elem", K, attr=(k % D,))


def _is_all(key: Any) -> bool:
    return isinstance(key, slice) and key == ALL


def _is_integer(key: Any) -> bool:
    return hasattr(key, "__index__") and not isinstance(key, bool) and not getattr(key, "ndim", 0)


def _pick(key: Any, n: int, what: str) -> Pick:
    if isinstance(key, slice):
        start, stop, step = key.indices(n)
        if step > 0:
            return slice(start, max(start, stop), step)
        return torch.arange(start, stop, step)
    if _is_integer(key):
        k = key.__index__()
        if not -n <= k < n:
            raise FormulaError(f"{what} {k} is out of range: there are {n} {what}s.")
        return slice(k % n, k % n + 1, 1)
    if key is None or isinstance(key, (bool, str)):
        raise FormulaError(f"{what} index {key!r}: expected an integer, a slice or an index array.")
    t = key if isinstance(key, torch.Tensor) else torch.from_numpy(np.array(key))
    if t.dtype == torch.bool:
        if t.shape != (n,):
            raise FormulaError(f"a mask of {what}s of shape {tuple(t.shape)}: expected ({n},).")
        return t.nonzero().squeeze(-1)
    if t.numel() == 0:
        return t.long()
    if t.is_floating_point() or t.is_complex():
        raise FormulaError(f"{what} indices have dtype {t.dtype}: expected integers or a mask.")
    t = t.long()
    if not (-n <= int(t.min()) and int(t.max()) < n):
        bad = t[(t < -n) | (t >= n)].flatten()[0]
        raise FormulaError(f"{what} {int(bad)} is out of range: there are {n} {what}s.")
    return torch.where(t < 0, t + n, t)


# ---------------------------------------------------------------- smaller tensors, and numbers


def _restrict(K: LazyTensor, letter: str, rows: Pick) -> LazyTensor:
    """The LazyTensor of some values of i (or j): the same formula of fewer rows."""
    o = _without_ranges(K)
    n = o.sizes["ij".index(letter)]
    count = len(range(n)[rows]) if isinstance(rows, slice) else rows.numel()
    if letter not in o.axes:
        if count != 1:
            raise ShapeError(
                f"{count} entries of an axis that no operand is indexed by: it has one, which broadcasts."
            )
        return K
    if isinstance(rows, slice) and rows == slice(0, n, 1):
        return K

    @functools.cache
    def take(at: int) -> torch.Tensor:
        v = o.values[at]
        return v[..., rows, :] if isinstance(rows, slice) else v.index_select(-2, rows.to(v.device))

    values = tuple(take(at) if o.axes[at] == letter else v for at, v in enumerate(o.values))
    smaller = o._replace(values=values, **{"M" if letter == "i" else "N": count})
    return _lazy(K.expr, smaller, type(K))


def _numbers(K: LazyTensor, drop: list[int]) -> Any:
    """All entries, without the axes ``drop`` of length 1."""
    o = K.operands
    full = entries(_entries(K), o.tensors(), sizes=o.sizes).expand(*o.batch, *o.sizes, -1)
    full = K._finish(full) if K._finish else full
    for axis in sorted(drop):  # from the left: the axes after it keep their numbers
        full = full.squeeze(axis)
    return _deliver(K, full)


def _at_pairs(K: LazyTensor, i: torch.Tensor, j: torch.Tensor) -> Any:
    """The entries (i_k, j_k)."""
    try:
        i, j = torch.broadcast_tensors(i, j)
    except RuntimeError:
        raise ShapeError(
            f"index arrays of shapes {tuple(i.shape)} and {tuple(j.shape)} do not broadcast to pairs. "
            "For all rows of one and all columns of the other write K[rows, :][:, columns]."
        ) from None
    values = _diagonal(_restrict(_restrict(K, "i", i.flatten()), "j", j.flatten()))
    return _deliver(K, values.unflatten(-2, tuple(i.shape)) if i.dim() != 1 else values)


def _diagonal(K: LazyTensor) -> torch.Tensor:
    o = _without_ranges(K)
    values = diagonal(_entries(K), o.tensors(), sizes=o.sizes)
    return K._finish(values) if K._finish else values


def _entries(K: LazyTensor) -> Expr:
    """The formula of the entries as a matrix has them: 0 where a mask takes them out."""
    return visible(K._components(), K.operands.keep, SUM)


def _without_ranges(K: LazyTensor) -> Operands:
    if K.operands.ranges is not None:
        raise FormulaError("this LazyTensor has ranges: index it before they are set, or its dense() after.")
    return concrete(K.operands)


def _deliver(K: LazyTensor, values: torch.Tensor) -> Any:
    return restore(values.squeeze(-1) if K.ndim == 1 else values, K.operands.kind)

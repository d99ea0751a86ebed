"""The same LazyTensor over other arrays: another dtype, another device, without gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..engine.arrays import FLOATS
from ..errors import DTypeError, OptionError
from .tensor import LazyTensor, _lazy


def to(
    self: LazyTensor,
    *where: Any,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | int | None = None,
) -> LazyTensor:
    """The same formula over arrays of another dtype or on another device.

    Parameters
    ----------
    *where : dtype or device
        In any order, as for `torch.Tensor.to`: ``K.to("cuda")``, ``K.to(torch.float32)``.
    dtype : torch.dtype, NumPy dtype or str, optional
        A complex dtype is accepted for complex tensors.
    device : torch.device, str or int, optional

    Raises
    ------
    DTypeError, OptionError

    Examples
    --------
    >>> import torch
    >>> LazyTensor(torch.ones(3, 1, 2)).to(torch.float64).dtype
    'float64'
    """
    for value in where:
        found = _dtype(value)
        if found is not None:
            dtype = found
        else:
            device = value
    chosen = None if dtype is None else _dtype(dtype)
    if dtype is not None and chosen is None:
        raise DTypeError(f"dtype={dtype!r}: expected a floating dtype, such as torch.float32 or 'float64'.")
    if chosen is not None and chosen.is_complex and self.is_complex:
        chosen = chosen.to_real()
    if chosen is not None and chosen not in FLOATS:
        raise DTypeError(
            f"dtype={chosen}: expected a floating dtype; for complex numbers use real2complex()."
        )
    try:
        place = None if device is None else torch.device(device)
    except (RuntimeError, TypeError) as e:
        raise OptionError(f"{device!r} is neither a dtype nor a device ({e}).") from None
    return _changed(self, lambda t: t.to(device=place, dtype=chosen))


def cuda(self: LazyTensor, device: torch.device | str | int | None = None) -> LazyTensor:
    """The same formula over arrays on a GPU, the current one by default."""
    return to(self, device="cuda" if device is None else device)


def cpu(self: LazyTensor) -> LazyTensor:
    """The same formula over arrays in the computer's memory."""
    return to(self, device="cpu")


def double(self: LazyTensor) -> LazyTensor:
    """The same formula in float64."""
    return to(self, dtype=torch.float64)


def single(self: LazyTensor) -> LazyTensor:
    """The same formula in float32."""
    return to(self, dtype=torch.float32)


def half(self: LazyTensor) -> LazyTensor:
    """The same formula in float16."""
    return to(self, dtype=torch.float16)


def detach(self: LazyTensor) -> LazyTensor:
    """The same formula over arrays that take no part in gradients."""
    return _changed(self, torch.Tensor.detach)


def _dtype(value: Any) -> torch.dtype | None:
    """The dtype that a value names, or None."""
    if isinstance(value, torch.dtype):
        return value
    if isinstance(value, (str, np.dtype)) or (isinstance(value, type) and issubclass(value, np.generic)):
        name = value if isinstance(value, str) else np.dtype(value).name
        found = getattr(torch, name.removeprefix("torch."), None)
        return found if isinstance(found, torch.dtype) else None
    return None


def _changed(K: LazyTensor, change: Callable[[torch.Tensor], torch.Tensor]) -> LazyTensor:
    """One new tensor for each old one: points that i and j share stay shared."""
    o = K.operands
    old = {id(v): v for v in o.values if isinstance(v, torch.Tensor)}
    new = {k: change(v) for k, v in old.items()}
    if not new:
        return K
    first = next(iter(new.values()))
    values = tuple(new.get(id(v), v) for v in o.values)
    return _lazy(K.expr, o._replace(values=values, dtype=first.dtype, device=first.device), type(K))

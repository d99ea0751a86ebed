"""What users give to operators and solvers, checked: right-hand sides, indices, factors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor

from ..engine.arrays import adopt, dtype_name, is_number
from ..errors import DeviceError, DTypeError, FormulaError, ShapeError

if TYPE_CHECKING:
    from .operator import LinearOperator

Tensor = torch.Tensor
Scalar = float | Tensor

NUMPY_DTYPES = {torch.float16: np.float16, torch.bfloat16: np.float32, torch.float32: np.float32,
                 torch.float64: np.float64}  # fmt: skip


def columns(
    name: str, b: Any, shape: tuple[int, ...], dtype: torch.dtype | None, device: torch.device
) -> tuple[Tensor, bool]:
    """A right-hand side as a tensor (..., N, E), and whether it was a vector.

    ``shape`` is that of the operator; ``dtype`` None accepts any floating dtype.
    """
    if isinstance(b, (np.ndarray, Tensor)) and not _is_floating(b):
        b = (
            b.astype(NUMPY_DTYPES[dtype or torch.float64])
            if isinstance(b, np.ndarray)
            else b.to(dtype or torch.float64)
        )
    t = adopt(name, b) if hasattr(b, "dtype") or dtype is None else adopt(name, b, dtype=dtype)
    n = shape[-1]
    vector = t.dim() == 1
    if t.dim() == 0 or t.shape[-1 if vector else -2] != n:
        raise ShapeError(f"{name} has shape {tuple(t.shape)}; the operator is {' x '.join(map(str, shape))}, "
                         f"so expected ({n},) or (..., {n}, columns).")  # fmt: skip
    if dtype is not None and t.dtype != dtype:
        how = f"astype('{dtype_name(dtype)}')" if isinstance(b, np.ndarray) else f"to({dtype})"
        raise DTypeError(
            f"{name} has dtype {t.dtype}, expected {dtype} as the operator has; convert it with {name}.{how}."
        )
    if t.device != device:
        raise DeviceError(f"{name} is on {t.device}, the operator on {device}; move one of them.")
    try:
        torch.broadcast_shapes(shape[:-2], t.shape[:-2] if not vector else ())
    except RuntimeError:
        raise ShapeError(
            f"{name} has batch shape {tuple(t.shape[:-2])}, the operator {shape[:-2]}; they do not broadcast."
        ) from None
    return (t.unsqueeze(-1) if vector else t), vector


def _is_floating(b: Any) -> bool:
    if isinstance(b, Tensor):
        return b.is_floating_point() or b.is_complex()
    return b.dtype.kind not in "biu"


def require_square(A: LinearOperator, what: str) -> None:
    """Raise unless A has as many rows as columns."""
    if A.shape[-1] != A.shape[-2]:
        raise ShapeError(f"{what} needs a square operator, got {A.shape[-2]} x {A.shape[-1]}.")


def everywhere(condition: Tensor) -> bool:
    """Whether a condition holds in all entries, and in all systems of a `torch.vmap`."""
    while is_functorch_wrapped_tensor(condition):
        condition = get_unwrapped(condition)
    return bool(condition.all())


def indices(name: str, idx: Any, n: int, device: torch.device) -> Tensor:
    if isinstance(idx, slice):
        return torch.arange(*idx.indices(n), device=device)
    t = torch.as_tensor(idx, device=device)
    if t.numel() == 0:
        t = t.to(torch.int64)
    if t.dim() > 1 or t.is_floating_point() or t.dtype == torch.bool:
        raise ShapeError(
            f"{name} has shape {tuple(t.shape)} and dtype {t.dtype}; expected a vector of integers."
        )
    t = t.reshape(-1).to(torch.int64)
    if t.numel() and (int(t.min()) < -n or int(t.max()) >= n):
        raise ShapeError(f"{name} holds {int(t.min())} to {int(t.max())}; expected 0 to {n - 1}.")
    return torch.where(t < 0, t + n, t)


def scalar(alpha: Any) -> Scalar:
    if is_number(alpha):
        return float(alpha)
    if isinstance(alpha, (Tensor, np.ndarray)) and alpha.ndim == 0:
        return adopt("alpha", alpha)
    if isinstance(alpha, Tensor) and alpha.numel() == 1:
        return alpha.reshape(())
    got = (
        f"an array of shape {tuple(alpha.shape)}" if hasattr(alpha, "shape") else f"a {type(alpha).__name__}"
    )
    raise FormulaError(f"an operator was multiplied by {got}; expected a number. Use @ for products, "
                       "Diagonal(d) for a diagonal matrix.")  # fmt: skip

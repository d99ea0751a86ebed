"""The arrays of a call, checked against the aliases of a formula string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..engine.arrays import TORCH, adopt, dtype_name, is_array, is_number, kind_of
from ..engine.operands import Operands
from ..engine.parse import Argument
from ..errors import DeviceError, DTypeError, FormulaError, ShapeError

_SIZES = {"i": "M", "j": "N"}


def in_order(*found: Sequence[Argument]) -> tuple[Argument, ...]:
    """The arguments of several formulas as one list, argument k at place k.

    Raises
    ------
    FormulaError
        A number is missing, or stands for two different variables.
    """
    table: dict[int, Argument] = {}
    for a in (a for arguments in found for a in arguments):
        other = table.setdefault(a.index, a)
        if (other.dim, other.axis) != (a.dim, a.axis):
            raise FormulaError(
                f"argument {a.index} is declared twice, as {written(other)} and as {written(a)}; "
                "give each variable its own number."
            )
    missing = sorted(set(range(max(table, default=-1) + 1)) - set(table))
    if missing:
        raise FormulaError(
            f"no variable has number {missing[0]}, but there is one with number {max(table)}; "
            "arrays are given in the order of these numbers, so none may be left out."
        )
    return tuple(table[k] for k in sorted(table))


def written(a: Argument) -> str:
    """An argument as its alias declares it, ``x = Vi(3)``."""
    kind = {"i": "Vi", "j": "Vj", "p": "Pm"}[a.axis]
    return f"{a.name} = {kind}({a.dim})"


def gather(arguments: Sequence[Argument], arrays: Sequence[Any]) -> Operands:
    """The operands of a formula whose variable k is ``arrays[k]``.

    Variables have shape (..., M, dim) or (..., N, dim), parameters (..., dim); leading axes are batch
    axes and broadcast. A parameter may also be a number or a list of numbers.

    Raises
    ------
    ShapeError, DTypeError, DeviceError
        Naming the alias.
    """
    if len(arrays) != len(arguments):
        names = ", ".join(written(a) for a in arguments)
        raise ShapeError(f"this formula takes {len(arguments)} arrays ({names}), got {len(arrays)}.")
    tensors = _adopted(arguments, arrays)
    batches = [_batch(a, t) for a, t in zip(arguments, tensors)]
    batch = _joint(arguments, tensors, batches) if any(batches) else ()
    axes = "".join(a.axis for a in arguments)
    M, N = _rows(arguments, tensors, "i"), _rows(arguments, tensors, "j")
    kinds = [kind_of(v) for v in arrays if _has_dtype(v)]
    kind = kinds[0] if kinds and TORCH not in kinds else TORCH
    dtype, device = (tensors[0].dtype, tensors[0].device) if tensors else (None, None)
    # an index that nothing depends on counts as one point, as in KeOps
    return Operands(tuple(tensors), axes, M, N, batch, dtype, device, kind, unit=True)


def _adopted(arguments: Sequence[Argument], arrays: Sequence[Any]) -> list[torch.Tensor]:
    """The arrays as tensors of one dtype on one device; one object stays one object."""
    given: dict[int, torch.Tensor] = {}
    leader, lead = "", None
    for a, value in zip(arguments, arrays):
        if not _has_dtype(value):
            if a.axis != "p":
                raise DTypeError(
                    f"{a.name} is a {type(value).__name__}; "
                    f"expected an array (..., {_SIZES[a.axis]}, {a.dim})."
                )
            continue
        t = given.get(id(value))
        if t is None:
            t = given[id(value)] = adopt(a.name, value)
        if lead is None:
            leader, lead = a.name, t
        elif t.dtype != lead.dtype:
            raise DTypeError(
                f"{a.name} has dtype {dtype_name(t.dtype)}, {leader} has {dtype_name(lead.dtype)}; "
                "convert them to one dtype, for example with .to or .astype."
            )
        elif t.device != lead.device:
            raise DeviceError(
                f"{a.name} is on {t.device}, {leader} on {lead.device}; move one with .to(...)."
            )
    dtype, device = (None, None) if lead is None else (lead.dtype, lead.device)
    out = []
    for a, value in zip(arguments, arrays):
        t = given.get(id(value))
        if t is None:  # a number, or a list of numbers
            t = adopt(a.name, value, dtype=dtype, device=device)
        out.append(t.reshape(1) if a.axis == "p" and t.dim() == 0 else t)
    return out


def _has_dtype(value: Any) -> bool:
    """Whether it is an array; plain numbers take the dtype of the arrays they meet."""
    return is_array(value) and not is_number(value)


def _batch(a: Argument, t: torch.Tensor) -> tuple[int, ...]:
    rank = 1 if a.axis == "p" else 2
    if t.dim() >= rank and t.shape[-1] == a.dim:
        return tuple(t.shape[:-rank])
    want = f"(..., {a.dim})" if a.axis == "p" else f"(..., {_SIZES[a.axis]}, {a.dim})"
    hint = ""
    if a.axis != "p" and a.dim == 1 and t.dim() == 1:
        hint = f": insert the axis of the components, {a.name}[:, None]"
    raise ShapeError(f"{a.name} has shape {tuple(t.shape)}, but {written(a)} expects {want}{hint}.")


def _joint(
    arguments: Sequence[Argument], tensors: list[torch.Tensor], batches: list[tuple[int, ...]]
) -> tuple[int, ...]:
    """The batch shape of a call. A parameter (1, dim) among arrays without batch axes loses its axis."""
    rank = max((len(b) for a, b in zip(arguments, batches) if a.axis != "p"), default=0)
    for k, a in enumerate(arguments):
        while a.axis == "p" and len(batches[k]) > rank and batches[k][0] == 1:
            tensors[k], batches[k] = tensors[k][0], batches[k][1:]
    try:
        return tuple(torch.broadcast_shapes(*batches))
    except RuntimeError:
        shapes = ", ".join(f"{a.name} {tuple(t.shape)}" for a, t in zip(arguments, tensors))
        raise ShapeError(f"the batch axes of the arrays do not broadcast: {shapes}.") from None


def _rows(arguments: Sequence[Argument], tensors: Sequence[torch.Tensor], axis: str) -> int | None:
    """The number of rows of all variables indexed by ``axis``."""
    first, n = "", None
    for a, t in zip(arguments, tensors):
        if a.axis != axis:
            continue
        if n is None:
            first, n = a.name, t.shape[-2]
        elif t.shape[-2] != n:
            raise ShapeError(
                f"{a.name} has {t.shape[-2]} rows, but {first} has {n}; "
                f"all variables indexed by {axis} need the same number."
            )
    return n

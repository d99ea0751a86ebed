"""What to compute: formulas with their reductions, and the sizes of one call."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from ..errors import DeviceError, DTypeError, FormulaError, ShapeError
from .expr import OPS, Expr, postorder, to_string, variables
from .reductions import Reduction

REDUCED = ("j", "i", "ij")


@dataclass(frozen=True)
class Output:
    """One result of a pass: ``reduction`` of ``expr`` over ``axis``.

    axis "j" leaves one result for each i, "i" one for each j, "ij" a single one.
    """

    expr: Expr
    reduction: Reduction
    axis: str = "j"

    def __post_init__(self) -> None:
        if self.axis not in REDUCED:
            raise FormulaError(f"axis={self.axis!r}: expected 'j' (a result for each i), 'i' or 'ij'.")


@dataclass(frozen=True)
class Geometry:
    """Sizes of one call: batch shape, rows M, columns N, and the arrays' dtype and device."""

    batch: tuple[int, ...]
    M: int
    N: int
    dtype: torch.dtype
    device: torch.device


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Shape(NamedTuple):
    """The data-free part of a tensor."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def shapes_of(args: tuple[torch.Tensor, ...]) -> tuple[Shape, ...]:
    """What a call may be planned by.

    Raises
    ------
    DTypeError
        An argument is not a tensor.
    """
    try:
        return tuple([Shape(a.shape, a.stride(), a.dtype, a.device) for a in args])
    except AttributeError:
        k, bad = next((k, a) for k, a in enumerate(args) if not isinstance(a, torch.Tensor))
        raise DTypeError(f"argument {k} is a {type(bad).__name__}; expected a torch tensor.") from None


@functools.lru_cache(maxsize=4096)
def measure(
    outputs: tuple[Output, ...], args: tuple[Shape, ...], sizes: tuple[int | None, int | None]
) -> Geometry:
    """Check the arguments' shapes against the formulas and find the sizes of the call.

    Raises
    ------
    ShapeError, DTypeError, DeviceError, FormulaError
        Naming the argument, what came and what was expected.
    """
    found: dict[str, tuple[int, str]] = {}
    batches: list[tuple[int, ...]] = []
    dtype: torch.dtype | None = None
    device: torch.device | None = None
    for v in variables(*(o.expr for o in outputs)):
        index, dim, axis = v.attr
        if index >= len(args):
            raise ShapeError(
                f"the formula uses argument {index} ({to_string(v)}) but only {len(args)} were given."
            )
        a = args[index]
        where = f"argument {index} ({to_string(v)})"
        if a.dtype not in FLOATS:
            raise DTypeError(
                f"{where} has dtype {a.dtype}; expected a floating dtype: convert it with .to(torch.float32)."
            )
        if dtype is not None and a.dtype != dtype:
            raise DTypeError(
                f"{where} has dtype {a.dtype}, arguments before it {dtype}; convert them to one dtype."
            )
        if device is not None and a.device != device:
            raise DeviceError(
                f"{where} is on {a.device}, arguments before it on {device}; move them to one device."
            )
        dtype, device = a.dtype, a.device
        rank = 1 if axis == "p" else 2
        if len(a.shape) < rank or a.shape[-1] != dim:
            want = f"(..., {dim})" if axis == "p" else f"(..., {'M' if axis == 'i' else 'N'}, {dim})"
            raise ShapeError(f"{where} has shape {tuple(a.shape)}; expected {want}.")
        batches.append(a.shape[:-rank])
        if axis != "p":
            n = a.shape[-2]
            seen = found.setdefault(axis, (n, where))
            if seen[0] != n:
                raise ShapeError(
                    f"{where} has {n} rows, but {seen[1]} has {seen[0]}; "
                    f"all variables indexed by {axis} need the same number."
                )
    counts = []
    for axis, given in zip("ij", sizes, strict=True):
        n = found.get(axis, (given, ""))[0]
        if n is None:
            raise ShapeError(f"no argument is indexed by {axis}, so its size is unknown; pass sizes=(M, N).")
        if given is not None and given != n:
            raise ShapeError(f"sizes says {given} for {axis}, but {found[axis][1]} has {n} rows.")
        counts.append(n)
    try:
        batch = np.broadcast_shapes(*batches) if batches else ()
    except ValueError:
        raise ShapeError(
            f"batch shapes {[tuple(b) for b in batches]} of the arguments do not broadcast."
        ) from None
    M, N = counts
    for o in outputs:
        n = N if o.axis == "j" else M
        if o.reduction.selects and "index" in o.reduction.outputs and n == 0:
            raise ShapeError(f"{o.reduction} over no entries has no index: the reduced axis is empty.")
        if o.reduction.code == "kmin" and o.reduction.k > n:
            raise ShapeError(
                f"{o.reduction}: k={o.reduction.k} exceeds the {n} entries of a row; choose k <= {n}."
            )
        if o.reduction.selects and o.axis == "ij":
            raise FormulaError(
                f"{o.reduction} over both axes is not defined; reduce one axis, then the other."
            )
    return Geometry(tuple(batch), M, N, dtype or torch.float32, device or torch.device("cpu"))


# ---------------------------------------------------------------- what one generated kernel computes


def stored(exprs: tuple[Expr, ...]) -> int:
    """How many numbers the code of these formulas stores for each pair, beside registers."""
    rules = ((e, OPS[e.op].memory) for e in postorder(*exprs) if e.op in OPS)
    return sum(memory(e) for e, memory in rules if memory is not None)


@dataclass(frozen=True)
class Schedule:
    """How a kernel walks the pairs: orthogonal numbers, chosen by `planner.schedule`.

    A tile is ``rows`` vectors of ``width`` points i; ``columns`` points j go through a contraction
    at once; every ``block_j`` columns, registers are flushed to accumulators in memory. Formulas are
    evaluated for ``breadth`` columns at a time. ``fma`` and ``scaling`` name instructions of the processor.
    """

    width: int
    rows: int
    columns: int
    block_j: int
    signal_columns: int = 4
    breadth: int = 1
    fma: bool = True
    scaling: bool = False


@dataclass(frozen=True)
class Task:
    """One output of a kernel, over fields (see `rewrite.hoist`).

    code is the reduction's scheme; ``core`` the value folded at each pair. Sums over j may have a
    ``post`` factor, applied once per row. ``by_row`` tells results for i from results for j.
    A ``signal`` task is sum_j core_ij b_j with a number of columns known at run time only.
    """

    code: str
    core: Expr
    post: Expr | None = None
    by_row: bool = True
    signal: bool = False
    dim: int = 1


@dataclass(frozen=True)
class Plan:
    """Everything that changes the generated code; equal plans share one binary."""

    dtype: str
    tasks: tuple[Task, ...]
    fields_i: tuple[Expr, ...]
    fields_j: tuple[Expr, ...]
    fields_p: tuple[Expr, ...]
    args: int
    symmetric: bool
    schedule: Any  # Schedule, or cuda_planner.CudaSchedule

    @staticmethod
    def offsets(fields: tuple[Expr, ...]) -> tuple[int, ...]:
        """Where each field starts in its record."""
        return tuple(sum(f.dim for f in fields[:k]) for k in range(len(fields)))

    def raw(self) -> tuple[dict[Expr, int], int]:
        """Where a tile keeps the user's i-variables, and the number of components of its record.

        Fields come first, then the mask of the rows that exist, then the variables that are not
        fields themselves.
        """
        table = dict(zip(self.fields_i, self.offsets(self.fields_i), strict=True))
        width = sum(f.dim for f in self.fields_i) + 1
        out: dict[Expr, int] = {}
        for v in variables(*self.fields_i):
            if v.attr[2] != "i":
                continue
            if v in table:
                out[v] = table[v]
            else:
                out[v] = width
                width += v.dim
        return out, width

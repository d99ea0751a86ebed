"""What to compute: formulas with their reductions, and the sizes of one call."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch.compiler import is_dynamo_compiling

from ..errors import DeviceError, DTypeError, FormulaError, ShapeError
from .arrays import FLOATS
from .expr import OPS, Expr, node, postorder, to_string, variables
from .law import Law
from .ranges import Ranges
from .reduction import Reduction, with_scores

KEPT = {"j": "i", "i": "j", "ij": "p"}  # reduced axis -> axis of the result
UNROLL = 16  # components above which generated code walks vectors by loops; see render.lowering


@dataclass(frozen=True)
class Output:
    """One result of a pass: ``reduction`` of ``expr`` over ``axis``, bound to the formula's dim.

    axis "j" leaves one result for each i, "i" one for each j, "ij" a single one.
    """

    expr: Expr
    reduction: Reduction
    axis: str = "j"

    def __post_init__(self) -> None:
        if self.axis not in KEPT:
            raise FormulaError(f"axis={self.axis!r}: expected 'j' (a result for each i), 'i' or 'ij'.")
        if is_dynamo_compiling():  # what is made then is only read by `compiled.traced`
            return
        if not isinstance(self.expr, Expr):
            from .sketch import formula

            object.__setattr__(self, "expr", formula(self.expr))
        object.__setattr__(self, "reduction", self.reduction.bind(self.expr.dim))


@dataclass(frozen=True)
class Geometry:
    """Sizes of one call: batch shape, rows M, columns N, and the arrays' dtype and device.

    ``ranges`` are the pairs that are visited, in every batch element; None stands for all.
    """

    batch: tuple[int, ...]
    M: int
    N: int
    dtype: torch.dtype
    device: torch.device
    ranges: Ranges | None = None

    def exchanged(self) -> Geometry:
        """The sizes with i and j exchanged."""
        ranges = None if self.ranges is None else self.ranges.swap_axes()
        return replace(self, M=self.N, N=self.M, ranges=ranges)

    def within(self, ranges: Ranges | None) -> Geometry:
        """The call restricted to ``ranges``, which must fit its sizes."""
        return self if ranges is None else replace(self, ranges=ranges.check(self.M, self.N))

    @property
    def pairs(self) -> int:
        """Pairs that are visited, in all batch elements."""
        return math.prod(self.batch) * (self.M * self.N if self.ranges is None else self.ranges.pairs)


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
        batch = torch.broadcast_shapes(*batches) if batches else ()
    except RuntimeError:
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


def slices(o: Output, count: int) -> tuple[Output, ...] | None:
    """The output, ``count`` components at a time: results to be put side by side. None if it has no more."""
    r, f = o.reduction, o.expr
    dim = f.dim - r.scores
    if dim <= count or not r.separable:
        return None
    cuts = [(d, min(d + count, dim)) for d in range(0, dim, count)]
    if not r.scores:
        return tuple([Output(f[lo:hi], r, o.axis) for lo, hi in cuts])
    out = []
    for lo, hi in cuts:
        exponents = f[:1] if r.scores == 1 else f[lo:hi]
        entry = node("concat", exponents, f[r.scores + lo : r.scores + hi])
        out.append(Output(entry, with_scores(r, exponents.dim), o.axis))
    return tuple(out)


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

    def for_ranges(self, tasks: tuple[Task, ...], length: int) -> Schedule:
        """The same for blocks of pairs with so many rows.

        Small blocks have small tiles. A selection names its column at once, as groups end with blocks.
        """
        rows = min(self.rows, -(-length // self.width))
        if any(t.code == "min" for t in tasks):
            return replace(self, rows=rows, columns=1)
        return replace(self, rows=rows)


@dataclass(frozen=True)
class Task:
    """One output of a kernel, over fields (see `rewrite.hoist`).

    ``code`` is the reduction's scheme; ``core`` the value folded at each pair. Sums over j may have a
    ``post`` factor, applied once per row. ``by_row`` tells results for i from results for j.
    A ``signal`` task is sum_j core_ij b_j with a number of columns known at run time only. Where ``core`` is
    an approximation, ``exact`` is what decides a selection. A task with a ``law``
    keeps a state of ``dim`` components.
    """

    code: str
    core: Expr
    post: Expr | None = None
    by_row: bool = True
    signal: bool = False
    dim: int = 1
    exact: Expr | None = None
    law: Law | None = None


@dataclass(frozen=True)
class Plan:
    """Everything that changes the generated code; equal plans share one binary.

    ``ranged`` kernels find their rows and their ranges of j in a table instead of counting through all.
    """

    dtype: str
    tasks: tuple[Task, ...]
    fields_i: tuple[Expr, ...]
    fields_j: tuple[Expr, ...]
    fields_p: tuple[Expr, ...]
    args: int
    symmetric: bool
    schedule: Any  # Schedule, or cuda_planner.CudaSchedule
    ranged: bool = False

    def __str__(self) -> str:
        tasks = ", ".join(f"{t.code} over {'j' if t.by_row else 'i'} of {t.core}" for t in self.tasks)
        return f"{tasks}, in {self.dtype}"

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

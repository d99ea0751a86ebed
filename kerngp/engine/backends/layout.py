"""What a launch needs beyond addresses: sizes, strides, memory regions, split of the work.

A layout depends on the plan, on shapes and on strides, never on data; it is computed once and then
only addresses are filled in.
"""

from __future__ import annotations

import ctypes
import functools
import math
from dataclasses import dataclass

import torch

from ..expr import variables
from ..plan import Geometry, Plan, Shape
from ..ranges import Walk
from ..render.context import Context

SPLIT_ITEMS = 32  # fewer work items than this are split along j
SUMS_BYTES = 1 << 26  # memory for column sums of all slots together
INLINE_PAIRS = 1 << 20  # fewer pairs than this run in the calling thread
LINE = 64  # bytes of a cache line


@dataclass(frozen=True, eq=False)
class Layout:
    """A launch without addresses.

    numbers : the context as bytes, addresses zero.
    bind : (slot, argument) of each array read.
    tables : tables of batch offsets; kept alive because ``numbers`` holds their addresses.
    signal : slot of the signal's address.
    outputs : for each task, (slot, shape, dtype) of each array of its state.
    sums : (slots, batches, components, padded columns) of column sums, or None.
    work : bytes of packed records and of all threads' scratch; ``records`` and ``scratch`` are the
        context slots of their addresses, ``scratch_at`` the offset of the second.
    walk : slots of the addresses of a ranged plan's tables.
    """

    numbers: bytes
    record: type
    bind: tuple[tuple[int, int], ...]
    tables: tuple[torch.Tensor, ...]
    signal: int
    outputs: tuple[tuple[tuple[int, tuple[int, ...], torch.dtype], ...], ...]
    sums: tuple[int, int, int, int] | None
    sums_slot: int
    work: int
    records: int
    scratch: int
    scratch_at: int
    walk: tuple[int, ...]
    items: int
    grain: int
    vectors: int
    splits: int
    workers: int


@functools.lru_cache(maxsize=1024)
def layout(
    plan: Plan,
    g: Geometry,
    args: tuple[Shape, ...],
    signal: Shape | None,
    kept: int,
    threads: int,
    walk: Walk | None = None,
) -> Layout:
    """Lay out a launch of ``plan`` on arrays of these shapes; ``walk`` belongs to a ranged plan."""
    return _Draft(plan, g, args, signal, kept, threads, walk).finish()


def group_rows(plan: Plan) -> int:
    """Rows of a group of tiles, where rows are many.

    Several tiles share a block of j: wide records then come from a near cache, and partial column sums
    are added up once for all of them.
    """
    wide = sum(f.dim for f in plan.fields_j) >= 48
    tiles = 16 if wide else 1 if all(t.by_row for t in plan.tasks) else 8
    return tiles * plan.schedule.rows * plan.schedule.width


class _Draft:
    def __init__(
        self,
        plan: Plan,
        g: Geometry,
        args: tuple[Shape, ...],
        signal: Shape | None,
        kept: int,
        threads: int,
        walk: Walk | None,
    ):
        self.plan, self.g, self.signal, self.kept = plan, g, signal, kept
        self.context = Context(plan)
        self.numbers = [0] * self.context.size
        self.tables: list[torch.Tensor] = []
        s = plan.schedule
        self.height = s.rows * s.width
        self.batches = math.prod(g.batch)
        self.width_j = sum(f.dim for f in plan.fields_j)
        self.columns = signal.shape[-1] if signal else 1
        shared = group_rows(plan) // self.height
        if walk is None:
            self.tiles = max(1, min(shared, g.M // (8 * self.height)))
            self.groups = -(-g.M // (self.tiles * self.height))
            meets = g.N
        else:
            self.tiles, self.groups, meets = shared, walk.groups, walk.columns
        self.splits, self.chunk = self._split(meets)
        self.parts = (
            (self.splits,) if self.splits > 1 else ()
        )  # a leading axis of the states, if they are split
        self.items = self.batches * self.groups * self.splits
        rows = min(g.M, self.groups * self.tiles * self.height)
        self.workers = threads if self.batches * rows * meets > INLINE_PAIRS else 1
        self.bind = tuple(self._bind(k, axis, args[k]) for k, axis in _axes(plan))

    def put(self, name: str, value: int) -> None:
        self.numbers[self.context.slot(name)] = value

    def _split(self, n: int) -> tuple[int, int]:
        """Parts of n columns, from the shapes alone: results do not depend on the number of threads."""
        block = self.plan.schedule.block_j
        if any(not t.by_row for t in self.plan.tasks):
            return 1, n
        want = -(-SPLIT_ITEMS // (self.batches * self.groups))
        parts = max(1, min(want, n // (4 * block)))
        chunk = -(-n // (parts * block)) * block
        return -(-n // chunk), chunk

    def _bind(self, k: int, axis: str, a: Shape) -> tuple[int, int]:
        numbers, context = self.numbers, self.context
        numbers[context.arg(k, "inner")] = a.stride[-1]
        if axis != "p":
            numbers[context.arg(k, "row")] = a.stride[-2]
        numbers[context.arg(k, "offsets")] = self._offsets(a, 1 if axis == "p" else 2)
        return context.arg(k, "address"), k

    def _offsets(self, a: Shape, rank: int) -> int:
        """Address of a table: where each batch element starts, in elements."""
        batch = self.g.batch
        table = torch.zeros(batch or (1,), dtype=torch.int64)
        own, strides = a.shape[: len(a.shape) - rank], a.stride[: len(a.shape) - rank]
        for back in range(1, len(own) + 1):
            if own[-back] > 1:
                shape = [1] * len(batch)
                shape[-back] = own[-back]
                table += (torch.arange(own[-back]) * strides[-back]).reshape(shape)
        table = table.reshape(-1).contiguous()
        self.tables.append(table)
        return table.data_ptr()

    def finish(self) -> Layout:
        g, plan, s, c = self.g, self.plan, self.plan.schedule, self.context
        for name, value in (
            ("M", g.M),
            ("N", g.N),
            ("batches", self.batches),
            ("groups", self.groups),
            ("tiles", self.tiles),
            ("splits", self.splits),
            ("chunk", self.chunk),
            ("records_batch", g.N * self.width_j),
            ("kept", self.kept),
        ):
            self.put(name, value)
        if self.signal is not None:
            self.put("E", self.columns)
            self.put("signal_row", self.signal.stride[-2])
            self.put("signal_offsets", self._offsets(self.signal, 2))
        real = 4 if plan.dtype == "float32" else 8
        start = _aligned(self.batches * g.N * self.width_j * real)
        each = self._scratch(real)
        sums = self._sums()
        record = ctypes.c_int64 * c.size
        rows = self.tiles * self.height
        return Layout(
            numbers=bytes(record(*self.numbers)),
            record=record,
            bind=self.bind,
            tables=tuple(self.tables),
            signal=c.slot("signal"),
            outputs=tuple(self._outputs(k) for k in range(len(plan.tasks))),
            sums=sums,
            sums_slot=c.slot("sums"),
            work=start + each * self.workers + LINE,
            records=c.slot("records"),
            scratch=c.slot("scratch"),
            scratch_at=start,
            walk=(c.slot("walk"), c.slot("walk_ranges")) if plan.ranged else (),
            items=self.items,
            grain=max(1, min(-(-self.items // (8 * self.workers)), (1 << 22) // (rows * self.chunk) + 1)),
            vectors=self.batches * -(-g.N // s.width),
            splits=self.splits,
            workers=self.workers,
        )

    def _outputs(self, k: int) -> tuple[tuple[int, tuple[int, ...], torch.dtype], ...]:
        """Arrays the kernel writes the states to: [split, if several][*batch][row][component]."""
        task, g = self.plan.tasks[k], self.g
        if not task.by_row:
            return ()
        index = torch.int32 if self.plan.dtype == "float32" else torch.int64
        lead = (*self.parts, *g.batch, g.M)
        types = {
            "sum": (torch.float64,),
            "fold": (torch.float64,),
            "logsumexp": (g.dtype, torch.float64),
        }.get(task.code, (g.dtype, index))
        inner = (
            (self.kept, task.dim)
            if task.code == "kmin"
            else (1, task.dim)
            if task.code == "min"
            else (self.columns if task.signal else task.dim,)
        )
        return tuple(
            (self.context.task(k, n), (*lead, *inner), t)
            for n, t in zip(("out_a", "out_b"), types, strict=False)
        )

    def _sums(self) -> tuple[int, int, int, int] | None:
        """Column sums of each slot; work items are dealt to slots in a fixed way."""
        dim = sum(t.core.dim for t in self.plan.tasks if not t.by_row)
        if not dim:
            return None
        padded = self.g.N + self.plan.schedule.block_j
        slots = max(2, min(64, SUMS_BYTES // (self.batches * dim * padded * 8), self.items))
        self.put("sums_slot", self.batches * dim * padded)
        self.put("sums_batch", dim * padded)
        self.put("sums_row", padded)
        return slots, self.batches, dim, padded

    def _scratch(self, real: int) -> int:
        """Regions of one thread's memory; returns its size."""
        plan, s, at = self.plan, self.plan.schedule, 0

        def take(size: int) -> int:
            nonlocal at
            start, at = at, at + _aligned(size)
            return start

        _, width_i = plan.raw()
        self.put("x", take(self.tiles * width_i * self.height * real))
        self.put("p", take(sum(f.dim for f in plan.fields_p) * s.width * real))
        if any(t.signal for t in plan.tasks):
            self.put("k", take(s.block_j * self.height * real))
        partial = sum(t.core.dim for t in plan.tasks if not t.by_row)
        self.put("columns", take(partial * s.block_j * s.width * real))
        for k, task in enumerate(plan.tasks):
            if task.by_row:
                per_row = (
                    self.columns if task.signal else self.kept * task.dim if task.code == "kmin" else task.dim
                )
                for name in "abc":
                    self.numbers[self.context.task(k, name)] = take(self.tiles * per_row * self.height * 8)
        each = -(-at // 4096) * 4096 + LINE if self.workers > 1 else at
        self.put("scratch_thread", each)
        return each


def _aligned(size: int) -> int:
    return -(-size // LINE) * LINE


@functools.lru_cache(maxsize=4096)
def _axes(plan: Plan) -> tuple[tuple[int, str], ...]:
    """(argument, axis) for the arguments the fields read."""
    return tuple((v.attr[0], v.attr[2]) for v in variables(*plan.fields_i, *plan.fields_j, *plan.fields_p))

"""The kernel of the CPU: tiles of i against blocks of j, rendered to LLVM IR.

Two functions come out of a plan:

    pack(ctx, lo, hi)                          fields of j, as records [j][component]
    tile(ctx, lo, hi, step, worker, slot)      work items lo, lo + step, ...: a batch element, a group
                                               of tiles and a range of j each

A work item evaluates the fields of its i into its scratch memory as [component][row of the tile],
then walks over blocks of j (outer) and its tiles (inner). Of a ranged plan a table gives each group
its rows, and the ranges of j it meets. Rows beyond the end repeat the last one and are not written;
columns beyond a multiple of the unrolling go through a copy of the body for one column.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ..expr import Expr, postorder
from ..plan import UNROLL, Plan, Task
from .function import Function
from .llvm import F64, I64, Block, Pointer
from .lowering import Component, Index, Lowering, contractions, ranges
from .pack import Pack
from .signal import SignalState
from .states import FoldState, KMinState, LogSumExpState, MinState, State, SumState, Tile, column_number

STATES = {"sum": SumState, "logsumexp": LogSumExpState, "fold": FoldState}
PRELOAD = 64  # vectors of i-fields kept as SSA values across the loop over j


def render(plan: Plan, triple: str) -> str:
    """The IR of a plan; equal plans give equal text."""
    module = ir.Module("kerngp")
    module.triple = triple
    Pack(module, plan).emit()
    Kernel(module, plan).emit()
    return str(module)


class Kernel(Function):
    """tile(ctx, lo, hi, step, worker, slot)."""

    def __init__(self, module: ir.Module, plan: Plan):
        super().__init__(module, plan, "tile", ["lo", "hi", "step", "worker", "slot"])
        s = plan.schedule
        self.rows, self.height = s.rows, s.rows * s.width
        self.off_i, self.off_j, self.off_p = map(Plan.offsets, (plan.fields_i, plan.fields_j, plan.fields_p))
        self.width_i = sum(f.dim for f in plan.fields_i) + 1  # and a mask of the rows that exist
        self.width_j = sum(f.dim for f in plan.fields_j)
        self.row_tasks = [k for k, t in enumerate(plan.tasks) if t.by_row]
        self.column_tasks = [k for k, t in enumerate(plan.tasks) if not t.by_row]
        self.columns_dim = sum(plan.tasks[k].core.dim for k in self.column_tasks)
        self.states: dict[int, State] = {}

    # ------------------------------------------------------------------ work items
    def emit(self) -> None:
        e = self.e
        self.read_all()
        for k in self.row_tasks:
            self.states[k] = self._state(self.plan.tasks[k])
        self.scratch = e.index_add(
            self.head("scratch"), e.index_mul(e.arg("worker"), self.head("scratch_thread"))
        )
        with e.loop(e.arg("lo"), e.arg("hi"), e.arg("step")) as item:
            self._item(item)
        e.finish()

    def _state(self, task: Task) -> State:
        if task.signal:
            return SignalState(self, task)
        if task.code == "kmin":
            return KMinState(self.e, task, self.rows, self.head("kept"))
        if task.code == "min":
            return MinState(self, task)
        return STATES[task.code](self.e, task, self.rows)

    def _item(self, item: Any) -> None:
        e = self.e
        splits, groups = self.head("splits"), self.head("groups")
        rest = e.builder.sdiv(item, splits)
        split = e.index_sub(item, e.index_mul(rest, splits))
        self.batch = e.builder.sdiv(rest, groups)
        group = e.index_sub(rest, e.index_mul(self.batch, groups))
        m, n, tiles = self.head("M"), self.head("N"), self.head("tiles")
        if self.plan.ranged:
            at = e.index_add(e.index_mul(group, splits), split)
            first, self.end, *ranges_of_group = self._row_of_table("walk", at, 4)
        else:
            first, self.end = e.index_mul(group, e.index_mul(tiles, self.height)), m
        there = e.builder.sdiv(e.index_add(e.index_sub(self.end, first), self.height - 1), e.k(self.height))
        count = e.imin(tiles, there)
        records = self.address(self.head("records"), e.elem)
        self.records = e.ptr(records, e.index_mul(self.batch, self.head("records_batch")))
        self._fields_p()
        with e.loop(0, count) as t:
            i0 = e.index_add(first, e.index_mul(t, self.height))
            self._fields_i(t, i0)
            for k in self.row_tasks:
                self.states[k].init(self._tile_of(k, t))
        if self.plan.ranged:
            with e.loop(*ranges_of_group) as r:
                self._range(first, count, *self._row_of_table("walk_ranges", r, 2))
        else:
            chunk = self.head("chunk")
            low = first if self.plan.symmetric else e.index_mul(split, chunk)
            self._range(first, count, low, n if self.plan.symmetric else e.imin(e.index_add(low, chunk), n))
        with e.loop(0, count) as t:
            self._write(t, e.index_add(first, e.index_mul(t, self.height)), split)

    def _row_of_table(self, name: str, row: Any, width: int) -> list[Any]:
        """A row of a table of integers."""
        e = self.e
        table = self.address(self.head(name), I64)
        return [e.load_scalar(table, e.index_add(e.index_mul(row, width), k)) for k in range(width)]

    def _range(self, first: Any, count: Any, low: Any, high: Any) -> None:
        """The columns low, ..., high - 1 against the group of tiles."""
        e = self.e
        self.range_j = (low, high)
        with e.loop(low, high, self.plan.schedule.block_j) as j0:
            j1 = e.imin(e.index_add(j0, self.plan.schedule.block_j), high)
            if self.column_tasks:
                self._clear_columns()
            with e.loop(0, count) as t:
                self._block(t, e.index_add(first, e.index_mul(t, self.height)), j0, j1)
            if self.column_tasks:
                self._add_columns(j0)

    def _tile_of(self, k: int, t: Any) -> Tile:
        """State arrays of task k for tile t. Each element has 8 bytes, whatever its type."""
        e, task = self.e, self.plan.tasks[k]
        size = e.index_mul(self._per_row(task), self.height * 8)
        start = e.index_add(self.scratch, e.index_mul(t, size))
        types = {
            "sum": (F64, e.elem),
            "fold": (F64, e.elem),
            "logsumexp": (e.elem, F64),
            "min": (e.elem, e.int.element),
            "kmin": (e.elem, e.int.element),
        }[task.code]
        a, b, c = (
            self.bytes(start, self.get(self.ctx.task(k, name)), elem)
            for name, elem in zip("abc", (*types, e.elem), strict=True)
        )
        return Tile(a, b, c)

    def _per_row(self, task: Task) -> Any:
        """Elements a row of the state holds."""
        if task.signal:
            return self.head("E")
        if task.code == "kmin":
            return self.e.index_mul(self.head("kept"), task.dim)
        return self.e.k(task.dim)

    # ------------------------------------------------------------------ fields
    def _fields_p(self) -> None:
        e = self.e
        self.p = self.bytes(self.scratch, self.head("p"), e.elem)
        low = Lowering(e, lambda v, d: self.parameter(v, d, self.batch), lambda axes: (1, 1))
        for f, offset in zip(self.plan.fields_p, self.off_p, strict=True):
            low.each(
                f,
                lambda d, value, offset=offset: e.store_vec(
                    value, self.p, e.index_mul(e.index_add(self.number(d), offset), e.width)
                ),
            )

    def _x(self, t: Any) -> Pointer:
        e = self.e
        return e.ptr(
            self.bytes(self.scratch, self.head("x"), e.elem), e.index_mul(t, self.plan.raw()[1] * self.height)
        )

    def _fields_i(self, t: Any, i0: Any) -> None:
        """The record of a tile: [component][row], first the user's variables, then what is made of them."""
        e, x = self.e, self._x(t)
        last = e.index_sub(self.end, 1)
        raw, _ = self.plan.raw()
        for v, offset in raw.items():

            def copy(row: Any, d: Any, value: Any, offset: int = offset) -> None:
                e.store_scalar(value, x, e.index_add(e.index_mul(e.index_add(d, offset), self.height), row))

            self.gather(v, self.batch, i0, self.height, last, copy)

        def leaf(v: Expr, d: Component) -> Block:
            return (
                self.parameter(v, d, self.batch)
                if v.attr[2] == "p"
                else self._load_x(x, e.index_add(self.number(d), raw[v]))
            )

        low = Lowering(e, leaf, lambda axes: (self.rows if "i" in axes else 1, 1))
        for f, offset in zip(self.plan.fields_i, self.off_i, strict=True):
            if f.op != "var":
                low.each(
                    f,
                    lambda d, value, offset=offset: self._store_x(
                        value, x, e.index_add(self.number(d), offset)
                    ),
                )
        if self.column_tasks:
            ones = [
                [e.select(self._exists(i0, r), e.const(1.0), e.const(0.0)).cell] for r in range(self.rows)
            ]
            self._store_x(Block(ones), x, e.k(self.width_i - 1))

    def _load_x(self, x: Pointer, component: Any) -> Block:
        e = self.e
        start = e.index_mul(component, self.height)
        return Block(
            [[e.load_vec(x, e.index_add(start, r * e.width), self._align())] for r in range(self.rows)]
        )

    def _store_x(self, value: Block, x: Pointer, component: Any) -> None:
        e = self.e
        start = e.index_mul(component, self.height)
        for r, cell in enumerate(e.expand(value, (self.rows, 1))):
            e.store_vec(cell, x, e.index_add(start, r * e.width))

    def _exists(self, i0: Any, r: int) -> Block:
        """Mask of the lanes of vector r whose row is below the end."""
        e = self.e
        left = column_number(e, e.index_sub(self.end, i0), 0)
        numbers = ir.Constant(e.int, [r * e.width + lane for lane in range(e.width)])
        return e.ilt(Block([[numbers]]), Block([[e.splat(left)]]))

    # ------------------------------------------------------------------ a block of columns against a tile
    def _block(self, t: Any, i0: Any, j0: Any, j1: Any) -> None:
        e = self.e
        self.block_range = (j0, e.index_sub(j1, j0))
        self._load_fields(t)
        for k in self.row_tasks:
            self.states[k].open(self._tile_of(k, t))
        if self.plan.symmetric:
            end = e.index_add(i0, self.height)
            self._columns(e.imax(j0, i0), e.imin(j1, end), j0, self.row_tasks, [])
            self._columns(e.imax(j0, end), j1, j0, self.row_tasks, self.column_tasks)
        else:
            self._columns(j0, j1, j0, self.row_tasks, self.column_tasks)
        for k in self.row_tasks:
            self.states[k].flush()

    def _load_fields(self, t: Any) -> None:
        """Fields of i and of parameters that stay in registers over the loop, as far as they fit."""
        e, x = self.e, self._x(t)
        self.cache: dict[tuple[Expr, Component], Block] = {}

        def from_x(v: Expr, d: Component) -> Block:
            return self._load_x(x, e.index_add(self.number(d), self.off_i[v.attr[0]]))

        def from_p(v: Expr, d: Component) -> Block:
            at = e.index_mul(e.index_add(self.number(d), self.off_p[v.attr[0]]), e.width)
            return Block([[e.load_vec(self.p, at, self._align())]])

        self.sources = {"i": from_x, "p": from_p}
        used = {
            v for task in self.plan.tasks for v in postorder(task.core) if v.op == "var" and v.attr[2] != "j"
        }
        small = sorted((v for v in used if v.dim <= UNROLL), key=lambda v: (v.attr[2], v.attr[0]))
        room = PRELOAD
        for v in small:
            cost = v.dim * (self.rows if v.attr[2] == "i" else 1)
            if cost <= room:
                room -= cost
                for d in range(v.dim):
                    self.cache[v, d] = self.sources[v.attr[2]](v, d)
        self.valid = None
        if self.column_tasks:
            flags = self._load_x(x, e.k(self.width_i - 1))
            self.valid = e.map(lambda m: e.builder.sext(m, e.int), e.gt(flags, 0.5))

    def _align(self) -> int:
        return 4 if self.plan.dtype == "float32" else 8

    def _columns(self, lo: Any, hi: Any, j0: Any, rows: list[int], columns: list[int]) -> None:
        """The loop over columns lo, ..., hi - 1: several at a time, then one by one."""
        e, several = self.e, self.plan.schedule.columns
        if several > 1:
            whole = e.index_sub(hi, e.builder.srem(e.imax(e.index_sub(hi, lo), 0), e.k(several)))
            with e.loop(lo, whole, several) as j:
                self._body(j, several, j0, rows, columns)
            lo = e.imax(lo, whole)
        with e.loop(lo, hi) as j:
            self._body(j, 1, j0, rows, columns)

    def _body(self, j: Any, count: int, j0: Any, rows: list[int], columns: list[int]) -> None:
        e, plan = self.e, self.plan
        active = [plan.tasks[k].core for k in (*rows, *columns)]
        lows = [self._lowering(j, range(n, n + 1)) for n in range(count)]
        inner = list(dict.fromkeys(c for core in active for c in contractions(core)))
        for c in inner:
            self._contract(c, lows)
        if count > 1 and plan.schedule.breadth > 1:
            for core in active:
                self._together(core, inner, j, lows)
        for k in rows:
            state = self.states[k]
            if isinstance(state, SignalState):
                state.at_column(lows, e.index_sub(j, j0))
            else:
                state.step(lows, j)
        for n, low in enumerate(lows):
            self._column_values(low, e.index_sub(e.index_add(j, n), j0), columns)

    def _lowering(self, j: Any, columns: range) -> Lowering:
        """Formulas at columns j + n, n in ``columns``."""
        width = len(columns)
        return Lowering(
            self.e,
            lambda v, d: self._leaf(v, d, columns, j),
            lambda axes: (self.rows if "i" in axes else 1, width if "j" in axes else 1),
        )

    def _contract(self, c: Expr, lows: list[Lowering]) -> None:
        """An inner sum for all columns in one loop over its components.

        The columns take turns inside, so that one broadcast of y is alive at a time and the sums keep
        the registers.
        """
        e, f = self.e, c.args[0]
        for low in lows:
            low.settle(f)
        zero = e.expand(e.const(0.0), (self.rows, 1))
        sums = [e.var(zero) for _ in lows]
        for cut in ranges(f):
            with e.loop(*cut) as d:
                at = Index(d, *cut)
                for low, total in zip(lows, sums, strict=True):
                    with low.scope():
                        total.set(low.accumulate(f, at, total.get()))
        for low, total in zip(lows, sums, strict=True):
            low.preset(c, 0, total.get())

    def _together(self, core: Expr, inner: list[Expr], j: Any, lows: list[Lowering]) -> None:
        """Evaluate a few columns breadth first: more independent work between dependent instructions."""
        e, breadth = self.e, self.plan.schedule.breadth
        parts = core.args if core.op == "mul" else (core,)  # the last product is fused into the sum
        for start in range(0, len(lows), breadth):
            some = lows[start : start + breadth]
            wide = self._lowering(j, range(start, start + len(some)))
            for c in inner:
                wide.preset(c, 0, e.cat_columns([low.scalar(c) for low in some]))
            for f in parts:
                if f.dim > UNROLL:
                    continue
                for d in range(f.dim):
                    value = wide.component(f, d)
                    for n, low in enumerate(some):
                        low.preset(f, d, e.column(value, n))

    def _leaf(self, v: Expr, d: Component, columns: range, j: Any) -> Block:
        k, _, axis = v.attr
        if axis != "j":
            if (v, d) not in self.cache:
                value = self.sources[axis](v, d)
                if not isinstance(d, Index):
                    return value
                self.cache[v, d] = value  # an Index belongs to one loop body: all columns share the load
            return self.cache[v, d]
        e = self.e
        at = e.index_add(self.number(d), self.off_j[k])
        starts = [e.index_mul(e.index_add(j, n), self.width_j) for n in columns]
        return Block([[e.load_splat(self.records, e.index_add(s, at)) for s in starts]])

    def at_columns(self, numbers: Block) -> Lowering:
        """Formulas at a column of its own for each row of the tile."""
        e = self.e
        places = e.alloca(self.height, e.int.element)
        for r, cell in enumerate(e.expand(numbers, (self.rows, 1))):
            e.store_vec(cell, places, r * e.width)

        def leaf(v: Expr, d: Component) -> Block:
            if v.attr[2] != "j":
                return self._leaf(v, d, range(1), None)
            copy = e.alloca(self.height)
            offset = e.index_add(self.number(d), self.off_j[v.attr[0]])
            with e.loop(0, self.height) as row:
                j = e.load_scalar(places, row)
                j = j if e.int.element == I64 else e.builder.sext(j, I64)
                value = e.load_scalar(self.records, e.index_add(e.index_mul(j, self.width_j), offset))
                e.store_scalar(value, copy, row)
            return Block([[e.load_vec(copy, r * e.width)] for r in range(self.rows)])

        return Lowering(e, leaf, lambda axes: (self.rows if axes & {"i", "j"} else 1, 1))

    # ------------------------------------------------------------------ sums over i
    def _partial(self) -> Pointer:
        return self.bytes(self.scratch, self.head("columns"), self.e.elem)

    def _clear_columns(self) -> None:
        e = self.e
        size = self.columns_dim * self.plan.schedule.block_j * e.width
        with e.loop(0, size, e.width) as at:
            e.store_vec(e.const(0.0), self._partial(), at)

    def _column_values(self, low: Lowering, jj: Any, columns: list[int]) -> None:
        """Add the values of one column to its partial sums: a vector of lanes for each component."""
        e, block = self.e, self.plan.schedule.block_j
        start = 0
        for k in columns:
            core = self.plan.tasks[k].core

            def put(d: Component, value: Block, start: int = start) -> None:
                assert self.valid is not None
                kept = e.real_from_bits(e.iand(e.bits(e.expand(value, (self.rows, 1))), self.valid))
                total = kept.cells[0][0]
                for r in range(1, self.rows):
                    total = e.builder.fadd(total, kept.cells[r][0])
                row = e.index_mul(e.index_add(self.number(d), start), block)
                at = e.index_mul(e.index_add(row, jj), e.width)
                e.store_vec(e.builder.fadd(e.load_vec(self._partial(), at), total), self._partial(), at)

            low.each(core, put)
            start += core.dim

    def _add_columns(self, j0: Any) -> None:
        """Sum the lanes of the block's partial sums and add them to this slot's float64 sums."""
        e, block = self.e, self.plan.schedule.block_j
        sums = self.address(self.head("sums"), F64)
        base = e.index_add(
            e.index_mul(e.arg("slot"), self.head("sums_slot")),
            e.index_mul(self.batch, self.head("sums_batch")),
        )
        with e.loop(0, self.columns_dim) as c, e.loop(0, block, e.width) as jj:
            at = e.index_mul(e.index_add(e.index_mul(c, block), jj), e.width)
            vectors = [e.load_vec(self._partial(), e.index_add(at, n * e.width)) for n in range(e.width)]
            total = e.to_f64(Block([[e.transpose_sum(vectors)]])).cell
            to = e.index_add(e.index_add(base, e.index_mul(c, self.head("sums_row"))), e.index_add(j0, jj))
            e.store_vec(e.builder.fadd(e.load_vec(sums, to), total), sums, to)

    # ------------------------------------------------------------------ results
    def _write(self, t: Any, i0: Any, split: Any) -> None:
        """Copy the states of a tile to the outputs [split][batch][row][component]."""
        e, m = self.e, self.head("M")
        self._load_fields(t)
        height = e.imin(e.index_sub(self.end, i0), self.height)
        for k in self.row_tasks:
            state, tile, task = self.states[k], self._tile_of(k, t), self.plan.tasks[k]
            state.tile = tile
            low = Lowering(
                e,
                lambda v, d: self._leaf(v, d, range(1), None),
                lambda axes: (self.rows if "i" in axes else 1, 1),
            )
            state.finish(low)
            per_row = self._per_row(task)
            row0 = e.index_add(e.index_mul(self._plane(split), m), i0)
            for source, name in zip((tile.a, tile.b)[: state.outputs], ("out_a", "out_b"), strict=False):
                out = self.address(self.get(self.ctx.task(k, name)), source.elem)
                out = e.ptr(out, e.index_mul(row0, per_row))
                with e.loop(0, height) as row, e.loop(0, per_row) as d:
                    if task.code == "kmin":  # lists [component][row][k] to [row][k][component]
                        kept = self.head("kept")
                        c, q = e.builder.sdiv(d, kept), e.builder.srem(d, kept)
                        at = e.index_add(e.index_mul(e.index_add(e.index_mul(c, self.height), row), kept), q)
                        to = e.index_add(e.index_mul(row, per_row), e.index_add(e.index_mul(q, task.dim), c))
                    else:
                        at = e.index_add(e.index_mul(d, self.height), row)
                        to = e.index_add(e.index_mul(row, per_row), d)
                    e.store_scalar(e.load_scalar(source, at), out, to)

    def _plane(self, split: Any) -> Any:
        """Number of the (split, batch) plane of an output."""
        return self.e.index_add(self.e.index_mul(split, self.head("batches")), self.batch)

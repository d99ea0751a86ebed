"""The kernel of the CPU: tiles of i against blocks of j, rendered to LLVM IR.

Two functions come out of a plan:

    pack(ctx, lo, hi)                          fields of j, as records [j][component]
    tile(ctx, lo, hi, step, worker, slot)      work items lo, lo + step, ...: a batch element, a group
                                               of tiles and a range of j each

A work item evaluates the fields of its i into its scratch memory as [component][row of the tile],
then walks over blocks of j (outer) and its tiles (inner). Rows beyond M repeat the last one and are
not written; columns beyond a multiple of the unrolling go through a copy of the body for one column.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from ..expr import Expr, postorder, variables
from ..plan import Plan, Task
from .context import Context
from .llvm import F64, I64, Block, Emitter, Pointer, pointer
from .lowering import UNROLL, Component, Index, Lowering, ranges
from .states import KMinState, LogSumExpState, MinState, State, SumState, Tile, column_number

STATES = {"sum": SumState, "logsumexp": LogSumExpState, "min": MinState}
PRELOAD = 64  # vectors of i-fields kept as SSA values across the loop over j


def render(plan: Plan, triple: str) -> str:
    """The IR of a plan; equal plans give equal text."""
    module = ir.Module("kerngp")
    module.triple = triple
    _Pack(module, plan).emit()
    _Kernel(module, plan).emit()
    return str(module)


def contractions(core: Expr) -> list[Expr]:
    """Inner sums too long to unroll: they are computed for several columns at once."""
    return [e for e in postorder(core) if e.op == "sum" and e.args[0].dim > UNROLL and {"i", "j"} <= e.axes]


class _Function:
    """What both functions share: the context and the user's arrays."""

    def __init__(self, module: ir.Module, plan: Plan, name: str, args: list[str]):
        s = plan.schedule
        self.plan, self.ctx = plan, Context(plan)
        signature = [("ctx", pointer(I64)), *((a, I64) for a in args)]
        self.e = Emitter(module, name, signature, s.width, plan.dtype, s.fma, noalias=("ctx",))
        self._read: dict[int, Any] = {}

    def get(self, slot: int) -> Any:
        """A number of the context, read once at the function's start."""
        if slot not in self._read:
            self._read[slot] = self.e.load_scalar(self.e.arg("ctx"), slot)
        return self._read[slot]

    def head(self, name: str) -> Any:
        return self.get(self.ctx.slot(name))

    def read_all(self) -> None:
        for slot in range(self.ctx.size):
            self.get(slot)

    def address(self, value: Any, elem: ir.Type) -> Pointer:
        return Pointer(self.e.builder.inttoptr(value, ir.PointerType()), elem)

    def bytes(self, base: Any, offset: Any, elem: ir.Type) -> Pointer:
        return self.address(self.e.index_add(base, offset), elem)

    def number(self, d: Component) -> Any:
        return d.value if isinstance(d, Index) else self.e.k(d)

    def start(self, v: Expr, batch: Any) -> tuple[Pointer, Any]:
        """The user's array of a variable and the index of its first element in a batch element."""
        k = v.attr[0]
        base = self.address(self.get(self.ctx.arg(k, "address")), self.e.elem)
        return base, self.e.load_scalar(self.address(self.get(self.ctx.arg(k, "offsets")), I64), batch)

    def stride(self, v: Expr, name: str) -> Any:
        return self.get(self.ctx.arg(v.attr[0], name))

    def parameter(self, v: Expr, d: Component, batch: Any) -> Block:
        """A component of one of the user's parameters."""
        e = self.e
        base, start = self.start(v, batch)
        return Block([[e.load_splat(base, e.index_add(start, e.index_mul(self.number(d), self.stride(v, "inner"))))]])

    def gather(self, v: Expr, batch: Any, first: Any, count: int, last: Any, put: Callable[[Any, Any, Any], None]) -> None:
        """Read rows first, ..., first + count - 1 of a variable; rows beyond ``last`` repeat it.

        ``put(row of the tile, component, scalar)`` receives them. Plain loops: this is linear work.
        """
        e = self.e
        base, start = self.start(v, batch)
        with e.loop(0, count) as row:
            at = e.index_mul(e.imin(e.index_add(first, row), last), self.stride(v, "row"))
            at = e.index_add(start, at)
            with e.loop(0, v.dim) as d:
                put(row, d, e.load_scalar(base, e.index_add(at, e.index_mul(d, self.stride(v, "inner")))))


class _Pack(_Function):
    """pack(ctx, lo, hi): items are vectors of rows j of batch elements."""

    def __init__(self, module: ir.Module, plan: Plan):
        super().__init__(module, plan, "pack", ["lo", "hi"])

    def emit(self) -> None:
        e, plan = self.e, self.plan
        if not plan.fields_j:
            e.finish()
            return
        self.read_all()
        width = sum(f.dim for f in plan.fields_j)
        n = self.head("N")
        per_batch = e.builder.sdiv(e.index_add(n, e.width - 1), e.k(e.width))
        with e.loop(e.arg("lo"), e.arg("hi")) as item:
            batch = e.builder.sdiv(item, per_batch)
            first = e.index_mul(e.index_sub(item, e.index_mul(batch, per_batch)), e.width)
            count = e.imin(e.index_sub(n, first), e.width)
            out = self.address(self.head("records"), e.elem)
            out = e.ptr(out, e.index_add(e.index_mul(batch, self.head("records_batch")), e.index_mul(first, width)))
            self._copies(batch, first, count, out, width)
            self._formulas(batch, first, count, out, width)
        e.finish()

    def _copies(self, batch: Any, first: Any, count: Any, out: Pointer, width: int) -> None:
        """Fields that are variables."""
        e = self.e
        for f, offset in zip(self.plan.fields_j, Plan.offsets(self.plan.fields_j), strict=True):
            if f.op == "var":
                def put(row: Any, d: Any, value: Any, offset: int = offset) -> None:
                    e.store_scalar(value, out, e.index_add(e.index_mul(row, width), e.index_add(d, offset)))

                self.gather(f, batch, first, count, e.index_sub(self.head("N"), 1), put)

    def _formulas(self, batch: Any, first: Any, count: Any, out: Pointer, width: int) -> None:
        """Fields to be computed: a vector of rows at a time, from a transposed copy of their variables."""
        e, plan = self.e, self.plan
        computed = [f for f in plan.fields_j if f.op != "var"]
        if not computed:
            return
        raw: dict[Expr, Pointer] = {}
        for v in variables(*computed):
            if v.attr[2] == "j":
                raw[v] = e.alloca(v.dim * e.width)

                def put(row: Any, d: Any, value: Any, v: Expr = v) -> None:
                    e.store_scalar(value, raw[v], e.index_add(e.index_mul(d, e.width), row))

                self.gather(v, batch, first, e.width, e.index_sub(self.head("N"), 1), put)

        def leaf(v: Expr, d: Component) -> Block:
            if v.attr[2] == "p":
                return self.parameter(v, d, batch)
            return Block([[e.load_vec(raw[v], e.index_mul(self.number(d), e.width))]])

        low = Lowering(e, leaf, lambda axes: (1, 1))
        for f, offset in zip(plan.fields_j, Plan.offsets(plan.fields_j), strict=True):
            if f.op == "var":
                continue
            values = e.alloca(f.dim * e.width)
            low.each(f, lambda d, value, values=values: e.store_vec(value, values, e.index_mul(self.number(d), e.width)))
            with e.loop(0, count) as row, e.loop(0, f.dim) as d:
                value = e.load_scalar(values, e.index_add(e.index_mul(d, e.width), row))
                e.store_scalar(value, out, e.index_add(e.index_mul(row, width), e.index_add(d, offset)))


class _Kernel(_Function):
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
        self.scratch = e.index_add(self.head("scratch"), e.index_mul(e.arg("worker"), self.head("scratch_thread")))
        with e.loop(e.arg("lo"), e.arg("hi"), e.arg("step")) as item:
            self._item(item)
        e.finish()

    def _state(self, task: Task) -> State:
        if task.signal:
            return SignalState(self, task)
        if task.code == "kmin":
            return KMinState(self.e, task, self.rows, self.head("kept"))
        return STATES[task.code](self.e, task, self.rows)

    def _item(self, item: Any) -> None:
        e = self.e
        splits, groups = self.head("splits"), self.head("groups")
        rest = e.builder.sdiv(item, splits)
        split = e.index_sub(item, e.index_mul(rest, splits))
        self.batch = e.builder.sdiv(rest, groups)
        group = e.index_sub(rest, e.index_mul(self.batch, groups))
        m, n, tiles = self.head("M"), self.head("N"), self.head("tiles")
        first = e.index_mul(group, e.index_mul(tiles, self.height))
        there = e.builder.sdiv(e.index_add(e.index_sub(m, first), self.height - 1), e.k(self.height))
        count = e.imin(tiles, there)
        records = self.address(self.head("records"), e.elem)
        self.records = e.ptr(records, e.index_mul(self.batch, self.head("records_batch")))
        self._fields_p()
        with e.loop(0, count) as t:
            i0 = e.index_add(first, e.index_mul(t, self.height))
            self._fields_i(t, i0)
            for k in self.row_tasks:
                self.states[k].init(self._tile_of(k, t))
        chunk = self.head("chunk")
        low = first if self.plan.symmetric else e.index_mul(split, chunk)
        high = n if self.plan.symmetric else e.imin(e.index_add(low, chunk), n)
        with e.loop(low, high, self.plan.schedule.block_j) as j0:
            j1 = e.imin(e.index_add(j0, self.plan.schedule.block_j), high)
            if self.column_tasks:
                self._clear_columns()
            with e.loop(0, count) as t:
                self._block(t, e.index_add(first, e.index_mul(t, self.height)), j0, j1)
            if self.column_tasks:
                self._add_columns(j0)
        with e.loop(0, count) as t:
            self._write(t, e.index_add(first, e.index_mul(t, self.height)), split)

    def _tile_of(self, k: int, t: Any) -> Tile:
        """State arrays of task k for tile t. Each element has 8 bytes, whatever its type."""
        e, task = self.e, self.plan.tasks[k]
        size = e.index_mul(self._per_row(task), self.height * 8)
        start = e.index_add(self.scratch, e.index_mul(t, size))
        types = {
            "sum": (F64, e.elem), "logsumexp": (e.elem, F64), "min": (e.elem, e.int.element), "kmin": (e.elem, e.int.element),
        }[task.code]  # fmt: skip
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
            low.each(f, lambda d, value, offset=offset: e.store_vec(
                value, self.p, e.index_mul(e.index_add(self.number(d), offset), e.width)))  # fmt: skip

    def _x(self, t: Any) -> Pointer:
        e = self.e
        return e.ptr(self.bytes(self.scratch, self.head("x"), e.elem), e.index_mul(t, self.plan.raw()[1] * self.height))

    def _fields_i(self, t: Any, i0: Any) -> None:
        """The record of a tile: [component][row], first the user's variables, then what is made of them."""
        e, x = self.e, self._x(t)
        last = e.index_sub(self.head("M"), 1)
        raw, _ = self.plan.raw()
        for v, offset in raw.items():
            def copy(row: Any, d: Any, value: Any, offset: int = offset) -> None:
                e.store_scalar(value, x, e.index_add(e.index_mul(e.index_add(d, offset), self.height), row))

            self.gather(v, self.batch, i0, self.height, last, copy)

        def leaf(v: Expr, d: Component) -> Block:
            return self.parameter(v, d, self.batch) if v.attr[2] == "p" else self._load_x(x, e.index_add(self.number(d), raw[v]))

        low = Lowering(e, leaf, lambda axes: (self.rows if "i" in axes else 1, 1))
        for f, offset in zip(self.plan.fields_i, self.off_i, strict=True):
            if f.op != "var":
                low.each(f, lambda d, value, offset=offset: self._store_x(value, x, e.index_add(self.number(d), offset)))
        if self.column_tasks:
            ones = [[e.select(self._exists(i0, r), e.const(1.0), e.const(0.0)).cell] for r in range(self.rows)]
            self._store_x(Block(ones), x, e.k(self.width_i - 1))

    def _load_x(self, x: Pointer, component: Any) -> Block:
        e = self.e
        start = e.index_mul(component, self.height)
        return Block([[e.load_vec(x, e.index_add(start, r * e.width), self._align())] for r in range(self.rows)])

    def _store_x(self, value: Block, x: Pointer, component: Any) -> None:
        e = self.e
        start = e.index_mul(component, self.height)
        for r, cell in enumerate(e.expand(value, (self.rows, 1))):
            e.store_vec(cell, x, e.index_add(start, r * e.width))

    def _exists(self, i0: Any, r: int) -> Block:
        """Mask of the lanes of vector r whose row is below M."""
        e = self.e
        left = column_number(e, e.index_sub(self.head("M"), i0), 0)
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
        used = {v for task in self.plan.tasks for v in postorder(task.core) if v.op == "var" and v.attr[2] != "j"}
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
        if count > 1 and not inner and plan.schedule.breadth > 1:
            for core in active:
                self._together(core, j, lows)
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

    def _together(self, core: Expr, j: Any, lows: list[Lowering]) -> None:
        """Evaluate a few columns breadth first: more independent work between dependent instructions."""
        e, breadth = self.e, self.plan.schedule.breadth
        parts = core.args if core.op == "mul" else (core,)  # the last product is fused into the sum
        for start in range(0, len(lows), breadth):
            some = lows[start : start + breadth]
            wide = self._lowering(j, range(start, start + len(some)))
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
        base = e.index_add(e.index_mul(e.arg("slot"), self.head("sums_slot")), e.index_mul(self.batch, self.head("sums_batch")))
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
        height = e.imin(e.index_sub(m, i0), self.height)
        for k in self.row_tasks:
            state, tile, task = self.states[k], self._tile_of(k, t), self.plan.tasks[k]
            state.tile = tile
            low = Lowering(e, lambda v, d: self._leaf(v, d, range(1), None), lambda axes: (self.rows if "i" in axes else 1, 1))
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


class SignalState(State):
    """sum_j k_ij b_jc for any number of columns c: a block of k in memory, then rank-one updates."""

    def __init__(self, kernel: _Kernel, task: Task):
        super().__init__(kernel.e, task, kernel.rows)
        self.kernel = kernel
        self.count: Any = None

    def init(self, tile: Tile) -> None:
        e = self.e
        zero = e._constant(e._vector(F64), 0.0)
        with e.loop(0, e.index_mul(self.kernel.head("E"), self.height), e.width) as at:
            e.store_vec(zero, tile.a, at, 8)

    def open(self, tile: Tile) -> None:
        self.tile = tile
        self.values = self.kernel.bytes(self.kernel.scratch, self.kernel.head("k"), self.e.elem)

    def at_column(self, lows: list[Lowering], jj: Any) -> None:
        e = self.e
        for n, low in enumerate(lows):
            value = e.expand(low.scalar(self.task.core), (self.rows, 1))
            start = e.index_mul(e.index_add(jj, n), self.height)
            for r in range(self.rows):
                e.store_vec(value.cells[r][0], self.values, e.index_add(start, r * e.width))

    def update(self, j0: Any, count: Any) -> None:
        """Add the block's contribution: a few signal columns at a time, in registers."""
        e, head = self.e, self.kernel.head
        assert self.tile is not None
        signal = self.kernel.address(head("signal"), e.elem)
        start = e.load_scalar(self.kernel.address(head("signal_offsets"), I64), self.kernel.batch)
        stride = head("signal_row")
        signal = e.ptr(signal, e.index_add(start, e.index_mul(j0, stride)))
        several = self.kernel.plan.schedule.signal_columns
        whole = e.index_sub(head("E"), e.builder.srem(head("E"), e.k(several)))
        with e.loop(0, whole, several) as c:
            self._update(signal, stride, c, several, count)
        with e.loop(whole, head("E")) as c:
            self._update(signal, stride, c, 1, count)

    def _update(self, signal: Pointer, stride: Any, c: Any, several: int, count: Any) -> None:
        e = self.e
        assert self.tile is not None
        total = [e.var(e.expand(e.const(0.0), (self.rows, 1))) for _ in range(several)]
        with e.loop(0, count) as jj:
            start = e.index_mul(jj, self.height)
            k = Block([[e.load_vec(self.values, e.index_add(start, r * e.width), 32)] for r in range(self.rows)])
            at = e.index_add(e.index_mul(jj, stride), c)
            for q, t in enumerate(total):  # one broadcast at a time: the sums keep the registers
                b = Block([[e.load_splat(signal, e.index_add(at, q))]])
                t.set(e.fma(k, b, t.get()))
        for q in range(several):
            sums = e.to_f64(total[q].get())
            row = e.index_mul(e.index_add(c, q), self.height)
            for r in range(self.rows):
                at = e.index_add(row, r * e.width)
                old = e.load_vec(self.tile.a, at, 8)
                e.store_vec(e.builder.fadd(old, sums.cells[r][0]), self.tile.a, at, 8)

    def flush(self) -> None:
        assert self.kernel.block_range is not None
        self.update(*self.kernel.block_range)

    def finish(self, low: Lowering) -> None:
        post = self.task.post
        if post is None:
            return
        assert self.tile is not None
        e, a = self.e, self.tile.a
        factor = e.expand(e.to_f64(low.scalar(post)), (self.rows, 1))
        with e.loop(0, self.kernel.head("E")) as c:
            for r in range(self.rows):
                at = e.index_add(e.index_mul(c, self.height), r * e.width)
                e.store_vec(e.builder.fmul(e.load_vec(a, at, 8), factor.cells[r][0]), a, at, 8)

"""How a tile keeps the state of a reduction while it walks over j.

Each state lives in registers inside a block of columns and in memory between blocks: arrays
[component][row of the tile]. `init` writes the neutral element, `open` loads or clears registers,
`step` folds in the values of one or more columns, `flush` merges registers into memory. The copy
to the output is the same for all: the tile's array, row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llvmlite import ir

from ..expr import Expr
from ..plan import UNROLL, Task
from .llvm import F64, I1, I32, I64, Block, Emitter, Pointer
from .lowering import Component, Index, Lowering

if TYPE_CHECKING:
    from .tile import Kernel


@dataclass(frozen=True)
class Tile:
    """Where the state of the current tile lies."""

    a: Pointer
    b: Pointer
    c: Pointer


class State:
    """Common parts: addressing of [component][row] arrays by vectors."""

    outputs = 1

    def __init__(self, e: Emitter, task: Task, rows: int):
        self.e, self.task, self.rows = e, task, rows
        self.height = rows * e.width
        self.dim = task.core.dim
        self.tile: Tile | None = None

    def init(self, tile: Tile) -> None:
        """Write the neutral element."""
        raise NotImplementedError

    def open(self, tile: Tile) -> None:
        """Make registers ready for a block of columns."""
        raise NotImplementedError

    def step(self, lows: list[Lowering], j: Any) -> None:
        """Fold in columns j, j + 1, ...: one `Lowering` each."""
        raise NotImplementedError

    def flush(self) -> None:
        """Merge the registers into memory."""
        raise NotImplementedError

    def at(self, d: Component, r: int) -> Any:
        """Index of vector r of component d."""
        e = self.e
        if isinstance(d, Index):
            return e.index_add(e.index_mul(d.value, self.height), r * e.width)
        return e.k(d * self.height + r * e.width)

    def load(self, base: Pointer, d: Component) -> Block:
        return Block([[self.e.load_vec(base, self.at(d, r), 8 * 1)] for r in range(self.rows)])

    def store(self, value: Block, base: Pointer, d: Component) -> None:
        value = self.e.expand(value, (self.rows, 1))
        for r in range(self.rows):
            self.e.store_vec(value.cells[r][0], base, self.at(d, r), 8)

    def fill(self, value: Block, base: Pointer) -> None:
        """Set all components of the tile."""
        if self.dim <= UNROLL:
            for d in range(self.dim):
                self.store(value, base, d)
        else:
            with self.e.loop(0, self.dim) as d:
                self.store(value, base, Index(d, 0, self.dim))

    def finish(self, low: Lowering) -> None:
        """Last change of the state before it is copied out."""


class SumState(State):
    """Real registers, flushed into float64 (a): a float32 sum keeps float32 accuracy at any length."""

    def __init__(self, e: Emitter, task: Task, rows: int):
        super().__init__(e, task, rows)
        self.rolled = self.dim > UNROLL
        self.registers: list[Any] = []

    def init(self, tile: Tile) -> None:
        self.fill(Block([[self.e._constant(self.e._vector(F64), 0.0)]]), tile.a)

    def open(self, tile: Tile) -> None:
        e, self.tile = self.e, tile
        nought = e.expand(e.const(0.0), (self.rows, 1))
        if self.rolled:
            self.fill(nought, tile.b)
        elif not self.registers:
            self.registers = [e.var(nought) for _ in range(self.dim)]
        else:
            for v in self.registers:
                v.set(nought)

    def step(self, lows: list[Lowering], j: Any) -> None:
        assert self.tile is not None
        core, b = self.task.core, self.tile.b
        for low in lows:
            if self.rolled:
                low.each(core, lambda d, value: self.store(self.e.add(self.load(b, d), value), b, d))
            else:
                for d, v in enumerate(self.registers):
                    v.set(self.e.expand(low.accumulate(core, d, v.get()), (self.rows, 1)))

    def flush(self) -> None:
        assert self.tile is not None
        e, a, b = self.e, self.tile.a, self.tile.b
        if self.rolled:
            with e.loop(0, self.dim) as d:
                at = Index(d, 0, self.dim)
                self.store(e.add(self.load(a, at), e.to_f64(self.load(b, at))), a, at)
        else:
            for d, v in enumerate(self.registers):
                self.store(e.add(self.load(a, d), e.to_f64(v.get())), a, d)

    def finish(self, low: Lowering) -> None:
        post = self.task.post
        if post is None:
            return
        assert self.tile is not None
        e, a = self.e, self.tile.a
        low.settle(post)
        if self.dim == 1 and post.dim > 1:
            # the sum of one component times a vector: the result overwrites the state, wider than it was
            total = self.load(a, 0)
            low.each(post, lambda d, value: self.store(e.mul(e.to_f64(value), total), a, d))
        elif post.dim == 1:
            factor = e.to_f64(low.scalar(post))
            self._scale(lambda d: factor)
        else:
            low.each(post, lambda d, value: self.store(e.mul(e.to_f64(value), self.load(a, d)), a, d))

    def _scale(self, factor: Any) -> None:
        assert self.tile is not None
        e, a = self.e, self.tile.a
        if self.rolled:
            with e.loop(0, self.dim) as d:
                at = Index(d, 0, self.dim)
                self.store(e.mul(self.load(a, at), factor(at)), a, at)
        else:
            for d in range(self.dim):
                self.store(e.mul(self.load(a, d), factor(d)), a, d)


class LogSumExpState(State):
    """Maximum m (a) and float64 sum of exp(f - m) (b); a block of columns is one rescaling."""

    outputs = 2

    def init(self, tile: Tile) -> None:
        e = self.e
        self.fill(e.const(-float("inf")), tile.a)
        self.fill(Block([[e._constant(e._vector(F64), 0.0)]]), tile.b)

    def open(self, tile: Tile) -> None:
        e, self.tile = self.e, tile
        low = e.expand(e.const(-float("inf")), (self.rows, 1))
        nought = e.expand(e.const(0.0), (self.rows, 1))
        if not hasattr(self, "m"):
            self.m = [e.var(low) for _ in range(self.dim)]
            self.s = [e.var(nought) for _ in range(self.dim)]
        for m, s in zip(self.m, self.s, strict=True):
            m.set(low)
            s.set(nought)

    def step(self, lows: list[Lowering], j: Any) -> None:
        e = self.e
        for d in range(self.dim):
            values = [low.component(self.task.core, d) for low in lows]
            old = self.m[d].get()
            new = old
            for f in values:
                new = e.maximum(f, new)
            shift = self.shift(new)
            total = e.mul(self.s[d].get(), e.call("exp_scaled_nonpos", e.sub(shift, old), -1.0))
            for at in range(0, len(values), 2):
                pair = e.cat_columns(values[at : at + 2])
                terms = e.call("exp_scaled_nonpos", e.sub(shift, pair), -1.0)
                for n in range(terms.shape[1]):
                    total = e.add(total, e.column(terms, n))
            self.s[d].set(total)
            self.m[d].set(e.expand(new, (self.rows, 1)))

    def shift(self, m: Block) -> Block:
        """m made finite below, so that -inf - (-inf) never happens."""
        return self.e.maximum(-1e38 if self.e.dtype == "float32" else -1e300, m)

    def flush(self) -> None:
        assert self.tile is not None
        e, a, b = self.e, self.tile.a, self.tile.b
        for d in range(self.dim):
            old, block = self.load(a, d), self.m[d].get()
            new = e.maximum(block, old)
            shift = self.shift(new)
            keep = e.call("exp_scaled_nonpos", e.sub(shift, old), -1.0)
            take = e.call("exp_scaled_nonpos", e.sub(shift, block), -1.0)
            total = e.add(
                e.mul(self.load(b, d), e.to_f64(keep)), e.mul(e.to_f64(self.s[d].get()), e.to_f64(take))
            )
            self.store(total, b, d)
            self.store(new, a, d)


class FoldState(State):
    """A state given by formulas: registers for a block of columns, merged into float64 (a).

    The registers start from the neutral element at each block, so that they hold the state of that block
    alone; merging goes by the formulas too, evaluated in float64.
    """

    def __init__(self, e: Emitter, task: Task, rows: int):
        super().__init__(e, task, rows)
        assert task.law is not None
        self.law = task.law
        self.parts = self.law.components()
        self.registers: list[Any] = []

    def init(self, tile: Tile) -> None:
        e = self.e
        for at, (_, _, x) in enumerate(self.parts):
            self.store(Block([[e._constant(e._vector(F64), x)]]), tile.a, at)

    def open(self, tile: Tile) -> None:
        e, self.tile = self.e, tile
        neutral = [e.expand(e.const(x), (self.rows, 1)) for _, _, x in self.parts]
        if not self.registers:
            self.registers = [e.var(x) for x in neutral]
        else:
            for v, x in zip(self.registers, neutral, strict=True):
                v.set(x)

    def step(self, lows: list[Lowering], j: Any) -> None:
        core, first = self.task.core, self.law.entry(0)
        own = self.law.placed([v.get() for v in self.registers])

        def leaf(v: Expr, d: Component) -> Block:
            k = v.attr[0]
            return own[k, d] if k < first else lows[k - first].component(core, d)

        new = self._compute(self.e, self.law.stepped(len(lows)), leaf)
        for v, x in zip(self.registers, new, strict=True):
            v.set(self.e.expand(x, (self.rows, 1)))

    def flush(self) -> None:
        assert self.tile is not None
        e, a = self.e.in_float64(), self.tile.a
        before = self.law.placed([self.load(a, at) for at in range(len(self.parts))])
        block = self.law.placed([e.to_f64(v.get()) for v in self.registers], len(self.law.dims))
        values = {**before, **block}
        for at, x in enumerate(self._compute(e, self.law.merged, lambda v, d: values[v.attr[0], d])):
            self.store(x, a, at)

    def _compute(
        self, e: Emitter, formulas: tuple[Expr, ...], leaf: Callable[[Expr, Component], Block]
    ) -> list[Block]:
        """All components of a new state."""
        low = Lowering(e, leaf, lambda axes: (self.rows, 1))
        return [low.component(formulas[k], d) for k, d, _ in self.parts]


class MinState(State):
    """Smallest value (a) and its column (b); ties keep the smaller column, NaN never wins.

    The loop over j keeps the first column of the group in which the value was found: one comparison for
    all columns of a step. `finish` evaluates the winning group again to find the column itself.
    """

    outputs = 2

    def __init__(self, kernel: Kernel, task: Task):
        super().__init__(kernel.e, task, kernel.rows)
        self.kernel, self.group = kernel, kernel.plan.schedule.columns

    def init(self, tile: Tile) -> None:
        self.fill(self.e.const(float("inf")), tile.a)
        self.fill(self.e.iconst(-1), tile.b)

    def open(self, tile: Tile) -> None:
        e, self.tile = self.e, tile
        values = [self.load(tile.a, d) for d in range(self.dim)]
        index = [self.load(tile.b, d) for d in range(self.dim)]
        if not hasattr(self, "v"):
            self.v = [e.var(x) for x in values]
            self.i = [e.var(x) for x in index]
        else:
            for var, x in zip((*self.v, *self.i), (*values, *index), strict=True):
                var.set(x)

    def step(self, lows: list[Lowering], j: Any) -> None:
        e = self.e
        first = Block([[e.splat(column_number(e, j, 0))]])
        for d in range(self.dim):
            best = new = self.v[d].get()
            for low in lows:
                new = e.expand(e.minimum(low.component(self.task.core, d), new), (self.rows, 1))
            self.i[d].set(e.select(e.lt(new, best), first, self.i[d].get()))
            self.v[d].set(new)

    def flush(self) -> None:
        assert self.tile is not None
        for d in range(self.dim):
            self.store(self.v[d].get(), self.tile.a, d)
            self.store(self.i[d].get(), self.tile.b, d)

    def finish(self, low: Lowering) -> None:
        """From the group to its first column with the smallest value."""
        assert self.tile is not None
        if self.group == 1:
            return
        e, tile = self.e, self.tile
        last = Block([[e.splat(column_number(e, e.index_sub(self.kernel.range_j[1], 1), 0))]])
        for d in range(self.dim):
            start = self.load(tile.b, d)
            none = e.ilt(start, 0)
            best = e.var(e.expand(e.const(float("inf")), (self.rows, 1)))
            column = e.var(start)
            with e.loop(0, self.group) as n:
                at = e.iadd(start, Block([[e.splat(column_number(e, n, 0))]]))
                at = e.select(e.mask_or(none, e.igt(at, last)), last, at)
                f = e.expand(self.kernel.at_columns(at).component(self.task.core, d), (self.rows, 1))
                smaller = e.mask_and(e.lt(f, best.get()), e.mask_not(none))
                best.set(e.select(smaller, f, best.get()))
                column.set(e.select(smaller, at, column.get()))
            self.store(column.get(), tile.b, d)


def column_number(e: Emitter, j: Any, n: int) -> Any:
    """j + n as an integer of the lane's size."""
    at = e.index_add(j, n) if n else j
    return at if e.int.element == I64 else e.builder.trunc(at, I32)


class KMinState(State):
    """Ascending lists of the k smallest values (a) and columns (b), k known at run time; (c) the k-th value.

    An entry is compared with its row's k-th value first; only the few that pass are inserted, lane by
    lane. Lists are arrays [component][row][k].
    """

    outputs = 2

    def __init__(self, e: Emitter, task: Task, rows: int, k: Any):
        super().__init__(e, task, rows)
        if self.height > 64:
            raise ValueError(f"k-min takes tiles of at most 64 rows, got {rows} vectors of {e.width}")
        self.k = k

    def init(self, tile: Tile) -> None:
        e = self.e
        with e.loop(0, e.index_mul(self.k, self.dim * self.height)) as at:
            e.store_scalar(e.extract(e.const(float("inf")).cell, 0), tile.a, at)
            e.store_scalar(e.extract(e.iconst(-1).cell, 0), tile.b, at)
        self.fill(e.const(float("inf")), tile.c)

    def open(self, tile: Tile) -> None:
        e, self.tile = self.e, tile
        bounds = [self.load(tile.c, d) for d in range(self.dim)]
        if not hasattr(self, "bound"):
            self.bound = [e.var(x) for x in bounds]
            self.buffer = e.alloca(self.height)
        for var, x in zip(self.bound, bounds, strict=True):
            var.set(x)

    def step(self, lows: list[Lowering], j: Any) -> None:
        assert self.tile is not None
        e, tile = self.e, self.tile
        for n, low in enumerate(lows):
            for d in range(self.dim):
                f = e.expand(low.component(self.task.core, d), (self.rows, 1))
                passed = e.lt(f, self.bound[d].get())
                with e.if_then(e.any(passed), likely=False):
                    for r in range(self.rows):
                        e.store_vec(f.cells[r][0], self.buffer, r * e.width)
                    self._insert_lanes(passed, d, column_number(e, j, n))
                    self.bound[d].set(self.load(tile.c, d))

    def _insert_lanes(self, passed: Block, d: int, column: Any) -> None:
        """Insert the values of the rows whose bit is set, smallest row first; at least one is."""
        assert self.tile is not None
        e = self.e
        b = e.builder
        rows = e.k(0)
        for r, mask in enumerate(passed):
            lanes = b.zext(b.bitcast(mask, ir.IntType(e.width)), I64)
            rows = b.or_(rows, b.shl(lanes, e.k(r * e.width)))
        before = b.block
        head = b.append_basic_block("rows")
        done = b.append_basic_block("rows.done")
        b.branch(head)
        b.position_at_end(head)
        left = b.phi(I64)
        left.add_incoming(rows, before)
        row = b.cttz(left, ir.Constant(I1, 1))
        at = e.index_add(row, d * self.height)
        self._insert(at, e.load_scalar(self.buffer, row), column, e.ptr(self.tile.c, at))
        rest = b.and_(left, e.index_sub(left, 1))
        left.add_incoming(rest, b.block)
        b.cbranch(b.icmp_unsigned("!=", rest, e.k(0)), head, done)
        b.position_at_end(done)

    def _insert(self, row: Any, value: Any, column: Any, limit: Pointer) -> None:
        """Shift larger entries up by one, then put the new one; equal entries stay before it."""
        assert self.tile is not None
        e = self.e
        start = e.index_mul(row, self.k)
        values, columns = e.ptr(self.tile.a, start), e.ptr(self.tile.b, start)
        place = e.alloca(1, I64)
        e.store_scalar(e.index_sub(self.k, 1), place)
        head = e.function.append_basic_block("insert")
        move = e.function.append_basic_block("insert.move")
        done = e.function.append_basic_block("insert.done")
        e.builder.branch(head)
        e.builder.position_at_end(head)
        at = e.load_scalar(place)
        inside = e.builder.icmp_signed(">", at, e.k(0))
        before = e.imax(e.index_sub(at, 1), 0)
        larger = e.builder.fcmp_ordered(">", e.load_scalar(values, before), value)
        e.builder.cbranch(e.builder.and_(inside, larger), move, done)
        e.builder.position_at_end(move)
        e.store_scalar(e.load_scalar(values, before), values, at)
        e.store_scalar(e.load_scalar(columns, before), columns, at)
        e.store_scalar(before, place)
        e.builder.branch(head)
        e.builder.position_at_end(done)
        e.store_scalar(value, values, at)
        e.store_scalar(column, columns, at)
        e.store_scalar(e.load_scalar(values, e.index_sub(self.k, 1)), limit)

    def flush(self) -> None:
        """Nothing: the lists are in memory."""

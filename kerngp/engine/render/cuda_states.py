"""How a CUDA thread keeps the state of a reduction while it walks over j.

Registers hold the states of the thread's rows. `step` folds in a group of columns, `flush` follows each
block of columns, `finish` writes results, or partial states when j is split among blocks. `merge` is the
code of the kernel that joins those parts, in their order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..plan import UNROLL, Task
from .block import Block
from .lowering import Index, Lowering

if TYPE_CHECKING:
    from .cuda_tile import TileKernel


@dataclass(frozen=True)
class Column:
    """One of the columns evaluated together: its formulas, its number, and whether it exists."""

    low: Lowering
    number: str
    exists: str | None
    at: int | None = None  # which column of a block of several; None if the block has one


class State:
    """State of one task for the rows of a thread.

    ``every_lane`` tells states of which each of the lanes that share rows writes its own part.
    """

    every_lane = False

    def __init__(self, kernel: TileKernel, k: int):
        self.kernel, self.k, self.e = kernel, k, kernel.e
        self.task: Task = kernel.plan.tasks[k]
        self.rows, self.dim, self.group = kernel.rows, self.task.core.dim, kernel.group

    def slot(self, name: str) -> str:
        return self.kernel.task_slot(self.k, name)

    def declare(self) -> None:
        """Registers, at their neutral values."""
        raise NotImplementedError

    def step(self, columns: list[Column]) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        """After a block of columns."""

    def combine(self) -> None:
        """Join the states of the threads that share rows."""

    def finish(self) -> None:
        """Write what the rows hold."""
        raise NotImplementedError

    def merge(self) -> None:
        """In the merging kernel: join the parts of row ``i`` of batch element ``batch``, write the result."""
        raise NotImplementedError

    # ------------------------------------------------------------------ helpers
    def value(self, c: Column, d: Any, neutral: float) -> Block:
        """Component d of the core at a column; ``neutral`` where the column does not exist."""
        e = self.e
        v = c.low.component(self.task.core, d)
        v = e.expand(v if c.at is None else e.column(v, c.at), (self.rows, 1))
        return v if c.exists is None else e.select(Block([[c.exists]]), v, neutral)

    def registers(self, x: float) -> Any:
        e = self.e
        return e.var(e.expand(e.const(x), (self.rows, 1)))

    def plane(self, per_row: str | int) -> str:
        """Index of the first element of this part's rows in an array [split][batch][row][...]."""
        return f"((long long)split * KG(batches) + batch) * KG(M) * {per_row}"

    def each_row(self, write: Callable[[int, str], None]) -> None:
        """Code for each row of the thread that exists; ``write(r, number of the row)``."""
        for r in range(self.rows):
            with self.e.braces(f"if ({self.kernel.row(r)} < M)"):
                write(r, f"(long long){self.kernel.row(r)}")


class SumState(State):
    """A sum in registers, flushed into two words so that it keeps its precision at any length."""

    def declare(self) -> None:
        if self.task.signal or self.dim > UNROLL:
            raise AssertionError("sums of many columns have a state of their own")
        self.sums = [Total(self, self.registers(0.0)) for _ in range(self.dim)]

    def step(self, columns: list[Column]) -> None:
        for c in columns:
            for d, total in enumerate(self.sums):
                total.set(self._plus(c, d, total.get()))

    def _plus(self, c: Column, d: int, total: Block) -> Block:
        """total + component d of the core, fused where the core is a product."""
        core, e = self.task.core, self.e
        if c.exists is not None:
            return e.add(self.value(c, d, 0.0), total)
        if c.at is None:
            return c.low.accumulate(core, d, total)
        if core.op != "mul":
            return e.add(self.value(c, d, 0.0), total)
        x, y = (e.column(c.low.component(a, d), c.at) for a in core.args)
        return e.fma(x, y, total)

    def flush(self) -> None:
        for total in self.sums:
            total.flush()

    def combine(self) -> None:
        for total in self.sums:
            total.combine(self.kernel.lanes)

    def finish(self) -> None:
        post, sums = self.task.post, [t.cells() for t in self.sums]
        low = self.kernel.row_lowering()
        width = self.task.dim
        if post is not None:
            low.settle(post)

        def put(d: Any, value: Callable[[int], str]) -> None:
            at = d.value if isinstance(d, Index) else d
            self.each_row(lambda r, i: self.write(f"({i} * {width} + {at})", value(r)))

        if post is None:
            for d, cells in enumerate(sums):
                put(d, lambda r, cells=cells: cells[r])
        elif post.dim == 1:
            factor = self.e.expand(low.scalar(post), (self.rows, 1))
            for d, cells in enumerate(sums):
                put(d, lambda r, cells=cells: f"{cells[r]} * (double){factor.cells[r][0]}")
        else:

            def scaled(d: Any, value: Block) -> None:
                value = self.e.expand(value, (self.rows, 1))
                cells = sums[0] if len(sums) == 1 else sums[d]
                put(d, lambda r: f"{cells[r]} * (double){value.cells[r][0]}")

            low.each(post, scaled)

    def write(self, at: str, value: str) -> None:
        """The result, or its part, at an element of [row][component]."""
        e, real = self.e, self.e.real
        width = "KG(E)" if self.task.signal else self.task.dim
        with e.braces("if (KG(splits) == 1)"):
            out = f"(({real} *){self.slot('out_a')})[(long long)batch * KG(M) * {width} + {at}]"
            e.put(f"{out} = ({real})({value});")
        with e.braces("else"):
            e.put(f"((double *){self.slot('part_a')})[{self.plane(width)} + {at}] = {value};")

    def merge(self) -> None:
        e, real = self.e, self.e.real
        width = "KG(E)" if self.task.signal else self.task.dim
        with e.loop(0, f"(int){width}") as d:
            e.put("double total = 0;")
            with e.loop(0, "(int)KG(splits)") as s:
                at = f"(((long long){s} * KG(batches) + batch) * KG(M) + i) * {width} + {d}"
                e.put(f"total += ((const double *){self.slot('part_a')})[{at}];")
            out = f"(({real} *){self.slot('out_a')})[((long long)batch * KG(M) + i) * {width} + {d}]"
            e.put(f"{out} = ({real})total;")


class Total:
    """One sum for each row: a running part and, in float32, the two words it is flushed into."""

    def __init__(self, state: State, running: Any):
        self.state, self.running, self.e = state, running, state.e
        self.split = self.e.dtype == "float32"
        if self.split:
            self.high, self.low = state.registers(0.0), state.registers(0.0)

    def get(self) -> Block:
        return self.running.get()

    def set(self, value: Block) -> None:
        self.running.set(value)

    def flush(self) -> None:
        if self.split:
            for r, h, low in zip(self.running, self.high, self.low, strict=True):
                self.e.put(f"kg_add({h}, {low}, {r});")
                self.e.put(f"{r} = 0;")

    def cells(self) -> list[str]:
        """The sums in double precision."""
        if not self.split:
            return list(self.running)
        return [f"kg_sum({h}, {low})" for h, low in zip(self.high, self.low, strict=True)]

    def combine(self, lanes: int) -> None:
        """Add up the sums of neighbouring lanes; the first one's result is written."""
        if lanes == 1:
            return
        e = self.e
        step = lanes // 2
        while step:
            for q in range(self.state.rows):
                if self.split:
                    h, low = list(self.high)[q], list(self.low)[q]
                    other = e.let("float", f"__shfl_xor_sync(0xffffffffu, {h}, {step})")
                    rest = e.let("float", f"__shfl_xor_sync(0xffffffffu, {low}, {step})")
                    e.put(f"kg_add({h}, {low}, {other});")
                    e.put(f"{low} += {rest};")
                else:
                    r = list(self.running)[q]
                    e.put(f"{r} += __shfl_xor_sync(0xffffffffu, {r}, {step});")
            step //= 2


class ColumnsState(SumState):
    """Sums of many components, a slab of them for each block: columns of a signal, or of a long vector."""

    def declare(self) -> None:
        self.sums = [Total(self, self.registers(0.0)) for _ in range(self.kernel.slab)]

    def step(self, columns: list[Column]) -> None:
        e = self.e
        for c in columns:
            if self.task.signal:
                k = self.value(c, 0, 0.0)
                for q, total in enumerate(self.sums):
                    total.set(e.fma(k, Block([[self.kernel.signal(c, q)]]), total.get()))
                continue
            for q, total in enumerate(self.sums):
                with c.low.scope():
                    at = self.kernel.slab_component(q)
                    total.set(e.add(self.value(c, at, 0.0), total.get()))

    def finish(self) -> None:
        post, width = self.task.post, "KG(E)" if self.task.signal else self.task.dim
        low = self.kernel.row_lowering()
        if post is not None:
            low.settle(post)
        for q, total in enumerate(self.sums):
            cells = total.cells()
            with self.e.braces(f"if (slab0 + {q} < {self.kernel.slab_end()})"), low.scope():
                factor = None
                if post is not None:
                    at: Any = 0 if post.dim == 1 else self.kernel.slab_component(q)
                    factor = self.e.expand(low.component(post, at), (self.rows, 1))
                self.each_row(
                    lambda r, i, cells=cells, factor=factor, q=q: self.write(
                        f"({i} * {width} + slab0 + {q})",
                        cells[r] if factor is None else f"{cells[r]} * (double){factor.cells[r][0]}",
                    )
                )


class LogSumExpState(State):
    """Maximum and sum of exp(f - maximum), rescaled once for a group of columns."""

    def declare(self) -> None:
        self.m = [self.registers(float("-inf")) for _ in range(self.dim)]
        self.s = [self.registers(0.0) for _ in range(self.dim)]
        self.most = [self.registers(float("-inf")) for _ in range(self.dim)]
        self.total = [
            self.e.var(self.e.expand(Block([["0.0"]]), (self.rows, 1)), "double") for _ in range(self.dim)
        ]

    def step(self, columns: list[Column]) -> None:
        e = self.e
        for d in range(self.dim):
            values = [self.value(c, d, float("-inf")) for c in columns]
            old = new = self.m[d].get()
            for f in values:
                new = e.apply("kg_most", new, f)
            shift = e.apply("kg_most", new, self._floor)
            total = e.mul(self.s[d].get(), e.call("exp_scaled_nonpos", e.sub(shift, old), -1.0))
            for f in values:
                total = e.add(total, e.call("exp_scaled_nonpos", e.sub(shift, f), -1.0))
            self.s[d].set(total)
            self.m[d].set(new)

    @property
    def _floor(self) -> float:
        return -1e38 if self.e.dtype == "float32" else -1e300

    def flush(self) -> None:
        for d in range(self.dim):
            for r in range(self.rows):
                m, s = list(self.m[d])[r], list(self.s[d])[r]
                most, total = list(self.most[d])[r], list(self.total[d])[r]
                self.e.put(f"kg_join({most}, {total}, {m}, (double){s});")
                self.e.put(f"{m} = {self.e.literal(float('-inf'))}; {s} = 0;")

    def combine(self) -> None:
        step = self.kernel.lanes // 2
        while step:
            for d in range(self.dim):
                for most, total in zip(self.most[d], self.total[d], strict=True):
                    m = self.e.let(self.e.real, f"__shfl_xor_sync(0xffffffffu, {most}, {step})")
                    s = self.e.let("double", f"__shfl_xor_sync(0xffffffffu, {total}, {step})")
                    self.e.put(f"kg_join({most}, {total}, {m}, {s});")
            step //= 2

    def finish(self) -> None:
        e, real = self.e, self.e.real
        for d in range(self.dim):
            most, total = list(self.most[d]), list(self.total[d])

            def write(r: int, i: str, d: int = d, most: list = most, total: list = total) -> None:
                at = f"{i} * {self.dim} + {d}"
                with e.braces("if (KG(splits) == 1)"):
                    out = f"(({real} *){self.slot('out_a')})[(long long)batch * KG(M) * {self.dim} + {at}]"
                    e.put(f"{out} = kg_lse({most[r]}, {total[r]});")
                with e.braces("else"):
                    plane = self.plane(self.dim)
                    e.put(f"(({real} *){self.slot('part_a')})[{plane} + {at}] = {most[r]};")
                    e.put(f"((double *){self.slot('part_b')})[{plane} + {at}] = {total[r]};")

            self.each_row(write)

    def merge(self) -> None:
        e, real = self.e, self.e.real
        with e.loop(0, self.dim) as d:
            e.put(f"{real} m = {e.literal(float('-inf'))}; double s = 0;")
            with e.loop(0, "(int)KG(splits)") as part:
                at = f"(((long long){part} * KG(batches) + batch) * KG(M) + i) * {self.dim} + {d}"
                m2, s2 = (
                    f"((const {t} *){self.slot(n)})[{at}]"
                    for t, n in ((real, "part_a"), ("double", "part_b"))
                )
                e.put(f"kg_join(m, s, {m2}, {s2});")
            out = f"(({real} *){self.slot('out_a')})[((long long)batch * KG(M) + i) * {self.dim} + {d}]"
            e.put(f"{out} = kg_lse(m, s);")


class MinState(State):
    """Smallest value and its column; ties keep the smaller column, NaN never wins.

    The loop remembers the group of columns in which the value was found; `finish` evaluates that group
    again for the column itself.
    """

    def declare(self) -> None:
        e = self.e
        self.v = [self.registers(float("inf")) for _ in range(self.dim)]
        self.i = [e.var(e.expand(Block([["-1"]]), (self.rows, 1)), "int") for _ in range(self.dim)]

    def step(self, columns: list[Column]) -> None:
        e = self.e
        for d in range(self.dim):
            best = new = self.v[d].get()
            for c in columns:
                new = e.apply("kg_least", new, self.value(c, d, float("inf")))
            for i, n, b in zip(self.i[d], new, best, strict=True):
                e.put(f"{i} = {n} < {b} ? {columns[0].number} : {i};")
            self.v[d].set(new)

    def take(self, r: int, x: str, column: str) -> None:
        """Fold in a value at one column for one row."""
        v, i = list(self.v[0])[r], list(self.i[0])[r]
        with self.e.braces(f"if ({x} < {v})"):
            self.e.put(f"{v} = {x}; {i} = {column};")

    def bound(self, r: int) -> str:
        """What a value has to be below for row r."""
        return list(self.v[0])[r]

    def combine(self) -> None:
        e, group = self.e, self.group
        if group > 1:
            for d in range(self.dim):
                self._find(d, group)
        step = self.kernel.lanes // 2
        while step:
            for d in range(self.dim):
                for v, i in zip(self.v[d], self.i[d], strict=True):
                    v2 = e.let(e.real, f"__shfl_xor_sync(0xffffffffu, {v}, {step})")
                    i2 = e.let("int", f"__shfl_xor_sync(0xffffffffu, {i}, {step})")
                    with e.braces(f"if ({v2} < {v} || ({v2} == {v} && {i2} < {i}))"):
                        e.put(f"{v} = {v2}; {i} = {i2};")
            step //= 2

    def _find(self, d: int, group: int) -> None:
        """From the group to its first column with the smallest value."""
        e = self.e
        best = self.registers(float("inf"))
        start = [e.let("int", i) for i in self.i[d]]
        with e.loop(0, group, unroll=1) as n:
            at = [e.let("int", f"{s} < 0 ? 0 : min({self.kernel.column_of(s, n)}, j_end - 1)") for s in start]
            f = self.kernel.at_columns(at).component(self.task.core, d)
            f = e.expand(f, (self.rows, 1))
            for i, b, s, a, x in zip(self.i[d], best, start, at, f, strict=True):
                with e.braces(f"if ({s} >= 0 && {x} < {b})"):
                    e.put(f"{b} = {x}; {i} = {a};")

    def finish(self) -> None:
        e, real = self.e, self.e.real
        for d in range(self.dim):
            v, i_ = list(self.v[d]), list(self.i[d])

            def write(r: int, i: str, d: int = d, v: list = v, i_: list = i_) -> None:
                at = f"{i} * {self.dim} + {d}"
                with e.braces("if (KG(splits) == 1)"):
                    base = f"(long long)batch * KG(M) * {self.dim} + {at}"
                    e.put(f"(({real} *){self.slot('out_a')})[{base}] = ({real}){self.slot('sign')} * {v[r]};")
                    e.put(f"((long long *){self.slot('out_b')})[{base}] = {i_[r]};")
                with e.braces("else"):
                    plane = self.plane(self.dim)
                    e.put(f"(({real} *){self.slot('part_a')})[{plane} + {at}] = {v[r]};")
                    e.put(f"((long long *){self.slot('part_b')})[{plane} + {at}] = {i_[r]};")

            self.each_row(write)

    def merge(self) -> None:
        e, real = self.e, self.e.real
        with e.loop(0, self.dim) as d:
            e.put(f"{real} v = {e.literal(float('inf'))}; long long column = -1;")
            with e.loop(0, "(int)KG(splits)") as part:
                at = f"(((long long){part} * KG(batches) + batch) * KG(M) + i) * {self.dim} + {d}"
                v = e.let(real, f"((const {real} *){self.slot('part_a')})[{at}]")
                with e.braces(f"if ({v} < v)"):
                    e.put(f"v = {v}; column = ((const long long *){self.slot('part_b')})[{at}];")
            base = f"((long long)batch * KG(M) + i) * {self.dim} + {d}"
            e.put(f"(({real} *){self.slot('out_a')})[{base}] = ({real}){self.slot('sign')} * v;")
            e.put(f"((long long *){self.slot('out_b')})[{base}] = column;")


class KMinState(State):
    """Ascending lists of the k smallest values and their columns, in global memory, k known at run time.

    An entry is compared with the list's last value, in a register, and only the few that pass are
    inserted. A thread has lists of its own: lanes that share rows count as further parts of j.
    """

    def declare(self) -> None:
        e = self.e
        e.put("const int kept = (int)KG(kept);")
        e.put(f"{e.real} *const values = ({e.real} *){self.slot('part_a')};")
        e.put(f"long long *const columns = (long long *){self.slot('part_b')};")
        part = "split" if self.kernel.lanes == 1 else f"((long long)split * {self.kernel.lanes} + lane)"
        self.at, self.last = [], self.dims(float("inf"))
        for r in range(self.rows):
            row = f"(({part} * KG(batches) + batch) * KG(M) + {self.kernel.row(r)}) * kept * {self.dim}"
            self.at.append(e.let("long long", row))
            with e.braces(f"if ({self.kernel.row(r)} < M)"):
                with e.loop(0, f"kept * {self.dim}") as q:
                    e.put(f"values[{self.at[r]} + {q}] = {e.literal(float('inf'))};")
                    e.put(f"columns[{self.at[r]} + {q}] = -1;")
            with e.braces("else"):
                for last in self.last:
                    e.put(f"{list(last)[r]} = {e.literal(float('-inf'))};")

    def dims(self, x: float) -> list[Any]:
        return [self.registers(x) for _ in range(self.dim)]

    def step(self, columns: list[Column]) -> None:
        for c in columns:
            for d in range(self.dim):
                f = self.value(c, d, float("inf"))
                for r, x in enumerate(f):
                    self.take(r, x, c.number, d)

    def take(self, r: int, x: str, column: str, d: int = 0) -> None:
        """Fold in a value at one column for one row."""
        last, at = list(self.last[d])[r], f"{self.at[r]} + {d}"
        with self.e.braces(f"if ({x} < {last})"):
            self.e.put(
                f"{last} = kg_insert(values + {at}, columns + {at}, kept, {self.dim}, {x}, "
                f"(long long)({column}));"
            )

    def bound(self, r: int) -> str:
        """What a value has to be below for row r."""
        return list(self.last[0])[r]

    def finish(self) -> None:
        """Nothing: the lists are in memory, and the merging kernel follows."""

    def merge(self) -> None:
        """The k smallest of all parts' lists, part by part: an insertion keeps ties in order."""
        e, real = self.e, self.e.real
        parts = f"(int)KG(splits) * {self.kernel.lanes}"
        e.put("const int kept = (int)KG(kept);")
        e.put(f"const long long base = ((long long)batch * KG(M) + i) * kept * {self.dim};")
        e.put(f"{real} *const value = ({real} *){self.slot('out_a')} + base;")
        e.put(f"long long *const column = (long long *){self.slot('out_b')} + base;")
        with e.loop(0, f"kept * {self.dim}") as q:
            e.put(f"value[{q}] = {e.literal(float('inf'))}; column[{q}] = -1;")
        with e.loop(0, self.dim) as d:
            e.put(f"{real} bound = {e.literal(float('inf'))};")
            with e.loop(0, parts) as part:
                start = f"(((long long){part} * KG(batches) + batch) * KG(M) + i) * kept * {self.dim} + {d}"
                first = e.let("long long", start)
                with e.loop(0, "kept") as q:
                    at = f"{first} + (long long){q} * {self.dim}"
                    x = e.let(real, f"((const {real} *){self.slot('part_a')})[{at}]")
                    j = e.let("long long", f"((const long long *){self.slot('part_b')})[{at}]")
                    self._insert(x, j, d)
        with e.loop(0, f"kept * {self.dim}") as q:
            e.put(f"value[{q}] = ({real}){self.slot('sign')} * value[{q}];")

    def _insert(self, x: str, j: str, d: str) -> None:
        """Into the result; of equal values the smaller column stands first (parts of lanes interleave)."""
        e = self.e
        last, column = f"(kept - 1) * {self.dim} + {d}", "column[{}]".format
        before, now = f"(at - 1) * {self.dim} + {d}", f"at * {self.dim} + {d}"
        tie = f"({x} == bound && {j} >= 0 && {j} < {column(last)})"
        larger = f"(value[{before}] > {x} || (value[{before}] == {x} && {column(before)} > {j}))"
        with e.braces(f"if ({x} < bound || {tie})"):
            e.put("int at = kept - 1;")
            with e.braces(f"for (; at > 0 && {larger}; at--)"):
                e.put(f"value[{now}] = value[{before}]; column[{now}] = column[{before}];")
            e.put(f"value[{now}] = {x}; column[{now}] = {j};")
            e.put(f"bound = value[{last}];")


STATES = {"sum": SumState, "logsumexp": LogSumExpState, "min": MinState, "kmin": KMinState}


def state_of(kernel: TileKernel, k: int) -> State:
    """The state of task k of the kernel's plan."""
    task = kernel.plan.tasks[k]
    if task.exact is not None:
        from .cuda_candidates import Candidates

        return Candidates(kernel, k)
    if task.signal and kernel.s.tensor:
        from .cuda_mma import Products

        return Products(kernel, k)
    if task.law is not None:
        from .cuda_fold import FoldState

        return FoldState(kernel, k)
    if task.signal or (task.code == "sum" and task.core.dim > UNROLL):
        return ColumnsState(kernel, k)
    return STATES[task.code](kernel, k)

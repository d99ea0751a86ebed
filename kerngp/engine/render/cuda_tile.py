"""The CUDA kernels of a plan, rendered to one source: pack, tile, merge.

    kg_pack     fields of i, of j and of parameters, as records
    kg_tile     a block of threads: a tile of rows i against a range of j; each thread owns rows
    kg_merge    joins the parts of j, where it was split among blocks, in their order

Two forms of kg_tile. *Narrow*: records of j are staged in shared memory, two buffers in turn, and read by
all threads at once; fields of i stay in registers. *Wide*, for inner sums too long to unroll: records are
stored component by component, a thread computes a block of rows by columns, and neighbouring lanes share
rows and divide the columns.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from ..cuda_planner import CudaSchedule
from ..expr import Expr, postorder
from ..plan import Plan
from .block import Block
from .cuda_c import CudaEmitter
from .cuda_columns import ColumnSums
from .cuda_context import HEADER, CudaContext
from .cuda_states import Column, ColumnsState, State, state_of
from .lowering import Component, Index, Lowering, contractions, ranges

PACK_THREADS = 128
VECTOR = {"float32": ("float4", 4), "float64": ("double2", 2)}  # 16 bytes
COMPONENTS = "xyzw"


def render(plan: Plan) -> str:
    """The source of a plan; equal plans give equal text."""
    s = plan.schedule
    assert isinstance(s, CudaSchedule)
    context = CudaContext(plan)
    parts = [
        resources.files("kerngp.engine.render").joinpath("prelude.cuh").read_text(),
        f"struct KgContext {{ long long v[{context.size}]; }};",
        "\n".join(f"#define KG_{n} {context.slot(n)}" for n in HEADER),
        "#define KG(name) c.v[KG_##name]",
        Pack(plan).text(),
        *_split(plan),
        kernel_of(plan).text(),
        merge_text(plan),
    ]
    return "\n".join(parts) + "\n"


def _split(plan: Plan) -> list[str]:
    if not plan.schedule.tensor:
        return []
    from .cuda_mma import split_text

    return [split_text(plan)]


def guard(inside: bool) -> str:
    """Return unless the largest norm is (not) within the limit; without a word to look at, go on.

    Two forms of one plan may be launched, of which one returns: nobody has to wait for the device.
    """
    within = "(*(const unsigned *)KG(guard) <= (unsigned)KG(limit))"
    return f"if (KG(guard) && {within} != {str(inside).lower()}) return;"


def head(name: str, threads: int, blocks: int = 1) -> str:
    bounds = f"__launch_bounds__({threads}, {blocks})"
    return f'extern "C" __global__ void {bounds} {name}(const __grid_constant__ KgContext c)'


def padded(width: int, dtype: str) -> int:
    """Components of a record in shared memory: whole pieces of 16 bytes."""
    per = VECTOR[dtype][1]
    return -(-width // per) * per


class Records:
    """Where the fields of an axis stand in their records."""

    def __init__(self, plan: Plan):
        s = plan.schedule
        assert isinstance(s, CudaSchedule)
        self.wide = s.wide
        self.fields = {"i": plan.fields_i, "j": plan.fields_j, "p": plan.fields_p}
        self.offsets = {a: Plan.offsets(f) for a, f in self.fields.items()}
        width = {a: sum(f.dim for f in fields) for a, fields in self.fields.items()}
        self.width = {
            a: max(1, w) if s.wide or a == "p" else padded(max(1, w), plan.dtype) for a, w in width.items()
        }

    def place(self, axis: str, batch: str, row: str, component: str | int) -> str:
        """Index of a component in the records of an axis."""
        width = self.width[axis]
        if axis == "p":
            return f"(long long){batch} * {width} + {component}"
        if self.wide:
            rows = "KG(Mp)" if axis == "i" else "KG(Np)"
            return f"((long long){batch} * {width} + {component}) * {rows} + {row}"
        rows = "KG(M)" if axis == "i" else "KG(N)"
        return f"((long long){batch} * {rows} + {row}) * {width} + {component}"


class Pack:
    """kg_pack: a thread for each record of i, then of j, then of parameters."""

    def __init__(self, plan: Plan):
        self.plan, self.records, self.context = plan, Records(plan), CudaContext(plan)
        self.e = CudaEmitter(plan.dtype)

    def text(self) -> str:
        e = self.e
        rows = {
            "i": "KG(Mp)" if self.records.wide else "KG(M)",
            "j": "KG(Np)" if self.records.wide else "KG(N)",
            "p": "1",
        }
        with e.braces(head("kg_pack", PACK_THREADS)):
            if not self.plan.schedule.tensor:
                e.put(guard(False))
            e.put(f"long long t = blockIdx.x * {PACK_THREADS}LL + threadIdx.x;")
            for axis in "ijp":
                if not self.records.fields[axis]:
                    continue
                with e.braces(f"if (t < KG(batches) * {rows[axis]})"):
                    e.put(f"const long long batch = t / {rows[axis]}, row = t % {rows[axis]};")
                    last = {"i": "KG(M)", "j": "KG(N)", "p": "1"}[axis]
                    e.put(f"const long long source = row < {last} ? row : {last} - 1;")
                    self._record(axis)
                    e.put("return;")
                e.put(f"t -= KG(batches) * {rows[axis]};")
        return e.text()

    def _record(self, axis: str) -> None:
        e, real = self.e, self.e.real
        used = {v.attr[0]: v for f in self.records.fields[axis] for v in postorder(f) if v.op == "var"}
        for k, v in sorted(used.items()):
            address, row, inner, batch = (
                f"c.v[{self.context.arg(k, n)}]" for n in ("address", "row", "inner", "batch")
            )
            at = f"batch * {batch}" + ("" if v.attr[2] == "p" else f" + source * {row}")
            e.put(f"const {real} *const a{k} = (const {real} *){address} + ({at});")
            e.put(f"const long long s{k} = {inner};")

        def leaf(v: Expr, d: Component) -> Block:
            k = v.attr[0]
            at = d.value if isinstance(d, Index) else d
            return Block([[e.let(real, f"a{k}[{at} * s{k}]")]])

        low = Lowering(e, leaf, lambda axes: (1, 1))
        out = f"(({real} *)KG(records_{axis}))"
        norms = self._norms()
        for f, offset in zip(self.records.fields[axis], self.records.offsets[axis], strict=True):

            def store(d: Component, value: Block, offset: int = offset, norm: bool = f in norms) -> None:
                at = e.index_add(d.value if isinstance(d, Index) else d, offset)
                e.put(f"{out}[{self.records.place(axis, 'batch', 'row', at)}] = {value.cell};")
                if norm:
                    e.put(f"kg_raise((unsigned *)KG(guard), (unsigned)__float_as_int({value.cell}));")

            low.each(f, store)

    def _norms(self) -> set[Expr]:
        """Fields whose largest value decides whether tensor cores may be used."""
        if not self.plan.schedule.tensor:
            return set()
        from .cuda_mma import form_of

        form, fields = form_of(self.plan), self.records.fields
        return {fields["i"][form.a.attr[0]], fields["j"][form.b.attr[0]]}


class TileKernel:
    """What both forms of kg_tile share."""

    def __init__(self, plan: Plan):
        s = plan.schedule
        assert isinstance(s, CudaSchedule)
        self.plan, self.s, self.context, self.records = plan, s, CudaContext(plan), Records(plan)
        self.e = CudaEmitter(plan.dtype)
        self.rows, self.lanes, self.slab, self.group = s.rows, s.lanes, s.slab, s.group
        self.states: list[State] = []
        self.cut: Any = None  # of a long result, the range of components this code serves

    # ------------------------------------------------------------------ what the states ask for
    def task_slot(self, k: int, name: str) -> str:
        return f"c.v[{self.context.task(k, name)}]"

    def row(self, r: int) -> str:
        return f"row{r}"

    def slab_component(self, q: int) -> Index:
        lo, hi = self.cut
        return Index(f"min(slab0 + {q}, {hi} - 1)", lo, hi)

    def slab_end(self) -> str:
        return "KG(E)" if self.cut is None else str(self.cut[1])

    def signal(self, c: Column, q: int) -> str:
        """Value of column slab0 + q of the signal at a column j."""
        raise NotImplementedError

    def column_of(self, start: str, n: str) -> str:
        """Number of the n-th column of a group, of which ``start`` is the first."""
        return f"{start} + {n}"

    def row_lowering(self) -> Lowering:
        """Formulas that depend on the rows alone."""
        return self._lowering(lambda v, d: self._refuse(v))

    def _refuse(self, v: Expr) -> Block:
        raise AssertionError(f"{v} depends on j, outside of the loop over j")

    def at_columns(self, at: list[str]) -> Lowering:
        """Formulas at a column of its own for each row."""
        e = self.e

        def leaf(v: Expr, d: Component) -> Block:
            index = self._component("j", v, d)
            return Block([[e.let(e.real, f"rj[{self.records.place('j', 'batch', j, index)}]")] for j in at])

        return Lowering(
            e, lambda v, d: leaf(v, d) if v.attr[2] == "j" else self._own(v, d), lambda axes: (self.rows, 1)
        )

    def at_pair(self, r: int, column: str) -> Lowering:
        """Formulas at one row of the thread and one column."""
        e, where = self.e, {"i": f"from{r}", "j": column, "p": ""}

        def leaf(v: Expr, d: Component) -> Block:
            axis = v.attr[2]
            at = self.records.place(axis, "batch", where[axis], self._component(axis, v, d))
            return Block([[e.let(e.real, f"r{axis}[{at}]")]])

        return Lowering(e, leaf, lambda axes: (1, 1))

    # ------------------------------------------------------------------ leaves
    def _component(self, axis: str, v: Expr, d: Component) -> Any:
        return self.e.index_add(d.value if isinstance(d, Index) else d, self.records.offsets[axis][v.attr[0]])

    def _own(self, v: Expr, d: Component) -> Block:
        """A component of a field of the rows or of the parameters, from memory."""
        e, axis = self.e, v.attr[2]
        index = self._component(axis, v, d)
        if axis == "p":
            return Block([[e.let(e.real, f"rp[{self.records.place('p', 'batch', '', index)}]")]])
        names = [f"from{r}" for r in range(self.rows)]
        return Block([[e.let(e.real, f"ri[{self.records.place('i', 'batch', r, index)}]")] for r in names])

    def _lowering(self, leaf_j: Any, columns: int = 1, own: Any = None) -> Lowering:
        own = own or self._own
        return Lowering(
            self.e,
            lambda v, d: leaf_j(v, d) if v.attr[2] == "j" else own(v, d),
            lambda axes: (self.rows if "i" in axes else 1, columns if "j" in axes else 1),
        )

    # ------------------------------------------------------------------ the kernel
    def text(self) -> str:
        e, s = self.e, self.s
        with e.braces(head("kg_tile", s.threads, s.blocks)):
            e.put("KG_SHARED; (void)kg_shared;")
            e.put(guard(s.tensor))
            e.put("unsigned work = blockIdx.x;")
            for name in ("slot", "slab", "split"):
                e.put(
                    f"const int {name} = (int)(work % (unsigned)KG({name}s)); work /= (unsigned)KG({name}s);"
                )
            e.put("const long long batch = work;")
            if self.plan.ranged:
                e.put("const long long *const walk = (const long long *)KG(walk)")
                e.put("    + 4 * (slot * KG(splits) + split);")
                e.put("const int M = (int)walk[1];")
            else:
                e.put("const int M = (int)KG(M);")
                e.put("const int j_begin = (int)(split * KG(chunk));")
                e.put("const int j_end = (int)min((long long)j_begin + KG(chunk), KG(N));")
            for axis in "ijp":
                e.put(f"const {e.real} *const __restrict__ r{axis} = (const {e.real} *)KG(records_{axis});")
            e.put("(void)slab; (void)ri; (void)rj; (void)rp;")
            self._body_of_block()
        return e.text()

    def _body_of_block(self) -> None:
        """A block's work: one tile of rows, each range of result components with code of its own."""
        if not self.plan.ranged:
            self.e.put("const int tile = slot;")
        self._rows()
        for cut, condition, first in self._cuts():
            self.cut = cut
            with self.e.braces(condition):
                self.e.put(f"const int slab0 = {first}; (void)slab0;")
                self._tile()

    def _tile(self) -> None:
        """A tile of rows against the block's range of j."""
        e = self.e
        self.states = [state_of(self, k) for k, t in enumerate(self.plan.tasks) if t.by_row]
        for state in self.states:
            state.declare()
        if self.plan.ranged:
            e.put("const long long *const ranges = (const long long *)KG(walk_ranges);")
            with e.braces("for (long long range = walk[2]; range < walk[3]; range++)"):
                e.put("const int j_begin = (int)ranges[2 * range], j_end = (int)ranges[2 * range + 1];")
                self._loop()
        else:
            self._loop()
        for state in self.states:
            state.combine()
        for state in self.states:
            with e.braces("" if self.lanes == 1 or state.every_lane else "if (lane == 0)"):
                state.finish()

    def _cuts(self) -> list[tuple[Any, str, str]]:
        """Ranges of components with one source each: (range, condition for a slab to be in it, its start)."""
        task = self.plan.tasks[0]
        if len(self.plan.tasks) > 1 or not slabbed(self.plan):
            return [(None, "", "0")]
        if task.signal:
            return [(None, "", f"slab * {self.slab}")]
        out, before = [], 0
        for lo, hi in slab_ranges(self.plan):
            after = before + -(-(hi - lo) // self.slab)
            out.append(
                (
                    (lo, hi),
                    f"if (slab >= {before} && slab < {after})",
                    f"{lo} + (slab - {before}) * {self.slab}",
                )
            )
            before = after
        return out

    def _rows(self) -> None:
        """Numbers of the thread's rows; ``from`` is a row that exists."""
        raise NotImplementedError

    def _loop(self) -> None:
        raise NotImplementedError


class Narrow(TileKernel):
    """Records of j in shared memory, fields of i in registers."""

    def _rows(self) -> None:
        e, s = self.e, self.s
        first = "(int)walk[0]" if self.plan.ranged else f"tile * {s.tile}"
        for r in range(self.rows):
            e.put(f"const int row{r} = {first} + {r * s.threads} + (int)threadIdx.x;")
            e.put(f"const int from{r} = min(row{r}, M - 1);")
        used = {v for t in self.plan.tasks for v in postorder(t.core) if v.op == "var" and v.attr[2] != "j"}
        self.kept: dict[tuple[Expr, int], Block] = {}
        for v in sorted(used, key=lambda v: (v.attr[2], v.attr[0])):
            for d in range(v.dim):
                self.kept[v, d] = self._own(v, d)

    def _kept(self, v: Expr, d: Component) -> Block:
        return self.kept[v, d] if isinstance(d, int) else self._own(v, d)

    def _body_of_block(self) -> None:
        e = self.e
        self.vector, self.per = VECTOR[self.plan.dtype]
        self.width = self.records.width["j"]
        e.put(f"{e.real} *const shared = ({e.real} *)kg_shared;")
        self.sums = ColumnSums(self) if any(not t.by_row for t in self.plan.tasks) else None
        if self.sums is None:
            super()._body_of_block()
            return
        self.sums.declare(f"shared + {2 * self.s.block_j * self.width}")
        self.sums.clear()
        with e.braces("for (int tile = slot; tile < KG(tiles); tile += KG(slots))"):
            self._rows()
            for r in range(self.rows):
                e.put(f"const {e.real} weight{r} = row{r} < M;")
            self._tile()

    def _loop(self) -> None:
        e, s = self.e, self.s
        first = "j_begin"
        if self.plan.symmetric:  # from the diagonal on; tiles of rows are whole blocks of columns
            first = e.let("int", f"max(j_begin, tile * {s.tile})")
            e.put(f"const int behind = (tile + 1) * {s.tile};")
        self._stage("0", first)
        e.put("kg_copy_commit();")
        size = s.block_j * self.width
        loop = f"for (int j0 = {first}, turn = 0; j0 < j_end; j0 += {s.block_j}, turn ^= 1)"
        with e.lane_powers(), e.braces(loop):
            with e.braces(f"if (j0 + {s.block_j} < j_end)"):
                self._stage("turn ^ 1", f"j0 + {s.block_j}")
            e.put("kg_copy_commit();")
            e.put("kg_copy_wait<1>();")
            e.put("__syncthreads();")
            e.put(f"const {self.vector} *const records = (const {self.vector} *)(shared + turn * {size});")
            e.put("(void)records;")
            if self.plan.symmetric:
                with e.braces("if (j0 < behind)"):
                    self._columns(rows_only=True)
                with e.braces("else"):
                    self._columns()
            else:
                self._columns()
            for state in self.states:
                state.flush()
            e.put("__syncthreads();")
            if self.sums is not None:
                with e.braces("if (j0 >= behind)") if self.plan.symmetric else e.braces(""):
                    self.sums.add()

    def _stage(self, buffer: str, j: str) -> None:
        s = self.s
        pieces = self.width // self.per
        source = self.records.place("j", "batch", f"({j})", 0)
        count = f"min({s.block_j}, j_end - ({j})) * {pieces}"
        self.e.put(f"kg_stage(shared + ({buffer}) * {s.block_j * self.width}, rj + {source}, {count});")
        self._stage_signal(buffer, j)

    def _columns(self, rows_only: bool = False) -> None:
        """The staged columns, several at a time, or one by one where the block of them is not full."""
        e, s = self.e, self.s
        group = s.group if self.sums is None or rows_only else s.gather
        with e.braces(f"if (j0 + {s.block_j} <= j_end)"):
            with e.loop(0, s.block_j, group, unroll=s.unroll) as j:
                self._body(j, group, rows_only)
        with e.braces("else"):
            with e.loop(0, "j_end - j0", 1, unroll=1) as j:
                self._body(j, 1, rows_only)

    def _body(self, j: str, count: int, rows_only: bool) -> None:
        e = self.e
        columns = []
        for n in range(count):
            at = e.index_add(j, n)
            loaded: dict[int, str] = {}

            def leaf(v: Expr, d: Component, at: Any = at, loaded: dict[int, str] = loaded) -> Block:
                return self._shared(v, d, at, loaded)

            columns.append(Column(self._lowering(leaf, own=self._kept), f"j0 + {at}", None))
        self.at_body, self.signals = j, {}
        for state in self.states:
            state.step(columns)
        if self.sums is not None and not rows_only:
            self.sums.step(columns, j)

    def _shared(self, v: Expr, d: Component, at: Any, loaded: dict[int, str]) -> Block:
        assert isinstance(d, int)
        k, lane = divmod(self.records.offsets["j"][v.attr[0]] + d, self.per)
        if k not in loaded:
            loaded[k] = self.e.let(
                self.vector, f"records[{self.e.index_mul(at, self.width // self.per)} + {k}]"
            )
        return Block([[f"{loaded[k]}.{COMPONENTS[lane]}"]])

    def _stage_signal(self, buffer: str, j: str) -> None:
        if not self.plan.tasks[0].signal:
            return
        e, s = self.e, self.s
        count = f"min({s.block_j}, j_end - ({j})) * {s.slab}"
        with e.braces(f"for (int k = threadIdx.x; k < {count}; k += {s.threads})"):
            e.put(f"const int q = k % {s.slab}, n = k / {s.slab};")
            row, inner = f"({j} + n) * KG(signal_row)", "(slab0 + q) * KG(signal_inner)"
            e.put(f"const long long at = batch * KG(signal_batch) + {row} + {inner};")
            value = f"slab0 + q < KG(E) ? ((const {e.real} *)KG(signal))[at] : 0"
            e.put(f"{self._signal_buffer(buffer)}[k] = {value};")

    def _signal_buffer(self, buffer: str) -> str:
        return f"(shared + {2 * self.s.block_j * self.width} + ({buffer}) * {self.s.block_j * self.s.slab})"

    def signal(self, c: Column, q: int) -> str:
        e, per = self.e, self.per
        key = (c.number, q // per)
        found = self.signals
        if q % per == 0:
            at = f"({self.at_body}) * {self.slab // per} + {q // per}"
            found[key] = e.let(self.vector, f"((const {self.vector} *){self._signal_buffer('turn')})[{at}]")
        return f"{found[key]}.{COMPONENTS[q % per]}"


class Wide(TileKernel):
    """Blocks of rows by columns, components walked by loops, records read through the caches."""

    def _rows(self) -> None:
        e, s = self.e, self.s
        e.put(f"const int lane = (int)threadIdx.x % {s.lanes};")
        start = f"(int)walk[0] / {s.rows} * {s.rows}" if self.plan.ranged else f"tile * {s.tile}"
        e.put(f"const int first = {start} + (int)threadIdx.x / {s.lanes} * {s.rows};")
        for r in range(self.rows):
            e.put(f"const int from{r} = first + {r};")  # records are padded to whole tiles
            before = f"from{r} < (int)walk[0] ? M : " if self.plan.ranged else ""
            e.put(f"const int row{r} = {before}from{r};")

    def _loop(self) -> None:
        e, s = self.e, self.s
        span = s.lanes * s.columns
        begin, inside = "j_begin", ""
        if self.plan.ranged:  # pieces are aligned
            begin, inside = f"j_begin / {span} * {span}", " && j + {} >= j_begin"
        with e.braces(f"for (int j0 = {begin}, turn = 1; j0 < j_end; j0 += {span}, turn++)"):
            e.put(f"const int j = j0 + lane * {s.columns};")
            exists = [e.let("bool", f"j + {n} < j_end{inside.format(n)}") for n in range(s.columns)]
            low = self._lowering(self._column_leaf, s.columns, self._row_leaf)
            for task in self.plan.tasks:
                for c in contractions(task.core):
                    self._contract(c, low)
            columns = [Column(low, f"(j + {n})", exists[n], n) for n in range(s.columns)]
            for at in range(0, s.columns, s.group):
                for state in self.states:
                    state.step(columns[at : at + s.group])
            with e.braces(f"if (turn % {s.block_j} == 0)"):
                for state in self.states:
                    state.flush()
        for state in self.states:
            state.flush()

    def _contract(self, c: Expr, low: Lowering) -> None:
        """An inner sum for all pairs of the block in one loop over its components."""
        e, f = self.e, c.args[0]
        low.settle(f)
        sums = e.var(e.expand(e.const(0.0), (self.rows, self.s.columns)))
        for cut in ranges(f):
            with e.loop(*cut, unroll=self.s.unroll) as d, low.scope():
                sums.set(low.accumulate(f, Index(d, *cut), sums.get()))
        low.preset(c, 0, sums.get())

    def _pieces(self, base: str, at: str, count: int) -> list[str]:
        """Neighbouring elements, by whole pieces of 16 bytes."""
        e = self.e
        vector, per = VECTOR[self.plan.dtype]
        names = []
        for k in range(0, count, per):
            v = e.let(vector, f"*(const {vector} *)({base} + {at} + {k})")
            names += [f"{v}.{COMPONENTS[n]}" for n in range(per)]
        return names

    def _row_leaf(self, v: Expr, d: Component) -> Block:
        if v.attr[2] == "p":
            return self._own(v, d)
        at = self.records.place("i", "batch", "first", self._component("i", v, d))
        return Block([[x] for x in self._pieces("ri", at, self.rows)])

    def _column_leaf(self, v: Expr, d: Component) -> Block:
        at = self.records.place("j", "batch", "j", self._component("j", v, d))
        return Block([self._pieces("rj", at, self.s.columns)])

    def signal(self, c: Column, q: int) -> str:
        e = self.e
        at = f"batch * KG(signal_batch) + {c.number} * KG(signal_row) + (slab0 + {q}) * KG(signal_inner)"
        there = f"slab0 + {q} < KG(E)" + (f" && {c.exists}" if c.exists else "")
        return e.let(e.real, f"{there} ? ((const {e.real} *)KG(signal))[{at}] : 0")


def kernel_of(plan: Plan) -> TileKernel:
    s = plan.schedule
    assert isinstance(s, CudaSchedule)
    if s.tensor:
        from .cuda_mma import Tensor

        return Tensor(plan)
    return Wide(plan) if s.wide else Narrow(plan)


def slabbed(plan: Plan) -> bool:
    """Whether result columns are divided among blocks."""
    kernel = kernel_of(plan)
    return any(isinstance(state_of(kernel, k), ColumnsState) for k, t in enumerate(plan.tasks) if t.by_row)


def slab_ranges(plan: Plan) -> list[tuple[int, int]]:
    """The components of a long result, cut where their source changes."""
    task = plan.tasks[0]
    f = task.core if task.post is None or task.post.dim == 1 else task.core * task.post
    return ranges(f)


def merge_text(plan: Plan) -> str:
    """kg_merge: a thread for each row whose parts are to be joined, then for each column of sums over i."""
    kernel = kernel_of(plan)
    e = kernel.e
    with e.braces(head("kg_merge", PACK_THREADS)):
        e.put(guard(plan.schedule.tensor))
        e.put(f"long long t = blockIdx.x * {PACK_THREADS}LL + threadIdx.x;")
        e.put("const long long rows = KG(batches) * KG(M);")
        with e.braces("if (t < rows)"):
            e.put("const long long batch = t / KG(M), i = t % KG(M); (void)batch; (void)i;")
            for k, task in enumerate(plan.tasks):
                if task.by_row:
                    with e.braces("" if task.code == "kmin" else "if (KG(splits) > 1)"):
                        state_of(kernel, k).merge()
            e.put("return;")
        merge_columns(kernel)
    return e.text()


def merge_columns(kernel: TileKernel) -> None:
    """Add up the slots of the sums over i."""
    e, d = kernel.e, 0
    tasks = [(k, t) for k, t in enumerate(kernel.plan.tasks) if not t.by_row]
    if not tasks:
        return
    total = sum(t.core.dim for _, t in tasks)
    e.put("t -= rows;")
    e.put("if (t >= KG(batches) * KG(N)) return;")
    e.put("const long long batch = t / KG(N), j = t % KG(N);")
    for k, task in tasks:
        for component in range(task.core.dim):
            with e.braces(""):
                e.put("double total = 0;")
                with e.loop(0, "(int)KG(slots)") as s:
                    at = f"(((long long){s} * KG(batches) + batch) * {total} + {d}) * KG(N) + j"
                    e.put(f"total += ((const double *)KG(sums))[{at}];")
                out = f"(({e.real} *){kernel.task_slot(k, 'out_a')})"
                e.put(f"{out}[(batch * KG(N) + j) * {task.core.dim} + {component}] = ({e.real})total;")
            d += 1


__all__ = ["PACK_THREADS", "kernel_of", "render", "slab_ranges", "slabbed"]

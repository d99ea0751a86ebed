"""The CUDA tile kernel on tensor cores: inner products of numbers split into halves of 16 bits.

u = u' + u'' in float16 carries 22 bits. <u, v> = u'v' + u'v'' + u''v' side by side along K, and the norms
a and b in three words against ones, are one product of m16n8k16 fragments that accumulates in float32 (the
splitting is that of Ootomo and Yokota, *Recovering single precision accuracy from Tensor Cores*, 2022).
Fragments are laid out once, by kg_split, as the lanes of a warp read them.

The error is some 1e-6 of a + b, so data far from their centre must not come here: kg_pack raises a word
of memory to the largest norm, and the kernels of both forms of a plan look at it: one of them returns.
"""

from __future__ import annotations

from typing import Any

from ..expr import Expr
from ..plan import Plan
from ..tensor_form import TensorForm, tensor_form
from .block import Block
from .cuda_states import Column, ColumnsState
from .cuda_tile import PACK_THREADS, Wide, guard, head
from .lowering import Component

CHUNK = 8  # products added up by the tensor cores before float32 takes over: they truncate
NORM_WORDS = 3
POLYNOMIAL = 2  # of 8 exponentials are computed by multiply-adds: the other unit is the bottleneck


def fragments(dim: int, words: int) -> int:
    """Products of 16 components that an inner product of ``dim`` takes."""
    return -(-((3 if words == 2 else 1) * dim + 2 * NORM_WORDS) // 16)


def form_of(plan: Plan) -> TensorForm:
    form = tensor_form([t.core for t in plan.tasks])
    assert form is not None
    return form


class Tensor(Wide):
    """Warps take 16 rows times `tiles` against 8 columns times `bands`; four lanes share rows."""

    def __init__(self, plan: Plan):
        super().__init__(plan)
        self.form = form_of(plan)
        self.tiles, self.bands = self.s.rows // 2, self.s.columns // 2
        self.parts = fragments(self.form.U.dim, self.s.words)
        self.selects = any(t.exact is not None for t in plan.tasks)

    # ------------------------------------------------------------------ where rows and columns are
    def _rows(self) -> None:
        e, s = self.e, self.s
        e.put("const int lane32 = (int)threadIdx.x % 32, lane = lane32 % 4;")
        e.put(f"const int first = tile * {s.tile} + (int)threadIdx.x / 32 * {16 * self.tiles} + lane32 / 4;")
        for r in range(self.rows):
            e.put(f"const int row{r} = first + {16 * (r // 2) + 8 * (r % 2)};")
            e.put(f"const int from{r} = row{r};")
        e.put(f"const int tile16 = tile * {s.tile // 16} + (int)threadIdx.x / 32 * {self.tiles};")
        e.put("const uint4 *const fragments_i = (const uint4 *)KG(fragments_i);")
        e.put("const uint2 *const fragments_j = (const uint2 *)KG(fragments_j);")
        self.kept: list[list[str]] = []
        if self.parts <= 3:  # few enough to stay in registers
            self.kept = [[self._fragment_i(t, str(k)) for k in range(self.parts)] for t in range(self.tiles)]

    def _fragment_i(self, t: int, k: str) -> str:
        at = f"((batch * (KG(Mp) / 16) + tile16 + {t}) * {self.parts} + {k}) * 32 + lane32"
        return self.e.let("uint4", f"fragments_i[{at}]")

    def _fragment_j(self, band: int, k: str) -> str:
        at = f"((batch * (KG(Np) / 8) + j0 / 8 + {band}) * {self.parts} + {k}) * 32 + lane32"
        return self.e.let("uint2", f"fragments_j[{at}]")

    def column_of(self, start: str, n: str) -> str:
        return f"{start} + 8 * ({n} / 2) + {n} % 2"

    def _row_leaf(self, v: Expr, d: Component) -> Block:
        return self._own(v, d)

    def _column_leaf(self, v: Expr, d: Component) -> Block:
        e, names = self.e, []
        at = self.records.place("j", "batch", "(j0 + 2 * lane)", self._component("j", v, d))
        for band in range(self.bands):
            two = e.let("float2", f"*(const float2 *)(rj + {at} + {8 * band})")
            names += [f"{two}.x", f"{two}.y"]
        return Block([names])

    # ------------------------------------------------------------------ the loop over j
    def _loop(self) -> None:
        e, s = self.e, self.s
        span = s.lanes * s.columns
        with e.braces("for (int j0 = j_begin; j0 < j_end;)"):
            e.put(f"const int stop = min(j0 + {span * s.block_j}, j_end);")
            e.put("#pragma unroll 1")
            with e.braces(f"for (; j0 + {span} <= stop; j0 += {span})"):
                self._step(self._products(), False)
            with e.braces("if (j0 < stop)"):
                self._step(self._products(), True)
                e.put("j0 = stop;")
            for state in self.states:
                state.flush()

    def _step(self, products: Block, tail: bool) -> None:
        e, form = self.e, self.form
        numbers = [f"(j0 + 2 * lane + {8 * (n // 2) + n % 2})" for n in range(self.s.columns)]
        exists = [e.let("bool", f"{j} < j_end") if tail else None for j in numbers]
        low = self._lowering(self._column_leaf, self.s.columns, self._row_leaf)
        if form.exponential is not None:
            low.preset(form.exponential, 0, self._powers(products))
        elif self.selects:
            low.preset(form.node, 0, products)
        else:
            low.preset(form.node, 0, e.apply("kg_most", products, 0.0))
        columns = [Column(low, j, x, n) for n, (j, x) in enumerate(zip(numbers, exists, strict=True))]
        for state in self.states:
            state.step(columns)

    def _powers(self, products: Block) -> Block:
        """2 to the power of each product; a share of them on the units that have room."""
        e, count, rows = self.e, 0, []
        for row in products.cells:
            names = []
            for cell in row:
                function = "kg_exp2_fma" if count % 8 < POLYNOMIAL else "kg_exp2"
                names.append(e.let("float", f"{function}({cell})"))
                count += 1
            rows.append(names)
        return Block(rows)

    def _products(self) -> Block:
        """<U, V> + a + b for the rows and columns of the thread."""
        e = self.e
        names = [[e.name("d") for _ in range(self.bands)] for _ in range(self.tiles)]
        for name in (n for row in names for n in row):
            e.put(f"float {name}[4] = {{0, 0, 0, 0}};")
        if self.parts <= 3:
            for k in range(self.parts):
                self._multiply(names, [row[k] for row in self.kept], str(k))
        else:
            self._in_chunks(names)
        return Block(
            [
                [f"{names[r // 2][n // 2]}[{2 * (r % 2) + n % 2}]" for n in range(self.s.columns)]
                for r in range(self.rows)
            ]
        )

    def _in_chunks(self, names: list[list[str]]) -> None:
        e = self.e
        with e.loop(0, self.parts, CHUNK, unroll=1) as start:
            part = [[e.name("d") for _ in range(self.bands)] for _ in range(self.tiles)]
            for name in (n for row in part for n in row):
                e.put(f"float {name}[4] = {{0, 0, 0, 0}};")
            with e.loop(start, f"min({start} + {CHUNK}, {self.parts})", unroll=2) as k:
                self._multiply(part, [self._fragment_i(t, k) for t in range(self.tiles)], k)
            for total, own in zip((n for r in names for n in r), (n for r in part for n in r), strict=True):
                for c in range(4):
                    e.put(f"{total}[{c}] += {own}[{c}];")

    def _multiply(self, names: list[list[str]], rows: list[str], k: str) -> None:
        for band in range(self.bands):
            b = self._fragment_j(band, k)
            for t, a in enumerate(rows):
                self.e.put(f"kg_mma({names[t][band]}, {a}, {b});")

    def _at(self, axis: str, v: Expr, d: str) -> Any:
        return self.e.index_add(d, self.records.offsets[axis][v.attr[0]])


class Products(ColumnsState):
    """Sums of many columns as a second product on tensor cores, in tf32: kernel values times the signal.

    Both are split into two words of tf32, which has the range of float32, the signal by kg_split. A lane
    holds two columns of each group of eight, for all rows of its group of lanes. The order of k within a
    product is free: a lane's own columns 2 q and 2 q + 1 of the first product are k = q and q + 4 of the
    second.
    """

    every_lane = True

    def declare(self) -> None:
        e, kernel = self.e, self.kernel
        assert isinstance(kernel, Tensor)
        self.tensor = kernel
        self.groups = kernel.slab // 8
        self.names = [[e.name("o") for _ in range(self.groups)] for _ in range(kernel.tiles)]
        for o in self._all():
            for name in (o, f"{o}_high", f"{o}_low"):
                e.put(f"float {name}[4] = {{0, 0, 0, 0}};")
        e.put("const uint4 *const fragments_s = (const uint4 *)KG(fragments_s);")

    def _all(self) -> list[str]:
        return [name for row in self.names for name in row]

    def step(self, columns: list[Column]) -> None:
        kernel = self.tensor
        values = [self.value(c, 0, 0.0) for c in columns]
        for band in range(kernel.bands):
            pair = values[2 * band : 2 * band + 2]
            split = [self._rows_of(pair, t) for t in range(kernel.tiles)]
            for group in range(self.groups):
                self._multiply(band, group, split)

    def _rows_of(self, pair: list[Block], t: int) -> tuple[str, str]:
        """The operand of a tile of rows, in two words."""
        e = self.e
        cells = [pair[n].cells[2 * t + h][0] for n in (0, 1) for h in (0, 1)]
        high = [e.let("unsigned", f"kg_tf32({x})") for x in cells]
        low = [e.let("unsigned", f"kg_tf32_rest({x}, {h})") for x, h in zip(cells, high, strict=True)]
        return (
            e.let("uint4", f"make_uint4({', '.join(high)})"),
            e.let("uint4", f"make_uint4({', '.join(low)})"),
        )

    def _multiply(self, band: int, group: int, rows: list[tuple[str, str]]) -> None:
        e = self.e
        at = f"(batch * (KG(Np) / 8) + j0 / 8 + {band}) * (KG(slabs) * {self.groups})"
        word = e.let("uint4", f"fragments_s[({at} + slab * {self.groups} + {group}) * 32 + lane32]")
        first = e.let("uint2", f"make_uint2({word}.x, {word}.y)")
        second = e.let("uint2", f"make_uint2({word}.z, {word}.w)")
        for t, (a, rest) in enumerate(rows):
            o = self.names[t][group]
            for x, y in ((a, first), (a, second), (rest, first))[: 3 if self.tensor.s.words == 2 else 1]:
                e.put(f"kg_mma_tf32({o}, {x}, {y});")

    def flush(self) -> None:
        for o in self._all():
            with self.e.loop(0, 4) as k:
                self.e.put(f"kg_add({o}_high[{k}], {o}_low[{k}], {o}[{k}]);")
                self.e.put(f"{o}[{k}] = 0;")

    def combine(self) -> None:
        """Nothing: no two lanes hold the same result."""

    def finish(self) -> None:
        e, post = self.e, self.task.post
        factor = None if post is None else e.expand(self.kernel.row_lowering().scalar(post), (self.rows, 1))
        for t, row in enumerate(self.names):
            for group, o in enumerate(row):
                for k in range(4):
                    r = 2 * t + k // 2
                    column = f"(slab0 + {8 * group + k % 2} + 2 * lane)"
                    value = f"kg_sum({o}_high[{k}], {o}_low[{k}])"
                    value = value if factor is None else f"{value} * (double){factor.cells[r][0]}"
                    with e.braces(f"if ({self.kernel.row(r)} < M && {column} < KG(E))"):
                        self.write(f"((long long){self.kernel.row(r)} * KG(E) + {column})", value)


def split_text(plan: Plan) -> str:
    """kg_split: a thread for each lane of each fragment of i, then of j."""
    kernel = Tensor(plan)
    e = kernel.e
    with e.braces(head("kg_split", PACK_THREADS)):
        e.put(guard(True))
        for axis in "ij":
            e.put(f"const float *const r{axis} = (const float *)KG(records_{axis});")
        if kernel.selects:
            e.put("const float unit = kg_unit(*(const unsigned *)KG(guard));")
        e.put(f"long long t = blockIdx.x * {PACK_THREADS}LL + threadIdx.x;")
        for axis, tiles in (("i", "(KG(Mp) / 16)"), ("j", "(KG(Np) / 8)")):
            e.put(f"const long long n{axis} = KG(batches) * {tiles} * {kernel.parts} * 32;")
            with e.braces(f"if (t < n{axis})"):
                e.put(f"const int lane32 = (int)(t % 32), part = (int)(t / 32 % {kernel.parts});")
                e.put(f"const long long tile = t / 32 / {kernel.parts} % {tiles};")
                e.put(f"const long long batch = t / 32 / {kernel.parts} / {tiles};")
                _component(kernel, axis)
                _store(kernel, axis)
                e.put("return;")
            e.put(f"t -= n{axis};")
        if any(task.signal for task in plan.tasks):
            _signal(kernel)
    return e.text()


def _signal(kernel: Tensor) -> None:
    """The signal in two words of tf32, in columns of eight, for each eight rows j."""
    e, groups = kernel.e, kernel.slab // 8
    e.put(f"const long long groups = KG(slabs) * {groups};")
    e.put("if (t >= KG(batches) * (KG(Np) / 8) * groups * 32) return;")
    e.put("const int lane32 = (int)(t % 32);")
    e.put("const long long column = t / 32 % groups * 8 + lane32 / 4;")
    e.put("const long long j = t / 32 / groups % (KG(Np) / 8) * 8 + lane32 % 4 * 2;")
    e.put("const long long batch = t / 32 / groups / (KG(Np) / 8);")
    with e.braces("auto value = [&](long long j) -> float", "};"):
        e.put("const long long at = j * KG(signal_row) + column * KG(signal_inner);")
        e.put("if (j >= KG(N) || column >= KG(E)) return 0.0f;")
        e.put("return ((const float *)KG(signal))[batch * KG(signal_batch) + at];")
    e.put("const float x = value(j), y = value(j + 1);")
    e.put("const unsigned p = kg_tf32(x), q = kg_tf32(y);")
    e.put("const uint4 words = make_uint4(p, q, kg_tf32_rest(x, p), kg_tf32_rest(y, q));")
    e.put("((uint4 *)KG(fragments_s))[t] = words;")


def _component(kernel: Tensor, axis: str) -> None:
    """value(k, at): component k along K of row ``at`` of the tile.

    i: U', U', U'', the words of a, ones; j: V', V'', V', ones, the words of b. With one word for a number
    U' and V' alone. Exponents are scaled to powers of two; selections, where only ratios count, to lengths
    that suit float16.
    """
    e, form = kernel.e, kernel.form
    D, i, two = form.U.dim, axis == "i", kernel.s.words == 2
    vector, norm = (form.U, form.a) if i else (form.V, form.b)
    end = 3 * D if two else D
    words, ones = (end, end + NORM_WORDS) if i else (end + NORM_WORDS, end)
    scale, both = ("unit * unit", "unit") if kernel.selects else (e.literal(form.scale), "")

    def read(v: Expr, d: str) -> str:
        return f"r{axis}[{kernel.records.place(axis, 'batch', 'row', kernel._at(axis, v, d))}]"

    with e.braces("auto value = [&](int k, int at) -> float", "};"):
        e.put(f"const long long row = tile * {16 if i else 8} + at;")
        factor = f" * {both}" if both else f" * {scale}" if i else ""
        component, low = read(vector, f"k % {D}"), f"k / {D} == {2 if i else 1}"
        e.put(f"if (k < {end}) return kg_part({component}{factor}, {low});")
        e.put(f"if (k >= {words} && k < {words + NORM_WORDS})")
        e.put(f"  return kg_part({read(norm, '0')} * {scale}, k - {words});")
        e.put(f"return k >= {ones} && k < {ones + NORM_WORDS} ? 1.0f : 0.0f;")


def _store(kernel: Tensor, axis: str) -> None:
    """The halves of a lane, as the PTX manual lays out operands of m16n8k16."""
    e = kernel.e
    e.put("const int k = part * 16 + lane32 % 4 * 2, at = lane32 / 4;")
    pair = "kg_halves(value(k + {0}, at + {1}), value(k + {0} + 1, at + {1}))".format
    if axis == "i":
        four = ", ".join((pair(0, 0), pair(0, 8), pair(8, 0), pair(8, 8)))
        e.put(f"((uint4 *)KG(fragments_i))[t] = make_uint4({four});")
    else:
        e.put(f"((uint2 *)KG(fragments_j))[t] = make_uint2({pair(0, 0)}, {pair(8, 0)});")

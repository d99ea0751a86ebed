"""Emitter of CUDA C++: the target language of the cuda backend.

It has the primitives of `llvm.Emitter` that formulas and lowering rules use, but the cells of a `Block`
are names of scalars of one thread: rows are the points i of the thread. A value is computed once, into
a constant; the compiler decides about registers. Nothing here compiles anything; `text` is the product.

>>> e = CudaEmitter("float32")
>>> x = Block([["x0"], ["x1"]])
>>> print(e.fma(x, x, 1.0).cells)
(('v0',), ('v1',))
>>> print(e.text())
const float v0 = kg_fma(x0, x0, 1.0f);
const float v1 = kg_fma(x1, x1, 1.0f);
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np

from .. import formats
from ..formats import words
from .block import Block, column, expand

Operand = Block | float | int
Index = str | int
LOG2E = 1.4426950408889634
OWN = frozenset(  # functions of the device, in the prelude
    "acos asin atan atan2 cos cosh erf erfc exp expm1 lgamma log log1p pow rsqrt sin sinh tanh".split()
)


class Var:
    """Mutable registers, a grid of them."""

    def __init__(self, e: CudaEmitter, initial: Block, kind: str):
        self.e, self.kind, self.shape = e, kind, initial.shape
        self.names = [[e.name("r") for _ in row] for row in initial.cells]
        for name, cell in zip(self, initial, strict=True):
            e.put(f"{kind} {name} = {cell};")

    def __iter__(self) -> Iterator[str]:
        return (name for row in self.names for name in row)

    def get(self) -> Block:
        """The present values: a later `set` does not change them."""
        return Block([[self.e.let(self.kind, name) for name in row] for row in self.names])

    def set(self, value: Operand) -> None:
        block = value if isinstance(value, Block) else self.e.const(value)
        for name, cell in zip(self, self.e.expand(block, self.shape), strict=True):
            self.e.put(f"{name} = {cell};")


class Array:
    """Local memory for ``count`` blocks of one shape, by a number known at run time only."""

    def __init__(self, e: CudaEmitter, count: int, shape: tuple[int, int]):
        self.e, self.shape = e, shape
        self.names = [[e.name("a") for _ in range(shape[1])] for _ in range(shape[0])]
        for row in self.names:
            for name in row:
                e.put(f"{e.real} {name}[{count}];")

    def get(self, index: Index) -> Block:
        return Block([[self.e.let(self.e.real, f"{name}[{index}]") for name in row] for row in self.names])

    def set(self, index: Index, value: Block) -> None:
        cells = self.e.expand(value, self.shape).cells
        for row, values in zip(self.names, cells, strict=True):
            for name, cell in zip(row, values, strict=True):
                self.e.put(f"{name}[{index}] = {cell};")


class CudaEmitter:
    """Builds the text of one kernel.

    Parameters
    ----------
    dtype : {"float32", "float64"}
    """

    fused = True
    scaling = False

    def __init__(self, dtype: str):
        self.dtype = dtype
        self.real = "float" if dtype == "float32" else "double"
        self._lines: list[str] = []
        self._depth = 0
        self._names = itertools.count()  # shared with copies, as the lines are
        self.powers: str | None = None  # of 2, one in each lane: see `lane_powers`

    def in_float64(self) -> CudaEmitter:
        """An emitter of the same text whose real numbers are double."""
        e = copy.copy(self)
        e.dtype, e.real = "float64", "double"
        return e

    # ------------------------------------------------------------------ text
    def text(self) -> str:
        return "\n".join(self._lines)

    def put(self, line: str) -> None:
        """One line, indented as the blocks around it demand."""
        self._lines.append("  " * self._depth + line)

    def name(self, prefix: str = "v") -> str:
        return f"{prefix}{next(self._names)}"

    def let(self, kind: str, expression: str) -> str:
        """A new constant; returns its name."""
        name = self.name()
        self.put(f"const {kind} {name} = {expression};")
        return name

    @contextmanager
    def braces(self, head: str, tail: str = "}") -> Iterator[None]:
        """``head {`` ... ``}``."""
        self.put(head + " {")
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            self.put(tail)

    @contextmanager
    def loop(self, lo: Index, hi: Index, step: Index = 1, unroll: int = 0) -> Iterator[str]:
        """``for (i = lo; i < hi; i += step)``; yields the counter's name."""
        i = self.name("i")
        if unroll:
            self.put(f"#pragma unroll {unroll}")
        with self.braces(f"for (int {i} = {lo}; {i} < {hi}; {i} += {step})"):
            yield i

    # ------------------------------------------------------------------ blocks
    def expand(self, block: Block, shape: tuple[int, int]) -> Block:
        return expand(block, shape)

    def column(self, block: Block, n: int) -> Block:
        return column(block, n)

    def const(self, x: float, like: Any = None) -> Block:
        return Block([[self.literal(x)]])

    def literal(self, x: float) -> str:
        suffix = ""
        if self.dtype == "float32":
            with np.errstate(over="ignore"):
                x, suffix = float(np.float32(x)), "f"
        if math.isnan(x):
            return f"({self.real})KG_NAN"
        if math.isinf(x):
            return f"({'-' if x < 0 else ''}({self.real})KG_INF)"
        return f"{x!r}{suffix}" if math.copysign(1.0, x) > 0 else f"({x!r}{suffix})"

    def var(self, initial: Block, kind: str | None = None) -> Var:
        return Var(self, initial, kind or self.real)

    def array(self, count: int, shape: tuple[int, int]) -> Array:
        return Array(self, count, shape)

    def map(self, form: Callable[..., str], *operands: Operand, kind: str | None = None) -> Block:
        """One expression for each cell of the broadcast operands."""
        blocks = [x if isinstance(x, Block) else self.const(x) for x in operands]
        rows, columns = (max(b.shape[axis] for b in blocks) for axis in (0, 1))
        grids = [self.expand(b, (rows, columns)).cells for b in blocks]
        kind = kind or self.real
        return Block(
            [[self.let(kind, form(*(g[i][j] for g in grids))) for j in range(columns)] for i in range(rows)]
        )

    def apply(self, function: str, *operands: Operand) -> Block:
        return self.map(lambda *cells: f"{function}({', '.join(cells)})", *operands)

    # ------------------------------------------------------------------ real primitives
    def add(self, a: Operand, b: Operand) -> Block:
        return self.map(lambda x, y: f"{x} + {y}", a, b)

    def sub(self, a: Operand, b: Operand) -> Block:
        return self.map(lambda x, y: f"{x} - {y}", a, b)

    def mul(self, a: Operand, b: Operand) -> Block:
        return self.map(lambda x, y: f"{x} * {y}", a, b)

    def div(self, a: Operand, b: Operand) -> Block:
        if isinstance(a, Block) and a.shape == (1, 1) and a.cell in ("1.0f", "1.0"):
            return self.apply("kg_rcp", b)
        return self.map(lambda x, y: f"{x} / {y}", a, b)

    def neg(self, a: Operand) -> Block:
        return self.map(lambda x: f"-{x}", a)

    def abs(self, a: Operand) -> Block:
        return self.apply("kg_abs", a)

    def fma(self, a: Operand, b: Operand, c: Operand) -> Block:
        return self.apply("kg_fma", a, b, c)

    def minimum(self, a: Operand, b: Operand) -> Block:
        """``a < b ? a : b``: where either operand is NaN the result is ``b``."""
        return self.map(lambda x, y: f"{x} < {y} ? {x} : {y}", a, b)

    def maximum(self, a: Operand, b: Operand) -> Block:
        return self.map(lambda x, y: f"{x} > {y} ? {x} : {y}", a, b)

    def sqrt(self, a: Operand) -> Block:
        return self.apply("kg_sqrt", a)

    def floor(self, a: Operand) -> Block:
        return self.apply("kg_floor", a)

    def round_even(self, a: Operand) -> Block:
        """The nearest integer as a real, ties to even."""
        return self.apply("kg_rint", a)

    def copysign(self, magnitude: Operand, sign: Operand) -> Block:
        return self.apply("kg_copysign", magnitude, sign)

    # ------------------------------------------------------------------ comparisons and masks
    def _compare(self, sign: str, a: Operand, b: Operand) -> Block:
        return self.map(lambda x, y: f"{x} {sign} {y}", a, b, kind="bool")

    def lt(self, a: Operand, b: Operand) -> Block:
        return self._compare("<", a, b)

    def le(self, a: Operand, b: Operand) -> Block:
        return self._compare("<=", a, b)

    def gt(self, a: Operand, b: Operand) -> Block:
        return self._compare(">", a, b)

    def ge(self, a: Operand, b: Operand) -> Block:
        return self._compare(">=", a, b)

    def eq(self, a: Operand, b: Operand) -> Block:
        return self._compare("==", a, b)

    def ne(self, a: Operand, b: Operand) -> Block:
        return self._compare("!=", a, b)

    def isnan(self, a: Operand) -> Block:
        return self.map(lambda x: f"{x} != {x}", a, kind="bool")

    def select(self, mask: Block, a: Operand, b: Operand) -> Block:
        return self.map(lambda m, x, y: f"{m} ? {x} : {y}", mask, a, b)

    def mask_and(self, a: Block, b: Block) -> Block:
        return self.map(lambda x, y: f"{x} && {y}", a, b, kind="bool")

    def mask_or(self, a: Block, b: Block) -> Block:
        return self.map(lambda x, y: f"{x} || {y}", a, b, kind="bool")

    def mask_not(self, a: Block) -> Block:
        return self.map(lambda x: f"!{x}", a, kind="bool")

    # ------------------------------------------------------------------ bits, for the rules of `lower`
    def bits(self, x: Operand) -> Block:
        function = "__float_as_int" if self.dtype == "float32" else "__double_as_longlong"
        return self.map(lambda v: f"{function}({v})", x, kind=self._integer)

    def real_from_bits(self, i: Block) -> Block:
        function = "__int_as_float" if self.dtype == "float32" else "__longlong_as_double"
        return self.map(lambda v: f"{function}({v})", i)

    def shl(self, x: Block, k: int) -> Block:
        kind = "unsigned" if self.dtype == "float32" else "unsigned long long"
        return self.map(lambda v: f"({self._integer})(({kind}){v} << {k})", x, kind=self._integer)

    @property
    def _integer(self) -> str:
        return "int" if self.dtype == "float32" else "long long"

    # ------------------------------------------------------------------ elementary functions
    def call(self, name: str, *operands: Any, **options: Any) -> Block:
        """A function of `lower.RULES`: CUDA's own where it has one, else the rule."""
        if name in OWN:
            return self.apply(f"kg_{name}", *operands)
        if self.dtype == "float32" and name in ("exp_scaled_nonpos", "exp_nonpos", "exp2_scaled_nonpos"):
            x, *rest = operands
            c = (rest[0] if rest else 1.0) * (1.0 if name.startswith("exp2") else LOG2E)
            return self.apply("kg_exp2", x if c == 1.0 else self.mul(x, c))
        if self.powers and name in ("exp_scaled_nonpos", "exp_nonpos"):
            return self._by_lanes(operands[0], *operands[1:], **options)
        from ..lower import RULES

        return RULES[name](self, *operands, **options)

    @contextmanager
    def lane_powers(self) -> Iterator[None]:
        """Inside, float64 exponentials take a power of two from another lane, and shorter polynomials.

        Only for code that all lanes of a warp run together.
        """
        if self.dtype == "float64":
            self.powers = self.let("double", "exp2((threadIdx.x % 32) / 32.0)")
        yield
        self.powers = None

    def _by_lanes(self, x: Block, c: float = 1.0, accurate: bool = False) -> Block:
        """exp(c x) where c x <= 0, as `lower` has it."""
        scale, rest = words(32 * Fraction(c) * formats.LOG2E, "float64")
        if scale == 0:
            return self.add(self.mul(x, 0.0), 1.0)
        numbers = (scale, rest if accurate else 0.0, -32 * 1022 / scale)
        tail = ", ".join([*map(self.literal, numbers), str(self.powers)])
        return self.map(lambda v: f"kg_exp2_lanes({v}, {tail})", x)

    # ------------------------------------------------------------------ indices
    def index_add(self, a: Index, b: Index) -> Index:
        if isinstance(a, int) and isinstance(b, int):
            return a + b
        return str(a) if b == 0 else str(b) if a == 0 else f"({a} + {b})"

    def index_mul(self, a: Index, b: Index) -> Index:
        if isinstance(a, int) and isinstance(b, int):
            return a * b
        return 0 if 0 in (a, b) else str(a) if b == 1 else str(b) if a == 1 else f"({a} * {b})"

    def index_div(self, a: Index, b: int) -> Index:
        return a // b if isinstance(a, int) else f"({a} / {b})"

    def index_mod(self, a: Index, b: int) -> Index:
        return a % b if isinstance(a, int) else f"({a} % {b})"

    def imin(self, a: Index, b: Index) -> Index:
        return min(a, b) if isinstance(a, int) and isinstance(b, int) else f"min({a}, {b})"

    def imax(self, a: Index, b: Index) -> Index:
        return max(a, b) if isinstance(a, int) and isinstance(b, int) else f"max({a}, {b})"

    def index_select(self, a: Index, b: Index, below: Block, otherwise: Block) -> Block:
        """``below`` if a < b, else ``otherwise``."""
        return self.map(lambda x, y: f"{a} < {b} ? {x} : {y}", below, otherwise)

    def index_real(self, a: Index) -> Block:
        """An index as a number."""
        return Block([[self.let(self.real, f"({self.real}){a}")]])

    def gather(self, numbers: Block, load: Callable[[str], Block]) -> Block:
        """``load(index)`` with an index of its own for each cell; numbers are whole and within range."""
        return Block([[load(self.let("int", f"(int){x}")).cell for x in row] for row in numbers.cells])

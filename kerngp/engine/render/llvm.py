"""Emitter of LLVM IR with explicit vectors: the target language of the CPU backend.

A value of the program is a `Block`: a small grid of SSA vectors, one row per vector of points ``i`` and one
column per point ``j``. Primitives broadcast their operands like NumPy does for axes of length one and emit
*breadth first*: one instruction for every cell, then the next instruction. The order matters: emitted chain
by chain, the same kernel reloads its constants and spills, and runs a quarter slower.

Nothing here compiles anything; ``str(module)`` is the product. No fast-math flag is ever set: reassociation
would destroy the argument reductions of `kerngp.engine.lower`.

>>> from llvmlite import ir
>>> module = ir.Module("demo")
>>> e = Emitter(module, "square", [("x", pointer("float32")), ("n", I64)], width=8, dtype="float32")
>>> with e.loop(0, e.arg("n"), 8) as i:
...     x = e.block([[e.load_vec(e.arg("x"), i)]])
...     e.store_vec(e.mul(x, x), e.arg("x"), i)
>>> e.finish()
"""

from __future__ import annotations

import copy
import hashlib
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from .block import Block, column, expand

__all__ = [
    "Block",
    "Emitter",
    "Pointer",
    "Var",
    "element_type",
    "pointer",
    "I1",
    "I16",
    "I32",
    "I64",
    "F32",
    "F64",
]

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()
_UNDEFINED = ir.Undefined
Value = Any  # an llvmlite SSA value; every one has a `type`, which its base class does not declare
_ELEMENTS = {
    "float32": F32,
    "float64": F64,
    "int8": I8,
    "uint8": I8,
    "int16": I16,
    "float16": I16,  # 16-bit floats are storage only and travel as their bits
    "bfloat16": I16,
    "int32": I32,
    "int64": I64,
    "bool": I8,
}
_BYTES = {F32: 4, F64: 8, I8: 1, I16: 2, I32: 4, I64: 8}


def element_type(name: str) -> ir.Type:
    """The IR type of one stored element of dtype ``name`` ("float32", "bfloat16", "int64", ...)."""
    return _ELEMENTS[name]


def pointer(element: str | ir.Type) -> ir.PointerType:
    """The type of an argument that points to ``element`` (a dtype name or an IR type)."""
    return ir.PointerType(_ELEMENTS[element] if isinstance(element, str) else element)


@dataclass(frozen=True)
class Pointer:
    """An opaque IR pointer together with the type of the elements it points to."""

    value: Value
    elem: ir.Type


Operand = Block | float | int


class Var:
    """A mutable register (a grid of them): entry-block slots that mem2reg turns back into SSA values."""

    def __init__(self, emitter: Emitter, initial: Block):
        self._emitter = emitter
        self._slots = [[emitter._slot(cell.type) for cell in row] for row in initial.cells]
        self.shape = initial.shape
        self.set(initial)

    def get(self) -> Block:
        load = self._emitter.builder.load
        return Block([[load(slot) for slot in row] for row in self._slots])

    def set(self, value: Operand) -> None:
        e = self._emitter
        block = value if isinstance(value, Block) else e.const(value, like=self._slots[0][0].allocated_type)
        for cell, slot in zip(
            e.expand(block, self.shape), (s for row in self._slots for s in row), strict=True
        ):
            e.builder.store(cell, slot)


class Array:
    """Local memory for ``count`` blocks of one shape, by a number known at run time only."""

    def __init__(self, emitter: Emitter, count: int, shape: tuple[int, int]):
        self._emitter, self.shape = emitter, shape
        self._base = emitter.alloca(count * shape[0] * shape[1] * emitter.width)

    def _places(self, index: Value | int) -> list[Value]:
        e, cells = self._emitter, self.shape[0] * self.shape[1]
        return [e.index_mul(e.index_add(e.index_mul(index, cells), k), e.width) for k in range(cells)]

    def get(self, index: Value | int) -> Block:
        cells = [self._emitter.load_vec(self._base, at) for at in self._places(index)]
        columns = self.shape[1]
        return Block([cells[r : r + columns] for r in range(0, len(cells), columns)])

    def set(self, index: Value | int, value: Block) -> None:
        e = self._emitter
        for cell, at in zip(e.expand(value, self.shape), self._places(index), strict=True):
            e.store_vec(cell, self._base, at)


class Emitter:
    """Builds one IR function.

    Parameters
    ----------
    module : llvmlite.ir.Module
        Receives the function and the declarations of the intrinsics it uses.
    name : str
        Symbol of the function; it returns nothing.
    args : list of (str, llvmlite.ir.Type)
        Arguments in order. A pointer argument is typed with `pointer`.
    width : int
        Lanes of every vector (a power of two).
    dtype : {"float32", "float64"}
        Type of the real lanes; integer lanes have the same size.
    fma : bool
        Whether the machine fuses multiply-add. Without it ``fma`` is ``llvm.fmuladd``, which is rounded twice
        there (``llvm.fma`` would call the C library for every lane).
    scaling : bool
        Whether the machine has `fraction` and `scale` (AVX-512 with whole registers).
    noalias : collection of str
        Names of the pointer arguments that alias no other.
    """

    def __init__(
        self,
        module: ir.Module,
        name: str,
        args: Sequence[tuple[str, ir.Type]],
        width: int,
        dtype: str,
        fma: bool = True,
        noalias: Collection[str] = (),
        scaling: bool = False,
    ):
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype: expected 'float32' or 'float64', got {dtype!r}")
        if width < 1 or width & (width - 1):
            raise ValueError(f"width: expected a power of two, got {width}")
        self.module, self.width, self.dtype = module, width, dtype
        self.fused, self.scaling = fma, scaling
        self.elem = _ELEMENTS[dtype]
        self.real = ir.VectorType(self.elem, width)
        self.int = ir.VectorType(I32 if dtype == "float32" else I64, width)
        self.mask = ir.VectorType(I1, width)
        declared = [ir.PointerType() if isinstance(t, ir.PointerType) else t for _, t in args]
        self.function = ir.Function(module, ir.FunctionType(ir.VoidType(), declared), name)
        self._args: dict[str, Any] = {}
        for value, (label, type_) in zip(self.function.args, args, strict=True):
            value.name = label
            self._args[label] = value
            if isinstance(type_, ir.PointerType):
                self._args[label] = Pointer(value, getattr(type_, "pointee", self.elem))
                if label in noalias:
                    value.add_attribute("noalias")
        self._entry = self.function.append_basic_block("entry")
        self._body = self.function.append_basic_block("body")
        self._allocas: Any = ir.IRBuilder(self._entry)
        self.builder: Any = ir.IRBuilder(self._body)
        self._constants: dict[tuple[ir.Type, str], ir.Constant] = {}
        self._index: dict[int, ir.Constant] = {}

    def arg(self, name: str) -> Any:
        """The argument ``name``: a `Pointer` for pointer types, else the scalar IR value."""
        return self._args[name]

    def finish(self) -> None:
        """Close the function: return, and let the entry block fall into the body."""
        self.builder.ret_void()
        self._allocas.branch(self._body)

    def call(self, name: str, *operands: Any, **options: Any) -> Block:
        """Apply the lowering rule ``name`` of `kerngp.engine.lower` ("exp", "log", "sin", ...)."""
        from kerngp.engine.lower import RULES

        return RULES[name](self, *operands, **options)

    def in_float64(self) -> Emitter:
        """An emitter of the same function whose real lanes are float64, as many as here."""
        if self.dtype == "float64":
            return self
        e = copy.copy(self)
        e.dtype, e.elem, e.scaling = "float64", F64, False
        e.real, e.int = e._vector(F64), e._vector(I64)
        return e

    # ------------------------------------------------------------------ blocks
    def block(self, cells: Sequence[Sequence[Value]]) -> Block:
        return Block(cells)

    def row(self, block: Block, r: int) -> Block:
        """Row ``r`` as a (1, n) block; a block of one row is that row for every ``r``."""
        return Block([block.cells[r if block.shape[0] > 1 else 0]])

    def column(self, block: Block, n: int) -> Block:
        return column(block, n)

    def cat_columns(self, blocks: Sequence[Block]) -> Block:
        return Block([sum((block.cells[r] for block in blocks), ()) for r in range(blocks[0].shape[0])])

    def expand(self, block: Block, shape: tuple[int, int]) -> Block:
        return expand(block, shape)

    def var(self, initial: Block) -> Var:
        return Var(self, initial)

    def array(self, count: int, shape: tuple[int, int]) -> Array:
        return Array(self, count, shape)

    def _slot(self, type_: ir.Type) -> ir.AllocaInstr:
        return self._allocas.alloca(type_)

    # ------------------------------------------------------------------ constants
    def const(self, x: float, like: Any = None) -> Block:
        """A (1, 1) block of the real constant ``x`` (rounded to float32 for float32 lanes).

        ``like``, a block or a vector type, asks for the constant in that type, integers included.
        """
        type_ = self.real if like is None else (like.type if isinstance(like, Block) else like)
        return Block([[self._constant(type_, x)]])

    def iconst(self, k: int) -> Block:
        """A (1, 1) block of the integer constant ``k``, taken modulo the lane's size."""
        return Block([[self._constant(self.int, k)]])

    def _constant(self, type_: ir.VectorType, x: float) -> ir.Constant:
        if type_.element == F32:
            x = _round32(x)
        elif type_.element == F64:
            x = float(x)
        else:
            bits = type_.element.width
            x = int(x) & ((1 << bits) - 1)
            x -= (x >> (bits - 1)) << bits if bits > 1 else 0
        key = (type_, repr(x))  # repr tells -0.0 from 0.0
        if key not in self._constants:
            self._constants[key] = ir.Constant(type_, [x] * self.width)
        return self._constants[key]

    def k(self, n: int) -> ir.Constant:
        """The scalar i64 constant ``n``."""
        if n not in self._index:
            self._index[n] = ir.Constant(I64, int(n))
        return self._index[n]

    # ------------------------------------------------------------------ elementwise machinery
    def map(self, emit: Callable[..., Value], *operands: Operand, like: Any = None) -> Block:
        """Apply ``emit`` (one instruction) cell by cell over the broadcast operands.

        Python numbers become constants of the type of the first block operand, or of ``like``.
        """
        if like is None:
            like = next((x for x in operands if isinstance(x, Block)), None)
        blocks = [x if isinstance(x, Block) else self.const(x, like) for x in operands]
        rows, columns = (max(b.shape[axis] for b in blocks) for axis in (0, 1))
        grids = [self.expand(b, (rows, columns)).cells for b in blocks]
        return Block([[emit(*(g[i][j] for g in grids)) for j in range(columns)] for i in range(rows)])

    def intrinsic(self, name: str, *operands: Operand, like: Any = None) -> Block:
        """Call the overloaded intrinsic ``name`` whose arguments and result have one type."""

        def emit(*cells: Value) -> Value:
            type_ = cells[0].type
            # llvmlite cannot mangle vector overloads, so the suffix is spelled here
            suffix = f"v{type_.count}{type_.element.intrinsic_name}"
            fnty = ir.FunctionType(type_, [type_] * len(cells))
            return self.builder.call(self.module.declare_intrinsic(f"{name}.{suffix}", (), fnty), cells)

        return self.map(emit, *operands, like=like)

    # ------------------------------------------------------------------ real primitives
    def add(self, a: Operand, b: Operand) -> Block:
        return self.map(self.builder.fadd, a, b)

    def sub(self, a: Operand, b: Operand) -> Block:
        return self.map(self.builder.fsub, a, b)

    def mul(self, a: Operand, b: Operand) -> Block:
        return self.map(self.builder.fmul, a, b)

    def div(self, a: Operand, b: Operand) -> Block:
        return self.map(self.builder.fdiv, a, b)

    def neg(self, a: Operand) -> Block:
        return self.map(self.builder.fneg, a)

    def abs(self, a: Operand) -> Block:
        return self.intrinsic("llvm.fabs", a)

    def fma(self, a: Operand, b: Operand, c: Operand) -> Block:
        """``a * b + c``, rounded once where the machine fuses (`fused`)."""
        return self.intrinsic("llvm.fma" if self.fused else "llvm.fmuladd", a, b, c)

    def minimum(self, a: Operand, b: Operand) -> Block:
        """``a < b ? a : b``, the machine's minimum: where either operand is NaN the result is ``b``.

        Put the value whose NaN must survive second: ``minimum(127.0, x)`` keeps a NaN of ``x``, the other
        order loses it.
        """
        return self.map(lambda x, y: self._choose("<", x, y), a, b)

    def maximum(self, a: Operand, b: Operand) -> Block:
        """``a > b ? a : b``; where either operand is NaN the result is ``b`` (see `minimum`)."""
        return self.map(lambda x, y: self._choose(">", x, y), a, b)

    def _choose(self, comparison: str, x: Value, y: Value) -> Value:
        return self.builder.select(self.builder.fcmp_ordered(comparison, x, y), x, y)

    def sqrt(self, a: Operand) -> Block:
        return self.intrinsic("llvm.sqrt", a)

    def copysign(self, magnitude: Operand, sign: Operand) -> Block:
        return self.intrinsic("llvm.copysign", magnitude, sign)

    def round_even(self, a: Operand) -> Block:
        """The nearest integer as a real, ties to even."""
        return self.intrinsic("llvm.rint", a)

    def floor(self, a: Operand) -> Block:
        return self.intrinsic("llvm.floor", a)

    def fraction(self, a: Operand) -> Block:
        """``a`` less the nearest integer, exactly; 0 for an infinity. Only where `scaling`."""
        return self._avx512("reduce", [a], ir.Constant(I32, 0))

    def scale(self, a: Operand, n: Operand) -> Block:
        """``a * 2**n``, rounded once, for any integral real ``n``, infinite too. Only where `scaling`."""
        return self._avx512("scalef", [a, n])

    def _avx512(self, name: str, operands: list[Operand], *immediate: Value) -> Block:
        """An instruction without a portable intrinsic; all lanes active, rounding as usual."""
        suffix, lanes = ("ps.512", 16) if self.dtype == "float32" else ("pd.512", 8)
        usual = (ir.Constant(ir.IntType(lanes), -1), ir.Constant(I32, 4))

        def emit(*cells: Value) -> Value:
            args = [*cells, *immediate, cells[0], *usual]
            fnty = ir.FunctionType(self.real, [a.type for a in args])
            full = f"llvm.x86.avx512.mask.{name}.{suffix}"
            function = self.module.globals.get(full) or ir.Function(self.module, fnty, full)
            return self.builder.call(function, args)

        return self.map(emit, *operands)

    # ------------------------------------------------------------------ comparisons and masks
    def _compare(self, comparison: str, a: Operand, b: Operand) -> Block:
        return self.map(lambda x, y: self.builder.fcmp_ordered(comparison, x, y), a, b)

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
        """True where the operands differ or either is NaN (the negation of `eq`)."""
        return self.map(lambda x, y: self.builder.fcmp_unordered("!=", x, y), a, b)

    def isnan(self, a: Operand) -> Block:
        return self.map(lambda x: self.builder.fcmp_unordered("uno", x, x), a)

    def select(self, mask: Block, a: Operand, b: Operand) -> Block:
        """``a`` where the mask is set, else ``b``; real or integer."""
        like = next((x for x in (a, b) if isinstance(x, Block)), self.real)
        choices = [x if isinstance(x, Block) else self.const(x, like) for x in (a, b)]
        return self.map(self.builder.select, mask, *choices)

    def mask_and(self, a: Block, b: Block) -> Block:
        return self.map(self.builder.and_, a, b)

    def mask_or(self, a: Block, b: Block) -> Block:
        return self.map(self.builder.or_, a, b)

    def mask_not(self, a: Block) -> Block:
        return self.map(self.builder.not_, a)

    def any(self, mask: Block | Value) -> Value:
        """i1: whether any lane of any cell is set."""
        cells = list(mask) if isinstance(mask, Block) else [mask]
        merged = cells[0]
        for cell in cells[1:]:
            merged = self.builder.or_(merged, cell)
        lanes = ir.IntType(self.width)
        return self.builder.icmp_unsigned("!=", self.builder.bitcast(merged, lanes), ir.Constant(lanes, 0))

    # ------------------------------------------------------------------ integer primitives
    def _integer(self, emit: Callable[..., Value], a: Operand, b: Operand) -> Block:
        like = next((x for x in (a, b) if isinstance(x, Block)), self.int)
        return self.map(emit, a, b, like=like)

    def iadd(self, a: Operand, b: Operand) -> Block:
        return self._integer(self.builder.add, a, b)

    def isub(self, a: Operand, b: Operand) -> Block:
        return self._integer(self.builder.sub, a, b)

    def iand(self, a: Operand, b: Operand) -> Block:
        return self._integer(self.builder.and_, a, b)

    def ior(self, a: Operand, b: Operand) -> Block:
        return self._integer(self.builder.or_, a, b)

    def ixor(self, a: Operand, b: Operand) -> Block:
        return self._integer(self.builder.xor, a, b)

    def shl(self, x: Block, k: Operand) -> Block:
        return self._integer(self.builder.shl, x, k)

    def lshr(self, x: Block, k: Operand) -> Block:
        return self._integer(self.builder.lshr, x, k)

    def ashr(self, x: Block, k: Operand) -> Block:
        return self._integer(self.builder.ashr, x, k)

    def _icompare(self, comparison: str, a: Operand, b: Operand) -> Block:
        return self._integer(lambda x, y: self.builder.icmp_signed(comparison, x, y), a, b)

    def ieq(self, a: Operand, b: Operand) -> Block:
        return self._icompare("==", a, b)

    def ilt(self, a: Operand, b: Operand) -> Block:
        return self._icompare("<", a, b)

    def igt(self, a: Operand, b: Operand) -> Block:
        return self._icompare(">", a, b)

    # ------------------------------------------------------------------ conversions
    def _vector(self, element: ir.Type) -> ir.VectorType:
        return ir.VectorType(element, self.width)

    def bits(self, x: Operand) -> Block:
        """The bits of a real block as integers of the same size."""
        block = x if isinstance(x, Block) else self.const(x)
        target = self._vector(I32 if block.type.element == F32 else I64)
        return self.map(lambda v: self.builder.bitcast(v, target), block)

    def real_from_bits(self, i: Operand) -> Block:
        block = i if isinstance(i, Block) else self.iconst(int(i))
        target = self._vector(F32 if block.type.element == I32 else F64)
        return self.map(lambda v: self.builder.bitcast(v, target), block)

    def int_to_real(self, i: Block) -> Block:
        """Signed integers to reals of the same size."""
        target = self._vector(F32 if i.type.element == I32 else F64)
        return self.map(lambda v: self.builder.sitofp(v, target), i)

    def real_to_int(self, x: Block) -> Block:
        """Truncate to signed integers of the same size; NaN or out of range is undefined: clamp before."""
        target = self._vector(I32 if x.type.element == F32 else I64)
        return self.map(lambda v: self.builder.fptosi(v, target), x)

    def to_f64(self, x: Block) -> Block:
        target = self._vector(F64)
        return x if x.type == target else self.map(lambda v: self.builder.fpext(v, target), x)

    def to_f32(self, x: Block) -> Block:
        return (
            x if x.type.element == F32 else self.map(lambda v: self.builder.fptrunc(v, self._vector(F32)), x)
        )

    def to_real(self, x: Block) -> Block:
        """A real block of either precision in the emitter's own dtype."""
        return self.to_f32(x) if self.dtype == "float32" else self.to_f64(x)

    # ------------------------------------------------------------------ memory
    def alloca(self, count: int, elem: ir.Type | None = None, align: int = 64) -> Pointer:
        """Stack memory for ``count`` elements (a Python int), taken once per call in the entry block."""
        elem = elem or self.elem
        slot = self._allocas.alloca(ir.ArrayType(elem, count))
        slot.align, slot.type = align, ir.PointerType()  # not a pointer to the whole array
        return Pointer(slot, elem)

    def table(self, values: Sequence[float], elem: str | ir.Type | None = None) -> Pointer:
        """A constant array in the module (one for equal contents)."""
        type_ = element_type(elem) if isinstance(elem, str) else elem or self.elem
        array = ir.ArrayType(type_, len(values))
        name = "table." + hashlib.sha256(f"{type_}{tuple(values)}".encode()).hexdigest()[:16]
        if name not in self.module.globals:
            data: Any = ir.GlobalVariable(self.module, array, name)
            data.linkage, data.global_constant, data.unnamed_addr = "internal", True, True
            data.initializer, data.align, data.type = ir.Constant(array, list(values)), 64, ir.PointerType()
        return Pointer(self.module.globals[name], type_)

    def ptr(self, base: Pointer, index: Value | int) -> Pointer:
        """The address of element ``index``."""
        at = self.builder.gep(base.value, [self.index(index)], inbounds=True, source_etype=base.elem)
        return Pointer(at, base.elem)

    def load_vec(self, base: Pointer, index: Value | int = 0, align: int | None = None) -> Value:
        """The ``width`` elements from ``index`` on; ``align`` in bytes defaults to one element's size."""
        align = align or _BYTES[base.elem]
        return self.builder.load(self.ptr(base, index).value, align=align, typ=self._vector(base.elem))

    def store_vec(
        self, value: Block | Value, base: Pointer, index: Value | int = 0, align: int | None = None
    ) -> None:
        cell = value.cell if isinstance(value, Block) else value
        if cell.type != self._vector(base.elem):
            raise TypeError(f"cannot store {cell.type} through a pointer to {base.elem}")
        self.builder.store(cell, self.ptr(base, index).value, align=align or _BYTES[base.elem])

    def load_scalar(self, base: Pointer, index: Value | int = 0) -> Value:
        return self.builder.load(self.ptr(base, index).value, align=_BYTES[base.elem], typ=base.elem)

    def store_scalar(self, value: Value, base: Pointer, index: Value | int = 0) -> None:
        if value.type != base.elem:
            raise TypeError(f"cannot store {value.type} through a pointer to {base.elem}")
        self.builder.store(value, self.ptr(base, index).value, align=_BYTES[base.elem])

    def splat(self, scalar: Value) -> Value:
        """The vector whose lanes all are ``scalar``."""
        type_ = self._vector(scalar.type)
        first = self.builder.insert_element(ir.Constant(type_, _UNDEFINED), scalar, ir.Constant(I32, 0))
        return self._shuffle(first, None, [0] * self.width)

    def load_splat(self, base: Pointer, index: Value | int = 0) -> Value:
        """One element in every lane."""
        return self.splat(self.load_scalar(base, index))

    def insert(self, vector: Value, scalar: Value, lane: int) -> Value:
        return self.builder.insert_element(vector, scalar, ir.Constant(I32, lane))

    def extract(self, vector: Value, lane: int) -> Value:
        return self.builder.extract_element(vector, ir.Constant(I32, lane))

    def undefined(self, elem: ir.Type | None = None) -> ir.Constant:
        """A vector to fill lane by lane with `insert`."""
        return ir.Constant(self._vector(elem or self.elem), _UNDEFINED)

    # ------------------------------------------------------------------ across lanes
    def _shuffle(self, a: Value, b: Value | None, lanes: Sequence[int]) -> Value:
        b = ir.Constant(a.type, _UNDEFINED) if b is None else b
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))

    def transpose_sum(self, vectors: Sequence[Value]) -> Value:
        """The vector whose lane ``l`` is the sum of the lanes of ``vectors[l]``.

        Every level adds the two halves of each segment of two vectors at once: ``width - 1`` additions for
        ``width`` sums.
        """
        if len(vectors) != self.width:
            raise ValueError(f"transpose_sum needs {self.width} vectors, got {len(vectors)}")
        level, segment = list(vectors), self.width
        while segment > 1:
            half = segment // 2
            low = [
                start + at + s
                for s in range(0, self.width, segment)
                for start in (0, self.width)
                for at in range(half)
            ]
            high = [lane + half for lane in low]
            pairs = list(zip(level[: len(level) // 2], level[len(level) // 2 :], strict=True))
            level = [self.builder.fadd(self._shuffle(a, b, low), self._shuffle(a, b, high)) for a, b in pairs]
            segment = half
        return level[0]

    # ------------------------------------------------------------------ scalar indices (i64) and control flow
    def index(self, i: Value | int) -> Value:
        return self.k(i) if isinstance(i, int) else i

    def index_add(self, a: Value | int, b: Value | int) -> Value:
        return self.builder.add(self.index(a), self.index(b), flags=["nsw"])

    def index_sub(self, a: Value | int, b: Value | int) -> Value:
        return self.builder.sub(self.index(a), self.index(b), flags=["nsw"])

    def index_mul(self, a: Value | int, b: Value | int) -> Value:
        return self.builder.mul(self.index(a), self.index(b), flags=["nsw"])

    def index_div(self, a: Value | int, b: int) -> Value:
        return self.builder.sdiv(self.index(a), self.k(b))

    def index_mod(self, a: Value | int, b: int) -> Value:
        return self.builder.srem(self.index(a), self.k(b))

    def index_real(self, a: Value | int) -> Block:
        """An index as a number."""
        return Block([[self.splat(self.builder.sitofp(self.index(a), self.elem))]])

    def index_select(self, a: Value | int, b: Value | int, below: Block, otherwise: Block) -> Block:
        """``below`` if a < b, else ``otherwise``."""
        first = self.builder.icmp_signed("<", self.index(a), self.index(b))
        return self.map(lambda x, y: self.builder.select(first, x, y), below, otherwise)

    def gather(self, numbers: Block, load: Callable[[Value], Block]) -> Block:
        """``load(index)`` with an index of its own for each lane; numbers are whole and within range."""

        def one(cell: Value) -> Value:
            out = self.undefined()
            for lane in range(self.width):
                k = self.extract(cell, lane)
                value = load(k if k.type == I64 else self.builder.sext(k, I64)).cell
                out = self.insert(out, self.extract(value, lane), lane)
            return out

        return self.map(one, self.real_to_int(numbers))

    def imin(self, a: Value | int, b: Value | int) -> Value:
        a, b = self.index(a), self.index(b)
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)

    def imax(self, a: Value | int, b: Value | int) -> Value:
        a, b = self.index(a), self.index(b)
        return self.builder.select(self.builder.icmp_signed(">", a, b), a, b)

    @contextmanager
    def loop(
        self, lo: Value | int, hi: Value | int, step: Value | int = 1, tag: str = "loop"
    ) -> Iterator[Value]:
        """``for (i = lo; i < hi; i += step)`` as a do-while behind a guard, the form LLVM likes best."""
        lo, hi, step = self.index(lo), self.index(hi), self.index(step)
        builder, before = self.builder, self.builder.block
        body = self.function.append_basic_block(tag)
        after = self.function.append_basic_block(tag + ".end")
        builder.cbranch(builder.icmp_signed("<", lo, hi), body, after)
        builder.position_at_end(body)
        i = builder.phi(I64)
        i.add_incoming(lo, before)
        yield i
        following = self.index_add(i, step)
        i.add_incoming(following, builder.block)
        builder.cbranch(builder.icmp_signed("<", following, hi), body, after)
        builder.position_at_end(after)

    def if_then(self, condition: Value, likely: bool | None = None) -> Any:
        """``with e.if_then(i1):`` emits its body under the condition."""
        return self.builder.if_then(condition, likely)

    def if_else(self, condition: Value, likely: bool | None = None) -> Any:
        """``with e.if_else(i1) as (then, otherwise):`` and ``with then:``, ``with otherwise:`` inside."""
        return self.builder.if_else(condition, likely)


def _round32(x: float) -> float:
    """Round to float32, to infinity where it overflows."""
    try:
        return struct.unpack("f", struct.pack("f", x))[0]
    except OverflowError:
        return float("inf") if x > 0 else float("-inf")

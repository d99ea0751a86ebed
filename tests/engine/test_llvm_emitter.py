"""The LLVM emitter: every primitive against NumPy, shapes, memory, loops and lanes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import simd_harness
from llvmlite import ir

from kerngp.engine.render import llvm

DTYPES = ("float32", "float64")
INTEGERS = {"float32": np.int32, "float64": np.int64}


def values(dtype: str, seed: int, size: int = 100) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=size) * 3
    x[:12] = [0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1e-40, np.inf, -np.inf, np.nan, 7.0]
    return x.astype(dtype)


def emitter(
    args: list[tuple[str, Any]], dtype: str = "float32", width: int = 8, **options: Any
) -> tuple[ir.Module, llvm.Emitter]:
    module = ir.Module("test")
    module.triple = simd_harness.binding.get_process_triple()
    return module, llvm.Emitter(module, "test", args, width, dtype, **options)


def run(module: ir.Module, *arguments: Any) -> None:
    simd_harness.load(module, "test", len(arguments))(*arguments)


# ---------------------------------------------------------------------- primitives
REAL: dict[str, tuple[int, Callable[..., Any], Callable[..., np.ndarray]]] = {
    "add": (2, lambda e, a, b: e.add(a, b), lambda a, b: a + b),
    "sub": (2, lambda e, a, b: e.sub(a, b), lambda a, b: a - b),
    "mul": (2, lambda e, a, b: e.mul(a, b), lambda a, b: a * b),
    "div": (2, lambda e, a, b: e.div(a, b), lambda a, b: a / b),
    "neg": (1, lambda e, a: e.neg(a), lambda a: -a),
    "abs": (1, lambda e, a: e.abs(a), np.abs),
    "sqrt": (1, lambda e, a: e.sqrt(e.abs(a)), lambda a: np.sqrt(np.abs(a))),
    "copysign": (2, lambda e, a, b: e.copysign(a, b), np.copysign),
    "round_even": (1, lambda e, a: e.round_even(a), np.rint),
    "floor": (1, lambda e, a: e.floor(a), np.floor),
    "number on the left": (1, lambda e, a: e.sub(1, a), lambda a: 1 - a),
    "number on the right": (1, lambda e, a: e.div(a, 3), lambda a: a / a.dtype.type(3)),
    "minimum": (2, lambda e, a, b: e.minimum(a, b), lambda a, b: np.where(a < b, a, b)),
    "maximum": (2, lambda e, a, b: e.maximum(a, b), lambda a, b: np.where(a > b, a, b)),
    "lt": (2, lambda e, a, b: e.select(e.lt(a, b), a, 9.0), lambda a, b: np.where(a < b, a, 9)),
    "le": (2, lambda e, a, b: e.select(e.le(a, b), 9.0, b), lambda a, b: np.where(a <= b, 9, b)),
    "gt": (2, lambda e, a, b: e.select(e.gt(a, b), a, b), lambda a, b: np.where(a > b, a, b)),
    "ge": (2, lambda e, a, b: e.select(e.ge(a, b), a, b), lambda a, b: np.where(a >= b, a, b)),
    "eq": (2, lambda e, a, b: e.select(e.eq(a, b), 1.0, 2.0), lambda a, b: np.where(a == b, 1, 2)),
    "ne": (2, lambda e, a, b: e.select(e.ne(a, b), 1.0, 2.0), lambda a, b: np.where(a != b, 1, 2)),
    "isnan": (1, lambda e, a: e.select(e.isnan(a), 1.0, 2.0), lambda a: np.where(np.isnan(a), 1, 2)),
    "masks": (
        2,
        lambda e, a, b: e.select(
            e.mask_or(e.mask_and(e.lt(a, b), e.gt(a, 0.0)), e.mask_not(e.lt(b, 2.0))), a, b
        ),
        lambda a, b: np.where(((a < b) & (a > 0)) | ~(b < 2), a, b),
    ),
    "bits": (1, lambda e, a: e.real_from_bits(e.iadd(e.bits(a), 1)), lambda a: _bits(_bits(a) + 1)),
    "truncation": (
        1,
        lambda e, a: e.int_to_real(e.real_to_int(e.minimum(50.0, e.maximum(a, -50.0)))),
        lambda a: np.trunc(np.clip(np.nan_to_num(a, nan=-50.0), -50, 50)) + 0.0,  # no -0 among integers
    ),
}  # fmt: skip


def _bits(a: np.ndarray) -> np.ndarray:
    other = {"f": "i", "i": "f"}[a.dtype.kind]
    return a.view(f"{other}{a.dtype.itemsize}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", REAL)
def test_real_primitive(name: str, dtype: str) -> None:
    arity, emit, reference = REAL[name]
    arrays = [
        values(dtype, seed) if q == 0 else np.roll(values(dtype, seed), 5)
        for q, seed in enumerate(range(arity))
    ]
    with np.errstate(all="ignore"):
        expected = np.asarray(reference(*arrays), dtype)
    got = simd_harness.evaluate(emit, *arrays)
    assert np.array_equal(got, expected, equal_nan=True)
    number = ~np.isnan(expected)
    assert np.array_equal(np.signbit(got)[number], np.signbit(expected)[number])


INTEGER: dict[str, tuple[Callable[..., Any], Callable[..., np.ndarray]]] = {
    "iadd": (lambda e, a, b: e.iadd(a, b), lambda a, b: a + b),
    "isub": (lambda e, a, b: e.isub(a, 3), lambda a, b: a - 3),
    "iand": (lambda e, a, b: e.iand(a, b), lambda a, b: a & b),
    "ior": (lambda e, a, b: e.ior(a, b), lambda a, b: a | b),
    "ixor": (lambda e, a, b: e.ixor(a, -1), lambda a, b: a ^ -1),
    "shl": (lambda e, a, b: e.shl(a, 5), lambda a, b: a << 5),
    "lshr": (lambda e, a, b: e.lshr(a, 7), lambda a, b: (a.view(f"u{a.itemsize}") >> 7).view(a.dtype)),
    "ashr": (lambda e, a, b: e.ashr(a, 7), lambda a, b: a >> 7),
    "ieq": (lambda e, a, b: e.select(e.ieq(a, b), a, 7), lambda a, b: np.where(a == b, a, 7)),
    "ilt": (lambda e, a, b: e.select(e.ilt(a, b), a, b), lambda a, b: np.where(a < b, a, b)),
    "igt": (lambda e, a, b: e.select(e.igt(a, 0), a, b), lambda a, b: np.where(a > 0, a, b)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", INTEGER)
def test_integer_primitive(name: str, dtype: str) -> None:
    emit, reference = INTEGER[name]
    info = np.iinfo(INTEGERS[dtype])
    rng = np.random.default_rng(0)
    a, b = (rng.integers(info.min, info.max, 64, dtype=INTEGERS[dtype], endpoint=True) for _ in range(2))
    b[:8] = a[:8]
    got = simd_harness.evaluate(
        lambda e, x, y: e.real_from_bits(emit(e, e.bits(x), e.bits(y))), a.view(dtype), b.view(dtype)
    )
    with np.errstate(over="ignore"):
        assert np.array_equal(got.view(INTEGERS[dtype]), reference(a, b))


@pytest.mark.parametrize("dtype", DTYPES)
def test_fma_rounds_once_where_the_machine_fuses(dtype: str) -> None:
    eps = np.finfo(dtype).eps
    a = np.full(8, 1 + eps, dtype)
    got = simd_harness.evaluate(lambda e, x: e.fma(x, x, -1.0), a)
    exact = 2 * np.longdouble(eps) + np.longdouble(eps) ** 2
    assert np.array_equal(got, np.full(8, exact, dtype))
    text = str(simd_harness.mapped_module(lambda e, x: e.fma(x, x, x), 1, dtype, 4, fma=False))
    assert "llvm.fmuladd.v4" in text and "llvm.fma.v4" not in text


def test_minimum_and_maximum_keep_the_nan_of_the_second_operand() -> None:
    x = np.full(8, np.nan, np.float32)
    for kept, lost in [
        (lambda e, a: e.minimum(1.0, a), lambda e, a: e.minimum(a, 1.0)),
        (lambda e, a: e.maximum(1.0, a), lambda e, a: e.maximum(a, 1.0)),
    ]:
        assert np.isnan(simd_harness.evaluate(kept, x)).all()
        assert np.array_equal(simd_harness.evaluate(lost, x), np.ones(8, np.float32))


@pytest.mark.parametrize("target", ["minimum", "maximum"])
def test_minimum_is_one_instruction(target: str) -> None:
    text = simd_harness.assembly(
        lambda e, a, b: getattr(e, target)(a, b), 2, "float32", 8, "x86_64-unknown-linux-gnu", "haswell"
    )
    assert {"minimum": "vminps", "maximum": "vmaxps"}[target] in text and "vcmp" not in text


def test_no_fast_math_flag_is_emitted() -> None:
    text = str(simd_harness.mapped_module(lambda e, x: e.call("pow", e.call("sin", x), 1.5), 1, "float32", 8))
    assert not re.search(r"\b(fast|reassoc|nnan|ninf|nsz|arcp|contract|afn)\b", text)


# ---------------------------------------------------------------------- blocks
def test_constants_are_rounded_to_the_dtype() -> None:
    got = simd_harness.evaluate(lambda e, x: e.add(e.mul(x, 0.0), 0.1), np.ones(8))
    assert np.array_equal(got, np.full(8, 0.1))
    got = simd_harness.evaluate(lambda e, x: e.mul(x, 1e39), np.ones(8, np.float32))
    assert np.array_equal(got, np.full(8, np.inf, np.float32))
    got = simd_harness.evaluate(lambda e, x: e.mul(x, -0.0), np.ones(8, np.float32))
    assert np.signbit(got).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_and_columns_broadcast(dtype: str) -> None:
    rows, columns, width = 3, 2, 4
    module, e = emitter([(n, llvm.pointer(dtype)) for n in ("x", "y", "out")], dtype, width, noalias=("out",))
    x = e.block([[e.load_vec(e.arg("x"), r * width)] for r in range(rows)])
    y = e.block([[e.load_splat(e.arg("y"), n) for n in range(columns)]])
    pairs = e.fma(x, y, 0.5)
    assert (x.shape, y.shape, pairs.shape) == ((rows, 1), (1, columns), (rows, columns))
    assert e.row(pairs, 1).shape == (1, columns) and e.column(pairs, 1).shape == (rows, 1)
    assert e.cat_columns([e.column(pairs, n) for n in range(columns)]).cells == pairs.cells
    assert e.column(x, 1).cells == x.cells
    for k, cell in enumerate(pairs):
        e.store_vec(cell, e.arg("out"), k * width)
    e.finish()
    a, b = (
        np.random.default_rng(s).normal(size=n).astype(dtype) for s, n in ((0, rows * width), (1, columns))
    )
    out = np.empty(rows * columns * width, dtype)
    run(module, a, b, out)
    expected = a.reshape(rows, 1, width) * b.reshape(1, columns, 1) + np.array(0.5, dtype)
    np.testing.assert_allclose(out.reshape(rows, columns, width), expected, rtol=1e-6, atol=1e-6)
    assert "noalias" in str(module) and str(module).count("noalias") == 1


def test_instructions_come_breadth_first() -> None:
    text = str(simd_harness.mapped_module(lambda e, x: e.add(e.mul(x, x), e.neg(x)), 1, "float32", 8, rows=4))
    order = re.findall(r"= (fmul|fadd|fneg) ", text)
    assert order == ["fmul"] * 4 + ["fneg"] * 4 + ["fadd"] * 4


def test_blocks_refuse_misuse() -> None:
    _, e = emitter([("x", llvm.pointer("float32"))])
    x = e.block([[e.load_vec(e.arg("x"), r)] for r in range(3)])
    two = e.block([[e.load_vec(e.arg("x"), r)] for r in range(2)])
    with pytest.raises(ValueError, match="broadcast"):
        e.add(x, two)
    with pytest.raises(ValueError, match="one cell"):
        _ = x.cell
    with pytest.raises(ValueError, match="full grid"):
        llvm.Block([list(x), list(two)])
    with pytest.raises(AttributeError, match="immutable"):
        x.cells = ()
    with pytest.raises(TypeError, match="cannot store"):
        e.store_vec(e.to_f64(two).cells[0][0], e.arg("x"))
    with pytest.raises(ValueError, match="power of two"):
        emitter([], width=6)
    with pytest.raises(ValueError, match="float16"):
        emitter([], dtype="float16")


# ---------------------------------------------------------------------- loops, variables, memory
@pytest.mark.parametrize("n", [0, 1, 7, 31, 33, 1000])
def test_loop_sums_a_tail_and_nests(n: int) -> None:
    """Row sums of an n x 3 matrix, transposed on the way: nested loops, a Var and scalar memory."""
    module, e = emitter(
        [("x", llvm.pointer("float64")), ("out", llvm.pointer("float64")), ("n", llvm.I64)], "float64", 4
    )
    with e.loop(0, e.arg("n")) as i:
        total = e.var(e.const(0.0))
        total.set(0.0)
        with e.loop(0, 3, tag="column") as j:
            cell = e.load_splat(e.arg("x"), e.index_add(e.index_mul(i, 3), j))
            total.set(e.add(total.get(), e.block([[cell]])))
        e.store_scalar(e.extract(total.get().cell, 2), e.arg("out"), i)
    e.finish()
    x, out = np.random.default_rng(0).normal(size=(n, 3)), np.full(n + 1, -1.0)
    run(module, x, out, n)
    np.testing.assert_allclose(out[:n], x.sum(1), rtol=1e-14)
    assert out[n] == -1.0


def test_loop_steps_and_index_arithmetic() -> None:
    module, e = emitter([("out", llvm.pointer("int64")), ("n", llvm.I64)])
    with e.loop(0, e.arg("n"), 4) as i:
        e.store_scalar(e.imin(e.index_sub(e.arg("n"), i), 4), e.arg("out"), i)
        e.store_scalar(e.imax(i, 5), e.arg("out"), e.index_add(i, 1))
    e.finish()
    out = np.full(16, -1)
    run(module, out, 11)
    assert out.tolist() == [4, 5, -1, -1, 4, 5, -1, -1, 3, 8, -1, -1, -1, -1, -1, -1]


@pytest.mark.parametrize("width", [2, 4, 8, 16])
def test_any_lane_and_branches(width: int) -> None:
    """Vectors with a negative lane become zero, the others are doubled."""
    module, e = emitter([("x", llvm.pointer("float32")), ("n", llvm.I64)], width=width)
    with e.loop(0, e.arg("n"), 2 * width) as i:
        first = e.block([[e.load_vec(e.arg("x"), i)], [e.load_vec(e.arg("x"), e.index_add(i, width))]])
        result = e.var(first)
        negative = e.any(e.lt(first, 0.0))
        with e.if_else(negative) as (then, otherwise):
            with then:
                result.set(0.0)
            with otherwise:
                result.set(e.mul(first, 2.0))
        with e.if_then(e.any(e.gt(first, 100.0).cells[1][0]), likely=False):
            result.set(1.0)
        for r, cell in enumerate(result.get()):
            e.store_vec(cell, e.arg("x"), e.index_add(i, r * width))
    e.finish()
    x = np.random.default_rng(0).uniform(0, 1, size=(6, 2, width)).astype(np.float32)
    x[1, 0, 0], x[2, 1, width - 1], x[4, 1, 1], x[5, 0, 0] = -1, -1, 200, 200
    expected = 2 * x
    expected[1], expected[2], expected[4] = 0, 0, 1
    run(module, x, x.size)
    assert np.array_equal(x, expected)


def test_scratch_memory_and_tables() -> None:
    module, e = emitter([("out", llvm.pointer("float64"))], "float64", 4)
    scratch = e.alloca(12)
    integers = e.alloca(4, llvm.I32, align=16)
    table = e.table([1.5, -2.0, float("inf")], "float64")
    assert e.table([1.5, -2.0, float("inf")], "float64").value is table.value
    assert e.table([1.5, -2.0], "float64").value is not table.value
    with e.loop(0, 3) as k:
        e.store_vec(e.load_splat(table, k), scratch, e.index_mul(k, 4), align=32)
    e.store_scalar(ir.Constant(llvm.I32, 3), integers, 1)
    at = e.builder.sext(e.load_scalar(integers, 1), llvm.I64)
    e.store_vec(e.load_vec(e.ptr(scratch, 1), at), e.arg("out"))
    e.finish()
    out = np.zeros(4)
    run(module, out)
    assert out.tolist() == [-2.0, -2.0, -2.0, -2.0]


@pytest.mark.parametrize("fill", [(), (1.0, 2.0)])
def test_insert_and_extract_lanes(fill: tuple[float, ...]) -> None:
    module, e = emitter([("out", llvm.pointer("float32"))], width=4)
    vector = e.const(7.0).cell
    for lane, v in enumerate(fill):
        vector = e.insert(vector, ir.Constant(llvm.F32, v), lane)
    e.store_vec(vector, e.arg("out"))
    e.finish()
    out = np.zeros(4, np.float32)
    run(module, out)
    assert out.tolist() == [*fill, *[7.0] * (4 - len(fill))]


# ---------------------------------------------------------------------- across lanes, conversions
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [2, 4, 8, 16])
def test_horizontal_sums(width: int, dtype: str) -> None:
    module, e = emitter([("x", llvm.pointer(dtype)), ("out", llvm.pointer(dtype))], dtype, width)
    vectors = [e.load_vec(e.arg("x"), k * width) for k in range(width)]
    e.store_vec(e.transpose_sum(vectors), e.arg("out"))
    e.finish()
    x, out = (
        np.random.default_rng(0).normal(size=(width, width)).astype(dtype),
        np.empty(width, dtype),
    )
    run(module, x, out)
    tolerance = 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(out, x.sum(1), rtol=0, atol=tolerance * width)
    with pytest.raises(ValueError, match="transpose_sum"):
        e.transpose_sum(vectors[:-1])


def test_precisions_convert_both_ways() -> None:
    x = values("float32", 0)
    got = simd_harness.evaluate(lambda e, a: e.to_f32(e.mul(e.to_f64(a), 1 + 2.0**-40)), x)
    with np.errstate(all="ignore"):
        assert np.array_equal(got, (x.astype(np.float64) * (1 + 2.0**-40)).astype(np.float32), equal_nan=True)
    wide = values("float64", 0)
    got = simd_harness.evaluate(lambda e, a: e.to_real(e.to_f32(a)), wide)
    assert np.array_equal(got, wide.astype(np.float32).astype(np.float64), equal_nan=True)

"""Compile one-function modules of the LLVM emitter for tests and map arrays through them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding, ir

from kerngp.engine.render import llvm

binding.initialize_native_target()
binding.initialize_native_asmprinter()
binding.initialize_all_targets()
binding.initialize_all_asmprinters()
_KEEP: list[Any] = []  # engines own the machine code


def machine(
    triple: str | None = None, cpu: str | None = None, features: str | None = None
) -> binding.TargetMachine:
    target = binding.Target.from_triple(triple or binding.get_process_triple())
    host = triple is None and cpu is None
    cpu = binding.get_host_cpu_name() if host else cpu or ""
    features = binding.get_host_cpu_features().flatten() if host else features or ""
    return target.create_target_machine(cpu=cpu, features=features, opt=2)


def optimised(module: ir.Module, tm: binding.TargetMachine) -> binding.ModuleRef:
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    builder = binding.create_pass_builder(tm, binding.create_pipeline_tuning_options(speed_level=1))
    builder.getModulePassManager().run(parsed, builder)
    return parsed


def load(
    module: ir.Module, name: str, arguments: int, tm: binding.TargetMachine | None = None
) -> Callable[..., None]:
    """The compiled function; arrays are passed by address, integers as they are."""
    tm = tm or machine()
    obj = tm.emit_object(optimised(module, tm))
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine())
    engine.add_object_file(binding.ObjectFileRef.from_data(obj))
    engine.finalize_object()
    _KEEP.append(engine)
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * arguments)(engine.get_function_address(name))
    return lambda *args: function(*(a.ctypes.data if isinstance(a, np.ndarray) else int(a) for a in args))


class ScalingModel(llvm.Emitter):
    """An emitter for any machine whose `fraction` and `scale` are made of portable instructions."""

    def fraction(self, a: llvm.Operand) -> llvm.Block:
        whole = self.lt(self.abs(a), float("inf"))
        rest = self.sub(a, self.round_even(a))
        return self.select(self.mask_or(whole, self.isnan(a)), rest, 0.0)

    def scale(self, a: llvm.Operand, n: llvm.Operand) -> llvm.Block:
        mantissa, bias = (23, 127) if self.dtype == "float32" else (52, 1023)
        most = 2.0 * bias - 3  # the first of two factors is exact, also at the ends
        i = self.real_to_int(self.minimum(most, self.maximum(-most, self.select(self.isnan(n), 0.0, n))))
        first = self.ashr(i, 1)
        for part in (first, self.isub(i, first)):
            a = self.mul(a, self.real_from_bits(self.shl(self.iadd(part, bias), mantissa)))
        return a


def scalings() -> list[str]:
    """How `fraction` and `scale` can be had here: the model, and the machine's own."""
    on = binding.get_host_cpu_features()
    return ["model"] + ["machine"] * (on.get("avx512f", False) and on.get("avx512dq", False))


def mapped_module(
    rule: Callable[..., Any],
    arity: int,
    dtype: str,
    width: int,
    rows: int = 1,
    fma: bool = True,
    triple: str = "",
    scaling: str = "",
) -> ir.Module:
    """``out[i] = rule(emitter, a[i], ...)`` for ``n`` elements, a multiple of ``rows * width``."""
    module = ir.Module("mapped")
    module.triple = triple or binding.get_process_triple()
    names = [f"a{q}" for q in range(arity)]
    pointers = [(name, llvm.pointer(dtype)) for name in [*names, "out"]]
    emitter = ScalingModel if scaling == "model" else llvm.Emitter
    e = emitter(module, "mapped", [*pointers, ("n", llvm.I64)], width, dtype, fma, scaling=bool(scaling))
    with e.loop(0, e.arg("n"), rows * width) as i:
        at = [e.index_add(i, r * width) for r in range(rows)]
        operands = [e.block([[e.load_vec(e.arg(name), start)] for start in at]) for name in names]
        result = e.expand(rule(e, *operands), (rows, 1))
        for cell, start in zip(result, at, strict=True):
            e.store_vec(cell, e.arg("out"), start)
    e.finish()
    return module


def evaluate(
    rule: Callable[..., Any],
    *arrays: np.ndarray,
    width: int | None = None,
    rows: int = 2,
    fma: bool = True,
    tm: binding.TargetMachine | None = None,
    scaling: str = "",
) -> np.ndarray:
    """Run ``rule`` over equal-length 1-d arrays of one dtype (padded to whole vectors)."""
    dtype = arrays[0].dtype
    width = width or (64 if scaling == "machine" else 32) // dtype.itemsize
    n = arrays[0].size
    padded = -(-n // (rows * width)) * rows * width
    operands = [np.concatenate([a, np.ones(padded - n, dtype)]) for a in arrays]
    out = np.empty(padded, dtype)
    module = mapped_module(rule, len(arrays), dtype.name, width, rows, fma, scaling=scaling)
    load(module, "mapped", len(arrays) + 2, tm)(*operands, out, padded)
    return out[:n]


def assembly(
    rule: Callable[..., Any], arity: int, dtype: str, width: int, triple: str, cpu: str, features: str = ""
) -> str:
    module = mapped_module(rule, arity, dtype, width, triple=triple)
    tm = machine(triple, cpu, features)
    return tm.emit_assembly(optimised(module, tm))

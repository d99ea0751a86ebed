"""Compile plans with LLVM and run them on torch's memory with a few threads.

A call evaluates what lies around the kernel (signals, centres, factors of column results) with
torch, fills the context record with addresses and sizes, and lets the threads take work items. What
is split (ranges of j, slots of column sums) depends on shapes alone and is merged in a fixed order,
so results do not depend on the number of threads.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...options import Options
from ..expr import Expr, variables
from ..plan import Geometry, Output, Plan
from ..planner import Machine, Prepared, expandable, prepare
from ..symmetry import Halved, halve
from ..threads import parallel
from . import reference

Tensor = torch.Tensor
name = "cpu"

INLINE_PAIRS = 1 << 20  # fewer pairs than this run in the calling thread
SPLIT_ITEMS = 32  # fewer work items than this are split along j
SUMS_BYTES = 1 << 26  # memory for column sums of all slots together
HALVE_ABOVE = 1024  # symmetric sums of more points visit each pair once
GUARD = 2e-4  # largest error of an expanded squared distance that is accepted, from rounding alone


def run(outputs: tuple[Output, ...], args: tuple[Tensor, ...], g: Geometry, options: Options) -> list[tuple[Tensor, ...]]:
    """Each output's tensors; what the kernels do not cover goes to the reference backend."""
    if g.dtype in (torch.float16, torch.bfloat16):  # 16-bit floats are storage only
        wide = run(outputs, tuple(a.float() for a in args), replace(g, dtype=torch.float32), options)
        return [tuple(x.to(g.dtype) if x.is_floating_point() else x for x in out) for out in wide]
    if 0 in (g.M, g.N, *g.batch):
        return reference.run(outputs, args, g, options.memory_limit)
    call = _plan_call(outputs, args, g, options)
    if call is None:
        if len(outputs) > 1:
            return [r for o in outputs for r in run((o,), args, g, options)]
        return reference.run(outputs, args, g, options.memory_limit)
    return call


def supports(outputs: tuple[Output, ...], dtype: torch.dtype = torch.float32) -> bool:
    """Whether these outputs run in generated code (else the reference backend serves them)."""
    return prepare(*_normal(outputs, 0), _name(dtype), machine(), False, False) is not None


def source(outputs: tuple[Output, ...], dtype: torch.dtype = torch.float32, target: str | None = None, expand: bool = False) -> str:
    """The generated LLVM IR, for the host or a named target ("avx2", "avx512", "neon")."""
    from . import jit
    from ..render.tile import render

    t = jit.host_target() if target is None else jit.Target.named(target)
    args = 1 + max((v.attr[0] for v in variables(*(o.expr for o in outputs))), default=-1)
    ready = prepare(*_normal(outputs, args), _name(dtype), _machine_of(t), expand, False)
    if ready is None:
        raise NotImplementedError("no generated code for these outputs")
    return render(ready.plan, t.triple)


def _name(dtype: torch.dtype) -> str:
    return "float64" if dtype == torch.float64 else "float32"


def _machine_of(target: Any) -> Machine:
    many = target.width_bits == 512 or target._is_arm64
    return Machine(target.width_bits, 32 if many else 16, target.has_fma)


@functools.cache
def machine() -> Machine:
    """This processor."""
    from . import jit

    return _machine_of(jit.host_target())


@dataclass(frozen=True)
class Binary:
    """Loaded functions of a plan; the library lives as long as they do."""

    plan: Plan
    pack: Callable[..., None]
    tile: Callable[..., None]


@functools.lru_cache(maxsize=512)
def binary(plan: Plan) -> Binary:
    """Render, compile (or find in the cache on disk) and load a plan for this machine."""
    from ..render.tile import render
    from . import jit

    target = jit.host_target()
    library = jit.load(jit.compile_ir(render(plan, target.triple), target))
    return Binary(plan, library.function("pack", 3), library.function("tile", 6))


@functools.lru_cache(maxsize=4096)
def _normal(outputs: tuple[Output, ...], args: int) -> tuple[tuple[Output, ...], int]:
    """Outputs whose only axes are "j" and, beside others, "i": alone, "i" is "j" of the transpose."""
    from ..autodiff import transpose

    if all(o.axis == "i" or (o.axis == "ij" and o.reduction.code == "sum") for o in outputs) and any(
        o.axis == "i" for o in outputs
    ):
        outputs = tuple(Output(transpose(o.expr), o.reduction, {"i": "j", "ij": "ij"}[o.axis]) for o in outputs)
    return outputs, args


def _plan_call(outputs: tuple[Output, ...], args: tuple[Tensor, ...], g: Geometry, options: Options) -> list | None:
    normal, count = _normal(outputs, len(args))
    if normal is not outputs and outputs[0].axis != normal[0].axis or any(
        a.axis != b.axis for a, b in zip(outputs, normal, strict=True)
    ):
        g = replace(g, M=g.N, N=g.M)
    if any(o.axis != "j" and o.reduction.code != "sum" for o in normal):
        return None
    halved = _halved(normal, args, g)
    if halved is not None:
        normal, args = halved.outputs, (*args, *(args[k] for k in halved.copies))
        count = len(args)
    centres = _centres(normal, args, g) if options.precision != "exact" and expandable(normal) else None
    ready = prepare(normal, count, _name(g.dtype), machine(), bool(centres), halved is not None)
    if ready is None:
        return None
    results = Launch(ready, normal, (*args, *(centres or ())), g, options).results()
    return results if halved is None else [(_joined(halved, results, args, outputs[0].expr.dim, g),)]


def _halved(outputs: tuple[Output, ...], args: tuple[Tensor, ...], g: Geometry) -> Halved | None:
    """The sum as two half sums, if i and j are the same points and the formula is symmetric."""
    if len(outputs) != 1 or g.M != g.N or g.M < HALVE_ABOVE:
        return None
    found = variables(outputs[0].expr)
    rows = [v.attr[0] for v in found if v.attr[2] == "i"]
    columns = [v.attr[0] for v in found if v.attr[2] == "j"]
    same = tuple((i, j) for i in rows for j in columns if _same(args[i], args[j]))
    return halve(outputs[0], len(args), same) if same else None


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride())


def _joined(h: Halved, results: list[tuple[Tensor, ...]], args: tuple[Tensor, ...], dim: int, g: Geometry) -> Tensor:
    (rows,), (columns,) = results
    total = rows + columns
    if h.post is not None:
        total = (total * _side(h.post, args, g)).to(g.dtype)
    return total.expand(*g.batch, g.M, dim)


# ---------------------------------------------------------------- distances as inner products


def _centres(outputs: tuple[Output, ...], args: tuple[Tensor, ...], g: Geometry) -> list[Tensor] | None:
    """A centre for each distance that may be expanded around it; None if rounding forbids it.

    Expanding |u - v|^2 costs a rounding of |u - c|^2 + |v - c|^2, which must stay below `GUARD`. The
    origin is tried first: it needs no pass over the data to find, and none to subtract.
    """
    unit = torch.finfo(g.dtype).eps / 2
    found = []
    for e in expandable(outputs):
        u, v = (_side(f, args, g) for f in e.args[0].args[0].args)
        centre = torch.zeros(u.shape[-1], dtype=g.dtype)
        worst = sum(float(torch.linalg.vector_norm(r, dim=-1).amax()) ** 2 for r in (u, v))
        if not worst * unit <= GUARD:
            centre = v.mean(-2)
            shifted = (r - centre.unsqueeze(-2) for r in (u, v))
            worst = sum(float(torch.linalg.vector_norm(r, dim=-1).amax()) ** 2 for r in shifted)
            if not worst * unit <= GUARD:  # NaN and inf fail too
                return None
        found.append(centre)
    return found


def _side(f: Expr, args: tuple[Tensor, ...], g: Geometry) -> Tensor:
    """A formula that depends on one side only: (*batch or broadcastable, rows, dim)."""
    values = {}
    for v in variables(f):
        a = args[v.attr[0]]
        values[v.attr[0]] = a[..., None, :] if v.attr[2] == "p" else a
    return reference.evaluate(f, values, torch.empty(0, dtype=g.dtype, device=g.device))


# ---------------------------------------------------------------- one call


class Launch:
    """Memory and context of one call."""

    def __init__(self, ready: Prepared, outputs: tuple[Output, ...], args: tuple[Tensor, ...], g: Geometry, options: Options):
        self.ready, self.outputs, self.g = ready, outputs, g
        self.plan = plan = ready.plan
        self.threads = options.threads or torch.get_num_threads()
        self.args = args
        s = plan.schedule
        self.height = s.rows * s.width
        self.batches = math.prod(g.batch)
        width_j = sum(f.dim for f in plan.fields_j)
        self.tiles = 1 if width_j < 48 else max(1, min(16, g.M // (8 * self.height)))
        self.groups = -(-g.M // (self.tiles * self.height))
        self.splits, self.chunk = self._split()
        self.items = self.batches * self.groups * self.splits
        self.keep: list[Any] = []

    def _split(self) -> tuple[int, int]:
        """Ranges of j, from the shapes alone."""
        block, n = self.plan.schedule.block_j, self.g.N
        if any(not t.by_row for t in self.plan.tasks):
            return 1, n
        want = -(-SPLIT_ITEMS // (self.batches * self.groups))
        parts = max(1, min(want, n // (4 * block)))
        chunk = -(-n // (parts * block)) * block
        return -(-n // chunk), chunk

    # ------------------------------------------------------------------ the context
    def results(self) -> list[tuple[Tensor, ...]]:
        from ..render.context import Context

        g, plan = self.g, self.plan
        code = binary(plan)
        layout = Context(plan)
        numbers = [0] * layout.size

        def put(name: str, value: int) -> None:
            numbers[layout.slot(name)] = value

        for name, value in (("M", g.M), ("N", g.N), ("batches", self.batches), ("groups", self.groups),
                            ("tiles", self.tiles), ("splits", self.splits), ("chunk", self.chunk)):  # fmt: skip
            put(name, value)
        for k, a in enumerate(self.args):
            self._bind(numbers, layout, k, a)
        width_j = sum(f.dim for f in plan.fields_j)
        records = self.new((self.batches, g.N, width_j), g.dtype)
        put("records", records.data_ptr())
        put("records_batch", g.N * width_j)
        columns = self._signal(put)
        kept = max((o.reduction.k for o in self.outputs), default=1)
        put("kept", kept)
        workers = self.threads if self.batches * g.M * g.N > INLINE_PAIRS else 1
        outs = self._outputs(numbers, layout, columns, kept)
        slots, sums = self._sums(put)
        self._scratch(numbers, layout, put, columns, kept, workers)
        ctx = (ctypes.c_int64 * len(numbers))(*numbers)
        address = ctypes.addressof(ctx)
        vectors = self.batches * -(-g.N // plan.schedule.width)
        if workers == 1:
            code.pack(address, 0, vectors)
            if sums is None:
                code.tile(address, 0, self.items, 1, 0, 0)
            else:
                for slot in range(slots):
                    code.tile(address, slot, self.items, slots, 0, slot)
        else:
            grain = max(64, -(-vectors // (8 * workers)))
            parallel(lambda lo, hi, w: code.pack(address, lo, hi), vectors, grain, workers)
            if sums is None:
                grain = max(1, min(-(-self.items // (8 * workers)), (1 << 22) // (self.tiles * self.height * self.chunk) + 1))
                parallel(lambda lo, hi, w: code.tile(address, lo, hi, 1, w, 0), self.items, grain, workers)
            else:
                parallel(lambda lo, hi, w: code.tile(address, lo, self.items, slots, w, lo), slots, 1, workers)
        return self._finish(outs, sums)

    def new(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        t = torch.empty(shape, dtype=dtype)
        self.keep.append(t)
        return t

    def _bind(self, numbers: list[int], layout: Any, k: int, a: Tensor) -> None:
        """Address, strides and batch offsets of an argument."""
        axes = self._axes()
        axis = axes.get(k)
        if axis is None:
            return
        numbers[layout.arg(k, "address")] = a.data_ptr()
        numbers[layout.arg(k, "inner")] = a.stride(-1)
        if axis != "p":
            numbers[layout.arg(k, "row")] = a.stride(-2)
        numbers[layout.arg(k, "offsets")] = self._offsets(a, 1 if axis == "p" else 2)

    def _axes(self) -> dict[int, str]:
        return _axes_of(self.plan)

    def _offsets(self, a: Tensor, rank: int) -> int:
        """Address of a table: where each batch element starts, in elements."""
        if not self.g.batch:
            return _ZERO.data_ptr()
        wide = a.expand(*self.g.batch, *a.shape[a.dim() - rank :])
        table = torch.zeros(self.g.batch, dtype=torch.int64)
        for axis, (size, stride) in enumerate(zip(self.g.batch, wide.stride(), strict=False)):
            shape = [1] * len(self.g.batch)
            shape[axis] = size
            table += (torch.arange(size) * stride).reshape(shape)
        table = table.reshape(-1).contiguous()
        self.keep.append(table)
        return table.data_ptr()

    def _signal(self, put: Callable[[str, int], None]) -> int:
        if self.ready.signal is None:
            return 1
        b = _side(self.ready.signal, self.args, self.g)
        b = b.expand(*b.shape[:-2], self.g.N, b.shape[-1])
        if b.stride(-1) != 1:
            b = b.contiguous()
        self.keep.append(b)
        put("E", b.shape[-1])
        put("signal", b.data_ptr())
        put("signal_row", b.stride(-2))
        put("signal_offsets", self._offsets(b, 2))
        return b.shape[-1]

    def _outputs(self, numbers: list[int], layout: Any, columns: int, kept: int) -> list[list[Tensor]]:
        """Arrays the kernel writes the states to: [splits][batch][row][component]."""
        g, outs = self.g, []
        index = torch.int32 if g.dtype == torch.float32 else torch.int64
        for k, task in enumerate(self.plan.tasks):
            if not task.by_row:
                outs.append([])
                continue
            lead = (self.splits, self.batches, g.M)
            if task.code == "kmin":
                shape, types = (*lead, kept, task.dim), (g.dtype, index)
            else:
                shape = (*lead, columns if task.signal else task.dim)
                types = {"sum": (torch.float64,), "logsumexp": (g.dtype, torch.float64), "min": (g.dtype, index)}[task.code]
            arrays = [self.new(shape, t) for t in types]
            for name, a in zip(("out_a", "out_b"), arrays, strict=False):
                numbers[layout.task(k, name)] = a.data_ptr()
            outs.append(arrays)
        return outs

    def _sums(self, put: Callable[[str, int], None]) -> tuple[int, Tensor | None]:
        """Column sums of each slot; work items are dealt to slots in a fixed way."""
        dim = sum(t.core.dim for t in self.plan.tasks if not t.by_row)
        if not dim:
            return 1, None
        padded = self.g.N + self.plan.schedule.block_j
        bytes_each = self.batches * dim * padded * 8
        slots = max(2, min(64, SUMS_BYTES // bytes_each, self.items))
        sums = torch.zeros((slots, self.batches, dim, padded), dtype=torch.float64)
        put("sums", sums.data_ptr())
        put("sums_slot", sums.stride(0))
        put("sums_batch", sums.stride(1))
        put("sums_row", sums.stride(2))
        return slots, sums

    def _scratch(self, numbers: list[int], layout: Any, put: Callable[[str, int], None], columns: int, kept: int, workers: int) -> None:
        """Regions of one thread's memory, each on a cache line."""
        plan, s = self.plan, self.plan.schedule
        real = 4 if plan.dtype == "float32" else 8
        at = 0

        def take(size: int) -> int:
            nonlocal at
            start = at
            at += -(-size // 64) * 64
            return start

        width_i = sum(f.dim for f in plan.fields_i) + 1
        put("x", take(self.tiles * width_i * self.height * real))
        put("p", take(sum(f.dim for f in plan.fields_p) * s.width * real))
        if any(t.signal for t in plan.tasks):
            put("k", take(s.block_j * self.height * real))
        partial = sum(t.core.dim for t in plan.tasks if not t.by_row)
        put("columns", take(partial * s.block_j * s.width * real))
        for k, task in enumerate(plan.tasks):
            if task.by_row:
                per_row = columns if task.signal else kept * task.dim if task.code == "kmin" else task.dim
                for name in "abc":
                    numbers[layout.task(k, name)] = take(self.tiles * per_row * self.height * 8)
        each = -(-at // 4096) * 4096 + 64
        memory = self.new((each * workers + 64,), torch.uint8)
        put("scratch", -(-memory.data_ptr() // 64) * 64)
        put("scratch_thread", each)

    # ------------------------------------------------------------------ states to results
    def _finish(self, outs: list[list[Tensor]], sums: Tensor | None) -> list[tuple[Tensor, ...]]:
        g, results, column = self.g, [], 0
        for o, post, task, arrays in zip(self.outputs, self.ready.posts, self.plan.tasks, outs, strict=True):
            if not task.by_row:
                assert sums is not None
                value = sums[:, :, column : column + task.core.dim, : g.N].sum(0).transpose(-1, -2)
                column += task.core.dim
                value = value.reshape(*g.batch, g.N, task.core.dim)
                if post is not None:
                    value = value * _side(post, self.args, g).double()
                value = value.expand(*g.batch, g.N, o.expr.dim)
                results.append((value.to(g.dtype),))
                continue
            results.append(self._row_result(o, arrays))
        return results

    def _row_result(self, o: Output, arrays: list[Tensor]) -> tuple[Tensor, ...]:
        g, r = self.g, o.reduction
        if r.code == "min":  # the definition's state keeps a k axis
            arrays = [a.unsqueeze(-2) for a in arrays]
        state = tuple(a[0] for a in arrays)
        for part in range(1, self.splits):
            state = r.merge(r, state, tuple(a[part] for a in arrays))
        final = r.final(r, state)
        out = []
        for x, kind in zip(final, r.outputs, strict=True):
            x = x.reshape(*g.batch, *x.shape[1:])
            if o.axis == "ij":
                x = x.sum(-2)
            out.append(x.to(torch.int64) if kind == "index" else x.to(g.dtype))
        return tuple(out)


_ZERO = torch.zeros(1, dtype=torch.int64)


@functools.lru_cache(maxsize=4096)
def _axes_of(plan: Plan) -> dict[int, str]:
    """Argument number -> axis, for the arguments the fields read."""
    return {v.attr[0]: v.attr[2] for v in variables(*plan.fields_i, *plan.fields_j, *plan.fields_p)}

"""Compile plans with LLVM and run them on torch's memory with a few threads.

A call evaluates what lies around the kernel (signals, centres, factors of column results) with
torch, fills the context record with addresses and sizes, and lets the threads take work items. What
is split (ranges of j, slots of column sums) depends on shapes alone and is merged in a fixed order,
so results do not depend on the number of threads.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...options import Options
from ..expr import variables
from ..plan import Geometry, Output, Plan, shapes_of, slices
from ..planner import Machine, Prepared, decisive, expandable, normal, passes, prepare
from ..reduction import over_rows, typed
from ..rewrite import Facts
from ..threads import parallel
from . import reference
from .halves import halved, joined, side, without_pairs
from .layout import LINE, Layout, group_rows, layout

Tensor = torch.Tensor
name = "cpu"
LOG = logging.getLogger("kerngp")

HALVE_ABOVE = 1024  # symmetric sums of more points visit each pair once
NEAR = 2e-5  # up to this error of an expanded squared distance the origin serves as centre
SLICE = 32  # components of a state given by formulas in one launch, where it has very many
GUARD = 2e-4  # largest error of an expanded squared distance that is accepted, from rounding alone


def run(
    outputs: tuple[Output, ...], args: tuple[Tensor, ...], g: Geometry, options: Options
) -> list[tuple[Tensor, ...]]:
    """Each output's tensors; what the kernels do not cover goes to the reference backend."""
    if g.dtype in (torch.float16, torch.bfloat16):  # 16-bit floats are storage only
        wide = run(outputs, tuple(a.float() for a in args), replace(g, dtype=torch.float32), options)
        return [tuple(x.to(g.dtype) if x.is_floating_point() else x for x in out) for out in wide]
    if g.pairs == 0:
        return reference.run(outputs, args, g, options.memory_limit)
    results: dict[int, tuple[Tensor, ...]] = {}
    for group in passes(outputs):
        found = _plan_call(tuple([outputs[k] for k in group]), args, g, options)
        if found is None:  # not in one pass: each alone, and what has no generated code by the definition
            found = [_alone(outputs[k], args, g, options) for k in group]
        results.update(zip(group, found, strict=True))
    return [results[k] for k in range(len(outputs))]


def _alone(o: Output, args: tuple[Tensor, ...], g: Geometry, options: Options) -> tuple[Tensor, ...]:
    """One output: in generated code, in slices of its components if need be, else by the definition."""
    found = _plan_call((o,), args, g, options)
    if found is not None:
        return found[0]
    parts = slices(o, SLICE) if o.reduction.law is not None else None
    if parts is None:
        return reference.run((o,), args, g, options.memory_limit)[0]
    results = [_alone(part, args, g, options) for part in parts]
    return tuple([torch.cat(values, -1) for values in zip(*results, strict=True)])


def supports(outputs: tuple[Output, ...], dtype: torch.dtype = torch.float32) -> bool:
    """Whether these outputs run in generated code (else the reference backend serves them)."""
    return prepare(normal(outputs)[0], 0, _name(dtype), machine(), False, False) is not None


def source(
    outputs: tuple[Output, ...],
    dtype: torch.dtype = torch.float32,
    target: str | None = None,
    expand: bool = False,
) -> str:
    """The generated LLVM IR, for the host or a named target ("avx2", "avx512", "neon")."""
    from ..render.tile import render
    from . import jit

    t = jit.host_target() if target is None else jit.Target.named(target)
    args = 1 + max((v.attr[0] for v in variables(*(o.expr for o in outputs))), default=-1)
    ready = prepare(normal(outputs)[0], args, _name(dtype), _machine_of(t), expand, False)
    if ready is None:
        raise NotImplementedError("no generated code for these outputs")
    return render(ready.plan, t.triple)


def _name(dtype: torch.dtype) -> str:
    return "float64" if dtype == torch.float64 else "float32"


def _machine_of(target: Any) -> Machine:
    many = target.width_bits == 512 or target._is_arm64
    return Machine(target.width_bits, 32 if many else 16, target.has_fma, target.has_scaling)


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

    start = time.perf_counter()
    target = jit.host_target()
    library = jit.load(jit.compile_ir(render(plan, target.triple), target))
    LOG.info("cpu kernel ready after %.2f s: %s", time.perf_counter() - start, plan)
    return Binary(plan, library.function("pack", 3), library.function("tile", 6))


@functools.lru_cache(maxsize=4096)
def _has_form(outputs: tuple[Output, ...]) -> bool:
    return all(o.axis != "i" or o.reduction.code == "sum" for o in outputs)


def _plan_call(
    outputs: tuple[Output, ...], args: tuple[Tensor, ...], g: Geometry, options: Options
) -> list | None:
    form, exchanged = normal(outputs)
    if exchanged:
        g = g.exchanged()
    if not _has_form(form):
        return None
    count = len(args)
    half = halved(form, args, g, HALVE_ABOVE)
    if half is not None:
        form, args = half.outputs, (*args, *(args[k] for k in half.copies))
        count = len(args)
    centres = _centres(form, args, g) if options.precision != "exact" and expandable(form) else None
    facts = _facts(form, args)
    ranged = 0 if g.ranges is None else g.ranges.i.rows
    ready = prepare(form, count, _name(g.dtype), machine(), bool(centres), half is not None, facts, ranged)
    if ready is None:
        return None
    results = _execute(ready, form, (*args, *(centres or ())), g, options)
    return results if half is None else [(joined(half, results, args, outputs[0].expr.dim, g),)]


def _facts(outputs: tuple[Output, ...], args: tuple[Tensor, ...]) -> Facts:
    """Signs of the parameters that decide about an exponential."""
    found = []
    for k in decisive(outputs):
        if args[k].numel() == 1:
            value = args[k].item()
            if value >= 0 or value <= 0:  # not NaN
                found.append((k, 1 if value >= 0 else -1))
    return tuple(found)


# ---------------------------------------------------------------- distances as inner products


def _centres(outputs: tuple[Output, ...], args: tuple[Tensor, ...], g: Geometry) -> list[Tensor] | None:
    """A centre for each distance that may be expanded around it; None if rounding forbids it.

    Expanding |u - v|^2 costs a rounding of |u - c|^2 + |v - c|^2, which must stay below `GUARD`. The
    origin is tried first: it needs no pass over the data to find, and none to subtract. It must be
    better than that, `NEAR`: data that are merely off-centre keep their digits.
    """
    unit = torch.finfo(g.dtype).eps / 2
    found = []
    for e in expandable(outputs):
        u, v = (side(f, args, g) for f in e.args[0].args[0].args)
        centre = torch.zeros(u.shape[-1], dtype=g.dtype)
        worst = sum(float(torch.linalg.vector_norm(r, dim=-1).amax()) ** 2 for r in (u, v))
        if not worst * unit <= NEAR:
            centre = v.mean(-2)
            shifted = (r - centre.unsqueeze(-2) for r in (u, v))
            worst = sum(float(torch.linalg.vector_norm(r, dim=-1).amax()) ** 2 for r in shifted)
            if not worst * unit <= GUARD:  # NaN and inf fail too
                return None
        found.append(centre)
    return found


# ---------------------------------------------------------------- one call


def _execute(
    ready: Prepared, outputs: tuple[Output, ...], args: tuple[Tensor, ...], g: Geometry, options: Options
) -> list[tuple[Tensor, ...]]:
    """Allocate, fill in the addresses, run the threads, and turn states into results."""
    plan, code = ready.plan, binary(ready.plan)
    signal = _signal(ready, args, g)
    kept = max([o.reduction.k for o in outputs])
    threads = options.threads or torch.get_num_threads()
    rows = group_rows(plan)
    walk = None if g.ranges is None else g.ranges.i.walk(rows)
    shape = None if signal is None else shapes_of((signal,))[0]
    lay = layout(plan, replace(g, ranges=None), shapes_of(args), shape, kept, threads, walk)
    ctx = lay.record.from_buffer_copy(lay.numbers)
    for slot, k in lay.bind:
        ctx[slot] = args[k].data_ptr()
    if signal is not None:
        ctx[lay.signal] = signal.data_ptr()
    tables = () if g.ranges is None else g.ranges.i.tables(rows, lay.splits, g.device)
    for slot, table in zip(lay.walk, tables, strict=True):
        ctx[slot] = table.data_ptr()
    work = torch.empty(lay.work, dtype=torch.uint8)
    base = -(-work.data_ptr() // LINE) * LINE
    ctx[lay.records], ctx[lay.scratch] = base, base + lay.scratch_at
    arrays = [[torch.empty(shape, dtype=t) for _, shape, t in outs] for outs in lay.outputs]
    for own, outs in zip(arrays, lay.outputs, strict=True):
        for a, (slot, _, _) in zip(own, outs, strict=True):
            ctx[slot] = a.data_ptr()
    sums = None
    if lay.sums is not None:
        sums = torch.zeros(lay.sums, dtype=torch.float64)
        ctx[lay.sums_slot] = sums.data_ptr()
    _run_threads(code, lay, ctypes.addressof(ctx))
    return _finish(ready, outputs, args, g, arrays, sums, lay.splits)


def _run_threads(code: Binary, lay: Layout, ctx: int) -> None:
    if lay.workers == 1:
        code.pack(ctx, 0, lay.vectors)
        if lay.sums is None:
            code.tile(ctx, 0, lay.items, 1, 0, 0)
        else:
            for slot in range(lay.sums[0]):
                code.tile(ctx, slot, lay.items, lay.sums[0], 0, slot)
        return
    grain = max(64, -(-lay.vectors // (8 * lay.workers)))
    parallel(lambda lo, hi, w: code.pack(ctx, lo, hi), lay.vectors, grain, lay.workers)
    if lay.sums is None:
        parallel(lambda lo, hi, w: code.tile(ctx, lo, hi, 1, w, 0), lay.items, lay.grain, lay.workers)
    else:
        slots = lay.sums[0]
        parallel(lambda lo, hi, w: code.tile(ctx, lo, lay.items, slots, w, lo), slots, 1, lay.workers)


def _signal(ready: Prepared, args: tuple[Tensor, ...], g: Geometry) -> Tensor | None:
    """The signal's values, rows contiguous."""
    if ready.signal is None:
        return None
    b = side(ready.signal, args, g)
    b = b.expand(*b.shape[:-2], g.N, b.shape[-1])
    return b if b.stride(-1) == 1 else b.contiguous()


def _finish(
    ready: Prepared,
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    g: Geometry,
    arrays: list[list[Tensor]],
    sums: Tensor | None,
    splits: int,
) -> list[tuple[Tensor, ...]]:
    """Merge the parts in their order and apply what the kernel left to do."""
    results, column = [], 0
    for o, post, task, own in zip(outputs, ready.posts, ready.plan.tasks, arrays, strict=True):
        if task.by_row:
            results.append(_row_result(o, own, g, splits))
            continue
        assert sums is not None
        value = sums[:, :, column : column + task.core.dim, : g.N].sum(0).transpose(-1, -2)
        column += task.core.dim
        value = value.reshape(*g.batch, g.N, task.core.dim)
        if post is not None:
            value = value * side(post, args, g).double()
        value = value.to(g.dtype).expand(*g.batch, g.N, o.expr.dim)
        results.append(without_pairs(o, (value,), g))
    return results


def _row_result(o: Output, arrays: list[Tensor], g: Geometry, splits: int) -> tuple[Tensor, ...]:
    r = o.reduction
    state = tuple(arrays)
    if splits > 1:
        state = tuple([a[0] for a in arrays])
        for part in range(1, splits):
            state = r.merge(r, state, tuple([a[part] for a in arrays]))
    state = without_pairs(o, state, g, state=True)
    if o.axis == "ij":
        state = over_rows(r, state)
    return tuple([typed(x, kind, g.dtype) for x, kind in zip(r.final(r, state), r.outputs, strict=True)])

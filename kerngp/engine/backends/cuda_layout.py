"""What a CUDA launch needs beyond addresses: sizes, strides, memory regions, split of the work.

A layout depends on the plan, on shapes and on the device, never on data; it is computed once and then
only addresses are filled in.
"""

from __future__ import annotations

import array
import functools
import math
from dataclasses import dataclass

import torch

from ..cuda_planner import CudaSchedule
from ..expr import variables
from ..plan import Geometry, Plan, Shape
from ..ranges import Walk
from ..render.cuda_context import CudaContext
from ..render.cuda_mma import form_of, fragments
from ..render.cuda_tile import PACK_THREADS, Records, slab_ranges, slabbed

ALIGN = 256  # bytes between regions of the workspace
SLOTS = 16  # blocks that pass the same columns when sums over i are wanted
WAVES = 4  # blocks wanted for each multiprocessor before j is split
MOST_SPLITS = {"kmin": 16}  # of j; 128 for the other reductions


@dataclass(frozen=True, eq=False)
class CudaLayout:
    """A launch without addresses.

    numbers : the context, addresses zero.
    bind : (slot, argument) of each array read.
    signal, guard : slots of the signal's address, and of the largest norm's, which its limit follows.
    walk : slots of the addresses of a ranged plan's tables.
    outputs : for each task, (slot, shape, dtype) of each result.
    work : bytes of the workspace; ``regions`` are (slot, offset) of what lies in it.
    grids : blocks of the kernels pack, tile and merge; 0 for none.
    threads, shared : of a block of the tile kernel; bytes of its shared memory.
    """

    numbers: bytes
    bind: tuple[tuple[int, int], ...]
    signal: int
    guard: int
    walk: tuple[int, ...]
    outputs: tuple[tuple[tuple[int, tuple[int, ...], torch.dtype], ...], ...]
    work: int
    regions: tuple[tuple[int, int], ...]
    grids: tuple[int, int, int]
    threads: int
    shared: int
    splits: int
    split_grid: int  # blocks of the kernel that lays out fragments


@functools.lru_cache(maxsize=1024)
def cuda_layout(
    plan: Plan,
    g: Geometry,
    args: tuple[Shape, ...],
    signal: Shape | None,
    kept: int,
    signs: tuple[int, ...],
    multiprocessors: int,
    walk: Walk | None = None,
) -> CudaLayout:
    """Lay out a launch of ``plan`` on arrays of these shapes, whose batch axes are one axis or none.

    ``walk`` belongs to a ranged plan.
    """
    s = plan.schedule
    assert isinstance(s, CudaSchedule)
    context, records = CudaContext(plan), Records(plan)
    numbers = array.array("q", bytes(8 * context.size))
    batches, real = math.prod(g.batch), 4 if plan.dtype == "float32" else 8
    tiles = -(-g.M // s.tile)
    padded = {
        "i": (tiles + plan.ranged) * s.tile if s.wide else g.M,
        "j": -(-g.N // s.step) * s.step if s.wide else g.N,
        "p": 1,
    }
    columns = signal.shape[-1] if signal else 1
    slabs = _slabs(plan, columns)
    summed = sum(t.core.dim for t in plan.tasks if not t.by_row)
    slots, meets = min(tiles, SLOTS) if summed else tiles, g.N
    if walk is not None:
        slots, meets = walk
    splits, chunk = _split(plan, meets, batches * slots * slabs, multiprocessors)

    def put(slot: int, value: int) -> None:
        numbers[slot] = value

    sizes = {
        "M": g.M,
        "N": g.N,
        "Mp": padded["i"],
        "Np": padded["j"],
        "batches": batches,
        "tiles": tiles,
        "slots": slots,
        "slabs": slabs,
        "splits": splits,
        "chunk": chunk,
        "E": columns,
        "kept": kept,
    }
    for name, value in sizes.items():
        put(context.slot(name), value)
    bind = []
    for v in variables(*plan.fields_i, *plan.fields_j, *plan.fields_p):
        k, _, axis = v.attr
        a = args[k]
        put(context.arg(k, "inner"), a.stride[-1])
        if axis != "p":
            put(context.arg(k, "row"), a.stride[-2])
        put(context.arg(k, "batch"), _batch_stride(a, 1 if axis == "p" else 2))
        bind.append((context.arg(k, "address"), k))
    if signal is not None:
        put(context.slot("signal_row"), signal.stride[-2])
        put(context.slot("signal_inner"), signal.stride[-1])
        put(context.slot("signal_batch"), _batch_stride(signal, 2))
    regions: list[tuple[int, int]] = []
    size = 0

    def take(slot: int, count: int) -> None:
        nonlocal size
        regions.append((slot, size))
        size += -(-count // ALIGN) * ALIGN

    for axis in "ijp":
        take(context.slot(f"records_{axis}"), batches * padded[axis] * records.width[axis] * real)
    split_grid = 0
    if s.tensor:
        parts = fragments(form_of(plan).U.dim, s.words)
        lanes = [batches * padded["i"] // 16 * parts * 32, batches * padded["j"] // 8 * parts * 32]
        take(context.slot("fragments_i"), lanes[0] * 16)
        take(context.slot("fragments_j"), lanes[1] * 8)
        if signal is not None:
            lanes.append(batches * padded["j"] // 8 * slabs * s.slab // 8 * 32)
            take(context.slot("fragments_s"), lanes[2] * 16)
        split_grid = -(-sum(lanes) // PACK_THREADS)
    outputs = []
    merged = splits > 1
    for k, (task, sign) in enumerate(zip(plan.tasks, signs, strict=True)):
        put(context.task(k, "sign"), sign)
        if not task.by_row:
            outputs.append(((context.task(k, "out_a"), (*g.batch, g.N, task.core.dim), g.dtype),))
            continue
        width = columns if task.signal else task.dim
        rows = batches * g.M * width
        shape = (*g.batch, g.M, kept, width) if task.code == "kmin" else (*g.batch, g.M, width)
        found = [(context.task(k, "out_a"), shape, torch.float64 if task.code == "fold" else g.dtype)]
        if task.code in ("min", "kmin"):
            found.append((context.task(k, "out_b"), shape, torch.int64))
        outputs.append(tuple(found))
        if task.code == "kmin":  # lists of their own for threads that share rows
            merged = True
            rows *= kept * splits * s.lanes
            take(context.task(k, "part_a"), rows * real)
            take(context.task(k, "part_b"), rows * 8)
        elif splits > 1:
            rows *= splits
            take(context.task(k, "part_a"), rows * (8 if task.code in ("sum", "fold") else real))
            if task.code in ("min", "logsumexp"):
                take(context.task(k, "part_b"), rows * 8)
    if summed:
        take(context.slot("sums"), slots * batches * summed * g.N * 8)
    packed = sum(batches * padded[a] for a in "ijp" if records.fields[a])
    shared = 0 if s.wide else 2 * s.block_j * records.width["j"] * real
    if not s.wide and any(t.signal for t in plan.tasks):
        shared += 2 * s.block_j * s.slab * real
    if summed:
        merged = True
        shared += 4 * summed * s.block_j * real
    last = batches * (g.M + (g.N if summed else 0))
    grids = (-(-packed // PACK_THREADS), slots * slabs * splits * batches, -(-last // PACK_THREADS))
    return CudaLayout(
        numbers.tobytes(),
        tuple(bind),
        context.slot("signal"),
        context.slot("guard"),
        (context.slot("walk"), context.slot("walk_ranges")) if plan.ranged else (),
        tuple(outputs),
        max(size, ALIGN),
        tuple(regions),
        grids if merged else (*grids[:2], 0),
        s.threads,
        shared,
        splits,
        split_grid,
    )


def _batch_stride(a: Shape, rank: int) -> int:
    """Elements between batch elements; 0 where all share one."""
    lead = a.shape[: len(a.shape) - rank]
    return a.stride[0] if lead and lead[0] > 1 else 0


def _slabs(plan: Plan, columns: int) -> int:
    s = plan.schedule
    if not slabbed(plan):
        return 1
    if plan.tasks[0].signal:
        return -(-columns // s.slab)
    return sum(-(-(hi - lo) // s.slab) for lo, hi in slab_ranges(plan))


def _split(plan: Plan, n: int, blocks: int, multiprocessors: int) -> tuple[int, int]:
    """Parts of n columns for different blocks, from the shapes and the device alone."""
    s = plan.schedule
    least = 4 * max(s.step, 128)
    most = min(MOST_SPLITS.get(t.code, 128) for t in plan.tasks)
    parts = max(1, min(-(-WAVES * multiprocessors // blocks), n // least, most))
    chunk = -(-n // (parts * s.step)) * s.step
    return -(-n // chunk), chunk

"""Schedules near the one the table gives, for a device to choose among by measuring: pure.

Each variant changes one number. Those the kernels could not be rendered for are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .cuda_planner import CudaSchedule
from .plan import Plan


def variants(plan: Plan) -> tuple[CudaSchedule, ...]:
    """Other schedules for the plan, without its own.

    Examples
    --------
    >>> from kerngp.engine.cuda_planner import Gpu
    >>> from kerngp.engine.expr import Vi, Vj
    >>> from kerngp.engine.ops import exp, sqdist
    >>> from kerngp.engine.plan import Output
    >>> from kerngp.engine.planner import prepare
    >>> from kerngp.engine.reductions import SUM
    >>> f = exp(-sqdist(Vi(0, 3), Vj(1, 3)))
    >>> plan = prepare((Output(f, SUM),), 2, "float32", Gpu("sm_90"), False, False).plan
    >>> plan.schedule.rows, [s.rows for s in variants(plan) if s.rows != plan.schedule.rows]
    (8, [4])
    """
    s = plan.schedule
    assert isinstance(s, CudaSchedule)
    near = _tensor(s) if s.tensor else _wide(s, plan.dtype) if s.wide else _narrow(s)
    return tuple(v for v in dict.fromkeys(near) if v != s and _renderable(v, plan))


def _renderable(s: CudaSchedule, plan: Plan) -> bool:
    if s.wide:
        return True
    whole = s.tile % s.block_j == 0 or all(t.by_row for t in plan.tasks)  # see Narrow: sums over i
    return whole and s.block_j % (max(s.group, s.gather) * s.unroll) == 0


def _narrow(s: CudaSchedule) -> Iterator[CudaSchedule]:
    for rows in (s.rows // 2, s.rows * 2):
        if 1 <= rows <= 8:
            yield replace(s, rows=rows)
    for block in (s.block_j // 2, s.block_j * 2):
        if 32 <= block <= 128:
            yield replace(s, block_j=block)
    for unroll in (s.unroll // 2, s.unroll * 2):
        if 1 <= unroll <= 16:
            yield replace(s, unroll=unroll)
    for threads in (64, 128, 256):
        yield replace(s, threads=threads, blocks=max(1, s.blocks * s.threads // threads))


def _wide(s: CudaSchedule, dtype: str) -> Iterator[CudaSchedule]:
    for rows in (s.rows // 2, s.rows * 2):
        if (4 if dtype == "float32" else 2) <= rows <= 8:  # rows are read by whole pieces of 16 bytes
            yield replace(s, rows=rows)
    for lanes in (s.lanes // 2, s.lanes * 2):
        yield replace(s, lanes=lanes)
    for unroll in (s.unroll // 2, s.unroll * 2):
        yield replace(s, unroll=unroll)


def _tensor(s: CudaSchedule) -> Iterator[CudaSchedule]:
    for rows, columns in ((2, 8), (4, 4), (4, 8), (8, 4), (8, 8)):
        yield replace(s, rows=rows, columns=columns, group=columns)
    for threads in (64, 256):
        yield replace(s, threads=threads, blocks=max(1, s.blocks * s.threads // threads))

"""The schedule of a plan chosen by measuring on the device, once for each kind of call, and kept on disk."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

from ...errors import CompileError
from ..cache import cached_compile
from ..cuda_planner import CudaSchedule
from ..cuda_variants import variants
from ..plan import Plan
from ..render.cuda_tile import render

Sizes = tuple[int, ...]
Launch = Callable[[Plan], None]
TURNS = 3  # measurements of each schedule, of which the best counts
SHARED = 48 << 10  # bytes of shared memory a block gets without asking for more


@dataclasses.dataclass(frozen=True, eq=False)
class Tuner:
    """How a device measures.

    Attributes
    ----------
    device : str
        What the measurements hold for: name and architecture.
    clock : callable (work) -> float
        Seconds that the device works on what ``work()`` launches.
    failures : tuple of exception types
        What the driver raises for a kernel that does not fit the device.
    """

    device: str
    clock: Callable[[Callable[[], Any]], float]
    failures: tuple[type[BaseException], ...] = ()


def tuned(plan: Plan, sizes: Sizes, tuner: Tuner, shared: Callable[[Plan], int], launch: Launch) -> Plan:
    """The plan with the fastest of its schedules for calls of about these sizes.

    ``launch(plan)`` starts it, ``shared(plan)`` is the shared memory it takes.
    """
    about = tuple(n.bit_length() for n in sizes)
    cell = _cell(plan, about, tuner)
    if not cell:
        key = ("schedule", tuner.device, repr(about), render(plan))
        stored = cached_compile(key, lambda: _measure(plan, tuner, shared, launch))
        cell.append(dataclasses.replace(plan, schedule=CudaSchedule(**json.loads(stored))))
    return cell[0]


@functools.lru_cache(maxsize=512)
def _cell(plan: Plan, about: Sizes, tuner: Tuner) -> list[Plan]:
    """Where the choice for a kind of call is kept in memory, once it is made."""
    return []


def _measure(plan: Plan, tuner: Tuner, shared: Callable[[Plan], int], launch: Launch) -> bytes:
    """The fastest schedule as JSON. Variants that do not compile or do not fit are passed over."""
    best, least = plan.schedule, _time(plan, tuner, launch)
    for schedule in variants(plan):
        other = dataclasses.replace(plan, schedule=schedule)
        if shared(other) > SHARED:
            continue
        try:
            seconds = _time(other, tuner, launch)
        except (CompileError, *tuner.failures):
            continue
        if seconds < least:
            best, least = schedule, seconds
    return json.dumps(dataclasses.asdict(best)).encode()


def _time(plan: Plan, tuner: Tuner, launch: Launch) -> float:
    launch(plan)  # compiles
    return min(tuner.clock(lambda: launch(plan)) for _ in range(TURNS))

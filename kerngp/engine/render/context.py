"""The record of 64-bit integers through which a kernel learns sizes, strides and addresses.

Rendering and launching agree on it here and nowhere else.
"""

from __future__ import annotations

from ..plan import Plan

HEADER = (
    "M",
    "N",
    "batches",
    "groups",  # groups of tiles per batch element
    "tiles",  # tiles in a group
    "splits",
    "chunk",  # ranges of j given to different work items, and their length
    "records",
    "records_batch",  # packed fields of j: address, stride between batch elements (elements)
    "scratch",
    "scratch_thread",  # memory of one thread: address, bytes between threads
    "x",
    "p",
    "k",
    "columns",  # byte offsets in it: fields of i, of p, kernel values, partial column sums
    "sums",
    "sums_slot",
    "sums_batch",
    "sums_row",  # column sums: address; strides in elements
    "E",
    "signal",
    "signal_row",
    "signal_offsets",  # columns of the signal, its address, strides
    "kept",  # k of k-min
    "walk",
    "walk_ranges",  # of a ranged plan: addresses of its groups of rows, and of its ranges of j
)
PER_ARG = ("address", "row", "inner", "offsets")  # strides in elements; offsets of the batch elements
PER_TASK = ("a", "b", "c", "out_a", "out_b")  # byte offsets of the state in scratch; output addresses


class Context:
    """Slot numbers of a plan's context."""

    def __init__(self, plan: Plan):
        self.args = plan.args
        self.tasks = len(plan.tasks)
        self.size = len(HEADER) + len(PER_ARG) * self.args + len(PER_TASK) * self.tasks

    def slot(self, name: str) -> int:
        return HEADER.index(name)

    def arg(self, k: int, name: str) -> int:
        return len(HEADER) + len(PER_ARG) * k + PER_ARG.index(name)

    def task(self, k: int, name: str) -> int:
        return len(HEADER) + len(PER_ARG) * self.args + len(PER_TASK) * k + PER_TASK.index(name)

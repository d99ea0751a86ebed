"""The record of 64-bit integers through which CUDA kernels learn sizes, strides and addresses.

Rendering and launching agree on it here and nowhere else.
"""

from __future__ import annotations

from ..plan import Plan

HEADER = (
    "M",
    "N",
    "Mp",
    "Np",  # rows and columns of the packed records, padded
    "batches",
    "tiles",  # of rows
    "slots",  # blocks along i; with sums over i each takes several tiles
    "sums",  # sums over i of each slot: address
    "slabs",  # groups of result columns given to different blocks
    "splits",
    "chunk",  # ranges of j given to different blocks, and their length
    "records_i",
    "records_j",
    "records_p",  # addresses of the packed fields
    "E",
    "signal",
    "signal_row",
    "signal_inner",
    "signal_batch",  # columns of the signal, its address, strides
    "kept",  # k of k-min
    "walk",
    "walk_ranges",  # of a ranged plan: addresses of its groups of rows, one for each slot, and of its ranges
    "fragments_i",
    "fragments_j",
    "fragments_s",  # of i, j and the signal, for tensor cores: addresses
    "guard",
    "limit",  # address of the largest norm, 0 if nobody looks; bits of the largest that tensor cores take
)
PER_ARG = ("address", "row", "inner", "batch")  # strides in elements
PER_TASK = ("out_a", "out_b", "part_a", "part_b", "sign")  # results; states of the parts of j; 1 or -1


class CudaContext:
    """Slot numbers of a plan's context."""

    def __init__(self, plan: Plan):
        self.args = plan.args
        self.size = len(HEADER) + len(PER_ARG) * self.args + len(PER_TASK) * len(plan.tasks)

    def slot(self, name: str) -> int:
        return HEADER.index(name)

    def arg(self, k: int, name: str) -> int:
        return len(HEADER) + len(PER_ARG) * k + PER_ARG.index(name)

    def task(self, k: int, name: str) -> int:
        return len(HEADER) + len(PER_ARG) * self.args + len(PER_TASK) * k + PER_TASK.index(name)

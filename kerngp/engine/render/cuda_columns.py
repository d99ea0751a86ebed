"""Sums over i in the narrow CUDA kernel: each block adds up its rows for every column it passes.

A thread sums over its own rows, a transposed butterfly of shuffles over the lanes of a warp, shared memory
over the warps. Blocks that pass the same columns own different *slots* in global memory, so that the merging
kernel adds in a fixed order; a block adds tile after tile to its slot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .block import Block

if TYPE_CHECKING:
    from .cuda_states import Column
    from .cuda_tile import Narrow

WARP = 32


class ColumnSums:
    """The tasks of a plan whose results stand for j."""

    def __init__(self, kernel: Narrow):
        self.kernel, self.e = kernel, kernel.e
        self.tasks = [t for t in kernel.plan.tasks if not t.by_row]
        self.components = sum(t.core.dim for t in self.tasks)
        self.warps = kernel.s.threads // WARP
        self.together = kernel.s.gather

    @property
    def words(self) -> int:
        """Reals of shared memory."""
        return self.components * self.warps * self.kernel.s.block_j

    def declare(self, at: str) -> None:
        e = self.e
        e.put(f"{e.real} *const gathered = {at};")
        own = f"((long long)slot * KG(batches) + batch) * {self.components} * KG(N)"
        e.put(f"double *const slot_sums = (double *)KG(sums) + {own};")
        e.put("const int lane32 = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;")

    def clear(self) -> None:
        """The block's columns of its slot, before the first tile."""
        e = self.e
        with e.braces(f"for (int j = j_begin + (int)threadIdx.x; j < j_end; j += {self.kernel.s.threads})"):
            for d in range(self.components):
                e.put(f"slot_sums[{d} * KG(N) + j] = 0;")
        e.put("__syncthreads();")

    def step(self, columns: list[Column], j: str) -> None:
        """Sum the values of a few columns over the rows of the warp; ``j`` is the first one's place."""
        d = 0
        for task in self.tasks:
            for component in range(task.core.dim):
                self._gather([self._own_rows(c, task, component) for c in columns], d, j)
                d += 1

    def _own_rows(self, c: Column, task: Any, component: int) -> str:
        """Sum over the thread's rows. A row that does not exist counts 0 times."""
        e, rows = self.e, self.kernel.rows
        value = e.expand(c.low.component(task.core, component), (rows, 1))
        total: Block | None = None
        for r in range(rows):
            v, weight = Block([[value.cells[r][0]]]), Block([[f"weight{r}"]])
            total = e.mul(v, weight) if total is None else e.fma(v, weight, total)
        assert total is not None
        return total.cell

    def _gather(self, sums: list[str], d: int, j: str) -> None:
        """Halve the number of sums with each exchange, until every lane holds one; then add up the rest."""
        e, columns = self.e, len(sums)
        step = columns // 2
        while step:
            upper = e.let("bool", f"(lane32 & {step}) != 0")
            kept = []
            for low, high in zip(sums[:step], sums[step:], strict=True):
                mine = e.let(e.real, f"{upper} ? {high} : {low}")
                other = e.let(e.real, f"{upper} ? {low} : {high}")
                kept.append(e.let(e.real, f"{mine} + __shfl_xor_sync(0xffffffffu, {other}, {step})"))
            sums, step = kept, step // 2
        (total,) = sums  # of column lane32 % columns, over a part of the lanes
        step = columns
        while step < WARP:
            total = e.let(e.real, f"{total} + __shfl_xor_sync(0xffffffffu, {total}, {step})")
            step *= 2
        place = f"gathered[({d} * {self.warps} + warp) * {self.kernel.s.block_j} + {j} + lane32]"
        e.put(f"if (lane32 < {columns}) {place} = {total};")

    def add(self) -> None:
        """After a block of columns: the warps' sums to the slot. A barrier stands before and after."""
        e, n = self.e, self.kernel.s.block_j
        with e.braces(f"for (int k = threadIdx.x; k < min({n}, j_end - j0); k += {self.kernel.s.threads})"):
            for d in range(self.components):
                e.put("{")
                e.put(f"  double total = gathered[{d * self.warps * n} + k];")
                for w in range(1, self.warps):
                    e.put(f"  total += gathered[{(d * self.warps + w) * n} + k];")
                e.put(f"  slot_sums[{d} * KG(N) + j0 + k] += total;")
                e.put("}")

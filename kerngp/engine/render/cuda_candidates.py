"""Selections on tensor cores: approximate distances name the candidates, exact ones decide.

The smallest of a group of approximate distances is compared with the best exact one so far, plus the error
an approximation may have. The few groups that pass are evaluated again as differences, so values and
columns, ties among them, are those of the form without tensor cores. What the lanes of a row have found
is made known to all of them from time to time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .cuda_states import STATES, Column, KMinState, MinState, State

if TYPE_CHECKING:
    from .cuda_tile import TileKernel

# Error of a distance, in units of the largest squared norm: the dropped products of second words and the
# rounding of words, 3 2^-21, and for each product of fragments a truncation at 2^-22 of up to four norms.
WORD_ERROR, PART_ERROR = 2.0**-19, 2.0**-20


class Candidates(State):
    """The state of a selection that looks only at columns an approximation lets through."""

    def __init__(self, kernel: TileKernel, k: int):
        super().__init__(kernel, k)
        inner = STATES[self.task.code](kernel, k)
        assert isinstance(inner, (MinState, KMinState))
        inner.group = 1  # columns, not groups of them, are remembered
        self.inner = inner

    def declare(self) -> None:
        from .cuda_mma import Tensor

        e, kernel = self.e, self.kernel
        assert isinstance(kernel, Tensor)
        self.inner.declare()
        self.limits = self.registers(float("inf"))
        error = e.literal(WORD_ERROR + kernel.parts * PART_ERROR)
        e.put("const float unit = kg_unit(*(const unsigned *)KG(guard)), square = unit * unit;")
        e.put(f"const float error = {error} * __int_as_float(*(const int *)KG(guard));")

    def step(self, columns: list[Column]) -> None:
        e = self.e
        least = self.value(columns[0], 0, float("inf"))
        for c in columns[1:]:
            least = e.apply("kg_least", least, self.value(c, 0, float("inf")))
        tests = [f"{x} <= {limit}" for x, limit in zip(least, self.limits, strict=True)]
        with e.braces(f"if ({' || '.join(tests)})"):
            for r, test in enumerate(tests):
                with e.braces(f"if ({test})"):
                    self._evaluate(r, columns)
        e.put("__syncwarp();")

    def _evaluate(self, r: int, columns: list[Column]) -> None:
        """The exact values of a group for one row, and the limit that follows."""
        e, exact = self.e, self.task.exact
        assert exact is not None
        with e.loop(0, len(columns), unroll=1) as n:
            column = e.let("int", self.kernel.column_of(columns[0].number, n))
            with e.braces(f"if ({column} < j_end)"):
                x = self.kernel.at_pair(r, column).scalar(exact).cell
                self.inner.take(r, x, column)
        limit = list(self.limits)[r]
        e.put(f"{limit} = fminf({limit}, ({self.inner.bound(r)} + error) * square);")

    def flush(self) -> None:
        step = self.kernel.lanes // 2
        while step:
            for limit in self.limits:
                self.e.put(f"{limit} = fminf({limit}, __shfl_xor_sync(0xffffffffu, {limit}, {step}));")
            step //= 2

    def combine(self) -> None:
        self.inner.combine()

    def finish(self) -> None:
        self.inner.finish()

    def merge(self) -> None:
        self.inner.merge()

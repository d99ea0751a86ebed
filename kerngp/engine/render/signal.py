"""sum_j k_ij b_jc for any number of columns c, known at run time only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..plan import Task
from .llvm import F64, I64, Block, Pointer
from .lowering import Lowering
from .states import State, Tile

if TYPE_CHECKING:
    from .tile import Kernel


class SignalState(State):
    """sum_j k_ij b_jc for any number of columns c: a block of k in memory, then rank-one updates."""

    def __init__(self, kernel: Kernel, task: Task):
        super().__init__(kernel.e, task, kernel.rows)
        self.kernel = kernel
        self.count: Any = None

    def init(self, tile: Tile) -> None:
        e = self.e
        zero = e._constant(e._vector(F64), 0.0)
        with e.loop(0, e.index_mul(self.kernel.head("E"), self.height), e.width) as at:
            e.store_vec(zero, tile.a, at, 8)

    def open(self, tile: Tile) -> None:
        self.tile = tile
        self.values = self.kernel.bytes(self.kernel.scratch, self.kernel.head("k"), self.e.elem)

    def at_column(self, lows: list[Lowering], jj: Any) -> None:
        e = self.e
        for n, low in enumerate(lows):
            value = e.expand(low.scalar(self.task.core), (self.rows, 1))
            start = e.index_mul(e.index_add(jj, n), self.height)
            for r in range(self.rows):
                e.store_vec(value.cells[r][0], self.values, e.index_add(start, r * e.width))

    def update(self, j0: Any, count: Any) -> None:
        """Add the block's contribution: a few signal columns at a time, in registers."""
        e, head = self.e, self.kernel.head
        assert self.tile is not None
        signal = self.kernel.address(head("signal"), e.elem)
        start = e.load_scalar(self.kernel.address(head("signal_offsets"), I64), self.kernel.batch)
        stride = head("signal_row")
        signal = e.ptr(signal, e.index_add(start, e.index_mul(j0, stride)))
        several = self.kernel.plan.schedule.signal_columns
        whole = e.index_sub(head("E"), e.builder.srem(head("E"), e.k(several)))
        with e.loop(0, whole, several) as c:
            self._update(signal, stride, c, several, count)
        with e.loop(whole, head("E")) as c:
            self._update(signal, stride, c, 1, count)

    def _update(self, signal: Pointer, stride: Any, c: Any, several: int, count: Any) -> None:
        e = self.e
        assert self.tile is not None
        total = [e.var(e.expand(e.const(0.0), (self.rows, 1))) for _ in range(several)]
        with e.loop(0, count) as jj:
            start = e.index_mul(jj, self.height)
            k = Block(
                [[e.load_vec(self.values, e.index_add(start, r * e.width), 32)] for r in range(self.rows)]
            )
            at = e.index_add(e.index_mul(jj, stride), c)
            for q, t in enumerate(total):  # one broadcast at a time: the sums keep the registers
                b = Block([[e.load_splat(signal, e.index_add(at, q))]])
                t.set(e.fma(k, b, t.get()))
        for q in range(several):
            sums = e.to_f64(total[q].get())
            row = e.index_mul(e.index_add(c, q), self.height)
            for r in range(self.rows):
                at = e.index_add(row, r * e.width)
                old = e.load_vec(self.tile.a, at, 8)
                e.store_vec(e.builder.fadd(old, sums.cells[r][0]), self.tile.a, at, 8)

    def flush(self) -> None:
        assert self.kernel.block_range is not None
        self.update(*self.kernel.block_range)

    def finish(self, low: Lowering) -> None:
        post = self.task.post
        if post is None:
            return
        assert self.tile is not None
        e, a = self.e, self.tile.a
        factor = e.expand(e.to_f64(low.scalar(post)), (self.rows, 1))
        with e.loop(0, self.kernel.head("E")) as c:
            for r in range(self.rows):
                at = e.index_add(e.index_mul(c, self.height), r * e.width)
                e.store_vec(e.builder.fmul(e.load_vec(a, at, 8), factor.cells[r][0]), a, at, 8)

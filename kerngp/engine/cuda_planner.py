"""How a CUDA kernel walks the pairs: a table, pure and testable without a device."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .expr import Expr, postorder
from .plan import UNROLL, Task, stored

SHARED = 24 << 10  # bytes of shared memory a block may take: several blocks share a multiprocessor
REGISTERS = 64  # of a thread, for fields of i and states, before it takes fewer rows


@dataclass(frozen=True)
class CudaSchedule:
    """Orthogonal numbers; part of a plan, so they change the code and nothing else does.

    Attributes
    ----------
    wide : bool
        The form of the kernel, see `render.cuda_tile`.
    threads, rows : int
        Threads of a block; rows i of a thread.
    lanes, columns : int
        Wide form: neighbouring threads that share rows, and columns j of each at a time.
    block_j : int
        Narrow form: columns staged in shared memory at once. Wide form: steps between flushes.
    group : int
        Columns evaluated together: selections compare, and logsumexp rescales, once for all of them.
    unroll : int
        Copies of the innermost loop's body.
    slab : int
        Result columns of a block, where there are many.
    gather : int
        Columns whose sums over i are collected at once.
    blocks : int
        Blocks a multiprocessor is to hold at least: bounds the registers of a thread.
    tensor : bool
        Inner products on tensor cores, see `render.cuda_mma`.
    words : int
        Numbers of low precision that stand for one of float32 there: 2, or 1 with precision "tf32".
    """

    wide: bool
    threads: int
    rows: int
    lanes: int
    columns: int
    block_j: int
    group: int
    unroll: int
    slab: int
    gather: int = 1
    blocks: int = 1
    tensor: bool = False
    words: int = 2

    @property
    def tile(self) -> int:
        """Rows of a block."""
        return self.threads // self.lanes * self.rows

    @property
    def step(self) -> int:
        """Ranges of j start at multiples of this."""
        return self.lanes * self.columns if self.wide else self.block_j

    @property
    def rows_of_range(self) -> int:
        """Rows of a block of pairs that a block of threads takes: wide ones start at whole pieces of rows."""
        return self.tile - self.rows + 1 if self.wide else self.tile

    def for_ranges(self, tasks: tuple[Task, ...], length: int) -> CudaSchedule:
        """The same for blocks of pairs: a selection names its column at once, as groups end with blocks.

        The walk over ranges takes a few registers more; blocks of threads are small whatever the ``length``.
        """
        group = 1 if any(t.code == "min" for t in tasks) else self.group
        return replace(self, group=group, blocks=min(self.blocks, 3))


@dataclass(frozen=True)
class Gpu:
    """What the planner needs to know of a device and of the size of a call.

    ``few`` says that there are not enough rows to give each thread several, ``tensor`` that inner products
    are to run on tensor cores, in so many ``words`` for a number.
    """

    arch: str
    few: bool = False
    tensor: bool = False
    words: int = 2
    memory: int = 200  # numbers that formulas may store for each pair: every thread of the device has its own

    def choose(
        self, tasks: tuple[Task, ...], fields: dict[str, tuple[Expr, ...]], dtype: str
    ) -> CudaSchedule:
        """The schedule of a plan over ``fields``."""
        if self.tensor:
            return _tensor(tasks, fields, self.words)
        long = any(f.dim > UNROLL for axis in "ij" for f in _used(tasks, fields, axis))
        slab = any(t.signal or (t.code == "sum" and t.core.dim > UNROLL) for t in tasks)
        return (
            _wide(tasks, dtype, slab)
            if long or _rolls(tasks)
            else _narrow(tasks, fields, dtype, slab, self.few)
        )


def _used(tasks: tuple[Task, ...], fields: dict[str, tuple[Expr, ...]], axis: str) -> list[Expr]:
    """The fields of an axis that pairs read."""
    found = {v.attr[0] for t in tasks for v in postorder(t.core) if v.op == "var" and v.attr[2] == axis}
    return [fields[axis][k] for k in sorted(found)]


def _rolls(tasks: tuple[Task, ...]) -> bool:
    """Whether any value at a pair is too long to unroll."""
    return any(
        e.dim > UNROLL for t in tasks for e in (*postorder(t.core), *(postorder(t.post) if t.post else ()))
    )


def _narrow(
    tasks: tuple[Task, ...], fields: dict[str, tuple[Expr, ...]], dtype: str, slab: bool, few: bool
) -> CudaSchedule:
    size = 4 if dtype == "float32" else 8
    codes = {t.code for t in tasks}
    width_i = sum(f.dim for f in _used(tasks, fields, "i"))
    results = 16 if slab else max(1, sum(t.core.dim for t in tasks if t.by_row))
    words = {"sum": 3, "logsumexp": 5, "min": 2, "kmin": 4, "fold": 0}
    states = 3 * sum(t.dim for t in tasks if t.code == "fold")  # one word, and two of double precision
    each = (width_i + results * max(words[c] for c in codes) + states) * size // 4
    rows = 1 if few else next((r for r in (8, 4, 2) if r * each <= REGISTERS), 1)
    if stored(tuple(t.core for t in tasks)):
        rows = 1
    elif slab and dtype == "float32" and not few:
        rows = 2  # more registers than elsewhere, but half the reads of shared memory
    group = 8 if codes <= {"min", "logsumexp"} and results == 1 else 1
    if codes == {"fold"} and states <= 12:
        group = 4
    if codes & {"logsumexp", "kmin", "fold"}:
        rows = min(rows, 4 if "kmin" not in codes else 2)
    summed = sum(t.core.dim for t in tasks if not t.by_row)  # components of sums over i
    gather = 1 if not summed else 8 if summed <= 3 else 4 if summed <= 8 else 2
    if summed:
        group = 1
        rows = min(rows, 8 if summed == 1 else 4 if summed <= 3 else 2)
    width_j = max(1, sum(f.dim for f in fields["j"]))
    per = 16 // size
    record = 2 * (-(-width_j // per) * per + (16 if slab else 0)) * size + 4 * summed * size
    block_j = next((n for n in (128, 64, 32) if n * record <= SHARED), 16)
    heavy = rows * (width_i + 4) * max(group, gather) * size // 4
    unroll = 1 if "kmin" in codes else max(1, min(block_j // max(group, gather), 160 // max(1, heavy)))
    while block_j // max(group, gather) % unroll:
        unroll -= 1
    threads = 64 if few and not summed else 128  # a tile of rows is a multiple of a block of columns
    blocks = 1 if not summed else 2 if dtype == "float64" else 4 if summed == 1 else 3
    return CudaSchedule(False, threads, rows, 1, 1, block_j, group, unroll, 16, gather, blocks)


def _wide(tasks: tuple[Task, ...], dtype: str, slab: bool) -> CudaSchedule:
    results = sum(t.core.dim for t in tasks)
    stores = stored(tuple(t.core for t in tasks)) > 0
    rows = 4 if slab or results > 1 or dtype == "float64" or stores else 8
    states = any(t.code == "fold" for t in tasks)
    if states and dtype == "float64":
        rows = 2
    many = 8 if any(t.signal for t in tasks) else 4  # components of a long vector read both sides each
    return CudaSchedule(
        True, 128, rows, 8, 4, 16, 4, 4, many, blocks=2 if slab or states or dtype == "float64" else 4
    )


def _tensor(tasks: tuple[Task, ...], fields: dict[str, tuple[Expr, ...]], words: int) -> CudaSchedule:
    """Short vectors stay in registers as fragments; long ones need more sums for each fragment read."""
    long = max(f.dim for f in fields["i"]) > 14
    signal = any(t.signal for t in tasks)
    words = 2 if any(t.exact is not None for t in tasks) else words  # a selection looks at all that is near
    many = signal or any(t.core.dim > 1 for t in tasks)
    rows, columns = (4, 4) if many else (8, 8) if long else (4, 8)
    blocks = 2 if long or many else 4
    slab = 32 if signal else 8
    return CudaSchedule(True, 128, rows, 4, columns, 16, columns, 1, slab, 1, blocks, True, words)


__all__ = ["CudaSchedule", "Gpu"]

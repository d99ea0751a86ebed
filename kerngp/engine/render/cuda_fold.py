"""How a CUDA thread keeps a state given by formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..expr import Expr
from .block import Block
from .cuda_c import CudaEmitter
from .cuda_states import Column, State
from .lowering import Component, Lowering

if TYPE_CHECKING:
    from .cuda_tile import TileKernel


class FoldState(State):
    """Registers for a block of columns, merged by the state's own formulas into double precision.

    What leaves the kernel is the state itself; the launch makes the results of it.
    """

    def __init__(self, kernel: TileKernel, k: int):
        super().__init__(kernel, k)
        assert self.task.law is not None
        self.law = self.task.law
        self.parts = self.law.components()

    def declare(self) -> None:
        e = self.e
        self.block = [self.registers(x) for _, _, x in self.parts]
        wide = e.in_float64()
        self.whole = [
            e.var(e.expand(Block([[wide.literal(x)]]), (self.rows, 1)), "double") for _, _, x in self.parts
        ]

    def step(self, columns: list[Column]) -> None:
        """Columns that do not exist leave the state as it is."""
        if all(c.exists is None for c in columns):
            self._set(columns, None)
            return
        for c in columns:
            self._set([c], c.exists)

    def _set(self, columns: list[Column], exists: str | None) -> None:
        e, first = self.e, self.law.entry(0)
        old = [v.get() for v in self.block]
        own = self.law.placed(old)

        def leaf(v: Expr, d: Component) -> Block:
            k = v.attr[0]
            return own[k, d] if k < first else self._entry(columns[k - first], d)

        new = self._compute(e, self.law.stepped(len(columns)), leaf)
        for v, x, before in zip(self.block, new, old, strict=True):
            v.set(x if exists is None else e.select(Block([[exists]]), x, before))

    def _entry(self, c: Column, d: Component) -> Block:
        v = c.low.component(self.task.core, d)
        return self.e.expand(v if c.at is None else self.e.column(v, c.at), (self.rows, 1))

    def flush(self) -> None:
        e = self.e
        block = [e.map(lambda x: f"(double){x}", v.get(), kind="double") for v in self.block]
        self._join(block)
        for v, (_, _, x) in zip(self.block, self.parts, strict=True):
            v.set(x)

    def _join(self, other: list[Block]) -> None:
        """Merge another state into the whole."""
        values = {
            **self.law.placed([v.get() for v in self.whole]),
            **self.law.placed(other, len(self.law.dims)),
        }
        new = self._compute(self.e.in_float64(), self.law.merged, lambda v, d: values[v.attr[0], d])
        for v, x in zip(self.whole, new, strict=True):
            v.set(x)

    def combine(self) -> None:
        step = self.kernel.lanes // 2
        while step:
            self._join(
                [
                    self.e.map(
                        lambda x, step=step: f"__shfl_xor_sync(0xffffffffu, {x}, {step})",
                        v.get(),
                        kind="double",
                    )
                    for v in self.whole
                ]
            )
            step //= 2

    def finish(self) -> None:
        e, size = self.e, self.law.size
        with e.braces("if (KG(splits) == 1)"):
            self._write(f"((double *){self.slot('out_a')}) + (long long)batch * KG(M) * {size}")
        with e.braces("else"):
            self._write(f"((double *){self.slot('part_a')}) + {self.plane(size)}")

    def _write(self, to: str) -> None:
        def row(r: int, i: str) -> None:
            self.e.put(f"double *const to = {to} + {i} * {self.law.size};")
            for at, v in enumerate(self.whole):
                self.e.put(f"to[{at}] = {list(v)[r]};")

        self.each_row(row)

    def merge(self) -> None:
        e, size = self.e, self.law.size
        self.rows = 1
        self.declare()
        with e.loop(0, "(int)KG(splits)") as part:
            at = f"(((long long){part} * KG(batches) + batch) * KG(M) + i) * {size}"
            e.put(f"const double *const from = (const double *){self.slot('part_a')} + {at};")
            self._join([Block([[e.let("double", f"from[{k}]")]]) for k in range(size)])
        e.put(f"double *const to = (double *){self.slot('out_a')} + ((long long)batch * KG(M) + i) * {size};")
        for at, v in enumerate(self.whole):
            e.put(f"to[{at}] = {list(v)[0]};")

    # ------------------------------------------------------------------ formulas
    def _compute(
        self, e: CudaEmitter, formulas: tuple[Expr, ...], leaf: Callable[[Expr, Component], Block]
    ) -> list[Any]:
        """All components of a new state."""
        low = Lowering(e, leaf, lambda axes: (self.rows, 1))
        return [e.expand(low.component(formulas[k], d), (self.rows, 1)) for k, d, _ in self.parts]

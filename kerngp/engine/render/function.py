"""What the functions of a kernel share: the context they read and the user's arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from ..expr import Expr
from ..plan import Plan
from .context import Context
from .llvm import I64, Block, Emitter, Pointer, pointer
from .lowering import Component, Index


class Function:
    """What both functions share: the context and the user's arrays."""

    def __init__(self, module: ir.Module, plan: Plan, name: str, args: list[str]):
        s = plan.schedule
        self.plan, self.ctx = plan, Context(plan)
        signature = [("ctx", pointer(I64)), *((a, I64) for a in args)]
        self.e = Emitter(module, name, signature, s.width, plan.dtype, s.fma, ("ctx",), s.scaling)
        self._read: dict[int, Any] = {}

    def get(self, slot: int) -> Any:
        """A number of the context, read once at the function's start."""
        if slot not in self._read:
            self._read[slot] = self.e.load_scalar(self.e.arg("ctx"), slot)
        return self._read[slot]

    def head(self, name: str) -> Any:
        return self.get(self.ctx.slot(name))

    def read_all(self) -> None:
        for slot in range(self.ctx.size):
            self.get(slot)

    def address(self, value: Any, elem: ir.Type) -> Pointer:
        return Pointer(self.e.builder.inttoptr(value, ir.PointerType()), elem)

    def bytes(self, base: Any, offset: Any, elem: ir.Type) -> Pointer:
        return self.address(self.e.index_add(base, offset), elem)

    def number(self, d: Component) -> Any:
        return d.value if isinstance(d, Index) else self.e.k(d)

    def start(self, v: Expr, batch: Any) -> tuple[Pointer, Any]:
        """The user's array of a variable and the index of its first element in a batch element."""
        k = v.attr[0]
        base = self.address(self.get(self.ctx.arg(k, "address")), self.e.elem)
        return base, self.e.load_scalar(self.address(self.get(self.ctx.arg(k, "offsets")), I64), batch)

    def stride(self, v: Expr, name: str) -> Any:
        return self.get(self.ctx.arg(v.attr[0], name))

    def parameter(self, v: Expr, d: Component, batch: Any) -> Block:
        """A component of one of the user's parameters."""
        e = self.e
        base, start = self.start(v, batch)
        return Block(
            [[e.load_splat(base, e.index_add(start, e.index_mul(self.number(d), self.stride(v, "inner"))))]]
        )

    def gather(
        self, v: Expr, batch: Any, first: Any, count: int, last: Any, put: Callable[[Any, Any, Any], None]
    ) -> None:
        """Read rows first, ..., first + count - 1 of a variable; rows beyond ``last`` repeat it.

        ``put(row of the tile, component, scalar)`` receives them. Plain loops: this is linear work.
        """
        e = self.e
        base, start = self.start(v, batch)
        with e.loop(0, count) as row:
            at = e.index_mul(e.imin(e.index_add(first, row), last), self.stride(v, "row"))
            at = e.index_add(start, at)
            with e.loop(0, v.dim) as d:
                put(row, d, e.load_scalar(base, e.index_add(at, e.index_mul(d, self.stride(v, "inner")))))

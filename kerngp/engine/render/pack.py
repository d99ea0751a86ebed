"""pack(ctx, lo, hi): the fields of j as records [j][component]. Items are vectors of rows."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ..expr import Expr, variables
from ..plan import Plan
from .function import Function
from .llvm import Block, Pointer
from .lowering import Component, Lowering


class Pack(Function):
    """pack(ctx, lo, hi): items are vectors of rows j of batch elements."""

    def __init__(self, module: ir.Module, plan: Plan):
        super().__init__(module, plan, "pack", ["lo", "hi"])

    def emit(self) -> None:
        e, plan = self.e, self.plan
        if not plan.fields_j:
            e.finish()
            return
        self.read_all()
        width = sum(f.dim for f in plan.fields_j)
        n = self.head("N")
        per_batch = e.builder.sdiv(e.index_add(n, e.width - 1), e.k(e.width))
        with e.loop(e.arg("lo"), e.arg("hi")) as item:
            batch = e.builder.sdiv(item, per_batch)
            first = e.index_mul(e.index_sub(item, e.index_mul(batch, per_batch)), e.width)
            count = e.imin(e.index_sub(n, first), e.width)
            out = self.address(self.head("records"), e.elem)
            out = e.ptr(
                out, e.index_add(e.index_mul(batch, self.head("records_batch")), e.index_mul(first, width))
            )
            self._copies(batch, first, count, out, width)
            self._formulas(batch, first, count, out, width)
        e.finish()

    def _copies(self, batch: Any, first: Any, count: Any, out: Pointer, width: int) -> None:
        """Fields that are variables."""
        e = self.e
        for f, offset in zip(self.plan.fields_j, Plan.offsets(self.plan.fields_j), strict=True):
            if f.op == "var":

                def put(row: Any, d: Any, value: Any, offset: int = offset) -> None:
                    e.store_scalar(value, out, e.index_add(e.index_mul(row, width), e.index_add(d, offset)))

                self.gather(f, batch, first, count, e.index_sub(self.head("N"), 1), put)

    def _formulas(self, batch: Any, first: Any, count: Any, out: Pointer, width: int) -> None:
        """Fields to be computed: a vector of rows at a time, from a transposed copy of their variables."""
        e, plan = self.e, self.plan
        computed = [f for f in plan.fields_j if f.op != "var"]
        if not computed:
            return
        raw: dict[Expr, Pointer] = {}
        for v in variables(*computed):
            if v.attr[2] == "j":
                raw[v] = e.alloca(v.dim * e.width)

                def put(row: Any, d: Any, value: Any, v: Expr = v) -> None:
                    e.store_scalar(value, raw[v], e.index_add(e.index_mul(d, e.width), row))

                self.gather(v, batch, first, e.width, e.index_sub(self.head("N"), 1), put)

        def leaf(v: Expr, d: Component) -> Block:
            if v.attr[2] == "p":
                return self.parameter(v, d, batch)
            return Block([[e.load_vec(raw[v], e.index_mul(self.number(d), e.width))]])

        low = Lowering(e, leaf, lambda axes: (1, 1))
        for f, offset in zip(plan.fields_j, Plan.offsets(plan.fields_j), strict=True):
            if f.op == "var":
                continue
            values = e.alloca(f.dim * e.width)
            low.each(
                f,
                lambda d, value, values=values: e.store_vec(
                    value, values, e.index_mul(self.number(d), e.width)
                ),
            )
            with e.loop(0, count) as row, e.loop(0, f.dim) as d:
                value = e.load_scalar(values, e.index_add(e.index_mul(d, e.width), row))
                e.store_scalar(value, out, e.index_add(e.index_mul(row, width), e.index_add(d, offset)))

"""Formulas to instructions: components of an Expr as Blocks of the emitter.

Small vectors are unrolled, component by component. Vectors of more than `UNROLL` components are
walked by loops in the generated code; inside, a component is asked for by an `Index`, and ops that
only move components (concat, extract, ...) cut the loops into ranges in which each component has
one source; where a range crosses a cut all the same, both sources are read and one is chosen.
Values are memoised by scope, so what two users share is computed once, where it dominates both.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from ..expr import OPS, Expr, postorder
from ..plan import UNROLL
from .block import Block


@dataclass(frozen=True, eq=False)
class Index:
    """A component number known at run time only, and the range it lies in."""

    value: Any
    lo: int
    hi: int


Component = int | Index


class Lowering:
    """Emits components of formulas through the primitives of ``e``, the emitter of a target.

    ``leaf(variable, component)`` provides the variables' components; ``shape(axes)`` is the shape
    of the Block of a value that depends on these axes.
    """

    def __init__(
        self,
        e: Any,
        leaf: Callable[[Expr, Component], Block],
        shape: Callable[[frozenset[str]], tuple[int, int]],
    ):
        self.e = e
        self.leaf = leaf
        self.shape = shape
        self.scopes: list[dict[tuple, Any]] = [{}]
        self._derived: dict[tuple, Index] = {}

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Values computed inside are forgotten at the end: they do not dominate what follows."""
        self.scopes.append({})
        try:
            yield
        finally:
            self.scopes.pop()

    def preset(self, f: Expr, d: Component, value: Block) -> None:
        """Give a component a value computed elsewhere."""
        self.scopes[-1][(f, d)] = value

    def component(self, f: Expr, d: Component) -> Block:
        """Component ``d`` of ``f``; a scalar stands for all its components."""
        key = (f, 0 if f.dim == 1 else d)
        for scope in reversed(self.scopes):
            if key in scope:
                return scope[key]
        value = self._compute(f, key[1])
        self.scopes[-1][key] = value
        return value

    def scalar(self, f: Expr) -> Block:
        return self.component(f, 0)

    def _compute(self, f: Expr, d: Component) -> Block:
        if f.op == "var":
            return self.leaf(f, d)
        if f.op == "const":
            return self.e.const(f.attr[0])
        record = OPS[f.op]
        if record.lower is not None:
            return record.lower(self, f, d)
        if record.pieces is not None:
            return self._piece(f, d)
        if record.code is None:
            raise NotImplementedError(f"op {f.op} has no code for this target")
        fused = self._fused(f, d)
        if fused is not None:
            return fused
        return record.code(self.e, *(self.component(a, d) for a in f.args), *f.attr)

    def _fused(self, f: Expr, d: Component) -> Block | None:
        """a b + c and a b - c, where the product has no other meaning, become one instruction."""
        if f.op == "add":
            for p, c in (f.args, f.args[::-1]):
                if p.op in ("mul", "square") and not self._known(p, d):
                    a, b = p.args * 2 if p.op == "square" else p.args
                    return self.e.fma(self.component(a, d), self.component(b, d), self.component(c, d))
        if f.op == "sub" and f.args[1].op == "mul" and not self._known(f.args[1], d):
            c, (a, b) = f.args[0], f.args[1].args
            return self.e.fma(self.e.neg(self.component(a, d)), self.component(b, d), self.component(c, d))
        return None

    def _known(self, f: Expr, d: Component) -> bool:
        key = (f, 0 if f.dim == 1 else d)
        return any(key in scope for scope in self.scopes)

    def _piece(self, f: Expr, d: Component) -> Block:
        pieces = OPS[f.op].pieces
        assert pieces is not None
        low, high = (d.lo, d.hi) if isinstance(d, Index) else (d, d + 1)
        found: Block | None = None
        for start, stop, arg, shift in pieces(f):
            if start >= high or stop <= low:
                continue
            if start <= low and high <= stop:
                return self._moved(f, d, arg, shift)
            assert isinstance(d, Index)  # the range crosses a boundary: evaluate both sides, and choose
            last = self.e.imin(self.e.imax(d.value, start), stop - 1)
            value = self._moved(f, Index(last, max(low, start), min(high, stop)), arg, shift)
            found = value if found is None else self.e.index_select(d.value, start, found, value)
        assert found is not None
        return found

    def _moved(self, f: Expr, d: Component, arg: int | None, shift: int | None) -> Block:
        if arg is None:
            return self.e.const(0.0)
        if shift is None:  # a scalar standing for every component
            return self.component(f.args[arg], 0)
        return self.component(f.args[arg], self.shift(d, shift))

    def shift(self, d: Component, by: int) -> Component:
        """Component d + by."""
        if isinstance(d, int):
            return d + by
        if by == 0:
            return d
        return self._derive(
            (d, "shift", by), lambda: Index(self.e.index_add(d.value, by), d.lo + by, d.hi + by)
        )

    def doubled(self, d: Component, by: int) -> Component:
        """Component 2 d + by."""
        if isinstance(d, int):
            return 2 * d + by
        return self._derive(
            (d, "double", by),
            lambda: Index(
                self.e.index_add(self.e.index_mul(d.value, 2), by), 2 * d.lo + by, 2 * d.hi - 1 + by
            ),
        )

    def halved(self, d: Component) -> Component:
        """Component d / 2, rounded down."""
        if isinstance(d, int):
            return d // 2
        return self._derive(
            (d, "half"), lambda: Index(self.e.index_div(d.value, 2), d.lo // 2, (d.hi + 1) // 2)
        )

    def _derive(self, key: tuple, make: Callable[[], Index]) -> Index:
        """One Index for one meaning, so that what is computed at it is found again."""
        if key not in self._derived:
            self._derived[key] = make()
        return self._derived[key]

    def at(self, d: Component) -> Any:
        """The number of a component, as an index."""
        return d.value if isinstance(d, Index) else self.e.index_add(0, d)

    def once(self, f: Expr, make: Callable[[], Any]) -> Any:
        """What belongs to ``f`` as a whole, made where it is first needed."""
        key = (f, "whole")
        for scope in reversed(self.scopes):
            if key in scope:
                return scope[key]
        self.scopes[-1][key] = make()
        return self.scopes[-1][key]

    def copied(self, f: Expr) -> Any:
        """The components of ``f`` in an array of the target."""
        array = self.e.array(f.dim, self.shape(f.axes))
        self.each(f, lambda d, value: array.set(self.at(d), value))
        return array

    def digits(self, d: Component, sizes: tuple[int, ...]) -> tuple[Any, ...]:
        """The position of component ``d`` in an array of shape ``sizes``, stored by rows."""
        out: list[Any] = []
        rest = d.value if isinstance(d, Index) else d
        for n in sizes[::-1]:
            out.append(rest % n if isinstance(rest, int) else self.e.index_mod(rest, n))
            rest = rest // n if isinstance(rest, int) else self.e.index_div(rest, n)
        return tuple(out[::-1])

    def place(self, position: tuple[Any, ...], sizes: tuple[int, ...]) -> Component:
        """The component at a position: the inverse of `digits`."""
        at: Any = 0
        for k, n in zip(position, sizes, strict=True):
            known = isinstance(at, int) and isinstance(k, int)
            at = at * n + k if known else self.e.index_add(self.e.index_mul(at, n), k)
        return at if isinstance(at, int) else Index(at, 0, math.prod(sizes))

    # ------------------------------------------------------------------ vectors
    def number(self, d: Component) -> Block:
        """The number of a component, as a value."""
        return self.e.index_real(d.value) if isinstance(d, Index) else self.e.const(float(d))

    def fold(
        self, f: Expr, start: tuple[float, ...], step: Callable[..., tuple[Block, ...]]
    ) -> tuple[Block, ...]:
        """``state = step(target, state, component, its number)`` for all components of ``f``, in order."""
        state = tuple(self.e.const(x) for x in start)
        if f.dim <= UNROLL:
            for d in range(f.dim):
                state = step(self.e, state, self.component(f, d), self.number(d))
            return state
        self.settle(f)
        registers = [self.e.var(self.e.expand(x, self.shape(f.axes))) for x in state]
        for cut in ranges(f):
            with self.walk(cut) as d:
                now = tuple(r.get() for r in registers)
                for r, x in zip(
                    registers, step(self.e, now, self.component(f, d), self.number(d)), strict=True
                ):
                    r.set(x)
        return tuple(r.get() for r in registers)

    def inner(self, f: Expr, sizes: tuple[int, ...], terms: Callable[..., tuple[Block, Block]]) -> Block:
        """The sum over a grid of ``sizes`` of products ``terms(*position)``, made of arguments of ``f``."""
        e = self.e
        if math.prod(sizes) <= UNROLL:
            total: Block | None = None
            for at in itertools.product(*map(range, sizes)):
                x, y = terms(*at)
                total = e.mul(x, y) if total is None else e.fma(x, y, total)
            assert total is not None
            return total
        for a in f.args:
            self.settle(a)
        register = e.var(e.expand(e.const(0.0), self.shape(f.axes)))
        with ExitStack() as stack:
            at = tuple(stack.enter_context(e.loop(0, n)) for n in sizes)
            stack.enter_context(self.scope())
            register.set(e.fma(*terms(*at), register.get()))
        return register.get()

    def total(self, f: Expr) -> Block:
        """The sum of the components of ``f``."""
        e = self.e
        if f.dim <= UNROLL:
            total: Block | None = None
            for d in range(f.dim):
                total = self.accumulate(f, d, total)
            assert total is not None
            return total
        self.settle(f)
        register = e.var(e.expand(e.const(0.0), self.shape(f.axes)))
        for cut in ranges(f):
            with self.walk(cut) as d:
                register.set(self.accumulate(f, d, register.get()))
        return register.get()

    def settle(self, f: Expr) -> None:
        """Compute the scalars ``f`` is made of here, so that loops over its components find them.

        So with vectors that are computed and stored as a whole.
        """
        for e in postorder(f):
            whole = e.op in OPS and OPS[e.op].memory is not None
            if whole or (e.dim == 1 and e.op != "const"):
                self.component(e, 0)

    @contextmanager
    def walk(self, cut: tuple[int, int]) -> Iterator[Index]:
        """A loop of the generated code over the components in ``cut``."""
        with self.e.loop(cut[0], cut[1]) as d, self.scope():
            yield Index(d, *cut)

    def each(self, f: Expr, use: Callable[[Component, Block], None]) -> None:
        """Call ``use`` with every component of ``f``, unrolled or in loops."""
        if f.dim <= UNROLL:
            for d in range(f.dim):
                use(d, self.component(f, d))
            return
        self.settle(f)
        for cut in ranges(f):
            with self.walk(cut) as d:
                use(d, self.component(f, d))

    def accumulate(self, f: Expr, d: Component, total: Block | None) -> Block:
        """total + component d of f, fused where f is a product."""
        if not self._known(f, d):
            if f.op == "square":
                x = self.component(f.args[0], d)
                return self.e.mul(x, x) if total is None else self.e.fma(x, x, total)
            if f.op == "mul":
                x, y = (self.component(a, d) for a in f.args)
                return self.e.mul(x, y) if total is None else self.e.fma(x, y, total)
        x = self.component(f, d)
        return x if total is None else self.e.add(total, x)


def ranges(f: Expr) -> list[tuple[int, int]]:
    """Ranges of components within which every node of ``f`` takes its component from one source."""
    cuts: dict[Expr, set[int]] = {}
    for e in postorder(f):
        own = {0, e.dim}
        record = OPS.get(e.op)
        if record is not None and record.pieces is not None:
            for start, stop, arg, shift in record.pieces(e):
                own |= {start, stop}
                if arg is not None and shift is not None:
                    own |= {c - shift for c in cuts[e.args[arg]] if start < c - shift < stop}
        elif record is not None and record.cuts is not None:
            own |= {c for c in record.cuts(e, [cuts[a] for a in e.args]) if 0 < c < e.dim}
        elif record is not None and record.code is not None:
            for a in e.args:
                if a.dim == e.dim:
                    own |= cuts[a]
        cuts[e] = own
    points = sorted(cuts[f])
    return list(zip(points[:-1], points[1:], strict=True))


def contractions(core: Expr) -> list[Expr]:
    """Inner sums too long to unroll: they are computed for several columns at once."""
    return [e for e in postorder(core) if e.op == "sum" and e.args[0].dim > UNROLL and {"i", "j"} <= e.axes]

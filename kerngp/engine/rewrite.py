"""Named passes over formulas, each from Expr to Expr, in the order `prepare` applies them.

simplify           constants folded, neutral elements dropped, scalars pulled out of inner sums
factor             a summand as (kept-axis factor) x (core): the factor leaves the loop
merge_exponentials exp(a) exp(b) becomes exp(a + b)
strengthen         exp of what is provably <= 0 becomes a cheaper op; divisors leave the pairs
expand_distances   |u - v|^2 becomes |u|^2 + |v|^2 - 2 <u, v> on centred data (large dims only)
hoist              work that depends on i or on j alone becomes a field, computed once per row
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from .expr import OPS, Expr, const, node, postorder, rebuild, var, with_args
from .ops import sqnorm2, value_of, widen


def is_elementwise(e: Expr) -> bool:
    """Whether component d of the node depends on component d of its arguments alone."""
    record = OPS.get(e.op)
    return record is not None and record.code is not None


@functools.lru_cache(maxsize=8192)
def simplify(f: Expr) -> Expr:
    """Fold constants and neutral elements, bottom-up to a fixed point."""

    def settle(e: Expr) -> Expr:
        for _ in range(64):  # each rule shrinks the node; the bound only guards against a faulty rule
            dropped = _drop_expands(e)
            e = e if dropped is e else rebuild_top(dropped)
            rule = OPS[e.op].fold if e.op in OPS else None
            smaller = rule(e.args, e.attr) if rule else None
            if smaller is None or smaller is e:
                return e
            e = rebuild_top(smaller)
        return e

    def rebuild_top(e: Expr) -> Expr:
        # a rule may build new inner nodes: they settle too, the old ones already have
        args = tuple(a if a in done else settle(rebuild_top(a)) if a.args else a for a in e.args)
        return with_args(e, args)

    done: set[Expr] = set()

    def mark(e: Expr) -> None:
        stack = [e]
        while stack:
            n = stack.pop()
            if n not in done:
                done.add(n)
                stack.extend(n.args)

    def change(e: Expr, args: tuple[Expr, ...]) -> Expr:
        out = settle(with_args(e, args))
        mark(out)
        return out

    return rebuild(f, change)


def _drop_expands(e: Expr) -> Expr:
    """Elementwise ops broadcast by themselves: expand is needed only where nothing else has the dim."""
    if not is_elementwise(e) or e.dim == 1:
        return e
    args = list(e.args)
    for k, a in enumerate(args):
        if a.op == "expand" and any(b.dim == e.dim for m, b in enumerate(args) if m != k):
            args[k] = a.args[0]
    if all(a.op == "expand" for a in args):  # op(expand a, expand b) = expand op(a, b)
        return widen(with_args(e, tuple(a.args[0] for a in args)), e.dim)
    return with_args(e, tuple(args))


Facts = tuple[tuple[int, int], ...]  # (argument, its sign), for parameters whose sign is known


def signs(f: Expr, facts: Facts = ()) -> dict[Expr, int]:
    """For every node: +1 if provably >= 0, -1 if provably <= 0, 0 if unknown (NaN aside)."""
    out: dict[Expr, int] = {}
    given = dict(facts)
    for e in postorder(f):
        if e.op == "const":
            out[e] = 1 if e.attr[0] >= 0 else -1
        elif e.op == "var":
            out[e] = given.get(e.attr[0], 0)
        else:
            rule = OPS[e.op].sign
            out[e] = rule(tuple(out[a] for a in e.args), e.attr) if rule else 0
            if e.op == "mul" and e.args[0] is e.args[1]:
                out[e] = 1
    return out


def merge_exponentials(f: Expr) -> Expr:
    """One exponential for each product, where there were several: exp(a) u exp(b) = u exp(a + b)."""

    def change(e: Expr, args: tuple[Expr, ...]) -> Expr:
        e = with_args(e, args)
        if e.op != "mul":
            return e
        parts = factors(e)
        exponents = [p.args[0] for p in parts if p.op == "exp" and p.dim == 1]
        if len(exponents) < 2:
            return e
        total = exponents[0]
        for a in exponents[1:]:
            total = total + a
        rest = [p for p in parts if p.op != "exp" or p.dim > 1]
        merged = product([*rest, node("exp", total)])
        assert merged is not None
        return widen(merged, e.dim)

    return simplify(rebuild(f, change))


def strengthen(f: Expr, facts: Facts = ()) -> Expr:
    """Cheaper ops of the same value.

    exp(-q), exp(c q) and exp(a), where the argument is provably <= 0, need no full range. A quotient of
    a pair by what depends on one side alone is a product with a reciprocal that is hoisted.
    """
    known = signs(f, facts)

    def change(e: Expr, args: tuple[Expr, ...]) -> Expr:
        if e.op == "exp":
            (a,), (new,) = e.args, args
            if a.op == "neg" and known[a.args[0]] == 1:
                return node("exp_scaled", new.args[0], attr=(-1.0,))
            c = value_of(a.args[0]) if a.op == "mul" else None
            if c is not None and c < 0 and known[a.args[1]] == 1:
                return node("exp_scaled", new.args[1], attr=(c,))
            if known[a] == -1:
                return node("exp_nonpos", new)
        if e.op == "div" and {"i", "j"} <= e.args[0].axes and not {"i", "j"} <= e.args[1].axes:
            c = value_of(e.args[1])
            return args[0] * (node("inv", args[1]) if c is None else const(1.0 / c)) if c != 0.0 else e
        return with_args(e, args)

    return rebuild(f, change)


FACTORS = 200  # of a product that are looked at one by one


def factors(f: Expr) -> list[Expr]:
    """The factors of a product tree; signs and constants come out as constants.

    Beyond `FACTORS` products are left as they are: f f of f f of ... has exponentially many.
    """
    out: list[Expr] = []
    stack = [f]
    while stack:
        e = stack.pop()
        if e.op == "mul" and len(out) + len(stack) < FACTORS:
            stack.extend(e.args[::-1])
        elif e.op == "neg":
            out.append(const(-1.0))
            stack.append(e.args[0])
        elif e.op == "expand":
            stack.append(e.args[0])
        else:
            out.append(e)
    return out


def product(parts: list[Expr]) -> Expr | None:
    """Scalars first, so that vectors are multiplied once."""
    out: Expr | None = None
    for p in sorted(parts, key=lambda p: p.dim):
        out = p if out is None else out * p
    return out


@dataclass(frozen=True)
class Factored:
    """f = post * pair * signal: post depends on the kept axis, signal on the summed one alone."""

    post: Expr | None
    pair: Expr | None
    signal: Expr | None
    dim: int


def factor(f: Expr, summed: str) -> Factored:
    """Split a summand; ``summed`` is the axis ("i" or "j") the sum runs over."""
    post, pair, signal = [], [], []
    for p in factors(f):
        inside = summed in p.axes
        kept = bool(p.axes - {summed, "p"})
        (pair if inside and kept else signal if inside else post).append(p)
    # one constant is enough, and none if it is 1
    number = 1.0
    rest = []
    for p in post:
        v = value_of(p)
        if v is None:
            rest.append(p)
        else:
            number *= v
    if number != 1.0:
        rest.insert(0, const(number))
    done = [None if e is None else simplify(e) for e in map(product, (rest, pair, signal))]
    if f.dim > 1 and all(e is None or e.dim == 1 for e in done):  # a number that is repeated, after the sum
        done[0] = widen(done[0] or const(1.0), f.dim)
    return Factored(done[0], done[1], done[2], f.dim)


def distances(f: Expr, above: int) -> list[Expr]:
    """Nodes |u - v|^2 with u depending on i alone, v on j alone, of dim > above."""
    found = []
    for e in postorder(f):
        if e.op == "sum" and e.args[0].op == "square" and e.args[0].dim > above:
            d = e.args[0].args[0]
            if (
                d.op == "sub"
                and d.args[0].dim == d.args[1].dim
                and {a.axes - {"p"} for a in d.args} == {frozenset("i"), frozenset("j")}
            ):
                found.append(e)
    return found


def expand_distances(exprs: tuple[Expr, ...], above: int, next_index: int) -> tuple[tuple[Expr, ...], int]:
    """|u - v|^2 -> max(0, |u - c|^2 + |v - c|^2 + <-2 (u - c), v - c>), c a new parameter each.

    Parameters are numbered from ``next_index`` in the order of `distances`; the second result is the
    first number that is free again.
    """
    table: dict[Expr, Expr] = {}
    for e in dict.fromkeys(e for f in exprs for e in distances(f, above)):
        u, v = e.args[0].args[0].args
        if "j" in u.axes:
            u, v = v, u
        c = var(next_index, u.dim, "p")
        next_index += 1
        uc, vc = u - c, v - c
        inner = node("sum", (const(-2.0) * uc) * vc)
        table[e] = node("relu", inner + (sqnorm2(uc) + sqnorm2(vc)))

    def change(e: Expr, args: tuple[Expr, ...]) -> Expr:
        return table[e] if e in table else with_args(e, args)

    return tuple(rebuild(f, change) for f in exprs), next_index


@dataclass(frozen=True)
class Hoisted:
    """Formulas over fields. Field k of axis a is ``fields[a][k]``, a formula over the arguments.

    In ``exprs`` a variable of axis a whose index is k stands for field k, starting at component
    ``offsets[a][k]`` of the record of its row.
    """

    exprs: tuple[Expr | None, ...]
    fields: dict[str, tuple[Expr, ...]]
    offsets: dict[str, tuple[int, ...]]
    widths: dict[str, int]


def hoist(exprs: tuple[Expr | None, ...]) -> Hoisted:
    """Replace every maximal node that depends on i alone, j alone or parameters alone by a field."""
    fields: dict[str, dict[Expr, int]] = {"i": {}, "j": {}, "p": {}}

    def side(e: Expr) -> str | None:
        if e.op == "const" or (e.op == "expand" and value_of(e) is not None):
            return None
        rest = e.axes - {"p"}
        if not rest:
            return "p" if e.axes else None
        return next(iter(rest)) if len(rest) == 1 else None

    memo: dict[Expr, Expr] = {}

    def visit(root: Expr) -> Expr:
        for e in _postorder_pairs(root, side):
            if e in memo:
                continue
            axis = side(e)
            if axis is not None and e.op != "expand":
                k = fields[axis].setdefault(e, len(fields[axis]))
                memo[e] = var(k, e.dim, axis)
            else:
                memo[e] = with_args(e, tuple(memo[a] for a in e.args))
        return memo[root]

    out = tuple(None if f is None else visit(f) for f in exprs)
    offsets, widths = {}, {}
    for axis, table in fields.items():
        at, starts = 0, []
        for e in table:
            starts.append(at)
            at += e.dim
        offsets[axis], widths[axis] = tuple(starts), at
    return Hoisted(out, {a: tuple(t) for a, t in fields.items()}, offsets, widths)


def _postorder_pairs(root: Expr, side) -> list[Expr]:
    """Postorder that does not enter nodes which become fields."""
    out: list[Expr] = []
    seen: set[Expr] = set()
    stack: list[tuple[Expr, bool]] = [(root, False)]
    while stack:
        e, ready = stack.pop()
        if ready:
            out.append(e)
        elif e not in seen:
            seen.add(e)
            stack.append((e, True))
            if side(e) is None or e.op == "expand":
                stack.extend((a, False) for a in reversed(e.args))
    return out


__all__ = [
    "Factored",
    "Hoisted",
    "distances",
    "expand_distances",
    "factor",
    "factors",
    "hoist",
    "is_elementwise",
    "merge_exponentials",
    "product",
    "signs",
    "simplify",
    "strengthen",
]

"""Rewrites on formulas drawn at random: values stay, and what is split can be put together again."""

from __future__ import annotations

import random

import pytest
import torch
from comparison import CPU, arguments, assert_close, assert_matches_reference, assert_same_values, exact

from kerngp.engine import ops, rewrite, symmetry
from kerngp.engine.autodiff import transpose
from kerngp.engine.expr import Expr, Pm, Vi, Vj, const, node, postorder, substitute, var
from kerngp.engine.mapreduce import dense, map_reduce_many
from kerngp.engine.plan import Output
from kerngp.engine.planner import Machine, prepare
from kerngp.engine.reductions import LOGSUMEXP, MIN, SUM

M, N = 5, 7

UNARY = ("neg", "square", "sin", "cos", "abs", "relu", "matern32", "exp", "log", "root", "inv", "cube")
BINARY = ("add", "sub", "mul", "minimum", "maximum", "div", "concat", "dot", "sqdist", "constant")


class Grower:
    """Formulas of bounded values: arguments of exp, log and divisions are kept in range."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.dims = [1, 2, 3, self.random.choice([5, 20])]
        self.leaves = [
            make(k, d) for k, (make, d) in enumerate((m, d) for m in (Vi, Vj, Pm) for d in self.dims)
        ]

    def grow(self, depth: int) -> Expr:
        pick = self.random
        if depth == 0 or pick.random() < 0.1:
            return pick.choice(self.leaves)
        if pick.random() < 0.45:
            return self.unary(pick.choice(UNARY), self.grow(depth - 1))
        return self.binary(pick.choice(BINARY), self.grow(depth - 1), self.grow(depth - 1))

    def bounded(self, a: Expr) -> Expr:
        return a if a.op in ("var", "sin", "cos", "const") else ops.sin(a)

    def unary(self, name: str, a: Expr) -> Expr:
        if name == "exp":
            return ops.exp(self.bounded(a))
        if name == "log":
            return ops.log(1.5 + self.bounded(a))
        if name == "root":
            return ops.sqrt(ops.square(self.bounded(a)) + 0.25)
        if name == "inv":
            return ops.inv(1.5 + self.bounded(a))
        if name == "cube":
            return self.bounded(a) ** 3
        if name == "matern32":
            return ops.matern32_profile(ops.square(self.bounded(a)))
        if name in ("square", "neg"):
            return node(name, self.bounded(a))
        return node(name, a)

    def binary(self, name: str, a: Expr, b: Expr) -> Expr:
        pick = self.random
        if name == "concat":
            both = ops.concat(a, b)
            start = pick.randrange(both.dim)
            return both[start : pick.randint(start + 1, both.dim)] if both.dim <= 40 else both[start]
        if name == "constant":
            return pick.choice([0.0, 1.0, -1.0, 2.0, 0.5]) * a + pick.choice([0.0, -0.5, 3.0])
        if a.dim != b.dim and 1 not in (a.dim, b.dim):
            small = min(a.dim, b.dim)
            a, b = a[:small], b[:small]
        if name == "dot":
            return ops.total(self.bounded(a) * self.bounded(b))
        if name == "sqdist":
            return ops.sqnorm2(self.bounded(a) - self.bounded(b))
        if name == "div":
            return a / (1.5 + self.bounded(b))
        if name == "mul":
            return self.bounded(a) * self.bounded(b)
        return node(name, a, b)


def formula(seed: int, depth: int = 5) -> Expr:
    f = Grower(seed).grow(depth)
    # i and j both take part
    return f * ops.cos(Vi(100, 1) * Vj(101, 1)) if not {"i", "j"} <= f.axes else f


def values(f: Expr, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    return arguments(f, M, N, dtype)


SEEDS = range(150)


def test_random_formulas_are_of_all_kinds() -> None:
    found = {e.op for seed in SEEDS for e in postorder(formula(seed))}
    assert {"exp", "log", "sum", "concat", "extract", "minimum", "div", "powi", "const", "sub"} <= found


@pytest.mark.parametrize("start", range(0, 150, 30))
def test_passes_preserve_values(start: int) -> None:
    for seed in range(start, start + 30):
        f = formula(seed)
        args = values(f)
        simple = rewrite.simplify(f)
        assert_same_values(f, simple, args, (M, N), 1e-10)
        assert rewrite.simplify(simple) is simple, "not a fixed point"
        assert_same_values(f, rewrite.strengthen(simple), args, (M, N), 1e-10)
        assert_same_values(f, symmetry.canonical(f), args, (M, N), 1e-10)
        assert transpose(transpose(f)) is f
        assert_close(
            dense(transpose(f), args, sizes=(N, M)).transpose(0, 1), dense(f, args, sizes=(M, N)), 0.0
        )


def test_factors_multiply_to_the_summand() -> None:
    for seed in SEEDS:
        f = formula(seed)
        args = values(f)
        for summed in "ij":
            parts = rewrite.factor(rewrite.simplify(f), summed)
            found = [p for p in (parts.post, parts.pair, parts.signal) if p is not None]
            product = ops.widen(const(1.0), f.dim)
            for p in found:
                product = product * p
            assert_same_values(f, product, args, (M, N), 1e-10)
            kept = "i" if summed == "j" else "j"
            assert parts.post is None or summed not in parts.post.axes
            assert parts.signal is None or kept not in parts.signal.axes


def test_shared_products_do_not_multiply_out() -> None:
    """60 squarings by f * f: 2**60 factors, 61 nodes."""
    f: Expr = ops.cos(Vi(0, 1) * Vj(1, 1))
    for _ in range(60):
        f = f * f
    assert len(rewrite.factors(f)) < 1000
    assert prepare((Output(f, SUM),), 2, "float32", Machine(256, 16, True), False, False) is not None


def test_hoisted_fields_put_back_give_the_formula() -> None:
    for seed in SEEDS:
        f = rewrite.simplify(formula(seed))
        hoisted = rewrite.hoist((f,))
        (core,) = hoisted.exprs
        assert core is not None
        table = {
            var(k, e.dim, axis): e for axis, fields in hoisted.fields.items() for k, e in enumerate(fields)
        }
        # two at a time: a field's own variables must not be replaced again
        assert substitute(core, table) is f
        for axis, fields in hoisted.fields.items():
            assert all(e.axes <= {axis, "p"} for e in fields)
            assert list(hoisted.offsets[axis]) == [sum(e.dim for e in fields[:k]) for k in range(len(fields))]


def test_expanded_distances_have_the_same_values() -> None:
    D = 20
    x, y, p = Vi(0, D), Vj(1, D), Pm(2, D)
    for f in (
        ops.exp(-ops.sqdist(x, y)),
        ops.sqdist(y * p, x * p) * ops.sqdist(x, y),
        ops.norm2(x - y) + Vi(3, 1),
    ):
        (g,), _ = rewrite.expand_distances((f,), 16, 10)  # centres are arguments from 10 on
        assert g is not f
        args = arguments(f, M, N)
        args = (*args, *[torch.zeros(1).double()] * (10 - len(args)))
        centres = [torch.randn(D, dtype=torch.float64)] * 3
        assert_same_values(f, g, (*args, *centres), (M, N), 1e-9)
    assert rewrite.distances(ops.sqdist(x[:16], y[:16]), 16) == []


# ---------------------------------------------------------------- the planner


def test_plans_are_equal_for_equal_formulas() -> None:
    machine = Machine(256, 16, True)
    for seed in range(20):
        outputs = (Output(formula(seed), SUM),)
        plan = prepare(outputs, 110, "float32", machine, False, False)
        prepare.cache_clear()
        again = prepare(outputs, 110, "float32", machine, False, False)
        assert plan is not None and again is not None
        assert plan.plan == again.plan and hash(plan.plan) == hash(again.plan)
        double = prepare(outputs, 110, "float64", machine, False, False)
        assert double is not None and double.plan != plan.plan


# ---------------------------------------------------------------- the generated code


@pytest.mark.parametrize("seed", range(8))
def test_random_formulas_in_generated_code(seed: int, launches) -> None:
    """Several formulas and their reductions over both axes; float64, so that no bound is generous."""
    f, g = formula(1000 + seed, 4), formula(2000 + seed, 3)
    for r in (SUM, (LOGSUMEXP, MIN)[seed % 2]):
        assert_matches_reference(f, r, arguments(f, 33, 20), tol=1e4)
    assert launches.compiled >= 2
    offset = {v: var(v.attr[0] + 200, v.attr[1], v.attr[2]) for v in postorder(g) if v.op == "var"}
    g = substitute(g, offset)
    outputs = (Output(f, SUM, "j"), Output(g, SUM, "i"), Output(f * g if f.dim == g.dim else g, SUM, "ij"))
    args = arguments([o.expr for o in outputs], 33, 20)
    for o, (got,) in zip(outputs, map_reduce_many(outputs, args, options=CPU), strict=True):
        (want,) = exact(o.expr, SUM, args, axis=o.axis)
        (size,) = exact(ops.absolute(o.expr), SUM, args, axis=o.axis)
        assert_close(got, want, 1e-11 * (1 + size), f"{o.axis} {str(o.expr)[:200]}")

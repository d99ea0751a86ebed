"""Formulas nobody thought of: generated code, rewriting, texts and gradients agree with plain torch."""

from __future__ import annotations

import pickle

import torch
from comparison import CPU, arguments, assert_matches_reference
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kerngp.engine.autodiff import transpose
from kerngp.engine.expr import OPS, Expr, Pm, Vi, Vj, node, variables
from kerngp.engine.folds import PROD
from kerngp.engine.mapreduce import dense, map_reduce
from kerngp.engine.reductions import LOGSUMEXP, MIN_ARGMIN, SUM
from kerngp.engine.rewrite import simplify
from kerngp.engine.text import formula_of, formula_text

DIMS = (1, 3)
LEAVES = [Vi(0, 1), Vi(1, 3), Vj(2, 1), Vj(3, 3), Pm(4, 1), Pm(5, 3)]
BOUNDED = ("tanh", "sin", "cos", "sigmoid", "erf", "atan", "relu", "abs", "neg", "step")
BINARY = ("add", "sub", "mul", "minimum", "maximum", "lt", "atan2")


@st.composite
def formulas(draw, smooth: bool = False) -> Expr:
    """A formula of some ten nodes that stays of modest size, whatever the arguments are."""
    skipped = {"step", "lt", "abs", "relu", "minimum", "maximum", "atan2"} if smooth else set()
    unary = st.sampled_from([n for n in BOUNDED if n not in skipped])
    binary = st.sampled_from([n for n in BINARY if n not in skipped])
    pool = list(LEAVES)
    for _ in range(draw(st.integers(3, 10))):
        a, b = (pool[draw(st.integers(0, len(pool) - 1))] for _ in range(2))
        kind = draw(st.integers(0, 5))
        if kind <= 1:
            made = node(draw(unary), a)
        elif kind <= 3:
            made = node(draw(binary), a, b)
        elif kind == 4:
            made = node("sum", a)
        else:
            made = node("exp", node("neg", node("square", node("tanh", a))))
        pool.append(made)
    f = pool[-1]
    return f * 0.5 + node("sum", pool[len(LEAVES)]) * 0.25


# the same examples every time; a failing one is not made smaller, which takes minutes
fast = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


@fast
@given(f=formulas(), M=st.sampled_from([1, 7, 33]), N=st.sampled_from([1, 31, 200]))
def test_generated_code_is_the_definition(f: Expr, M: int, N: int) -> None:
    args = arguments(f, M, N, torch.float64)
    for r in (SUM, LOGSUMEXP, MIN_ARGMIN):
        assert_matches_reference(f, r, args, options=CPU, sizes=(M, N), tol=256)
    small = f * 0.1 + 1.0
    product = map_reduce(small, PROD, args, options=CPU, sizes=(M, N))
    torch.testing.assert_close(product, dense(small, args, sizes=(M, N)).prod(-2), rtol=1e-11, atol=1e-300)


@fast
@given(f=formulas())
def test_rewriting_and_texts_keep_the_value(f: Expr) -> None:
    assert formula_of(formula_text(f)) is f and pickle.loads(pickle.dumps(f)) is f
    assert transpose(transpose(f)) is f
    args = arguments(f, 5, 6, torch.float64)
    want = dense(f, args, sizes=(5, 6))
    again = dense(simplify(f) + 0.0 * f, args, sizes=(5, 6))  # all variables stay in use
    torch.testing.assert_close(again, want, rtol=1e-12, atol=1e-12)


@fast
@given(f=formulas(smooth=True))
def test_gradients_are_those_of_torch(f: Expr) -> None:
    args = [a.requires_grad_() for a in arguments(f, 5, 6, torch.float64)]
    used = [args[v.attr[0]] for v in variables(f)]
    fused = map_reduce(f, SUM, args, sizes=(5, 6), options=CPU)
    plain = dense(f, args, sizes=(5, 6)).sum(-2)
    weights = torch.linspace(-1, 1, plain.numel(), dtype=torch.float64).reshape(plain.shape)
    found = [torch.autograd.grad((out * weights).sum(), used, allow_unused=True) for out in (fused, plain)]
    for a, b in zip(*found, strict=True):
        zero = torch.zeros(1, dtype=torch.float64)
        torch.testing.assert_close(zero if a is None else a, zero if b is None else b, rtol=1e-10, atol=1e-12)


def test_every_op_drawn_exists() -> None:
    assert {*BOUNDED, *BINARY} <= set(OPS)

"""Every word of formula strings against torch: value and gradient, through `map_reduce`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from comparison import CPU, REFERENCE, assert_close

from kerngp.engine.expr import Expr, Pm, Vi, Vj
from kerngp.engine.mapreduce import map_reduce
from kerngp.engine.reductions import SUM
from kerngp.engine.vocabulary import KINDS
from kerngp.engine.words import WORDS
from kerngp.errors import FormulaError

# KeOps 2.3, keopscore/formulas/maths/__init__.py, without GradMatrix, which is symbolic
KEOPS = """Abs Acos Add ArgMax ArgMin Asin Atan Atan2 BSpline Clamp ClampInt Concat Cos DiffClampInt Divide
Elem ElemT Equal Exp Extract ExtractT Floor IfElse IntInv Inv Kron LessOrEqual LessThan Log MatVecMult Max Min
Minus Mod Mult Norm2 Normalize NotEqual OneHot Pow Powf ReLU Round Rsqrt Scalprod Sign Sin SinXDivX
SoftDTW_SqDist SqDist SqNorm2 SqNormDiag SqNormIso Sqrt Square Step Subtract Sum SumT SymSqNorm TensorDot
TensorProd VecMatMult WeightedSqDist WeightedSqNorm XLogX""".split()
CONSTANTS = ["IntCst", "RatCst", "Zero"]
M, N = 4, 5


@dataclass(frozen=True)
class Case:
    """A word on formulas of the given dims, and the same on tensors (M, N, dim)."""

    dims: tuple[int, ...]
    oracle: Callable[..., torch.Tensor]
    attr: tuple = ()
    positive: bool = False
    smooth: bool = True


def number(f: Callable[..., torch.Tensor], *dims: int) -> Callable[..., torch.Tensor]:
    """The function with its last axis kept."""
    return lambda *a: f(*a).unsqueeze(-1)


def shaped(*shape: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda a: a.reshape(*a.shape[:-1], *shape)


def flat(a: torch.Tensor, axes: int) -> torch.Tensor:
    return a.reshape(*a.shape[: a.dim() - axes], -1)


def plain_bspline(knots: torch.Tensor, x: torch.Tensor, order: int) -> torch.Tensor:
    """The recurrence, function by function."""

    def b(k: int, degree: int) -> torch.Tensor:
        at = knots[..., k], knots[..., k + degree] if degree else knots[..., k + 1], knots[..., k + 1]
        if degree == 0:
            return ((at[0] <= x[..., 0]) & (x[..., 0] < at[1])).to(x.dtype)
        left = (x[..., 0] - at[0]) / (at[1] - at[0])
        right = (knots[..., k + degree + 1] - x[..., 0]) / (knots[..., k + degree + 1] - at[2])
        return left * b(k, degree - 1) + right * b(k + 1, degree - 1)

    return torch.stack([b(k, order) for k in range(knots.shape[-1] - order - 1)], -1)


def plain_softdtw(x: torch.Tensor, y: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """Minus gamma times the logarithm of the sum over all alignments of exp(-cost / gamma)."""
    n, m = x.shape[-1], y.shape[-1]
    cost = (x[..., :, None] - y[..., None, :]).square()

    def paths(i: int, j: int) -> list[torch.Tensor]:
        if (i, j) == (0, 0):
            return [cost[..., 0, 0]]
        before = [(i - 1, j), (i, j - 1), (i - 1, j - 1)]
        return [p + cost[..., i, j] for a, b in before if a >= 0 and b >= 0 for p in paths(a, b)]

    total = torch.stack(torch.broadcast_tensors(*paths(n - 1, m - 1)), -1)
    return -gamma * torch.logsumexp(-total / gamma, -1, keepdim=True)


def shifted_polygamma(a: torch.Tensor, n: int) -> torch.Tensor:
    """torch's, where its derivatives are accurate."""
    terms = sum((a + k) ** -(n + 1) for k in range(60)) * math.factorial(n) * (-1) ** n
    return torch.polygamma(n, a + 60) - terms


def step(a: torch.Tensor) -> torch.Tensor:
    return (a >= 0).to(a.dtype)


def one(f: Callable, positive: bool = False, smooth: bool = True) -> Case:
    return Case((3,), f, positive=positive, smooth=smooth)


def two(f: Callable, positive: bool = False, smooth: bool = True) -> Case:
    return Case((3, 3), f, positive=positive, smooth=smooth)


CASES: dict[str, list[Case]] = {
    "Add": [two(torch.add), Case((1, 3), torch.add)],
    "Subtract": [two(torch.sub)],
    "Minus": [one(torch.neg)],
    "Mult": [two(torch.mul), Case((3, 1), torch.mul)],
    "Divide": [two(torch.div), Case((1, 3), torch.div)],
    "Square": [one(torch.square)],
    "Inv": [one(torch.reciprocal)],
    "Pow": [Case((3,), lambda a, m: a**m, (m,)) for m in (-2, 0, 1, 2, 3, 5)],
    "Powf": [two(torch.pow, positive=True)],
    "Factorize": [two(lambda a, b: a)],
    "AutoFactorize": [one(lambda a: a)],
    "Exp": [one(torch.exp)],
    "Log": [one(torch.log, positive=True)],
    "XLogX": [one(lambda a: a * a.log(), positive=True)],
    "Sqrt": [one(torch.sqrt, positive=True)],
    "Rsqrt": [one(torch.rsqrt, positive=True)],
    "Sin": [one(torch.sin)],
    "Cos": [one(torch.cos)],
    "Tan": [one(torch.tan)],
    "Asin": [one(torch.asin)],
    "Acos": [one(torch.acos)],
    "Atan": [one(torch.atan)],
    "Atan2": [two(torch.atan2)],
    "SinXDivX": [one(lambda a: a.sin() / a)],
    "Sinc": [one(torch.sinc)],
    "Sinh": [one(torch.sinh)],
    "Cosh": [one(torch.cosh)],
    "Tanh": [one(torch.tanh)],
    "Expm1": [one(torch.expm1)],
    "Log1p": [one(torch.log1p, positive=True)],
    "Sigmoid": [one(torch.sigmoid)],
    "Softplus": [one(torch.nn.functional.softplus)],
    "Erf": [one(torch.erf)],
    "Erfc": [one(torch.erfc)],
    "Lgamma": [one(torch.lgamma, positive=True)],
    "Digamma": [one(lambda a: shifted_polygamma(a, 0), positive=True)],
    "Polygamma": [Case((3,), shifted_polygamma, (n,), positive=True) for n in (0, 1, 2)],
    "Abs": [one(torch.abs)],
    "Sign": [one(torch.sign, smooth=False)],
    "Step": [one(step, smooth=False)],
    "ReLU": [one(torch.relu)],
    "Floor": [one(torch.floor, smooth=False)],
    "Ceil": [one(torch.ceil, smooth=False)],
    "Round": [
        Case((3,), lambda a, d=0: torch.round(a, decimals=d), attr, smooth=False) for attr in [(), (0,), (2,)]
    ],
    "Mod": [
        Case((3, 1, 1), lambda a, n, d: a - n * torch.floor((a - d) / n), positive=True),
        Case((3, 3), lambda a, n: a - n * torch.floor(a / n), positive=True),
    ],
    "Minimum": [two(torch.minimum)],
    "Maximum": [two(torch.maximum)],
    "Clamp": [Case((3, 1, 1), lambda a, low, high: torch.clamp(a, low, low + high.abs()))],
    "ClampInt": [Case((3,), lambda a, low, high: torch.clamp(4 * a, low, high), (-1, 2))],
    "DiffClampInt": [
        Case((3,), lambda a, low, high: ((4 * a >= low) & (4 * a <= high)).double(), (-1, 2), smooth=False)
    ],
    "IfElse": [Case((3, 3, 1), lambda c, a, b: torch.where(c >= 0, a, b))],
    "Equal": [two(lambda a, b: (a.round() == b.round()).double(), smooth=False)],
    "NotEqual": [two(lambda a, b: (a.round() != b.round()).double(), smooth=False)],
    "LessThan": [two(lambda a, b: (a.round() < b.round()).double(), smooth=False)],
    "LessOrEqual": [two(lambda a, b: (a.round() <= b.round()).double(), smooth=False)],
    "Sum": [one(lambda a: a.sum(-1, keepdim=True))],
    "Mean": [one(lambda a: a.mean(-1, keepdim=True))],
    "Prod": [Case((n,), lambda a: a.prod(-1, keepdim=True)) for n in (1, 2, 5, 6, 23)],
    "Max": [Case((n,), lambda a: a.amax(-1, keepdim=True)) for n in (1, 5, 20)],
    "Min": [Case((n,), lambda a: a.amin(-1, keepdim=True)) for n in (1, 5, 20)],
    "ArgMax": [Case((n,), lambda a: a.argmax(-1, keepdim=True).double(), smooth=False) for n in (5, 20)],
    "ArgMin": [Case((n,), lambda a: a.argmin(-1, keepdim=True).double(), smooth=False) for n in (5, 20)],
    "OneHot": [
        Case(
            (1,),
            lambda a, n: torch.nn.functional.one_hot((4 * a).round().long()[..., 0], n).double(),
            (n,),
            positive=True,
            smooth=False,
        )
        for n in (5, 21)
    ],
    "SumT": [Case((1,), lambda a, n: a.expand(*a.shape[:-1], n), (4,))],
    "Elem": [Case((4,), lambda a, m: a[..., m : m + 1], (2,))],
    "ElemT": [Case((1,), lambda a, n, m: torch.nn.functional.pad(a, (m, n - m - 1)), (5, 3))],
    "Extract": [Case((6,), lambda a, s, n: a[..., s : s + n], (1, 4))],
    "ExtractT": [Case((2,), lambda a, s, n: torch.nn.functional.pad(a, (s, n - s - 2)), (3, 6))],
    "Concat": [Case((2, 3), lambda a, b: torch.cat([a, b], -1))],
    "Scalprod": [two(lambda a, b: (a * b).sum(-1, keepdim=True))],
    "SqNorm2": [one(lambda a: a.square().sum(-1, keepdim=True))],
    "Norm2": [one(lambda a: a.norm(dim=-1, keepdim=True))],
    "Normalize": [one(lambda a: a / a.norm(dim=-1, keepdim=True))],
    "SqDist": [two(lambda a, b: (a - b).square().sum(-1, keepdim=True))],
    "SqNormIso": [Case((1, 3), lambda s, a: s * a.square().sum(-1, keepdim=True))],
    "SqNormDiag": [two(lambda s, a: (s * a.square()).sum(-1, keepdim=True))],
    "SymSqNorm": [
        Case((9, 3), number(lambda s, a: torch.einsum("...i,...ij,...j", a, shaped(3, 3)(s), a))),
    ],
    "WeightedSqNorm": [
        Case((1, 3), lambda s, a: s * a.square().sum(-1, keepdim=True)),
        two(lambda s, a: (s * a.square()).sum(-1, keepdim=True)),
        Case((9, 3), number(lambda s, a: torch.einsum("...i,...ij,...j", a, shaped(3, 3)(s), a))),
    ],
    "WeightedSqDist": [
        Case((3, 3, 3), lambda s, a, b: (s * (a - b).square()).sum(-1, keepdim=True)),
        Case(
            (9, 3, 3),
            number(lambda s, a, b: torch.einsum("...i,...ij,...j", a - b, shaped(3, 3)(s), a - b)),
        ),
    ],
    "MatVecMult": [
        Case((6, 3), lambda a, b: (shaped(2, 3)(a) @ b.unsqueeze(-1)).squeeze(-1)),
        Case((24, 4), lambda a, b: (shaped(6, 4)(a) @ b.unsqueeze(-1)).squeeze(-1)),
    ],
    "VecMatMult": [Case((2, 6), lambda b, a: (b.unsqueeze(-2) @ shaped(2, 3)(a)).squeeze(-2))],
    "TensorProd": [Case((2, 3), lambda a, b: flat(a[..., :, None] * b[..., None, :], 2))],
    "TensorDot": [
        Case(
            (12, 6),
            lambda a, b, *_: flat(
                torch.einsum("...ijk,...kl->...ijl", shaped(2, 2, 3)(a), shaped(3, 2)(b)), 3
            ),
            ((2, 2, 3), (3, 2), (2,), (0,)),
        ),
        Case(
            (12, 6),
            lambda a, b, *_: flat(
                torch.einsum("...ijk,...kl->...lij", shaped(2, 2, 3)(a), shaped(3, 2)(b)), 3
            ),
            ((2, 2, 3), (3, 2), (2,), (0,), (1, 2, 0)),
        ),
        Case(
            (4, 4),
            lambda a, b, *_: (a * shaped(2, 2)(b).transpose(-1, -2).flatten(-2)).sum(-1, keepdim=True),
            ((2, 2), (2, 2), (0, 1), (1, 0)),
        ),
    ],
    "Kron": [
        Case(
            (4, 6),
            lambda a, b, *_: flat(torch.einsum("...ij,...kl->...ikjl", shaped(2, 2)(a), shaped(3, 2)(b)), 4),
            ((2, 2), (3, 2)),
        )
    ],
    "BSpline": [
        Case((6, 1), lambda t, x, k: plain_bspline(10 * t, x, k), (k,), smooth=k > 0) for k in (0, 1, 2, 3)
    ],
    "SoftDTW_SqDist": [Case((3, 4, 1), lambda x, y, g: plain_softdtw(x, y, g.abs()))],
}
# What the word gets instead of its plain arguments, so that the oracle's and the word's arguments agree
PREPARED: dict[str, Callable[..., tuple[Expr, ...]]] = {
    "Clamp": lambda a, low, high: (a, low, low + abs(high)),
    "ClampInt": lambda a: (4.0 * a,),
    "DiffClampInt": lambda a: (4.0 * a,),
    "OneHot": lambda a: (4.0 * a,),
    **dict.fromkeys(
        ["Equal", "NotEqual", "LessThan", "LessOrEqual"],
        lambda a, b: (WORDS["Round"].build(a), WORDS["Round"].build(b)),
    ),
    "BSpline": lambda t, x: (10.0 * t, x),
    "SoftDTW_SqDist": lambda x, y, g: (x, y, abs(g)),
}


def test_all_words_of_keops_are_there() -> None:
    assert len(KEOPS) == 66
    assert set(KEOPS) | set(CONSTANTS) <= set(WORDS)


def test_every_word_has_a_case() -> None:
    tables = ("kerngp.engine.words", "kerngp.engine.ops")  # the others have tests of their own
    math_ops = {name for name, w in WORDS.items() if w.build.__module__.startswith(tables)}
    assert set(CASES) == math_ops - {*CONSTANTS, "IntInv", "Gather"}  # Gather: test_lookup.py


@pytest.mark.parametrize("name", sorted(WORDS))
def test_record(name: str) -> None:
    w = WORDS[name]
    assert w.name == name and w.doc and set(w.signature) <= set(KINDS)
    for case in CASES.get(name, []):
        got = "f" * len(case.dims)
        plain = w.signature[len(got) :]
        assert w.signature.startswith(got) and len(plain) - w.optional <= len(case.attr) <= len(plain)


def built(name: str, case: Case) -> tuple[Expr, list[torch.Tensor]]:
    """The word on x_i + y_j of each dim, and random arrays for those."""
    arguments, arrays = [], []
    for k, dim in enumerate(case.dims):
        arguments.append(Vi(2 * k, dim) + Vj(2 * k + 1, dim))
        for rows in (M, N):
            a = torch.rand(rows, dim, dtype=torch.float64) * 0.45 + 0.05
            sign = 1.0 if case.positive else (-1.0) ** torch.arange(dim)
            arrays.append(a * sign)
    if name == "BSpline":  # ascending knots around x
        arrays[0] = torch.linspace(-0.05, 0.12, case.dims[0]).double() + 0.002 * torch.rand(M, 1).double()
        arrays[1] = torch.linspace(-0.05, 0.03, case.dims[0]).double() + 0.002 * torch.rand(N, 1).double()
    if name in PREPARED:
        arguments = list(PREPARED[name](*arguments))
    return WORDS[name].build(*arguments, *case.attr), arrays


def wanted(case: Case, arrays: list[torch.Tensor]) -> torch.Tensor:
    pairs = [a[:, None] + b[None] for a, b in zip(arrays[::2], arrays[1::2])]
    out = case.oracle(*pairs, *case.attr)
    return out.expand(M, N, out.shape[-1])


@pytest.mark.parametrize(("name", "at"), [(n, k) for n in sorted(CASES) for k in range(len(CASES[n]))])
def test_word(name: str, at: int, launches: Any) -> None:
    """The value in generated code; first and second derivatives of the definition."""
    case = CASES[name][at]
    f, arrays = built(name, case)
    got = map_reduce(f, SUM, arrays, options=CPU)
    assert launches.compiled == 1 and launches.reference == 0
    leaves = [a.requires_grad_() for a in arrays]
    want = wanted(case, leaves).sum(1)
    assert isinstance(got, torch.Tensor)
    assert_close(got, want.detach(), 1e-11 * (1 + want.detach().abs()), name)
    assert torch.count_nonzero(want) > 0
    out = map_reduce(f, SUM, leaves, options=REFERENCE)
    assert isinstance(out, torch.Tensor)
    if not case.smooth:
        found = torch.autograd.grad(out.sum(), leaves, allow_unused=True)
        assert not any(g is not None and bool(g.any()) for g in found)
        return
    seed = torch.randn(want.shape, dtype=torch.float64)
    zeros: Any = {"allow_unused": True, "materialize_grads": True}
    both = [torch.autograd.grad((o * seed).sum(), leaves, create_graph=True, **zeros) for o in (out, want)]
    for g, e in zip(*both, strict=True):
        assert_close(g.detach(), e.detach(), 1e-9 * (1 + e.detach().abs()), f"gradient of {name}")
    if any(e.requires_grad for e in both[1]):
        both = [torch.autograd.grad(sum(h.sin().sum() for h in hs), leaves, **zeros) for hs in both]
        for g, e in zip(*both, strict=True):
            assert_close(g, e, 1e-8 * (1 + e.abs()), f"second derivative of {name}")


# ---------------------------------------------------------------- constants


def constant(f: Expr) -> torch.Tensor:
    out = map_reduce(f * Pm(0, 1), SUM, (torch.ones(1).double(),), sizes=(1, 1), options=CPU)
    assert isinstance(out, torch.Tensor)
    return out.flatten()


def test_constants_are_exact_in_double_precision() -> None:
    assert constant(WORDS["IntCst"].build(7)).tolist() == [7.0]
    assert constant(WORDS["RatCst"].build(1, 3)).tolist() == [1 / 3]
    assert constant(WORDS["IntInv"].build(3)).tolist() == [1 / 3]
    assert constant(WORDS["Zero"].build(4)).tolist() == [0.0] * 4
    assert constant(WORDS["IntInv"].build(2) + WORDS["IntCst"].build(1)).tolist() == [1.5]


def test_a_real_power_is_exact_in_double_precision() -> None:
    x = torch.rand(50, 1, dtype=torch.float64) * 3
    out = map_reduce(WORDS["Powf"].build(Vi(0, 1), WORDS["RatCst"].build(3, 2)), SUM, (x,), sizes=(50, 1))
    assert isinstance(out, torch.Tensor)
    assert_close(out, x**1.5, 4 * 2.0**-52 * x**1.5)


def test_the_gradient_of_a_choice_goes_to_the_branch_that_was_taken() -> None:
    """Also where a branch depends on all components of the variable."""
    x = torch.tensor([[1.0, -1.0], [2.0, -3.0]], dtype=torch.float64, requires_grad=True)
    v = Vi(0, 2)
    f = WORDS["IfElse"].build(v, WORDS["SqNorm2"].build(v), v)
    out = map_reduce(f, SUM, (x,), sizes=(2, 1), options=CPU)
    want = torch.where(x >= 0, x.square().sum(-1, keepdim=True), x)
    assert isinstance(out, torch.Tensor)
    got, expected = (torch.autograd.grad(o.sum(), x)[0] for o in (out, want))
    assert torch.equal(got, expected)


def test_sinc_is_smooth_at_zero() -> None:
    x = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    for name, second in (("SinXDivX", -1 / 3), ("Sinc", -(math.pi**2) / 3)):
        out = map_reduce(WORDS[name].build(Vi(0, 1)), SUM, (x,), sizes=(3, 1), options=CPU)
        assert isinstance(out, torch.Tensor) and torch.equal(out, torch.ones_like(out))
        (g,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        assert torch.equal(g, torch.zeros_like(g))
        (h,) = torch.autograd.grad(g.sum(), x)
        assert_close(h, torch.full_like(h, second), 1e-14)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("RatCst", (1, 0), "denominator is 0"),
        ("Zero", (0,), "at least 1"),
        ("Polygamma", (Vi(0, 2), -1), "n=-1; expected an order"),
        ("SumT", (Vi(0, 2), 3), "repeats a number"),
        ("ElemT", (Vi(0, 1), 3, 3), "n=3, m=3"),
        ("ExtractT", (Vi(0, 3), 2, 4), "3 components from 2 on do not fit"),
        ("SqNormIso", (Vi(0, 2), Vi(0, 2)), "weight of dim 1, got 2"),
        ("SqNormDiag", (Vi(0, 1), Vi(1, 2)), "weights of dim 2, got 1"),
        ("SymSqNorm", (Vi(0, 3), Vi(1, 2)), "dim 2: expected 4"),
        ("OneHot", (Vi(0, 2), 3), "expected a number and a length"),
        ("MatVecMult", (Vi(0, 5), Vi(1, 2)), "does not fit a vector of dim 2"),
        ("TensorDot", (Vi(0, 4), Vi(1, 4), (2, 2), (4,), (0,), (0,)), "must have equal lengths"),
        ("TensorDot", (Vi(0, 4), Vi(1, 4), (2, 2), (2, 2), (2,), (0,)), "contfa=.* axes"),
        ("TensorDot", (Vi(0, 4), Vi(1, 4), (2, 2), (2, 2), (1,), (0,), (1, 1)), "permute=.*permutation"),
        ("TensorDot", (Vi(0, 5), Vi(1, 4), (2, 2), (2, 2), (1,), (0,)), "dim 5 is no tensor of shape"),
        ("Kron", (Vi(0, 4), Vi(1, 4), (2, 2), (4,)), "as many axes"),
        ("BSpline", (Vi(0, 4), Vi(1, 1), 3), "at least order \\+ 2 knots"),
        ("SoftDTW_SqDist", (Vi(0, 4), Vi(1, 3), Vi(2, 2)), "gamma is a number"),
    ],
)
def test_arguments_that_do_not_fit(name: str, arguments: tuple, message: str) -> None:
    with pytest.raises(FormulaError, match=message):
        WORDS[name].build(*arguments)

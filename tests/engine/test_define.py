"""Reductions of the user's own: the same formulas on every backend, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comparison import CPU, EPS, REFERENCE, assert_close, assert_gradients

from kerngp import LazyTensor, define_reduction
from kerngp.engine import ops
from kerngp.engine.expr import Vi, Vj, const, node
from kerngp.engine.mapreduce import map_reduce
from kerngp.engine.ops import exp, ifelse, log, maximum, minimum
from kerngp.errors import FormulaError

Tensor = torch.Tensor
BACKENDS = pytest.mark.parametrize("options", [REFERENCE, CPU], ids=["reference", "cpu"])

SQUARES = define_reduction(
    "squares",
    neutral=(0.0,),
    step=lambda s, f: (s[0] + f**2,),
    merge=lambda a, b: (a[0] + b[0],),
    gradient=lambda f, results, g: 2.0 * f * g[0],
)

LOG_PRODUCT = define_reduction(
    "log_product",
    neutral=(0.0,),
    step=lambda s, f: (s[0] + log(f),),
    merge=lambda a, b: (a[0] + b[0],),
    gradient=lambda f, results, g: g[0] / f,
)


def welford(s, f):
    n = s[0] + 1.0
    mean = s[1] + (f - s[1]) / n
    return n, mean, s[2] + (f - s[1]) * (f - mean)


def chan(a, b):
    n, gap = a[0] + b[0], b[1] - a[1]
    share = b[0] / maximum(n, 1.0)  # two empty states make an empty one
    return n, a[1] + gap * share, a[2] + b[2] + gap**2 * (a[0] * share)


MOMENTS = define_reduction(
    "moments",
    neutral=lambda dim: ((0.0, 1), (0.0, dim), (0.0, dim)),
    step=welford,
    merge=chan,
    final=lambda s: (s[1], s[2] / s[0], s[0]),
    gradient=lambda f, r, g: (g[0] + 2.0 * (f - r[0]) * g[1]) / r[2],
)

# entries (f, j): the first column with f > 0, or inf
FIRST = define_reduction(
    "first",
    neutral=lambda dim: ((torch.inf, 1),),
    step=lambda s, e: (minimum(s[0], ifelse(node("gt", e[0], const(0.0)) - 1.0, e[1], torch.inf)),),
    merge=lambda a, b: (minimum(a[0], b[0]),),
    componentwise=False,
)


def entries(M: int, N: int, dtype: torch.dtype, positive: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    x, y = torch.randn(M, 3).to(dtype), torch.randn(N, 3).to(dtype)
    x, y = (x.abs() + 0.5, y.abs() + 0.5) if positive else (x, y)
    return x, y, x.double()[:, None] * y.double()


def reduced(r, args, expr=None, axis="j", options=CPU) -> Any:
    return map_reduce(Vi(0, 3) * Vj(1, 3) if expr is None else expr, r, args, axis=axis, options=options)


@BACKENDS
@pytest.mark.parametrize(("M", "N"), [(1, 1), (7, 31), (33, 1000), (3, 20_000)])
def test_values(M: int, N: int, dtype, options, launches) -> None:
    x, y, F = entries(M, N, dtype, positive=True)
    for axis, n in (("j", 1), ("i", 0)):
        sums = F.square().sum(n)
        assert_close(reduced(SQUARES, (x, y), None, axis, options), sums, 64 * EPS[dtype] * sums, "squares")
        want = F.log().sum(n)
        got = reduced(LOG_PRODUCT, (x, y), None, axis, options)
        assert_close(got, want, 64 * EPS[dtype] * F.log().abs().sum(n) + 64 * EPS[dtype], "log product")
        mean, variance, count = reduced(MOMENTS, (x, y), None, axis, options)
        spread = F.square().mean(n)
        assert_close(mean, F.mean(n), 64 * EPS[dtype] * F.mean(n), "mean")
        assert_close(variance, F.var(n, correction=0), 64 * EPS[dtype] * spread, "variance")
        assert count.shape == (*mean.shape[:-1], 1) and torch.all(count == (N if axis == "j" else M))
    assert (launches.compiled, launches.reference) == ((6, 0) if options is CPU else (0, 6))


@BACKENDS
def test_variance_of_data_far_from_zero(dtype, options) -> None:
    """What Welford's formulas are for: the squares would lose all digits."""
    x = torch.ones(2, 1, dtype=dtype)
    y = (1000.0 + torch.rand(5000, 1)).to(dtype)
    expr = Vi(0, 1) * Vj(1, 1)
    mean, variance, _ = map_reduce(expr, MOMENTS, (x, y), options=options)
    want = y.double().var(correction=0)
    assert_close(variance, want.expand(2, 1), 1e-3 if dtype == torch.float32 else 1e-12, "variance")
    assert_close(mean, y.double().mean().expand(2, 1), 1e-4 if dtype == torch.float32 else 1e-10, "mean")


@BACKENDS
@pytest.mark.parametrize("N", [1, 31, 1000])
def test_first_column_with_a_positive_entry(N: int, options, launches) -> None:
    x, y = torch.randn(9, 1), torch.randn(N, 1)
    x[3] = 0.0
    numbers = torch.arange(N, dtype=torch.float32).unsqueeze(-1)
    got = reduced(FIRST, (x, y, numbers), ops.concat(Vi(0, 1) * Vj(1, 1), Vj(2, 1)), options=options)
    F = x * y.T
    there = F > 0
    want = torch.where(there.any(1), there.float().argmax(1).float(), torch.inf)
    assert torch.equal(got, want.unsqueeze(-1)) and got[3] == torch.inf
    assert launches.compiled == (1 if options is CPU else 0)


@BACKENDS
def test_both_axes(options) -> None:
    x, y, F = entries(33, 71, torch.float64)
    mean, variance, count = reduced(MOMENTS, (x, y), None, "ij", options)
    assert_close(mean, F.mean((0, 1)), 1e-13, "mean")
    assert_close(variance, F.var((0, 1), correction=0), 1e-12, "variance")
    assert count.item() == 33 * 71


def test_of_a_lazytensor() -> None:
    x, y, F = entries(5, 33, torch.float64)
    K = LazyTensor(x[:, None]) * LazyTensor(y[None])
    assert_close(K.reduction(SQUARES, axis=1), F.square().sum(1), 1e-12, "squares")
    mean, _, _ = K.reduction(MOMENTS, axis=0)
    assert_close(mean, F.mean(0), 1e-13, "mean")
    deferred = K.reduction(SQUARES, axis=1, call=False)
    assert_close(deferred(), F.square().sum(1), 1e-12, "squares")
    assert repr(SQUARES) == "squares"


@BACKENDS
@pytest.mark.parametrize("r", [SQUARES, LOG_PRODUCT, MOMENTS], ids=repr)
@pytest.mark.parametrize("axis", ["j", "i"])
def test_gradients(r, axis: str, options) -> None:
    args = (torch.rand(4, 2).double() + 0.5, torch.rand(3, 2).double() + 0.5)
    f = Vi(0, 2) * Vj(1, 2)
    assert_gradients(f, args, r, axis=axis, options=options, second=options is REFERENCE)
    x, y = (a.requires_grad_() for a in args)

    def results(*arrays: Tensor):
        return map_reduce(f, MOMENTS, arrays, axis=axis, options=options)

    if r is MOMENTS:  # all of its results
        assert torch.autograd.gradcheck(results, (x, y))


def test_coupled_components(dtype) -> None:
    """A state of other dims than the entry: the sum of the largest component, weighted by the smallest."""
    r = define_reduction(
        "coupled",
        neutral=lambda dim: ((0.0, 1), (0.0, dim)),
        step=lambda s, f: (s[0] + maximum(f[0], f[1]) * minimum(f[0], f[1]), s[1] + f),
        merge=lambda a, b: (a[0] + b[0], a[1] + b[1]),
        final=lambda s: ops.concat(s[0], exp(-(s[1] ** 2))),
        componentwise=False,
    )
    x, y, F = entries(7, 33, dtype)
    F = F[..., :2]
    got = reduced(r, (x, y), Vi(0, 3)[:2] * Vj(1, 3)[:2])
    want = torch.cat([F.prod(-1).sum(1, keepdim=True), (-F.sum(1).square()).exp()], -1)
    assert_close(got, want, 1e3 * EPS[dtype], "coupled components")


# ---------------------------------------------------------------- refusals


def test_without_gradient() -> None:
    r = define_reduction(
        "plain", neutral=(0.0,), step=lambda s, f: (s[0] + f,), merge=lambda a, b: (a[0] + b[0],)
    )
    x = torch.randn(4, 3, requires_grad=True)
    out = reduced(r, (x, torch.randn(5, 3)))
    with pytest.raises(FormulaError, match="the reduction plain has no derivative.*gradient="):
        out.sum().backward()


def sums(**changes):
    record = {
        "neutral": (0.0,),
        "step": lambda s, f: (s[0] + f,),
        "merge": lambda a, b: (a[0] + b[0],),
        **changes,
    }
    return define_reduction("bad", **record)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merge": lambda a, b: (a[0],)}, "bad: the merge of two parts gives"),
        ({"merge": lambda a, b: (a[0] + 2.0 * b[0],)}, "bad: the merge of two parts gives"),
        ({"neutral": (1.0,)}, "bad: the merge of two parts gives"),
        (
            {"step": lambda s, f: (s[0] + f, f)},
            r"step of bad gives parts of dims \(3, 3\); the state has \(3,\)",
        ),
        ({"merge": lambda a, b: (a[0] + b[0])[:2]}, r"merge of bad gives parts of dims \(2,\)"),
        ({"step": lambda s, f: (s[0] + f * Vj(1, 3),)}, r"step of bad has the variable Vj\(1,3\)"),
        ({"final": lambda s: ()}, "final of bad has no formula at all"),
        ({"neutral": ()}, "neutral of bad: expected a number for each part"),
        ({"neutral": lambda dim: ((0.0, 0),)}, "neutral of bad: expected a number for each part"),
        ({"step": lambda s, f: ("f",)}, "str cannot stand in a formula"),
        ({"merge": None}, "merge=None of bad: expected a function"),
    ],
)
def test_wrong_formulas(changes: dict, message: str) -> None:
    with pytest.raises(FormulaError, match=message):
        reduced(sums(**changes), (torch.randn(4, 3), torch.randn(5, 3)))


def test_a_mean_that_forgets_empty_states() -> None:
    def merge(a, b):
        n = a[0] + b[0]
        return n, (a[0] * a[1] + b[0] * b[1]) / n

    r = define_reduction(
        "mean",
        neutral=(0.0, 0.0),
        step=lambda s, f: (s[0] + 1.0, s[1] + (f - s[1]) / (s[0] + 1.0)),
        merge=merge,
        final=lambda s: s[1],
    )
    with pytest.raises(FormulaError, match="mean: the merge with two empty states gives .*nan"):
        reduced(r, (torch.randn(4, 3), torch.randn(5, 3)))


def test_an_order_dependent_merge() -> None:
    """The last entry: blocks of a GPU may meet in another order."""
    r = define_reduction(
        "last",
        neutral=(0.0, 0.0),
        step=lambda s, f: (f * 0.0 + 1.0, f),
        merge=lambda a, b: (maximum(a[0], b[0]), ifelse(b[0] - 0.5, b[1], a[1])),
        final=lambda s: s[1],
    )
    with pytest.raises(FormulaError, match="last: the merge of two parts in the other order"):
        reduced(r, (torch.randn(4, 3), torch.randn(5, 3)))


def test_wrong_gradient_dim() -> None:
    r = sums(gradient=lambda f, r, g: ops.concat(f, f))
    out = reduced(r, (torch.randn(4, 3, requires_grad=True), torch.randn(5, 3)))
    with pytest.raises(FormulaError, match="gradient of bad has dim 6; expected that of the entry, 3"):
        out.sum().backward()

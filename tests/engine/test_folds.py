"""Reductions given by formulas, on every backend, against torch."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from comparison import CPU, EPS, REFERENCE, assert_close, assert_gradients

from kerngp.engine import ops
from kerngp.engine.expr import Expr, Vi, Vj
from kerngp.engine.folds import (
    ALL,
    ANY,
    COUNT,
    FOLDS,
    LOGSUMEXPWEIGHT,
    MAX_SUMSHIFTEXP,
    MEAN,
    PROD,
    SOFTMAX,
    SOFTMIN,
    SUMSOFTMAXWEIGHT,
    weighted_entry,
)
from kerngp.engine.mapreduce import map_reduce, map_reduce_many
from kerngp.engine.ops import relu
from kerngp.engine.plan import Output
from kerngp.engine.reduction import Reduction, with_scores
from kerngp.engine.reductions import LOGSUMEXP, SUM
from kerngp.errors import FormulaError
from kerngp.options import Options

INF, NAN = math.inf, math.nan
Tensor = torch.Tensor
DISTINCT = [r for r in FOLDS if r is not SOFTMAX]  # which is another name
BACKENDS = pytest.mark.parametrize("options", [REFERENCE, CPU], ids=["reference", "cpu"])


def pair(f: Tensor, w: Tensor, n: int) -> Tensor:
    m = f.amax(n)
    return torch.cat([m, (w * (f - m.unsqueeze(n)).exp()).sum(n)], -1)


# what torch says of values f and weights w, (..., m, n, dim), reduced over axis n
DENSE: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "prod": lambda f, w, n: f.prod(n),
    "mean": lambda f, w, n: f.mean(n),
    "count": lambda f, w, n: f.count_nonzero(n),
    "any": lambda f, w, n: f.bool().any(n),
    "all": lambda f, w, n: f.bool().all(n),
    "logsumexpweight": lambda f, w, n: (f + w.log()).logsumexp(n),
    "sumsoftmaxweight": lambda f, w, n: (f.softmax(n) * w).sum(n),
    "softmax": lambda f, w, n: (f.softmax(n) * w).sum(n),
    "softmin": lambda f, w, n: ((-f).softmax(n) * w).sum(n),
    "max_sumshiftexp": lambda f, w, n: pair(f, torch.ones_like(f), n),
    "max_sumshiftexpweight": pair,
}


def case(r: Reduction, M: int, N: int, dtype: torch.dtype, weights: int = 3, scores: int = 1, batch=()):
    """A formula, its arguments, and (f, w) in float64. Products stay near 1; some entries are 0."""
    x, y = torch.randn(*batch, M, 2).to(dtype), torch.randn(*batch, N, 2).to(dtype)
    w = torch.rand(N, weights).to(dtype)
    X, Y, W = x.double()[..., :, None, :], y.double()[..., None, :, :], w.double()[None]
    if r.scores:
        if scores == 1:
            f, F = (Vi(0, 2) | Vj(1, 2)), (X * Y).sum(-1, keepdim=True)
        else:
            f, F = Vi(0, 2) * Vj(1, 2), X * Y
        return weighted_entry(f, Vj(2, weights)), (x, y, w), F, W, with_scores(r, scores)
    f, F = Vi(0, 2) * Vj(1, 2), X * Y
    if r is PROD:
        f, F = 1.0 + f * (0.1 / N), 1.0 + F * (0.1 / N)
    if r in (COUNT, ANY, ALL):
        f, F = relu(f), F.relu()
    return f, (x, y), F, W, r


def value(expr: Expr, r: Reduction, args, **more) -> Tensor:
    out = map_reduce(expr, r, args, **more)
    assert isinstance(out, Tensor)
    return out


def check(r: Reduction, got: Tensor, want: Tensor, F: Tensor, dtype: torch.dtype) -> None:
    """Up to a few roundings of the result, or of the exponents."""
    if not want.is_floating_point():
        assert got.dtype == want.dtype and torch.equal(got, want), f"{r}: {got} instead of {want}"
        return
    assert got.dtype == dtype
    size = 1 + want.abs() + (F.abs().amax() if r.scores or r is MAX_SUMSHIFTEXP else 0)
    assert_close(got, want, 64 * EPS[dtype] * size * (1 + want.abs()), f"{r}")


def test_the_definitions_cover_the_table() -> None:
    assert set(DENSE) == {r.name for r in FOLDS}


@BACKENDS
@pytest.mark.parametrize("r", FOLDS, ids=repr)
@pytest.mark.parametrize(("M", "N"), [(1, 1), (7, 31), (33, 1000)])
def test_values(r: Reduction, M: int, N: int, dtype, options, launches) -> None:
    expr, args, F, W, r = case(r, M, N, dtype)
    for axis, n in (("j", -2), ("i", -3)):
        W_full = W.expand(M, N, W.shape[-1])
        check(r, value(expr, r, args, axis=axis, options=options), DENSE[r.name](F, W_full, n), F, dtype)
    assert (launches.compiled, launches.reference) == ((2, 0) if options is CPU else (0, 2))


@BACKENDS
@pytest.mark.parametrize("r", DISTINCT, ids=repr)
def test_half_precision_is_storage(r: Reduction, options) -> None:
    expr, args, F, W, r = case(r, 7, 33, torch.float16)
    want = DENSE[r.name](F, W.expand(7, 33, W.shape[-1]), -2)
    check(r, value(expr, r, args, options=options), want, F, torch.float16)


@BACKENDS
@pytest.mark.parametrize("r", DISTINCT, ids=repr)
def test_batched_and_strided(r: Reduction, options) -> None:
    expr, (x, y, *rest), F, W, r = case(r, 5, 33, torch.float64, batch=(2, 3))
    y = torch.empty(2, 2, 3, 33, dtype=torch.float64).permute(1, 2, 3, 0).copy_(y)
    assert not y.is_contiguous()
    want = DENSE[r.name](F, W.expand(2, 3, 5, 33, W.shape[-1]), -2)
    check(r, value(expr, r, (x, y, *rest), options=options), want, F, torch.float64)
    check(
        r,
        value(expr, r, (x[:, :1], y[:1], *rest), options=options)[0, 0],
        want[0, 0],
        F,
        torch.float64,
    )


@BACKENDS
@pytest.mark.parametrize("r", DISTINCT, ids=repr)
def test_both_axes(r: Reduction, options) -> None:
    expr, args, F, W, r = case(r, 33, 71, torch.float64)
    flat = DENSE[r.name](F.reshape(1, -1, F.shape[-1]), W.expand(33, 71, -1).reshape(1, -1, W.shape[-1]), -2)
    check(r, value(expr, r, args, axis="ij", options=options), flat[0], F, torch.float64)


@BACKENDS
@pytest.mark.parametrize("r", [r for r in DISTINCT if r.scores], ids=repr)
@pytest.mark.parametrize(("scores", "weights"), [(1, 1), (2, 2), (2, 1), (1, 16)])
def test_exponents_and_weights_of_any_dim(r: Reduction, scores: int, weights: int, options) -> None:
    expr, args, F, W, r = case(r, 33, 71, torch.float64, weights, scores)
    want = DENSE[r.name](F, W.expand(33, 71, -1), -2)
    check(r, value(expr, r, args, options=options), want, F, torch.float64)


def test_few_rows_are_split(dtype) -> None:
    """A few rows and many columns: parts of j are merged by the law."""
    for r in DISTINCT:
        if r is PROD and dtype == torch.float32:
            continue  # its entries lie near 1, where float32 is coarse
        expr, args, F, W, r = case(r, 3, 20_000, dtype)
        want = DENSE[r.name](F, W.expand(3, 20_000, -1), -2)
        check(r, value(expr, r, args, options=CPU), want, F, dtype)


def test_one_pass_for_several(launches) -> None:
    f, x, y = Vi(0, 2) * Vj(1, 2), torch.randn(33, 2).double(), torch.randn(71, 2).double()
    F = x[:, None] * y
    w = weighted_entry(f, f * f)
    several = ((f, SUM), (f, PROD), (f, MEAN), (w, with_scores(LOGSUMEXPWEIGHT, 2)), (f, COUNT))
    found = map_reduce_many(tuple(Output(e, r) for e, r in several), (x, y), options=CPU)
    assert (launches.compiled, launches.reference) == (1, 0)
    wants = (F.sum(1), F.prod(1), F.mean(1), (F + (F * F).log()).logsumexp(1), F.count_nonzero(1))
    for (got,), want in zip(found, wants, strict=True):
        assert_close(got, want, 1e-12 * (1 + want.abs()), "several in one pass")


# ---------------------------------------------------------------- what has no number


def rows(r: Reduction, entries: list, options: Options) -> list:
    """The reduction of one row of entries, numbers or (f, w)."""
    t = torch.tensor(entries, dtype=torch.float64).reshape(len(entries), -1)
    out = value(Vj(0, t.shape[1]), r, (t,), sizes=(1, None), options=options)
    return out.flatten().tolist()


def same(got: list, want: list) -> bool:
    return all(
        g == pytest.approx(w, rel=1e-13) or (math.isnan(g) and math.isnan(w))
        for g, w in zip(got, want, strict=True)
    )


@BACKENDS
@pytest.mark.parametrize(
    ("r", "entries", "want"),
    [
        (PROD, [2.0, 0.0, 3.0], 0.0),
        (PROD, [2.0, INF, -3.0], -INF),
        (PROD, [0.0, INF], NAN),
        (PROD, [2.0, NAN], NAN),
        (PROD, [0.0, NAN], NAN),
        (MEAN, [1.0, INF], INF),
        (MEAN, [INF, -INF], NAN),
        (MEAN, [1.0, NAN], NAN),
        (COUNT, [0.0, NAN, -0.0, INF, -1.0], 3),
        (ANY, [0.0, -0.0], False),
        (ANY, [0.0, NAN], True),
        (ALL, [1.0, NAN, -INF], True),
        (ALL, [1.0, -0.0], False),
    ],
    ids=str,
)
def test_special_values(r: Reduction, entries: list, want: float, options) -> None:
    assert same(rows(r, entries, options), [want])


@BACKENDS
@pytest.mark.parametrize(
    ("entries", "lse", "mean"),
    [
        ([(-INF, 2.0), (1.0, 3.0), (-INF, 1.0)], 1 + math.log(3), 3.0),
        ([(1.0, 3.0), (-INF, 2.0)], 1 + math.log(3), 3.0),
        ([(-INF, 2.0), (-INF, 3.0)], -INF, NAN),
        ([(INF, 2.0), (1.0, 3.0)], INF, NAN),
        ([(1.0, 2.0), (INF, 3.0), (-INF, 1.0)], INF, NAN),
        ([(INF, -1.0), (0.0, 1.0)], NAN, NAN),
        ([(0.0, 2.0), (0.0, -1.0)], 0.0, 0.5),
        ([(0.0, 1.0), (0.0, -2.0)], NAN, -0.5),
        ([(0.0, 0.0), (3.0, 0.0)], -INF, 0.0),
        ([(NAN, 1.0), (0.0, 1.0)], NAN, NAN),
        ([(0.0, 1.0), (NAN, 1.0)], NAN, NAN),
        ([(0.0, 1.0), (1.0, NAN)], NAN, NAN),
        ([(1e300, 2.0), (1.0, 3.0)], 1e300, 2.0),
        ([(-1e300, 2.0), (-1e300, 4.0)], -1e300, 3.0),
        ([(1000.0, 1.0), (1000.0, 3.0)], 1000 + math.log(4), 2.0),
        ([(-2000.0, 1.0), (-2000.0, 3.0)], -2000 + math.log(4), 2.0),
    ],
    ids=str,
)
def test_weighted_exponentials_of_special_values(entries: list, lse: float, mean: float, options) -> None:
    assert same(rows(LOGSUMEXPWEIGHT, entries, options), [lse])
    assert same(rows(SUMSOFTMAXWEIGHT, entries, options), [mean])
    assert same(rows(SOFTMIN, [(-f, w) for f, w in entries], options), [mean])


@BACKENDS
def test_blocks_of_minus_infinity_do_not_poison_the_rest(options) -> None:
    for place in (0, 500, 999):
        entries = [(-INF, 1.0)] * 1000
        entries[place] = (2.5, 3.0)
        assert same(rows(LOGSUMEXPWEIGHT, entries, options), [2.5 + math.log(3)])
        assert same(rows(SUMSOFTMAXWEIGHT, entries, options), [3.0])


@BACKENDS
def test_empty_rows(options) -> None:
    x, y, w = torch.randn(3, 2), torch.empty(0, 2), torch.empty(0, 2)
    f = Vi(0, 2) + Vj(1, 2)
    wanted = {PROD: 1.0, MEAN: NAN, COUNT: 0, ANY: False, ALL: True}
    for r, want in wanted.items():
        got = value(f, r, (x, y), options=options)
        assert got.shape == (3, 2) and same(got.flatten().tolist(), [want] * 6)
    entry = weighted_entry(f, Vj(2, 2))
    for r, want in ((LOGSUMEXPWEIGHT, -INF), (SUMSOFTMAXWEIGHT, NAN)):
        got = value(entry, with_scores(r, 2), (x, y, w), options=options)
        assert got.shape == (3, 2) and same(got.flatten().tolist(), [want] * 6)
    assert value(f, PROD, (x[:0], torch.randn(4, 2)), options=options).shape == (0, 2)


# ---------------------------------------------------------------- gradients

SMOOTH = [r for r in DISTINCT if r.seed is not None]


@BACKENDS
@pytest.mark.parametrize("axis", ["j", "i", "ij"])
@pytest.mark.parametrize("r", SMOOTH, ids=repr)
def test_gradients(r: Reduction, axis: str, options) -> None:
    expr, args, _, _, r = case(r, 3, 4, torch.float64)
    assert_gradients(expr, args, r, axis=axis, options=options, second=options is REFERENCE)


@pytest.mark.parametrize("r", [r for r in SMOOTH if r.scores], ids=repr)
@pytest.mark.parametrize(("scores", "weights"), [(2, 2), (2, 1), (1, 1)])
def test_gradients_of_vectors(r: Reduction, scores: int, weights: int) -> None:
    expr, args, _, _, r = case(r, 2, 3, torch.float64, weights, scores)
    assert_gradients(expr, args, r)


@BACKENDS
def test_gradient_of_a_product_with_zeros(options) -> None:
    """At a zero it is the product of the others: nonzero where there is no second zero."""
    f = torch.randn(4, 9, 1, dtype=torch.float64)
    f[1, 4], f[2, 3], f[2, 7] = 0.0, 0.0, 0.0
    x = f.clone().requires_grad_()
    out = value(Vj(0, 1), PROD, (x,), sizes=(1, None), options=options)
    (got,) = torch.autograd.grad(out.sum(), x)
    want = torch.stack([torch.cat([f[:, :k], f[:, k + 1 :]], 1).prod(1) for k in range(9)], 1)
    assert want[1, 4] != 0 and not want[2].any()
    assert_close(got, want, 1e-14 * (1 + want.abs()), "gradient of a product")


@pytest.mark.parametrize("axis", ["j", "i"])
def test_second_derivatives_of_a_product_with_zeros(axis: str) -> None:
    """Rows with no, one, two and three zeros, against finite differences."""
    x, y = torch.randn(4, 1, dtype=torch.float64), torch.rand(3, 1, dtype=torch.float64) + 0.5
    z = torch.rand(4, 1, dtype=torch.float64) + 0.5
    x[1], x[2], x[3] = -y[0] / z[1], 0.0, 0.0
    f = ops.concat(Vi(0, 1) * Vj(1, 1) * Vi(2, 1), (Vi(0, 1) * Vi(2, 1) + Vj(1, 1)) * Vi(0, 1))
    assert_gradients(f, (x, y, z), PROD, axis=axis)
    flat = torch.tensor([[1.5], [0.0], [-2.0], [0.0], [0.7]], dtype=torch.float64).requires_grad_()

    def product(v: Tensor) -> Tensor:
        return value(Vj(0, 1), PROD, (v,), sizes=(1, None), options=REFERENCE)

    (first,) = torch.autograd.grad(product(flat).sum(), flat, create_graph=True)
    assert not first.any()  # two zeros
    (second,) = torch.autograd.grad(first[1].sum(), flat)
    assert second.flatten().tolist() == [0.0, 0.0, 0.0, pytest.approx(1.5 * -2.0 * 0.7), 0.0]


@BACKENDS
def test_gradients_with_entries_of_minus_infinity(options) -> None:
    """First, some, all: what torch gives for the others, 0 for these, and nothing is NaN."""
    f, w = torch.randn(4, 9, 1, dtype=torch.float64), torch.rand(4, 9, 1, dtype=torch.float64)
    f[0, 0], f[1, 3:], f[2, :] = -INF, -INF, -INF
    for r, dense in ((LOGSUMEXPWEIGHT, DENSE["logsumexpweight"]), (SUMSOFTMAXWEIGHT, DENSE["softmax"])):
        a, b = f.clone().requires_grad_(), w.clone().requires_grad_()
        out = value(weighted_entry(Vj(0, 1), Vj(1, 1)), r, (a, b), sizes=(1, None), options=options)
        got = torch.autograd.grad(out[[0, 1, 3]].sum() + 0.0 * out[2].nan_to_num(0, 0, 0).sum(), (a, b))
        c, d = f[[0, 1, 3]].requires_grad_(), w[[0, 1, 3]].requires_grad_()
        want = torch.autograd.grad(dense(c, d, 1).sum(), (c, d))
        for g, h in zip(got, want, strict=True):
            assert_close(g[[0, 1, 3]], h.nan_to_num(0.0), 1e-13, f"gradient of {r}")
            assert not g[2].any(), f"{r}: a row without weight has the gradient {g[2]}"


def test_equal_maxima_share_the_derivative() -> None:
    f = torch.tensor([[3.0], [1.0], [3.0], [-1.0]], dtype=torch.float64).requires_grad_()
    out = value(Vj(0, 1), MAX_SUMSHIFTEXP, (f,), sizes=(1, None), options=CPU)
    c = torch.tensor([[2.0, 5.0]], dtype=torch.float64)
    (got,) = torch.autograd.grad((out * c).sum(), f)
    (want,) = torch.autograd.grad((pair(f, torch.ones_like(f), 0) * c).sum(), f)
    assert_close(got, want, 1e-14, "derivative of a maximum")


@pytest.mark.parametrize("r", [COUNT, ANY, ALL], ids=repr)
def test_whole_numbers_carry_no_gradient(r: Reduction) -> None:
    expr, args, _, _, r = case(r, 3, 4, torch.float64)
    assert not value(expr, r, [a.requires_grad_() for a in args]).requires_grad


# ---------------------------------------------------------------- very long vectors


@BACKENDS
@pytest.mark.parametrize("weights", [17, 40, 100])
@pytest.mark.parametrize("r", [LOGSUMEXPWEIGHT, SUMSOFTMAXWEIGHT, SOFTMIN], ids=repr)
def test_many_weights_take_two_passes(r: Reduction, weights: int, options, launches) -> None:
    expr, args, F, W, r = case(r, 33, 71, torch.float64, weights)
    for axis, n in (("j", -2), ("i", -3)):
        want = DENSE[r.name](F, W.expand(33, 71, -1), n)
        check(r, value(expr, r, args, axis=axis, options=options), want, F, torch.float64)
    assert (launches.compiled, launches.reference) == ((4, 0) if options is CPU else (0, 4))


@BACKENDS
def test_many_weights_of_special_values(options) -> None:
    """The two passes have the rules of the one."""
    w = torch.rand(3, 20, dtype=torch.float64) + 0.1
    for f in ([-INF, -INF, -INF], [-INF, 1.0, -INF], [INF, 1.0, 2.0], [NAN, 1.0, 2.0], [1e300, 1.0, 2.0]):
        x = torch.tensor(f, dtype=torch.float64).unsqueeze(-1)
        for r in (LOGSUMEXPWEIGHT, SUMSOFTMAXWEIGHT):
            args = {"args": (x, w), "sizes": (1, None), "options": options}
            many = value(weighted_entry(Vj(0, 1), Vj(1, 20)), r, **args)
            few = value(weighted_entry(Vj(0, 1), Vj(1, 20)[:3]), r, **args)
            assert_close(many[:, :3], few, 1e-13 * (1 + few.abs()), f"{r} of {f}")


def test_gradient_of_many_weights() -> None:
    expr, args, _, _, r = case(SUMSOFTMAXWEIGHT, 2, 3, torch.float64, 18)
    assert_gradients(expr, args, r)
    expr, args, _, _, r = case(LOGSUMEXPWEIGHT, 2, 3, torch.float64, 18)
    assert_gradients(expr, args, r)


@BACKENDS
@pytest.mark.parametrize("r", [PROD, MEAN, COUNT], ids=repr)
def test_long_vectors_are_cut(r: Reduction, options, launches) -> None:
    x, y = torch.randn(5, 100, dtype=torch.float64), torch.randn(33, 100, dtype=torch.float64)
    got = value(Vi(0, 100) * Vj(1, 100), r, (x, y), options=options)
    F = x[:, None] * y
    check(r, got, DENSE[r.name](F, F, -2), F, torch.float64)
    assert launches.reference == (0 if options is CPU else 1)


# ---------------------------------------------------------------- errors


def test_weights_of_the_wrong_dim() -> None:
    with pytest.raises(FormulaError, match="weights of dim 3 for exponents of dim 2: expected 1 or 2"):
        weighted_entry(Vi(0, 2), Vj(1, 3))
    with pytest.raises(FormulaError, match="sumsoftmaxweight of entries of dim 1: expected 1 exponents"):
        map_reduce(Vj(0, 1), SUMSOFTMAXWEIGHT, (torch.randn(3, 1),), sizes=(1, None))


@pytest.mark.cpu_only
def test_softmax_has_the_accuracy_of_its_terms() -> None:
    """float32 with a long row: the sums between blocks are in float64."""
    x = torch.full((1, 1), 0.25)
    y = torch.rand(200_000, 1)
    got = value(weighted_entry(Vi(0, 1) * Vj(1, 1), Vj(1, 1)), SUMSOFTMAXWEIGHT, (x, y), options=CPU)
    X, Y = x.double(), y.double()
    want = (X * Y.T).softmax(1) @ Y
    assert_close(got, want, 4e-7, "softmax of 200000 columns")
    lse = value(Vi(0, 1) * Vj(1, 1), LOGSUMEXP, (x, y), options=CPU)
    assert_close(lse, (X * Y.T).logsumexp(1, keepdim=True), 2e-6, "logsumexp of 200000 columns")

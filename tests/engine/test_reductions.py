"""Reductions as folds: the merge law, empty rows, NaN, infinities and ties."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import CPU, REFERENCE, assert_close, assert_gradients, assert_merge_law

from kerngp.engine.expr import Vi, Vj
from kerngp.engine.mapreduce import map_reduce
from kerngp.engine.reductions import (
    ARGKMAX,
    ARGKMIN,
    ARGMAX,
    ARGMIN,
    KMAX,
    KMAX_ARGKMAX,
    KMIN,
    KMIN_ARGKMIN,
    LOGSUMEXP,
    MAX,
    MAX_ARGMAX,
    MIN,
    MIN_ARGMIN,
    REDUCTIONS,
    SUM,
    Reduction,
    with_k,
)
from kerngp.errors import FormulaError, ShapeError

INF, NAN = math.inf, math.nan
BACKENDS = pytest.mark.parametrize("options", [REFERENCE, CPU], ids=["reference", "cpu"])


ALL = [with_k(r, 3) if r.code == "kmin" else r for r in REDUCTIONS.values()]


def rows_of(f: torch.Tensor, r: Reduction, options) -> tuple[torch.Tensor, ...]:
    """The reduction of each row of a matrix (m, n), handed to the engine entry by entry."""
    m, n = f.shape
    # f_ij = <f_i, e_j> would turn inf * 0 into NaN: each row is its own batch element
    out = map_reduce(Vj(0, 1), r, (f.reshape(m, n, 1),), sizes=(1, None), options=options)
    return tuple(
        o.squeeze(-3) if r.code == "kmin" else o.squeeze(-2)
        for o in (out if isinstance(out, tuple) else (out,))
    )


def row(values: list[float], r: Reduction, options) -> list:
    """The reduction of one row of numbers, as Python numbers."""
    got = rows_of(torch.tensor([values], dtype=torch.float64), r, options)
    found = [g.flatten().tolist() for g in got]
    return found if r.code == "kmin" else [f[0] for f in found]


# ---------------------------------------------------------------- the merge law


@pytest.mark.parametrize("r", ALL, ids=repr)
@pytest.mark.parametrize("kind", ["random", "ties", "infinite", "nan"])
def test_two_halves_make_the_whole(r: Reduction, kind: str) -> None:
    f = torch.randn(5, 33, 2, dtype=torch.float64)
    if kind == "ties":
        f = torch.randint(-2, 3, f.shape).double()
    if kind == "infinite":
        f[0, 3:9], f[1, 20:], f[2] = -INF, INF, -INF
        if r is not SUM:
            f[3, 5], f[3, 25] = INF, -INF
    if kind == "nan":
        f[0, 4], f[1, 30], f[2] = NAN, NAN, NAN
    for cut in (0, 1, 7, 16, 31, 32, 33):
        for swap in (False, True):
            assert_merge_law(r, f, cut, swap)


@pytest.mark.parametrize("r", ALL, ids=repr)
def test_merge_is_associative(r: Reduction) -> None:
    f = torch.randint(-3, 4, (4, 30, 2)).double()
    r = r.bind(2)
    a, b, c = (r.tile(r, f[:, lo : lo + 10], lo) for lo in (0, 10, 20))
    left = r.final(r, r.merge(r, r.merge(r, a, b), c))
    right = r.final(r, r.merge(r, a, r.merge(r, b, c)))
    for x, y in zip(left, right, strict=True):
        assert_close(x, y, 1e-12, f"{r}")


def test_halves_need_not_be_long_enough_for_k() -> None:
    f = torch.randn(2, 7, 1, dtype=torch.float64)
    for cut in range(8):
        assert_merge_law(KMIN_ARGKMIN(6), f, cut)


# ---------------------------------------------------------------- values against torch


@BACKENDS
def test_values_against_torch(options) -> None:
    f = torch.randn(6, 41, dtype=torch.float64)
    expected = {
        SUM: (f.sum(1),),
        LOGSUMEXP: (f.logsumexp(1),),
        MIN: (f.min(1).values,),
        MAX: (f.max(1).values,),
        ARGMIN: (f.argmin(1),),
        ARGMAX: (f.argmax(1),),
        MIN_ARGMIN: tuple(f.min(1)),
        MAX_ARGMAX: tuple(f.max(1)),
    }
    for r, want in expected.items():
        for got, w in zip(rows_of(f, r, options), want, strict=True):
            assert_close(got.squeeze(-1), w, 1e-12, f"{r}")
            assert got.dtype == w.dtype
    values, index = f.topk(5, largest=False)
    for r, want in ((KMIN(5), (values,)), (ARGKMIN(5), (index,)), (KMIN_ARGKMIN(5), (values, index))):
        for got, w in zip(rows_of(f, r, options), want, strict=True):
            assert got.shape == (6, 5, 1)
            assert_close(got.squeeze(-1), w, 1e-12, f"{r}")
    values, index = f.topk(5)
    for r, want in ((KMAX(5), (values,)), (ARGKMAX(5), (index,)), (KMAX_ARGKMAX(5), (values, index))):
        for got, w in zip(rows_of(f, r, options), want, strict=True):
            assert got.shape == (6, 5, 1)
            assert_close(got.squeeze(-1), w, 1e-12, f"{r}")


LSE_ROWS = [
    [0.0],
    [-INF],
    [INF],
    [NAN],
    [-INF, -INF, -INF],
    [-INF, 1.0, -INF],
    [INF, 1.0, 2.0],
    [1.0, INF],
    [INF, INF],
    [INF, -INF],
    [-INF, INF, 3.0],
    [NAN, 1.0],
    [1.0, NAN],
    [NAN, INF],
    [INF, NAN],
    [NAN, -INF],
    [1000.0, 1000.0],
    [-1000.0, -1000.5],
    [700.0, -700.0],
    [1e300, 1.0],
    [-1e300, -1e300],
]


@BACKENDS
@pytest.mark.parametrize("values", LSE_ROWS, ids=str)
def test_logsumexp_of_special_values(values: list[float], options) -> None:
    (got,) = row(values, LOGSUMEXP, options)
    want = INF if INF in values else float(torch.tensor(values, dtype=torch.float64).logsumexp(0))
    assert (math.isnan(got) and math.isnan(want)) or got == pytest.approx(want, rel=1e-14)


def test_logsumexp_in_float32_does_not_overflow() -> None:
    f = torch.tensor([[3e38, 3e38, -3e38], [100.0, 89.0, 120.0], [-200.0, -201.0, -90.0]])
    for options in (REFERENCE, CPU):
        (got,) = rows_of(f, LOGSUMEXP, options)
        want = f.double().logsumexp(1, keepdim=True)
        assert_close(got, want, 1e-6 * want.abs(), "logsumexp")


@BACKENDS
def test_logsumexp_over_many_columns_with_infinite_parts(options) -> None:
    """Blocks that hold nothing but -inf must not poison the rest."""
    f = torch.full((3, 1000), -INF, dtype=torch.float64)
    f[0, 999], f[1, 0] = 2.5, -3.0
    (got,) = rows_of(f, LOGSUMEXP, options)
    assert got.flatten().tolist() == [2.5, -3.0, -INF]


# ---------------------------------------------------------------- NaN, infinities, ties


@BACKENDS
def test_sums_propagate_nan_and_infinities(options) -> None:
    assert row([1.0, INF, 2.0], SUM, options) == [INF]
    assert row([1.0, -INF], SUM, options) == [-INF]
    assert math.isnan(row([INF, -INF], SUM, options)[0])
    assert math.isnan(row([1.0, NAN], SUM, options)[0])


@BACKENDS
def test_selections_skip_nan(options) -> None:
    assert row([NAN, 3.0, NAN, 1.0, NAN], MIN_ARGMIN, options) == [1.0, 3]
    assert row([NAN, 3.0, NAN, 1.0, NAN], MAX_ARGMAX, options) == [3.0, 1]
    assert row([NAN, 3.0, 1.0, NAN, 2.0], KMIN_ARGKMIN(3), options) == [[1.0, 2.0, 3.0], [2, 4, 1]]
    assert row([NAN, 3.0, 1.0, NAN, 2.0], KMAX_ARGKMAX(3), options) == [[3.0, 2.0, 1.0], [1, 4, 2]]


@BACKENDS
def test_rows_without_a_number_have_index_minus_one(options) -> None:
    assert row([NAN, NAN], MIN_ARGMIN, options) == [INF, -1]
    assert row([NAN, NAN], MAX_ARGMAX, options) == [-INF, -1]
    assert row([INF, NAN], MIN_ARGMIN, options) == [INF, -1]
    assert row([-INF, NAN], MAX_ARGMAX, options) == [-INF, -1]
    assert row([NAN, 5.0, INF], KMIN_ARGKMIN(3), options) == [[5.0, INF, INF], [1, -1, -1]]
    assert row([NAN, 5.0, -INF], KMAX_ARGKMAX(3), options) == [[5.0, -INF, -INF], [1, -1, -1]]


@BACKENDS
def test_infinities_of_the_other_sign_are_selected(options) -> None:
    assert row([2.0, -INF, 1.0], MIN_ARGMIN, options) == [-INF, 1]
    assert row([2.0, INF, 1.0], MAX_ARGMAX, options) == [INF, 1]


@BACKENDS
@pytest.mark.parametrize("n", [5, 64, 257])
def test_ties_go_to_the_first_column(n: int, options) -> None:
    values = [1.0] * n
    assert row(values, MIN_ARGMIN, options) == [1.0, 0]
    assert row(values, MAX_ARGMAX, options) == [1.0, 0]
    assert row(values, KMIN_ARGKMIN(4), options) == [[1.0] * 4, [0, 1, 2, 3]]
    assert row(values, KMAX_ARGKMAX(4), options) == [[1.0] * 4, [0, 1, 2, 3]]
    values[n // 2] = values[n - 1] = 0.5
    assert row(values, ARGMIN, options) == [n // 2]
    assert row(values, ARGKMIN(3), options) == [[n // 2, n - 1, 0]]


@BACKENDS
def test_zeros_of_both_signs_are_ties(options) -> None:
    assert row([1.0, 0.0, -0.0], ARGMIN, options) == [1]
    assert row([-1.0, -0.0, 0.0], ARGMAX, options) == [1]


@BACKENDS
def test_k_equal_to_n_sorts(options) -> None:
    f = torch.randn(3, 17, dtype=torch.float64)
    values, index = rows_of(f, KMIN_ARGKMIN(17), options)
    want = f.sort(1)
    assert torch.equal(values.squeeze(-1), want.values) and torch.equal(index.squeeze(-1), want.indices)


# ---------------------------------------------------------------- empty rows and errors


@BACKENDS
@pytest.mark.parametrize(("r", "value"), [(SUM, 0.0), (LOGSUMEXP, -INF), (MIN, INF), (MAX, -INF)], ids=str)
def test_empty_rows_give_the_neutral_element(r: Reduction, value: float, options) -> None:
    x, y = torch.randn(3, 2), torch.empty(0, 2)
    got = map_reduce(Vi(0, 2) + Vj(1, 2), r, (x, y), options=options)
    assert isinstance(got, torch.Tensor)
    assert got.shape == (3, 2) and got.dtype == torch.float32
    assert torch.equal(got, torch.full((3, 2), value))


@BACKENDS
@pytest.mark.parametrize("r", [ARGMIN, ARGMAX, MIN_ARGMIN, MAX_ARGMAX], ids=repr)
def test_an_empty_row_has_no_index(r: Reduction, options) -> None:
    with pytest.raises(ShapeError, match=f"{r} over no entries has no index"):
        map_reduce(Vi(0, 1) + Vj(1, 1), r, (torch.randn(3, 1), torch.empty(0, 1)), options=options)


@BACKENDS
@pytest.mark.parametrize("make", [KMIN, ARGKMIN, KMIN_ARGKMIN, KMAX, ARGKMAX, KMAX_ARGKMAX])
def test_k_larger_than_the_row(make, options) -> None:
    with pytest.raises(ShapeError, match=r"k=6 exceeds the 5 entries of a row; choose k <= 5"):
        map_reduce(Vi(0, 1) + Vj(1, 1), make(6), (torch.randn(3, 1), torch.randn(5, 1)), options=options)


@pytest.mark.parametrize("k", [0, -1, 2.0, True, None])
def test_k_must_be_a_positive_integer(k) -> None:
    with pytest.raises(FormulaError, match=f"kmin: k={k!r} is not a positive integer"):
        KMIN(k)


@BACKENDS
def test_logsumexp_over_both_axes(options, launches) -> None:
    x, y = torch.randn(33, 2, dtype=torch.float64), torch.randn(71, 2, dtype=torch.float64)
    x[3], y[5] = -INF, -INF
    f = x[:, None] + y
    got = map_reduce(Vi(0, 2) + Vj(1, 2), LOGSUMEXP, (x, y), axis="ij", options=options)
    assert isinstance(got, torch.Tensor)
    assert_close(got, f.logsumexp((0, 1)), 1e-13, "logsumexp over both axes")


# ---------------------------------------------------------------- gradients


@BACKENDS
@pytest.mark.parametrize("axis", ["j", "i"])
@pytest.mark.parametrize("r", [LOGSUMEXP, MIN, MAX, MIN_ARGMIN, KMIN(2), KMAX(2), KMAX_ARGKMAX(2)], ids=repr)
def test_gradients(r: Reduction, axis: str, options) -> None:
    f = Vi(0, 2) * Vj(1, 2) + Vi(2, 1)
    args = (torch.randn(4, 2), torch.randn(3, 2), torch.randn(4, 1))
    args = tuple(a.double() for a in args)
    assert_gradients(f, args, r, axis=axis, options=options, second=options is REFERENCE)


@BACKENDS
def test_gradient_of_logsumexp_with_entries_of_minus_infinity(options) -> None:
    """First, some, all: the weights are those of a softmax, and 0 in a row of -inf alone."""
    f = torch.randn(4, 9, dtype=torch.float64)
    f[0, 0], f[1, 3:], f[2, :] = -INF, -INF, -INF
    x = f.reshape(4, 9, 1).requires_grad_()
    out = map_reduce(Vj(0, 1), LOGSUMEXP, (x,), sizes=(1, None), options=options)
    assert isinstance(out, torch.Tensor)
    (got,) = torch.autograd.grad(out.sum(), x)
    want = f.softmax(1)
    want[2] = 0.0
    assert_close(got.squeeze(-1), want, 1e-14, "gradient of logsumexp")


def test_selection_over_both_axes_is_refused() -> None:
    args = (torch.randn(3, 1), torch.randn(5, 1))
    with pytest.raises(FormulaError, match="over both axes is not defined; reduce one axis, then the other"):
        map_reduce(Vi(0, 1) + Vj(1, 1), MIN, args, axis="ij")


def test_the_table_has_every_reduction() -> None:
    assert set(REDUCTIONS) == {
        "sum",
        "logsumexp",
        "min",
        "max",
        "argmin",
        "argmax",
        "min_argmin",
        "max_argmax",
        "kmin",
        "argkmin",
        "kmin_argkmin",
        "kmax",
        "argkmax",
        "kmax_argkmax",
        "prod",
        "mean",
        "count",
        "any",
        "all",
        "logsumexpweight",
        "sumsoftmaxweight",
        "softmax",
        "softmin",
        "max_sumshiftexp",
        "max_sumshiftexpweight",
    }
    assert all(r.doc for r in REDUCTIONS.values())
    assert repr(KMIN(4)) == "kmin(k=4)" and KMIN(4) is KMIN(4) and KMIN(4) != KMIN(5)

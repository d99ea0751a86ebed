"""Negative controls: with a bug planted, the comparisons the suite relies on must fail.

Every check first passes on the sound engine; then the bug is planted and the same check must raise
AssertionError. A comparison that cannot fail is worse than none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import test_expr
import test_reductions
import torch
from comparison import (
    CPU,
    REFERENCE,
    arguments,
    assert_close,
    assert_gradients,
    assert_jvp,
    assert_matches_reference,
    assert_merge_law,
    assert_same_values,
    exact,
)
from test_ranges import assert_matches

from kerngp.engine import autograd, expr, folds, ops, planner, reductions, rewrite
from kerngp.engine import ranges as engine_ranges
from kerngp.engine.backends import cpu
from kerngp.engine.expr import OPS, Expr, Vi, Vj, node
from kerngp.engine.folds import MEAN, PROD, SUMSOFTMAXWEIGHT
from kerngp.engine.mapreduce import map_reduce_many
from kerngp.engine.plan import Output
from kerngp.engine.ranges import Ranges
from kerngp.engine.reduction import Reduction
from kerngp.engine.reductions import KMIN_ARGKMIN, LOGSUMEXP, MIN_ARGMIN, SUM
from kerngp.engine.render import tile


def forget() -> None:
    """Drop whatever the engine remembers, so that a planted bug reaches the next call."""
    for module in (cpu, planner, rewrite, autograd):
        for value in vars(module).values():
            if hasattr(value, "cache_clear") and value is not cpu.machine:
                value.cache_clear()


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[None]:
    monkeypatch.setenv("KERNGP_CACHE_DIR", str(tmp_path))
    forget()
    yield
    monkeypatch.undo()
    forget()


Plant = Callable[[], None]


def caught(check: Callable[[], None], plant: Plant) -> None:
    """The check passes, and fails once the bug is there."""
    check()
    forget()
    plant()
    with pytest.raises(AssertionError):
        check()


def change_op(monkeypatch: pytest.MonkeyPatch, name: str, **fields) -> Plant:
    return lambda: monkeypatch.setitem(OPS, name, replace(OPS[name], **fields))


def random_args(
    f: Expr, M: int = 33, N: int = 71, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, ...]:
    return arguments(f, M, N, dtype)


GAUSSIAN = ops.exp(-ops.sqdist(Vi(0, 3), Vj(1, 3))) * Vj(2, 1)

# ---------------------------------------------------------------- ops


def test_wrong_sign_in_a_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    f = ops.sin(Vi(0, 2) * Vj(1, 2))
    args = arguments(f, 2, 3)
    wrong = change_op(monkeypatch, "sin", vjp=lambda e, g: (-(g * ops.cos(e.args[0])),))
    caught(lambda: assert_gradients(f, args, second=False), wrong)


def test_wrong_second_derivative_only(monkeypatch: pytest.MonkeyPatch) -> None:
    f = ops.sin(Vi(0, 2) * Vj(1, 2))
    args = arguments(f, 2, 3)
    wrong = change_op(monkeypatch, "cos", vjp=lambda e, g: (g * ops.sin(e.args[0]),))

    def first() -> None:
        assert_gradients(f, args, second=False)

    caught(lambda: assert_gradients(f, args), wrong)
    first()  # the first derivative is still right: only the second order sees it


def test_a_forgotten_argument_in_a_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    f = Vi(0, 2) / Vj(1, 2)
    args = arguments(f, 2, 3)
    wrong = change_op(monkeypatch, "div", vjp=lambda e, g: (g / e.args[1], None))
    caught(lambda: assert_gradients(f, args, second=False), wrong)


def test_a_forgotten_sum_over_broadcast_components(monkeypatch: pytest.MonkeyPatch) -> None:
    f = Vi(0, 1) * Vj(1, 3)
    args = arguments(f, 2, 3)
    wrong = change_op(monkeypatch, "mul", vjp=lambda e, g: ((g * e.args[1])[0], g * e.args[0]))
    caught(lambda: assert_jvp(f, args), wrong)


def test_slightly_wrong_code(monkeypatch: pytest.MonkeyPatch) -> None:
    args = random_args(GAUSSIAN)
    wrong = change_op(
        monkeypatch, "exp_scaled", code=lambda t, q, c: t.mul(t.call("exp_scaled_nonpos", q, c), 1.00002)
    )
    caught(lambda: assert_matches_reference(GAUSSIAN, SUM, args), wrong)


def test_code_that_ignores_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    f = ops.maximum(Vi(0, 1), Vj(1, 1))
    x, y = random_args(f)
    x[3] = torch.nan
    caught(
        lambda: assert_matches_reference(f, SUM, (x, y)),
        change_op(monkeypatch, "maximum", code=lambda t, a, b: t.select(t.gt(a, b), a, b)),
    )


# ---------------------------------------------------------------- rewrites


def test_wrong_simplification(monkeypatch: pytest.MonkeyPatch) -> None:
    f = (Vi(0, 2) - 0.0) * (Vj(1, 2) - Vi(0, 2))
    args = arguments(f, 3, 4)
    wrong = change_op(monkeypatch, "sub", fold=lambda args, attr: node("add", *args))
    caught(lambda: assert_same_values(f, rewrite.simplify(f), args, (3, 4)), wrong)


def test_wrong_sign_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """x taken for a nonnegative number: exp(-c x) becomes the variant that cannot overflow."""
    plain = replace(cpu.machine(), scaling=False)  # with AVX-512 the variant is right for every sign
    monkeypatch.setattr(cpu, "machine", lambda: plain)
    f = ops.exp(-2000.0 * ops.sin(3.0 * Vi(0, 1) * Vj(1, 1)))
    args = random_args(f, dtype=torch.float64)
    caught(
        lambda: assert_matches_reference(f, SUM, args, tol=1e4),
        change_op(monkeypatch, "sin", sign=lambda s, attr: 1),
    )


def test_constants_interned_without_their_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    caught(
        test_expr.test_constants_keep_sign_and_type,
        lambda: monkeypatch.setattr(expr, "_tag", lambda value: value),
    )


# ---------------------------------------------------------------- reductions


def test_merge_that_forgets_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    f = torch.randn(4, 33, 1, dtype=torch.float64)

    def wrong(r, a, b):
        return torch.maximum(a[0], b[0]), a[1] + b[1]

    assert_merge_law(LOGSUMEXP, f, 17)
    with pytest.raises(AssertionError):
        assert_merge_law(replace(LOGSUMEXP, merge=wrong), f, 17)


def test_weights_that_are_not_rescaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums of exponentials keep the scale of an old maximum."""
    f = ops.concat(-ops.sqdist(Vi(0, 3), Vj(1, 3)), Vj(2, 2))
    args = random_args(f, dtype=torch.float64)

    def check() -> None:
        w, F = args[2], -torch.cdist(args[0], args[1]).square()
        want = F.softmax(1) @ w
        for backend in (CPU, REFERENCE):
            r = replace(SUMSOFTMAXWEIGHT)  # not bound yet
            ((got,),) = map_reduce_many((Output(f, r),), args, options=backend)
            assert_close(got, want, 1e-12, "weighted mean")

    caught(check, lambda: monkeypatch.setattr(folds, "_grown", lambda old, new: ops.exp(old - old)))


def test_a_product_whose_derivative_divides(monkeypatch: pytest.MonkeyPatch) -> None:
    f = torch.randn(3, 9, 1, dtype=torch.float64)
    f[1, 4] = 0.0

    def check() -> None:
        (x,) = (f.clone().requires_grad_(),)
        ((out,),) = map_reduce_many((Output(Vj(0, 1), PROD),), (x,), sizes=(1, None), options=REFERENCE)
        out.sum().backward()
        want = torch.stack([torch.cat([f[:, :k], f[:, k + 1 :]], 1).prod(1) for k in range(9)], 1)
        assert x.grad is not None
        assert_close(x.grad, want, 1e-12 * (1 + want.abs()), "gradient of a product")

    def plant() -> None:
        wrong = replace(PROD, seed=lambda r, e, results, g: g[0] * results[0] / e)
        monkeypatch.setitem(globals(), "PROD", wrong)

    caught(check, plant)


def test_merge_that_prefers_the_later_column(monkeypatch: pytest.MonkeyPatch) -> None:
    f = torch.zeros(2, 33, 1, dtype=torch.float64)

    def wrong(r, a, b):
        return reductions._select_merge(r, b, a)

    assert_merge_law(MIN_ARGMIN, f, 17)
    with pytest.raises(AssertionError):
        assert_merge_law(replace(MIN_ARGMIN, merge=wrong), f, 17)


def test_neutral_element_that_is_not_neutral() -> None:
    f = 1.0 + torch.rand(2, 9, 1, dtype=torch.float64)

    def wrong(r, shape, dtype, device):
        values, index = reductions._select_neutral(r, shape, dtype, device)
        return torch.zeros_like(values), index

    assert_merge_law(KMIN_ARGKMIN(2), f, 4)
    with pytest.raises(AssertionError):
        assert_merge_law(replace(KMIN_ARGKMIN(2), neutral=wrong), f, 4)


def test_selection_that_does_not_skip_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> None:
        test_reductions.test_selections_skip_nan(REFERENCE)

    caught(check, lambda: monkeypatch.setattr(reductions, "_clean", lambda f: f.nan_to_num(-9.0)))


@pytest.mark.parametrize("r", [LOGSUMEXP, MIN_ARGMIN, SUM, MEAN], ids=repr)
def test_parts_of_j_that_are_not_merged(r, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows: the launch splits j; taking the first part for the whole must be noticed."""
    f = -ops.sqdist(Vi(0, 3), Vj(1, 3))
    args = random_args(f, 3, 20_000)
    row_result = cpu._row_result

    def wrong(o, arrays, g, splits):
        assert splits > 1, "the case is meant to be split"
        return row_result(o, [a[-1] for a in arrays], g, 1)

    caught(
        lambda: assert_matches_reference(f, r, args), lambda: monkeypatch.setattr(cpu, "_row_result", wrong)
    )


# ---------------------------------------------------------------- tails


def test_missing_tail_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns beyond a multiple of the unrolling are dropped."""

    def only_whole(self, lo, hi, j0, rows, columns):
        several = self.plan.schedule.columns
        e = self.e
        whole = e.index_sub(hi, e.builder.srem(e.imax(e.index_sub(hi, lo), 0), e.k(several)))
        with e.loop(lo, whole, several) as j:
            self._body(j, several, j0, rows, columns)

    f = -ops.sqdist(Vi(0, 3), Vj(1, 3))  # logsumexp takes many columns at a time
    args = random_args(f, 33, 71)
    caught(
        lambda: assert_matches_reference(f, LOGSUMEXP, args),
        lambda: monkeypatch.setattr(tile.Kernel, "_columns", only_whole),
    )


def test_missing_mask_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows beyond M repeat the last one; without the mask they count in the sums over i."""
    f = GAUSSIAN
    args = random_args(f)
    outputs = (Output(f, SUM, "j"), Output(f, SUM, "i"))
    (want,) = exact(f, SUM, args, axis="i")

    def check() -> None:
        (_, (got,)) = map_reduce_many(outputs, args, options=CPU)
        assert_close(got, want, 1e-4 * want.abs().max(), "sum over i")

    def everywhere(self, i0, r):
        e = self.e
        return e.ge(e.const(1.0), e.const(0.0))

    caught(check, lambda: monkeypatch.setattr(tile.Kernel, "_exists", everywhere))


def test_last_row_tile_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One work item too few."""
    from kerngp.engine.backends import layout

    args = random_args(GAUSSIAN, 257, 33)
    complete = layout.layout

    def short(*a):
        lay = complete(*a)
        return replace(lay, items=lay.items - 1)

    def plant() -> None:
        monkeypatch.setattr(cpu, "layout", short)
        # memory of the missing rows must not happen to hold the right numbers
        monkeypatch.setattr(torch, "empty", lambda *a, _new=torch.empty, **k: _new(*a, **k).fill_(0))

    caught(lambda: assert_matches_reference(GAUSSIAN, SUM, args), plant)


# ---------------------------------------------------------------- numbers


def test_expansion_without_its_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two far clusters in float32: expanded distances lose their digits."""
    f = ops.exp(-ops.sqdist(Vi(0, 64), Vj(1, 64))) * Vj(2, 1)
    x, y = torch.randn(50, 64) / 8, torch.randn(70, 64) / 8
    x[25:] += 3000.0
    y[35:] += 3000.0
    args = (x, y, torch.randn(70, 1))
    caught(
        lambda: assert_matches_reference(f, SUM, args, tol=128),
        lambda: monkeypatch.setattr(cpu, "GUARD", 1e30),
    )


def test_gradient_summed_over_the_wrong_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    f = Vi(0, 1) * ops.sin(Vj(1, 1))
    args = arguments(f, 3, 3)
    caught(
        lambda: assert_gradients(f, args, second=False),
        lambda: monkeypatch.setattr(autograd, "OTHER", {"i": "i", "j": "j", "p": "ij"}),
    )


# ---------------------------------------------------------------- the helper itself


# ---------------------------------------------------------------- blocks of pairs


def blocks() -> tuple[Ranges, torch.Tensor]:
    """Rows 0, ..., 29 of 90 meet every third column of 90, but for the last ones."""
    columns = torch.arange(0, 81, 3)
    j = torch.stack([columns, columns + 1], 1)
    mask = torch.zeros(90, 90, dtype=torch.bool)
    mask[:30, columns] = True
    return Ranges.from_matrix([[0, 30]], j, torch.ones(1, len(j))), mask


def check_blocks(f: Expr, r: Reduction, axis: str = "j") -> Callable[[], None]:
    ranges, mask = blocks()
    args = random_args(f, 90, 90, torch.float64)
    return lambda: assert_matches(f, r, args, ranges, mask, axis)


@pytest.mark.parametrize("axis", ["j", "i"])
def test_rows_without_pairs_that_are_not_neutral(axis, monkeypatch: pytest.MonkeyPatch) -> None:
    forget = lambda o, results, g, state=False: results  # noqa: E731
    plant = lambda: monkeypatch.setattr(cpu, "without_pairs", forget)  # noqa: E731
    caught(check_blocks(-ops.sqdist(Vi(0, 3), Vj(1, 3)), LOGSUMEXP, axis), plant)


def test_blocks_that_are_not_transposed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum over i that still sees the blocks from i."""
    plant = lambda: monkeypatch.setattr(Ranges, "swap_axes", lambda self: self)  # noqa: E731
    caught(check_blocks(GAUSSIAN, SUM, "i"), plant)


def test_blocks_cut_without_their_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a block beyond a whole number of tiles are left out, but for one."""
    tables = engine_ranges._tables

    def whole(half, rows, splits, device):
        table, sources = tables(half, rows, splits, device)
        part = table[..., 1] - table[..., 0] < rows
        table[..., 1] = torch.where(part, table[..., 0] + 1, table[..., 1])
        return table, sources

    caught(check_blocks(GAUSSIAN, SUM), lambda: monkeypatch.setattr(engine_ranges, "_tables", whole))


def test_close_notices_shape_nan_and_infinity() -> None:
    one = torch.ones(2)
    assert_close(one, one, 0.0)
    for bad in (
        torch.ones(3),
        torch.tensor([1.0, torch.nan]),
        torch.tensor([1.0, torch.inf]),
        torch.tensor([1.0, 1.1]),
    ):
        with pytest.raises(AssertionError):
            assert_close(bad, one, 0.01)
    for special in (torch.nan, torch.inf, -torch.inf):
        with pytest.raises(AssertionError):
            assert_close(one, torch.tensor([1.0, special]), 1e9)

"""Block-sparse reductions: every backend against the dense matrix with the other pairs taken out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from comparison import EPS, arguments, assert_close

from kerngp.engine.backends import reference
from kerngp.engine.backends.cpu import machine
from kerngp.engine.backends.cuda_host import run_in_pieces
from kerngp.engine.expr import Expr, Pm, Vi, Vj
from kerngp.engine.mapreduce import dense, map_reduce, map_reduce_many
from kerngp.engine.ops import exp, sqdist
from kerngp.engine.plan import Output, measure, shapes_of
from kerngp.engine.planner import prepare
from kerngp.engine.ranges import NAMES, Ranges, from_matrix, swap_axes
from kerngp.engine.reductions import (
    ARGKMIN,
    ARGMAX,
    ARGMIN,
    KMIN,
    KMIN_ARGKMIN,
    LOGSUMEXP,
    MAX,
    MAX_ARGMAX,
    MIN,
    MIN_ARGMIN,
    SUM,
    Reduction,
)
from kerngp.errors import DTypeError, ShapeError
from kerngp.options import Options

Tensor = torch.Tensor
REFERENCE = Options(backend="reference")
REDUCTIONS = [SUM, LOGSUMEXP, MIN, MAX, ARGMIN, ARGMAX, MIN_ARGMIN, MAX_ARGMAX]
REDUCTIONS += [KMIN(3), ARGKMIN(3), KMIN_ARGKMIN(3)]
SIZES = {"j": [(1, 1), (7, 31), (130, 257)], "i": [(33, 7), (130, 257)]}


def gauss(D: int) -> Expr:
    return exp(-sqdist(Vi(0, D), Vj(1, D)))


def partition(n: int, clusters: int) -> Tensor:
    """Ranges that cover 0, ..., n - 1; some may be empty."""
    cuts = torch.sort(torch.randint(0, n + 1, (clusters - 1,))).values
    ends = torch.cat([torch.tensor([0]), cuts, torch.tensor([n])])
    return torch.stack([ends[:-1], ends[1:]], 1)


def structure(M: int, N: int, clusters: int = 5, density: float = 0.5) -> tuple[Ranges, Tensor]:
    """Random blocks and the mask of their pairs. The last cluster of i and of j may be missing."""
    i, j = partition(M, clusters)[:-1], partition(N, clusters + 1)
    i, j = i[torch.randperm(len(i))], j[torch.randperm(len(j))]  # any order is allowed
    keep = torch.rand(len(i), len(j)) < density
    mask = torch.zeros(M, N, dtype=torch.bool)
    for k, l in torch.nonzero(keep).tolist():  # noqa: E741
        mask[i[k, 0] : i[k, 1], j[l, 0] : j[l, 1]] = True
    return Ranges.from_matrix(i, j, keep), mask


def masked(f: Expr, r: Reduction, args: tuple[Tensor, ...], mask: Tensor, axis: str) -> tuple[Tensor, ...]:
    """The definition, in float64: the reduction of the dense matrix without the other pairs."""
    F = dense(f, tuple(a.double() for a in args), sizes=tuple(mask.shape))
    m, over = mask[..., None], -2 if axis == "j" else -3
    if r is SUM:
        return (torch.where(m, F, 0).sum(over),)
    if r is LOGSUMEXP:
        return (torch.where(m, F, -torch.inf).logsumexp(over),)
    sign = -1 if r.negated else 1
    values, index = torch.sort(torch.where(m, sign * F, torch.inf), dim=over, stable=True)
    pad = max(0, r.k - values.shape[over])
    values, index = (x.movedim(over, -2)[..., : r.k, :] for x in (values, index))
    index = torch.where(values == torch.inf, -1, index)
    assert pad == 0
    if r.code == "min":
        values, index = values.squeeze(-2), index.squeeze(-2)
    return tuple({"value": sign * values, "index": index}[kind] for kind in r.outputs)


def assert_matches(
    f: Expr, r: Reduction, args: tuple[Tensor, ...], ranges: Ranges, mask: Tensor, axis: str, **settings
) -> None:
    got = map_reduce(f, r, args, axis=axis, sizes=tuple(mask.shape), ranges=ranges, **settings)
    got = got if isinstance(got, tuple) else (got,)
    want = masked(f, r, args, mask, axis)
    size = dense(f, tuple(a.double() for a in args), sizes=tuple(mask.shape)).abs().max()
    bound = 64 * EPS[args[0].dtype] * (1 + size) * (mask.shape[1] if r is SUM else 1)
    for x, y, kind in zip(got, want, r.outputs, strict=True):
        assert_close(x, y, 0 if kind == "index" else bound, f"{kind} of {r} over {axis}")


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("r", REDUCTIONS, ids=str)
@pytest.mark.parametrize("axis", ["j", "i"])
def test_reductions(r, axis, dtype, launches):
    f = gauss(3) * Vj(2, 2) + Vi(3, 2)
    for M, N in [s for s in SIZES[axis] if min(s) >= r.k]:
        ranges, mask = structure(M, N)
        args = arguments(f, M, N, dtype)
        launches.clear()
        assert_matches(f, r, args, ranges, mask, axis)
        assert (launches.reference, launches.compiled) == ((0, 1) if ranges.pairs else (1, 0))
        assert_matches(f, r, tuple(a.double() for a in args), ranges, mask, axis, options=REFERENCE)


@pytest.mark.parametrize("r", [SUM, LOGSUMEXP, MIN_ARGMIN, KMIN_ARGKMIN(2)], ids=str)
@pytest.mark.parametrize("axis", ["j", "i"])
def test_long_vectors(r, axis, dtype, launches):
    """Vectors that are walked by loops."""
    ranges, mask = structure(150, 210, 7)
    args = arguments(gauss(40), 150, 210, dtype, scale=0.3)
    assert_matches(gauss(40), r, args, ranges, mask, axis)
    assert launches.compiled == 1


@pytest.mark.parametrize("D", [2, 30])
@pytest.mark.parametrize("columns", [2, 7, 37])
def test_many_columns(D, columns, dtype, launches):
    ranges, mask = structure(150, 210, 7)
    f = gauss(D) * Vj(2, columns)
    assert_matches(f, SUM, arguments(f, 150, 210, dtype, scale=0.5), ranges, mask, "j")
    assert launches.compiled == 1


@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_empty_and_full(density):
    ranges, mask = structure(90, 70, 6, density)
    f = gauss(2) * Vj(2, 1)
    for r, axis in itertools.product(REDUCTIONS, "ji"):
        assert_matches(f, r, arguments(f, 90, 70), ranges, mask, axis)


def test_full_is_the_dense_reduction():
    whole = torch.tensor([[0, 90]]), torch.tensor([[0, 70]])
    ranges = Ranges.from_matrix(*whole, torch.ones(1, 1, dtype=torch.bool))
    f = gauss(2) * Vj(2, 1)
    args = arguments(f, 90, 70)
    assert_close(map_reduce(f, SUM, args, ranges=ranges), map_reduce(f, SUM, args), 1e-13)


def test_many_small_blocks():
    """Clusters smaller than a tile, with a column each."""
    n = 300
    each = torch.stack([torch.arange(n), torch.arange(n) + 1], 1)
    keep = torch.rand(n, n) < 0.3
    ranges = Ranges.from_matrix(each, each, keep)
    f = gauss(2) * Vj(2, 1)
    args = arguments(f, n, n)
    for r, axis in itertools.product((SUM, LOGSUMEXP, ARGMIN, ARGMAX), "ji"):
        assert_matches(f, r, args, ranges, keep, axis)


@pytest.mark.parametrize("r", [SUM, LOGSUMEXP, MIN_ARGMIN, KMIN_ARGKMIN(3)], ids=str)
@pytest.mark.parametrize("D", [2, 30])
def test_few_rows_share_their_columns(r, D, dtype, launches):
    """Work is split along j; parts end within ranges, and are merged."""
    M, N = 50, 9000
    i, j = torch.tensor([[3, 30], [30, 47]]), partition(N, 6)
    keep = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 1, 0, 0, 1, 1]])
    mask = torch.zeros(M, N, dtype=torch.bool)
    for k, l in torch.nonzero(keep).tolist():  # noqa: E741
        mask[i[k, 0] : i[k, 1], j[l, 0] : j[l, 1]] = True
    f = gauss(D) * Vj(2, 1)
    args = arguments(f, M, N, dtype, scale=0.5)
    assert_matches(f, r, args, Ranges.from_matrix(i, j, keep), mask, "j")
    assert launches.compiled == 1


def test_tables_cut_the_columns_in_equal_parts():
    half = structure(300, 5000, 7)[0].i
    for splits in (1, 3, 8):
        table, ranges = half.tables(16, splits, torch.device("cpu"))
        rows, columns = table[..., 1] - table[..., 0], torch.zeros(len(table), splits, dtype=torch.int64)
        for (g, s), (lo, hi) in zip(np.ndindex(*columns.shape), table[..., 2:].reshape(-1, 2), strict=True):
            columns[g, s] = (ranges[lo:hi, 1] - ranges[lo:hi, 0]).sum()
        assert int((rows * columns).sum()) == half.pairs and int(rows.max()) <= 16
        assert int((columns.amax(1) - columns.amin(1)).max()) <= 1
        assert half.walk(16).groups == len(table)


def test_both_axes_and_batches(dtype):
    ranges, mask = structure(60, 80)
    f = gauss(2) * Vj(2, 1) * Pm(3, 1)
    args = arguments(f, 60, 80, dtype, batch={0: (3, 1), 2: (2,), 3: (3, 2)})
    for r, axis in itertools.product((SUM, LOGSUMEXP, MIN_ARGMIN, KMIN(2)), "ji"):
        assert_matches(f, r, args, ranges, mask, axis)
    both = map_reduce(f, SUM, args, axis="ij", ranges=ranges)
    want = masked(f, SUM, args, mask, "j")[0].sum(-2)
    assert_close(both, want, 1e3 * EPS[dtype])


def test_outputs_over_both_axes_together():
    ranges, mask = structure(100, 120)
    f = gauss(2) * Vj(2, 1)
    args = arguments(f, 100, 120)
    outputs = tuple(Output(f, SUM, axis) for axis in ("j", "i", "ij"))
    found = map_reduce_many(outputs, args, ranges=ranges)
    want = [masked(f, SUM, args, mask, "j")[0], masked(f, SUM, args, mask, "i")[0]]
    for (x,), y in zip(found, [*want, want[0].sum(0)], strict=True):
        assert_close(x, y, 1e-12)


def test_strided_and_half_precision():
    ranges, mask = structure(60, 80)
    f = gauss(2) * Vj(2, 1)
    x, y, b = arguments(f, 60, 80)
    args = x.T.contiguous().T, y.repeat(1, 2)[:, ::2], b
    args[1][:] = y
    assert_matches(f, SUM, args, ranges, mask, "j")
    half = tuple(a.half() for a in (x, y, b))
    assert map_reduce(f, SUM, half, ranges=ranges).dtype == torch.float16
    assert_matches(f, SUM, half, ranges, mask, "i")


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_what_is_not_visited_does_not_matter(backend):
    """NaN and infinities outside of the blocks; rows without a pair are neutral whatever they hold."""
    ranges = Ranges.of(([[0, 4]], [1], [[2, 5]], [[2, 5]], [1], [[0, 4]]))
    f = (gauss(2) * Vj(2, 1)) * exp(Vi(3, 1))
    x, y, b, c = arguments(f, 6, 8)
    x[4:], y[:2], b[5:], c[5] = torch.nan, torch.inf, torch.nan, torch.inf
    options = Options(backend=backend)
    for axis in "ji":
        found = map_reduce(f, SUM, (x, y, b, c), axis=axis, ranges=ranges, options=options)
        assert torch.isfinite(found).all()
        assert (found[4:] == 0).all() if axis == "j" else (found[[0, 1, 5, 6, 7]] == 0).all()
    index = map_reduce(f, ARGMIN, (x, y, b, c), ranges=ranges, options=options).flatten()
    assert (index[:4] >= 2).all() and (index[:4] < 5).all() and (index[4:] == -1).all()


@pytest.mark.cpu_only
def test_threads_do_not_change_a_bit():
    ranges, _ = structure(3000, 2000, 20)
    f = gauss(3) * Vj(2, 1)
    args = arguments(f, 3000, 2000, torch.float32)
    outputs = (Output(f, SUM, "j"), Output(f, SUM, "i"))
    one, three = (map_reduce_many(outputs, args, ranges=ranges, options=Options(threads=n)) for n in (1, 3))
    assert all(torch.equal(a, b) for (a,), (b,) in zip(one, three, strict=True))


def test_only_the_blocks_are_visited(launches):
    """Pairs that are not visited cost nothing: rows of a thousand million pairs, of which few are."""
    n = 30000
    ranges = Ranges.from_matrix(
        torch.tensor([[0, 10], [10, n]]), torch.tensor([[0, 10], [10, n]]), torch.tensor([[True, False]] * 2)
    )
    f = gauss(1) * Vj(2, 1)
    args = arguments(f, n, n, torch.float32)
    found = map_reduce(f, SUM, args, ranges=ranges)
    x, y, b = args
    assert_close(found, map_reduce(f, SUM, (x, y[:10], b[:10])), 1e-5)
    assert launches.compiled == 2 and ranges.pairs == 10 * n


@pytest.mark.cpu_only
def test_small_blocks_have_small_tiles(dtype):
    f, name = gauss(2) * Vj(2, 1), str(dtype).removeprefix("torch.")
    plans = [prepare((Output(f, SUM),), 3, name, machine(), False, False, (), n) for n in (0, 1, 64)]
    none, small, large = (p.plan for p in plans if p is not None)
    assert (none.ranged, small.ranged, large.ranged) == (False, True, True)
    assert small.schedule.rows == 1 and large.schedule.rows == none.schedule.rows > 1
    for length, rows in ((1, 1), (5, 8), (32, 32), (500, 64)):
        ends = torch.arange(3) * length
        each = torch.stack([ends, ends + length], 1)
        assert Ranges.from_matrix(each, each, torch.eye(3)).i.rows == rows


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("r", [SUM, LOGSUMEXP, MIN, MAX, KMIN(2)], ids=str)
@pytest.mark.parametrize("axis", ["j", "i"])
def test_gradients(r, axis):
    f = gauss(2) * Vj(2, 1) * Pm(3, 1) + Vi(4, 1)
    M, N = 6, 5
    ranges, mask = structure(M, N, 3, 0.6)
    while not (mask.sum(0).min() == 0 and mask.sum() > 8):
        ranges, mask = structure(M, N, 3, 0.6)
    args = tuple(a.requires_grad_() for a in arguments(f, M, N))
    covered = mask.any(1) if axis == "j" else mask.any(0)

    def call(*a: Tensor) -> Tensor:
        out = map_reduce(f, r, a, axis=axis, ranges=ranges)
        assert isinstance(out, Tensor)
        out = out[covered]  # rows without a pair are infinite, and have no gradient
        return torch.where(torch.isfinite(out), out, torch.zeros_like(out))

    assert torch.autograd.gradcheck(call, args)
    if r is SUM or r is LOGSUMEXP:
        assert torch.autograd.gradgradcheck(call, args)


def test_gradients_are_generated_code(launches):
    ranges, mask = structure(200, 300)
    f = gauss(2) * Vj(2, 1)
    args = tuple(a.requires_grad_() for a in arguments(f, 200, 300))
    map_reduce(f, SUM, args, ranges=ranges).square().sum().backward()
    got = [a.grad for a in args]
    F = dense(f, args)
    want = torch.autograd.grad(torch.where(mask[..., None], F, 0).sum(1).square().sum(), args)
    for x, y in zip(got, want, strict=True):
        assert_close(x, y, 1e-11)
    assert launches.reference == 0 and launches.compiled >= 2


def test_batched_gradients():
    ranges, _ = structure(6, 7, 2)
    f = gauss(2) * Vj(2, 1)
    args = tuple(a.requires_grad_() for a in arguments(f, 6, 7, batch={0: (2,), 2: (3, 1)}))
    assert torch.autograd.gradcheck(lambda *a: map_reduce(f, SUM, a, ranges=ranges), args)


@pytest.mark.parametrize("r", [SUM, LOGSUMEXP, ARGMIN, KMIN_ARGKMIN(2)], ids=str)
@pytest.mark.parametrize("axis", ["j", "i"])
def test_pieces_of_large_data_keep_their_blocks(r, axis):
    ranges, mask = structure(90, 70)
    f = gauss(2) * Vj(2, 1)
    args = arguments(f, 90, 70)
    g = measure((Output(f, r, axis),), shapes_of(args), (None, None)).within(ranges)
    calls = []

    def run(outputs, piece, part):
        calls.append((part.M, part.N))
        return reference.run(outputs, piece, part, 1 << 26)

    (got,) = run_in_pieces((Output(f, r, axis),), args, g, torch.device("cpu"), 4000, run)
    assert len(calls) > 3 and calls[0] < (90, 70)
    for x, y in zip(got, masked(f, r, args, mask, axis), strict=True):
        assert_close(x, y, 1e-12)


# ---------------------------------------------------------------- the structure


def test_from_matrix_is_that_of_keops():
    i, j = torch.tensor([[2, 5], [7, 12]]), torch.tensor([[1, 4], [4, 9], [20, 30]])
    keep = torch.tensor([[1, 1, 0], [0, 1, 0]])
    want = (
        i,
        torch.tensor([2, 3]),
        torch.tensor([[1, 4], [4, 9], [4, 9]]),
        j,
        torch.tensor([1, 3, 3]),
        torch.tensor([[2, 5], [2, 5], [7, 12]]),
    )
    found = from_matrix(i, j, keep)
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))
    r = Ranges.of(found)
    assert r.pairs == 3 * 8 + 5 * 5
    assert r.i.sources.tolist() == [[1, 9], [4, 9]]  # neighbours are one range
    assert [a.tolist() for a in swap_axes(found)] == [a.tolist() for a in (*want[3:], *want[:3])]
    assert swap_axes(None) is None


def test_a_structure_is_its_own_tuple():
    r, mask = structure(40, 50)
    again = Ranges.of(tuple(r))
    assert again.pairs == r.pairs == int(mask.sum()) and len(r) == 6
    assert all(torch.equal(a, b) for a, b in zip(r, again, strict=True))
    assert Ranges.of(r) is r and r.swap_axes().swap_axes().i is r.i
    with pytest.raises(ValueError):
        r.i.targets[0] = 0


def test_clip():
    r, mask = structure(40, 50)
    cut = r.clip((7, 33), (11, 42))
    f = gauss(1)
    args = arguments(f, 26, 31)
    assert_matches(f, SUM, args, cut, mask[7:33, 11:42], "j")
    assert_matches(f, SUM, args, cut, mask[7:33, 11:42], "i")


GOOD = ([[0, 2], [2, 4]], [1, 2], [[0, 3], [3, 5]], [[0, 3], [3, 5]], [1, 2], [[0, 2], [2, 4]])


@pytest.mark.parametrize(
    ("place", "value", "error", "words"),
    [
        (0, [[0, 3], [2, 4]], ShapeError, ["ranges_i", "overlap"]),
        (0, [[3, 2], [2, 4]], ShapeError, ["ranges_i[0]", "start <= end"]),
        (0, [[-1, 2], [2, 4]], ShapeError, ["ranges_i[0]", "0 <= start"]),
        (0, [[0.0, 2.0], [2.0, 4.0]], DTypeError, ["ranges_i", "integers"]),
        (0, [0, 2], ShapeError, ["ranges_i", "(C, 2)"]),
        (1, [1, 3], ShapeError, ["slices_i", "2"]),
        (1, [2, 1], ShapeError, ["slices_i", "ascend"]),
        (1, [2], ShapeError, ["slices_i", "(2,)"]),
        (2, [[0, 3], [3, 9]], ShapeError, ["pairs", "seen from i"]),
        (3, [[0, 4], [3, 5]], ShapeError, ["ranges_j", "overlap"]),
    ],
)
def test_bad_structures(place, value, error, words):
    assert Ranges.of(GOOD).pairs == 10
    bad = [*GOOD]
    bad[place] = value
    with pytest.raises(error) as caught:
        Ranges.of(tuple(bad))
    assert all(w in str(caught.value) for w in words), caught.value


def test_more_bad_structures():
    with pytest.raises(ShapeError, match="six integer arrays"):
        Ranges.of(GOOD[:3])
    twice = ([[0, 2]], [2], [[0, 3], [2, 5]], [[0, 3], [3, 5]], [1, 2], [[0, 2], [0, 2]])
    with pytest.raises(ShapeError, match="only once"):
        Ranges.of(twice)
    f = gauss(1)
    for M, N, axis in ((3, 5, "i"), (4, 4, "j")):
        with pytest.raises(ShapeError, match=f"ranges reach {axis}"):
            map_reduce(f, SUM, arguments(f, M, N), ranges=GOOD)
    with pytest.raises(ShapeError, match="keep has shape"):
        from_matrix(GOOD[0], GOOD[3], [[True, False]])
    with pytest.raises(DTypeError, match="keep"):
        from_matrix(GOOD[0], GOOD[3], [[0.5, 1.0], [0.0, 0.0]])
    assert len(NAMES) == 6


def test_a_tuple_that_is_used_again_is_checked_once_but_never_stale() -> None:
    ends = torch.tensor([[0, 3], [3, 5]])
    arrays = from_matrix(ends, ends, torch.eye(2, dtype=torch.bool))
    first = Ranges.of(arrays)
    assert Ranges.of(tuple(a.clone() for a in arrays)) is first and first.pairs == 13
    arrays[0][1, 1], arrays[3][1, 1] = 4, 4  # in place
    arrays[2][1, 1], arrays[5][1, 1] = 4, 4
    assert Ranges.of(arrays).pairs == 10

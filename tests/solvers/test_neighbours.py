"""Nearest predecessors by each of the ways, against all distances; what formulas show of distances."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kerngp.engine.expr import Pm, Vi, Vj
from kerngp.engine.formulas import FORMULAS
from kerngp.engine.ops import concat, dot, exp, log, sqdist, sqrt, square, total, weighted_sqdist
from kerngp.engine.ranges import from_matrix
from kerngp.options import options
from kerngp.solvers import Dense, Diagonal, KernelOperator, identity
from kerngp.solvers.coordinates import coordinates
from kerngp.solvers.meter import metering
from kerngp.solvers.neighbours import neighbours_before

F = torch.float64
SIZES = [1, 2, 7, 31, 33, 300]


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=F)


def shuffled(n: int) -> torch.Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(7))


def exact(near: torch.Tensor, order: torch.Tensor, m: int) -> torch.Tensor:
    """The m predecessors with the largest entries of ``near``, -1 where there are fewer."""
    n = len(order)
    found = torch.full((n, m), -1, dtype=torch.int32)
    for place in range(1, n):
        before = order[:place]
        best = near[order[place], before].argsort(descending=True)[:m]
        found[order[place], : len(best)] = before[best].int()
    return found


def correlations(A: torch.Tensor) -> torch.Tensor:
    return A.abs() / (A.diagonal()[:, None] * A.diagonal()).sqrt()


def gauss(x: torch.Tensor, **tags) -> KernelOperator:
    D = x.shape[1]
    return KernelOperator(exp(-sqdist(Vi(0, D), Vj(1, D))), (x, x), psd=True, **tags)


# ---------------------------------------------------------------- the ways


@pytest.mark.parametrize("n", SIZES)
def test_tree(n):
    x, order, m = rand(n, 2), shuffled(n), 12
    A = gauss(x) + 0.1 * identity(n)
    with metering() as meter:
        got = neighbours_before(A, order, m)
    assert meter.passes(1) == 0
    assert got.dtype == torch.int32
    want = exact(-torch.cdist(x, x), order, m)
    place = torch.argsort(order)
    few = place < 4 * m  # the first tree is asked for everything
    assert torch.equal(got[few], want[few])
    missed = int((want >= 0).sum()) - int((got >= 0).sum())
    assert 0 <= missed <= 0.05 * n * m
    # what was found are predecessors, and no nearer one was passed over
    same = (got == want) | (got < 0)
    assert bool(same.all())


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", [F, torch.float32])
def test_distances_in_many_dimensions(n, dtype):
    x, order = (1e3 + 50 * rand(n, 12)).to(dtype), shuffled(n)
    x = x - 1e3
    got = neighbours_before(
        KernelOperator(exp(-1e-4 * sqdist(Vi(0, 12), Vj(1, 12))), (x, x), psd=True), order, 5
    )
    assert torch.equal(got, exact(-torch.cdist(x.double(), x.double()), order, 5))


@pytest.mark.parametrize("n", SIZES)
def test_any_formula(n):
    """Neither a distance nor a constant diagonal: signs and scales must not count."""
    x, order = rand(n, 3) - 0.5, shuffled(n)
    scale = 10.0 ** (4 * rand(n, 1, seed=1) - 2)
    formula = Vi(2, 1) * (dot(Vi(0, 3), Vj(1, 3)) + exp(-total(abs(Vi(0, 3) - Vj(1, 3))))) * Vj(3, 1)
    K = KernelOperator(formula, (x, x, scale, scale), psd=True)
    assert coordinates(K) is None
    got = neighbours_before(K, order, 6)
    assert torch.equal(got, exact(correlations(K.dense()), order, 6))


def test_a_pass_counts_half_the_entries():
    x = rand(640, 12)
    with metering() as meter:
        neighbours_before(gauss(x), shuffled(640), 5)
    assert meter.entries["neighbours"] == pytest.approx(0.5 * 640**2, rel=0.05)


@pytest.mark.parametrize("n", SIZES)
def test_rows(n):
    root, order = rand(n, n + 3) - 0.5, shuffled(n)
    A = root @ root.T
    with metering() as meter:
        got = neighbours_before(Dense(A, psd=True), order, 5)
    assert torch.equal(got, exact(correlations(A), order, 5))
    assert meter.passes(n * n) <= 1.0 + 1 / n


def test_rows_in_parts():
    """More than one block of rows: the same neighbours."""
    root, order = rand(600, 603) - 0.5, shuffled(600)
    A = Dense(root @ root.T, psd=True)
    whole = neighbours_before(A, order, 4)
    with options(memory_limit=1 << 20):
        assert torch.equal(neighbours_before(A, order, 4), whole)


def test_blocks_of_outputs_and_ranges_and_sums():
    x, order = rand(20, 2), shuffled(40)
    k = exp(-sqdist(Vi(0, 2), Vj(1, 2)))
    both = KernelOperator(concat(k, 0.5 * k, 0.5 * k, 2.0 * k), (x, x), psd=True, blocks=(2, 2))
    got = neighbours_before(both + 0.1 * identity(40), order, 5)
    assert torch.equal(got, exact(correlations(both.dense() + 0.1 * torch.eye(40, dtype=F)), order, 5))

    halves = torch.tensor([[0, 10], [10, 20]])
    apart = gauss(x, ranges=from_matrix(halves, halves, torch.eye(2, dtype=torch.bool)))
    near = apart.dense()
    got = neighbours_before(apart, shuffled(20), 19)
    inside = torch.arange(20)[:, None] // 10 == got // 10
    want = exact(near, shuffled(20), 19)
    assert torch.equal(got[inside & (got >= 0)], want[inside & (got >= 0)])

    added = gauss(x) + Dense(torch.eye(20, dtype=F), psd=True)
    assert torch.equal(neighbours_before(added, shuffled(20), 3), exact(added.dense(), shuffled(20), 3))


def test_a_varying_diagonal_counts():
    """Correlations of K + D, not of K: a noisy point tells little."""
    x, order = rand(60, 3) - 0.5, shuffled(60)
    K = KernelOperator(1.0 + dot(Vi(0, 3), Vj(1, 3)), (x, x), psd=True)
    A = K + Diagonal(torch.logspace(-3, 3, 60, dtype=F))
    assert torch.equal(neighbours_before(A, order, 4), exact(correlations(A.dense()), order, 4))


def test_equal_points_and_nan():
    x, order = torch.zeros(50, 2, dtype=F), shuffled(50)
    got = neighbours_before(gauss(x), order, 4)
    place = torch.argsort(order)
    for i in range(50):
        chosen = got[i][got[i] >= 0].long()
        assert len(set(chosen.tolist())) == len(chosen) == min(4, int(place[i]))
        assert bool((place[chosen] < place[i]).all())
    x = rand(50, 2)
    x[3, 1] = torch.nan
    got = neighbours_before(gauss(x), order, 4)
    assert bool((got[3] == -1).all())
    assert not bool((got == 3).any())


def test_no_neighbours():
    assert neighbours_before(gauss(rand(5, 2)), torch.arange(5), 0).shape == (5, 0)


# ---------------------------------------------------------------- what a formula shows


def found(formula, *args) -> Any:
    return coordinates(KernelOperator(formula, args))


@pytest.mark.parametrize(
    "name", ["gaussian", "matern12", "matern32", "matern52", "cauchy", "inverse_multiquadric"]
)
def test_named_kernels(name):
    x, lengths = rand(9, 3), torch.tensor([0.5, 1.0, 2.0], dtype=F)
    u = found(FORMULAS[name](Vi(0, 3) / Pm(2, 3), Vj(1, 3) / Pm(2, 3)), x, x, lengths)
    assert u is not None
    torch.testing.assert_close(u, x / lengths)


def test_other_forms_of_a_distance():
    x, w = rand(9, 3), torch.tensor([0.5, 1.0, 2.0], dtype=F)
    d = Vi(0, 3) - Vj(1, 3)
    for formula in (total(square(d)), total(d * d), sqdist(Vj(1, 3), Vi(0, 3))):
        assert torch.equal(found(2.0 * exp(-formula) + 0.5, x, x), x)
    torch.testing.assert_close(
        found(exp(-weighted_sqdist(Pm(2, 3), Vi(0, 3), Vj(1, 3))), x, x, w), x * w.sqrt()
    )
    assert torch.equal(found(exp(-sqdist(Vi(0, 1), Vj(1, 1))), x[:, :1], x[:, :1]), x[:, :1])
    # a view of the same numbers, as LazyTensors make them
    assert found(exp(-sqdist(Vi(0, 3), Vj(1, 3))), x.view(9, 3), x) is not None


def test_factors_of_one_side_are_disregarded():
    x, w = rand(9, 3), rand(9, 1)
    k = exp(-sqdist(Vi(0, 3), Vj(1, 3)))
    assert torch.equal(found(Vi(2, 1) * k * Vj(3, 1) / Vi(2, 1), x, x, w, w), x)
    assert found(k + Vi(2, 1) * Vj(3, 1), x, x, w, w) is None


def test_periodic_is_a_distance_on_circles():
    x = rand(9, 2)
    u = found(FORMULAS["periodic"](Vi(0, 2), Vj(1, 2)), x, x)
    assert u is not None
    assert u.shape == (9, 4)


def test_what_is_no_single_distance():
    x, y = rand(9, 3), rand(9, 3, seed=1)
    k, d = exp(-sqdist(Vi(0, 3), Vj(1, 3))), sqdist(Vi(0, 3), Vj(1, 3))
    assert found(k, x, y) is None  # points of two sets
    assert found(k, x, x.clone()) is None  # not known to be equal
    assert found(k + exp(-sqdist(Vi(0, 3) / 2.0, Vj(1, 3) / 2.0)), x, x) is None
    assert found(dot(Vi(0, 3), Vj(1, 3)), x, x) is None
    assert found(exp(-sqdist(Vi(0, 3), 2.0 * Vj(1, 3))), x, x) is None
    # not falling: a wave, a growing function, one without finite values
    for f in (1.0 - 8.0 * d * exp(-2.0 * d), sqrt(d), log(d - 1.0)):
        assert found(f, x, x) is None
    assert coordinates(Dense(torch.eye(3, dtype=F), psd=True)) is None
    assert coordinates(gauss(x[:1])) is None  # one point: nothing to order


def test_formulas_of_constants():
    x = rand(9, 3)
    assert found(exp(-sqdist(Vi(0, 3), Vj(1, 3)) * 0.0) * Pm(2, 1), x, x, torch.ones(1, dtype=F)) is not None

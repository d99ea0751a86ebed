"""Bounds of formulas over boxes, trees of points, and kernels truncated by both."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kerngp import LazyTensor, Pm, Vi, Vj
from kerngp.engine import expr as E
from kerngp.engine.bounds import DECREASING, INCREASING, RULES, bounds, magnitude
from kerngp.engine.evaluate import evaluate
from kerngp.engine.expr import OPS, node, variables
from kerngp.engine.formulas import FORMULAS
from kerngp.engine.mapreduce import dense
from kerngp.engine.ops import concat, dot, exp, ifelse, sqdist
from kerngp.engine.tree import build_tree
from kerngp.engine.truncate import near_pairs
from kerngp.errors import FormulaError, OptionError, ShapeError
from kerngp.solvers import CG, Dense, solve
from kerngp.solvers.permuted import Permuted

ELEMENTWISE = [op for op in OPS.values() if op.code is not None and op.public]

# ---------------------------------------------------------------- bounds


def assert_bounded(f, boxes, samples=200):
    """Values at random points and at corners of the boxes lie within the bounds, which are returned."""
    at = {}
    for v in variables(f):
        lo, hi = boxes[v.attr[0]]
        shape = (samples, *torch.broadcast_shapes(lo.shape, hi.shape))
        t = torch.rand(shape, dtype=torch.float64)
        corner = torch.rand(samples, *([1] * (len(shape) - 1))) < 0.5
        at[v.attr[0]] = lo + torch.where(corner, t.round(), t) * (hi - lo)
    values = evaluate(f, at, torch.zeros(0, dtype=torch.float64))
    lo, hi = bounds(f, boxes)
    slack = 1e-9 * (1 + values.abs().nan_to_num(0.0, 0.0, 0.0))
    inside = (values >= lo - slack) & (values <= hi + slack)
    unknown = (lo == -torch.inf) & (hi == torch.inf)
    assert bool((inside | unknown).all()), f"{f}: {values[~(inside | unknown)][:3]} not in {lo}, {hi}"
    return lo, hi


def random_boxes(dims, count, centre=0.0):
    out = {}
    for k, dim in enumerate(dims):
        ends = centre + torch.randn(2, count, dim, dtype=torch.float64)
        out[k] = ends.amin(0), ends.amax(0)
    return out


@pytest.mark.parametrize("centre", [-3.0, 0.0, 3.0])
@pytest.mark.parametrize("op", ELEMENTWISE, ids=lambda op: op.name)
def test_every_op_stays_within_its_bounds(op, centre):
    attr = {"powi": (3,), "round": (2,), "polygamma": (1,), "sinxdivx": (1,)}.get(op.name, ())
    leaves = [E.Vi(k, 3) for k in range(op.arity)]
    assert_bounded(node(op.name, *leaves, attr=attr), random_boxes([3] * op.arity, 50, centre))
    if op.name == "powi":
        for n in (-3, -2, 0, 1, 2, 4):
            assert_bounded(node("powi", leaves[0], attr=(n,)), random_boxes([3], 50, centre))


@pytest.mark.parametrize("name", sorted(INCREASING | DECREASING | set(RULES)))
def test_every_rule_belongs_to_an_op_and_says_something(name):
    assert name in OPS
    if name in ("exp_scaled", "exp_nonpos", "interleave", "alternate"):
        return
    attr = {"powi": (3,), "round": (2,), "sinxdivx": (0,)}.get(name, ())
    f = node(name, *[E.Vi(k, 3) for k in range(OPS[name].arity)], attr=attr)
    box = torch.full((3,), 0.25).double(), torch.full((3,), 0.5).double()
    lo, hi = assert_bounded(f, dict.fromkeys(range(OPS[name].arity), box))
    assert torch.isfinite(lo).all() and torch.isfinite(hi).all()


def test_moves_and_sums():
    x, y = E.Vi(0, 3), E.Vj(1, 3)
    for f in (concat(x, y)[1:5], x[2] * y, node("elem_t", x[0], attr=(4, 2)), dot(x, y), ifelse(x[0], y, -y)):
        lo, hi = assert_bounded(f, random_boxes([3, 3], 40))
        assert torch.isfinite(lo).all() and torch.isfinite(hi).all()


@pytest.mark.parametrize("name", sorted(set(FORMULAS)))
def test_kernels_stay_within_their_bounds(name):
    x, y = E.Vi(0, 3), E.Vj(1, 3)
    try:
        f = FORMULAS[name](x, y)
    except TypeError:
        f = FORMULAS[name](x, y, 1.5)
    assert_bounded(f, random_boxes([3, 3], 50))


def test_distances_of_boxes_are_exact():
    x, y = E.Vi(0, 2), E.Vj(1, 2)
    one = torch.tensor([0.0, 0.0]).double(), torch.tensor([1.0, 1.0]).double()
    two = torch.tensor([4.0, -1.0]).double(), torch.tensor([6.0, 0.5]).double()
    lo, hi = bounds(sqdist(x, y), {0: one, 1: two})
    assert float(lo) == 9.0 and float(hi) == 36.0 + 4.0
    assert float(magnitude(exp(-sqdist(x, y)), {0: one, 1: two})) == pytest.approx(np.exp(-9.0))
    lo, hi = bounds(node("lt", sqdist(x, y), E.const(8.0)), {0: one, 1: two})
    assert float(lo) == float(hi) == 0.0


def test_what_may_be_undefined_is_unbounded():
    x = E.Vi(0, 1)
    box = {0: (torch.tensor([-1.0]).double(), torch.tensor([2.0]).double())}
    for f in (node("log", x), node("sqrt", x), node("inv", x), x / x, node("rsqrt", x), node("pow", x, x)):
        assert float(magnitude(f, box)) == torch.inf, f
    assert float(magnitude(exp(node("log", x)), box)) == torch.inf


# ---------------------------------------------------------------- trees


@pytest.mark.parametrize("n", [1, 2, 3, 64, 65, 1000])
def test_trees_hold_every_point_once(n):
    x = torch.randn(n, 3)
    tree = build_tree(x, 8)
    assert sorted(tree.order.tolist()) == list(range(n))
    sizes = np.diff(tree.starts)
    assert sizes.max() <= 8 and sizes.min() >= 1 and len(sizes) == 2**tree.depth
    levels = tree.boxes(x)
    assert len(levels) == tree.depth + 1
    assert np.array_equal(levels[0][0][0], x.double().amin(0))
    for k, (start, end) in enumerate(tree.leaves):
        own = x[tree.order[start:end]].double()
        assert np.array_equal(levels[-1][0][k], own.amin(0))
        assert np.array_equal(levels[-1][1][k], own.amax(0))


# ---------------------------------------------------------------- kernels


def uniform(n, D):
    return torch.rand(n, D, dtype=torch.float64)


def clustered(n, D):
    centres = torch.rand(6, D, dtype=torch.float64)
    return centres[torch.randint(0, 6, (n,))] + 0.02 * torch.randn(n, D, dtype=torch.float64)


def surface(n, D):
    x = torch.randn(n, D, dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True)


def gauss(x, y, scale):
    return (-((Vi(x) - Vj(y)) ** 2).sum(-1) / (2 * scale**2)).exp()


@pytest.mark.parametrize("D", [1, 2, 3, 10])
@pytest.mark.parametrize("points", [uniform, clustered, surface], ids=lambda f: f.__name__)
@pytest.mark.parametrize("tol", [1e-3, 1e-8])
def test_error_is_within_the_tolerance(points, D, tol, launches):
    x, y, b = points(1500, D), points(1100, D), torch.randn(1100, 2, dtype=torch.float64)
    K = gauss(x, y, 0.02)
    near = K.truncate(tol)
    launches.clear()
    got = near @ b
    assert launches.compiled == 1
    assert bool(((got - K @ b).abs() <= tol * b.abs().sum(0) + 1e-12).all())
    back = near.T @ torch.ones(1500, dtype=torch.float64)
    assert bool(((back - K.sum(axis=0).flatten()).abs() <= tol * 1500 + 1e-12).all())
    dropped = torch.where(near.dense() == 0, K.dense(), 0)
    assert float(dropped.max()) <= tol
    if D <= 3 or points is clustered:
        assert near.base.ranges.pairs < 0.7 * 1500 * 1100
    needed = int((K.dense() > tol).sum())
    assert near.base.ranges.pairs >= needed


def test_pairs_grow_with_the_number_of_points():
    """A short kernel visits neighbours only: four times the points, four times the pairs or little more."""
    pairs = [
        gauss(x, x, 5.0 / len(x)).truncate(1e-6).base.ranges.pairs
        for x in (uniform(n, 1) for n in (4000, 16000))
    ]
    assert 3 < pairs[1] / pairs[0] < 5


def test_kernels_of_compact_support_lose_nothing():
    x, y = uniform(900, 2), uniform(800, 2)
    D = ((Vi(x) - Vj(y)) ** 2).sum(-1).sqrt() / 0.2
    wendland = (1 - D).relu() ** 4 * (4 * D + 1)
    near = wendland.truncate(0.0)
    b = torch.randn(800, 1, dtype=torch.float64)
    assert torch.allclose(near @ b, wendland @ b, atol=1e-13)
    assert near.base.ranges.pairs < 0.4 * 900 * 800
    masked = D.mask(D < 1.0)
    assert masked.truncate(0.0).base.ranges.pairs < 0.4 * 900 * 800
    assert torch.allclose(masked.truncate(0.0) @ b, masked @ b, atol=1e-12)


def test_gradients_flow_in_the_order_of_the_caller():
    x, y, b = (a.requires_grad_() for a in (uniform(300, 2), uniform(200, 2), uniform(200, 3)))
    scale = torch.tensor([0.05], dtype=torch.float64, requires_grad=True)

    def product(x, y, b, scale, cut):
        K = (-((Vi(x) - Vj(y)) ** 2).sum(-1) / (2 * Pm(scale) ** 2)).exp()
        return (K.truncate(1e-12) if cut else K) @ b

    cotangent = torch.randn(300, 3, dtype=torch.float64)
    got, want = (
        torch.autograd.grad((product(x, y, b, scale, cut) * cotangent).sum(), (x, y, b, scale))
        for cut in (True, False)
    )
    assert all(torch.allclose(p, q, atol=1e-8) for p, q in zip(got, want, strict=True))


def test_systems_with_truncated_kernels():
    x, b = uniform(400, 2), torch.randn(400, 1, dtype=torch.float64)
    K = gauss(x, x, 0.03)
    near = K.truncate(1e-12, psd=True)
    assert near.symmetric and near.psd and near.T is near
    want = torch.linalg.solve(K.dense() + 0.1 * torch.eye(400), b)
    from kerngp.solvers import identity

    assert torch.allclose(solve(near + 0.1 * identity(400), b, CG(tol=1e-10)).x, want, atol=1e-7)
    assert torch.allclose(near.diag(), torch.ones(400, dtype=torch.float64))
    assert torch.allclose(near.rows([3, 7], [7, 9, 3]), K.dense()[[3, 7]][:, [7, 9, 3]], atol=1e-11)
    other = gauss(x, uniform(400, 2), 0.03)
    assert torch.allclose(other.truncate(1e-12).diag(), other.dense().diagonal(), atol=1e-11)


def test_arrays_of_numpy():
    x, b = uniform(500, 3).numpy().astype(np.float32), np.ones(500, np.float32)
    K = gauss(x, x, 0.1)
    got = K.truncate(1e-5) @ b
    assert isinstance(got, np.ndarray) and got.dtype == np.float32
    np.testing.assert_allclose(got, K @ b, atol=500 * 1e-5)


def test_values_that_are_not_numbers_are_kept():
    x, y = uniform(300, 1), uniform(300, 1)
    x[17] = torch.nan
    near = gauss(x, y, 0.01).truncate(1e-6) @ torch.ones(300, dtype=torch.float64)
    assert torch.isnan(near).nonzero().flatten().tolist() == [17]


def test_nothing_stays_or_everything():
    x, y = uniform(50, 2), uniform(70, 2)
    b = torch.randn(70, dtype=torch.float64)
    assert bool((gauss(x, y + 1000.0, 0.1).truncate(1e-6) @ b == 0).all())
    K = (Vi(x) | Vj(y)) + 1
    assert torch.allclose(K.truncate(1e-6) @ b, K @ b)
    assert K.truncate(1e-6).base.ranges.pairs == 50 * 70


def test_refusals():
    x, y = uniform(50, 2), uniform(70, 2)
    K = gauss(x, y, 0.1)
    for tol in (-1.0, float("nan"), float("inf")):
        with pytest.raises(OptionError, match="tol"):
            K.truncate(tol)
    with pytest.raises(ShapeError, match="scalar entries"):
        (Vi(x) - Vj(y)).truncate(1e-3)
    with pytest.raises(ShapeError, match="batch axes"):
        batched = LazyTensor(uniform(50, 2).repeat(3, 1, 1)[:, :, None, :]) - LazyTensor(y[None, None])
        (batched**2).sum(-1).truncate(1e-3)
    K.ranges = K.truncate(1e-3).base.ranges
    with pytest.raises(FormulaError, match="ranges already"):
        K.truncate(1e-3)


def test_permuted_operators():
    A = torch.randn(5, 4, dtype=torch.float64)
    rows, columns = torch.randperm(5), torch.randperm(4)
    B = Permuted(Dense(A), rows, columns)
    want = torch.empty_like(A)
    want[rows[:, None], columns] = A
    b = torch.randn(4, 3, dtype=torch.float64)
    assert torch.equal(B.dense(), want)
    assert torch.allclose(B @ b, want @ b) and torch.allclose(B.T @ (want @ b), want.T @ (want @ b))
    assert torch.equal(B.with_tensors([2 * A]).dense(), 2 * want)


def test_pairs_found_are_those_above_the_tolerance():
    x = uniform(800, 2)
    f = exp(-400.0 * sqdist(E.Vi(0, 2), E.Vj(1, 2)))
    near = near_pairs(f, (x, x), 1e-4, leaf=8)
    F = dense(f, (x[near.rows], x[near.columns]))[..., 0]
    i, j = torch.arange(800)[:, None], torch.arange(800)
    kept = near.ranges.contains(i, j)
    assert int(kept.sum()) == near.ranges.pairs
    assert float(torch.where(kept, 0, F).max()) <= 1e-4

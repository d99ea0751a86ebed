"""Inducing points against the dense normal equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kerngp.engine.expr import Vi, Vj
from kerngp.engine.ops import exp, sqdist
from kerngp.errors import ConvergenceWarning, DataError, OptionError, ShapeError, SolveError
from kerngp.solvers import Dense, InducingPoints, KernelOperator, Status
from kerngp.solvers.inducing.plan import choose_form

F = torch.float64
GAUSS = exp(-0.5 * sqdist(Vi(0, 2), Vj(1, 2)))


def kernel(x, z):
    return KernelOperator(GAUSS, (x, z))


def dense_kernel(x, z):
    return Dense(torch.exp(-0.5 * (x[:, None] - z).square().sum(-1)))


@pytest.fixture
def data():
    X = 4 * torch.rand(700, 2, dtype=F)
    y = torch.stack([torch.sin(2 * X[:, 0]) + X[:, 1], torch.cos(X.sum(1))], 1) + 0.1 * torch.randn(
        700, 2, dtype=F
    )
    return X, y


def dense_solution(X, y, Z, alpha, w=None):
    """Least squares on the stacked system, which squares no condition number."""
    w = torch.ones(len(X), dtype=F) if w is None else w.double()
    X, Z = X.double(), Z.double()
    Knm, Kmm = dense_kernel(X, Z).matrix, dense_kernel(Z, Z).matrix
    L = torch.linalg.cholesky(Kmm + 1e-13 * torch.eye(len(Z), dtype=F))
    left = torch.cat([w.sqrt()[:, None] * Knm, alpha**0.5 * L.T])
    right = torch.cat([w.sqrt()[:, None] * y.double(), torch.zeros(len(Z), y.shape[1], dtype=F)])
    return torch.linalg.lstsq(left, right, driver="gelsd").solution


def predictions_agree(X, s, want, tol):
    K = dense_kernel(X.double(), s.extra["centers"].double())
    torch.testing.assert_close(K @ s.x.double(), K @ want, rtol=0, atol=tol)


@pytest.mark.parametrize("form", ["fused", "normal"])
@pytest.mark.parametrize("centers", ["uniform", "rpcholesky"])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_the_normal_equations(data, form, centers, weighted):
    X, y = data
    w = torch.rand(700, dtype=F) if weighted else None
    s = InducingPoints(40, tol=1e-9, centers=centers, form=form).solve(kernel, X, y, 0.1, sample_weight=w)
    assert s.status is Status.converged
    assert s.extra["form"] == form
    assert s.x.shape == (40, 2)
    assert s.iterations <= (21 if form == "fused" else 3)  # a preconditioner of the wrong scale takes 24
    predictions_agree(X, s, dense_solution(X, y, s.extra["centers"], 0.1, w), 1e-6)


def test_weights_count_like_repetitions(data):
    X, y = data
    times = torch.randint(0, 4, (700,))
    Z = X[:30].clone()
    method = InducingPoints(tol=1e-9, centers=Z)
    weighted = method.solve(kernel, X, y, 0.1, sample_weight=times.double())
    repeated = method.solve(kernel, X.repeat_interleave(times, 0), y.repeat_interleave(times, 0), 0.1)
    predictions_agree(X, weighted, repeated.x, 1e-6)


def test_given_centers(data):
    X, y = data
    Z = X[:25] + 0.05
    s = InducingPoints(tol=1e-9, centers=Z.numpy()).solve(kernel, X, y, 1e-2)
    assert s.status is Status.converged
    assert isinstance(s.extra["centers"], torch.Tensor)
    predictions_agree(X, s, dense_solution(X, y, s.extra["centers"], 1e-2), 1e-5)


def test_all_points_are_centers(data):
    """With every point a centre this is kernel ridge regression."""
    X, y = data[0][:100], data[1][:100]
    s = InducingPoints(100, tol=1e-8, max_iter=400).solve(kernel, X, y, 0.5)
    K = dense_kernel(X, X).matrix
    want = K @ torch.linalg.solve(K + 0.5 * torch.eye(100, dtype=F), y)
    torch.testing.assert_close(dense_kernel(X, s.extra["centers"]) @ s.x, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", ["fused", "normal"])
def test_duplicates_and_smooth_kernels(data, form):
    """Kmm is singular many times over; the redundant centres go, and nothing else happens."""
    X, y = data
    X = torch.cat([X[:200], X[:200], X[:200] + 1e-12])
    y = torch.cat([y[:200]] * 3)
    s = InducingPoints(300, tol=1e-7, form=form).solve(kernel, X, y, 0.1)
    assert s.status is Status.converged
    m = s.extra["centers"].shape[0]
    assert m <= 200
    assert bool(torch.isfinite(s.x).all())
    # less than the best of the whole space would need: compare the objective with ridge regression on all
    K = dense_kernel(X, X).matrix
    a = torch.linalg.solve(K + 0.1 * torch.eye(600, dtype=F), y)
    best = float((y - K @ a).square().sum() + 0.1 * (a * (K @ a)).sum())
    Z = s.extra["centers"]
    f = dense_kernel(X, Z) @ s.x
    found = float((y - f).square().sum() + 0.1 * (s.x * (dense_kernel(Z, Z) @ s.x)).sum())
    assert best - 1e-6 <= found < 1.01 * best


@pytest.mark.parametrize("form", ["fused", "normal"])
def test_float32_data(data, form):
    X, y = data[0].float(), data[1]
    s = InducingPoints(60, tol=1e-6, form=form).solve(kernel, X, y, 0.1)
    assert s.status is Status.converged
    assert s.x.dtype == F
    assert s.extra["centers"].dtype == torch.float32
    predictions_agree(X, s, dense_solution(X, y, s.extra["centers"], 0.1), 1e-4)


def test_same_seed_same_answer(data):
    X, y = data
    first, again, other = (InducingPoints(20, random_state=r).solve(kernel, X, y, 0.1) for r in (3, 3, 4))
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.extra["centers"], other.extra["centers"])


def test_numpy_and_vectors(data):
    X, y = data[0].numpy(), data[1][:, 0].numpy()
    s = InducingPoints(20).solve(kernel, X, y, 0.1)
    assert isinstance(s.x, np.ndarray)
    assert s.x.shape == (20,)
    assert isinstance(s.extra["centers"], np.ndarray)
    assert s.residual_norms.shape == ()


def test_kernels_that_store_their_matrix_are_asked_for_blocks(data):
    X, y = data
    shapes = []

    def function(x, z):
        shapes.append((len(x), len(z)))
        return dense_kernel(x, z)

    s = InducingPoints(20, tol=1e-9).solve(function, X, y, 0.1)
    assert s.extra["form"] == "normal"
    predictions_agree(X, s, dense_solution(X, y, s.extra["centers"], 0.1), 1e-6)


def test_callback(data):
    X, y = data
    for form, phase in (("normal", "normal equations"), ("fused", "preconditioner")):
        seen = []
        s = InducingPoints(20, form=form).solve(kernel, X, y, 0.1, callback=seen.append)
        assert seen[0].phase == phase
        steps = [p for p in seen if p.phase == "iterate"]
        assert [p.iteration for p in steps] == list(range(1, s.iterations + 1))
        assert steps[-1].residual <= 1e-6
    stopped = InducingPoints(20, tol=1e-12, form="fused").solve(
        kernel, X, y, 0.1, callback=lambda p: p.phase == "iterate" and p.iteration == 2
    )
    assert stopped.status is Status.stopped


def test_few_iterations_is_a_status(data):
    X, y = data
    with pytest.warns(ConvergenceWarning, match="InducingPoints ended with status max_iter"):
        s = InducingPoints(40, tol=1e-12, max_iter=2, form="fused").solve(kernel, X, y, 1e-4)
    assert s.status is Status.max_iter
    with pytest.raises(SolveError):
        InducingPoints(40, tol=1e-12, max_iter=2, form="fused").solve(kernel, X, y, 1e-4, on_fail="raise")


def test_nan_targets(data):
    X, y = data
    y[3, 0] = math.nan
    s = InducingPoints(20).solve(kernel, X, y, 0.1, on_fail="ignore")
    assert s.status is Status.nan
    assert s.iterations == 0


def test_form_follows_the_sizes():
    assert choose_form(rows=300_000, features=3, centers=3000, targets=1) == "fused"
    assert choose_form(rows=300_000, features=3, centers=50, targets=1) == "normal"
    assert choose_form(rows=3000, features=3, centers=3000, targets=1) == "normal"
    assert choose_form(rows=300_000, features=784, centers=3000, targets=1) == "normal"
    assert choose_form(rows=300_000, features=784, centers=30_000, targets=1) == "fused"
    assert choose_form(rows=300_000, features=3, centers=300, targets=100) == "normal"


def test_messages(data):
    X, y = data
    with pytest.raises(OptionError, match="n_centers=0"):
        InducingPoints(0)
    with pytest.raises(OptionError, match="centers='kmeans'"):
        InducingPoints(centers="kmeans")
    with pytest.raises(OptionError, match="tol=0"):
        InducingPoints(tol=0)
    with pytest.raises(OptionError, match="form='fast'"):
        InducingPoints(form="fast")
    method = InducingPoints(20)
    with pytest.raises(OptionError, match="alpha=-1"):
        method.solve(kernel, X, y, -1)
    with pytest.raises(ShapeError, match=r"y has shape \(10, 2\)"):
        method.solve(kernel, X, y[:10], 0.1)
    with pytest.raises(ShapeError, match=r"X has shape \(700,\)"):
        method.solve(kernel, X[:, 0], y, 0.1)
    with pytest.raises(ShapeError, match="sample_weight has shape"):
        method.solve(kernel, X, y, 0.1, sample_weight=torch.ones(3))
    with pytest.raises(OptionError, match="negative"):
        method.solve(kernel, X, y, 0.1, sample_weight=-torch.ones(700))
    with pytest.raises(DataError, match="sample_weight"):
        method.solve(kernel, X, y, 0.1, sample_weight=torch.full((700,), math.nan))
    with pytest.raises(ShapeError, match=r"centers has shape \(3, 5\); expected \(m, 2\)"):
        InducingPoints(centers=torch.zeros(3, 5)).solve(kernel, X, y, 0.1)
    with pytest.raises(OptionError, match="on_fail"):
        method.solve(kernel, X, y, 0.1, on_fail="x")

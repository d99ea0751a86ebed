"""Inducing points against the dense normal equations."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch

from kerngp.engine.expr import Pm, Vi, Vj
from kerngp.engine.ops import exp, sqdist
from kerngp.errors import (
    BackendUnavailable,
    ConvergenceWarning,
    DataError,
    OptionError,
    ShapeError,
    SolveError,
)
from kerngp.options import options
from kerngp.solvers import Dense, InducingPoints, KernelOperator, Status
from kerngp.solvers.inducing.centers import enough, seen_dimension
from kerngp.solvers.inducing.equations import Blocks, NormalEquations
from kerngp.solvers.inducing.factors import add_square, independent, mirrored, whiten
from kerngp.solvers.inducing.plan import choose_form, memory, most_centers

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
    assert s.report.choice == (f"{300 - m} of 300 centres left out: the others determine them.",)
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


def test_nan_points_and_kernels(data):
    X, y = data
    X[5, 1] = math.nan
    for form in ("fused", "normal"):
        s = InducingPoints(centers=X[10:30], form=form).solve(kernel, X, y, 0.1, on_fail="ignore")
        assert s.status is Status.nan
        assert bool(torch.isnan(s.x).all())
    s = InducingPoints(centers=X[10:30]).solve(
        lambda x, z: Dense(dense_kernel(x, z).matrix * math.nan), X, y, 0.1, on_fail="ignore"
    )
    assert s.status is Status.nan
    assert s.x.shape == (20, 2)


@pytest.mark.parametrize("form", ["auto", "fused", "normal"])
@pytest.mark.parametrize("alpha", [0.5, [0.5, 1.0]])
def test_a_kernel_that_vanishes(data, form, alpha):
    X, y = data
    s = InducingPoints(20, form=form).solve(
        lambda x, z: Dense(torch.zeros(len(x), len(z), dtype=F)), X, y, alpha
    )
    assert s.status is Status.converged
    assert s.x.shape == ((0, 2) if alpha == 0.5 else (2, 0, 2))
    assert [note.code for note in s.report.notes] == ["NO_CENTERS"]


@pytest.mark.parametrize("n", [1, 2, 7, 31, 33])
def test_few_rows(n):
    X = torch.rand(n, 2, dtype=F) * 3
    y = torch.randn(n, dtype=F)
    s = InducingPoints(tol=1e-10).solve(kernel, X, y, 0.5)
    K = dense_kernel(X, X).matrix
    want = K @ torch.linalg.solve(K + 0.5 * torch.eye(n, dtype=F), y)
    torch.testing.assert_close(dense_kernel(X, s.extra["centers"]) @ s.x, want, rtol=0, atol=1e-8)


@pytest.mark.parametrize("size", [1e-150, 0.0, 1e150])
def test_sizes_of_targets(data, size):
    X, y = data
    method = InducingPoints(30, tol=1e-9)
    s, one = method.solve(kernel, X, size * y, 0.1), method.solve(kernel, X, y, 0.1)
    torch.testing.assert_close(s.x / (size or 1.0), one.x if size else 0 * one.x, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("form", ["fused", "normal"])
def test_no_alpha_and_no_weight(data, form):
    X, y = data
    Z = 4 * torch.rand(5, 2, dtype=F)
    method = InducingPoints(centers=Z, tol=1e-10, form=form)
    s = method.solve(kernel, X, y, 0.0)
    predictions_agree(X, s, torch.linalg.lstsq(dense_kernel(X, s.extra["centers"]).matrix, y).solution, 1e-7)
    s = method.solve(kernel, X, y, 0.5, sample_weight=torch.zeros(700))
    assert s.status is Status.converged
    assert bool((s.x == 0).all())


@pytest.mark.parametrize("kind", ["sampled", "krill", "falkon"])
def test_preconditioners(data, kind):
    X, y = data
    w = torch.rand(700, dtype=F)
    iterations = []
    for form in ("fused", "normal"):
        method = InducingPoints(60, tol=1e-9, preconditioner=kind, form=form)
        s = method.solve(kernel, X, y, 0.1, sample_weight=w)
        assert s.status is Status.converged
        predictions_agree(X, s, dense_solution(X, y, s.extra["centers"], 0.1, w), 1e-5)
        iterations.append(s.iterations)
    assert iterations[0] <= 30
    assert iterations[1] <= 3


def test_krill_sees_rows_on_which_everything_depends():
    """Centres far out that single rows determine, with weights of their own: a sample misses most of them."""
    torch.manual_seed(0)
    X = torch.rand(3000, 2, dtype=F)
    X[:60] = 100 + 10 * torch.arange(120, dtype=F).reshape(60, 2)
    w = torch.ones(3000, dtype=F)
    w[:60] = torch.logspace(0, 4, 60, dtype=F)
    y = torch.randn(3000, dtype=F)
    found = {
        kind: InducingPoints(centers=X[:80], tol=1e-8, preconditioner=kind, form="fused").solve(
            kernel, X, y, 1e-2, sample_weight=w, on_fail="ignore"
        )
        for kind in ("sampled", "krill")
    }
    assert found["krill"].status is Status.converged
    assert 2 * found["krill"].iterations < found["sampled"].iterations
    Z = found["krill"].extra["centers"]
    predictions_agree(X, found["krill"], dense_solution(X, y[:, None], Z, 1e-2, w)[:, 0], 1e-5)


def test_pivots_are_the_largest_of_all(data):
    """Otherwise the factor of a smooth kernel is so ill-conditioned that nothing is right."""
    X, y = data
    X, y = X[:500], y[:500]
    s = InducingPoints(500, tol=1e-8, form="normal").solve(kernel, X, y, 0.1)
    K = dense_kernel(X, X).matrix
    want = K @ torch.linalg.solve(K + 0.1 * torch.eye(500, dtype=F), y)
    torch.testing.assert_close(dense_kernel(X, s.extra["centers"]) @ s.x, want, rtol=0, atol=1e-6)


# ---------------------------------------------------------------- several alphas, warm starts


@pytest.mark.parametrize("form", ["fused", "normal"])
@pytest.mark.parametrize("vector", [False, True])
def test_several_alphas(data, form, vector):
    X, y = data
    y = y[:, 0] if vector else y
    alphas = torch.tensor([10.0, 0.1, 1.0], dtype=F)
    method = InducingPoints(40, tol=1e-9, form=form)
    s = method.solve(kernel, X, y, alphas)
    assert s.x.shape == (3, 40, *y.shape[1:])
    assert s.residual_norms.shape == (3, *y.shape[1:])
    for k, alpha in enumerate(alphas.tolist()):
        one = method.solve(kernel, X, y, alpha)
        assert torch.equal(one.extra["centers"], s.extra["centers"])
        K = dense_kernel(X, s.extra["centers"])
        torch.testing.assert_close(K @ s.x[k], K @ one.x, rtol=0, atol=1e-6)


def test_several_alphas_cost_about_one(data):
    X, y = data
    method = InducingPoints(40, tol=1e-8, form="fused")
    many = method.solve(kernel, X, y, np.logspace(-2, 2, 20))
    hardest = method.solve(kernel, X, y, 1e-2)
    assert many.report.passes < 1.5 * hardest.report.passes


def test_warm_start(data):
    X, y = data
    method = InducingPoints(centers=X[:40], tol=1e-8, form="fused")
    first = method.solve(kernel, X, y, 0.1)
    again = InducingPoints(centers=first.extra["centers"], tol=1e-7, form="fused").solve(
        kernel, X, y, 0.1, x0=first.x
    )
    assert again.iterations == 0
    torch.testing.assert_close(again.x, first.x, rtol=1e-6, atol=1e-6)
    near = method.solve(kernel, X, y, 0.1 * (1 + 1e-4), x0=first.x[..., method_order(first, X[:40]), :])
    assert near.iterations < first.iterations
    with pytest.raises(ShapeError, match=r"x0 has shape \(3,\); expected \(40, 2\)"):
        method.solve(kernel, X, y, 0.1, x0=torch.zeros(3))


def method_order(s, Z):
    """Where the given centres are among those of the result."""
    return torch.cdist(Z, s.extra["centers"]).argmin(1)


# ---------------------------------------------------------------- numbers of centres, memory


def test_number_of_centers_follows_the_spectrum():
    X = torch.rand(1500, 2, dtype=F)
    d = seen_dimension(kernel, X, torch.ones(1500, dtype=F), 1.0, 0)
    K = dense_kernel(X, X).matrix
    values = torch.linalg.eigvalsh(K).clamp_min(0)
    assert d == pytest.approx(float((values / (values + 1.0)).sum()), rel=0.1)
    assert d is not None
    s = InducingPoints().solve(kernel, X, X.sin(), 1.0)
    assert len(s.extra["centers"]) <= enough(d) < 1000
    assert f"{enough(d):,} centres" in s.report.choice[0]
    assert "effective dimension" in s.report.choice[0]
    with options(memory_limit=1 << 22):
        narrow = InducingPoints(max_iter=1).solve(
            lambda x, z: kernel(200 * x, 200 * z), X, X.sin(), 1.0, on_fail="ignore"
        )
        assert len(narrow.extra["centers"]) == most_centers(1500, 1 << 22) < 300
    assert "more than a subsample shows" in narrow.report.choice[0]


def test_memory_is_refused_before_anything_is_computed(data):
    X, y = data
    calls = []

    def counted(x, z):
        calls.append(len(x))
        return kernel(x, z)

    with (
        options(memory_limit=1 << 20),
        pytest.raises(OptionError, match=r"500 inducing points .* fewer n_centers"),
    ):
        InducingPoints(500).solve(counted, X, y, 0.1)
    assert not calls
    with options(memory_limit=1 << 20):  # the automatic number fits
        assert InducingPoints().solve(kernel, X, y, 0.1).converged
        assert most_centers(700, 1 << 20) < 200
    assert memory(10**6, 5, 1, 6000, memory_limit=1 << 30).dense <= 1 << 30
    assert memory(700, 2, 1, 60, alphas=9, memory_limit=1 << 30).matrices == 5 * 8 * 60 * 60


def test_report(data):
    X, y = data
    s = InducingPoints(40, form="fused").solve(kernel, X, y, 0.1)
    # two passes for each product; rows of the preconditioner, the right-hand side and Kmm on top
    assert 2 * (s.products - 1) < s.report.passes < 2 * s.products + 2
    assert {"rows", "factors", "products", "total"} <= set(s.report.seconds)
    assert "rows" in s.report.preconditioner
    once = InducingPoints(40, form="normal").solve(kernel, X, y, 0.1)
    assert once.report.passes < 1.2


def test_time_limit_and_stopping_while_preparing(data):
    X, y = data
    for form in ("fused", "normal"):
        with pytest.warns(ConvergenceWarning, match="time_limit"):
            s = InducingPoints(40, time_limit=0.0, form=form).solve(kernel, X, y, 0.1)
        assert s.status is Status.time_limit
        assert s.iterations == 0
        assert bool((s.x == 0).all())
        start = torch.randn(40, 2, dtype=F)
        method = InducingPoints(centers=X[:40], form=form)
        s = method.solve(kernel, X, y, 0.1, x0=start, callback=lambda p: p.phase != "iterate")
        assert s.status is Status.stopped
        torch.testing.assert_close(s.x.sum(0), start.sum(0))  # in the order of the centres kept


def test_time_limit_while_iterating(data):
    X, y = data

    def slow(progress):
        if progress.phase == "iterate":
            time.sleep(0.2)

    method = InducingPoints(40, tol=1e-14, time_limit=0.2, form="fused")
    with pytest.warns(ConvergenceWarning, match="time_limit"):
        s = method.solve(kernel, X, y, 1e-3, callback=slow)
    assert s.status is Status.time_limit


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize("m", [1, 2, 7, 31, 33, 300])
def test_symmetric_products(m):
    half = torch.randn(m, 5, dtype=F)
    total = torch.zeros(m, m, dtype=F)
    add_square(total, half)
    torch.testing.assert_close(mirrored(total), half @ half.T)


def test_factor_of_the_centers():
    X = torch.rand(33, 2, dtype=F)
    Z = torch.cat([X, X])
    factor = independent(dense_kernel(Z, Z), 1e-12)
    assert factor is not None
    T, keep = factor
    assert len(keep) <= 33
    torch.testing.assert_close(T, T.triu())
    torch.testing.assert_close(T.T @ T, dense_kernel(Z[keep], Z[keep]).matrix)
    assert independent(Dense(torch.full((3, 3), math.nan)), 1e-12) is None


@pytest.mark.parametrize("alpha", [torch.tensor(0.3, dtype=F), torch.tensor([0.3, 2.0], dtype=F)])
def test_whitening(alpha):
    half = torch.randn(7, 9, dtype=F)
    S = half @ half.T
    before = S.clone()
    C = whiten(S, alpha)
    assert torch.equal(S, before)
    v = torch.randn(*alpha.shape, 7, 2, dtype=F)
    torch.testing.assert_close(C.apply(C.solve(v)), v)
    shifted = S + alpha[..., None, None] * torch.eye(7, dtype=F)
    torch.testing.assert_close(C.solve(C.adjoint(v)), torch.linalg.solve(shifted, v))


def test_whitening_of_what_rounding_made_indefinite():
    S = torch.diag(torch.tensor([1.0, 0.0, -1e-9], dtype=F))
    C = whiten(S, torch.tensor(1e-12, dtype=F))
    v = C.solve(torch.ones(3, 1, dtype=F))
    assert bool(torch.isfinite(v).all())


@pytest.mark.parametrize("alpha", [torch.tensor(0.3, dtype=F), torch.tensor([0.3, 2.0], dtype=F)])
def test_normal_equations_as_an_operator(alpha):
    X, Z, w = torch.rand(31, 2, dtype=F), torch.rand(7, 2, dtype=F), torch.rand(31, dtype=F)
    K, Kmm = dense_kernel(X, Z).matrix, dense_kernel(Z, Z).matrix
    want = K.T @ (w[:, None] * K) + alpha[..., None, None] * Kmm
    for Knm in (kernel(X, Z), Blocks(dense_kernel, X, Z)):
        H = NormalEquations(Knm, kernel(Z, Z), w, alpha)
        b = torch.randn(7, 3, dtype=F)
        torch.testing.assert_close(H @ b, want @ b)
        torch.testing.assert_close(H.matmul(b, exact=True), want @ b)
        torch.testing.assert_close(H.dense(), want)
        torch.testing.assert_close(H.diag(), want.diagonal(dim1=-2, dim2=-1))
        torch.testing.assert_close(H.rows([1, 4], [0, 2]), want[..., [1, 4], :][..., [0, 2]])
        again = H.with_tensors([2 * t for t in H.tensors])
        assert not torch.allclose(again.dense(), want)


def test_blocks_of_a_kernel_function():
    X, Z = torch.rand(33, 2, dtype=F), torch.rand(7, 2, dtype=F)
    A, want = Blocks(dense_kernel, X, Z), dense_kernel(X, Z).matrix
    torch.testing.assert_close(A.dense(), want)
    torch.testing.assert_close(A.T.dense(), want.T)
    torch.testing.assert_close(A.T @ X, want.T @ X)
    torch.testing.assert_close(A @ Z, want @ Z)
    torch.testing.assert_close(A.rows([3, 1], [2]), want[[3, 1]][:, [2]])
    torch.testing.assert_close(A.T.rows([3, 1], [2]), want.T[[3, 1]][:, [2]])
    torch.testing.assert_close(Blocks(dense_kernel, X, X).diag(), torch.ones(33, dtype=F))


# ---------------------------------------------------------------- gradients

RATE = exp(-Pm(2, 1) * sqdist(Vi(0, 2), Vj(1, 2)))


def with_rate(rate):
    return lambda x, z: KernelOperator(RATE, (x, z, rate))


def dense_with_rate(rate):
    return lambda x, z: Dense(torch.exp(-rate * (x[:, None] - z).square().sum(-1)))


def formula(X, Z, y, w, alpha, rate):
    """The coefficients by dense algebra."""
    K, Kmm = dense_with_rate(rate)(X, Z).matrix, dense_with_rate(rate)(Z, Z).matrix
    H = K.T @ (w[:, None] * K) + alpha[..., None, None] * Kmm
    return torch.linalg.solve(H, K.T @ (w[:, None] * y))


def found(form, make, X, Z, y, w, alpha, rate):
    method = InducingPoints(tol=1e-12, centers=Z, form=form)
    s = method.solve(make(rate), X, y, alpha, sample_weight=w, on_fail="raise")
    order = torch.cdist(Z.detach(), s.extra["centers"].detach()).argmin(1)
    return s.x[..., order, :]


def leaves(alpha=0.3):
    X = 3 * torch.rand(8, 2, dtype=F)
    Z = torch.tensor([[0.3, 0.2], [2.4, 0.5], [1.2, 2.6]], dtype=F)
    rest = (torch.randn(8, 2, dtype=F), torch.rand(8, dtype=F) + 0.5, torch.tensor(alpha, dtype=F))
    return tuple(t.requires_grad_() for t in (X, Z, *rest, torch.tensor([0.7], dtype=F)))


@pytest.mark.parametrize("alpha", [0.3, [0.3, 1.5]])
@pytest.mark.parametrize("make", [with_rate, dense_with_rate])
@pytest.mark.parametrize("form", ["fused", "normal"])
def test_gradients_are_those_of_the_dense_formula(form, make, alpha):
    inputs = leaves(alpha)
    weight = torch.randn(formula(*inputs).shape, dtype=F)
    want, got = formula(*inputs), found(form, make, *inputs)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)
    first = [torch.autograd.grad((x * weight).sum(), inputs, create_graph=True) for x in (want, got)]
    for a, b in zip(*first, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-8, atol=1e-10)
    second = [
        torch.autograd.grad(torch.stack([g.sin().sum() for g in grads]).sum(), inputs) for grads in first
    ]
    for a, b in zip(*second, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("form", ["fused", "normal"])
def test_gradcheck(form):
    inputs = leaves()
    assert torch.autograd.gradcheck(lambda *t: found(form, with_rate, *t), inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *t: found(form, with_rate, *t), inputs, fast_mode=True)


@pytest.mark.parametrize("alpha", [0.3, [0.3, 1.5]])
def test_many_cotangents_at_once(alpha):
    inputs = leaves(alpha)
    x = found("fused", with_rate, *inputs)
    cotangents = torch.randn(3, *x.shape, dtype=F)
    pull = lambda g: torch.autograd.grad(x, inputs, g, retain_graph=True)  # noqa: E731
    together = torch.func.vmap(pull)(cotangents)
    for k, g in enumerate(cotangents):
        for all_of_them, one in zip(
            together, torch.autograd.grad(x, inputs, g, retain_graph=True), strict=True
        ):
            torch.testing.assert_close(all_of_them[k], one, rtol=1e-8, atol=1e-10)


def test_gradients_of_centers_that_are_rows():
    """X is the rows and, by some of them, the centres."""
    X, _, y, w, alpha, rate = leaves()

    def value(X):
        s = InducingPoints(3, tol=1e-12).solve(with_rate(rate), X, y, alpha, sample_weight=w)
        assert s.extra["centers"].requires_grad
        return with_rate(rate)(X, s.extra["centers"]) @ s.x

    assert torch.autograd.gradcheck(value, (X,), fast_mode=True)


def test_gradients_in_float32_and_of_numpy(data):
    X, y = data[0][:50].float(), data[1][:50].float().requires_grad_()
    s = InducingPoints(10, form="fused", tol=1e-5).solve(kernel, X, y, 0.1)
    assert s.x.dtype == torch.float32
    s.x.sum().backward()
    exact = data[1][:50].clone().requires_grad_()
    method = InducingPoints(centers=s.extra["centers"].double(), tol=1e-10)
    method.solve(kernel, X.double(), exact, 0.1).x.sum().backward()
    torch.testing.assert_close(
        y.grad.double(), exact.grad, rtol=1e-2, atol=1e-2 * float(exact.grad.abs().max())
    )
    rate = torch.tensor([0.7], dtype=F, requires_grad=True)
    plain = InducingPoints(10).solve(with_rate(rate), data[0].numpy(), data[1].numpy(), 0.1)
    assert isinstance(plain.x, np.ndarray)


def test_a_gradient_that_fails_is_not_silent(data):
    X, y = data[0], data[1].requires_grad_()
    method = InducingPoints(40, tol=1e-9, max_iter=2, form="fused")
    with pytest.warns(ConvergenceWarning):
        s = method.solve(kernel, X, y, 1e-3)
    with pytest.warns(ConvergenceWarning, match="gradient of a solve"):
        s.x.sum().backward()


def test_no_gradients_are_recorded_where_none_are_asked_for(data):
    X, y = data
    y.requires_grad_()
    with torch.no_grad():
        assert not InducingPoints(10).solve(kernel, X, y, 0.1).x.requires_grad


def test_transforms_are_refused(data):
    X, y = data
    solve = InducingPoints(10).solve
    for f in (
        lambda t: solve(kernel, X, y, t).x.sum(),
        lambda t: solve(kernel, X, t * y, 0.1).x.sum(),
        lambda t: solve(with_rate(t.reshape(1)), X, y, 0.1).x.sum(),
    ):
        with pytest.raises(BackendUnavailable, match="inducing points"):
            torch.func.grad(f)(torch.tensor(0.5, dtype=F))


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
    with pytest.raises(OptionError, match="preconditioner='best'"):
        InducingPoints(preconditioner="best")
    with pytest.raises(OptionError, match="time_limit=-1"):
        InducingPoints(time_limit=-1)
    with pytest.raises(ShapeError, match=r"alpha has shape \(2, 2\)"):
        InducingPoints(3).solve(kernel, X, y, torch.ones(2, 2))
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

"""What all methods on the block-descent loop must do: outcomes, true residuals, columns, accounting."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kerngp.engine.expr import Vi, Vj
from kerngp.engine.ops import exp, sqdist
from kerngp.errors import ConvergenceWarning, OptionError, ShapeError, SolveError
from kerngp.solvers import (
    AlternatingProjection,
    ASkotch,
    Dense,
    KernelOperator,
    RPCholesky,
    Status,
    StochasticDualDescent,
    identity,
    solve,
)
from kerngp.solvers.meter import metering
from kerngp.solvers.partition import local_blocks

F = torch.float64
METHODS = {
    "askotch": lambda size, **kw: ASkotch(block=size, **kw),
    "nystrom": lambda size, **kw: ASkotch(block=size, rank=max(1, size // 2), **kw),
    "alternating": lambda size, **kw: AlternatingProjection(block=size, **kw),
    "contiguous": lambda size, **kw: AlternatingProjection(block=size, local=False, **kw),
    "sdd": lambda size, **kw: StochasticDualDescent(batch=size, **kw),
}
all_methods = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


def spd(low: float, high: float, n: int, dtype: torch.dtype = F) -> torch.Tensor:
    """A symmetric matrix with n eigenvalues from ``low`` to ``high``."""
    Q, _ = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(1), dtype=F))
    A = (Q * torch.linspace(low, high, n, dtype=F)) @ Q.T
    return ((A + A.T) / 2).to(dtype)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F)


def true_residual(A: torch.Tensor, x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    A, x, b = A.double(), x.double(), b.double()
    return (b - A @ x).norm(dim=-2) / b.norm(dim=-2)


def kernel(n: int, alpha: float = 0.1, dtype: torch.dtype = F):
    """A kernel operator and its matrix."""
    x = random(n, 2).to(dtype)
    A = KernelOperator(exp(-sqdist(Vi(0, 2), Vj(1, 2))), (x, x), psd=True) + alpha * identity(n)
    K = torch.exp(-(torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist") ** 2))
    return A, K + alpha * torch.eye(n, dtype=F)


# ---------------------------------------------------------------- convergence


@all_methods
@pytest.mark.parametrize("n", [1, 2, 7, 31, 33, 300])
def test_known_spectrum(make, n):
    A, b = spd(1.0, 10.0, n), random(n, 3)
    size = 7 if n < 100 else 64
    s = solve(Dense(A, psd=True), b, make(size, tol=1e-8, max_passes=2000))
    assert s.status is Status.converged
    assert float(true_residual(A, s.x, b).max()) <= 1e-8
    torch.testing.assert_close(s.residual_norms, true_residual(A, s.x, b), rtol=1e-3, atol=1e-15)
    torch.testing.assert_close(s.x, torch.linalg.solve(A, b), rtol=0, atol=1e-7 * float(b.norm()))


@all_methods
def test_kernel_operator(make):
    A, dense = kernel(150)
    b = random(150, 2)
    s = solve(A, b, make(32, tol=1e-6, max_passes=3000))
    assert s.converged
    assert float(true_residual(dense, s.x, b).max()) <= 1.01e-6


@all_methods
@pytest.mark.parametrize("dtype", [torch.float32, F])
def test_float32_operator_with_a_float64_right_hand_side_reaches_float64_residuals(make, dtype):
    A, dense = kernel(100, 1.0, torch.float32)
    b = random(100, 1).to(dtype)
    tol = 1e-10 if dtype == F else 1e-6
    s = solve(A, b, make(20, tol=tol, max_passes=3000))
    assert s.converged
    assert s.x.dtype == dtype
    assert float(true_residual(dense, s.x, b).max()) <= 1.01 * tol


@all_methods
def test_float32_result_that_cannot_be_that_good_has_stagnated(make):
    A, _ = kernel(60, 1.0, torch.float32)
    s = solve(A, random(60, 1).float(), make(20, tol=1e-9, max_passes=3000), on_fail="ignore")
    assert s.status is Status.stagnated
    assert float(s.residual_norms.max()) < 1e-6


@all_methods
def test_zero_columns_and_scales(make):
    A = spd(1.0, 4.0, 40)
    b = random(40, 4)
    b[:, 1] = 0
    b[:, 2] *= 1e-150
    b[:, 3] *= 1e150
    s = solve(Dense(A, psd=True), b, make(11, tol=1e-6, max_passes=1000))
    assert s.converged
    assert not s.x[:, 1].any()
    assert float(s.residual_norms[1]) == 0
    assert float((s.residual_norms).max()) <= 1e-6
    assert solve(Dense(A, psd=True), torch.zeros(40, dtype=F), make(11)).iterations == 0


@all_methods
@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_badly_scaled_matrix(make, scale):
    A, b = spd(1.0, 4.0, 40), random(40)
    s = solve(Dense(scale * A, psd=True), b, make(11, tol=1e-6, max_passes=1000))
    assert s.converged
    torch.testing.assert_close(s.x * scale, torch.linalg.solve(A, b), rtol=0, atol=1e-5)


@all_methods
def test_batch_of_right_hand_sides(make):
    A, b = spd(1.0, 4.0, 20), random(2, 3, 20, 2)
    s = solve(Dense(A, psd=True), b, make(7, tol=1e-8, max_passes=1000))
    torch.testing.assert_close(s.x, torch.linalg.solve(A, b), rtol=0, atol=1e-6)
    assert s.residual_norms.shape == (2, 3, 2)
    assert s.history.shape == (s.iterations + 1, 2, 3, 2)


@all_methods
def test_vector_and_numpy(make):
    A, b = spd(1.0, 4.0, 20), random(20).numpy()
    s = solve(A.numpy(), b, make(7, tol=1e-8, max_passes=1000))
    assert isinstance(s.x, np.ndarray)
    np.testing.assert_allclose(A.numpy() @ s.x, b, atol=1e-7)
    assert s.history.shape == (s.iterations + 1,)


@all_methods
def test_no_rows_and_no_columns(make):
    A = Dense(spd(1.0, 4.0, 20), psd=True)
    assert solve(A, torch.zeros(20, 0, dtype=F), make(7)).x.shape == (20, 0)
    nothing = Dense(torch.zeros(0, 0, dtype=F), psd=True)
    assert solve(nothing, torch.zeros(0, 2, dtype=F), make(7)).x.shape == (0, 2)


@all_methods
def test_same_seed_same_result(make):
    A, b = kernel(70)[0], random(70, 2)
    runs = [solve(A, b, make(16, max_passes=3, random_state=k), on_fail="ignore").x for k in (3, 3)]
    assert torch.equal(*runs)


@pytest.mark.parametrize("name", ["askotch", "nystrom", "sdd"])
def test_other_seed_other_result(name):
    A, b = kernel(70)[0], random(70, 2)
    runs = [solve(A, b, METHODS[name](16, max_passes=3, random_state=k), on_fail="ignore").x for k in (3, 4)]
    assert not torch.equal(*runs)


@all_methods
def test_warm_start(make):
    A, b = spd(1.0, 10.0, 60), random(60, 2)
    exact = torch.linalg.solve(A, b)
    method = make(16, tol=1e-6, max_passes=1000)
    operator = Dense(A, psd=True)
    at_once = solve(operator, b, method, x0=exact)
    assert at_once.converged
    assert at_once.iterations == 0
    near = solve(operator, b, method, x0=exact + 1e-5 * random(60, 2, seed=2))
    assert near.converged
    assert near.iterations < solve(operator, b, method).iterations


# ---------------------------------------------------------------- outcomes


@all_methods
def test_few_passes_give_a_better_start(make):
    A, dense = kernel(200, 0.1)
    b = dense[:, ::40].sum(1)
    s = solve(A, b, make(50, max_passes=1, tol=1e-10), on_fail="ignore")
    assert s.status is Status.max_iter
    error = s.x - torch.linalg.solve(A.dense(), b)
    assert float(error @ (A @ error)) < 0.9 * float(b @ torch.linalg.solve(A.dense(), b))
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        solve(A, b, make(50, max_passes=1, tol=1e-10))
    with pytest.raises(SolveError):
        solve(A, b, make(50, max_passes=1, tol=1e-10), on_fail="raise")


@all_methods
def test_passes_are_counted(make):
    A, b = kernel(200, 0.01)[0], random(200)
    with metering() as meter:
        s = solve(A, b, make(50, max_passes=4, tol=1e-10), on_fail="ignore")
    assert s.iterations == 16
    passes = meter.passes(200 * 200)
    assert 5 <= passes < 5 + (4 if "rank" not in s.detail else 16)  # blocks themselves: a quarter each
    assert s.products == 5


@all_methods
def test_callback_and_time_limit(make):
    A, b = kernel(100, 0.01)[0], random(100, 2)
    seen = []
    s = solve(A, b, make(25, tol=1e-10), callback=lambda p: seen.append(p) or p.iteration == 3)
    assert s.status is Status.stopped
    assert [p.iteration for p in seen] == [1, 2, 3]
    assert seen[0].residual_norms.shape == (2,)
    assert seen[0].active == 2
    assert seen[0].total > 3
    torch.testing.assert_close(s.residual_norms, true_residual(A.dense(), s.x, b))
    late = solve(A, b, make(25, tol=1e-10, time_limit=1e-9), on_fail="ignore")
    assert late.status is Status.time_limit
    assert late.iterations == 1
    assert bool(torch.isfinite(late.x).all())


@all_methods
def test_nan(make):
    A, b = spd(1.0, 4.0, 20), random(20, 2)
    for where in ("matrix", "b", "inf"):
        M, c = A.clone(), b.clone()
        if where == "b":
            c[3, 1] = math.nan
        else:
            M[4, 5] = M[5, 4] = math.nan if where == "matrix" else math.inf
        s = solve(Dense(M, psd=True), c, make(7), on_fail="ignore")
        assert s.status is Status.nan
        assert bool(torch.isnan(s.x).all())
        assert s.iterations < 10


@all_methods
def test_nan_between_blocks(make):
    """Every diagonal block of the contiguous partition is fine; the product is not."""
    A = spd(1.0, 4.0, 20)
    A[2, 19] = A[19, 2] = math.nan
    s = solve(Dense(A, psd=True), random(20), make(5), on_fail="ignore")
    assert s.status is Status.nan
    assert bool(torch.isnan(s.x).all())
    assert bool(torch.isnan(s.residual_norms).all())


@all_methods
def test_indefinite_block(make):
    A = spd(1.0, 4.0, 30)
    A -= 10.0 * torch.eye(30, dtype=F)
    s = solve(Dense(A, symmetric=True), random(30), make(10), on_fail="ignore")
    assert s.status is Status.indefinite
    assert s.report.suggested_alpha is not None
    assert 9 < s.report.suggested_alpha < 27
    assert bool(torch.isfinite(s.x).all())


@all_methods
def test_indefinite_with_definite_blocks(make):
    """[[I, 2 I], [2 I, I]] has eigenvalues 3 and -1; no contiguous block of 4 shows it."""
    one = torch.eye(4, dtype=F)
    A = torch.cat([torch.cat([one, 2 * one], 1), torch.cat([2 * one, one], 1)], 0)
    s = solve(Dense(A, symmetric=True), random(8), make(4, max_passes=500), on_fail="ignore")
    assert s.status is Status.indefinite
    assert s.report.suggested_alpha is not None
    assert 1 < s.report.suggested_alpha < 3


@all_methods
def test_singular(make):
    """Consistent or not, it ends with what it says."""
    Q, _ = torch.linalg.qr(random(24, 24))
    d = torch.ones(24, dtype=F)
    d[:6] = 0
    A = (Q * d) @ Q.T
    A = (A + A.T) / 2
    for b in (A @ random(24), random(24)):
        s = solve(Dense(A, psd=True), b, make(6, tol=1e-6, max_passes=300), on_fail="ignore")
        assert s.status in (Status.converged, Status.max_iter, Status.stagnated, Status.indefinite)
        found = float((b - A @ s.x).norm() / b.norm())
        assert s.converged == (found <= 1e-6)
        assert abs(found - float(s.residual_norms)) <= 1e-8


@all_methods
def test_columns_that_are_done_are_left_alone(make):
    A = Dense(spd(1.0, 10.0, 60), psd=True)
    b = random(60, 3)
    exact = torch.linalg.solve(A.matrix, b)
    x0 = torch.zeros_like(b)
    x0[:, 0] = exact[:, 0]
    active = []
    s = solve(A, b, make(16, max_passes=1000), x0=x0, callback=lambda p: active.append(p.active))
    assert s.converged
    assert active[0] == 2
    assert torch.equal(s.x[:, 0], exact[:, 0])


@all_methods
def test_refusals(make):
    A = torch.eye(4, dtype=F)
    with pytest.raises(ShapeError, match="symmetric"):
        solve(Dense(A + torch.triu(A.new_ones(4, 4))), random(4), make(2))
    with pytest.raises(ShapeError, match="one matrix"):
        solve(Dense(A.expand(2, 4, 4), psd=True), random(4), make(2))
    for bad in ({"tol": 0.0}, {"tol": 2.0}, {"max_passes": 0}, {"refresh": -1}, {"patience": 0}):
        with pytest.raises(OptionError, match=next(iter(bad))):
            make(2, **bad)
    for size in (0, -1, 1.5, True):
        with pytest.raises(OptionError, match="positive integer"):
            make(size)


@all_methods
def test_a_preconditioner_is_said_to_be_unused(make):
    A, b = kernel(30, 1.0)[0], random(30)
    s = solve(A, b, make(10, max_passes=1000), preconditioner=RPCholesky(5))
    assert [note.code for note in s.report.notes] == ["UNUSED"]


# ---------------------------------------------------------------- the partition


@pytest.mark.parametrize(("n", "size"), [(1, 1), (2, 1), (7, 3), (33, 32), (300, 64), (5, 9)])
def test_partition(n, size):
    A = kernel(n)[0]
    blocks = local_blocks(A, size, torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat(blocks).sort().values, torch.arange(n))
    assert max(map(len, blocks)) <= size
    assert len(blocks) == -(-n // size)


def test_partition_is_local():
    centres = 10.0 * torch.arange(4, dtype=F)
    x = (centres.repeat(25) + 0.1 * random(100)).reshape(-1, 1)
    A = KernelOperator(exp(-sqdist(Vi(0, 1), Vj(1, 1)) / 25), (x, x), psd=True)
    for block in local_blocks(A, 25, torch.Generator().manual_seed(0)):
        assert float(x[block].max() - x[block].min()) < 5


def test_partition_of_a_matrix_without_diagonal():
    blocks = local_blocks(Dense(torch.zeros(6, 6, dtype=F), psd=True), 2, torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat(blocks).sort().values, torch.arange(6))

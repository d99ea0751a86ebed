"""What every solver must do, with every preconditioner, on every kind of operator: see `table.py`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from table import SOLVERS, F, cases, dense, orthogonal, pairs, plain, rounding, spectrum, true_residual

from kerngp.errors import KerngpError, ShapeError
from kerngp.solvers import Dense, Status, identity, solve

TABLE = pytest.mark.parametrize("case", list(cases()), ids=str)
PAIRS = pytest.mark.parametrize("case", list(pairs()), ids=str)
PLAIN = pytest.mark.parametrize("case", list(plain()), ids=str)
ITERATIVE = pytest.mark.parametrize("case", [c for c in plain() if not c.solver.direct], ids=str)
N = 33


def honest(A, s, b, tol) -> bool:
    """Whether the status is a typed one, and a claim of success is true."""
    assert isinstance(s.status, Status)
    return s.status is not Status.converged or true_residual(A, s.x, b) <= tol + rounding(A, s.x, b)


# ---------------------------------------------------------------- solves


@TABLE
def test_solves(case):
    A, b = case.operator(N, case.dtype), case.rhs(N)
    s = case.solve(A, b)
    assert s.status is Status.converged
    assert (s.x.shape, s.x.dtype) == (b.shape, case.dtype)
    assert s.residual_norms.shape == b.shape[1:]
    assert true_residual(A, s.x, b) <= case.tol
    matrix = A.matmul(torch.eye(N, dtype=F), exact=True)
    want = torch.linalg.solve(matrix, b.double())
    bound = 2 * case.tol * float(torch.linalg.cond(matrix)) * float(want.norm())
    torch.testing.assert_close(s.x.double(), want, rtol=0, atol=bound)


@PAIRS
@pytest.mark.parametrize("n", [1, 2, 7, 31, 80])
def test_sizes(case, n):
    A, b = dense(n, F), case.rhs(n)
    s = case.solve(A, b)
    assert s.status is Status.converged
    assert true_residual(A, s.x, b) <= case.tol


@PAIRS
def test_float64_vectors_of_a_float32_matrix(case):
    """The matrix is rounded once; the answer is as good as float64 can make it."""
    A, b = dense(N, torch.float32), case.rhs(N)
    s = case.solve(A, b)
    assert s.x.dtype == F
    assert s.status is Status.converged
    assert true_residual(A, s.x, b) <= case.tol


@PAIRS
def test_zero(case):
    b = replace(case, columns=3).rhs(N)
    b[:, 1] = 0
    s = case.solve(dense(N, F), b)
    assert s.status is Status.converged
    assert torch.equal(s.x[:, 1], torch.zeros(N, dtype=F))
    assert float(s.residual_norms[1]) == 0.0
    nothing = case.solve(dense(N, F), torch.zeros(N, 2, dtype=F))
    assert nothing.status is Status.converged
    assert torch.equal(nothing.x, torch.zeros(N, 2, dtype=F))


@PAIRS
def test_start(case):
    A, b = dense(N, F), case.rhs(N)
    x = torch.linalg.solve(A.dense(), b)
    near = case.solve(A, b, tol=1e-8, x0=x)
    assert near.status is Status.converged
    torch.testing.assert_close(near.x, x, rtol=0, atol=1e-6)
    far = case.solve(A, b, x0=1e3 * case.rhs(N).flip(0))
    assert far.status is Status.converged
    assert true_residual(A, far.x, b) <= case.tol
    if not case.solver.direct:
        assert near.iterations == 0


@PAIRS
def test_libraries(case):
    A, b = dense(N, F), case.rhs(N).squeeze(-1)
    s = case.solve(A, b.numpy())
    assert isinstance(s.x, np.ndarray)
    assert s.x.shape == (N,)
    assert isinstance(s.residual_norms, np.ndarray)
    assert true_residual(A, s.x, b) <= case.tol


# ---------------------------------------------------------------- what can not be solved


@PAIRS
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_a_number_in_b(case, bad):
    b = case.rhs(N)
    b[5] = bad
    s = case.solve(dense(N, F), b)
    assert s.status is Status.nan
    assert bool(torch.isnan(s.x).all())


@PAIRS
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_a_number_in_the_matrix(case, bad):
    """A typed status, or (if a preconditioner can not be built) a typed error."""
    K = dense(N, F).base.dense().clone()
    K[3, 7] = K[7, 3] = bad
    try:
        s = case.solve(Dense(K, psd=True) + 0.5 * identity(N), case.rhs(N))
    except KerngpError:
        assert case not in list(plain())
        return
    assert s.status is Status.nan
    assert bool(torch.isnan(s.x).all())
    assert bool(torch.isnan(s.residual_norms).all())


@PLAIN
def test_indefinite(case):
    values = torch.logspace(0, 2, N, dtype=F)
    values[::2] *= -1
    A = Dense(spectrum(values), symmetric=True)
    s = case.solve(A, case.rhs(N))
    assert s.status is Status.indefinite


@PLAIN
def test_slightly_indefinite(case):
    """One small negative eigenvalue: found, or the residual is met all the same."""
    values = torch.logspace(-3, 2, N, dtype=F)
    values[0] = -1e-3
    A, b = Dense(spectrum(values), symmetric=True), case.rhs(N)
    s = case.solve(A, b)
    assert s.status in (Status.indefinite, Status.converged, Status.stagnated, Status.max_iter)
    assert honest(A, s, b, case.tol)


@PLAIN
def test_singular(case):
    """b in the range of the matrix can be solved for, any other b can not."""
    values = torch.logspace(0, 2, N, dtype=F)
    values[: N // 3] = 0
    A, b = Dense(spectrum(values), psd=True), case.rhs(N)
    Q = orthogonal(N)[:, N // 3 :]
    inside = Q @ (Q.T @ b)
    s = case.solve(A, inside, tol=1e-8)
    assert honest(A, s, inside, 1e-8)
    assert case.solver.direct or s.status is Status.converged
    s = case.solve(A, b, tol=1e-8)
    assert s.status in (Status.indefinite, Status.stagnated, Status.max_iter)
    zero = case.solve(Dense(torch.zeros(N, N, dtype=F), psd=True), b)
    assert zero.status in (Status.indefinite, Status.stagnated, Status.max_iter)


@PLAIN
def test_not_symmetric(case):
    with pytest.raises(ShapeError, match="symmetric"):
        case.solve(Dense(torch.triu(torch.ones(N, N, dtype=F))), case.rhs(N))


# ---------------------------------------------------------------- scales


@PAIRS
def test_right_hand_sides_of_any_size(case):
    A = dense(N, F)
    b = case.rhs(N) * torch.tensor([1e-150, 1.0, 1e150], dtype=F)
    s = case.solve(A, b)
    assert s.status is Status.converged
    assert true_residual(A, s.x, b) <= case.tol
    mixed = case.rhs(N) * torch.logspace(-150, 150, N, dtype=F)[:, None]
    s = case.solve(A, mixed)
    assert s.status is Status.converged
    assert true_residual(A, s.x, mixed) <= case.tol


@PAIRS
@pytest.mark.parametrize("factor", [1e100, 1e15, 1e-15, 1e-100])
def test_matrices_of_any_size(case, factor):
    dtype = torch.float32 if 1e-20 < factor < 1e20 else F
    case = replace(case, dtype=dtype)
    K, b = factor * dense(N, F).base.dense(), case.rhs(N)
    A = Dense(K.to(dtype), psd=True) + 0.5 * factor * identity(N)
    s = case.solve(A, b)
    assert s.status is Status.converged
    assert honest(A, s, b, case.tol)


@PAIRS
@pytest.mark.parametrize("exponent", [-10, -14, -18])
def test_huge_condition_number(case, exponent):
    """Solved or given up; whatever is said is true."""
    for dtype in (F, torch.float32):
        case = replace(case, dtype=dtype)
        K, b = spectrum(torch.logspace(exponent, 0, N, dtype=F)), case.rhs(N)
        A = Dense(K.to(dtype), psd=True) + 10.0**exponent * identity(N)
        limit = {} if case.solver.direct else {case.solver.limit: 50}
        s = case.solve(A, b, tol=1e-6, **limit)
        assert honest(A, s, b, 1e-6)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    solver=st.sampled_from(SOLVERS),
    n=st.integers(1, 40),
    low=st.floats(-16, 0),
    high=st.floats(0, 6),
    alpha=st.sampled_from([0.0, 1e-12, 1e-6, 1e-2]),
    negative=st.booleans(),
    tol=st.sampled_from([1e-3, 1e-6, 1e-9]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    seed=st.integers(0, 2**16),
)
def test_success_is_never_claimed_falsely(solver, n, low, high, alpha, negative, tol, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    values = 10 ** (low + (high - low) * torch.rand(n, generator=generator, dtype=F))
    values[0] *= -1 if negative else 1
    b = torch.randn(n, 2, generator=generator, dtype=F).to(dtype)
    A = Dense(spectrum(values).to(dtype), symmetric=True) + alpha * identity(n)
    s = solve(A, b, solver(tol), on_fail="ignore")
    assert honest(A, s, b, tol)
    if bool(torch.isfinite(s.x).all()):
        noise = 1e-12 + rounding(A, s.x, b)
        assert float(s.residual_norms.max()) == pytest.approx(true_residual(A, s.x, b), rel=0.01, abs=noise)


# ---------------------------------------------------------------- limits


@ITERATIVE
def test_limits(case):
    A, b = dense(150, F), case.rhs(150)
    assert case.solve(A, b, **{case.solver.limit: 1}).status is Status.max_iter
    assert case.solve(A, b, callback=lambda progress: True).status is Status.stopped
    s = case.solve(A, b, time_limit=0.0)
    assert s.status is Status.time_limit
    assert bool(torch.isfinite(s.x).all())


# ---------------------------------------------------------------- gradients


@PAIRS
def test_gradients(case):
    """By the implicit rule, through the solver itself: b, the matrix and alpha."""
    n = 3
    root = spectrum(torch.linspace(1, 2, n, dtype=F)).requires_grad_()
    alpha = torch.tensor(0.5, dtype=F, requires_grad=True)
    b = replace(case, columns=None).rhs(n).requires_grad_()

    def f(root, b, alpha):
        A = Dense(root @ root.T, psd=True) + alpha * identity(n)
        return case.solve(A, b, tol=1e-12).x

    assert torch.autograd.gradcheck(f, (root, b, alpha))
    assert torch.autograd.gradgradcheck(f, (root, b, alpha), fast_mode=True)

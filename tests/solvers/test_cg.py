"""Conjugate gradients on matrices with known spectra: outcomes, residuals, and that it always ends."""

from __future__ import annotations

import math
import os
import signal
import time

import numpy as np
import pytest
import torch

from kerngp.errors import ConvergenceWarning, DTypeError, OptionError, ShapeError, SolveError
from kerngp.solvers import CG, Cholesky, Dense, Status, identity, solve
from kerngp.solvers.operator import LinearOperator

F = torch.float64
N = 120


def spd(exponent: float, n: int = N, dtype: torch.dtype = F) -> torch.Tensor:
    """A symmetric matrix with eigenvalues from 1 to 10 ** exponent."""
    Q, _ = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(1), dtype=F))
    A = (Q * torch.logspace(0, exponent, n, dtype=F)) @ Q.T
    return ((A + A.T) / 2).to(dtype)


def true_residual(A: torch.Tensor, x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    A, x, b = A.double(), x.double(), b.double()
    return (b - A @ x).norm(dim=-2) / b.norm(dim=-2)


class Counting(LinearOperator):
    """A dense operator that records how many columns every product had."""

    def __init__(self, matrix: torch.Tensor):
        self.inner, self.columns = Dense(matrix, psd=True), []
        self.shape, self.torch_dtype, self.device = self.inner.shape, matrix.dtype, matrix.device
        self.symmetric = self.psd = True

    def _matmul(self, b, exact):
        self.columns.append(b.shape[-1])
        return self.inner._matmul(b, exact)

    def _transpose(self):
        return self

    def _diag(self):
        return self.inner._diag()

    def _rows(self, idx, cols):
        return self.inner._rows(idx, cols)

    @property
    def tensors(self):
        return self.inner.tensors

    def with_tensors(self, tensors):
        return Counting(tensors[0])


# ---------------------------------------------------------------- convergence


@pytest.mark.parametrize("exponent", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("n", [1, 7, 33, 120])
def test_converges_to_the_solution(n, exponent):
    A = spd(exponent, n)
    b = torch.randn(n, 4, dtype=F)
    s = solve(Dense(A, psd=True), b, CG(tol=1e-10))
    assert s.status is Status.converged
    assert s.converged
    assert s.residual_norms.shape == (4,)
    assert float(s.residual_norms.max()) <= 1e-10
    torch.testing.assert_close(s.x, torch.linalg.solve(A, b), rtol=0, atol=1e-8)


def test_residual_is_the_true_one():
    for dtype in (F, torch.float32):
        A = spd(4.0, dtype=dtype)
        b = torch.randn(N, 3, dtype=dtype)
        for tol in (1e-3, 1e-7):
            s = solve(Dense(A, psd=True), b, CG(tol=tol), on_fail="ignore")
            torch.testing.assert_close(s.residual_norms, true_residual(A, s.x, b), rtol=1e-3, atol=1e-12)
            assert (s.status is Status.converged) == bool((true_residual(A, s.x, b) <= tol).all())


def test_few_distinct_eigenvalues_take_few_iterations():
    Q, _ = torch.linalg.qr(torch.randn(N, N, dtype=F))
    d = torch.tensor([1.0, 5.0, 40.0], dtype=F).repeat(N // 3)
    s = solve(Dense((Q * d) @ Q.T, symmetric=True), torch.randn(N, dtype=F), CG(tol=1e-9))
    assert s.iterations == 3


def test_columns_converge_on_their_own_and_leave():
    A = spd(3.0)
    values, vectors = torch.linalg.eigh(A)
    easy = vectors[:, [3, 50]]  # one iteration each
    hard = torch.randn(N, 2, dtype=F)
    b = torch.cat([easy[:, :1], hard[:, :1], easy[:, 1:], torch.zeros(N, 1, dtype=F), hard[:, 1:]], 1)
    K = Counting(A)
    s = solve(K, b, CG(tol=1e-10))
    torch.testing.assert_close(s.x, torch.linalg.solve(A, b), rtol=0, atol=1e-8)
    assert s.status is Status.converged
    assert K.columns[0] == 4  # the zero column is never worked on
    assert K.columns[-1] <= 2
    alone = solve(Dense(A, psd=True), hard[:, 0], CG(tol=1e-10))
    assert abs(alone.iterations - s.iterations) <= 10  # company does not slow a column down


def test_scale_of_the_right_hand_side_does_not_matter():
    A = Dense(spd(2.0), psd=True)
    b = torch.randn(N, dtype=F)
    reference = solve(A, b, CG())
    for factor in (2.0**-660, 2.0**-100, 2.0**660):  # powers of two: roundings are the same
        s = solve(A, factor * b, CG())
        assert s.iterations == reference.iterations
        torch.testing.assert_close(s.x / factor, reference.x, rtol=1e-6, atol=1e-12)


def test_preconditioner_is_used():
    A, b = spd(4.0), torch.randn(N, dtype=F)
    plain = solve(Dense(A, psd=True), b, CG(tol=1e-8))
    perfect = solve(Dense(A, psd=True), b, CG(tol=1e-8), preconditioner=Dense(torch.linalg.inv(A), psd=True))
    assert plain.iterations > 100
    assert perfect.iterations <= 2
    torch.testing.assert_close(perfect.x, plain.x, rtol=0, atol=1e-5)


def test_start():
    A = spd(2.0)
    b = torch.randn(N, 2, dtype=F)
    x = torch.linalg.solve(A, b)
    s = solve(Dense(A, psd=True), b, CG(), x0=x)
    assert s.status is Status.converged
    assert s.iterations == 0
    near = solve(Dense(A, psd=True), b, CG(tol=1e-8), x0=x + 1e-6 * torch.randn(N, 2, dtype=F))
    far = solve(Dense(A, psd=True), b, CG(tol=1e-8))
    assert near.iterations < far.iterations
    torch.testing.assert_close(near.x, x, rtol=0, atol=1e-6)


def test_batch():
    A = torch.stack([spd(1.0, 20), spd(3.0, 20), torch.eye(20, dtype=F)])
    b = torch.randn(3, 20, 2, dtype=F)
    b[0, :, 1] = 0
    s = solve(Dense(A, psd=True), b, CG(tol=1e-10))
    assert s.residual_norms.shape == (3, 2)
    torch.testing.assert_close(s.x, torch.linalg.solve(A, b), rtol=0, atol=1e-8)
    assert torch.equal(s.x[0, :, 1], torch.zeros(20, dtype=F))
    shared = solve(Dense(A, psd=True), torch.ones(20, dtype=F), CG(tol=1e-10))
    torch.testing.assert_close(
        shared.x, torch.linalg.solve(A, torch.ones(20, 1, dtype=F))[..., 0], rtol=0, atol=1e-8
    )


# ---------------------------------------------------------------- float32


def test_float32_matrix_reaches_float64_residuals():
    """Products in float32, everything else in float64: refinement converges while kappa u < 1."""
    A = spd(3.0, dtype=torch.float32)
    b = torch.randn(N, 2, dtype=F)
    s = solve(Dense(A, psd=True), b, CG(tol=1e-11))
    assert s.status is Status.converged
    assert s.x.dtype == F
    assert float(true_residual(A, s.x, b).max()) <= 1e-11


def test_float32_result_stagnates_honestly():
    """No float32 x has so small a residual: it must end early and say so, at about the best there is."""
    A = spd(5.0, dtype=torch.float32)
    b = torch.randn(N, 2)
    s = solve(Dense(A, psd=True), b, CG(tol=1e-7, max_iter=20_000), on_fail="ignore")
    assert s.status is Status.stagnated
    assert s.iterations < 5000
    best = torch.linalg.solve(A.double(), b.double()).float()
    assert float(s.residual_norms.max()) < 10 * float(true_residual(A, best, b).max())
    assert "float64" in s.message


def test_below_rounding_ends():
    """No float64 iterate reaches 1e-16: restarts stop helping, and that is noticed."""
    s = solve(
        Dense(spd(3.0), psd=True),
        torch.randn(N, 2, dtype=F),
        CG(1e-16, 50_000, patience=10**9),
        on_fail="ignore",
    )
    assert s.status is Status.stagnated
    assert s.iterations < 3000
    assert float(s.residual_norms.max()) < 1e-12


# ---------------------------------------------------------------- other endings


def test_max_iter():
    s = solve(Dense(spd(5.0), psd=True), torch.randn(N, dtype=F), CG(tol=1e-10, max_iter=7), on_fail="ignore")
    assert s.status is Status.max_iter
    assert s.iterations == 7
    assert s.history.shape == (8,)
    assert 0 < float(s.residual_norms) != 1.0
    assert "RPCholesky" in s.message


def test_no_iterations_allowed():
    s = solve(Dense(spd(1.0), psd=True), torch.ones(N, dtype=F), CG(max_iter=0), on_fail="ignore")
    assert s.status is Status.max_iter
    assert float(s.residual_norms) == 1.0


@pytest.mark.parametrize("dtype", [F, torch.float32])
def test_indefinite(dtype):
    A = spd(2.0).to(dtype)
    A = A - 1.5 * torch.eye(N, dtype=dtype)  # a few negative eigenvalues
    s = solve(Dense(A, symmetric=True), torch.randn(N, 2, dtype=dtype), CG(), on_fail="ignore")
    assert s.status is Status.indefinite
    assert "p'Ap" in s.message
    assert bool(torch.isfinite(s.x).all())
    assert s.iterations < 1000


def test_negative_definite_is_seen_at_once():
    s = solve(Dense(-torch.eye(3, dtype=F), symmetric=True), torch.ones(3, dtype=F), CG(), on_fail="ignore")
    assert s.status is Status.indefinite
    assert s.iterations == 1


def test_indefinite_preconditioner():
    P = Dense(-torch.eye(N, dtype=F), symmetric=True)
    s = solve(Dense(spd(1.0), psd=True), torch.ones(N, dtype=F), CG(), preconditioner=P, on_fail="ignore")
    assert s.status is Status.indefinite


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_bad_right_hand_side_ends_at_once(bad):
    b = torch.ones(N, 2, dtype=F)
    b[5, 1] = bad
    K = Counting(spd(2.0))
    s = solve(K, b, CG(), on_fail="ignore")
    assert s.status is Status.nan
    assert s.iterations == 0
    assert K.columns == []
    assert bool(torch.isnan(s.x).all())


def test_nan_in_the_matrix_ends_at_once():
    A = spd(2.0)
    A[3, 3] = math.nan
    s = solve(Dense(A, symmetric=True), torch.ones(N, dtype=F), CG(), on_fail="ignore")
    assert s.status is Status.nan
    assert s.iterations <= 1
    assert bool(torch.isnan(s.x).all())


def test_nan_in_the_preconditioner():
    P = Dense(torch.full((N, N), math.nan, dtype=F), symmetric=True)
    s = solve(Dense(spd(2.0), psd=True), torch.ones(N, dtype=F), CG(), preconditioner=P, on_fail="ignore")
    assert s.status is Status.nan


def test_nan_in_the_start():
    s = solve(
        Dense(spd(2.0), psd=True),
        torch.ones(N, dtype=F),
        CG(),
        x0=torch.full((N,), math.nan, dtype=F),
        on_fail="ignore",
    )
    assert s.status is Status.nan


def test_zero_and_empty():
    A = Dense(spd(1.0), psd=True)
    s = solve(A, torch.zeros(N, 2, dtype=F), CG())
    assert s.status is Status.converged
    assert not s.x.any()
    assert not s.residual_norms.any()
    assert solve(A, torch.zeros(N, 0, dtype=F), CG()).x.shape == (N, 0)
    s = solve(Dense(torch.zeros(0, 0, dtype=F), psd=True), torch.zeros(0, dtype=F), CG())
    assert s.status is Status.converged
    assert s.x.shape == (0,)


def test_zero_right_hand_side_forgets_the_start():
    s = solve(Dense(spd(1.0), psd=True), torch.zeros(N, dtype=F), CG(), x0=torch.ones(N, dtype=F))
    assert s.status is Status.converged
    assert not s.x.any()


# ---------------------------------------------------------------- what the caller sees


def test_callback_sees_every_iteration_and_stops():
    seen = []
    s = solve(Dense(spd(3.0), psd=True), torch.randn(N, 2, dtype=F), CG(), callback=seen.append)
    assert [p.iteration for p in seen] == list(range(1, s.iterations + 1))
    assert all(p.total == 1000 for p in seen)
    assert seen[-1].residual <= 1e-6 < seen[0].residual
    assert seen[-1].active == 0
    stopped = solve(
        Dense(spd(3.0), psd=True), torch.randn(N, 2, dtype=F), CG(), callback=lambda p: p.iteration == 4
    )
    assert stopped.status is Status.stopped
    assert stopped.iterations == 4


def test_history():
    b = torch.randn(N, 2, dtype=F)
    s = solve(Dense(spd(2.0), psd=True), b, CG())
    assert s.history.shape == (s.iterations + 1, 2)
    assert torch.equal(s.history[0], torch.ones(2, dtype=F))
    assert bool((s.history[-1] <= 1e-6).all())
    assert s.products >= s.iterations


def test_numpy_comes_back():
    b = np.ones(N)
    s = solve(Dense(spd(2.0), psd=True), b, CG())
    assert isinstance(s.x, np.ndarray)
    assert isinstance(s.residual_norms, np.ndarray)
    assert s.x.shape == (N,)
    assert "converged" in s.message


def test_plain_matrices():
    s = solve(spd(2.0).numpy(), np.ones(N), CG())
    assert s.converged


def test_on_fail():
    A, b = Dense(spd(5.0), psd=True), torch.ones(N, dtype=F)
    with pytest.warns(
        ConvergenceWarning, match="CG ended with status max_iter after 3 iterations, relative"
    ) as record:
        solve(A, b, CG(max_iter=3))
    assert record[0].filename == __file__
    with pytest.raises(SolveError, match="max_iter") as caught:
        solve(A, b, CG(max_iter=3), on_fail="raise")
    assert caught.value.solution.iterations == 3


def test_messages():
    A, b = Dense(spd(1.0), psd=True), torch.ones(N, dtype=F)
    with pytest.raises(OptionError, match="tol=2"):
        CG(tol=2)
    with pytest.raises(OptionError, match="max_iter=1.5"):
        CG(max_iter=1.5)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="on_fail='shout'"):
        solve(A, b, CG(), on_fail="shout")
    with pytest.raises(ShapeError, match=r"b has shape \(3,\); the operator is 120 x 120"):
        solve(A, b[:3], CG())
    with pytest.raises(ShapeError, match="x0 has shape"):
        solve(A, b, CG(), x0=torch.ones(N, 2, dtype=F))
    with pytest.raises(ShapeError, match="square"):
        solve(Dense(torch.zeros(3, 4)), torch.ones(4), CG())
    with pytest.raises(ShapeError, match="CG needs a symmetric operator"):
        solve(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.ones(2), CG())
    with pytest.raises(OptionError, match="preconditioner is a Tensor"):
        solve(A, b, CG(), preconditioner=b)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="preconditioner has shape"):
        solve(A, b, CG(), preconditioner=identity(3))
    with pytest.raises(DTypeError, match="b has dtype complex"):
        solve(A, b.to(torch.complex128), CG())


# ---------------------------------------------------------------- Cholesky


def test_cholesky():
    A, b = spd(6.0), torch.randn(N, 2, dtype=F)
    s = solve(Dense(A, psd=True), b, Cholesky())
    assert s.status is Status.converged
    torch.testing.assert_close(s.x, torch.linalg.solve(A, b), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(s.residual_norms, true_residual(A, s.x, b), rtol=0, atol=1e-9)


def test_cholesky_computes_in_float64():
    A = spd(5.0)
    s = solve(Dense(A.float(), psd=True), torch.ones(N), Cholesky(tol=1e-3))  # x is rounded to float32
    want = torch.linalg.solve(A.float().double(), torch.ones(N, dtype=F))
    assert s.x.dtype == torch.float32
    torch.testing.assert_close(s.x.double(), want, rtol=1e-6, atol=1e-7)


def test_cholesky_never_changes_the_matrix():
    s = solve(
        Dense(torch.diag(torch.tensor([1.0, -1.0, 2.0])), symmetric=True),
        torch.ones(3),
        Cholesky(),
        on_fail="ignore",
    )
    assert s.status is Status.indefinite
    assert bool(torch.isnan(s.x).all())
    assert "leading block of 2 rows" in s.message
    singular = solve(Dense(torch.zeros(3, 3), psd=True), torch.ones(3), Cholesky(), on_fail="ignore")
    assert singular.status is Status.indefinite


def test_cholesky_claims_no_success_it_does_not_have():
    A, b = Dense(spd(5.0).float(), psd=True), torch.ones(N)
    s = solve(A, b, Cholesky(), on_fail="ignore")
    assert s.status is Status.stagnated
    assert float(s.residual_norms) > 1e-6
    assert solve(A, b.double(), Cholesky(), on_fail="ignore").status is Status.converged
    with pytest.raises(OptionError, match="tol=0"):
        Cholesky(tol=0)


def test_cholesky_nan():
    s = solve(Dense(torch.eye(3), psd=True), torch.tensor([1.0, math.nan, 1.0]), Cholesky(), on_fail="ignore")
    assert s.status is Status.nan


def test_cholesky_refuses_what_does_not_fit():
    from kerngp.options import options

    with options(memory_limit=1 << 20), pytest.raises(OptionError, match="memory_limit"):
        solve(identity(1000), torch.ones(1000, dtype=F), Cholesky())


# ---------------------------------------------------------------- clock, Ctrl-C


def test_time_limit_returns_the_best_iterate():
    A = spd(6.0)
    b = torch.randn(N, 2, dtype=F)
    slow = lambda p: time.sleep(0.01)  # noqa: E731
    s = solve(Dense(A, psd=True), b, CG(tol=1e-12, time_limit=0.1), callback=slow, on_fail="ignore")
    assert s.status is Status.time_limit
    assert 1 <= s.iterations < 100
    torch.testing.assert_close(s.residual_norms, true_residual(A, s.x, b), rtol=1e-6, atol=0)
    at_once = solve(Dense(A, psd=True), b, CG(tol=1e-12, time_limit=0.0), on_fail="ignore")
    assert at_once.status is Status.time_limit
    assert at_once.iterations == 1
    with pytest.raises(OptionError, match="time_limit=-1"):
        CG(time_limit=-1)


def test_ctrl_c_returns_the_best_iterate():
    A, b = spd(6.0), torch.randn(N, dtype=F)
    before = signal.getsignal(signal.SIGINT)
    press = lambda p: p.iteration == 5 and os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    s = solve(Dense(A, psd=True), b, CG(tol=1e-12), callback=press)
    assert s.status is Status.stopped
    assert s.iterations == 5
    assert bool(torch.isfinite(s.x).all())
    assert signal.getsignal(signal.SIGINT) is before


# ---------------------------------------------------------------- long runs, stagnation


@pytest.mark.parametrize("shape", ["even", "outliers", "two clusters"])
def test_long_healthy_runs_are_not_ended_early(shape):
    """The residual of CG may rise for hundreds of iterations; as long as the energy falls it is not stuck."""
    n = 200
    d = {
        "even": torch.logspace(0, 5, n, dtype=F),
        "outliers": torch.cat([torch.logspace(-2, 0, n // 2, dtype=F), torch.linspace(1e3, 1e4, n // 2)]),
        "two clusters": torch.cat([1e-4 * torch.linspace(1, 30, n // 2), torch.linspace(1, 30, n // 2)]),
    }[shape]
    Q, _ = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(3), dtype=F))
    b = torch.randn(n, 1, generator=torch.Generator().manual_seed(4), dtype=F)
    s = solve(Dense((Q * d) @ Q.T, symmetric=True), b, CG(tol=1e-8, max_iter=20_000, patience=100))
    assert s.status is Status.converged
    assert s.iterations > 300


def test_singular_matrix_ends():
    """b is not in the range: no x has a small residual, and that must not take forever."""
    d = torch.cat([torch.zeros(5, dtype=F), torch.linspace(1, 10, N - 5, dtype=F)])
    Q, _ = torch.linalg.qr(torch.randn(N, N, generator=torch.Generator().manual_seed(3), dtype=F))
    A, b = (Q * d) @ Q.T, torch.randn(N, 2, generator=torch.Generator().manual_seed(4), dtype=F)
    s = solve(Dense((A + A.T) / 2, psd=True), b, CG(max_iter=5000), on_fail="ignore")
    assert s.status in (Status.stagnated, Status.indefinite, Status.max_iter)
    torch.testing.assert_close(s.residual_norms, true_residual(A, s.x, b), rtol=1e-3, atol=1e-6)
    inside = A @ b
    assert solve(Dense((A + A.T) / 2, psd=True), inside, CG()).status is Status.converged


# ---------------------------------------------------------------- badly scaled


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1e30, 1e150])
def test_badly_scaled(scale):
    A = spd(2.0)
    b = torch.randn(N, 2, dtype=F)
    b[:, 1] *= 1e-20
    x = torch.linalg.solve(A, b)
    s = solve(Dense(scale * A, psd=True), scale * b, CG(tol=1e-10))
    assert s.status is Status.converged
    torch.testing.assert_close(s.x[:, 0], x[:, 0], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(s.x[:, 1] * 1e20, x[:, 1] * 1e20, rtol=1e-6, atol=1e-9)


# ---------------------------------------------------------------- indefinite: what would help


def _indefinite(kind: str, n: int = 200) -> torch.Tensor:
    d = {
        "one eigenvalue": torch.cat([torch.tensor([-0.5]), torch.linspace(1, 100, n - 1)]),
        "many": torch.linspace(-3, 100, n),
        "noise": torch.logspace(2, -6, n) - 1e-3,
        "small": torch.cat([torch.tensor([-1e-4]), torch.logspace(-3, 2, n - 1)]),
        "negative definite": -torch.linspace(1, 100, n),
    }[kind].double()
    Q, _ = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(2), dtype=F))
    A = (Q * d) @ Q.T
    return (A + A.T) / 2


@pytest.mark.parametrize("kind", ["one eigenvalue", "many", "noise", "small", "negative definite"])
def test_suggested_alpha_helps(kind):
    A = _indefinite(kind)
    b = torch.randn(len(A), 2, generator=torch.Generator().manual_seed(5), dtype=F)
    s = solve(Dense(A, symmetric=True), b, CG(max_iter=3000), on_fail="ignore")
    assert s.status is Status.indefinite
    alpha = s.report.suggested_alpha
    least = float(torch.linalg.eigvalsh(A)[0])
    assert -least < alpha < 200 * -least
    assert f"add {alpha:.1e} to alpha" in s.message
    again = solve(Dense(A, symmetric=True) + alpha * identity(len(A)), b, CG(max_iter=3000))
    assert again.status is Status.converged
    assert again.report.suggested_alpha is None


def test_suggested_alpha_of_a_batch():
    A = torch.stack([torch.eye(4, dtype=F), torch.diag(torch.tensor([1.0, -2.0, 3.0, 4.0], dtype=F))])
    s = solve(Dense(A, symmetric=True), torch.ones(4, dtype=F), CG(), on_fail="ignore")
    assert s.status is Status.indefinite
    assert 2.0 < s.report.suggested_alpha <= 8.0


# ---------------------------------------------------------------- Ritz values


def test_ritz_values_are_the_spectrum_from_inside():
    A = spd(3.0)
    s = solve(Dense(A, psd=True), torch.randn(N, 2, dtype=F), CG(tol=1e-10))
    low, high = s.report.ritz
    assert 1.0 - 1e-6 <= low < 1.01
    assert 990 < high <= 1000 * (1 + 1e-10)
    one = solve(Dense(3.0 * torch.eye(4, dtype=F), psd=True), torch.ones(4, dtype=F), CG())
    assert one.report.ritz == pytest.approx((3.0, 3.0))


def test_ritz_values_of_the_preconditioned_operator():
    A = spd(3.0)
    M = Dense(torch.diag(1 / A.diag()), psd=True)
    s = solve(Dense(A, psd=True), torch.randn(N, dtype=F), CG(tol=1e-12), preconditioner=M)
    L = torch.diag(A.diag().rsqrt())
    want = torch.linalg.eigvalsh(L @ A @ L)
    low, high = s.report.ritz
    assert float(want[0]) * (1 - 1e-8) <= low <= 1.02 * float(want[0])
    assert 0.98 * float(want[-1]) <= high <= float(want[-1]) * (1 + 1e-8)


def test_no_iterations_no_ritz_values():
    assert solve(Dense(spd(1.0), psd=True), torch.zeros(N, dtype=F), CG()).report.ritz is None


# ---------------------------------------------------------------- shifts


def test_shifts():
    A = spd(3.0)
    shifts = torch.tensor([0.0, 50.0, 0.1, 1e4], dtype=F)
    b = torch.randn(N, 4, dtype=F)
    K = Counting(A)
    s = CG(tol=1e-10).run(K, b, shifts=shifts)
    assert s.status is Status.converged
    for e, shift in enumerate(shifts):
        M = A + shift * torch.eye(N, dtype=F)
        torch.testing.assert_close(s.x[:, e], torch.linalg.solve(M, b[:, e]), rtol=0, atol=1e-8)
        assert float(true_residual(M, s.x[:, e : e + 1], b[:, e : e + 1])) <= 1e-10
    assert K.columns[-1] < 4
    with pytest.raises(ShapeError, match=r"shifts has shape \(3,\)"):
        CG().run(K, b, shifts=shifts[:3])

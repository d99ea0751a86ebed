"""Iterative refinement: float32 inside, float64 accuracy outside, and honest ends."""

from __future__ import annotations

import math
import os
import signal
import time
from dataclasses import dataclass

import pytest
import torch

from kerngp.errors import OptionError
from kerngp.solvers import CG, Cholesky, Dense, Refine, RPCholesky, Solution, Status, identity, solve

F = torch.float64
METHODS = [CG(), CG(promote=False), Cholesky()]


def spd(exponent: float, n: int, dtype: torch.dtype = F) -> torch.Tensor:
    Q, _ = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(1), dtype=F))
    A = (Q * torch.logspace(0, exponent, n, dtype=F)) @ Q.T
    return ((A + A.T) / 2).to(dtype)


def residual(A: torch.Tensor, x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    A, x, b = A.double(), x.double(), b.double()
    return (b - A @ x).norm(dim=-2) / b.norm(dim=-2)


@pytest.mark.parametrize("inner", METHODS)
@pytest.mark.parametrize("n", [1, 2, 31, 120])
def test_reaches_float64_accuracy(n, inner):
    A, b = spd(3.0, n), torch.randn(n, 3, dtype=F)
    s = solve(Dense(A, psd=True), b, Refine(inner, tol=1e-12))
    assert s.status is Status.converged
    assert float(residual(A, s.x, b).max()) <= 1e-12
    assert s.iterations <= 12
    torch.testing.assert_close(s.x, torch.linalg.solve(A, b), rtol=0, atol=1e-9)
    assert s.history.shape == (s.iterations + 1, 3)
    assert [n.code for n in s.report.notes] == ["REFINED"]
    assert "float32" in s.report.notes[0].text


@pytest.mark.parametrize("inner", METHODS)
def test_residual_is_the_true_one(inner):
    for dtype in (F, torch.float32):
        A = spd(4.0, 60, torch.float32)
        b = torch.randn(60, 2).to(dtype)
        s = solve(Dense(A, psd=True), b, Refine(inner, tol=1e-7), on_fail="ignore")
        true = residual(A, s.x, b)
        torch.testing.assert_close(s.residual_norms, true, rtol=1e-3, atol=1e-12)
        assert (s.status is Status.converged) == bool((true <= 1e-7).all())
        assert s.x.dtype == dtype


def test_the_factor_is_computed_once():
    calls = []
    A = Dense(spd(3.0, 50), psd=True)
    original = torch.linalg.cholesky_ex

    def counted(matrix):
        calls.append(matrix.dtype)
        return original(matrix)

    torch.linalg.cholesky_ex = counted
    try:
        s = solve(A, torch.randn(50, 1, dtype=F), Refine(Cholesky(), tol=1e-12))
    finally:
        torch.linalg.cholesky_ex = original
    assert s.iterations > 1
    assert calls == [torch.float32]


def test_float32_factor_that_breaks_down():
    """float32 has no Cholesky factor of it that is worth anything, and nothing is added to make one."""
    A, b = Dense(spd(9.0, 60), psd=True), torch.randn(60, 1, dtype=F)
    s = solve(A, b, Refine(Cholesky()), on_fail="ignore")
    assert s.status in (Status.indefinite, Status.stagnated)
    assert float(s.residual_norms) > 1e-6
    assert solve(A, b, Refine(Cholesky(), dtype=F)).status is Status.converged


def test_preconditioner_start_zero_and_scale():
    K = spd(0.0, 80) + 100 * torch.ones(80, 80, dtype=F)
    A = Dense(K, psd=True) + 0.1 * identity(80)
    b = torch.randn(80, 2, dtype=F)
    b[:, 1] = 0
    s = solve(A, b, Refine(CG(), tol=1e-11), preconditioner=RPCholesky(10))
    assert s.status is Status.converged
    assert not s.x[:, 1].any()
    again = solve(A, b, Refine(CG(), tol=1e-11), x0=s.x)
    assert again.iterations == 0
    for factor in (2.0**-500, 2.0**500):
        t = solve(A, factor * b, Refine(CG(), tol=1e-11), preconditioner=RPCholesky(10))
        torch.testing.assert_close(t.x / factor, s.x, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-100, 1e100])
def test_matrices_that_float32_cannot_hold(scale):
    b = torch.randn(20, 1, dtype=F)
    s = solve(Dense(scale * spd(1.0, 20), psd=True), b, Refine(CG(), tol=1e-10))
    assert s.status is Status.converged
    assert "out of the range of float32" in s.report.notes[0].text
    assert "float64 solves" in s.report.notes[0].text


def test_batch():
    A = torch.stack([spd(1.0, 20), spd(3.0, 20)])
    b = torch.randn(2, 20, 2, dtype=F)
    for inner in METHODS:
        s = solve(Dense(A, psd=True), b, Refine(inner, tol=1e-12))
        assert s.residual_norms.shape == (2, 2)
        torch.testing.assert_close(s.x, torch.linalg.solve(A, b), rtol=0, atol=1e-9)


# ---------------------------------------------------------------- endings


@dataclass(frozen=True)
class Halving:
    """A poor solver: a quarter of the way each time, slowly."""

    share: float = 0.75
    pause: float = 0.0

    def run(self, A, b, *, preconditioner=None, x0=None, callback=None):
        time.sleep(self.pause)
        x = (self.share * torch.linalg.solve(A.dense().double(), b.double())).to(b.dtype)
        nothing = torch.zeros(b.shape[-1:])
        return Solution(x, Status.converged, 1, nothing, nothing[None])


def test_every_other_ending():
    A, b = Dense(spd(1.0, 30), psd=True), torch.randn(30, 1, dtype=F)
    assert solve(A, b, Refine(Halving())).status is Status.converged
    s = solve(A, b, Refine(Halving(0.3)), on_fail="ignore")
    assert s.status is Status.stagnated
    assert s.iterations == 1
    assert float(s.residual_norms) == pytest.approx(0.7, rel=1e-3)
    s = solve(A, b, Refine(Halving(), max_outer=3), on_fail="ignore")
    assert (s.status, s.iterations) == (Status.max_iter, 3)
    assert float(s.residual_norms) == pytest.approx(0.25**3, rel=1e-2)
    s = solve(A, b, Refine(Halving(pause=0.02), tol=1e-15, time_limit=0.05), on_fail="ignore")
    assert s.status is Status.time_limit
    assert solve(A, b, Refine(Halving()), callback=lambda p: p.iteration == 2).status is Status.stopped
    press = lambda p: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    s = solve(A, b, Refine(Halving()), callback=press)
    assert (s.status, s.iterations) == (Status.stopped, 1)
    b[3] = math.nan
    s = solve(A, b, Refine(CG()), on_fail="ignore")
    assert s.status is Status.nan
    assert bool(torch.isnan(s.x).all())


def test_inner_failures_are_passed_on():
    A = Dense(torch.diag(torch.tensor([1.0, -1.0, 2.0], dtype=F)), symmetric=True)
    for inner in METHODS:
        s = solve(A, torch.ones(3, dtype=F), Refine(inner), on_fail="ignore")
        assert s.status is Status.indefinite
        assert s.detail


def test_messages():
    with pytest.raises(OptionError, match="inner='cg'"):
        Refine("cg")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="inner_tol=2"):
        Refine(CG(), inner_tol=2)
    with pytest.raises(OptionError, match="max_outer=0"):
        Refine(CG(), max_outer=0)
    with pytest.raises(OptionError, match="dtype=torch.int32"):
        Refine(CG(), dtype=torch.int32)
    with pytest.raises(OptionError, match="time_limit=-1"):
        Refine(CG(), time_limit=-1)

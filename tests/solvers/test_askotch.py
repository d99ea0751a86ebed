"""ASkotch: projectors, acceleration, steps that are too long."""

from __future__ import annotations

import pytest
import torch
from test_block_descent import F, kernel, random, spd

from kerngp.errors import OptionError
from kerngp.options import options
from kerngp.solvers import ASkotch, Dense, Status, solve
from kerngp.solvers import askotch as module


def test_one_block_of_everything_is_a_direct_solve():
    A, dense = kernel(50, 0.01)
    b = random(50, 2)
    s = solve(A, b, ASkotch(tol=1e-9))
    assert s.converged
    assert s.iterations == 1
    torch.testing.assert_close(s.x, torch.linalg.solve(dense, b), rtol=0, atol=1e-8 * float(s.x.abs().max()))


def test_exact_blocks_beat_approximate_ones():
    A, b = kernel(300, 0.1)[0], random(300)
    exact, rough = (
        solve(A, b, ASkotch(block=60, rank=r, max_passes=15, tol=1e-9), on_fail="ignore").residual_norms
        for r in (None, 10)
    )
    assert float(exact) < 0.5 * float(rough)


def test_a_higher_rank_is_better():
    A, b = kernel(300, 0.1)[0], random(300)
    high, low = (
        solve(A, b, ASkotch(block=60, rank=r, max_passes=15, tol=1e-9), on_fail="ignore").residual_norms
        for r in (40, 5)
    )
    assert float(high) < float(low)


def test_acceleration_helps_where_the_spectrum_is_wide():
    A = Dense(spd(1.0, 500.0, 100), psd=True)
    b = random(100)
    passes = [
        solve(A, b, ASkotch(block=20, acceleration=c, max_passes=5000, tol=1e-3)).iterations
        for c in (1.0, 0.1)
    ]
    assert passes[1] < passes[0]


def test_a_step_that_is_too_long_is_damped(monkeypatch):
    """The largest eigenvalue is taken for a hundredth of what it is."""
    true = module._largest_eigenvalue
    monkeypatch.setattr(module, "_largest_eigenvalue", lambda *a: true(*a) / 100)
    A, dense = kernel(60, 1.0)
    b = random(60)
    s = solve(A, b, ASkotch(block=20, rank=3, max_passes=3000, tol=1e-6))
    assert s.converged
    assert float((b - dense @ s.x).norm() / b.norm()) <= 1.01e-6
    assert [n.code for n in s.report.notes] == ["DAMPED"]


def test_blocks_too_large_for_a_factor_are_approximated():
    with options(memory_limit=1 << 20):
        A, b = kernel(400, 0.5)[0], random(400)
        s = solve(A, b, ASkotch(block=300, max_passes=1, tol=1e-9), on_fail="ignore")
    assert "rank 100" in s.detail
    assert float(s.residual_norms) < 1


def test_a_zero_matrix_is_not_positive_definite():
    A = Dense(torch.zeros(6, 6, dtype=F), psd=True)
    for method in (ASkotch(block=2), ASkotch(block=2, rank=1)):
        assert solve(A, random(6), method, on_fail="ignore").status is Status.indefinite


@pytest.mark.parametrize("bad", [{"acceleration": 0.0}, {"acceleration": 1.5}, {"rank": 0}])
def test_refusals(bad):
    with pytest.raises(OptionError, match=next(iter(bad))):
        ASkotch(**bad)

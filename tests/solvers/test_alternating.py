"""Alternating projection: the greedy choice, the residual that is known, the factors that are kept."""

from __future__ import annotations

import torch
from test_block_descent import kernel, random

from kerngp.options import options
from kerngp.solvers import CG, AlternatingProjection, Dense, identity, solve
from kerngp.solvers.meter import metering


def test_the_residual_is_known_at_every_step():
    A, dense = kernel(90, 0.1)
    b = random(90, 2)
    s = solve(A, b, AlternatingProjection(block=30, max_passes=2, tol=1e-9), on_fail="ignore")
    torch.testing.assert_close(s.history[-1], s.residual_norms, rtol=1e-9, atol=0)
    torch.testing.assert_close(s.residual_norms, (b - dense @ s.x).norm(dim=0) / b.norm(dim=0))


def test_the_energy_never_rises():
    A, dense = kernel(90, 0.01)
    b = random(90)
    energies = []
    for k in range(1, 9):
        method = AlternatingProjection(block=30, max_passes=k / 3, tol=1e-9)
        x = solve(A, b, method, on_fail="ignore").x
        energies.append(float(0.5 * x @ dense @ x - b @ x))
    assert all(b < a for a, b in zip([0.0, *energies], energies))


def test_the_block_with_the_largest_residual_comes_first():
    A = Dense(torch.eye(12, dtype=torch.float64), psd=True)
    b = torch.ones(12, dtype=torch.float64)
    b[8:] = 10.0
    s = solve(A, b, AlternatingProjection(block=4, local=False, max_passes=1 / 3), on_fail="ignore")
    assert s.x.tolist() == [0.0] * 8 + [10.0] * 4


def test_block_diagonal_matrix_takes_one_pass():
    blocks = [kernel(10, 0.1)[1] for _ in range(3)]
    A = Dense(torch.block_diag(*blocks), psd=True)
    s = solve(A, random(30, 2), AlternatingProjection(block=10, local=False, tol=1e-10))
    assert s.converged
    assert s.iterations == 3


def test_local_blocks_leave_less_to_do():
    x = torch.linspace(0, 30, 300, dtype=torch.float64)[torch.argsort(random(300))]
    A = Dense(torch.exp(-(x[:, None] - x).abs()), psd=True) + 0.01 * identity(300)
    b = x.sin()
    local, scattered = (
        solve(A, b, AlternatingProjection(block=50, local=k, max_passes=4, tol=1e-12), on_fail="ignore")
        for k in (True, False)
    )
    exact = solve(A, b, CG(tol=1e-12)).x
    errors = [float((s.x - exact) @ (A @ (s.x - exact))) for s in (local, scattered)]
    assert errors[0] < 0.25 * errors[1]


def test_factors_that_do_not_fit_are_computed_again():
    A, b = kernel(600, 0.1)[0], random(600)
    method = AlternatingProjection(block=200, max_passes=3, tol=1e-9)
    plain = solve(A, b, method, on_fail="ignore")
    with options(memory_limit=1 << 20), metering() as meter:
        tight = solve(A, b, method, on_fail="ignore")
    assert torch.equal(plain.x, tight.x)
    assert meter.entries["rows"] > 9 * 200 * 200


def test_a_start_for_conjugate_gradients():
    """After two passes the error in the norm of A is below that of two iterations."""
    A, dense = kernel(300, 1e-3)
    b = dense[:, :7] @ random(7)
    exact = torch.linalg.solve(dense, b)

    def error(x: torch.Tensor) -> float:
        return float((x - exact) @ dense @ (x - exact))

    start = solve(A, b, AlternatingProjection(max_passes=2, block=100, tol=1e-9), on_fail="ignore").x
    assert error(start) < 0.5 * error(solve(A, b, CG(max_iter=2), on_fail="ignore").x)
    assert solve(A, b, CG(), x0=start).converged

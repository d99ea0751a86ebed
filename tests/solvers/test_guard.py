"""What float32 can reach: said beforehand, held afterwards, never a false 'converged'."""

from __future__ import annotations

import pytest
import torch

from kerngp.engine.expr import Vi, Vj
from kerngp.engine.ops import exp, sqdist
from kerngp.solvers import CG, Dense, KernelOperator, RPCholesky, Status, identity, solve
from kerngp.solvers.guard import guard

F = torch.float64
N = 200


def kernel(dtype: torch.dtype = torch.float32) -> KernelOperator:
    x = torch.rand(N, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    return KernelOperator(exp(-4.0 * sqdist(Vi(0, 3), Vj(1, 3))), (x, x), psd=True)


def data(dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(N, 2, generator=torch.Generator().manual_seed(1)).to(dtype)


def test_threshold():
    safe = guard(kernel() + identity(N), dtype=F).safe_alpha
    assert safe == pytest.approx(4 * N**0.5 * 2.0**-24, rel=1e-5)
    above = guard(kernel() + 1.01 * safe * identity(N), dtype=F)
    below = guard(kernel() + 0.99 * safe * identity(N), dtype=F)
    assert above.note is None
    assert below.note.code == "F32_ALPHA"
    assert "float32" in below.note.text
    assert "float64" in below.note.text
    assert above.attainable < 1e-6 < below.attainable


def test_what_decides():
    tiny = 1e-9 * identity(N)
    assert guard(kernel(F) + tiny, dtype=F).note is None
    assert guard(kernel(F) + tiny, dtype=F).attainable < 1e-3
    assert guard(kernel(), dtype=F).attainable is None  # nothing is known of the least eigenvalue
    shifted = guard(kernel(), dtype=F, shifts=torch.tensor([1e-9, 1.0], dtype=F))
    assert shifted.note.code == "F32_ALPHA"
    assert guard(kernel() + identity(N), dtype=torch.float32).attainable >= 2.0**-24
    empty = Dense(torch.zeros(0, 0), psd=True) + identity(0)
    assert guard(empty, dtype=F).attainable is None
    assert guard(Dense(torch.full((2, 2), torch.nan), psd=True) + identity(2), dtype=F).attainable is None


@pytest.mark.parametrize("dtype", [torch.float32, F])
@pytest.mark.parametrize("ridge", [1e-3, 1e-6, 1e-8, 1e-10])
def test_float32_matrices_reach_the_tolerance_or_say_why_not(ridge, dtype):
    A, b = kernel() + ridge * N * identity(N), data(dtype)
    s = solve(A, b, CG(tol=1e-6, max_iter=3000), preconditioner=RPCholesky(150), on_fail="ignore")
    dense = A.with_tensors([t.double() for t in A.tensors]).dense()
    true = (b.double() - dense @ s.x.double()).norm(dim=-2) / b.double().norm(dim=-2)
    torch.testing.assert_close(s.residual_norms, true, rtol=1e-2, atol=1e-8)
    assert (s.status is Status.converged) == bool((true <= 1e-6 * (1 + 1e-6)).all())
    if dtype == F:
        assert s.status is Status.converged
    else:
        assert s.status in (Status.converged, Status.stagnated)
    if s.status is Status.stagnated:
        assert s.report.attainable == pytest.approx(float(true.max()), rel=1e-2)


def test_products_go_over_to_float64_and_the_report_says_so():
    A, b = kernel() + 3e-8 * identity(N), data(F)
    s = solve(A, b, CG(tol=1e-6, max_iter=5000), preconditioner=RPCholesky(150))
    assert s.status is Status.converged
    assert [n.code for n in s.report.notes] == ["F32_ALPHA", "PROMOTED"]
    kept = solve(
        A, b, CG(tol=1e-6, max_iter=5000, promote=False), preconditioner=RPCholesky(150), on_fail="ignore"
    )
    assert kept.status in (Status.stagnated, Status.indefinite)
    assert kept.report.notes == ()
    assert float(kept.residual_norms.max()) > 1e-6


def test_rounding_that_makes_a_matrix_indefinite_is_not_blamed_on_it():
    """Positive definite in float64, not in float32: products there see p'Ap < 0."""
    Q, _ = torch.linalg.qr(torch.randn(N, N, generator=torch.Generator().manual_seed(2), dtype=F))
    K = ((Q * torch.where(torch.arange(N) < 10, 100.0, 0.0)) @ Q.T).float()
    K = (K + K.T) / 2
    alpha = 1.5 * max(0.0, -float(torch.linalg.eigvalsh(K.double())[0]))
    b = data(F)
    s = solve(Dense(K, psd=True) + alpha * identity(N), b, CG(tol=1e-5))
    assert s.status is Status.converged
    assert "PROMOTED" in [n.code for n in s.report.notes]


def test_healthy_float32_stays_in_float32():
    s = solve(kernel() + 1.0 * identity(N), data(F), CG(tol=1e-8))
    assert s.status is Status.converged
    assert s.report.notes == ()
    assert s.report.attainable < 1e-8

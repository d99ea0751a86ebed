"""The direct solve says what an indefinite matrix lacks."""

from __future__ import annotations

import pytest
import torch

from kerngp.solvers import Cholesky, Dense, Status, identity, solve

F = torch.float64


def with_spectrum(d: torch.Tensor) -> torch.Tensor:
    g = torch.Generator().manual_seed(2)
    Q, _ = torch.linalg.qr(torch.randn(len(d), len(d), generator=g, dtype=F))
    A = (Q * d) @ Q.T
    return (A + A.T) / 2


@pytest.mark.parametrize(
    "d",
    [
        torch.cat([torch.tensor([-3.0]), torch.linspace(1, 100, 60)]),
        torch.linspace(-3, 100, 60),
        torch.cat([torch.tensor([-1e-4]), torch.logspace(-3, 2, 60)]),
        -torch.linspace(1, 100, 60),
        torch.tensor([-2.0]),
        torch.cat([torch.tensor([-1e-13]), torch.logspace(-3, 2, 30)]),
    ],
)
def test_suggested_alpha_helps(d):
    A, b = Dense(with_spectrum(d.to(F)), symmetric=True), torch.ones(len(d), dtype=F)
    s = solve(A, b, Cholesky(), on_fail="ignore")
    assert s.status is Status.indefinite
    assert bool(s.x.isnan().all())
    least = float(torch.linalg.eigvalsh(A.matrix)[0])
    alpha = s.report.suggested_alpha
    assert alpha is not None
    assert -least < alpha < max(200 * -least, 1e-10)
    assert f"adding {alpha:.1e} to the diagonal" in s.explain()
    repaired = solve(A + alpha * identity(len(d)), b, Cholesky(tol=0.1))
    assert repaired.converged and repaired.report.suggested_alpha is None


def test_suggested_alpha_of_a_batch():
    A = torch.stack([torch.eye(3, dtype=F), torch.diag(torch.tensor([1.0, -2.0, 3.0], dtype=F))])
    A = torch.stack([A, A[[1, 0]] - torch.eye(3, dtype=F)])
    s = solve(Dense(A, symmetric=True), torch.ones(3, dtype=F), Cholesky(), on_fail="ignore")
    assert s.status is Status.indefinite
    assert s.report.suggested_alpha is not None
    assert 3.0 < s.report.suggested_alpha <= 12.0

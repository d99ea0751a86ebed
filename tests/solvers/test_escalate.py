"""After a failure: what is tried, in which order, and where it ends."""

from __future__ import annotations

import pytest
import torch

from kerngp import options
from kerngp.errors import ConvergenceWarning
from kerngp.solvers import CG, Cholesky, Dense, RPCholesky, Status, identity, solve
from kerngp.solvers.escalate import escalate


def spectrum(values, dtype=torch.float64):
    n = len(values)
    Q = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]
    M = (Q * torch.as_tensor(values, dtype=torch.float64)) @ Q.T
    return (0.5 * (M + M.T)).to(dtype)


def low_rank_plus(alpha, n=120, rank=30):
    F = torch.randn(n, rank, dtype=torch.float64) * torch.logspace(0, 2, rank, dtype=torch.float64)
    return Dense(F @ F.T, psd=True) + alpha * identity(n)


def codes(s):
    return [n.code for n in s.report.notes]


def texts(s):
    return [n.text for n in s.report.notes if n.code == "ESCALATED"]


def test_a_larger_preconditioner_comes_before_cholesky():
    A, b = low_rank_plus(1e-3), torch.randn(120, 1, dtype=torch.float64)
    cg = CG(max_iter=8)
    M = RPCholesky(10).build(A)
    failed = cg.run(A, b, preconditioner=M)
    assert failed.status is Status.max_iter
    s = escalate(A, b, cg, failed, preconditioner=M)
    assert s.status is Status.converged and s.method == "CG"
    assert len(texts(s)) == 1 and "RPCholesky" in texts(s)[0] and "max_iter" in texts(s)[0]
    assert float((b - A @ s.x).norm() / b.norm()) <= 1e-6


def test_cholesky_is_the_last_resort():
    A = Dense(spectrum(torch.logspace(0, 8, 60)), psd=True)
    b = torch.randn(60, 2, dtype=torch.float64)
    s = solve(A, b, CG(max_iter=3), on_fail="escalate")
    assert s.status is Status.converged and s.method == "Cholesky"
    assert (
        texts(s)[-1].startswith("CG ended with max_iter") and "Cholesky ended with converged" in texts(s)[-1]
    )
    assert s.history.shape[0] == s.iterations + 1
    torch.testing.assert_close(s.x, torch.linalg.solve(A.dense(), b), rtol=1e-5, atol=1e-9)


def test_cholesky_only_if_it_fits():
    n = 400
    A = Dense(spectrum(torch.logspace(0, 8, n)), psd=True)
    b = torch.ones(n, 1, dtype=torch.float64)
    with options.options(memory_limit=1 << 20), pytest.warns(ConvergenceWarning):
        s = solve(A, b, CG(max_iter=3), on_fail="escalate")
    assert s.status is Status.max_iter and not any("Cholesky ended" in t for t in texts(s))


def test_products_in_float64_come_first():
    M = spectrum([*[100.0] * 20, *[1.0] * 20, *[1e-3] * 40], dtype=torch.float32)
    A, b = Dense(M, psd=True), torch.randn(80, 1, dtype=torch.float64)
    cg = CG(promote=False, max_iter=20)
    failed = cg.run(A, b)
    assert failed.status is Status.max_iter
    s = escalate(A, b, cg, failed)
    assert "products in float64" in texts(s)[0]
    assert s.status is Status.converged
    assert float((b - A.matmul(s.x, exact=True)).norm() / b.norm()) <= 1e-6


def test_what_cannot_be_solved_ends_with_the_last_failure():
    A = Dense(spectrum([*range(1, 40), -1.0]), symmetric=True)
    b = torch.randn(40, 1, dtype=torch.float64)
    with pytest.warns(ConvergenceWarning, match="indefinite"):
        s = solve(A, b, CG(), on_fail="escalate")
    assert s.status is Status.indefinite and texts(s)
    assert bool(torch.isfinite(s.x).all())  # the iterate of CG, not Cholesky's nothing
    first = CG().run(A, b)
    torch.testing.assert_close(s.residual_norms, (b - A @ s.x).norm(dim=0) / b.norm(dim=0))
    assert float(s.residual_norms.max()) <= float(first.residual_norms.max()) * (1 + 1e-9)


@pytest.mark.parametrize("status", [Status.nan, Status.time_limit, Status.stopped, Status.converged])
def test_some_outcomes_are_final(status):
    A, b = low_rank_plus(1.0), torch.randn(120, 1, dtype=torch.float64)
    if status is Status.nan:
        b[3] = torch.nan
    how = {Status.time_limit: CG(time_limit=0.0), Status.converged: CG()}.get(status, CG(max_iter=50))
    stop = (lambda p: p.iteration == 2) if status is Status.stopped else None
    failed = how.run(A, b, callback=stop)
    assert failed.status is status
    assert escalate(A, b, how, failed) is failed


def test_no_time_no_steps():
    A, b = low_rank_plus(1e-3), torch.randn(120, 1, dtype=torch.float64)
    failed = CG(max_iter=2).run(A, b)
    assert escalate(A, b, CG(max_iter=2), failed, time_left=0.0) is failed


def test_after_cholesky_has_failed():
    Q = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64))[0][:, :20]
    A, b = Dense(Q @ Q.T, psd=True), Q @ torch.randn(20, 1, dtype=torch.float64)
    failed = Cholesky().run(A, b)
    assert failed.status in (Status.indefinite, Status.stagnated)
    s = escalate(A, b, Cholesky(), failed)
    assert s.status is Status.converged
    torch.testing.assert_close(A @ s.x, b, rtol=0.0, atol=1e-6 * float(b.norm()))


def test_gradients_escalate_too():
    A0 = spectrum(torch.logspace(0, 6, 30))
    b = torch.randn(30, 1, dtype=torch.float64, requires_grad=True)
    s = solve(Dense(A0, psd=True), b, CG(max_iter=2), on_fail="escalate")
    (g,) = torch.autograd.grad(s.x.sum(), b)
    want = torch.linalg.solve(A0, torch.ones_like(b))
    torch.testing.assert_close(g, want, rtol=1e-5, atol=1e-8)


def test_the_warning_is_gone_when_a_step_helps(recwarn):
    A, b = low_rank_plus(1e-3), torch.randn(120, 1, dtype=torch.float64)
    assert solve(A, b, CG(max_iter=3), on_fail="escalate").converged
    assert not [w for w in recwarn if issubclass(w.category, ConvergenceWarning)]


def test_steps_are_solved_as_the_caller_asked(monkeypatch):
    seen = []
    run = CG.run

    def spy(self, *args, **kwargs):
        seen.append(self)
        return run(self, *args, **kwargs)

    monkeypatch.setattr(CG, "run", spy)
    A, b = low_rank_plus(1e-3), torch.randn(120, 1, dtype=torch.float64)
    cg = CG(max_iter=8, refresh=3, patience=77)
    escalate(A, b, cg, cg.run(A, b))
    assert len(seen) > 1
    assert all((m.max_iter, m.refresh, m.patience) == (8, 3, 77) for m in seen)

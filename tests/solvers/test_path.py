"""Many alphas at once: each one solved as if alone, for the passes of the hardest."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kerngp.engine.expr import Vi, Vj
from kerngp.engine.ops import exp, sqdist
from kerngp.errors import ConvergenceWarning, OptionError, ShapeError
from kerngp.solvers import (
    CG,
    Cholesky,
    Dense,
    KernelOperator,
    NoPreconditioner,
    RPCholesky,
    Status,
    identity,
    solve,
    solve_path,
    solve_shifted,
)
from kerngp.solvers.meter import metering
from kerngp.solvers.preconditioners.by_column import ByColumn

F = torch.float64


def kernel(n: int, dtype: torch.dtype = F) -> KernelOperator:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0), dtype=F).to(dtype)
    return KernelOperator(exp(-0.2 * sqdist(Vi(0, 4), Vj(1, 4))), (x, x), psd=True)


def rhs(n: int, columns: int = 1, dtype: torch.dtype = F) -> torch.Tensor:
    return torch.randn(n, columns, generator=torch.Generator().manual_seed(1), dtype=F).to(dtype)


def expected(K: torch.Tensor, b: torch.Tensor, alphas) -> torch.Tensor:
    eye = torch.eye(len(b), dtype=F)
    return torch.stack([torch.linalg.solve(K.double() + float(a) * eye, b.double()) for a in alphas])


class Plain:
    """A recipe without refresh."""

    def build(self, A):
        return Dense(torch.diag(1 / A.dense().diagonal()), psd=True)


@pytest.mark.parametrize("recipe", [None, RPCholesky(20), NoPreconditioner(), Plain()])
@pytest.mark.parametrize(("n", "columns"), [(1, 1), (2, 3), (33, 2), (150, 1)])
def test_every_alpha_is_solved(n, columns, recipe):
    K, b, alphas = kernel(n), rhs(n, columns), [1e-2, 3.0, 0.5, 100.0, 0.5]
    s = solve_path(K, b, alphas, CG(tol=1e-10), preconditioner=recipe)
    assert s.status is Status.converged
    assert s.x.shape == (5, n, columns)
    assert s.residual_norms.shape == (5, columns)
    assert s.history.shape == (s.iterations + 1, 5, columns)
    assert s.extra["alphas"].tolist() == alphas
    torch.testing.assert_close(s.x, expected(K.dense(), b, alphas), rtol=0, atol=1e-7)
    for a, x, norms in zip(alphas, s.x, s.residual_norms, strict=True):
        r = b - K.dense() @ x - a * x
        assert float((r.norm(dim=0) / b.norm(dim=0)).max()) <= 1e-10 * (1 + 1e-3)
        torch.testing.assert_close(norms, r.norm(dim=0) / b.norm(dim=0), rtol=1e-2, atol=1e-14)


@pytest.mark.parametrize("recipe", [None, RPCholesky(80)])
@pytest.mark.parametrize("dtype", [F, torch.float32])
def test_twenty_alphas_for_the_passes_of_the_hardest(recipe, dtype):
    n, alphas, method = 400, torch.logspace(-2, 2, 20, dtype=F), CG(tol=1e-6, max_iter=3000)
    K, b = kernel(n, dtype), rhs(n)
    with metering() as alone:
        hardest = solve(K + float(alphas[0]) * identity(n), b, method, preconditioner=recipe)
    with metering() as together:
        s = solve_path(K, b, alphas, method, preconditioner=recipe)
    assert hardest.status is s.status is Status.converged
    assert together.passes(n * n) <= 1.3 * alone.passes(n * n) + 8
    torch.testing.assert_close(s.x[0], hardest.x, rtol=0, atol=1e-4 * float(hardest.x.abs().max()))


def test_preconditioners_are_shared_by_alphas_that_are_alike():
    built = []

    class Counted:
        def build(self, A):
            built.append(float(A.values))
            return Dense(torch.diag(1 / A.dense().diagonal()), psd=True)

    alphas = [8.0, 1.0, 2.0, 100.0, 2.0, 0.0]
    s = solve_path(kernel(30) + 0.5 * identity(30), rhs(30), alphas, preconditioner=Counted())
    assert s.status is Status.converged
    assert built == pytest.approx([0.5, 0.5 + 2**0.5, 8.5, 100.5])


def test_certificates_of_a_path():
    K, b, alphas = kernel(60), rhs(60, 2), torch.tensor([1e-2, 1.0], dtype=F)
    for recipe in (None, RPCholesky(20), RPCholesky(20).build(K + 1e-2 * identity(60))):
        s = solve_path(K, b, alphas, CG(tol=1e-4), preconditioner=recipe)
        c = s.report.certificate
        assert c.kind == "bound", c.reason
        assert c.error.shape == (2, 2)
        for a, x, error in zip(alphas, s.x, c.error, strict=True):
            A = K.dense() + a * torch.eye(60, dtype=F)
            d = torch.linalg.solve(A, b) - x
            true = (d * (A @ d)).sum(0).sqrt()
            assert bool((error >= true).all())
            assert bool((error <= 20 * true).all())


def test_batch_numbers_and_start():
    A = torch.stack([torch.eye(5, dtype=F), 3 * torch.eye(5, dtype=F)])
    s = solve_path(Dense(A, psd=True), torch.ones(5, 1, dtype=F), [1.0, 2.0, 5.0], CG())
    assert s.x.shape == (3, 2, 5, 1)
    torch.testing.assert_close(s.x[:, 1, 0, 0], torch.tensor([1 / 4, 1 / 5, 1 / 8], dtype=F))
    K, b = kernel(50), rhs(50)
    alphas = [0.1, 1.0]
    done = solve_path(K, b, alphas, CG(tol=1e-8))
    assert solve_path(K, b, alphas, CG(tol=1e-8), x0=done.x).iterations == 0
    shared = solve_path(K, b, alphas, CG(tol=1e-8), x0=done.x[0])
    assert 0 < shared.iterations < done.iterations + 5
    torch.testing.assert_close(shared.x, done.x, rtol=0, atol=1e-5)
    stopped = solve_path(K, b, alphas, CG(tol=1e-12), callback=lambda p: p.iteration == 3)
    assert (stopped.status, stopped.iterations) == (Status.stopped, 3)


def test_alpha_zero_and_failures():
    A = torch.diag(torch.tensor([1.0, 2.0, 4.0], dtype=F))
    s = solve_path(Dense(A, psd=True), torch.ones(3, 1, dtype=F), [0.0, 1.0], CG(tol=1e-12))
    torch.testing.assert_close(s.x[0, :, 0], torch.tensor([1.0, 0.5, 0.25], dtype=F))
    B = Dense(torch.diag(torch.tensor([1.0, -2.0, 4.0], dtype=F)), symmetric=True)
    with pytest.warns(ConvergenceWarning, match="indefinite"):
        s = solve_path(B, torch.ones(3, 1, dtype=F), [1.0, 5.0], "cg")
    assert s.status is Status.indefinite
    assert s.residual_norms[1] <= 1e-6 < s.residual_norms[0]  # the larger alpha is enough, and is solved
    assert s.report.suggested_alpha > 1.0


def test_by_column():
    a, b, c = (Dense(torch.full((2, 2), v, dtype=F), psd=True) for v in (1.0, 2.0, 3.0))
    M = ByColumn([a, b, c], torch.tensor([2, 0, 2, 1]))
    v = torch.ones(2, 4, dtype=F)
    assert (M @ v)[0].tolist() == [6.0, 2.0, 6.0, 4.0]
    assert (M.restrict(torch.tensor([1, 3])) @ v[:, :2])[1].tolist() == [2.0, 4.0]
    assert M.floor is None
    same = M.with_tensors([2 * t for t in M.tensors])
    assert (same @ v)[0].tolist() == [12.0, 4.0, 12.0, 8.0]
    with pytest.raises(ShapeError, match="b has 3 columns; this preconditioner is for 4"):
        M @ v[:, :3]
    with pytest.raises(OptionError, match="no rows and no diagonal"):
        M.diag()
    with pytest.raises(OptionError, match="no rows"):
        M.rows([0])
    with pytest.raises(ShapeError, match="one shape"):
        ByColumn([a, identity(3)], torch.tensor([0, 1]))


def test_messages():
    K, b = kernel(4), rhs(4)
    with pytest.raises(ShapeError, match=r"alphas has shape \(\)"):
        solve_path(K, b, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"alphas has shape \(0,\)"):
        solve_path(K, b, [])
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(OptionError, match="none of them negative"):
            solve_path(K, b, [1.0, bad])
    with pytest.raises(OptionError, match="on_fail='escalate' is for one alpha"):
        solve_path(K, b, [1.0], on_fail="escalate")
    with pytest.raises(ShapeError, match="x0 has shape"):
        solve_path(K, b, [1.0], x0=b[:2])
    with pytest.raises(ShapeError, match="b has shape"):
        solve_path(K, b[:3], [1.0])


def test_methods_without_shifts_solve_each_alpha_alone():
    K, b, alphas = kernel(33), rhs(33, 2), [3.0, 0.1, 3.0, 50.0, 1.0]  # not in order
    s = solve_path(K, b, alphas, Cholesky(tol=1e-10))
    torch.testing.assert_close(s.x, expected(K.dense(), b, alphas))
    assert s.status is Status.converged


@pytest.mark.parametrize("method", ["cg", "cholesky", "auto"])
def test_an_amount_for_each_column(method):
    generator = torch.Generator().manual_seed(1)
    F = torch.randn(60, 60, dtype=torch.float64, generator=generator)
    K, b = F @ F.T / 60, torch.randn(60, 3, dtype=torch.float64, generator=generator)
    shifts = [0.5, 0.01, 0.5]
    found = solve_shifted(Dense(K, psd=True), b, shifts, method, tol=1e-8)
    eye = torch.eye(60, dtype=torch.float64)
    for e, s in enumerate(shifts):
        torch.testing.assert_close(
            found.x[:, e], torch.linalg.solve(K + s * eye, b[:, e]), rtol=1e-5, atol=1e-6
        )
    again = solve_shifted(Dense(K, psd=True), b, shifts, "cg", x0=found.x)
    assert again.iterations == 0
    assert isinstance(solve_shifted(K.numpy(), b.numpy(), shifts).x, np.ndarray)


def test_an_amount_for_each_column_refusals():
    K, b = Dense(torch.eye(3), psd=True), torch.ones(3, 2)
    with pytest.raises(ShapeError, match=r"b has shape \(3, 2\) for 3 shifts; expected \(3, 3\)"):
        solve_shifted(K, b, [1.0, 2.0, 3.0])
    with pytest.raises(ShapeError, match="x0 has shape"):
        solve_shifted(K, b, [1.0, 2.0], x0=torch.ones(3, 1))
    with pytest.raises(OptionError, match="escalate"):
        solve_shifted(K, b, [1.0, 2.0], on_fail="escalate")

"""Extreme eigenpairs and bounds of the largest eigenvalue, against dense decompositions."""

from __future__ import annotations

import pytest
import torch
from preconditioner_cases import kernel_system

from kerngp.errors import BackendUnavailable, ConvergenceWarning, OptionError, ShapeError, SolveError
from kerngp.options import options
from kerngp.solvers import Dense, RPCholesky, Status, cast, eigsh, largest_eigenvalue
from kerngp.solvers.meter import metering

F = torch.float64


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=F)


def spectrum(values: torch.Tensor) -> torch.Tensor:
    Q = torch.linalg.qr(random(len(values), len(values)))[0]
    A = (Q * values) @ Q.T
    return 0.5 * (A + A.T)


def check(found, A: torch.Tensor, k: int, which: str = "largest", tol: float = 1e-8) -> None:
    values = torch.linalg.eigvalsh(A)
    want = values.flip(0)[:k] if which == "largest" else values[:k]
    scale = float(values.abs().max())
    assert found.converged
    assert found.values.shape == (k,)
    torch.testing.assert_close(found.values, want, rtol=0, atol=tol * scale)
    V = found.vectors
    torch.testing.assert_close(V.T @ V, torch.eye(k, dtype=F), rtol=0, atol=1e-10)
    true = (A @ V - V * found.values).norm(dim=0)
    torch.testing.assert_close(found.residuals, true, rtol=1e-2, atol=1e-12 * scale)
    assert float(true.max()) <= 2 * tol * scale


@pytest.mark.parametrize("which", ["largest", "smallest"])
@pytest.mark.parametrize("exact_below", [0, 500])
@pytest.mark.parametrize("n", [1, 2, 7, 33, 200])
def test_kernel(n, exact_below, which):
    A = (
        kernel_system(n, lengthscale=0.2)
        if which == "largest"
        else Dense(spectrum(random(n)), symmetric=True)
    )
    k = min(n, 4)
    check(eigsh(A, k, which=which, exact_below=exact_below), A.dense(), k, which)


def test_indefinite_by_value_not_magnitude():
    A = spectrum(torch.cat([-torch.logspace(2, 0, 100, dtype=F), torch.linspace(0.1, 5, 100, dtype=F)]))
    for which in ("largest", "smallest"):
        check(eigsh(A, 3, which=which, exact_below=0), A, 3, which)


def test_multiple_eigenvalues_are_found_all():
    values = torch.ones(200, dtype=F)
    values[:5] = 3.0
    found = eigsh(spectrum(values), 6, exact_below=0)
    torch.testing.assert_close(found.values, torch.tensor([3.0] * 5 + [1.0], dtype=F))
    torch.testing.assert_close(eigsh(torch.eye(100), 3, exact_below=0).values, torch.ones(3, dtype=F))
    torch.testing.assert_close(eigsh(torch.zeros(100, 100), 3, exact_below=0).values, torch.zeros(3, dtype=F))


@pytest.mark.parametrize("factor", [1e-150, 1e150])
def test_scale(factor):
    A = spectrum(torch.linspace(1, 100, 120, dtype=F))
    got = eigsh(factor * A, 3, exact_below=0)
    torch.testing.assert_close(got.values / factor, torch.linalg.eigvalsh(A).flip(0)[:3])


def test_restarts():
    """Many more steps than the basis holds."""
    A = spectrum(torch.linspace(1, 2, 400, dtype=F))
    found = eigsh(A, 2, block=2, exact_below=0, max_iter=1000)
    assert found.products > 40
    check(found, A, 2)


def test_few_passes():
    A = kernel_system(800, lengthscale=1.0)
    with metering() as meter:
        found = eigsh(A, 10)
    assert found.products <= 15
    assert meter.passes(800 * 800) == pytest.approx(found.products)
    check(found, A.dense(), 10)


def test_preconditioner_finds_the_smallest():
    A = kernel_system(300, lengthscale=1.0, alpha=1e-3)
    plain = eigsh(A, 2, which="smallest", exact_below=0, max_iter=300, preconditioner=RPCholesky(150))
    want = torch.linalg.eigvalsh(A.dense())[:2]
    torch.testing.assert_close(plain.values, want, rtol=1e-5, atol=0)


def test_float32():
    A = kernel_system(300, dtype=torch.float32)
    check(eigsh(A, 5, exact_below=0), cast(A, F).dense(), 5, tol=1e-5)


def test_early_end():
    A = spectrum(torch.linspace(1, 2, 300, dtype=F))
    with pytest.warns(ConvergenceWarning, match="eigsh ended after max_iter=2"):
        found = eigsh(A, 2, exact_below=0, max_iter=2)
    assert found.status is Status.max_iter
    # an eigenvalue lies within each residual all the same
    gap = (torch.linalg.eigvalsh(A)[:, None] - found.values).abs().min(0).values
    assert bool((gap <= found.residuals).all())


def test_transforms_are_refused():
    with pytest.raises(BackendUnavailable, match="eigsh"):
        torch.func.jacrev(lambda t: eigsh(Dense(t, psd=True), 1).values)(torch.eye(3, dtype=F))
    with pytest.raises(BackendUnavailable, match="largest_eigenvalue"):
        torch.func.jacrev(lambda t: largest_eigenvalue(Dense(t, psd=True)).lower)(torch.eye(3, dtype=F))


def test_messages():
    A = kernel_system(40)
    with pytest.raises(OptionError, match="which='middle'"):
        eigsh(A, which="middle")
    with pytest.raises(OptionError, match="k=41"):
        eigsh(A, 41)
    with pytest.raises(OptionError, match="k=0"):
        eigsh(A, 0)
    with pytest.raises(ShapeError, match="symmetric"):
        eigsh(Dense(random(4, 4)))
    with pytest.raises(ShapeError, match="one matrix"):
        eigsh(Dense(random(2, 4, 4) * 0, symmetric=True))
    for exact_below in (0, 500):
        with pytest.raises(SolveError, match="NaN or infinity"):
            eigsh(Dense(torch.full((40, 40), torch.nan, dtype=F), symmetric=True), 2, exact_below=exact_below)
    with options(memory_limit=1 << 20):
        check(
            eigsh(kernel_system(600, lengthscale=2.0), 6, exact_below=0),
            kernel_system(600, lengthscale=2.0).dense(),
            6,
        )
    with options(memory_limit=1 << 20), pytest.raises(OptionError, match="memory_limit"):
        eigsh(kernel_system(600), 300)


@pytest.mark.parametrize("n", [1, 2, 7, 300])
def test_bounds_hold(n):
    inside = 0
    for seed in range(30):
        A = kernel_system(n, lengthscale=0.1 + 0.05 * seed)
        top = float(torch.linalg.eigvalsh(A.dense())[-1])
        found = largest_eigenvalue(A, random_state=seed, failure=1e-2)
        assert float(found.lower) <= top * (1 + 1e-12)
        inside += top <= float(found.upper)
        assert float(found.upper) < 1.5 * top
    assert inside == 30


def test_bounds_with_few_steps_and_batches():
    A = spectrum(torch.linspace(0, 1, 300, dtype=F))
    assert float(largest_eigenvalue(A, steps=2).upper) == torch.inf
    batch = torch.stack([A, 10 * A])
    found = largest_eigenvalue(Dense(batch, psd=True), steps=40)
    assert found.lower.shape == (2,)
    torch.testing.assert_close(found.lower[1], 10 * found.lower[0])
    assert bool((found.lower <= torch.tensor([1.0, 10.0])).all() and (found.upper >= found.lower).all())
    zero = largest_eigenvalue(torch.zeros(5, 5))
    assert float(zero.lower) == float(zero.upper) == 0.0


def test_bounds_messages():
    with pytest.raises(SolveError, match="semi-definite"):
        largest_eigenvalue(torch.diag(torch.tensor([1.0, -1.0, 0.5])))
    with pytest.raises(OptionError, match="failure=0"):
        largest_eigenvalue(torch.eye(3), failure=0.0)
    with pytest.raises(SolveError, match="NaN"):
        largest_eigenvalue(Dense(torch.full((3, 3), torch.nan), symmetric=True))
    with pytest.raises(ShapeError, match="no rows"):
        largest_eigenvalue(torch.zeros(0, 0))

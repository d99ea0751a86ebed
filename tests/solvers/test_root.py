"""Square roots of operators on vectors, and samples: against dense roots, and in covariance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from preconditioner_cases import kernel_system

from kerngp.errors import BackendUnavailable, ConvergenceWarning, OptionError, ShapeError, SolveError
from kerngp.options import options
from kerngp.solvers import (
    Dense,
    Jacobi,
    Nystrom,
    RPCholesky,
    Status,
    Vecchia,
    cast,
    identity,
    sample,
    sqrt_product,
)
from kerngp.solvers.functions.congruence import Congruence
from kerngp.solvers.functions.lanczos import lanczos
from kerngp.solvers.functions.root import rsqrt_bound, sqrt_bound

F = torch.float64


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=F)


def power(A: torch.Tensor, p: float) -> torch.Tensor:
    values, Q = torch.linalg.eigh(A)
    return (Q * values.clamp_min(0).pow(p).unsqueeze(-2)) @ Q.mT


def relative(got: torch.Tensor, want: torch.Tensor) -> torch.Tensor:
    return (got - want).norm(dim=-2) / want.norm(dim=-2)


@pytest.mark.parametrize("exact_below", [0, 1000])
@pytest.mark.parametrize("n", [1, 2, 7, 33, 200])
def test_sqrt_product(n, exact_below):
    A = kernel_system(n)
    b = random(n, 3)
    found = sqrt_product(A, b, exact_below=exact_below)
    assert found.converged
    assert found.error.shape == (3,)
    error = relative(found.value, power(A.dense(), 0.5) @ b)
    assert bool((error <= found.error + 1e-10).all())
    assert float(found.error.max()) <= 1e-6
    vector = sqrt_product(A, b[:, 0], exact_below=exact_below)
    torch.testing.assert_close(vector.value, found.value[:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 20, 40, 80])
def test_bounds_are_bounds(steps):
    """With a floor that is known they hold at every step, and are not absurdly large."""
    A = kernel_system(150, lengthscale=0.3)
    dense, b = A.dense(), random(150, 2)
    krylov = lanczos(lambda v: dense @ v, b, steps)
    theta = krylov.eigh()[0]
    error = (krylov.apply(torch.sqrt) - power(dense, 0.5) @ b).norm(dim=-2)
    for floor in (0.05, 0.01, 0.0):
        assert bool((error <= sqrt_bound(krylov, theta, floor) + 1e-12).all())
    assert bool((sqrt_bound(krylov, theta, 0.05) <= 100 * error + 1e-12).all())
    M = RPCholesky(40).build(A)
    B = Congruence.of("test", A, M)
    L = M.root().dense()
    matrix = L @ dense @ L.T
    krylov = lanczos(B, b, steps)
    rest = power(matrix, 0.5) @ (krylov.apply(torch.rsqrt) - power(matrix, -0.5) @ b)
    error = rest.norm(dim=-2)
    bound = rsqrt_bound(krylov, krylov.eigh()[0], M.floor)
    assert bool((error <= bound + 1e-12).all())
    assert bool((bound <= 100 * error + 1e-10).all())


def test_singular_and_zero():
    root = random(60, 5)
    A = Dense(root @ root.T, psd=True)
    b = random(60, 2)
    for exact_below in (0, 1000):
        found = sqrt_product(A, b, exact_below=exact_below)
        assert float(relative(found.value, power(A.dense(), 0.5) @ b).max()) < 1e-5
    zero = sqrt_product(Dense(torch.zeros(9, 9, dtype=F), psd=True), random(9, 2), exact_below=0)
    assert torch.equal(zero.value, torch.zeros(9, 2, dtype=F))
    A = kernel_system(20)
    found = sqrt_product(A, torch.zeros(20, 2, dtype=F), exact_below=0)
    assert torch.equal(found.value, torch.zeros(20, 2, dtype=F))
    assert float(found.error.max()) == 0.0


@pytest.mark.parametrize("factor", [1e-150, 1e150])
def test_scale(factor):
    A = kernel_system(60).dense()
    b = random(60, 2)
    got = sqrt_product(Dense(factor * A, psd=True), b, exact_below=0)
    assert float(relative(got.value / factor**0.5, power(A, 0.5) @ b).max()) < 1e-6


def test_numpy_batch_and_empty():
    A = torch.stack([kernel_system(30, lengthscale=s).dense() for s in (0.2, 1.0)])
    b = random(2, 30, 3)
    for exact_below in (0, 1000):
        got = sqrt_product(Dense(A, psd=True), b, exact_below=exact_below).value
        torch.testing.assert_close(got, power(A, 0.5) @ b, rtol=1e-5, atol=1e-6)
    out = sqrt_product(A[0].numpy(), np.ones(30, dtype=np.float32)).value
    assert isinstance(out, np.ndarray)
    assert out.dtype == np.float32
    assert sqrt_product(Dense(A[0], psd=True), b[0, :, :0], exact_below=0).value.shape == (30, 0)
    assert sample(Dense(A[0], psd=True), 0).value.shape == (30, 0)


def test_float32_gets_the_accuracy_it_is_asked_for():
    A = kernel_system(200, dtype=torch.float32, alpha=1e-3)
    b = random(200, 2)
    want = power(cast(A, F).dense(), 0.5) @ b
    for tol, notes in ((1e-1, 0), (1e-8, 1)):
        found = sqrt_product(A, b, exact_below=0, tol=tol)
        assert len(found.notes) == notes
        assert float(relative(found.value, want).max()) <= 2 * tol


def test_memory_limit_makes_groups():
    A = kernel_system(700)
    whole = sample(A, 4, tol=1e-2, exact_below=0)
    with options(memory_limit=1 << 20):
        parts = sample(A, 4, tol=1e-2, exact_below=0)
    assert parts.products > whole.products
    assert float(relative(parts.value, whole.value).max()) < 2e-2


def test_early_end():
    A = kernel_system(200, alpha=1e-6)
    for found in (
        lambda: sqrt_product(A, random(200), exact_below=0, steps=3),
        lambda: sample(A, exact_below=0, steps=3),
        lambda: sample(A, exact_below=0, steps=3, preconditioner=RPCholesky(3)),
    ):
        with pytest.warns(ConvergenceWarning, match="ended after steps=3"):
            assert found().status is Status.max_iter


# ---------------------------------------------------------------- samples


@pytest.mark.parametrize("recipe", [None, Jacobi(), RPCholesky(20), Nystrom(20), Vecchia(10)])
@pytest.mark.parametrize("n", [1, 2, 7, 33])
def test_samples_are_a_root_of_the_covariance(n, recipe):
    """R R' = A: R is linear in z, so it is read off by as many samples as there are entries."""
    A = kernel_system(n)
    x = sample(A, 3 * n, preconditioner=recipe, exact_below=0, tol=1e-9).value
    z = torch.randn((n, 3 * n), generator=torch.Generator().manual_seed(0), dtype=F)  # the vectors behind it
    R = torch.linalg.lstsq(z.T, x.T).solution.T
    torch.testing.assert_close(R @ z, x, rtol=0, atol=1e-7)
    torch.testing.assert_close(R @ R.T, A.dense(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("recipe", [None, RPCholesky(20)])
def test_covariance(recipe):
    A = kernel_system(20)
    x = sample(A, 5000, preconditioner=recipe, exact_below=0, random_state=1).value
    want = A.dense()
    deviation = ((want.square() + want.diagonal()[:, None] * want.diagonal()) / 5000).sqrt()
    z = (x @ x.T / 5000 - want) / deviation
    assert float(z.abs().max()) < 5
    assert float((x.mean(1).abs() / (want.diagonal() / 5000).sqrt()).max()) < 5


def test_seeds_and_preconditioner():
    A = kernel_system(300, lengthscale=2.0)
    first, again, other = (sample(A, 2, exact_below=0, random_state=s) for s in (1, 1, 2))
    assert torch.equal(first.value, again.value)
    assert not torch.allclose(first.value, other.value)
    assert sample(A, 2, preconditioner=RPCholesky(100), exact_below=0).products < 0.4 * first.products
    K = kernel_system(100, lengthscale=2.0).base  # singular to working precision
    assert bool(torch.isfinite(sample(K, 2, exact_below=0, tol=1e-2).value).all())


def test_float32_samples():
    A = kernel_system(100, dtype=torch.float32)
    for recipe in (None, RPCholesky(50)):
        x = sample(A, 400, preconditioner=recipe, exact_below=0).value
        assert x.dtype == F
        # the mean of x'A^-1 x / n is 1
        size = (x * torch.linalg.solve(cast(A, F).dense(), x)).sum(0) / 100
        assert float(size.mean()) == pytest.approx(1.0, abs=5 * (2 / 100 / 400) ** 0.5)


def test_no_root():
    indefinite = Dense(torch.diag(torch.tensor([1.0, -1.0, 2.0], dtype=F)), symmetric=True)
    bad = Dense(torch.diag(torch.tensor([1.0, torch.nan, 2.0], dtype=F)), symmetric=True)
    for exact_below in (0, 1000):
        with pytest.raises(SolveError, match="no real square root"):
            sqrt_product(indefinite, random(3), exact_below=exact_below)
        with pytest.raises(SolveError, match="NaN"):
            sample(bad, exact_below=exact_below)
    with pytest.raises(SolveError, match="not positive definite"):
        sample(indefinite, preconditioner=identity(3), exact_below=0)
    with pytest.raises(SolveError, match="NaN or infinity in b"):
        sqrt_product(kernel_system(3), torch.full((3,), torch.nan, dtype=F))


def test_transforms_are_refused():
    with pytest.raises(BackendUnavailable, match="sqrt_product"):
        torch.func.jacrev(lambda b: sqrt_product(torch.eye(3, dtype=F), b).value)(random(3))
    with pytest.raises(BackendUnavailable, match="sample"):
        torch.func.jacrev(lambda t: sample(Dense(t, psd=True)).value)(torch.eye(3, dtype=F))


def test_messages():
    A = kernel_system(5)
    with pytest.raises(ShapeError, match="b has shape"):
        sqrt_product(A, random(4))
    with pytest.raises(OptionError, match="count=-1"):
        sample(A, -1)
    with pytest.raises(OptionError, match="tol=0"):
        sample(A, tol=0)
    with pytest.raises(ShapeError, match="symmetric"):
        sqrt_product(Dense(random(3, 3)), random(3))

"""Log-determinants: values and honest errors against dense factorisations, gradients, refusals."""

from __future__ import annotations

import pytest
import torch
from preconditioner_cases import kernel_system

from kerngp.errors import BackendUnavailable, ConvergenceWarning, OptionError, ShapeError, SolveError
from kerngp.options import options
from kerngp.solvers import Dense, Jacobi, Nystrom, RPCholesky, Status, Vecchia, cast, identity, logdet

F = torch.float64
RECIPES = [None, Jacobi(), RPCholesky(40), Nystrom(40), Vecchia(10)]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=F)


def dense_logdet(A) -> torch.Tensor:
    return torch.logdet(cast(A, F).dense())


@pytest.mark.parametrize("n", [1, 2, 7, 31, 300])
def test_exact(n):
    A = kernel_system(n)
    found = logdet(A)
    torch.testing.assert_close(found.value, dense_logdet(A), rtol=1e-12, atol=1e-12)
    assert found.probes == 0
    assert float(found.standard_error) == 0.0


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("n", [1, 2, 7, 33, 120])
def test_estimate_within_its_error(n, recipe):
    A = kernel_system(n)
    found = logdet(A, preconditioner=recipe, exact_below=0)
    assert found.probes == 16
    assert found.converged
    error = abs(float(found.value - dense_logdet(A)))
    assert error <= 4 * float(found.standard_error) + 1e-10


@pytest.mark.parametrize("recipe", [None, RPCholesky(30)])
def test_coverage_over_seeds(recipe):
    A = kernel_system(150, dim=3, lengthscale=0.3, alpha=0.02)
    truth, inside, size = float(dense_logdet(A)), 0, 0.0
    errors = []
    for seed in range(100):
        found = logdet(A, preconditioner=recipe, exact_below=0, random_state=seed)
        errors.append((float(found.value) - truth) / float(found.standard_error))
        size += float(found.standard_error) / 100
    inside = sum(abs(e) <= 3 for e in errors)
    assert inside >= 95
    # and it is no larger than it has to be
    assert 0.7 < torch.tensor(errors).std() < 1.4
    assert size < 0.05 * abs(truth)


def test_preconditioner_takes_the_variance_away():
    A = kernel_system(200, lengthscale=2.0)
    plain, good = (logdet(A, preconditioner=p, exact_below=0) for p in (None, RPCholesky(80)))
    assert float(good.standard_error) < 0.02 * float(plain.standard_error)
    assert good.products < plain.products
    assert abs(float(good.value - dense_logdet(A))) <= 4 * float(good.standard_error)


def test_more_probes_less_error():
    A = kernel_system(200)
    few, many = (float(logdet(A, probes=p, exact_below=0).standard_error) for p in (8, 128))
    assert 0.1 < many / few < 0.5  # a quarter, but for the noise of eight


def test_diagonal_matrix_has_no_variance():
    """Signs see the diagonal of log A alone: the error left is that of the quadrature."""
    d = torch.logspace(-3, 3, 150, dtype=F)
    found = logdet(Dense(torch.diag(d), psd=True), exact_below=0, tol=1e-8)
    assert abs(float(found.value - d.log().sum())) <= 3 * float(found.standard_error)
    assert float(found.standard_error) < 1e-6


def test_early_end_is_said_and_is_in_the_error():
    d = torch.logspace(-6, 0, 150, dtype=F)
    A = Dense(torch.diag(d), psd=True) + 1e-12 * identity(150)  # the floor makes the error a bound
    with pytest.warns(ConvergenceWarning, match="logdet ended after steps=8 products"):
        found = logdet(A, exact_below=0, steps=8)
    assert found.status is Status.max_iter
    assert abs(float(found.value - d.log().sum())) <= float(found.truncation)


@pytest.mark.parametrize("factor", [1e-150, 1e150])
def test_scale(factor):
    A = kernel_system(100)
    B = Dense(factor * A.dense(), psd=True)
    want = dense_logdet(A) + 100 * torch.tensor(factor, dtype=F).log()
    found = logdet(B, exact_below=0)
    assert abs(float(found.value - want)) <= 4 * float(found.standard_error)
    torch.testing.assert_close(logdet(B).value, want)


def test_batch():
    A = torch.stack([kernel_system(60, lengthscale=s).dense() for s in (0.2, 1.0)])
    for recipe in (None, Jacobi()):
        found = logdet(Dense(A, psd=True), preconditioner=recipe, exact_below=0)
        assert found.value.shape == found.standard_error.shape == (2,)
        assert bool(((found.value - torch.logdet(A)).abs() <= 4 * found.standard_error).all())
    torch.testing.assert_close(logdet(Dense(A, psd=True)).value, torch.logdet(A))


@pytest.mark.parametrize("recipe", [None, RPCholesky(60)])
def test_float32(recipe):
    A = kernel_system(200, dtype=torch.float32)
    found = logdet(A, preconditioner=recipe, exact_below=0)
    assert found.value.dtype == F
    assert not found.notes
    assert abs(float(found.value - dense_logdet(A))) <= 4 * float(found.standard_error) + 1e-4


def test_float32_that_does_not_resolve_the_matrix():
    A = kernel_system(200, dtype=torch.float32, lengthscale=3.0, alpha=1e-7)
    found = logdet(A, preconditioner=RPCholesky(100), exact_below=0)
    assert [note.code for note in found.notes] == ["F32_EXACT"]
    assert abs(float(found.value - dense_logdet(A))) <= 4 * float(found.standard_error)


def test_memory_limit_makes_groups():
    A = kernel_system(2000)
    M = RPCholesky(100).build(A)
    whole = logdet(A, preconditioner=M, steps=20)
    with options(memory_limit=1 << 20):
        parts = logdet(A, preconditioner=M, steps=20)
    assert parts.products > whole.products
    assert abs(float(parts.value - whole.value)) < float(whole.standard_error)


# ---------------------------------------------------------------- gradients


def with_grad(A):
    return A.with_tensors([t.clone().requires_grad_() for t in A.tensors])


@pytest.mark.parametrize("recipe", [None, RPCholesky(60)])
def test_gradient_of_the_estimate_is_right_on_average(recipe):
    A = with_grad(kernel_system(100, alpha=torch.tensor(0.1, dtype=F)))
    wanted = A.tensors
    exact = torch.autograd.grad(logdet(A).value, wanted)
    runs = [
        torch.autograd.grad(
            logdet(A, preconditioner=recipe, exact_below=0, random_state=s, tol=1e-6).value, wanted
        )
        for s in range(40)
    ]
    for k, want in enumerate(exact):
        got = torch.stack([r[k] for r in runs])
        error = got.std(0) / len(runs) ** 0.5
        assert bool(((got.mean(0) - want).abs() <= 4.5 * error + 1e-6 * want.abs()).all())
    for k in (1, 2):  # the lengthscale and alpha, where the noise is small
        assert float(torch.stack([r[k] for r in runs]).mean(0)) == pytest.approx(float(exact[k]), rel=0.05)


def test_no_gradient_no_solves():
    A = with_grad(kernel_system(100, alpha=1e-2))
    with torch.no_grad():
        without = logdet(A, exact_below=0, tol=1e-6)
    found = logdet(A, exact_below=0, tol=1e-6)
    assert without.products < found.products  # the residuals of the solves are what takes longest
    assert not without.value.requires_grad
    assert found.value.requires_grad


def test_gradient_is_the_derivative_of_the_estimate():
    """The same signs at every parameter: finite differences of the estimate, not of the truth."""

    def value(alpha: torch.Tensor) -> torch.Tensor:
        return logdet(kernel_system(60, alpha=alpha), exact_below=0, tol=1e-10, random_state=3).value

    alpha = torch.tensor(0.1, dtype=F, requires_grad=True)
    (got,) = torch.autograd.grad(value(alpha), alpha)
    h = 1e-5
    want = (value(alpha + h) - value(alpha - h)) / (2 * h)
    assert float(got) == pytest.approx(float(want.detach()), rel=1e-5)


def test_gradient_of_a_batch_and_of_float32():
    A = torch.stack([kernel_system(50, lengthscale=s).dense() for s in (0.2, 0.4)]).requires_grad_()
    weights = torch.tensor([1.0, -2.0], dtype=F)
    (got,) = torch.autograd.grad((weights * logdet(Dense(A, psd=True), exact_below=0).value).sum(), A)
    want = weights[:, None, None] * torch.linalg.inv(A.detach())
    ratio = got.diagonal(dim1=-2, dim2=-1).sum(-1) / want.diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(ratio, torch.ones(2, dtype=F), rtol=0.2, atol=0)
    single = with_grad(kernel_system(100, dtype=torch.float32))
    value = logdet(single, preconditioner=RPCholesky(60), exact_below=0).value
    (scale,) = torch.autograd.grad(value, single.tensors[1])
    (want,) = torch.autograd.grad(logdet(single).value, single.tensors[1])
    assert scale.dtype == torch.float32
    assert float(scale) == pytest.approx(float(want), rel=0.1)


def test_exact_value_is_differentiable_twice():
    x = torch.rand(8, 2, generator=torch.Generator().manual_seed(0), dtype=F, requires_grad=True)

    def value(x):
        return logdet(Dense((x @ x.T).exp(), psd=True) + 0.5 * identity(8)).value

    assert torch.autograd.gradcheck(value, (x,))
    assert torch.autograd.gradgradcheck(value, (x,))


def test_second_derivative_of_an_estimate_is_refused():
    A = with_grad(kernel_system(60))
    scale = A.tensors[1]
    (g,) = torch.autograd.grad(logdet(A, exact_below=0).value, scale, create_graph=True)
    assert bool(torch.isfinite(g))
    with pytest.raises(BackendUnavailable, match="second derivatives of an estimated logdet"):
        g.sum().backward()


def test_transforms_are_refused_for_estimates():
    x, one = random(5, 5), torch.tensor(1.0, dtype=F)

    def value(t, exact_below):
        return logdet(Dense(x @ x.T + t * torch.eye(5, dtype=F), psd=True), exact_below=exact_below).value

    with pytest.raises(BackendUnavailable, match="an estimated logdet"):
        torch.func.grad(value)(one, 0)
    P = torch.linalg.inv(x @ x.T + torch.eye(5, dtype=F))
    torch.testing.assert_close(torch.func.grad(value)(one, 1000), P.trace())
    torch.testing.assert_close(torch.func.grad(torch.func.grad(value))(one, 1000), -(P @ P).trace())


# ---------------------------------------------------------------- what has no value


@pytest.mark.parametrize("exact_below", [0, 1000])
def test_no_value(exact_below):
    for d in ([1.0, -1.0, 2.0], [0.0, 1.0, 2.0], [0.0, 0.0, 0.0]):
        A = Dense(torch.diag(torch.tensor(d, dtype=F)), symmetric=True)
        with pytest.raises(SolveError, match="not positive definite"):
            logdet(A, exact_below=exact_below)
    for bad in (torch.nan, torch.inf):
        A = Dense(torch.diag(torch.tensor([1.0, bad], dtype=F)), symmetric=True)
        with pytest.raises(SolveError, match="NaN or infinity"):
            logdet(A, exact_below=exact_below)
    with pytest.raises(ShapeError, match="symmetric"):
        logdet(Dense(torch.rand(3, 3, dtype=F)), exact_below=exact_below)
    with pytest.raises(ShapeError, match="square"):
        logdet(Dense(torch.rand(3, 2, dtype=F)), exact_below=exact_below)


def test_empty():
    assert float(logdet(Dense(torch.zeros(0, 0, dtype=F), psd=True), exact_below=-1).value) == 0.0


def test_messages():
    A = kernel_system(10)
    with pytest.raises(OptionError, match="probes=1"):
        logdet(A, probes=1)
    with pytest.raises(OptionError, match="steps=0"):
        logdet(A, steps=0)
    with pytest.raises(OptionError, match="tol=2"):
        logdet(A, tol=2.0)
    with pytest.raises(OptionError, match="preconditioner is a int"):
        logdet(A, preconditioner=3, exact_below=0)

"""Traces and diagonals of inverses, effective dimensions, traces from products; against dense inverses."""

from __future__ import annotations

import pytest
import torch
from preconditioner_cases import kernel_system

from kerngp.errors import ConvergenceWarning, OptionError, ShapeError, SolveError
from kerngp.solvers import (
    CG,
    Dense,
    Diagonal,
    Jacobi,
    Nystrom,
    RPCholesky,
    Status,
    Vecchia,
    diagonal_inverse,
    effective_dimension,
    identity,
    trace,
    trace_inverse,
)
from kerngp.solvers.functions.trace import controlled

F = torch.float64
RECIPES = [None, Jacobi(), RPCholesky(40), Nystrom(40), Vecchia(10)]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F)


def inverse(A) -> torch.Tensor:
    return torch.linalg.inv(A.dense().double())


# ---------------------------------------------------------------- trace and diagonal of the inverse


@pytest.mark.parametrize("n", [1, 2, 7, 31, 300])
def test_exact(n):
    A = kernel_system(n)
    P = inverse(A)
    torch.testing.assert_close(trace_inverse(A).value, P.trace())
    torch.testing.assert_close(diagonal_inverse(A).value, P.diagonal())
    want = n - 0.05 * P.trace()
    torch.testing.assert_close(effective_dimension(A).value, want)
    assert float(diagonal_inverse(A).standard_error.max()) == 0.0


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("n", [1, 2, 7, 33, 120])
def test_estimates_within_their_errors(n, recipe):
    A, P = kernel_system(n), inverse(kernel_system(n))
    found = trace_inverse(A, preconditioner=recipe, exact_below=0)
    assert found.converged
    assert abs(float(found.value - P.trace())) <= 4 * float(found.standard_error) + 1e-9
    found = effective_dimension(A, preconditioner=recipe, exact_below=0)
    assert abs(float(found.value - n + 0.05 * P.trace())) <= 4 * float(found.standard_error) + 1e-9
    found = diagonal_inverse(A, preconditioner=recipe, exact_below=0)
    assert found.value.shape == (n,)
    z = (found.value - P.diagonal()) / (found.standard_error + 1e-9)
    assert float(z.abs().max()) < 5
    assert float(z.square().mean()) < 4


@pytest.mark.parametrize("recipe", [None, RPCholesky(40)])
def test_coverage_over_seeds(recipe):
    A = kernel_system(60, lengthscale=0.3)
    truth = float(inverse(A).trace())
    M = None if recipe is None else recipe.build(A)
    runs = [
        trace_inverse(A, preconditioner=M, method=CG(tol=1e-8), exact_below=0, random_state=s)
        for s in range(100)
    ]
    z = torch.tensor([(float(r.value) - truth) / float(r.standard_error) for r in runs])
    assert int((z.abs() <= 3).sum()) >= 95
    assert 0.7 < float(z.std()) < 1.5


def test_control_variate_helps_and_never_hurts():
    A = kernel_system(200, lengthscale=2.0)
    plain, good = (trace_inverse(A, preconditioner=p, exact_below=0) for p in (None, RPCholesky(80)))
    assert float(good.standard_error) < 0.1 * float(plain.standard_error)
    # far from the inverse: the coefficient makes little of it
    rough = kernel_system(200, dim=3, lengthscale=0.2)
    plain, poor = (trace_inverse(rough, preconditioner=p, exact_below=0) for p in (None, RPCholesky(40)))
    assert float(poor.standard_error) < 1.3 * float(plain.standard_error)


def test_coefficient_is_unbiased_for_any_number_of_probes():
    """Strongly skewed samples: a coefficient from all of them would be biased."""
    for s in (2, 3, 4, 6):
        x = random(20000, 1, s).square() - 1.0
        y = 2.0 * x + x.square() + random(20000, 1, s, seed=1)
        got = controlled(y, x, torch.zeros(20000, 1, dtype=F)).mean((-1, -2))
        error = float(got.std()) / len(got) ** 0.5
        want = float((random(4000000, seed=2).square() - 1).square().mean())  # E x^2, E x = 0
        assert abs(float(got.mean()) - want) < 4 * error + 0.02


def test_perfect_preconditioner():
    A = kernel_system(50)
    found = trace_inverse(A, preconditioner=Dense(inverse(A), psd=True), exact_below=0)
    torch.testing.assert_close(found.value, inverse(A).trace())
    assert float(found.standard_error) < 1e-6


def test_effective_dimension_of_a_varying_diagonal():
    K = kernel_system(80).base
    d = torch.logspace(-3, 1, 80, dtype=F)
    d[3] = 0.5
    A = K + Diagonal(d)
    want = (K.dense() @ inverse(A)).trace()
    torch.testing.assert_close(effective_dimension(A).value, want)
    found = effective_dimension(A, exact_below=0, preconditioner=RPCholesky(30))
    assert abs(float(found.value - want)) <= 4 * float(found.standard_error)


def test_float32_and_batch():
    A = kernel_system(100, dtype=torch.float32)
    found = trace_inverse(A, preconditioner=RPCholesky(50), exact_below=0)
    assert found.value.dtype == F
    assert abs(float(found.value - inverse(A).trace())) <= 4 * float(found.standard_error)
    batch = torch.stack([kernel_system(50, lengthscale=s).dense() for s in (0.2, 1.0)])
    want = torch.linalg.inv(batch).diagonal(dim1=-2, dim2=-1)
    for function, truth in ((trace_inverse, want.sum(-1)), (diagonal_inverse, want)):
        for recipe in (None, Jacobi()):
            found = function(Dense(batch, psd=True), preconditioner=recipe, exact_below=0)
            assert found.value.shape == found.standard_error.shape == truth.shape
            assert float(((found.value - truth) / found.standard_error).abs().max()) < 5
        torch.testing.assert_close(function(Dense(batch, psd=True)).value, truth)


def test_gradients_of_an_estimate_are_those_of_its_dense_formula():
    """For fixed signs the estimate is z'A^-1 z + constants: any order, against autograd."""
    x = random(12, 2).requires_grad_()

    def operator(x):
        return Dense((x @ x.T / 4).exp(), psd=True) + 2.0 * identity(12)

    def value(x):
        return trace_inverse(operator(x), method=CG(tol=1e-13), probes=3, exact_below=0).value

    assert torch.autograd.gradcheck(value, (x,))
    assert torch.autograd.gradgradcheck(value, (x,))

    def degrees(alpha):
        A = Dense((x @ x.T / 4).exp().detach(), psd=True) + alpha * identity(12)
        return effective_dimension(A, method=CG(tol=1e-13), probes=3, exact_below=0).value

    assert torch.autograd.gradcheck(degrees, (torch.tensor(0.3, dtype=F, requires_grad=True),))


def test_solve_that_fails_is_told():
    A = kernel_system(200, alpha=1e-6)
    with pytest.warns(ConvergenceWarning):
        found = trace_inverse(A, method=CG(max_iter=3), exact_below=0)
    assert found.status is Status.max_iter
    assert float(found.standard_error) >= float(found.truncation) > 0


@pytest.mark.parametrize("exact_below", [0, 1000])
@pytest.mark.parametrize("function", [trace_inverse, diagonal_inverse])
@pytest.mark.filterwarnings("ignore::kerngp.errors.ConvergenceWarning")
def test_no_value(function, exact_below):
    indefinite = Dense(torch.diag(torch.tensor([1.0, -1.0, 2.0], dtype=F)), symmetric=True)
    with pytest.raises(SolveError, match="not positive definite"):
        function(indefinite, exact_below=exact_below)
    bad = Dense(torch.diag(torch.tensor([1.0, torch.nan, 2.0], dtype=F)), symmetric=True)
    with pytest.raises(SolveError, match="NaN"):
        function(bad, exact_below=exact_below)


def test_messages():
    A = kernel_system(5)
    with pytest.raises(OptionError, match="probes=1"):
        trace_inverse(A, probes=1)
    with pytest.raises(ShapeError, match="symmetric"):
        trace_inverse(Dense(random(3, 3)))
    with pytest.raises(OptionError, match=r"K \+ alpha \* identity"):
        effective_dimension(A.base)
    with pytest.raises(OptionError, match="alpha > 0"):
        effective_dimension(A.base + 0.0 * identity(5))
    with pytest.raises(OptionError, match="preconditioner is a int"):
        trace_inverse(A, preconditioner=3, exact_below=0)
    assert trace_inverse(A.base, preconditioner=RPCholesky(3)).probes == 0  # not built: it could not be


# ---------------------------------------------------------------- trace from products


def test_trace_of_the_diagonal():
    for n in (1, 7, 300):
        A = Dense(random(n, n))
        torch.testing.assert_close(trace(A).value, A.dense().trace())
    batch = random(3, 5, 5)
    torch.testing.assert_close(trace(Dense(batch)).value, batch.diagonal(dim1=-2, dim2=-1).sum(-1))
    matrix = random(4, 4).requires_grad_()
    assert torch.equal(torch.autograd.grad(trace(Dense(matrix)).value, matrix)[0], torch.eye(4, dtype=F))


def leave_one_out(A: torch.Tensor, G: torch.Tensor) -> torch.Tensor:
    """XTrace from its definition: a sketch without vector i for every i."""
    n, m = G.shape
    out = []
    for i in range(m):
        Q = torch.linalg.qr(A @ G[:, [j for j in range(m) if j != i]])[0]
        rest = G[:, i] - Q @ (Q.T @ G[:, i])
        scale = (n - m + 1) / rest.square().sum()
        out.append((Q.T @ A @ Q).trace() + scale * rest @ A @ rest)
    return torch.stack(out)


@pytest.mark.parametrize("symmetric", [True, False])
def test_xtrace_is_its_definition(symmetric):
    from kerngp.solvers.functions.estimate import gaussian

    A = random(40, 40)
    A = A @ A.T if symmetric else A
    want = leave_one_out(A, gaussian((40, 6), 3, torch.device("cpu")))
    found = trace(Dense(A), probes=12, random_state=3)
    torch.testing.assert_close(found.value, want.mean())
    torch.testing.assert_close(found.standard_error, 2 * want.std() / 6**0.5)
    assert found.probes == 12


def test_xtrace_coverage_over_seeds():
    d = 0.8 ** torch.arange(100, dtype=F)
    Q = torch.linalg.qr(random(100, 100))[0]
    A = Dense((Q * d) @ Q.T)
    runs = [trace(A, probes=20, random_state=s) for s in range(100)]
    assert sum(abs(float(r.value - d.sum())) <= 3 * float(r.standard_error) for r in runs) >= 95


def test_xtrace_beats_its_number_of_probes():
    d = torch.logspace(0, -6, 200, dtype=F)
    Q = torch.linalg.qr(random(200, 200))[0]
    A = Dense((Q * d) @ Q.T, symmetric=True)
    found = trace(A, probes=60)
    assert abs(float(found.value - d.sum())) < 1e-2 * float(d.sum())
    assert abs(float(found.value - d.sum())) <= 5 * float(found.standard_error)
    assert found.products == 2


def test_xtrace_is_exact_for_low_rank():
    root = random(80, 4)
    found = trace(Dense(root @ root.T), probes=20)
    torch.testing.assert_close(found.value, root.square().sum())
    assert float(found.standard_error) < 1e-8
    assert float(trace(Dense(torch.zeros(9, 9, dtype=F)), probes=4).value) == 0.0
    for n in (1, 2, 3):
        torch.testing.assert_close(trace(Dense(random(n, n)), probes=20).value, random(n, n).trace())


def test_trace_messages():
    with pytest.raises(OptionError, match="probes=3"):
        trace(Dense(random(3, 3)), probes=3)
    with pytest.raises(OptionError, match="one matrix"):
        trace(Dense(random(2, 3, 3)), probes=4)
    with pytest.raises(ShapeError, match="square"):
        trace(Dense(random(2, 3)))
    for probes in (None, 4):
        with pytest.raises(SolveError, match="NaN"):
            trace(Dense(torch.full((9, 9), torch.nan, dtype=F)), probes=probes)

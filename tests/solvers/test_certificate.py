"""Certificates against the truth: a bound is never below it, and not far above."""

from __future__ import annotations

import pytest
import torch

from kerngp.solvers import (
    CG,
    Dense,
    Jacobi,
    LinearOperator,
    NoPreconditioner,
    Preconditioner,
    RPCholesky,
    identity,
    solve,
)
from kerngp.solvers.certificate import certify, known_node, least_eigenvalue
from kerngp.solvers.functions.congruence import Congruence
from kerngp.solvers.operator import Diagonal

F = torch.float64


def problem(n: int, D: int, seed: int, dtype: torch.dtype = F) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, D, generator=g, dtype=F)
    K = torch.exp(-torch.cdist(x, x).square() / (0.1 * D))
    b = torch.stack([torch.randn(n, generator=g, dtype=F), (3 * x.sum(1)).sin()], 1)
    return ((K + K.T) / 2).to(dtype), b.to(dtype)


def truth(A: torch.Tensor, x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """|x* - x|_A, from the residual and a Cholesky factor: no cancellation."""
    L = torch.linalg.cholesky(A.double())
    r = b.double() - A.double() @ x.double()
    return torch.linalg.solve_triangular(L, r, upper=False).norm(dim=-2)


class Scaling(Preconditioner):
    """The inverse of the diagonal, with a floor that is computed."""

    description = "diagonal"

    def __init__(self, A: torch.Tensor):
        d = A.diagonal()
        self.inner = Dense(torch.diag(1 / d), psd=True)
        self.shape, self.torch_dtype, self.device = self.inner.shape, F, d.device
        self.symmetric = self.psd = True
        half = torch.diag(d.rsqrt())
        self.floor = 0.999 * float(torch.linalg.eigvalsh(half @ A @ half)[0])

    def _matmul(self, b, exact):
        return self.inner._matmul(b, exact)

    def _transpose(self):
        return self

    def _diag(self):
        return self.inner._diag()

    def _rows(self, idx, cols):
        return self.inner._rows(idx, cols)

    def root(self):
        return Dense(self.inner.matrix.sqrt())

    def logdet(self):
        return -self.inner.matrix.diagonal().log().sum()

    def refresh(self, A):
        return Scaling(A.dense())

    @property
    def tensors(self):
        return self.inner.tensors

    def with_tensors(self, tensors):
        raise NotImplementedError


def preconditioners(A, dense):
    return {"none": None, "rpcholesky": RPCholesky(15), "diagonal": Scaling(dense)}


@pytest.mark.parametrize("kind", ["none", "rpcholesky", "diagonal"])
@pytest.mark.parametrize("alpha", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize(("n", "D"), [(2, 1), (7, 2), (33, 2), (150, 1), (150, 6)])
def test_bounds_are_above_the_truth(n, D, alpha, kind):
    K, b = problem(n, D, n + D)
    A = Dense(K, psd=True) + alpha * identity(n)
    dense = A.dense()
    M = preconditioners(A, dense)[kind]
    for steps in (0, 1, 4, 15, 100):
        s = solve(A, b, CG(tol=1e-10, max_iter=steps), preconditioner=M, on_fail="ignore")
        c, error = s.report.certificate, truth(dense, s.x, b)
        rounding = 1e-15 * n * s.x.norm(dim=-2) / alpha**0.5  # of the residual, in the norm of the inverse
        assert c.error.shape == (2,)
        assert bool((c.error >= error * (1 - 1e-6) - rounding).all())
        if steps < 100:
            assert c.kind == "bound", c.reason


def test_bounds_are_sharp_once_it_converges():
    K, b = problem(200, 6, 0)
    A = Dense(K, psd=True) + 1e-2 * identity(200)
    for M in (None, RPCholesky(30)):
        s = solve(A, b, CG(tol=1e-6), preconditioner=M)
        ratio = s.report.certificate.error / truth(A.dense(), s.x, b)
        assert bool((ratio >= 1).all())
        assert float(ratio.max()) < 4


def test_prediction_error():
    """At every point, for kernel ridge regression: |f*(x) - f(x)| <= sqrt(k(x, x)) |alpha* - alpha|_A."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(80, 2, generator=g, dtype=F), torch.rand(50, 2, generator=g, dtype=F)
    kernel = lambda p, q: 2 * torch.exp(-torch.cdist(p, q).square() * 8)  # noqa: E731
    A = Dense(kernel(x, x), psd=True) + 1e-2 * identity(80)
    b = torch.randn(80, 1, generator=g, dtype=F)
    for steps in (1, 5, 20):
        s = solve(A, b, CG(tol=1e-12, max_iter=steps), on_fail="ignore")
        off = kernel(y, x) @ (torch.linalg.solve(A.dense(), b) - s.x)
        bound = s.report.certificate.prediction_error(2.0)
        assert bound.shape == (1,)
        assert float(off.abs().max()) <= float(bound)
        assert float(bound) < 100 * float(off.abs().max())


def test_scale_and_start():
    K, b = problem(60, 2, 1)
    A = Dense(K, psd=True) + 0.1 * identity(60)
    reference = solve(A, b, CG(tol=1e-4)).report.certificate.error
    for factor in (2.0**-300, 2.0**300):
        error = solve(A, factor * b, CG(tol=1e-4)).report.certificate.error
        torch.testing.assert_close(error / factor, reference)
    x = torch.linalg.solve(A.dense(), b)
    s = solve(A, b, CG(), x0=x + 1e-9)
    assert s.iterations == 0
    assert bool((s.report.certificate.error >= truth(A.dense(), s.x, b)).all())
    nothing = solve(A, torch.zeros(60, 1, dtype=F), CG()).report.certificate
    assert float(nothing.error) == 0.0


def test_shifts_and_batches():
    K, b = problem(40, 2, 2)
    shifts = torch.tensor([1e-3, 1.0], dtype=F)
    s = CG(tol=1e-4).run(Dense(K, psd=True), b, shifts=shifts)
    assert s.report.certificate.kind == "bound"
    for e in range(2):
        A = K + shifts[e] * torch.eye(40, dtype=F)
        error = truth(A, s.x[:, e : e + 1], b[:, e : e + 1])
        assert float(error) <= float(s.report.certificate.error[e]) < 10 * float(error) + 1e-12
    both = torch.stack([K, torch.eye(40, dtype=F)])
    A = Dense(both, psd=True) + Diagonal(torch.tensor([[0.1], [2.0]], dtype=F), n=40)
    s = solve(A, b.expand(2, 40, 2), CG(tol=1e-4))
    assert s.report.certificate.error.shape == (2, 2)
    assert bool((s.report.certificate.error >= truth(A.dense(), s.x, b) - 1e-14).all())


# ---------------------------------------------------------------- no more than an estimate


def test_what_is_only_an_estimate():
    K, b = problem(100, 2, 3)
    A = Dense(K, psd=True) + 0.1 * identity(100)
    unknown = Dense(torch.diag(1 / A.diag()), psd=True)  # a user's own operator: nothing is known of it
    c = solve(A, b, CG(), preconditioner=unknown).report.certificate
    assert c.kind == "estimate"
    assert "no lower bound on the spectrum" in c.reason
    c = solve(Dense(A.dense(), psd=True), b, CG()).report.certificate
    assert "no lower bound" in c.reason
    low = Dense(K.float(), psd=True) + 0.1 * identity(100)
    c = solve(low, b, CG()).report.certificate
    assert c.kind == "estimate"
    assert "products are in float32" in c.reason
    c = solve(low, b.float(), CG(tol=1e-4)).report.certificate
    assert "x is rounded to float32" in c.reason


def test_estimates_are_near_the_truth():
    K, b = problem(150, 2, 4)
    A = Dense(Dense(K, psd=True).dense() + 0.1 * torch.eye(150, dtype=F), psd=True)
    s = solve(A, b, CG(tol=1e-6))
    ratio = s.report.certificate.error / truth(A.matrix, s.x, b)
    assert 0.9 < float(ratio.min()) < float(ratio.max()) < 10
    low = Dense(K.float(), psd=True) + 0.1 * identity(150)
    s = solve(low, b, CG(tol=1e-6))
    ratio = s.report.certificate.error / truth(K.float().double() + 0.1 * torch.eye(150, dtype=F), s.x, b)
    assert 0.9 < float(ratio.min()) < float(ratio.max()) < 10


def test_a_wrong_floor_is_noticed():
    K, b = problem(100, 2, 3)
    A = Dense(K, psd=True) + 0.1 * identity(100)
    M = Scaling(A.dense())
    M.floor = 0.9
    c = solve(A, b, CG(), preconditioner=M).report.certificate
    assert c.kind == "estimate"
    assert "contradict" in c.reason


@pytest.mark.parametrize("recipe", [RPCholesky(15), Jacobi(), NoPreconditioner()])
@pytest.mark.parametrize("alpha", [0.3, 0.1, 0.002])
def test_one_preconditioner_for_another_alpha(recipe, alpha):
    K, b = problem(120, 2, 5)
    base = Dense(K, psd=True)
    M = recipe.build(base + 0.1 * identity(120))
    A = base + alpha * identity(120)
    node = float(known_node(A, M, None).min())
    assert 0 < node <= (1 + 1e-9) * least_of(M, A)
    s = solve(A, b, CG(tol=1e-3, max_iter=20), preconditioner=M, on_fail="ignore")
    assert s.report.certificate.kind == "bound"
    assert bool((s.report.certificate.error >= truth(A.dense(), s.x, b)).all())
    shifts = torch.tensor([0.0, 0.05, -0.001], dtype=F)
    nodes = known_node(A, M, shifts).expand(3).tolist()
    for node, shift in zip(nodes, shifts.tolist(), strict=True):
        assert 0 < node <= (1 + 1e-9) * least_of(M, A + shift * identity(120))


def least_of(M: Preconditioner, A: LinearOperator) -> float:
    """The least eigenvalue of M A."""
    L = torch.linalg.cholesky(M.dense())
    return float(torch.linalg.eigvalsh(L.T @ A.dense() @ L)[0])


def test_one_preconditioner_for_another_matrix_bounds_nothing():
    K, b = problem(120, 2, 5)
    M = RPCholesky(15).build(Dense(K, psd=True) + 0.1 * identity(120))
    smaller = Dense(0.01 * K, psd=True) + 0.1 * identity(120)  # M is far above its inverse
    assert least_of(M, smaller) < 0.5 * M.floor
    c = solve(smaller, b, CG(), preconditioner=M).report.certificate
    assert c.kind == "estimate"
    assert "no lower bound" in c.reason
    refreshed = solve(smaller, b, CG(), preconditioner=M.refresh(smaller))
    assert refreshed.report.certificate.kind == "bound"


def test_no_certificate_without_a_definite_matrix():
    A = Dense(torch.diag(torch.tensor([1.0, -1.0], dtype=F)), symmetric=True)
    assert solve(A, torch.ones(2, dtype=F), CG(), on_fail="ignore").report.certificate is None


def test_least_eigenvalue_from_tags():
    K = Dense(torch.ones(3, 3, dtype=F), psd=True)
    assert least_eigenvalue(K) is None
    assert float(least_eigenvalue(K + 0.5 * identity(3))) == 0.5
    assert float(least_eigenvalue(K + Diagonal(torch.tensor([3.0, 2.0, 4.0], dtype=F)))) == 2.0
    assert least_eigenvalue(Dense(torch.ones(3, 3), symmetric=True) + 0.5 * identity(3)) is None
    assert least_eigenvalue(K + 0.0 * identity(3)) is None
    assert least_eigenvalue(K, torch.tensor([0.5, 2.0])).tolist() == [0.5, 2.0]


def test_the_drift_of_the_recursion_is_added():
    """|x* - x|_A <= sqrt(r'Mr / node) + sqrt(d'Md / node) for a recursive r that is off by d."""
    nothing = (torch.zeros(0, 1, dtype=F).numpy(),) * 3
    at, node, spectrum = torch.zeros(1).int().numpy(), torch.tensor([0.25]).numpy(), torch.ones(1, 2).numpy()
    found = certify(nothing, at, torch.ones(1).numpy(), torch.tensor([4.0]).numpy(), node, spectrum, "")
    assert (float(found.error), found.kind) == (6.0, "bound")


def test_functions_of_an_operator_take_no_floor_of_another():
    K, _ = problem(60, 2, 5)
    base = Dense(K, psd=True)
    M = RPCholesky(15).build(base + 0.1 * identity(60))
    lower = Congruence.of("a function", base + 0.01 * identity(60), M)
    assert lower.floor == pytest.approx(0.1 * M.floor)
    assert lower.floor <= (1 + 1e-9) * least_of(M, lower.A)
    assert Congruence.of("a function", Dense(0.01 * K, psd=True) + 0.1 * identity(60), M).floor is None

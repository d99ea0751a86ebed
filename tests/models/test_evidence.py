"""The log marginal likelihood: by factorisation as scikit-learn, by products as by factorisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as sk

from kerngp.errors import OptionError
from kerngp.models.gp import matrix_free
from kerngp.models.gp.dense import dense_evidence
from kerngp.models.gp.evidence import Evidence
from kerngp.models.gp.matrix_free import MatrixFreeEvidence
from kerngp.models.resolve import hyperparameters

ARD = 1.5 * sk.Matern([0.8, 1.2, 2.0], nu=1.5) + sk.WhiteKernel(0.02)
KERNELS = [
    ARD,
    sk.RBF(0.7) * sk.ConstantKernel(2.0) + sk.WhiteKernel(0.1),
    sk.RationalQuadratic(1.0, 0.5) + sk.WhiteKernel(0.05),
    sk.DotProduct(0.5) + sk.WhiteKernel(0.3),
    sk.ConstantKernel(2.0, "fixed") * sk.RBF(0.7) + sk.WhiteKernel(0.1),
]


def data(n, d=3, t=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    return X, np.sin(2 * X[:, :1]) + 0.1 * rng.normal(size=(n, t))


def reference(kernel, X, Y, alpha):
    model = GaussianProcessRegressor(kernel, alpha=alpha, optimizer=None).fit(X, Y)
    return model.log_marginal_likelihood(model.kernel_.theta, eval_gradient=True)


def by_unit_vectors(h, X, Y, alpha, **options):
    """The evidence with unit vectors as probes, three at a time: their mean is exact."""
    n = len(X)
    units, x = n**0.5 * torch.eye(n, dtype=torch.float64), torch.as_tensor(X)
    parts = [
        MatrixFreeEvidence(x, Y, alpha, probes=units[:, k : k + 3], tol=1e-9, **options)(h, True)
        for k in range(0, n, 3)
    ]
    return np.mean([p.value for p in parts]), np.mean([p.gradient for p in parts], 0), parts[0]


# ---------------------------------------------------------------- by factorisation


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("n", [1, 2, 33])
def test_dense_is_that_of_scikit_learn(kernel, n):
    X, Y = data(n)
    alpha = np.linspace(0.01, 0.1, n)
    value, gradient = reference(kernel, X, Y, alpha)
    e = dense_evidence(hyperparameters(kernel, 3), torch.from_numpy(X), Y, alpha, gradient=True)
    np.testing.assert_allclose(e.value, value, rtol=1e-12)
    np.testing.assert_allclose(e.gradient, gradient, rtol=1e-8, atol=1e-8)
    A = kernel(X) + np.diag(alpha)
    np.testing.assert_allclose(A @ e.dual.numpy(), Y, atol=1e-9)
    assert e.standard_error == 0 and e.rows == n


def test_dense_without_gradient_has_the_same_value():
    X, Y = data(31, t=1)
    h = hyperparameters(ARD, 3)
    with_slope = dense_evidence(h, X, Y[:, 0], 0.1, gradient=True)
    alone = dense_evidence(h, X, Y[:, 0], 0.1)
    assert alone.gradient is None
    np.testing.assert_allclose(alone.value, with_slope.value, rtol=1e-12)


def test_a_singular_matrix_has_no_evidence():
    X = np.zeros((3, 1))
    e = dense_evidence(hyperparameters(sk.RBF(), 1), X, np.ones(3), 0.0, gradient=True)
    assert e.value == -np.inf and e.failed and e.dual is None
    np.testing.assert_array_equal(e.gradient, [0.0])
    assert e.notes[0].code == "NOT_POSITIVE_DEFINITE"


# ---------------------------------------------------------------- by products


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_unit_vectors_make_products_exact(kernel):
    X, Y = data(33)
    alpha = np.linspace(0.01, 0.1, 33)
    h = hyperparameters(kernel, 3)
    exact = dense_evidence(h, X, Y, alpha, gradient=True)
    value, gradient, one = by_unit_vectors(h, X, Y, alpha, neighbours=5)
    np.testing.assert_allclose(value, exact.value, atol=1e-6)
    np.testing.assert_allclose(gradient, exact.gradient, atol=1e-6 * max(1, np.abs(exact.gradient).max()))
    np.testing.assert_allclose(one.dual, exact.dual, atol=1e-6 * float(exact.dual.abs().max()))


@pytest.mark.parametrize("n", [1, 2, 7])
def test_few_rows(n):
    X, Y = data(n, t=1)
    h = hyperparameters(ARD, 3)
    exact = dense_evidence(h, X, Y, 1e-3, gradient=True)
    found = MatrixFreeEvidence(torch.from_numpy(X), Y, 1e-3, tol=1e-8)(h, True)
    # all other points are neighbours: the factor is that of Cholesky, and nothing is left to chance
    np.testing.assert_allclose(found.value, exact.value, atol=1e-7)
    np.testing.assert_allclose(found.gradient, exact.gradient, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("tol", [0.1, 1e-6])
def test_random_vectors_know_their_error(dtype, tol):
    X, Y = data(300)
    X = torch.from_numpy(X).to(dtype)
    h = hyperparameters(ARD, 3)
    exact = dense_evidence(h, X.double(), Y, 0.003, gradient=True)
    found = [
        MatrixFreeEvidence(X, Y, 0.003, neighbours=8, tol=tol, random_state=k)(h, True) for k in range(6)
    ]
    errors = np.array([f.value - exact.value for f in found])
    claimed = np.array([f.standard_error for f in found])
    assert np.all(np.abs(errors) <= 4 * claimed)
    assert claimed.max() < 0.05 * abs(exact.value)
    slopes = np.array([f.gradient for f in found])
    mean, spread = slopes.mean(0), slopes.std(0, ddof=1) / len(found) ** 0.5
    bias = 0.02 * np.abs(exact.gradient).max() if tol > 1e-3 else 1e-3
    assert np.all(np.abs(mean - exact.gradient) <= 5 * spread + bias)
    assert found[0].residual <= tol


def test_exact_traces_take_variance_away():
    X, Y = data(300, t=1)
    h = hyperparameters(ARD, 3)
    found = MatrixFreeEvidence(torch.from_numpy(X), Y, 0.003, neighbours=20, tol=1e-6)(h)
    A = h.matrix(X) + 0.003 * np.eye(300)
    values, vectors = np.linalg.eigh(A)
    off = (vectors * np.log(values)) @ vectors.T
    off -= np.diag(off.diagonal())
    plain = 0.5 * np.sqrt(2 * (off**2).sum() / 16)  # of 16 signs without a preconditioner
    assert found.standard_error < 0.1 * plain


def test_differences_know_little_of_the_signs():
    X, Y = data(300, t=1)
    h = hyperparameters(ARD, 3)
    near = h.at(h.theta + 0.01)
    objective = MatrixFreeEvidence(torch.from_numpy(X), Y, 0.003, neighbours=5, tol=1e-6)
    a, b = objective(h), objective(near)
    gain, error = b.above(a)
    exact = dense_evidence(near, X, Y, 0.003).value - dense_evidence(h, X, Y, 0.003).value
    assert error < 0.1 * a.standard_error
    assert abs(gain - exact) <= 4 * error


def test_a_second_call_starts_from_the_first():
    X, Y = data(300, t=1)
    h = hyperparameters(ARD, 3)
    objective = MatrixFreeEvidence(torch.from_numpy(X), Y, 0.003, neighbours=5, tol=1e-3)
    first = objective(h, True)
    again = objective(h, True)
    cold = MatrixFreeEvidence(torch.from_numpy(X), Y, 0.003, neighbours=5, tol=1e-3)(h, True)
    np.testing.assert_allclose(first.value, cold.value, rtol=1e-12)
    np.testing.assert_allclose(again.value, first.value, atol=0.1)
    exact = dense_evidence(h, X, Y, 0.003).dual
    assert (again.dual - exact).norm() < 0.7 * (first.dual - exact).norm()


def test_float32_products_are_taken_where_they_do_not_show(monkeypatch):
    X, Y = data(300, t=1)
    h = hyperparameters(sk.RBF(1.0) + sk.WhiteKernel(1e-6), 3)
    value, gradient, _ = by_unit_vectors(h, X[:60], Y[:60], 0.0)
    part = dense_evidence(h, X[:60], Y[:60], 0.0, gradient=True)
    np.testing.assert_allclose(value, part.value, rtol=1e-6)
    np.testing.assert_allclose(gradient, part.gradient, rtol=1e-3)
    asked, decide = [], matrix_free._float32_will_do
    monkeypatch.setattr(matrix_free, "_float32_will_do", lambda *a: asked.append(decide(*a)) or asked[-1])
    for noise in (1e-6, 0.1):
        MatrixFreeEvidence(torch.from_numpy(X[:60]), Y[:60], noise, tol=0.1)(h)
    assert asked == [False, True]


def test_equal_points():
    X, Y = data(30, t=1)
    X, Y = np.concatenate([X, X]), np.concatenate([Y, Y + 0.1])
    h = hyperparameters(ARD, 3)
    exact = dense_evidence(h, X, Y, 0.0, gradient=True)
    value, gradient, _ = by_unit_vectors(h, X, Y, 0.0, neighbours=6)
    np.testing.assert_allclose(value, exact.value, rtol=1e-6)
    np.testing.assert_allclose(gradient, exact.gradient, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_solved_has_no_evidence():
    X, Y = data(300, t=1)
    h = hyperparameters(sk.RBF(3.0), 3)
    found = MatrixFreeEvidence(torch.from_numpy(X), Y, 1e-10, neighbours=2, tol=1e-3, max_iter=3)(h, True)
    assert found.value == -np.inf and found.failed
    assert found.notes[0].code in ("UNFINISHED_SOLVE", "NO_EVIDENCE")
    np.testing.assert_array_equal(found.gradient, np.zeros(1))


def test_no_free_hyperparameters():
    X, Y = data(33, t=1)
    h = hyperparameters(sk.RBF(1.0, "fixed"), 3)
    found = MatrixFreeEvidence(torch.from_numpy(X), Y, 0.1)(h, True)
    assert found.gradient.shape == (0,)


def test_one_probe_has_no_spread():
    with pytest.raises(OptionError, match="probes=1"):
        MatrixFreeEvidence(torch.zeros(3, 1), np.zeros(3), 1.0, probes=1)


def test_a_difference_of_exact_values_has_no_error():
    a, b = Evidence(1.0, None, None, 3), Evidence(3.5, None, None, 3)
    assert b.above(a) == (2.5, 0.0)

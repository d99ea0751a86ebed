"""KernelSolve over formula strings, against dense solves."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch

import kerngp.options
from kerngp.errors import ConvergenceWarning, FormulaError, KerngpError, OptionError, ShapeError
from kerngp.solvers import CG, RPCholesky
from kerngp.torch import KernelSolve, Vi, Vj
from kerngp.torch.cluster import from_matrix

F = torch.float64
FORMULA = "Exp(-g * SqDist(x, y)) * b"
ALIASES = ["x = Vi(2)", "y = Vj(2)", "b = Vj(3)", "g = Pm(1)"]


@pytest.fixture
def arrays():
    return torch.rand(40, 2, dtype=F), torch.randn(40, 3, dtype=F), torch.tensor([2.0], dtype=F)


def system(x, g, alpha):
    K = torch.exp(-g * ((x[:, None] - x) ** 2).sum(-1))
    return K + alpha * torch.eye(len(x), dtype=x.dtype)


@pytest.mark.parametrize("name", ["b", " b ", "Var(2,3,1)", "Var(2, 3, 1)"])
def test_solution(arrays, name, launches):
    x, b, g = arrays
    a = KernelSolve(FORMULA, ALIASES, name, axis=1)(x, x, b, g, alpha=0.1, eps=1e-10)
    assert launches.compiled > 0 and launches.reference == 0
    torch.testing.assert_close(a, torch.linalg.solve(system(x, g, 0.1), b), rtol=0, atol=1e-8)


def test_sum_over_i_is_the_default(arrays):
    x, b, g = arrays
    aliases = ["x = Vi(2)", "y = Vj(2)", "b = Vi(3)", "g = Pm(1)"]
    a = KernelSolve(FORMULA, aliases, "b")(x, x, b, g, alpha=0.1, eps=1e-10)
    torch.testing.assert_close(a, torch.linalg.solve(system(x, g, 0.1), b), rtol=0, atol=1e-8)


def test_gradients(arrays):
    x, b, g = (t.clone().requires_grad_() for t in arrays)
    alpha = torch.tensor([0.3], dtype=F, requires_grad=True)
    a = KernelSolve(FORMULA, ALIASES, "b", axis=1)(x, x, b, g, alpha=alpha, eps=1e-12)
    want = torch.linalg.solve(system(x, g, alpha), b)
    seed = torch.randn_like(b)
    inputs = (x, b, g, alpha)
    for ours, theirs in zip(*(torch.autograd.grad(t, inputs, seed) for t in (a, want)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)


def test_numpy(arrays):
    x, b, g = (t.numpy().astype(np.float32) for t in arrays)
    a = KernelSolve(FORMULA, ALIASES, "b", axis=1)(x, x, b, 2.0, alpha=0.5)
    assert isinstance(a, np.ndarray) and a.dtype == np.float32
    want = np.linalg.solve(system(*(torch.from_numpy(t).double() for t in (x, g)), 0.5).numpy(), b)
    np.testing.assert_allclose(a, want, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1])
def test_block_sparse_systems(arrays, axis):
    x, b, g = arrays
    clusters = torch.tensor([[0, 10], [10, 25], [25, 40]])
    keep = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    ranges = from_matrix(clusters, clusters, keep)
    aliases = ["x = Vi(2)", "y = Vj(2)", f"b = V{'ij'[axis]}(3)", "g = Pm(1)"]
    solve = KernelSolve(FORMULA, aliases, "b", axis=axis)
    a = solve(x, x, b, g, alpha=0.1, eps=1e-10, ranges=ranges)
    labels = torch.tensor([0] * 10 + [1] * 15 + [2] * 15)
    A = system(x, g, 0.0) * keep[labels][:, labels] + 0.1 * torch.eye(40, dtype=F)
    torch.testing.assert_close(a, torch.linalg.solve(A, b), rtol=0, atol=1e-8)


def test_backend(arrays, launches):
    x, b, g = arrays
    solve = KernelSolve(FORMULA, ALIASES, "b", axis=1)
    solve(x, x, b, g, alpha=0.1, backend="reference")
    assert launches.reference > 0 and launches.compiled == 0
    assert kerngp.options.current().backend == "auto"
    with pytest.raises(OptionError, match="backend='TPU'"):
        solve(x, x, b, g, backend="TPU")


def test_it_ends_on_nan_and_on_hopeless_tolerances():
    """Right-hand sides of NaN, and float32 with KeOps's defaults, end with a warning."""
    x, b = torch.rand(200, 2), torch.randn(200, 3)
    solve = KernelSolve(FORMULA, ALIASES, "b", axis=1)
    with pytest.warns(ConvergenceWarning):
        solve(x, x, b, 1.0, max_iter=50)
    b[3, 1] = torch.nan
    with pytest.warns(ConvergenceWarning):
        solve(x, x, b, 1.0, alpha=0.1)


def test_the_tolerance_is_relative(arrays):
    x, b, g = arrays
    solve = KernelSolve(FORMULA, ALIASES, "b", axis=1)
    one = solve(x, x, b, g, alpha=0.1, eps=1e-4)
    torch.testing.assert_close(solve(x, x, 1e-8 * b, g, alpha=0.1, eps=1e-4) * 1e8, one, rtol=1e-6, atol=1e-6)
    residual = system(x, g, 0.1) @ one - b
    assert bool((residual.norm(dim=0) <= 1e-4 * b.norm(dim=0)).all())


def test_pickle_and_switches(arrays):
    x, b, g = arrays
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve = KernelSolve(FORMULA, ALIASES, "b", axis=1, sum_scheme="kahan_scheme", use_double_acc=True)
    with pytest.warns(DeprecationWarning, match="dtype"):
        KernelSolve(FORMULA, ALIASES, "b", axis=1, dtype="float64")
    again = pickle.loads(pickle.dumps(solve))
    assert repr(again) == repr(solve)
    torch.testing.assert_close(again(x, x, b, g, alpha=0.1), solve(x, x, b, g, alpha=0.1))


def test_refusals(arrays):
    x, b, g = arrays
    with pytest.raises(FormulaError, match="'c' is not among the variables: x = Vi"):
        KernelSolve(FORMULA, ALIASES, "c", axis=1)
    with pytest.raises(FormulaError, match="linear"):
        KernelSolve("Exp(b) * b", ["b = Vj(1)"], "b", axis=1)
    with pytest.raises(OptionError, match="axis=2"):
        KernelSolve(FORMULA, ALIASES, "b", axis=2)
    solve = KernelSolve(FORMULA, ALIASES, "b", axis=1)
    with pytest.raises(ShapeError, match="b has 39 rows, but y has 40"):
        solve(x, x, b[1:], g)
    with pytest.raises(ShapeError):
        solve(x[1:], x, b, g)
    with pytest.raises(OptionError, match="alpha"):
        solve(x, x, b, g, alpha=-1.0)
    with pytest.raises(KerngpError, match="ranges"):
        solve(x, x, b, g, ranges=(1,))


# ---------------------------------------------------------------- what KeOps does not have


@pytest.mark.parametrize("method", ["auto", "cg", "cholesky", CG(tol=1e-10)])
@pytest.mark.parametrize("preconditioner", [None, RPCholesky(10), "vecchia"])
def test_methods_and_information(arrays, method, preconditioner):
    x, b, g = arrays
    solve = KernelSolve(FORMULA, ALIASES, "b", axis=1)
    tol = {} if isinstance(method, CG) else {"rtol": 1e-10}
    a, info = solve(
        x, x, b, g, alpha=0.1, method=method, preconditioner=preconditioner, return_info=True, **tol
    )
    torch.testing.assert_close(a, torch.linalg.solve(system(x, g, 0.1), b), rtol=0, atol=1e-8)
    assert info.x is a and info.converged and float(info.residual_norms.max()) <= 1e-10


def test_many_alphas_and_their_gradients(arrays):
    x, b, g = (t.clone().requires_grad_() for t in arrays)
    alphas = torch.tensor([0.3, 2.0, 0.7], dtype=F, requires_grad=True)
    a = KernelSolve(FORMULA, ALIASES, "b", axis=1)(x, x, b, g, alpha=alphas, rtol=1e-12)
    want = torch.stack([torch.linalg.solve(system(x, g, alpha), b) for alpha in alphas])
    torch.testing.assert_close(a, want, rtol=0, atol=1e-9)
    inputs, seed = (x, b, g, alphas), torch.randn_like(a)
    for ours, theirs in zip(*(torch.autograd.grad(t, inputs, seed) for t in (a, want)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)
    points, rhs = x.detach().numpy(), b.detach().numpy()
    found, info = KernelSolve(FORMULA, ALIASES, "b", axis=1)(
        points, points, rhs, 2.0, alpha=[0.3, 2.0], return_info=True
    )
    assert isinstance(found, np.ndarray) and found.shape == (2, 40, 3) and info.x is found
    np.testing.assert_allclose(found, want[:2].detach().numpy(), atol=1e-4)


def test_start_and_two_names_of_the_tolerance(arrays):
    x, b, g = arrays
    solve = KernelSolve(FORMULA, ALIASES, "b", axis=1)
    a = solve(x, x, b, g, alpha=0.1, rtol=1e-9)
    info = solve(x, x, b, g, alpha=0.1, eps=1e-8, method="cg", x0=a, return_info=True)[1]
    assert info.iterations == 0
    with pytest.raises(OptionError, match="two names of one tolerance"):
        solve(x, x, b, g, eps=1e-8, rtol=1e-8)


def test_transforms(arrays):
    x, b, g = arrays
    solve = KernelSolve(FORMULA, ALIASES, "b", axis=1)

    def ours(g, alpha):
        return solve(x, x, b, g, alpha=alpha, rtol=1e-13, on_fail="ignore").square().sum()

    def by_torch(g, alpha):
        return (torch.linalg.inv(system(x, g, alpha)) @ b).square().sum()

    at = (g, torch.tensor(0.3, dtype=F))
    for f in (torch.func.grad, torch.func.hessian):
        for mine, theirs in zip(f(ours, (0, 1))(*at), f(by_torch, (0, 1))(*at), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
    rates = torch.tensor([[1.0], [2.0]], dtype=F)
    got = torch.vmap(ours, (0, None))(rates, at[1])
    torch.testing.assert_close(got, torch.vmap(by_torch, (0, None))(rates, at[1]), rtol=1e-6, atol=1e-6)


def test_the_same_of_lazytensors(arrays):
    x, b, g = arrays
    K = (-g * ((Vi(x) - Vj(x)) ** 2).sum(-1)).exp()
    a, info = K.solve(b, alpha=[0.1, 1.0], rtol=1e-10, preconditioner="rpcholesky", return_info=True)
    for k, alpha in enumerate((0.1, 1.0)):
        torch.testing.assert_close(a[k], torch.linalg.solve(system(x, g, alpha), b), rtol=0, atol=1e-8)
    assert info.converged
    later = K.solve(b, alpha=torch.tensor(0.1, dtype=F), eps=1e-10, call=False)
    torch.testing.assert_close(later(), a[0], rtol=0, atol=1e-8)

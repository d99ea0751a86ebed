"""What goes wrong in KeOps 2.3 and does not here; docs/from-keops.md names these tests."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from kerngp.errors import ConvergenceWarning, DTypeError, ShapeError
from kerngp.torch import Genred, KernelSolve, LazyTensor
from kerngp.torch.cluster import from_matrix

F = torch.float64
PAGE = Path(__file__).resolve().parents[1] / "docs" / "from-keops.md"
XY = ["x = Vi(3)", "y = Vj(3)"]


def sample(M: int = 6, N: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(M, 3, dtype=F) + 0.5, torch.rand(N, 3, dtype=F) + 0.5


@pytest.mark.parametrize(
    ("y", "error", "words"),
    [
        (torch.zeros(5, 3, dtype=F), DTypeError, "y has dtype float64, x has float32"),
        (torch.zeros(5, 3, dtype=torch.int32), DTypeError, "y has dtype int32"),
        (torch.zeros(5, 1), ShapeError, r"y has shape \(5, 1\), but y = Vj\(3\)"),
        (torch.zeros(15), ShapeError, r"y has shape \(15,\), but y = Vj\(3\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(y, error, words):
    with pytest.raises(error, match=words):
        Genred("SqDist(x, y)", XY, axis=1)(torch.zeros(6, 3), y)


@pytest.mark.parametrize("formula", ["RatCst(1,3) * x", "IntInv(3) * x", "x / 3", "x / IntCst(3)"])
def test_fractions_are_double_in_float64(formula):
    x, _ = sample()
    np.testing.assert_allclose(Genred(formula, ["x = Vi(3)"], axis=1)(x), x / 3, rtol=1e-15)
    lazy = (LazyTensor(x[None, :, :]) / 3).sum(1)
    np.testing.assert_allclose(lazy[0], x.sum(0) / 3, rtol=1e-14)


@pytest.mark.parametrize("formula", ["x ** 1.5", "Powf(x, p)", "x ** p"])
def test_real_exponents(formula):
    x, _ = sample()
    got = Genred(formula, ["x = Vi(3)", "p = Pm(1)"], axis=1)(x, 1.5)
    np.testing.assert_allclose(got, x**1.5, rtol=1e-15)


def test_number_literals():
    x, y = sample()
    got = Genred("Exp(-0.5 * SqDist(x, y)) + 1e-3", XY, axis=1)(x, y)
    torch.testing.assert_close(got, (torch.exp(-0.5 * torch.cdist(x, y) ** 2) + 1e-3).sum(1, keepdim=True))


def test_sums_of_constants():
    x, _ = sample()
    got = Genred("(IntInv(2) + IntCst(1)) * x", ["x = Vi(3)"], axis=1)(x)
    torch.testing.assert_close(got, 1.5 * x, rtol=1e-15, atol=0)


def test_if_else_has_the_right_gradient():
    """A vector of conditions, branches that mix the components."""
    x, y = sample()
    x.requires_grad_()
    formula = "IfElse(x - y, Sum(x) * y, Square(x))"
    got = Genred(formula, XY, axis=1)(x, y)
    u, v = x[:, None, :], y[None, :, :]
    want = torch.where(u - v >= 0, u.sum(-1, keepdim=True) * v, u**2).sum(1)
    torch.testing.assert_close(got, want)
    seed = torch.randn_like(want)
    for ours, theirs in zip(
        torch.autograd.grad(got, x, seed), torch.autograd.grad(want, x, seed), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("place", [0, 2, 4])
def test_logsumexp_of_masked_entries(place):
    """An entry of -inf is a masked one, wherever it stands, in value and gradient."""
    x = torch.randn(6, 1, dtype=F, requires_grad=True)
    y = torch.randn(5, 1, dtype=F)
    y[place] = -torch.inf
    got = Genred("x + y", ["x = Vi(1)", "y = Vj(1)"], "LogSumExp", axis=1)(x, y)
    torch.testing.assert_close(got, torch.logsumexp(x + y.T, 1, keepdim=True))
    (g,) = torch.autograd.grad(got.sum(), x)
    torch.testing.assert_close(g, torch.ones_like(x))


def test_sinc_has_a_gradient_at_zero():
    x = torch.tensor([[0.0], [0.3]], dtype=F, requires_grad=True)
    got = Genred("SinXDivX(x)", ["x = Vi(1)"], axis=1)(x)
    (g,) = torch.autograd.grad(got.sum(), x)
    t = 0.3
    want = torch.tensor([[0.0], [np.cos(t) / t - np.sin(t) / t**2]], dtype=F)
    torch.testing.assert_close(g, want)


def test_matrices_of_differences_and_of_derivatives():
    x, y = sample()
    X, Y = LazyTensor(x[:, None]), LazyTensor(y[None])
    got = X.difference_matrix(Y).sum(1)
    # all components of x_i minus all components of y_j
    pairs = (x[:, None, :, None] - y[None, :, None, :]).sum(1)
    torch.testing.assert_close(got.view(6, 3, 3), pairs)
    jacobian = (X * Y).grad_matrix(X).sum(1)
    torch.testing.assert_close(jacobian.view(6, 3, 3), torch.diag(y.sum(0)).expand(6, 3, 3))


@pytest.mark.parametrize("formula", ["Exp(x * y)", "Exp(-SqDist(x, y)) - y"])
def test_wide_results_of_any_formula(formula):
    x, y = torch.rand(6, 200, dtype=F), torch.rand(5, 200, dtype=F)
    got = Genred(formula, ["x = Vi(200)", "y = Vj(200)"], axis=1)(x, y)
    u, v = x[:, None, :], y[None, :, :]
    product = torch.exp(u * v).sum(1)
    difference = (torch.exp(-((u - v) ** 2).sum(-1, keepdim=True)) - v).sum(1)
    torch.testing.assert_close(got, product if "*" in formula else difference)


def test_weighted_logsumexp_is_one_number():
    x, y = sample()
    got = Genred("-SqDist(x, y)", XY, "LogSumExpWeight", axis=1, formula2="Sum(y)")(x, y)
    want = torch.log(torch.exp(-(torch.cdist(x, y) ** 2)) @ y.sum(1, keepdim=True))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", ["Min", "Max", "Min_ArgMin", "Max_ArgMax", "KMin", "KMin_ArgKMin"])
def test_selected_values_have_gradients(name):
    x, y = sample()
    x.requires_grad_()
    got = Genred("SqDist(x, y)", XY, name, axis=1, opt_arg=2 if "KMin" in name else None)(x, y)
    value = got[0] if isinstance(got, tuple) else got
    pairs = ((x[:, None] - y) ** 2).sum(-1)
    k = 2 if "KMin" in name else 1
    want = pairs.topk(k, 1, largest="Max" in name).values
    torch.testing.assert_close(value, want)
    torch.testing.assert_close(torch.autograd.grad(value.sum(), x)[0], torch.autograd.grad(want.sum(), x)[0])


def test_too_many_neighbours_are_refused():
    x, y = sample(6, 5)
    with pytest.raises(ShapeError, match="k=7 exceeds the 5 entries"):
        Genred("SqDist(x, y)", XY, "ArgKMin", axis=1, opt_arg=7)(x, y)


def test_indices_are_integers_of_any_size():
    """Beyond 2^24, where numbers of float32 are no longer counted one by one."""
    N = 2**24 + 5
    y = torch.zeros(N, 1)
    y[N - 2] = -1
    index = Genred("y - x", ["x = Vi(1)", "y = Vj(1)"], "ArgMin", axis=1)(torch.zeros(1, 1), y)
    assert index.dtype == torch.int64 and index.tolist() == [[N - 2]]


def test_solves_end():
    """A right-hand side of NaN; float32 with the default alpha."""
    x, b = torch.rand(200, 3), torch.randn(200, 1)
    solve = KernelSolve("Exp(-SqDist(x, y)) * b", [*XY, "b = Vj(1)"], "b", axis=1)
    with pytest.warns(ConvergenceWarning):
        solve(x, x, b * torch.nan, alpha=0.1)
    with pytest.warns(ConvergenceWarning):
        solve(x, x, b, max_iter=100)


def test_block_sparse_reductions_have_batch_axes():
    x, y = torch.rand(2, 8, 3, dtype=F), torch.rand(2, 6, 3, dtype=F)
    blocks = from_matrix(torch.tensor([[0, 3], [3, 8]]), torch.tensor([[0, 2], [2, 6]]), torch.eye(2).bool())
    got = Genred("SqDist(x, y)", XY, axis=1)(x, y, ranges=blocks)
    kept = torch.block_diag(torch.ones(3, 2), torch.ones(5, 4)).double()
    torch.testing.assert_close(got, (torch.cdist(x, y) ** 2 * kept).sum(-1, keepdim=True))


@pytest.mark.cpu_only
def test_the_number_of_neighbours_and_of_columns_compiles_nothing_new():
    from kerngp.engine.backends import cpu

    x, y = sample(40, 30)
    routine = {k: Genred("SqDist(x, y)", XY, "ArgKMin", axis=1, opt_arg=k) for k in (3, 5, 17)}
    routine[3](x, y)
    before = cpu.binary.cache_info().misses
    for k in (5, 17):
        assert routine[k](x, y).shape == (40, k)
    K = (-LazyTensor(x[:, None, :]).sqdist(LazyTensor(y[None, :, :]))).exp()
    K @ torch.ones(30, 6, dtype=F)
    compiled = cpu.binary.cache_info().misses
    assert compiled <= before + 1
    K @ torch.ones(30, 11, dtype=F)
    assert cpu.binary.cache_info().misses == compiled


def test_the_imports_of_the_page_work():
    (block,) = re.findall(
        r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert block.count("import") >= 4
    exec(compile(block, str(PAGE), "exec"), {})


def test_the_page_names_these_tests():
    """Each defect on the page has its test here, and each test its line there."""
    named = set(re.findall(r"\| `(test_\w+)` \|", PAGE.read_text(encoding="utf-8")))
    here = {name for name in globals() if name.startswith("test_")} - {
        "test_the_page_names_these_tests",
        "test_the_imports_of_the_page_work",
    }
    assert named == here and len(here) >= 10

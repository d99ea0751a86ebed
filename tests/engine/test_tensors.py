"""Tensors in vectors, splines and soft-DTW against NumPy, SciPy and plain code."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from comparison import CPU, REFERENCE, assert_close, assert_gradients, assert_matches_reference
from scipy.interpolate import BSpline

from kerngp.engine import ops
from kerngp.engine.backends import cpu
from kerngp.engine.expr import Expr, Pm, Vi, Vj
from kerngp.engine.mapreduce import dense, map_reduce
from kerngp.engine.plan import Output
from kerngp.engine.reductions import ARGMIN, SUM
from kerngp.errors import FormulaError

M, N = 3, 4


def random(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(dtype)


# ---------------------------------------------------------------- tensors


@pytest.mark.parametrize(
    ("dims_a", "dims_b", "cont_a", "cont_b"),
    [
        ((4,), (4,), (0,), (0,)),
        ((2, 3), (4,), (), ()),
        ((2, 3, 4), (4, 3), (2, 1), (0, 1)),
        ((2, 3, 4), (3, 4), (1, 2), (0, 1)),
        ((2, 2, 2), (2, 2), (0,), (1,)),
        ((5, 5), (5, 5), (1,), (0,)),
        ((3, 20), (20, 2), (1,), (0,)),
    ],
)
def test_tensordot_is_that_of_numpy(dims_a, dims_b, cont_a, cont_b, launches) -> None:
    a, b = random(M, int(np.prod(dims_a))), random(N, int(np.prod(dims_b)))
    x, y = Vi(0, a.shape[1]), Vj(1, b.shape[1])
    count = len(dims_a) + len(dims_b) - 2 * len(cont_a)
    for permute in [(), *itertools.islice(itertools.permutations(range(count)), 1, 4)]:
        f = ops.tensordot(x, y, dims_a, dims_b, cont_a, cont_b, permute)
        got = dense(f, (a, b)).numpy()
        for i, j in itertools.product(range(M), range(N)):
            want = np.tensordot(a[i].numpy().reshape(dims_a), b[j].numpy().reshape(dims_b), (cont_a, cont_b))
            if permute:
                want = np.moveaxis(want, range(count), permute)
            np.testing.assert_allclose(got[i, j], want.ravel(), rtol=1e-12, atol=1e-12)
        launches.clear()
        assert_matches_reference(f, SUM, (a, b))
        assert launches.compiled == 1


@pytest.mark.parametrize("shapes", [((2,), (3,)), ((2, 3), (3, 2)), ((2, 1, 2), (1, 3, 2))])
def test_kron_is_that_of_numpy(shapes) -> None:
    a, b = (random(1, int(np.prod(s))) for s in shapes)
    f = ops.kron(Vi(0, a.shape[1]), Vj(1, b.shape[1]), *shapes)
    want = np.kron(a.numpy().reshape(shapes[0]), b.numpy().reshape(shapes[1]))
    np.testing.assert_allclose(dense(f, (a, b)).numpy().ravel(), want.ravel())


@pytest.mark.parametrize("dim", [3, 17, 20])
def test_large_matrices_are_walked_by_loops(dim: int, dtype: torch.dtype, launches) -> None:
    """Values and gradients of products with matrices of a pair, in generated code of moderate size."""
    matrix, x, y = Vj(0, dim * dim), Vi(1, dim), Vj(2, dim)
    args = (random(N, dim * dim, dtype=dtype), random(M, dim, dtype=dtype), random(N, dim, dtype=dtype))
    for f in (
        ops.matvecmult(matrix, x - y),
        ops.vecmatmult(x - y, matrix),
        ops.symsqnorm(matrix, x - y),
        ops.matvecmult(ops.tensorprod(x, y), x * y),
    ):
        launches.clear()
        assert_matches_reference(f, SUM, args, tol=64 * dim)
        assert launches.compiled == 1
        leaves = [a.clone().requires_grad_() for a in args]
        exact = [a.double().requires_grad_() for a in args]
        out, want = (map_reduce(f, SUM, a, options=o) for a, o in ((leaves, CPU), (exact, REFERENCE)))
        assert isinstance(out, torch.Tensor) and isinstance(want, torch.Tensor)
        seed = random(*out.shape, dtype=dtype)
        got = torch.autograd.grad(out, leaves, seed, allow_unused=True)
        wants = torch.autograd.grad(want, exact, seed.double(), allow_unused=True)
        for g, w in zip(got, wants, strict=True):
            assert (g is None) == (w is None)
            if g is not None and w is not None:
                assert_close(g, w, 1e3 * dim * torch.finfo(dtype).eps * (1 + w.abs()))
    assert len(str(cpu.source((Output(ops.matvecmult(matrix, x - y), SUM),)))) < 400_000


@pytest.mark.parametrize("reduction", [SUM, ARGMIN], ids=repr)
def test_a_matrix_that_is_put_together(reduction, launches) -> None:
    """Components by a number known at run time only, of vectors that have several sources."""
    x, y = Vi(0, 5), Vj(1, 13)
    parts = ops.concat(x * y[:5], y + x[0], ops.node("extract_t", x - y[:5], attr=(2, 9)))  # dim 27
    f = ops.matvecmult(ops.concat(parts, parts, parts), parts)  # 3 x 27
    for g in (f, ops.vecmatmult(parts, ops.concat(parts, parts)), ops.vector_argmax(parts) * x):
        launches.clear()
        assert_matches_reference(g, reduction, (random(M, 5), random(N, 13)), tol=1000)
        assert launches.compiled == 1


def test_products_have_derivatives_where_factors_vanish() -> None:
    x = torch.tensor([[2.0, 0.0, 3.0, 5.0, 1.0]], dtype=torch.float64, requires_grad=True)
    out = map_reduce(ops.prod(Vi(0, 5)), SUM, (x,), sizes=(1, 1), options=CPU)
    assert isinstance(out, torch.Tensor)
    (g,) = torch.autograd.grad(out, x)
    assert g.tolist() == [[0.0, 30.0, 0.0, 0.0, 0.0]]


def test_searches_in_a_vector_take_the_first_of_equals_and_find_nan() -> None:
    rows = torch.tensor(
        [[1.0, 3.0, 3.0], [3.0, 1.0, 1.0], [1.0, float("nan"), 0.0], [float("-inf")] * 3, [float("inf")] * 3]
    )
    x = Vi(0, 3)
    f = ops.concat(ops.vector_argmax(x), ops.vector_argmin(x), ops.vector_max(x), ops.vector_min(x))
    for options in (CPU, REFERENCE):
        out = map_reduce(f, SUM, (rows,), sizes=(5, 1), options=options)
        assert isinstance(out, torch.Tensor)
        want = torch.stack([rows.argmax(1).float(), rows.argmin(1).float(), rows.amax(1), rows.amin(1)], 1)
        assert torch.equal(torch.nan_to_num(out, 7.0), torch.nan_to_num(want, 7.0))


def test_one_hot_vectors_of_numbers_outside_are_zero() -> None:
    x = torch.tensor([[-1.0], [0.4], [1.5], [2.6], [float("nan")]])
    out = map_reduce(ops.one_hot(Vi(0, 1), 3), SUM, (x,), sizes=(5, 1), options=CPU)
    assert isinstance(out, torch.Tensor)
    assert out.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]


# ---------------------------------------------------------------- splines

KNOTS = {
    "uniform": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    "clamped": [0.0, 0.0, 0.0, 0.0, 1.0, 2.5, 3.0, 3.0, 3.0, 3.0],
    "double": [0.0, 0.5, 0.5, 1.5, 2.0, 2.0, 3.5],
}


def splines(knots: list[float], x: np.ndarray, order: int, derivative: int) -> np.ndarray:
    """SciPy's, one basis function after the other; derivatives are differences of splines of lower order."""
    t = np.array(knots)
    count = len(t) - order - 1
    out = np.zeros((len(x), count))
    if derivative:
        lower = splines(knots, x, order - 1, derivative - 1)
        for k in range(count):
            for sign, at in ((1, k), (-1, k + 1)):
                if t[at + order] > t[at]:
                    out[:, k] += sign * order / (t[at + order] - t[at]) * lower[:, at]
        return out
    for k in range(count):
        own = t[k : k + order + 2]
        inside = (x >= own[0]) & (x < own[-1])
        if inside.any():
            out[inside, k] = BSpline.basis_element(own, extrapolate=False)(x[inside])
    return out


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("name", KNOTS)
def test_splines_and_their_derivatives_are_those_of_scipy(name: str, order: int) -> None:
    t = torch.tensor(KNOTS[name], dtype=torch.float64)
    x = torch.linspace(float(t[0]) - 0.5, float(t[-1]) + 0.5, 41, dtype=torch.float64) + 0.003
    x.requires_grad_()
    f = ops.bspline(Pm(1, len(t)), Vi(0, 1), order)
    for options in (CPU, REFERENCE):
        out = map_reduce(f, SUM, (x[:, None], t), sizes=(41, 1), options=options)
        assert isinstance(out, torch.Tensor)
        for derivative in range(min(order, 2) + 1):
            want = splines(KNOTS[name], x.detach().numpy(), order, derivative)
            np.testing.assert_allclose(out.detach().numpy(), want, atol=1e-12)
            if derivative < min(order, 2):
                columns = [
                    torch.autograd.grad(out[:, k].sum(), x, create_graph=True)[0] for k in range(out.shape[1])
                ]
                out = torch.stack(columns, 1)


def test_splines_are_differentiable_in_their_knots() -> None:
    f = ops.bspline(Pm(1, 6), Vi(0, 1), 2) * Vj(2, 1)
    knots = torch.tensor([0.0, 0.7, 1.5, 2.1, 3.2, 4.0], dtype=torch.float64)
    assert_gradients(f, (torch.tensor([[0.3], [1.1], [2.6]]).double(), knots, random(2, 1)))


# ---------------------------------------------------------------- soft-DTW


def hard_dtw(x: np.ndarray, y: np.ndarray) -> float:
    table = np.full((len(x) + 1, len(y) + 1), np.inf)
    table[0, 0] = 0
    for i, j in itertools.product(range(len(x)), range(len(y))):
        table[i + 1, j + 1] = (x[i] - y[j]) ** 2 + min(table[i, j + 1], table[i + 1, j], table[i, j])
    return float(table[-1, -1])


def softdtw(n: int, m: int) -> Expr:
    return ops.softdtw_sqdist(Vi(0, n), Vj(1, m), Pm(2, 1))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (4, 1), (6, 9), (20, 17)])
def test_softdtw_tends_to_dtw(n: int, m: int, dtype: torch.dtype, launches) -> None:
    x, y = random(M, n, dtype=dtype), random(N, m, dtype=dtype)
    out = map_reduce(softdtw(n, m), SUM, (x, y, torch.tensor([1e-5], dtype=dtype)), options=CPU)
    assert isinstance(out, torch.Tensor) and launches.compiled == 1
    want = [[sum(hard_dtw(a.double().numpy(), b.double().numpy()) for b in y)] for a in x]
    assert_close(out, torch.tensor(want).double(), 1e-3)


@pytest.mark.parametrize(("n", "m"), [(1, 3), (4, 3), (18, 6)])
def test_softdtw_and_its_derivatives_in_generated_code(n: int, m: int, dtype: torch.dtype, launches) -> None:
    args = (random(M, n, dtype=dtype), random(N, m, dtype=dtype), torch.tensor([0.7], dtype=dtype))

    def derivatives(options, to: torch.dtype) -> list[torch.Tensor]:
        leaves = [a.to(to).requires_grad_() for a in args]
        out = map_reduce(softdtw(n, m), SUM, leaves, options=options)
        assert isinstance(out, torch.Tensor)
        first = torch.autograd.grad(out.sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.sin().sum() for g in first), leaves)
        return [out, *first, *second]

    launches.clear()
    got = derivatives(CPU, dtype)
    assert launches.reference == 0
    for g, w in zip(got, derivatives(REFERENCE, torch.float64), strict=True):
        assert_close(g.detach(), w.detach(), 2000 * torch.finfo(dtype).eps * (1 + w.detach().abs().max()))


def test_softdtw_is_twice_differentiable() -> None:
    assert_gradients(softdtw(2, 3), (random(2, 2), random(1, 3), torch.tensor([0.8]).double()))
    x, y, gamma = random(1, 2).requires_grad_(), random(1, 3), torch.tensor([1.0]).double()
    out = map_reduce(softdtw(2, 3), SUM, (x, y, gamma), options=CPU)
    assert isinstance(out, torch.Tensor)
    (g,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g.square().sum(), x, create_graph=True)
    with pytest.raises(FormulaError, match="twice, not three times"):
        torch.autograd.grad(h.sum(), x)


def test_long_series_are_left_to_the_reference_backend() -> None:
    assert cpu.supports((Output(softdtw(40, 40), SUM),))
    assert not cpu.supports((Output(softdtw(100, 100), SUM),))
    assert_matches_reference(softdtw(60, 60), SUM, (random(2, 60), random(2, 60), torch.ones(1).double()))

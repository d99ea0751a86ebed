"""Tables looked up by labels and by formulas, against torch's indexing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import kerngp
from kerngp import LazyTensor, Vi, Vj, lookup
from kerngp.engine.expr import Pm
from kerngp.engine.expr import Vi as EVi
from kerngp.engine.expr import Vj as EVj
from kerngp.engine.mapreduce import map_reduce
from kerngp.engine.ops import gather
from kerngp.engine.reductions import SUM
from kerngp.engine.vocabulary import WORDS
from kerngp.errors import DTypeError, FormulaError, ShapeError

M, N, K, D = 9, 7, 5, 3
F = torch.float64


def test_labels_of_i_and_j(launches) -> None:
    table = torch.randn(K, D, dtype=F)
    a, b = torch.randint(0, K, (M,)), torch.randint(0, K, (N,), dtype=torch.int32)
    lazy = (lookup(table, a, axis=0) | lookup(table, b, axis=1)).exp()
    full = torch.exp(table[a] @ table[b.long()].T)
    torch.testing.assert_close(lazy.sum(axis=1)[:, 0], full.sum(1))
    assert launches.compiled == 1 and launches.reference == 0
    in_layout = lookup(table, a[:, None, None]) | lookup(table, b[None, :, None])
    torch.testing.assert_close(in_layout.exp().dense(), full)
    numbers = lookup(table[:, 0], a, axis=0) * Vj(torch.ones(N, 1, dtype=F))
    torch.testing.assert_close(numbers.dense(), table[a, :1].expand(M, N))
    batch = torch.randint(0, K, (2, M, 1, 1))
    torch.testing.assert_close(lookup(table, batch).dense(), table[batch.squeeze(-1)])


def test_numpy_tables() -> None:
    rng = np.random.default_rng(0)
    table, labels = rng.standard_normal((K, D)), rng.integers(0, K, M)
    got = lookup(table, labels, axis=0).dense()
    assert isinstance(got, np.ndarray)
    np.testing.assert_array_equal(got[:, 0], table[labels])
    np.testing.assert_array_equal(lookup([1.0, 2.0, 4.0], [2, 0], axis=0).dense()[:, 0], [4.0, 1.0])
    assert kerngp.numpy.lookup is kerngp.torch.lookup is lookup


@pytest.mark.parametrize(("rows", "dim"), [(1, 3), (3, 1), (40, 3), (300, 20), (3000, 1)])
def test_values_of_a_formula(rows: int, dim: int, dtype: torch.dtype, launches) -> None:
    """A position bias: the row is the difference of two positions."""
    table = torch.randn(rows, dim, dtype=dtype)
    p = torch.randint(0, rows, (M, 1)).to(dtype)
    q = torch.randint(0, rows, (N, 1)).to(dtype)
    bias = lookup(table, (Vi(p) - Vj(q)).abs())
    full = table[(p - q.T).abs().long()]
    torch.testing.assert_close(bias.sum(axis=1), full.sum(1))
    torch.testing.assert_close((bias * Vj(q)).sum(axis=0), (full * q).sum(0), rtol=1e-4, atol=1e-3)
    assert launches.compiled == 2 and launches.reference == 0
    torch.testing.assert_close(lookup(table, Vi(p)).dense()[:, 0].reshape(M, dim), table[p[:, 0].long()])


def test_tables_that_are_formulas_and_depend_on_the_row(launches) -> None:
    x, k = torch.randn(M, 40, dtype=F), torch.randint(0, 20, (N, 1)).double()
    f = gather(2.0 * EVi(0, 40) + Pm(2, 1), EVj(1, 1), 2)
    g = gather(2.0 * EVj(0, 40) + Pm(2, 1), EVi(1, 1), 2)
    chosen = (2 * x + 1).reshape(M, 20, 2)[:, k[:, 0].long()]
    for formula, axis, want in ((f, "j", chosen.sum(1)), (f, "i", chosen.sum(0)), (g, "j", chosen.sum(0))):
        launches.clear()
        got = map_reduce(formula, SUM, (x, k, torch.ones(1, dtype=F)), axis=axis)
        assert isinstance(got, torch.Tensor) and launches.compiled == 1
        torch.testing.assert_close(got, want)


def test_rounding_and_rows_that_do_not_exist() -> None:
    table = torch.tensor([1.0, 2.0, math.inf, math.nan], dtype=F)
    at = torch.tensor([[-0.4], [0.6], [1.5], [3.2], [-0.6], [4.0], [math.nan], [math.inf], [1e300]], dtype=F)
    want = [1.0, 2.0, math.inf] + [math.nan] * 6
    for t in (table, torch.cat([table, table.new_full((60,), 7.0)])[:4]):
        got = (lookup(t, Vi(at)) * Vj(torch.ones(1, 1, dtype=F))).sum(axis=1)[:, 0]
        np.testing.assert_array_equal(got.numpy(), want)


def test_gradients_reach_the_table() -> None:
    table = torch.randn(K, 2, dtype=F, requires_grad=True)
    x = torch.randn(4, 1, dtype=F, requires_grad=True)
    labels, p = torch.tensor([0, 3, 3, 1]), torch.tensor([[0.0], [2.0], [3.0], [1.0]], dtype=F)

    def by_labels(table: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return ((lookup(table, labels, axis=0) - Vj(x)) ** 2).sum(-1).exp().sum(axis=1)

    def by_formula(table: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return (lookup(table, (Vi(p) - Vj(p)).abs()) * Vj(x)).sin().sum(axis=1)

    for f in (by_labels, by_formula):
        assert torch.autograd.gradcheck(f, (table, x))
        assert torch.autograd.gradgradcheck(f, (table, x))


def test_gradient_of_a_large_table_in_generated_code(launches) -> None:
    table = torch.randn(300, 2, requires_grad=True)
    p = torch.arange(31.0)[:, None]
    weights = torch.randn(31, 2)
    out = (lookup(table, (Vi(p) - Vj(p)).abs()) * Vj(weights)).sum(axis=1)
    (got,) = torch.autograd.grad(out.square().sum(), table)
    assert launches.reference == 0
    full = table[(p - p.T).abs().long()]
    (want,) = torch.autograd.grad((full * weights).sum(1).square().sum(), table)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_word() -> None:
    f = WORDS["Gather"].build(Pm(0, 6), EVi(1, 1), 2)
    assert f is gather(Pm(0, 6), EVi(1, 1), 2)


def test_bad_arguments_are_explained() -> None:
    table = torch.randn(K, D)
    labels = torch.zeros(M, dtype=torch.long)
    with pytest.raises(FormulaError, match="label 5 of index is out of range: the table has 5 rows"):
        lookup(table, labels + 5, axis=0)
    with pytest.raises(FormulaError, match="label -1"):
        lookup(table, labels - 1, axis=0)
    with pytest.raises(DTypeError, match=r"index has dtype torch\.float32"):
        lookup(table, labels.float(), axis=0)
    with pytest.raises(ShapeError, match=r"index has shape \(9,\)"):
        lookup(table, labels)
    with pytest.raises(ShapeError, match="expected real scalars"):
        lookup(table, LazyTensor(torch.zeros(M, 1, 2)))
    with pytest.raises(ShapeError, match=r"table has shape \(5, 3, 1\)"):
        lookup(table[..., None], labels, axis=0)
    with pytest.raises(DTypeError, match="3000 rows cannot be indexed in torch.float16"):
        lookup(torch.zeros(3000).half(), Vi(torch.zeros(M, 1).half()))
    with pytest.raises(FormulaError, match="7 numbers has no rows of 2"):
        gather(Pm(0, 7), EVi(1, 1), 2)

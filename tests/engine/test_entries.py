"""Single entries through map_reduce: values against the reference, derivatives at coincident points."""

from __future__ import annotations

import pytest
import torch

from kerngp.engine.entries import diagonal, entries
from kerngp.engine.expr import Pm, Vi, Vj
from kerngp.engine.mapreduce import dense
from kerngp.engine.ops import concat, exp, matern32_profile, norm2, sqdist
from kerngp.errors import FormulaError
from kerngp.options import options

F = Pm(2, 1) * matern32_profile(sqdist(Vi(0, 3), Vj(1, 3)))


@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (33, 7), (1, 1000), (0, 3), (3, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entries_equal_the_definition(shape, dtype):
    m, n = shape
    args = (torch.randn(m, 3, dtype=dtype), torch.randn(n, 3, dtype=dtype), torch.rand(1, dtype=dtype))
    f = concat(F, norm2(Vi(0, 3) - Vj(1, 3)))
    want = dense(f, tuple(a.double() for a in args))
    assert want.shape == (m, n, 2)
    torch.testing.assert_close(
        entries(f, args).double(), want, rtol=2e-6 if dtype == torch.float32 else 1e-14, atol=1e-6
    )


def test_batches_broadcast():
    x, y, p = torch.randn(5, 1, 4, 3).double(), torch.randn(2, 6, 3).double(), torch.rand(5, 2, 1).double()
    torch.testing.assert_close(entries(F, (x, y, p)), dense(F, (x, y, p)))
    torch.testing.assert_close(diagonal(F, (x, y[:, :4], p)), _diagonal_of(dense(F, (x, y[:, :4], p))))


def _diagonal_of(full: torch.Tensor) -> torch.Tensor:
    return full.diagonal(dim1=-3, dim2=-2).transpose(-2, -1)


def test_axes_that_no_argument_has():
    assert entries(Pm(0, 1), (torch.tensor([3.0]),), sizes=(2, 4)).equal(torch.full((2, 4, 1), 3.0))
    assert diagonal(Pm(0, 1), (torch.tensor([3.0]),), sizes=(4, 4)).equal(torch.full((4, 1), 3.0))


@pytest.mark.parametrize("function", [entries, diagonal])
def test_derivatives_are_finite_and_right_at_coincident_points(function):
    x = torch.randn(3, 3).double().requires_grad_()
    p = torch.tensor([1.7]).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, p: function(F, (x, x, p)), (x, p))
    with options(backend="reference"):
        assert torch.autograd.gradgradcheck(lambda x, p: function(F, (x, x, p)), (x, p), atol=1e-4)


def test_diagonal_of_a_rectangle_is_refused():
    with pytest.raises(FormulaError, match="M=3 and N=4"):
        diagonal(exp(-sqdist(Vi(0, 1), Vj(1, 1))), (torch.ones(3, 1), torch.ones(4, 1)))

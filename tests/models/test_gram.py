"""Kernel values of estimators: stored, as an operator, and as products."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import pairwise_kernels

from kerngp.errors import DataError, OptionError, ShapeError
from kerngp.models import RBF, White
from kerngp.models.pairwise import NON_NEGATIVE, PAIRWISE
from kerngp.models.spectral import gram as module
from kerngp.models.spectral.gram import gram
from kerngp.options import options


def points(n: int, d: int = 3, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(n, d, generator=torch.Generator().manual_seed(n), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("name", PAIRWISE)
def test_named_kernels_are_scikit_learns_in_every_form(name: str, monkeypatch: pytest.MonkeyPatch):
    x, y, b = points(33), points(7), torch.randn(7, 2, dtype=torch.float64)
    known = torch.from_numpy(pairwise_kernels(x.numpy(), y.numpy(), metric=name))
    own = torch.from_numpy(pairwise_kernels(x.numpy(), metric=name))
    k = gram(name, x)
    torch.testing.assert_close(k.matrix(x, y), known, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(k.operator(x).dense(), own, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(k.product(x, y, b), known @ b, rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(module, "STORED_ROWS", 0)  # the fused product
    torch.testing.assert_close(k.product(x, y, b), known @ b, rtol=1e-12, atol=1e-12)


def test_products_in_blocks(monkeypatch: pytest.MonkeyPatch):
    x, y, b = points(31), points(5), torch.randn(5, 3, dtype=torch.float64)
    k = gram("rbf", x)
    whole = k.product(x, y, b)
    monkeypatch.setattr(module, "BLOCK_BYTES", 8 * 5 * 4)  # four rows
    torch.testing.assert_close(k.product(x, y, b), whole, rtol=1e-14, atol=0)


def test_dtype_is_that_of_the_points(dtype: torch.dtype):
    x = points(6, dtype=dtype)
    for name in PAIRWISE:
        assert gram(name, x).matrix(x).dtype == dtype, name
        assert gram(name, x).product(x, x, torch.ones(6, 1, dtype=dtype)).dtype == dtype


def test_white_noise_is_on_the_diagonal_of_one_set_of_points():
    x = points(4)
    k = gram(RBF(1.0) + White(0.5), x)
    plain = gram(RBF(1.0), x).matrix(x)
    torch.testing.assert_close(k.matrix(x), plain + 0.5 * torch.eye(4))
    torch.testing.assert_close(k.matrix(x, x), plain)
    torch.testing.assert_close(k.operator(x, noise=False).dense(), plain)


def test_weights():
    x, w = points(5), torch.arange(1.0, 6.0, dtype=torch.float64)
    for kernel in ("rbf", lambda a, b: float(np.minimum(a, b).sum())):
        k = gram(kernel, x)
        known = k.matrix(x) * torch.outer(w, w)
        torch.testing.assert_close(k.operator(x, weights=w, noise=False).dense(), known)


def test_the_memory_limit_is_for_stored_matrices():
    x = points(400)
    k = gram("rbf", x)
    with options(memory_limit=1 << 20), pytest.raises(ShapeError, match="krylov"):
        k.matrix(x)
    with options(memory_limit=1 << 20):
        assert k.operator(x).shape == (400, 400)


@pytest.mark.parametrize(
    "arguments", [{"gamma": -1.0}, {"gamma": "wide"}, {"degree": -1}, {"coef0": float("nan")}]
)
def test_bad_parameters(arguments: dict):
    with pytest.raises(OptionError, match=next(iter(arguments))):
        gram("poly", points(3), **arguments)


@pytest.mark.parametrize("name", NON_NEGATIVE)
def test_histograms_are_not_negative(name: str):
    with pytest.raises(DataError, match="Negative values"):
        gram(name, points(3) - 1)

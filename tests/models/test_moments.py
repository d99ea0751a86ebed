"""Moments of statistics over permutations, against all permutations one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from kerngp.models import RBF, Cauchy, Kernel, Polynomial
from kerngp.models.distances.moments import (
    CentredKernel,
    gamma_pvalue,
    permutation_moments,
    product_sums,
)
from kerngp.models.distances.samples import operator_on

X = torch.rand(6, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
Y = torch.rand(6, 1, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def centre(K: torch.Tensor) -> np.ndarray:
    H = np.eye(len(K)) - 1 / len(K)
    return H @ K.numpy() @ H


@pytest.mark.parametrize(
    ("kx", "ky"), [(RBF(0.4), Cauchy(0.6)), (RBF(0.1), Polynomial(2)), (RBF(1.0), RBF(1.0))]
)
def test_all_permutations(kx: Kernel, ky: Kernel):
    K, L = operator_on(kx, X), operator_on(ky, Y)
    a, b = CentredKernel.of(K), CentredKernel.of(L)
    A, B = centre(K.dense()), centre(L.dense())
    all_values = [np.sum(A * B[np.ix_(p, p)]) for p in map(list, itertools.permutations(range(6)))]
    mean, variance = permutation_moments(a.invariants(a.squares()), b.invariants(b.squares()))
    assert mean == pytest.approx(np.mean(all_values), rel=1e-10)
    assert variance == pytest.approx(np.var(all_values), rel=1e-8)


@pytest.mark.parametrize("n", [2, 31, 33])
def test_sums_of_centred_products(n: int):
    x, y = torch.rand(n, 3, dtype=torch.float64), torch.rand(n, 2, dtype=torch.float64)
    K, L = operator_on(RBF(0.4), x), operator_on(Cauchy(0.6), y)
    a, b = CentredKernel.of(K), CentredKernel.of(L)
    A, B = centre(K.dense()), centre(L.dense())
    known = np.stack([(A * B).sum(1), (A * A).sum(1), (B * B).sum(1)], 1)
    np.testing.assert_allclose(product_sums(a, b), known, atol=1e-13)
    np.testing.assert_allclose(a.centred_diagonal, np.diag(A), atol=1e-13)
    assert a.squares() == pytest.approx(np.sum(A * A))


def test_gamma():
    assert gamma_pvalue(3.0, 2.0, 4.0) == pytest.approx(stats.gamma(1.0, scale=2.0).sf(3.0))
    assert gamma_pvalue(1.0, 1.0, 0.0) == 1.0
    assert gamma_pvalue(0.0, 0.0, 0.0) == 1.0

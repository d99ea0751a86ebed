"""The independence test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from kerngp.errors import OptionError, ShapeError
from kerngp.models import Matern, hsic_test
from kerngp.models.distances import hsic as module

RNG = np.random.default_rng(0)


def gaussian(a: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-((a[:, None] - a[None]) ** 2).sum(-1) / (2 * width**2))


def known(K: np.ndarray, L: np.ndarray, biased: bool) -> float:
    """Gretton et al., 2005, eq. 9 (with n^2), and Song et al., 2012, eq. 5, as printed."""
    n = len(K)
    if biased:
        H = np.eye(n) - 1 / n
        return np.trace(K @ H @ L @ H) / n**2
    K, L, one = K - np.diag(np.diag(K)), L - np.diag(np.diag(L)), np.ones(n)
    middle = (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2))
    return (np.trace(K @ L) + middle - 2 / (n - 2) * one @ K @ L @ one) / (n * (n - 3))


@pytest.mark.parametrize("n", [4, 7, 31, 33, 300])
@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_statistic_by_definition(n: int, estimator: str):
    x, y = RNG.normal(size=(n, 2)), RNG.normal(size=(n, 1))
    found = hsic_test(x, y, bandwidth_x=1.2, bandwidth_y=0.7, estimator=estimator, n_permutations=3)
    value = known(gaussian(x, 1.2), gaussian(y, 0.7), estimator == "biased")
    assert found.statistic == pytest.approx(value, abs=1e-14)
    assert found.bandwidth == (1.2, 0.7)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_permuted_statistics_by_definition(estimator: str, monkeypatch: pytest.MonkeyPatch):
    x, y = RNG.normal(size=(9, 2)), RNG.normal(size=(9, 1))
    K, L = gaussian(x, 1.0), gaussian(y, 0.5)
    random = np.random.RandomState(5)
    orders = [random.permutation(9) for _ in range(20)]
    values = [known(K, L[np.ix_(p, p)], estimator == "biased") for p in orders]
    monkeypatch.setattr(module, "BATCH_BYTES", 8 * 9 * 4 * 7)  # some orders at a time
    found = hsic_test(
        x, y, bandwidth_x=1.0, bandwidth_y=0.5, estimator=estimator, n_permutations=20, random_state=5
    )
    assert found.null_distribution is not None
    np.testing.assert_allclose(found.null_distribution, values, atol=1e-14)
    assert found.pvalue == (1 + np.sum(np.array(values) >= found.statistic)) / 21


@pytest.mark.parametrize("method", ["permutation", "gamma"])
def test_pvalues_are_uniform_where_the_variables_are_independent(method: str):
    pvalues = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(40, 2)), rng.normal(size=(40, 1))
        pvalues.append(hsic_test(x, y, method=method, n_permutations=99, random_state=seed).pvalue)
    assert stats.kstest(pvalues, "uniform").pvalue > 0.01
    assert 0.01 <= np.mean(np.array(pvalues) <= 0.05) <= 0.1


@pytest.mark.parametrize("method", ["permutation", "gamma"])
@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_dependence_without_correlation_is_found(method: str, estimator: str):
    angle = RNG.uniform(0, 2 * np.pi, 150)
    x, y = np.cos(angle) + 0.1 * RNG.normal(size=150), np.sin(angle) + 0.1 * RNG.normal(size=150)
    found = hsic_test(x, y, method=method, estimator=estimator, n_permutations=199, random_state=0)
    assert found.pvalue <= 0.01


def test_gamma_agrees_with_many_permutations():
    x = RNG.normal(size=(80, 2))
    y = x[:, 0] + 5 * RNG.normal(size=80)
    many = hsic_test(x, y, n_permutations=2000, random_state=0)
    gamma = hsic_test(x, y, method="gamma", random_state=0)
    assert gamma.null_mean == pytest.approx(many.null_mean, rel=0.02)
    assert gamma.null_std == pytest.approx(many.null_std, rel=0.08)
    assert gamma.pvalue == pytest.approx(many.pvalue, abs=0.03)


def test_standard_error_is_the_spread_of_the_estimate():
    found = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=100)
        y = x + 0.5 * rng.normal(size=100)
        result = hsic_test(x, y, bandwidth_x=1.0, bandwidth_y=1.0, method="gamma")
        found.append((result.statistic, result.standard_error))
    values, errors = np.array(found).T
    assert errors.mean() == pytest.approx(values.std(), rel=0.2)


def test_kernels_and_arrays():
    x, y = RNG.normal(size=(40, 2)), RNG.normal(size=(40, 3))
    arguments: dict[str, Any] = {"kernel_x": Matern(nu=0.5), "kernel_y": "laplacian", "random_state": 0}
    arguments["n_permutations"] = 30
    numbers = hsic_test(x, y, **arguments)
    tensors = hsic_test(torch.from_numpy(x), torch.from_numpy(y), **arguments)
    assert numbers.statistic == tensors.statistic and numbers.pvalue == tensors.pvalue
    assert numbers.bandwidth == (None, None)
    linear = hsic_test(x, y, kernel_x="linear", kernel_y="linear", method="gamma")
    covariance = (x - x.mean(0)).T @ (y - y.mean(0)) / 40
    assert linear.statistic == pytest.approx(np.sum(covariance**2))


def test_a_constant_is_independent_of_everything():
    found = hsic_test(np.ones(10), RNG.normal(size=10), n_permutations=20, random_state=0)
    assert found.statistic == pytest.approx(0.0, abs=1e-15) and found.pvalue == 1.0


@pytest.mark.parametrize("name", ["bandwidth_x", "bandwidth_y", "estimator", "method", "n_permutations"])
def test_bad_options(name: str):
    with pytest.raises(OptionError, match=name.partition("_")[0] if "band" in name else name):
        hsic_test(np.arange(5.0), np.arange(5.0), **{name: -1})  # type: ignore[arg-type]


def test_bad_samples():
    with pytest.raises(ShapeError, match="X has 5 rows and Y has 6"):
        hsic_test(np.zeros((5, 2)), np.zeros((6, 2)))
    with pytest.raises(ValueError, match="^X: .*minimum of 4"):
        hsic_test(np.zeros((3, 1)), np.zeros((3, 1)))

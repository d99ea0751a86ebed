"""The two-sample test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from kerngp.errors import OptionError, ShapeError
from kerngp.models import Matern, mmd_test
from kerngp.models.distances import mmd as module
from kerngp.options import options

RNG = np.random.default_rng(0)


def gaussian(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / (2 * width**2))


def known(x: np.ndarray, y: np.ndarray, width: float, biased: bool) -> float:
    """Gretton et al., 2012, equations 3 and 5, as printed."""
    m, n = len(x), len(y)
    kx, ky, kxy = gaussian(x, x, width), gaussian(y, y, width), gaussian(x, y, width)
    if biased:
        return kx.mean() + ky.mean() - 2 * kxy.mean()
    return (kx.sum() - m) / (m * (m - 1)) + (ky.sum() - n) / (n * (n - 1)) - 2 * kxy.mean()


@pytest.mark.parametrize(("m", "n"), [(2, 2), (7, 2), (31, 33), (300, 33)])
@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_statistic_by_definition(m: int, n: int, estimator: str):
    x, y = RNG.normal(size=(m, 3)), RNG.normal(size=(n, 3)) + 0.3
    found = mmd_test(x, y, bandwidth=1.2, estimator=estimator, n_permutations=5, random_state=0)
    assert found.statistic == pytest.approx(known(x, y, 1.2, estimator == "biased"), abs=1e-13)
    assert found.bandwidth == 1.2 and found.estimator == estimator


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_permuted_statistics_by_definition(estimator: str, monkeypatch: pytest.MonkeyPatch):
    x, y = RNG.normal(size=(9, 2)), RNG.normal(size=(6, 2)) + 0.3
    z = np.concatenate([x, y])
    random = np.random.RandomState(5)
    orders = [random.permutation(15) for _ in range(20)]
    values = [known(z[p[:9]], z[p[9:]], 1.0, estimator == "biased") for p in orders]
    monkeypatch.setattr(module, "_widths", lambda rows, count: [7, 7, 6])  # three products
    found = mmd_test(x, y, bandwidth=1.0, estimator=estimator, n_permutations=20, random_state=5)
    assert found.null_distribution is not None
    np.testing.assert_allclose(found.null_distribution, values, atol=1e-13)
    assert found.pvalue == (1 + np.sum(np.array(values) >= found.statistic)) / 21
    assert found.null_std == pytest.approx(np.std(values, ddof=1))


@pytest.mark.parametrize("method", ["permutation", "gamma"])
def test_pvalues_are_uniform_where_the_distributions_are_equal(method: str):
    pvalues = []
    for seed in range(200):
        z = np.random.default_rng(seed).normal(size=(60, 2))
        pvalues.append(mmd_test(z[:35], z[35:], method=method, n_permutations=99, random_state=seed).pvalue)
    assert stats.kstest(pvalues, "uniform").pvalue > 0.01
    assert 0.01 <= np.mean(np.array(pvalues) <= 0.05) <= 0.1


@pytest.mark.parametrize("method", ["permutation", "gamma"])
def test_different_distributions_are_told_apart(method: str):
    x = RNG.normal(size=(250, 1))
    for y in (
        RNG.normal(size=(200, 1)) + 0.6,
        2 * RNG.normal(size=(200, 1)),
        RNG.uniform(-1.7, 1.7, (200, 1)),
    ):
        found = mmd_test(x, y, bandwidth=0.5, method=method, n_permutations=199, random_state=0)
        assert found.pvalue <= 0.01


def test_gamma_agrees_with_many_permutations():
    x, y = RNG.normal(size=(80, 3)), RNG.normal(size=(60, 3)) + 0.15
    many = mmd_test(x, y, estimator="biased", n_permutations=4000, random_state=0)
    gamma = mmd_test(x, y, estimator="biased", method="gamma", random_state=0)
    assert gamma.null_mean == pytest.approx(many.null_mean, rel=0.02)
    assert gamma.null_std == pytest.approx(many.null_std, rel=0.06)
    assert gamma.pvalue == pytest.approx(many.pvalue, abs=0.03)
    assert gamma.null_distribution is None


def test_standard_error_is_the_spread_of_the_estimate():
    found = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(60, 1)), rng.normal(size=(90, 1)) + 1
        result = mmd_test(x, y, bandwidth=1.0, method="gamma")
        found.append((result.statistic, result.standard_error))
    values, errors = np.array(found).T
    assert errors.mean() == pytest.approx(values.std(), rel=0.15)


def test_kernels_and_arrays():
    x, y = RNG.normal(size=(40, 2)), RNG.normal(size=(30, 2))
    numbers = mmd_test(x, y, kernel=Matern(nu=0.5), random_state=0, n_permutations=50)
    tensors = mmd_test(
        torch.from_numpy(x), torch.from_numpy(y), kernel=Matern(nu=0.5), random_state=0, n_permutations=50
    )
    assert numbers.statistic == tensors.statistic and numbers.pvalue == tensors.pvalue
    assert numbers.bandwidth is None
    single = mmd_test(x.astype(np.float32), y, kernel=Matern(nu=0.5), random_state=0, n_permutations=50)
    assert single.statistic == pytest.approx(numbers.statistic, abs=1e-6)
    linear = mmd_test(x, y, kernel="linear", estimator="biased", n_permutations=10)
    assert linear.statistic == pytest.approx(np.sum((x.mean(0) - y.mean(0)) ** 2))


def test_samples_of_equal_points():
    found = mmd_test(np.ones((5, 2)), np.ones((4, 2)), n_permutations=20, random_state=0)
    assert found.statistic == pytest.approx(0.0, abs=1e-15) and found.pvalue == 1.0
    assert mmd_test(np.ones((5, 2)), np.ones((4, 2)), method="gamma").pvalue == 1.0


def test_products_fit_into_the_memory_limit():
    with options(memory_limit=1 << 20):
        widths = module._widths(1000, 50)
    assert sum(widths) == 50 and max(widths) == 16


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"estimator": "linear"}, "estimator"),
        ({"method": "bootstrap"}, "method"),
        ({"n_permutations": 0}, "n_permutations"),
        ({"bandwidth": -1.0}, "bandwidth"),
    ],
)
def test_bad_options(arguments: dict[str, Any], text: str):
    with pytest.raises(OptionError, match=text):
        mmd_test(np.zeros((3, 1)), np.zeros((3, 1)), **arguments)


def test_bad_samples():
    with pytest.raises(ShapeError, match="3 columns and Y has 2"):
        mmd_test(np.zeros((4, 3)), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="^Y: .*minimum of 2"):
        mmd_test(np.zeros((4, 3)), np.zeros((1, 3)))

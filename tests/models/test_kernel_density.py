"""Kernel density estimates: scikit-learn's numbers, and densities that integrate to one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.neighbors as theirs
import torch
from scipy.integrate import quad

from kerngp.models import KernelDensity
from kerngp.models.neighbours.density_kernels import DENSITY_KERNELS

KERNELS = tuple(DENSITY_KERNELS)
PROFILES = {
    "gaussian": lambda r: math.exp(-0.5 * r * r),
    "tophat": lambda r: float(r < 1),
    "epanechnikov": lambda r: max(0.0, 1 - r * r),
    "exponential": lambda r: math.exp(-r),
    "linear": lambda r: max(0.0, 1 - r),
    "cosine": lambda r: math.cos(0.5 * math.pi * r) if r < 1 else 0.0,
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dim", [1, 2, 3, 7])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_same_density(kernel: str, dim: int, weighted: bool):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(33, dim))
    X[:3] = X[3:6]
    w = rng.integers(0, 3, size=33).astype(float) if weighted else None
    Q = np.vstack([rng.normal(size=(31, dim)), np.full((1, dim), 40.0)])
    ours = KernelDensity(kernel=kernel, bandwidth=1.3).fit(X, sample_weight=w)
    his = theirs.KernelDensity(kernel=kernel, bandwidth=1.3)
    # scikit-learn's trees take no weights of 0
    his.fit(X) if w is None else his.fit(X[w > 0], sample_weight=w[w > 0])
    with np.errstate(all="ignore"):
        expected = his.score_samples(Q)
    if kernel == "cosine" and dim % 2 == 0:  # not normalised there
        expected = expected + (ours.score_samples(Q[:1]) - expected[:1])
    np.testing.assert_allclose(ours.score_samples(Q), expected, rtol=1e-9)
    compact = kernel not in ("gaussian", "exponential")
    assert (ours.score_samples(Q[-1:])[0] == -np.inf) == compact
    assert ours.score(Q[:-1]) == pytest.approx(ours.score_samples(Q[:-1]).sum())


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dim", [1, 2, 3, 4, 10, 51])
def test_integrals(kernel: str, dim: int):
    end = np.inf if DENSITY_KERNELS[kernel].logarithmic else 1.0
    scale = max(1.0, math.exp(DENSITY_KERNELS[kernel].integral(dim)))
    expected = quad(lambda r: PROFILES[kernel](r) * r ** (dim - 1) / scale, 0, end, epsabs=0, limit=200)[0]
    assert math.exp(DENSITY_KERNELS[kernel].integral(dim)) / scale == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_samples_have_the_density(kernel: str, dim: int):
    # the mean of r^2 around one point, E r^2 = I(d + 2) / I(d)
    model = KernelDensity(kernel=kernel, bandwidth=0.5).fit(np.ones((1, dim)))
    r = np.linalg.norm(model.sample(20_000, random_state=0) - 1.0, axis=1) / 0.5
    integral = DENSITY_KERNELS[kernel].integral
    expected = math.exp(integral(dim + 2) - integral(dim))
    assert (r**2).mean() == pytest.approx(expected, rel=6 * (r**2).std() / expected / math.sqrt(len(r)))


@pytest.mark.parametrize("kernel", ["gaussian", "tophat"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_same_samples(kernel: str, weighted: bool):
    rng = np.random.default_rng(0)
    X, w = rng.normal(size=(20, 3)), rng.uniform(size=20) if weighted else None
    a, b = (k(kernel=kernel).fit(X, sample_weight=w) for k in (KernelDensity, theirs.KernelDensity))
    np.testing.assert_allclose(a.sample(9, random_state=3), b.sample(9, random_state=3), rtol=1e-12)


@pytest.mark.parametrize("bandwidth", ["scott", "silverman", 0.3])
def test_bandwidths(bandwidth):
    X = np.random.default_rng(0).normal(size=(31, 2))
    a, b = (k(bandwidth=bandwidth).fit(X) for k in (KernelDensity, theirs.KernelDensity))
    assert a.bandwidth_ == pytest.approx(b.bandwidth_)
    np.testing.assert_allclose(a.score_samples(X), b.score_samples(X), rtol=1e-10)


@pytest.mark.parametrize(
    ("metric", "params"),
    [
        ("manhattan", None),
        ("chebyshev", None),
        ("minkowski", {"p": 3}),
        ("haversine", None),
        ("canberra", None),
    ],
)
def test_metrics(metric: str, params: dict | None):
    X = np.random.default_rng(0).uniform(-1, 1, size=(31, 2))
    for kernel in ("gaussian", "epanechnikov"):
        a, b = (
            k(metric=metric, metric_params=params, kernel=kernel, bandwidth=0.7).fit(X)
            for k in (KernelDensity, theirs.KernelDensity)
        )
        np.testing.assert_allclose(a.score_samples(X), b.score_samples(X), rtol=1e-9)
    by_formula = KernelDensity(metric=lambda x, y: abs(x - y) | (0.0 * x + 1.0)).fit(X)
    assert by_formula.score_samples(X) == pytest.approx(
        KernelDensity(metric="manhattan").fit(X).score_samples(X)
    )


def test_far_away_the_logarithm_does_not_underflow():
    model = KernelDensity(bandwidth=0.01).fit(np.zeros((1, 1)))
    expected = -0.5 * 1e8 - math.log(0.01) - 0.5 * math.log(2 * math.pi)
    assert model.score_samples([[100.0]])[0] == pytest.approx(expected, rel=1e-12)


def test_everything_follows_X(dtype: torch.dtype):
    X = torch.randn(33, 2, dtype=dtype)
    model = KernelDensity(kernel="linear").fit(X, sample_weight=torch.ones(33))
    assert model.X_fit_.dtype == model.score_samples(X).dtype == model.sample(2).dtype == dtype
    expected = KernelDensity(kernel="linear").fit(X.numpy()).score_samples(X.numpy())
    np.testing.assert_allclose(model.score_samples(X), expected, rtol=1e-5)


def test_refusals():
    X = np.random.default_rng(0).normal(size=(5, 2))
    for bad in (
        {"bandwidth": 0.0},
        {"bandwidth": "wide"},
        {"kernel": "round"},
        {"algorithm": "brute"},
        {"metric": "cosine"},
        {"atol": -1},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            KernelDensity(**bad).fit(X)
    with pytest.raises(ValueError, match="no formula"):
        KernelDensity(metric="mahalanobis").fit(X)
    with pytest.raises(ValueError, match="zero"):
        KernelDensity().fit(X, sample_weight=np.zeros(5))
    with pytest.raises(ValueError, match="sampled"):
        KernelDensity(kernel="linear", metric="manhattan").fit(X).sample()

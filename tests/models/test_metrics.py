"""Scores of predicted distributions, against their definitions integrated numerically."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from kerngp.errors import OptionError, ShapeError
from kerngp.models.metrics import (
    calibration_error,
    coverage_curve,
    crps_gaussian,
    interval_coverage,
    interval_score,
    negative_log_likelihood,
    quantile_score,
)

RNG = np.random.default_rng(0)
Y, MEAN, STD = RNG.normal(size=7), RNG.normal(size=7), RNG.uniform(0.5, 2.0, size=7)


def test_negative_log_likelihood():
    want = -norm.logpdf(Y, MEAN, STD).mean()
    assert negative_log_likelihood(Y, MEAN, STD) == pytest.approx(want, rel=1e-12)


def test_crps_is_the_integral():
    def one(y, m, s):
        below = quad(lambda t: norm.cdf(t, m, s) ** 2, -np.inf, y)[0]
        return below + quad(lambda t: norm.sf(t, m, s) ** 2, y, np.inf)[0]

    want = np.mean([one(*row) for row in zip(Y, MEAN, STD, strict=True)])
    assert crps_gaussian(Y, MEAN, STD) == pytest.approx(want, rel=1e-6)


def test_crps_becomes_the_absolute_error():
    assert crps_gaussian(Y, MEAN, np.full(7, 1e-9)) == pytest.approx(np.abs(Y - MEAN).mean(), rel=1e-6)


@pytest.mark.parametrize("score", [negative_log_likelihood, crps_gaussian])
def test_the_true_distribution_scores_best(score):
    y = RNG.normal(1.0, 2.0, size=20_000)
    best = score(y, np.full(y.shape, 1.0), np.full(y.shape, 2.0))
    for m, s in ((1.3, 2.0), (1.0, 1.5), (1.0, 3.0)):
        assert score(y, np.full(y.shape, m), np.full(y.shape, s)) > best


def test_interval_score_is_two_pinball_losses():
    low, high = norm.ppf(0.1, MEAN, STD), norm.ppf(0.9, MEAN, STD)
    both = quantile_score(Y, np.stack([low, high], 1), quantiles=[0.1, 0.9])
    assert interval_score(Y, low, high, level=0.8) == pytest.approx(2 * both / 0.1, rel=1e-12)


def test_many_quantiles_are_half_the_crps():
    q = (np.arange(2000) + 0.5) / 2000
    predicted = norm.ppf(q[None, :], MEAN[:, None], STD[:, None])
    assert 2 * quantile_score(Y, predicted, quantiles=q) == pytest.approx(
        crps_gaussian(Y, MEAN, STD), rel=1e-3
    )


def test_coverage_of_the_true_distribution():
    y = RNG.normal(size=40_000)
    zero, one = np.zeros_like(y), np.ones_like(y)
    levels, coverage = coverage_curve(y, zero, one)
    assert np.abs(levels - coverage).max() < 0.01
    assert calibration_error(y, zero, one) < 0.005
    _, narrow = coverage_curve(y, zero, 0.5 * one)
    assert np.all(narrow < levels)


def test_weights_count_like_repeats():
    weight = np.array([1, 2, 0, 1, 3, 1, 1])
    rows = np.repeat(np.arange(7), weight)
    for score in (negative_log_likelihood, crps_gaussian, calibration_error):
        weighted = score(Y, MEAN, STD, sample_weight=weight)
        assert weighted == pytest.approx(score(Y[rows], MEAN[rows], STD[rows]), rel=1e-12)
    assert interval_coverage(Y, MEAN - 1, MEAN + 1, sample_weight=weight) == pytest.approx(
        interval_coverage(Y[rows], MEAN[rows] - 1, MEAN[rows] + 1)
    )


def test_several_outputs_are_averaged():
    both = [np.stack([a, a[::-1]], 1) for a in (Y, MEAN, STD)]
    assert crps_gaussian(*both) == pytest.approx(crps_gaussian(Y, MEAN, STD), rel=1e-12)


def test_tensors():
    tensors = [torch.from_numpy(a) for a in (Y, MEAN, STD)]
    assert crps_gaussian(*tensors) == crps_gaussian(Y, MEAN, STD)


def test_refusals():
    with pytest.raises(ShapeError, match="one shape"):
        crps_gaussian(Y, MEAN[:3], STD)
    with pytest.raises(OptionError, match="std has 1"):
        negative_log_likelihood(Y, MEAN, np.r_[0.0, STD[1:]])
    with pytest.raises(OptionError, match="level=1.0"):
        interval_score(Y, MEAN, MEAN, level=1.0)
    with pytest.raises(OptionError, match="lower exceeds upper"):
        interval_score(Y, MEAN + 1, MEAN)
    with pytest.raises(ShapeError, match="one column for each"):
        quantile_score(Y, np.zeros((7, 3)), quantiles=[0.1, 0.9])
    with pytest.raises(ValueError, match="NaN"):
        crps_gaussian(np.full(7, np.nan), MEAN, STD)

"""Displays: what they draw is what was computed."""

from __future__ import annotations

import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor as SklearnGPR
from sklearn.gaussian_process.kernels import RBF as SklearnRBF

from kerngp.errors import BackendUnavailable, OptionError, ShapeError
from kerngp.models import RBF, KernelRidge
from kerngp.models.displays import (
    ConvergenceDisplay,
    CoverageDisplay,
    KernelDisplay,
    PredictionBandDisplay,
)
from kerngp.models.metrics import coverage_curve

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close():
    yield
    matplotlib.pyplot.close("all")


RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 2))
Y = np.sin(X[:, 0])


class TestBand:
    def test_numbers_are_sorted_and_the_band_has_its_width(self):
        x, mean, std = RNG.normal(size=9), RNG.normal(size=9), RNG.uniform(1, 2, size=9)
        display = PredictionBandDisplay.from_predictions(x, mean, std, level=0.9, color="red")
        order = np.argsort(x)
        np.testing.assert_array_equal(display.line_.get_xdata(), x[order])
        np.testing.assert_array_equal(display.line_.get_ydata(), mean[order])
        assert display.line_.get_color() == "red"
        corners = display.band_.get_paths()[0].vertices[:, 1]
        top = (mean + norm.ppf(0.95) * std).max()
        assert corners.max() == pytest.approx(top)

    def test_of_an_estimator(self):
        model = SklearnGPR(SklearnRBF(1.0), optimizer=None, alpha=0.1).fit(X, Y)
        display = PredictionBandDisplay.from_estimator(model, X, Y, feature=1, n_points=7)
        assert len(display.x) == 7 and display.x[0] == X[:, 1].min() and display.x[-1] == X[:, 1].max()
        point = np.array([[np.median(X[:, 0]), display.x[3]]])
        assert display.mean[3] == pytest.approx(model.predict(point)[0])
        assert display.ax_.get_xlabel() == "x[1]" and display.figure_ is display.ax_.figure

    def test_of_an_estimator_with_names(self):
        frame = pd.DataFrame(X, columns=["height", "width"])
        model = SklearnGPR(SklearnRBF(1.0), optimizer=None, alpha=0.1).fit(frame, Y)
        display = PredictionBandDisplay.from_estimator(model, frame, feature=1)
        assert display.ax_.get_xlabel() == "width"

    def test_refusals(self):
        with pytest.raises(OptionError, match="feature=2: X has columns 0 to 1"):
            PredictionBandDisplay.from_estimator(None, X, feature=2)
        with pytest.raises(ShapeError, match="vectors of one length"):
            PredictionBandDisplay.from_predictions([0.0], [0.0, 1.0], [1.0])
        with pytest.raises(OptionError, match="level=95"):
            PredictionBandDisplay.from_predictions([0.0], [0.0], [1.0], level=95)


def test_coverage():
    y, mean, std = RNG.normal(size=50), np.zeros(50), np.ones(50)
    display = CoverageDisplay.from_predictions(y, mean, std, levels=[0.2, 0.8])
    np.testing.assert_array_equal(
        display.line_.get_ydata(), coverage_curve(y, mean, std, levels=[0.2, 0.8])[1]
    )
    model = SklearnGPR(SklearnRBF(1.0), optimizer=None, alpha=0.1).fit(X, Y)
    other = CoverageDisplay.from_estimator(model, X, Y, ax=display.ax_)
    assert other.ax_ is display.ax_
    assert other.line_.get_label() == "GaussianProcessRegressor"


def test_convergence():
    model = KernelRidge(kernel="rbf", solver="pcg", preconditioner_rank=0, alpha=0.1).fit(X, Y)
    display = ConvergenceDisplay.from_estimator(model)
    drawn = max(len(line.get_ydata()) for line in display.ax_.get_lines())
    assert drawn == len(model.solution_.history) > 3
    with pytest.raises(OptionError, match="has no solution_"):
        ConvergenceDisplay.from_estimator(SklearnGPR().fit(X, Y))


@pytest.mark.parametrize("kernel", [RBF(lengthscale=0.5), "gaussian(x,y)", SklearnRBF(0.5), lambda a, b: 1.0])
def test_kernel(kernel):
    display = KernelDisplay.from_kernel(kernel, n_points=21, n_samples=3)
    assert display.values[10] == pytest.approx(1.0)
    assert display.samples.shape == (21, 3)
    assert len(display.ax_.get_lines()) == 4


def test_samples_have_the_covariance_of_the_kernel():
    display = KernelDisplay.from_kernel(RBF(lengthscale=1.0), n_points=5, n_samples=20_000)
    want = np.exp(-((display.x[:, None] - display.x) ** 2) / 2)
    assert np.abs(np.cov(display.samples) - want).max() < 0.05


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(BackendUnavailable, match=r"pip install kerngp\[plot\]"):
        CoverageDisplay(levels=np.ones(1), coverage=np.ones(1)).plot()

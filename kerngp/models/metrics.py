"""How good a predicted distribution is: scores of Gaussians and of quantiles, and how often intervals hold.

Scores are negatively oriented (less is better) and proper: the expected score is least for the true
distribution. All functions take arrays of shape (n_samples,) or (n_samples, n_outputs), of any library.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri
from sklearn.metrics import mean_pinball_loss
from sklearn.utils import check_array, check_consistent_length

from ..errors import OptionError, ShapeError
from .inputs import check_weights, to_numpy


def negative_log_likelihood(y_true: Any, mean: Any, std: Any, *, sample_weight: Any = None) -> float:
    """Mean of -log N(y | mean, std^2), also called NLPD.

    Parameters
    ----------
    y_true, mean, std : array of shape (n_samples,) or (n_samples, n_outputs)
        Units of y; ``std`` positive, with the noise of the observations in it.
    sample_weight : array of shape (n_samples,), optional

    Returns
    -------
    float
        In nats per observation.

    Raises
    ------
    ShapeError
        If the arrays do not have one shape.
    OptionError
        If a standard deviation is not positive.

    References
    ----------
    Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, equation 2.34.

    Examples
    --------
    >>> round(negative_log_likelihood([0.0], [0.0], [1.0]), 4)
    0.9189
    """
    y, m, s, w = _gaussian(y_true, mean, std, sample_weight)
    return _mean(0.5 * np.log(2 * np.pi) + np.log(s) + 0.5 * ((y - m) / s) ** 2, w)


def crps_gaussian(y_true: Any, mean: Any, std: Any, *, sample_weight: Any = None) -> float:
    """Mean continuous ranked probability score of N(mean, std^2), in units of y.

    It is the integral over t of (Phi((t - mean) / std) - 1[t >= y])^2, and |y - mean| for std to 0:
    an absolute error for distributions.

    Parameters
    ----------
    y_true, mean, std : array of shape (n_samples,) or (n_samples, n_outputs)
    sample_weight : array of shape (n_samples,), optional

    Returns
    -------
    float

    Raises
    ------
    ShapeError, OptionError
        See `negative_log_likelihood`.

    References
    ----------
    Gneiting and Raftery, Strictly proper scoring rules, prediction, and estimation, 2007, equation 21.

    Examples
    --------
    >>> round(crps_gaussian([0.0], [0.0], [1.0]), 4)
    0.2337
    """
    y, m, s, w = _gaussian(y_true, mean, std, sample_weight)
    z = (y - m) / s
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return _mean(s * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi)), w)


def interval_score(
    y_true: Any, lower: Any, upper: Any, *, level: float = 0.95, sample_weight: Any = None
) -> float:
    """Mean width of the intervals, plus 2 / (1 - level) times the distance of those y that lie outside.

    Parameters
    ----------
    y_true, lower, upper : array of shape (n_samples,) or (n_samples, n_outputs)
    level : float
        The probability that the central interval claims to hold.
    sample_weight : array of shape (n_samples,), optional

    Returns
    -------
    float
        In units of y.

    Raises
    ------
    ShapeError
        If the arrays do not have one shape.
    OptionError
        If ``level`` is not between 0 and 1, or an interval ends before it begins.

    References
    ----------
    Gneiting and Raftery, 2007, equation 43.

    Examples
    --------
    >>> round(interval_score([0.0, 3.0], [-1.0, -1.0], [1.0, 1.0], level=0.5), 4)
    6.0
    """
    (y, low, high), w = _arrays({"y_true": y_true, "lower": lower, "upper": upper}, sample_weight)
    _check_level(level)
    if np.any(low > high):
        raise OptionError(f"lower exceeds upper in {int((low > high).sum())} places; exchange them.")
    outside = np.maximum(low - y, 0) + np.maximum(y - high, 0)
    return _mean(high - low + 2 / (1 - level) * outside, w)


def interval_coverage(y_true: Any, lower: Any, upper: Any, *, sample_weight: Any = None) -> float:
    """The share of observations inside their interval, ends included.

    Examples
    --------
    >>> interval_coverage([0.0, 3.0], [-1.0, -1.0], [1.0, 1.0])
    0.5
    """
    (y, low, high), w = _arrays({"y_true": y_true, "lower": lower, "upper": upper}, sample_weight)
    return _mean(((low <= y) & (y <= high)).astype(float), w)


def coverage_curve(
    y_true: Any, mean: Any, std: Any, *, levels: Any = None, sample_weight: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """How often central intervals of N(mean, std^2) hold, against how often they claim to.

    Parameters
    ----------
    y_true, mean, std : array of shape (n_samples,) or (n_samples, n_outputs)
    levels : array of shape (n_levels,), optional
        Claimed probabilities; default 0.05, 0.10, ... 0.95.
    sample_weight : array of shape (n_samples,), optional

    Returns
    -------
    levels, coverage : ndarray of shape (n_levels,)
        Equal for a calibrated prediction; a coverage below its level is overconfident.

    Raises
    ------
    ShapeError, OptionError
        See `negative_log_likelihood`; if a level is not between 0 and 1.

    References
    ----------
    Kuleshov, Fenner and Ermon, Accurate uncertainties for deep learning using calibrated regression, 2018.

    Examples
    --------
    >>> levels, coverage = coverage_curve([0.0, 1.0], [0.0, 0.0], [1.0, 1.0], levels=[0.5, 0.9])
    >>> coverage
    array([0.5, 1. ])
    """
    y, m, s, w = _gaussian(y_true, mean, std, sample_weight)
    chosen = np.linspace(0.05, 0.95, 19) if levels is None else np.atleast_1d(np.asarray(levels, dtype=float))
    for level in chosen:
        _check_level(float(level))
    z = np.abs((y - m) / s)
    return chosen, np.array([_mean((z <= ndtri(0.5 + level / 2)).astype(float), w) for level in chosen])


def calibration_error(y_true: Any, mean: Any, std: Any, *, sample_weight: Any = None) -> float:
    """Mean distance between claimed and observed coverage over the levels of `coverage_curve`; 0 at best.

    Examples
    --------
    >>> round(calibration_error([0.0, 0.0], [0.0, 0.0], [1.0, 1.0]), 2)
    0.5
    """
    levels, coverage = coverage_curve(y_true, mean, std, sample_weight=sample_weight)
    return float(np.abs(levels - coverage).mean())


def quantile_score(y_true: Any, predicted: Any, *, quantiles: Any, sample_weight: Any = None) -> float:
    """Mean pinball loss over several quantiles.

    Parameters
    ----------
    y_true : array of shape (n_samples,)
    predicted : array of shape (n_samples, n_quantiles)
        As ``predict_quantiles`` returns them.
    quantiles : array of shape (n_quantiles,)
        Their probabilities.
    sample_weight : array of shape (n_samples,), optional

    Returns
    -------
    float
        In units of y. Over many quantiles, half of the continuous ranked probability score.

    Raises
    ------
    ShapeError
        If there is not one column for each quantile.

    References
    ----------
    Koenker and Bassett, Regression quantiles, 1978; `sklearn.metrics.mean_pinball_loss`.

    Examples
    --------
    >>> quantile_score([1.0], [[0.0, 3.0]], quantiles=[0.5, 0.5])
    0.75
    """
    q = np.atleast_1d(np.asarray(to_numpy(quantiles), dtype=float))
    p = check_array(to_numpy(predicted), input_name="predicted")
    y = to_numpy(y_true)
    if p.shape[1] != len(q):
        raise ShapeError(
            f"predicted has shape {p.shape} for {len(q)} quantiles; expected one column for each quantile."
        )
    for level in q:
        _check_level(float(level), "quantiles")
    losses = [
        mean_pinball_loss(y, p[:, k], sample_weight=sample_weight, alpha=float(level))
        for k, level in enumerate(q)
    ]
    return float(np.mean(losses))


def _gaussian(y: Any, mean: Any, std: Any, weight: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
    (y, m, s), w = _arrays({"y_true": y, "mean": mean, "std": std}, weight)
    if not np.all(s > 0):
        raise OptionError(
            f"std has {int((s <= 0).sum())} entries that are not positive; a distribution without width has "
            "no density: add the noise of the observations."
        )
    return y, m, s, w


def _arrays(named: dict[str, Any], weight: Any) -> tuple[list[np.ndarray], np.ndarray | None]:
    arrays = [
        check_array(to_numpy(a), ensure_2d=False, dtype="float64", input_name=name)
        for name, a in named.items()
    ]
    shapes = {name: a.shape for name, a in zip(named, arrays, strict=True)}
    if len(set(shapes.values())) > 1 or arrays[0].ndim not in (1, 2):
        raise ShapeError(
            f"the arrays have shapes {shapes}; expected one shape, (n_samples,) or (n_samples, n_outputs)."
        )
    check_consistent_length(*arrays)
    return arrays, None if weight is None else check_weights(to_numpy(weight), len(arrays[0]))


def _mean(values: np.ndarray, weight: np.ndarray | None) -> float:
    per_sample = values.reshape(len(values), -1).mean(axis=1)
    return float(np.average(per_sample, weights=weight))


def _check_level(level: float, name: str = "level") -> None:
    if not 0 < level < 1:
        raise OptionError(f"{name}={level!r}: expected probabilities between 0 and 1.")

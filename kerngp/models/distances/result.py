"""What tests of distributions return, and p-values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import OptionError
from .moments import gamma_pvalue

ESTIMATORS = ("unbiased", "biased")
METHODS = ("permutation", "gamma")


@dataclass(frozen=True)
class KernelTestResult:
    """A statistic and how surprising it is under the null hypothesis.

    Attributes
    ----------
    statistic : float
        The estimate that was asked for.
    pvalue : float
        The chance of a statistic at least as large if the null hypothesis holds.
    standard_error : float
        Of the estimate, to first order: right where the null hypothesis does not hold. Where it holds the
        estimate varies like ``null_std``.
    null_mean, null_std : float
        Mean and standard deviation of the statistic under permutations: of those drawn, or, for
        ``method="gamma"``, of all of them, for the biased estimate.
    null_distribution : ndarray of shape (n_permutations,) or None
        The statistics of the permuted data.
    estimator, method : str
        As asked for.
    bandwidth : float, tuple of float or None
        Of the Gaussian kernels; None for others.
    """

    statistic: float
    pvalue: float
    standard_error: float
    null_mean: float
    null_std: float
    null_distribution: np.ndarray | None
    estimator: str
    method: str
    bandwidth: float | tuple[float | None, ...] | None


def check_choices(estimator: str, method: str, n_permutations: int) -> None:
    """Raise `OptionError` for what a test does not know."""
    if estimator not in ESTIMATORS:
        raise OptionError(f"estimator={estimator!r} is unknown; expected one of {ESTIMATORS}.")
    if method not in METHODS:
        raise OptionError(f"method={method!r} is unknown; expected one of {METHODS}.")
    if isinstance(n_permutations, bool) or not isinstance(n_permutations, int) or n_permutations < 1:
        raise OptionError(f"n_permutations={n_permutations!r}; expected a positive integer.")


@dataclass(frozen=True)
class Null:
    """The distribution of a statistic under the null hypothesis, see `KernelTestResult`."""

    pvalue: float
    mean: float
    std: float
    distribution: np.ndarray | None = None


def by_permutations(statistic: float, null: np.ndarray) -> Null:
    """The p-value (1 + number of permuted statistics that are as large) / (1 + number of permutations).

    The data themselves count as one permutation, which makes the test exact (Phipson and Smyth, 2010).
    """
    rounding = 1e-10 * np.abs(null).max()
    pvalue = (1 + int((null >= statistic - rounding).sum())) / (1 + len(null))
    return Null(pvalue, float(null.mean()), float(null.std(ddof=1)) if len(null) > 1 else 0.0, null)


def by_gamma(biased: float, mean: float, variance: float) -> Null:
    """The p-value of the biased statistic by a Gamma distribution with the moments of all permutations."""
    return Null(gamma_pvalue(biased, mean, variance), mean, variance**0.5)

"""A predictive distribution: normal, independent at each point, with the error of its own width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri

from ...errors import OptionError

Tensor = torch.Tensor


@dataclass(frozen=True)
class PredictiveDistribution:
    """Normal distributions, one for each point and target; arrays are of the library of X.

    Attributes
    ----------
    mean, std : array of shape (m,) or (m, t)
    std_error : array like std
        How far std may be off: 0 if it was computed by factorisation, a bound if by solves, a standard
        error if random vectors were used.
    how : str
        How std was computed, for people.
    """

    mean: Any
    std: Any
    std_error: Any
    how: str


def check_quantiles(quantiles: Sequence[float]) -> np.ndarray:
    """Quantiles as a vector.

    Raises
    ------
    OptionError
        If one of them is not between 0 and 1.
    """
    try:
        q = np.atleast_1d(np.asarray(quantiles, dtype=np.float64))
    except (TypeError, ValueError):
        q = np.array([np.nan])
    if q.ndim != 1 or not np.all((q > 0) & (q < 1)):
        raise OptionError(
            f"quantiles={quantiles!r}; expected numbers between 0 and 1, such as (0.025, 0.975)."
        )
    return q


def normal_quantiles(mean: Tensor, std: Tensor, quantiles: Sequence[float]) -> Tensor:
    """Quantiles of normal distributions, on a new last axis.

    Examples
    --------
    >>> normal_quantiles(torch.zeros(1), torch.ones(1), [0.5])
    tensor([[0.]])
    """
    z = torch.from_numpy(ndtri(check_quantiles(quantiles))).to(mean)
    return mean.unsqueeze(-1) + std.unsqueeze(-1) * z

"""Predictions of each training target from all others, without another fit.

    mean_i = y_i - c_i / d_i,   variance_i = 1 / d_i        c = A^-1 y,  d = diag A^-1

(Rasmussen and Williams, 2006, eq. 5.12.) They are predictions of the observed target, its noise included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from ...solvers.functions.estimate import Estimate
from .target_scale import TargetScale, one_or_many

Tensor = torch.Tensor


@dataclass(frozen=True)
class LeaveOneOut:
    """Leave-one-out predictions; arrays are of the library of X.

    Attributes
    ----------
    mean, std : array of shape (n,) or (n, t)
        Of target i, noise included, given all other rows at the same hyperparameters.
    mean_error, std_error : array like mean
        Their standard errors: 0 if computed by factorisation, otherwise of a random estimate.
    log_density : array like mean
        log p(y_i | all others); the sum is the pseudo-likelihood, Rasmussen and Williams, eq. 5.11.
    """

    mean: Any
    std: Any
    mean_error: Any
    std_error: Any
    log_density: Any


def leave_one_out(Y: Tensor, weights: Tensor, inverse_diagonal: Estimate, scale: TargetScale) -> LeaveOneOut:
    """Predictions in the units of y.

    Parameters
    ----------
    Y : Tensor of shape (n, t)
        Normalised targets.
    weights : Tensor of shape (n, t)
        A^-1 Y.
    inverse_diagonal : Estimate of shape (n,)
    scale : TargetScale

    Examples
    --------
    >>> one = torch.ones(1, 1, dtype=torch.float64)
    >>> known = Estimate(0.5 * one[0], 0 * one[0], 0 * one[0])
    >>> found = leave_one_out(one, 0.5 * one, known, TargetScale.of(0.0, 1.0))
    >>> float(found.mean), round(float(found.std), 4)
    (0.0, 1.4142)
    """
    # an estimate can fall below what the diagonal of an inverse can be: A^-1 is positive definite
    d, error = inverse_diagonal.value.cpu(), inverse_diagonal.standard_error.cpu()
    d = torch.maximum(d, error).clamp_min(torch.finfo(d.dtype).tiny)
    relative = (error / d).unsqueeze(-1)
    pull = scale.std * weights / d.unsqueeze(-1)
    std = scale.std * d.rsqrt().unsqueeze(-1)
    log_density = -0.5 * (pull / std).square() - std.log() - 0.5 * math.log(2 * math.pi)
    parts = (
        scale.std * Y + scale.mean - pull,
        std,
        pull.abs() * relative,
        0.5 * std * relative,
        log_density,
    )
    return LeaveOneOut(*(one_or_many(v) for v in parts))

"""Targets of mean 0 and variance 1, and predictions back in the units of y."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..inputs import to_numpy

Tensor = torch.Tensor


@dataclass(frozen=True)
class TargetScale:
    """What was taken from each target and what it was divided by.

    Attributes
    ----------
    mean, std : Tensor of shape (t,), float64
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, mean: Any, std: Any) -> TargetScale:
        """From numbers, or arrays with one for each target."""
        return cls(
            *(torch.from_numpy(np.atleast_1d(np.asarray(to_numpy(v), dtype=np.float64))) for v in (mean, std))
        )

    def location(self, mean: Tensor) -> Tensor:
        """Means (m, t) in the units of y; one target has no axis."""
        return one_or_many(mean * self.std + self.mean)

    def deviation(self, variance: Tensor) -> Tensor:
        """Standard deviations of each target from variances (m,) that all of them share."""
        return one_or_many(variance.sqrt().unsqueeze(-1) * self.std)

    def covariance(self, covariance: Tensor) -> Tensor:
        """Covariances of each target from one (m, m) that all of them share; shape (m, m) or (m, m, t)."""
        return one_or_many(covariance.unsqueeze(-1) * self.std.square())

    def draw(self, mean: Tensor, covariance: Tensor, count: int, rng: np.random.RandomState) -> Tensor:
        """Samples of N(mean, covariance), target by target as scikit-learn draws them."""
        mean, K = mean * self.std + self.mean, covariance.unsqueeze(-1) * self.std.square()
        columns = [
            rng.multivariate_normal(mu.numpy(), k.numpy(), count).T
            for mu, k in zip(mean.unbind(-1), K.unbind(-1), strict=True)
        ]
        return torch.from_numpy(columns[0] if len(columns) == 1 else np.stack(columns, 1))

    def samples(self, deviations: Tensor, mean: Tensor) -> Tensor:
        """Samples from deviations (m, t, count) and means (m, t); shape (m, count) or (m, t, count)."""
        out = (deviations + mean.unsqueeze(-1)) * self.std[:, None] + self.mean[:, None]
        return out.squeeze(1) if out.shape[1] == 1 else out


def one_or_many(values: Tensor) -> Tensor:
    """Values of t targets on the last axis, which one target has not."""
    return values.squeeze(-1) if values.shape[-1] == 1 else values


def mean_and_std(y: np.ndarray, normalize: bool) -> tuple[Any, Any]:
    """Of each target; 0 and 1 without ``normalize``, and 1 for the deviation of a constant target."""
    if not normalize:
        shape = y.shape[1:] or (1,)
        return np.zeros(shape), np.ones(shape)
    std = np.std(y, axis=0)
    return np.mean(y, axis=0), np.where(std < 10 * np.finfo(np.float64).eps, 1.0, std)

"""Targets of neighbours brought to predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import DataError

Weights = str | Callable[[np.ndarray], np.ndarray] | None


def neighbour_weights(distance: np.ndarray, weights: Weights) -> np.ndarray | None:
    """Weights of neighbours from their distances; None where all are equal.

    "distance" is 1 / distance; where some are 0 these have the weight 1 and the others 0.
    """
    if weights is None or (isinstance(weights, str) and weights == "uniform"):
        return None
    if callable(weights):
        return np.asarray(weights(distance))
    zero = distance == 0
    with np.errstate(divide="ignore"):
        return np.where(zero.any(1, keepdims=True), zero, 1.0 / distance)


def class_shares(labels: np.ndarray, classes: int, weights: np.ndarray | None) -> np.ndarray:
    """The share of each class among the neighbours' labels (n, k), shape (n, classes).

    Raises
    ------
    DataError
        If all weights of a row are zero.
    """
    w = np.ones(labels.shape) if weights is None else weights
    if np.any(np.all(w == 0, axis=1)):
        raise DataError(
            "All neighbors of some sample is getting zero weights. Please modify 'weights' to avoid this "
            "case if you are using a user-defined function."
        )
    rows, out = np.arange(len(labels)), np.zeros((len(labels), classes))
    for column, share in zip(labels.T, w.T, strict=True):
        out[rows, column] += share
    return out / out.sum(axis=1, keepdims=True)


def weighted_mean(values: np.ndarray, weights: np.ndarray | None) -> Any:
    """The mean over axis 1 of values (n, k, targets) with weights (n, k)."""
    if weights is None:
        return values.mean(axis=1)
    return np.einsum("nkt,nk->nt", values, weights) / weights.sum(axis=1)[:, None]

"""Regression by the mean over nearest neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted

from ..running import running
from .base import KNeighboursMixin
from .votes import Weights, neighbour_weights, weighted_mean


class KNeighborsRegressor(RegressorMixin, KNeighboursMixin):
    """The mean of the nearest neighbours' targets.

    The interface and the results are those of `sklearn.neighbors.KNeighborsRegressor`.

    Parameters
    ----------
    n_neighbors : int, default=5
    weights : {"uniform", "distance"}, callable or None, default="uniform"
        Of the mean: equal, 1 / distance, or a function from a NumPy array of distances (n, k) to weights.
    algorithm, leaf_size, p, metric, metric_params, n_jobs, device, memory_limit
        See `NearestNeighbors`.

    Attributes
    ----------
    effective_metric_, effective_metric_params_, n_samples_fit_, n_features_in_, feature_names_in_
        See `NearestNeighbors`.

    Examples
    --------
    >>> from kerngp.models import KNeighborsRegressor
    >>> model = KNeighborsRegressor(n_neighbors=2).fit([[0.0], [1.0], [2.0], [3.0]], [0.0, 0.0, 1.0, 1.0])
    >>> float(model.predict([[1.5]])[0])
    0.5
    """

    def __init__(
        self,
        n_neighbors: int = 5,
        *,
        weights: Weights = "uniform",
        algorithm: str = "auto",
        leaf_size: int = 30,
        p: float = 2,
        metric: Any = "minkowski",
        metric_params: dict[str, Any] | None = None,
        n_jobs: int | None = None,
        device: str | None = None,
        memory_limit: int | None = None,
    ):
        self.n_neighbors = n_neighbors
        self.weights = weights
        self.algorithm = algorithm
        self.leaf_size = leaf_size
        self.p = p
        self.metric = metric
        self.metric_params = metric_params
        self.n_jobs = n_jobs
        self.device = device
        self.memory_limit = memory_limit

    def fit(self, X: Any, y: Any) -> KNeighborsRegressor:
        """Keep points and targets.

        Parameters
        ----------
        X : see `NearestNeighbors.fit`
        y : array of shape (n_samples,) or (n_samples, n_targets)

        Returns
        -------
        self
        """
        with running(self, "fit") as run:
            self._targets = self._fit(X, y, supervised=True, multi_output=True, y_numeric=True)
            run.say(self._search.name)
        return self

    def predict(self, X: Any) -> Any:
        """The mean of the neighbours' targets.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_queries, n_features), or None
            None: the fitted points, each without itself.

        Returns
        -------
        array of shape (n_queries,) or (n_queries, n_targets)
        """
        check_is_fitted(self)
        distance, index, origin = self._nearest(X)
        weights = neighbour_weights(distance.cpu().numpy(), self.weights)
        y = self._targets.reshape(len(self._targets), -1)
        out = np.asarray(weighted_mean(y[index.cpu().numpy()], weights), dtype=np.float64)
        return origin.give(torch.from_numpy(out if self._targets.ndim > 1 else out[:, 0]))

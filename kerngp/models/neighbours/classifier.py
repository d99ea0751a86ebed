"""Classification by the votes of nearest neighbours."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from ...options import current
from ..running import running
from .base import KNeighboursMixin
from .votes import Weights, class_shares, neighbour_weights


class KNeighborsClassifier(ClassifierMixin, KNeighboursMixin):
    """The class that most of the nearest neighbours have.

    The interface and the results are those of `sklearn.neighbors.KNeighborsClassifier`.

    Parameters
    ----------
    n_neighbors : int, default=5
    weights : {"uniform", "distance"}, callable or None, default="uniform"
        Of the votes: equal, 1 / distance, or a function from a NumPy array of distances (n, k) to weights.
    algorithm, leaf_size, p, metric, metric_params, n_jobs, device, memory_limit
        See `NearestNeighbors`.

    Attributes
    ----------
    classes_ : array of shape (n_classes,), or a list of them, one for each output
        NumPy arrays. Predictions are of X's library if the classes are numbers.
    outputs_2d_ : bool
        Whether y had several columns.
    effective_metric_, effective_metric_params_, n_samples_fit_, n_features_in_, feature_names_in_
        See `NearestNeighbors`.

    Examples
    --------
    >>> from kerngp.models import KNeighborsClassifier
    >>> model = KNeighborsClassifier(n_neighbors=3).fit([[0.0], [1.0], [2.0], [3.0]], ["a", "a", "b", "b"])
    >>> str(model.predict([[1.1]])[0])
    'a'
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

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X: Any, y: Any) -> KNeighborsClassifier:
        """Keep points and classes.

        Parameters
        ----------
        X : see `NearestNeighbors.fit`
        y : array of shape (n_samples,) or (n_samples, n_outputs)

        Returns
        -------
        self
        """
        with running(self, "fit") as run:
            y = self._fit(X, y, supervised=True, multi_output=True)
            run.say(self._search.name)
        if y.ndim == 2 and y.shape[1] == 1:
            warnings.warn(
                "A column-vector y was passed when a 1d array was expected. Please change the shape of y to "
                "(n_samples,), for example using ravel().",
                DataConversionWarning,
                stacklevel=2,
            )
        self.outputs_2d_ = y.ndim == 2 and y.shape[1] != 1
        check_classification_targets(y)
        columns = y.reshape(len(y), -1).T
        found = [np.unique(column, return_inverse=True) for column in columns]
        classes = [classes for classes, _ in found]
        self._labels = np.stack([labels.reshape(-1) for _, labels in found], axis=1)
        self.classes_ = classes if self.outputs_2d_ else classes[0]
        return self

    def predict(self, X: Any) -> Any:
        """The most frequent class among the neighbours; of equally frequent ones the first in `classes_`.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_queries, n_features), or None
            None: the fitted points, each without itself.

        Returns
        -------
        array of shape (n_queries,) or (n_queries, n_outputs)
        """
        check_is_fitted(self)
        index, weights, origin = self._neighbours(X)
        columns = []
        for classes, labels in self._outputs():
            best = np.empty(len(index), dtype=np.int64)
            step = max(1, self._memory() // (64 * len(classes)))
            for rows in (slice(i, i + step) for i in range(0, len(index), step)):
                w = None if weights is None else weights[rows]
                best[rows] = class_shares(labels[index[rows]], len(classes), w).argmax(1)
            columns.append(classes[best])
        out = np.stack(columns, axis=1) if self.outputs_2d_ else columns[0]
        return origin.give(torch.from_numpy(out)) if out.dtype.kind in "biuf" else out

    def predict_proba(self, X: Any) -> Any:
        """The shares of the classes among the neighbours.

        Parameters
        ----------
        X : see `predict`

        Returns
        -------
        array of shape (n_queries, n_classes), or a list of them, one for each output
        """
        check_is_fitted(self)
        index, weights, origin = self._neighbours(X)
        out = [
            origin.give(torch.from_numpy(class_shares(labels[index], len(classes), weights)))
            for classes, labels in self._outputs()
        ]
        return out if self.outputs_2d_ else out[0]

    def _neighbours(self, X: Any) -> tuple[np.ndarray, np.ndarray | None, Any]:
        distance, index, origin = self._nearest(X)
        return index.cpu().numpy(), neighbour_weights(distance.cpu().numpy(), self.weights), origin

    def _memory(self) -> int:
        return current().memory_limit if self.memory_limit is None else self.memory_limit

    def _outputs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Classes and the fitted points' labels, for each output."""
        classes: Any = self.classes_ if self.outputs_2d_ else [self.classes_]
        return zip(classes, self._labels.T, strict=True)

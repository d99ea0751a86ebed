"""scikit-learn's `score`, also for tensors that NumPy cannot reach."""

from __future__ import annotations

from typing import Any

from sklearn.metrics import accuracy_score, r2_score

from .inputs import to_numpy


class RegressorScore:
    """Gives a regressor its `score`; stands left of scikit-learn's RegressorMixin."""

    def score(self: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The coefficient of determination R^2 of the predictions for X.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
        y : array of shape (n_samples,) or (n_samples, n_targets)
            Of any library, on any device.
        sample_weight : array of shape (n_samples,), optional
        """
        return r2_score(to_numpy(y), to_numpy(self.predict(X)), sample_weight=to_numpy(sample_weight))


class ClassifierScore:
    """Gives a classifier its `score`; stands left of scikit-learn's ClassifierMixin."""

    def score(self: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The fraction of rows of X whose label is predicted.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
        y : array of shape (n_samples,)
            Of any library, on any device.
        sample_weight : array of shape (n_samples,), optional
        """
        return accuracy_score(to_numpy(y), to_numpy(self.predict(X)), sample_weight=to_numpy(sample_weight))

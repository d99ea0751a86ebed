"""Classification by kernel ridge regression on targets of -1 and 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets

from ..callbacks import reports
from ..inputs import Origin, to_numpy
from ..score import ClassifierScore
from .base import Data, RidgeBase, alphas_of

Tensor = torch.Tensor


class KernelRidgeClassifier(ClassifierScore, ClassifierMixin, RidgeBase):
    """Classification by kernel ridge regression: `sklearn.linear_model.RidgeClassifier` for kernels.

    Two classes are coded as -1 and 1 and f(x) is fitted to them; of several classes each is fitted
    against the others, all in one solve, and the largest f wins.

    Parameters
    ----------
    alpha : float, default=1
        Strength of the penalty. An array holds one for each class (for each label).
    kernel, gamma, degree, coef0, kernel_params
        See `KernelRidge`.
    class_weight : dict or "balanced", optional
        Factors of the weights of rows, by class; "balanced" is n_samples / (n_classes * count).
    solver, tol, max_iter, n_centers, preconditioner_rank, device, random_state, callback, memory_limit
        See `KernelRidge`.

    Attributes
    ----------
    classes_ : array of shape (n_classes,)
        An array like X if labels are numbers.
    dual_coef_ : array of shape (n_samples, n_targets)
        One column for two classes, otherwise one for each class or label.
    X_fit_, solver_, solution_, plan_, n_iter_, n_features_in_, feature_names_in_
        See `KernelRidge`.

    Examples
    --------
    >>> import numpy as np
    >>> from kerngp.models import KernelRidgeClassifier, RBF
    >>> X = np.array([[0.0], [0.3], [2.0], [2.2]])
    >>> model = KernelRidgeClassifier(0.1, kernel=RBF(0.5)).fit(X, ["a", "a", "b", "b"])
    >>> [str(c) for c in model.predict([[0.1], [2.1]])]
    ['a', 'b']
    """

    def __init__(
        self,
        alpha: Any = 1,
        *,
        kernel: Any = "linear",
        gamma: float | Sequence[float | None] | None = None,
        degree: float = 3,
        coef0: float = 1,
        kernel_params: dict[str, Any] | None = None,
        class_weight: dict[Any, float] | str | None = None,
        solver: str = "auto",
        tol: float = 1e-6,
        max_iter: int = 1000,
        n_centers: int | None = None,
        preconditioner_rank: int | None = None,
        device: str | None = None,
        random_state: Any = 0,
        callback: Callable[[Any], Any] | None = None,
        memory_limit: int | None = None,
    ):
        self.alpha = alpha
        self.kernel = kernel
        self.gamma = gamma
        self.degree = degree
        self.coef0 = coef0
        self.kernel_params = kernel_params
        self.class_weight = class_weight
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.n_centers = n_centers
        self.preconditioner_rank = preconditioner_rank
        self.device = device
        self.random_state = random_state
        self.callback = callback
        self.memory_limit = memory_limit

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    @reports
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> KernelRidgeClassifier:
        """Fit to the classes.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            With ``kernel="precomputed"``, the kernel matrix.
        y : array of shape (n_samples,), or (n_samples, n_labels) of zeros and ones
        sample_weight : float or array of shape (n_samples,), optional

        Returns
        -------
        self

        Raises
        ------
        ValueError
            See `KernelRidge.fit`.
        """
        self._check_parameters()
        data = self._read(X, y, sample_weight)
        check_classification_targets(data.y)
        binarizer = LabelBinarizer(pos_label=1, neg_label=-1)
        Y = binarizer.fit_transform(data.y).astype(np.float64)
        labels = data.y
        if not binarizer.y_type_.startswith("multilabel"):
            labels = column_or_1d(labels, warn=True)
        weight = data.weight
        if self.class_weight:
            factors = compute_sample_weight(self.class_weight, labels)
            weight = factors if weight is None else weight * factors
        self._label_binarizer = binarizer
        self.classes_ = _like(data.origin, binarizer.classes_, data.X.device)
        self._solve(Data(data.X, Y, weight, data.origin), Y, alphas_of(self.alpha, Y.shape[1]))
        return self

    def decision_function(self, X: Any) -> Any:
        """f at the rows of X.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        array of shape (n_samples,) for two classes, otherwise (n_samples, n_classes)
        """
        found, origin = self._values(X, "decision_function")
        return origin.give(found[:, 0] if found.shape[1] == 1 else found)

    def predict(self, X: Any) -> Any:
        """The classes of the rows of X.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        array of shape (n_samples,), or (n_samples, n_labels)
        """
        found, origin = self._values(X)
        if self._label_binarizer.y_type_.startswith("multilabel"):
            scores = 2.0 * (found > 0).double().cpu().numpy() - 1.0
            return _like(origin, self._label_binarizer.inverse_transform(scores), origin.device)
        code = (found[:, 0] > 0).long() if found.shape[1] == 1 else found.argmax(1)
        return _like(origin, to_numpy(self._label_binarizer.classes_)[code.cpu().numpy()], origin.device)

    def _targets(self, y: Any) -> int:
        if y is None:
            return 1
        if np.ndim(y) == 2:
            return max(1, int(np.shape(y)[1]))
        classes = len(np.unique(to_numpy(y)))
        return 1 if classes <= 2 else classes


def _like(origin: Origin, labels: Any, device: torch.device) -> Any:
    """Labels as an array like X, if that library has such arrays."""
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iufb":
        return labels
    return origin.give(torch.from_numpy(labels).to(device))

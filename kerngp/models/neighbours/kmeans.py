"""k-means clustering with scikit-learn's interface."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ...engine.arrays import adopt, adopt_any
from ...errors import OptionError, ShapeError
from ...solvers import Progress
from ..callbacks import CallbackMixin, report_of, reports
from ..inputs import Origin, check_weights, read_rows, to_numpy
from ..running import running
from .lloyd import Clustering, inertia, nearest_center, plus_plus, random_rows, run

Tensor = torch.Tensor


class KMeans(CallbackMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """k-means clustering by Lloyd's algorithm: a fused search for the nearest center, and means.

    The interface is that of `sklearn.cluster.KMeans`; the same ``random_state`` draws the same first centers,
    so that results agree up to rounding. On a GPU where X is there.

    Parameters
    ----------
    n_clusters : int, default=8
    init : {"k-means++", "random"}, array of shape (n_clusters, n_features) or callable, default="k-means++"
        A callable is called with ``(X, n_clusters, random_state=...)``, X a NumPy array about its mean.
    n_init : "auto" or int, default="auto"
        Runs, of which the best is kept. "auto": 10 for "random" and callables, else 1.
    max_iter : int, default=300
    tol : float, default=1e-4
        A run ends when the squared moves of the centers add up to ``tol`` times the mean variance of the
        columns, or when no label changes.
    verbose : int, default=0
        Whether to print every iteration.
    random_state : int, RandomState instance or None
    copy_x : bool, default=True
        Accepted; X is never changed.
    algorithm : {"lloyd", "elkan"}, default="lloyd"
        Both are Lloyd's here: they have the same iterates.
    device : str, optional
        Where to compute; default the CPU, or the device of a torch tensor.
    memory_limit : int, optional
        Bytes of temporaries; default the option in force.
    callback : callable, optional
        Called with a `kerngp.solvers.Progress` in every iteration, its residual the move of the centers;
        returning True stops.

    Attributes
    ----------
    cluster_centers_ : array of shape (n_clusters, n_features)
    labels_ : int32 array of shape (n_samples,)
    inertia_ : float
        The weighted sum of squared distances to the nearest centers.
    n_iter_ : int
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)

    References
    ----------
    Lloyd, Least squares quantization in PCM, 1982. Arthur and Vassilvitskii, k-means++: the advantages of
    careful seeding, 2007.

    Examples
    --------
    >>> from kerngp.models import KMeans
    >>> model = KMeans(n_clusters=2, random_state=0).fit([[0.0], [1.0], [10.0], [11.0]])
    >>> sorted(model.cluster_centers_[:, 0].tolist())
    [0.5, 10.5]
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "k-means++",
        n_init: Any = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        verbose: int = 0,
        random_state: Any = None,
        copy_x: bool = True,
        algorithm: str = "lloyd",
        device: str | None = None,
        memory_limit: int | None = None,
        callback: Callable[[Progress], Any] | None = None,
    ):
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.verbose = verbose
        self.random_state = random_state
        self.copy_x = copy_x
        self.algorithm = algorithm
        self.device = device
        self.memory_limit = memory_limit
        self.callback = callback

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    # ---------------------------------------------------------------- fitting

    @reports
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> KMeans:
        """Find the centers.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            A sparse matrix is made dense if that fits into the memory limit.
        y : ignored
        sample_weight : float or array of shape (n_samples,), optional

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For parameters out of range, fewer rows than clusters, and data that are not a finite matrix.
        """
        self._check_parameters()
        with running(self, "fit") as log:
            rows, origin = read_rows(self, X, reset=True, device=self.device)
            if len(rows) < self.n_clusters:
                raise ShapeError(f"n_samples={len(rows)} should be >= n_clusters={self.n_clusters}.")
            weight = self._weights(sample_weight, rows)
            best = self._best(rows, weight)
            log.say(f"{best.iterations} iterations, inertia {best.inertia:.6g}")
        self._warn(best)
        self.cluster_centers_ = origin.give(best.centers)
        self.labels_ = origin.give(best.labels.to(torch.int32))
        self.inertia_ = best.inertia
        self.n_iter_ = best.iterations
        self._n_features_out = self.n_clusters
        return self

    def _best(self, X: Tensor, weight: Tensor) -> Clustering:
        """The best of all runs, on data about their mean."""
        random = check_random_state(self.random_state)
        mean = X.mean(0)
        X = X - mean
        tol = 0.0 if self.tol == 0 else float(X.var(0, unbiased=False).mean()) * self.tol
        best: Clustering | None = None
        for _ in range(self._runs()):
            centers = self._first_centers(X, mean, weight, random)
            self._say("Initialization complete")
            found = run(
                X,
                weight,
                centers,
                max_iter=self.max_iter,
                tol=tol,
                callback=report_of(self),
                report=self._say if self.verbose else None,
            )
            better = best is None or found.inertia < best.inertia
            if best is None or (better and not _same(found.labels, best.labels)):
                best = found
            if found.stopped:
                break
        assert best is not None
        return Clustering(best.labels, best.centers + mean, best.inertia, best.iterations, best.stopped)

    def _first_centers(self, X: Tensor, mean: Tensor, weight: Tensor, random: Any) -> Tensor:
        k = self.n_clusters
        if isinstance(self.init, str):
            return (plus_plus if self.init == "k-means++" else random_rows)(X, weight, k, random)
        if callable(self.init):
            given = self.init(X.cpu().numpy(), k, random_state=random)
            shift = torch.zeros_like(mean)
        else:
            given, shift = self.init, mean
        centers = adopt("init", np.array(to_numpy(given), dtype=np.float64)).to(X)
        if centers.dim() != 2 or len(centers) != k:
            raise ShapeError(
                f"The shape of the initial centers {tuple(centers.shape)} does not match the number of "
                f"clusters {k}."
            )
        if centers.shape[1] != X.shape[1]:
            raise ShapeError(
                f"The shape of the initial centers {tuple(centers.shape)} does not match the number of "
                f"features of the data {X.shape[1]}."
            )
        return centers - shift

    def _runs(self) -> int:
        array = not isinstance(self.init, str) and not callable(self.init)
        if self.n_init == "auto":
            return 1 if array or self.init == "k-means++" else 10
        if array and self.n_init != 1:
            warnings.warn(
                f"Explicit initial center position passed: performing only one init in KMeans instead of "
                f"n_init={self.n_init}.",
                RuntimeWarning,
                stacklevel=4,
            )
        return 1 if array else self.n_init

    def _warn(self, best: Clustering) -> None:
        distinct = len(torch.unique(best.labels))
        if distinct < self.n_clusters:
            warnings.warn(
                f"Number of distinct clusters ({distinct}) found smaller than n_clusters "
                f"({self.n_clusters}). Possibly due to duplicate points in X.",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _say(self, text: str) -> None:
        if self.verbose:
            print(text)

    @staticmethod
    def _weights(sample_weight: Any, X: Tensor) -> Tensor:
        if sample_weight is None:
            return X.new_ones(len(X))
        return torch.from_numpy(check_weights(sample_weight, len(X))).to(X)

    # ---------------------------------------------------------------- questions

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit, and the number of each row's cluster."""
        return self.fit(X, sample_weight=sample_weight).labels_

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit, and the distances of each row to all centers."""
        return self.fit(X, sample_weight=sample_weight).transform(X)

    def predict(self, X: Any) -> Any:
        """The number of each row's nearest center.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        int32 array of shape (n_samples,)
        """
        rows, centers, origin = self._read(X, "predict")
        with running(self, "predict"):
            return origin.give(nearest_center(rows, centers).to(torch.int32))

    def transform(self, X: Any) -> Any:
        """The Euclidean distances of each row to all centers.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        array of shape (n_samples, n_clusters)
        """
        rows, centers, origin = self._read(X, "transform")
        with running(self, "transform"):
            return origin.give(torch.cdist(rows, centers, compute_mode="donot_use_mm_for_euclid_dist"))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Minus the weighted sum of squared distances to the nearest centers.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
        y : ignored
        sample_weight : float or array of shape (n_samples,), optional
        """
        rows, centers, _ = self._read(X, "score")
        with running(self, "score"):
            weight = self._weights(sample_weight, rows)
            return -inertia(rows, weight, centers, nearest_center(rows, centers))

    def _read(self, X: Any, method: str) -> tuple[Tensor, Tensor, Origin]:
        check_is_fitted(self)
        rows, origin = read_rows(self, X, reset=False, method=method, device=self.device)
        centers = adopt_any("cluster_centers_", self.cluster_centers_).to(rows.device)
        # the wider dtype of the two, so that no data lose digits
        dtype = torch.promote_types(rows.dtype, centers.dtype)
        return rows.to(dtype), centers.to(dtype), origin

    def _check_parameters(self) -> None:
        """Raise for constructor arguments out of range."""
        for name in ("n_clusters", "max_iter", "n_init"):
            value = getattr(self, name)
            if name == "n_init" and isinstance(value, str) and value == "auto":
                continue
            if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
                raise OptionError(f"{name}={value!r}; expected an integer of at least 1.")
        if isinstance(self.init, str) and self.init not in ("k-means++", "random"):
            raise OptionError(f"init={self.init!r}; expected 'k-means++', 'random', an array or a function.")
        if not isinstance(self.tol, Real) or not float(self.tol) >= 0:
            raise OptionError(f"tol={self.tol!r}; expected a number >= 0.")
        if self.algorithm not in ("lloyd", "elkan"):
            raise OptionError(f"algorithm={self.algorithm!r}; expected 'lloyd' or 'elkan'.")


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two labellings are the same clusters, numbered in any way."""
    pairs = len(torch.unique(torch.stack([a, b]), dim=1).T)
    return pairs == len(torch.unique(a)) == len(torch.unique(b))

"""Nearest neighbours without targets."""

from __future__ import annotations

from typing import Any

from ..running import running
from .base import KNeighboursMixin, RadiusNeighboursMixin


class NearestNeighbors(KNeighboursMixin, RadiusNeighboursMixin):
    """Search for the nearest points: by a pass of the engine over all pairs, or by a tree.

    The interface and the results are those of `sklearn.neighbors.NearestNeighbors`. Nothing of the size of
    a distance matrix is stored.

    Parameters
    ----------
    n_neighbors : int, default=5
    radius : float, default=1.0
    algorithm : {"auto", "brute", "kd_tree", "ball_tree"}, default="auto"
        "brute" passes over all pairs; "auto" takes a k-d tree of SciPy instead where that is quicker (few
        columns, many rows, a norm, the CPU). The trees by name are scikit-learn's.
    leaf_size : int, default=30
        Of scikit-learn's trees.
    metric : str, Expr or callable, default="minkowski"
        - a name of scikit-learn. Those with a formula are euclidean, l2, sqeuclidean, manhattan, cityblock,
          l1, chebyshev, minkowski, cosine, haversine, hamming, canberra, braycurtis, jaccard, dice,
          rogerstanimoto, russellrao, sokalsneath, and with their parameters seuclidean and mahalanobis;
          others, "precomputed" and sparse data are left to scikit-learn;
        - a formula of ``Vi(0, n_features)`` and ``Vj(1, n_features)``, or a function of two points that
          returns one: ``def d(x, y): return abs(x - y).sum()``;
        - a function of two rows that returns a number, left to scikit-learn.
    p : float, default=2
        Of minkowski.
    metric_params : dict, optional
        Further parameters of the metric: ``w`` of minkowski, ``V`` of seuclidean, ``VI`` of mahalanobis,
        keyword arguments of a function.
    n_jobs : int, optional
        Used by scikit-learn's searches; the engine has torch's number of threads.
    device : str, optional
        Where to compute; default the CPU, or the device of a torch tensor.
    memory_limit : int, optional
        Bytes of temporaries; default the option in force.

    Attributes
    ----------
    effective_metric_ : str, Expr or callable
    effective_metric_params_ : dict
    n_samples_fit_ : int
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)

    Notes
    -----
    Results are of the library, device and dtype of X. Graphs are matrices of SciPy.

    Examples
    --------
    >>> import numpy as np
    >>> from kerngp.models import NearestNeighbors
    >>> X = np.array([[0.0], [1.0], [3.0]])
    >>> distance, index = NearestNeighbors(n_neighbors=1).fit(X).kneighbors([[2.5]])
    >>> float(distance[0, 0]), int(index[0, 0])
    (0.5, 2)
    """

    def __init__(
        self,
        *,
        n_neighbors: int = 5,
        radius: float = 1.0,
        algorithm: str = "auto",
        leaf_size: int = 30,
        metric: Any = "minkowski",
        p: float = 2,
        metric_params: dict[str, Any] | None = None,
        n_jobs: int | None = None,
        device: str | None = None,
        memory_limit: int | None = None,
    ):
        self.n_neighbors = n_neighbors
        self.radius = radius
        self.algorithm = algorithm
        self.leaf_size = leaf_size
        self.metric = metric
        self.p = p
        self.metric_params = metric_params
        self.n_jobs = n_jobs
        self.device = device
        self.memory_limit = memory_limit

    def fit(self, X: Any, y: Any = None) -> NearestNeighbors:
        """Keep the points, or build a tree of them.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            With ``metric="precomputed"``, distances of shape (n_samples, n_samples). A fitted
            estimator of neighbours, or a tree of scikit-learn, is taken as it is.
        y : ignored

        Returns
        -------
        self
        """
        with running(self, "fit") as run:
            self._fit(X, supervised=False)
            run.say(self._search.name)
        return self

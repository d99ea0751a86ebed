"""What the estimators of nearest neighbours share: the fitted search, and its questions."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
import sklearn
import torch
from sklearn.base import BaseEstimator, MultiOutputMixin
from sklearn.neighbors import BallTree, KDTree
from sklearn.neighbors import NearestNeighbors as LibraryNeighbors
from sklearn.utils.validation import check_is_fitted, validate_data

from ...errors import OptionError
from ..inputs import Origin, read, read_rows, to_numpy
from ..running import running
from .checks import check_count, check_parameters, check_semimetric, effective_metric
from .metrics import resolve_metric
from .search import LibrarySearch, PairSearch, Search, TreeSearch, tree_pays

Tensor = torch.Tensor


class NeighboursBase(MultiOutputMixin, BaseEstimator):
    """Fits a `Search` and asks it. Derived classes have scikit-learn's constructors.

    Attributes
    ----------
    effective_metric_ : str, Expr or callable
        The metric that is meant: "euclidean" for "minkowski" with p = 2.
    effective_metric_params_ : dict
    n_samples_fit_ : int
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
    """

    n_neighbors: Any
    radius: Any
    algorithm: Any
    leaf_size: Any
    metric: Any
    p: Any
    metric_params: Any
    n_jobs: Any
    device: Any
    memory_limit: Any
    _search: Search
    _origin: Origin

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.pairwise = self._named("precomputed")
        tags.input_tags.positive_only = tags.input_tags.pairwise
        tags.input_tags.allow_nan = self._named("nan_euclidean")
        return tags

    def _named(self, name: str) -> bool:
        return isinstance(self.metric, str) and self.metric == name

    # ---------------------------------------------------------------- fitting

    def _fit(self, X: Any, y: Any = None, *, supervised: bool, **checks: Any) -> Any:
        """Fit the search; y as a validated array, None unless ``supervised``."""
        check_parameters(self)
        name, params = effective_metric(self.metric, self.p, self.metric_params)
        check_semimetric(self.algorithm, name, params)
        self.effective_metric_, self.effective_metric_params_ = name, params
        if isinstance(X, NeighboursBase):
            self._search, self._origin = X._search, X._origin
            self.n_features_in_ = X.n_features_in_
        elif isinstance(X, (KDTree, BallTree)):
            self._search, self._origin = self._library(X), Origin()
            self.n_features_in_ = X.get_arrays()[0].shape[1]
        elif self._named("precomputed") or self._named("nan_euclidean") or scipy.sparse.issparse(X):
            X, y = self._host_rows(X, y, supervised, **checks)
            self._search, self._origin = self._library(X), Origin()
        else:
            if supervised:
                rows, y, self._origin = read(self, X, y, device=self.device, **checks)
            else:
                rows, self._origin = read_rows(self, X, reset=True, device=self.device)
            self._search = self._choose(rows)
        self.n_samples_fit_ = self._search.rows
        return np.asarray(to_numpy(y)) if supervised else None

    def _host_rows(self, X: Any, y: Any, supervised: bool, **checks: Any) -> tuple[Any, Any]:
        """Sparse, precomputed or incomplete data, for scikit-learn."""
        finite = "allow-nan" if self._named("nan_euclidean") else True
        checks = {"accept_sparse": "csr", "ensure_all_finite": finite, **checks}
        if not supervised:
            return validate_data(self, to_numpy(X), **checks), None
        rows, y = validate_data(self, to_numpy(X), to_numpy(y), **checks)
        return rows, y

    def _choose(self, rows: Tensor) -> Search:
        """The quickest search that is exact for the metric."""
        metric = resolve_metric(self.effective_metric_, self.effective_metric_params_, rows.shape[1])
        if metric is None or self.algorithm in ("kd_tree", "ball_tree"):
            return self._library(rows.cpu().numpy())
        tree = self.algorithm == "auto" and metric.norm is not None and rows.device.type == "cpu"
        if tree and tree_pays(*rows.shape):
            return TreeSearch.of(metric, rows)
        return PairSearch.of(metric, rows)

    def _library(self, X: Any) -> LibrarySearch:
        settings = {k: getattr(self, k) for k in ("algorithm", "leaf_size", "metric", "p", "n_jobs")}
        # what there is to say of p has been said
        params = {k: v for k, v in (self.metric_params or {}).items() if k != "p"}
        if "p" in (self.metric_params or {}):
            settings["p"] = self.metric_params["p"]
        settings["metric_params"] = params or None
        return LibrarySearch(LibraryNeighbors(**settings).fit(X))

    # ---------------------------------------------------------------- questions

    def _queries(self, X: Any, method: str) -> tuple[Any, Origin]:
        """Queries as the search takes them."""
        if X is None:
            return None, self._origin
        library = isinstance(self._search, LibrarySearch)
        if library and self._named("precomputed"):
            return to_numpy(X), self._origin
        if library and (self._named("nan_euclidean") or scipy.sparse.issparse(X)):
            finite = "allow-nan" if self._named("nan_euclidean") else True
            rows = validate_data(
                self, to_numpy(X), accept_sparse="csr", ensure_all_finite=finite, reset=False
            )
            return rows, self._origin
        return read_rows(self, X, reset=False, method=method, device=self.device)

    def _nearest(self, X: Any, k: Any = None, method: str = "predict") -> tuple[Tensor, Tensor, Origin]:
        """Distances and numbers of the k nearest, and where they belong."""
        check_is_fitted(self)
        k = self.n_neighbors if k is None else k
        check_count(k)
        queries, origin = self._queries(X, method)
        n, count = self.n_samples_fit_, self.n_samples_fit_ if queries is None else queries.shape[0]
        if k > n or (queries is None and k == n):
            relation = "<" if queries is None else "<="
            raise OptionError(
                f"Expected n_neighbors {relation} n_samples_fit, but n_neighbors = {k}, "
                f"n_samples_fit = {n}, n_samples = {count}"
            )
        with running(self, "kneighbors", f"{count:,} queries, {n:,} points, {self._search.name}"):
            distance, index = self._search.nearest(queries, int(k))
        return distance, index, origin


class KNeighboursMixin(NeighboursBase):
    """Questions for a number of neighbours."""

    def kneighbors(self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True) -> Any:
        """The nearest fitted points of each query.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_queries, n_features), optional
            None: the fitted points, each without itself. With ``metric="precomputed"``, distances of shape
            (n_queries, n_samples_fit).
        n_neighbors : int, optional
            Default that of the constructor.
        return_distance : bool, default=True

        Returns
        -------
        neigh_dist : array of shape (n_queries, n_neighbors)
            Nearest first. Only if ``return_distance``.
        neigh_ind : integer array of shape (n_queries, n_neighbors)
            Rows of the fitted points. Of equally near ones those that came first, if the engine searches.

        Raises
        ------
        ValueError, TypeError
            If there are not as many points, or if X does not fit the fitted data.
        """
        distance, index, origin = self._nearest(X, n_neighbors, "kneighbors")
        return (origin.give(distance), origin.give(index)) if return_distance else origin.give(index)

    def kneighbors_graph(
        self, X: Any = None, n_neighbors: int | None = None, mode: str = "connectivity"
    ) -> Any:
        """The nearest fitted points of each query as a sparse matrix.

        Parameters
        ----------
        X, n_neighbors : see `kneighbors`
        mode : {"connectivity", "distance"}
            Entries are 1, or distances.

        Returns
        -------
        CSR matrix of SciPy of shape (n_queries, n_samples_fit)
        """
        check_is_fitted(self)
        _check_mode(mode)
        distance, index, _ = self._nearest(X, n_neighbors, "kneighbors")
        k = index.shape[1]
        indptr = np.arange(0, index.numel() + 1, k)
        return _graph(distance.reshape(-1), index.reshape(-1), indptr, mode, self.n_samples_fit_)


class RadiusNeighboursMixin(NeighboursBase):
    """Questions for neighbours within a radius."""

    def radius_neighbors(
        self, X: Any = None, radius: Any = None, return_distance: bool = True, sort_results: bool = False
    ) -> Any:
        """The fitted points at most ``radius`` away from each query.

        Parameters
        ----------
        X : see `KNeighboursMixin.kneighbors`
        radius : float or array of shape (n_queries,), optional
            Default that of the constructor.
        return_distance : bool, default=True
        sort_results : bool, default=False
            Nearest first, instead of in the order of the fitted points.

        Returns
        -------
        neigh_dist : object array of shape (n_queries,) of arrays
            Only if ``return_distance``.
        neigh_ind : object array of shape (n_queries,) of integer arrays
        """
        if sort_results and not return_distance:
            raise OptionError("return_distance must be True if sort_results is True.")
        distance, index, counts, origin = self._within(X, radius, sort_results)
        ends = np.cumsum(counts)[:-1]
        near = _pieces(origin.give(index), ends)
        return (_pieces(origin.give(distance), ends), near) if return_distance else near

    def radius_neighbors_graph(
        self, X: Any = None, radius: Any = None, mode: str = "connectivity", sort_results: bool = False
    ) -> Any:
        """The fitted points within ``radius`` of each query as a sparse matrix.

        Parameters
        ----------
        X, radius, sort_results : see `radius_neighbors`
        mode : {"connectivity", "distance"}

        Returns
        -------
        CSR matrix of SciPy of shape (n_queries, n_samples_fit)
        """
        check_is_fitted(self)
        _check_mode(mode)
        distance, index, counts, _ = self._within(X, radius, sort_results)
        indptr = np.concatenate([[0], np.cumsum(counts)])
        return _graph(distance, index, indptr, mode, self.n_samples_fit_)

    def _within(self, X: Any, radius: Any, nearest_first: bool) -> tuple[Tensor, Tensor, np.ndarray, Origin]:
        check_is_fitted(self)
        radius = self.radius if radius is None else to_numpy(radius)
        queries, origin = self._queries(X, "radius_neighbors")
        n, count = self.n_samples_fit_, self.n_samples_fit_ if queries is None else queries.shape[0]
        with running(self, "radius_neighbors", f"{count:,} queries, {n:,} points, {self._search.name}"):
            found = self._search.within(queries, radius)
        distance, index, counts = found if nearest_first else found.by_number()
        return distance, index, counts.cpu().numpy(), origin


def _check_mode(mode: str) -> None:
    if mode not in ("connectivity", "distance"):
        raise OptionError(
            f'Unsupported mode, must be one of "connectivity", or "distance" but got "{mode}" instead'
        )


def _pieces(values: Any, ends: np.ndarray) -> np.ndarray:
    """An array cut at ``ends``, as an object array of arrays."""
    cuts = [0, *ends.tolist(), len(values)]
    out = np.empty(len(cuts) - 1, dtype=object)
    for k, (a, b) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
        out[k] = values[a:b]
    return out


def _graph(distance: Tensor, index: Tensor, indptr: np.ndarray, mode: str, columns: int) -> Any:
    data = distance.cpu().numpy() if mode == "distance" else np.ones(len(index))
    kind = scipy.sparse.csr_array
    if sklearn.get_config().get("sparse_interface", "spmatrix") == "spmatrix":
        kind = scipy.sparse.csr_matrix
    return kind((data, index.cpu().numpy(), indptr), shape=(len(indptr) - 1, columns))

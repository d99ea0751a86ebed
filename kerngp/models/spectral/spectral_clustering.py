"""Spectral clustering with scikit-learn's interface, beyond the size of the affinity matrix."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import eigsh as arpack
from scipy.sparse.linalg import lobpcg
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import SpectralClustering as StoredSpectralClustering
from sklearn.cluster import k_means
from sklearn.cluster._spectral import cluster_qr, discretize
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from ...errors import OptionError
from ...solvers import AddedDiagonal, LinearOperator
from ..inputs import Origin, read_rows, to_numpy
from ..pairwise import NON_NEGATIVE
from ..running import Run, running
from .gram import Gram, check_choice, check_count, check_number, gram
from .leading import leading

Tensor = torch.Tensor
EIGEN_SOLVERS = (None, "arpack", "lobpcg", "amg", "krylov")
LABELS = ("kmeans", "discretize", "cluster_qr")
GRAPHS = ("nearest_neighbors", "precomputed", "precomputed_nearest_neighbors")
UNCONNECTED = "Graph is not fully connected, spectral embedding may not work as expected."
MOST_PASSES = 200
TOLERANCE = 1e-6  # of eigenvectors: k-means sees no more


class SpectralClustering(ClusterMixin, BaseEstimator):
    """Clusters of points by the leading eigenvectors of their normalized affinity matrix.

    With an affinity matrix K, its diagonal left out, and D the diagonal matrix of its row sums, the rows of
    D^(-1/2) V are clustered, where V holds the leading eigenvectors of D^(-1/2) K D^(-1/2). Interface and
    labels are those of `sklearn.cluster.SpectralClustering`; kernel matrices are stored for small data
    only. For larger data the eigenvectors come from products, in memory linear in the number of points.

    Parameters
    ----------
    n_clusters : int, default=8
    eigen_solver : {"arpack", "lobpcg", "amg", "krylov"}, optional
        "krylov" is a block Krylov method on products with the matrix, which is not stored. The others are
        scikit-learn's up to 4,000 points and for graphs. Above, "arpack" and "lobpcg" are SciPy's on
        products, and "amg" is refused. None is "arpack" up to 4,000 points and "krylov" above.
    n_components : int, optional
        Number of eigenvectors; default ``n_clusters``.
    random_state : int, RandomState instance or None, default=None
    n_init : int, default=10
        Starts of k-means.
    gamma : float, default=1.0
        Of the named kernels.
    affinity : str, Kernel, Expr or callable, default="rbf"
        A kernel as in `KernelRidge`, with values that are not negative, or a graph: "nearest_neighbors",
        "precomputed" (X is the affinity matrix, sparse or dense), "precomputed_nearest_neighbors" (X is a
        sparse matrix of distances).
    n_neighbors : int, default=10
        Of the graphs of neighbours.
    eigen_tol : float or "auto"
        Tolerance of eigenvectors; "auto" is 1e-6 for "krylov" and the default of the others.
    assign_labels : {"kmeans", "discretize", "cluster_qr"}, default="kmeans"
    degree, coef0 : float
        Of poly and sigmoid.
    kernel_params : dict, optional
        Keyword arguments of a callable.
    n_jobs : int, optional
        Of the search for neighbours.
    verbose : bool, default=False
    device : str, optional
        Where to compute products; default where X is.
    memory_limit : int, optional
        Bytes; default that of `kerngp.options`.

    Attributes
    ----------
    affinity_matrix_ : array or sparse matrix of shape (n_samples, n_samples), or LinearOperator
        An operator where the matrix was not stored: ``affinity_matrix_ @ b`` and
        ``affinity_matrix_.rows(idx)`` work as ever.
    labels_ : array of shape (n_samples,)
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)

    References
    ----------
    von Luxburg, A tutorial on spectral clustering, 2007. Shi and Malik, Normalized cuts and image
    segmentation, 2000.

    Examples
    --------
    >>> from sklearn.datasets import make_circles
    >>> X, y = make_circles(600, factor=0.3, noise=0.03, random_state=0)
    >>> model = SpectralClustering(2, gamma=30.0, eigen_solver="krylov", random_state=0).fit(X)
    >>> len(set(zip(y.tolist(), model.labels_.tolist())))
    2
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        eigen_solver: str | None = None,
        n_components: int | None = None,
        random_state: Any = None,
        n_init: int = 10,
        gamma: float | Sequence[float | None] | None = 1.0,
        affinity: Any = "rbf",
        n_neighbors: int = 10,
        eigen_tol: Any = "auto",
        assign_labels: str = "kmeans",
        degree: float = 3,
        coef0: float = 1,
        kernel_params: dict[str, Any] | None = None,
        n_jobs: int | None = None,
        verbose: bool = False,
        device: str | None = None,
        memory_limit: int | None = None,
    ):
        self.n_clusters = n_clusters
        self.eigen_solver = eigen_solver
        self.n_components = n_components
        self.random_state = random_state
        self.n_init = n_init
        self.gamma = gamma
        self.affinity = affinity
        self.n_neighbors = n_neighbors
        self.eigen_tol = eigen_tol
        self.assign_labels = assign_labels
        self.degree = degree
        self.coef0 = coef0
        self.kernel_params = kernel_params
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.device = device
        self.memory_limit = memory_limit

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        tags.input_tags.sparse = True
        tags.input_tags.pairwise = self._graph and self.affinity != "nearest_neighbors"
        tags.input_tags.positive_only = isinstance(self.affinity, str) and self.affinity in NON_NEGATIVE
        return tags

    def fit(self, X: Any, y: Any = None) -> SpectralClustering:
        """Find the clusters.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            With a precomputed affinity, of shape (n_samples, n_samples).
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For parameters out of range and data that are not finite numbers.

        Warns
        -----
        UserWarning
            If the graph is not connected.
        ConvergenceWarning
            If the eigenvectors were not found to the tolerance.
        """
        self._check_parameters()
        if self._graph:
            return self._fit_graph(X)
        x, origin = read_rows(self, X, reset=True, device=self.device, ensure_min_samples=2)
        _warn_of_squares(x.shape)
        x = x.double()
        kernel = gram(
            self.affinity,
            x,
            gamma=self.gamma,
            degree=self.degree,
            coef0=self.coef0,
            kernel_params=self.kernel_params,
        )
        stored = self.eigen_solver != "krylov" and kernel.stores(len(x))
        how = "matrix stored" if stored else "matrix-free"
        with running(self, "fit", f"{len(x):,} points, {self.n_clusters} clusters, {how}") as run:
            if stored:
                affinity = kernel.matrix(x)
                labels = self._inner("precomputed").fit(affinity.cpu().numpy()).labels_
                self.affinity_matrix_ = origin.give(affinity)
            else:
                self.affinity_matrix_, labels = self._matrix_free(kernel, x, run)
            self.labels_ = origin.give(torch.from_numpy(labels))
        return self

    def fit_predict(self, X: Any, y: Any = None) -> Any:
        """The labels of `fit`.

        Parameters
        ----------
        X : see `fit`
        y : ignored

        Returns
        -------
        array of shape (n_samples,)
        """
        return self.fit(X).labels_

    @property
    def _graph(self) -> bool:
        return isinstance(self.affinity, str) and self.affinity in GRAPHS

    def _check_parameters(self) -> None:
        check_count("n_clusters", self.n_clusters)
        check_choice("eigen_solver", self.eigen_solver, EIGEN_SOLVERS)
        check_count("n_components", self.n_components, optional=True)
        check_choice("assign_labels", self.assign_labels, LABELS)
        if self.eigen_tol != "auto":
            check_number("eigen_tol", self.eigen_tol, least=0.0)
        if self.eigen_solver == "krylov" and self._graph:
            raise OptionError(
                f"eigen_solver='krylov' is for kernels; affinity={self.affinity!r} gives a stored graph: "
                "use 'arpack', 'lobpcg' or 'amg'."
            )

    def _inner(self, affinity: str) -> StoredSpectralClustering:
        """scikit-learn's estimator with these parameters."""
        names = ("eigen_solver", "n_components", "random_state", "n_init", "n_neighbors", "eigen_tol")
        same = {name: getattr(self, name) for name in (*names, "assign_labels", "n_jobs", "verbose")}
        return StoredSpectralClustering(self.n_clusters, affinity=affinity, **same)

    def _fit_graph(self, X: Any) -> SpectralClustering:
        """Graphs are sparse, or given: their matrix is stored, and scikit-learn does the work."""
        origin = Origin.of(X)
        formats = ["csr", "csc", "coo"]
        graph: Any = validate_data(
            self, to_numpy(X), accept_sparse=formats, dtype=np.float64, ensure_min_samples=2
        )
        with running(self, "fit", f"graph of {graph.shape[0]:,} points, {self.n_clusters} clusters"):
            inner = self._inner(self.affinity).fit(graph)
            self.affinity_matrix_ = inner.affinity_matrix_
            self.labels_ = origin.give(torch.from_numpy(inner.labels_))
        return self

    def _matrix_free(self, kernel: Gram, x: Tensor, run: Run) -> tuple[LinearOperator, Any]:
        """The affinity as an operator, and the labels."""
        K = kernel.operator(x, noise=False)
        loops = K.diag()
        degrees = K @ torch.ones(len(x), dtype=x.dtype, device=x.device) - loops
        if bool((degrees < -1e-10 * loops.abs()).any()):
            raise OptionError(
                f"affinity={self.affinity!r} has rows with a negative sum; expected values >= 0."
            )
        isolated = degrees <= 1e-14 * loops.abs()
        if bool(isolated.any()):
            warnings.warn(UNCONNECTED, UserWarning, stacklevel=3)
        degrees = torch.where(isolated, 1.0, degrees)
        roots = degrees.sqrt()
        S = AddedDiagonal(kernel.operator(x, weights=1 / roots, noise=False), -loops / degrees)
        random = check_random_state(self.random_state)
        maps = (self._eigenvectors(S, roots, random, run) / roots[:, None]).cpu().numpy()
        if self.verbose:
            print(f"Computing label assignment using {self.assign_labels}")
        if self.assign_labels == "kmeans":
            options = {"random_state": random, "n_init": self.n_init, "verbose": self.verbose}
            return K, k_means(maps, self.n_clusters, **options)[1]
        if self.assign_labels == "cluster_qr":
            return K, cluster_qr(maps)
        return K, discretize(maps, random_state=random)

    def _eigenvectors(self, S: LinearOperator, roots: Tensor, random: Any, run: Run) -> Tensor:
        """The leading eigenvectors, as columns."""
        count = self.n_clusters if self.n_components is None else self.n_components
        tol = None if self.eigen_tol == "auto" else self.eigen_tol
        if self.eigen_solver in (None, "krylov"):
            return leading(self, S, count, tol or TOLERANCE, MOST_PASSES, random, run).vectors
        if self.eigen_solver == "amg":
            raise OptionError(
                f"eigen_solver='amg' needs a sparse graph; the affinity of {S.shape[0]:,} points is a dense "
                "matrix that is not stored: use eigen_solver='krylov', or affinity='nearest_neighbors'."
            )
        if self.eigen_solver == "arpack":
            start = random.uniform(-1, 1, S.shape[0])
            vectors = arpack(S.scipy(), count, which="LA", tol=tol or 0, v0=start)[1][:, ::-1]
        else:
            start = random.standard_normal((S.shape[0], count + 1))
            start[:, 0] = roots.cpu().numpy()
            vectors = lobpcg(S.scipy(), start, tol=tol, largest=True, maxiter=2000)[1][:, :count]
        return torch.from_numpy(vectors.copy()).to(roots)


def _warn_of_squares(shape: tuple[int, ...]) -> None:
    """A square X may be meant as an affinity."""
    if shape[0] == shape[1]:
        warnings.warn(
            "The spectral clustering API has changed. ``fit``now constructs an affinity matrix from data. To "
            "use a custom affinity matrix, set ``affinity=precomputed``.",
            UserWarning,
            stacklevel=3,
        )

"""Kernel principal component analysis with scikit-learn's interface, beyond the size of the kernel matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.linalg
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.decomposition import KernelPCA as StoredKernelPCA
from sklearn.exceptions import NotFittedError
from sklearn.utils.extmath import svd_flip
from sklearn.utils.validation import _check_psd_eigenvalues, check_is_fitted

from ...engine.arrays import adopt
from ...errors import OptionError
from ...solvers import identity, solve
from ...solvers.centred import Centred
from ..inputs import check_same_origin, read_rows
from ..pairwise import NON_NEGATIVE
from ..running import Run, running
from .gram import Gram, check_choice, check_count, check_number, gram
from .leading import leading

Tensor = torch.Tensor
EIGEN_SOLVERS = ("auto", "dense", "arpack", "randomized", "krylov")


class KernelPCA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Principal components of the points' images in the feature space of a kernel.

    They are the eigenvectors of the centred kernel matrix. Interface and results are those of
    `sklearn.decomposition.KernelPCA`; the matrix is stored for small data only. For larger data a few
    leading eigenpairs come from products with it, in memory linear in the number of points.

    Parameters
    ----------
    n_components : int, optional
        Default: all with a positive eigenvalue, which needs the stored matrix.
    kernel : str, Kernel, Expr or callable, default="linear"
        As in `KernelRidge`. For "precomputed" X is the kernel matrix.
    gamma : float or sequence of float, optional
        Default 1 / n_features.
    degree, coef0 : float
        Of poly and sigmoid.
    kernel_params : dict, optional
        Keyword arguments of a callable.
    alpha : float, default=1.0
        Penalty of the ridge regression that learns the inverse transform.
    fit_inverse_transform : bool, default=False
        Whether to learn it.
    eigen_solver : {"auto", "dense", "arpack", "randomized", "krylov"}, default="auto"
        "krylov" is a block Krylov method on products with the matrix, which is not stored; the next three are
        scikit-learn's, on the stored matrix. "auto" is scikit-learn's choice up to 4,000 points and
        "krylov" above.
    tol : float, default=0
        Of "arpack" and "krylov", for the latter relative to the largest eigenvalue; 0 is their default.
    max_iter : int, optional
        Of "arpack" and "krylov".
    iterated_power : int or "auto"
        Of "randomized".
    remove_zero_eig : bool, default=False
        Whether components with eigenvalue 0 are left out; they are if ``n_components`` is None.
    random_state : int, RandomState instance or None, default=None
    copy_X : bool, default=True
        Whether ``X_fit_`` is a copy.
    n_jobs : int, optional
        Accepted for compatibility; the number of threads is that of the engine and of BLAS.
    device : str, optional
        Where to compute; default where X is.
    memory_limit : int, optional
        Bytes; default that of `kerngp.options`.

    Attributes
    ----------
    eigenvalues_ : array of shape (n_components,)
        In descending order. An array like X, as all of the fitted arrays.
    eigenvectors_ : array of shape (n_samples, n_components)
        Orthonormal; the largest entry of each, by magnitude, is positive.
    X_fit_ : array of shape (n_samples, n_features)
    gamma_ : float
        The gamma in use.
    dual_coef_ : array of shape (n_samples, n_features)
        Of the inverse transform, if it is learned.
    X_transformed_fit_ : array of shape (n_samples, n_components)
        Likewise.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)

    References
    ----------
    Schölkopf, Smola and Müller, Kernel principal component analysis, 1997. Bakır, Weston and Schölkopf,
    Learning to find pre-images, 2004. Musco and Musco, Randomized block Krylov methods, 2015.

    Examples
    --------
    >>> from sklearn.datasets import make_circles
    >>> X, y = make_circles(300, factor=0.3, noise=0.05, random_state=0)
    >>> Z = KernelPCA(2, kernel="rbf", gamma=2.0, eigen_solver="krylov").fit_transform(X)
    >>> bool(abs(Z[y == 0, 0].mean() - Z[y == 1, 0].mean()) > 0.5)
    True
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        kernel: Any = "linear",
        gamma: float | Sequence[float | None] | None = None,
        degree: float = 3,
        coef0: float = 1,
        kernel_params: dict[str, Any] | None = None,
        alpha: float = 1.0,
        fit_inverse_transform: bool = False,
        eigen_solver: str = "auto",
        tol: float = 0,
        max_iter: int | None = None,
        iterated_power: Any = "auto",
        remove_zero_eig: bool = False,
        random_state: Any = None,
        copy_X: bool = True,
        n_jobs: int | None = None,
        device: str | None = None,
        memory_limit: int | None = None,
    ):
        self.n_components = n_components
        self.kernel = kernel
        self.gamma = gamma
        self.degree = degree
        self.coef0 = coef0
        self.kernel_params = kernel_params
        self.alpha = alpha
        self.fit_inverse_transform = fit_inverse_transform
        self.eigen_solver = eigen_solver
        self.tol = tol
        self.max_iter = max_iter
        self.iterated_power = iterated_power
        self.remove_zero_eig = remove_zero_eig
        self.random_state = random_state
        self.copy_X = copy_X
        self.n_jobs = n_jobs
        self.device = device
        self.memory_limit = memory_limit

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        tags.input_tags.pairwise = self._precomputed
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = isinstance(self.kernel, str) and self.kernel in NON_NEGATIVE
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def fit(self, X: Any, y: Any = None) -> KernelPCA:
        """Find the components.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For parameters out of range, data that are not finite numbers, and kernels with significant
            negative eigenvalues among the leading ones.
        """
        self._fit(X)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """`fit`, and the components of the same points: eigenvectors times the roots of eigenvalues.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
        y : ignored

        Returns
        -------
        array of shape (n_samples, n_components)
        """
        return self._fit(X)

    def transform(self, X: Any) -> Any:
        """Project on the components: one pass over the pairs of new and training points.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        array of shape (n_samples, n_components), of the library of X
        """
        check_is_fitted(self)
        x, origin = read_rows(self, X, reset=False, method="transform", device=self.device)
        with running(self, "transform"):
            fitted = adopt("X_fit_", self.X_fit_, device=x.device)
            values = adopt("eigenvalues_", self.eigenvalues_, device=x.device)
            vectors = adopt("eigenvectors_", self.eigenvectors_, device=x.device)
            offset = adopt("offset", self._offset, device=x.device)
            x = x.to(fitted.dtype)
            coef = _scaled(vectors, values)
            # (k - mean k) coef = k (coef - mean coef): centring of rows costs nothing
            out = self._gram(x).product(x, fitted, coef - coef.mean(0))
            return origin.give(out - offset)

    def inverse_transform(self, X: Any) -> Any:
        """Points whose components are about X, by the ridge regression learned in `fit`.

        Parameters
        ----------
        X : array of shape (n_samples, n_components)

        Returns
        -------
        array of shape (n_samples, n_features), of the library of X

        Raises
        ------
        NotFittedError
            If ``fit_inverse_transform`` was False.
        """
        if not self.fit_inverse_transform:
            raise NotFittedError(
                "The fit_inverse_transform parameter was not set to True when instantiating and hence the "
                "inverse transform is not available."
            )
        check_is_fitted(self)
        check_same_origin(self, X, "inverse_transform")
        z, origin = read_rows(type(self)(), X, reset=True, device=self.device)
        with running(self, "inverse_transform"):
            fitted = adopt("X_transformed_fit_", self.X_transformed_fit_, device=z.device)
            coef = adopt("dual_coef_", self.dual_coef_, device=z.device)
            z = z.to(fitted.dtype)
            return origin.give(self._gram(z).product(z, fitted, coef))

    @property
    def _n_features_out(self) -> int:
        return self.eigenvalues_.shape[0]

    @property
    def _precomputed(self) -> bool:
        return isinstance(self.kernel, str) and self.kernel == "precomputed"

    def _gram(self, x: Tensor) -> Gram:
        return gram(
            self.kernel,
            x,
            gamma=self.gamma_,
            degree=self.degree,
            coef0=self.coef0,
            kernel_params=self.kernel_params,
        )

    def _check_parameters(self) -> None:
        check_count("n_components", self.n_components, optional=True)
        check_choice("eigen_solver", self.eigen_solver, EIGEN_SOLVERS)
        check_number("alpha", self.alpha, least=0.0)
        check_number("tol", self.tol, least=0.0)
        check_count("max_iter", self.max_iter, optional=True)
        if self.fit_inverse_transform and self._precomputed:
            raise OptionError("Cannot fit_inverse_transform with a precomputed kernel.")

    def _fit(self, X: Any) -> Any:
        """Fit; returns the components of the training points."""
        self._check_parameters()
        x, origin = read_rows(self, X, reset=True, device=self.device)
        n = len(x)
        count = n if self.n_components is None else min(n, self.n_components)
        self.gamma_ = 1 / x.shape[1] if self.gamma is None else self.gamma
        kernel = self._gram(x)
        stored = self.eigen_solver != "krylov" and (self.eigen_solver != "auto" or kernel.stores(n))
        how = "matrix stored" if stored else "matrix-free"
        with running(self, "fit", f"{n:,} points, {count} components, {how}") as run:
            values, vectors, means = (
                self._stored(kernel, x) if stored else self._matrix_free(kernel, x, count, run)
            )
            coordinates = vectors * values.sqrt()
            if self.fit_inverse_transform:
                dual = self._learn_inverse(coordinates, x, run)
                self.dual_coef_, self.X_transformed_fit_ = origin.give(dual), origin.give(coordinates)
            self.eigenvalues_, self.eigenvectors_ = origin.give(values), origin.give(vectors)
            self._offset = origin.give((means - means.mean()) @ _scaled(vectors, values))
            self.X_fit_ = origin.give(x.clone() if self.copy_X else x)
        return origin.give(coordinates)

    def _stored(self, kernel: Gram, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues and eigenvectors by scikit-learn, and the means of the columns of K."""
        K = kernel.matrix(x)
        means = K.mean(0)
        matrix = K.cpu().numpy()
        names = ("eigen_solver", "tol", "max_iter", "iterated_power", "remove_zero_eig", "random_state")
        same: dict[str, Any] = {name: getattr(self, name) for name in names}
        # what the caller gave is not centred in place
        copy = self._precomputed
        inner = StoredKernelPCA(self.n_components, kernel="precomputed", copy_X=copy, **same).fit(matrix)
        values, vectors = (
            torch.from_numpy(np.ascontiguousarray(a)) for a in (inner.eigenvalues_, inner.eigenvectors_)
        )
        return values.to(K), vectors.to(K), means

    def _matrix_free(self, kernel: Gram, x: Tensor, count: int, run: Run) -> tuple[Tensor, Tensor, Tensor]:
        """The same by a block Krylov method."""
        A = Centred(kernel.operator(x))
        found = leading(self, A, count, self.tol or None, self.max_iter or 200, self.random_state, run)
        # what is below the rounding of the matrix is 0
        rounding = torch.finfo(x.dtype).eps * float(A.base.diag().abs().sum())
        exact = torch.where(found.values.abs() <= rounding, 0.0, found.values).cpu().numpy()
        values = _check_psd_eigenvalues(exact.astype(A.dtype), enable_warnings=False)
        vectors: Any = svd_flip(found.vectors.cpu().numpy(), None)[0]
        if self.remove_zero_eig or self.n_components is None:
            vectors, values = vectors[:, values > 0], values[values > 0]
        return torch.from_numpy(values).to(x), torch.from_numpy(vectors).to(x), A.means.to(x)

    def _learn_inverse(self, z: Tensor, x: Tensor, run: Run) -> Tensor:
        """Coefficients of the ridge regression from components to points."""
        kernel = self._gram(z)
        if not kernel.stores(len(z)):
            A = kernel.operator(z) + self.alpha * identity(len(z), device=z.device)
            found = solve(A, x.double())
            run.say(f"inverse transform: {found.iterations} iterations")
            return found.x.to(x.dtype)
        K = kernel.matrix(z).cpu().numpy()
        K.flat[:: len(K) + 1] += self.alpha
        dual = scipy.linalg.solve(K, x.cpu().numpy(), assume_a="pos", overwrite_a=True)
        return torch.from_numpy(dual).to(x)


def _scaled(vectors: Tensor, values: Tensor) -> Tensor:
    """Eigenvectors divided by the roots of the eigenvalues; 0 where these are 0."""
    return torch.where(values > 0, vectors / values.clamp_min(torch.finfo(values.dtype).tiny).sqrt(), 0.0)

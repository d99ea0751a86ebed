"""Nystroem features: a kernel as an inner product of few numbers for each point."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ...engine.arrays import adopt, adopt_integers
from ...errors import OptionError, ShapeError
from ...solvers import RPCholesky
from ..inputs import read_rows
from ..pairwise import NON_NEGATIVE
from ..running import running
from .gram import Gram, check_choice, check_count, gram

Tensor = torch.Tensor
SAMPLINGS = ("uniform", "rpcholesky")


class Nystroem(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Features z(x) with z(x)' z(y) close to k(x, y), from a subset c_1, ..., c_m of the data.

    z(x) = N (k(x, c_1), ..., k(x, c_m)) with N = K_cc^(-1/2). Interface and numbers are those of
    `sklearn.kernel_approximation.Nystroem`; any kernel of this package is accepted as well, and the subset
    may be chosen by randomly pivoted Cholesky, which needs fewer points for the same accuracy. The kernel
    values between all points and the subset are never stored as a whole.

    Parameters
    ----------
    kernel : str, Kernel, Expr or callable, default="rbf"
        As in `KernelRidge`. For "precomputed" X is the kernel matrix.
    gamma, coef0, degree : float, optional
        Of scikit-learn's named kernels, whose defaults None stands for.
    kernel_params : dict, optional
        Keyword arguments of a callable.
    n_components : int, default=100
        Size m of the subset.
    random_state : int, RandomState instance or None, default=None
    n_jobs : int, optional
        Accepted for compatibility; the number of threads is that of the engine and of BLAS.
    sampling : {"uniform", "rpcholesky"}, default="uniform"
        "rpcholesky" draws points where the features so far say least about the kernel, at the cost of m
        rows of the kernel matrix; fewer than m if these reproduce the kernel to rounding.
    device : str, optional
        Where to compute; default where X is.
    memory_limit : int, optional
        Bytes; default that of `kerngp.options`.

    Attributes
    ----------
    components_ : array of shape (n_components, n_features)
        The subset. An array like X, as all of the fitted arrays.
    component_indices_ : array of shape (n_components,)
        Its rows in X.
    normalization_ : array of shape (n_components, n_components)
        The matrix N.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)

    References
    ----------
    Williams and Seeger, Using the Nystroem method to speed up kernel machines, 2001. Chen, Epperly, Tropp
    and Webber, Randomly pivoted Cholesky, 2022.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.linspace(0, 1, 200)[:, None]
    >>> Z = Nystroem(gamma=1.0, n_components=20, sampling="rpcholesky", random_state=0).fit_transform(X)
    >>> bool(np.abs(Z @ Z.T - np.exp(-((X - X.T) ** 2))).max() < 1e-6)
    True
    """

    def __init__(
        self,
        kernel: Any = "rbf",
        *,
        gamma: float | Sequence[float | None] | None = None,
        coef0: float | None = None,
        degree: float | None = None,
        kernel_params: dict[str, Any] | None = None,
        n_components: int = 100,
        random_state: Any = None,
        n_jobs: int | None = None,
        sampling: str = "uniform",
        device: str | None = None,
        memory_limit: int | None = None,
    ):
        self.kernel = kernel
        self.gamma = gamma
        self.coef0 = coef0
        self.degree = degree
        self.kernel_params = kernel_params
        self.n_components = n_components
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.sampling = sampling
        self.device = device
        self.memory_limit = memory_limit

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        precomputed = isinstance(self.kernel, str) and self.kernel == "precomputed"
        tags.array_api_support = True
        tags.input_tags.pairwise = precomputed
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = isinstance(self.kernel, str) and self.kernel in NON_NEGATIVE
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def fit(self, X: Any, y: Any = None) -> Nystroem:
        """Choose the subset and compute the normalization.

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
            For parameters out of range and data that are not finite numbers.

        Warns
        -----
        UserWarning
            If there are fewer points than ``n_components``.
        """
        check_count("n_components", self.n_components)
        check_choice("sampling", self.sampling, SAMPLINGS)
        x, origin = read_rows(self, X, reset=True, device=self.device)
        if self._precomputed and x.shape[0] != x.shape[1]:
            raise ShapeError(f"X has shape {tuple(x.shape)}; kernel='precomputed' needs a square matrix.")
        with running(self, "fit", f"{self.n_components} of {len(x):,} points, {self.sampling}"):
            kernel = self._gram(x)
            if self.n_components > len(x):
                warnings.warn(
                    "n_components > n_samples. This is not possible.\nn_components was set to n_samples, "
                    "which results in inefficient evaluation of the full kernel.",
                    UserWarning,
                    stacklevel=2,
                )
            chosen = self._choose(kernel, x, min(self.n_components, len(x)))
            components = x[chosen]
            basis = components[:, chosen] if self._precomputed else components
            values = basis if self._precomputed else kernel.matrix(basis, basis)
            # NumPy's routine: where the kernel is singular another one gives other numbers than scikit-learn
            U, S, V = np.linalg.svd(values.cpu().numpy())
            normalization = torch.from_numpy(U / np.sqrt(np.maximum(S, 1e-12)) @ V).to(x)
            self.components_ = origin.give(components)
            self.component_indices_ = origin.give(chosen)
            self.normalization_ = origin.give(normalization)
            self._n_features_out = len(chosen)
        return self

    def transform(self, X: Any) -> Any:
        """The features z(x) of every row.

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
            components = adopt("components_", self.components_, device=x.device)
            normalization = adopt("normalization_", self.normalization_, device=x.device)
            x = x.to(components.dtype)
            if self._precomputed:
                chosen = adopt_integers("component_indices_", self.component_indices_).to(x.device)
                return origin.give(x[:, chosen] @ normalization.T)
            return origin.give(self._gram(x).product(x, components, normalization.T))

    @property
    def _precomputed(self) -> bool:
        return isinstance(self.kernel, str) and self.kernel == "precomputed"

    def _gram(self, x: Tensor) -> Gram:
        given = [n for n in ("gamma", "coef0", "degree") if getattr(self, n) is not None]
        if given and (self._precomputed or not isinstance(self.kernel, str)):
            raise OptionError(
                "Don't pass gamma, coef0 or degree to Nystroem if using a callable or precomputed kernel; "
                f"{', '.join(given)} came with kernel={self.kernel!r}."
            )
        return gram(
            self.kernel,
            x,
            gamma=self.gamma,
            degree=self.degree,
            coef0=self.coef0,
            kernel_params=self.kernel_params,
        )

    def _choose(self, kernel: Gram, x: Tensor, count: int) -> Tensor:
        """Rows of the subset."""
        random = check_random_state(self.random_state)
        if self.sampling == "uniform":
            return torch.from_numpy(random.permutation(len(x))[:count].copy()).to(x.device)
        seed = int(random.randint(2**31 - 1))
        found = RPCholesky(count, random_state=seed).approximate(kernel.operator(x, noise=False)).pivots
        if not len(found):
            raise OptionError("sampling='rpcholesky': k(x, x) is 0 for all rows; choose sampling='uniform'.")
        return found

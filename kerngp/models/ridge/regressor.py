"""Kernel ridge regression with scikit-learn's interface, beyond the size of the kernel matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.base import MultiOutputMixin, RegressorMixin, clone

from ..callbacks import reports
from ..inputs import to_numpy
from ..running import running
from ..score import RegressorScore
from .base import RidgeBase, alphas_of, as_columns
from .loo import DIAGONAL_PROBES, of_targets


class KernelRidge(RegressorScore, MultiOutputMixin, RegressorMixin, RidgeBase):
    """Kernel ridge regression: least squares on y with the penalty alpha times the squared norm of f.

    With K_ij = k(x_i, x_j) the prediction is f(x) = sum_i c_i k(x, x_i), where (K + alpha I) c = y. The
    interface and the results are those of `sklearn.kernel_ridge.KernelRidge`; the matrix K is stored for
    small data only. Larger systems are solved by preconditioned conjugate gradients, whose products
    with K compute its entries on the fly; very large ones with inducing points: f is then a sum over
    ``n_centers`` of the training points only, the best of that form.

    Parameters
    ----------
    alpha : float or array of shape (n_targets,), default=1
        Strength of the penalty, not negative. An array holds one for each target. With 0 the system may
        be singular: small ones then fall back to least squares, with a warning.
    kernel : str, Kernel, Expr or callable, default="linear"
        - a name of scikit-learn: linear, poly, polynomial, rbf, laplacian, sigmoid, cosine, chi2,
          additive_chi2, precomputed;
        - a combination of kernels of two rows x and y, ``"gaussian(x,y) * (1 + linear(x,y)**2)"``, or of
          some columns, ``"gaussian(x[0:3], y[0:3]) + laplacian(x[3:], y[3:])"``; for the names see
          `kerngp.torch.Kernel` (``laplacian(x,y)`` is exp(-sqrt(gamma) |x - y|), with the Euclidean norm);
        - a kernel of `kerngp.models`, such as ``2.0 * RBF(lengthscale=0.5) + White(0.1)``, or a kernel
          object of `sklearn.gaussian_process.kernels`;
        - a formula of ``Vi(0, n_features)`` and ``Vj(1, n_features)``, or a function that returns one:
          ``def k(x, y): return exp(-sqdist(x, y))``;
        - a function of two rows that returns a number, as in scikit-learn (dense, hence small data).
    gamma : float or sequence of float, optional
        Of rbf, laplacian, poly, sigmoid (default 1 / n_features) and chi2 (default 1). In a combination it
        multiplies the squared distance of every kernel (default 1 / n_features); a sequence holds one for
        each kernel of the text, None for the default.
    degree : float, default=3
        Of poly.
    coef0 : float, default=1
        Of poly and sigmoid.
    kernel_params : dict, optional
        Keyword arguments of a callable; in a formula, numbers and vectors become parameters.
    solver : {"auto", "cholesky", "pcg", "inducing"}, default="auto"
        "auto" takes inducing points if ``n_centers`` is given, otherwise Cholesky up to 4,000 rows,
        conjugate gradients up to 100,000 and inducing points above. `plan` tells before you fit.
    tol : float, default=1e-6
        Relative residual at which the iterative solvers stop.
    max_iter : int, default=1000
        Most iterations; a `ConvergenceWarning` says so if they did not suffice.
    n_centers : int, optional
        Number of inducing points; default 10 sqrt(n_samples), at least 1,000.
    preconditioner_rank : int, optional
        Rank of the randomly pivoted Cholesky preconditioner of "pcg", 0 for none. By default about
        2 sqrt(n_samples) up to 4,000 rows; above, a short race on a part of the rows decides among
        preconditioners, and with ``solver="auto"`` among methods, see `kerngp.solvers.Auto`.
    device : str, optional
        Where to compute; default the CPU, or the device of a torch tensor given to `fit`.
    random_state : int, RandomState instance or None, default=0
        For pivots and centers. The default gives the same result every time.
    callback : callable, optional
        Called with a `kerngp.solvers.Progress` in every iteration; returning True stops.
    memory_limit : int, optional
        Bytes that dense and tiled temporaries may take; default `kerngp.options.options` as in force.

    Attributes
    ----------
    dual_coef_ : array of shape (n_samples,) or (n_samples, n_targets)
        The coefficients c. With inducing points, one row for each center.
    X_fit_ : array of shape (n_samples, n_features)
        The points in the prediction's sum: the training data, or the centers. With
        ``kernel="precomputed"`` the training matrix.
    solver_ : str
        The solver used.
    solution_ : Solution
        What the solver says: status, iterations, residuals; ``print(model.solution_.explain())``.
    plan_ : RidgePlan
        The forecast under which the fit ran.
    n_iter_ : int
        Iterations; 1 for a direct solve.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)

    Notes
    -----
    float32 data stay float32, everything else becomes float64; a very small alpha wants float64. Fitted
    arrays are of the library and on the device of the X that was given to `fit`, predictions of that given
    to `predict`. Predictions of NumPy arrays and memory maps stream: no block takes more than a part of the
    memory limit. A map of float32 is not copied by conjugate gradients; inducing points and small data are
    computed in float64.

    References
    ----------
    Murphy, Machine Learning: A Probabilistic Perspective, 2012, section 14.4.3. Diaz, Epperly,
    Frangella, Tropp and Webber, Robust, randomized preconditioning for kernel ridge regression, 2023.
    Rudi, Carratino and Rosasco, FALKON: an optimal large scale kernel method, 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from kerngp.models import KernelRidge, RBF
    >>> X = np.linspace(0, 6, 50)[:, None]
    >>> model = KernelRidge(alpha=1e-3, kernel=RBF(lengthscale=1.0)).fit(X, np.sin(X[:, 0]))
    >>> bool(abs(model.predict([[1.5]])[0] - np.sin(1.5)) < 1e-2)
    True
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
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.n_centers = n_centers
        self.preconditioner_rank = preconditioner_rank
        self.device = device
        self.random_state = random_state
        self.callback = callback
        self.memory_limit = memory_limit

    @reports
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> KernelRidge:
        """Solve for the coefficients.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            A sparse matrix is made dense if that fits into the memory limit. With
            ``kernel="precomputed"``, the kernel matrix.
        y : array of shape (n_samples,) or (n_samples, n_targets)
        sample_weight : float or array of shape (n_samples,), optional
            Factors of the squared errors; a weight of 0 leaves a row out, k counts it k times.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For parameters out of range and for data that are not finite, not numbers, or do not fit
            together; the message names the argument.
        """
        self._check_parameters()
        data = self._read(X, y, sample_weight, y_numeric=True)
        Y = as_columns(data.y)
        self._solve(data, Y, alphas_of(self.alpha, Y.shape[1]))
        return self

    def predict(self, X: Any) -> Any:
        """Predict: one fused pass over the pairs of new and training points, in constant memory.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            With ``kernel="precomputed"``, the kernel values (n_samples, n_samples_fitted).

        Returns
        -------
        array of shape (n_samples,) or (n_samples, n_targets)
        """
        found, origin = self._values(X)
        return origin.give(found[:, 0] if self.dual_coef_.ndim == 1 else found)

    def _wanted(self) -> dict[str, int]:
        return {"alphas": np.unique(to_numpy(self.alpha)).size}

    def loo_predict(self, X: Any, y: Any, sample_weight: Any = None, *, return_std: bool = False) -> Any:
        """What the fit to all other rows predicts at each row: leave-one-out cross-validation in closed form.

        Does not need, and does not change, a fit: the parameters are those of the constructor.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
        y : array of shape (n_samples,) or (n_samples, n_targets)
        sample_weight : float or array of shape (n_samples,), optional
            Rows of weight 0 are part of no fit; their predictions are NaN.
        return_std : bool
            Return the standard error of the predictions, too. It is 0 but for ``solver="pcg"`` above 1,000
            rows, where the diagonal of an inverse is estimated from random vectors.

        Returns
        -------
        array like y, or a pair of them

        Raises
        ------
        OptionError
            If alpha is 0.

        Notes
        -----
        With inducing points these are the predictions of fits that share their centers.

        Examples
        --------
        >>> import numpy as np
        >>> X, y = np.arange(4.0)[:, None], np.array([0.0, 1.0, 2.0, 6.0])
        >>> model = KernelRidge(alpha=1.0)
        >>> bool(np.isclose(model.loo_predict(X, y)[3], model.fit(X[:3], y[:3]).predict(X[3:])[0]))
        True
        """
        self._check_parameters()
        reader: Any = clone(self)  # reading sets attributes of a fit
        data = reader._read(X, y, sample_weight, y_numeric=True)
        Y = as_columns(data.y)
        p, settings = self._problem(data, Y), self._settings()
        alpha = alphas_of(self.alpha, Y.shape[1])
        plan = self._planned(p, matrices=3, alphas=2, probes=DIAGONAL_PROBES)
        with running(self, "loo_predict", plan):
            found = of_targets(p, plan, alpha, settings)
        residuals, spread = p.whole(found.residuals[0]), p.whole(found.spread[0])
        mean = p.Y - residuals
        shape, dtype = data.y.shape, data.X.dtype
        give = [data.origin.give(t.to(dtype).reshape(shape)) for t in (mean, residuals.abs() * spread)]
        return tuple(give) if return_std else give[0]

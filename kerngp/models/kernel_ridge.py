"""Kernel ridge regression with scikit-learn's interface, beyond the size of the kernel matrix."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from ..engine.arrays import adopt
from ..errors import OptionError, ShapeError
from ..options import current
from .inputs import check_weights, compute_device, dense_rows, to_numpy
from .pairwise import NON_NEGATIVE
from .resolve import MatrixKernel, check_domain, resolve_kernel
from .ridge_plan import SOLVERS, RidgePlan, make_plan
from .ridge_solve import RidgeProblem, kernel_operator, solve_ridge

LOG = logging.getLogger("kerngp")


class KernelRidge(MultiOutputMixin, RegressorMixin, BaseEstimator):
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
        Rank of the randomly pivoted Cholesky preconditioner of "pcg"; default about 2 sqrt(n_samples),
        0 for none.
    device : str, optional
        Where to compute; default the CPU, or the device of a torch tensor given to `fit`.
    random_state : int, RandomState instance or None, default=0
        For pivots and centers. The default gives the same result every time.
    callback : callable, optional
        Called with a `kerngp.solvers.Progress` in every iteration; returning True stops.

    Attributes
    ----------
    dual_coef_ : ndarray of shape (n_samples,) or (n_samples, n_targets)
        The coefficients c. With inducing points, one row for each center.
    X_fit_ : ndarray of shape (n_samples, n_features)
        The points in the prediction's sum: the training data, or the centers. With
        ``kernel="precomputed"`` the training matrix.
    solver_ : str
        The solver used.
    solution_ : Solution or list of Solution
        What the solver says: status, iterations, residuals. One for each different alpha.
    plan_ : RidgePlan
        The forecast under which the fit ran.
    n_iter_ : int
        Iterations; 1 for a direct solve.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)

    Notes
    -----
    float32 data stay float32, everything else becomes float64; a very small alpha wants float64. torch
    tensors are accepted; `predict` answers in the library of its argument.

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

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        precomputed = isinstance(self.kernel, str) and self.kernel == "precomputed"
        tags.input_tags.pairwise = precomputed
        tags.input_tags.sparse = not precomputed
        tags.input_tags.positive_only = isinstance(self.kernel, str) and self.kernel in NON_NEGATIVE
        return tags

    @torch.no_grad()  # hyperparameters may be tensors that ask for gradients; the estimator has none
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
        device = compute_device(self.device, X)
        X, y = validate_data(
            self,
            self._rows(X),
            to_numpy(y),
            multi_output=True,
            y_numeric=True,
            dtype=[np.float64, np.float32],
        )
        Y = y.reshape(len(y), -1).astype(np.float64)
        alpha = _alphas(self.alpha, Y.shape[1])
        weight = None if sample_weight is None else check_weights(to_numpy(sample_weight), len(X))
        kernel = self._resolve(X)
        used = np.ones(len(X), dtype=bool) if weight is None else weight > 0
        plan = self._plan(int(used.sum()), X.shape[1], Y.shape[1], isinstance(kernel, MatrixKernel))
        LOG.info("KernelRidge.fit: %s", plan)
        if plan.n_centers and self.n_centers is not None and plan.n_centers < self.n_centers:
            warnings.warn(
                f"n_centers={self.n_centers} exceeds the {plan.rows} rows with a positive weight; "
                f"all of them become centers.",
                UserWarning,
                stacklevel=2,
            )
        problem = RidgeProblem(kernel, X, Y, alpha, weight, used, device)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        result = solve_ridge(problem, plan, self.tol, self.max_iter, seed, self.callback)

        coef = result.coef.astype(X.dtype)
        self.dual_coef_ = coef if y.ndim > 1 else coef[:, 0]
        self.X_fit_ = result.points
        self.plan_, self.solver_ = plan, plan.solver
        self.solution_ = result.solutions[0] if len(result.solutions) == 1 else result.solutions
        self.n_iter_ = max(1, *(s.iterations for s in result.solutions))
        return self

    @torch.no_grad()
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
        check_is_fitted(self)
        given, fitted = X, self.X_fit_
        X = validate_data(self, self._rows(X), reset=False, dtype=fitted.dtype)
        kernel = self._resolve(X)
        if isinstance(kernel, MatrixKernel):
            out = (kernel.matrix(X, fitted) @ self.dual_coef_).astype(fitted.dtype)
        else:
            K = kernel_operator(kernel, X, fitted, compute_device(self.device, given))
            out = (K @ adopt("dual_coef_", self.dual_coef_, device=K.device)).cpu().numpy()
        return torch.from_numpy(out).to(given.device) if isinstance(given, torch.Tensor) else out

    def plan(self, X: Any, y: Any = None) -> RidgePlan:
        """What `fit` would do: solver, memory, work. Computes nothing.

        Parameters
        ----------
        X : array of shape (n_samples, n_features), or that shape as a tuple
        y : array of shape (n_samples,) or (n_samples, n_targets), optional

        Returns
        -------
        RidgePlan
            ``print`` it for one line of text.

        Raises
        ------
        OptionError
            If the solver needs more memory than the limit in force.

        Examples
        --------
        >>> KernelRidge().plan((300_000, 10)).solver
        'inducing'
        """
        self._check_parameters()
        shape = X if isinstance(X, tuple) and all(isinstance(n, Integral) for n in X) else np.shape(X)
        if len(shape) != 2:
            raise ShapeError(f"X has shape {tuple(shape)}; expected (n_samples, n_features).")
        targets = 1 if y is None or np.ndim(y) < 2 else np.shape(y)[1]
        kernel = resolve_kernel(self.kernel, int(shape[1]), **self._named_parameters())
        return self._plan(int(shape[0]), int(shape[1]), int(targets), isinstance(kernel, MatrixKernel))

    def _plan(self, rows: int, features: int, targets: int, dense: bool) -> RidgePlan:
        return make_plan(
            rows,
            features,
            targets,
            solver=self.solver,
            n_centers=self.n_centers,
            rank=self.preconditioner_rank,
            memory_limit=current().memory_limit,
            dense=dense,
        )

    def _named_parameters(self) -> dict[str, Any]:
        names = ("gamma", "degree", "coef0", "kernel_params")
        return {name: getattr(self, name) for name in names}

    def _rows(self, X: Any) -> Any:
        # a precomputed matrix is as large as it is: a sparse one is refused by the validation
        X = to_numpy(X)
        return X if isinstance(self.kernel, str) and self.kernel == "precomputed" else dense_rows(X, "X")

    def _resolve(self, X: np.ndarray) -> Any:
        check_domain(self.kernel, X)
        return resolve_kernel(self.kernel, X.shape[1], **self._named_parameters())

    def _check_parameters(self) -> None:
        """Raise for constructor arguments out of range."""
        if self.solver not in SOLVERS:
            raise OptionError(f"solver={self.solver!r} is unknown; expected one of {SOLVERS}.")
        gammas = self.gamma if isinstance(self.gamma, (tuple, list)) else [self.gamma]
        numbers = [("gamma", g, 0.0) for g in gammas if g is not None]
        for name, value, least in (*numbers, ("degree", self.degree, 0.0), ("coef0", self.coef0, None)):
            if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
                raise OptionError(f"{name}={value!r}; expected a finite number.")
            if least is not None and value < least:
                raise OptionError(f"{name}={value!r}; expected a number >= 0.")
        if not isinstance(self.tol, Real) or not 0 < self.tol < 1:
            raise OptionError(f"tol={self.tol!r}; expected a number between 0 and 1, such as 1e-6.")
        counts = (("max_iter", 1, False), ("n_centers", 1, True), ("preconditioner_rank", 0, True))
        for name, smallest, optional in counts:
            value = getattr(self, name)
            if value is None and optional:
                continue
            if isinstance(value, bool) or not isinstance(value, Integral) or value < smallest:
                raise OptionError(f"{name}={value!r}; expected an integer of at least {smallest}.")


def _alphas(alpha: Any, targets: int) -> np.ndarray:
    """One penalty for each target."""
    try:
        a = np.atleast_1d(np.asarray(to_numpy(alpha), dtype=np.float64))
    except (TypeError, ValueError):
        raise OptionError(f"alpha={alpha!r}; expected a number or one for each target.") from None
    if a.ndim != 1 or a.size not in (1, targets):
        raise ShapeError(
            f"alpha has shape {np.shape(alpha)}; expected a number or one for each of the {targets} targets."
        )
    if not np.all(np.isfinite(a)) or np.any(a < 0):
        raise OptionError(f"alpha={alpha!r}; expected finite numbers >= 0.")
    return np.broadcast_to(a, targets)

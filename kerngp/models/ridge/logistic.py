"""Kernel logistic regression, beyond the size of the kernel matrix."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from ...errors import DataError, OptionError, ShapeError
from ...options import current
from ...solvers import Progress, Status
from ..callbacks import CallbackMixin, report_of, reports
from ..inputs import Origin, check_weights, read, read_rows, to_numpy
from ..kernel_base import Kernel
from ..kernel_matrix import kernel_matrix
from ..newton import Minimum
from ..pairwise import NON_NEGATIVE
from ..resolve import MatrixKernel, check_domain, resolve_kernel
from ..running import running
from .logistic_fit import Settings, class_factors, fit_on_centers, fit_on_rows, observe
from .logistic_plan import SOLVERS, LogisticPlan, make_logistic_plan

Tensor = torch.Tensor

MODES = ("multinomial", "one_vs_rest")


class KernelLogisticRegression(CallbackMixin, ClassifierMixin, BaseEstimator):
    """Logistic regression on functions of a kernel: linear in the kernel's features, with probabilities.

    With f(x) = sum_i c_i k(x, x_i) it minimises

        sum_i w_i loss(y_i, f(x_i)) + alpha / 2 |f|^2,    |f|^2 = c' K c,

    for the logistic loss of two classes, log(1 + exp(-f)) and log(1 + exp f), and for more classes the
    softmax
    loss of one function for each class, or a logistic loss for each class against all others. alpha is the
    inverse of C of `sklearn.linear_model.LogisticRegression`, to which a linear kernel is the same without an
    intercept; for one, add a constant to the kernel, ``1.0 + Linear()``.

    Newton's iteration solves its linear systems by preconditioned conjugate gradients, whose products
    compute the
    entries of K on the fly (K is stored for small data); for very many rows f is a sum over ``n_centers`` of
    them
    only, the best of that form.

    Parameters
    ----------
    alpha : float, default=1.0
        Strength of the penalty, positive.
    kernel : str, Kernel, Expr or callable, default="rbf"
        See `KernelRidge`. White noise is part of K: a value of its own for each row, which new points lack.
    gamma : float or sequence of float, optional
        See `KernelRidge`.
    degree : float, default=3
    coef0 : float, default=1
    kernel_params : dict, optional
    multi_class : {"multinomial", "one_vs_rest"}, default="multinomial"
        What is done with more than two classes.
    class_weight : dict or "balanced", optional
        Factors of the weights by class; "balanced" gives all classes the same total weight.
    solver : {"auto", "newton", "inducing"}, default="auto"
        "auto" takes inducing points if ``n_centers`` is given and above 50,000 rows.
    tol : float, default=1e-6
        Relative to f, in the norm of the Hessian: the size of the last step of Newton's iteration.
    max_iter : int, default=100
        Steps of Newton's iteration.
    n_centers : int, optional
        Number of inducing points; default 10 sqrt(n_samples), at least 1,000.
    preconditioner_rank : int, optional
        Rank of the preconditioner of "newton"; default about 2 sqrt(n_samples), 0 for none.
    device : str, optional
        Where to compute; default where X is.
    memory_limit : int, optional
        Bytes that matrices may take; default the option in force.
    random_state : int, RandomState instance or None, default=0
        For pivots and centers. The default gives the same result every time.
    callback : callable, optional
        Called with a `kerngp.solvers.Progress` after every step; returning True stops.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    dual_coef_ : array of shape (n_samples,) or (n_samples, n_classes)
        The coefficients c, one column for two classes. With inducing points, one row for each center.
    X_fit_ : array of shape (n_samples, n_features)
        The points in the sum: the training data, or the centers.
    objective_ : float
        The minimum found.
    n_iter_ : int
        Steps of Newton's iteration.
    solver_ : str
    plan_ : LogisticPlan
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)

    References
    ----------
    Zhu and Hastie, Kernel logistic regression and the import vector machine, 2005. Marteau-Ferey, Bach and
    Rudi,
    Globally convergent Newton methods for ill-conditioned generalized self-concordant losses, 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from kerngp.models import KernelLogisticRegression
    >>> X = np.linspace(-2, 2, 40)[:, None]
    >>> y = np.where(abs(X[:, 0]) < 1, "in", "out")
    >>> model = KernelLogisticRegression(0.01, gamma=1.0).fit(X, y)
    >>> model.predict([[0.0], [1.5]])
    array(['in', 'out'], dtype='<U3')
    >>> bool(model.predict_proba([[0.0]])[0, 0] > 0.9)
    True
    """

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        kernel: Any = "rbf",
        gamma: float | Sequence[float | None] | None = None,
        degree: float = 3,
        coef0: float = 1,
        kernel_params: dict[str, Any] | None = None,
        multi_class: str = "multinomial",
        class_weight: Any = None,
        solver: str = "auto",
        tol: float = 1e-6,
        max_iter: int = 100,
        n_centers: int | None = None,
        preconditioner_rank: int | None = None,
        device: str | None = None,
        memory_limit: int | None = None,
        random_state: Any = 0,
        callback: Callable[[Progress], Any] | None = None,
    ):
        self.alpha = alpha
        self.kernel = kernel
        self.gamma = gamma
        self.degree = degree
        self.coef0 = coef0
        self.kernel_params = kernel_params
        self.multi_class = multi_class
        self.class_weight = class_weight
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.n_centers = n_centers
        self.preconditioner_rank = preconditioner_rank
        self.device = device
        self.memory_limit = memory_limit
        self.random_state = random_state
        self.callback = callback

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = self._precomputed()
        tags.input_tags.sparse = not self._precomputed()
        tags.input_tags.positive_only = isinstance(self.kernel, str) and self.kernel in NON_NEGATIVE
        return tags

    # ------------------------------------------------------------ fit

    @reports
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> KernelLogisticRegression:
        """Minimise.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            A sparse matrix is made dense if that fits into the memory limit. With ``kernel="precomputed"``,
            the
            kernel matrix.
        y : array of shape (n_samples,)
            Labels.
        sample_weight : float or array of shape (n_samples,), optional
            Factors of the losses; a weight of 0 leaves a row out, k counts it k times.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For parameters out of range and for data that are not finite, not numbers, or do not fit together.

        Warns
        -----
        ConvergenceWarning
            If ``max_iter`` steps were not enough.
        """
        self._check_parameters()
        X, y, origin = read(self, X, y, device=self.device, sparse=not self._precomputed())
        check_classification_targets(y)
        self.classes_, label = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError(
                "KernelLogisticRegression needs samples of at least 2 classes; y has 1 class, "
                f"{self.classes_[0]}."
            )
        weight = np.ones(len(y)) if sample_weight is None else check_weights(to_numpy(sample_weight), len(y))
        weight = weight * class_factors(self.class_weight, self.classes_, label, weight)[label]
        rows = np.flatnonzero(weight > 0)
        used = torch.from_numpy(rows).to(X.device)
        likelihood = observe(
            label[rows], len(self.classes_), self.multi_class, torch.from_numpy(weight[rows]).to(X.device)
        )
        kernel = self._resolve(X)
        columns = likelihood.y.shape[1]
        plan = self._plan(len(used), X.shape[1], columns, isinstance(kernel, MatrixKernel))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        settings = Settings(float(self.alpha), self.tol, self.max_iter, seed, report_of(self))
        with running(self, "fit", plan) as run:
            if plan.solver == "inducing":
                coef, points, found = fit_on_centers(kernel, X[used], likelihood, plan, settings)
            else:
                found = fit_on_rows(kernel, X, used, likelihood, plan, settings)
                coef, points = torch.zeros((len(X), columns), dtype=torch.float64, device=X.device), X
                coef[used] = found.c
            run.say(f"{found.iterations} steps of Newton's iteration, {found.inner} inner iterations")
        self._warn(found)
        self._origin = origin
        self.dual_coef_ = origin.give((coef if coef.shape[1] > 1 else coef[:, 0]).to(X.dtype))
        self.X_fit_ = origin.give(points)
        self.objective_ = found.loss + 0.5 * self.alpha * found.energy
        self.n_iter_, self.plan_, self.solver_ = found.iterations, plan, plan.solver
        return self

    def _warn(self, found: Minimum) -> None:
        if found.status in (Status.converged, Status.stopped):
            return
        what = (
            f"did not converge in max_iter={self.max_iter} steps: raise max_iter or alpha"
            if found.status is Status.max_iter
            else "cannot decrease its objective, because of rounding: use float64, a larger alpha or tol"
        )
        warnings.warn(
            f"KernelLogisticRegression {what}. The last step was {found.error:.1e} times as long as f, "
            f"tol={self.tol}.",
            ConvergenceWarning,
            stacklevel=3,
        )

    # ------------------------------------------------------------ predictions

    def decision_function(self, X: Any) -> Any:
        """The functions f: log-odds of the second class, or one column for each class.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            With ``kernel="precomputed"``, the kernel values (n_samples, n_samples_fitted).

        Returns
        -------
        array of shape (n_samples,) or (n_samples, n_classes)
        """
        f, origin = self._values(X, "decision_function")
        return origin.give(f[:, 0] if f.shape[1] == 1 else f)

    def predict_proba(self, X: Any) -> Any:
        """Probabilities of the classes, in the order of ``classes_``.

        Parameters
        ----------
        X : see `decision_function`

        Returns
        -------
        array of shape (n_samples, n_classes)
        """
        f, origin = self._values(X, "predict_proba")
        return origin.give(self._probabilities(f))

    def predict_log_proba(self, X: Any) -> Any:
        """Logarithms of the probabilities of the classes.

        Parameters
        ----------
        X : see `decision_function`

        Returns
        -------
        array of shape (n_samples, n_classes)
        """
        f, origin = self._values(X, "predict_log_proba")
        if f.shape[1] == 1:
            pair = torch.cat([-f, f], -1)
            return origin.give(torch.nn.functional.logsigmoid(pair))
        logs = torch.log_softmax(f, -1) if self.multi_class == "multinomial" else self._probabilities(f).log()
        return origin.give(logs)

    def predict(self, X: Any) -> Any:
        """The most probable classes.

        Parameters
        ----------
        X : see `decision_function`

        Returns
        -------
        array of shape (n_samples,)
            In the library of X if labels are numbers.
        """
        f, origin = self._values(X, "predict")
        index = (f[:, 0] > 0).long() if f.shape[1] == 1 else f.argmax(-1)
        labels = self.classes_[index.cpu().numpy()]
        return origin.give(torch.from_numpy(labels)) if labels.dtype.kind in "biuf" else labels

    def _probabilities(self, f: Tensor) -> Tensor:
        if f.shape[1] == 1:
            return torch.cat([torch.sigmoid(-f), torch.sigmoid(f)], -1)
        if self.multi_class == "multinomial":
            return torch.softmax(f, -1)
        # in the logarithm: all sigmoids may underflow
        return torch.softmax(torch.nn.functional.logsigmoid(f), -1)

    def _values(self, X: Any, method: str) -> tuple[Tensor, Origin]:
        check_is_fitted(self)
        X, origin = read_rows(
            self, X, reset=False, method=method, device=self.device, sparse=not self._precomputed()
        )
        kernel = self._resolve(X)
        with running(self, method):
            points = torch.as_tensor(to_numpy(self.X_fit_)).to(X.device)
            coef = torch.as_tensor(to_numpy(self.dual_coef_)).to(X.device).reshape(len(points), -1)
            X = X.to(points.dtype)
            if isinstance(kernel, MatrixKernel):
                matrix = kernel.matrix(X.cpu().numpy(), points.cpu().numpy())
                return torch.from_numpy(matrix).to(coef) @ coef, origin
            return kernel_matrix(kernel, X, points) @ coef, origin

    # ------------------------------------------------------------ parameters

    def plan(self, X: Any, y: Any = None) -> LogisticPlan:
        """What `fit` would do: solver and memory. Computes nothing.

        Parameters
        ----------
        X : array of shape (n_samples, n_features), or that shape as a tuple
        y : array of shape (n_samples,), optional
            Labels; two classes without them.

        Returns
        -------
        LogisticPlan
            ``print`` it for one line of text.

        Examples
        --------
        >>> KernelLogisticRegression().plan((300_000, 10)).solver
        'inducing'
        """
        self._check_parameters()
        shape = X if isinstance(X, tuple) and all(isinstance(n, Integral) for n in X) else np.shape(X)
        if len(shape) != 2:
            raise ShapeError(f"X has shape {tuple(shape)}; expected (n_samples, n_features).")
        classes = 2 if y is None else len(np.unique(to_numpy(y)))
        kernel = resolve_kernel(self.kernel, int(shape[1]), **self._named_parameters())
        columns = 1 if classes <= 2 else classes
        return self._plan(int(shape[0]), int(shape[1]), columns, isinstance(kernel, MatrixKernel))

    def _plan(self, rows: int, features: int, columns: int, dense: bool) -> LogisticPlan:
        return make_logistic_plan(
            rows,
            features,
            columns,
            solver=self.solver,
            n_centers=self.n_centers,
            rank=self.preconditioner_rank,
            memory_limit=current().memory_limit if self.memory_limit is None else self.memory_limit,
            dense=dense,
        )

    def _precomputed(self) -> bool:
        return isinstance(self.kernel, str) and self.kernel == "precomputed"

    def _named_parameters(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("gamma", "degree", "coef0", "kernel_params")}

    def _resolve(self, X: Tensor) -> Kernel | MatrixKernel:
        if isinstance(self.kernel, str):
            check_domain(self.kernel, X.cpu().numpy())
        return resolve_kernel(self.kernel, X.shape[1], **self._named_parameters())

    def _check_parameters(self) -> None:
        """Raise for constructor arguments out of range."""
        if self.solver not in SOLVERS:
            raise OptionError(f"solver={self.solver!r} is unknown; expected one of {SOLVERS}.")
        if self.multi_class not in MODES:
            raise OptionError(f"multi_class={self.multi_class!r} is unknown; expected one of {MODES}.")
        if not isinstance(self.alpha, Real) or not 0 < self.alpha < math.inf:
            raise OptionError(
                f"alpha={self.alpha!r}; expected a positive number: without a penalty separable "
                "classes have no "
                "minimum."
            )
        if not isinstance(self.tol, Real) or not 0 < self.tol < 1:
            raise OptionError(f"tol={self.tol!r}; expected a number between 0 and 1, such as 1e-6.")
        counts = (("max_iter", 1, False), ("n_centers", 1, True), ("preconditioner_rank", 0, True))
        for name, smallest, optional in counts:
            value = getattr(self, name)
            if value is None and optional:
                continue
            if isinstance(value, bool) or not isinstance(value, Integral) or value < smallest:
                raise OptionError(f"{name}={value!r}; expected an integer of at least {smallest}.")

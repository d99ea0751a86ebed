"""Gaussian process classification with scikit-learn's interface, beyond the size of the kernel matrix."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.gaussian_process.kernels import CompoundKernel
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from ...errors import DataError, OptionError, ShapeError
from ...options import current
from ..compound import CompoundHyperparameters
from ..inputs import Origin, compute_device, read, read_rows, to_numpy
from ..resolve import hyperparameters
from .binary import SUBSET, BinaryGaussianProcessClassifier, start_kernel
from .plan import SOLVERS, GPPlan, make_gp_plan

Tensor = torch.Tensor

MODES = ("one_vs_rest", "one_vs_one")


class GaussianProcessClassifier(ClassifierMixin, BaseEstimator):
    """Gaussian process classification by the Laplace approximation, with the logistic likelihood.

    The interface and the results are those of `sklearn.gaussian_process.GaussianProcessClassifier`. Up to
    4,000 rows
    matrices are factorised; above, everything comes from products whose entries are computed on the fly: the
    mode by
    Newton's iteration with preconditioned solves, the log marginal likelihood with a standard error, its
    gradient,
    and variances of predictions. For more than two classes several such models are fitted.

    Parameters
    ----------
    kernel : kernel, str or formula, optional
        A kernel of `sklearn.gaussian_process.kernels` or of `kerngp.models`, a string or a formula, see
        `KernelRidge`.
        Its hyperparameters are learned. Default 1.0 * RBF(1.0), fixed. No CompoundKernel.
    optimizer : "fmin_l_bfgs_b", callable or None, default="fmin_l_bfgs_b"
        A callable ``optimizer(obj_func, initial_theta, bounds)`` returns theta and the minimum; None learns
        nothing.
    n_restarts_optimizer : int, default=0
        Further searches from random places within the bounds, uniform in theta; of many rows, on a subset.
    max_iter_predict : int, default=100
        Most steps of Newton's iteration for the mode.
    warm_start : bool, default=False
        Start that iteration at the last mode. Where nothing is factorised it does so always.
    copy_X_train : bool, default=True
    random_state : int, RandomState instance or None, default=None
        For restarts and subsets.
    multi_class : {"one_vs_rest", "one_vs_one"}, default="one_vs_rest"
        "one_vs_one" has no probabilities.
    n_jobs : int, optional
        Models fitted at a time.
    solver : {"auto", "dense", "matrix-free"}, default="auto"
        "auto" factorises up to 4,000 rows, or if the kernel has no formula.
    tol : float, default=1e-6
        Of the mode, relative, where nothing is factorised.
    n_probes : int, default=16
        Random vectors of the log-determinant there.
    max_iter : int, default=20
        Most evaluations of the log marginal likelihood on all rows there.
    device : str, optional
        Where to compute; default where X is.
    memory_limit : int, optional
        Bytes that matrices may take; default the option in force.
    callback : callable, optional
        Called with a `Step` after every evaluation of the log marginal likelihood; returning True stops
        learning.

    Attributes
    ----------
    base_estimator_ : BinaryGaussianProcessClassifier, or OneVsRestClassifier or OneVsOneClassifier of them
    kernel_ : kernel
        With more than two classes a CompoundKernel; a tuple of kernels if they are not scikit-learn's.
    log_marginal_likelihood_value_ : float
        With more than two classes the mean.
    n_iter_ : int
        Evaluations of it while learning; the most that any of the models took.
    classes_ : ndarray of shape (n_classes,)
    n_classes_ : int
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)

    References
    ----------
    Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, algorithms 3.1, 3.2 and 5.1.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.gaussian_process.kernels import RBF
    >>> from kerngp.models import GaussianProcessClassifier
    >>> X = np.linspace(0, 10, 30)[:, None]
    >>> model = GaussianProcessClassifier(1.0 * RBF(1.0)).fit(X, np.sin(X[:, 0]) > 0)
    >>> model.predict([[1.5], [4.5]])
    array([ True, False])
    """

    def __init__(
        self,
        kernel: Any = None,
        *,
        optimizer: Any = "fmin_l_bfgs_b",
        n_restarts_optimizer: int = 0,
        max_iter_predict: int = 100,
        warm_start: bool = False,
        copy_X_train: bool = True,
        random_state: Any = None,
        multi_class: str = "one_vs_rest",
        n_jobs: int | None = None,
        solver: str = "auto",
        tol: float = 1e-6,
        n_probes: int = 16,
        max_iter: int = 20,
        device: str | None = None,
        memory_limit: int | None = None,
        callback: Callable[[Any], Any] | None = None,
    ):
        self.kernel = kernel
        self.optimizer = optimizer
        self.n_restarts_optimizer = n_restarts_optimizer
        self.max_iter_predict = max_iter_predict
        self.warm_start = warm_start
        self.copy_X_train = copy_X_train
        self.random_state = random_state
        self.multi_class = multi_class
        self.n_jobs = n_jobs
        self.solver = solver
        self.tol = tol
        self.n_probes = n_probes
        self.max_iter = max_iter
        self.device = device
        self.memory_limit = memory_limit
        self.callback = callback

    def fit(self, X: Any, y: Any) -> GaussianProcessClassifier:
        """Fit.

        Parameters
        ----------
        X : array of shape (n_samples, n_features), or a list of what the kernel takes
        y : array of shape (n_samples,)
            Labels.

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
            If hyperparameters end at a bound, or an iteration did not converge.
        """
        check_parameters(self)
        X, y, self._origin, device = self._read(X, y)
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        self.n_classes_ = len(self.classes_)
        if self.n_classes_ == 1:
            raise DataError(
                f"GaussianProcessClassifier requires 2 or more distinct classes; got {self.n_classes_} class "
                f"(only class {self.classes_[0]} is present)"
            )
        shared = BinaryGaussianProcessClassifier().get_params(deep=False)
        parameters: dict[str, Any] = {name: getattr(self, name) for name in shared}
        parameters["device"] = device
        self.base_estimator_: Any = BinaryGaussianProcessClassifier(**parameters)
        if self.n_classes_ > 2:
            several = OneVsRestClassifier if self.multi_class == "one_vs_rest" else OneVsOneClassifier
            self.base_estimator_ = several(self.base_estimator_, n_jobs=self.n_jobs)
        self.base_estimator_.fit(X, y)
        values = [model.log_marginal_likelihood() for model in self._models()]
        self.log_marginal_likelihood_value_ = np.mean(values)
        self.n_iter_ = max(model.n_iter_ for model in self._models())
        return self

    # ------------------------------------------------------------ predictions

    def predict(self, X: Any) -> Any:
        """The most probable classes.

        Parameters
        ----------
        X : array of shape (n_samples, n_features), or a list of what the kernel takes

        Returns
        -------
        array of shape (n_samples,)
            In the library of X if labels are numbers.
        """
        X, origin, _ = self._points(X, "predict")
        labels = np.asarray(self.base_estimator_.predict(X))
        return origin.give(torch.from_numpy(labels)) if labels.dtype.kind in "biuf" else labels

    def predict_proba(self, X: Any) -> Any:
        """Probabilities of the classes, in the order of ``classes_``.

        Parameters
        ----------
        X : see `predict`

        Returns
        -------
        array of shape (n_samples, n_classes)

        Raises
        ------
        OptionError
            With ``multi_class="one_vs_one"`` and more than two classes.
        """
        check_is_fitted(self)
        if self.n_classes_ > 2 and self.multi_class == "one_vs_one":
            raise OptionError(
                "one_vs_one multi-class mode does not support predicting probability estimates. "
                "Use one_vs_rest "
                "mode instead."
            )
        X, origin, dtype = self._points(X, "predict_proba")
        return origin.give(torch.from_numpy(self.base_estimator_.predict_proba(X)).to(dtype))

    def latent_mean_and_variance(self, X: Any) -> tuple[Any, Any]:
        """Mean and variance of the latent function, for two classes.

        Parameters
        ----------
        X : see `predict`

        Returns
        -------
        mean, variance : array of shape (n_samples,)

        Raises
        ------
        DataError
            If there are more than two classes.
        """
        check_is_fitted(self)
        if self.n_classes_ > 2:
            raise DataError(
                "Returning the mean and variance of the latent function f is only supported for binary "
                f"classification, received {self.n_classes_} classes."
            )
        X, origin, dtype = self._points(X, "latent_mean_and_variance")
        mean, variance = self.base_estimator_.latent_mean_and_variance(X)
        return tuple(origin.give(torch.from_numpy(part).to(dtype)) for part in (mean, variance))  # type: ignore[return-value]

    # ------------------------------------------------------------ hyperparameters

    @property
    def kernel_(self) -> Any:
        """The kernel, or those of all models."""
        if self.n_classes_ == 2:
            return self.base_estimator_.kernel_
        parts = [model._h() for model in self._models()]
        return CompoundHyperparameters(parts).kernel

    def log_marginal_likelihood(
        self, theta: Any = None, eval_gradient: bool = False, clone_kernel: bool = True
    ) -> Any:
        """The approximate log marginal likelihood.

        Parameters
        ----------
        theta : array of shape (n_kernel_params,), optional
            With more than two classes those of one kernel, for all models, or of all kernels. None: of the
            fit.
        eval_gradient : bool, default=False
            Only for two classes.
        clone_kernel : bool, default=True
            With False ``kernel_`` is set to theta.

        Returns
        -------
        value : float
            With more than two classes the mean.
        gradient : ndarray of shape (n_kernel_params,)
            With ``eval_gradient``.
        """
        check_is_fitted(self)
        if theta is None:
            if eval_gradient:
                raise OptionError("Gradient can only be evaluated for theta!=None")
            return self.log_marginal_likelihood_value_
        theta, models = np.asarray(theta), self._models()
        if self.n_classes_ == 2:
            return models[0].log_marginal_likelihood(theta, eval_gradient, clone_kernel=clone_kernel)
        if eval_gradient:
            raise NotImplementedError(
                "Gradient of log-marginal-likelihood not implemented for multi-class GPC."
            )
        p = len(models[0]._h().theta)
        if theta.shape[0] not in (p, p * len(models)):
            raise ShapeError(
                f"Shape of theta must be either {p} or {p * len(models)}. Obtained theta with shape "
                f"{theta.shape[0]}."
            )
        parts = [theta] * len(models) if theta.shape[0] == p else np.split(theta, len(models))
        values = [
            model.log_marginal_likelihood(part, clone_kernel=clone_kernel)
            for model, part in zip(models, parts, strict=True)
        ]
        return np.mean(values)

    def plan(self, X: Any) -> GPPlan:
        """What `fit` would do for each pair of classes: solver, memory, work. Computes nothing.

        Parameters
        ----------
        X : array of shape (n_samples, n_features), or that shape as a tuple

        Returns
        -------
        GPPlan
            ``print`` it for one line of text.

        Examples
        --------
        >>> GaussianProcessClassifier().plan((50_000, 3)).solver
        'matrix-free'
        """
        check_parameters(self)
        shape = X if isinstance(X, tuple) and all(isinstance(n, Integral) for n in X) else np.shape(X)
        if len(shape) != 2:
            raise ShapeError(f"X has shape {tuple(shape)}; expected (n_samples, n_features).")
        h = hyperparameters(start_kernel(self.kernel), int(shape[1]))
        return make_gp_plan(
            int(shape[0]),
            int(shape[1]),
            hyperparameters=0 if self.optimizer is None else len(h.theta),
            has_formula=h.has_formula,
            solver=self.solver,
            subset=SUBSET,
            probes=self.n_probes,
            memory_limit=current().memory_limit if self.memory_limit is None else self.memory_limit,
        )

    # ------------------------------------------------------------ inside

    def _models(self) -> list[BinaryGaussianProcessClassifier]:
        return [self.base_estimator_] if self.n_classes_ == 2 else self.base_estimator_.estimators_

    def _structured(self) -> bool:
        """Whether the kernel takes other things than rows of numbers."""
        return not getattr(self.kernel, "requires_vector_input", True)

    def _read(self, X: Any, y: Any) -> tuple[Any, Any, Origin, str | None]:
        """X as the models take it, y, where results belong, where to compute."""
        if self._structured():
            X, y = validate_data(self, X, to_numpy(y), multi_output=False, ensure_2d=False, dtype=None)
            return X, y, Origin(), self.device
        rows, y, origin = read(self, X, y, device=None, sparse=False)
        return self._handed(rows, origin), y, origin, str(compute_device(self.device, rows))

    def _points(self, X: Any, method: str) -> tuple[Any, Origin, torch.dtype]:
        check_is_fitted(self)
        if self._structured():
            X = validate_data(self, X, ensure_2d=False, dtype=None, reset=False)
            return X, Origin(), torch.float64
        rows, origin = read_rows(self, X, reset=False, method=method, device=None, sparse=False)
        return self._handed(rows, origin), origin, rows.dtype

    def _handed(self, rows: Tensor, origin: Origin) -> Any:
        """One against one takes rows out by NumPy's rules, so that tensors come to it as arrays."""
        inside = origin.kind == Origin().kind or self.multi_class == "one_vs_one"
        return rows.cpu().numpy() if inside else rows


def check_parameters(model: GaussianProcessClassifier) -> None:
    """Raise for constructor arguments out of range."""
    if isinstance(model.kernel, CompoundKernel):
        raise OptionError(
            "kernel cannot be a CompoundKernel: it is one kernel for every class; pass one of them."
        )
    if not (model.optimizer is None or callable(model.optimizer) or model.optimizer == "fmin_l_bfgs_b"):
        raise OptionError(
            f"optimizer={model.optimizer!r} is unknown; expected 'fmin_l_bfgs_b', a callable or None."
        )
    if model.multi_class not in MODES:
        raise OptionError(f"Unknown multi-class mode {model.multi_class!r}; expected one of {MODES}.")
    if model.solver not in SOLVERS:
        raise OptionError(f"solver={model.solver!r} is unknown; expected one of {SOLVERS}.")
    if not 0 < model.tol < 1:
        raise OptionError(f"tol={model.tol!r}; expected a number between 0 and 1, such as 1e-6.")
    for name, least in (
        ("n_restarts_optimizer", 0),
        ("max_iter_predict", 1),
        ("n_probes", 2),
        ("max_iter", 1),
    ):
        value = getattr(model, name)
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise OptionError(f"{name}={value!r}; expected an integer of at least {least}.")

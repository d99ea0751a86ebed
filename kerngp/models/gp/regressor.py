"""Gaussian process regression with scikit-learn's interface, beyond the size of the kernel matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin, clone
from sklearn.gaussian_process.kernels import RBF, ConstantKernel
from sklearn.gaussian_process.kernels import Kernel as SklearnKernel
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from ...engine.arrays import adopt
from ...errors import ShapeError
from ...options import current
from ..callbacks import CallbackMixin, report_of, reports
from ..hyperparameters import Hyperparameters
from ..inputs import Origin, compute_device, read, read_rows, to_numpy
from ..matrix_kernel import MatrixKernel
from ..resolve import hyperparameters
from ..running import running
from ..score import RegressorScore
from .fitting import Fitted, Search, TrainingData, check_parameters, fit_process
from .leave_one_out import LeaveOneOut, leave_one_out
from .plan import GPPlan, make_gp_plan
from .posterior import Posterior, Prior
from .predictive import PredictiveDistribution, check_quantiles, normal_quantiles
from .target_scale import TargetScale, mean_and_std

Tensor = torch.Tensor
Callback = Callable[[Any], Any]


class GaussianProcessRegressor(
    CallbackMixin, RegressorScore, MultiOutputMixin, RegressorMixin, BaseEstimator
):
    """Gaussian process regression: y = f(x) + noise, f a Gaussian process with a kernel that is learned.

    Interface and results are those of `sklearn.gaussian_process.GaussianProcessRegressor`. Up to 4,000 rows
    the kernel matrix is factorised. Above, nothing of its size is stored: hyperparameters are learned from
    the marginal likelihood by preconditioned solves and a random log-determinant, whose standard error is
    reported; means are one pass over the pairs, standard deviations come from solves (few points) or from
    a subspace and random vectors (many points), with their errors (`predict_distribution`); samples are
    drawn pathwise.

    Parameters
    ----------
    kernel : kernel of scikit-learn or of kerngp.models, str, Expr or callable, optional
        As in `KernelRidge`; hyperparameters that are not fixed are learned within their bounds. Default:
        ``ConstantKernel() * RBF()``.
    alpha : float or array of shape (n_samples,), default=1e-10
        Added to the diagonal of the training matrix: the variance of noise in y, which standard deviations
        leave out; white noise of the kernel is part of them. The default suits small exact data: for
        many rows give the noise, or let ``WhiteKernel()`` learn it.
    optimizer : "fmin_l_bfgs_b", callable or None, default="fmin_l_bfgs_b"
        A callable gets ``(obj_func, initial_theta, bounds)`` and returns ``(theta, value)``, where
        ``obj_func(theta, eval_gradient=True)`` is the negative log marginal likelihood and its gradient.
        None keeps the hyperparameters.
    n_restarts_optimizer : int, default=0
        Further searches, from starting points drawn within the bounds.
    normalize_y : bool, default=False
        Learn from targets of mean 0 and variance 1; predictions are in the units of y.
    copy_X_train : bool, default=True
        Whether X_train_ and y_train_ are copies.
    n_targets : int, optional
        Columns of y, for predictions before a fit.
    random_state : int, RandomState instance or None, default=None
        Of starting points, and of all that is random for many rows (there None means 0).
    solver : {"auto", "dense", "matrix-free"}, default="auto"
        "dense" up to 4,000 rows and for kernels without a formula. `plan` tells before you fit.
    tol : float, default=1e-6
        Relative residual of the final solve, for many rows.
    max_iter : int, default=1000
        Most iterations of a solve, for many rows.
    n_probes : int, default=16
        Random vectors of the log-determinant, for many rows.
    device : str, optional
        Where to compute for many rows; default where X is.
    memory_limit : int, optional
        Bytes that temporaries may take; default that of `kerngp.options`.
    callback : callable, optional
        Called with a `kerngp.models.gp.learn.Step` after each evaluation of the marginal likelihood, and for
        many rows with a `kerngp.solvers.Progress` in every iteration of the final solve; returning True ends
        either with the best so far.

    Attributes
    ----------
    X_train_ : array of shape (n_samples, n_features), or the sequence of what the kernel takes
    y_train_ : array of shape (n_samples,) or (n_samples, n_targets)
        Normalised, if ``normalize_y``.
    kernel_ : kernel
        With the hyperparameters that were learned.
    alpha_ : array like y_train_
        A^-1 y.
    L_ : array of shape (n_samples, n_samples)
        Lower Cholesky factor of A; for few rows only.
    log_marginal_likelihood_value_ : float
        Of ``kernel_.theta``, summed over targets.
    log_marginal_likelihood_error_ : float
        Its standard error; 0 for few rows.
    learning_history_ : tuple of Step
        Every evaluation of the marginal likelihood: rows, theta, value, standard error, seconds.
    n_iter_ : int
        Evaluations of the marginal likelihood, at least 1.
    plan_ : GPPlan
        The forecast under which the fit ran.
    solution_ : Solution or None
        What the final solve says; None for few rows.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)

    References
    ----------
    Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, algorithm 2.1. Gardner, Pleiss,
    Bindel, Weinberger and Wilson, GPyTorch, 2018. Wilson and others, Efficiently sampling functions from
    Gaussian process posteriors, 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.gaussian_process.kernels import RBF, WhiteKernel
    >>> from kerngp.models import GaussianProcessRegressor
    >>> X = np.linspace(0, 6, 40)[:, None]
    >>> model = GaussianProcessRegressor(RBF() + WhiteKernel(1e-2)).fit(X, np.sin(X[:, 0]))
    >>> mean, std = model.predict([[1.5]], return_std=True)
    >>> bool(abs(mean[0] - np.sin(1.5)) < 3 * std[0])
    True
    """

    def __init__(
        self,
        kernel: Any = None,
        *,
        alpha: Any = 1e-10,
        optimizer: Any = "fmin_l_bfgs_b",
        n_restarts_optimizer: int = 0,
        normalize_y: bool = False,
        copy_X_train: bool = True,
        n_targets: int | None = None,
        random_state: Any = None,
        solver: str = "auto",
        tol: float = 1e-6,
        max_iter: int = 1000,
        n_probes: int = 16,
        device: str | None = None,
        memory_limit: int | None = None,
        callback: Callback | None = None,
    ):
        self.kernel = kernel
        self.alpha = alpha
        self.optimizer = optimizer
        self.n_restarts_optimizer = n_restarts_optimizer
        self.normalize_y = normalize_y
        self.copy_X_train = copy_X_train
        self.n_targets = n_targets
        self.random_state = random_state
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.n_probes = n_probes
        self.device = device
        self.memory_limit = memory_limit
        self.callback = callback

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.array_api_support = True
        tags.input_tags.sparse = True  # made dense within the memory limit
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())  # type: ignore[arg-type]
        state.pop("_posterior", None)  # made again from the fitted attributes
        return state

    def __getattr__(self, name: str) -> Any:
        if name == "L_" and "alpha_" in self.__dict__:
            raise AttributeError(
                f"L_ does not exist: {len(self.X_train_):,} rows were fitted without a matrix of that size. "
                "predict, sample_y and loo_predict do without; solver='dense' stores it."
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @reports
    def fit(self, X: Any, y: Any) -> GaussianProcessRegressor:
        """Learn the hyperparameters and solve for the weights.

        Parameters
        ----------
        X : array of shape (n_samples, n_features), or sequence of what the kernel takes
        y : array of shape (n_samples,) or (n_samples, n_targets)
            Targets share the kernel; their log marginal likelihoods are added.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            For parameters out of range and for data that are not finite, not numbers, or do not fit
            together; the message names the argument.
        numpy.linalg.LinAlgError, SolveError
            If the matrix is not positive definite; the message says what helps.
        """
        check_parameters(self)
        kernel = ConstantKernel() * RBF() if self.kernel is None else self.kernel
        kernel = clone(kernel) if isinstance(kernel, SklearnKernel) else kernel
        rows, y, self._origin = self._read(X, y, kernel)
        targets = y.shape[1] if y.ndim > 1 else 1
        if self.n_targets is not None and self.n_targets != targets:
            raise ShapeError(
                "The number of targets seen in `y` is different from the parameter `n_targets`. "
                f"Got {targets} != {self.n_targets}."
            )
        mean, std = mean_and_std(y, self.normalize_y)
        self._y_train_mean, self._y_train_std = (self._origin.give(torch.as_tensor(v)) for v in (mean, std))
        if self.normalize_y:
            y = (y - mean) / std
        h = hyperparameters(kernel, _columns(rows))
        data = TrainingData.of(rows, y, self.alpha)
        plan = self._plan(len(y), h, targets)
        with running(self, "fit", plan) as run:
            fitted = fit_process(h, data, plan, self._search())
            run.say(fitted.summary)
        self._keep(rows, y, fitted)
        self.plan_ = plan
        return self

    def predict(self, X: Any, return_std: bool = False, return_cov: bool = False) -> Any:
        """The mean at new points, with standard deviations or a covariance; before a fit, of the prior.

        Parameters
        ----------
        X : array of shape (m, n_features), or sequence of what the kernel takes
        return_std : bool
            White noise of the kernel is part of it, alpha is not.
        return_cov : bool
            At most one of the two.

        Returns
        -------
        mean : array of shape (m,) or (m, n_targets)
        std : array like mean
            Only if asked for.
        cov : array of shape (m, m) or (m, m, n_targets)
            Only if asked for.

        Raises
        ------
        RuntimeError
            If both are asked for.
        ShapeError
            If the covariance exceeds the memory limit.

        Warns
        -----
        UserWarning
            If rounding made variances negative; they are set to 0.
        ConvergenceWarning
            If standard deviations are known to a tenth only.
        """
        if return_std and return_cov:
            raise RuntimeError("At most one of return_std or return_cov can be requested.")
        if return_std:
            found = self.predict_distribution(X)
            return found.mean, found.std
        with running(self, "predict"):
            Z, origin = self._points(X)
            process, scale = self._process(Z)
            if not return_cov:
                return _give(origin, Z, scale.location(process.mean(Z)))
            mean, covariance = process.joint(Z)
            return _give(origin, Z, scale.location(mean)), _give(origin, Z, scale.covariance(covariance))

    def predict_distribution(self, X: Any) -> PredictiveDistribution:
        """Mean and standard deviation as of `predict`, with the error of the latter.

        Parameters
        ----------
        X : array of shape (m, n_features), or sequence of what the kernel takes

        Returns
        -------
        PredictiveDistribution
        """
        with running(self, "predict") as run:
            Z, origin = self._points(X)
            process, scale = self._process(Z)
            found = process.marginals(Z)
            run.say(f"variances by {found.how}")
            variance = found.clipped()
            found.judge()
            least = torch.maximum(variance, found.error).clamp_min(torch.finfo(torch.float64).tiny)
            error = found.error / (2 * least.sqrt())
            parts = (scale.location(found.mean), scale.deviation(variance), scale.deviation(error.square()))
            mean, std, std_error = (_give(origin, Z, v) for v in parts)
            return PredictiveDistribution(mean, std, std_error, found.how)

    def predict_quantiles(self, X: Any, quantiles: Sequence[float] = (0.025, 0.975)) -> Any:
        """Quantiles of the predictive distribution; the default are the ends of a 95 % interval.

        For an interval of observations the noise has to be in the kernel (`WhiteKernel`): alpha is left out.

        Parameters
        ----------
        X : array of shape (m, n_features), or sequence of what the kernel takes
        quantiles : sequence of float
            Between 0 and 1.

        Returns
        -------
        array of shape (m, n_quantiles) or (m, n_targets, n_quantiles)

        Raises
        ------
        OptionError
            If a quantile is not between 0 and 1.
        """
        check_quantiles(quantiles)
        found = self.predict_distribution(X)
        mean, std = adopt("mean", found.mean), adopt("std", found.std)
        return Origin.of(found.mean).give(normal_quantiles(mean, std, quantiles))

    def sample_y(self, X: Any, n_samples: int = 1, random_state: Any = 0) -> Any:
        """Draws of the process at new points; before a fit, of the prior.

        Few points are drawn from their covariance as in scikit-learn (4,000 where the matrix was
        factorised, otherwise 64), more of them pathwise, by Matheron's rule.

        Parameters
        ----------
        X : array of shape (m, n_features), or sequence of what the kernel takes
        n_samples : int
        random_state : int, RandomState instance or None, default=0

        Returns
        -------
        array of shape (m, n_samples) or (m, n_targets, n_samples)
            White noise of the kernel is part of them, independent at each point.
        """
        rng = check_random_state(random_state)
        with running(self, "sample_y"):
            Z, origin = self._points(X, "sample_y")
            process, scale = self._process(Z)
            if isinstance(process, Prior) or len(Z) <= process.joint_points:
                mean, covariance = process.joint(Z)
                return _give(origin, Z, scale.draw(mean, covariance, n_samples, rng))
            mean, seed = process.mean(Z), int(rng.randint(2**31 - 1))
            rest = process.deviations(Z, mean.shape[1] * n_samples, seed)
            return _give(origin, Z, scale.samples(rest.reshape(*mean.shape, n_samples), mean))

    def log_marginal_likelihood(
        self, theta: Any = None, eval_gradient: bool = False, clone_kernel: bool = True
    ) -> Any:
        """The log marginal likelihood of the training data, summed over targets.

        Parameters
        ----------
        theta : array of shape (n_kernel_params,), optional
            Logarithms of the hyperparameters. None gives ``log_marginal_likelihood_value_``.
        eval_gradient : bool
            Return the gradient by theta, too.
        clone_kernel : bool
            False leaves ``kernel_`` at theta.

        Returns
        -------
        value : float
            For many rows an estimate with the random vectors of the fit.
        gradient : ndarray of shape (n_kernel_params,)
            Only if asked for.
        """
        check_is_fitted(self, "X_train_")
        if theta is None:
            if eval_gradient:
                raise ValueError("Gradient can only be evaluated for theta!=None")
            return self.log_marginal_likelihood_value_
        theta = np.asarray(to_numpy(theta), dtype=np.float64)
        h = hyperparameters(self.kernel_, _columns(self.X_train_))
        if not clone_kernel and isinstance(self.kernel_, SklearnKernel):
            self.kernel_.theta = theta
            h = hyperparameters(self.kernel_, h.n_features)
        else:
            h = h.at(theta)
            self.kernel_ = self.kernel_ if clone_kernel else h.kernel
        with running(self, "log_marginal_likelihood"):
            found = self._data().objective("L_" in vars(self), self._search())(h, eval_gradient)
        value = np.float64(found.value)
        return (value, found.gradient) if eval_gradient else value

    def loo_predict(self) -> LeaveOneOut:
        """Leave-one-out predictions of the training targets, in closed form.

        Hyperparameters stay as they are. For many rows the diagonal of the inverse that they need is
        estimated, and the standard errors say how well.

        Returns
        -------
        LeaveOneOut
        """
        check_is_fitted(self, "X_train_")
        with running(self, "loo_predict"):
            posterior, scale = self._fitted()
            data = self._data()
            weights = torch.from_numpy(_matrix(self.alpha_))
            found = leave_one_out(torch.from_numpy(data.Y), weights, posterior.inverse_diagonal(), scale)
            return LeaveOneOut(*(_give(self._origin, data.X, getattr(found, f.name)) for f in fields(found)))

    def plan(self, X: Any, y: Any = None) -> GPPlan:
        """What `fit` would do: solver, memory, work. Computes nothing.

        Parameters
        ----------
        X : array of shape (n_samples, n_features), or that shape as a tuple
        y : array of shape (n_samples,) or (n_samples, n_targets), optional

        Returns
        -------
        GPPlan
            ``print`` it for one line of text.

        Raises
        ------
        OptionError
            If dense matrices are needed and do not fit into the memory limit.

        Examples
        --------
        >>> GaussianProcessRegressor().plan((300_000, 10)).solver
        'matrix-free'
        """
        check_parameters(self)
        shape = X if isinstance(X, tuple) and all(isinstance(n, Integral) for n in X) else np.shape(X)
        if len(shape) != 2:
            raise ShapeError(f"X has shape {tuple(shape)}; expected (n_samples, n_features).")
        kernel = ConstantKernel() * RBF() if self.kernel is None else self.kernel
        targets = 1 if y is None or np.ndim(y) < 2 else np.shape(y)[1]
        return self._plan(int(shape[0]), hyperparameters(kernel, int(shape[1])), int(targets))

    # ------------------------------------------------------------ parts

    def _read(self, X: Any, y: Any, kernel: Any) -> tuple[Any, np.ndarray, Origin]:
        """Rows, targets in float64, and where results belong."""
        checks: dict[str, Any] = {"multi_output": True, "y_numeric": True}
        if getattr(kernel, "requires_vector_input", True):
            rows, y, origin = read(self, X, y, device=self.device, **checks)
            rows = rows.clone() if self.copy_X_train else rows
        else:
            rows, y = validate_data(self, X, to_numpy(y), ensure_2d=False, dtype=None, **checks)
            rows, origin = np.copy(rows) if self.copy_X_train else rows, Origin()
        return rows, np.array(y, dtype=np.float64, copy=self.copy_X_train or None), origin

    def _points(self, X: Any, method: str = "predict") -> tuple[Any, Origin]:
        """Points to predict at, and where results belong."""
        if getattr(self.kernel, "requires_vector_input", True):
            return read_rows(self, X, reset=False, method=method, device=self.device)
        return validate_data(self, X, ensure_2d=False, dtype=None, reset=False), Origin()

    def _keep(self, rows: Any, y: np.ndarray, fitted: Fitted) -> None:
        """The fitted attributes."""
        origin = self._origin
        # what is known by its matrix alone has no hyperparameters: it stays as it was given
        self.kernel_ = self.kernel if isinstance(fitted.h.kernel, MatrixKernel) else fitted.h.kernel
        self.X_train_ = origin.give(rows) if isinstance(rows, Tensor) else rows
        self.y_train_ = origin.give(torch.from_numpy(y))
        self.alpha_ = origin.give(fitted.weights.reshape(y.shape))
        vars(self).pop("L_", None)
        if fitted.factor is not None:
            self.L_ = origin.give(fitted.factor)
        self.log_marginal_likelihood_value_ = np.float64(fitted.evidence.value)
        self.log_marginal_likelihood_error_ = fitted.evidence.standard_error
        self.learning_history_ = fitted.history
        self.n_iter_ = max(1, len(fitted.history))
        self.solution_ = fitted.solution
        self._posterior = fitted.posterior

    def _process(self, Z: Any) -> tuple[Prior | Posterior, TargetScale]:
        """What predicts, and the units of its predictions."""
        if not hasattr(self, "X_train_"):
            fixed = ConstantKernel(1.0, "fixed") * RBF(1.0, "fixed")
            h = hyperparameters(fixed if self.kernel is None else self.kernel, _columns(Z))
            targets = 1 if self.n_targets is None else self.n_targets
            return Prior(h, targets), TargetScale.of(np.zeros(targets), np.ones(targets))
        return self._fitted()

    def _fitted(self) -> tuple[Posterior, TargetScale]:
        """The posterior, made again if the model was pickled, and the units of its predictions."""
        if "_posterior" not in vars(self):
            h = hyperparameters(self.kernel_, _columns(self.X_train_))
            L = to_numpy(self.L_) if "L_" in vars(self) else None
            self._posterior = self._data().posterior(h, _matrix(self.alpha_), L, self._search())
        return self._posterior, TargetScale.of(self._y_train_mean, self._y_train_std)

    def _data(self) -> TrainingData:
        """The training data, as fitted."""
        X = self.X_train_
        if isinstance(X, np.ndarray) and X.dtype.kind != "f":  # structured data
            return TrainingData.of(X, to_numpy(self.y_train_), self.alpha)
        rows = adopt("X_train_", X, device=compute_device(self.device, X))
        return TrainingData.of(rows, to_numpy(self.y_train_), self.alpha)

    def _search(self) -> Search:
        """What the constructor says of learning and solving."""
        fixed = 0 if self.random_state is None else self.random_state
        seed = int(check_random_state(fixed).randint(2**31 - 1))
        return Search(
            self.optimizer,
            self.n_restarts_optimizer,
            self.random_state,
            seed,
            self.tol,
            self.max_iter,
            self.n_probes,
            report_of(self),
        )

    def _plan(self, rows: int, h: Hyperparameters, targets: int) -> GPPlan:
        limit = current().memory_limit if self.memory_limit is None else self.memory_limit
        return make_gp_plan(
            rows,
            h.n_features,
            targets,
            hyperparameters=0 if self.optimizer is None else len(h.theta),
            has_formula=h.has_formula,
            solver=self.solver,
            probes=self.n_probes,
            memory_limit=limit,
        )


def _columns(X: Any) -> int:
    """Of points; 1 for structured data."""
    return int(X.shape[1]) if getattr(X, "ndim", 1) == 2 else 1


def _matrix(values: Any) -> np.ndarray:
    """Fitted weights as (n, t), float64."""
    w = np.asarray(to_numpy(values), dtype=np.float64)
    return w.reshape(len(w), -1)


def _give(origin: Origin, Z: Any, values: Tensor) -> Any:
    """A result in the library of Z, and in its dtype."""
    return origin.give(values.to(Z.dtype) if isinstance(Z, Tensor) else values)

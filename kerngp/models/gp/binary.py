"""Gaussian process classification with two classes: what that of any number of classes is made of."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process.kernels import RBF, ConstantKernel
from sklearn.gaussian_process.kernels import Kernel as SklearnKernel
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ... import options as _options
from ...errors import DataError, OptionError, SolveError
from ..hyperparameters import Hyperparameters
from ..inputs import compute_device, to_numpy
from ..resolve import hyperparameters
from ..running import running
from .evidence import Objective
from .laplace import DenseLaplace, latent_variance, probabilities
from .learn import learn
from .matrix_free_laplace import FreeMode, MatrixFreeLaplace
from .matrix_free_laplace import latent as free_latent
from .matrix_free_laplace import latent_variance as free_variance
from .plan import GPPlan, make_gp_plan

Tensor = torch.Tensor

SUBSET = 1000  # rows that a matrix-free search starts on: every evaluation there is some factorisations


class BinaryGaussianProcessClassifier(BaseEstimator):
    """Two classes, by the Laplace approximation; see `GaussianProcessClassifier`.

    It takes what that class has validated: X as an array of NumPy, a tensor, or a sequence of whatever the
    kernel takes. Results are NumPy's.

    Attributes
    ----------
    X_train_, y_train_ : the training data, y encoded as 0 and 1
    classes_ : ndarray of shape (2,)
    kernel_ : kernel
    pi_ : ndarray of shape (n_samples,)
        Probabilities of the second class at the training points.
    W_sr_ : ndarray of shape (n_samples,)
        Square root of the curvature of the likelihood there.
    L_ : ndarray of shape (n_samples, n_samples)
        The lower factor of I + W^1/2 K W^1/2; only where matrices are factorised.
    log_marginal_likelihood_value_ : float
    log_marginal_likelihood_error_ : float
        Its standard error; 0 where matrices are factorised.
    learning_history_ : tuple of Step
        Evaluations of the search.
    n_iter_ : int
        Their number; 1 if there was no search.
    plan_ : GPPlan
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
        solver: str = "auto",
        tol: float = 1e-6,
        n_probes: int = 16,
        max_iter: int = 20,
        device: str | None = None,
        memory_limit: int | None = None,
        callback: Any = None,
    ):
        self.kernel = kernel
        self.optimizer = optimizer
        self.n_restarts_optimizer = n_restarts_optimizer
        self.max_iter_predict = max_iter_predict
        self.warm_start = warm_start
        self.copy_X_train = copy_X_train
        self.random_state = random_state
        self.solver = solver
        self.tol = tol
        self.n_probes = n_probes
        self.max_iter = max_iter
        self.device = device
        self.memory_limit = memory_limit
        self.callback = callback

    def fit(self, X: Any, y: Any) -> BinaryGaussianProcessClassifier:
        """Learn the kernel's hyperparameters and find the mode."""
        self.classes_, label = np.unique(y, return_inverse=True)
        if len(self.classes_) != 2:
            raise DataError(f"{type(self).__name__} requires 2 classes; got {len(self.classes_)} class(es).")
        self.X_train_, self.y_train_ = _copied(X) if self.copy_X_train else X, label
        h = hyperparameters(start_kernel(self.kernel), _columns(X))
        learning = self.optimizer is not None and len(h.theta) > 0
        with self._limits() as limits:
            self.plan_ = self._plan(h, len(label), learning, limits.memory_limit)
        with running(self, "fit", self.plan_) as run:
            objective = self._objective(h, slice(None), self.plan_.dense)
            if learning:
                found = learn(
                    h,
                    self.X_train_,
                    label[:, np.newaxis],
                    0.0,
                    self.plan_,
                    objective=objective,
                    part=lambda rows, dense: self._objective(h, rows, dense),
                    optimizer=self.optimizer,
                    n_restarts=self.n_restarts_optimizer,
                    random_state=check_random_state(self.random_state),
                    max_iter=self.max_iter,
                    callback=self.callback,
                )
                h, evidence, self.learning_history_ = found.h, found.evidence, found.history
                h.warn_at_bounds()
            else:
                evidence, self.learning_history_ = objective(h, False), ()
            if evidence.failed:
                raise SolveError(" ".join(note.text for note in evidence.notes))
            self.kernel_, self.n_iter_ = h.kernel, max(1, len(self.learning_history_))
            self.log_marginal_likelihood_value_ = np.float64(evidence.value)
            self.log_marginal_likelihood_error_ = evidence.standard_error
            self._settle(h, objective)
            run.say(f"log marginal likelihood {evidence.value:.6g} +- {evidence.standard_error:.1g}")
        return self

    def _settle(self, h: Hyperparameters, objective: Objective) -> None:
        """The mode that predictions are made from."""
        if isinstance(objective, DenseLaplace):
            mode = objective.mode(h.matrix(objective.X))
            self.pi_, self.W_sr_, self.L_, self.f_cached = mode.pi, mode.root, mode.L, mode.f
            converged = mode.converged
        else:
            assert isinstance(objective, MatrixFreeLaplace)
            free = objective.mode(h, tol=self.tol)
            self.__dict__.pop("L_", None)
            self.pi_, self.W_sr_ = free.pi.cpu().numpy(), free.root.cpu().numpy()
            self.f_cached = free.found.f[:, 0].cpu().numpy()
            self._dual, self._work = free.found.c.cpu(), (objective, free)
            converged = free.found.converged
        if not converged:
            warnings.warn(
                "The mode of the posterior was not found in "
                f"max_iter_predict={self.max_iter_predict} steps of "
                "Newton's iteration; raise it, or scale the columns of X.",
                ConvergenceWarning,
                stacklevel=3,
            )

    # ------------------------------------------------------------ predictions

    def predict(self, X: Any) -> np.ndarray:
        """The more probable class: the sign of the latent mean."""
        check_is_fitted(self)
        with running(self, "predict"):
            return np.where(self._mean(X) > 0, self.classes_[1], self.classes_[0])

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of both classes, averaged over the latent function, (m, 2)."""
        return probabilities(*self.latent_mean_and_variance(X))

    def latent_mean_and_variance(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of the latent function, (m,) each."""
        check_is_fitted(self)
        with running(self, "latent_mean_and_variance"):
            if not self.plan_.dense:
                laplace, mode = self._free()
                variance = free_variance(mode, laplace.X, self._tensor(X).to(laplace.X.dtype))
                return self._mean(X), variance.cpu().numpy()
            points = _rows(X)
            cross = self._h().matrix(_rows(self.X_train_), points)
            variance = latent_variance(self.L_, self.W_sr_, cross, self._h().diag(points))
            return cross.T @ (self.y_train_ - self.pi_), variance

    def log_marginal_likelihood(
        self, theta: Any = None, eval_gradient: bool = False, clone_kernel: bool = True
    ) -> Any:
        """The approximate log marginal likelihood at a theta, and its gradient."""
        check_is_fitted(self)
        if theta is None:
            if eval_gradient:
                raise OptionError("Gradient can only be evaluated for theta!=None")
            return self.log_marginal_likelihood_value_
        h = self._h().at(np.asarray(theta, dtype=np.float64))
        if not clone_kernel:
            self.kernel_ = h.kernel
        with running(self, "log_marginal_likelihood"):
            objective = self._free()[0] if not self.plan_.dense else self._objective(h, slice(None), True)
            evidence = objective(h, eval_gradient)
        value = np.float64(evidence.value)
        return (value, evidence.gradient) if eval_gradient else value

    def _mean(self, X: Any) -> np.ndarray:
        if not self.plan_.dense:
            laplace, mode = self._free()
            return free_latent(mode, laplace.X, self._tensor(X).to(laplace.X.dtype)).cpu().numpy()
        cross = self._h().matrix(_rows(self.X_train_), _rows(X))
        return cross.T @ (self.y_train_ - self.pi_)

    # ------------------------------------------------------------ inside

    def _h(self) -> Hyperparameters:
        return hyperparameters(self.kernel_, _columns(self.X_train_))

    def _limits(self) -> contextlib.AbstractContextManager[_options.Options]:
        return _options.options(**({} if self.memory_limit is None else {"memory_limit": self.memory_limit}))

    def _plan(self, h: Hyperparameters, n: int, learning: bool, memory_limit: int) -> GPPlan:
        return make_gp_plan(
            n,
            h.n_features,
            hyperparameters=len(h.theta) if learning else 0,
            has_formula=h.has_formula,
            solver=self.solver,
            subset=SUBSET,
            probes=self.n_probes,
            memory_limit=memory_limit,
        )

    def _objective(self, h: Hyperparameters, rows: Any, dense: bool) -> Any:
        """The evidence of some rows."""
        whole = isinstance(rows, slice)
        y = self.y_train_[rows]
        if dense:
            X = _rows(self.X_train_)
            return DenseLaplace(
                X if whole else X[rows], y, max_iter=self.max_iter_predict, warm=self.warm_start
            )
        X = self._tensor(self.X_train_)
        X = X if whole else X[torch.as_tensor(rows, device=X.device)]
        return MatrixFreeLaplace(X, y, probes=self.n_probes, max_iter=self.max_iter_predict)

    def _free(self) -> tuple[MatrixFreeLaplace, FreeMode]:
        """The matrix-free approximation and its mode, made again after unpickling."""
        work = self.__dict__.get("_work")
        if work is None:
            laplace = self._objective(self._h(), slice(None), False)
            laplace.last = self._dual.to(laplace.X.device)
            work = self._work = laplace, laplace.mode(self._h(), tol=self.tol)
        return work

    def _tensor(self, X: Any) -> Tensor:
        t = torch.as_tensor(X)
        return t.to(compute_device(self.device, t))

    def __getstate__(self) -> Any:
        state: dict[str, Any] = dict(super().__getstate__())  # type: ignore[call-overload]
        state.pop("_work", None)
        return state

    def __getattr__(self, name: str) -> Any:
        if name == "L_" and "plan_" in self.__dict__:
            raise AttributeError(
                "L_ is an n_samples x n_samples factor; with solver='matrix-free' there is none. Use "
                "solver='dense' if it fits into memory."
            )
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")


def start_kernel(kernel: Any) -> Any:
    """The kernel that learning starts with; scikit-learn's default for None."""
    if kernel is None:
        return ConstantKernel(1.0, constant_value_bounds="fixed") * RBF(1.0, length_scale_bounds="fixed")
    return clone(kernel) if isinstance(kernel, SklearnKernel) else kernel


def _columns(X: Any) -> int:
    shape = getattr(X, "shape", ())
    return int(shape[1]) if len(shape) == 2 else 1


def _copied(X: Any) -> Any:
    return X.clone() if isinstance(X, Tensor) else np.copy(X)


def _rows(X: Any) -> Any:
    """X for a kernel's own matrix, in float64."""
    X = to_numpy(X)
    return X.astype(np.float64, copy=False) if isinstance(X, np.ndarray) and X.dtype.kind == "f" else X

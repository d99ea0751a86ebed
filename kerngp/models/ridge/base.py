"""What the estimators of kernel ridge regression share: parameters, data, the fit, predictions."""

from __future__ import annotations

import contextlib
import math
import warnings
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ... import options as _options
from ...engine.arrays import adopt
from ...errors import OptionError, ShapeError
from ..callbacks import CallbackMixin, report_of
from ..inputs import Origin, check_same_origin, check_weights, compute_device, read, to_numpy
from ..kernel_base import Kernel
from ..pairwise import NON_NEGATIVE, PAIRWISE
from ..resolve import MatrixKernel, check_domain, resolve_kernel
from ..running import running
from .plan import SOLVERS, RidgePlan, make_plan
from .predict import block_rows, row_blocks, values
from .problem import RidgeProblem
from .solve import RidgeResult, Settings, solve_ridge

Tensor = torch.Tensor


@dataclass(frozen=True)
class Data:
    """Validated training data.

    Attributes
    ----------
    X : Tensor of shape (n, D)
        On the device of the computation.
    y : ndarray of shape (n,) or (n, n_targets)
    weight : ndarray of shape (n,), float64, or None
    origin : Origin
    """

    X: Tensor
    y: np.ndarray
    weight: np.ndarray | None
    origin: Origin


class RidgeBase(CallbackMixin, BaseEstimator):
    """Base of the estimators; subclasses have the constructors."""

    kernel: Any
    gamma: Any
    degree: Any
    coef0: Any
    kernel_params: Any
    solver: str
    tol: float
    max_iter: int
    n_centers: int | None
    preconditioner_rank: int | None
    device: str | None
    random_state: Any
    callback: Any
    memory_limit: int | None
    _origin: Origin

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        tags.input_tags.pairwise = self._precomputed()
        tags.input_tags.sparse = not self._precomputed()
        tags.input_tags.positive_only = isinstance(self.kernel, str) and self.kernel in NON_NEGATIVE
        return tags

    # ------------------------------------------------------------ parameters

    def _precomputed(self) -> bool:
        return isinstance(self.kernel, str) and self.kernel == "precomputed"

    def _limits(self) -> contextlib.AbstractContextManager[_options.Options]:
        """The memory limit of the estimator in force."""
        return _options.options(**({} if self.memory_limit is None else {"memory_limit": self.memory_limit}))

    def _settings(self) -> Settings:
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        return Settings(self.tol, self.max_iter, seed, report_of(self))

    def _named_parameters(self) -> dict[str, Any]:
        names = ("gamma", "degree", "coef0", "kernel_params")
        return {name: getattr(self, name) for name in names}

    def _resolve(self, n_features: int) -> Kernel | MatrixKernel:
        return resolve_kernel(self.kernel, n_features, **self._named_parameters())

    def _check_domain(self, X: Tensor) -> None:
        if isinstance(self.kernel, str):
            check_domain(self.kernel, X.cpu().numpy())

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
        counts = (
            ("max_iter", 1, False),
            ("n_centers", 1, True),
            ("preconditioner_rank", 0, True),
            ("memory_limit", 1 << 20, True),
        )
        for name, smallest, optional in counts:
            value = getattr(self, name)
            if value is None and optional:
                continue
            if isinstance(value, bool) or not isinstance(value, Integral) or value < smallest:
                raise OptionError(f"{name}={value!r}; expected an integer of at least {smallest}.")

    # ------------------------------------------------------------ the plan

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
        """
        self._check_parameters()
        shape = X if isinstance(X, tuple) and all(isinstance(n, Integral) for n in X) else np.shape(X)
        if len(shape) != 2:
            raise ShapeError(f"X has shape {tuple(shape)}; expected (n_samples, n_features).")
        rows, features = int(shape[0]), int(shape[1])
        return self._plan(rows, features, self._targets(y), self._resolve(features))

    def _targets(self, y: Any) -> int:
        """Columns of the right-hand side that y makes."""
        return 1 if y is None or np.ndim(y) < 2 else int(np.shape(y)[1])

    def _wanted(self) -> dict[str, int]:
        """What a fit needs beyond one solve: arguments of `make_plan`."""
        return {}

    def _plan(
        self, rows: int, features: int, targets: int, kernel: Kernel | MatrixKernel, **wanted: int
    ) -> RidgePlan:
        with self._limits() as limits:
            return make_plan(
                rows,
                features,
                targets,
                solver=self.solver,
                n_centers=self.n_centers,
                rank=self.preconditioner_rank,
                memory_limit=limits.memory_limit,
                dense=isinstance(kernel, MatrixKernel),
                **(wanted or self._wanted()),
            )

    # ------------------------------------------------------------ the fit

    def _read(self, X: Any, y: Any, sample_weight: Any, **checks: Any) -> Data:
        with self._limits():
            rows, target, origin = read(
                self, X, y, device=self.device, sparse=not self._precomputed(), multi_output=True, **checks
            )
        weight = None if sample_weight is None else check_weights(to_numpy(sample_weight), len(rows))
        return Data(rows, target, weight, origin)

    def _problem(self, data: Data, Y: np.ndarray) -> RidgeProblem:
        """The problem with targets of shape (n, E)."""
        self._check_domain(data.X)
        kernel = self._resolve(data.X.shape[1])
        named = None
        if isinstance(self.kernel, str) and self.kernel in PAIRWISE:
            gamma = 1.0 if self.gamma is None and self.kernel == "chi2" else self.gamma
            named = {"metric": self.kernel, "gamma": gamma, "degree": self.degree, "coef0": self.coef0}
        device = data.X.device
        weight = None if data.weight is None else torch.from_numpy(data.weight).to(device)
        return RidgeProblem(kernel, data.X, torch.from_numpy(Y).to(device), weight, named)

    def _planned(self, p: RidgeProblem, **wanted: int) -> RidgePlan:
        """The plan for a problem."""
        plan = self._plan(p.count, p.X.shape[1], p.Y.shape[1], p.kernel, **wanted)
        if plan.n_centers and self.n_centers is not None and plan.n_centers < self.n_centers:
            warnings.warn(
                f"n_centers={self.n_centers} exceeds the {plan.rows} rows with a positive weight; "
                f"all of them become centers.",
                UserWarning,
                stacklevel=4,
            )
        return plan

    def _solve(self, data: Data, Y: np.ndarray, alpha: np.ndarray) -> None:
        """Fit for one alpha for each target."""
        p = self._problem(data, Y)
        plan, settings = self._planned(p), self._settings()
        with running(self, "fit", plan) as run:
            result = solve_ridge(p, alpha, plan, settings)
            run.say(outcome(result))
        self._keep(data, plan, result)

    def _keep(self, data: Data, plan: RidgePlan, result: RidgeResult) -> None:
        coef = result.coef.to(data.X.dtype)
        vector = coef.shape[1] == 1 and data.y.ndim == 1
        self._origin = data.origin
        self.dual_coef_ = data.origin.give(coef[:, 0] if vector else coef)
        self.X_fit_ = data.origin.give(result.points)
        self.plan_, self.solver_, self.solution_ = plan, plan.solver, result.solution
        self.n_iter_ = max(1, result.solution.iterations)

    # ------------------------------------------------------------ predictions

    def _values(self, X: Any, method: str = "predict") -> tuple[Tensor, Origin]:
        """f at the rows of X, shape (n, E), and where results belong."""
        check_is_fitted(self)
        check_same_origin(self, X, method)
        device = compute_device(self.device, X)
        points = adopt("X_fit_", self.X_fit_, device=device)
        coef = adopt("dual_coef_", self.dual_coef_, device=device)
        coef = coef.unsqueeze(-1) if coef.dim() == 1 else coef
        kernel, parts, origin = self._resolve(points.shape[1]), [], Origin()
        with running(self, method):
            stored = len(points) if isinstance(kernel, MatrixKernel) else 0
            limit = _options.current().memory_limit
            step = block_rows(points.shape[1], coef.shape[1], stored, limit)
            for block, origin in row_blocks(self, X, step, sparse=not self._precomputed()):
                self._check_domain(block)
                parts.append(values(kernel, block, points, coef).to(origin.device))
        return parts[0] if len(parts) == 1 else torch.cat(parts), origin


def outcome(result: RidgeResult) -> str:
    """A solution for the log."""
    s = result.solution
    worst = float(s.residual_norms.max()) if s.residual_norms.numel() else 0.0
    return f"{s.method}, {s.iterations} iterations, residual {worst:.1e}"


def as_columns(y: np.ndarray) -> np.ndarray:
    """Targets in float64, one for each column."""
    return y.reshape(len(y), -1).astype(np.float64)


def alphas_of(alpha: Any, targets: int) -> np.ndarray:
    """One penalty for each target.

    Raises
    ------
    OptionError, ShapeError
        Unless it is a number >= 0, or one for each target.
    """
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

"""Kernel ridge regression that chooses its alpha."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn import get_config
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.metrics import check_scoring
from sklearn.model_selection import GridSearchCV

from ...errors import OptionError
from ..callbacks import reports
from ..inputs import to_numpy
from ..running import running
from ..score import RegressorScore
from .base import Data, RidgeBase, as_columns, outcome
from .loo import TRACE_PROBES, LeaveOneOut, of_alphas
from .problem import RidgeProblem
from .regressor import KernelRidge
from .solve import solve_ridge

Tensor = torch.Tensor


class KernelRidgeCV(RegressorScore, MultiOutputMixin, RegressorMixin, RidgeBase):
    """Kernel ridge regression with the best alpha of a grid, all of it for about the cost of one fit.

    `sklearn.linear_model.RidgeCV` for kernels. By default every alpha is scored by leave-one-out
    cross-validation in closed form: from one eigendecomposition up to 4,000 rows; with inducing points
    from one matrix over the centers and two passes over the data, the centers being kept. In between,
    where there are products with the matrix only, it is generalized cross-validation: one run of conjugate
    gradients for all alphas, with a few random probes by which a trace is estimated.

    Parameters
    ----------
    alphas : array of shape (n_alphas,) or float, default=(0.1, 1.0, 10.0)
        Positive; with ``cv`` 0 is allowed.
    kernel, gamma, degree, coef0, kernel_params
        See `KernelRidge`.
    scoring : str or callable, optional
        Of predictions that leave the row out. Default: the negative mean squared error, or the R2 score
        with ``cv``.
    cv : int, cross-validation generator or iterable, optional
        Folds instead of leaving out one row: every alpha is fitted for every fold.
    store_cv_results : bool, default=False
        Keep ``cv_results_``; not with ``cv``.
    alpha_per_target : bool, default=False
        Choose an alpha for each target; not with ``cv``.
    solver, tol, max_iter, n_centers, preconditioner_rank, device, random_state, callback, memory_limit
        See `KernelRidge`.

    Attributes
    ----------
    alpha_ : float or ndarray of shape (n_targets,)
    best_score_ : float or ndarray of shape (n_targets,)
    scores_ : ndarray of shape (n_alphas,) or (n_alphas, n_targets)
        Of all alphas.
    score_errors_ : ndarray of the shape of ``scores_``
        Standard errors of the scores from random probes, common to all alphas; 0 in closed form, NaN where
        a ``scoring`` was given. Not with ``cv``.
    cv_results_ : array of shape (n_samples, n_alphas) or (n_samples, n_targets, n_alphas)
        Squared errors times weights, or predictions if a ``scoring`` was given, of each row by the fit
        without it. NaN for rows of weight 0.
    dual_coef_, X_fit_, solver_, solution_, plan_, n_iter_, n_features_in_, feature_names_in_
        Of the fit with ``alpha_``, see `KernelRidge`.

    Examples
    --------
    >>> import numpy as np
    >>> from kerngp.models import KernelRidgeCV, RBF
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(0, 6, (100, 1))
    >>> y = np.sin(X[:, 0]) + 0.1 * rng.standard_normal(100)
    >>> KernelRidgeCV([1e-4, 1e-2, 1e4], kernel=RBF(1.0)).fit(X, y).alpha_
    0.01
    """

    def __init__(
        self,
        alphas: Any = (0.1, 1.0, 10.0),
        *,
        kernel: Any = "linear",
        gamma: float | Sequence[float | None] | None = None,
        degree: float = 3,
        coef0: float = 1,
        kernel_params: dict[str, Any] | None = None,
        scoring: Any = None,
        cv: Any = None,
        store_cv_results: bool = False,
        alpha_per_target: bool = False,
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
        self.alphas = alphas
        self.kernel = kernel
        self.gamma = gamma
        self.degree = degree
        self.coef0 = coef0
        self.kernel_params = kernel_params
        self.scoring = scoring
        self.cv = cv
        self.store_cv_results = store_cv_results
        self.alpha_per_target = alpha_per_target
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
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> KernelRidgeCV:
        """Choose alpha and fit with it.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            With ``kernel="precomputed"``, the kernel matrix.
        y : array of shape (n_samples,) or (n_samples, n_targets)
        sample_weight : float or array of shape (n_samples,), optional
            Factors of the squared errors, in the scores as well; with ``cv`` in the fits alone.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            See `KernelRidge.fit`.
        """
        self._check_parameters()
        alphas = self._alphas()
        data = self._read(X, y, sample_weight, y_numeric=True)
        Y = as_columns(data.y)
        p, settings = self._problem(data, Y), self._settings()
        plan = self._planned(p)
        with running(self, "fit", plan) as run:
            known = {}
            if self.cv is None:
                found = of_alphas(p, plan, alphas, settings)
                best = self._choose(found, p, data, alphas)
                known = _known(found, best)
            else:
                best = self._by_folds(data, alphas)
            result = solve_ridge(p, np.asarray(alphas)[best], plan, settings, **known)
            run.say(f"alpha {self.alpha_}, score {self.best_score_}; {outcome(result)}")
        self._keep(data, plan, result)
        return self

    def predict(self, X: Any) -> Any:
        """Predict, see `KernelRidge.predict`."""
        found, origin = self._values(X)
        return origin.give(found[:, 0] if self.dual_coef_.ndim == 1 else found)

    # ------------------------------------------------------------ scores

    def _choose(self, found: LeaveOneOut, p: RidgeProblem, data: Data, alphas: list[float]) -> np.ndarray:
        """The place of the best alpha, for every target; scores and errors are kept."""
        residuals = found.residuals
        weight = torch.ones_like(p.targets[:, :1]) if p.weight is None else p.used(p.weight).unsqueeze(-1)
        if self.scoring is None:
            kept = weight * residuals.square()
            mean = -kept.mean(1)  # (J, E)
            mean = mean if self.alpha_per_target else mean.mean(1, keepdim=True)
            scores = mean.cpu().numpy()
            errors = 2 * np.abs(scores) * found.spread[:, 0].cpu().numpy()
        else:
            kept = p.used(p.Y) - residuals
            scores = self._scored(kept.cpu().numpy(), p, data)
            errors = np.where(found.spread[:, 0].cpu().numpy() > 0, np.nan, 0.0) * np.ones_like(scores)
        if self.store_cv_results:
            whole = p.whole(kept.movedim(0, -1)).to(data.X.dtype)
            self.cv_results_ = data.origin.give(whole[:, 0] if data.y.ndim == 1 else whole)
        place = np.nanargmax(scores, axis=0)
        apart = self.alpha_per_target and scores.shape[1] > 1
        best = np.take_along_axis(scores, place[None], 0)[0]
        self.scores_, self.score_errors_ = (_like_x(data, s if apart else s[:, 0]) for s in (scores, errors))
        self.alpha_ = _like_x(data, np.asarray(alphas)[place]) if apart else float(alphas[int(place[0])])
        self.best_score_ = _like_x(data, best) if apart else float(best[0])
        return np.resize(place, p.Y.shape[1])

    def _scored(self, predictions: np.ndarray, p: RidgeProblem, data: Data) -> np.ndarray:
        """The user's scores of predictions (J, n, E): shape (J, 1), or (J, E) with an alpha per target."""
        scorer: Any = check_scoring(self, scoring=self.scoring)
        judged = _Identity()
        truth = p.used(p.Y).cpu().numpy()
        extra = {} if p.weight is None else {"sample_weight": p.used(p.weight).cpu().numpy()}
        if self.alpha_per_target:
            columns = range(truth.shape[1])
            found = [[scorer(judged, f[:, e], truth[:, e], **extra) for e in columns] for f in predictions]
            return np.asarray(found, dtype=np.float64)
        if data.y.ndim == 1:
            predictions, truth = predictions[..., 0], truth[:, 0]
        return np.asarray([[scorer(judged, f, truth, **extra)] for f in predictions], dtype=np.float64)

    def _by_folds(self, data: Data, alphas: list[float]) -> np.ndarray:
        """The same by fits to folds."""
        model = self._model(alphas[0], str(data.X.device))
        fit = {} if data.weight is None else {"sample_weight": data.weight}
        if get_config()["enable_metadata_routing"]:
            model.set_fit_request(sample_weight=True)
        search = GridSearchCV(model, {"alpha": alphas}, cv=self.cv, scoring=self.scoring, refit=False)
        search.fit(data.X.cpu().numpy(), data.y, **fit)
        self.scores_ = _like_x(data, np.asarray(search.cv_results_["mean_test_score"]))
        self.alpha_ = float(alphas[search.best_index_])
        self.best_score_ = float(search.best_score_)
        targets = 1 if data.y.ndim == 1 else data.y.shape[1]
        return np.full(targets, search.best_index_)

    # ------------------------------------------------------------ parameters

    def _model(self, alpha: float, device: str) -> KernelRidge:
        """The estimator with one alpha."""
        names = set(KernelRidge().get_params()) & set(self.get_params())
        given: dict[str, Any] = {n: getattr(self, n) for n in names}
        given["device"] = device
        return KernelRidge(alpha, **given)

    def _wanted(self) -> dict[str, int]:
        if self.cv is not None:
            return {}
        return {"matrices": 4, "alphas": max(2, len(self._alphas())), "probes": TRACE_PROBES}

    def _alphas(self) -> list[float]:
        values = np.atleast_1d(np.asarray(to_numpy(self.alphas)))
        least = 0.0 if self.cv is not None else np.finfo(float).tiny
        right = values.ndim == 1 and values.size > 0 and values.dtype.kind in "iuf"
        if not right or not all(np.isfinite(v) and v >= least for v in values):
            sign = "not negative" if self.cv is not None else "positive"
            raise OptionError(f"alphas={self.alphas!r}; expected finite numbers, {sign}, at least one.")
        return [float(v) for v in values]

    def _check_parameters(self) -> None:
        super()._check_parameters()
        for name in ("store_cv_results", "alpha_per_target"):
            if self.cv is not None and getattr(self, name):
                raise OptionError(f"cv!=None and {name}=True are incompatible")


def _known(found: LeaveOneOut, best: np.ndarray) -> dict[str, Any]:
    """What a comparison of alphas leaves to the fit with the best one of each target."""
    if found.start is None:
        return {}
    start = found.start[torch.from_numpy(best), :, torch.arange(len(best))].mT
    same = found.parts is not None and len(set(best.tolist())) == 1
    return {"x0": start, "preconditioner": found.parts[best[0]] if same and found.parts else None}


def _like_x(data: Data, values: np.ndarray) -> Any:
    """A fitted array in X's library."""
    return data.origin.give(torch.from_numpy(np.ascontiguousarray(values)))


class _Identity(RegressorMixin, BaseEstimator):
    """An estimator that predicts what it is given: scorers want one."""

    def predict(self, X: Any) -> Any:
        """Return X."""
        return X

"""Iterative fits report to scikit-learn's callbacks and to the estimator's own."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import has_fit_parameter

from kerngp.models import (
    GaussianProcessRegressor,
    KernelLogisticRegression,
    KernelRidge,
    KMeans,
    callbacks,
)
from kerngp.models.callbacks import CallbackMixin, report_of, reports
from kerngp.solvers import CG, Dense, Progress, identity, solve

pytest.importorskip("sklearn.callback")

X = np.random.default_rng(0).normal(size=(40, 5))
Y = X @ np.arange(5.0)


class Ridge(CallbackMixin, RegressorMixin, BaseEstimator):
    def __init__(self, alpha: float = 1.0, callback: Any = None):
        self.alpha = alpha
        self.callback = callback

    @reports
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Ridge:
        x, t = torch.as_tensor(X), torch.as_tensor(y)
        A = Dense(x.T @ x, psd=True) + self.alpha * identity(5)
        s = solve(A, x.T @ t, CG(1e-10), preconditioner=None, callback=report_of(self), on_fail="ignore")
        self.coef_, self.n_iter_ = s.x.numpy(), s.iterations
        return self

    def predict(self, X: Any) -> np.ndarray:
        return X @ self.coef_


class Recorder:
    """A callback of scikit-learn that writes down what it is told, and may ask to stop."""

    max_propagation_depth = None

    def __init__(self, stop_after: int | None = None, error: bool = False):
        self.told: list[tuple] = []
        self.stop_after, self.error = stop_after, error

    def setup(self, estimator: Any, context: Any) -> None:
        self.told.append(("setup", context.task_name))

    def teardown(self, estimator: Any, context: Any) -> None:
        self.told.append(("teardown", context.task_name))

    def on_fit_task_begin(self, estimator: Any, context: Any, *, X: Any = None) -> None:
        self.told.append(("begin", context.task_name, context.task_id))

    def on_fit_task_end(
        self,
        estimator: Any,
        context: Any,
        *,
        X: Any = None,
        metadata: Any = None,
        fitted_estimator: Any = None,
    ) -> bool:
        if self.error:
            raise ArithmeticError
        self.told.append(("end", context.task_name, context.task_id, X, metadata, fitted_estimator))
        return self.stop_after is not None and context.task_id + 1 >= self.stop_after

    def names(self) -> list[tuple]:
        return [t[:3] for t in self.told]


def test_every_iteration_is_a_task():
    recorder, seen = Recorder(), []
    model = Ridge(callback=seen.append).set_callbacks(recorder).fit(X, Y, np.ones(40))
    n = model.n_iter_
    assert n >= 3 and len(seen) == n and all(isinstance(p, Progress) for p in seen)
    begins = [t for t in recorder.names() if t[0] == "begin"]
    ends = [t for t in recorder.names() if t[0] == "end"]
    phases = ["fit", *["iterate"] * (n + 1)]
    assert [b[1] for b in begins] == phases and [b[2] for b in begins] == [0, *range(n + 1)]
    assert sorted(b[1:] for b in begins) == sorted(e[1:] for e in ends)
    assert recorder.told[0] == ("setup", "fit") and recorder.told[-1] == ("teardown", "fit")
    last = recorder.told[-2]
    assert last[3] is X and last[4]["sample_weight"].sum() == 40
    assert np.array_equal(last[5].predict(X), model.predict(X))
    assert not {"_fit_task", "_callback_fit_ctx"} & set(vars(model))


@pytest.mark.parametrize(
    "model",
    [
        KernelRidge(solver="pcg", preconditioner_rank=0, alpha=0.1),
        KernelLogisticRegression(),
        KMeans(3, n_init=1, random_state=0),
        GaussianProcessRegressor(alpha=0.1),
        GaussianProcessRegressor(alpha=0.1, solver="matrix-free", n_probes=2),
    ],
    ids=lambda model: f"{type(model).__name__}-{getattr(model, 'solver', '')}",
)
def test_estimators_report(model: Any):
    recorder, seen = Recorder(), []
    target = (Y > 0).astype(int) if isinstance(model, KernelLogisticRegression) else Y
    clone(model).set_params(callback=seen.append).set_callbacks(recorder).fit(X, target)
    steps = [t for t in recorder.names() if t[0] == "end" and t[1] != "fit"]
    assert len(steps) == len(seen) + 1 >= 2  # one was begun and has not been run
    assert recorder.told[0] == ("setup", "fit") and recorder.told[-1] == ("teardown", "fit")


def test_a_callback_stops_the_solve():
    assert Ridge().set_callbacks(Recorder(stop_after=2)).fit(X, Y).n_iter_ == 2
    assert (
        Ridge(callback=lambda progress: progress.iteration == 2).set_callbacks(Recorder()).fit(X, Y).n_iter_
        == 2
    )


def test_without_listeners_nothing_is_called():
    assert report_of(Ridge()) is None and report_of(Ridge(callback=print)) is print
    assert has_fit_parameter(Ridge(), "sample_weight") and "_fit_task" not in vars(Ridge().fit(X, Y))


def test_what_a_failing_fit_leaves():
    model = Ridge().set_callbacks(recorder := Recorder(error=True))
    with pytest.raises(ArithmeticError):
        model.fit(X, Y)
    assert recorder.told[-1] == ("teardown", "fit")
    recorder.error = False
    assert model.fit(X, Y).n_iter_ >= 3


def test_in_pipelines_and_searches():
    recorder = Recorder()
    make_pipeline(StandardScaler(), Ridge()).set_callbacks(recorder).fit(X, Y)
    assert any(t[1] == "iterate" for t in recorder.told)
    recorder = Recorder()
    GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=2).set_callbacks(recorder).fit(X, Y)
    firsts = [t for t in recorder.told if t[0] == "end" and t[1] == "iterate" and t[2] == 0]
    assert len(firsts) == 5  # 2 x 2 fits, refit
    assert clone(Ridge(0.5)).alpha == 0.5


def test_scores_are_monitored():
    from sklearn.callback import ScoringMonitor

    monitor = ScoringMonitor(scoring="r2")
    model = Ridge().set_callbacks(monitor).fit(X, Y)
    assert monitor.get_logs().data[-1]["r2"] == pytest.approx(model.score(X, Y))


def test_an_older_scikit_learn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sklearn.callback", None)
    old = importlib.reload(callbacks)
    try:
        assert not hasattr(old.CallbackMixin, "set_callbacks")

        class Model(old.CallbackMixin):
            callback = print

            @old.reports
            def fit(self, X: Any) -> Any:
                return old.report_of(self)

        assert Model().fit(X) is print
    finally:
        monkeypatch.undo()
        importlib.reload(callbacks)

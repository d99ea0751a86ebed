"""What an iterative fit reports to: the estimator's own ``callback``, and the callbacks of scikit-learn.

scikit-learn has callbacks since 1.9 (`sklearn.callback`: progress bars, scores). An estimator supports them
with `CallbackMixin` among its bases, `reports` on its fit, and solvers that are given `report_of` it. With an
older scikit-learn all three are there, and only the estimator's own callback is called.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    class CallbackMixin:
        def set_callbacks(self, *callbacks: Any) -> Any: ...

    def with_callbacks(method: Callable[[Any], None]) -> Callable[[Any], None]: ...

else:
    try:
        from sklearn.callback import CallbackSupportMixin as CallbackMixin
        from sklearn.callback import with_callbacks
    except ImportError:

        class CallbackMixin:
            """Stands for scikit-learn's, which this version does not have."""

        def with_callbacks(method: Callable[[Any], None]) -> Callable[[Any], None]:
            return method


Report = Callable[[Any], Any]


class FitTask:
    """A fit in progress, called by solvers once for each iteration; true asks them to stop.

    For scikit-learn every iteration is a subtask of the fit.
    """

    def __init__(self, estimator: Any, task: Any, data: dict[str, Any]):
        self.estimator, self.task, self.data = estimator, task, data
        self._step = self._begin("iterate")

    def __call__(self, progress: Any) -> bool:
        """Report the end of an iteration, the beginning of the next."""
        own = self.estimator.callback
        stop = bool(own is not None and own(progress))
        stop |= bool(self._step.call_on_fit_task_end(estimator=self.estimator, **self.data))
        self._step = self._begin(getattr(progress, "phase", "iterate"))
        return stop

    def close(self) -> None:
        """End the iteration that was begun last and has not been run, as scikit-learn's estimators do."""
        self._step.call_on_fit_task_end(estimator=self.estimator)

    def _begin(self, name: str) -> Any:
        step = self.task.subcontext(task_name=name)
        return step.call_on_fit_task_begin(estimator=self.estimator, **self.data)


def reports(fit: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of ``fit(self, X, y, sample_weight)``: tells scikit-learn's callbacks of it.

    y and sample_weight may be missing.

    Examples
    --------
    >>> class Model(CallbackMixin):
    ...     callback = print
    ...     @reports
    ...     def fit(self, X, y):
    ...         report_of(self)("one iteration")
    >>> Model().fit([[1.0]], [2.0])
    one iteration
    """

    signature = inspect.signature(fit)

    @functools.wraps(fit)
    def reported(self: Any, *args: Any, **keywords: Any) -> Any:
        if not getattr(self, "_skl_callbacks", None):
            return fit(self, *args, **keywords)
        given = signature.bind(self, *args, **keywords).arguments
        weight = given.get("sample_weight")
        metadata = None if weight is None else {"sample_weight": weight}
        data = {"X": given["X"], "y": given.get("y"), "metadata": metadata}
        try:
            task = self._init_callback_context(max_subtasks=None)
            task.call_on_fit_task_begin(estimator=self, **data)
            self._fit_task = FitTask(self, task, data)
            out = fit(self, *args, **keywords)
            self._fit_task.close()
            task.call_on_fit_task_end(estimator=self, **data, reconstruction_attributes={})
            return out
        finally:
            vars(self).pop("_fit_task", None)
            _tear_down(self)

    return reported


def report_of(estimator: Any) -> Report | None:
    """The function that solvers call in every iteration of a fit; None if nobody listens."""
    return getattr(estimator, "_fit_task", estimator.callback)


@with_callbacks
def _tear_down(estimator: Any) -> None:
    """End what `_init_callback_context` began: scikit-learn does it on leaving a decorated function."""

"""What an iterative fit reports to: the estimator's own ``callback``, and the callbacks of scikit-learn.

scikit-learn has callbacks since 1.9 (`sklearn.callback`: progress bars, scores). An estimator supports them
with `CallbackMixin` among its bases and `fit_callbacks` around its fit. With an older scikit-learn both are
there and do nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
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

    def __init__(self, estimator: Any, task: Any, callback: Report | None, data: dict[str, Any]):
        self.estimator, self.task, self.callback, self.data = estimator, task, callback, data
        self._step = self._begin("iterate")

    def __call__(self, progress: Any) -> bool:
        """Report the end of an iteration, the beginning of the next."""
        stop = bool(self.callback is not None and self.callback(progress))
        stop |= bool(self._step.call_on_fit_task_end(estimator=self.estimator, **self.data))
        self._step = self._begin(getattr(progress, "phase", "iterate"))
        return stop

    def close(self) -> None:
        """End the iteration that was begun last and has not been run, as scikit-learn's estimators do."""
        self._step.call_on_fit_task_end(estimator=self.estimator)

    def _begin(self, name: str) -> Any:
        step = self.task.subcontext(task_name=name)
        return step.call_on_fit_task_begin(estimator=self.estimator, **self.data)


@contextlib.contextmanager
def fit_callbacks(
    estimator: Any, X: Any = None, y: Any = None, sample_weight: Any = None
) -> Iterator[Report | None]:
    """Around a fit: gives the one function that its solvers call in every iteration, None if nobody listens.

    Fitted attributes are set inside the body, where scikit-learn's callbacks can see them at its end.

    Parameters
    ----------
    estimator : CallbackMixin
        Its parameter ``callback``, if it has one, is a function of a `kerngp.solvers.Progress`.
    X, y, sample_weight : optional
        As they were given to `fit`.

    Examples
    --------
    >>> class Model(CallbackMixin):
    ...     callback = print
    ...     def fit(self, X, y):
    ...         with fit_callbacks(self, X, y) as report:
    ...             report("one iteration")
    >>> Model().fit([[1.0]], [2.0])
    one iteration
    """
    own = getattr(estimator, "callback", None)
    if not getattr(estimator, "_skl_callbacks", None):
        yield own
        return
    metadata = None if sample_weight is None else {"sample_weight": sample_weight}
    data = {"X": X, "y": y, "metadata": metadata}
    try:
        task = estimator._init_callback_context(max_subtasks=None)
        task.call_on_fit_task_begin(estimator=estimator, **data)
        steps = FitTask(estimator, task, own, data)
        yield steps
        steps.close()
        task.call_on_fit_task_end(estimator=estimator, **data, reconstruction_attributes={})
    finally:
        _tear_down(estimator)


@with_callbacks
def _tear_down(estimator: Any) -> None:
    """End what `_init_callback_context` began: scikit-learn does it on leaving a decorated function."""

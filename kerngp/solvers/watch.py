"""Whether an iteration should go on: its caller's callback, the clock, and Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from .solution import Progress, Status


class Watch:
    """Asked by every solver after every iteration, as a context manager around its loop.

    The first Ctrl-C is noted, and the solver returns its best iterate with status ``stopped``; a second
    one is the usual KeyboardInterrupt. Only the main thread sees signals, and only while Python's own
    handler is in place: a handler of the user's is left alone.

    Parameters
    ----------
    callback : callable, optional
        Called with each `Progress`; returning True stops.
    time_limit : float, optional
        Seconds from now.

    Examples
    --------
    >>> import torch
    >>> with Watch(time_limit=0.0) as watch:
    ...     watch.verdict(Progress(1, 10, torch.zeros(1), 1)).name
    'time_limit'
    """

    def __init__(self, callback: Callable[[Progress], Any] | None = None, time_limit: float | None = None):
        self.callback, self.time_limit = callback, time_limit
        self._start = time.perf_counter()
        self._handler: _Handler | None = None
        self._installed = False

    def __enter__(self) -> Watch:
        if threading.current_thread() is threading.main_thread():
            found = signal.getsignal(signal.SIGINT)
            if isinstance(found, _Handler):  # a solve within a solve: one request ends both
                self._handler = found
            elif found is signal.default_int_handler:
                self._handler, self._installed = _Handler(), True
                signal.signal(signal.SIGINT, self._handler)
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._installed = False

    @property
    def elapsed(self) -> float:
        """Seconds since the watch was made."""
        return time.perf_counter() - self._start

    @property
    def remaining(self) -> float | None:
        """Seconds left, None without a limit."""
        return None if self.time_limit is None else max(0.0, self.time_limit - self.elapsed)

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._handler is not None and self._handler.requested

    def verdict(self, progress: Progress) -> Status | None:
        """The status to end with, or None to go on."""
        if self.callback is not None and self.callback(progress):
            return Status.stopped
        if self.interrupted:
            return Status.stopped
        if self.time_limit is not None and self.elapsed >= self.time_limit:
            return Status.time_limit
        return None


class _Handler:
    """Notes the first signal, passes on the second."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, number: int, frame: Any) -> None:
        if self.requested:
            signal.default_int_handler(number, frame)
        self.requested = True

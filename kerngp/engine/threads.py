"""A persistent pool of threads that share an index range in chunks.

Starting a thread costs more than a small kernel takes, so threads sleep between calls. Each worker waits on
a lock of its own: one release wakes exactly that worker. A call always works itself and waits for no worker
to come, so nested and concurrent calls cannot wait for each other. What it lacks in helpers it offers to
workers as they become free: one that was woken for an earlier call, and got its turn from the operating
system only after that call was over, joins the next.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

Call = Callable[[int, int, int], object]


def parallel(call: Call, n: int, grain: int, threads: int) -> None:
    """Run ``call(lo, hi, worker)`` over chunks that cover ``range(n)`` exactly once.

    Parameters
    ----------
    call
        Called with ``lo < hi <= lo + grain`` and the number of the worker, ``0 <= worker < threads``. Two
        calls with the same worker number never overlap, so it may index scratch memory. It should release
        the GIL.
    n, grain
        Length of the range and of a chunk; every ``lo`` is a multiple of ``grain``.
    threads
        At most this many threads work, the calling one (worker 0) among them.

    Raises
    ------
    Whatever ``call`` raises first; chunks not yet started are then dropped. `parallel` returns or raises only
    when no chunk is running any more, whatever happens, because ``call`` may write to memory of the caller.

    Examples
    --------
    >>> squares = [0] * 10
    >>> def call(lo, hi, worker):
    ...     squares[lo:hi] = [i * i for i in range(lo, hi)]
    >>> parallel(call, 10, grain=3, threads=2)
    >>> squares
    [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]
    """
    if grain < 1:
        raise ValueError(f"grain must be at least 1, got {grain}")
    helpers = min(threads, -(-n // grain)) - 1
    job = _Job(call, n, grain)
    try:
        if helpers > 0:
            _POOL.enlist(job, helpers)
        job.work(0)
    finally:
        if helpers > 0:
            _POOL.withdraw(job)
        job.join()


class _Job:
    """One call of `parallel`: the next index to hand out, and the helpers at work on it."""

    __slots__ = ("_call", "_n", "_grain", "_next", "_active", "_error", "_lock", "_left")

    def __init__(self, call: Call, n: int, grain: int) -> None:
        self._call, self._n, self._grain = call, n, grain
        self._next = self._active = 0
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._left = threading.Lock()  # free once the last helper has left
        self._left.acquire()

    def enter(self) -> bool:
        """Count a helper in, unless it comes too late: such a one is never waited for."""
        with self._lock:
            self._active += self._next < self._n
            return self._next < self._n

    def leave(self) -> None:
        """Count a helper out. It leaves when nothing is left to do, so none enters after it."""
        with self._lock:
            self._active -= 1
            if self._active == 0:
                self._left.release()

    def work(self, worker: int) -> None:
        try:
            while True:
                with self._lock:
                    lo = self._next
                    self._next = lo + self._grain
                if lo >= self._n:
                    return
                self._call(lo, min(lo + self._grain, self._n), worker)
        except BaseException as error:
            with self._lock:
                self._error = self._error or error
                self._next = self._n

    def join(self) -> None:
        """Stop handing out chunks, wait for the helpers, raise the first error."""
        with self._lock:
            self._next = self._n
        while self._active:
            try:
                self._left.acquire()
            except BaseException as interrupt:  # Ctrl-C must not free arrays that helpers still write to
                self._error = self._error or interrupt
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback refers to this frame: leave no cycle


class _Worker:
    """A daemon thread, asleep until it is given a job."""

    __slots__ = ("_pool", "_wake", "_task")

    def __init__(self, pool: _Pool) -> None:
        self._pool = pool
        self._wake = threading.Lock()
        self._wake.acquire()
        self._task: tuple[_Job, int] | None = None
        threading.Thread(target=self._serve, name="kerngp", daemon=True).start()

    def give(self, task: tuple[_Job, int]) -> None:
        self._task = task
        self._wake.release()

    def _serve(self) -> None:
        while True:
            self._wake.acquire()
            task, self._task = self._task, None
            while task is not None:
                job, number = task
                entered = job.enter()
                if entered:
                    job.work(number)
                # Idle before the caller hears of it: the caller's next call must find this worker free.
                task = self._pool.rest(self)
                if entered:
                    job.leave()
                del job  # keep no arrays alive while asleep


class _Pool:
    """The idle workers, and the jobs that lack some. It never holds more threads than the largest number
    a call asked for."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start empty; in a forked child the parent's threads do not exist and its lock may be held."""
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._size = 0
        self._open: dict[_Job, list[int]] = {}  # worker numbers still to be filled, oldest job first

    def enlist(self, job: _Job, helpers: int) -> None:
        """Wake up to ``helpers`` workers for the job; what is missing joins when it becomes free."""
        with self._lock:
            while len(self._idle) < helpers and self._size < helpers:
                try:
                    self._idle.append(_Worker(self))
                except RuntimeError:  # the system allows no more threads, or the interpreter is ending
                    break
                self._size += 1
            enlisted = self._idle[-helpers:]
            del self._idle[-helpers:]
            if len(enlisted) < helpers:
                self._open[job] = list(range(helpers, len(enlisted), -1))
        for number, worker in enumerate(enlisted, 1):
            worker.give((job, number))

    def rest(self, worker: _Worker) -> tuple[_Job, int] | None:
        """The next task of a worker that has finished one; with none to do it counts as idle."""
        with self._lock:
            for job, numbers in self._open.items():
                number = numbers.pop()
                if not numbers:
                    del self._open[job]
                return job, number
            self._idle.append(worker)
            return None

    def withdraw(self, job: _Job) -> None:
        """No further worker may join the job."""
        with self._lock:
            self._open.pop(job, None)


_POOL = _Pool()
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_POOL.reset)

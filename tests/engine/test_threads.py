"""The pool of threads: every index once, errors arrive, nothing hangs or leaks."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from kerngp.engine import threads as threads_module
from kerngp.engine.threads import _POOL, parallel


def chunks(n: int, grain: int, threads: int) -> list[tuple[int, int, int]]:
    """Run `parallel`, with calls that give way to other threads, and return what they were called with."""
    seen: list[tuple[int, int, int]] = []

    def call(lo: int, hi: int, worker: int) -> None:
        time.sleep(0)
        seen.append((lo, hi, worker))

    parallel(call, n, grain, threads)
    return seen


@pytest.mark.parametrize("n", [0, 1, 7, 31, 33, 1000])
@pytest.mark.parametrize("grain", [1, 7, 32, 5000])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_each_index_exactly_once(n: int, grain: int, threads: int) -> None:
    seen = chunks(n, grain, threads)
    covered = sorted(i for lo, hi, _ in seen for i in range(lo, hi))
    assert covered == list(range(n))
    assert all(lo % grain == 0 and 0 < hi - lo <= grain for lo, hi, _ in seen)
    assert {worker for _, _, worker in seen} <= set(range(threads))


def test_two_threads_work_at_the_same_time() -> None:
    both = threading.Barrier(2)
    seen: dict[int, int] = {}

    def call(lo: int, hi: int, worker: int) -> None:
        both.wait(timeout=30)  # passes only if the two chunks run in two threads
        seen[worker] = threading.get_ident()

    for _ in range(20):
        parallel(call, 2, 1, 2)
        assert seen[0] == threading.get_ident() != seen[1]


def test_same_worker_number_never_overlaps() -> None:
    busy = [threading.Lock() for _ in range(4)]

    def call(lo: int, hi: int, worker: int) -> None:
        assert busy[worker].acquire(blocking=False)
        time.sleep(0.0005)
        busy[worker].release()

    for _ in range(5):
        parallel(call, 40, 1, 4)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("bad", [0, 17, 99])
def test_an_error_reaches_the_caller_and_stops_the_rest(threads: int, bad: int) -> None:
    started = []

    def call(lo: int, hi: int, worker: int) -> None:
        started.append(lo)
        time.sleep(0.0005)
        if lo == bad:
            raise KeyError(lo)

    with pytest.raises(KeyError, match=str(bad)):
        parallel(call, 1000, 1, threads)
    assert bad < len(started) < 1000
    assert len(chunks(100, 1, threads)) == 100  # the pool is as good as new


def test_error_in_a_helper_waits_for_the_others() -> None:
    both = threading.Barrier(2)
    finished = []

    def call(lo: int, hi: int, worker: int) -> None:
        both.wait(timeout=30)
        if worker == 1:
            raise RuntimeError("helper")
        time.sleep(0.02)
        finished.append(worker)

    with pytest.raises(RuntimeError, match="helper"):
        parallel(call, 2, 1, 2)
    assert finished == [0]


def test_error_in_the_caller_waits_for_the_helpers() -> None:
    both = threading.Barrier(2)
    finished = []

    def call(lo: int, hi: int, worker: int) -> None:
        both.wait(timeout=30)
        if worker == 0:
            raise KeyboardInterrupt
        time.sleep(0.02)
        finished.append(worker)

    with pytest.raises(KeyboardInterrupt):
        parallel(call, 2, 1, 2)
    assert finished == [1]


def test_grain_must_be_positive() -> None:
    with pytest.raises(ValueError, match="grain must be at least 1, got 0"):
        parallel(lambda lo, hi, worker: None, 3, 0, 1)


def test_nested_calls() -> None:
    total = []

    def outer(lo: int, hi: int, worker: int) -> None:
        parallel(lambda a, b, w: total.append((lo, a)), 20, 1, 3)

    parallel(outer, 20, 1, 3)
    assert sorted(total) == [(i, j) for i in range(20) for j in range(20)]


def test_many_python_threads_at_once() -> None:
    def one(seed: int) -> bool:
        n = 50 + seed
        return sorted(i for lo, hi, _ in chunks(n, 3, 3) for i in range(lo, hi)) == list(range(n))

    with ThreadPoolExecutor(8) as callers:
        assert all(callers.map(one, range(100)))


def test_threads_are_kept_and_bounded() -> None:
    def alive() -> int:
        return sum(thread.name == "kerngp" for thread in threading.enumerate())

    chunks(100, 1, 4)
    before = alive()
    assert before >= 3
    for _ in range(50):
        chunks(100, 1, 4)
    with ThreadPoolExecutor(6) as callers:
        list(callers.map(lambda _: chunks(100, 1, 4), range(30)))
    assert alive() == before == _POOL._size
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "kerngp")


def test_a_sleeping_worker_keeps_nothing_alive() -> None:
    class Array:
        pass

    array = Array()
    gone = weakref.ref(array)

    def call(lo: int, hi: int, worker: int, array: Array = array) -> None:
        time.sleep(0.001)

    parallel(call, 10, 1, 2)
    del array, call
    for _ in range(100):  # a helper that came too late may still be on its way back to sleep
        if gone() is None:
            break
        time.sleep(0.01)
        gc.collect()
    assert gone() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_pool_is_rebuilt_after_fork() -> None:
    """In the child of a fork the parent's workers do not exist: handing them work would hang."""
    code = """
        import os, threading
        from kerngp.engine.threads import parallel

        def both_work():
            barrier = threading.Barrier(2)
            parallel(lambda lo, hi, worker: barrier.wait(timeout=20), 2, 1, 2)

        both_work()
        child = os.fork()
        if child == 0:
            both_work()
            grandchild = os.fork()
            if grandchild == 0:
                both_work()
                os._exit(0)
            os._exit(os.waitpid(grandchild, 0)[1] != 0)
        status = os.waitpid(child, 0)[1]
        both_work()
        raise SystemExit(status != 0)
    """
    script = textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _count(n: int) -> int:
    return len(chunks(n, 1, 2))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_fork_while_the_pool_is_busy() -> None:
    stop = threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            chunks(50, 1, 2)

    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        for _ in range(5):
            with multiprocessing.get_context("fork").Pool(2) as processes:
                assert processes.map_async(_count, [10, 20]).get(timeout=30) == [10, 20]
    finally:
        stop.set()
        busy.join()


def test_interpreter_ends_with_workers_asleep() -> None:
    code = "from kerngp.engine.threads import parallel; parallel(lambda *a: None, 100, 1, 4)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_worker_that_becomes_free_joins_a_call_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a call so short that its helper was woken when it was over already."""
    monkeypatch.setattr(threads_module, "_POOL", threads_module._Pool())
    release, held = threading.Event(), threading.Event()

    def hold(lo: int, hi: int, worker: int) -> None:
        if worker == 1:
            held.set()
        assert release.wait(timeout=30)

    other = threading.Thread(target=parallel, args=(hold, 2, 1, 2))
    other.start()
    assert held.wait(timeout=30)  # the pool's only worker is at work elsewhere
    both = threading.Barrier(2)
    seen = set()

    def call(lo: int, hi: int, worker: int) -> None:
        release.set()
        both.wait(timeout=30)  # passes only with two threads
        seen.add(worker)

    parallel(call, 2, 1, 2)
    other.join()
    assert seen == {0, 1}


def test_no_call_is_offered_after_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = threads_module._Pool()
    monkeypatch.setattr(threads_module, "_POOL", pool)
    release, held = threading.Event(), threading.Event()

    def hold(lo: int, hi: int, worker: int) -> None:
        if worker == 1:
            held.set()
            assert release.wait(timeout=30)
        assert held.wait(timeout=30)

    other = threading.Thread(target=parallel, args=(hold, 2, 1, 2))
    other.start()
    assert held.wait(timeout=30)
    with pytest.raises(KeyError):
        parallel(lambda lo, hi, worker: {}[lo], 2, 1, 2)
    assert not pool._open
    release.set()
    other.join()

"""Fixtures of the whole suite: fixed seeds, both precisions, and proof of which backend ran."""

from __future__ import annotations

import os
import signal

# before SciPy is imported: scikit-learn then checks the estimators with arrays of other libraries too
os.environ.setdefault("SCIPY_ARRAY_API", "1")

import pytest  # noqa: E402
import torch  # noqa: E402

BACKEND = os.environ.get("KERNGP_TEST_BACKEND", "cpu")


@pytest.fixture(scope="session", autouse=True)
def _backend() -> None:
    """KERNGP_TEST_BACKEND=cuda: what would run in the CPU's generated code runs in CUDA's.

    The device is emulated, or real where there is one.

    Everything else stays as it is, so that every test of results is a test of that backend too.
    """
    if BACKEND != "cuda":
        return
    from kerngp.engine import mapreduce
    from kerngp.engine.backends import cuda

    choose = mapreduce._backend
    if not torch.cuda.is_available():
        import emulator

        device = emulator.device()
        cuda.device_of = lambda place: device
    mapreduce._backend = lambda options, g: {"cpu": "cuda"}.get(choose(options, g), choose(options, g))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(20)


@pytest.fixture(autouse=True, scope="session")
def _interrupts() -> None:
    """Python's own handler of Ctrl-C: a shell that starts the suite in the background ignores the signal."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With another backend, tests of the CPU's plans, code and messages are left out."""
    if BACKEND == "cpu":
        return
    left_out = {
        i for i in items if i.get_closest_marker("cpu_only") or "no_launch" in getattr(i, "fixturenames", ())
    }
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [i for i in items if i not in left_out]


class Launches:
    """Counts the passes over the pairs, by backend."""

    def __init__(self) -> None:
        self.compiled = 0  # passes of generated code, whichever backend
        self.reference = 0

    def clear(self) -> None:
        self.compiled = self.reference = 0


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    """Passes of generated code, and those the reference backend served instead."""
    from kerngp.engine.backends import cpu, cuda, reference

    counter = Launches()
    run = reference.run

    def counted(execute):
        def call(*args, **kwargs):
            counter.compiled += 1
            return execute(*args, **kwargs)

        return call

    def counted_run(*args, **kwargs):
        counter.reference += 1
        return run(*args, **kwargs)

    for backend in (cpu, cuda):
        monkeypatch.setattr(backend, "_execute", counted(backend._execute))
    monkeypatch.setattr(cuda, "_follow", counted(cuda._follow))
    monkeypatch.setattr(reference, "run", counted_run)
    return counter

"""The emulated device for the tests of this folder; the suite fails, and does not skip, without PyCUDA."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch

from kerngp.engine.backends import cuda
from kerngp.options import Options


@pytest.fixture
def mock(monkeypatch: pytest.MonkeyPatch) -> cuda.Device:
    """Calls with backend="cuda" run on the emulated device, through the real PyCUDA."""
    if torch.cuda.is_available():
        pytest.skip("a real driver is loaded here; tests marked gpu run on it")
    if importlib.util.find_spec("pycuda") is None:
        pytest.fail("PyCUDA is missing; run 'python -m kerngp install-cuda'")
    import emulator

    device = emulator.device()
    monkeypatch.setattr(cuda, "device_of", lambda place: device)
    cuda._recipe.cache_clear()  # tests move the limits it looked at
    return device


@pytest.fixture
def cuda_options() -> Options:
    return Options(backend="cuda")


@pytest.fixture
def big_device(mock: cuda.Device, monkeypatch: pytest.MonkeyPatch) -> cuda.Device:
    """A device with so many multiprocessors that j is split whenever it can be."""
    device = replace(mock, multiprocessors=132)
    monkeypatch.setattr(cuda, "device_of", lambda place: device)
    return device

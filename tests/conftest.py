"""Fixtures of the whole suite: fixed seeds, both precisions, and proof of which backend ran."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(20)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


class Launches:
    """Counts the passes over the pairs, by backend."""

    def __init__(self) -> None:
        self.cpu = 0
        self.reference = 0

    def clear(self) -> None:
        self.cpu = self.reference = 0


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    """Passes of generated code, and those the reference backend served instead."""
    from kerngp.engine.backends import cpu, reference

    counter = Launches()
    execute, run = cpu._execute, reference.run

    def counted_execute(*args, **kwargs):
        counter.cpu += 1
        return execute(*args, **kwargs)

    def counted_run(*args, **kwargs):
        counter.reference += 1
        return run(*args, **kwargs)

    monkeypatch.setattr(cpu, "_execute", counted_execute)
    monkeypatch.setattr(reference, "run", counted_run)
    return counter

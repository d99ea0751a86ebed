"""How much of a matrix a solve has computed, and where the time went.

The unit of work is a *pass*: as many entries as the matrix has. Whatever is asked of an operator by
its public methods is counted while a meter runs: products, rows, diagonals. Searches for neighbours
call `count` themselves. So preconditioners, races and restarts cannot hide their share.
"""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Meter:
    """Entries computed and seconds spent, by what they were for. Inner meters add to outer ones."""

    entries: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    outer: Meter | None = None

    def add(self, what: str, entries: float, seconds: float = 0.0) -> None:
        """Book some work under the name ``what``."""
        self.entries[what] = self.entries.get(what, 0.0) + entries
        self.seconds[what] = self.seconds.get(what, 0.0) + seconds
        if self.outer is not None:
            self.outer.add(what, entries, seconds)

    def passes(self, size: float) -> float:
        """All entries together, in units of a matrix with ``size`` entries."""
        return sum(self.entries.values()) / max(1.0, size)

    @property
    def elapsed(self) -> float:
        """Seconds since the meter was started."""
        return time.perf_counter() - self.started


_CURRENT: contextvars.ContextVar[Meter | None] = contextvars.ContextVar("kerngp_meter", default=None)


@contextlib.contextmanager
def metering() -> Iterator[Meter]:
    """Count what is computed inside.

    Examples
    --------
    >>> import torch
    >>> from kerngp.solvers import Dense
    >>> with metering() as meter:
    ...     _ = Dense(torch.eye(4)) @ torch.ones(4)
    >>> meter.passes(16)
    1.0
    """
    meter = Meter(outer=_CURRENT.get())
    token = _CURRENT.set(meter)
    try:
        yield meter
    finally:
        _CURRENT.reset(token)


@contextlib.contextmanager
def count(what: str, entries: float) -> Iterator[None]:
    """Book ``entries`` and the time spent inside; work counted inside is not counted twice.

    On a GPU the time is that of the launch: the work itself is waited for elsewhere.
    """
    meter = _CURRENT.get()
    if meter is None:
        yield
        return
    token = _CURRENT.set(None)
    start = time.perf_counter()
    try:
        yield
    finally:
        _CURRENT.reset(token)
        meter.add(what, entries, time.perf_counter() - start)

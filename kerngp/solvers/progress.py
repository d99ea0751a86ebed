"""A line that shows how far a solve is, and when it will be done if it goes on as it does."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from .cg import Callback
from .solution import Progress

CELLS = 20
REDRAW = 0.1  # seconds between two states of one line
REPRINT = 10.0  # seconds between lines where there is no terminal


class ProgressBar:
    """A callback that keeps one line on a terminal or in a notebook, and prints one now and then elsewhere.

    The time left follows from the rate at which the logarithm of the residual falls, not from the number of
    iterations, of which nobody knows how many there will be.

    Parameters
    ----------
    tol : float
        The relative residual to reach.
    callback : callable, optional
        The caller's own, which is called as well; its answer is passed on.
    stream : text stream, optional
        Default: standard error.
    clock : callable
        Seconds; for tests.

    Examples
    --------
    >>> import torch
    >>> from kerngp.solvers import CG, identity, solve
    >>> with ProgressBar(1e-6) as bar:
    ...     solution = solve(identity(2), torch.ones(2).double(), CG(), callback=bar)
    """

    def __init__(
        self,
        tol: float,
        callback: Callback | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.tol, self.callback, self.clock = tol, callback, clock
        self.stream = sys.stderr if stream is None else stream
        self.live = _rewritable(self.stream)
        self.start = clock()
        self.times: list[float] = []
        self.residuals: list[float] = []
        self._shown, self._drawn, self._phase = "", -math.inf, ""
        self._last: Progress | None = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def __call__(self, progress: Progress) -> Any:
        now = self.clock()
        if progress.phase == "iterate":
            self.times.append(now)
            self.residuals.append(progress.residual)
        self._last = progress
        new, self._phase = progress.phase != self._phase, progress.phase
        if new or now - self._drawn >= (REDRAW if self.live else REPRINT):
            self._draw(now)
        return self.callback(progress) if self.callback is not None else None

    def close(self) -> None:
        """Show the last state, and leave the line."""
        if self._last is not None:
            self._draw(self.clock())
            if self.live:
                self._write("\n")
        self._last = None

    def line(self, now: float) -> str:
        """The state as text."""
        p = self._last
        if p is None:
            return ""
        if p.phase != "iterate":
            done = f" {p.iteration}/{p.total}" if p.total > 1 else ""
            return f"{p.phase}{done}, {_clock(now - self.start)}"
        r = self.residuals[-1]
        share = min(1.0, max(0.0, math.log(r) / math.log(self.tol))) if r > 0 else 1.0
        filled = round(CELLS * share) if not math.isnan(share) else 0
        rate, left = pace(self.times, self.residuals, self.tol)
        parts = [
            f"[{'#' * filled}{'.' * (CELLS - filled)}] iteration {p.iteration}",
            f"residual {r:.1e} of {self.tol:.1e}",
            "" if rate is None else f"x {rate:.2g} an iteration",
            _clock(now - self.start),
            "" if left is None else f"about {_clock(left)} left",
        ]
        return ", ".join(filter(None, parts))

    def _draw(self, now: float) -> None:
        line, self._drawn = self.line(now), now
        if self.live:
            self._write("\r" + line.ljust(len(self._shown)))
        elif line != self._shown:
            self._write(line + "\n")
        self._shown = line

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def pace(times: Sequence[float], residuals: Sequence[float], tol: float) -> tuple[float | None, float | None]:
    """The factor by which an iteration changes the residual, and the seconds left until ``tol``.

    Both by least squares through the logarithms of the later half; None before there are five iterations, and
    no time where the residual does not fall.

    Examples
    --------
    >>> rate, left = pace([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5], 1e-7)
    >>> round(rate, 6), round(left, 6)
    (0.1, 2.0)
    """
    half = len(residuals) // 2
    points = [
        (t, k, math.log(r))
        for k, (t, r) in enumerate(zip(times, residuals))
        if k >= half and 0 < r < math.inf
    ]
    if len(residuals) < 5 or len(points) < 3:
        return None, None
    by_step = _slope([k for _, k, _ in points], [v for _, _, v in points])
    by_time = _slope([t for t, _, _ in points], [v for _, _, v in points])
    missing = points[-1][2] - math.log(tol)
    left = max(0.0, missing / -by_time) if by_time < 0 else None
    return math.exp(by_step), left


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / spread if spread > 0 else 0.0


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _rewritable(stream: Any) -> bool:
    """Whether a carriage return goes back to the start of the line: terminals and notebooks."""
    if "ipykernel" in type(stream).__module__:
        return True
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


@contextlib.contextmanager
def shown(progress: bool, tol: float, callback: Callback | None) -> Iterator[Callback | None]:
    """The callback of a solve, with a line on standard error around it if ``progress`` asks for one."""
    if not progress:
        yield callback
        return
    with ProgressBar(tol, callback) as bar:
        yield bar

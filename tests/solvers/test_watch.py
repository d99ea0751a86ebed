"""An iteration ends when its callback, the clock or Ctrl-C says so."""

from __future__ import annotations

import signal

import pytest
import torch

from kerngp.solvers import Progress, Status
from kerngp.solvers.watch import Watch

STEP = Progress(1, 10, torch.ones(1), 1)


def test_goes_on_without_a_reason_to_stop():
    with Watch(callback=lambda p: None, time_limit=1e9) as watch:
        assert watch.verdict(STEP) is None
        assert 0 < watch.remaining <= 1e9


def test_callback_and_clock():
    with Watch(callback=lambda p: p.iteration == 1) as watch:
        assert watch.verdict(STEP) is Status.stopped
    with Watch(time_limit=0.0) as watch:
        assert watch.verdict(STEP) is Status.time_limit


def test_first_interrupt_is_a_request_and_the_second_an_exception():
    before = signal.getsignal(signal.SIGINT)
    with Watch() as outer, Watch() as inner:
        signal.raise_signal(signal.SIGINT)
        assert inner.verdict(STEP) is Status.stopped and outer.interrupted
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_handler_of_the_users_is_left_alone():
    seen = []
    before = signal.signal(signal.SIGINT, lambda *a: seen.append(a))
    try:
        with Watch() as watch:
            signal.raise_signal(signal.SIGINT)
            assert seen and watch.verdict(STEP) is None
    finally:
        signal.signal(signal.SIGINT, before)

"""The progress line: what it says, when it is drawn, and how long it thinks things will take."""

from __future__ import annotations

import io

import pytest
import torch

from kerngp import LazyTensor
from kerngp.engine.expr import Vi, Vj
from kerngp.engine.formulas import FORMULAS
from kerngp.solvers import (
    CG,
    Dense,
    KernelOperator,
    Progress,
    Status,
    identity,
    kernel_solve,
    solve,
    solve_path,
)
from kerngp.solvers.progress import REPRINT, ProgressBar, pace


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def step(bar, clock, k, residual, seconds=1.0, phase="iterate"):
    clock.now += seconds
    r = torch.tensor([residual]) if residual is not None else torch.zeros(0)
    return bar(Progress(k, 100, r, 1, phase))


def filled(stream=None, steps=8, **kwargs):
    clock = Clock()
    bar = ProgressBar(1e-6, stream=stream or Terminal(), clock=clock, **kwargs)
    for k in range(1, steps + 1):
        step(bar, clock, k, 10 ** (-0.5 * k))
    return bar, clock


class TestPace:
    def test_exact_for_geometric_residuals(self):
        rate, left = pace([2.0 * k for k in range(10)], [0.5**k for k in range(10)], 0.5**12)
        assert rate == pytest.approx(0.5) and left == pytest.approx(6.0)

    def test_the_later_half_counts(self):
        residuals = [1.0] * 10 + [0.1**k for k in range(1, 11)]
        rate, _ = pace(range(20), residuals, 1e-12)
        assert rate == pytest.approx(0.1)

    def test_no_promise_without_progress(self):
        rate, left = pace(range(10), [1.0 + k for k in range(10)], 1e-6)
        assert rate > 1 and left is None
        assert pace(range(4), [1.0] * 4, 1e-6) == (None, None)

    def test_zeros_and_nans_are_left_out(self):
        assert pace(range(6), [0.0] * 6, 1e-6) == (None, None)
        rate, _ = pace(range(10), [1.0, float("nan"), *[0.5**k for k in range(8)]], 1e-6)
        assert rate == pytest.approx(0.5)

    def test_done_is_done(self):
        assert pace(range(6), [0.1**k for k in range(6)], 1e-2)[1] == 0.0


class TestLine:
    def test_content(self):
        bar, clock = filled()
        line = bar.line(clock.now)
        assert "iteration 8" in line and "residual 1.0e-04 of 1.0e-06" in line
        assert "x 0.32 an iteration" in line and "about 4.0 s left" in line
        assert line.startswith("[#############.......]")

    def test_phases(self):
        clock = Clock()
        bar = ProgressBar(1e-6, stream=Terminal(), clock=clock)
        step(bar, clock, 0, None, phase="preconditioner: Vecchia, 40 neighbours")
        assert bar.line(3.0) == "preconditioner: Vecchia, 40 neighbours 0/100, 3.0 s"

    @pytest.mark.parametrize("residual", [0.0, float("nan"), float("inf"), 3.0])
    def test_strange_residuals(self, residual):
        clock = Clock()
        bar = ProgressBar(1e-6, stream=Terminal(), clock=clock)
        step(bar, clock, 1, residual)
        assert "iteration 1" in bar.line(1.0)

    def test_long_times(self):
        bar, clock = filled()
        clock.now += 4000
        assert "1:06:48" in bar.line(clock.now)


class TestDrawing:
    def test_one_line_on_a_terminal(self):
        stream = Terminal()
        bar, _ = filled(stream)
        bar.close()
        text = stream.getvalue()
        assert text.count("\n") == 1 and text.endswith("\n") and text.count("\r") == 9

    def test_shorter_lines_wipe_longer_ones(self):
        stream, clock = Terminal(), Clock()
        bar = ProgressBar(1e-6, stream=stream, clock=clock)
        step(bar, clock, 0, None, phase="a long phase " * 5)
        step(bar, clock, 0, None, phase="short")
        first, second = stream.getvalue().split("\r")[1:]
        assert len(second) >= len(first)

    def test_not_too_often(self):
        stream, clock = Terminal(), Clock()
        bar = ProgressBar(1e-6, stream=stream, clock=clock)
        for k in range(100):
            step(bar, clock, k, 0.5, seconds=0.001)
        assert stream.getvalue().count("\r") == 1

    def test_plain_lines_elsewhere(self):
        stream = io.StringIO()
        bar, clock = filled(stream)
        step(bar, clock, 9, 1e-5, seconds=REPRINT)
        bar.close()
        text = stream.getvalue()
        assert "\r" not in text and text.count("\n") == 2

    def test_notebooks(self):
        stream = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
        bar, _ = filled(stream)
        assert "\r" in stream.getvalue() and bar.live

    def test_closing_twice_and_unused(self):
        stream = Terminal()
        with ProgressBar(1e-6, stream=stream) as bar:
            bar.close()
        assert stream.getvalue() == ""


class TestSolve:
    def test_the_bar_of_a_solve(self, capsys):
        A = Dense(torch.diag(torch.linspace(1, 50, 50)).double(), psd=True)
        solve(A, torch.ones(50).double(), CG(), progress=True)
        captured = capsys.readouterr()
        assert captured.out == "" and "residual" in captured.err and "of 1.0e-06" in captured.err

    def test_the_bar_of_a_path_and_of_a_kernel_system(self, capsys):
        K = Dense(torch.diag(torch.linspace(1, 50, 50)).double(), psd=True)
        b = torch.ones(50).double()
        x = LazyTensor(b[:, None, None]), LazyTensor(b[None, :, None])
        for run in (
            lambda **w: solve_path(K, b, [0.1, 1.0], CG(), **w),
            lambda **w: kernel_solve(K, b, 0.1, method="cg", **w),
            lambda **w: (x[0] * x[1]).solve(b[:, None], method="cg", alpha=1.0, **w),
        ):
            run()
            assert capsys.readouterr().err == ""
            run(progress=True)
            assert "of 1.0e-06" in capsys.readouterr().err

    def test_the_callers_callback_is_called_and_heard(self, capsys):
        A = Dense(torch.diag(torch.linspace(1, 50, 50)).double(), psd=True)
        seen = []

        def stop(p):
            seen.append(p.iteration)
            return len(seen) == 3

        s = solve(A, torch.ones(50).double(), CG(), progress=True, callback=stop)
        assert s.status is Status.stopped and seen == [1, 2, 3]
        assert "iteration 3" in capsys.readouterr().err

    def test_phases_of_a_choice(self, capsys):
        from kerngp import options

        x = torch.rand(800, 2, dtype=torch.float64)
        K = KernelOperator(FORMULAS["matern32"](Vi(0, 2), Vj(1, 2)), (x, x), psd=True)
        with options.options(memory_limit=1 << 21):
            solve(K + 0.1 * identity(800), torch.ones(800).double(), progress=True)
        text = capsys.readouterr().err
        assert text.index("measuring") < text.index("race of preconditioners") < text.index("residual")

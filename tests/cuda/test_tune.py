"""Schedules chosen by measuring: every variant is right, the fastest is taken, once, and remembered."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from comparison import arguments, assert_matches_reference

from kerngp.engine import cuda_choice, ops
from kerngp.engine.backends import cuda, cuda_tune
from kerngp.engine.backends.cuda_tune import Tuner
from kerngp.engine.cuda_planner import Gpu
from kerngp.engine.cuda_variants import variants
from kerngp.engine.expr import Expr, Vi, Vj
from kerngp.engine.mapreduce import map_reduce
from kerngp.engine.plan import Output
from kerngp.engine.planner import prepare
from kerngp.engine.reductions import KMIN_ARGKMIN, LOGSUMEXP, MIN_ARGMIN, SUM
from kerngp.engine.symmetry import halve
from kerngp.errors import CompileError, OptionError
from kerngp.options import Options

TUNED = Options(backend="cuda", autotune=True)


def q(D: int) -> Expr:
    return ops.sqdist(Vi(0, D), Vj(1, D))


CASES = {
    "narrow": (ops.exp(-q(3)) * Vj(2, 1), SUM),
    "columns": (ops.exp(-q(3)) * Vj(2, 5), SUM),
    "logsumexp": (-q(2), LOGSUMEXP),
    "argmin": (q(3), MIN_ARGMIN),
    "neighbours": (q(3), KMIN_ARGKMIN(3)),
    "wide": (ops.exp(-q(20)) * Vj(2, 1), SUM),
}


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing remembered, on disk or in memory."""
    monkeypatch.setenv("KERNGP_CACHE_DIR", str(tmp_path))
    cuda_tune._cell.cache_clear()


class Clock:
    """Says that schedules of so many rows are fast, and counts the measurements."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, mock: cuda.Device, rows: int):
        self.rows, self.measured, self.now = rows, 0, 0
        find = cuda.kernels
        monkeypatch.setattr(cuda, "kernels", self._note(find))
        device = replace(mock, tuner=Tuner("test", self))
        monkeypatch.setattr(cuda, "device_of", lambda place: device)

    def _note(self, find):
        def kernels(plan, device):
            self.now = plan.schedule.rows
            return find(plan, device)

        return kernels

    def __call__(self, work) -> float:
        self.measured += 1
        work()
        return 1.0 if self.now == self.rows else 2.0


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_every_variant_computes_the_same(case: str, tensor: bool, mock, monkeypatch) -> None:
    f, r = CASES[case]
    if tensor:
        monkeypatch.setattr(cuda_choice, "TENSOR_ABOVE", 1)
        monkeypatch.setattr(cuda_choice, "SELECT_ABOVE", 0)
    args = arguments(f, 70, 300, torch.float32, scale=0.3)
    shapes = prepare((Output(f, r),), 3, "float32", Gpu("sm_90", tensor=tensor), tensor, False)
    assert shapes is not None
    found = variants(shapes.plan)
    assert len(found) >= 4
    for s in found:
        monkeypatch.setattr(cuda, "tuned", lambda plan, *a, s=s: replace(plan, schedule=s))
        assert_matches_reference(f, r, args, options=TUNED, tol=512)


def test_symmetric_sums_too(mock, monkeypatch) -> None:
    monkeypatch.setattr(cuda_choice, "HALVE_ABOVE", 1)
    f = ops.exp(-q(3)) * Vj(2, 1)
    half = halve(Output(f, SUM), 3, ((0, 1),))
    assert half is not None
    ready = prepare(half.outputs, 4, "float32", Gpu("sm_90"), False, True)
    assert ready is not None
    x, b = torch.rand(300, 3), torch.randn(300, 1)
    for s in variants(ready.plan):
        monkeypatch.setattr(cuda, "tuned", lambda plan, *a, s=s: replace(plan, schedule=s))
        assert_matches_reference(f, SUM, (x, x, b), options=TUNED)


def test_the_fastest_is_taken_and_remembered(mock, monkeypatch) -> None:
    clock = Clock(monkeypatch, mock, rows=4)
    f, r = CASES["narrow"]
    args = arguments(f, 500, 300, torch.float32)
    assert_matches_reference(f, r, args, options=TUNED)
    assert clock.now == 4  # the table says 8
    before = clock.measured
    assert before > cuda_tune.TURNS
    map_reduce(f, r, args, options=TUNED)
    cuda_tune._cell.cache_clear()  # as in another process
    map_reduce(f, r, args, options=TUNED)
    assert clock.now == 4 and clock.measured == before
    map_reduce(f, r, args, options=Options(backend="cuda"))
    assert clock.measured == before  # nothing is measured unless asked for
    map_reduce(f, r, arguments(f, 4000, 300, torch.float32), options=TUNED)
    assert clock.measured > before  # other sizes are another kind of call


def test_variants_that_do_not_compile_are_passed_over(mock, monkeypatch) -> None:
    clock = Clock(monkeypatch, mock, rows=4)
    find = cuda.kernels

    def kernels(plan, device):
        if plan.schedule.rows == 4:
            raise CompileError("too many registers")
        return find(plan, device)

    monkeypatch.setattr(cuda, "kernels", kernels)
    f, r = CASES["narrow"]
    assert_matches_reference(f, r, arguments(f, 500, 300, torch.float32), options=TUNED)
    assert clock.now == 8


def test_the_option_is_checked() -> None:
    with pytest.raises(OptionError, match="autotune=1"):
        Options(autotune=1)  # type: ignore[arg-type]

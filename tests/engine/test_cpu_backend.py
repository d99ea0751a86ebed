"""Generated code against the reference in float64: formulas, dims, columns, tails, threads, memory."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from comparison import CPU, EPS, REFERENCE, arguments, assert_close, assert_matches_reference, exact

from kerngp.engine import ops
from kerngp.engine.backends import cpu, jit
from kerngp.engine.expr import Expr, Pm, Vi, Vj
from kerngp.engine.mapreduce import map_reduce, map_reduce_many
from kerngp.engine.plan import Output
from kerngp.engine.reductions import (
    ARGKMIN,
    ARGMAX,
    ARGMIN,
    KMIN,
    KMIN_ARGKMIN,
    LOGSUMEXP,
    MAX,
    MAX_ARGMAX,
    MIN,
    MIN_ARGMIN,
    SUM,
    Reduction,
)
from kerngp.options import Options

EXACT = Options(backend="cpu", precision="exact")


@pytest.fixture
def no_launch() -> None:
    """For tests that look at generated code without running it."""


@pytest.fixture(autouse=True)
def _compiled_code_runs(launches, request: pytest.FixtureRequest) -> Iterator[None]:
    """A test of this file that never reaches generated code tests nothing."""
    yield
    if "no_launch" not in request.fixturenames:
        assert launches.compiled > 0, "no generated code ran"


def tensor(x) -> torch.Tensor:
    assert isinstance(x, torch.Tensor)
    return x


# ---------------------------------------------------------------- formulas and dimensions


def x_(D: int) -> Expr:
    return Vi(0, D)


def y_(D: int) -> Expr:
    return Vj(1, D)


def _periodic(D: int) -> Expr:
    return ops.exp(-2.0 * ops.sqnorm2(ops.sin(3.0 * (x_(D) - y_(D)))))


def _linear_part(D: int) -> Expr:
    return ops.dot(x_(D), y_(D))


FORMULAS: dict[str, Callable[[int], Expr]] = {
    "gaussian": lambda D: ops.exp(-ops.sqdist(x_(D), y_(D))),
    "laplacian": lambda D: ops.exp(-ops.norm2(x_(D) - y_(D))),
    "matern32": lambda D: ops.matern32_profile(ops.sqdist(x_(D), y_(D))),
    "matern52": lambda D: ops.matern52_profile(ops.sqdist(x_(D) * Pm(3, D), y_(D) * Pm(3, D))),
    "L1 laplacian": lambda D: ops.exp(-ops.total(abs(x_(D) - y_(D)))),
    "polynomial": lambda D: (_linear_part(D) + 1.0) ** 3,
    "periodic": _periodic,
    "cauchy": lambda D: ops.inv(1.0 + ops.sqdist(x_(D), y_(D))),
    "rational quadratic": lambda D: (1.0 + 0.4 * ops.sqdist(x_(D), y_(D))) ** (-1.25 * Pm(3, 1)),
    "linear": _linear_part,
    "several fields": lambda D: (
        ops.exp(-ops.sqdist(x_(D), y_(D)) - abs(Vi(3, 1) - Vj(4, 1))) * (1.0 + ops.cos(Vi(3, 1) * Vj(4, 1)))
        + Pm(5, 1) * _linear_part(D)
    ),
}
DIMENSIONS = [1, 2, 3, 5, 10, 16, 17, 33, 100, 200]
CASES = [("gaussian", D) for D in DIMENSIONS] + [
    (name, D) for name in FORMULAS if name != "gaussian" for D in (1, 3, 33)
]


@pytest.mark.parametrize(("name", "D"), CASES)
def test_formulas(name: str, D: int) -> None:
    """Kernel sums in float32, with the differences and, where the planner may, with inner products."""
    f = FORMULAS[name](D) * Vj(2, 1)
    assert cpu.supports((Output(f, SUM),))
    args = arguments(f, 33, 71, torch.float32, scale=1.0 / math.sqrt(D))
    assert_matches_reference(f, SUM, args, options=EXACT, tol=128)
    # an expanded distance has the absolute error eps (|x|^2 + |y|^2), which are of order 1 here
    assert_matches_reference(f, SUM, args, tol=256)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("D", [3, 33])
def test_formulas_in_float64(name: str, D: int) -> None:
    f = FORMULAS[name](D) * Vj(2, 1)
    args = arguments(f, 33, 71, torch.float64, scale=1.0 / math.sqrt(D))
    assert_matches_reference(f, SUM, args, tol=256)


@pytest.mark.parametrize("E", [1, 2, 3, 5, 64, 70])
@pytest.mark.parametrize("D", [3, 33])
def test_signal_columns(D: int, E: int, dtype: torch.dtype) -> None:
    f = FORMULAS["gaussian"](D) * Vj(2, E)
    args = arguments(f, 33, 300, dtype, scale=1.0 / math.sqrt(D))
    assert_matches_reference(f, SUM, args, tol=256)


@pytest.mark.usefixtures("no_launch")
def test_columns_are_no_part_of_the_code() -> None:
    """Another number of columns compiles nothing; nor do other sizes, or another k of k-min."""

    def code(f: Expr, r: Reduction = SUM) -> str:
        return cpu.source((Output(f, r),))

    q = FORMULAS["gaussian"](3)
    assert len({code(q * Vj(2, E)) for E in (2, 3, 5, 64, 70)}) == 1
    assert len({code(q, KMIN_ARGKMIN(k)) for k in (2, 3, 10, 50)}) == 1


ALL = [
    SUM,
    LOGSUMEXP,
    MIN,
    MAX,
    ARGMIN,
    ARGMAX,
    MIN_ARGMIN,
    MAX_ARGMAX,
    KMIN(4),
    ARGKMIN(4),
    KMIN_ARGKMIN(10),
]


@pytest.mark.parametrize("r", ALL, ids=repr)
@pytest.mark.parametrize(("D", "dtype"), [(3, torch.float32), (3, torch.float64), (33, torch.float32)])
def test_reductions(r: Reduction, D: int, dtype: torch.dtype) -> None:
    f = ops.sqdist(Vi(0, D), Vj(1, D))
    assert cpu.supports((Output(f, r),), dtype)
    for M, N in ((33, 71), (70, 1000)):
        args = arguments(f, M, N, dtype, scale=1.0 / math.sqrt(D))
        assert_matches_reference(f, r, args, tol=256)
        assert_matches_reference(f, r, args, axis="i", tol=256)


@pytest.mark.parametrize("r", [SUM, LOGSUMEXP, MAX_ARGMAX, KMIN_ARGKMIN(3)], ids=repr)
@pytest.mark.parametrize("dim", [2, 5, 20])
def test_reductions_of_vectors(r: Reduction, dim: int) -> None:
    f = Vi(0, dim) * ops.sin(Vj(1, dim)) + Vi(2, 1)
    assert_matches_reference(f, r, arguments(f, 33, 71, torch.float32))


TAILS = [1, 7, 31, 33, 257, 1000]


@pytest.mark.parametrize("scheme", ["sum", "columns", "wide", "logsumexp", "argmin", "kmin", "both axes"])
def test_tails(scheme: str) -> None:
    """All pairs of awkward sizes; nothing outside the arrays may count."""
    q = ops.sqdist(Vi(0, 3), Vj(1, 3))
    f, r = {
        "sum": (ops.exp(-q) * Vj(2, 1), SUM),
        "columns": (ops.exp(-q) * Vj(2, 5), SUM),
        "wide": (ops.exp(-ops.sqdist(Vi(0, 33), Vj(1, 33))) * Vj(2, 1), SUM),
        "logsumexp": (-q, LOGSUMEXP),
        "argmin": (q, MIN_ARGMIN),
        "kmin": (q, KMIN_ARGKMIN(1)),
        "both axes": (ops.exp(-q) * Vj(2, 1) * Vi(3, 1), SUM),
    }[scheme]
    for M in TAILS:
        for N in TAILS:
            args = arguments(f, M, N, torch.float32, scale=0.3)
            assert_matches_reference(f, r, args, axis="ij" if scheme == "both axes" else "j", tol=256)
            if scheme == "both axes":
                outputs = (Output(f, SUM, "j"), Output(f, SUM, "i"))
                for o, (got,) in zip(outputs, map_reduce_many(outputs, args, options=CPU), strict=True):
                    (want,) = exact(f, SUM, args, axis=o.axis)
                    (size,) = exact(ops.absolute(f), SUM, args, axis=o.axis)
                    assert_close(got, want, 256 * EPS[torch.float32] * size, f"{o} at {M}, {N}")


# ---------------------------------------------------------------- parameters whose sign decides the code


@pytest.mark.parametrize(
    "rates",
    [[0.7], [-0.7], [0.0], [-0.0], [math.nan], [-500.0], [500.0], [0.5, -0.5], [1.0, 2.0], [0.0, -300.0]],
)
def test_rates_of_any_sign(rates: list[float]) -> None:
    """exp(-p q) is cheap to compute for p >= 0 only; p is data, known at the call."""
    f = ops.exp(-Pm(3, 1) * ops.sqdist(Vi(0, 2), Vj(1, 2))) * Vj(2, 1)
    x, y, b = arguments(f, 33, 71, torch.float64)[:3]
    p = torch.tensor(rates, dtype=torch.float64)[:, None] if len(rates) > 1 else torch.tensor(rates).double()
    assert_matches_reference(f, SUM, (x, y, b, p), tol=4096)
    g = ops.exp(-ops.sqdist(Vi(0, 2), Vj(1, 2)) / Pm(3, 1)) * ops.exp(Pm(3, 1) * Vi(0, 2)[0])
    if min(map(abs, rates)) > 0:
        assert_matches_reference(g, SUM, (x, y, b, p), tol=4096)


def test_products_of_exponentials() -> None:
    """Merged into one exponential: as accurate as the factors, also where one of them overflows."""
    x, y = Vi(0, 1), Vj(1, 1)
    f = ops.exp(-ops.square(x - y)) * ops.exp(-abs(x - y)) * ops.exp(0.5 * x) * Vj(2, 1)
    assert_matches_reference(f, SUM, arguments(f, 33, 71, torch.float32), tol=128)
    # factors of opposite size: the product is finite, and the merged form may only be better
    near = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    g = ops.exp(100.0 * x) * ops.exp(-100.0 * y)
    assert_matches_reference(g, SUM, (near, near), tol=4096)


# ---------------------------------------------------------------- symmetric sums


@pytest.mark.cpu_only
@pytest.mark.parametrize("M", [1024, 1500])
@pytest.mark.parametrize("D", [3, 33])
def test_symmetric_sums_visit_each_pair_once(M: int, D: int, dtype: torch.dtype, monkeypatch) -> None:
    f = FORMULAS["gaussian"](D) * Vj(2, 1) * Vi(3, 1)
    x = torch.randn(M, D, dtype=dtype) / math.sqrt(D)
    b, c = torch.randn(M, 1, dtype=dtype), torch.randn(M, 1, dtype=dtype)
    seen: list[bool] = []
    prepare = cpu.prepare
    monkeypatch.setattr(cpu, "prepare", lambda *a: seen.append(a[5]) or prepare(*a))
    assert_matches_reference(f, SUM, (x, x, b, c), tol=256)
    assert seen and all(seen), "both triangles were visited"
    seen.clear()
    assert_matches_reference(f, SUM, (x, x.clone(), b, c), tol=256)
    assert not any(seen)


@pytest.mark.parametrize("batch", [{0: (2,), 2: (2,)}, {3: (2,)}, {2: (3, 1), 3: (2,)}], ids=str)
def test_symmetric_sums_with_batches(batch: dict) -> None:
    f = ops.exp(-Pm(3, 1) * ops.sqdist(Vi(0, 3), Vj(1, 3))) * Vj(2, 1)
    args = arguments(f, 1100, 1100, torch.float32, positive=True, batch={1: (), **batch})
    args = (args[0], args[0], *args[2:])
    assert_matches_reference(f, SUM, args, tol=256)


def test_formulas_that_are_not_symmetric_are_not_halved() -> None:
    x = torch.randn(1100, 3)
    b = torch.randn(1100, 1)
    for f in (
        ops.exp(-ops.sqdist(x_(3), 1.01 * y_(3))) * Vj(2, 1),
        ops.exp(-ops.sqdist(x_(3), y_(3)) + x_(3)[0]) * Vj(2, 1),
        ops.step(x_(3)[0] - y_(3)[0]) * Vj(2, 1),
    ):
        assert_matches_reference(f, SUM, (x, x, b), tol=256)


# ---------------------------------------------------------------- threads


def _thread_cases() -> dict[str, tuple[tuple[Output, ...], int]]:
    q = ops.sqdist(Vi(0, 3), Vj(1, 3))
    k = ops.exp(-q)
    return {
        "sum": ((Output(k * Vj(2, 1), SUM),), 3),
        "columns": ((Output(k * Vj(2, 5), SUM),), 3),
        "logsumexp": ((Output(-q, LOGSUMEXP),), 3),
        "argmin": ((Output(q, MIN_ARGMIN),), 3),
        "kmin": ((Output(q, KMIN_ARGKMIN(5)),), 3),
        "column sums": ((Output(k * Vj(2, 1), SUM), Output(k * Vi(3, 1), SUM, "i")), 3),
        "wide": ((Output(ops.exp(-ops.sqdist(Vi(0, 64), Vj(1, 64))) * Vj(2, 1), SUM),), 64),
    }


@pytest.mark.parametrize("case", _thread_cases())
@pytest.mark.parametrize(("M", "N"), [(1500, 1003), (3, 500_000), (50_001, 31)])
def test_results_do_not_depend_on_threads(case: str, M: int, N: int) -> None:
    """Bit for bit; both many rows (threads share i) and few rows (they share j)."""
    outputs, D = _thread_cases()[case]
    if D > 3:
        M, N = max(1, M // 4), N // 4
    args = arguments([o.expr for o in outputs], M, N, torch.float32, scale=1.0 / math.sqrt(D))
    results = []
    for threads in (1, 2, 3, 2):
        found = map_reduce_many(outputs, args, options=Options(backend="cpu", threads=threads))
        results.append([x for out in found for x in out])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    # and they are right: a few rows against the definition
    o = outputs[0]
    rows = slice(0, min(M, 5))
    few = tuple(a[rows] if k in (0, 3) else a for k, a in enumerate(args))
    want = map_reduce(o.expr, o.reduction, few, options=Options(backend="reference"))
    want = want if isinstance(want, tuple) else (want,)
    for got, w in zip(results[0], want, strict=False):
        got = got[rows]
        if got.dtype != torch.int64:
            assert_close(got, w, 1e-5 * (1 + w.abs().double().max()), case)
        else:
            assert float((got == w).double().mean()) > 0.7  # ties of rounding apart


def test_symmetric_sum_does_not_depend_on_threads() -> None:
    f = FORMULAS["gaussian"](3) * Vj(2, 1)
    x, b = torch.randn(2500, 3), torch.randn(2500, 1)
    first, *others = (
        tensor(map_reduce(f, SUM, (x, x, b), options=Options(backend="cpu", threads=t))) for t in (1, 2, 3)
    )
    assert all(torch.equal(first, other) for other in others)


def test_calls_from_many_threads_at_once() -> None:
    """New formulas compiled and run concurrently: no result may be another call's."""
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for k in range(3):
                f = ops.exp(-(0.5 + k) * ops.sqdist(Vi(0, 2), Vj(1, 2))) * Vj(2, 1 + seed % 2)
                assert_matches_reference(f, SUM, arguments(f, 200 + seed, 300, torch.float32))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]


# ---------------------------------------------------------------- accuracy of long sums


@pytest.mark.parametrize("scheme", ["one column", "columns", "over i", "logsumexp", "gaussian"])
def test_a_float32_sum_of_a_million_terms_keeps_float32_accuracy(scheme: str) -> None:
    n = 1_000_000
    long = 0.05 + torch.rand(n, 1)
    short = torch.rand(3, 1)
    if scheme == "columns":
        f: Expr = ops.exp(-Vi(0, 1)) * Vj(1, 3)
        got = tensor(map_reduce(f, SUM, (short, long.expand(n, 3)), options=CPU))
    elif scheme == "over i":
        f = ops.exp(-Vj(0, 1)) * Vi(1, 1)
        got = tensor(map_reduce(f, SUM, (short, long), axis="i", options=CPU))
    elif scheme == "logsumexp":
        f = ops.log(Vj(1, 1)) - Vi(0, 1)
        got = tensor(map_reduce(f, LOGSUMEXP, (short, long), options=CPU))
        want = math.log(float(long.double().sum())) - short.double()
        assert_close(got, want, 4e-6, scheme)
        return
    elif scheme == "gaussian":
        f = ops.exp(-ops.square(Vi(0, 1) - Vj(1, 1)))
        got = tensor(map_reduce(f, SUM, (short, long), options=CPU))
        want = torch.exp(-(short.double() - long.double().t()).square()).sum(1, keepdim=True)
        assert_close(got, want, 2e-7 * want, scheme)
        return
    else:
        f = ops.exp(-Vi(0, 1)) * Vj(1, 1)
        got = tensor(map_reduce(f, SUM, (short, long), options=CPU))
    want = torch.exp(-short.double()) * long.double().sum()
    assert_close(got, want.expand(got.shape), 5e-7 * want.abs().max(), scheme)


def test_alternating_sum_cancels() -> None:
    n = 1_000_000
    signs = torch.ones(n, 1)
    signs[1::2] = -1
    got = tensor(map_reduce(Vj(0, 1) * (1.0 + Vi(1, 1)), SUM, (signs, torch.zeros(2, 1)), options=CPU))
    assert torch.equal(got, torch.zeros(2, 1))


# ---------------------------------------------------------------- expanded distances


def _spread(
    shift: float, width: float, D: int = 64, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, ...]:
    x = width * torch.randn(50, D, dtype=dtype) / math.sqrt(D) + shift
    y = width * torch.randn(70, D, dtype=dtype) / math.sqrt(D) + shift
    return x, y, torch.randn(70, 1, dtype=dtype)


@pytest.fixture
def expanded(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each pass, whether distances were expanded."""
    seen: list[bool] = []
    prepare = cpu.prepare

    def recorded(*given):
        seen.append(bool(given[4]))
        return prepare(*given)

    monkeypatch.setattr(cpu, "prepare", recorded)
    return seen


GAUSS64 = ops.exp(-ops.sqdist(Vi(0, 64), Vj(1, 64))) * Vj(2, 1)


@pytest.mark.cpu_only
@pytest.mark.parametrize("shift", [0.0, 3.0, -40.0, 1e4])
def test_data_far_from_the_origin(shift: float, expanded: list[bool]) -> None:
    """At an offset of 1e4, |x|^2 is 6e9 and a plain expansion would lose every digit."""
    args = _spread(shift, 1.0)
    near = tensor(map_reduce(GAUSS64, SUM, args, options=CPU))
    differences = tensor(map_reduce(GAUSS64, SUM, args, options=EXACT))
    (want,) = exact(GAUSS64, SUM, args)
    (size,) = exact(ops.absolute(GAUSS64), SUM, args)
    assert expanded == [True, False]
    assert_close(differences, want, 128 * EPS[torch.float32] * size, "differences")
    # the promise on the error of a squared distance, times the slope of exp
    assert_close(near, want, 1.5 * cpu.NEAR * size, "inner products")


@pytest.mark.cpu_only
def test_widely_spread_data_takes_differences(expanded: list[bool]) -> None:
    """Two clusters far apart: no centre helps, the error bound forbids the expansion."""
    x, y, b = _spread(0.0, 1.0)
    x[25:] += 3000.0
    y[35:] += 3000.0
    assert_matches_reference(GAUSS64, SUM, (x, y, b), tol=128)
    assert expanded == [False]


def test_the_guard_sees_nan_and_infinity(expanded: list[bool]) -> None:
    for bad in (math.nan, math.inf):
        x, y, b = _spread(0.0, 1.0)
        y[3, 5] = bad
        got = tensor(map_reduce(GAUSS64, SUM, (x, y, b), options=CPU))
        want = tensor(map_reduce(GAUSS64, SUM, (x, y, b), options=REFERENCE))
        assert_close(got, want, 1e-5, f"{bad}")
    assert not any(expanded)


@pytest.mark.cpu_only
def test_exact_precision_never_expands(expanded: list[bool]) -> None:
    args = _spread(0.0, 1.0)
    assert_matches_reference(GAUSS64, SUM, args, options=EXACT, tol=128)
    assert expanded == [False]


@pytest.mark.cpu_only
def test_small_distances_of_the_expanded_form_are_not_negative(expanded: list[bool]) -> None:
    x, _, _ = _spread(2.0, 1.0)
    f = ops.norm2(Vi(0, 64) - Vj(1, 64))  # a square root of something negative would be NaN
    got = tensor(map_reduce(f, MIN, (x, x), options=CPU))
    assert bool((got >= 0).all()) and bool((got < 0.05).all())
    assert expanded == [True]


# ---------------------------------------------------------------- memory

MEMORY = """
import torch
def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) // 1024
torch.set_num_threads(2)
from kerngp.engine import ops
from kerngp.engine.expr import Vi, Vj
from kerngp.engine.mapreduce import map_reduce
from kerngp.engine.reductions import KMIN_ARGKMIN, LOGSUMEXP, SUM
q = ops.sqdist(Vi(0, 3), Vj(1, 3))
calls = [(ops.exp(-q) * Vj(2, 1), SUM), (ops.exp(-q) * Vj(2, 8), SUM), (-q, LOGSUMEXP), (q, KMIN_ARGKMIN(5))]
def run(M, N):
    x, y = torch.rand(M, 3), torch.rand(N, 3)
    for f, r in calls:
        map_reduce(f, r, (x, y, torch.rand(N, f.dim)))
        map_reduce(f, r, (x, y, torch.rand(N, f.dim)), axis="i") if f.dim == 1 else None
run(100, 100)
try:
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts again here
    before = status("VmRSS")
except OSError:  # not allowed: the peak so far
    before = status("VmHWM")
run({M}, {N})
print(status("VmHWM") - before)
"""


@pytest.mark.usefixtures("no_launch")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_linear(tmp_path) -> None:
    """200,000 x 2,000 pairs would take 1,600 MB as a matrix."""
    out = subprocess.run(
        [sys.executable, "-c", MEMORY.format(M=200_000, N=2_000)], capture_output=True, text=True, check=True
    )
    assert int(out.stdout) < 200, f"{out.stdout} MB above the start"


# ---------------------------------------------------------------- machine code for other processors

REGISTERS = {"avx2": r"\bymm\d+", "avx512": r"\bzmm\d+", "neon": r"\bv\d+\.(4s|2d)"}
ASSEMBLED: dict[str, tuple[Output, ...]] = {
    "gaussian": (Output(FORMULAS["gaussian"](3) * Vj(2, 1), SUM),),
    "columns": (Output(FORMULAS["gaussian"](3) * Vj(2, 8), SUM),),
    "wide": (Output(FORMULAS["gaussian"](64) * Vj(2, 1), SUM),),
    "periodic": (Output(_periodic(2) * Vj(2, 1), SUM),),
    "powers and logarithms": (Output(ops.log(1.0 + ops.sqdist(x_(2), y_(2))) ** Pm(2, 1), SUM),),
    "logsumexp": (Output(-ops.sqdist(x_(3), y_(3)), LOGSUMEXP),),
    "argmin": (Output(ops.sqdist(x_(3), y_(3)), ARGMIN),),
    "kmin": (Output(ops.sqdist(x_(3), y_(3)), ARGKMIN(5)),),
    "gradients": (
        Output(FORMULAS["gaussian"](3) * Vj(2, 1), SUM),
        Output(FORMULAS["gaussian"](3) * Vi(3, 1), SUM, "i"),
    ),
}


@pytest.mark.usefixtures("no_launch")
@pytest.mark.parametrize("target", REGISTERS)
@pytest.mark.parametrize("case", ASSEMBLED)
def test_assembly_is_vectors_without_calls(case: str, target: str) -> None:
    for to in (torch.float32, torch.float64) if case in ("gaussian", "periodic") else (torch.float32,):
        text = jit.assembly(cpu.source(ASSEMBLED[case], to, target), jit.Target.named(target))
        assert len(re.findall(REGISTERS[target], text)) > 50, "no vector registers"
        calls = re.findall(r"^\s+(?:callq?|bl|b|jmp)\s+\*?([A-Za-z_][\w.@]*)", text, re.MULTILINE)
        foreign = {c for c in calls if not c.startswith((".L", "L"))} - _defined(text)
        foreign -= {"memset", "memcpy"}  # LLVM's own, for clearing memory
        assert not foreign, f"calls {foreign}"


def _defined(text: str) -> set[str]:
    """Labels of the module itself."""
    return set(re.findall(r"^([A-Za-z_][\w.]*):", text, re.MULTILINE))


@pytest.mark.usefixtures("no_launch")
@pytest.mark.parametrize("target", REGISTERS)
def test_the_multiplications_are_fused(target: str) -> None:
    text = jit.assembly(cpu.source(ASSEMBLED["gaussian"], torch.float32, target), jit.Target.named(target))
    assert len(re.findall(r"\bvfn?m(?:add|sub)\w*ps\b|\bfml[as]\b", text)) > 10


@pytest.mark.usefixtures("no_launch")
def test_source_is_deterministic() -> None:
    """Equal text means one entry of the cache, in this process and in the next."""
    f = FORMULAS["several fields"](3) * Vj(2, 2)
    code = (
        "import hashlib, sys; sys.path.insert(0, 'tests/engine')\n"
        "from test_cpu_backend import FORMULAS, Output, SUM, Vj, cpu\n"
        "f = FORMULAS['several fields'](3) * Vj(2, 2)\n"
        "print(hashlib.sha256(cpu.source((Output(f, SUM),)).encode()).hexdigest())"
    )
    import hashlib
    import os
    from pathlib import Path

    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(root)},
    )
    assert run.stdout.strip() == hashlib.sha256(cpu.source((Output(f, SUM),)).encode()).hexdigest()


# ---------------------------------------------------------------- what is supported


@pytest.mark.usefixtures("no_launch")
def test_supported_formulas() -> None:
    for build in FORMULAS.values():
        for to in (torch.float32, torch.float64):
            assert cpu.supports((Output(build(5), SUM),), to)
    deep: Expr = Vi(0, 1) * Vj(1, 1)
    for k in range(2000):
        deep = ops.sin(deep + float(k))
    assert not cpu.supports((Output(deep, SUM),))
    with pytest.raises(NotImplementedError):
        cpu.source((Output(deep, SUM),))

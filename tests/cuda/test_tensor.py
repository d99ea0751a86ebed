"""Inner products on tensor cores, emulated: accuracy, the guard, and what does not take this way."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import arguments, assert_matches_reference, exact

from kerngp.engine import cuda_choice, ops
from kerngp.engine.backends import cuda
from kerngp.engine.cuda_planner import Gpu
from kerngp.engine.expr import Expr, Pm, Vi, Vj
from kerngp.engine.mapreduce import map_reduce
from kerngp.engine.plan import Output
from kerngp.engine.planner import prepare
from kerngp.engine.reductions import ARGMIN, KMIN_ARGKMIN, LOGSUMEXP, MIN, SUM
from kerngp.options import Options

CUDA = Options(backend="cuda")


def q(D: int) -> Expr:
    return ops.sqdist(Vi(0, D), Vj(1, D))


def gaussian(D: int) -> Expr:
    return ops.exp(-q(D))


@pytest.fixture(autouse=True)
def _small_calls_too(mock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_choice, "TENSOR_ABOVE", 1)


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each call that launched both forms."""
    seen: list[int] = []
    run = cuda._guarded
    monkeypatch.setattr(cuda, "_guarded", lambda *a: seen.append(1) or run(*a))
    return seen


SIZES = [(1, 1), (7, 33), (130, 65), (300, 500)]


@pytest.mark.parametrize(("M", "N"), SIZES)
@pytest.mark.parametrize("D", [2, 3, 4, 8, 10, 16, 17, 100])
def test_gaussian_sums(D: int, M: int, N: int, guarded) -> None:
    f = gaussian(D) * Vj(2, 1)
    args = arguments(f, M, N, torch.float32, scale=D**-0.5)
    assert_matches_reference(f, SUM, args, options=CUDA, tol=256)
    assert guarded


@pytest.mark.parametrize("D", [3, 20])
@pytest.mark.parametrize(
    "f",
    [
        lambda D: ops.exp(-0.5 * q(D)),
        lambda D: ops.matern52_profile(q(D)) * Vj(2, 1),
        lambda D: ops.exp(-ops.sqdist(Vi(0, D) * Pm(3, D), Vj(1, D) * Pm(3, D))) * Vj(2, 1),
        lambda D: gaussian(D) * Vj(2, 1) * Vi(3, 1),
    ],
)
def test_other_formulas(f, D: int, guarded) -> None:
    g = f(D)
    args = arguments(g, 70, 90, torch.float32, scale=D**-0.5)
    assert_matches_reference(g, SUM, args, options=CUDA, tol=512)
    assert guarded


@pytest.mark.parametrize("D", [3, 40])
def test_logsumexp(D: int, guarded) -> None:
    args = arguments(q(D), 70, 900, torch.float32, scale=D**-0.5)
    assert_matches_reference(-q(D), LOGSUMEXP, args, options=CUDA, tol=256)
    assert guarded


@pytest.mark.parametrize("r", [MIN, ARGMIN, KMIN_ARGKMIN(3)], ids=repr)
def test_selections_of_long_vectors(r, guarded) -> None:
    args = arguments(q(40), 70, 900, torch.float32, scale=40**-0.5)
    assert_matches_reference(q(40), r, args, options=CUDA, tol=512)
    assert guarded


@pytest.mark.parametrize(("M", "N"), SIZES)
@pytest.mark.parametrize("E", [2, 8, 31, 33, 70])
@pytest.mark.parametrize("D", [3, 10])
def test_columns_as_a_second_product(D: int, E: int, M: int, N: int, guarded) -> None:
    f = gaussian(D) * Vj(2, E) * Vi(3, 1)
    args = list(arguments(f, M, N, torch.float32, scale=D**-0.5))
    args[2] = args[2] * 10.0 ** torch.linspace(-20, 20, E)  # any range of float32
    assert_matches_reference(f, SUM, args, options=CUDA, tol=256)
    assert guarded


@pytest.mark.parametrize("E", [3, 20])
def test_columns_and_long_results(E: int, guarded) -> None:
    f = gaussian(30) * Vj(2, E)
    assert_matches_reference(f, SUM, arguments(f, 70, 90, torch.float32, scale=0.2), options=CUDA, tol=256)
    f = gaussian(30) * (Vi(0, 30) - Vj(1, 30))
    assert_matches_reference(f, SUM, arguments(f, 70, 90, torch.float32, scale=0.2), options=CUDA, tol=512)
    assert len(guarded) == 2


@pytest.mark.parametrize("batch", [{0: (3,)}, {0: (2, 1), 1: (3,)}, {2: (2,)}])
def test_batches(batch, guarded) -> None:
    f = gaussian(3) * Vj(2, 1)
    args = arguments(f, 40, 50, torch.float32, batch=batch)
    assert_matches_reference(f, SUM, args, options=CUDA, tol=256)
    assert guarded


def test_the_tensor_kernel_itself_gives_the_result(guarded, monkeypatch) -> None:
    """The other form returns at once: without it, results are the same."""
    f = gaussian(3) * Vj(2, 1)
    args = arguments(f, 130, 300, torch.float32)
    want = map_reduce(f, SUM, args, options=CUDA)
    run = cuda._execute

    def skip(ready, outputs, a, g, device, arrays=None, check=(0, 0)):
        if ready.plan.schedule.tensor:
            return run(ready, outputs, a, g, device, arrays, check)
        return [tuple(own) for own in arrays]

    monkeypatch.setattr(cuda, "_execute", skip)
    assert torch.equal(map_reduce(f, SUM, args, options=CUDA), want)  # type: ignore[arg-type]


@pytest.mark.parametrize("E", [1, 20])
@pytest.mark.parametrize("D", [3, 40])
def test_one_word_for_a_number(D: int, E: int, guarded) -> None:
    """precision="tf32": the accuracy of ten bits, at a third of the products."""
    f = gaussian(D) * Vj(2, E)
    args = arguments(f, 130, 300, torch.float32, scale=D**-0.5)
    assert_matches_reference(f, SUM, args, options=Options(backend="cuda", precision="tf32"), tol=2**15)
    rough, fine = (map_reduce(f, SUM, args, options=o) for o in (Options("cuda", "tf32"), CUDA))
    (want,) = exact(f, SUM, args)
    assert float((rough - want).norm()) > 4 * float((fine - want).norm())  # type: ignore[operator]
    assert len(guarded) == 3


@pytest.mark.parametrize("spread", [30.0, 1e4, math.inf, math.nan])
def test_wide_data_take_differences(spread: float, guarded) -> None:
    """Norms beyond the limit, infinities and NaN: the result is that of the exact form, bit for bit."""
    f = gaussian(3) * Vj(2, 1)
    x, y, b = arguments(f, 60, 80, torch.float32)
    y[5] = spread if not math.isfinite(spread) else y[5] + spread
    got = map_reduce(f, SUM, (x, y, b), options=CUDA)
    plain = map_reduce(f, SUM, (x, y, b), options=Options(backend="cuda", precision="exact"))
    assert len(guarded) == 1
    assert torch.equal(got.isnan(), plain.isnan()) and torch.equal(got.nan_to_num(), plain.nan_to_num())  # type: ignore[union-attr]


def test_data_far_from_the_origin_are_centred(guarded, monkeypatch) -> None:
    f = gaussian(3) * Vj(2, 1)
    x, y, b = arguments(f, 60, 80, torch.float32)
    args = (x + 1000, y + 1000, b)
    assert_matches_reference(f, SUM, args, options=CUDA, tol=1024)
    far = cuda.NORM_LIMIT
    monkeypatch.setattr(cuda, "NORM_LIMIT", 0.0)  # never tensor cores
    plain = map_reduce(f, SUM, args, options=CUDA)
    monkeypatch.setattr(cuda, "NORM_LIMIT", far)
    assert not torch.equal(map_reduce(f, SUM, args, options=CUDA), plain)  # type: ignore[arg-type]


def test_exact_precision_and_float64_do_not_come_here(guarded, dtype: torch.dtype) -> None:
    f = gaussian(3) * Vj(2, 1)
    options = CUDA if dtype == torch.float64 else Options(backend="cuda", precision="exact")
    assert_matches_reference(f, SUM, arguments(f, 60, 80, dtype), options=options)
    assert not guarded


@pytest.mark.parametrize(
    ("f", "r"),
    [
        (ops.exp(-ops.norm2(Vi(0, 3) - Vj(1, 3))), SUM),  # a square root magnifies the error at 0
        (q(3), ARGMIN),  # near ties of short vectors
        (ops.exp(-q(3)) * ops.exp(-ops.total(abs(Vi(0, 3) - Vj(1, 3)))), SUM),
        (ops.exp(-q(3) * Pm(2, 1)), SUM),  # how far the parameter magnifies is not known
        (ops.dot(Vi(0, 3), Vj(1, 3)), SUM),
    ],
)
def test_formulas_that_have_no_tensor_form(f: Expr, r) -> None:
    assert prepare((Output(f, r),), 3, "float32", Gpu("sm_90", tensor=True), True, False) is None


def test_a_swapped_fragment_is_seen(mock, monkeypatch, guarded) -> None:
    """A planted bug: two registers of an operand exchanged."""
    from dataclasses import replace

    import emulator

    def compile(source: str) -> bytes:
        right = "make_uint2(kg_halves(value(k + 0"
        assert right in source or "kg_split" not in source
        return emulator.compile_kernels(source.replace(right, "make_uint2(kg_halves(value(k + 8"))

    device = replace(mock, compile=compile)
    monkeypatch.setattr(cuda, "device_of", lambda place: device)
    f = gaussian(8) * Vj(2, 1)
    with pytest.raises(AssertionError):
        assert_matches_reference(
            f, SUM, arguments(f, 60, 80, torch.float32, scale=0.3), options=CUDA, tol=256
        )

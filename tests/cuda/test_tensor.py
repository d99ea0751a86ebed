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
from kerngp.engine.reductions import ARGMIN, KMIN_ARGKMIN, LOGSUMEXP, MAX_ARGMAX, MIN, MIN_ARGMIN, SUM
from kerngp.options import Options

CUDA = Options(backend="cuda")


def q(D: int) -> Expr:
    return ops.sqdist(Vi(0, D), Vj(1, D))


def gaussian(D: int) -> Expr:
    return ops.exp(-q(D))


@pytest.fixture(autouse=True)
def _small_calls_too(mock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_choice, "TENSOR_ABOVE", 1)
    monkeypatch.setattr(cuda_choice, "SELECT_ABOVE", 0)


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


SELECTIONS = [MIN, ARGMIN, MIN_ARGMIN, MAX_ARGMAX, KMIN_ARGKMIN(3)]


def both(f: Expr, r, args) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Results with tensor cores, and with differences alone."""
    found = [map_reduce(f, r, args, options=o) for o in (CUDA, Options("cuda", "exact"))]
    return tuple([x] if isinstance(x, torch.Tensor) else list(x) for x in found)  # type: ignore[return-value]


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e9])
@pytest.mark.parametrize("r", SELECTIONS, ids=repr)
@pytest.mark.parametrize("D", [3, 10, 40])
def test_selections_are_exact(D: int, r, scale: float, guarded) -> None:
    """Bit for bit those of the form with differences, at any scale, ties among them."""
    x, y = arguments(q(D), 70, 900, torch.float32, scale=scale)
    y[300:600] = y[:300]  # the smaller column wins
    x[:20] = y[5:25]
    got, want = both(q(D), r, (x, y))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert len(guarded) == 1


@pytest.mark.parametrize(("M", "N"), [(1, 1), (1, 3), (7, 33), (33, 31), (130, 65), (65, 1000)])
def test_selections_at_tails_and_in_batches(M: int, N: int, guarded) -> None:
    for batch in ({}, {0: (2,), 1: (2,)}):
        for r in (MAX_ARGMAX, KMIN_ARGKMIN(1)):
            got, want = both(q(5), r, arguments(q(5), M, N, torch.float32, batch=batch))
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert len(guarded) == 4


def test_near_ties_far_below_the_error_of_the_products(guarded) -> None:
    """Points a few roundings apart on a wide ring: many candidates, still the exact nearest."""
    angle = torch.linspace(0, 6.28, 500, dtype=torch.float64)
    ring = torch.stack([angle.cos(), angle.sin(), 0 * angle], -1)
    y = (100 + 10 * ring.repeat(4, 1) + 1e-5 * torch.randn(2000, 3, dtype=torch.float64)).float()
    x = (100 + 10 * ring[::5]).float()
    got, want = both(q(3), MIN_ARGMIN, (x, y))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True)) and guarded


@pytest.mark.parametrize("margin", [True, False])
def test_products_may_be_off_by_their_error(mock, monkeypatch, guarded, margin: bool) -> None:
    """Distances shifted by what tensor cores may be off: the limit makes up for it; without it, it shows."""
    from dataclasses import replace

    import emulator

    from kerngp.engine.render import cuda_candidates

    if not margin:
        monkeypatch.setattr(cuda_candidates, "WORD_ERROR", 0.0)
        monkeypatch.setattr(cuda_candidates, "PART_ERROR", 0.0)

    def compile(source: str) -> bytes:
        # the sign depends on the column, so that neighbours change places
        shift = "(lane32 % 2 ? 1.0f : -1.0f) * 0.9f * 2.8e-6f * 32.0f"
        return emulator.compile_kernels(
            source.replace("[4] = {0, 0, 0, 0};", f"[4] = {{{', '.join([shift] * 4)}}};")
        )

    device = replace(mock, compile=compile, multiprocessors=1)  # each block sees all columns
    monkeypatch.setattr(cuda, "device_of", lambda place: device)
    y = torch.rand(3000, 3)
    y = torch.cat([y, y.roll(2, 0) + 1e-5 * torch.randn(3000, 3)])  # twins in columns of other lanes
    got, want = both(q(3), ARGMIN, (torch.rand(600, 3), y))
    assert torch.equal(got[0], want[0]) == margin
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


@pytest.fixture
def as_columns(guarded, monkeypatch) -> list[int]:
    """One entry for each sum of differences computed as columns."""
    seen: list[int] = []
    run = cuda._guarded
    monkeypatch.setattr(cuda, "_guarded", lambda c, *a: (c.moments and seen.append(1)) or run(c, *a))
    return seen


@pytest.mark.parametrize("batch", [{}, {0: (2,), 1: (2,)}])
@pytest.mark.parametrize(
    "f",
    [
        lambda D: gaussian(D) * (Vi(0, D) - Vj(1, D)),
        lambda D: -(gaussian(D) * Vj(2, 1)) * Vi(3, 1) * (Vj(1, D) - Vi(0, D)),
        lambda D: (
            ops.exp(-ops.sqdist(Vi(0, D) * Pm(2, D), Vj(1, D) * Pm(2, D)))
            * (Vi(0, D) * Pm(2, D) - Vj(1, D) * Pm(2, D))
            * Pm(2, D)
        ),
    ],
)
def test_sums_of_differences(f, batch, as_columns) -> None:
    g = f(33)
    args = arguments(g, 70, 90, torch.float32, scale=0.2, batch=batch)
    assert_matches_reference(g, SUM, args, options=CUDA, tol=512)
    assert as_columns


def test_gradients_of_long_vectors(as_columns) -> None:
    """In x and in y, against float64, also far from the origin; data too wide take differences."""
    f = ops.matern52_profile(q(40)) * Vj(2, 1)
    for shift, wide in ((0.0, 1.0), (30.0, 1.0), (0.0, 100.0)):
        x, y, b = arguments(f, 60, 80, torch.float32, scale=0.3)
        x, y = x + shift, y + shift
        y[7] *= wide
        found = []
        for dtype, options in ((torch.float32, CUDA), (torch.float64, Options(backend="reference"))):
            args = [t.to(dtype).requires_grad_() for t in (x, y, b)]
            out = map_reduce(f, SUM, args, options=options)
            found.append(torch.autograd.grad(out.sum(), args))  # type: ignore[union-attr]
        for got, want in zip(*found, strict=True):
            assert float((got - want).norm() / want.norm()) < 1e-5
    assert len(as_columns) == 6


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

    def skip(ready, outputs, a, g, device, arrays=None, check=(0, 0), tune=False):
        if ready.plan.schedule.tensor:
            return run(ready, outputs, a, g, device, arrays, check, tune)
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
        (q(2), ARGMIN),  # too many near ties
        (ops.sqrt(q(3)), ARGMIN),  # the error of its value is not known
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

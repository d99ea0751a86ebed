"""Generated CUDA kernels, run on the CPU through the real PyCUDA, against the reference in float64.

The engine's whole suite runs on the emulated device too (KERNGP_TEST_BACKEND=cuda); here is what only CUDA
has: parts of j, sums over i, barriers, streams, threads, contexts.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable
from dataclasses import replace

import emulator
import pytest
import torch
from comparison import EPS, arguments, assert_close, assert_matches_reference, exact

from kerngp.engine import cuda_choice, ops
from kerngp.engine.backends import cuda
from kerngp.engine.expr import Expr, Vi, Vj
from kerngp.engine.folds import MEAN, SUMSOFTMAXWEIGHT, weighted_entry
from kerngp.engine.mapreduce import map_reduce, map_reduce_many
from kerngp.engine.plan import Output
from kerngp.engine.reductions import ARGKMIN, ARGMIN, KMIN_ARGKMIN, LOGSUMEXP, MAX_ARGMAX, MIN_ARGMIN, SUM
from kerngp.errors import BackendUnavailable
from kerngp.options import Options

CUDA = Options(backend="cuda")


def gaussian(D: int = 3) -> Expr:
    return ops.exp(-ops.sqdist(Vi(0, D), Vj(1, D)))


def count(name: str) -> int:
    return ctypes.c_int.in_dll(emulator.load_driver(), name).value


# ---------------------------------------------------------------- parts of j

PARTED = [SUM, LOGSUMEXP, MIN_ARGMIN, MAX_ARGMAX, KMIN_ARGKMIN(4), MEAN]


@pytest.mark.parametrize("D", [3, 20])
@pytest.mark.parametrize("r", PARTED, ids=repr)
def test_parts_of_j_are_merged(r, D: int, dtype: torch.dtype, big_device) -> None:
    f = ops.sqdist(Vi(0, D), Vj(1, D))
    args = arguments(f, 7, 3001, dtype, scale=D**-0.5)
    before = count("kg_mock_launches")
    assert_matches_reference(f, r, args, options=CUDA, tol=256)
    assert count("kg_mock_launches") - before == 3  # pack, tile, merge


def test_few_rows_are_split_and_many_are_not(big_device, mock) -> None:
    def splits(M: int, N: int) -> int:
        seen = []
        layout = cuda.cuda_layout

        def spy(*args):
            seen.append(layout(*args))
            return seen[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cuda, "cuda_layout", spy)
            patch.setattr(cuda, "_launch", lambda *args: None)
            map_reduce(gaussian(), SUM, (torch.zeros(M, 3), torch.zeros(N, 3)), options=CUDA)
        return seen[0].splits

    assert splits(10, 100) == 1
    assert splits(10, 100_000) > 50
    assert splits(1_000_000, 5_000) == 1


def test_ties_between_parts_go_to_the_first_column(big_device) -> None:
    f = ops.sqdist(Vi(0, 1), Vj(1, 1))
    x, y = torch.zeros(5, 1), torch.ones(4000, 1)
    y[[700, 2100, 3900]] = 0.0
    found = map_reduce(f, ARGMIN, (x, y), options=CUDA)
    assert isinstance(found, torch.Tensor) and found.flatten().tolist() == [700] * 5
    _, index = map_reduce(f, KMIN_ARGKMIN(4), (x, y), options=CUDA)
    assert index[0].flatten().tolist() == [700, 2100, 3900, 0]


def test_results_are_the_same_bit_for_bit(big_device) -> None:
    f = gaussian() * Vj(2, 1)
    args = arguments(f, 50, 5000, torch.float32)
    seed = ctypes.c_uint.in_dll(emulator.load_emulator(), "kg_seed")
    results = []
    for value in (1, 2, 77):  # orders in which threads resume
        seed.value = value
        results.append(map_reduce(f, SUM, args, options=CUDA))
    seed.value = 1
    assert all(torch.equal(results[0], other) for other in results[1:])  # type: ignore[arg-type]


# ---------------------------------------------------------------- sums over i, symmetric sums


@pytest.mark.parametrize("M", [1, 31, 257, 600])
@pytest.mark.parametrize("N", [1, 33, 300])
def test_sums_over_both_axes_in_one_launch(M: int, N: int, dtype: torch.dtype, big_device, launches) -> None:
    f, b = gaussian(), Vj(2, 1)
    outputs = (
        Output(f * b, SUM, "j"),
        Output(f * Vi(3, 1), SUM, "i"),
        Output(f * (Vi(0, 3) - Vj(1, 3)), SUM, "i"),
    )
    args = arguments([o.expr for o in outputs], M, N, dtype)
    found = map_reduce_many(outputs, args, options=CUDA)
    assert launches.compiled == 1 and launches.reference == 0
    for o, (got,) in zip(outputs, found, strict=True):
        (want,) = exact(o.expr, SUM, args, axis=o.axis)
        (size,) = exact(abs(o.expr), SUM, args, axis=o.axis)
        assert_close(got, want, 256 * EPS[dtype] * size, f"{o.axis} {o.expr}")


@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
@pytest.mark.parametrize("n", [5, 512, 513, 1500])
def test_symmetric_sums_visit_each_pair_once(
    n: int, batch: tuple[int, ...], dtype: torch.dtype, big_device, monkeypatch
) -> None:
    monkeypatch.setattr(cuda_choice, "HALVE_ABOVE", 1)
    planned = []
    plan = cuda_choice.planned
    monkeypatch.setattr(cuda_choice, "planned", lambda *a: planned.append(a[-1]) or plan(*a))
    f = gaussian() * Vj(2, 1)
    x = torch.rand(*batch, n, 3, dtype=dtype)
    args = (x, x, torch.randn(*batch, n, 1, dtype=dtype))
    assert_matches_reference(f, SUM, args, options=CUDA, tol=256)
    assert planned == [True]


def test_long_vectors_have_no_symmetric_kernel(mock, monkeypatch) -> None:
    monkeypatch.setattr(cuda_choice, "HALVE_ABOVE", 1)
    x = torch.rand(70, 40)
    assert_matches_reference(gaussian(40) * Vj(2, 1), SUM, (x, x, torch.randn(70, 1)), options=CUDA, tol=256)


# ---------------------------------------------------------------- planted bugs are seen


def edited(device: cuda.Device, edit: Callable[[str], str]) -> cuda.Device:
    def compile(source: str) -> bytes:
        changed = edit(source)
        assert changed != source, "the edit found nothing to change"
        return emulator.compile_kernels(changed)

    return replace(device, compile=compile)


def wrong(device: cuda.Device, monkeypatch: pytest.MonkeyPatch, seeds: tuple[int, ...] = (1,)) -> bool:
    """Whether a sum over a number of columns with a tail comes out wrong, for any order of the threads."""
    monkeypatch.setattr(cuda, "device_of", lambda place: device)
    seed, eager = (ctypes.c_uint.in_dll(emulator.load_emulator(), n) for n in ("kg_seed", "kg_eager"))
    f = gaussian() * Vj(2, 1)
    args = arguments(f, 300, 1000, torch.float32)
    try:
        for value, early in [(s, e) for s in seeds for e in (0, 1)]:
            seed.value, eager.value = value, early
            try:
                assert_matches_reference(f, SUM, args, options=CUDA, tol=256)
            except AssertionError:
                return True
    finally:
        seed.value, eager.value = 1, 0
    return False


BARRIER = r"\n *__syncthreads\(\);"


def nth(pattern: str, n: int, new: str) -> Callable[[str], str]:
    """Replace the n-th match in the tile kernel."""

    def edit(source: str) -> str:
        start = source.index("kg_tile(")
        found = list(re.finditer(pattern, source[start:]))[n]
        return source[: start + found.start()] + new + source[start + found.end() :]

    return edit


def test_the_kernel_is_right_without_a_bug(mock, monkeypatch) -> None:
    assert not wrong(mock, monkeypatch, seeds=(1, 2, 3))


def test_a_missing_barrier_before_reading_is_seen(mock, monkeypatch) -> None:
    assert wrong(edited(mock, nth(BARRIER, 0, "")), monkeypatch, seeds=(1, 2, 3))


def test_a_missing_barrier_before_writing_is_seen(mock, monkeypatch) -> None:
    assert wrong(edited(mock, nth(BARRIER, 1, "")), monkeypatch, seeds=(1, 2, 3, 4, 5))


def test_a_missing_wait_for_copies_is_seen(mock, monkeypatch) -> None:
    assert wrong(edited(mock, nth(r"kg_copy_wait<1>\(\);", 0, "")), monkeypatch)


def test_a_wrong_tail_is_seen(mock, monkeypatch) -> None:
    assert wrong(edited(mock, nth(r"< j_end - j0;", 0, "< j_end - j0 - 1;")), monkeypatch)


def test_a_barrier_for_a_part_of_the_block_is_an_error(mock, monkeypatch) -> None:
    device = edited(mock, nth(BARRIER, 0, "\nif (threadIdx.x < 40) __syncthreads();"))
    monkeypatch.setattr(cuda, "device_of", lambda place: device)
    f = gaussian() * Vj(2, 1)
    with pytest.raises(Exception, match="a barrier was reached by a part of the block|different places"):
        map_reduce(f, SUM, arguments(f, 300, 1000, torch.float32), options=CUDA)


# ---------------------------------------------------------------- contexts, threads, streams, launches


def test_no_context_stays_pushed(mock) -> None:
    import pycuda.driver as driver

    f = gaussian(2) * Vj(2, 1) + 0.125
    map_reduce(f, SUM, arguments(f, 9, 9, torch.float32), options=CUDA)  # loads a module
    assert driver.Context.get_current() is None


def test_gradients_run_in_the_thread_of_autograd(mock) -> None:
    """backward() of torch may run in another thread, where PyCUDA has no current context."""
    f = gaussian(2) * Vj(2, 1) * 1.0625
    x, y, b = (a.requires_grad_() for a in arguments(f, 9, 12, torch.float64))
    loss = map_reduce(f, SUM, (x, y, b), options=CUDA)
    assert isinstance(loss, torch.Tensor)
    errors: list[BaseException] = []

    def backward() -> None:
        try:
            loss.sum().backward()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=backward)
    thread.start()
    thread.join()
    assert not errors and x.grad is not None
    want = torch.autograd.grad(map_reduce(f, SUM, (x, y, b), options=Options(backend="reference")).sum(), x)[
        0
    ]  # type: ignore[union-attr]
    assert_close(x.grad, want, 1e-12)


def test_many_threads_at_once(mock) -> None:
    formulas = [gaussian(2) * Vj(2, 1) * (1.5 + k) for k in range(3)]
    args = arguments(formulas[0], 40, 60, torch.float32)
    want = [map_reduce(f, SUM, args, options=Options(backend="reference")) for f in formulas]
    wrong_ones: list[int] = []

    def work(k: int) -> None:
        got = map_reduce(formulas[k % 3], SUM, args, options=CUDA)
        if not torch.allclose(got, want[k % 3], rtol=1e-4):  # type: ignore[arg-type]
            wrong_ones.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong_ones


class FakeStream:
    """torch's side of a stream, which records who waits for whom."""

    def __init__(self, name: str, log: list[str]):
        self.name, self.log = name, log

    def wait_stream(self, other: FakeStream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")


def test_another_stream_is_forked_and_joined(mock, monkeypatch) -> None:
    log: list[str] = []
    monkeypatch.setattr(cuda, "device_of", lambda place: replace(mock, stream=lambda: 1234))
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda handle, device: FakeStream("ours", log))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda place: FakeStream("theirs", log))
    monkeypatch.setattr(cuda, "_SIDE", threading.local())
    before = count("kg_mock_side_launches")
    f = gaussian() * Vj(2, 1)
    assert_matches_reference(f, SUM, arguments(f, 9, 33, torch.float32), options=CUDA)
    assert log == ["ours waits for theirs", "theirs waits for ours"] * (len(log) // 2) and log
    assert count("kg_mock_side_launches") - before == len(log)  # pack and tile for each fork


def test_another_device_is_made_current_for_the_launch(mock, monkeypatch) -> None:
    log: list[str] = []
    at = [0]

    class Guard:
        def __init__(self, ordinal: int):
            self.ordinal = ordinal

        def __enter__(self) -> None:
            log.append("enter")
            self.before, at[0] = at[0], self.ordinal

        def __exit__(self, *error: object) -> None:
            log.append("leave")
            at[0] = self.before

    device = replace(mock, ordinal=1, is_current=lambda: at[0] == 1)
    monkeypatch.setattr(cuda, "device_of", lambda place: device)
    context = cuda._context(0)
    monkeypatch.setattr(cuda, "_context", lambda ordinal: context)
    monkeypatch.setattr(torch.cuda, "device", Guard)
    f = gaussian() * Vj(2, 1)
    assert_matches_reference(f, SUM, arguments(f, 9, 33, torch.float32), options=CUDA)
    assert log == ["enter", "leave"] * (len(log) // 2) and log and at == [0]


def test_a_known_formula_loads_nothing(mock) -> None:
    f = gaussian(2) * Vj(2, 1) * 3.25
    map_reduce(f, SUM, arguments(f, 9, 9, torch.float32), options=CUDA)
    modules, launched = count("kg_mock_modules"), count("kg_mock_launches")
    map_reduce(f, SUM, arguments(f, 70, 300, torch.float32), options=CUDA)
    assert count("kg_mock_modules") == modules and count("kg_mock_launches") == launched + 2


def test_columns_are_no_part_of_the_code() -> None:
    from kerngp.engine.cuda_planner import Gpu
    from kerngp.engine.planner import prepare
    from kerngp.engine.render.cuda_tile import render

    def code(f: Expr, r=SUM) -> str:
        ready = prepare((Output(f, r),), 3, "float32", Gpu("sm_90"), False, False)
        assert ready is not None
        return render(ready.plan)

    assert len({code(gaussian() * Vj(2, E)) for E in (2, 3, 64, 70)}) == 1
    assert len({code(gaussian(), KMIN_ARGKMIN(k)) for k in (2, 10, 50)}) == 1


# ---------------------------------------------------------------- data larger than the device


@pytest.mark.parametrize("axis", ["j", "i", "ij"])
@pytest.mark.parametrize("r", [*PARTED, ARGMIN, ARGKMIN(3)], ids=repr)
def test_data_in_pieces(r, axis: str, mock) -> None:
    from kerngp.engine.backends.cuda_host import run_in_pieces
    from kerngp.engine.plan import measure, shapes_of

    if axis == "ij" and r not in (SUM, MEAN):
        return
    f = ops.sqdist(Vi(0, 3), Vj(1, 3)) * 0.5
    args = arguments(f, 60, 70, torch.float64, batch={0: (2, 1), 1: (3,)})
    sizes = []

    def run(outputs, piece, g):
        sizes.append((g.M, g.N))
        return cuda.run(outputs, piece, g, CUDA)

    outputs = (Output(f, r, axis),)
    g = measure(outputs, shapes_of(args), (None, None))
    (found,) = run_in_pieces(outputs, args, g, mock.place, 3000, run)
    assert len(sizes) > 4
    for got, want in zip(found, exact(f, r, args, axis=axis), strict=True):
        assert_close(got, want, 1e-12 * (1 + want.abs()))


# ---------------------------------------------------------------- what is missing is said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_error_says_so() -> None:
    f = gaussian()
    with pytest.raises(BackendUnavailable, match="torch sees no GPU.*doctor"):
        map_reduce(f, SUM, arguments(f, 3, 3), options=CUDA)


def test_without_pycuda_the_error_says_how_to_get_it(monkeypatch) -> None:
    import builtins

    real = builtins.__import__

    def fail(name: str, *args):
        if name.startswith("pycuda"):
            raise ImportError("No module named 'pycuda'")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(BackendUnavailable, match="python -m kerngp install-cuda"):
        cuda.driver.__wrapped__()


def test_states_beside_long_inner_sums_are_cut(mock, launches) -> None:
    """Distances of long vectors leave registers for a few components of a state only."""
    x, y, w = torch.randn(33, 20) / 4, torch.randn(71, 20) / 4, torch.rand(71, 10)
    f = weighted_entry(-ops.sqdist(Vi(0, 20), Vj(1, 20)), Vj(2, 10))
    got = map_reduce(f, SUMSOFTMAXWEIGHT, (x, y, w), options=CUDA)
    want = (-torch.cdist(x.double(), y.double()).square()).softmax(1) @ w.double()
    assert isinstance(got, torch.Tensor)
    assert_close(got, want, 1e-5, "softmax")
    assert launches.reference == 0 and launches.compiled == 3
    parts = cuda_choice.cut(Output(f, SUMSOFTMAXWEIGHT), 3, "float32", "sm_90")
    assert [p.expr.dim for p in parts] == [5, 5, 3]
    short = Output(weighted_entry(-ops.sqdist(Vi(0, 3), Vj(1, 3)), Vj(2, 10)), SUMSOFTMAXWEIGHT)
    assert cuda_choice.cut(short, 3, "float32", "sm_90") == (short,)
    raw = Output(f, SUMSOFTMAXWEIGHT.raw)  # states of parts could not be put side by side
    assert cuda_choice.cut(raw, 3, "float32", "sm_90") == (raw,)

"""On a real GPU: results against the reference, streams, graphs, threads, memory. Run by ``make gpu``."""

from __future__ import annotations

import threading

import pytest
import torch
from comparison import arguments, assert_close, assert_matches_reference

from kerngp.engine import ops
from kerngp.engine.backends import cuda
from kerngp.engine.expr import Expr, Vi, Vj
from kerngp.engine.mapreduce import map_reduce
from kerngp.engine.ranges import Ranges
from kerngp.engine.reductions import ARGKMIN, ARGMIN, LOGSUMEXP, SUM
from kerngp.options import Options

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
CUDA = Options(backend="cuda")


def gaussian(D: int = 3) -> Expr:
    return ops.exp(-ops.sqdist(Vi(0, D), Vj(1, D)))


def on_gpu(f: Expr, M: int, N: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    return tuple(a.cuda() for a in arguments(f, M, N, dtype, scale=0.5))


@pytest.mark.parametrize(("M", "N"), [(1, 1), (31, 33), (1000, 7), (513, 20_011), (100_000, 1000)])
@pytest.mark.parametrize("D", [1, 3, 10, 33, 100])
def test_sums(D: int, M: int, N: int, dtype: torch.dtype) -> None:
    for E in (1, 5, 64):
        f = gaussian(D) * Vj(2, E)
        assert_matches_reference(f, SUM, on_gpu(f, M, N, dtype), options=CUDA, tol=512)


@pytest.mark.parametrize("r", [LOGSUMEXP, ARGMIN, ARGKMIN(10)], ids=repr)
@pytest.mark.parametrize("D", [3, 100])
def test_reductions(D: int, r, dtype: torch.dtype) -> None:
    f = ops.sqdist(Vi(0, D), Vj(1, D))
    assert_matches_reference(f, r, on_gpu(f, 500, 3001, dtype), options=CUDA, tol=512)


@pytest.mark.parametrize("E", [1, 64])
@pytest.mark.parametrize("D", [2, 3, 10, 100, 784])
def test_tensor_cores(D: int, E: int) -> None:
    """Real tensor cores truncate, which the emulator does not show."""
    f = gaussian(D) * Vj(2, E)
    args = tuple(a.cuda() for a in arguments(f, 3000, 4000, torch.float32, scale=2 * D**-0.5))
    assert_matches_reference(f, SUM, args, options=CUDA, tol=2000)
    assert_matches_reference(f, SUM, args, options=Options("cuda", "exact"), tol=512)


@pytest.mark.parametrize("D", [3, 33])
def test_blocks_of_pairs(D: int, dtype: torch.dtype) -> None:
    f = gaussian(D) * Vj(2, 1)
    args = on_gpu(f, 5000, 4000, dtype)
    i, j = torch.tensor([[0, 33], [33, 4000], [4001, 5000]]), torch.tensor([[0, 1], [7, 90], [100, 4000]])
    ranges = Ranges.from_matrix(i, j, torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 1]]))
    for r in (SUM, LOGSUMEXP, ARGMIN, ARGKMIN(5)):
        for axis in ("j", "i"):
            got = map_reduce(f, r, args, axis=axis, ranges=ranges, options=CUDA)
            want = map_reduce(f, r, args, axis=axis, ranges=ranges, options=Options(backend="reference"))
            assert isinstance(got, torch.Tensor) and isinstance(want, torch.Tensor)
            if r is SUM or r is LOGSUMEXP:
                assert_close(got, want, 1e-3 if dtype == torch.float32 else 1e-9)
            else:
                assert (got == want).double().mean() > 0.99  # near ties may differ


def test_symmetric_sums() -> None:
    f = gaussian() * Vj(2, 1)
    x = torch.rand(20_000, 3, device="cuda")
    assert_matches_reference(f, SUM, (x, x, torch.randn(20_000, 1, device="cuda")), options=CUDA, tol=512)


def test_indices_beyond_float32() -> None:
    y = torch.rand((1 << 24) + 77, 1, device="cuda") + 1
    y[-5] = 0.0
    found = map_reduce(ops.sqdist(Vi(0, 1), Vj(1, 1)), ARGMIN, (torch.zeros(3, 1, device="cuda"), y))
    assert isinstance(found, torch.Tensor) and found.flatten().tolist() == [len(y) - 5] * 3


def test_gradients_in_the_backward_thread() -> None:
    f = gaussian() * Vj(2, 1)
    args = tuple(a.requires_grad_() for a in on_gpu(f, 700, 900, torch.float64))
    out = map_reduce(f, SUM, args, options=CUDA)
    want = map_reduce(f, SUM, args, options=Options(backend="reference"))
    found, expected = (torch.autograd.grad(o.square().sum(), args) for o in (out, want))  # type: ignore[union-attr]
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 1e-9)


def test_the_current_stream_is_honoured() -> None:
    """Work queued before and after the call on the same stream sees it in order."""
    f = gaussian() * Vj(2, 1)
    x, y, b = on_gpu(f, 4000, 50_000, torch.float32)
    want = map_reduce(f, SUM, (x, y, 3 * b))
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        late = torch.zeros_like(b)
        torch.cuda._sleep(50_000_000)
        late += 3 * b
        out = map_reduce(f, SUM, (x, y, late))
        doubled = out * 2  # type: ignore[operator]
    stream.synchronize()
    assert torch.allclose(doubled, 2 * want, rtol=1e-5)  # type: ignore[operator, arg-type]


def test_calls_are_captured_in_a_graph() -> None:
    f = gaussian() * Vj(2, 1)
    x, y, b = on_gpu(f, 400, 5000, torch.float32)
    map_reduce(f, SUM, (x, y, b))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = map_reduce(f, SUM, (x, y, b))
    b.mul_(2)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.allclose(out, map_reduce(f, SUM, (x, y, b)), rtol=1e-6)  # type: ignore[arg-type]


def test_threads_and_no_context_left() -> None:
    import pycuda.driver as driver

    f = gaussian() * Vj(2, 1)
    args = on_gpu(f, 300, 4000, torch.float32)
    want = map_reduce(f, SUM, args)
    results: list[bool] = []

    def work(k: int) -> None:
        g = f * (1.0 + k)
        results.append(torch.allclose(map_reduce(g, SUM, args), (1 + k) * want, rtol=1e-5))  # type: ignore[arg-type, operator]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == [True] * 8
    driver.Context.synchronize()


def test_data_in_the_computers_memory_is_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    f = gaussian() * Vj(2, 1)
    args = arguments(f, 3000, 5000, torch.float32)
    assert_matches_reference(f, SUM, args, options=CUDA, tol=256)


def test_nothing_is_synchronised() -> None:
    f = gaussian() * Vj(2, 1)
    args = on_gpu(f, 1000, 1000, torch.float32)
    map_reduce(f, SUM, args)
    torch.cuda.set_sync_debug_mode("error")
    try:
        map_reduce(f, SUM, args)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert cuda.usable(args[0].device)

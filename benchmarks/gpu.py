"""The CUDA engine beside KeOps and torch, in one process, and beside what the device can do.

    python benchmarks/gpu.py [--cases gauss3,gauss10] [--no-keops] [--scale 0.5] [--save docs/gpu-table.md]

All calls take turns; medians of times between events on the device count. "Share of the limit" is the part
of the issue rate: 128 lanes a clock and multiprocessor over the issue slots of a pair, counted in the machine
code (tests/cuda/test_machine_code.py holds the counts).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One row: sizes, what is computed, issue slots of a pair, the ratio to KeOps that is aimed at."""

    name: str
    title: str
    M: int
    N: int
    reduction: str
    slots: float
    target: float
    D: int = 3
    E: int = 1
    dtype: torch.dtype = torch.float32
    batch: tuple[int, ...] = ()
    symmetric: bool = False
    gradient: bool = False


def formulas() -> dict[str, Callable[[Case], tuple[Any, Any]]]:
    from kerngp.engine import ops
    from kerngp.engine.expr import Vi, Vj
    from kerngp.engine.reductions import ARGKMIN, ARGMIN, LOGSUMEXP, SUM

    def q(c: Case) -> Any:
        return ops.sqdist(Vi(0, c.D), Vj(1, c.D))

    return {
        "sum": lambda c: (ops.exp(-q(c)) * Vj(2, c.E), SUM),
        "logsumexp": lambda c: (-q(c), LOGSUMEXP),
        "argmin": lambda c: (q(c), ARGMIN),
        "argkmin": lambda c: (q(c), ARGKMIN(10)),
    }


KEOPS: dict[str, tuple[str, dict]] = {
    "sum": ("Exp(-SqDist(x,y))*b", {}),
    "logsumexp": ("-SqDist(x,y)", {"reduction_op": "LogSumExp"}),
    "argmin": ("SqDist(x,y)", {"reduction_op": "ArgMin"}),
    "argkmin": ("SqDist(x,y)", {"reduction_op": "ArgKMin", "opt_arg": 10}),
}
F64 = torch.float64
CASES = [
    Case("gauss3", "Gaussian sum, D=3", 10**6, 10**6, "sum", 9.5, 1.4),
    Case("symmetric3", "the same, K(x, x)", 10**6, 10**6, "sum", 6.0, 2.2, symmetric=True),
    Case("gauss10", "Gaussian sum, D=10", 500_000, 500_000, "sum", 24.4, 3.5, D=10),
    Case("gauss100", "Gaussian sum, D=100", 200_000, 200_000, "sum", 240, 10, D=100),
    Case("gauss784", "Gaussian sum, D=784", 60_000, 60_000, "sum", 1800, 10, D=784),
    Case("columns64", "Gaussian sum, D=3, 64 columns", 200_000, 200_000, "sum", 108, 10, E=64),
    Case("gauss3f64", "Gaussian sum, D=3, float64", 200_000, 200_000, "sum", 28, 1.6, dtype=F64),
    Case("logsumexp3", "logsumexp, D=3", 500_000, 500_000, "logsumexp", 12.2, 2),
    Case("argmin3", "argmin, D=3", 500_000, 500_000, "argmin", 7.6, 2.3),
    Case("argmin100", "argmin, D=100", 100_000, 100_000, "argmin", 235, 8, D=100),
    Case("knn10", "10 nearest neighbours, D=10", 200_000, 200_000, "argkmin", 24, 10, D=10),
    Case("gradient3", "forward and gradient in x, D=3", 200_000, 200_000, "sum", 22, 2, gradient=True),
    Case("fewrows", "Gaussian sum, D=3, M = 1,000", 1000, 10**6, "sum", 9.5, 10),
    Case("batches", "1,000 batches of 64 x 64, D=3", 64, 64, "sum", 9.5, 2, batch=(1000,)),
    Case("tiny", "tiny call, M=10, N=20", 10, 20, "sum", 0, 0),
]


def data(c: Case, scale: float) -> tuple[torch.Tensor, ...]:
    M, N = (max(10, int(n * scale)) if n > 1000 else n for n in (c.M, c.N))
    g = torch.Generator("cuda").manual_seed(1)

    def cloud(n: int, d: int) -> torch.Tensor:
        return torch.randn(*c.batch, n, d, dtype=c.dtype, device="cuda", generator=g)

    x = cloud(M, c.D) / (2 * c.D) ** 0.5
    y = x if c.symmetric else cloud(N, c.D) / (2 * c.D) ** 0.5
    return (x, y, cloud(N, c.E)) if c.reduction == "sum" else (x, y)


def calls(c: Case, args: tuple[torch.Tensor, ...], keops: bool) -> list[Call]:
    from kerngp.engine.mapreduce import map_reduce

    f, r = formulas()[c.reduction](c)
    if c.gradient:
        args[0].requires_grad_()

    def measured(forward: Callable[[], Any]) -> Call:
        if not c.gradient:
            return forward
        seed = torch.ones(len(args[0]), 1, device="cuda")
        return lambda: torch.autograd.grad(forward(), args[0], seed)

    out = [measured(lambda: map_reduce(f, r, args))]
    if keops:
        from pykeops.torch import Genred  # pyright: ignore[reportMissingImports]

        formula, options = KEOPS[c.reduction]
        names = [f"x=Vi({c.D})", f"y=Vj({c.D})", f"b=Vj({c.E})"][: len(args)]
        routine = Genred(formula, names, axis=1, **options)
        out.append(measured(lambda: routine(*args, backend="GPU")))
    return out


def median(found: list[Call], repeats: int) -> list[float]:
    """Seconds of each call; they take turns."""
    times: list[list[float]] = [[] for _ in found]
    for call in found:
        call()
    torch.cuda.synchronize()
    for _ in range(repeats):
        for call, own in zip(found, times, strict=True):
            torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            torch.cuda.synchronize()
            own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in times]


def host_time(call: Call, repeats: int = 2000) -> float:
    """Seconds the caller is kept by a call, without waiting for the device."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def first_call(c: Case, args: tuple[torch.Tensor, ...]) -> float:
    """Seconds of the first call of a formula that is in no cache."""
    from kerngp.engine.mapreduce import map_reduce

    f, r = formulas()["sum"](c)
    f = f * (1.0 + (time.time() % 1000) * 1e-6)
    start = time.perf_counter()
    map_reduce(f, r, args)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", default=",".join(c.name for c in CASES))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the numbers of points")
    parser.add_argument("--no-keops", action="store_true")
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    wanted = set(options.cases.split(","))
    unknown = wanted - {c.name for c in CASES}
    if unknown:
        parser.error(f"unknown cases {sorted(unknown)}")
    if not torch.cuda.is_available():
        parser.error("torch sees no GPU; see 'python -m kerngp doctor'")
    p: Any = torch.cuda.get_device_properties(0)
    clock = getattr(p, "clock_rate", 1.98e6) * 1e3
    lines = [
        f"{p.name}, {p.multi_processor_count} multiprocessors, torch {torch.__version__}",
        "",
        "| case | kerngp | KeOps | ratio | aim | pairs/s | share of the limit |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)

    def add(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    for c in CASES:
        if c.name not in wanted:
            continue
        args = data(c, options.scale)
        found = calls(c, args, not options.no_keops)
        times = median(found, options.repeats)
        pairs = args[0].shape[-2] * args[1].shape[-2] * (c.batch[0] if c.batch else 1)
        rate = pairs / times[0]
        limit = p.multi_processor_count * clock * 128 / c.slots if c.slots else 0
        other = (f"{times[1] * 1e3:.3g} ms", f"{times[1] / times[0]:.2f}") if len(times) > 1 else ("", "")
        share = f"{100 * rate / limit:.0f} %" if limit else ""
        add(
            f"| {c.title} | {times[0] * 1e3:.3g} ms | {other[0]} | {other[1]} | {c.target or ''} "
            f"| {rate:.2g} | {share} |"
        )
        if c.name == "tiny":
            add(f"| host time of a call | {host_time(found[0]) * 1e6:.1f} µs | | | < 15 µs | | |")
            add(f"| first call of a new formula | {first_call(c, args):.2f} s | | | < 1 s | | |")
    if options.save:
        options.save.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

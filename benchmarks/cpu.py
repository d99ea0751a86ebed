"""The CPU engine beside KeOps, in one run, and beside what the processor can do.

    python benchmarks/cpu.py [--cases gauss3,gauss10] [--no-keops] [--scale 0.5] [--save docs/table.md]

Every case runs both libraries on the same data in turns, so that both see the same machine, and the
median counts. "FMA bound" is the time the case would take if its fused multiply-adds were all there
is: the processor's rate is measured here, in a loop of ours; the work of a pair is counted by hand
in the table of cases (exp counts 8, the polynomial of its exponent with its scaling).
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Waiting OpenMP threads of one library would otherwise spin while the other is measured.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch  # noqa: E402

THREADS = 2
EXP = 8  # multiply-adds of an exp, see above

Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One row of the table.

    pair_fma : multiply-adds per pair, in vectors of ``dtype``.
    make : (N) -> (ours, theirs); ``theirs`` builds KeOps's call.
    target : the ratio to KeOps we aim at.
    """

    name: str
    title: str
    N: int
    pair_fma: float
    dtype: torch.dtype
    make: Callable[[int], tuple[Call, Callable[[], Call]]]
    target: float


# ---------------------------------------------------------------- the cases


def _clouds(n: int, d: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Two clouds in a ball whose squared distances are about 1, whatever the dimension."""
    g = torch.Generator().manual_seed(1)
    return tuple(torch.randn(n, d, dtype=dtype, generator=g) / (2 * d) ** 0.5 for _ in range(2))  # type: ignore[return-value]


def _signal(n: int, e: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(n, e, dtype=dtype, generator=torch.Generator().manual_seed(2))


def _genred(formula: str, aliases: list[str], args: tuple[torch.Tensor, ...], **options: Any) -> Call:
    from pykeops.torch import Genred  # pyright: ignore[reportMissingImports]

    routine = Genred(formula, aliases, axis=1, **options)
    return lambda: routine(*args, backend="CPU")


def _gauss(
    d: int, e: int = 1, dtype: torch.dtype = torch.float32
) -> Callable[[int], tuple[Call, Callable[[], Call]]]:
    def make(n: int) -> tuple[Call, Callable[[], Call]]:
        from kerngp.engine.expr import Vi, Vj
        from kerngp.engine.mapreduce import map_reduce
        from kerngp.engine.ops import exp, sqdist
        from kerngp.engine.reductions import SUM

        args = (*_clouds(n, d, dtype), _signal(n, e, dtype))
        f = exp(-sqdist(Vi(0, d), Vj(1, d))) * Vj(2, e)
        aliases = [f"x=Vi({d})", f"y=Vj({d})", f"b=Vj({e})"]
        return lambda: map_reduce(f, SUM, args), lambda: _genred("Exp(-SqDist(x,y))*b", aliases, args)

    return make


def _reduction(d: int, name: str, keops: str, k: int = 0) -> Callable[[int], tuple[Call, Callable[[], Call]]]:
    def make(n: int) -> tuple[Call, Callable[[], Call]]:
        from kerngp.engine.expr import Vi, Vj
        from kerngp.engine.mapreduce import map_reduce
        from kerngp.engine.ops import sqdist
        from kerngp.engine.reductions import REDUCTIONS, with_k

        args = _clouds(n, d)
        q = sqdist(Vi(0, d), Vj(1, d))
        r = with_k(REDUCTIONS[name], k) if k else REDUCTIONS[name]
        f = -q if name == "logsumexp" else q
        sign = "-" if name == "logsumexp" else ""
        options = {"reduction_op": keops, **({"opt_arg": k} if k else {})}
        aliases = [f"x=Vi({d})", f"y=Vj({d})"]
        return lambda: map_reduce(f, r, args), lambda: _genred(f"{sign}SqDist(x,y)", aliases, args, **options)

    return make


def _gradient(n: int) -> tuple[Call, Callable[[], Call]]:
    """Forward and gradient in x."""
    from kerngp.engine.expr import Vi, Vj
    from kerngp.engine.mapreduce import map_reduce
    from kerngp.engine.ops import exp, sqdist
    from kerngp.engine.reductions import SUM

    x, y = _clouds(n, 3)
    x.requires_grad_()
    args = (x, y, _signal(n, 1))
    seed = torch.ones(n, 1)
    f = exp(-sqdist(Vi(0, 3), Vj(1, 3))) * Vj(2, 1)

    def ours() -> object:
        return torch.autograd.grad(map_reduce(f, SUM, args), x, seed)  # type: ignore[arg-type]

    def theirs() -> Call:
        forward = _genred("Exp(-SqDist(x,y))*b", ["x=Vi(3)", "y=Vj(3)", "b=Vj(1)"], args)
        return lambda: torch.autograd.grad(forward(), x, seed)  # type: ignore[arg-type]

    return ours, theirs


def _tiny(n: int) -> tuple[Call, Callable[[], Call]]:
    """M = 10, N = 20: what a call costs before it computes."""
    from kerngp.engine.expr import Vi, Vj
    from kerngp.engine.mapreduce import map_reduce
    from kerngp.engine.ops import exp, sqdist
    from kerngp.engine.reductions import SUM

    args = (torch.randn(n // 2, 3), torch.randn(n, 3), torch.randn(n, 1))
    f = exp(-sqdist(Vi(0, 3), Vj(1, 3))) * Vj(2, 1)
    aliases = ["x=Vi(3)", "y=Vj(3)", "b=Vj(1)"]
    return lambda: map_reduce(f, SUM, args), lambda: _genred("Exp(-SqDist(x,y))*b", aliases, args)


def _tiny_lazy(n: int) -> tuple[Call, Callable[[], Call]]:
    x, y, b = torch.randn(n // 2, 3), torch.randn(n, 3), torch.randn(n, 1)

    def call(lazy: Callable) -> object:
        return (-((lazy(x[:, None, :]) - lazy(y[None, :, :])) ** 2).sum(-1)).exp() @ b

    def ours() -> Call:
        from kerngp.torch import LazyTensor

        return lambda: call(LazyTensor)

    def theirs() -> Call:
        from pykeops.torch import LazyTensor  # pyright: ignore[reportMissingImports]

        return lambda: call(LazyTensor)

    return ours(), theirs


F32, F64 = torch.float32, torch.float64
# multiply-adds of a pair: 2 D for a squared distance (subtractions count), D as inner product, 1 per column
CASES = [
    Case("gauss3", "Gaussian sum, D=3", 20_000, 6 + EXP + 1, F32, _gauss(3), 25),
    Case("gauss10", "Gaussian sum, D=10", 20_000, 20 + EXP + 1, F32, _gauss(10), 22),
    Case("gauss100", "Gaussian sum, D=100", 5_000, 100 + EXP + 1, F32, _gauss(100), 45),
    Case("gauss784", "Gaussian sum, D=784", 5_000, 784 + EXP + 1, F32, _gauss(784), 50),
    Case("gauss3f64", "Gaussian sum, D=3, float64", 20_000, 6 + 13 + 1, F64, _gauss(3, 1, F64), 6),
    Case("columns64", "Gaussian sum, D=3, 64 columns", 20_000, 6 + EXP + 64, F32, _gauss(3, 64), 8.5),
    Case(
        "logsumexp3", "logsumexp, D=3", 20_000, 6 + EXP + 1, F32, _reduction(3, "logsumexp", "LogSumExp"), 18
    ),
    Case("argmin3", "argmin, D=3", 20_000, 6 + 2, F32, _reduction(3, "argmin", "ArgMin"), 11),
    Case("knn10", "10-NN, D=10", 20_000, 20 + 1, F32, _reduction(10, "argkmin", "ArgKMin", 10), 9),
    Case("gradient3", "forward + gradient in x, D=3", 20_000, 2 * (6 + EXP) + 5, F32, _gradient, 12),
    Case("tiny", "M=10, N=20, map_reduce", 20, 0, F32, _tiny, 0),
    Case("tinylazy", "M=10, N=20, LazyTensor", 20, 0, F32, _tiny_lazy, 0),
]
EXTRA = ("symmetric", "first", "memory")  # rows of another form

# ---------------------------------------------------------------- the machine


def fma_rate(dtype: torch.dtype = F32) -> float:
    """Fused multiply-adds per second of one thread, counted by lane: 12 vectors that depend on themselves."""
    import ctypes

    from kerngp.engine.backends import jit

    target = jit.host_target()
    real, bits = ("float", 32) if dtype == F32 else ("double", 64)
    lanes, chains, turns = target.width_bits // bits, 12, 20_000_000
    vec, name = f"<{lanes} x {real}>", f"llvm.fma.v{lanes}f{bits}"
    lines = [f"declare {vec} @{name}({vec}, {vec}, {vec})", "define void @spin(i64 %n, ptr %p) {", "entry:",
             f"  %v = load {vec}, ptr %p, align 4", "  br label %loop", "loop:",
             "  %i = phi i64 [ 0, %entry ], [ %next, %loop ]"]  # fmt: skip
    lines += [f"  %a{k} = phi {vec} [ %v, %entry ], [ %b{k}, %loop ]" for k in range(chains)]
    lines += [f"  %b{k} = call {vec} @{name}({vec} %a{k}, {vec} %v, {vec} %v)" for k in range(chains)]
    lines += ["  %next = add i64 %i, 1", "  %more = icmp slt i64 %next, %n",
              "  br i1 %more, label %loop, label %done", "done:"]  # fmt: skip
    last = "%b0"
    for k in range(1, chains):
        lines.append(f"  %s{k} = fadd {vec} {last}, %b{k}")
        last = f"%s{k}"
    lines += [f"  store {vec} {last}, ptr %p, align 4", "  ret void", "}"]
    spin = jit.load(jit.compile_ir("\n".join(lines) + "\n", target)).function("spin", 2)
    data = (ctypes.c_double * 8)()  # zeros: no overflow, no subnormals
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        spin(turns, ctypes.addressof(data))
        best = min(best, time.perf_counter() - start)
    return turns * chains * lanes / best


# ---------------------------------------------------------------- timing


def once(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def alternate(calls: list[Call], repeats: int, budget: float) -> list[float]:
    """Median seconds of each call; the calls take turns. Short calls are repeated inside a turn."""
    loops = []
    for call in calls:
        call()
        call()  # compiled, buffers in place
        loops.append(max(1, min(2000, int(2e-3 / max(once(call), 1e-7)))))
    times: list[list[float]] = [[] for _ in calls]
    stop = time.perf_counter() + budget
    while len(times[0]) < repeats or (time.perf_counter() < stop and len(times[0]) < 5 * repeats):
        for call, n, found in zip(calls, loops, times, strict=True):
            start = time.perf_counter()
            for _ in range(n):
                call()
            found.append((time.perf_counter() - start) / n)
    return [statistics.median(found) for found in times]


FIRST_CALL = {
    "ours": """
import time, torch
torch.set_num_threads(2)
from kerngp.engine.expr import Vi, Vj
from kerngp.engine.mapreduce import map_reduce
from kerngp.engine.ops import exp, sqdist, sin
from kerngp.engine.reductions import SUM
a = (torch.rand(100, 3), torch.rand(100, 3), torch.rand(100, 1))
if {warm}:
    map_reduce(sin(Vi(0, 3)) * Vj(1, 3), SUM, a[:2])
t = time.perf_counter()
map_reduce({c} * exp(-sqdist(Vi(0, 3), Vj(1, 3))) * Vj(2, 1), SUM, a)
print(time.perf_counter() - t)
""",
    "keops": """
import time, torch
torch.set_num_threads(2)
from pykeops.torch import Genred  # pyright: ignore[reportMissingImports]
a = (torch.rand(100, 3), torch.rand(100, 3), torch.rand(100, 1))
t = time.perf_counter()
Genred("IntCst({c})*Exp(-SqDist(x,y))*b", ["x=Vi(3)", "y=Vj(3)", "b=Vj(1)"], axis=1)(*a, backend="CPU")
print(time.perf_counter() - t)
""",
}


def first_call(which: str, warm: bool = False) -> float:
    """Seconds of the first call of a formula no cache knows, in a new process."""
    number = int(time.time() * 1000) % 1_000_000 + 7
    code = FIRST_CALL[which].format(c=number, warm=warm)
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "KERNGP_CACHE_DIR": folder}
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True
        )
    return float(run.stdout.split()[-1])


MEMORY = """
import torch
def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024
torch.set_num_threads(2)
from kerngp.engine.expr import Vi, Vj
from kerngp.engine.mapreduce import map_reduce
from kerngp.engine.ops import exp, sqdist
from kerngp.engine.reductions import SUM
f = exp(-sqdist(Vi(0, 3), Vj(1, 3))) * Vj(2, 1)
map_reduce(f, SUM, (torch.rand(99, 3), torch.rand(99, 3), torch.rand(99, 1)))
a = (torch.rand({M}, 3), torch.rand({N}, 3), torch.rand({N}, 1))
try:
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts again here
    before = status("VmRSS")
except OSError:  # not allowed: the peak so far
    before = status("VmHWM")
map_reduce(f, SUM, a)
print(status("VmHWM") - before)
"""


def peak_memory(M: int, N: int) -> float:
    """MB above the inputs (Linux)."""
    code = MEMORY.format(M=M, N=N)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(run.stdout)


# ---------------------------------------------------------------- the table

HEAD = (
    "| case (M = N) | kerngp | KeOps 2.3 | ratio | aim | pairs/s | share of the FMA bound |\n"
    "|---|---|---|---|---|---|---|"
)


def seconds(t: float) -> str:
    if t < 1e-3:
        return f"{t * 1e6:.0f} µs"
    return f"{t * 1e3:.1f} ms" if t < 1 else f"{t:.2f} s"


def row(
    case: Case, repeats: int, budget: float, keops: bool, scale: float, rates: dict[torch.dtype, float]
) -> str:
    n = max(20, int(case.N * scale)) if case.pair_fma else case.N
    ours, theirs = case.make(n)
    calls = [ours, theirs()] if keops else [ours]
    found = alternate(calls, repeats, budget)
    pairs = n * n if case.pair_fma else n * n // 2
    bound = THREADS * rates[case.dtype] / case.pair_fma if case.pair_fma else 0.0
    rate = pairs / found[0]
    cells = [f"{case.title} ({n:,})" if case.pair_fma else case.title, seconds(found[0])]
    cells += [seconds(found[1]), f"{found[1] / found[0]:.1f}"] if keops else ["", ""]
    cells += [f"{case.target:g}" if case.target else "< 60 µs" if case.name == "tiny" else ""]
    cells += [f"{rate:.2g}", f"{100 * rate / bound:.0f} %"] if bound else ["", ""]
    gc.collect()
    return "| " + " | ".join(cells) + " |"


def symmetric_row(repeats: int, budget: float, scale: float) -> str:
    """K(x, x) b against the same product with a copy of x, which visits every pair."""
    from kerngp.engine.expr import Vi, Vj
    from kerngp.engine.mapreduce import map_reduce
    from kerngp.engine.ops import exp, sqdist
    from kerngp.engine.reductions import SUM

    n = int(20_000 * scale)
    x, _ = _clouds(n, 3)
    copy, b = x.clone(), _signal(n, 1)
    f = exp(-sqdist(Vi(0, 3), Vj(1, 3))) * Vj(2, 1)
    half, whole = alternate(
        [lambda: map_reduce(f, SUM, (x, x, b)), lambda: map_reduce(f, SUM, (x, copy, b))], repeats, budget
    )
    cells = [f"K(x, x) b, D=3 ({n:,}), against our own K(x, y) b", seconds(half), f"({seconds(whole)})"]
    return "| " + " | ".join([*cells, f"{whole / half:.2f}", "1.6", f"{n * n / half:.2g}", ""]) + " |"


def extra_rows(
    wanted: set[str], repeats: int, budget: float, keops: bool, scale: float, full: bool
) -> list[str]:
    rows = []
    if "symmetric" in wanted:
        rows.append(symmetric_row(repeats, budget, scale))
    if "first" in wanted:
        ours = statistics.median(first_call("ours", warm=True) for _ in range(3))
        cold = statistics.median(first_call("ours") for _ in range(3))
        theirs = first_call("keops") if keops else float("nan")
        ratio = f"{theirs / ours:.0f}" if keops else ""
        rows.append(
            f"| first call of a new formula ({seconds(cold)} if the first of the process) | {seconds(ours)} "
            f"| {seconds(theirs) if keops else ''} | {ratio} | < 0.3 s | | |"
        )
    if "memory" in wanted and sys.platform.startswith("linux"):
        for M, N in [(1_000_000, 10_000), *([(1_000_000, 1_000_000)] if full else [])]:
            used = f"{peak_memory(M, N):.0f} MB"
            rows.append(f"| memory above the inputs, {M:,} x {N:,}, D=3 | {used} | | | < 200 MB | | |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [c.name for c in CASES] + list(EXTRA)
    parser.add_argument("--cases", default=",".join(names), help=f"comma-separated; of {', '.join(names)}")
    parser.add_argument("--no-keops", action="store_true", help="leave KeOps out")
    parser.add_argument("--repeats", type=int, default=5, help="at least so many turns of each (median)")
    parser.add_argument(
        "--budget", type=float, default=3.0, help="more turns while a case took fewer seconds"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the numbers of points")
    parser.add_argument("--full-memory", action="store_true", help="also 10^6 x 10^6 pairs: minutes")
    parser.add_argument("--save", type=Path, help="write the table to this file as well")
    options = parser.parse_args()
    wanted = set(options.cases.split(","))
    if wanted - set(names):
        parser.error(f"unknown cases {sorted(wanted - set(names))}; known: {', '.join(names)}")
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    keops = not options.no_keops
    if keops:
        try:
            import pykeops  # pyright: ignore[reportMissingImports]
        except ImportError:
            parser.error("pykeops is not installed; install pykeops==2.3 or pass --no-keops")
        pykeops.set_verbose(False)
    torch.set_num_threads(THREADS)
    os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))  # for the processes below
    rates = {d: fma_rate(d) for d in (F32, F64)}
    lines = [
        f"{THREADS} threads, torch {torch.__version__}, {_processor()}; FMA rate of one thread: "
        f"{rates[F32] / 1e9:.0f} (float32), {rates[F64] / 1e9:.0f} (float64) billion/s; "
        f"medians of {options.repeats} or more turns.",
        "",
        HEAD,
    ]
    print("\n".join(lines), flush=True)

    def add(text: str) -> None:
        lines.append(text)
        print(text, flush=True)

    for case in CASES:
        if case.name in wanted:
            add(row(case, options.repeats, options.budget, keops, options.scale, rates))
    for text in extra_rows(
        wanted, options.repeats, options.budget, keops, options.scale, options.full_memory
    ):
        add(text)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\n(peak memory of this process: {peak:.0f} MB)")
    if options.save:
        options.save.write_text("\n".join(lines) + "\n")


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    import platform

    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()

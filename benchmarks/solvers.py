"""Our solvers beside those of other libraries, on real data, in one run.

    python benchmarks/solvers.py [--quick] [--only "etopo 8k; diamonds"] [--solvers "auto; KeOps"] [--cap 300]

Every system is (K + mu I) x = b with mu = lambda n, b the standardised target. All contenders get the same
arrays and the same tolerance in turns, after a small solve that compiles; the median of their times counts,
setup included. A pass is as many kernel entries as the matrix has: ours count everything (neighbour
search, rows of the preconditioner, races, restarts), others their products. The true residual is
computed here for everyone, in float64. A contender that is not done after the cap is shown with the residual
it had by then. Data come from `kerngp.datasets`. Nothing is written but to standard output.

Time: some minutes with --quick, two hours without, most of it waiting for other libraries to reach their cap.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

# Waiting OpenMP threads of one library would otherwise spin while the other is measured.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from solver_peers import PEERS, Outcome, Problem, Unavailable  # noqa: E402

from kerngp import datasets  # noqa: E402
from kerngp.errors import KerngpError  # noqa: E402
from kerngp.solvers import (  # noqa: E402
    CG,
    AlternatingProjection,
    ASkotch,
    Cholesky,
    Nystrom,
    RPCholesky,
    Vecchia,
    solve,
)
from kerngp.solvers.meter import metering  # noqa: E402
from kerngp.solvers.path import solve_path  # noqa: E402

THREADS = 2
TOL = 1e-6
AUTO = "kerngp auto"
QUICK = (AUTO, "RPCholesky 400", "Vecchia 40", "our Cholesky", "KeOps", "SciPy", "GPyTorch")
QUICK_SYSTEMS = ("etopo 8k", "diamonds")
COMPILE = 300.0  # seconds that the small solve before may take: KeOps compiles in it
Contender = Callable[[Problem, float], Outcome]


# ---------------------------------------------------------------- the systems


@dataclass(frozen=True)
class System:
    """A system by its data: ``ridge`` is lambda, so that mu = ridge n. ``quick`` is the size with --quick."""

    name: str
    load: Callable[[], datasets.Dataset]
    n: int
    quick: int
    kernel: str
    lengthscale: float
    ridge: float
    classes: int = 0  # of a target that is the number of a class: one column each

    def problem(self, quick: bool, dtype: torch.dtype = torch.float64) -> Problem:
        data = self.load()
        data = data.sample(min(self.quick if quick else self.n, len(data.y)))
        b = data.y[:, None]
        if self.classes:
            b = 2.0 * (data.y[:, None] == np.arange(self.classes)) - 1.0
        x = torch.from_numpy(data.X / self.lengthscale).to(dtype)
        return Problem(x, torch.from_numpy(b).to(dtype), self.kernel, self.ridge * len(x), TOL)


SYSTEMS = [
    System("etopo 8k", datasets.etopo, 8_000, 2_000, "matern32", 0.1, 1e-6),
    System("etopo 8k, easy", datasets.etopo, 8_000, 2_000, "matern32", 0.1, 1e-4),
    System("etopo 8k, harder", datasets.etopo, 8_000, 2_000, "matern32", 0.1, 1e-5),
    System("etopo 65k", datasets.etopo, 64_800, 4_000, "matern32", 0.1, 8e-3 / 64_800),
    System("diamonds", datasets.diamonds, 20_000, 2_000, "matern32", 2.0, 1e-6),
    System("flights", datasets.flights, 20_000, 2_000, "rbf", 1.5, 1e-6),
    System("flights, Matern", datasets.flights, 20_000, 2_000, "matern32", 1.5, 1e-6),
    System("fashion-MNIST", datasets.fashion_mnist, 10_000, 1_000, "matern32", 10.0, 8e-5, classes=10),
]
BY_NAME = {s.name: s for s in SYSTEMS}
SINGLE = ("etopo 8k", "diamonds", "flights")  # solved in single precision


# ---------------------------------------------------------------- ours


def ours(method: Any, recipe: Any = None) -> Contender:
    """A method and a recipe of a preconditioner, as they are called."""

    def run(p: Problem, cap: float) -> Outcome:
        limits: dict[str, Any] = {} if isinstance(method, Cholesky) else {"time_limit": cap}
        if isinstance(method, str):
            s = solve(p.A, p.b, method, tol=p.tol, on_fail="ignore", **limits)
        else:
            s = solve(p.A, p.b, replace(method, tol=p.tol, **limits), preconditioner=recipe, on_fail="ignore")
        what = s.report.preconditioner if isinstance(method, str) else ""
        chosen = f" ({s.method}{', ' + what if what else ''})" if isinstance(method, str) else ""
        return Outcome(s.x, s.report.passes, s.status.name + chosen)

    return run


LONG = CG(max_iter=100_000, patience=2_000)
OURS: dict[str, Contender] = {
    AUTO: ours("auto"),
    "CG": ours(LONG),
    "CG, RPCholesky 100": ours(LONG, RPCholesky(100)),
    "CG, RPCholesky 400": ours(LONG, RPCholesky(400)),
    "CG, RPCholesky 1000": ours(LONG, RPCholesky(1000)),
    "CG, Nystrom 200": ours(LONG, Nystrom(200)),
    "CG, Vecchia 15": ours(LONG, Vecchia(15)),
    "CG, Vecchia 40": ours(LONG, Vecchia(40)),
    "CG, Vecchia 80": ours(LONG, Vecchia(80)),
    "ASkotch": ours(ASkotch(max_passes=10_000)),
    "alternating projection": ours(AlternatingProjection(max_passes=10_000)),
    "our Cholesky": ours(Cholesky()),
}


# ---------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Row:
    """What is known of a contender after all rounds."""

    name: str
    passes: float
    seconds: float
    residual: float
    status: str


def measure(p: Problem, contenders: dict[str, Contender], cap: float, repeats: int) -> list[Row]:
    """All contenders in turns; those that take more than a tenth of the cap run once."""
    found: dict[str, list[tuple[float, Outcome]]] = {}
    for turn in range(repeats):
        for name, run in contenders.items():
            try:
                if turn == 0:
                    run(p.head(600), COMPILE)
                elif not found[name] or found[name][0][0] > cap / 10:
                    continue
                start = time.perf_counter()
                outcome = run(p, cap)
                found.setdefault(name, []).append((time.perf_counter() - start, outcome))
            except (Unavailable, ImportError, KerngpError, MemoryError) as error:
                why = str(error).split(";")[0]
                found[name] = []
                print(f"  {name}: {why}", file=sys.stderr)
            print(f"  {name} {turn + 1}/{repeats}", file=sys.stderr, flush=True)
    rows = []
    for name, runs in found.items():
        if not runs:
            rows.append(Row(name, math.nan, math.nan, math.nan, "does not fit, see above"))
            continue
        last = runs[-1][1]
        residual = math.nan if last.x is None else p.residual(last.x)
        rows.append(Row(name, last.passes, statistics.median(t for t, _ in runs), residual, last.status))
    return rows


def number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)


def table(rows: Sequence[Row]) -> None:
    """Markdown: one line for each contender, its time in units of ours."""
    unit = next((r.seconds for r in rows if r.name == AUTO), math.nan)
    print("| solver | passes | time | true residual | outcome | time / auto |\n|---|---|---|---|---|---|")
    for r in rows:
        cells = [
            number(r.passes, ".1f"),
            number(r.seconds, ".2f") + " s",
            number(r.residual, ".1e"),
            r.status,
        ]
        print(f"| {r.name} | {' | '.join(cells)} | {number(r.seconds / unit, '.2f')} |")
    solved = [r for r in rows if r.name in OURS and r.name != AUTO and r.residual <= TOL]
    if solved and unit == unit:
        best = min(solved, key=lambda r: r.seconds)
        print(f"\nauto takes {unit / best.seconds:.2f} times the best hand-picked option ({best.name}).")
    sys.stdout.flush()


def head(text: str) -> None:
    print(f"\n### {text}\n", flush=True)


def title(name: str, p: Problem, ridge: float) -> str:
    kernel = {"matern32": "Matern-3/2", "rbf": "RBF"}[p.kernel]
    columns = f", {p.b.shape[-1]} columns" if p.b.shape[-1] > 1 else ""
    dtype = str(p.x.dtype).removeprefix("torch.")
    return (
        f"{name}: n = {p.n:,}, D = {p.x.shape[-1]}, {kernel}, lambda = {ridge:.1e} "
        f"(mu = {p.mu:.1e}), {dtype}{columns}"
    )


# ---------------------------------------------------------------- the three parts


def side_by_side(
    systems: Sequence[System], wanted: Sequence[str], quick: bool, cap: float, repeats: int
) -> None:
    """Everybody on every system."""
    contenders = {k: v for k, v in (OURS | PEERS).items() if not wanted or any(w in k for w in wanted)}
    for system in systems:
        p = system.problem(quick)
        head(title(system.name, p, system.ridge))
        table(measure(p, contenders, cap, repeats))


def path(quick: bool, cap: float) -> None:
    """Twenty alphas at once, beside the hardest of them alone, and KeOps one after the other."""
    p = BY_NAME["diamonds"].problem(quick).head(2_000 if quick else 10_000)
    alphas = torch.logspace(-3, 2, 20, dtype=torch.float64)
    head(f"diamonds, a path of {len(alphas)} alphas, 1e-3 to 1e2: n = {p.n:,}")
    print("| | passes | time | worst true residual | outcome |\n|---|---|---|---|---|")

    def line(name: str, passes: float, seconds: float, residual: float, status: str) -> None:
        print(f"| {name} | {passes:.1f} | {seconds:.2f} s | {residual:.1e} | {status} |", flush=True)

    def run(q: Problem, values: torch.Tensor) -> tuple[float, float]:
        with metering() as meter:
            method = CG(tol=TOL, time_limit=cap)
            s = solve_path(q.K, q.b, values, method, preconditioner=Vecchia(40))
        seconds, worst = meter.elapsed, 0.0
        for a, x in zip(values.tolist(), s.x):
            worst = max(worst, replace(q, mu=a).residual(x))
        if q is p:
            line(f"{len(values)} alphas", meter.passes(p.n**2), seconds, worst, s.status.name)
        return meter.passes(p.n**2), seconds

    run(p.head(600), alphas)
    (alone, seconds), (whole, all_seconds) = run(p, alphas[:1]), run(p, alphas)
    start, products, errors = time.perf_counter(), 0.0, []
    for a in reversed(alphas.tolist()):  # the easy ones first
        q, left = replace(p, mu=a), cap - (time.perf_counter() - start)
        outcome = PEERS["KeOps KernelSolve"](q, left) if left > 0 else None
        if outcome is not None:
            products += outcome.passes
        if outcome is None or outcome.status != "returned":
            break
        errors.append(q.residual(outcome.x))
    status = "returned" if len(errors) == len(alphas) else f"not in {cap:.0f} s"
    worst = max(errors, default=math.nan)
    line(f"KeOps, {len(errors)} of them", products, time.perf_counter() - start, worst, status)
    more, longer = whole / alone, all_seconds / seconds
    print(f"\n{more:.2f} times the entries and {longer:.2f} times the time of the hardest alone.")


def single_precision(quick: bool, cap: float) -> int:
    """Points in float32 and lambda down to 1e-8: the residual, or a typed failure. Returns false claims."""
    head("points in float32, small lambda")
    print(
        "| system | lambda | solver | time | true residual | outcome | claim |\n|---|---|---|---|---|---|---|"
    )
    runs = {AUTO + ", b in float64": ours("auto"), AUTO + ", b in float32": ours("auto")}
    runs |= {"KeOps KernelSolve": PEERS["KeOps KernelSolve"]}
    wrong = 0
    for system in (BY_NAME[name] for name in SINGLE[: 2 if quick else 3]):
        for ridge in (1e-4, 1e-6, 1e-8):
            small = replace(system, ridge=ridge, n=8_000)
            p = small.problem(quick, torch.float32)
            for name, run in runs.items():
                q = replace(p, b=p.b.double()) if "float64" in name else p
                limit = min(cap, 60.0)
                run(q.head(600), COMPILE)
                start = time.perf_counter()
                outcome = run(q, limit)
                seconds = time.perf_counter() - start
                residual = math.nan if outcome.x is None else q.residual(outcome.x)
                claims = outcome.status.startswith(("converged", "returned"))
                false = claims and not residual <= TOL
                wrong += false and name in (n for n in runs if n.startswith(AUTO))
                claim = "false" if false else "true" if claims else "none"
                print(
                    f"| {system.name} | {ridge:.0e} | {name} | {seconds:.2f} s | {residual:.1e} | "
                    f"{outcome.status} | {claim} |",
                    flush=True,
                )
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small systems, caps of a few seconds")
    parser.add_argument("--only", default="", help="systems, separated by semicolons; also: path; float32")
    parser.add_argument("--solvers", default="", help="parts of contenders' names, separated by semicolons")
    parser.add_argument("--cap", type=float, help="seconds that a contender may take; default 300")
    parser.add_argument("--repeats", type=int, default=3, help="turns of those that are quick (median)")
    options = parser.parse_args()
    only, wanted = ([w.strip() for w in s.split(";") if w.strip()] for s in (options.only, options.solvers))
    unknown = sorted(set(only) - set(BY_NAME) - {"path", "float32"})
    if unknown:
        parser.error(f"unknown: {unknown}; known are {[*BY_NAME, 'path', 'float32']}")
    quick = options.quick
    cap = options.cap or (2.0 if quick else 300.0)
    torch.set_num_threads(THREADS)
    print(f"{THREADS} threads, tolerance {TOL:.0e}, cap {cap:.0f} s")
    names = only or (QUICK_SYSTEMS if quick else BY_NAME)
    chosen = [s for s in SYSTEMS if s.name in names]
    side_by_side(chosen, wanted or QUICK if quick else wanted, quick, cap, 1 if quick else options.repeats)
    if not only or "path" in only:
        path(quick, cap)
    return single_precision(quick, cap) if not only or "float32" in only else 0


if __name__ == "__main__":
    sys.exit(main())

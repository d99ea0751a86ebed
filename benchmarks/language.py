"""Every word of KeOps's formula language and every reduction, beside KeOps on the CPU.

    python benchmarks/language.py [--only "Exp; SqDist; reduction Min"] [--points 3000] [--gradient]

Both libraries get the same string and the same arrays, in turns; the median counts. KeOps compiles
each formula with g++ when it first sees it, ten seconds and more (twice that with --gradient), so the
whole table takes a quarter of an hour the first time and a few minutes from then on.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from cpu import THREADS, alternate, seconds

DIMS = {"x": 4, "y": 4, "a": 1, "b": 1, "c": 2, "d": 2, "A": 16, "k": 8, "s": 4, "p": 1}
KINDS = {
    "x": "Vi",
    "a": "Vi",
    "c": "Vi",
    "y": "Vj",
    "b": "Vj",
    "d": "Vj",
    "A": "Vj",
    "k": "Pm",
    "s": "Pm",
    "p": "Pm",
}


@dataclass(frozen=True)
class Case:
    """One row: a formula, reduced over j; with ``clusters``, only over neighbouring blocks of pairs."""

    name: str
    formula: str
    reduction: str = "Sum"
    options: dict[str, Any] = field(default_factory=dict)
    clusters: int = 0

    @property
    def names(self) -> list[str]:
        text = self.formula + " " + self.options.get("formula2", "")
        return [n for n in DIMS if re.search(rf"\b{n}\b", text)]


# ---------------------------------------------------------------- the cases

UNARY = (
    "Square Abs Exp Sin Cos SinXDivX Sign Step ReLU Floor Minus Inv Atan "
    "Max Min ArgMax ArgMin Sum SqNorm2 Norm2 Normalize"
).split()
POSITIVE = "Log XLogX Sqrt Rsqrt".split()  # of a squared distance
UNIT = "Asin Acos".split()  # of a number in (0, 1)
BINARY = "Add Subtract Mult Divide Equal NotEqual LessThan LessOrEqual Scalprod SqDist Concat Atan2".split()
PARTICULAR = {
    "Pow": "Pow(x-y,3)",
    "Powf": "Powf(SqDist(x,y),p)",
    "IntCst": "IntCst(3)*Square(x-y)",
    "RatCst": "RatCst(1,3)*Square(x-y)",
    "Mod": "Mod(x-y,p,p)",
    "Round": "Round(x-y,2)",
    "Clamp": "Clamp(x-y,a,b)",
    "ClampInt": "ClampInt(x-y,0,1)",
    "IfElse": "IfElse(x-y,x,y)",
    "OneHot": "OneHot(SqDist(x,y),4)",
    "SumT": "SumT(SqDist(x,y),4)",
    "Elem": "Elem(x-y,2)",
    "ElemT": "ElemT(SqDist(x,y),4,2)",
    "Extract": "Extract(x-y,1,2)",
    "ExtractT": "ExtractT(x-y,1,8)",
    "SqNormIso": "SqNormIso(p,x-y)",
    "SqNormDiag": "SqNormDiag(s,x-y)",
    "SymSqNorm": "SymSqNorm(A,x)",
    "WeightedSqNorm": "WeightedSqNorm(s,x-y)",
    "WeightedSqDist": "WeightedSqDist(s,x,y)",
    "MatVecMult": "MatVecMult(A,x)",
    "VecMatMult": "VecMatMult(x,A)",
    "TensorProd": "TensorProd(x,y)",
    "TensorDot": "TensorDot(x,A,(2,2),(2,2,4),(1,),(0,))",
    "Kron": "Kron(x,y,(2,2),(2,2))",
    "BSpline": "BSpline(k,a*b,3)",
    "SoftDTW_SqDist": "SoftDTW_SqDist(x,y,p)",
    "Grad": "Grad(Exp(-SqDist(x,y)),x,b)",
    "Divergence": "Divergence(Exp(-SqDist(x,y))*(x-y),x)",
    "Laplacian": "Laplacian(Exp(-SqDist(x,y)),x)",
    "GradMatrix": "GradMatrix(x*SqDist(x,y),x)",
}
COMPLEX = {
    **{w: f"{w}(c*d)" for w in ("ComplexReal ComplexImag Conj ComplexAbs ComplexSquareAbs ComplexAngle "
                                "ComplexSum ComplexExp").split()},
    **{w: f"{w}(c,d)" for w in "ComplexAdd ComplexSubtract ComplexMult ComplexDivide".split()},
    **{w: f"{w}(a*b)" for w in "Real2Complex Imag2Complex ComplexExp1j".split()},
    "ComplexRealScal": "ComplexRealScal(b,c)",
    "ComplexSumT": "ComplexSumT(ComplexMult(c,d),4)",
}  # fmt: skip
WORDS = {
    **{w: f"{w}(x-y)" for w in UNARY},
    **{w: f"{w}(SqDist(x,y))" for w in POSITIVE},
    **{w: f"{w}(a*b)" for w in UNIT},
    **{w: f"{w}(x,y)" for w in BINARY},
    **PARTICULAR,
    **COMPLEX,
}
GAUSS = "Exp(-SqDist(x,y))"
REDUCTIONS = [
    Case("reduction Sum", f"{GAUSS}*b"),
    Case("reduction LogSumExp", "-SqDist(x,y)", "LogSumExp"),
    Case("reduction LogSumExp weighted", "-SqDist(x,y)", "LogSumExp", {"formula2": "b"}),
    Case("reduction SumSoftMaxWeight", "-SqDist(x,y)", "SumSoftMaxWeight", {"formula2": "y"}),
    *(
        Case(f"reduction {name}", "SqDist(x,y)", name)
        for name in ("Min", "Max", "ArgMin", "ArgMax", "Min_ArgMin", "Max_ArgMax")
    ),
    *(
        Case(f"reduction {name}", "SqDist(x,y)", name, {"opt_arg": 5})
        for name in ("KMin", "ArgKMin", "KMin_ArgKMin")
    ),
]
BLOCKS = [Case(f"block-sparse, {c} clusters", f"{GAUSS}*b", clusters=c) for c in (10, 100)]
CASES = [Case(word, formula) for word, formula in WORDS.items()] + REDUCTIONS + BLOCKS

# ---------------------------------------------------------------- one row


def arrays(case: Case, points: int, gradient: bool) -> list[torch.Tensor]:
    """Numbers in (0, 1), increasing along the knots."""
    g = torch.Generator().manual_seed(1)
    made = []
    for n in case.names:
        shape = (DIMS[n],) if KINDS[n] == "Pm" else (points, DIMS[n])
        t = torch.rand(shape, generator=g) * 0.98 + 0.01
        made.append(t.sort().values if n == "k" else t)
    if gradient:
        made[0].requires_grad_()
    return made


def ranges(case: Case, points: int) -> tuple[torch.Tensor, ...] | None:
    """Clusters of equal size, each with itself and its two neighbours."""
    from kerngp.torch.cluster import from_matrix

    if not case.clusters:
        return None
    ends = torch.linspace(0, points, case.clusters + 1).long()
    clusters, k = torch.stack([ends[:-1], ends[1:]], 1), torch.arange(case.clusters)
    return from_matrix(clusters, clusters, (k[:, None] - k).abs() <= 1)


def call(Genred: Any, case: Case, args: list[torch.Tensor], gradient: bool) -> Callable[[], object]:
    aliases = [f"{n}={KINDS[n]}({DIMS[n]})" for n in case.names]
    routine = Genred(case.formula, aliases, reduction_op=case.reduction, axis=1, **case.options)
    blocks = ranges(case, len(args[0]))
    if not gradient:
        return lambda: routine(*args, backend="CPU", ranges=blocks)
    return lambda: torch.autograd.grad(routine(*args, backend="CPU", ranges=blocks).sum(), args[0])


def measure(case: Case, points: int, gradient: bool, repeats: int, budget: float) -> tuple[list[float], str]:
    """Seconds of ours and of KeOps's call; a library that fails gives NaN and its message."""
    from pykeops.torch import Genred as Theirs  # pyright: ignore[reportMissingImports]

    from kerngp.torch import Genred as Ours

    args, found, note = arrays(case, points, gradient), [], ""
    for name, library in (("kerngp", Ours), ("KeOps", Theirs)):
        try:
            one = call(library, case, args, gradient)
            one()
            found.append(one)
        except Exception as error:  # a row for each word, whatever it does
            note = f"{name}: {type(error).__name__} {str(error).splitlines()[0][:60] if str(error) else ''}"
            found.append(None)
    times = iter(alternate([c for c in found if c is not None], repeats, budget) if any(found) else ())
    return [math.nan if c is None else next(times) for c in found], note


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="separated by semicolons: Exp; reduction Min; ...")
    parser.add_argument("--points", type=int, default=2000, help="M = N")
    parser.add_argument(
        "--gradient", action="store_true", help="the value and the gradient in the first array"
    )
    parser.add_argument("--repeats", type=int, default=3, help="at least so many turns of each (median)")
    parser.add_argument("--budget", type=float, default=0.3, help="more turns while a row took fewer seconds")
    parser.add_argument("--save", type=Path, help="write the table to this file as well")
    options = parser.parse_args()
    names = [n.strip() for n in (options.only or "").split(";")]
    known = {case.name: case for case in CASES}
    chosen = [known[n] for n in names if n in known] if options.only else CASES
    if options.only and len(chosen) < len(names):
        parser.error(f"unknown: {sorted(set(options.only.split(',')) - set(known))}")
    try:
        import pykeops  # pyright: ignore[reportMissingImports]
    except ImportError:
        parser.error("pykeops is not installed; install pykeops==2.3")
    pykeops.set_verbose(False)
    torch.set_num_threads(THREADS)
    lines = [
        f"M = N = {options.points:,}, float32, {THREADS} threads"
        + (", value and gradient" if options.gradient else ""),
        "",
        "| word | formula | kerngp | KeOps 2.3 | ratio |",
        "|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    ratios = []
    for case in chosen:
        (ours, theirs), note = measure(
            case, options.points, options.gradient, options.repeats, options.budget
        )
        ratio = theirs / ours
        shown = [seconds(t) if t == t else "fails" for t in (ours, theirs)]
        cells = [
            case.name,
            f"`{case.formula}`".replace("|", "\\|"),
            *shown,
            f"{ratio:.1f}" if ratio == ratio else note,
        ]
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
        if ratio == ratio:
            ratios.append((ratio, case.name))
    if ratios:
        mean = math.exp(sum(math.log(r) for r, _ in ratios) / len(ratios))
        least = ", ".join(f"{name} {r:.1f}" for r, name in sorted(ratios)[:5])
        lines += ["", f"Geometric mean of {len(ratios)} ratios: {mean:.1f}. The smallest: {least}."]
        print("\n".join(lines[-2:]))
    if options.save:
        options.save.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

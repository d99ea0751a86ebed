"""Writes docs/formula.md from the tables of the package: python docs/generate_formula.py"""
# ruff: noqa: E501

from __future__ import annotations

import inspect
import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from kerngp.engine.autodiff import vjp
from kerngp.engine.expr import Expr, Vi, Vj, postorder
from kerngp.engine.formulas import FORMULAS
from kerngp.engine.kernel_algebra import PROFILES, known
from kerngp.engine.mapreduce import map_reduce_many
from kerngp.engine.parse import parse_formula
from kerngp.engine.plan import Output
from kerngp.engine.reductions import REDUCTIONS, Reduction, with_k
from kerngp.engine.rewrite import simplify
from kerngp.engine.vocabulary import WORDS, Word
from kerngp.errors import FormulaError, KerngpError
from kerngp.options import Options

PAGE = Path(__file__).with_name("formula.md")
LONGEST = 48  # characters of a derivative that is printed

# the variables of the examples
ALIASES = {
    "x": "Vi(0,3)",
    "y": "Vj(1,3)",
    "s": "Pm(2,1)",
    "A": "Pm(3,9)",
    "u": "Vi(4,4)",
    "v": "Vj(5,4)",
    "c": "Vi(6,2)",
}
# what is tried for an argument of each kind, until the word accepts the whole
TRIED = {
    "f": [["x", "u", "A", "s"], ["y", "x", "v", "A", "s"], ["s", "y", "x", "v"], ["y", "v", "s"]],
    "n": [["2", "1", "3", "0", "4"], ["3", "1", "2", "0", "4"]],
    "t": [["(3,)", "(2, 2)", "(3, 3)", "(0,)", "(1,)"]],
    "x": [["0.5", "2"]],
}
# where another example says more
EXAMPLES = {
    "MatVecMult": "MatVecMult(A, x)",
    "VecMatMult": "VecMatMult(x, A)",
    "TensorDot": "TensorDot(A, x, (3, 3), (3,), (1,), (0,))",
    "Kron": "Kron(u, v, (2, 2), (2, 2))",
    "WeightedSqNorm": "WeightedSqNorm(A, x)",
    "ComplexSumT": "ComplexSumT(c, 4)",
    "ComplexPow": "ComplexPow(u, 2)",
    "Grad": "Grad(SqDist(x, y), x, s)",
    "Diff": "Diff(SqDist(x, y), x, y)",
    "GradMatrix": "GradMatrix(SqDist(x, y), x)",
    "Divergence": "Divergence(s * x, x)",
    "Laplacian": "Laplacian(SqDist(x, y), x)",
    "TraceOperator": "TraceOperator(s * x, x)",
    "AdjointOperator": "AdjointOperator(s * x, x, y)",
    "SumLinOperator": "SumLinOperator(s * x, x)",
}

INTRODUCTION = """\
# The formula language

<!-- written by docs/generate_formula.py; a test compares -->

A formula string says what is computed for each pair (i, j); a reduction over i or j says what becomes of the
values. `kerngp.engine.parse.parse_formula(text, aliases)` reads it.

```python
"Exp(-G*SqDist(X,Y)) * ( IntCst(1) + Pow((U|V), 2) )"
["X = Vi(3)", "Y = Vj(3)", "G = Pm(1)", "U = Vi(4)", "V = Vj(4)"]
```

## Variables

Every value is a vector of fixed length, its dim. An alias gives a variable its name; its position in the list is
the position of the array in the call, unless it is given.

| alias | in a formula | array |
|---|---|---|
| `x = Vi(dim)`, `x = Vi(position, dim)` | `Vi(position, dim)`, `Var(position, dim, 0)` | (M, dim), a row for each i |
| `x = Vj(dim)`, `x = Vj(position, dim)` | `Vj(position, dim)`, `Var(position, dim, 1)` | (N, dim), a row for each j |
| `x = Pm(dim)`, `x = Pm(position, dim)` | `Pm(position, dim)`, `Var(position, dim, 2)` | (dim,), one for all pairs |

`x = Var(position, dim, category)` is an alias too. `Vx` and `Vy` are old names of `Vi` and `Vj`.

## Numbers and operators

Integers and decimals (`2`, `0.5`, `1e-3`) are constants in double precision; arithmetic among numbers is Python's.
From strongest to weakest, with Python's rules for grouping:

| operator | meaning |
|---|---|
| `x[2]`, `x[-1]`, `x[0:3]` | components |
| `f ** g` | power; an integer exponent is a product |
| `-f`, `+f` | |
| `f * g`, `f / g` | componentwise; a vector of dim 1 meets every component of the other |
| `f + g`, `f - g` | componentwise, likewise |
| `f \\| g` | scalar product; weaker than `+`: `x - y \\| x - y` is a squared distance |
| `f < g`, `f <= g`, `f > g`, `f >= g`, `f == g`, `f != g` | 1 where it holds, else 0; they are not chained |

Tuples `(2, 3)` and lists `[2, 3]` of integers are arguments of some words. Texts may nest as deep as they like. Errors show
the place:

```
unknown function 'Sqdist'; did you mean SqDist?
    Exp(-Sqdist(x,y))
         ^
```

## Words

In the examples `{aliases}`. Dims are those of the example. Derivatives are what the engine finds, for a cotangent `g`
of the result; where they are long, their number of operations stands instead. An argument in brackets may be left out.

"""

REDUCED = """
## Reductions

Over j (or i), component by component. The example has the entries 3, 1, 2, and the weights 1, 2, 1 where there are
weights.

"""

KERNELS = """
## Kernels

Strings of `kerngp.torch.Kernel`, and `kernel=` of the estimators, combine kernels of two points:
`"gaussian(x,y) * (1 + linear(u,v)**2)"`, with `+ - * /`, `**` and a number, numbers and brackets. Each kernel has its own
parameter gamma: one number, one for each component, or a D x D matrix by rows; with d2 = <x - y, G (x - y)>:

"""

FORMULA_KERNELS = """
The formulas of the package can be named as well. They are written in units of a lengthscale: gamma multiplies the squared
distance |x - y|^2 of those that are functions of it; in the others x and y are multiplied by sqrt(gamma).
`kerngp.register_kernel` adds more.

"""


# ---------------------------------------------------------------- formulas as text

_INFIX = {"add": ("+", 3), "sub": ("-", 3), "mul": ("*", 4), "div": ("/", 4)}


def shown(e: Expr, names: dict[Expr, str], least: int = 0) -> str:
    """A formula as one writes it; in brackets if it binds less than ``least``."""
    if e in names:
        return names[e]
    if e.op == "const":
        text, strength = f"{e.attr[0]:g}", 5 if e.attr[0] < 0 else 9
    elif e.op in _INFIX:
        sign, strength = _INFIX[e.op]
        a, b = e.args
        text = f"{shown(a, names, strength)} {sign} {shown(b, names, strength + 1)}"
    elif e.op == "neg":
        text, strength = f"-{shown(e.args[0], names, 5)}", 5
    elif e.op in ("square", "powi"):
        power = 2 if e.op == "square" else e.attr[0]
        text, strength = f"{shown(e.args[0], names, 7)}^{power}", 6
    elif e.op == "expand":  # a scalar that meets every component: nobody writes it
        return shown(e.args[0], names, least)
    else:
        parts = [*(shown(a, names) for a in e.args), *map(str, e.attr)]
        text, strength = f"{e.op}({', '.join(parts)})", 9
    return text if strength >= least else f"({text})"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def cell(text: str) -> str:
    """Text inside a table: a bar would end the cell."""
    return text.replace("|", "\\|")


def code(text: str) -> str:
    return f"`{cell(text)}`"


# ---------------------------------------------------------------- words


def candidates(word: Word) -> Iterator[str]:
    """Examples to try, the shortest list of arguments first."""
    if word.name in EXAMPLES:
        yield EXAMPLES[word.name]
    most = len(word.signature)
    for count in range(most - word.optional, most + 1):
        seen: dict[str, int] = {}
        choices = []
        for kind in word.signature[:count]:
            k = seen.setdefault(kind, 0)
            choices.append(TRIED[kind][min(k, len(TRIED[kind]) - 1)])
            seen[kind] += 1
        for parts in itertools.product(*choices):
            yield f"{word.name}({', '.join(parts)})"


def example(word: Word) -> tuple[str, Expr]:
    """A use of the word, and its formula."""
    for text in candidates(word):
        try:
            return text, parse(text)
        except FormulaError:
            continue
    raise LookupError(f"no example of {word.name} was found; write one into EXAMPLES of {__file__}.")


def parse(text: str) -> Expr:
    return parse_formula(text, [f"{name}={leaf}" for name, leaf in ALIASES.items()]).expr


def derivatives(text: str, e: Expr) -> str:
    """The cotangents of the variables of an example."""
    names = {parse(name): name for name in ALIASES}
    used = [name for name in dict.fromkeys(re.findall(r"\w+", text)) if name in ALIASES]
    g = Vi(99, e.dim)
    names[g] = "g"
    found = vjp(e, g, tuple(parse(name) for name in used)) if used else ()
    return "; ".join(f"{name}: {_derivative(d, names)}" for name, d in zip(used, found, strict=True))


def _derivative(d: Expr | None, names: dict[Expr, str]) -> str:
    if d is None:
        return "0"
    d = simplify(d)
    nodes = [n for n in postorder(d) if n.args]
    plain = not any(isinstance(a, tuple) for n in nodes for a in n.attr)
    if plain and len(nodes) <= 12:
        text = shown(d, names)
        if len(text) <= LONGEST:
            return code(text)
    return f"{len(nodes)} operation{'s' * (len(nodes) != 1)}"


def heading(word: Word) -> str:
    """The word with the names of its arguments."""
    parameters = inspect.signature(word.build).parameters.values()
    names = [p.name for p in parameters][: len(word.signature)]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):  # these have no names
        names = list("abcdef"[: len(word.signature)])
    least = len(names) - word.optional
    text = ", ".join(names[:least])
    for name in names[least:]:
        text += f"[, {name}]" if text else f"[{name}]"
    return f"{word.name}({text})"


def split(text: str) -> list[str]:
    """The arguments of a call: what stands between commas outside of brackets."""
    parts, depth = [""], 0
    for c in text:
        depth += (c in "([") - (c in ")]")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return [p.strip() for p in parts]


def word_row(word: Word) -> list[str]:
    text, e = example(word)
    arguments = split(text[len(word.name) + 1 : -1])
    dims = [str(parse(a).dim) for a, kind in zip(arguments, word.signature, strict=False) if kind == "f"]
    return [
        code(heading(word)),
        f"{', '.join(dims)} → {e.dim}" if dims else str(e.dim),
        cell(word.doc),
        derivatives(text, e),
        code(text),
    ]


# ---------------------------------------------------------------- reductions and kernels


def number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else str(value)


def reduction_row(name: str) -> list[str]:
    r = REDUCTIONS[name]
    k = "k = 2: " if r.code == "kmin" else ""
    r = with_k(r, 2) if k else r
    entries = row_of(r)
    results = reduced(r, entries)
    shown = k + "; ".join(", ".join(map(number, out.flatten().tolist())) for out in results)
    return [
        code(name),
        " and ".join(r.outputs) or "values",
        shown,
        gradient(r, entries),
        of_nothing(r, entries),
    ]


def row_of(r: Reduction) -> torch.Tensor:
    """Entries 3, 1, 2, with weights 1, 2, 1 behind them where the reduction takes some."""
    row = torch.tensor([[3.0, 1.0], [1.0, 2.0], [2.0, 1.0]], dtype=torch.float64)
    try:
        reduced(r, row[:, :1])
    except FormulaError:
        return row
    return row[:, :1]


def reduced(r: Reduction, row: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What a reduction over j makes of one row of entries."""
    output = Output(Vj(0, row.shape[1]), r)
    (out,) = map_reduce_many((output,), (row,), sizes=(1, None), options=Options(backend="reference"))
    return out


def gradient(r: Reduction, row: torch.Tensor) -> str:
    row = row.clone().requires_grad_()
    try:
        value = reduced(r, row)[0]
        if not value.requires_grad:
            return ""
        (g,) = torch.autograd.grad(value.sum(), row)
    except FormulaError:  # it has none
        return ""
    return ", ".join(map(number, g[:, 0].tolist()))


def of_nothing(r: Reduction, row: torch.Tensor) -> str:
    try:
        return "; ".join(", ".join(map(number, out.flatten().tolist())) for out in reduced(r, row[:0]))
    except KerngpError:
        return "an error"


def profile_row(name: str) -> list[str]:
    d2 = Vi(0, 1)
    return [code(f"{name}(x, y)"), code(shown(PROFILES[name](d2), {d2: "d2"}))]


def kernel_row(name: str) -> list[str]:
    function = FORMULAS[name]
    taken = known()[name]
    parameters = list(inspect.signature(function).parameters.values())[2 : 2 + taken]
    numbers = "".join(f"[, {p.name}={p.default:g}]" for p in parameters)
    return [code(f"{name}(x, y{numbers})"), cell((function.__doc__ or "").split("\n")[0].rstrip("."))]


def page() -> str:
    """The whole page."""
    aliases = "`, `".join(f"{name} = {leaf}" for name, leaf in ALIASES.items())
    parts = [INTRODUCTION.replace("{aliases}", aliases)]
    words = [word_row(WORDS[name]) for name in sorted(WORDS, key=str.lower)]
    parts.append(table(["word", "dims", "value", "derivatives", "example"], words))
    parts.append(REDUCED)
    reductions = [reduction_row(name) for name in REDUCTIONS]
    parts.append(table(["name", "returns", "of 3, 1, 2", "gradient there", "of nothing"], reductions))
    parts.append(KERNELS)
    linear = [code("linear(x, y)"), "<x, y>; it has no parameter"]
    parts.append(table(["kernel", "value"], [linear, *map(profile_row, PROFILES)]))
    others = [name for name in FORMULAS if name not in PROFILES and name != "linear"]
    parts.append(FORMULA_KERNELS)
    parts.append(table(["kernel", "value"], list(map(kernel_row, others))))
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

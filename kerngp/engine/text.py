"""Calls as canonical text: what a compiled graph holds instead of Python objects.

Equal calls have equal texts, in every process, and a text gives back the identical formulas.
"""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, replace
from typing import Any

from ..errors import FormulaError
from ..options import Options
from .expr import Expr, postorder, revive
from .plan import Output
from .reduction import Reduction, with_k, with_scores
from .reductions import REDUCTIONS


@functools.lru_cache(maxsize=4096)
def to_text(outputs: tuple[Output, ...], options: Options) -> str:
    """The outputs of a pass and its options as one line of JSON.

    Raises
    ------
    FormulaError
        A reduction that is not in the table has no name to be found by.

    Examples
    --------
    >>> from kerngp.engine.expr import Vi, Vj
    >>> from kerngp.engine.reductions import SUM
    >>> outputs = (Output(Vi(0, 2) * Vj(1, 2), SUM),)
    >>> from_text(to_text(outputs, Options()))[0] == outputs
    True
    """
    program, position = _program(*(o.expr for o in outputs))
    results = [(position[o.expr], *_record(o.reduction), o.axis) for o in outputs]
    return _dumps([program, results, asdict(options)])


@functools.lru_cache(maxsize=4096)
def from_text(text: str) -> tuple[tuple[Output, ...], Options]:
    """The outputs and options that `to_text` wrote."""
    program, results, options = json.loads(text)
    nodes = _nodes(program)
    outputs = tuple(_output(nodes[at], *rest) for at, *rest in results)
    return outputs, Options(**options)


@functools.lru_cache(maxsize=4096)
def formula_text(f: Expr) -> str:
    """One formula as a line of JSON."""
    return _dumps(_program(f)[0])


@functools.lru_cache(maxsize=4096)
def formula_of(text: str) -> Expr:
    """The formula that `formula_text` wrote."""
    return _nodes(json.loads(text))[-1]


def _program(*roots: Expr) -> tuple[list[tuple], dict[Expr, int]]:
    """Nodes in order, arguments before users, and where each is."""
    position: dict[Expr, int] = {}
    for e in postorder(*roots):
        position[e] = len(position)
    return [(e.op, [position[a] for a in e.args], e.attr) for e in position], position


def _nodes(program: list) -> list[Expr]:
    return revive((op, tuple(args), _tuples(attr)) for op, args, attr in program)


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def reduction(name: str, k: int, scores: int) -> Reduction:
    """The reduction of this name in the table, with its k and its scores if it has them.

    Raises
    ------
    FormulaError
        There is none.
    """
    r = REDUCTIONS.get(name)
    if r is None:
        raise FormulaError(
            f"{name} is not in the table of reductions, so a compiled graph could not find it."
        )
    if r.code == "kmin":
        return with_k(r, k)
    return with_scores(r, scores) if r.scores else r


def _record(r: Reduction) -> tuple[str, int, int, bool]:
    known = reduction(r.name, r.k, r.scores)
    if (known.code, known.build) != (r.code, r.build):
        raise FormulaError(f"{r} is not the {r.name} of the table, so a compiled graph could not find it.")
    return r.name, r.k, r.scores, r.residuals < known.residuals


def _output(f: Expr, name: str, k: int, scores: int, residuals: bool, axis: str) -> Output:
    o = Output(f, reduction(name, k, scores), axis)
    return replace(o, reduction=o.reduction.recorded) if residuals else o


def _tuples(value: Any) -> Any:
    """JSON has lists only; attributes are tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value

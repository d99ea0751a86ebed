"""Reductions of the user's own, given by formulas: `define_reduction`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..errors import FormulaError
from .expr import Expr, as_expr, variables
from .law import Law, Parts
from .ops import widen
from .reduction import Reduction, fold

Made = Expr | float | Sequence[Expr | float]


def define_reduction(
    name: str,
    *,
    neutral: Sequence[float] | Callable[[int], Sequence[tuple[float, int]]],
    step: Callable[[Parts, Expr], Made],
    merge: Callable[[Parts, Parts], Made],
    final: Callable[[Parts], Made] | None = None,
    gradient: Callable[[Expr, Parts, Parts], Expr] | None = None,
    componentwise: bool = True,
) -> Reduction:
    """A reduction with a state of your own, on every backend in generated code.

    The state of a row starts as ``neutral``, takes in the entries f one after the other by ``step``, and
    the states of two parts of a row become one by ``merge``. All of it is written in formulas: vectors of
    the dim of the entries, made with arithmetic and the functions of `kerngp.engine.ops`.

    Parameters
    ----------
    name : str
        For messages.
    neutral : sequence of float, or callable
        The state of an empty row: a number for each part, which is as long as an entry. For parts of other
        lengths, a function from the dim of the entries to pairs (number, length).
    step : callable (state, f) -> state
        The state, a tuple of formulas, after one entry more.
    merge : callable (state, state) -> state
        The state of the union. Parts meet in any order, so it must be associative and commutative.
    final : callable (state) -> formula or several
        The result, or a tuple of results. Default: the parts of the state.
    gradient : callable (f, results, cotangents) -> formula
        The cotangent of an entry, for derivatives: sum over the results of (d result / d f) times its
        cotangent. It may use the results. Without it, derivatives are refused.
    componentwise : bool
        Component d of the results comes from component d of the entries alone. Entries of very many
        components are then cut into pieces.

    Returns
    -------
    Reduction
        For ``K.reduction(record, axis=1)`` of a LazyTensor and for `kerngp.engine.mapreduce.map_reduce`.

    Raises
    ------
    FormulaError
        Of formulas with the wrong number of parts or the wrong dim, and of a ``merge`` that disagrees with
        ``step``: checked on a few numbers when the reduction is first used on entries of a dim.

    Notes
    -----
    The number of a column is an entry like any other: reduce ``f.concat(Vj(numbers))``. Within a block of
    columns the state has the precision of the data, between blocks float64. NaN and infinities do what the
    formulas do with them.

    Examples
    --------
    >>> import torch
    >>> from kerngp import LazyTensor, define_reduction
    >>> squares = define_reduction(
    ...     "squares",
    ...     neutral=(0.0,),
    ...     step=lambda s, f: (s[0] + f**2,),
    ...     merge=lambda a, b: (a[0] + b[0],),
    ...     gradient=lambda f, results, g: 2.0 * f * g[0],
    ... )
    >>> x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [3.0]])
    >>> K = LazyTensor(x[:, None]) * LazyTensor(y[None])
    >>> K.reduction(squares, axis=1).flatten()
    tensor([10., 40.])
    """

    formulas = (neutral, step, merge, final)
    for what, f in (("step", step), ("merge", merge), ("final", final), ("gradient", gradient)):
        if not callable(f) and (f is not None or what in ("step", "merge")):
            raise FormulaError(f"{what}={f!r} of {name}: expected a function that makes formulas.")

    def build(r: Reduction, dim: int) -> Law:
        law = _law(name, dim, *formulas)
        _check(name, law)
        return law

    def seed(r: Reduction, f: Expr, results: Parts, g: Parts) -> Expr:
        assert gradient is not None
        made = as_expr(gradient(f, results, g))
        if made.dim not in (1, f.dim):
            raise FormulaError(f"gradient of {name} has dim {made.dim}; expected that of the entry, {f.dim}.")
        return made

    return fold(name, (), build, seed if gradient else None, separable=componentwise, doc=name)


def _law(
    name: str,
    dim: int,
    neutral: Sequence[float] | Callable[[int], Sequence[tuple[float, int]]],
    step: Callable[[Parts, Expr], Made],
    merge: Callable[[Parts, Parts], Made],
    final: Callable[[Parts], Made] | None,
) -> Law:
    """The formulas as a law, with numbers made constants, scalars made vectors, and dims checked."""
    pairs = [(x, n) for x, n in neutral(dim)] if callable(neutral) else [(x, dim) for x in neutral]
    if not pairs or any(not isinstance(x, (int, float)) or not isinstance(n, int) or n < 1 for x, n in pairs):
        raise FormulaError(f"neutral of {name}: expected a number for each part of the state, got {pairs}.")
    dims = tuple(n for _, n in pairs)

    def state(what: str, made: Made, free: tuple[Expr, ...]) -> Parts:
        parts = _tuple(what, made, free)
        if len(parts) != len(dims) or any(p.dim not in (1, n) for p, n in zip(parts, dims, strict=True)):
            raise FormulaError(
                f"{what} gives parts of dims {tuple(p.dim for p in parts)}; the state has {dims}."
            )
        return tuple(widen(p, n) for p, n in zip(parts, dims, strict=True))

    def steps(s: Parts, entries: Parts) -> Parts:
        free = (*s, *entries)
        for f in entries:
            s = state(f"step of {name}", step(s, f), free)
        return s

    def merged(a: Parts, b: Parts) -> Parts:
        return state(f"merge of {name}", merge(a, b), (*a, *b))

    def results(s: Parts) -> Parts:
        return s if final is None else _tuple(f"final of {name}", final(s), s)

    return Law(dim, tuple(float(x) for x, _ in pairs), dims, steps, merged, results)


def _tuple(what: str, made: Made, free: tuple[Expr, ...]) -> Parts:
    """Formulas of the given variables and of nothing else."""
    parts = tuple(as_expr(p) for p in ((made,) if isinstance(made, (Expr, int, float)) else made))
    foreign = [v for v in variables(*parts) if v not in variables(*free)] if parts else []
    if foreign or not parts:
        what_else = f"the variable {foreign[0]}" if foreign else "no formula at all"
        raise FormulaError(
            f"{what} has {what_else}; it may use its arguments alone. Anything else is part of the entry: "
            "reduce concat(f, parameter) and take it apart."
        )
    return parts


def _check(name: str, law: Law) -> None:
    """Merging must agree with entries taken in one by one, in any order, with empty states among them."""
    entries = torch.linspace(0.3, 1.7, 6 * law.dim, dtype=torch.float64).reshape(6, law.dim)
    for f in (entries, entries * torch.tensor([1.0, -1.0] * 3, dtype=torch.float64).unsqueeze(-1)):
        empty = law.empty((), f.device)

        def taken(rows: torch.Tensor, empty: torch.Tensor = empty) -> torch.Tensor:
            state = empty
            for row in rows:
                state = law.advance(state, row)
            return state

        whole, first, second = taken(f), taken(f[:2]), taken(f[2:])
        for what, other in (
            ("the merge of two parts", law.union(first, second)),
            ("the merge of two parts in the other order", law.union(second, first)),
            ("the merge with an empty state", law.union(empty, whole)),
            ("the merge with two empty states", law.union(whole, law.union(empty, empty))),
        ):
            for got, want in zip(law.finish(other), law.finish(whole), strict=True):
                if not torch.allclose(got, want, rtol=1e-7, atol=1e-7, equal_nan=True):
                    raise FormulaError(
                        f"{name}: {what} gives {got.tolist()}, but step by step the result is "
                        f"{want.tolist()}, for the entries {f.tolist()}. Correct merge= or neutral=."
                    )

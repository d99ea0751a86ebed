"""What a reduction is: the record, and how one is made of formulas."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..errors import FormulaError
from .expr import Expr
from .law import Law

Tensor = torch.Tensor
State = tuple[Tensor, ...]
Seed = Callable[["Reduction", Expr, tuple[Expr, ...], tuple[Expr, ...]], Expr]
# the dtype of each kind of result; values have the arguments', states keep their own
KINDS = {"index": torch.int64, "count": torch.int64, "flag": torch.bool}


@dataclass(frozen=True, eq=False)
class Reduction:
    """One reduction, complete.

    Attributes
    ----------
    name : str
    outputs : tuple of {"value", "index", "count", "flag"}
        What a call returns, in order; only values have gradients. Empty until the reduction is bound, if
        it has as many values as its law has results.
    tile : callable (reduction, f, j0) -> state
        State of a block of entries; ``f`` has shape (..., m, n, dim), its first column is j0.
    merge : callable (reduction, state, state) -> state
        State of the union; the first argument holds the smaller j.
    final : callable (reduction, state) -> tuple of outputs
    neutral : callable (reduction, shape, dtype, device) -> state
        State of an empty row; ``shape`` is (..., m, dim).
    selects : bool
        The result is one (or k) of the entries, so an index exists and N = 0 is an error for it.
    k : int
        How many entries k-min keeps; 1 elsewhere.
    negated : bool
        max and its relatives are min of -f.
    code : str
        Name of the generated-code scheme of the state: "sum", "logsumexp", "min", "kmin", or "fold",
        which is any state given by formulas.
    absent : float or None
        An entry of this value changes nothing; what a mask puts in the place of others.
    seed : callable (reduction, entry, results, their cotangents) -> cotangent of the entry, or None
        The derivative, as formulas. None: there is none, or that of the selected entries.
    residuals : int
        How many of the law's last results are for the derivative only.
    scores : int
        Of a weighted reduction: how many components of an entry are exponents; the rest are weights.
    separable : bool
        Components of a result come from their own components of the entries (and from one score).
    build : callable (reduction, dim) -> Law, or None
        Reductions given by formulas.
    law : Law or None
        What `bind` made of it.
    doc : str
        What it gives, as a noun.
    """

    name: str
    outputs: tuple[str, ...]
    tile: Callable[[Reduction, Tensor, int], State]
    merge: Callable[[Reduction, State, State], State]
    final: Callable[[Reduction, State], tuple[Tensor, ...]]
    neutral: Callable[[Reduction, tuple[int, ...], torch.dtype, Any], State]
    code: str
    selects: bool = False
    k: int = 1
    negated: bool = False
    absent: float | None = None
    seed: Seed | None = None
    residuals: int = 0
    scores: int = 0
    separable: bool = True
    build: Callable[[Reduction, int], Law] | None = None
    law: Law | None = None
    doc: str = ""

    def __repr__(self) -> str:
        return self.name if self.code != "kmin" else f"{self.name}(k={self.k})"

    def bind(self, dim: int) -> Reduction:
        """The reduction for entries of ``dim`` components."""
        if self.build is None or (self.law is not None and self.law.dim == dim):
            return self
        return _bound(self, dim)

    def dims(self, dim: int) -> tuple[int, ...]:
        """Components of each output, for entries of ``dim`` components."""
        r = self.bind(dim)
        return tuple(f.dim for f in r.law.results[: len(r.outputs)]) if r.law else (dim,) * len(r.outputs)

    @property
    def recorded(self) -> Reduction:
        """The same with the residuals of its derivative among its outputs."""
        return _recorded(self) if self.residuals else self

    @property
    def raw(self) -> Reduction:
        """The same, with the state as its only output: to be merged with others before it is finished."""
        return _raw(self)


# one object for each: reductions are compared by identity, and plans are remembered by them


@functools.lru_cache(maxsize=1024)
def _bound(r: Reduction, dim: int) -> Reduction:
    assert r.build is not None
    law = r.build(r, dim)
    return replace(r, law=law, outputs=r.outputs or ("value",) * len(law.results))


@functools.lru_cache(maxsize=1024)
def _recorded(r: Reduction) -> Reduction:
    return replace(r, outputs=r.outputs + ("value",) * r.residuals, residuals=0)


@functools.lru_cache(maxsize=1024)
def _raw(r: Reduction) -> Reduction:
    return replace(r, outputs=("state",), final=lambda r, s: s, separable=False)


@functools.lru_cache(maxsize=1024)
def with_scores(r: Reduction, scores: int) -> Reduction:
    """A weighted reduction whose entries start with so many exponents."""
    return r if r.scores == scores else replace(r, scores=scores)


def with_k(r: Reduction, k: int) -> Reduction:
    """A k-min reduction with its k."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise FormulaError(f"{r.name}: k={k!r} is not a positive integer.")
    return _sized(r, k)


@functools.lru_cache(maxsize=1024)
def _sized(r: Reduction, k: int) -> Reduction:
    return replace(r, k=k)


def typed(x: Tensor, kind: str, dtype: torch.dtype) -> Tensor:
    """A result in the dtype of its kind."""
    return x if kind == "state" else x.to(KINDS.get(kind, dtype))


def over_rows(r: Reduction, s: State) -> State:
    """One state of the states of all rows (..., m, dim): the reduction over both axes."""
    if r.code == "sum":
        return (s[0].sum(-2),)
    if r.law is not None:
        return (r.law.join(s[0]),)
    while (m := s[0].shape[-2]) > 1:
        even = m // 2 * 2
        first, second = (tuple(x[..., k:even:2, :] for x in s) for k in (0, 1))
        merged = r.merge(r, first, second)
        s = tuple(torch.cat([x, y[..., even:, :]], -2) for x, y in zip(merged, s, strict=True))
    return tuple(x.squeeze(-2) for x in s)


# ---------------------------------------------------------------- reductions given by formulas


def law_of(r: Reduction) -> Law:
    """The law of a reduction that is bound to a dim."""
    if r.law is None:
        raise FormulaError(f"{r.name} is given by formulas: bind it to the dim of its entries first.")
    return r.law


def _tile(r: Reduction, f: Tensor, j0: int) -> State:
    return (law_of(r).gather(f),)


def _merge(r: Reduction, a: State, b: State) -> State:
    return (law_of(r).union(a[0], b[0]),)


def _final(r: Reduction, s: State) -> tuple[Tensor, ...]:
    return law_of(r).finish(s[0])[: len(r.outputs)]


def _neutral(r: Reduction, shape: tuple[int, ...], dtype: torch.dtype, device: Any) -> State:
    return (law_of(r).empty(shape[:-1], device),)


def fold(
    name: str,
    outputs: tuple[str, ...],
    build: Callable[[Reduction, int], Law],
    seed: Seed | None = None,
    *,
    residuals: int = 0,
    scores: int = 0,
    separable: bool = True,
    absent: float | None = None,
    doc: str = "",
) -> Reduction:
    """A reduction whose state is given by formulas."""
    return Reduction(
        name,
        outputs,
        _tile,
        _merge,
        _final,
        _neutral,
        "fold",
        absent=absent,
        seed=seed,
        residuals=residuals,
        scores=scores,
        separable=separable,
        build=build,
        doc=doc,
    )

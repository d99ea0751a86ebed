"""Reductions given by formulas: the state of a row, and how it takes in an entry and joins another state.

A `Law` holds for entries of one dim. Its state consists of parts, each a vector; one tensor (..., size)
holds them side by side. The same formulas run everywhere: here by torch, in generated code through
`render.lowering`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from .evaluate import evaluate_all
from .expr import Expr, var

Tensor = torch.Tensor
Parts = tuple[Expr, ...]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Law:
    """A state and its formulas, for entries of ``dim`` components.

    Attributes
    ----------
    dim : int
    neutral : tuple of float
        Each part of the state of an empty row.
    dims : tuple of int
        Components of each part.
    step : callable (state, entries) -> state
        The state with a few entries more: formulas in, formulas out.
    merge : callable (state, state) -> state
        The state of the union; associative and commutative.
    final : callable (state) -> results
    """

    dim: int
    neutral: tuple[float, ...]
    dims: tuple[int, ...]
    step: Callable[[Parts, Parts], Parts]
    merge: Callable[[Parts, Parts], Parts]
    final: Callable[[Parts], Parts]

    @property
    def size(self) -> int:
        """Components of the whole state."""
        return sum(self.dims)

    def components(self) -> list[tuple[int, int, float]]:
        """(part, component, neutral value) of each component of the state, in their order."""
        return [
            (k, d, x) for k, (x, n) in enumerate(zip(self.neutral, self.dims, strict=True)) for d in range(n)
        ]

    # ------------------------------------------------------------------ formulas
    # variable k is part k of the state, n + k part k of a second state, 2 n + c entry c
    def entry(self, count: int) -> int:
        """Number of the variable of entry ``count``."""
        return 2 * len(self.dims) + count

    def state(self, first: int = 0) -> Parts:
        """The variables of a state."""
        return tuple(var(first + k, n, "i") for k, n in enumerate(self.dims))

    def stepped(self, count: int) -> Parts:
        """The state after ``count`` entries more."""
        return _stepped(self, count)

    @functools.cached_property
    def merged(self) -> Parts:
        """The union of two states."""
        return self.merge(self.state(), self.state(len(self.dims)))

    @functools.cached_property
    def results(self) -> Parts:
        """What is made of a state."""
        return self.final(self.state())

    def placed(self, state: Sequence[T], first: int = 0) -> dict[tuple[int, Any], T]:
        """Components of a state by the number of the variable, from ``first`` on, and the component."""
        return {(first + k, d): x for (k, d, _), x in zip(self.components(), state, strict=True)}

    # ------------------------------------------------------------------ torch
    def empty(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """States of empty rows, (*shape, size)."""
        row = torch.tensor([x for _, _, x in self.components()], dtype=torch.float64, device=device)
        return row.expand(*shape, self.size).clone()

    def gather(self, f: Tensor) -> Tensor:
        """The states of rows of entries (..., n, dim)."""
        return self.join(self.advance(self.empty(f.shape[:-1], f.device), f.double()))

    def advance(self, state: Tensor, f: Tensor) -> Tensor:
        """States (..., size) after one entry (..., dim) each."""
        return self._compute(self.stepped(1), {**self._values(state), self.entry(0): f}, f.shape[:-1])

    def join(self, states: Tensor) -> Tensor:
        """One state of the states (..., n, size), neighbours first."""
        if not states.shape[-2]:
            return self.empty(states.shape[:-2], states.device)
        while (n := states.shape[-2]) > 1:
            even = n // 2 * 2
            pairs = self.union(states[..., 0:even:2, :], states[..., 1:even:2, :])
            states = torch.cat([pairs, states[..., even:, :]], -2)
        return states.squeeze(-2)

    def union(self, a: Tensor, b: Tensor) -> Tensor:
        """Two states as one."""
        values = {**self._values(a), **self._values(b, len(self.dims))}
        return self._compute(self.merged, values, a.shape[:-1])

    def finish(self, state: Tensor) -> tuple[Tensor, ...]:
        """The results of a state."""
        found = evaluate_all(self.results, self._values(state), state)
        return tuple([x.expand(*state.shape[:-1], f.dim) for x, f in zip(found, self.results, strict=True)])

    def _values(self, state: Tensor, first: int = 0) -> dict[int, Tensor]:
        return {first + k: part for k, part in enumerate(state.split(self.dims, -1))}

    def _compute(self, formulas: Parts, values: dict[int, Tensor], shape: tuple[int, ...]) -> Tensor:
        found = evaluate_all(formulas, values, next(iter(values.values())))
        return torch.cat([x.expand(*shape, n) for x, n in zip(found, self.dims, strict=True)], -1)


@functools.lru_cache(maxsize=1024)
def _stepped(law: Law, count: int) -> Parts:
    entries = tuple(var(law.entry(c), law.dim, "i") for c in range(count))
    return law.step(law.state(), entries)

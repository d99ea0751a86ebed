"""The values a formula is rendered to: a small grid of cells, rows of i by columns of j."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any


class Block:
    """An immutable grid of values of one type; shape (rows, columns), each axis 1 or the tile's size.

    What a cell is belongs to the emitter: a vector of LLVM IR, or the name of a scalar in CUDA C++.
    """

    __slots__ = ("cells", "shape")

    cells: tuple[tuple[Any, ...], ...]
    shape: tuple[int, int]

    def __init__(self, cells: Sequence[Sequence[Any]]):
        grid = tuple(tuple(row) for row in cells)
        if not grid or not grid[0] or any(len(row) != len(grid[0]) for row in grid):
            raise ValueError(f"a Block needs a full grid, got rows of lengths {[len(r) for r in grid]}")
        object.__setattr__(self, "cells", grid)
        object.__setattr__(self, "shape", (len(grid), len(grid[0])))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a Block is immutable")

    def __iter__(self) -> Iterator[Any]:
        return (cell for row in self.cells for cell in row)

    def __getitem__(self, at: tuple[int, int]) -> Any:
        return self.cells[at[0]][at[1]]

    @property
    def type(self) -> Any:
        return self.cells[0][0].type

    @property
    def cell(self) -> Any:
        """The only cell of a (1, 1) block."""
        if self.shape != (1, 1):
            raise ValueError(f"expected a block of one cell, got shape {self.shape}")
        return self.cells[0][0]

    def __repr__(self) -> str:
        return f"Block({self.shape[0]}x{self.shape[1]} of {getattr(self.cells[0][0], 'type', 'names')})"


def expand(block: Block, shape: tuple[int, int]) -> Block:
    """Broadcast to ``shape``; repeats cells, emits nothing."""
    if block.shape == shape:
        return block
    (r, n), (rows, columns) = block.shape, shape
    if r not in (1, rows) or n not in (1, columns):
        raise ValueError(f"cannot broadcast a block of shape {block.shape} to {shape}")
    return Block([[block.cells[i % r][j % n] for j in range(columns)] for i in range(rows)])


def column(block: Block, n: int) -> Block:
    """Column ``n`` as an (r, 1) block; a block of one column is that column for every ``n``."""
    return Block([[row[n if block.shape[1] > 1 else 0]] for row in block.cells])

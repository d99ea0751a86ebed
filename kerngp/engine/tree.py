"""Points in a balanced tree of boxes: neighbours in space become neighbours in memory.

Each node is cut in the middle of its points, across the longest side of its box. This needs no scale
and works in any dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class Tree:
    """A binary tree over points.

    Attributes
    ----------
    order : (n,) int64
        The points, leaf by leaf.
    starts : (leaves + 1,) int64
        Leaf k holds ``order[starts[k] : starts[k + 1]]``. There are ``2**depth`` leaves; the nodes of a
        level are pairs of those below, in their order.
    """

    order: np.ndarray
    starts: np.ndarray

    @property
    def depth(self) -> int:
        """Levels below the root."""
        return (len(self.starts) - 1).bit_length() - 1

    @property
    def leaves(self) -> np.ndarray:
        """[start, end) of each leaf."""
        return np.stack([self.starts[:-1], self.starts[1:]], 1)

    def boxes(self, a: torch.Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
        """Lowest and highest values (nodes, dim) of the rows of an array, for each level from the root."""
        rows = a.detach().double().cpu().numpy()[self.order]
        lo, hi = np.minimum.reduceat(rows, self.starts[:-1]), np.maximum.reduceat(rows, self.starts[:-1])
        levels = [(lo, hi)]
        while len(lo) > 1:
            lo, hi = np.minimum(lo[::2], lo[1::2]), np.maximum(hi[::2], hi[1::2])
            levels.append((lo, hi))
        return levels[::-1]


def build_tree(points: torch.Tensor, leaf: int) -> Tree:
    """The tree of points (n, D), n >= 1, with at most ``leaf`` points in a leaf, ``leaf`` >= 2.

    Examples
    --------
    >>> build_tree(torch.tensor([[3.0], [0.0], [2.0], [1.0]]), 2).order
    array([1, 3, 2, 0])
    """
    x = points.detach().double().cpu().numpy()
    order, starts = np.arange(len(x)), np.array([0, len(x)])
    while np.diff(starts).max() > leaf:
        sizes = np.diff(starts)
        rows = x[order]
        span = np.maximum.reduceat(rows, starts[:-1]) - np.minimum.reduceat(rows, starts[:-1])
        node = np.repeat(np.arange(len(sizes)), sizes)
        longest = np.nan_to_num(span, nan=np.inf).argmax(1)
        order = order[np.lexsort((rows[np.arange(len(x)), longest[node]], node))]
        starts = np.sort(np.concatenate([starts, starts[:-1] + (sizes + 1) // 2]))
    return Tree(order, starts)

"""Who finds the nearest points: the engine over all pairs, a tree of SciPy, or scikit-learn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.spatial import KDTree
from sklearn.neighbors import NearestNeighbors as LibraryNeighbors

from ... import options as _options
from ...engine.expr import Vi, node
from ...engine.mapreduce import dense, map_reduce
from ...engine.reductions import KMIN_ARGKMIN, SUM
from .metrics import Metric

Tensor = torch.Tensor

# Measured on normal data: a tree's queries cost about 2^(D/2) times those in no dimension, a pass over
# the pairs costs in proportion to their number.
TREE_ROWS, TREE_DIMENSIONS = 4000, 15
# The engine inserts into a sorted list of k; for longer ones torch selects from stored rows.
MOST_INSERTED = 100


class Within(NamedTuple):
    """Points in balls: those of query i are the next ``counts[i]`` entries of ``index`` and ``distance``."""

    distance: Tensor
    index: Tensor
    counts: Tensor

    def by_number(self) -> Within:
        """The same, those of a query in the order of the points."""
        row = torch.repeat_interleave(torch.arange(len(self.counts), device=self.counts.device), self.counts)
        order = torch.argsort(self.index)
        order = order[torch.argsort(row[order], stable=True)]
        return Within(self.distance[order], self.index[order], self.counts)


class Search(ABC):
    """Fitted points that know which of them are near. Picklable."""

    name: str
    rows: int

    @abstractmethod
    def nearest(self, X: Any, k: int) -> tuple[Tensor, Tensor]:
        """Distances and numbers of the k nearest points, nearest first, shapes (M, k).

        With X None the queries are the points themselves, each without itself.
        """

    @abstractmethod
    def within(self, X: Any, radius: Any) -> Within:
        """The points at most ``radius`` away, nearest first; one radius, or one for each query."""


def tree_pays(rows: int, features: int) -> bool:
    """Whether a tree is quicker than a pass over all pairs."""
    return features <= TREE_DIMENSIONS and rows >= TREE_ROWS * 2 ** (features / 2)


# ---------------------------------------------------------------- the engine


@dataclass(frozen=True)
class PairSearch(Search):
    """Passes of the engine over all pairs; ties go to the point that came first."""

    metric: Metric
    points: Tensor
    name = "all pairs by the engine"

    @classmethod
    def of(cls, metric: Metric, X: Tensor) -> PairSearch:
        """The search among the rows of X."""
        return cls(metric, metric.prepare(X))

    @property
    def rows(self) -> int:  # type: ignore[override]
        return len(self.points)

    def nearest(self, X: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
        if X is None:
            value, index = without_self(*self._smallest(self.points, k + 1))
        else:
            value, index = self._smallest(self._queries(X), k)
        return self.metric.distance(value), index

    def within(self, X: Tensor | None, radius: Any) -> Within:
        """One pass counts; then rows with about as many points share a pass."""
        queries = self.points if X is None else self._queries(X)
        f, values = self.metric.expression(queries)
        limit = torch.as_tensor(self.metric.value(radius)).to(queries)
        limit = limit.reshape(-1, 1).expand(len(queries), 1)
        near = node("le", f, Vi(2 + len(values), 1))
        args = (queries, self.points, *values, limit.contiguous())
        counts = map_reduce(near, SUM, args, options=exact_options(queries.device))
        assert isinstance(counts, Tensor)
        width = _padded(counts[:, 0].round().long(), self.rows)
        parts = []
        for k in torch.unique(width).tolist():
            rows = torch.nonzero(width == k).reshape(-1)
            value, index = self._smallest(queries[rows], k)
            keep = value <= limit[rows]
            if X is None:
                keep &= index != rows.unsqueeze(-1)
            row = rows.unsqueeze(-1).expand_as(index)
            parts.append((row[keep], value[keep], index[keep]))
        row, value, index = (torch.cat(p) for p in zip(*parts, strict=True))
        order = torch.argsort(row, stable=True)
        counts = torch.bincount(row, minlength=len(queries))
        return Within(self.metric.distance(value[order]), index[order], counts)

    def _queries(self, X: Tensor) -> Tensor:
        return self.metric.prepare(X.to(self.points.device, self.points.dtype))

    def _smallest(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k smallest values of the formula and their columns; values of NaN come last."""
        f, values = self.metric.expression(queries)
        if k <= MOST_INSERTED:
            args = (queries, self.points, *values)
            value, index = map_reduce(f, KMIN_ARGKMIN(k), args, options=exact_options(queries.device))
            return value[..., 0], index[..., 0]
        step = max(1, _options.current().memory_limit // (64 * self.rows * self.points.shape[1]))
        parts = []
        for block in queries.split(step):
            row = dense(f, (block, self.points, *values))[..., 0].nan_to_num(torch.inf)
            value, index = row.topk(k, dim=-1, largest=False)
            index, order = index.sort(dim=-1)
            value, order = value.gather(-1, order).sort(dim=-1, stable=True)
            parts.append((value, index.gather(-1, order)))
        value, index = (torch.cat(p) for p in zip(*parts, strict=True))
        return value, index


def exact_options(device: torch.device) -> _options.Options:
    """Differences of points, not expanded distances, whose rounding moves neighbours.

    On a GPU selections are exact anyway, and quicker if the backend may choose.
    """
    current = _options.current()
    return replace(current, precision="exact") if device.type == "cpu" else current


def _padded(counts: Tensor, rows: int) -> Tensor:
    """Counts, at least 1, rounded up to powers of two, at most ``rows``."""
    exponent = torch.log2(counts.clamp_min(1).double()).ceil()
    return (2**exponent).long().clamp_max(rows)


def without_self(value: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The k nearest of the k + 1 nearest of each point among all, itself left out.

    Where a point has more than k copies and is not among them, the first one is left out.
    """
    other = index != torch.arange(len(index), device=index.device).unsqueeze(-1)
    other[:, 0] &= ~other.all(-1)
    shape = (len(index), index.shape[1] - 1)
    return value[other].reshape(shape), index[other].reshape(shape)


# ---------------------------------------------------------------- a tree


@dataclass(frozen=True)
class TreeSearch(Search):
    """A k-d tree of SciPy, for norms in few dimensions on the CPU."""

    metric: Metric
    tree: KDTree
    dtype: torch.dtype
    name = "a k-d tree of SciPy"

    @classmethod
    def of(cls, metric: Metric, X: Tensor) -> TreeSearch:
        """The search among the rows of X."""
        return cls(metric, KDTree(metric.prepare(X).numpy()), X.dtype)

    @property
    def rows(self) -> int:  # type: ignore[override]
        return self.tree.n

    def nearest(self, X: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
        if X is None:
            return without_self(*self._query(self.tree.data, k + 1))
        return self._query(self._queries(X), k)

    def within(self, X: Tensor | None, radius: Any) -> Within:
        queries = self.tree.data if X is None else self._queries(X)
        found = self.tree.query_ball_point(queries, radius, p=self.metric.norm, workers=_threads())
        counts = np.fromiter(map(len, found), dtype=np.int64, count=len(found))
        index = np.concatenate([np.asarray(f, dtype=np.int64) for f in found])
        row = np.repeat(np.arange(len(queries)), counts)
        if X is None:
            row, index = row[index != row], index[index != row]
        distance = np.linalg.norm(queries[row] - self.tree.data[index], ord=self.metric.norm, axis=1)
        order = np.lexsort((index, distance, row))
        counts = np.bincount(row, minlength=len(queries))
        return Within(
            torch.from_numpy(distance[order]).to(self.dtype),
            torch.from_numpy(index[order]),
            torch.from_numpy(counts),
        )

    def _queries(self, X: Tensor) -> np.ndarray:
        return self.metric.prepare(X.cpu().to(self.dtype)).numpy()

    def _query(self, queries: np.ndarray, k: int) -> tuple[Tensor, Tensor]:
        distance, index = self.tree.query(queries, k=k, p=self.metric.norm, workers=_threads())
        shape = (len(queries), k)  # k = 1 has no axis of its own
        return (
            torch.from_numpy(distance.reshape(shape)).to(self.dtype),
            torch.from_numpy(index.reshape(shape)),
        )


def _threads() -> int:
    return _options.current().threads or torch.get_num_threads()


# ---------------------------------------------------------------- scikit-learn


@dataclass(frozen=True)
class LibrarySearch(Search):
    """scikit-learn's own: its trees, and metrics without a formula, in double precision."""

    fitted: LibraryNeighbors

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"scikit-learn, algorithm={self.fitted.algorithm!r}"

    @property
    def rows(self) -> int:  # type: ignore[override]
        return self.fitted.n_samples_fit_

    def nearest(self, X: Any, k: int) -> tuple[Tensor, Tensor]:
        distance, index = self.fitted.kneighbors(_host(X), k)
        return torch.from_numpy(distance), torch.from_numpy(index)

    def within(self, X: Any, radius: Any) -> Within:
        distance, index = self.fitted.radius_neighbors(_host(X), radius, sort_results=True)
        counts = np.fromiter(map(len, index), dtype=np.int64, count=len(index))
        return Within(
            torch.from_numpy(np.concatenate(list(distance))),
            torch.from_numpy(np.concatenate(list(index)).astype(np.int64)),
            torch.from_numpy(counts),
        )


def _host(X: Any) -> Any:
    return X.cpu().numpy() if isinstance(X, Tensor) else X

"""Which pairs (i, j) a reduction visits: blocks, ranges of rows by ranges of columns.

The structure is that of KeOps, a tuple of six integer arrays: for each range of i, the ranges of j it
meets, and the same seen from j. It is checked once and kept in a normal form: ranges in ascending order,
neighbours joined, nothing empty. Everything here is linear in the number of blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from ..errors import ShapeError
from .arrays import adopt_integers, adopt_mask, kind_of, restore

NAMES = ("ranges_i", "slices_i", "redranges_j", "ranges_j", "slices_j", "redranges_i")
REMEMBERED = 1 << 18  # bytes up to which a tuple of arrays is looked up before it is checked


@dataclass(frozen=True, eq=False)
class Half:
    """The blocks seen from one axis: targets with the ranges of sources they meet.

    Attributes
    ----------
    targets : (C, 2) int64
        [start, end) of each target, ascending, disjoint, not empty.
    starts : (C + 1,) int64
        Target c meets ``sources[starts[c] : starts[c + 1]]``, at least one.
    sources : (K, 2) int64
        [start, end), within a target ascending, disjoint, not adjacent.
    """

    targets: np.ndarray
    starts: np.ndarray
    sources: np.ndarray

    def __post_init__(self) -> None:
        for a in (self.targets, self.starts, self.sources):
            a.setflags(write=False)

    @functools.cached_property
    def columns(self) -> np.ndarray:
        """How many sources each target meets."""
        total = np.concatenate([[0], np.cumsum(_length(self.sources))])
        return total[self.starts[1:]] - total[self.starts[:-1]]

    @functools.cached_property
    def pairs(self) -> int:
        """The number of pairs."""
        return int((_length(self.targets) * self.columns).sum())

    @functools.cached_property
    def rows(self) -> int:
        """Targets of a block, on the average over the work, rounded up to a power of two, at most 64."""
        mean = -(-self.pairs // max(1, int(self.columns.sum())))
        return min(64, 1 << (mean - 1).bit_length()) if mean else 1

    @property
    def extent(self) -> tuple[int, int]:
        """The smallest numbers of targets and of sources that hold all pairs."""
        return int(self.targets.max(initial=0)), int(self.sources.max(initial=0))

    def missing(self, n: int) -> torch.Tensor:
        """The numbers, of 0, ..., n - 1, that no target holds."""
        change = np.zeros(n + 1, np.int64)
        np.add.at(change, self.targets[:, 0], 1)
        np.add.at(change, self.targets[:, 1], -1)
        return torch.from_numpy(np.flatnonzero(change[:n].cumsum() == 0))

    def clip(self, lo: int, hi: int, source_lo: int, source_hi: int) -> Half:
        """The part within [lo, hi) and [source_lo, source_hi), numbered from there."""
        targets = np.clip(self.targets, lo, hi) - lo
        sources = np.clip(self.sources, source_lo, source_hi) - source_lo
        return _normal(targets, np.diff(self.starts), sources)

    def walk(self, rows: int) -> Walk:
        """What a launch needs to know when targets are cut to groups of at most ``rows``."""
        counts = -(-_length(self.targets) // rows)
        groups = int(counts.sum())
        return Walk(groups, -(-int((counts * self.columns).sum()) // max(1, groups)))

    def tables(self, rows: int, splits: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """What a kernel reads: groups of rows, and ranges of columns.

        The first table is (groups, splits, 4): start and end of the rows, first and end of the ranges of
        that part of the columns. What takes longest comes first, so that it is not left for the end.
        """
        return _tables(self, rows, splits, device)


class Walk(NamedTuple):
    """How many groups of rows there are, and how many columns each meets on the average."""

    groups: int
    columns: int


@functools.lru_cache(maxsize=16)
def _tables(half: Half, rows: int, splits: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    first, sources = _cut(half, splits)
    counts = -(-_length(half.targets) // rows)
    owner = np.repeat(np.arange(len(counts)), counts)
    before = np.cumsum(counts) - counts
    start = half.targets[owner, 0] + (np.arange(len(owner)) - before[owner]) * rows
    end = np.minimum(start + rows, half.targets[owner, 1])
    own = np.stack([first[owner, :-1], first[owner, 1:]], 2)
    table = np.concatenate([np.broadcast_to(np.stack([start, end], 1)[:, None], own.shape), own], 2)
    order = np.argsort(-half.columns[owner] * (end - start), kind="stable")
    return torch.from_numpy(table[order]).to(device), torch.from_numpy(sources).to(device)


def _cut(half: Half, splits: int) -> tuple[np.ndarray, np.ndarray]:
    """The sources cut so that each target's are ``splits`` parts of equal length.

    Returns where the parts start and end, (C, splits + 1), and the ranges.
    """
    if splits == 1:
        return np.stack([half.starts[:-1], half.starts[1:]], 1), half.sources.copy()
    place = np.concatenate([[0], np.cumsum(_length(half.sources))])  # of each range, all put in a row
    parts = place[half.starts[:-1], None] + half.columns[:, None] * np.arange(splits + 1) // splits
    cuts = np.unique(np.concatenate([place, parts.ravel()]))
    piece = np.searchsorted(place, cuts[:-1], "right") - 1
    begin = half.sources[piece, 0] + cuts[:-1] - place[piece]
    return np.searchsorted(cuts, parts), np.stack([begin, begin + np.diff(cuts)], 1)


@dataclass(frozen=True, eq=False)
class Ranges:
    """The pairs of a block-sparse reduction, seen from i and from j.

    Parameters
    ----------
    i : Half
        Ranges of i with the ranges of j they meet; served to reductions over j.
    j : Half
        The same pairs, seen from j; served to reductions over i.

    Examples
    --------
    >>> import torch
    >>> ranges = torch.tensor([[0, 3], [3, 4]])
    >>> r = Ranges.from_matrix(ranges, ranges, torch.tensor([[True, False], [True, True]]))
    >>> r.pairs, r.swap_axes().i.columns
    (13, array([4, 1]))
    """

    i: Half
    j: Half

    @staticmethod
    def of(value: Any) -> Ranges:
        """KeOps's tuple of six arrays, checked; a `Ranges` passes through.

        Raises
        ------
        ShapeError, DTypeError
            Naming the array: not integers, ranges that end before they start, that overlap, slices that
            do not fit, halves that disagree about the number of pairs.
        """
        if isinstance(value, Ranges):
            return value
        if not isinstance(value, (tuple, list)) or len(value) != 6:
            what = f"{len(value)} items" if isinstance(value, (tuple, list)) else type(value).__name__
            raise ShapeError(
                f"ranges is a {what}; expected six integer arrays ({', '.join(NAMES)}), as from_matrix makes."
            )
        arrays = [adopt_integers(n, v).cpu().numpy() for n, v in zip(NAMES, value, strict=True)]
        if sum(a.nbytes for a in arrays) > REMEMBERED:
            return _of_arrays(arrays)
        return _of_bytes(*((a.tobytes(), a.shape) for a in arrays))

    @staticmethod
    def from_matrix(ranges_i: Any, ranges_j: Any, keep: Any) -> Ranges:
        """The blocks ``ranges_i[k]`` by ``ranges_j[l]`` with ``keep[k, l]``; see `from_matrix`."""
        return Ranges.of(from_matrix(ranges_i, ranges_j, keep))

    @staticmethod
    def from_pairs(ranges_i: np.ndarray, ranges_j: np.ndarray, k: np.ndarray, l: np.ndarray) -> Ranges:  # noqa: E741
        """The blocks ``ranges_i[k[n]]`` by ``ranges_j[l[n]]``; ranges ascend and are disjoint."""
        halves = []
        for targets, sources, own, other in ((ranges_i, ranges_j, k, l), (ranges_j, ranges_i, l, k)):
            counts = np.bincount(own, minlength=len(targets))
            halves.append(_normal(targets, counts, sources[other[np.lexsort((other, own))]]))
        return Ranges(*halves)

    @property
    def pairs(self) -> int:
        """The number of pairs that are visited."""
        return self.i.pairs

    def contains(self, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        """Whether the pairs (i, j) are among them; the arguments broadcast."""
        rows, columns = np.broadcast_arrays(i.cpu().numpy(), j.cpu().numpy())
        half, far = self.i, 1 + max(self.i.extent[1], int(columns.max(initial=0)))
        target = np.searchsorted(half.targets[:, 0], rows, "right") - 1
        found = np.searchsorted(
            np.repeat(np.arange(len(half.targets)), np.diff(half.starts)) * far + half.sources[:, 0],
            target * far + columns,
            "right",
        )
        inside = (target >= 0) & (found > 0)
        if not inside.any():
            return torch.zeros(rows.shape, dtype=torch.bool)
        inside &= rows < half.targets[target, 1]
        inside &= (found - 1 >= half.starts[target]) & (columns < half.sources[found - 1, 1])
        return torch.from_numpy(inside)

    def equals(self, other: Ranges) -> bool:
        """Whether both hold the same blocks."""
        return self is other or all(map(torch.equal, self, other))

    def swap_axes(self) -> Ranges:
        """The transposed structure."""
        return self._swapped

    @functools.cached_property
    def _swapped(self) -> Ranges:
        return Ranges(self.j, self.i)

    def check(self, M: int, N: int) -> Ranges:
        """The structure itself, if it lies within M rows and N columns.

        Raises
        ------
        ShapeError
        """
        for axis, n, extent in zip("ij", (M, N), map(max, self.i.extent, self.j.extent[::-1]), strict=True):
            if extent > n:
                raise ShapeError(
                    f"ranges reach {axis} = {extent - 1}, but there are only {n} rows along {axis}; "
                    "the ends of ranges are exclusive."
                )
        return self

    def clip(self, rows: tuple[int, int], columns: tuple[int, int]) -> Ranges:
        """The part within two ranges, numbered from their starts."""
        return Ranges(self.i.clip(*rows, *columns), self.j.clip(*columns, *rows))

    def take(self, rows: np.ndarray) -> Ranges:
        """The structure of the rows ``rows`` in that order; columns stay as they are."""
        i, columns = self.i, self.j.targets
        target = np.searchsorted(i.targets[:, 0], rows, "right") - 1
        inside = target >= 0
        inside[inside] = rows[inside] < i.targets[target[inside], 1]
        target = np.where(inside, target, -1)
        start = np.flatnonzero(np.diff(target, prepend=-2))  # runs of rows with the same ranges
        runs = np.stack([start, np.append(start[1:], len(rows))], 1)
        runs, target = runs[target[start] >= 0], target[start][target[start] >= 0]
        # what a row meets is made of whole ranges of j as seen from j
        count = np.diff(i.starts)[target]
        source = _expand(i.starts[:-1][target], count)
        first, last = (np.searchsorted(columns[:, 0], i.sources[source, k]) for k in (0, 1))
        owner = np.repeat(np.arange(len(runs)), count)
        return Ranges.from_pairs(runs, columns, np.repeat(owner, last - first), _expand(first, last - first))

    # as KeOps's tuple

    def __iter__(self) -> Iterator[torch.Tensor]:
        for h in (self.i, self.j):
            yield from (torch.from_numpy(a.copy()) for a in (h.targets, h.starts[1:], h.sources))

    def __getitem__(self, key: int | slice) -> Any:
        return tuple(self)[key]

    def __len__(self) -> int:
        return 6


# ---------------------------------------------------------------- checks and the normal form


@functools.lru_cache(maxsize=32)
def _of_bytes(*arrays: tuple[bytes, tuple[int, ...]]) -> Ranges:
    """The structure of arrays given by their contents: a tuple used again and again is checked once."""
    return _of_arrays([np.frombuffer(data, np.int64).reshape(shape) for data, shape in arrays])


def _of_arrays(arrays: list[np.ndarray]) -> Ranges:
    i, j = _half(NAMES[:3], arrays[:3]), _half(NAMES[3:], arrays[3:])
    if i.pairs != j.pairs:
        raise ShapeError(
            f"ranges describe {i.pairs} pairs seen from i, but {j.pairs} seen from j; "
            "both halves must hold the same blocks."
        )
    return Ranges(i, j)


def _expand(first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The numbers first[k], ..., first[k] + count[k] - 1, for each k after the other."""
    return np.arange(count.sum()) + np.repeat(first - np.cumsum(count) + count, count)


def _length(ranges: np.ndarray) -> np.ndarray:
    return ranges[:, 1] - ranges[:, 0]


def _half(names: tuple[str, ...], arrays: list[np.ndarray]) -> Half:
    targets, ends, sources = arrays
    for name, a in ((names[0], targets), (names[2], sources)):
        _check_ranges(name, a)
    C, K = len(targets), len(sources)
    if ends.shape != (C,):
        raise ShapeError(
            f"{names[1]} has shape {ends.shape}; expected ({C},): one end for each of {names[0]}."
        )
    counts = np.diff(ends, prepend=0)
    if (counts < 0).any() or (ends[-1] if C else 0) != K:
        raise ShapeError(
            f"{names[1]} must ascend to {K}, the number of rows of {names[2]}; got {_brief(ends)}."
        )
    order = np.argsort(targets[:, 0], kind="stable")
    _check_disjoint(names[0], targets[order][_length(targets[order]) > 0])
    owner = np.repeat(np.arange(C), counts)
    kept = _length(sources) > 0
    sources, owner = sources[kept], owner[kept]
    within = np.lexsort((sources[:, 0], owner))
    sources = sources[within]
    clash = (sources[1:, 0] < sources[:-1, 1]) & (owner[1:] == owner[:-1])
    if clash.any():
        k = int(np.flatnonzero(clash)[0])
        raise ShapeError(
            f"{names[2]}: {_brief(sources[k])} and {_brief(sources[k + 1])} overlap, but both belong to "
            f"{_brief(targets[owner[k]])} of {names[0]}; a pair can be visited only once."
        )
    return _normal(targets, np.bincount(owner, minlength=C), sources)


def _check_ranges(name: str, a: np.ndarray) -> None:
    if a.ndim != 2 or a.shape[1] != 2:
        raise ShapeError(f"{name} has shape {a.shape}; expected (C, 2): the start and the end of each range.")
    bad = np.flatnonzero((a[:, 0] < 0) | (a[:, 1] < a[:, 0]))
    if len(bad):
        raise ShapeError(
            f"{name}[{bad[0]}] is {_brief(a[bad[0]])}; expected 0 <= start <= end, the end being exclusive."
        )


def _check_disjoint(name: str, a: np.ndarray) -> None:
    clash = np.flatnonzero(a[1:, 0] < a[:-1, 1])
    if len(clash):
        k = int(clash[0])
        raise ShapeError(
            f"{name}: {_brief(a[k])} and {_brief(a[k + 1])} overlap; each row belongs to one range at most."
        )


def _brief(a: np.ndarray) -> str:
    return np.array2string(a, threshold=6, separator=", ")


def _normal(targets: np.ndarray, counts: np.ndarray, sources: np.ndarray) -> Half:
    """Ascending, without what is empty, adjacent sources joined; sources ascend within their targets."""
    owner = np.repeat(np.arange(len(targets)), counts)
    kept = (_length(sources) > 0) & (_length(targets) > 0)[owner]
    sources, owner = sources[kept], owner[kept]
    first = np.ones(len(sources), bool)
    first[1:] = (sources[1:, 0] != sources[:-1, 1]) | (owner[1:] != owner[:-1])
    last = np.roll(first, -1)
    sources = np.stack([sources[first, 0], sources[last, 1]], 1).reshape(-1, 2)
    counts = np.bincount(owner[first], minlength=len(targets))
    order = np.argsort(targets[:, 0], kind="stable")
    order = order[counts[order] > 0]
    begin = np.cumsum(counts) - counts
    new = counts[order]
    starts = np.concatenate([[0], np.cumsum(new)])
    at = np.arange(starts[-1]) - np.repeat(starts[:-1] - begin[order], new)
    return Half(targets[order].reshape(-1, 2), starts.astype(np.int64), sources[at].reshape(-1, 2))


# ---------------------------------------------------------------- KeOps's functions


def from_matrix(ranges_i: Any, ranges_j: Any, keep: Any) -> tuple[Any, ...]:
    """Clusters of points and the pairs of clusters that interact, as the argument ``ranges``.

    Parameters
    ----------
    ranges_i, ranges_j : (C, 2), (E, 2) integers
        Start and (exclusive) end of each cluster of i and of j; see `cluster_ranges`.
    keep : (C, E) booleans
        Which pairs of clusters are visited.

    Returns
    -------
    tuple of six int64 arrays, in the library of ``ranges_i``.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> import torch
    >>> r = torch.tensor([[0, 3], [3, 4]])
    >>> from_matrix(r, r, torch.tensor([[True, False], [True, True]]))[1:3]
    (tensor([1, 3]), tensor([[0, 3],
            [0, 3],
            [3, 4]]))
    """
    i, j = adopt_integers("ranges_i", ranges_i), adopt_integers("ranges_j", ranges_j)
    for name, r in (("ranges_i", i), ("ranges_j", j)):
        if r.dim() != 2 or r.shape[1] != 2:
            raise ShapeError(
                f"{name} has shape {tuple(r.shape)}; expected (C, 2): start and end of clusters."
            )
    mask = adopt_mask("keep", keep)
    if mask.shape != (len(i), len(j)):
        raise ShapeError(
            f"keep has shape {tuple(mask.shape)}; expected {(len(i), len(j))}, clusters of i by those of j."
        )
    halves = []
    for targets, sources, m in ((i, j, mask), (j, i, mask.T)):
        _, column = torch.nonzero(m, as_tuple=True)
        halves += [targets, m.sum(1).cumsum(0), sources[column]]
    kind = kind_of(ranges_i)
    return tuple([restore(a, kind) for a in halves])


def swap_axes(ranges: Any) -> Any:
    """The structure with i and j exchanged; None passes through."""
    if ranges is None or isinstance(ranges, Ranges):
        return ranges and ranges.swap_axes()
    return (*ranges[3:6], *ranges[0:3])

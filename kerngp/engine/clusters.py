"""Points in clusters: what block-sparse reductions are made from, under KeOps's names.

Arrays of any library come in and go out. Counts are integers throughout, so ranges are right for any
number of points.
"""

from __future__ import annotations

from typing import Any

import torch

from ..errors import DataError, OptionError, ShapeError
from .arrays import adopt, adopt_integers, check_finite, kind_of, restore

Tensor = torch.Tensor
_LIMIT = 1 << 62  # of numbers of cells


def grid_cluster(x: Any, size: Any) -> Any:
    """Labels of points by the cubic cell they lie in.

    Parameters
    ----------
    x : (M, D) array
        Points, in any dimension.
    size : float or (D,) array
        Edges of a cell.

    Returns
    -------
    (M,) int64 array
        Two points have the same label if they lie in the same cell. Labels count the cells that are not
        empty, in lexicographic order.

    Raises
    ------
    ShapeError, OptionError, DataError

    Examples
    --------
    >>> import torch
    >>> grid_cluster(torch.tensor([[0.0], [0.1], [0.9], [0.05], [0.5]]), 0.2)
    tensor([0, 0, 2, 0, 1])
    """
    points = _points(x)
    edges = adopt("size", size, dtype=torch.float64, device=points.device)
    if edges.dim() > 1 or edges.numel() not in (1, points.shape[1]) or not bool((edges > 0).all()):
        raise OptionError(
            f"size={size!r}: expected a positive number, or one for each of {points.shape[1]} axes."
        )
    if len(points) == 0:
        return restore(torch.zeros(0, dtype=torch.int64, device=points.device), kind_of(x))
    check_finite("x", points)
    with torch.no_grad():
        cells = ((points - points.amin(0)).double() / edges).floor()
    if not bool(cells.amax() < _LIMIT):
        raise OptionError(f"size={size!r} is too small: cells could not be numbered; choose a larger one.")
    labels, count = cells.new_zeros(len(cells), dtype=torch.int64), 1
    for cell in cells.long().T:
        extent = int(cell.max()) + 1
        if count * extent > _LIMIT:
            (labels, count), (cell, extent) = _compact(labels), _compact(cell)
        labels, count = labels * extent + cell, count * extent
    return restore(_compact(labels)[0], kind_of(x))


def _compact(labels: Tensor) -> tuple[Tensor, int]:
    """Labels 0, ..., C - 1 in the same order, and C."""
    found, labels = torch.unique(labels, return_inverse=True)
    return labels, len(found)


def sort_clusters(x: Any, lab: Any) -> tuple[Any, Any]:
    """Points with those of a cluster next to each other.

    Parameters
    ----------
    x : (M, ...) array, or a tuple or list of them
    lab : (M,) integers
        Labels of the points.

    Returns
    -------
    (x, lab), sorted by labels; the order within a cluster is kept.

    Examples
    --------
    >>> import torch
    >>> x, lab = sort_clusters(torch.tensor([0.0, 5.0, 0.4]), torch.tensor([0, 1, 0]))
    >>> x, lab
    (tensor([0.0000, 0.4000, 5.0000]), tensor([0, 0, 1]))
    """
    labels, order = torch.sort(_labels(lab), stable=True)

    def take(a: Any) -> Any:
        t = adopt("x", a)
        if len(t) != len(order):
            raise ShapeError(f"x has {len(t)} rows, but lab {len(order)}; expected one label for each point.")
        return restore(t[order.to(t.device)], kind_of(a))

    moved = type(x)(map(take, x)) if isinstance(x, (tuple, list)) else take(x)
    return moved, restore(labels, kind_of(lab))


def cluster_ranges(lab: Any, Nlab: Any = None) -> Any:
    """Start and end of each cluster among the sorted points.

    Parameters
    ----------
    lab : (M,) integers
        Labels 0, ..., C - 1, sorted or not.
    Nlab : (C,) integers, optional
        The number of points of each cluster, if it is known.

    Returns
    -------
    (C, 2) int64 array

    Examples
    --------
    >>> import torch
    >>> cluster_ranges(torch.tensor([0, 0, 0, 1, 2]))
    tensor([[0, 3],
            [3, 4],
            [4, 5]])
    """
    if Nlab is None:
        counts = torch.bincount(_labels(lab))
    else:
        counts = torch.as_tensor(Nlab).long()  # KeOps's own counts are floats
    ends = counts.cumsum(0)
    return restore(torch.stack([ends - counts, ends], 1), kind_of(lab))


def cluster_centroids(x: Any, lab: Any, Nlab: Any = None, weights: Any = None, weights_c: Any = None) -> Any:
    """The (weighted) mean of each cluster, shape (C, D).

    Parameters
    ----------
    x : (M, D) array
    lab : (M,) integers
        Labels 0, ..., C - 1.
    Nlab : (C,) integers, optional
        The number of points of each cluster, if it is known.
    weights : (M,) array, optional
        Positive weights of the points.
    weights_c : (C,) array, optional
        Their sum over each cluster, if it is known.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [1.0], [4.0], [5.0], [6.0]])
    >>> cluster_centroids(x, torch.tensor([0, 0, 1, 1, 1]))
    tensor([[0.5000],
            [5.0000]])
    """
    points, labels = _points(x), _labels(lab)
    _same_length(points, labels)
    if weights is None:
        total = torch.bincount(labels) if Nlab is None else torch.as_tensor(Nlab)
        sums = _sums(points, labels, len(total))
    else:
        w = adopt("weights", weights).reshape(-1)
        _same_length(w, labels, "weights")
        total = _sums(w, labels, _count(labels)) if weights_c is None else adopt("weights_c", weights_c)
        sums = _sums(points * w[:, None], labels, len(total.reshape(-1)))
    return restore((sums / total.reshape(-1, 1)).to(points.dtype), kind_of(x))


def cluster_ranges_centroids(
    x: Any, lab: Any, weights: Any = None, min_weight: float = 1e-9
) -> tuple[Any, Any, Any]:
    """Ranges, centroids and total weights of clusters.

    Parameters
    ----------
    x : (M, D) array
    lab : (M,) integers
        Labels 0, ..., C - 1.
    weights : (M,) array, optional
        Positive weights of the points; 1 by default.
    min_weight : float
        Smaller weights are raised to it.

    Returns
    -------
    (ranges, centroids, weights) of shapes (C, 2), (C, D), (C,); ranges belong to the sorted points.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [0.5], [1.0], [2.0], [3.0]])
    >>> ranges, centroids, weights = cluster_ranges_centroids(x, torch.tensor([0, 0, 1, 1, 1]))
    >>> ranges.tolist(), centroids.flatten().tolist(), weights.tolist()
    ([[0, 2], [2, 5]], [0.25, 2.0], [2.0, 3.0])
    """
    labels = _labels(lab)
    if weights is None:
        total = torch.bincount(labels).to(_points(x).dtype)
        return cluster_ranges(lab), cluster_centroids(x, lab), restore(total, kind_of(x))
    w = adopt("weights", weights).reshape(-1).clamp_min(min_weight)
    total = _sums(w, labels, _count(labels))
    return cluster_ranges(lab), cluster_centroids(x, lab, None, w, total), restore(total, kind_of(x))


def _sums(values: Tensor, labels: Tensor, count: int) -> Tensor:
    """Sums over clusters, in float64 until they are rounded."""
    out = values.new_zeros((count, *values.shape[1:]), dtype=torch.float64)
    return out.index_add(0, labels, values.double()).to(values.dtype)


def _count(labels: Tensor) -> int:
    return int(labels.max()) + 1 if len(labels) else 0


def _points(x: Any) -> Tensor:
    t = adopt("x", x)
    if t.dim() != 2:
        raise ShapeError(f"x has shape {tuple(t.shape)}; expected (M, D): a row for each point.")
    return t


def _labels(lab: Any) -> Tensor:
    t = adopt_integers("lab", lab).reshape(-1)
    if len(t) and int(t.min()) < 0:
        raise DataError(
            f"lab holds the label {int(t.min())}; labels count from 0, as grid_cluster makes them."
        )
    return t


def _same_length(a: Tensor, labels: Tensor, name: str = "x") -> None:
    if len(a) != len(labels):
        raise ShapeError(
            f"{name} has {len(a)} rows, but lab {len(labels)}; expected one label for each point."
        )

"""Clusters of points, as KeOps makes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kerngp.numpy.cluster as numpy_cluster
import kerngp.torch.cluster as torch_cluster
from kerngp import LazyTensor
from kerngp.engine.clusters import (
    cluster_centroids,
    cluster_ranges,
    cluster_ranges_centroids,
    grid_cluster,
    sort_clusters,
)
from kerngp.errors import DataError, DTypeError, OptionError, ShapeError


@pytest.mark.parametrize("D", [1, 2, 3, 10])
def test_cells_of_a_grid(D, dtype):
    x = torch.randn(500, D, dtype=dtype)
    labels = grid_cluster(x, 0.7)
    cells = ((x - x.amin(0)).double() / 0.7).floor()
    found, want = torch.unique(cells, dim=0, return_inverse=True)
    assert torch.equal(labels, want) and labels.dtype == torch.int64
    assert labels.max() + 1 == len(found)


def test_more_cells_than_an_integer_counts():
    x = torch.rand(200, 40, dtype=torch.float64)
    want = torch.unique((x - x.amin(0)).div(1e-3).floor(), dim=0, return_inverse=True)[1]
    assert torch.equal(grid_cluster(x, 1e-3), want)


def test_grid_with_an_edge_for_each_axis():
    x = torch.tensor([[0.0, 0.0], [0.9, 0.0], [0.0, 0.9], [1.1, 0.1]])
    assert grid_cluster(x, torch.tensor([1.0, 0.5])).tolist() == [0, 0, 1, 2]
    assert grid_cluster(x.numpy(), [1.0, 0.5]).tolist() == [0, 0, 1, 2]
    assert grid_cluster(x[:0], 1.0).shape == (0,)


def test_bad_grids():
    x = torch.rand(10, 2)
    for size in (0.0, -1.0, [1.0, 1.0, 1.0], float("nan")):
        with pytest.raises(OptionError, match="size"):
            grid_cluster(x, size)
    with pytest.raises(OptionError, match="too small"):
        grid_cluster(x, 1e-30)
    with pytest.raises(DataError, match="NaN"):
        grid_cluster(torch.tensor([[0.0], [torch.nan]]), 1.0)
    with pytest.raises(ShapeError, match="\\(M, D\\)"):
        grid_cluster(x[0], 1.0)


def test_sorting_keeps_points_and_labels_together():
    x, w = torch.randn(100, 2), np.random.rand(100)
    lab = torch.randint(0, 7, (100,))
    (xs, ws), labs = sort_clusters((x, w), lab)
    order = torch.sort(lab, stable=True).indices
    assert torch.equal(xs, x[order]) and (ws == w[order.numpy()]).all() and torch.equal(labs, lab[order])
    ranges = cluster_ranges(lab)
    assert ranges[0, 0] == 0 and ranges[-1, 1] == 100 and torch.equal(ranges[1:, 0], ranges[:-1, 1])
    assert torch.equal(cluster_ranges(lab, torch.bincount(lab)), ranges)
    assert isinstance(sort_clusters([x], lab)[0], list)
    with pytest.raises(ShapeError, match="one label for each"):
        sort_clusters(x[:5], lab)
    with pytest.raises(DTypeError, match="lab"):
        sort_clusters(x, lab.float())
    with pytest.raises(DataError, match="-1"):
        cluster_ranges(lab - 1)


def test_ranges_are_exact_where_floats_are_not():
    counts = torch.tensor([2**24 + 1, 1, 1])
    lab = torch.repeat_interleave(torch.arange(3, dtype=torch.int32), counts)
    n = 2**24
    assert cluster_ranges(lab).tolist() == [[0, n + 1], [n + 1, n + 2], [n + 2, n + 3]]


def test_centroids():
    x = torch.randn(80, 3, dtype=torch.float64)
    lab, w = torch.arange(80) % 6, torch.rand(80, dtype=torch.float64)
    w[lab == 2] = 0.0
    ranges, centroids, weights = cluster_ranges_centroids(x, lab, weights=w)
    for c in range(6):
        own = lab == c
        v = w[own].clamp_min(1e-9)
        assert torch.allclose(centroids[c], (v[:, None] * x[own]).sum(0) / v.sum())
        assert torch.allclose(weights[c], v.sum())
    plain = cluster_centroids(x, lab)
    assert torch.allclose(plain[4], x[lab == 4].mean(0)) and plain.shape == (6, 3)
    assert torch.equal(cluster_ranges_centroids(x, lab)[0], ranges)
    assert torch.equal(cluster_ranges_centroids(x, lab)[2], torch.bincount(lab).double())


def test_both_facades_serve_the_same_functions():
    assert torch_cluster.__all__ == numpy_cluster.__all__
    assert all(getattr(torch_cluster, n) is getattr(numpy_cluster, n) for n in torch_cluster.__all__)
    ranges = numpy_cluster.from_matrix(np.array([[0, 2]]), np.array([[0, 3]]), np.array([[True]]))
    assert all(isinstance(a, np.ndarray) and a.dtype == np.int64 for a in ranges)


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_a_convolution_with_near_points_alone(library):
    """KeOps's own example: a Gaussian is cut where it has become small."""
    t = torch.linspace(0, 6.28, 500)
    x = torch.stack((0.4 + 0.4 * torch.cos(t), 0.5 + 0.3 * torch.sin(t)), 1) + 0.01 * torch.randn(500, 2)
    y, b, sigma = torch.randn(500, 2) / 10 + 0.6, torch.randn(500, 1), 0.05
    if library == "numpy":
        x, y, b = x.numpy(), y.numpy(), b.numpy()
    x_labels, y_labels = grid_cluster(x, sigma), grid_cluster(y, sigma)
    x_ranges, x_centroids, _ = cluster_ranges_centroids(x, x_labels)
    y_ranges, y_centroids, _ = cluster_ranges_centroids(y, y_labels)
    (x,), _ = sort_clusters((x,), x_labels)
    y, _ = sort_clusters(y, y_labels)
    D = ((x_centroids[:, None, :] - y_centroids[None, :, :]) ** 2).sum(2)
    ranges = torch_cluster.from_matrix(x_ranges, y_ranges, D < (4 * sigma) ** 2)
    x_i, y_j = LazyTensor(x[:, None, :] / sigma), LazyTensor(y[None, :, :] / sigma)
    K = (-((x_i - y_j) ** 2).sum(dim=2) / 2).exp()
    full = K @ b
    K.ranges = ranges
    assert K.ranges.pairs < 0.5 * 500 * 500
    assert abs((K @ b) - full).sum() < 2e-3 * abs(full).sum()

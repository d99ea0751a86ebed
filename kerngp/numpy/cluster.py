"""KeOps's functions on clusters, for NumPy arrays: they serve every array library."""

from __future__ import annotations

from ..engine.clusters import (
    cluster_centroids,
    cluster_ranges,
    cluster_ranges_centroids,
    grid_cluster,
    sort_clusters,
)
from ..engine.ranges import from_matrix, swap_axes

__all__ = [
    "cluster_centroids",
    "cluster_ranges",
    "cluster_ranges_centroids",
    "from_matrix",
    "grid_cluster",
    "sort_clusters",
    "swap_axes",
]

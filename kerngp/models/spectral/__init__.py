"""Estimators made of eigenvectors and low-rank factors of kernel matrices."""

from __future__ import annotations

from .kernel_pca import KernelPCA
from .nystroem import Nystroem
from .spectral_clustering import SpectralClustering

__all__ = ["KernelPCA", "Nystroem", "SpectralClustering"]

"""Kernels and estimators."""

from __future__ import annotations

from .distances import KernelTestResult, hsic_test, median_heuristic, mmd_test
from .kernel_base import Kernel
from .kernel_ridge import KernelRidge
from .kernels import (
    RBF,
    Cauchy,
    Constant,
    FormulaKernel,
    Linear,
    Matern,
    Periodic,
    Polynomial,
    Product,
    RationalQuadratic,
    Scale,
    Sum,
    White,
)
from .ridge_plan import RidgePlan
from .spectral import KernelPCA, Nystroem, SpectralClustering

__all__ = [
    "RBF",
    "Cauchy",
    "Constant",
    "FormulaKernel",
    "Kernel",
    "KernelPCA",
    "KernelRidge",
    "KernelTestResult",
    "Linear",
    "Matern",
    "Nystroem",
    "Periodic",
    "Polynomial",
    "Product",
    "RationalQuadratic",
    "RidgePlan",
    "Scale",
    "SpectralClustering",
    "Sum",
    "White",
    "hsic_test",
    "median_heuristic",
    "mmd_test",
]

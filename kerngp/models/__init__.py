"""Kernels and estimators."""

from __future__ import annotations

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
from .neighbours.classifier import KNeighborsClassifier
from .neighbours.kernel_density import KernelDensity
from .neighbours.kmeans import KMeans
from .neighbours.nearest import NearestNeighbors
from .neighbours.regressor import KNeighborsRegressor
from .ridge_plan import RidgePlan

__all__ = [
    "RBF",
    "Cauchy",
    "Constant",
    "FormulaKernel",
    "KMeans",
    "KNeighborsClassifier",
    "KNeighborsRegressor",
    "Kernel",
    "KernelDensity",
    "KernelRidge",
    "Linear",
    "Matern",
    "NearestNeighbors",
    "Periodic",
    "Polynomial",
    "Product",
    "RationalQuadratic",
    "RidgePlan",
    "Scale",
    "Sum",
    "White",
]

"""Kernels and estimators."""

from __future__ import annotations

from .active_dims import ActiveDims
from .distances import KernelTestResult, hsic_test, median_heuristic, mmd_test
from .gp.classifier import GaussianProcessClassifier
from .gp.regressor import GaussianProcessRegressor
from .kernel_base import Kernel
from .kernels import (
    RBF,
    Cauchy,
    Constant,
    ExpSineSquared,
    FormulaKernel,
    Linear,
    Matern,
    Periodic,
    Polynomial,
    Power,
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
from .ridge.classifier import KernelRidgeClassifier
from .ridge.cv import KernelRidgeCV
from .ridge.logistic import KernelLogisticRegression
from .ridge.logistic_plan import LogisticPlan
from .ridge.plan import RidgePlan
from .ridge.regressor import KernelRidge
from .saving import load, save
from .spectral import KernelPCA, Nystroem, SpectralClustering

__all__ = [
    "ActiveDims",
    "Cauchy",
    "Constant",
    "ExpSineSquared",
    "FormulaKernel",
    "GaussianProcessClassifier",
    "GaussianProcessRegressor",
    "KMeans",
    "KNeighborsClassifier",
    "KNeighborsRegressor",
    "Kernel",
    "KernelDensity",
    "KernelLogisticRegression",
    "KernelPCA",
    "KernelRidge",
    "KernelRidgeCV",
    "KernelRidgeClassifier",
    "KernelTestResult",
    "Linear",
    "LogisticPlan",
    "Matern",
    "NearestNeighbors",
    "Nystroem",
    "Periodic",
    "Polynomial",
    "Power",
    "Product",
    "RBF",
    "RationalQuadratic",
    "RidgePlan",
    "Scale",
    "SpectralClustering",
    "Sum",
    "White",
    "hsic_test",
    "load",
    "median_heuristic",
    "mmd_test",
    "save",
]

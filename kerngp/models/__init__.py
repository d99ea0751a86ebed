"""Kernels and estimators."""

from __future__ import annotations

from .kernel_base import Kernel
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
from .ridge.classifier import KernelRidgeClassifier
from .ridge.cv import KernelRidgeCV
from .ridge.plan import RidgePlan
from .ridge.regressor import KernelRidge

__all__ = [
    "RBF",
    "Cauchy",
    "Constant",
    "FormulaKernel",
    "Kernel",
    "KernelRidge",
    "KernelRidgeCV",
    "KernelRidgeClassifier",
    "Linear",
    "Matern",
    "Periodic",
    "Polynomial",
    "Product",
    "RationalQuadratic",
    "RidgePlan",
    "Scale",
    "Sum",
    "White",
]

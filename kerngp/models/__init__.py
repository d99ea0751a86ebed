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
from .ridge.plan import RidgePlan
from .ridge.regressor import KernelRidge

__all__ = [
    "RBF",
    "Cauchy",
    "Constant",
    "FormulaKernel",
    "Kernel",
    "KernelRidge",
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

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

__all__ = [
    "RBF",
    "Cauchy",
    "Constant",
    "FormulaKernel",
    "Kernel",
    "Linear",
    "Matern",
    "Periodic",
    "Polynomial",
    "Product",
    "RationalQuadratic",
    "Scale",
    "Sum",
    "White",
]

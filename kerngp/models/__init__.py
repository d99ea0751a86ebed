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
from .ridge.logistic import KernelLogisticRegression
from .ridge.logistic_plan import LogisticPlan
from .ridge_plan import RidgePlan

__all__ = [
    "RBF",
    "Cauchy",
    "Constant",
    "FormulaKernel",
    "Kernel",
    "KernelLogisticRegression",
    "KernelRidge",
    "Linear",
    "LogisticPlan",
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

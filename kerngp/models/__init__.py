"""Kernels and estimators."""

from __future__ import annotations

from .active_dims import ActiveDims
from .gp.classifier import GaussianProcessClassifier
from .kernel_base import Kernel
from .kernel_ridge import KernelRidge
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
from .ridge.logistic import KernelLogisticRegression
from .ridge.logistic_plan import LogisticPlan
from .ridge_plan import RidgePlan

__all__ = [
    "RBF",
    "ActiveDims",
    "Cauchy",
    "Constant",
    "ExpSineSquared",
    "FormulaKernel",
    "GaussianProcessClassifier",
    "Kernel",
    "KernelLogisticRegression",
    "KernelRidge",
    "Linear",
    "LogisticPlan",
    "Matern",
    "Periodic",
    "Polynomial",
    "Power",
    "Product",
    "RationalQuadratic",
    "RidgePlan",
    "Scale",
    "Sum",
    "White",
]

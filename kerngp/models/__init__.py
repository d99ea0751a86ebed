"""Kernels and estimators."""

from __future__ import annotations

from .active_dims import ActiveDims
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
from .ridge.classifier import KernelRidgeClassifier
from .ridge.cv import KernelRidgeCV
from .ridge.plan import RidgePlan
from .ridge.regressor import KernelRidge
from .saving import load, save

__all__ = [
    "RBF",
    "ActiveDims",
    "Cauchy",
    "Constant",
    "ExpSineSquared",
    "FormulaKernel",
    "Kernel",
    "KernelRidge",
    "KernelRidgeCV",
    "KernelRidgeClassifier",
    "Linear",
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
    "load",
    "save",
]

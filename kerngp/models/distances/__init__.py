"""Distances between distributions by kernels, and tests on them."""

from __future__ import annotations

from .hsic import hsic_test
from .mmd import mmd_test
from .result import KernelTestResult
from .samples import median_heuristic

__all__ = ["KernelTestResult", "hsic_test", "median_heuristic", "mmd_test"]

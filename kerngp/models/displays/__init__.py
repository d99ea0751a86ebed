"""Pictures of estimators, in the manner of scikit-learn's displays."""

from __future__ import annotations

from .band import PredictionBandDisplay
from .convergence import ConvergenceDisplay
from .coverage import CoverageDisplay
from .kernel import KernelDisplay

__all__ = ["ConvergenceDisplay", "CoverageDisplay", "KernelDisplay", "PredictionBandDisplay"]

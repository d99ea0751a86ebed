"""How often intervals hold, against how often they claim to."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..metrics import coverage_curve
from .base import Display


class CoverageDisplay(Display):
    """The curve of `kerngp.models.metrics.coverage_curve`.

    Parameters
    ----------
    levels, coverage : ndarray of shape (n_levels,)
    name : str, optional
        For the legend.
    """

    def __init__(self, *, levels: np.ndarray, coverage: np.ndarray, name: str | None = None):
        self.levels, self.coverage, self.name = levels, coverage, name

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        mean: Any,
        std: Any,
        *,
        levels: Any = None,
        name: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> CoverageDisplay:
        """Draw given predictions; ``std`` includes the noise of the observations."""
        display = cls(
            **dict(zip(("levels", "coverage"), coverage_curve(y_true, mean, std, levels=levels))), name=name
        )
        display.plot(ax, **kwargs)
        return display

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any, *, levels: Any = None, ax: Any = None, **kwargs: Any
    ) -> CoverageDisplay:
        """Draw the predictions of a fitted estimator (``predict(X, return_std=True)``) for held-out data."""
        mean, std = estimator.predict(X, return_std=True)
        name = type(estimator).__name__
        return cls.from_predictions(y, mean, std, levels=levels, name=name, ax=ax, **kwargs)

    def _draw(self, ax: Any, style: dict[str, Any]) -> None:
        look = {"marker": "o", "label": self.name or "observed", **style}
        ax.plot([0, 1], [0, 1], "--", color="0.5", label="calibrated")
        (self.line_,) = ax.plot(self.levels, self.coverage, **look)
        ax.set(xlabel="claimed probability", ylabel="share of observations inside", xlim=(0, 1), ylim=(0, 1))
        ax.set_aspect("equal")
        ax.legend()

"""Residuals of the solve behind a fit."""

from __future__ import annotations

from typing import Any

from sklearn.utils.validation import check_is_fitted

from ...errors import OptionError
from ...solvers import Solution
from ...solvers.report import plot as plot_solution
from .base import Display


class ConvergenceDisplay(Display):
    """The relative residual of each column by iteration.

    Parameters
    ----------
    solution : Solution
    """

    def __init__(self, solution: Solution):
        self.solution = solution

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None, **kwargs: Any) -> ConvergenceDisplay:
        """Draw the ``solution_`` of a fitted estimator, the first one if there are several.

        Raises
        ------
        OptionError
            If the estimator keeps no solution.
        """
        check_is_fitted(estimator)
        solution = getattr(estimator, "solution_", None)
        if isinstance(solution, list):
            solution = solution[0]
        if not isinstance(solution, Solution):
            raise OptionError(f"{type(estimator).__name__} has no solution_: no linear system was solved.")
        display = cls(solution)
        display.plot(ax, **kwargs)
        return display

    def _draw(self, ax: Any, style: dict[str, Any]) -> None:
        plot_solution(self.solution, ax)
        for line in ax.get_lines():
            if line.get_label() != "tolerance":
                line.set(**style)

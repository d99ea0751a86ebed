"""What all displays share: axes, and the refusal without matplotlib."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from ...errors import BackendUnavailable


class Display(ABC):
    """Numbers that were computed once and can be drawn as often as wanted.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Drawn on last.
    figure_ : matplotlib Figure
    """

    ax_: Any
    figure_: Any

    def plot(self, ax: Any = None, **kwargs: Any) -> Display:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Default: those of a new figure.
        **kwargs
            For the main line, such as ``color``.

        Returns
        -------
        self

        Raises
        ------
        BackendUnavailable
            If matplotlib is not installed.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise BackendUnavailable(
                f"{type(self).__name__}.plot needs matplotlib: pip install kerngp[plot]"
            ) from error
        if ax is None:
            _, ax = plt.subplots()
        self._draw(ax, kwargs)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    @abstractmethod
    def _draw(self, ax: Any, style: dict[str, Any]) -> None: ...

"""Predictions along one column of X, with the band in which observations are expected."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import ndtri
from sklearn.utils import check_array

from ...errors import OptionError, ShapeError
from ..inputs import to_numpy
from .base import Display


class PredictionBandDisplay(Display):
    """Mean and central interval of a prediction.

    Parameters
    ----------
    x : ndarray of shape (n_points,)
        Where, in increasing order.
    mean, std : ndarray of shape (n_points,)
    level : float
        Probability of the band; the band is mean +- z std with the normal distribution's z.
    observed : tuple of ndarray, optional
        x and y of the data, drawn as dots.
    x_name : str
    """

    def __init__(
        self,
        *,
        x: np.ndarray,
        mean: np.ndarray,
        std: np.ndarray,
        level: float = 0.95,
        observed: tuple[np.ndarray, np.ndarray] | None = None,
        x_name: str = "x",
    ):
        self.x, self.mean, self.std = x, mean, std
        self.level, self.observed, self.x_name = level, observed, x_name

    @classmethod
    def from_predictions(
        cls,
        x: Any,
        mean: Any,
        std: Any,
        *,
        level: float = 0.95,
        observed: tuple[Any, Any] | None = None,
        x_name: str = "x",
        ax: Any = None,
        **kwargs: Any,
    ) -> PredictionBandDisplay:
        """Draw given numbers; x need not be sorted.

        Raises
        ------
        ShapeError
            If x, mean and std are not vectors of one length.
        OptionError
            If ``level`` is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise OptionError(f"level={level!r}: expected a probability between 0 and 1.")
        arrays = {"x": x, "mean": mean, "std": std}
        vectors = [np.asarray(to_numpy(a), dtype=float) for a in arrays.values()]
        shapes = {name: v.shape for name, v in zip(arrays, vectors, strict=True)}
        if len(set(shapes.values())) > 1 or vectors[0].ndim != 1:
            raise ShapeError(f"the arrays have shapes {shapes}; expected vectors of one length.")
        order = np.argsort(vectors[0], kind="stable")
        seen = None if observed is None else tuple(np.asarray(to_numpy(a)).ravel() for a in observed)
        display = cls(
            x=vectors[0][order],
            mean=vectors[1][order],
            std=vectors[2][order],
            level=level,
            observed=seen,  # type: ignore[arg-type]
            x_name=x_name,
        )
        display.plot(ax, **kwargs)
        return display

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        *,
        feature: int = 0,
        n_points: int = 200,
        level: float = 0.95,
        ax: Any = None,
        **kwargs: Any,
    ) -> PredictionBandDisplay:
        """The prediction along one column; the other columns stay at their medians.

        Parameters
        ----------
        estimator : fitted estimator with ``predict(X, return_std=True)``
        X : array of shape (n_samples, n_features)
            Data that span the picture.
        y : array of shape (n_samples,), optional
            Drawn as dots.
        feature : int
            The column.
        n_points : int
        level : float
        ax : matplotlib Axes, optional
        **kwargs
            For the line of the mean.

        Raises
        ------
        OptionError
            If there is no such column.
        """
        names = getattr(X, "columns", None)
        rows = check_array(to_numpy(X))
        if not 0 <= feature < rows.shape[1]:
            raise OptionError(f"feature={feature}: X has columns 0 to {rows.shape[1] - 1}.")
        grid = np.tile(np.median(rows, axis=0), (n_points, 1))
        grid[:, feature] = np.linspace(rows[:, feature].min(), rows[:, feature].max(), n_points)
        given = grid if names is None else type(X)(grid, columns=names)
        mean, std = estimator.predict(given, return_std=True)
        return cls.from_predictions(
            grid[:, feature],
            mean,
            std,
            level=level,
            observed=None if y is None else (rows[:, feature], y),
            x_name=f"x[{feature}]" if names is None else str(names[feature]),
            ax=ax,
            **kwargs,
        )

    def _draw(self, ax: Any, style: dict[str, Any]) -> None:
        if self.observed is not None:
            ax.plot(*self.observed, ".", color="0.4", markersize=3, label="observed", zorder=1)
        (line,) = ax.plot(self.x, self.mean, **{"label": "mean", "zorder": 3, **style})
        half = ndtri(0.5 + self.level / 2) * self.std
        label = f"{100 * self.level:.0f} % band"
        self.band_ = ax.fill_between(
            self.x, self.mean - half, self.mean + half, color=line.get_color(), alpha=0.25, label=label
        )
        self.line_ = line
        ax.set(xlabel=self.x_name, ylabel="prediction")
        ax.legend()

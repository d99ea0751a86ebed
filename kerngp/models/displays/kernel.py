"""A kernel as a function of one point, and functions drawn from its Gaussian process."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import OptionError
from ..resolve import MatrixKernel, resolve_kernel
from .base import Display

JITTER = 1e-10  # of the largest variance: samples for the eye only


class KernelDisplay(Display):
    """k(x, origin), and samples of the prior, along a line through the origin in the direction of one column.

    Parameters
    ----------
    x : ndarray of shape (n_points,)
    values : ndarray of shape (n_points,)
        k(x, origin).
    samples : ndarray of shape (n_points, n_samples)
    name : str
    """

    def __init__(self, *, x: np.ndarray, values: np.ndarray, samples: np.ndarray, name: str):
        self.x, self.values, self.samples, self.name = x, values, samples, name

    @classmethod
    def from_kernel(
        cls,
        kernel: Any,
        *,
        n_features: int = 1,
        feature: int = 0,
        span: tuple[float, float] = (-3.0, 3.0),
        n_points: int = 200,
        n_samples: int = 0,
        random_state: int = 0,
        ax: Any = None,
        **kwargs: Any,
    ) -> KernelDisplay:
        """Draw a kernel of any form that estimators accept.

        Parameters
        ----------
        kernel : str, Kernel, scikit-learn kernel, formula or callable
        n_features : int
            Columns of its points.
        feature : int
            The column along which x moves.
        span : (float, float)
            From where to where.
        n_points, n_samples : int
        random_state : int
        ax : matplotlib Axes, optional
        **kwargs
            For the line of the kernel.

        Raises
        ------
        OptionError
            If there is no such column.

        Examples
        --------
        >>> from kerngp.models import RBF
        >>> from kerngp.models.displays import KernelDisplay
        >>> display = KernelDisplay.from_kernel(RBF(lengthscale=0.5), n_samples=3)  # doctest: +SKIP
        """
        if not 0 <= feature < n_features:
            raise OptionError(f"feature={feature}: the points have columns 0 to {n_features - 1}.")
        x = np.linspace(*span, n_points)
        points = np.zeros((n_points, n_features))
        points[:, feature] = x
        resolved = resolve_kernel(kernel, n_features)
        origin = np.zeros((1, n_features))
        if isinstance(resolved, MatrixKernel):
            values, K = resolved.matrix(points, origin)[:, 0], resolved.matrix(points, points)
        else:
            values = resolved(points, origin).dense().numpy()[:, 0]
            K = resolved(points).dense().numpy()
        display = cls(x=x, values=values, samples=_samples(K, n_samples, random_state), name=repr(kernel))
        display.plot(ax, **kwargs)
        return display

    def _draw(self, ax: Any, style: dict[str, Any]) -> None:
        if self.samples.shape[1]:
            ax.plot(self.x, self.samples, color="0.6", linewidth=0.8, zorder=1)
        (self.line_,) = ax.plot(self.x, self.values, **{"label": self.name, "zorder": 2, **style})
        ax.set(xlabel="x", ylabel="k(x, 0)")
        ax.legend()


def _samples(K: np.ndarray, n_samples: int, random_state: int) -> np.ndarray:
    """Columns of N(0, K), by the eigenvectors: small and negative eigenvalues count as zero."""
    values, vectors = np.linalg.eigh(K)
    root = vectors * np.sqrt(np.where(values > JITTER * values.max(), values, 0.0))
    return root @ np.random.default_rng(random_state).standard_normal((len(K), n_samples))

"""A kernel of scikit-learn that looks at some columns only."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.gaussian_process.kernels import Hyperparameter, Kernel

from ..errors import ShapeError
from .kernel_base import check_active_dims


class ActiveDims(Kernel):
    """k(x, y) = kernel(x[dims], y[dims]), for use with scikit-learn's kernels and estimators.

    It has the whole interface of scikit-learn's kernels: hyperparameters, operators, nested parameters,
    gradients.

    Parameters
    ----------
    kernel : sklearn.gaussian_process.kernels.Kernel
    dims : sequence of int
        Columns, counted from 0, in the order in which ``kernel`` sees them.

    Raises
    ------
    OptionError, ShapeError
        When it is used, if ``dims`` are no column numbers, or columns do not exist.

    Examples
    --------
    >>> from sklearn.gaussian_process.kernels import RBF
    >>> kernel = ActiveDims(RBF([1.0, 2.0]), [0, 3]) + ActiveDims(RBF(0.5), [1])
    >>> kernel
    ActiveDims(RBF(length_scale=[1, 2]), [0, 3]) + ActiveDims(RBF(length_scale=0.5), [1])
    >>> kernel(np.zeros((2, 4)))
    array([[2., 2.],
           [2., 2.]])
    """

    def __init__(self, kernel: Any, dims: Any):
        self.kernel = kernel
        self.dims = dims

    def columns(self, n_features: int) -> tuple[int, ...]:
        """The column numbers, for points with ``n_features`` columns."""
        dims = check_active_dims(self.dims, "dims of ActiveDims")
        if max(dims) >= n_features:
            raise ShapeError(
                f"dims={self.dims!r} of ActiveDims: column {max(dims)} does not exist, the points have "
                f"{n_features} (counted from 0)."
            )
        return dims

    def _select(self, X: Any) -> Any:
        X = np.atleast_2d(X)
        return X[:, self.columns(X.shape[1])]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name, with ``deep`` also those of ``kernel``, as ``kernel__length_scale``."""
        params = {"kernel": self.kernel, "dims": self.dims}
        if deep:
            params.update({f"kernel__{name}": value for name, value in self.kernel.get_params().items()})
        return params

    @property
    def hyperparameters(self) -> list[Hyperparameter]:
        """Those of ``kernel``, under nested names."""
        return [
            Hyperparameter(f"kernel__{h.name}", h.value_type, h.bounds, h.n_elements)
            for h in self.kernel.hyperparameters
        ]

    @property
    def theta(self) -> np.ndarray:
        """Logarithms of the hyperparameters that are not fixed."""
        return self.kernel.theta

    @theta.setter
    def theta(self, theta: np.ndarray) -> None:
        self.kernel.theta = theta

    @property
    def bounds(self) -> np.ndarray:
        """Logarithms of the bounds."""
        return self.kernel.bounds

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return False
        assert isinstance(other, ActiveDims)
        return self.kernel == other.kernel and np.array_equal(self.dims, other.dims)

    def __call__(self, X: Any, Y: Any = None, eval_gradient: bool = False) -> Any:
        """k(X, Y), and with ``eval_gradient`` the derivatives by theta, as scikit-learn's kernels."""
        return self.kernel(
            self._select(X), None if Y is None else self._select(Y), eval_gradient=eval_gradient
        )

    def diag(self, X: Any) -> np.ndarray:
        """The diagonal of k(X, X)."""
        return self.kernel.diag(self._select(X))

    def is_stationary(self) -> bool:
        """Whether ``kernel`` is."""
        return self.kernel.is_stationary()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kernel!r}, {self.dims!r})"

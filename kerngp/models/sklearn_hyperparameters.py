"""The hyperparameters of kernel objects of scikit-learn, which count them themselves."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
import torch
from sklearn.gaussian_process.kernels import Kernel as SklearnKernel

from ..errors import OptionError
from .hyperparameters import Hyperparameters
from .kernel_base import Kernel
from .matrix_kernel import check_size
from .sklearn_kernels import translate

Tensor = torch.Tensor


class SklearnHyperparameters(Hyperparameters):
    """A kernel of scikit-learn: matrices by the object itself, formulas by `translate`.

    Parameters
    ----------
    kernel : sklearn.gaussian_process.kernels.Kernel
        Not copied and not changed.
    n_features : int

    Examples
    --------
    >>> from sklearn.gaussian_process.kernels import RBF, WhiteKernel
    >>> h = SklearnHyperparameters(2.0 * RBF(1.0, "fixed") + WhiteKernel(0.5), 3)
    >>> h.names, h.theta.round(3)
    (('k1__k1__constant_value', 'k2__noise_level'), array([ 0.693, -0.693]))
    >>> h.formula()
    Constant(value=2.0) * RBF(lengthscale=1.0) + White(noise=0.5)
    """

    def __init__(self, kernel: SklearnKernel, n_features: int):
        self.kernel, self.n_features = kernel, n_features
        self.theta = np.asarray(kernel.theta, dtype=np.float64)
        self.bounds = np.asarray(kernel.bounds, dtype=np.float64).reshape(-1, 2)
        self.names = tuple(_names(kernel))

    @property
    def has_formula(self) -> bool:
        return translate(self.kernel, self.n_features) is not None

    def at(self, theta: np.ndarray) -> SklearnHyperparameters:
        out = copy(self)  # bounds and names stay: scikit-learn takes its time to find them
        out.kernel = self.kernel.clone_with_theta(self.check_theta(theta))
        out.theta = np.array(theta, dtype=np.float64)
        return out

    def formula(self, theta: Tensor | None = None) -> Kernel:
        out = translate(self.kernel, self.n_features, theta)
        if out is None:
            raise OptionError(
                f"kernel={self.kernel!r} has no formula, so that its matrix must fit into memory. Use fewer "
                "rows, or kernels that have one: Matern of nu 0.5, 1.5 or 2.5, PairwiseKernel with the name "
                "of a metric, or a kernel of kerngp.models."
            )
        return out

    def matrix(self, X: Any, Y: Any = None) -> np.ndarray:
        check_size(f"kernel={self.kernel!r}", len(X), len(X if Y is None else Y))
        return np.asarray(self.kernel(X, Y), dtype=np.float64)

    def warn_at_bounds(self) -> None:
        self.kernel._check_bounds_params()

    def diag(self, X: Any) -> np.ndarray:
        return np.asarray(self.kernel.diag(X), dtype=np.float64)

    def gradient(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        check_size(f"kernel={self.kernel!r}", len(X), len(X), 1 + len(self.theta))
        K, derivatives = self.kernel(X, eval_gradient=True)
        return np.asarray(K, dtype=np.float64), np.asarray(derivatives, dtype=np.float64)


def _names(kernel: SklearnKernel) -> list[str]:
    out = []
    for h in kernel.hyperparameters:
        if not h.fixed:
            out += [h.name] if h.n_elements == 1 else [f"{h.name}[{k}]" for k in range(h.n_elements)]
    return out

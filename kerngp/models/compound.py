"""Several kernels side by side, one for each class, as CompoundKernel of scikit-learn holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.gaussian_process.kernels import CompoundKernel
from sklearn.gaussian_process.kernels import Kernel as SklearnKernel

from ..errors import OptionError
from .hyperparameters import Hyperparameters
from .kernel_base import Kernel

Tensor = torch.Tensor


class CompoundHyperparameters(Hyperparameters):
    """theta is that of the kernels one after the other; matrices have one more axis, the kernels.

    Parameters
    ----------
    parts : sequence of Hyperparameters

    Attributes
    ----------
    parts : tuple of Hyperparameters
    kernel : CompoundKernel, or tuple of kernels
        The former if all kernels are scikit-learn's.

    Examples
    --------
    >>> from sklearn.gaussian_process.kernels import RBF
    >>> from kerngp.models.sklearn_hyperparameters import SklearnHyperparameters
    >>> h = CompoundHyperparameters([SklearnHyperparameters(RBF(l), 3) for l in (1.0, 2.0)])
    >>> h.names, h.theta.round(3)
    (('kernels[0]__length_scale', 'kernels[1]__length_scale'), array([0.   , 0.693]))
    """

    def __init__(self, parts: Sequence[Hyperparameters]):
        if not parts:
            raise OptionError("a compound of no kernels; expected at least one.")
        self.parts, self.n_features = tuple(parts), parts[0].n_features
        kernels = [h.kernel for h in parts]
        ours = not all(isinstance(k, SklearnKernel) for k in kernels)
        self.kernel: Any = tuple(kernels) if ours else CompoundKernel(kernels)
        self.theta = np.concatenate([h.theta for h in parts])
        self.bounds = np.concatenate([h.bounds for h in parts])
        self.names = tuple(f"kernels[{k}]__{name}" for k, h in enumerate(parts) for name in h.names)

    @property
    def has_formula(self) -> bool:
        return False

    def at(self, theta: np.ndarray) -> CompoundHyperparameters:
        ends = np.cumsum([len(h.theta) for h in self.parts])[:-1]
        pieces = np.split(self.check_theta(theta), ends)
        return CompoundHyperparameters([h.at(t) for h, t in zip(self.parts, pieces, strict=True)])

    def formula(self, theta: Tensor | None = None) -> Kernel:
        raise OptionError(
            f"{len(self.parts)} kernels side by side are not one formula; use those of `parts`."
        )

    def warn_at_bounds(self) -> None:
        for h in self.parts:
            h.warn_at_bounds()

    def matrix(self, X: Any, Y: Any = None) -> np.ndarray:
        return np.stack([h.matrix(X, Y) for h in self.parts], axis=-1)

    def diag(self, X: Any) -> np.ndarray:
        return np.stack([h.diag(X) for h in self.parts], axis=-1)

    def gradient(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        pairs = [h.gradient(X) for h in self.parts]
        return np.stack([K for K, _ in pairs], axis=-1), np.stack([G for _, G in pairs], axis=-1)

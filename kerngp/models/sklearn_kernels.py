"""Kernel objects of scikit-learn (`sklearn.gaussian_process.kernels`) as kernels of this package."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.gaussian_process import kernels as sk

from . import kernels as our
from .kernel_base import Kernel


def translate(kernel: Any, n_features: int) -> Kernel | None:
    """The same function as a formula, or None where there is none (White noise, unknown classes, other nu).

    Parameters
    ----------
    kernel : sklearn.gaussian_process.kernels.Kernel
    n_features : int
        Columns of the points: ExpSineSquared is translated for one column only, where the two
        definitions agree.

    Examples
    --------
    >>> translate(2.0 * sk.RBF(0.5), 3)
    Constant(value=2.0) * RBF(lengthscale=0.5)
    """
    if isinstance(kernel, (sk.Sum, sk.Product)):
        left, right = translate(kernel.k1, n_features), translate(kernel.k2, n_features)
        if left is None or right is None:
            return None
        return left + right if isinstance(kernel, sk.Sum) else left * right
    make = _RULES.get(type(kernel))
    return make(kernel, n_features) if make else None


def _lengthscale(k: Any) -> Any:
    value = np.asarray(k.length_scale, dtype=np.float64)
    return float(value) if value.size == 1 else value


def _matern(k: Any, n: int) -> Kernel | None:
    if k.nu == np.inf:
        return our.RBF(_lengthscale(k))
    return our.Matern(k.nu, _lengthscale(k)) if k.nu in (0.5, 1.5, 2.5) else None


def _periodic(k: Any, n: int) -> Kernel | None:
    return our.Periodic(float(k.length_scale), float(k.periodicity)) if n == 1 else None


_RULES: dict[type, Any] = {
    sk.RBF: lambda k, n: our.RBF(_lengthscale(k)),
    sk.Matern: _matern,
    sk.RationalQuadratic: lambda k, n: our.RationalQuadratic(float(k.length_scale), float(k.alpha)),
    sk.ExpSineSquared: _periodic,
    sk.DotProduct: lambda k, n: our.Linear() + our.Constant(float(k.sigma_0) ** 2),
    sk.ConstantKernel: lambda k, n: our.Constant(float(k.constant_value)),
}

"""Kernel objects of scikit-learn (`sklearn.gaussian_process.kernels`) as kernels of this package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sklearn.gaussian_process import kernels as sk

from . import kernels as our
from .kernel_base import Kernel

Tensor = torch.Tensor


class _NoFormula(Exception):
    """Raised while a tree is translated and a part of it has no formula."""


def translate(
    kernel: Any, n_features: int, theta: Tensor | None = None, *, noise: bool = True
) -> Kernel | None:
    """The same function as a formula, or None where there is none.

    No formula have Matern kernels of a nu other than 0.5, 1.5, 2.5 and infinity, PairwiseKernel with a
    function, powers with an exponent that is not positive, CompoundKernel (a list of kernels), and classes
    that scikit-learn does not know.

    Parameters
    ----------
    kernel : sklearn.gaussian_process.kernels.Kernel
    n_features : int
        Columns of the points.
    theta : Tensor of shape (p,), optional
        Logarithms of the hyperparameters that are not fixed, in the order of ``kernel.theta``, which is the
        default. The kernel's hyperparameters are differentiable functions of it.
    noise : bool
        Whether WhiteKernel becomes `White`. scikit-learn itself drops it outside Gaussian processes, where
        it calls kernels with two sets of points (`sklearn.metrics.pairwise.pairwise_kernels`).

    Examples
    --------
    >>> translate(2.0 * sk.RBF(0.5), 3)
    Constant(value=2.0) * RBF(lengthscale=0.5)
    """
    try:
        return _Translation(n_features, None if theta is None else theta.exp(), noise).of(kernel)
    except _NoFormula:
        return None


@dataclass
class _Translation:
    """One walk through a tree of kernels, in the order in which scikit-learn counts hyperparameters."""

    n_features: int
    values: Tensor | None
    noise: bool
    used: int = 0

    def of(self, kernel: Any) -> Kernel:
        make = _RULES.get(type(kernel))  # a subclass may be any other function
        if make is None:
            raise _NoFormula
        return make(self, kernel)

    def parameters(self, kernel: Any) -> SimpleNamespace:
        """The hyperparameters of a kernel that is not made of others: numbers, or parts of ``values``."""
        out = {}
        for h in kernel.hyperparameters:
            out[h.name] = _number(getattr(kernel, h.name))
            if self.values is not None and not h.fixed:
                out[h.name] = self.values[self.used : self.used + h.n_elements]
                self.used += h.n_elements
        return SimpleNamespace(**out)


def _number(value: Any) -> Any:
    array = np.squeeze(np.asarray(value, dtype=np.float64))
    return array if array.ndim else float(array)


# ---------------------------------------------------------------- rules: one for each class


def _sum(t: _Translation, k: Any) -> Kernel:
    return t.of(k.k1) + t.of(k.k2)


def _product(t: _Translation, k: Any) -> Kernel:
    return t.of(k.k1) * t.of(k.k2)


def _constant(t: _Translation, k: Any) -> Kernel:
    return our.Constant(t.parameters(k).constant_value)


def _white(t: _Translation, k: Any) -> Kernel:
    level = t.parameters(k).noise_level
    return our.White(level) if t.noise and k.noise_level != 0 else our.Constant(0.0)


def _rbf(t: _Translation, k: Any) -> Kernel:
    return our.RBF(t.parameters(k).length_scale)


def _matern(t: _Translation, k: Any) -> Kernel:
    lengthscale = t.parameters(k).length_scale
    if k.nu == np.inf:
        return our.RBF(lengthscale)
    if k.nu not in (0.5, 1.5, 2.5):
        raise _NoFormula
    return our.Matern(k.nu, lengthscale)


def _rational_quadratic(t: _Translation, k: Any) -> Kernel:
    p = t.parameters(k)
    if np.size(k.length_scale) != 1:
        raise _NoFormula  # scikit-learn refuses it when it is called
    return our.RationalQuadratic(p.length_scale, p.alpha)


def _dot_product(t: _Translation, k: Any) -> Kernel:
    return our.Linear() + our.Constant(t.parameters(k).sigma_0 ** 2)


def _exp_sine_squared(t: _Translation, k: Any) -> Kernel:
    p = t.parameters(k)
    if t.n_features != 1:
        raise _NoFormula
    return our.Periodic(p.length_scale, p.periodicity)


_RULES: dict[type, Callable[[_Translation, Any], Kernel]] = {
    sk.Sum: _sum,
    sk.Product: _product,
    sk.ConstantKernel: _constant,
    sk.WhiteKernel: _white,
    sk.RBF: _rbf,
    sk.Matern: _matern,
    sk.RationalQuadratic: _rational_quadratic,
    sk.ExpSineSquared: _exp_sine_squared,
    sk.DotProduct: _dot_product,
}

"""Kernel objects of scikit-learn (`sklearn.gaussian_process.kernels`) as kernels of this package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sklearn.gaussian_process import kernels as sk

from . import kernels as our
from .active_dims import ActiveDims
from .kernel_base import Kernel, check_active_dims
from .kernel_tree import on_columns
from .pairwise import PAIRWISE, pairwise_kernel

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


def pairwise_metrics(
    kernel: Any, dims: tuple[int, ...] | None = None
) -> Iterator[tuple[Any, tuple[int, ...] | None]]:
    """The metric of each PairwiseKernel in a tree of kernels, and the columns it sees; None for all.

    Examples
    --------
    >>> list(pairwise_metrics(sk.RBF() + ActiveDims(sk.PairwiseKernel(metric="chi2"), [2, 0])))
    [('chi2', (2, 0))]
    """
    if type(kernel) is sk.PairwiseKernel:
        yield kernel.metric, dims
        return
    if isinstance(kernel, ActiveDims):
        own = check_active_dims(kernel.dims, "dims of ActiveDims")
        dims = own if dims is None else tuple(dims[k] for k in own)
    for part in kernel.get_params(deep=False).values():
        if isinstance(part, sk.Kernel):
            yield from pairwise_metrics(part, dims)


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

_ZERO = our.Constant(0.0)


def _sum(t: _Translation, k: Any) -> Kernel:
    left, right = t.of(k.k1), t.of(k.k2)
    return right if left == _ZERO else left if right == _ZERO else left + right


def _product(t: _Translation, k: Any) -> Kernel:
    return t.of(k.k1) * t.of(k.k2)


def _constant(t: _Translation, k: Any) -> Kernel:
    return our.Constant(t.parameters(k).constant_value)


def _white(t: _Translation, k: Any) -> Kernel:
    level = t.parameters(k).noise_level
    return our.White(level) if t.noise and k.noise_level != 0 else _ZERO


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
    make = our.Periodic if t.n_features == 1 else our.ExpSineSquared
    return make(p.length_scale, p.periodicity)


def _pairwise(t: _Translation, k: Any) -> Kernel:
    gamma = t.parameters(k).gamma
    if k.metric not in PAIRWISE:
        raise _NoFormula
    more = {name: v for name, v in (k.pairwise_kernels_kwargs or {}).items() if name in ("degree", "coef0")}
    return pairwise_kernel(k.metric, t.n_features, gamma=gamma, **more)


def _exponentiation(t: _Translation, k: Any) -> Kernel:
    if not k.exponent > 0:
        raise _NoFormula
    return t.of(k.kernel) ** k.exponent


def _active_dims(t: _Translation, k: ActiveDims) -> Kernel:
    dims, outside = k.columns(t.n_features), t.n_features
    t.n_features = len(dims)
    inside = t.of(k.kernel)
    t.n_features = outside
    return on_columns(inside, dims)


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
    sk.PairwiseKernel: _pairwise,
    sk.Exponentiation: _exponentiation,
    ActiveDims: _active_dims,
}

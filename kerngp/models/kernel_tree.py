"""Walks through a kernel that is made of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np

from .bounds import log_bounds
from .kernel_base import Atom, Kernel
from .kernels import FormulaKernel

Change = Callable[[str, Any, np.ndarray], Any]


def changed(kernel: Kernel, change: Change, path: str = "") -> Kernel:
    """The kernel with other hyperparameters.

    Parameters
    ----------
    kernel : Kernel
    change : callable (name, value, bounds) -> value
        Called for each hyperparameter that is free, with its name, such as "left__kernel__lengthscale", its
        value, and the logarithms of its bounds, of shape (components, 2). The order is alphabetical within
        each kernel, as in scikit-learn.
    path : str
        What stands before names.

    Examples
    --------
    >>> from kerngp.models import RBF, White
    >>> changed(2.0 * RBF(0.5) + White(bounds="fixed"), lambda name, value, bounds: 3.0)
    3.0 * RBF(lengthscale=3.0) + White(noise=1.0, bounds='fixed')
    """
    free = {f.name: f.metadata["free"] for f in fields(kernel) if f.metadata.get("parameter")}  # type: ignore[arg-type]
    own = {name: getattr(kernel, name) for name in free}
    if isinstance(kernel, FormulaKernel):
        own, free = kernel.params, dict.fromkeys(kernel.params, True)
    parts, new = _parts(kernel), {}
    for name in sorted([*own, *parts]):
        if name in parts:
            new[name] = changed(parts[name], change, f"{path}{name}__")
            continue
        bounds = log_bounds(getattr(kernel, "bounds", None), name, own[name], free[name])
        if bounds is not None:
            new[name] = change(path + name, own[name], bounds)
    if isinstance(kernel, FormulaKernel):
        return replace(kernel, params=own | new)
    return replace(kernel, **new)  # type: ignore[type-var]


def on_columns(kernel: Kernel, dims: tuple[int, ...]) -> Kernel:
    """The kernel of points of which it sees the columns ``dims`` only.

    Examples
    --------
    >>> from kerngp.models import RBF, Matern
    >>> on_columns(RBF() + Matern(active_dims=[1]), (4, 7))
    RBF(lengthscale=1.0, active_dims=(4, 7)) + Matern(nu=1.5, lengthscale=1.0, active_dims=(7,))
    """
    if isinstance(kernel, Atom):
        own = range(len(dims)) if kernel.active_dims is None else kernel.active_dims
        return replace(kernel, active_dims=tuple(dims[k] for k in own))
    return replace(kernel, **{name: on_columns(k, dims) for name, k in _parts(kernel).items()})  # type: ignore[type-var]


def _parts(kernel: Kernel) -> dict[str, Kernel]:
    values = {f.name: getattr(kernel, f.name) for f in fields(kernel)}  # type: ignore[arg-type]
    return {name: value for name, value in values.items() if isinstance(value, Kernel)}

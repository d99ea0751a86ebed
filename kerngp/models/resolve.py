"""Everything an estimator accepts as ``kernel=``, brought to one of two forms.

A `Kernel` is a formula: its matrix is never stored. A `MatrixKernel` is known through its matrix
only (precomputed, a Python function of two rows): it works up to the memory limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.gaussian_process.kernels import Kernel as SklearnKernel
from sklearn.metrics.pairwise import pairwise_kernels

from ..engine.expr import Expr, substitute, variables
from ..errors import FormulaError, OptionError, ShapeError
from ..options import current
from .kernel_base import Arguments, Kernel, points
from .kernels import FormulaKernel
from .pairwise import pairwise_kernel
from .ridge_data import bytes_text
from .sklearn_kernels import translate


@dataclass(frozen=True)
class MatrixKernel:
    """A kernel that computes whole matrices with NumPy.

    Attributes
    ----------
    function : callable (X, Y) -> ndarray of shape (M, N)
    name : str
        For messages.
    precomputed : bool
        The matrix is what the user passes as X, so there are no points.
    """

    function: Callable[[np.ndarray, np.ndarray], Any]
    name: str
    precomputed: bool = False

    def matrix(self, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
        """The matrix in double precision.

        Raises
        ------
        ShapeError
            If it exceeds the memory limit in force.
        """
        size, limit = 8 * X.shape[0] * Y.shape[0], current().memory_limit
        if size > limit:
            raise ShapeError(
                f"the {X.shape[0]} x {Y.shape[0]} matrix of {self.name} takes {bytes_text(size)}, "
                f"more than the limit of {bytes_text(limit)}; write the kernel as a formula (see "
                "kerngp.models.FormulaKernel), which needs no matrix, or raise the limit with "
                "kerngp.options.options(memory_limit=...)."
            )
        return np.asarray(self.function(X, Y), dtype=np.float64)


def resolve_kernel(
    kernel: Any,
    n_features: int,
    *,
    gamma: float | None = None,
    degree: float = 3,
    coef0: float = 1,
    kernel_params: dict[str, Any] | None = None,
) -> Kernel | MatrixKernel:
    """The kernel behind a user's argument.

    Parameters
    ----------
    kernel : str, Kernel, Expr, scikit-learn kernel object or callable
        A callable is first offered formulas: if ``kernel(x, y, **kernel_params)`` then returns a formula
        of dim 1 it is one, otherwise it is called with pairs of rows, as scikit-learn does.
    n_features : int
        Columns of the points.
    gamma, degree, coef0 : float
        Parameters of scikit-learn's named kernels.
    kernel_params : dict, optional
        Keyword arguments of a callable.

    Raises
    ------
    OptionError
        If it is none of these.
    FormulaError
        If a formula has other variables than the two points, or another dim.
    """
    if isinstance(kernel, str):
        if kernel == "precomputed":
            return MatrixKernel(_precomputed, "kernel='precomputed'", precomputed=True)
        return pairwise_kernel(kernel, n_features, gamma=gamma, degree=degree, coef0=coef0)
    if isinstance(kernel, Kernel):
        return kernel
    if isinstance(kernel, Expr):
        return _of_expr(kernel, n_features)
    if isinstance(kernel, SklearnKernel):
        return translate(kernel, n_features) or MatrixKernel(kernel.__call__, f"kernel={kernel!r}")
    if isinstance(kernel, type) and issubclass(kernel, (Kernel, SklearnKernel)):
        raise OptionError(f"kernel={kernel.__name__} is a class; pass an instance, {kernel.__name__}().")
    if callable(kernel):
        return _of_callable(kernel, n_features, kernel_params or {})
    raise OptionError(
        f"kernel={kernel!r} is a {type(kernel).__name__}; expected a name, a kernel of kerngp.models, "
        "a formula or a function of two points."
    )


def _precomputed(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    return X


def _of_callable(function: Callable, n_features: int, params: dict[str, Any]) -> Kernel | MatrixKernel:
    defaults = getattr(function, "hyperparameters", None)  # of a `kerngp.kernel`
    params = {**defaults, **params} if isinstance(defaults, dict) else params
    try:
        formula = FormulaKernel(function, params)
        formula.parts(*points(n_features), Arguments(2, torch.empty(0)))
        return formula
    except Exception:  # a function of rows may fail in any way when it is given formulas
        by_rows = partial(pairwise_kernels, metric=function, **params)
        return MatrixKernel(by_rows, f"the function {getattr(function, '__name__', function)!r}")


def _of_expr(e: Expr, n_features: int) -> Kernel:
    x, y = points(n_features)
    foreign = [v for v in variables(e) if v not in (x, y)]
    if foreign:
        raise FormulaError(
            f"kernel={e!r} uses {', '.join(map(repr, foreign))}; with {n_features} columns the variables "
            f"of a kernel are {x!r} and {y!r}. Put parameters into a function with kernel_params, or write "
            "them as numbers."
        )
    if e.dim != 1:
        raise FormulaError(f"kernel={e!r} has dim {e.dim}; expected 1: sum over the components.")
    return FormulaKernel(partial(_at, e))


def _at(e: Expr, x: Expr, y: Expr) -> Expr:
    return substitute(e, dict(zip(points(x.dim), (x, y), strict=True)))

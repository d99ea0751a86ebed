"""Everything an estimator accepts as ``kernel=``, brought to one of two forms.

A `Kernel` is a formula: its matrix is never stored. A `MatrixKernel` is known through its matrix
only (precomputed, a Python function of two rows): it works up to the memory limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.gaussian_process.kernels import Kernel as SklearnKernel
from sklearn.metrics.pairwise import pairwise_kernels

from ..engine.expr import Expr, substitute, variables
from ..engine.kernel_strings import KernelString, parse_kernel
from ..errors import FormulaError, OptionError, ShapeError
from ..options import current
from .hyperparameters import Hyperparameters
from .inputs import bytes_text, check_non_negative
from .kernel_base import Arguments, Kernel, points
from .kernels import FormulaKernel
from .pairwise import NON_NEGATIVE, pairwise_kernel
from .sklearn_hyperparameters import SklearnHyperparameters
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
    gamma: float | Sequence[float | None] | None = None,
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
    gamma : float, or sequence of float
        Of scikit-learn's named kernels. In a string such as ``"gaussian(x,y) + cauchy(x,y)"`` it multiplies
        the squared distance of every kernel; a sequence holds one for each.
    degree, coef0 : float
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
        if "(" in kernel:
            return _of_string(parse_kernel(kernel), n_features, gamma)
        if isinstance(gamma, Sequence):
            raise OptionError(f"gamma={gamma!r}: kernel={kernel!r} has one parameter; pass a number.")
        return pairwise_kernel(kernel, n_features, gamma=gamma, degree=degree, coef0=coef0)
    if isinstance(kernel, Kernel):
        return kernel
    if isinstance(kernel, Expr):
        return _of_expr(kernel, n_features)
    if isinstance(kernel, SklearnKernel):
        formula = translate(kernel, n_features, noise=False)
        return formula or MatrixKernel(kernel.__call__, f"kernel={kernel!r}")
    if isinstance(kernel, type) and issubclass(kernel, (Kernel, SklearnKernel)):
        raise OptionError(f"kernel={kernel.__name__} is a class; pass an instance, {kernel.__name__}().")
    if callable(kernel):
        return _of_callable(kernel, n_features, kernel_params or {})
    raise OptionError(
        f"kernel={kernel!r} is a {type(kernel).__name__}; expected a name, a kernel of kerngp.models, "
        "a formula or a function of two points."
    )


def hyperparameters(kernel: Any, n_features: int) -> Hyperparameters:
    """The free hyperparameters of whatever stands for a kernel.

    Parameters
    ----------
    kernel : scikit-learn kernel object
    n_features : int
        Columns of the points.

    Raises
    ------
    OptionError
        If it is no kernel.
    """
    if isinstance(kernel, SklearnKernel):
        return SklearnHyperparameters(kernel, n_features)
    raise OptionError(
        f"kernel={kernel!r} is a {type(kernel).__name__}; expected a kernel object of scikit-learn."
    )


def check_domain(kernel: str, X: np.ndarray) -> None:
    """Refuse rows that a kernel given by a string is not meant for.

    Raises
    ------
    DataError
        For negative numbers where the kernel compares histograms.
    """
    atoms = parse_kernel(kernel).atoms if "(" in kernel else ()
    for name, left in [(kernel, None), *((a.name, a.left) for a in atoms)]:
        if name in NON_NEGATIVE:
            check_non_negative(X if left is None else X[:, left], name)


def _precomputed(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    return X


def _of_string(string: KernelString, n_features: int, gamma: float | Sequence[float | None] | None) -> Kernel:
    if len(string.pairs) != 1:
        pairs = ", ".join(f"({a}, {b})" for a, b in string.pairs)
        raise FormulaError(
            f"kernel={string.text!r} has the pairs of variables {pairs}; an estimator has one pair of rows: "
            "name columns as gaussian(x[0:3], y[0:3]) * linear(x[3:], y[3:])."
        )
    n = len(string.atoms)
    given = list(gamma) if isinstance(gamma, Sequence) else [gamma] * n
    if len(given) != n:
        names = ", ".join(a.name for a in string.atoms)
        raise ShapeError(
            f"gamma={gamma!r} has {len(given)} entries; kernel={string.text!r} has {n} kernels, {names}."
        )
    values = [1.0 / n_features if g is None else float(g) for g in given]
    names = {g: f"gamma{k}" for k, g in enumerate(dict.fromkeys(values))}
    function = partial(_at_points, string, tuple(names[g] for g in values))
    function(*points(n_features))  # columns that do not exist are noticed here
    return FormulaKernel(function, {name: g for g, name in names.items()}, psd=string.psd)


def _at_points(string: KernelString, names: tuple[str, ...], x: Expr, y: Expr, **gammas: Expr) -> Expr:
    """The kernel of a string; ``names`` says which parameter each of its kernels takes."""
    return string.formula([(x, y)], [gammas.get(name) for name in names])


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

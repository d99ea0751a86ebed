"""Everything an estimator accepts as ``kernel=``, brought to one of two forms.

A `Kernel` is a formula: its matrix is never stored. A `MatrixKernel` is known through its matrix
only (precomputed, a Python function of two rows): it works up to the memory limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.gaussian_process.kernels import CompoundKernel
from sklearn.gaussian_process.kernels import Kernel as SklearnKernel
from sklearn.metrics.pairwise import pairwise_kernels

from ..engine.expr import Expr, substitute, variables
from ..engine.kernel_strings import KernelString, parse_kernel
from ..errors import FormulaError, OptionError, ShapeError
from .compound import CompoundHyperparameters
from .hyperparameters import Hyperparameters
from .inputs import check_non_negative
from .kernel_base import Arguments, Kernel, points
from .kernel_hyperparameters import KernelHyperparameters
from .kernels import FormulaKernel
from .matrix_hyperparameters import MatrixHyperparameters
from .matrix_kernel import MatrixKernel
from .pairwise import NON_NEGATIVE, pairwise_kernel
from .sklearn_hyperparameters import SklearnHyperparameters
from .sklearn_kernels import pairwise_metrics, translate


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
    if isinstance(kernel, CompoundKernel):
        raise OptionError(
            f"kernel={kernel!r} holds {len(kernel.kernels)} kernels side by side; pass one of them."
        )
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


def hyperparameters(
    kernel: Any,
    n_features: int,
    *,
    gamma: float | Sequence[float | None] | None = None,
    degree: float = 3,
    coef0: float = 1,
    kernel_params: dict[str, Any] | None = None,
) -> Hyperparameters:
    """The free hyperparameters of whatever stands for a kernel.

    Kernel objects of scikit-learn and of this package say themselves what is free; of names and strings it is
    gamma (each kernel of a string has its own), of functions their positive parameters.

    Parameters
    ----------
    kernel : str, Kernel, Expr, scikit-learn kernel object or callable
    n_features, gamma, degree, coef0, kernel_params : see `resolve_kernel`
        Where learning starts.

    Raises
    ------
    OptionError, FormulaError
        If it is no kernel.

    Examples
    --------
    >>> hyperparameters("gaussian(x,y) * (1 + linear(x,y)**2) + cauchy(x,y)", 3).names
    ('gamma0', 'gamma2')
    """
    if isinstance(kernel, CompoundKernel):
        return CompoundHyperparameters([hyperparameters(k, n_features) for k in kernel.kernels])
    if isinstance(kernel, SklearnKernel):
        return SklearnHyperparameters(kernel, n_features)
    resolved = resolve_kernel(
        kernel, n_features, gamma=gamma, degree=degree, coef0=coef0, kernel_params=kernel_params
    )
    if isinstance(resolved, MatrixKernel):
        return MatrixHyperparameters(resolved, n_features)
    return KernelHyperparameters(resolved, n_features)


def check_domain(kernel: Any, X: np.ndarray) -> None:
    """Refuse rows that a kernel given by a name, a string or scikit-learn's objects is not meant for.

    Raises
    ------
    DataError
        For negative numbers where the kernel compares histograms.
    """
    if isinstance(kernel, SklearnKernel):
        for metric, dims in pairwise_metrics(kernel):
            if metric in NON_NEGATIVE:
                check_non_negative(X if dims is None else X[:, dims], metric)
    if not isinstance(kernel, str):
        return
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
    values = {f"gamma{k}": 1.0 / n_features if g is None else float(g) for k, g in enumerate(given)}
    used = _gammas_used(string, n_features)
    return FormulaKernel(partial(_at_points, string), {name: values[name] for name in used}, psd=string.psd)


def _gammas_used(string: KernelString, n_features: int) -> list[str]:
    """Names of the parameters gamma of the kernels of a string that look at theirs."""
    _at_points(string, *points(n_features))  # columns that do not exist are noticed here
    arguments = Arguments(2, torch.empty(0))
    gammas = {f"gamma{k}": arguments.add(1.0) for k in range(len(string.atoms))}
    formula = _at_points(string, *points(n_features), **gammas)
    return [name for name, gamma in gammas.items() if gamma in variables(formula)]


def _at_points(string: KernelString, x: Expr, y: Expr, **gammas: Expr) -> Expr:
    """The kernel of a string, whose k-th kernel takes ``gamma<k>``."""
    return string.formula([(x, y)], [gammas.get(f"gamma{k}") for k in range(len(string.atoms))])


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

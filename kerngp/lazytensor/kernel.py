"""Kernels as plain Python functions of two points: ``@kernel``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..engine.arrays import is_array
from ..engine.expr import AXES, Expr, const, substitute, variables
from ..engine.operands import Symbol, symbol
from ..engine.ops import concat
from ..errors import FormulaError, ShapeError
from .tensor import LazyTensor, _lazy


class KernelFunction:
    """A function of two points and hyperparameters, as a matrix of all pairs; made by `kernel`.

    Attributes
    ----------
    function : callable (x, y, **parameters) -> LazyTensor
    hyperparameters : dict of str to float
        The arguments of the function whose defaults are numbers.
    """

    def __init__(self, function: Callable[..., Any]):
        if not callable(function):
            raise FormulaError(f"kernel takes a function of two points, got a {type(function).__name__}.")
        functools.update_wrapper(self, function)
        self.function = function
        arguments = list(inspect.signature(function).parameters.values())
        if len(arguments) < 2:
            raise FormulaError(
                f"the kernel {self.__name__} takes {len(arguments)} arguments; expected (x, y, ...)."
            )
        defaults = {p.name: p.default for p in arguments[2:]}
        self.hyperparameters = {
            k: v for k, v in defaults.items() if isinstance(v, (int, float)) and not isinstance(v, bool)
        }

    __name__: str

    def __call__(self, x: Any, y: Any = None, **parameters: Any) -> Any:
        """The kernel between all rows of x and all rows of y.

        Parameters
        ----------
        x, y : arrays (..., M, D) and (..., N, D), or (M,) and (N,) for points on a line
            y is x by default. LazyTensors are passed on as they are; formulas give a formula.
        **parameters
            Numbers, or arrays of one number or of D; torch tensors may require gradients.

        Returns
        -------
        LazyTensor
            (..., M, N), or an Expr where x is one.

        Raises
        ------
        FormulaError, ShapeError
        """
        y = x if y is None else y
        if isinstance(x, Expr):
            return _formula(self.function, x, y, parameters)
        points = [p if isinstance(p, LazyTensor) else _points(p, k) for k, p in enumerate((x, y))]
        return _checked(self.function, self.function(*points, **parameters))

    def __reduce__(self) -> str:
        return self.__qualname__  # pickled by name, like the function itself

    __qualname__: str

    def __repr__(self) -> str:
        return f"kernel({self.__name__}{inspect.signature(self.function)})"


def kernel(function: Callable[..., Any]) -> KernelFunction:
    """Make a kernel of a function of two points.

    Inside, x and y are LazyTensors; what the function computes for one pair of points is computed for all
    pairs, in generated code. The result is also accepted as ``kernel=`` by the estimators.

    Parameters
    ----------
    function : callable (x, y, **parameters)
        Written with operators, methods of LazyTensor, or functions of NumPy and torch.

    Raises
    ------
    FormulaError
        If the function does not take two points.

    Examples
    --------
    >>> import torch
    >>> @kernel
    ... def gaussian(x, y, lengthscale=1.0):
    ...     return (-((x - y) ** 2).sum(-1) / (2 * lengthscale**2)).exp()
    >>> X = torch.tensor([[0.0], [1.0]])
    >>> gaussian(X, X, lengthscale=2.0) @ torch.ones(2)
    tensor([1.8825, 1.8825])
    """
    return KernelFunction(function)


def _points(value: Any, axis: int) -> LazyTensor:
    if not is_array(value):
        value = np.asarray(value, dtype=np.float64)
    if value.ndim == 0:
        raise ShapeError("a single number is not a set of points; expected an array (M, D) or (M,).")
    if value.ndim == 1:
        value = value[:, None]
    if value.ndim == 2:
        return LazyTensor(value, axis=axis)
    return LazyTensor(value[..., None, :] if axis == 0 else value[..., None, :, :])


def _checked(function: Callable, result: Any) -> LazyTensor:
    if not isinstance(result, LazyTensor):
        name = getattr(function, "__name__", repr(function))
        raise FormulaError(
            f"the kernel {name} returned a {type(result).__name__}; expected a formula of its points x and y."
        )
    return result


def _formula(function: Callable, x: Expr, y: Any, parameters: dict[str, Any]) -> Expr:
    """The function of formulas: LazyTensors without arrays stand for them while it runs."""
    given = [x, y, *(p for p in parameters.values() if isinstance(p, Expr))]
    places = iter(range(len(given)))

    def stand_in(e: Expr) -> LazyTensor:
        axis = next((a for a in AXES if a in e.axes), "p")
        return _lazy(*symbol(next(places), e.dim, AXES.index(axis)))

    first, second = stand_in(x), stand_in(y)
    rest = {k: stand_in(p) if isinstance(p, Expr) else p for k, p in parameters.items()}
    result = _checked(function, function(first, second, **rest))
    table = {}
    for v in variables(result.expr):
        value = result.operands.values[v.attr[0]]
        if isinstance(value, torch.Tensor):
            raise FormulaError(
                f"the kernel {getattr(function, '__name__', function)!r} uses an array; make it an argument "
                "with a default, or numbers."
            )
        table[v] = given[value.index] if isinstance(value, Symbol) else concat(*map(const, value))
    return substitute(result.expr, table)

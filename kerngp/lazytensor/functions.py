"""``np.exp(K)`` and ``torch.exp(K)``: functions of NumPy and torch, by name, as operations of LazyTensors.

NumPy calls `__array_ufunc__`, torch calls `__torch_function__`, also for ``array + K``. A function whose name
is an elementwise op, here or under another name, becomes that op; a few are methods. All others are refused
by the library they come from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..engine.expr import OPS
from .tensor import LazyTensor, combine

# their name -> ours, where the two differ
NAMES = {
    "subtract": "sub",
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "truediv": "div",
    "negative": "neg",
    "absolute": "abs",
    "fabs": "abs",
    "reciprocal": "inv",
    "less": "lt",
    "less_equal": "le",
    "greater": "gt",
    "greater_equal": "ge",
    "equal": "eq",
    "not_equal": "ne",
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arctan2": "atan2",
    "remainder": "mod",
}
# composites and reductions: methods of the first argument
METHODS = {
    "sinc": "sinc",
    "tan": "tan",
    "digamma": "digamma",
    "mod": "mod",
    "sum": "sum",
    "mean": "mean",
    "prod": "prod",
    "amin": "min",
    "amax": "max",
    "argmin": "argmin",
    "argmax": "argmax",
    "logsumexp": "logsumexp",
    "softmax": "softmax",
    "log_softmax": "log_softmax",
    "trace": "trace",
    "conj": "conj",
    "conjugate": "conj",
    "angle": "angle",
}


WHOLE = ("equal",)  # in torch these compare whole arrays


def _power(a: Any, b: Any) -> Any:
    return a**b if isinstance(a, LazyTensor) else b.__rpow__(a)


def _matmul(a: Any, b: Any) -> Any:
    return a @ b if isinstance(a, LazyTensor) else b.__rmatmul__(a)


def _dot(a: Any, b: Any) -> Any:
    return a | b if isinstance(a, LazyTensor) else b.__ror__(a)


SPECIAL: dict[str, Callable[..., Any]] = {
    "pow": _power,
    "power": _power,
    "float_power": _power,
    "matmul": _matmul,
    "polygamma": lambda n, a: a.polygamma(n),
    "bitwise_or": _dot,
    "or": _dot,
    "positive": lambda a: a,
    "cat": LazyTensor.cat,
    "concat": LazyTensor.cat,
    "concatenate": LazyTensor.cat,
}


def apply(name: str, args: tuple[Any, ...], settings: dict[str, Any]) -> Any:
    """The function called ``name`` of LazyTensors and arrays; NotImplemented if there is none."""
    if name in SPECIAL:
        return SPECIAL[name](*args, **settings)
    name = NAMES.get(name, name)
    record = OPS.get(name)
    if record is None or not record.public or record.code is None:
        record = None  # no elementwise op
    if (
        args
        and isinstance(args[0], LazyTensor)
        and (name in METHODS or (record is not None and not settings))
    ):
        method = getattr(args[0], METHODS.get(name, name), None)
        return NotImplemented if method is None else method(*args[1:], **settings)
    if record is None or settings or len(args) != record.arity:
        return NotImplemented
    return combine(name, *args)


def array_ufunc(self: LazyTensor, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
    """NumPy's way to give its elementwise functions to other classes."""
    out = kwargs.pop("out", None)
    in_place = out is not None and len(out) == 1 and out[0] is inputs[0]  # a += K binds a to a LazyTensor
    if method != "__call__" or (out is not None and not in_place):
        return NotImplemented
    return apply(ufunc.__name__, inputs, kwargs)


def torch_function(
    cls: type, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
) -> Any:
    """torch's way to give its functions to other classes."""
    settings = {k: v for k, v in (kwargs or {}).items() if v is not None and not k.startswith("_")}
    name = func.__name__.strip("_")
    if name.startswith("i") and func.__name__.startswith("__"):  # a += K binds a to a LazyTensor
        name = name[1:]
    return NotImplemented if name in WHOLE else apply(name, args, settings)

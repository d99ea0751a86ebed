"""Methods that LazyTensor gets from outside its class: from tables, and from above the solvers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..engine.expr import OPS, Op
from ..engine.inner import INNER
from ..engine.reduction import Reduction
from ..engine.reductions import REDUCTIONS
from .complex import angle, conj, exp1j, imag, imag2complex, real, real2complex
from .composites import METHODS
from .differential import DIFFERENTIAL
from .functions import array_ufunc, torch_function
from .indexing import dense, diag, numpy, trace
from .linear import matmat, matvec, operator, rmatmat, rmatvec, solve, truncate
from .mask import mask
from .place import cpu, cuda, detach, double, half, single, to
from .softmax import log_softmax, softmax
from .tensor import LazyTensor, combine, sized

_FROM_FILES: tuple[Any, ...] = (
    *(operator, solve, truncate, mask, matvec, matmat, rmatvec, rmatmat),
    *(real2complex, imag2complex, exp1j, angle, conj, dense, numpy, diag, trace),
    *(to, cuda, cpu, double, half, detach, softmax, log_softmax),
    *DIFFERENTIAL,
)


def install() -> None:
    """Give LazyTensor its methods; a method written in the class wins over a generated one."""
    for f in (*METHODS, *_FROM_FILES):
        _attach(f)
    for op in list(OPS.values()):
        _elementwise(op)
    for r in REDUCTIONS.values():
        _reducing(r)
    for dunder, name in {"add": "add", "sub": "sub", "mul": "mul", "truediv": "div"}.items():
        _method(f"__{dunder}__", 2, OPS[name].doc, name)
        _method(f"__r{dunder}__", 2, OPS[name].doc, name, reflected=True)
    for name in ("lt", "le", "gt", "ge", "eq", "ne"):
        _method(f"__{name}__", 2, OPS[name].doc, name)
    _method("__rpow__", 2, OPS["pow"].doc, "pow", reflected=True)
    _method("__neg__", 1, OPS["neg"].doc, "neg")
    _method("__abs__", 1, OPS["abs"].doc, "abs")
    setattr(LazyTensor, "float", single)  # noqa: B010 (torch's name)
    setattr(LazyTensor, "__array_ufunc__", array_ufunc)  # noqa: B010
    setattr(LazyTensor, "__torch_function__", classmethod(torch_function))  # noqa: B010
    for f in (real, imag):
        setattr(LazyTensor, f.__name__, property(f))


def _attach(f: Callable) -> None:
    f.__qualname__ = f"LazyTensor.{f.__name__}"
    setattr(LazyTensor, f.__name__, f)


def _method(name: str, arity: int, doc: str, make: str, reflected: bool = False) -> None:
    def unary(self: LazyTensor) -> LazyTensor:
        return combine(make, self)

    def binary(self: LazyTensor, other: Any) -> LazyTensor:
        return combine(make, self, other)

    def backward(self: LazyTensor, other: Any) -> LazyTensor:
        return combine(make, other, self)

    def ternary(self: LazyTensor, other1: Any, other2: Any) -> LazyTensor:
        return combine(make, self, other1, other2)

    f = backward if reflected else (unary, binary, ternary)[arity - 1]
    f.__name__, f.__qualname__, f.__doc__ = name, f"LazyTensor.{name}", doc
    setattr(LazyTensor, name, f)


def _elementwise(op: Op) -> None:
    if op.public and op.code is not None and not hasattr(LazyTensor, op.name) and op.name != "powi":
        _method(op.name, op.arity, f"Elementwise: {op.doc}.", op.name)


def _reducing(r: Reduction) -> None:
    default = -1 if r.name in INNER else None
    key = r.name  # torch.compile can follow a look-up, but not a record that a method keeps for itself
    what = f"{r.doc} over i or j" + (", or over the components of each vector." if r.name in INNER else ".")

    def method(
        self: LazyTensor,
        axis: int | None = default,
        dim: int | None = None,
        call: bool = True,
        **settings: Any,
    ) -> Any:
        return self._reduce(REDUCTIONS[key], axis, dim, call, settings)

    def nearest(
        self: LazyTensor,
        K: int,
        axis: int | None = None,
        dim: int | None = None,
        call: bool = True,
        **settings: Any,
    ) -> Any:
        return self._reduce(sized(REDUCTIONS[key], K), axis, dim, call, settings)

    def weighted(
        self: LazyTensor,
        weight: Any,
        axis: int | None = None,
        dim: int | None = None,
        call: bool = True,
        **settings: Any,
    ) -> Any:
        return self._reduce_weighted(REDUCTIONS[key], weight, axis, dim, call, settings)

    f = nearest if r.code == "kmin" else weighted if r.scores else method
    name = r.name.replace("kmin", "Kmin").replace("kmax", "Kmax")
    f.__name__, f.__qualname__, f.__doc__ = name, f"LazyTensor.{name}", what
    if not hasattr(LazyTensor, name):
        setattr(LazyTensor, name, f)
    setattr(LazyTensor, f"{name}_reduction", getattr(LazyTensor, name))

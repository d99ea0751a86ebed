"""What a kernel is: a formula of x and y with its hyperparameters, and the algebra of kernels.

A kernel is immutable. Hyperparameters always travel to the engine as arguments, never as constants
of the compiled code, so a new value costs nothing and a torch tensor with ``requires_grad``
receives a gradient. `Kernel.parts` is the whole contract: the formula k(x_i, y_j), and for kernels
with white noise a second formula that is added where i and j are the same observation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..engine.expr import Expr, Pm, Vi, Vj, as_expr
from ..engine.ops import concat, extract
from ..errors import FormulaError, OptionError, ShapeError
from .bounds import check_bounds

if TYPE_CHECKING:
    from ..solvers.operator import LinearOperator

Tensor = torch.Tensor
Number = float | Tensor
Vector = float | Iterable[float] | Tensor


@dataclass(frozen=True)
class Parts:
    """A kernel as formulas: ``formula`` at every pair, ``nugget`` added where i and j are one observation.

    None stands for zero. ``values`` are the hyperparameters in the order of their argument numbers.
    """

    formula: Expr | None
    nugget: Expr | None


class Arguments:
    """Hands out argument numbers to hyperparameters while formulas are being built."""

    def __init__(self, first: int, like: Tensor):
        self.first = first
        self.like = like
        self.values: list[Tensor] = []

    def add(self, value: Any) -> Expr:
        """The parameter variable that stands for ``value``."""
        # the dtype goes in at once: a Python float must not pass through torch's default float32
        tensor = torch.as_tensor(value, dtype=self.like.dtype, device=self.like.device).reshape(-1)
        self.values.append(tensor)
        return Pm(self.first + len(self.values) - 1, tensor.shape[0])


class Kernel(ABC):
    """A positive semi-definite function of two points, or a combination of such functions.

    Kernels are combined with ``+``, ``*`` and ``**`` and scaled by numbers or one-element tensors; a number
    that is added stands for `Constant`. Calling a kernel gives its matrix as an operator, whose
    entries are computed when they are used and never stored.

    Examples
    --------
    >>> import numpy as np
    >>> from kerngp.models import RBF, White
    >>> x = np.linspace(0.0, 1.0, 5)[:, None]
    >>> K = (2.0 * RBF(lengthscale=0.5) + White(noise=0.1))(x)
    >>> K.shape
    (5, 5)
    """

    __array_ufunc__ = None  # numpy scalars and arrays leave * and + to the methods below

    @property
    @abstractmethod
    def psd(self) -> bool:
        """Whether k(x, x) is positive semi-definite for every x."""

    @abstractmethod
    def parts(self, x: Expr, y: Expr, arguments: Arguments) -> Parts:
        """The kernel as formulas of the points x and y; its hyperparameters go into ``arguments``."""

    def __call__(self, x: Any, y: Any = None) -> LinearOperator:
        """The matrix k(x_i, y_j) as an operator.

        Parameters
        ----------
        x : array of shape (M, D)
            torch tensor or NumPy array of a floating dtype, or nested lists.
        y : array of shape (N, D), optional
            None means x. Only then white noise is part of the matrix. The operator is tagged as
            symmetric (and, if the kernel is, positive semi-definite) then, and if y is x itself.

        Returns
        -------
        LinearOperator of shape (M, N)
            Differentiable in x, y and in hyperparameters that are torch tensors.

        Raises
        ------
        ShapeError
            If x or y has not two axes, they differ in D, or a hyperparameter has not D components.
        DTypeError, DeviceError
            If x is not floating, or y has another dtype or lives elsewhere.
        """
        from .kernel_matrix import kernel_matrix

        return kernel_matrix(self, x, y)

    def __add__(self, other: Kernel | Number) -> Kernel:
        if isinstance(other, Kernel):
            return Sum(self, other)
        return Sum(self, _constant(other)) if _is_number(other) else NotImplemented

    def __radd__(self, other: Number) -> Kernel:
        if not _is_number(other):
            return NotImplemented
        # sum() starts at the integer 0
        return self if isinstance(other, int) and other == 0 else Sum(_constant(other), self)

    def __mul__(self, other: Kernel | Number) -> Kernel:
        if isinstance(other, Kernel):
            return Product(self, other)
        return Scale(self, other) if _is_number(other) else NotImplemented

    def __rmul__(self, other: Number) -> Kernel:
        return Scale(self, other) if _is_number(other) else NotImplemented

    def __pow__(self, exponent: float) -> Kernel:
        return Power(self, exponent) if _is_number(exponent) else NotImplemented

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        names = [f.name for f in fields(self)]  # type: ignore[arg-type]
        return all(_same(getattr(self, n), getattr(other, n)) for n in names)

    def __hash__(self) -> int:
        # tensors and dictionaries compare by value but are left out: equal kernels still hash alike
        values = (getattr(self, f.name) for f in fields(self))  # type: ignore[arg-type]
        return hash((type(self), *(v for v in values if not isinstance(v, (Tensor, dict)))))


# ---------------------------------------------------------------- hyperparameters


def parameter(
    default: Any = MISSING, *, vector: bool = False, positive: bool = True, free: bool | None = None
) -> Any:
    """A field that is a hyperparameter: a number or tensor, or (``vector``) one number for each dimension.

    ``free`` says whether it is learned if nothing else is said, and if it is positive; default ``positive``.
    """
    free = positive if free is None else free
    metadata = {"parameter": True, "vector": vector, "positive": positive, "free": free}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, eq=False, repr=False)
class Atom(Kernel):
    """A kernel that is not made of others: fields and one `formula`.

    A subclass is a frozen dataclass whose hyperparameters are declared with `parameter`; everything
    else (argument passing, lengthscale vectors, active dimensions, algebra, gradients) is here.

    Parameters
    ----------
    active_dims : sequence of int, optional
        Columns the kernel looks at; default all.
    bounds : "fixed", (low, high), or mapping from names to these, optional
        Of hyperparameters, for estimators that learn them: for all or by name, for vectors also one pair for
        each component. Default (1e-5, 1e5) for those that are positive by definition; the others are fixed.
    """

    active_dims: Any = field(default=None, kw_only=True)
    bounds: Any = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        put = object.__setattr__
        if self.active_dims is not None:
            where = f"active_dims of {type(self).__name__}"
            put(self, "active_dims", check_active_dims(self.active_dims, where))
        for f in fields(self):
            if f.metadata.get("parameter"):
                where = f"{f.name} of {type(self).__name__}"
                value = check_parameter(getattr(self, f.name), where, **_rules(f))
                put(self, f.name, value)
        put(self, "bounds", check_bounds(self.bounds, self.parameters(), type(self).__name__))

    @property
    def psd(self) -> bool:
        return True

    @abstractmethod
    def formula(self, x: Expr, y: Expr, p: Any) -> Expr:
        """k(x, y), of dim 1; ``p.<name>`` is the hyperparameter ``<name>`` as an Expr."""

    def parts(self, x: Expr, y: Expr, arguments: Arguments) -> Parts:
        """See `Kernel.parts`."""
        x, y = self.select(x), self.select(y)
        return Parts(self.formula(x, y, self.bind(x.dim, arguments)), None)

    def parameters(self) -> dict[str, Any]:
        """The hyperparameters by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.metadata.get("parameter")}

    def bind(self, dim: int, arguments: Arguments) -> SimpleNamespace:
        """The hyperparameters as parameter variables; vectors must have ``dim`` components."""
        bound = {}
        for name, value in self.parameters().items():
            e = bound[name] = arguments.add(value)
            if e.dim not in (1, dim):
                what = "active dimensions" if self.active_dims is not None else "columns of x"
                raise ShapeError(
                    f"{name} of {type(self).__name__} has {e.dim} components; "
                    f"expected 1 or one for each of the {dim} {what}."
                )
        return SimpleNamespace(**bound)

    def select(self, x: Expr) -> Expr:
        """The active dimensions of a point, as few contiguous pieces as possible."""
        dims = self.active_dims
        if dims is None or dims == tuple(range(x.dim)):
            return x
        if max(dims) >= x.dim:
            raise ShapeError(
                f"active_dims={dims} of {type(self).__name__}: column {max(dims)} does not exist, "
                f"the points have {x.dim} (counted from 0)."
            )
        starts = [k for k in range(len(dims)) if k == 0 or dims[k] != dims[k - 1] + 1]
        ends = [*starts[1:], len(dims)]
        return concat(*(extract(x, dims[a], b - a) for a, b in zip(starts, ends, strict=True)))

    def __repr__(self) -> str:
        extra = ("active_dims", "bounds")
        names = [f.name for f in fields(self) if f.name not in extra]
        names += [name for name in extra if getattr(self, name) is not None]
        texts = [f"{name}={getattr(self, name)!r}" for name in names]
        return f"{type(self).__name__}({', '.join(texts)})"


def _rules(f: Any) -> dict[str, bool]:
    return {"vector": f.metadata["vector"], "positive": f.metadata["positive"]}


def check_parameter(value: Any, where: str, *, vector: bool = False, positive: bool = False) -> Any:
    """A hyperparameter in its canonical form: float, tuple of floats, or the tensor itself.

    Raises
    ------
    OptionError
        If it is not a number, not finite, or not positive where it must be.
    ShapeError
        If it has more axes or elements than allowed.
    """
    if isinstance(value, Tensor):
        if value.dim() > 1 or (not vector and value.numel() != 1):
            raise ShapeError(
                f"{where} is a tensor of shape {tuple(value.shape)}; expected {_expected(vector)}."
            )
        out, numbers = value, value.detach().double().reshape(-1).cpu().numpy()
    else:
        try:
            array = np.asarray(value)
            numbers = array.astype(np.float64)
        except (TypeError, ValueError):
            raise OptionError(f"{where} is {value!r}; expected {_expected(vector)}.") from None
        if array.dtype == bool or array.dtype.kind in "cOSU":
            raise OptionError(f"{where} is {value!r}; expected {_expected(vector)}.")
        if numbers.ndim > (1 if vector else 0) or numbers.size == 0:
            raise ShapeError(f"{where} has shape {numbers.shape}; expected {_expected(vector)}.")
        out = tuple(numbers.tolist()) if numbers.ndim else float(numbers)
    if not np.all(np.isfinite(numbers)):
        raise OptionError(f"{where} is {value!r}; expected finite numbers.")
    if positive and not np.all(numbers > 0):
        raise OptionError(f"{where} is {value!r}; expected positive numbers.")
    return out


def _expected(vector: bool) -> str:
    return "a number or a vector with one number for each dimension" if vector else "one number"


def check_active_dims(value: Any, where: str) -> tuple[int, ...]:
    """Column numbers as a tuple.

    Raises
    ------
    OptionError
        If they are none, or if one stands there twice.
    """
    try:
        dims = np.atleast_1d(np.asarray(value.cpu() if isinstance(value, Tensor) else value))
    except (TypeError, ValueError):
        dims = np.empty(0)
    if dims.ndim != 1 or dims.size == 0 or dims.dtype.kind not in "iu" or dims.min() < 0:
        raise OptionError(f"{where} is {value!r}; expected column numbers 0, 1, ..., at least one.")
    if len(set(dims.tolist())) != dims.size:
        raise OptionError(f"{where} is {value!r}: a column stands there twice; name each once.")
    return tuple(int(d) for d in dims)


def _is_number(value: object) -> bool:
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return True  # shapes and dtypes are checked where the value is stored, with the message they deserve
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _constant(value: Number) -> Kernel:
    from .kernels import Constant

    return Constant(value)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


# ---------------------------------------------------------------- algebra


def _add(a: Expr | None, b: Expr | None) -> Expr | None:
    return b if a is None else a if b is None else a + b


def _mul(a: Expr | None, b: Expr | None) -> Expr | None:
    return None if a is None or b is None else a * b


@dataclass(frozen=True, eq=False, repr=False)
class Sum(Kernel):
    """k(x, y) = left(x, y) + right(x, y)."""

    left: Kernel
    right: Kernel

    @property
    def psd(self) -> bool:
        return self.left.psd and self.right.psd

    def parts(self, x: Expr, y: Expr, arguments: Arguments) -> Parts:
        """See `Kernel.parts`."""
        a, b = self.left.parts(x, y, arguments), self.right.parts(x, y, arguments)
        return Parts(_add(a.formula, b.formula), _add(a.nugget, b.nugget))

    def __repr__(self) -> str:
        return f"{self.left!r} + {self.right!r}"


@dataclass(frozen=True, eq=False, repr=False)
class Product(Kernel):
    """k(x, y) = left(x, y) * right(x, y)."""

    left: Kernel
    right: Kernel

    @property
    def psd(self) -> bool:
        return self.left.psd and self.right.psd

    def parts(self, x: Expr, y: Expr, arguments: Arguments) -> Parts:
        """See `Kernel.parts`; (f + nugget d)(g + nugget e) has the nugget f e + d g + d e."""
        a, b = self.left.parts(x, y, arguments), self.right.parts(x, y, arguments)
        mixed = _add(_mul(a.formula, b.nugget), _mul(a.nugget, b.formula))
        return Parts(_mul(a.formula, b.formula), _add(mixed, _mul(a.nugget, b.nugget)))

    def __repr__(self) -> str:
        return f"{_factor_text(self.left)} * {_factor_text(self.right)}"


@dataclass(frozen=True, eq=False, repr=False)
class Scale(Kernel):
    """k(x, y) = factor * kernel(x, y).

    A positive factor is learned. For bounds, or to fix it, write ``Constant(2.0, bounds="fixed") * kernel``.
    """

    kernel: Kernel
    factor: Number = parameter(positive=False, free=True)

    def __post_init__(self) -> None:
        factor = check_parameter(self.factor, f"the factor of {self.kernel!r}")
        object.__setattr__(self, "factor", factor)

    @property
    def psd(self) -> bool:
        return self.kernel.psd and bool(self.factor >= 0)

    def parts(self, x: Expr, y: Expr, arguments: Arguments) -> Parts:
        """See `Kernel.parts`."""
        a, factor = self.kernel.parts(x, y, arguments), arguments.add(self.factor)
        return Parts(_mul(factor, a.formula), _mul(factor, a.nugget))

    def __repr__(self) -> str:
        return f"{self.factor!r} * {_factor_text(self.kernel)}"


@dataclass(frozen=True, eq=False, repr=False)
class Power(Kernel):
    """k(x, y) = kernel(x, y) ** exponent.

    Parameters
    ----------
    kernel : Kernel
    exponent : float
        Positive, fixed. Integer powers of positive semi-definite kernels are positive semi-definite; others
        are not taken to be, and are NaN where the kernel is negative.

    Raises
    ------
    OptionError
        If the exponent is not a positive number.

    References
    ----------
    Exponentiation of scikit-learn.
    """

    kernel: Kernel
    exponent: float

    def __post_init__(self) -> None:
        where = f"the exponent of {self.kernel!r}"
        exponent = check_parameter(self.exponent, where, positive=True)
        exponent = int(exponent) if float(exponent).is_integer() else float(exponent)
        object.__setattr__(self, "exponent", exponent)

    @property
    def psd(self) -> bool:
        return isinstance(self.exponent, int) and self.kernel.psd

    def parts(self, x: Expr, y: Expr, arguments: Arguments) -> Parts:
        """See `Kernel.parts`; (f + nugget)^n = f^n + nugget sum_m (f + nugget)^m f^(n - 1 - m)."""
        a, n = self.kernel.parts(x, y, arguments), self.exponent
        power = n if isinstance(n, int) else arguments.add(n)
        f, nugget = a.formula, a.nugget
        if nugget is None or f is None:
            return Parts(None if f is None else f**power, None if nugget is None else nugget**power)
        whole = f + nugget
        if not isinstance(n, int):
            return Parts(f**power, whole**power - f**power)
        total = as_expr(1.0)
        for m in range(1, n):
            total = whole * total + f**m
        return Parts(f**power, nugget * total)

    def __repr__(self) -> str:
        simple = isinstance(self.kernel, Atom)
        return f"{self.kernel!r} ** {self.exponent}" if simple else f"({self.kernel!r}) ** {self.exponent}"


def _factor_text(k: Kernel) -> str:
    return f"({k!r})" if isinstance(k, Sum) else repr(k)


def points(dim: int) -> tuple[Expr, Expr]:
    """The variables of the two points: arguments 0 and 1."""
    if dim < 1:
        raise FormulaError("points without columns: x needs shape (M, D) with D >= 1.")
    return Vi(0, dim), Vj(1, dim)

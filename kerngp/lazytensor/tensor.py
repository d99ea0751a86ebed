"""The familiar facade: symbolic matrices written like broadcast arrays, reduced without being stored.

A `LazyTensor` stands for an array of shape (..., M, N, D) given by a formula of arrays indexed by i
and by j. Arithmetic builds the formula; a reduction over i or j, or ``K @ v``, computes. The methods
of elementwise operations and of reductions come from the engine's tables.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from ..engine import ops
from ..engine.arrays import TORCH, adopt, dtype_name, is_array, is_complex, is_number, kind_of, restore
from ..engine.autodiff import transpose
from ..engine.expr import Expr
from ..engine.folds import LOGSUMEXPWEIGHT, WEIGHTED, weighted_entry
from ..engine.inner import INNER
from ..engine.operands import (
    EMPTY,
    Operands,
    build,
    constant,
    indexed,
    join,
    leaf,
    number,
    symbol,
    transposed,
)
from ..engine.ranges import Ranges
from ..engine.reduction import Reduction, with_k, with_scores
from ..engine.reductions import LOGSUMEXP, SUM, check_weights, named
from ..errors import FormulaError, ShapeError
from .reduce import Deferred, Finish, Settings, compute, concrete

_UNCHANGED = (None,)


class LazyTensor:
    """An array of shape (..., M, N, D) given by a formula, never stored.

    Parameters
    ----------
    x : array, number, list of numbers or LazyTensor
        A torch tensor, NumPy array or any array that speaks DLPack, of a floating dtype:

        - (..., M, 1, D), indexed by i; (..., 1, N, D), indexed by j; leading axes are batch axes and
          broadcast. (..., 1, 1, D) is a single vector, and broadcasts against both.
        - (M, D) with ``axis=0`` or (N, D) with ``axis=1``.
        - a number, a list of numbers, (D,) or (): a vector of parameters, the same for all pairs.
        - a tuple (index, dim, axis) of integers: a variable whose array comes with the call.
    axis : {None, 0, 1, 2}
        For arrays with two axes: 0 for i, 1 for j. 2 makes a parameter.

    Attributes
    ----------
    shape : tuple of int
        (..., M, N, D), without D if it is 1. An index nothing depends on counts as 1.
    dtype : str or None
        "float32", ...; None for plain numbers.

    Raises
    ------
    ShapeError, DTypeError, DeviceError, FormulaError
        Naming the operand, what came, what was expected.

    Notes
    -----
    ``K[k]`` and ``K[..., k:l]`` pick components of the vectors. ``K[rows, columns]`` with slices or index
    arrays is a smaller LazyTensor; with an integer, or two index arrays, which pick pairs, it is an array.

    Reductions over i (``axis=0`` without batch axes) give (..., N, D), over j (``axis=1``) give
    (..., M, D), in the library of the arrays; ``axis=-1`` reduces the components of each vector and
    stays lazy. With torch tensors everything is differentiable, to any order. The design follows
    the LazyTensor of KeOps (Charlier et al., JMLR 22, 2021).

    Examples
    --------
    >>> import torch
    >>> x, y, b = torch.zeros(4, 3), torch.zeros(5, 3), torch.ones(5, 2)
    >>> x_i, y_j = LazyTensor(x[:, None, :]), LazyTensor(y[None, :, :])
    >>> K = (-((x_i - y_j) ** 2).sum(-1)).exp()
    >>> K.shape, (K @ b).shape, K.sum(axis=0).shape
    ((4, 5), torch.Size([4, 2]), torch.Size([5, 1]))
    """

    __slots__ = ("expr", "operands")
    is_complex = False
    __iter__ = None  # indexing has no end that iteration could find
    __hash__ = object.__hash__

    expr: Expr
    operands: Operands

    def __new__(cls, x: Any = None, axis: int | None = None) -> LazyTensor:
        if cls is LazyTensor and (x.is_complex if isinstance(x, LazyTensor) else is_complex(x)):
            from .complex import ComplexLazyTensor

            return object.__new__(ComplexLazyTensor)
        return object.__new__(cls)

    def __init__(self, x: Any, axis: int | None = None) -> None:
        if isinstance(x, LazyTensor):
            self.expr, self.operands = x.expr, x.operands
        elif isinstance(x, tuple):
            if axis is not None or len(x) != 3:
                raise FormulaError(
                    f"x={x!r}: a tuple is read as (index, dim, axis) of a symbolic variable, "
                    "without a further axis; pass a list for a vector of parameters."
                )
            self.expr, self.operands = symbol(*x)
        else:
            self.expr, self.operands = leaf(x, axis)

    # ------------------------------------------------------------ what it is

    @property
    def _shape(self) -> tuple[int, ...]:
        return (*self.operands.batch, *self.operands.sizes, self.expr.dim)

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., M, N, D), without D if it is 1."""
        full = self._shape
        return full[:-1] if full[-1] == 1 else full

    @property
    def dtype(self) -> str | None:
        """Name of the arrays' dtype, as NumPy writes it."""
        return None if self.operands.dtype is None else dtype_name(self.operands.dtype)

    @property
    def device(self) -> torch.device | None:
        """Where the arrays are."""
        return self.operands.device

    @property
    def ndim(self) -> int:
        """D, the number of components of each vector."""
        return self._shape[-1]

    @property
    def formula(self) -> str:
        """The formula as text; its variables are numbered by their place in `variables`."""
        return str(self.expr)

    @property
    def variables(self) -> tuple[Any, ...]:
        """The arrays, in the caller's library."""
        return tuple(restore(t, self.operands.kind) for t in concrete(self.operands).tensors())

    @property
    def nbatchdims(self) -> int:
        """How many batch axes stand before M."""
        return len(self.operands.batch)

    @property
    def ranges(self) -> Ranges | None:
        """The blocks of pairs that reductions visit; None for all. Set it to what `from_matrix` makes."""
        return self.operands.ranges

    @ranges.setter
    def ranges(self, value: Any) -> None:
        self.operands = self.operands._replace(ranges=None if value is None else Ranges.of(value))

    def dim(self) -> int:
        """The number of axes, counting D."""
        return len(self.operands.batch) + 3

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, dtype={self.dtype}, formula={self.expr})"

    def __bool__(self) -> bool:
        raise TypeError("a LazyTensor has no truth value: comparisons are lazy too. Reduce it first.")

    # ------------------------------------------------------------ arithmetic that is not elementwise

    def __pow__(self, other: Any) -> LazyTensor:
        if not is_number(other):
            return combine("pow", self, other)
        n = float(other)
        if n.is_integer() and abs(n) <= 64:
            return combine("square", self) if n == 2 else combine("powi", self, attr=(int(n),))
        if abs(n) == 0.5:
            return combine("sqrt" if n > 0 else "rsqrt", self)
        return combine("pow", self, _lazy(constant(n), EMPTY))  # an exponent is part of the formula

    def power(self, other: Any) -> LazyTensor:
        """``self ** other``; an integer exponent keeps negative bases."""
        return self**other

    pow = power

    def __or__(self, other: Any) -> LazyTensor:
        return combine(ops.dot, self, other)

    def __ror__(self, other: Any) -> LazyTensor:
        return combine(ops.dot, other, self)

    # ------------------------------------------------------------ vectors

    def sqnorm2(self) -> LazyTensor:
        """Squared Euclidean norm of each vector."""
        return combine(ops.sqnorm2, self)

    def norm2(self) -> LazyTensor:
        """Euclidean norm of each vector; gradient 0 at the origin."""
        return combine(ops.norm2, self)

    def norm(self, dim: int = -1) -> LazyTensor:
        """Euclidean norm over the last axis, the only one possible."""
        if self._letter(dim) != "":
            raise FormulaError(f"norm(dim={dim}): norms are taken over the last axis, dim=-1.")
        return self.norm2()

    def normalize(self) -> LazyTensor:
        """Each vector divided by its norm; 0 at the origin."""
        return combine(ops.normalize, self)

    def sqdist(self, other: Any) -> LazyTensor:
        """Squared Euclidean distance."""
        return combine(ops.sqdist, self, other)

    def weightedsqnorm(self, weights: Any) -> LazyTensor:
        """<x, S x> for weights of dim 1, D, or D * D (a matrix, by rows)."""
        return combine(ops.weighted_sqnorm, weights, self)

    def weightedsqdist(self, other: Any, weights: Any) -> LazyTensor:
        """<x - y, S (x - y)>; see `weightedsqnorm` for the weights S."""
        return combine("sub", self, other).weightedsqnorm(weights)

    def elem(self, k: int) -> LazyTensor:
        """Component k of each vector."""
        return self[k]

    def extract(self, start: int, length: int) -> LazyTensor:
        """Components start, ..., start + length - 1 of each vector."""
        return combine("extract", self, attr=(int(start), int(length)))

    def __getitem__(self, key: Any) -> Any:
        """Components, ``K[k]``, ``K[k:l]``; rows and columns, ``K[i, :]``, ``K[:5, idx]``; see `indexing`."""
        from .indexing import index

        return index(self, key)

    def concat(self, other: Any) -> LazyTensor:
        """The components of self, then those of other."""
        return combine("concat", self, other)

    @staticmethod
    def concatenate(parts: tuple | list, axis: int = -1) -> LazyTensor:
        """The components of all parts, one after the other. Only the last axis can be joined."""
        if not isinstance(parts, (tuple, list)) or not parts:
            raise FormulaError("concatenate takes a non-empty tuple of LazyTensors.")
        parts = [_wrap(p) for p in parts]
        if parts[0]._letter(axis) != "":
            raise FormulaError(f"axis={axis}: only the last axis can be joined, axis=-1.")
        return functools.reduce(LazyTensor.concat, parts)

    @staticmethod
    def cat(parts: tuple | list, dim: int = -1) -> LazyTensor:
        """`concatenate` under its torch name."""
        return LazyTensor.concatenate(parts, dim)

    # ------------------------------------------------------------ matrices

    def t(self) -> LazyTensor:
        """Exchange i and j."""
        o = transposed(self.operands)
        return _lazy(build(transpose, (), _UNCHANGED, self.expr), o, type(self))

    @property
    def T(self) -> LazyTensor:
        """Exchange i and j."""
        return self.t()

    def __matmul__(self, v: Any, **settings: Any) -> Any:
        """``K @ v`` for v of shape (N,) or (..., N, E): (M,) or (..., M, E), in the library of the arrays.

        For a LazyTensor or an operator v, the operator that applies v, then K.
        """
        if isinstance(v, LazyTensor) or (not is_array(v) and hasattr(v, "with_tensors")):
            from .linear import compose

            return compose(self, v)
        if self.ndim != 1:
            raise ShapeError(
                f"K @ v needs scalar entries, but K has shape {self.shape}: reduce its last axis first."
            )
        if self.is_complex or is_complex(v):
            from .complex import multiply

            return multiply(self, v, settings)
        w = adopt("v", v)
        flat = self._check_signal(w)
        column = indexed(w.unsqueeze(-1) if flat else w, 1, TORCH if w is v else kind_of(v), "v")
        product = combine("mul", self, _lazy(*column))
        return compute(product.expr, product.operands, SUM, "j", settings, flat)

    def _check_signal(self, v: Any) -> bool:
        """Whether v is one vector; raises unless its rows are the columns of K."""
        N, shape = self.operands.N, tuple(v.shape)
        if not shape or (N is not None and shape[max(len(shape) - 2, 0)] != N):
            n = "N" if N is None else N
            raise ShapeError(
                f"v has shape {shape}, but K has shape {self.shape}: K @ v needs ({n},) or (..., {n}, E)."
            )
        return len(shape) == 1

    def __rmatmul__(self, v: Any) -> Any:
        """``v @ K`` for v of shape (M,) or (..., E, M)."""
        if not is_array(v) and hasattr(v, "with_tensors"):
            from .linear import compose

            return compose(v, self)
        if len(v.shape) == 1:
            return self.t() @ v
        return (self.t() @ v.swapaxes(-1, -2)).swapaxes(-1, -2)

    # ------------------------------------------------------------ reductions

    def reduction(
        self,
        reduction_op: str | Reduction,
        other: Any = None,
        opt_arg: int | None = None,
        axis: int | None = None,
        dim: int | None = None,
        call: bool = True,
        **settings: Any,
    ) -> Any:
        """The reduction named ``reduction_op`` over i or j.

        Parameters
        ----------
        reduction_op : str or Reduction
            "Sum", "LogSumExp", "Min", "ArgKMin", ... in any case; or one made by
            `kerngp.define_reduction`.
        other : LazyTensor or array, optional
            Weights, for "LogSumExp", "SoftMax", "SumSoftMaxWeight", "SoftMin" and "Max_SumShiftExp".
        opt_arg : int, optional
            K, for "KMin", "KMax" and their relatives.
        axis, dim : int
            The axis to reduce, under its numpy or its torch name.
        call : bool
            False returns a function to be called later.
        **settings
            ``backend=`` ("auto", "CPU", "GPU", "reference") and other options of `kerngp.options`;
            ``ranges=``, blocks of pairs to visit; ``out=``, an array to write to. KeOps's accuracy
            switches are accepted and have no effect: accumulation is always as accurate as they can
            make it.
        """
        record = reduction_op if isinstance(reduction_op, Reduction) else named(reduction_op)
        if other is None:
            return self._reduce(sized(record, opt_arg), axis, dim, call, settings)
        if not isinstance(reduction_op, Reduction):
            record = WEIGHTED.get(record.name, record)
        return self._reduce_weighted(record, other, axis, dim, call, settings)

    def logsumexp(
        self,
        axis: int | None = None,
        dim: int | None = None,
        weight: Any = None,
        call: bool = True,
        **settings: Any,
    ) -> Any:
        """log sum_j exp(f_ij), or log sum_j w_ij exp(f_ij) with weights (dim 1 or D) for each pair."""
        if weight is None:
            weight = settings.pop("other", None)  # its name in `reduction`
        if weight is None:
            return self._reduce(LOGSUMEXP, axis, dim, call, settings)
        return self._reduce_weighted(LOGSUMEXPWEIGHT, weight, axis, dim, call, settings)

    # ------------------------------------------------------------ machinery

    _finish: Finish | None = None  # from numbers of the engine to values of this tensor

    def _components(self) -> Expr:
        """The formula of the real numbers the engine computes."""
        return self.expr

    def _letter(self, axis: int | None) -> str:
        """ "i", "j", or "" for the components: what an axis number means."""
        first = len(self.operands.batch)
        if isinstance(axis, int):
            k = axis - first if axis >= 0 else axis + 3
            if k in (0, 1, 2):
                return ("i", "j", "")[k]
        raise FormulaError(
            f"axis={axis}: expected {first} or -3 (over i), {first + 1} or -2 (over j), {first + 2} or -1 "
            f"(over the components) of a LazyTensor of shape {self._shape}."
        )

    def _reduce(self, r: Reduction, axis: int | None, dim: int | None, call: bool, settings: Settings) -> Any:
        check_weights(r, False)
        letter = self._letter(axis if dim is None else dim)
        if letter == "":
            if r.name not in INNER:
                raise FormulaError(f"{r.name} reduces over i or j, not over the components of a vector.")
            return combine(INNER[r.name], self)
        if self.operands.symbolic or not call:
            return Deferred(self._components(), self.operands, r, letter, settings, self._finish)
        return compute(self._components(), self.operands, r, letter, settings, finish=self._finish)

    def _reduce_weighted(
        self, r: Reduction, weight: Any, axis: int | None, dim: int | None, call: bool, settings: Settings
    ) -> Any:
        check_weights(r, True)
        letter = self._letter(axis if dim is None else dim)
        if letter == "":
            raise FormulaError(f"{r.name} reduces over i or j, not over the components of a vector.")
        entry, r = combine(weighted_entry, self, weight), with_scores(r, self.expr.dim)
        if entry.is_complex:
            raise FormulaError("the weights are complex; weigh with their real and imaginary parts instead.")
        if entry.operands.symbolic or not call:
            return Deferred(entry.expr, entry.operands, r, letter, settings)
        return compute(entry.expr, entry.operands, r, letter, settings)


def _lazy(expr: Expr, operands: Operands, kind: type[LazyTensor] = LazyTensor) -> LazyTensor:
    new = object.__new__(kind)
    new.expr = expr
    new.operands = operands
    return new


def _wrap(value: Any) -> LazyTensor:
    if isinstance(value, LazyTensor):
        return value
    if is_number(value):
        return _lazy(*number(value))
    return LazyTensor(value) if is_complex(value) else _lazy(*leaf(value, name="the operand"))


def combine(make: str | Callable[..., Expr], first: Any, *others: Any, attr: tuple = ()) -> LazyTensor:
    """An op or composite of LazyTensors and whatever can become one."""
    if not isinstance(first, LazyTensor):
        first = _wrap(first)
    operands, exprs, places = first.operands, (first.expr,), _UNCHANGED
    any_complex = first.is_complex
    for other in others:
        if not isinstance(other, LazyTensor):
            other = _wrap(other)
        operands, place = join(operands, other.operands)
        exprs += (other.expr,)
        places += (place,)
        if other.is_complex:
            any_complex = True
    kind = LazyTensor
    if any_complex:
        from .complex import meaning

        parts = (first, *others)
        make, kind = meaning(
            make, tuple([p.is_complex if isinstance(p, LazyTensor) else is_complex(p) for p in parts])
        )
    try:
        return _lazy(build(make, attr, places, *exprs), operands, kind)
    except FormulaError as e:
        shapes = ", ".join(str(_wrap(x)._shape) for x in (first, *others))
        raise FormulaError(f"{e} The operands have shapes {shapes}; the last axis is the vector's.") from None


def sized(record: Reduction, k: Any) -> Reduction:
    """The record with its k, if it is one that has a k."""
    return (
        with_k(record, k.__index__() if hasattr(k, "__index__") else k) if record.code == "kmin" else record
    )

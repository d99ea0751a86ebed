"""The arrays a formula reads while it is being built, merged by identity.

An `Operands` is immutable: arrays with the index (i, j or none) each is read by, and the sizes they
imply. Joining two of them renumbers the variables of the second, so that an array used twice is one
variable: it is loaded once, and formulas built twice from the same arrays are one formula.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.autograd import forward_ad
from torch.compiler import is_dynamo_compiling

from ..errors import DeviceError, DTypeError, FormulaError, ShapeError
from .arrays import TORCH, Kind, adopt, dtype_name, is_number, kind_of
from .autodiff import rename, transpose
from .expr import AXES, Expr, const, node, var, variables
from .ranges import Ranges

Places = tuple[int, ...] | None  # new numbers of the variables of a formula; None: unchanged


class Symbol(NamedTuple):
    """A place for an array that comes with the call: argument ``index``, vectors of ``dim`` numbers."""

    index: int
    dim: int


class Operands(NamedTuple):
    """Arrays of a formula; variable k of the formula is ``values[k]``.

    Attributes
    ----------
    values : tuple of torch.Tensor, tuple of float, or Symbol
        Plain numbers take the dtype and the device of the arrays they meet.
    axes : str
        The index of each value: "i" for (..., M, D), "j" for (..., N, D), "p" for (..., D).
    M, N : int or None
        None where nothing is indexed by i (by j): the size is then 1 and broadcasts.
    batch : tuple of int
    dtype, device : or None if there are only numbers so far
    kind : Kind or None
        The library results go back to.
    unit : bool
        An array of shape (..., 1, 1, D) is among the values: one point, standing for i and for j.
    symbolic : bool
    ranges : Ranges or None
        Blocks of pairs to which the formula is restricted.
    keep : Expr or None
        A formula of the same values, 1 for the pairs that exist and 0 for the others.
    """

    values: tuple = ()
    axes: str = ""
    M: int | None = None
    N: int | None = None
    batch: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    device: torch.device | None = None
    kind: Kind | None = None
    unit: bool = False
    symbolic: bool = False
    ranges: Ranges | None = None
    keep: Expr | None = None

    @property
    def sizes(self) -> tuple[int, int]:
        """(M, N), with 1 for an index nothing depends on."""
        return (1 if self.M is None else self.M, 1 if self.N is None else self.N)

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The arguments of an engine call."""
        if self.dtype is None or any(type(v) is tuple for v in self.values):
            return tuple(
                torch.tensor(v, dtype=self.dtype, device=self.device) if type(v) is tuple else v
                for v in self.values
            )
        return self.values


EMPTY = Operands()


# ---------------------------------------------------------------- leaves


def _leaf(dim: int, axis: str) -> Expr:
    return build(var, (0, dim, axis), ())


def leaf(value: Any, axis: int | None = None, name: str = "x") -> tuple[Expr, Operands]:
    """A variable or parameter made of what the user gave.

    Parameters
    ----------
    value : array, number or list of numbers
        (..., M, 1, D) is indexed by i, (..., 1, N, D) by j; (..., 1, 1, D), (D,) and () by neither.
    axis : {None, 0, 1, 2}
        Of an array of shape (M, D) or (N, D): 0 for i, 1 for j. 2 makes a parameter of (..., D).
    name : str
        For messages.

    Raises
    ------
    ShapeError, DTypeError, FormulaError
    """
    if axis is not None and axis not in (0, 1, 2):
        raise FormulaError(f"axis={axis!r}: expected 0 (indexed by i), 1 (by j), 2 (parameter) or None.")
    if not isinstance(value, torch.Tensor):
        if is_number(value) or (
            isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind == "f"
        ):
            return number(float(value))
        if isinstance(value, (list, tuple)):
            return _list(value, axis, name)
    t = adopt(name, value)
    kind = TORCH if value is t else kind_of(value)
    rank = t.dim()
    if axis in (0, 1):
        if rank != 2:
            raise ShapeError(
                f"{name} has shape {tuple(t.shape)}, but axis={axis} needs two axes: "
                f"({'MN'[axis]}, D). " + _layout_help(t)
            )
        return indexed(t, axis, kind, name)
    if axis is None and rank >= 3:
        if t.shape[-3] == 1:
            if t.shape[-2] != 1:
                return indexed(t.squeeze(-3), 1, kind, name)
            return _parameter(t.squeeze(-2).squeeze(-2), kind, name, True)
        if t.shape[-2] == 1:
            return indexed(t.squeeze(-2), 0, kind, name)
        raise ShapeError(
            f"{name} has shape {tuple(t.shape)}; expected (..., M, 1, D), (..., 1, N, D) or (..., 1, 1, D): "
            "insert the missing axis, for example x[:, None, :] or y[None, :, :]."
        )
    if axis is None and rank == 2:
        raise ShapeError(
            f"{name} has shape {tuple(t.shape)}, which does not say whether its rows are indexed by i or j. "
            + _layout_help(t)
        )
    return _parameter(t.reshape(1) if rank == 0 else t, kind, name, False)


def indexed(t: torch.Tensor, axis: int, kind: Kind, name: str) -> tuple[Expr, Operands]:
    """A tensor (..., M, D) read by i (axis 0), or (..., N, D) read by j (axis 1)."""
    n, batch = t.shape[-2], tuple(t.shape[:-2])
    M, N = (n, None) if axis == 0 else (None, n)
    return _leaf(_dim(t, name), AXES[axis]), Operands((t,), AXES[axis], M, N, batch, t.dtype, t.device, kind)


def number(value: float) -> tuple[Expr, Operands]:
    """A number: part of the formula if it is an integer or a simple fraction, else a parameter.

    A parameter keeps its value out of the compiled code: an optimiser that tries a thousand length
    scales compiles once. Factors such as 2 or 0.5 belong to the formula itself.
    """
    value = float(value)
    if value == 0 or not math.isfinite(value) or (abs(value) <= 64 and (value * 8).is_integer()):
        return constant(value), EMPTY
    return _leaf(1, "p"), Operands(((value,),), "p")


def constant(value: float) -> Expr:
    """A number that is part of the formula, whatever it is."""
    if value == 0 and not is_dynamo_compiling():  # 0.0 and -0.0 would be one entry of a cache
        return const(value)
    return build(const, (value,), ())


def symbol(index: int, dim: int, axis: int) -> tuple[Expr, Operands]:
    """A variable whose array comes with the call."""
    if (
        not all(isinstance(k, int) for k in (index, dim, axis))
        or index < 0
        or dim < 1
        or axis not in (0, 1, 2)
    ):
        raise FormulaError(
            f"symbolic variable ({index!r}, {dim!r}, {axis!r}): expected an index >= 0, a dim >= 1 and "
            "an axis in (0, 1, 2)."
        )
    return _leaf(dim, AXES[axis]), Operands((Symbol(index, dim),), AXES[axis], symbolic=True)


def _list(value: list | tuple, axis: int | None, name: str) -> tuple[Expr, Operands]:
    t = adopt(name, value, dtype=torch.float64)
    if t.dim() != 1 or axis in (0, 1):
        raise ShapeError(
            f"{name} is a list of shape {tuple(t.shape)}; a list makes a vector of parameters. "
            "Convert it to an array for anything else."
        )
    return _leaf(_dim(t, name), "p"), Operands((tuple(t.tolist()),), "p")


def _parameter(t: torch.Tensor, kind: Kind, name: str, unit: bool) -> tuple[Expr, Operands]:
    return _leaf(_dim(t, name), "p"), Operands(
        (t,), "p", None, None, tuple(t.shape[:-1]), t.dtype, t.device, kind, unit
    )


def _dim(t: torch.Tensor, name: str) -> int:
    if t.shape[-1] == 0:
        raise ShapeError(
            f"{name} has shape {tuple(t.shape)}: its vectors have no components; expected D >= 1."
        )
    return operator.index(t.shape[-1])  # also where torch.compile has a symbol for it


def _layout_help(t: torch.Tensor) -> str:
    if t.dim() == 2:
        return "Use x[:, None, :] or axis=0 for i, y[None, :, :] or axis=1 for j."
    if t.dim() == 1:
        return "Use x[:, None] for points on a line, or axis=2 for one vector of parameters."
    return "Drop axis: (..., M, 1, D) is indexed by i, (..., 1, N, D) by j."


# ---------------------------------------------------------------- joining


def build(make: str | Callable[..., Expr], attr: tuple, places: tuple[Places, ...], *parts: Expr) -> Expr:
    """An op (by name) or a composite of formulas whose variables are renumbered first.

    Remembered: a formula typed in a loop is put together once. While `torch.compile` looks on, this
    and all that is built of it is a `sketch.Sketch`.
    """
    if is_dynamo_compiling():
        from .sketch import sketch

        return sketch(make, attr, places, parts)
    return put_together(make, attr, places, *parts)


@functools.lru_cache(maxsize=8192)
def put_together(
    make: str | Callable[..., Expr], attr: tuple, places: tuple[Places, ...], *parts: Expr
) -> Expr:
    """`build` of formulas proper, or of what a broken graph has left."""
    if not all(isinstance(e, Expr) for e in parts):
        from .sketch import formula

        parts = tuple(map(formula, parts))
    exprs = [e if p is None else rename(e, dict(enumerate(p))) for e, p in zip(parts, places)]
    return node(make, *exprs, attr=attr) if isinstance(make, str) else make(*exprs, *attr)


def renumber(e: Expr, places: Places) -> Expr:
    """The formula with new numbers for its variables."""
    return build(_same_formula, (), (places,), e)


def _same_formula(e: Expr) -> Expr:
    return e


def join(a: Operands, b: Operands) -> tuple[Operands, Places]:
    """The operands of a formula made of two, and the new numbers of the second one's variables.

    Raises
    ------
    ShapeError, DTypeError, DeviceError
        Sizes along i, along j, batch shapes, dtypes or devices that differ.
    """
    if a is b or not b.values:
        return a, None
    if not a.values:
        return b, None
    values, axes = a.values, a.axes
    places: list[int] = []
    for value, axis in zip(b.values, b.axes):
        at = _find(values, axes, value, axis)
        if at < 0:
            at = len(values)
            values += (value,)
            axes += axis
        places.append(at)
    if len(values) == len(a.values):
        return _with_pairs(a, a, b, tuple(places)), tuple(places)
    M, N, batch = a.M, a.N, a.batch
    if b.M is not None and b.M != M:
        M = b.M if M is None else _sizes_differ("i", M, b.M)
    if b.N is not None and b.N != N:
        N = b.N if N is None else _sizes_differ("j", N, b.N)
    if b.batch != batch:
        batch = _broadcast(batch, b.batch)
    dtype, device, kind = a.dtype, a.device, a.kind
    if dtype is None:
        dtype, device, kind = b.dtype, b.device, b.kind
    elif b.dtype is not None:
        if b.dtype != dtype:
            raise DTypeError(
                f"the left operand has dtype {dtype_name(dtype)}, the right one {dtype_name(b.dtype)}; "
                "convert one of the arrays, for example with .to or .astype."
            )
        if b.device != device:
            raise DeviceError(
                f"the left operand is on {device}, the right one on {b.device}; move one with .to(...)."
            )
        if kind is not b.kind and b.kind is TORCH:
            kind = TORCH
    joined = Operands(
        values, axes, M, N, batch, dtype, device, kind, a.unit or b.unit, a.symbolic or b.symbolic
    )
    return _with_pairs(joined, a, b, tuple(places)), tuple(places)


def _with_pairs(joined: Operands, a: Operands, b: Operands, places: Places) -> Operands:
    """The pairs that both operands have."""
    if (a.ranges, a.keep, b.ranges, b.keep) == (joined.ranges, joined.keep, None, None):
        return joined
    ranges, keep = a.ranges or b.ranges, a.keep
    if a.ranges is not None and b.ranges is not None and not a.ranges.equals(b.ranges):
        raise FormulaError(
            "the two operands have different ranges; give both the same, or set them on the result alone."
        )
    if b.keep is not None:
        other = renumber(b.keep, places)
        keep = other if keep is None or keep is other else keep * other
    return joined._replace(ranges=ranges, keep=keep)


def restrict(operands: Operands, keep: Expr, of: Operands) -> Operands:
    """The operands of a formula whose pairs exist where ``keep``, a formula of operands ``of``, is 1."""
    joined, places = join(operands, of)
    keep = renumber(keep, places)
    return joined._replace(keep=keep if joined.keep is None else joined.keep * keep)


def transposed(o: Operands) -> Operands:
    """With i and j exchanged."""
    ranges = None if o.ranges is None else o.ranges.swap_axes()
    keep = None if o.keep is None else _transpose(o.keep)
    return o._replace(axes=o.axes.translate(_SWAP), M=o.N, N=o.M, ranges=ranges, keep=keep)


_SWAP = str.maketrans("ij", "ji")
_transpose = functools.lru_cache(maxsize=1024)(transpose)


def bind(operands: Operands, arrays: tuple[Any, ...]) -> tuple[Operands, Places]:
    """Put the arrays of a call in the place of symbols; also the new numbers of all variables."""
    needed = 1 + max((v.index for v in operands.values if isinstance(v, Symbol)), default=-1)
    if len(arrays) != needed:
        raise ShapeError(f"this formula takes {needed} arrays, got {len(arrays)}.")
    out, places = EMPTY, []
    for value, axis in zip(operands.values, operands.axes):
        if isinstance(value, Symbol):
            name = f"argument {value.index}"
            e, one = leaf(arrays[value.index], AXES.index(axis), name)
            if e.dim != value.dim:
                raise ShapeError(f"{name} has vectors of dim {e.dim}; the formula expects {value.dim}.")
        elif isinstance(value, torch.Tensor):
            _, one = (
                indexed(value, AXES.index(axis), operands.kind or TORCH, "x")
                if axis != "p"
                else _parameter(value, operands.kind or TORCH, "x", operands.unit)
            )
        else:
            one = Operands((value,), axis)
        before = len(out.values)
        out, place = join(out, one)
        places.append(before if place is None else place[0])
    keep = None if operands.keep is None else renumber(operands.keep, tuple(places))
    return out._replace(ranges=operands.ranges, keep=keep), tuple(places)


def read(e: Expr, operands: Operands) -> tuple[Expr, Operands]:
    """Without the symbols that a formula no longer reads: nobody has to pass an array for them."""
    needed = {v.attr[0] for v in variables(e)}
    kept = [k for k, v in enumerate(operands.values) if k in needed or not isinstance(v, Symbol)]
    values = tuple(operands.values[k] for k in kept)
    left = operands._replace(
        values=values,
        axes="".join(operands.axes[k] for k in kept),
        symbolic=any(isinstance(v, Symbol) for v in values),
    )
    places = tuple(kept.index(k) if k in kept else 0 for k in range(len(operands.values)))
    return renumber(e, places), left


def _find(values: tuple, axes: str, value: Any, axis: str) -> int:
    for k, other in enumerate(values):
        if axes[k] == axis and (other is value or _same(other, value)):
            return k
    return -1


def _same(a: Any, b: Any) -> bool:
    """Two views of the same numbers, or two equal symbols.

    Tensors that take part in autograd are the same only if they are one object: equal storage may
    carry different histories, or different tangents.
    """
    if isinstance(a, Symbol) or isinstance(b, Symbol):
        return isinstance(a, Symbol) and isinstance(b, Symbol) and a == b
    if type(a) is tuple or type(b) is tuple or a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.requires_grad or b.requires_grad or forward_ad._current_level >= 0 or is_dynamo_compiling():
        return False
    if a.stride() != b.stride() or not a.numel():
        return False
    try:
        return a.data_ptr() == b.data_ptr()
    except RuntimeError:  # wrapped by a function transform: there is no storage to compare
        return False


def _sizes_differ(axis: str, left: int, right: int) -> int:
    raise ShapeError(
        f"the left operand has {left} rows along {axis}, the right one {right}; they must be equal. To take "
        "all pairs of two sets of points, index one by i, x[:, None, :], and the other by j, y[None, :, :]."
    )


def _broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return tuple(torch.broadcast_shapes(a, b))
    except RuntimeError:
        raise ShapeError(
            f"the batch shapes {a} and {b} of the left and the right operand do not broadcast."
        ) from None

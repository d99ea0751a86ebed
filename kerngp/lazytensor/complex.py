"""Complex LazyTensors: the same class over formulas of real and imaginary parts.

The arrays are stored as real parts, then imaginary parts, and results are computed in the same layout, so
that the formulas in between work on whole vectors of parts. What an operation means where some operands
are complex is a table; an operation that is not in it is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..engine import complex as cx
from ..engine import ops
from ..engine.arrays import adopt_complex, dtype_name, is_array, is_complex, kind_of
from ..engine.expr import Expr
from ..engine.inner import INNER
from ..engine.mapreduce import map_reduce_many
from ..engine.operands import Operands, build, indexed, leaf
from ..engine.plan import Output
from ..engine.ranges import Ranges
from ..engine.reductions import SUM, Reduction
from ..errors import FormulaError
from .pairs import visible
from .reduce import Settings, chosen, concrete, deliver
from .tensor import LazyTensor, _lazy, combine

LINEAR = ("sum", "mean")  # reductions of the real and of the imaginary parts


class ComplexLazyTensor(LazyTensor):
    """A `LazyTensor` of complex numbers; ``LazyTensor(complex array)`` makes one by itself.

    Parameters
    ----------
    x : array, number or LazyTensor
        As for `LazyTensor`, of dtype complex64 or complex128. Real ones get imaginary parts of 0.
    axis : {None, 0, 1, 2}

    Notes
    -----
    Complex and real LazyTensors, arrays and numbers meet in ``+ - * /``. Sums are complex arrays in the
    library of the operands; with torch they are differentiable in torch's sense for complex tensors.
    Complex numbers have no order: minima and their relatives are refused.

    Examples
    --------
    >>> import torch
    >>> x = torch.linspace(0.0, 1.0, 5)[:, None]
    >>> phase = (-2j * torch.pi * LazyTensor(x[:, None]) * LazyTensor(x[None])).exp()
    >>> phase, (phase @ torch.ones(5)).dtype
    (ComplexLazyTensor(shape=(5, 5), dtype=complex64), torch.complex64)
    """

    __slots__ = ()
    is_complex = True

    def __init__(self, x: Any, axis: int | None = None) -> None:
        if not isinstance(x, ComplexLazyTensor):
            x = _complex_leaf(x, axis) if is_complex(x) else real2complex(LazyTensor(x, axis))
        self.expr, self.operands = x.expr, x.operands

    @property
    def _shape(self) -> tuple[int, ...]:
        return (*self.operands.batch, *self.operands.sizes, self.expr.dim // 2)

    @property
    def dtype(self) -> str | None:
        """Name of the complex dtype, as NumPy writes it."""
        d = self.operands.dtype
        return None if d is None else dtype_name(d.to_complex())

    def __repr__(self) -> str:
        return f"ComplexLazyTensor(shape={self.shape}, dtype={self.dtype})"

    @property
    def real(self) -> LazyTensor:
        """The real parts."""
        return _of_parts(self, cx.real)

    @property
    def imag(self) -> LazyTensor:
        """The imaginary parts."""
        return _of_parts(self, cx.imag)

    def conj(self) -> ComplexLazyTensor:
        """The complex conjugates."""
        return _lazy(cx.conj(self.expr), self.operands, ComplexLazyTensor)  # type: ignore[return-value]

    def angle(self) -> LazyTensor:
        """The angles, in (-pi, pi]."""
        return _of_parts(self, cx.angle)

    def real2complex(self) -> ComplexLazyTensor:
        """Refused: the tensor is complex already."""
        raise FormulaError("real2complex takes a real LazyTensor; this one is complex.")

    def imag2complex(self) -> ComplexLazyTensor:
        """Refused: the tensor is complex already."""
        raise FormulaError("imag2complex takes a real LazyTensor; this one is complex.")

    def exp1j(self) -> ComplexLazyTensor:
        """Refused: use ``(1j * z).exp()``."""
        raise FormulaError("exp1j takes a real LazyTensor; for a complex one write (1j * z).exp().")

    # ------------------------------------------------------------ machinery

    def _components(self) -> Expr:
        return build(_parts, (), (None,), self.expr)

    def _finish(self, out: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return _joined(out)

    def _reduce(self, r: Reduction, axis: int | None, dim: int | None, call: bool, settings: Settings) -> Any:
        if r.name not in LINEAR:
            raise FormulaError(
                f"{r.name} is not defined for complex numbers; reduce their .real, .imag or abs()."
            )
        return super()._reduce(r, axis, dim, call, settings)


# ---------------------------------------------------------------- what real ones can do


def real(self: LazyTensor) -> LazyTensor:
    """The real parts."""
    return self


def imag(self: LazyTensor) -> LazyTensor:
    """The imaginary parts: 0 if this tensor is real."""
    return combine("mul", self, 0.0)


def angle(self: LazyTensor) -> LazyTensor:
    """The angles: 0, or pi where this tensor is negative."""
    return combine("atan2", 0.0, self)


def conj(self: LazyTensor) -> LazyTensor:
    """The complex conjugates."""
    return self


def real2complex(self: LazyTensor) -> ComplexLazyTensor:
    """x + 0i."""
    return _of_real(self, cx.real_to_complex)


def imag2complex(self: LazyTensor) -> ComplexLazyTensor:
    """0 + ix."""
    return _of_real(self, cx.imag_to_complex)


def exp1j(self: LazyTensor) -> ComplexLazyTensor:
    """exp(ix)."""
    return _of_real(self, cx.exp1j)


def _of_real(x: LazyTensor, make: Callable[[Expr], Expr]) -> ComplexLazyTensor:
    return _lazy(build(make, (), (None,), x.expr), x.operands, ComplexLazyTensor)  # type: ignore[return-value]


def _of_parts(z: LazyTensor, make: Callable[[Expr], Expr]) -> LazyTensor:
    return _lazy(build(make, (), (None,), z.expr), z.operands)


def _complex_leaf(x: Any, axis: int | None) -> LazyTensor:
    """A variable or parameter of real parts, then imaginary parts, read as complex."""
    if isinstance(x, complex) or (isinstance(x, np.generic) and x.ndim == 0):
        z = complex(x)
        parts = combine(cx.pair, LazyTensor(z.real), LazyTensor(z.imag))
        return _lazy(parts.expr, parts.operands, ComplexLazyTensor)
    re, im = adopt_complex("x", x)
    if re.dim() == 0:
        re, im = re.reshape(1), im.reshape(1)
    expr, operands = leaf(torch.cat([re, im], -1), axis)
    kind = kind_of(x) if is_array(x) else None
    return _lazy(build(_paired, (), (None,), expr), operands._replace(kind=kind), ComplexLazyTensor)


def _paired(v: Expr) -> Expr:
    D = v.dim // 2
    return cx.pair(v[:D], v[D:])


def _parts(z: Expr) -> Expr:
    return ops.concat(cx.real(z), cx.imag(z))


def _joined(out: torch.Tensor) -> torch.Tensor:
    """Numbers from real parts, then imaginary parts, on the last axis."""
    D = out.shape[-1] // 2
    return torch.complex(out[..., :D].contiguous(), out[..., D:].contiguous())


# ---------------------------------------------------------------- products


def multiply(K: LazyTensor, v: Any, settings: Settings) -> Any:
    """``K @ v`` where K, v or both are complex: two real products, in one pass where v is narrow."""
    re, im = adopt_complex("v", v)
    flat = K._check_signal(re)
    if flat:
        re, im = re.unsqueeze(-1), im.unsqueeze(-1)
    E, both = re.shape[-1], is_complex(v)
    signal = _lazy(*indexed(torch.cat([re, im], -1) if both else re, 1, kind_of(v), "v"))
    factors = (K.real, K.imag) if isinstance(K, ComplexLazyTensor) else (K,)
    products = [combine("mul", k, signal) for k in factors]
    o: Operands = concrete(products[0].operands)
    options = chosen(settings) if settings else None
    ranges = settings.get("ranges") if settings else None
    outputs = tuple(Output(visible(p.expr, o.keep, SUM), SUM) for p in products)
    values = map_reduce_many(
        outputs,
        o.tensors(),
        sizes=o.sizes,
        ranges=o.ranges if ranges is None else Ranges.of(ranges),
        options=options,
    )
    found = [out[0] for out in values]
    if not both:
        out = torch.complex(*found)
    elif len(found) == 1:
        out = _joined(found[0])
    else:
        p, q = found
        out = torch.complex(p[..., :E] - q[..., E:], p[..., E:] + q[..., :E])
    return deliver(out, o.kind, settings, flat)


# ---------------------------------------------------------------- the meaning of operations


def _add_real(z: Expr, r: Expr) -> Expr:
    return cx.pair(cx.real(z) + r, cx.imag(z))


def _real_sub(r: Expr, z: Expr) -> Expr:
    return cx.pair(r - cx.real(z), -cx.imag(z))


def _sub_real(z: Expr, r: Expr) -> Expr:
    return cx.pair(cx.real(z) - r, cx.imag(z))


def _div_real(z: Expr, r: Expr) -> Expr:
    return cx.pair(cx.real(z) / r, cx.imag(z) / r)


def _real_div(r: Expr, z: Expr) -> Expr:
    return cx.scale(r, cx.inverse(z))


def _swapped(f: Callable[[Expr, Expr], Expr]) -> Callable[[Expr, Expr], Expr]:
    return lambda a, b: f(b, a)


def _component(z: Expr, k: int) -> Expr:
    return cx.pair(cx.real(z)[k], cx.imag(z)[k])


def _extract(z: Expr, start: int, length: int) -> Expr:
    return cx.pair(cx.real(z)[start : start + length], cx.imag(z)[start : start + length])


def _concat(z: Expr, w: Expr) -> Expr:
    return cx.pair(ops.concat(cx.real(z), cx.real(w)), ops.concat(cx.imag(z), cx.imag(w)))


def _square(z: Expr) -> Expr:
    return cx.power(z, 2)


def _negative(z: Expr) -> Expr:
    return cx.pair(-cx.real(z), -cx.imag(z))


def _mean(z: Expr) -> Expr:
    return cx.pair(ops.mean(cx.real(z)), ops.mean(cx.imag(z)))


def _sqnorm2(z: Expr) -> Expr:
    return ops.total(cx.square_abs(z))


def _norm2(z: Expr) -> Expr:
    return ops.sqrt(_sqnorm2(z))


def _sqdist(z: Expr, w: Expr) -> Expr:
    return _sqnorm2(cx.subtract(z, w))


def _inverse_root(z: Expr) -> Expr:
    return cx.inverse(cx.square_root(z))


def _power(z: Expr, w: Expr) -> Expr:
    return cx.exponential(cx.mult(w, cx.logarithm(z)))


def _power_of_real(z: Expr, r: Expr) -> Expr:
    return cx.exponential(cx.scale(r, cx.logarithm(z)))


def _real_to_power(r: Expr, w: Expr) -> Expr:
    return _power(cx.real_to_complex(r), w)


C, R = True, False
# op or composite, which operands are complex -> what is built, whether the result is complex
MEANINGS: dict[tuple[Any, tuple[bool, ...]], tuple[Callable[..., Expr], bool]] = {
    ("add", (C, C)): (cx.add, C),
    ("add", (C, R)): (_add_real, C),
    ("add", (R, C)): (_swapped(_add_real), C),
    ("sub", (C, C)): (cx.subtract, C),
    ("sub", (C, R)): (_sub_real, C),
    ("sub", (R, C)): (_real_sub, C),
    ("mul", (C, C)): (cx.mult, C),
    ("mul", (R, C)): (cx.scale, C),
    ("mul", (C, R)): (_swapped(cx.scale), C),
    ("div", (C, C)): (cx.divide, C),
    ("div", (C, R)): (_div_real, C),
    ("div", (R, C)): (_real_div, C),
    ("neg", (C,)): (_negative, C),
    ("inv", (C,)): (cx.inverse, C),
    ("square", (C,)): (_square, C),
    ("powi", (C,)): (cx.power, C),
    ("pow", (C, C)): (_power, C),
    ("pow", (C, R)): (_power_of_real, C),
    ("pow", (R, C)): (_real_to_power, C),
    ("exp", (C,)): (cx.exponential, C),
    ("log", (C,)): (cx.logarithm, C),
    ("sqrt", (C,)): (cx.square_root, C),
    ("rsqrt", (C,)): (_inverse_root, C),
    ("abs", (C,)): (cx.modulus, R),
    ("elem", (C,)): (_component, C),
    ("extract", (C,)): (_extract, C),
    ("concat", (C, C)): (_concat, C),
    (INNER["sum"], (C,)): (cx.sum_of, C),
    (ops.mean, (C,)): (_mean, C),
    (ops.sqnorm2, (C,)): (_sqnorm2, R),
    (ops.norm2, (C,)): (_norm2, R),
    (ops.sqdist, (C, C)): (_sqdist, R),
}


def meaning(make: str | Callable[..., Expr], flags: tuple[bool, ...]) -> tuple[Callable, type[LazyTensor]]:
    """What an operation builds where some operands are complex, and the class of its result.

    Raises
    ------
    FormulaError
        If it has no meaning for complex numbers.
    """
    found = MEANINGS.get((make, flags))
    if found is None:
        name = make if isinstance(make, str) else make.__name__
        which = "real and complex operands" if False in flags else "complex numbers"
        raise FormulaError(f"{name} is not defined for {which}; use .real, .imag or abs() of them.")
    return found[0], ComplexLazyTensor if found[1] else LazyTensor

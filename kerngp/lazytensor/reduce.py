"""From a formula and its operands to numbers in the caller's library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from .. import options as _options
from ..engine.arrays import Kind, adopt_target, is_complex, restore
from ..engine.expr import Expr
from ..engine.mapreduce import map_reduce
from ..engine.operands import Operands, bind, renumber
from ..engine.reduction import Reduction
from ..errors import DTypeError, FormulaError, OptionError, ShapeError
from .pairs import visible

Settings = dict[str, Any]
Finish = Callable[[torch.Tensor], torch.Tensor]

_EXAMPLE = {"i": "x[:, None, :]", "j": "y[None, :, :]"}
_BACKENDS = {"cpu": "cpu", "gpu": "cuda"}
# what is no option of the engine: arguments of the reduction itself, and what KeOps offers for speed or
# accuracy and this engine decides by itself
_NO_EFFECT = {
    "out",
    "ranges",
    "device_id",
    "dtype_acc",
    "use_double_acc",
    "sum_scheme",
    "enable_chunks",
    "use_fast_math",
    "optional_flags",
}


def compute(
    expr: Expr,
    operands: Operands,
    r: Reduction,
    letter: str,
    settings: Settings,
    flat: bool = False,
    finish: Finish | None = None,
) -> Any:
    """Reduce over ``letter``; ``finish`` is applied to the result, ``flat`` drops the axis of the components.

    Raises
    ------
    ShapeError, FormulaError, OptionError
    """
    out = tensors(expr, operands, r, letter, settings)
    kind = operands.kind
    if isinstance(out, tuple):
        if settings and settings.get("out") is not None:
            raise OptionError(f"out= holds one array, but {r.name} returns {len(out)}; leave it out.")
        return tuple(restore(t, kind) for t in out)
    return deliver(finish(out) if finish else out, kind, settings, flat)


def deliver(out: torch.Tensor, kind: Kind | None, settings: Settings, flat: bool = False) -> Any:
    """A result in the caller's library, or written to the ``out=`` of the settings."""
    if flat:
        out = out.squeeze(-1)
    target = settings.get("out") if settings else None
    if target is None:
        return restore(out, kind)
    out = out.detach()
    if out.is_complex():
        if not is_complex(target):
            raise DTypeError(f"out has dtype {target.dtype}; the result is complex, of dtype {out.dtype}.")
        _write(out.real, target.real)
        _write(out.imag, target.imag)
    else:
        _write(out, target)
    return target


def _write(out: torch.Tensor, target: Any) -> None:
    place = adopt_target("out", target)
    if place.shape != out.shape or place.dtype != out.dtype:
        raise ShapeError(
            f"out has shape {tuple(place.shape)} and dtype {place.dtype}; the result has shape "
            f"{tuple(out.shape)} and dtype {out.dtype}: make it like that."
        )
    place.copy_(out)


def tensors(expr: Expr, operands: Operands, r: Reduction, letter: str, settings: Settings) -> Any:
    """The same, as torch tensors."""
    concrete(operands)
    if letter not in operands.axes and not operands.unit:
        shape = (*operands.batch, *operands.sizes, expr.dim)
        raise ShapeError(
            f"{r.name} over {letter}: no operand of this LazyTensor of shape {shape} is indexed by {letter}. "
            f"Index one by {letter}, {_EXAMPLE[letter]}, or reduce the other axis."
        )
    options = chosen(settings) if settings else None
    ranges = settings.get("ranges") if settings else None
    out = map_reduce(
        visible(expr, operands.keep, r),
        r,
        operands.tensors(),
        axis=letter,
        sizes=operands.sizes,
        ranges=operands.ranges if ranges is None else ranges,
        options=options,
    )
    if r.code == "kmin" and expr.dim == 1:
        return tuple(t.squeeze(-1) for t in out) if isinstance(out, tuple) else out.squeeze(-1)
    return out


def concrete(operands: Operands) -> Operands:
    """The operands, all of which must be arrays by now."""
    if operands.symbolic:
        raise FormulaError(
            "this LazyTensor has symbolic variables, so there is nothing to compute with yet: reduce it, "
            "then call the result with the arrays."
        )
    return operands


def chosen(settings: Settings) -> _options.Options | None:
    """The options that the keyword arguments of a reduction ask for."""
    changes = {k: v for k, v in settings.items() if k not in _NO_EFFECT and v is not None}
    if not changes:
        return None
    if "backend" in changes:  # KeOps writes "CPU", "GPU_1D", "GPU_2D_device", ...
        name = str(changes["backend"])
        changes["backend"] = _BACKENDS.get(name.lower().partition("_")[0], name)
    for name in changes:
        if not hasattr(_options.current(), name):
            raise OptionError(
                f"{name}= is not an argument of a reduction; see kerngp.options for what there is."
            )
    return replace(_options.current(), **changes)


class Deferred:
    """A reduction to be called later, with the arrays of its symbolic variables in order."""

    __slots__ = ("expr", "finish", "letter", "operands", "record", "settings")

    def __init__(
        self,
        expr: Expr,
        operands: Operands,
        record: Reduction,
        letter: str,
        settings: Settings,
        finish: Finish | None = None,
    ) -> None:
        self.expr, self.operands, self.finish = expr, operands, finish
        self.record, self.letter, self.settings = record, letter, settings

    def __call__(self, *arrays: Any, **settings: Any) -> Any:
        """The result for these arrays, in their library."""
        bound, places = bind(self.operands, arrays)
        expr, chosen = renumber(self.expr, places), {**self.settings, **settings}
        return compute(expr, bound, self.record, self.letter, chosen, finish=self.finish)

    def __repr__(self) -> str:
        return f"Deferred({self.record} over {self.letter} of {self.expr})"

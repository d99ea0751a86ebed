"""The engine as one operator of torch, ``kerngp::map_reduce``: what compiled and traced graphs hold.

A graph records the text of a call (see `text`) and its arrays. Sizes may be symbolic: the shapes of
results follow from those of the arguments without computing anything. A call that nothing traces
does not come here: an operator costs as much as the engine's smallest calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .. import options as _options
from ..errors import BackendUnavailable
from ..options import Options
from .autograd import Sizes, apart, cotangents, kind_of, selected_cotangents, with_residuals
from .mapreduce import launch, transforming
from .plan import Geometry, Output, measure, shapes_of
from .ranges import Ranges
from .reduction import KINDS
from .sketch import formula, known
from .text import from_text, reduction, to_text

Tensor = torch.Tensor


def traced(
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    sizes: Sizes,
    options: Options | None,
    ranges: Ranges | None,
) -> list[tuple[Tensor, ...]]:
    """`map_reduce_many` while `torch.compile` looks on. Options are those of the time of compilation.

    Raises
    ------
    BackendUnavailable
        Forward mode or a transform of `torch.func` inside the compiled function, or blocks of pairs.
        torch wraps it.
    """
    _refuse_ranges(ranges)
    _refuse_transforms()
    # the compiler hands over formulas and constants, but no record that is made while it looks on
    parts = []
    for o in outputs:
        parts += [known(o.expr), o.reduction.name, o.reduction.k, o.reduction.scores, o.axis]
    found = _called(_call(options, *parts), _counts(*parts), args, sizes)
    return [values[:n] for values, n in zip(found, _asked(*parts), strict=True)]


def recorded(
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    sizes: Sizes,
    options: Options,
    ranges: Ranges | None,
) -> list[tuple[Tensor, ...]]:
    """`launch`, as a call of the operator."""
    _refuse_ranges(ranges)
    counts = tuple(len(o.reduction.outputs) for o in outputs)
    return _called(to_text(outputs, options), counts, args, sizes)


def _refuse_ranges(ranges: Ranges | None) -> None:
    if ranges is not None:
        raise BackendUnavailable(
            "reductions restricted to ranges cannot be part of a compiled or traced graph; call them outside."
        )


def _called(
    call: str, counts: tuple[int, ...], args: tuple[Tensor, ...], sizes: Sizes
) -> list[tuple[Tensor, ...]]:
    flat = torch.ops.kerngp.map_reduce(call, list(args), sizes[0], sizes[1])
    results, at = [], 0
    for n in counts:
        results.append(tuple(flat[at : at + n]))
        at += n
    return results


@torch.compiler.assume_constant_result
def _refuse_transforms() -> None:
    if transforming():
        raise BackendUnavailable(
            "forward mode and the transforms of torch.func cannot be compiled with kernel reductions inside; "
            "leave the transform out of torch.compile, or mark the function that has it with "
            "torch.compiler.disable."
        )


@torch.compiler.assume_constant_result
def _call(options: Options | None, *parts: Any) -> str:
    return to_text(_recorded(parts), options or _options.current())


@torch.compiler.assume_constant_result
def _counts(*parts: Any) -> tuple[int, ...]:
    return tuple(len(o.reduction.outputs) for o in _recorded(parts))


@torch.compiler.assume_constant_result
def _asked(*parts: Any) -> tuple[int, ...]:
    return tuple(len(o.reduction.outputs) for o in _outputs(parts))


def _recorded(parts: tuple) -> tuple[Output, ...]:
    """With all that a derivative needs: whether one will be asked for is not known yet."""
    return tuple(map(with_residuals, _outputs(parts)))


def _outputs(parts: tuple) -> tuple[Output, ...]:
    formulas, records = map(formula, parts[::5]), map(reduction, parts[1::5], parts[2::5], parts[3::5])
    return tuple(map(Output, formulas, records, parts[4::5]))


@torch.library.custom_op("kerngp::map_reduce", mutates_args=())
def _map_reduce(call: str, args: Sequence[Tensor], M: int | None, N: int | None) -> list[Tensor]:
    outputs, options = from_text(call)
    return apart(launch(outputs, tuple(args), (M, N), options))


@_map_reduce.register_fake
def _shapes(call: str, args: Sequence[Tensor], M: int | None, N: int | None) -> list[Tensor]:
    outputs, _ = from_text(call)
    g = _geometry(outputs, tuple(args), (M, N))
    results = []
    for o in outputs:
        r = o.reduction
        rows = {"j": (g.M,), "i": (g.N,), "ij": ()}[o.axis]
        kept = (r.k,) if r.code == "kmin" else ()
        for kind, dim in zip(r.outputs, r.dims(o.expr.dim), strict=True):
            shape = (*g.batch, *rows, *kept, dim)
            results.append(torch.empty(shape, dtype=KINDS.get(kind, g.dtype), device=g.device))
    return results


def _geometry(outputs: tuple[Output, ...], args: tuple[Tensor, ...], sizes: Sizes) -> Geometry:
    return measure.__wrapped__(outputs, shapes_of(args), sizes)  # symbolic sizes cannot be looked up


def _remember(ctx: Any, inputs: tuple, output: list[Tensor]) -> None:
    ctx.call, args, M, N = inputs
    ctx.sizes, ctx.count = (M, N), len(args)
    ctx.mark_non_differentiable(*(t for t in output if not t.is_floating_point()))
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*args, *output)


def _backward(ctx: Any, grads: list[Tensor | None]) -> tuple:
    outputs, options = from_text(ctx.call)
    args, results = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
    wanted = tuple(k for k, needs in enumerate(ctx.needs_input_grad[1]) if needs)
    owners = [o for o in outputs for _ in o.reduction.outputs]
    smooth = [k for k, o in enumerate(owners) if kind_of(o.reduction) == "smooth"]
    total = cotangents(
        tuple(o for o in outputs if kind_of(o.reduction) == "smooth"),
        args,
        tuple(results[k] for k in smooth),
        tuple(grads[k] for k in smooth),
        wanted,
        ctx.sizes,
        options,
    )
    for o, h in zip(owners, grads, strict=True):
        if kind_of(o.reduction) == "selected" and h is not None:
            g = _geometry((o,), args, ctx.sizes)
            more = selected_cotangents(o, args, h, wanted, g, options)
            total = [b if a is None else a if b is None else a + b for a, b in zip(total, more, strict=True)]
    return None, total, None, None


_map_reduce.register_autograd(_backward, setup_context=_remember)

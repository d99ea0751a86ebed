"""Forward mode and the transforms of `torch.func`: the same derivatives under torch's other machinery.

torch asks a function for its vjp, its jvp and its rule for one more batch axis, and nests them
itself. The vjp and the jvp are those of `autograd`; a batch axis becomes a leading one. Plain
autograd does without this: recording a call here costs several times as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._C._functorch import (
    is_functorch_wrapped_tensor,
    is_legacy_batchedtensor,
    peek_interpreter_stack,
)
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import forward_ad

from ..errors import BackendUnavailable
from ..options import Options
from .autograd import Sizes, apart, by_kind, cotangents, grouped, kind_of, tangents
from .expr import variables
from .mapreduce import launch, map_reduce_many, transforming
from .plan import Output
from .ranges import Ranges

Tensor = torch.Tensor


def needed(args: tuple[Tensor, ...]) -> bool:
    """Whether a transform or a dual level that is active has a part in these arguments."""
    recorded = torch.is_grad_enabled() and peek_interpreter_stack() is not None
    return any(
        is_functorch_wrapped_tensor(a)
        or (recorded and a.requires_grad)
        or forward_ad.unpack_dual(a).tangent is not None
        for a in args
        if isinstance(a, Tensor)
    )


def refuse(what: str, args: Sequence[Tensor]) -> None:
    """Refuse what has no rule for transforms: its derivative would be wrong or lost.

    Raises
    ------
    BackendUnavailable
    """
    if transforming() and needed(tuple(args)):
        raise BackendUnavailable(
            f"forward mode and the transforms of torch.func are not defined for {what} in this version; "
            "use torch.autograd.grad or backward, which work to any order."
        )


def transformable(
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    sizes: Sizes,
    options: Options,
    ranges: Ranges | None,
) -> list[tuple[Tensor, ...]]:
    """`launch`, as a function that every transform of torch knows."""
    return by_kind(outputs, args, sizes, options, ranges, _apply, _apply)


@dataclass(frozen=True)
class _Call:
    """What a pass computes, without its arrays."""

    outputs: tuple[Output, ...]
    sizes: Sizes
    options: Options
    ranges: Ranges | None


def _apply(
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    sizes: Sizes,
    options: Options,
    ranges: Ranges | None,
) -> list[tuple[Tensor, ...]]:
    return grouped(outputs, _Pass.apply(_Call(outputs, sizes, options, ranges), *args))


class _Pass(torch.autograd.Function):
    """One pass. Smooth reductions are differentiable; selections find their entries and columns."""

    @staticmethod
    def forward(call: _Call, *args: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return tuple(apart(launch(call.outputs, args, call.sizes, call.options, call.ranges)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        call, *args = inputs
        ctx.call, ctx.count = call, len(args)
        smooth = [kind_of(o.reduction) == "smooth" for o in call.outputs for _ in o.reduction.outputs]
        ctx.mark_non_differentiable(*(t for t, s in zip(output, smooth, strict=True) if not s))
        ctx.save_for_backward(*args, *output)
        ctx.save_for_forward(*args, *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        args, values = _saved(ctx)
        wanted = tuple(k for k in range(ctx.count) if ctx.needs_input_grad[1 + k])
        c = ctx.call
        return (None, *cotangents(c.outputs, args, values, grads, wanted, c.sizes, c.options, c.ranges))

    @staticmethod
    def jvp(ctx: Any, _: None, *given: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        args, values = _saved(ctx)
        c = ctx.call
        return tangents(c.outputs, args, values, given, c.sizes, c.options, c.ranges)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, call: _Call, *args: Tensor) -> tuple:  # type: ignore[override]
        moved, batched = _with_leading_axis(call.outputs, args, in_dims[1:])
        flat = _Pass.apply(call, *moved)
        return flat, tuple(0 if batched else None for _ in flat)


def _with_leading_axis(
    outputs: tuple[Output, ...], args: tuple[Tensor, ...], dims: tuple[int | None, ...]
) -> tuple[tuple[Tensor, ...], bool]:
    """The arguments with one more batch axis, ``dims``, before all others; and whether results have it."""
    core = {v.attr[0]: 1 if v.attr[2] == "p" else 2 for v in variables(*(o.expr for o in outputs))}
    rank = max((args[k].dim() - (dims[k] is not None) - n for k, n in core.items()), default=0)
    moved = list(args)
    for k, n in core.items():
        d = dims[k]
        if d is not None:
            a = args[k].movedim(d, 0)
            moved[k] = a[(slice(None), *[None] * (rank - (a.dim() - 1 - n)))]
    return tuple(moved), any(dims[k] is not None for k in core)


def derivatives(
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    sizes: Sizes,
    options: Options,
    ranges: Ranges | None,
    level: int | None = None,
) -> list[tuple[Tensor, ...]]:
    """`map_reduce_many` of what autograd hands to a backward or a jvp.

    With ``is_grads_batched`` and ``vectorize=True`` these may be tensors of torch's older vmap, which has
    no interpreter that would ask `_Pass`: their axes are taken off here, level by level.
    """
    legacy = [is_legacy_batchedtensor(a) for a in args]
    if not any(legacy):
        return map_reduce_many(outputs, args, sizes=sizes, ranges=ranges, options=options)
    if level is None:
        level = torch._C._vmapmode_increment_nesting() - 1
        torch._C._vmapmode_decrement_nesting()
    plain = tuple(
        torch._remove_batch_dim(a, level, 1, 0) if b else a  # type: ignore[attr-defined]
        for a, b in zip(args, legacy, strict=True)
    )
    moved, batched = _with_leading_axis(outputs, plain, tuple(0 if b else None for b in legacy))
    found = derivatives(outputs, moved, sizes, options, ranges, level - 1)
    if not batched:
        return found
    add = torch._add_batch_dim  # type: ignore[attr-defined]
    return [tuple(add(t, 0, level) for t in out) for out in found]


def _saved(ctx: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Arguments and outputs. The function that `torch.func.vjp` returns runs after its level has ended."""
    saved = unwrap_dead_wrappers(ctx.saved_tensors)
    return saved[: ctx.count], saved[ctx.count :]

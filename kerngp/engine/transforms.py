"""Forward mode and the transforms of `torch.func`: the same derivatives under torch's other machinery.

torch asks a function for its vjp, its jvp and its rule for one more batch axis, and nests them
itself. The vjp and the jvp are those of `autograd`; a batch axis becomes a leading one. Plain
autograd does without this: recording a call here costs several times as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch._C._functorch import is_functorch_wrapped_tensor, peek_interpreter_stack
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import forward_ad

from ..options import Options
from .autograd import Results, Sizes, by_kind, cotangents, grouped, kind, selected, tangents
from .expr import variables
from .mapreduce import launch
from .plan import Output, measure, shapes_of
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


def transformable(
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    sizes: Sizes,
    options: Options,
    ranges: Ranges | None,
) -> Results:
    """`launch`, as a function that every transform of torch knows."""
    g = measure(outputs, shapes_of(args), sizes).within(ranges)

    def compute(some: tuple[Output, ...]) -> Results:
        return _apply(some, args, (g.M, g.N), options, g.ranges)

    return by_kind(outputs, compute, compute, lambda o: selected(o, args, g, options, _apply))


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
    ranges: Ranges | None = None,
) -> Results:
    return grouped(outputs, _Pass.apply(_Call(outputs, sizes, options, ranges), *args))


class _Pass(torch.autograd.Function):
    """One pass. What has a seed is differentiable; selections find their entries and columns."""

    @staticmethod
    def forward(call: _Call, *args: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return tuple(
            t for out in launch(call.outputs, args, call.sizes, call.options, call.ranges) for t in out
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        call, *args = inputs
        ctx.call, ctx.count = call, len(args)
        smooth = [kind(o.reduction) == "smooth" for o in call.outputs for _ in o.reduction.outputs]
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
        core = {v.attr[0]: 1 if v.attr[2] == "p" else 2 for v in variables(*(o.expr for o in call.outputs))}
        rank = max((args[k].dim() - (in_dims[1 + k] is not None) - n for k, n in core.items()), default=0)
        moved = list(args)
        for k, n in core.items():
            if in_dims[1 + k] is not None:
                a = args[k].movedim(in_dims[1 + k], 0)
                moved[k] = a[(slice(None), *[None] * (rank - (a.dim() - 1 - n)))]
        batched = any(in_dims[1 + k] is not None for k in core)
        flat = _Pass.apply(call, *moved)
        return flat, tuple(0 if batched else None for _ in flat)


def _saved(ctx: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Arguments and outputs. The function that `torch.func.vjp` returns runs after its level has ended."""
    saved = unwrap_dead_wrappers(ctx.saved_tensors)
    return saved[: ctx.count], saved[ctx.count :]

"""The one differentiation rule: gradients of reductions are reductions of other formulas.

Sums: each argument's cotangent is the sum, over the other axis, of the vjp of the formula; all of
them leave one pass. logsumexp: the same sum, weighted with exp(f - lse). Selections: the envelope
theorem, by evaluating the formula at the selected pairs, which torch differentiates itself.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from ..options import Options
from .autodiff import transpose, vjp
from .expr import Expr, var, variables
from .ops import exp, ifelse, value_of, widen
from .plan import Geometry, Output, measure, shapes_of
from .ranges import Ranges
from .reductions import SUM, Reduction

Tensor = torch.Tensor
Sizes = tuple[int | None, int | None]
KEPT = {"j": "i", "i": "j", "ij": "p"}  # reduced axis -> axis of the result
OTHER = {"i": "j", "j": "i", "p": "ij"}  # axis of a variable -> axis its cotangent is summed over


def differentiable(
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    sizes: Sizes,
    options: Options,
    ranges: Ranges | None,
) -> list[tuple[Tensor, ...]]:
    """`launch`, recorded by torch autograd."""
    g = measure(outputs, shapes_of(args), sizes).within(ranges)
    sums = tuple(o for o in outputs if not o.reduction.selects)
    smooth: dict[Output, tuple[Tensor, ...]] = {}
    if sums:
        values = _Smooth.apply(sums, g, options, *args)
        smooth = {o: (v,) for o, v in zip(sums, values, strict=True)}
    return [smooth[o] if o in smooth else _selected(o, args, g, options) for o in outputs]


class _Smooth(torch.autograd.Function):
    """Sums and logsumexps over common pairs; forward and backward are one pass each."""

    @staticmethod
    def forward(
        ctx: Any, outputs: tuple[Output, ...], g: Geometry, options: Options, *args: Tensor
    ) -> tuple[Tensor, ...]:
        from .mapreduce import launch

        values = tuple(v[0] for v in launch(outputs, args, (g.M, g.N), options, g.ranges))
        ctx.outputs, ctx.g, ctx.options = outputs, g, options
        ctx.save_for_backward(*args, *values)
        ctx.set_materialize_grads(False)
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        from .mapreduce import map_reduce_many

        outputs, g = ctx.outputs, ctx.g
        n = len(ctx.saved_tensors) - len(outputs)
        args, values = ctx.saved_tensors[:n], ctx.saved_tensors[n:]
        wanted = tuple(k for k in range(n) if ctx.needs_input_grad[3 + k])
        active = tuple(k for k, h in enumerate(grads) if h is not None)
        targets, gradient = gradient_outputs(outputs, n, wanted, active)
        extra = [h.contiguous() for h in grads if h is not None] + list(values)
        found = (
            map_reduce_many(gradient, (*args, *extra), sizes=(g.M, g.N), ranges=g.ranges, options=ctx.options)
            if gradient
            else []
        )
        result: list[Tensor | None] = [None] * n
        for k, (value,) in zip(targets, found, strict=True):
            result[k] = value.sum_to_size(args[k].shape)
        return (None, None, None, *result)


@functools.lru_cache(maxsize=4096)
def gradient_outputs(
    outputs: tuple[Output, ...], n: int, wanted: tuple[int, ...], active: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[Output, ...]]:
    """Formulas of the cotangents of arguments ``wanted``.

    New arguments: the cotangents of the outputs ``active`` from position n on, then all outputs.
    Returns the arguments that have a gradient and the reduction that gives each.
    """
    leaves = {v.attr[0]: v for v in variables(*(o.expr for o in outputs))}
    totals: dict[int, Expr] = {}
    for position, k in enumerate(active):
        o = outputs[k]
        seed: Expr = var(n + position, o.expr.dim, KEPT[o.axis])
        if o.reduction.code == "logsumexp":
            value = var(n + len(active) + k, o.expr.dim, KEPT[o.axis])
            seed = seed * exp(o.expr - value)
        nodes = tuple(leaves[w] for w in wanted if w in leaves)
        for v, h in zip(nodes, _cotangents(o.expr, seed, nodes), strict=True):
            if h is not None:
                w = v.attr[0]
                totals[w] = totals[w] + h if w in totals else h
    return tuple(totals), tuple(Output(h, SUM, OTHER[leaves[w].attr[2]]) for w, h in totals.items())


def _cotangents(f: Expr, seed: Expr, nodes: tuple[Expr, ...]) -> tuple[Expr | None, ...]:
    """The vjp; where a mask puts a constant in the place of f, 0, even if f has no derivative there."""
    if f.op != "ifelse" or value_of(f.args[2]) is None:
        return vjp(f, seed, nodes)
    keep, inner, _ = f.args
    found = vjp(widen(inner, f.dim), seed, nodes)
    return tuple(None if h is None else ifelse(keep, h, 0.0) for h in found)


def _selected(o: Output, args: tuple[Tensor, ...], g: Geometry, options: Options) -> tuple[Tensor, ...]:
    """A selecting reduction: find the pairs without gradient, then evaluate the formula there."""
    from .mapreduce import launch

    if o.axis == "i":
        o = Output(transpose(o.expr), o.reduction, "j")
        g = g.exchanged()
    found = launch((o,), args, (g.M, g.N), options, g.ranges)[0]
    if "value" not in o.reduction.outputs or g.N == 0:
        return found
    if "index" in o.reduction.outputs:
        index = found[o.reduction.outputs.index("index")]
    else:
        index_only = (Output(o.expr, _index_of(o.reduction)),)
        (index,) = launch(index_only, args, (g.M, g.N), options, g.ranges)[0]
    flat = index if o.reduction.code == "kmin" else index.unsqueeze(-2)  # (*batch, M, k, dim)
    columns = [_at_pairs(_component(o.expr, d), args, flat[..., d], g) for d in range(o.expr.dim)]
    value = torch.stack(columns, -1)
    if o.reduction.code != "kmin":
        value = value.squeeze(-2)
    worst = -torch.inf if o.reduction.negated else torch.inf
    value = torch.where(index < 0, torch.full_like(value, worst), value)
    return tuple(value if kind == "value" else index for kind in o.reduction.outputs)


@functools.lru_cache(maxsize=256)
def _index_of(r: Reduction) -> Reduction:
    from dataclasses import replace

    return replace(r, name="arg" + r.name, outputs=("index",))


def _component(f: Expr, d: int) -> Expr:
    return f if f.dim == 1 else f[d]


def _at_pairs(f: Expr, args: tuple[Tensor, ...], index: Tensor, g: Geometry) -> Tensor:
    """f at the pairs (i, index[..., i, k]), shape (*batch, M, k)."""
    from .backends import reference

    k = index.shape[-1]
    values: dict[int, Tensor] = {}
    for v in variables(f):
        position, dim, axis = v.attr
        a = args[position]
        if axis == "i":
            values[position] = a.unsqueeze(-2)
        elif axis == "p":
            values[position] = a[..., None, None, :]
        else:
            rows = index.clamp_min(0).reshape(*g.batch, g.M * k, 1).expand(*g.batch, g.M * k, dim)
            values[position] = torch.gather(a.expand(*g.batch, g.N, dim), -2, rows).reshape(
                *g.batch, g.M, k, dim
            )
    like = torch.empty(0, dtype=g.dtype, device=g.device)
    return reference.evaluate(f, values, like).expand(*g.batch, g.M, k, 1).squeeze(-1)

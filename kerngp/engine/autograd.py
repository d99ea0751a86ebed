"""The one differentiation rule: gradients of reductions are reductions of other formulas.

Sums: each argument's cotangent is the sum, over the other axis, of the vjp of the formula; all of
them leave one pass. logsumexp: the same sum, weighted with exp(f - lse). Selections: the envelope
theorem, by evaluating the formula at the selected pairs, which torch differentiates itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from ..options import Options
from .autodiff import jvp, transpose, vjp
from .expr import Expr, var, variables
from .ops import exp
from .plan import Geometry, Output, measure, shapes_of
from .reductions import SUM, named

Tensor = torch.Tensor
Sizes = tuple[int | None, int | None]
KEPT = {"j": "i", "i": "j", "ij": "p"}  # reduced axis -> axis of the result
OTHER = {"i": "j", "j": "i", "p": "ij"}  # axis of a variable -> axis its cotangent is summed over


def differentiable(
    outputs: tuple[Output, ...], args: tuple[Tensor, ...], sizes: Sizes, options: Options
) -> list[tuple[Tensor, ...]]:
    """`launch`, recorded by torch autograd."""
    from .mapreduce import launch

    g = measure(outputs, shapes_of(args), sizes)
    sums = tuple(o for o in outputs if not o.reduction.selects)
    smooth: dict[Output, tuple[Tensor, ...]] = {}
    if sums:
        values = _Smooth.apply(sums, g, options, *args)
        smooth = {o: (v,) for o, v in zip(sums, values, strict=True)}
    return [smooth[o] if o in smooth else selected(o, args, g, options, launch) for o in outputs]


class _Smooth(torch.autograd.Function):
    """Sums and logsumexps over common pairs; forward and backward are one pass each."""

    @staticmethod
    def forward(
        ctx: Any, outputs: tuple[Output, ...], g: Geometry, options: Options, *args: Tensor
    ) -> tuple[Tensor, ...]:
        from .mapreduce import launch

        ctx.outputs, ctx.sizes, ctx.options = outputs, (g.M, g.N), options
        values = tuple(v[0] for v in launch(outputs, args, ctx.sizes, options))
        ctx.save_for_backward(*args, *values)
        ctx.set_materialize_grads(False)
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        n = len(ctx.saved_tensors) - len(ctx.outputs)
        args, values = ctx.saved_tensors[:n], ctx.saved_tensors[n:]
        wanted = tuple(k for k in range(n) if ctx.needs_input_grad[3 + k])
        found = cotangents(ctx.outputs, args, values, grads, wanted, ctx.sizes, ctx.options)
        return (None, None, None, *found)


def cotangents(
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    values: tuple[Tensor, ...],
    grads: tuple[Tensor | None, ...],
    wanted: tuple[int, ...],
    sizes: Sizes,
    options: Options,
) -> list[Tensor | None]:
    """Cotangents of the arguments ``wanted`` (None elsewhere), given those of the outputs: one pass."""
    from .transforms import derivatives

    active = tuple(k for k, h in enumerate(grads) if h is not None)
    targets, gradient = gradient_outputs(outputs, len(args), wanted, active)
    result: list[Tensor | None] = [None] * len(args)
    if gradient:
        extra = [h.contiguous() for h in grads if h is not None]
        found = derivatives(gradient, (*args, *extra, *values), sizes, options)
        for k, (value,) in zip(targets, found, strict=True):
            result[k] = value.sum_to_size(args[k].shape)
    return result


def tangents(
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    values: tuple[Tensor, ...],
    given: tuple[Tensor | None, ...],
    sizes: Sizes,
    options: Options,
) -> tuple[Tensor | None, ...]:
    """Tangents of the outputs (None for selections), given those of the arguments: one pass."""
    from .transforms import derivatives

    active = tuple(k for k, t in enumerate(given) if t is not None)
    targets, forms = tangent_outputs(outputs, len(args), active)
    extra = [t for t in given if t is not None]
    found = derivatives(forms, (*args, *extra, *values), sizes, options) if forms else []
    smooth = [not o.reduction.selects for o in outputs for _ in o.reduction.outputs]
    result = [torch.zeros_like(v) if s else None for v, s in zip(values, smooth, strict=True)]
    for k, (value,) in zip(targets, found, strict=True):
        result[k] = value.expand_as(values[k])
    return tuple(result)


@functools.lru_cache(maxsize=4096)
def gradient_outputs(
    outputs: tuple[Output, ...], n: int, wanted: tuple[int, ...], active: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[Output, ...]]:
    """Formulas of the cotangents of arguments ``wanted``.

    New arguments: the cotangents of the outputs ``active`` from position n on, then all outputs.
    Returns the arguments that have a gradient and the reduction that gives each.
    """
    leaves = {v.attr[0]: v for v in variables(*(o.expr for o in outputs))}
    nodes = tuple(leaves[w] for w in wanted if w in leaves)
    totals: dict[int, Expr] = {}
    for position, k in enumerate(active):
        o = outputs[k]
        seed = var(n + position, o.expr.dim, KEPT[o.axis])
        seed = _weighted(o, seed, n + len(active) + k)
        for v, h in zip(nodes, vjp(o.expr, seed, nodes), strict=True):
            if h is not None:
                w = v.attr[0]
                totals[w] = totals[w] + h if w in totals else h
    return tuple(totals), tuple(Output(h, SUM, OTHER[leaves[w].attr[2]]) for w, h in totals.items())


@functools.lru_cache(maxsize=4096)
def tangent_outputs(
    outputs: tuple[Output, ...], n: int, active: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[Output, ...]]:
    """Formulas of the tangents of sums and logsumexps, for tangents of the arguments ``active``.

    New arguments: those tangents from position n on, then all outputs. Returns the outputs that
    have a tangent and the reduction that gives each.
    """
    found: dict[int, Output] = {}
    for k, o in enumerate(outputs):
        if o.reduction.selects:
            continue
        leaves = {v.attr[0]: v for v in variables(o.expr)}
        directions = {
            leaves[w]: var(n + position, *leaves[w].attr[1:])
            for position, w in enumerate(active)
            if w in leaves
        }
        df = jvp(o.expr, directions)
        if df is not None:
            found[k] = Output(_weighted(o, df, n + len(active) + k), SUM, o.axis)
    return tuple(found), tuple(found.values())


def _weighted(o: Output, df: Expr, position: int) -> Expr:
    """The summand of a smooth reduction's differential; its value is the argument at ``position``."""
    if o.reduction.code == "logsumexp":
        return df * exp(o.expr - var(position, o.expr.dim, KEPT[o.axis]))
    return df


def selected(
    o: Output, args: tuple[Tensor, ...], g: Geometry, options: Options, find: Callable[..., list]
) -> tuple[Tensor, ...]:
    """A selecting reduction: ``find`` the pairs without gradient, then evaluate the formula there."""
    if o.axis == "i":
        o = Output(transpose(o.expr), o.reduction, "j")
        g = Geometry(g.batch, g.N, g.M, g.dtype, g.device)
    found = find((o,), args, (g.M, g.N), options)[0]
    if "value" not in o.reduction.outputs or g.N == 0:
        return found
    if "index" in o.reduction.outputs:
        index = found[o.reduction.outputs.index("index")]
    else:
        (index,) = find(
            (Output(o.expr, named("arg" + o.reduction.name, o.reduction.k)),), args, (g.M, g.N), options
        )[0]
    flat = index if o.reduction.code == "kmin" else index.unsqueeze(-2)  # (*batch, M, k, dim)
    columns = [_at_pairs(_component(o.expr, d), args, flat[..., d], g) for d in range(o.expr.dim)]
    value = torch.stack(columns, -1)
    if o.reduction.code != "kmin":
        value = value.squeeze(-2)
    worst = -torch.inf if o.reduction.negated else torch.inf
    value = torch.where(index < 0, torch.full_like(value, worst), value)
    return tuple(value if kind == "value" else index for kind in o.reduction.outputs)


def selected_cotangents(
    o: Output, args: tuple[Tensor, ...], grad: Tensor, wanted: tuple[int, ...], g: Geometry, options: Options
) -> list[Tensor | None]:
    """Cotangents of the arguments ``wanted`` (None elsewhere), given that of the value of a selection."""
    from .mapreduce import launch

    again = torch.is_grad_enabled()
    with torch.enable_grad():
        leaves = list(args)
        for k in wanted:
            leaves[k] = args[k].view_as(args[k]) if again else args[k].detach().requires_grad_()
        values = selected(o, tuple(leaves), g, options, launch)
        value = values[o.reduction.outputs.index("value")]
        found = torch.autograd.grad(
            value, [leaves[k] for k in wanted], grad, create_graph=again, allow_unused=True
        )
    result: list[Tensor | None] = [None] * len(args)
    for k, t in zip(wanted, found, strict=True):
        result[k] = t
    return result


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

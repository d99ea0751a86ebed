"""The one differentiation rule: gradients of reductions are reductions of other formulas.

Each argument's cotangent is the sum, over the other axis, of the vjp of the formula; all of them leave one
pass. What that vjp starts from is the reduction's own `seed`: the cotangent of an entry, given the results.
Selections: the envelope theorem, by evaluating the formula at the selected pairs, which torch
differentiates itself.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch

from ..errors import FormulaError
from ..options import Options
from .autodiff import transpose, vjp
from .evaluate import evaluate
from .expr import Expr, var, variables
from .ops import widen, zero
from .plan import Geometry, Output, measure, shapes_of
from .reduction import Reduction
from .reductions import SUM
from .rewrite import simplify

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
    kinds = {o: _kind(o.reduction) for o in outputs}
    found: dict[Output, tuple[Tensor, ...]] = {}
    smooth = tuple(o for o in kinds if kinds[o] == "smooth")
    if smooth:
        recorded = tuple(replace(o, reduction=o.reduction.recorded) for o in smooth)
        values = iter(_Smooth.apply(recorded, g, options, *args))
        for o, r in zip(smooth, recorded, strict=True):
            found[o] = tuple([next(values) for _ in r.reduction.outputs])[: len(o.reduction.outputs)]
    plain = tuple(o for o in kinds if kinds[o] == "plain")
    if plain:
        found.update(zip(plain, launch(plain, args, (g.M, g.N), options), strict=True))
    return [found[o] if o in found else _selected(o, args, g, options) for o in outputs]


def _kind(r: Reduction) -> str:
    if "value" not in r.outputs:
        return "plain"  # whole numbers and truths: nothing to differentiate
    return "selected" if r.selects else "smooth"


class _Smooth(torch.autograd.Function):
    """Reductions over common pairs that have a seed; forward and backward are one pass each."""

    @staticmethod
    def forward(
        ctx: Any, outputs: tuple[Output, ...], g: Geometry, options: Options, *args: Tensor
    ) -> tuple[Tensor, ...]:
        from .mapreduce import launch

        values = tuple(v for found in launch(outputs, args, (g.M, g.N), options) for v in found)
        ctx.outputs, ctx.g, ctx.options, ctx.count = outputs, g, options, len(args)
        ctx.save_for_backward(*args, *values)
        ctx.set_materialize_grads(False)
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        from .mapreduce import map_reduce_many

        outputs, g, n = ctx.outputs, ctx.g, ctx.count
        args, values = ctx.saved_tensors[:n], ctx.saved_tensors[n:]
        wanted = tuple(k for k in range(n) if ctx.needs_input_grad[3 + k])
        active = tuple(k for k, h in enumerate(grads) if h is not None)
        targets, gradient = gradient_outputs(outputs, n, wanted, active)
        extra = [h.contiguous() for h in grads if h is not None] + list(values)
        found = (
            map_reduce_many(gradient, (*args, *extra), sizes=(g.M, g.N), options=ctx.options)
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

    New arguments: the cotangents of the results ``active`` from position n on, then all results.
    Returns the arguments that have a gradient and the reduction that gives each.

    Raises
    ------
    FormulaError
        A reduction without a derivative.
    """
    leaves = {v.attr[0]: v for v in variables(*(o.expr for o in outputs))}
    nodes = tuple(leaves[w] for w in wanted if w in leaves)
    totals: dict[int, Expr] = {}
    first = 0
    for o in outputs:
        dims = o.reduction.dims(o.expr.dim)
        places = range(first, first + len(dims))
        first += len(dims)
        if not set(places) & set(active):
            continue
        seed = _seed(o, dims, places, n, active)
        for v, h in zip(nodes, vjp(o.expr, seed, nodes), strict=True):
            if h is not None:
                w = v.attr[0]
                totals[w] = totals[w] + h if w in totals else h
    return tuple(totals), tuple(Output(h, SUM, OTHER[leaves[w].attr[2]]) for w, h in totals.items())


def _seed(o: Output, dims: tuple[int, ...], places: range, n: int, active: tuple[int, ...]) -> Expr:
    """The cotangent of an entry of ``o``, whose results are number ``places`` of all."""
    if o.reduction.seed is None:
        raise FormulaError(
            f"the reduction {o.reduction.name} has no derivative; detach its arguments, or define it with "
            "gradient=."
        )
    results, cotangents = [], []
    for place, dim in zip(places, dims, strict=True):
        results.append(var(n + len(active) + place, dim, KEPT[o.axis]))
        there = place in active
        cotangents.append(var(n + active.index(place), dim, KEPT[o.axis]) if there else zero(dim))
    seed = o.reduction.seed(o.reduction, o.expr, tuple(results), tuple(cotangents))
    return simplify(widen(seed, o.expr.dim))  # products with cotangents that are not there vanish


def _selected(o: Output, args: tuple[Tensor, ...], g: Geometry, options: Options) -> tuple[Tensor, ...]:
    """A selecting reduction: find the pairs without gradient, then evaluate the formula there."""
    from .mapreduce import launch

    if o.axis == "i":
        o = Output(transpose(o.expr), o.reduction, "j")
        g = Geometry(g.batch, g.N, g.M, g.dtype, g.device)
    found = launch((o,), args, (g.M, g.N), options)[0]
    if "value" not in o.reduction.outputs or g.N == 0:
        return found
    if "index" in o.reduction.outputs:
        index = found[o.reduction.outputs.index("index")]
    else:
        (index,) = launch((Output(o.expr, _index_of(o.reduction)),), args, (g.M, g.N), options)[0]
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
    return replace(r, name="arg" + r.name, outputs=("index",))


def _component(f: Expr, d: int) -> Expr:
    return f if f.dim == 1 else f[d]


def _at_pairs(f: Expr, args: tuple[Tensor, ...], index: Tensor, g: Geometry) -> Tensor:
    """f at the pairs (i, index[..., i, k]), shape (*batch, M, k)."""
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
    return evaluate(f, values, like).expand(*g.batch, g.M, k, 1).squeeze(-1)

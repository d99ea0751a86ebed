"""The one differentiation rule: gradients of reductions are reductions of other formulas.

Each reduction with a derivative has a *seed*: the cotangent of an entry, as a formula of the entry, of the
results and of their cotangents. Each argument's cotangent is the sum, over the other axis, of the vjp of the
entry's formula for that seed; a tangent is the sum of the transpose. All of them leave one pass. Selections:
the envelope theorem, by evaluating the formula at the selected pairs, which torch differentiates itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch

from ..errors import FormulaError
from ..options import Options
from .autodiff import jvp, transpose, vjp
from .evaluate import evaluate
from .expr import Expr, var, variables
from .ops import ifelse, value_of, widen, zero
from .plan import Geometry, Output, measure, shapes_of
from .ranges import Ranges
from .reduction import Reduction
from .reductions import SUM, named
from .rewrite import simplify

Tensor = torch.Tensor
Sizes = tuple[int | None, int | None]
Results = list[tuple[Tensor, ...]]
KEPT = {"j": "i", "i": "j", "ij": "p"}  # reduced axis -> axis of the result
OTHER = {"i": "j", "j": "i", "p": "ij"}  # axis of a variable -> axis its cotangent is summed over


def differentiable(
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    sizes: Sizes,
    options: Options,
    ranges: Ranges | None,
) -> Results:
    """`launch`, recorded by torch autograd."""
    from .mapreduce import launch

    g = measure(outputs, shapes_of(args), sizes).within(ranges)
    return by_kind(
        outputs,
        lambda smooth: grouped(smooth, _Smooth.apply(smooth, g, options, *args)),
        lambda plain: launch(plain, args, (g.M, g.N), options, g.ranges),
        lambda o: selected(o, args, g, options, launch),
    )


def by_kind(
    outputs: tuple[Output, ...],
    smooth: Callable[[tuple[Output, ...]], Results],
    plain: Callable[[tuple[Output, ...]], Results],
    selection: Callable[[Output], tuple[Tensor, ...]],
) -> Results:
    """Results of all outputs, each from the function of its kind.

    Smooth outputs come with the residuals of their derivatives, which are left out of the result.
    """
    kinds = {o: kind(o.reduction) for o in outputs}
    found = {o: selection(o) for o in kinds if kinds[o] == "selected"}
    sums = tuple(o for o in kinds if kinds[o] == "smooth")
    if sums:
        results = smooth(tuple(replace(o, reduction=o.reduction.recorded) for o in sums))
        found.update((o, v[: len(o.reduction.outputs)]) for o, v in zip(sums, results, strict=True))
    rest = tuple(o for o in kinds if kinds[o] == "plain")
    if rest:
        found.update(zip(rest, plain(rest), strict=True))
    return [found[o] for o in outputs]


def kind(r: Reduction) -> str:
    """ "plain" (whole numbers and truths: nothing to differentiate), "selected" or "smooth"."""
    if "value" not in r.outputs:
        return "plain"
    return "selected" if r.selects else "smooth"


def grouped(outputs: tuple[Output, ...], flat: Iterable[Tensor]) -> Results:
    """The results of a pass, by output."""
    values = iter(flat)
    return [tuple(next(values) for _ in o.reduction.outputs) for o in outputs]


class _Smooth(torch.autograd.Function):
    """Reductions over common pairs that have a seed; forward and backward are one pass each."""

    @staticmethod
    def forward(
        ctx: Any, outputs: tuple[Output, ...], g: Geometry, options: Options, *args: Tensor
    ) -> tuple[Tensor, ...]:
        from .mapreduce import launch

        ctx.outputs, ctx.sizes, ctx.options, ctx.ranges = outputs, (g.M, g.N), options, g.ranges
        ctx.count = len(args)
        found = launch(outputs, args, ctx.sizes, options, g.ranges)
        values = tuple(v for results in found for v in results)
        ctx.save_for_backward(*args, *values)
        ctx.set_materialize_grads(False)
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        args, values = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        wanted = tuple(k for k in range(ctx.count) if ctx.needs_input_grad[3 + k])
        found = cotangents(ctx.outputs, args, values, grads, wanted, ctx.sizes, ctx.options, ctx.ranges)
        return (None, None, None, *found)


def cotangents(
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    values: tuple[Tensor, ...],
    grads: tuple[Tensor | None, ...],
    wanted: tuple[int, ...],
    sizes: Sizes,
    options: Options,
    ranges: Ranges | None = None,
) -> list[Tensor | None]:
    """Cotangents of the arguments ``wanted`` (None elsewhere), given those of the results: one pass."""
    from .mapreduce import map_reduce_many

    active = tuple(k for k, h in enumerate(grads) if h is not None)
    targets, gradient = gradient_outputs(outputs, len(args), wanted, active)
    result: list[Tensor | None] = [None] * len(args)
    if gradient:
        extra = [h.contiguous() for h in grads if h is not None]
        every = (*args, *extra, *values)
        found = map_reduce_many(gradient, every, sizes=sizes, ranges=ranges, options=options)
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
    ranges: Ranges | None = None,
) -> tuple[Tensor | None, ...]:
    """Tangents of the results (None where there is none), given those of the arguments: one pass."""
    from .mapreduce import map_reduce_many

    active = tuple(k for k, t in enumerate(given) if t is not None)
    targets, forms = tangent_outputs(outputs, len(args), active)
    extra = [t for t in given if t is not None]
    every = (*args, *extra, *values)
    found = map_reduce_many(forms, every, sizes=sizes, ranges=ranges, options=options) if forms else []
    smooth = [kind(o.reduction) == "smooth" for o in outputs for _ in o.reduction.outputs]
    result = [torch.zeros_like(v) if s else None for v, s in zip(values, smooth, strict=True)]
    for k, (value,) in zip(targets, found, strict=True):
        result[k] = value.expand_as(values[k])
    return tuple(result)


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
    for o, places in _places(outputs):
        if not set(places) & set(active):
            continue
        results, cotangents = [], []
        for place, dim in zip(places, o.reduction.dims(o.expr.dim), strict=True):
            results.append(var(n + len(active) + place, dim, KEPT[o.axis]))
            there = place in active
            cotangents.append(var(n + active.index(place), dim, KEPT[o.axis]) if there else zero(dim))
        seed = _seed(o, tuple(results), tuple(cotangents))
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


@functools.lru_cache(maxsize=4096)
def tangent_outputs(
    outputs: tuple[Output, ...], n: int, active: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[Output, ...]]:
    """Formulas of the tangents of the results that have a derivative, for tangents of arguments ``active``.

    New arguments: those tangents from position n on, then all results. Returns the results that have a
    tangent and the reduction that gives each.
    """
    found: dict[int, Output] = {}
    for o, places in _places(outputs):
        if kind(o.reduction) != "smooth":
            continue
        leaves = {v.attr[0]: v for v in variables(o.expr)}
        directions = {
            leaves[w]: var(n + position, *leaves[w].attr[1:])
            for position, w in enumerate(active)
            if w in leaves
        }
        df = jvp(o.expr, directions)
        if df is None:
            continue
        dims = o.reduction.dims(o.expr.dim)
        results = tuple(
            var(n + len(active) + place, dim, KEPT[o.axis]) for place, dim in zip(places, dims, strict=True)
        )
        free = n + len(active) + places.stop
        for k, (place, dim) in enumerate(zip(places, dims, strict=True)):
            # the seed is linear in the cotangent: its transpose takes the tangent of an entry
            cotangent = var(free, dim, KEPT[o.axis])
            seed = _seed(o, results, tuple(cotangent if m == k else zero(d) for m, d in enumerate(dims)))
            (tangent,) = vjp(seed, widen(df, seed.dim), (cotangent,))
            if tangent is not None:
                found[place] = Output(tangent, SUM, o.axis)
    return tuple(found), tuple(found.values())


def _places(outputs: tuple[Output, ...]) -> list[tuple[Output, range]]:
    """Each output with the numbers of its results among those of all."""
    found, first = [], 0
    for o in outputs:
        count = len(o.reduction.outputs)
        found.append((o, range(first, first + count)))
        first += count
    return found


def _seed(o: Output, results: tuple[Expr, ...], cotangents: tuple[Expr, ...]) -> Expr:
    """The cotangent of an entry of ``o``."""
    if o.reduction.seed is None:
        raise FormulaError(
            f"the reduction {o.reduction.name} has no derivative; detach its arguments, or define it with "
            "gradient=."
        )
    seed = o.reduction.seed(o.reduction, o.expr, results, cotangents)
    return simplify(widen(seed, o.expr.dim))  # products with cotangents that are not there vanish


def selected(
    o: Output, args: tuple[Tensor, ...], g: Geometry, options: Options, find: Callable[..., list]
) -> tuple[Tensor, ...]:
    """A selecting reduction: ``find`` the pairs without gradient, then evaluate the formula there."""
    if o.axis == "i":
        o = Output(transpose(o.expr), o.reduction, "j")
        g = g.exchanged()
    found = find((o,), args, (g.M, g.N), options, g.ranges)[0]
    if "value" not in o.reduction.outputs or g.N == 0:
        return found
    if "index" in o.reduction.outputs:
        index = found[o.reduction.outputs.index("index")]
    else:
        index_only = (Output(o.expr, named("arg" + o.reduction.name, o.reduction.k)),)
        (index,) = find(index_only, args, (g.M, g.N), options, g.ranges)[0]
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

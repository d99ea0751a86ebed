"""The one differentiation rule: derivatives of reductions are reductions of other formulas.

Each argument's cotangent is the sum, over the other axis, of the vjp of the formula; all of them leave one
pass. What that vjp starts from is the reduction's own `seed`: the cotangent of an entry, given the results.
The tangent of a result is the sum of the seed's transpose, applied to the tangent of the entry.
Selections: the envelope theorem, by a pass over the selected pairs only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch

from ..errors import FormulaError
from ..options import Options
from .autodiff import jvp, on_axes, transpose, vjp
from .expr import Expr, var, variables
from .ops import ifelse, value_of, widen, zero
from .plan import KEPT, Geometry, Output, measure, shapes_of
from .ranges import Ranges
from .reduction import Reduction, with_k
from .reductions import REDUCTIONS, SUM
from .rewrite import simplify

Tensor = torch.Tensor
Sizes = tuple[int | None, int | None]
Pass = Callable[..., list[tuple[Tensor, ...]]]  # of outputs, arguments, sizes, options and ranges
OTHER = {"i": "j", "j": "i", "p": "ij"}  # axis of a variable -> axis its cotangent is summed over


def differentiable(
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    sizes: Sizes,
    options: Options,
    ranges: Ranges | None,
) -> list[tuple[Tensor, ...]]:
    """`launch`, recorded by torch autograd."""
    from .mapreduce import launch

    return by_kind(outputs, args, sizes, options, ranges, _record, launch)


def by_kind(
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    sizes: Sizes,
    options: Options,
    ranges: Ranges | None,
    record: Pass,
    find: Pass,
) -> list[tuple[Tensor, ...]]:
    """Smooth reductions by ``record``, a pass that is differentiable; the others as ``find`` finds them."""
    g = measure(outputs, shapes_of(args), sizes).within(ranges)
    sizes = (g.M, g.N)
    kinds = {o: kind_of(o.reduction) for o in outputs}
    found: dict[Output, tuple[Tensor, ...]] = {}
    smooth = tuple(o for o in kinds if kinds[o] == "smooth")
    if smooth:
        values = record(tuple(map(with_residuals, smooth)), args, sizes, options, g.ranges)
        for o, v in zip(smooth, values, strict=True):
            found[o] = v[: len(o.reduction.outputs)]
    plain = tuple(o for o in kinds if kinds[o] == "plain")
    if plain:
        found.update(zip(plain, find(plain, args, sizes, options, g.ranges), strict=True))
    return [found[o] if o in found else selected(o, args, g, options, record, find) for o in outputs]


def kind_of(r: Reduction) -> str:
    """How a reduction is differentiated: "smooth" by its seed, "selected" at its entries, "plain": not."""
    if "value" not in r.outputs:
        return "plain"  # whole numbers and truths
    return "selected" if r.selects else "smooth"


def with_residuals(o: Output) -> Output:
    """The output with all that its derivative needs among its results."""
    return replace(o, reduction=o.reduction.recorded)


def grouped(outputs: tuple[Output, ...], flat: Iterable[Tensor]) -> list[tuple[Tensor, ...]]:
    """The results of a pass by output, where torch has them one after the other."""
    values = iter(flat)
    return [tuple([next(values) for _ in o.reduction.outputs]) for o in outputs]


def apart(found: list[tuple[Tensor, ...]]) -> list[Tensor]:
    """All results, in memory of their own, as torch asks of an operator: residuals may share a state."""
    results, seen = [], set()
    for t in (t for values in found for t in values):
        place = t.untyped_storage().data_ptr()
        results.append(t.clone() if t._is_view() or place in seen else t)
        seen.add(place)
    return results


def _record(
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    sizes: Sizes,
    options: Options,
    ranges: Ranges | None,
) -> list[tuple[Tensor, ...]]:
    return grouped(outputs, _Smooth.apply(outputs, sizes, options, ranges, *args))


class _Smooth(torch.autograd.Function):
    """Reductions over common pairs that have a seed; forward and backward are one pass each."""

    @staticmethod
    def forward(
        ctx: Any,
        outputs: tuple[Output, ...],
        sizes: Sizes,
        options: Options,
        ranges: Ranges | None,
        *args: Tensor,
    ) -> tuple[Tensor, ...]:
        from .mapreduce import launch

        values = tuple(v for found in launch(outputs, args, sizes, options, ranges) for v in found)
        ctx.call, ctx.outputs, ctx.count = (sizes, options, ranges), outputs, len(args)
        ctx.save_for_backward(*args, *values)
        ctx.set_materialize_grads(False)
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        args, values = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        wanted = tuple(k for k in range(ctx.count) if ctx.needs_input_grad[4 + k])
        return (None, None, None, None, *cotangents(ctx.outputs, args, values, grads, wanted, *ctx.call))


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
    """Cotangents of the arguments ``wanted`` (None elsewhere), given those of the outputs: one pass.

    An argument that stands only in locally constant parts, as in sign(x), has the cotangent 0.
    """
    from .transforms import derivatives

    active = tuple(k for k, h in enumerate(grads) if h is not None)
    targets, gradient = gradient_outputs(outputs, len(args), wanted, active)
    result: list[Tensor | None] = [None] * len(args)
    if active:
        for k in {v.attr[0] for v in variables(*(o.expr for o in outputs))} & set(wanted) - set(targets):
            result[k] = torch.zeros_like(args[k])
    if gradient:
        extra = [h.contiguous() for h in grads if h is not None]
        found = derivatives(gradient, (*args, *extra, *values), sizes, options, ranges)
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
    """Tangents of the outputs (None where there is none to have), given those of the arguments: one pass."""
    from .transforms import derivatives

    active = tuple(k for k, t in enumerate(given) if t is not None)
    targets, forms = tangent_outputs(outputs, len(args), active)
    extra = [t for t in given if t is not None]
    every = (*args, *extra, *values)
    found = derivatives(forms, every, sizes, options, ranges) if forms else []
    smooth = [kind_of(o.reduction) == "smooth" for o in outputs for _ in o.reduction.outputs]
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
    for o, places in _results(outputs):
        if not set(places) & set(active):
            continue
        dims = o.reduction.dims(o.expr.dim)
        given = tuple(
            var(n + active.index(place), dim, KEPT[o.axis]) if place in active else zero(dim)
            for place, dim in zip(places, dims, strict=True)
        )
        # products with cotangents that are not there vanish
        seed = simplify(_seed(o, n + len(active) + places.start, given))
        for v, h in zip(nodes, _masked_vjp(o.expr, seed, nodes), strict=True):
            if h is not None:
                w = v.attr[0]
                totals[w] = totals[w] + h if w in totals else h
    return tuple(totals), tuple(Output(h, SUM, OTHER[leaves[w].attr[2]]) for w, h in totals.items())


def _masked_vjp(f: Expr, seed: Expr, nodes: tuple[Expr, ...]) -> tuple[Expr | None, ...]:
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
    """Formulas of the tangents of smooth reductions, for tangents of the arguments ``active``.

    New arguments: those tangents from position n on, then all results. Returns the results that have
    a tangent and the reduction that gives each.

    Raises
    ------
    FormulaError
        A reduction without a derivative.
    """
    found: dict[int, Output] = {}
    for o, places in _results(outputs):
        if kind_of(o.reduction) != "smooth":
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
        first = n + len(active) + places.start
        free = n + len(active) + sum(len(p.reduction.outputs) for p in outputs)
        given = tuple(var(free + k, dim, KEPT[o.axis]) for k, dim in enumerate(o.reduction.dims(o.expr.dim)))
        for place, h in zip(places, vjp(_seed(o, first, given), df, given), strict=True):
            if h is not None:
                found[place] = Output(h, SUM, o.axis)
    return tuple(found), tuple(found.values())


def _results(outputs: tuple[Output, ...]) -> list[tuple[Output, range]]:
    """Each output with the numbers its results have among all results."""
    found, first = [], 0
    for o in outputs:
        found.append((o, range(first, first + len(o.reduction.outputs))))
        first += len(o.reduction.outputs)
    return found


def _seed(o: Output, first: int, given: tuple[Expr, ...]) -> Expr:
    """The cotangent of an entry for the cotangents ``given``; results are the arguments from ``first`` on."""
    r = o.reduction
    if r.seed is None:
        raise FormulaError(
            f"the reduction {r.name} has no derivative; detach its arguments, or define it with gradient=."
        )
    results = tuple(var(first + k, dim, KEPT[o.axis]) for k, dim in enumerate(r.dims(o.expr.dim)))
    return widen(r.seed(r, o.expr, results, given), o.expr.dim)


def selected(
    o: Output, args: tuple[Tensor, ...], g: Geometry, options: Options, record: Pass, find: Pass
) -> tuple[Tensor, ...]:
    """A selecting reduction: ``find`` the pairs without gradient, then ``record`` a pass over these alone."""
    if o.axis == "i":
        o = Output(transpose(o.expr), o.reduction, "j")
        g = g.exchanged()
    call = (args, (g.M, g.N), options, g.ranges)
    (found,) = find((o,), *call)
    if "value" not in o.reduction.outputs or g.N == 0:
        return found
    if "index" in o.reduction.outputs:
        index = found[o.reduction.outputs.index("index")]
    else:
        ((index,),) = find((Output(o.expr, _index_of(o.reduction)),), *call)
    flat = index if o.reduction.code == "kmin" else index.unsqueeze(-2)  # (*batch, M, k, dim)
    exact = replace(options, precision="exact")
    columns = []
    for d in range(o.expr.dim):
        entry, rows = _at_pairs(_component(o.expr, d), args, flat[..., d], g)
        (at,) = record((entry,), rows, (g.M * flat.shape[-2], 1), exact, None)
        columns.append(at[0].expand(*g.batch, -1, 1).reshape(flat.shape[:-1]))
    value = torch.stack(columns, -1)
    if o.reduction.code != "kmin":
        value = value.squeeze(-2)
    worst = -torch.inf if o.reduction.negated else torch.inf
    value = torch.where(index < 0, torch.full_like(value, worst), value)
    return tuple(value if kind == "value" else index for kind in o.reduction.outputs)


def _index_of(r: Reduction) -> Reduction:
    index = REDUCTIONS["arg" + r.name]
    return with_k(index, r.k) if r.code == "kmin" else index


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
        values = selected(o, tuple(leaves), g, options, _record, launch)
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


def _at_pairs(
    f: Expr, args: tuple[Tensor, ...], index: Tensor, g: Geometry
) -> tuple[Output, tuple[Tensor, ...]]:
    """f at the pairs (i, index[..., i, k]), as a sum over one column with a row for each pair.

    So its derivative is that of the formula: finite at coincident points, where torch's of a root is not.
    """
    k = index.shape[-1]
    rows = list(args)
    for v in variables(f):
        position, dim, axis = v.attr
        a = args[position]
        if axis == "i":
            rows[position] = a.repeat_interleave(k, -2) if k > 1 else a
        elif axis == "j":
            places = index.clamp_min(0).reshape(*g.batch, g.M * k, 1).expand(*g.batch, g.M * k, dim)
            rows[position] = torch.gather(a.expand(*g.batch, g.N, dim), -2, places)
    return Output(on_axes(f, {"i": "i", "j": "i", "p": "p"}), SUM, "j"), tuple(rows)

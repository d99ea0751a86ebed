"""Formulas and arrays in, arrays out: the one entry to the engine.

`map_reduce` is differentiable to any order: the gradient of a sum is again a sum of formulas, and
all first-order gradients of a call come out of one pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad
from torch.compiler import is_dynamo_compiling

from .. import options as _options
from ..errors import BackendUnavailable
from .expr import Expr
from .plan import Geometry, Output, measure, shapes_of
from .ranges import Ranges
from .reduction import Reduction
from .reductions import SUM
from .stages import run_in_stages, staged

Tensor = torch.Tensor


def map_reduce(
    expr: Expr,
    reduction: Reduction = SUM,
    args: Sequence[Tensor] = (),
    *,
    axis: str = "j",
    sizes: tuple[int | None, int | None] = (None, None),
    ranges: Ranges | tuple | None = None,
    options: _options.Options | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """Reduce the values F(p, x_i, y_j) of a formula over j (or i, or both).

    Parameters
    ----------
    expr : Expr
        The formula; its variables name positions in ``args``.
    reduction : Reduction
        Of `engine.reductions`: `SUM`, `LOGSUMEXP`, `MIN`, `ARGMIN`, ..., `KMIN(k)`; of `engine.folds`:
        `PROD`, `MEAN`, `COUNT`, ...; or one made by `kerngp.define_reduction`.
    args : sequence of torch.Tensor
        Shapes (..., M, dim) for i-variables, (..., N, dim) for j-variables, (..., dim) for
        parameters; leading batch axes broadcast. One floating dtype, one device.
    axis : {"j", "i", "ij"}
        The axis that is summed away.
    sizes : (M, N)
        Needed only when no argument is indexed by that axis.
    ranges : Ranges, or KeOps's tuple of six integer arrays, optional
        Visit these blocks of pairs alone, the same in every batch element. Rows without a pair get the
        neutral element: 0, -inf for logsumexp and max, +inf for min, index -1.
    options : Options, optional
        Default: those in force (`kerngp.options`).

    Returns
    -------
    Tensor or tuple of Tensor
        (..., M, dim) for axis "j"; (..., N, dim) for "i"; (..., dim) for "ij". Indices are int64.
        k-min reductions have shape (..., M, k, dim). Counts are int64, answers of any and all bool.
        Reductions of several outputs return a tuple.

    Raises
    ------
    ShapeError, DTypeError, DeviceError, FormulaError, BackendUnavailable

    Examples
    --------
    >>> import torch
    >>> from kerngp.engine.expr import Vi, Vj
    >>> from kerngp.engine.ops import exp, sqdist
    >>> x, y, b = torch.zeros(4, 3), torch.zeros(5, 3), torch.ones(5, 1)
    >>> map_reduce(exp(-sqdist(Vi(0, 3), Vj(1, 3))) * Vj(2, 1), SUM, (x, y, b)).flatten()
    tensor([5., 5., 5., 5.])
    """
    blocks = None if ranges is None else Ranges.of(ranges)
    outputs = (Output(expr, reduction, axis),)
    (out,) = map_reduce_many(outputs, tuple(args), sizes=sizes, ranges=blocks, options=options)
    return out[0] if len(out) == 1 else out


def map_reduce_many(
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    *,
    sizes: tuple[int | None, int | None] = (None, None),
    ranges: Ranges | None = None,
    options: _options.Options | None = None,
) -> list[tuple[Tensor, ...]]:
    """Several reductions of formulas over the same pairs, in one pass where the backend can."""
    if is_dynamo_compiling():
        from .compiled import traced

        return traced(outputs, args, sizes, options, ranges)
    options = options or _options.current()
    if transforming():
        from .transforms import needed, transformable

        if needed(args):
            return transformable(outputs, args, sizes, options, ranges)
    if torch.is_grad_enabled() and any(a.requires_grad for a in args if isinstance(a, Tensor)):
        from .autograd import differentiable

        return differentiable(outputs, args, sizes, options, ranges)
    return launch(outputs, args, sizes, options, ranges)


def transforming() -> bool:
    """Whether a dual level of forward mode or a transform of `torch.func` is active."""
    return forward_ad._current_level >= 0 or peek_interpreter_stack() is not None


def launch(
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    sizes: tuple[int | None, int | None],
    options: _options.Options,
    ranges: Ranges | None = None,
) -> list[tuple[Tensor, ...]]:
    """Compute without recording gradients."""
    if torch._C._len_torch_dispatch_stack():  # a tracer wants to see an operator, not the numbers
        from .compiled import recorded

        return recorded(outputs, args, sizes, options, ranges)
    late = [k for k, o in enumerate(outputs) if o.reduction.scores and staged(o)]
    if late:
        rest = [k for k in range(len(outputs)) if k not in late]
        found = launch(tuple(outputs[k] for k in rest), args, sizes, options, ranges) if rest else []
        results = dict(zip(rest, found, strict=True))
        g = measure(outputs, shapes_of(args), sizes)
        for k in late:
            results[k] = run_in_stages(
                outputs[k], args, lambda o, a: launch((o,), a, (g.M, g.N), options, ranges)[0][0]
            )
        return [results[k] for k in range(len(outputs))]
    shapes = shapes_of(args)
    # views that torch negates when it reads them, and tangents that are zero and have no memory
    if any(a.is_neg() or a._is_zerotensor() for a in args):  # type: ignore[attr-defined]
        args = tuple([a.clone().resolve_neg() for a in args])
        shapes = shapes_of(args)
    g = measure(outputs, shapes, sizes).within(ranges)
    args = tuple([a.detach() if a.requires_grad else a for a in args])
    backend = _backend(options, g)
    if backend == "cpu":
        from .backends import cpu

        return cpu.run(outputs, args, g, options)
    if backend == "cuda":
        from .backends import cuda

        return cuda.run(outputs, args, g, options, shapes)
    from .backends import reference

    return reference.run(outputs, args, g, options.memory_limit)


def _backend(options: _options.Options, g: Geometry) -> str:
    """The backend of a call: the one asked for, or the fastest that serves the device."""
    if options.backend == "cpu" and g.device.type != "cpu":
        raise BackendUnavailable(f"backend='cpu' was asked for, but the arguments are on {g.device}.")
    if options.backend != "auto":
        return options.backend
    if g.device.type == "cuda":
        from .backends import cuda

        return "cuda" if cuda.usable(g.device) else "reference"
    return "cpu" if g.device.type == "cpu" else "reference"


def dense(
    expr: Expr, args: Sequence[Tensor], *, sizes: tuple[int | None, int | None] = (None, None)
) -> Tensor:
    """All values F_ij as a tensor (..., M, N, dim); computed and differentiated by torch itself."""
    from .backends import reference

    g = measure((Output(expr, SUM),), shapes_of(tuple(args)), sizes)
    return reference.block(expr, tuple(args), g, slice(0, g.M), slice(0, g.N))

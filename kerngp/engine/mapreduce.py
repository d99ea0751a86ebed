"""Formulas and arrays in, arrays out: the one entry to the engine.

`map_reduce` is differentiable to any order: the gradient of a sum is again a sum of formulas, and
all first-order gradients of a call come out of one pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch._C._functorch import is_functorch_wrapped_tensor, peek_interpreter_stack
from torch.autograd import forward_ad

from .. import options as _options
from ..errors import BackendUnavailable, FormulaError
from .expr import Expr, variables
from .plan import Geometry, Output, measure, shapes_of
from .reductions import SUM, Reduction

Tensor = torch.Tensor


def map_reduce(
    expr: Expr,
    reduction: Reduction = SUM,
    args: Sequence[Tensor] = (),
    *,
    axis: str = "j",
    sizes: tuple[int | None, int | None] = (None, None),
    options: _options.Options | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """Reduce the values F(p, x_i, y_j) of a formula over j (or i, or both).

    Parameters
    ----------
    expr : Expr
        The formula; its variables name positions in ``args``.
    reduction : Reduction
        `SUM`, `LOGSUMEXP`, `MIN`, `ARGMIN`, ..., `KMIN(k)`.
    args : sequence of torch.Tensor
        Shapes (..., M, dim) for i-variables, (..., N, dim) for j-variables, (..., dim) for
        parameters; leading batch axes broadcast. One floating dtype, one device.
    axis : {"j", "i", "ij"}
        The axis that is summed away.
    sizes : (M, N)
        Needed only when no argument is indexed by that axis.
    options : Options, optional
        Default: those in force (`kerngp.options`).

    Returns
    -------
    Tensor or tuple of Tensor
        (..., M, dim) for axis "j"; (..., N, dim) for "i"; (..., dim) for "ij". Indices are int64.
        k-min reductions have shape (..., M, k, dim). Reductions of several outputs return a tuple.

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
    (out,) = map_reduce_many((Output(expr, reduction, axis),), tuple(args), sizes=sizes, options=options)
    return out[0] if len(out) == 1 else out


def map_reduce_many(
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    *,
    sizes: tuple[int | None, int | None] = (None, None),
    options: _options.Options | None = None,
) -> list[tuple[Tensor, ...]]:
    """Several reductions of formulas over the same pairs, in one pass where the backend can."""
    options = options or _options.current()
    if forward_ad._current_level >= 0 or peek_interpreter_stack() is not None:
        _refuse_transforms(args)
    if torch.is_grad_enabled() and any(a.requires_grad for a in args if isinstance(a, Tensor)):
        from .autograd import differentiable

        return differentiable(outputs, args, sizes, options)
    return launch(outputs, args, sizes, options)


def _refuse_transforms(args: tuple[Tensor, ...]) -> None:
    """Forward mode and `torch.func` would lose derivatives silently, or end in an obscure error."""
    for a in args:
        if isinstance(a, Tensor) and (
            is_functorch_wrapped_tensor(a) or forward_ad.unpack_dual(a).tangent is not None
        ):
            raise BackendUnavailable(
                "forward-mode derivatives and the transforms of torch.func (jvp, vmap, grad, ...) are not "
                "part of this version; use torch.autograd.grad or backward, which work to any order."
            )


def launch(
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    sizes: tuple[int | None, int | None],
    options: _options.Options,
) -> list[tuple[Tensor, ...]]:
    """Compute without recording gradients."""
    shapes = shapes_of(args)
    if any(a.is_neg() for a in args):  # views that torch negates when it reads them
        args = tuple([a.resolve_neg() for a in args])
        shapes = shapes_of(args)
    g = measure(outputs, shapes, sizes)
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
    """All values F_ij as a tensor (..., M, N, dim); differentiable by torch. For small sizes and tests."""
    from .backends import reference

    g = measure((Output(expr, SUM),), shapes_of(tuple(args)), sizes)
    return reference.block(expr, tuple(args), g, slice(0, g.M), slice(0, g.N))


def paired(
    expr: Expr, args: Sequence[Tensor], *, sizes: tuple[int | None, int | None] = (None, None)
) -> Tensor:
    """The values F_ii (M == N), shape (..., M, dim); differentiable by torch."""
    from .backends import reference

    g = measure((Output(expr, SUM),), shapes_of(tuple(args)), sizes)
    if g.M != g.N:
        raise FormulaError(f"the diagonal needs as many rows as columns, got M={g.M} and N={g.N}.")
    values = {
        v.attr[0]: args[v.attr[0]] if v.attr[2] != "p" else args[v.attr[0]][..., None, :]
        for v in variables(expr)
    }
    like = torch.empty(0, dtype=g.dtype, device=g.device)
    return reference.evaluate(expr, values, like).expand(*g.batch, g.M, expr.dim)

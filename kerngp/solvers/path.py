"""One matrix with many amounts on its diagonal: all systems at once, sharing the products.

(K + alpha_j I) x_j = b for j = 1..J has the columns of all j in one run of conjugate gradients, each with
its own shift: an iteration costs one pass over K for all of them, and a column leaves when it has
converged. Small alphas are the hard ones, so that the passes are about those of the hardest alone.
Starting small alphas from the solutions of larger ones would cost the passes of each in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ..errors import OptionError, ShapeError
from .cg import CG
from .checks import columns, require_square
from .operator import LinearOperator, as_operator, identity
from .preconditioners.by_column import ByColumn
from .solution import Progress, Solution

if TYPE_CHECKING:
    from .solve import Recipe

Tensor = torch.Tensor


def solve_path(
    K: Any,
    b: Tensor,
    alphas: Tensor | Sequence[float],
    method: CG | None = None,
    *,
    preconditioner: LinearOperator | Recipe | None = None,
    x0: Tensor | None = None,
    callback: Callable[[Progress], Any] | None = None,
) -> Solution:
    """Solve (K + alpha I) x = b for every alpha. Numbers only: no gradients, no warnings.

    Parameters
    ----------
    K : LinearOperator or matrix of shape (*batch, N, N), symmetric
    b : Tensor of shape (*batch, N, E)
    alphas : Tensor or sequence of J numbers
        Not negative, in any order.
    method : CG
    preconditioner : recipe or LinearOperator, optional
        A recipe is built once and refreshed for every alpha; an operator serves all of them.
    x0 : Tensor of shape (*batch, N, E) or (J, *batch, N, E), optional
    callback : callable
        As in `solve`.

    Returns
    -------
    Solution
        x of shape (J, *batch, N, E), residual norms and the errors of the certificate (J, *batch, E),
        history (iterations + 1, J, *batch, E), ``extra["alphas"]``.

    Raises
    ------
    ShapeError, DTypeError, DeviceError, OptionError
        If the arguments do not fit together.

    Examples
    --------
    >>> import torch
    >>> from kerngp.solvers import Dense
    >>> solve_path(Dense(torch.eye(3), psd=True), torch.ones(3, 1), [1.0, 3.0]).x[..., 0]
    tensor([[0.5000, 0.5000, 0.5000],
            [0.2500, 0.2500, 0.2500]])
    """
    K, method = as_operator(K), method or CG()
    if not isinstance(method, CG):
        raise OptionError(f"method is {method!r}; a path of alphas needs CG(), which shares products.")
    require_square(K, "solve_path")
    shifts = _alphas(alphas, K.device)
    rhs, _ = columns("b", b, K.shape, None, K.device)
    batch = torch.broadcast_shapes(K.shape[:-2], rhs.shape[:-2])
    rhs = rhs.detach().expand(*batch, *rhs.shape[-2:])
    count = len(shifts)
    start = None if x0 is None else _start(x0, count, rhs)
    solution = method.run(
        K,
        rhs.repeat(*([1] * len(batch)), 1, count),
        preconditioner=_preconditioner(preconditioner, K, shifts, rhs.shape[-1]),
        x0=start,
        callback=callback,
        shifts=shifts.repeat_interleave(rhs.shape[-1]),
    )
    return _by_alpha(solution, shifts)


def _alphas(alphas: Any, device: torch.device) -> Tensor:
    values = torch.as_tensor(alphas, dtype=torch.float64).detach().to(device)
    if values.dim() != 1 or not len(values):
        raise ShapeError(f"alphas has shape {tuple(values.shape)}; expected a list of numbers.")
    if not bool((torch.isfinite(values) & (values >= 0)).all()):
        raise OptionError(f"alphas={values.tolist()}: expected finite numbers, none of them negative.")
    return values


def _start(x0: Tensor, count: int, rhs: Tensor) -> Tensor:
    if x0.shape not in (rhs.shape, (count, *rhs.shape)):
        raise ShapeError(
            f"x0 has shape {tuple(x0.shape)}; expected {tuple(rhs.shape)} or {(count, *rhs.shape)}."
        )
    whole = x0.detach().expand(count, *rhs.shape)
    return whole.movedim(0, -2).reshape(*rhs.shape[:-1], count * rhs.shape[-1])


def _preconditioner(given: Any, K: LinearOperator, shifts: Tensor, width: int) -> LinearOperator | None:
    """One for every distinct alpha, made from one recipe."""
    if given is None or isinstance(given, LinearOperator):
        return given
    distinct, which = shifts.unique(return_inverse=True)
    with torch.no_grad():
        systems = [K + float(s) * identity(K.shape[-1], device=K.device) for s in distinct]
        first = given.build(systems[0])
        renew = getattr(first, "refresh", given.build)
        parts = [first, *(renew(A) for A in systems[1:])]
    return parts[0] if len(parts) == 1 else ByColumn(parts, which.repeat_interleave(width))


def _by_alpha(s: Solution, alphas: Tensor) -> Solution:
    """Columns alpha by alpha, made a leading axis."""

    def leading(t: Tensor, axis: int = 0) -> Tensor:
        return t.unflatten(-1, (len(alphas), -1 if t.shape[-1] else 0)).movedim(-2, axis)

    certificate = s.report.certificate
    if certificate is not None:
        certificate = replace(certificate, error=leading(certificate.error))
    return replace(
        s,
        x=leading(s.x),
        residual_norms=leading(s.residual_norms),
        history=leading(s.history, 1),
        extra={**s.extra, "alphas": alphas},
        report=replace(s.report, certificate=certificate),
    )

"""One matrix with many amounts on its diagonal: all systems at once, sharing the products.

(K + alpha_j I) x_j = b for j = 1..J has the columns of all j in one run of conjugate gradients, each with
its own shift: an iteration costs one pass over K for all of them, and a column leaves when it has
converged. Small alphas are the hard ones, so that the passes are about those of the hardest alone.
Preconditioners come from one recipe: its expensive choices are made once, its numbers for a few alphas.
Starting small alphas from the solutions of larger ones would cost the passes of each in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..engine.arrays import kind_of, restore
from ..errors import OptionError, ShapeError
from .cg import CG
from .checks import columns, everywhere, require_square
from .implicit import Choice, Problem, judge, solved
from .operator import LinearOperator, as_operator
from .preconditioners.base import Preconditioner, shared, shift
from .preconditioners.by_column import ByColumn
from .preconditioners.custom import CustomPreconditioner
from .progress import shown
from .resolve import Method, Recipe, Resolved, resolve
from .shifted import Apart, Shifted, Together
from .solution import Progress, Solution
from .solve import check_on_fail
from .switch import Switching

Tensor = torch.Tensor


def solve_path(
    K: Any,
    b: Any,
    alphas: Tensor | Sequence[float],
    method: Method | str = "auto",
    *,
    preconditioner: LinearOperator | Recipe | str | None = None,
    tol: float | None = None,
    max_iter: int | None = None,
    time_limit: float | None = None,
    x0: Any = None,
    callback: Callable[[Progress], Any] | None = None,
    on_fail: str = "warn",
    progress: bool = False,
) -> Solution:
    """Solve (K + alpha I) x = b for every alpha. Differentiable as `solve`, in the alphas as well.

    Parameters
    ----------
    K : LinearOperator or matrix of shape (*batch, N, N), symmetric
    b : array of shape (N,), (N, E) or (*batch, N, E)
    alphas : Tensor or sequence of J numbers
        Not negative, in any order.
    method : solver or str
        As in `solve`; "auto" chooses for the smallest alpha. With `CG` all alphas share the products,
        with other methods each is solved alone.
    preconditioner : recipe, LinearOperator or str, optional
        A recipe is built once, for the smallest alpha, and renewed for the others, see
        `Preconditioner.shifted`; an operator serves all of them.
    x0 : array like b, or one such for every alpha, optional
    tol, max_iter, time_limit, callback
        As in `solve`.
    on_fail : {"warn", "raise", "ignore"}
    progress : bool
        As in `solve`.

    Returns
    -------
    Solution
        x of shape (J, *batch, N, E), residual norms and the errors of the certificate (J, *batch, E),
        history (iterations + 1, J, *batch, E), ``extra["alphas"]``; for a vector b no E.

    Raises
    ------
    ShapeError, DTypeError, DeviceError, OptionError
        If the arguments do not fit together.
    SolveError
        With ``on_fail="raise"``.

    Examples
    --------
    >>> import torch
    >>> from kerngp.solvers import Dense
    >>> solve_path(Dense(torch.eye(3), psd=True), torch.ones(3), [1.0, 3.0]).x
    tensor([[0.5000, 0.5000, 0.5000],
            [0.2500, 0.2500, 0.2500]])
    """
    K = as_operator(K)
    _check_path(K, on_fail, "solve_path")
    shifts = _alphas(alphas, K.device)
    rhs, vector = columns("b", b, K.shape, None, K.device)
    batch = torch.broadcast_shapes(K.shape[:-2], rhs.shape[:-2])
    rhs = rhs.expand(*batch, *rhs.shape[-2:])
    count, width = len(shifts), rhs.shape[-1]
    A = Shifted(K, shifts.repeat_interleave(width))
    problem = Problem(A, PathChoice.of(method, preconditioner, tol, max_iter, time_limit), on_fail)
    start = None if x0 is None else _start(torch.as_tensor(x0), count, rhs, vector)
    with shown(progress, tol or getattr(method, "tol", CG.tol), callback) as watcher:
        solution, plain = solved(problem, rhs.repeat(*([1] * len(batch)), 1, count), start, watcher)
    judge(plain, on_fail, stacklevel=3)
    return _by_alpha(solution, shifts.detach(), kind_of(b), vector)


def solve_shifted(
    K: Any,
    b: Any,
    shifts: Tensor | Sequence[float],
    method: Method | str = "auto",
    *,
    preconditioner: LinearOperator | Recipe | str | None = None,
    tol: float | None = None,
    max_iter: int | None = None,
    time_limit: float | None = None,
    x0: Any = None,
    callback: Callable[[Progress], Any] | None = None,
    on_fail: str = "warn",
) -> Solution:
    """Solve (K + s_e I) x_e = b_e: every column has an amount on the diagonal of its own.

    Otherwise as `solve_path`, which has all columns for every amount.

    Parameters
    ----------
    K : LinearOperator or matrix of shape (N, N), symmetric
    b : array of shape (N, E)
    shifts : Tensor or sequence of E numbers
    method, preconditioner, tol, max_iter, time_limit, callback, on_fail
        As in `solve_path`.
    x0 : array like b, optional

    Returns
    -------
    Solution
        x of shape (N, E).

    Raises
    ------
    ShapeError, DTypeError, DeviceError, OptionError, SolveError
        As `solve_path`.

    Examples
    --------
    >>> import torch
    >>> from kerngp.solvers import Dense
    >>> solve_shifted(Dense(torch.eye(2), psd=True), torch.ones(2, 2), [1.0, 3.0]).x
    tensor([[0.5000, 0.2500],
            [0.5000, 0.2500]])
    """
    K = as_operator(K)
    _check_path(K, on_fail, "solve_shifted")
    amounts = _alphas(shifts, K.device)
    rhs, vector = columns("b", b, K.shape, None, K.device)
    if vector or len(K.shape) != 2 or rhs.shape[-1] != len(amounts):
        raise ShapeError(
            f"b has shape {tuple(np.shape(b))} for {len(amounts)} shifts; expected ({K.shape[-1]}, "
            f"{len(amounts)}), a column for each."
        )
    start = None if x0 is None else columns("x0", x0, K.shape, None, K.device)[0].detach()
    if start is not None and start.shape != rhs.shape:
        raise ShapeError(f"x0 has shape {tuple(start.shape)}, b {tuple(rhs.shape)}; they must be equal.")
    choice = PathChoice.of(method, preconditioner, tol, max_iter, time_limit)
    solution, plain = solved(Problem(Shifted(K, amounts), choice, on_fail), rhs, start, callback)
    judge(plain, on_fail, stacklevel=3)
    kind = kind_of(b)
    parts = {name: restore(getattr(solution, name), kind) for name in ("x", "residual_norms", "history")}
    return replace(solution, **parts)


def _check_path(K: LinearOperator, on_fail: str, what: str) -> None:
    check_on_fail(on_fail)
    if on_fail == "escalate":
        raise OptionError("on_fail='escalate' is for one alpha; solve those that failed one by one.")
    require_square(K, what)


class PathChoice(Choice):
    """What is chosen for the smallest alpha, made to serve all of them."""

    def find(
        self,
        A: LinearOperator,
        b: Tensor,
        preconditioner: Any,
        callback: Callable[[Progress], Any] | None,
    ) -> Resolved:
        """See `Choice.find`."""
        assert isinstance(A, Shifted)
        distinct, which = A.shifts.detach().unique(return_inverse=True)
        firsts = [int((which == k).nonzero()[0]) for k in range(len(distinct))]
        hardest = b[..., which == 0]
        method, M, lines = resolve(
            A.at(firsts[0]), hardest, self.method, preconditioner, self.limits, callback
        )
        if isinstance(method, Switching):
            method = method.cg
        if M is not None and len(firsts) > 1 and not isinstance(preconditioner, LinearOperator):
            M = _for_each(M, preconditioner, A.base, distinct.tolist(), which)
        return Resolved(Together(method) if isinstance(method, CG) else Apart(method), M, lines)


def _for_each(
    first: LinearOperator, recipe: Any, K: LinearOperator, alphas: list[float], which: Tensor
) -> LinearOperator:
    """A preconditioner for each alpha, given that for the smallest."""
    build = getattr(recipe, "build", None)
    with torch.no_grad():
        if isinstance(first, Preconditioner) and not isinstance(first, CustomPreconditioner):
            parts: Sequence[LinearOperator] = first.shifted(K, alphas)
        elif build is not None:  # it cannot be renewed, only made again
            below = getattr(first, "floor", None) is not None
            parts = shared(alphas, below, lambda s: first if s == alphas[0] else build(shift(K, s)))
        else:
            return first
    different = list(dict.fromkeys(parts))
    if len(different) == 1:
        return different[0]
    return ByColumn(different, torch.tensor([different.index(p) for p in parts], device=which.device)[which])


def _alphas(alphas: Any, device: torch.device) -> Tensor:
    if isinstance(alphas, (list, tuple)) and any(isinstance(a, Tensor) for a in alphas):
        alphas = torch.stack([torch.as_tensor(a, dtype=torch.float64).reshape(()) for a in alphas])
    values = torch.as_tensor(alphas, dtype=torch.float64, device=device)
    if values.dim() != 1 or not len(values):
        raise ShapeError(f"alphas has shape {tuple(values.shape)}; expected a list of numbers.")
    known = values.detach()
    if not everywhere(torch.isfinite(known) & (known >= 0)):
        raise OptionError(f"alphas={known.tolist()}: expected finite numbers, none of them negative.")
    return values


def _start(x0: Tensor, count: int, rhs: Tensor, vector: bool) -> Tensor:
    start = (x0.unsqueeze(-1) if vector else x0).detach()
    if start.shape not in (rhs.shape, (count, *rhs.shape)):
        want = tuple(rhs.shape[:-1] if vector else rhs.shape)
        raise ShapeError(f"x0 has shape {tuple(x0.shape)}; expected {want} or {(count, *want)}.")
    whole = start.expand(count, *rhs.shape)
    return whole.movedim(0, -2).reshape(*rhs.shape[:-1], count * rhs.shape[-1])


def _by_alpha(s: Solution, alphas: Tensor, kind: Any, vector: bool) -> Solution:
    """Columns alpha by alpha, made a leading axis."""

    def leading(t: Tensor, axis: int = 0) -> Any:
        parts = t.unflatten(-1, (len(alphas), t.shape[-1] // len(alphas))).movedim(-2, axis)
        return restore(parts.squeeze(-1) if vector else parts, kind)

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

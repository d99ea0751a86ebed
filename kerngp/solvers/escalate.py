"""What is tried, in turn, after a solve that has failed: ``on_fail="escalate"``.

1. Products in float64, if the operator is float32: rounding may be all that was in the way.
2. A larger preconditioner.
3. Cholesky, if the matrix fits into memory.

Every step starts from the best iterate so far and leaves a note. Nothing is added to the diagonal and
no tolerance is loosened: the end is a solution of the system that was asked about, or the last failure.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from .. import options as _options
from ..errors import KerngpError
from .cg import CG, Callback
from .cholesky import Cholesky
from .cost import FAMILIES
from .operator import LinearOperator, cast
from .solution import Note, Solution, Status
from .switch import joined

Tensor = torch.Tensor
CURABLE = (Status.max_iter, Status.stagnated, Status.indefinite)
LARGER = 4  # times the size of the preconditioner
FIRST_SIZE = 0.05  # of n: the size where there was none


@dataclass(frozen=True)
class _Case:
    """The system, what has been tried, and how it is to be solved."""

    A: LinearOperator
    b: Tensor
    cg: CG
    preconditioner: LinearOperator | None
    callback: Callback | None
    deadline: float | None

    def left(self) -> float | None:
        """Seconds."""
        return None if self.deadline is None else self.deadline - time.perf_counter()


def escalate(
    A: LinearOperator,
    b: Tensor,
    method: Any,
    solution: Solution,
    *,
    preconditioner: LinearOperator | None = None,
    callback: Callback | None = None,
    time_left: float | None = None,
) -> Solution:
    """Go on after a failure, from its best iterate, until one of the steps converges.

    Parameters
    ----------
    A, b
        The system, as `Method.run` gets it.
    method : Method
        The one that failed; its tolerance and limits hold for every step.
    solution : Solution
    preconditioner : LinearOperator, optional
        The one that was used.
    callback : callable, optional
    time_left : float, optional
        Seconds for all steps together.

    Returns
    -------
    Solution
        Converged, or the best iterate with the status of the last failure. ``solution`` itself if nothing
        can be done about its status: NaN, time, Ctrl-C.

    Examples
    --------
    >>> import torch
    >>> from kerngp.solvers import CG, Dense
    >>> A, b = Dense(torch.diag(torch.logspace(0, 4, 50)).double(), psd=True), torch.ones(50, 1).double()
    >>> failed = CG(max_iter=3).run(A, b)
    >>> found = escalate(A, b, CG(max_iter=3), failed)
    >>> failed.status.name, found.status.name, found.report.notes[-1].code
    ('max_iter', 'converged', 'ESCALATED')
    """
    deadline = None if time_left is None else time.perf_counter() + time_left
    limits = {name: getattr(method, name) for name in ("tol", "max_iter") if hasattr(method, name)}
    cg = replace(method, time_limit=None) if isinstance(method, CG) else CG(**limits)
    case = _Case(A, b, cg, preconditioner, callback, deadline)
    for step in (_in_float64, _prepared_better, _factorised):
        left = case.left()
        if solution.status not in CURABLE or (left is not None and left <= 0):
            break
        with torch.no_grad():
            solution = step(case, solution)
    return solution


def _in_float64(case: _Case, failed: Solution) -> Solution:
    """Conjugate gradients on the operator made of the same numbers in float64."""
    if case.A.torch_dtype == torch.float64 or not case.A.symmetric:
        return failed
    return _iterated(case, failed, cast(case.A, torch.float64), case.preconditioner, "products in float64")


def _prepared_better(case: _Case, failed: Solution) -> Solution:
    """The same kind of preconditioner, larger; the most promising kind if there was none."""
    n, M = case.A.shape[-1], case.preconditioner
    sizes = [(f, f.size_of(M) or 0) for f in FAMILIES] if M is not None else []
    wanted = [(f, LARGER * size) for f, size in sizes if size]
    wanted = wanted or [(f, round(FIRST_SIZE * n)) for f in FAMILIES]
    for family, size in wanted:
        size = max(family.sizes[0], min(size, family.sizes[-1], n))
        if family.recipe is None or not case.A.symmetric:
            continue
        try:
            larger = family.recipe(size, 0).build(case.A)
        except KerngpError:
            continue  # not for this operator: a diagonal is missing, it is a batch
        return _iterated(case, failed, cast(case.A, torch.float64), larger, family.label(size))
    return failed


def _factorised(case: _Case, failed: Solution) -> Solution:
    """All entries, in float64."""
    if not case.A.symmetric or 8 * math.prod(case.A.shape) > _options.current().memory_limit:
        return failed
    found = Cholesky(case.cg.tol).run(case.A, case.b)
    return _after(failed, found, "Cholesky")


def _iterated(
    case: _Case, failed: Solution, A: LinearOperator, M: LinearOperator | None, what: str
) -> Solution:
    start = failed.x if bool(torch.isfinite(failed.x).all()) else None
    cg = replace(case.cg, time_limit=case.left())
    found = cg.run(A, case.b, preconditioner=M, x0=start, callback=case.callback)
    return _after(failed, found, what)


def _after(failed: Solution, found: Solution, what: str) -> Solution:
    """The later result, with the better x and the history of both."""
    note = Note(
        "ESCALATED",
        f"{failed.method} ended with {failed.status.name} at a residual of {worst(failed):.1e}; "
        f"{what} ended with {found.status.name} at {worst(found):.1e}.",
    )
    both = joined(failed, found, note)
    if found.converged or worst(found) <= worst(failed):
        return both
    return replace(both, x=failed.x, residual_norms=failed.residual_norms)


def worst(s: Solution) -> float:
    """The largest residual of a solution, infinite if there is none."""
    norms = s.residual_norms
    return float(torch.nan_to_num(norms, nan=torch.inf).max()) if norms.numel() else 0.0

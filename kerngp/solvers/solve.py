"""The one entry to linear solves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ..engine.arrays import kind_of, restore
from ..errors import OptionError, ShapeError
from .cg import CG
from .checks import columns, require_square
from .implicit import Choice, Problem, judge, solved
from .operator import LinearOperator, as_operator
from .progress import shown
from .resolve import Method, Recipe
from .solution import Progress, Solution

ON_FAIL = ("warn", "raise", "ignore", "escalate")


def solve(
    A: Any,
    b: Any,
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
    """Solve A x = b for one or many right-hand sides.

    Differentiable, to any order, in b and in every tensor that A is made of: by the implicit function
    theorem a gradient costs one more solve with the transpose and one pass for the matrix. That holds for
    autograd, forward mode and the transforms of `torch.func` (grad, vjp, jvp, jacrev, jacfwd, hessian,
    vmap), nested in any order. Under vmap the systems are solved together, and status, iterations and
    report are those of all of them.

    Parameters
    ----------
    A : LinearOperator or array of shape (*batch, N, N)
    b : array of shape (N,), (N, E) or (*batch, N, E)
        torch or NumPy. With a float32 operator, a float64 b asks for a float64 x: products are still
        formed in float32, everything else is float64.
    method : solver or str
        A solver such as ``CG(tol=1e-8)`` or ``Cholesky()``, or a name: "cg", "cholesky", "refine",
        "askotch", "alternating", "sdd". "auto" measures a little, chooses what will take the least time,
        and says why (`Solution.explain`).
    preconditioner : LinearOperator, recipe, function r -> M r, or str, optional
        An approximate inverse of A, how to make one (`RPCholesky`), or a name: "rpcholesky", "vecchia",
        "nystrom", "jacobi", "none".
        "auto", for CG, has candidates race on a few rows; ``method="auto"`` does that unless one is given.
        Also used for gradients.
    tol, max_iter, time_limit : number, optional
        For a method given by its name: relative residual, iterations, seconds.
    x0 : array like b, optional
        Where to start.
    callback : callable
        Called with a `Progress` after every iteration; returning True stops.
    on_fail : {"warn", "raise", "ignore", "escalate"}
        What happens if the status is time_limit, max_iter, stagnated, indefinite or nan. "escalate" goes
        on with products in float64, a larger preconditioner and Cholesky, in this order, and warns if none
        helps.
    progress : bool
        Show a line on standard error: residual, rate, time left.

    Returns
    -------
    Solution

    Raises
    ------
    ShapeError, DTypeError, DeviceError, OptionError
        If the arguments do not fit together.
    SolveError
        With ``on_fail="raise"``; its attribute ``solution`` holds what was found.

    Examples
    --------
    >>> import torch
    >>> from kerngp.solvers import CG, Dense, identity, solve
    >>> A = Dense(torch.ones(3, 3), psd=True) + 0.5 * identity(3)
    >>> solution = solve(A, torch.ones(3), CG(tol=1e-5))
    >>> solution.status.name, solution.iterations
    ('converged', 1)
    """
    A = as_operator(A)
    check_on_fail(on_fail)
    require_square(A, "solve")
    kind = kind_of(b)
    rhs, vector = columns("b", b, A.shape, None, A.device)
    start = None if x0 is None else columns("x0", x0, A.shape, None, A.device)[0]
    if start is not None and start.shape != rhs.shape:
        raise ShapeError(f"x0 has shape {tuple(start.shape)}, b {tuple(rhs.shape)}; they must be equal.")
    batch = torch.broadcast_shapes(A.shape[:-2], rhs.shape[:-2])
    rhs = rhs.expand(*batch, *rhs.shape[-2:])
    start = None if start is None else start.detach().expand(rhs.shape)
    problem = Problem(A, Choice.of(method, preconditioner, tol, max_iter, time_limit), on_fail)
    with shown(progress, tol or getattr(method, "tol", CG.tol), callback) as watcher:
        solution, plain = solved(problem, rhs, start, watcher)
    judge(plain, on_fail, stacklevel=3)
    return _delivered(solution, kind, vector)


def check_on_fail(on_fail: str) -> None:
    """Raise unless it is known what is to happen."""
    if on_fail not in ON_FAIL:
        raise OptionError(f"on_fail={on_fail!r}: expected one of {ON_FAIL}.")


def _delivered(s: Solution, kind: Any, vector: bool) -> Solution:
    """The solution in the caller's library; one column without its axis if b was a vector."""
    x, norms, history = s.x, s.residual_norms, s.history
    if vector:
        x, norms, history = x.squeeze(-1), norms.squeeze(-1), history.squeeze(-1)
    return replace(s, x=restore(x, kind), residual_norms=restore(norms, kind), history=restore(history, kind))

"""The one entry to linear solves, and the one rule by which they are differentiated."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from ..engine.arrays import kind_of, restore
from ..engine.transforms import refuse
from ..errors import ConvergenceWarning, DeviceError, OptionError, ShapeError, SolveError
from .cg import CG
from .checks import columns, require_square
from .operator import LinearOperator, as_operator
from .solution import Progress, Solution, Status

Tensor = torch.Tensor
ON_FAIL = ("warn", "raise", "ignore")


class Method(Protocol):
    """What `solve` needs of an algorithm: plain numbers in, a Solution out, no gradients."""

    def run(
        self,
        A: LinearOperator,
        b: Tensor,
        *,
        preconditioner: LinearOperator | None = None,
        x0: Tensor | None = None,
        callback: Callable[[Progress], Any] | None = None,
    ) -> Solution:
        """Solve A x = b for b of shape (*batch, N, E)."""
        ...


class Recipe(Protocol):
    """A way to make a preconditioner for an operator."""

    def build(self, A: LinearOperator) -> LinearOperator:
        """An operator that approximates the inverse of A, symmetric positive definite."""
        ...


def solve(
    A: Any,
    b: Any,
    method: Method | None = None,
    *,
    preconditioner: LinearOperator | Recipe | None = None,
    x0: Any = None,
    callback: Callable[[Progress], Any] | None = None,
    on_fail: str = "warn",
) -> Solution:
    """Solve A x = b for one or many right-hand sides.

    Differentiable, to any order, in b and in every tensor that A is made of: by the implicit function
    theorem a gradient costs one more solve with the transpose and one pass for the matrix.

    Parameters
    ----------
    A : LinearOperator or array of shape (*batch, N, N)
    b : array of shape (N,), (N, E) or (*batch, N, E)
        torch or NumPy. With a float32 operator, a float64 b asks for a float64 x: products are still
        formed in float32, everything else is float64.
    method : CG or Cholesky, default CG()
        Holds tolerance and limits.
    preconditioner : LinearOperator or recipe, optional
        An approximate inverse of A, or how to make one (`RPCholesky`). Also used for gradients.
    x0 : array like b, optional
        Where to start.
    callback : callable
        Called with a `Progress` after every iteration; returning True stops.
    on_fail : {"warn", "raise", "ignore"}
        What happens if the status is max_iter, stagnated, indefinite or nan.

    Returns
    -------
    Solution

    Raises
    ------
    ShapeError, DTypeError, DeviceError, OptionError
        If the arguments do not fit together.
    BackendUnavailable
        In forward mode and under a transform of `torch.func`.
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
    A, method = as_operator(A), method or CG()
    if on_fail not in ON_FAIL:
        raise OptionError(f"on_fail={on_fail!r}: expected one of {ON_FAIL}.")
    if not callable(getattr(method, "run", None)):
        raise OptionError(f"method is {method!r}; expected a solver such as CG() or Cholesky().")
    require_square(A, "solve")
    kind = kind_of(b)
    rhs, vector = columns("b", b, A.shape, None, A.device)
    start = None if x0 is None else columns("x0", x0, A.shape, None, A.device)[0]
    if start is not None and start.shape != rhs.shape:
        raise ShapeError(f"x0 has shape {tuple(start.shape)}, b {tuple(rhs.shape)}; they must be equal.")
    batch = torch.broadcast_shapes(A.shape[:-2], rhs.shape[:-2])
    rhs = rhs.expand(*batch, *rhs.shape[-2:])
    start = None if start is None else start.detach().expand(rhs.shape)
    refuse("solve", (rhs, *A.tensors))
    problem = _Problem(A, method, _built(preconditioner, A), on_fail)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (rhs, *A.tensors)):
        found: list[Solution] = []
        x = _Solve.apply(problem, start, callback, found, rhs, *A.tensors)
        solution = replace(found[0], x=x)
    else:
        solution = problem.run(rhs.detach(), start, callback)
    judge(solution, on_fail, stacklevel=3)
    return _delivered(solution, kind, vector)


def _built(preconditioner: Any, A: LinearOperator) -> LinearOperator | None:
    if preconditioner is None:
        return None
    if hasattr(preconditioner, "build"):
        with torch.no_grad():
            preconditioner = preconditioner.build(A)
    if not isinstance(preconditioner, LinearOperator):
        raise OptionError(
            f"preconditioner is a {type(preconditioner).__name__}; expected a LinearOperator "
            "that approximates the inverse of A, or a recipe such as RPCholesky(rank=100)."
        )
    if preconditioner.shape[-2:] != A.shape[-2:]:
        raise ShapeError(
            f"preconditioner has shape {preconditioner.shape}, the operator {A.shape}; they must be equal."
        )
    if preconditioner.device != A.device:
        raise DeviceError(
            f"preconditioner is on {preconditioner.device}, the operator on {A.device}; move one of them."
        )
    return preconditioner


def _delivered(s: Solution, kind: Any, vector: bool) -> Solution:
    """The solution in the caller's library; one column without its axis if b was a vector."""
    x, norms, history = s.x, s.residual_norms, s.history
    if vector:
        x, norms, history = x.squeeze(-1), norms.squeeze(-1), history.squeeze(-1)
    return replace(s, x=restore(x, kind), residual_norms=restore(norms, kind), history=restore(history, kind))


@dataclass(frozen=True)
class _Problem:
    """Everything about a solve but its right-hand side."""

    A: LinearOperator
    method: Method
    preconditioner: LinearOperator | None
    on_fail: str

    def run(self, b: Tensor, x0: Tensor | None = None, callback: Any = None) -> Solution:
        return self.method.run(self.A, b, preconditioner=self.preconditioner, x0=x0, callback=callback)

    def with_tensors(self, tensors: Sequence[Tensor]) -> _Problem:
        return replace(self, A=self.A.with_tensors(tensors))

    def transposed(self) -> _Problem:
        P = self.preconditioner
        return replace(self, A=self.A.T, preconditioner=None if P is None else P.T)


def judge(s: Solution, on_fail: str, stacklevel: int, what: str = "") -> None:
    """Warn or raise, as asked, about a solve that failed. ``stacklevel`` as for a warning raised here."""
    if s.status in (Status.converged, Status.stopped) or on_fail == "ignore":
        return
    if on_fail == "raise":
        error = SolveError(what + s.message)
        error.solution = s
        raise error
    warnings.warn(what + s.message, ConvergenceWarning, stacklevel=stacklevel)


class _Solve(torch.autograd.Function):
    """x = A^-1 b. For v = A^-T g, the gradient in b is v, in A's tensors that of -<v, A x>, v, x fixed."""

    @staticmethod
    def forward(
        ctx: Any, problem: _Problem, x0: Any, callback: Any, found: list, b: Tensor, *tensors: Tensor
    ) -> Tensor:
        solution = problem.run(b.detach(), x0, callback)
        found.append(solution)
        ctx.problem = problem
        ctx.save_for_backward(solution.x, *tensors)
        return solution.x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, *tensors = ctx.saved_tensors
        again = torch.is_grad_enabled()  # create_graph: what follows is itself differentiated
        problem: _Problem = ctx.problem.with_tensors(tensors)
        v = _adjoint(problem.transposed(), grad)
        wanted = ctx.needs_input_grad[5:]
        grads: list[Tensor | None] = [None] * len(tensors)
        if any(wanted):
            with torch.enable_grad():
                # views of their own, so that a tensor computed from another is not counted twice
                cut = (lambda t: t.view_as(t)) if again else (lambda t: t.detach().requires_grad_())
                fresh = [cut(t) if w else t.detach() for t, w in zip(tensors, wanted)]
                A = problem.A.with_tensors(fresh)
                form = -(v * A.matmul(x.to(A.torch_dtype)).to(v.dtype)).sum()
                chosen = [k for k, w in enumerate(wanted) if w]
                parts = torch.autograd.grad(
                    form, [fresh[k] for k in chosen], create_graph=again, allow_unused=True
                )
            for k, part in zip(chosen, parts, strict=True):
                grads[k] = part
        return (None, None, None, None, v if ctx.needs_input_grad[4] else None, *grads)


def _adjoint(problem: _Problem, g: Tensor) -> Tensor:
    """A^-1 g for the transposed problem, itself differentiable."""
    found: list[Solution] = []
    if torch.is_grad_enabled():
        v = _Solve.apply(problem, None, None, found, g, *problem.A.tensors)
    else:
        found.append(problem.run(g))
        v = found[0].x
    judge(found[0], problem.on_fail, stacklevel=4, what="gradient of a solve: ")
    return v

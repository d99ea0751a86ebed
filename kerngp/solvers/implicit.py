"""The one rule by which solves are differentiated: that of x = A^-1 b, whatever found x.

For v = A^-T g the gradient in b is v, in the tensors of A that of -<v, A x> with v and x fixed; the
tangent of x is A^-1 (db - dA x). Each of them is one more solve with the method and the preconditioner
chosen for the first, and one pass for the matrix. torch asks for these rules, and for that of one more
batch axis, and nests them itself: autograd, forward mode and the transforms of `torch.func`, to any order.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import torch
from torch._C._functorch import is_legacy_batchedtensor
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import forward_ad

from .. import options as _options
from ..engine.mapreduce import transforming
from ..errors import ConvergenceWarning, SolveError
from .escalate import escalate
from .meter import metering
from .operator import LinearOperator
from .resolve import Resolved, resolve
from .solution import Progress, Solution, Status
from .watch import Watch

Tensor = torch.Tensor
PACKAGE = __name__.partition(".")[0] + "."


@dataclass(frozen=True)
class Choice:
    """Method and preconditioner as the caller gave them, and what became of them.

    They are resolved when a solve first has plain numbers, and kept: a gradient does not choose again.
    """

    method: Any
    preconditioner: Any
    limits: dict[str, Any]
    _kept: dict[tuple[int, ...], Resolved] = field(default_factory=dict)

    @classmethod
    def of(cls, method: Any, preconditioner: Any, tol: Any, max_iter: Any, time_limit: Any) -> Choice:
        """Of what the caller gave; limits that are None were not given."""
        limits = {"tol": tol, "max_iter": max_iter, "time_limit": time_limit}
        return cls(method, preconditioner, {k: v for k, v in limits.items() if v is not None})

    def resolved(
        self,
        A: LinearOperator,
        b: Tensor,
        given: LinearOperator | None,
        callback: Callable[[Progress], Any] | None = None,
    ) -> Resolved:
        """For this operator; ``given`` are the numbers of a preconditioner that came as an operator."""
        if A.shape not in self._kept:
            preconditioner = self.preconditioner if given is None else given
            self._kept[A.shape] = self.find(A, b, preconditioner, callback)
        found = self._kept[A.shape]
        return found if given is None else found._replace(preconditioner=given)

    def find(
        self,
        A: LinearOperator,
        b: Tensor,
        preconditioner: Any,
        callback: Callable[[Progress], Any] | None,
    ) -> Resolved:
        """Resolve it, once."""
        return resolve(A, b, self.method, preconditioner, self.limits, callback)

    def settled(self, A: LinearOperator, s: Solution) -> None:
        """Keep what a solve ended with, if it has changed its method on the way."""
        changed = {k: s.extra[k] for k in ("method", "preconditioner") if k in s.extra}
        self._kept[A.shape] = self._kept[A.shape]._replace(**changed)


@dataclass(frozen=True)
class Problem:
    """Everything about a solve but its right-hand side.

    Attributes
    ----------
    A : LinearOperator
    choice : Choice
    on_fail : str
    options : Options
        Those in force at the call; a gradient may be computed elsewhere, by another thread.
    flipped : bool
        Whether A is the transpose of the operator that the preconditioner was made for.
    """

    A: LinearOperator
    choice: Choice
    on_fail: str
    options: _options.Options = field(default_factory=_options.current)
    flipped: bool = False

    @property
    def given(self) -> LinearOperator | None:
        """The preconditioner, if it is an operator: its numbers are arguments, like those of A."""
        P = self.choice.preconditioner
        return P if isinstance(P, LinearOperator) else None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors of the operator, then those of the preconditioner."""
        return (*self.A.tensors, *(self.given.tensors if self.given is not None else ()))

    def with_tensors(self, tensors: Sequence[Tensor]) -> Problem:
        """The same problem of other numbers."""
        if all(a is b for a, b in zip(self.tensors, tensors, strict=True)):
            return self
        k, P = len(self.A.tensors), self.given
        choice = self.choice
        if P is not None and any(a is not b for a, b in zip(P.tensors, tensors[k:], strict=True)):
            choice = replace(choice, preconditioner=P.with_tensors(tensors[k:]))
        return replace(self, A=self.A.with_tensors(tensors[:k]), choice=choice)

    def with_leading_axis(self, tensors: Sequence[Tensor], dims: Sequence[int | None]) -> Problem:
        """Many problems at once: tensors that have one more axis, ``dims``, become batches."""
        given = dict(zip(map(id, self.tensors), zip(tensors, dims, strict=True), strict=True))
        made: dict[tuple[int, int], Tensor] = {}  # what was one tensor is one tensor again
        rank = len(self.A.shape) - 2

        def new(t: Tensor, core: int) -> Tensor:
            if (id(t), core) not in made:
                value, dim = given[id(t)]
                if dim is not None:
                    missing = rank - (t.dim() - core)
                    value = value.movedim(dim, 0)[(slice(None), *[None] * missing)]
                made[id(t), core] = value
            return made[id(t), core]

        P, choice = self.given, self.choice
        if P is not None and any(given[id(t)][1] is not None for t in P.tensors):
            choice = replace(choice, preconditioner=P.remade(new))
        return replace(self, A=self.A.remade(new), choice=choice)

    def transposed(self) -> Problem:
        """A' x = b."""
        return self if self.A.symmetric else replace(self, A=self.A.T, flipped=not self.flipped)

    def run(self, b: Tensor, x0: Tensor | None, callback: Callable[[Progress], Any] | None) -> Solution:
        """Solve with plain numbers, and report what it took."""
        with _options.options(**vars(self.options)), torch.no_grad(), metering() as meter, Watch():
            A = self.A.T if self.flipped else self.A
            method, P, lines = self.choice.resolved(A, b, self.given, callback)
            if P is not None and self.flipped:
                P = P.T
            s = method.run(self.A, b, preconditioner=P, x0=x0, callback=callback)
            self.choice.settled(A, s)
            P = s.extra.get("preconditioner", P)
            if self.on_fail == "escalate":
                limit = getattr(method, "time_limit", None)
                left = None if limit is None else limit - meter.elapsed
                s = escalate(self.A, b, method, s, preconditioner=P, callback=callback, time_left=left)
            report = replace(
                s.report,
                choice=lines or s.report.choice,
                preconditioner="" if P is None else getattr(P, "description", "") or repr(P),
                passes=meter.passes(math.prod(self.A.shape)),
                seconds={**meter.seconds, "total": meter.elapsed},
                tol=getattr(method, "tol", None),
                notes=(*getattr(P, "notes", ()), *s.report.notes),
            )
        return replace(s, report=report)


def judge(s: Solution, on_fail: str, stacklevel: int, what: str = "") -> None:
    """Warn or raise, as asked, about a solve that failed.

    ``stacklevel`` is as for a warning raised here, at least: the warning is shown at the first line above
    that is not part of this package, since Python shows one only once for each line.
    """
    if s.status in (Status.converged, Status.stopped) or on_fail == "ignore":
        return
    if on_fail == "raise":
        error = SolveError(what + s.message)
        error.solution = s
        raise error
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and (level < stacklevel or _is_ours(frame)):
        frame, level = frame.f_back, level + 1
    warnings.warn(what + s.message, ConvergenceWarning, stacklevel=level)


def _is_ours(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__", "").startswith(PACKAGE)


def solved(
    problem: Problem, b: Tensor, x0: Tensor | None, callback: Callable[[Progress], Any] | None
) -> tuple[Solution, Solution]:
    """The solution of A x = b, differentiable in b and in A; and as plain numbers, for messages.

    Under `torch.vmap` the second one is that of all systems together.
    """
    call = _Call(problem, callback)
    x, norms, history = _Solve.apply(call, x0, b, *problem.tensors)
    (found,) = call.found
    return replace(found, x=x, residual_norms=norms, history=history), found


@dataclass(frozen=True)
class _Call:
    """What a solve is told besides its arrays, and what it found."""

    problem: Problem
    callback: Callable[[Progress], Any] | None = None
    found: list[Solution] = field(default_factory=list)


class _Solve(torch.autograd.Function):
    """x, its residual norms and their history, of which x is differentiable."""

    @staticmethod
    def forward(call: _Call, x0: Tensor | None, b: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        b, *plain = (forward_ad.unpack_dual(t).primal for t in (b, *tensors))
        s = call.problem.with_tensors(plain).run(b.detach(), x0, call.callback)
        call.found.append(s)
        return s.x, s.residual_norms, s.history

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        call, _, _, *tensors = inputs
        x, *rest = output
        ctx.problem = call.problem
        ctx.mark_non_differentiable(*rest)
        ctx.save_for_backward(x, *tensors)
        ctx.save_for_forward(x, *tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, *tensors = unwrap_dead_wrappers(ctx.saved_tensors)
        nothing: list[Tensor | None] = [None] * len(tensors)
        if grad is None:
            return None, None, None, *nothing
        problem: Problem = ctx.problem.with_tensors(tensors)
        v = _again(problem.transposed(), grad)
        wanted = [k for k in range(len(problem.A.tensors)) if ctx.needs_input_grad[3 + k]]
        if wanted:
            parts = _cotangents(problem, x, wanted, -v.to(problem.A.torch_dtype))
            for k, part in zip(wanted, parts, strict=True):
                nothing[k] = part
        return None, None, v if ctx.needs_input_grad[2] else None, *nothing

    @staticmethod
    def jvp(ctx: Any, _call: None, _x0: None, db: Tensor | None, *given: Tensor | None) -> tuple:  # type: ignore[override]
        # the tangent is differentiated again at other levels, and not at this one
        x, *tensors = (forward_ad.unpack_dual(t).primal for t in ctx.saved_tensors)
        with forward_ad._set_fwd_grad_enabled(True):
            problem: Problem = ctx.problem.with_tensors(tensors)
            rhs = torch.zeros_like(x) if db is None else db
            moving = [k for k in range(len(problem.A.tensors)) if given[k] is not None]
            if moving:
                rhs = rhs - _tangent(problem, x, moving, [given[k] for k in moving]).to(rhs.dtype)
            return _again(problem, rhs), None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, call: _Call, x0: Tensor | None, b: Tensor, *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:  # type: ignore[override]
        _, x0_dim, b_dim, *dims = in_dims
        size = info.batch_size
        if all(d is None for d in dims) and call.problem.A.columns is None:
            # one matrix: its systems are columns
            start = None if x0 is None else _as_columns(x0, x0_dim, size)
            found = _Solve.apply(call, start, _as_columns(b, b_dim, size), *tensors)
            apart = tuple(t.unflatten(-1, (size, t.shape[-1] // size)) for t in found)
            return apart, tuple(t.dim() - 2 for t in apart)
        problem = call.problem.with_leading_axis(tensors, dims)
        start = None if x0 is None else _first(x0, x0_dim, size)
        inner = _Call(problem, call.callback, call.found)
        found = _Solve.apply(inner, start, _first(b, b_dim, size), *problem.tensors)
        return found, (0, 0, 1)


def _first(t: Tensor, dim: int | None, size: int) -> Tensor:
    """The axis ``dim`` in front; one of length ``size`` if there is none."""
    return t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)


def _as_columns(t: Tensor, dim: int | None, size: int) -> Tensor:
    """(..., N, E) with one more axis ``dim``, as (..., N, size * E)."""
    return _first(t, dim, size).movedim(0, -2).flatten(-2)


def _again(problem: Problem, b: Tensor) -> Tensor:
    """One more solve, for a derivative."""
    if is_legacy_batchedtensor(b):
        return _peeled(problem, b)
    solution, plain = solved(problem, b, None, None)
    judge(plain, problem.on_fail, stacklevel=4, what="gradient of a solve: ")
    return solution.x


def _peeled(problem: Problem, b: Tensor, level: int | None = None) -> Tensor:
    """The same for a tensor of torch's older vmap (``is_grads_batched``), which asks nobody for a rule."""
    if not is_legacy_batchedtensor(b):
        return _again(problem, b)
    if level is None:
        level = torch._C._vmapmode_increment_nesting() - 1
        torch._C._vmapmode_decrement_nesting()
    plain = torch._remove_batch_dim(b, level, 1, 0)  # type: ignore[attr-defined]
    size = plain.shape[0]
    if problem.A.columns is None:
        x = _peeled(problem, _as_columns(plain, 0, size), level - 1)
        x = x.unflatten(-1, (size, x.shape[-1] // size)).movedim(-2, 0)
    else:
        x = _peeled(problem, plain, level - 1)
    return torch._add_batch_dim(x, 0, level)  # type: ignore[attr-defined]


def _product(problem: Problem, x: Tensor, which: list[int]) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """A x as a function of the tensors ``which``, and these tensors."""
    A = problem.A

    def product(*changed: Tensor) -> Tensor:
        tensors = list(A.tensors)
        for k, t in zip(which, changed, strict=True):
            tensors[k] = t
        with _options.options(**vars(problem.options)):
            return A.with_tensors(tensors).matmul(x.to(A.torch_dtype))

    return product, [A.tensors[k] for k in which]


def _cotangents(problem: Problem, x: Tensor, which: list[int], u: Tensor) -> Sequence[Tensor | None]:
    """The gradient of <u, A x>, u and x fixed, in the tensors ``which``."""
    product, of = _product(problem, x, which)
    if transforming():
        return torch.func.vjp(product, *of)[1](u)
    again = torch.is_grad_enabled()  # create_graph: what follows is itself differentiated
    with torch.enable_grad():
        # views of their own, so that a tensor computed from another is not counted twice
        of = [t.view_as(t) if again else t.detach().requires_grad_() for t in of]
        return torch.autograd.grad(product(*of), of, u, create_graph=again, allow_unused=True)


def _tangent(problem: Problem, x: Tensor, which: list[int], directions: list[Any]) -> Tensor:
    """dA x, as the transpose of its transpose: torch does not nest forward modes."""
    product, of = _product(problem, x, which)
    value, pull = torch.func.vjp(product, *of)[:2]

    def paired(u: Tensor) -> Tensor:
        return torch.stack([(g * d).sum() for g, d in zip(pull(u), directions, strict=True)]).sum()

    return torch.func.vjp(paired, torch.zeros_like(value))[1](value.new_ones(()))[0]

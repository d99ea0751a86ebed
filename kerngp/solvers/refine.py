"""Iterative refinement in mixed precision, around any solver.

    x = 0
    repeat
        r = b - A x                in float64, entries and all
        d ~ A^-1 r                 by the inner method, on the operator in low precision
        x = x + d
    until |r| <= tol |b|

The rate is that of the inner solve: its relative residual, or u kappa(A) if rounding is worse than that
(Wilkinson, 1963; Higham, chapter 12). CG does this by itself at its restarts; here the inner method may be
anything, a Cholesky factor in float32 for one, which is computed once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch

from ..errors import OptionError
from .cg import CG
from .cholesky import Cholesky, factorise
from .guard import guard
from .operator import LinearOperator, cast
from .residuals import power_of_two, relative, true_residuals
from .solution import Note, Progress, Report, Solution, Status
from .watch import Watch

if TYPE_CHECKING:
    from .resolve import Method

Tensor = torch.Tensor


@dataclass(frozen=True)
class Refine:
    """Solve in low precision, correct in float64, again and again.

    Parameters
    ----------
    inner : Method
        What solves for the corrections.
    tol : float
        On |b - A x| / |b|, for every column.
    inner_tol : float
        Tolerance of the corrections, for methods that have one.
    max_outer : int
        Most corrections; one that does not halve the residual is the last.
    dtype : torch.dtype
        Of the operator in the inner solves.
    time_limit : float, optional
        Seconds.

    Examples
    --------
    >>> import torch
    >>> from kerngp.solvers import Cholesky, Dense, solve
    >>> A = Dense(torch.tensor([[4.0, 2.0], [2.0, 3.0]], dtype=torch.float64), psd=True)
    >>> solve(A, torch.tensor([6.0, 5.0], dtype=torch.float64), Refine(Cholesky(), tol=1e-14)).x
    tensor([1., 1.], dtype=torch.float64)
    """

    inner: Method = CG()
    tol: float = 1e-6
    inner_tol: float = 1e-2
    max_outer: int = 50
    dtype: torch.dtype = torch.float32
    time_limit: float | None = None

    def __post_init__(self) -> None:
        if not callable(getattr(self.inner, "run", None)):
            raise OptionError(f"inner={self.inner!r}: expected a solver such as CG() or Cholesky().")
        for name in ("tol", "inner_tol"):
            if not 0 < getattr(self, name) < 1:
                raise OptionError(f"{name}={getattr(self, name)!r}: expected a number between 0 and 1.")
        if isinstance(self.max_outer, bool) or not isinstance(self.max_outer, int) or self.max_outer < 1:
            raise OptionError(f"max_outer={self.max_outer!r}: expected a positive integer.")
        if not isinstance(self.dtype, torch.dtype) or not self.dtype.is_floating_point:
            raise OptionError(f"dtype={self.dtype!r}: expected a floating dtype such as torch.float32.")
        if self.time_limit is not None and not self.time_limit >= 0:
            raise OptionError(f"time_limit={self.time_limit!r}: expected seconds, or None for no limit.")

    def run(
        self,
        A: LinearOperator,
        b: Tensor,
        *,
        preconditioner: LinearOperator | None = None,
        x0: Tensor | None = None,
        callback: Callable[[Progress], Any] | None = None,
    ) -> Solution:
        """Solve A x = b for b of shape (*batch, N, E). The callback is told of every correction."""
        with torch.no_grad(), Watch(callback, self.time_limit) as watch:
            work = _Work(self, A, b, preconditioner, x0)
            while work.status is None:
                work.correct(watch)
            return work.solution()


class _Work:
    """The outer iteration. ``best`` and ``best_x`` are what will be given back."""

    def __init__(
        self, method: Refine, A: LinearOperator, b: Tensor, M: LinearOperator | None, x0: Tensor | None
    ):
        self.method, self.A, self.M, self.dtype = method, A, M, b.dtype
        self.scale = power_of_two(b.double())
        self.B = b.double() / self.scale
        self.X = torch.zeros_like(self.B) if x0 is None else x0.double() / self.scale
        fits = _in_range(A, method.dtype)
        self.low = cast(A, method.dtype if fits else torch.float64)
        self.norm_b = self.B.norm(dim=-2)
        self.X = torch.where((self.norm_b == 0).unsqueeze(-2), 0.0, self.X)
        self.outer = self.products = self.inner_iterations = 0
        self.factor: Tensor | None = None
        self.status: Status | None = None
        self.detail, self.attainable = "", guard(self.low, dtype=b.dtype).attainable
        self.R, given = self._residual()
        self.best, self.best_x = given, self.X
        self.history = [given]
        self._judge(given)

    def correct(self, watch: Watch) -> None:
        """One correction of all columns that need one."""
        step = self._solve(watch)
        if step is None:
            return
        self.X = self.X + step
        self.outer += 1
        before = self.history[-1]
        self.R, given = self._residual()
        self.history.append(given)
        better = given < self.best
        self.best_x = torch.where(better.unsqueeze(-2), self.X, self.best_x)
        self.best = torch.where(better, given, self.best)
        self._judge(given)
        open_ = self.best > self.method.tol
        verdict = watch.verdict(Progress(self.outer, self.method.max_outer, given, int(open_.sum())))
        if self.status is None:
            self.status = verdict  # before the rest: a solve cut short by the clock has not stagnated
        if self.status is None:
            if bool((given > 0.5 * before)[open_].any()):
                self.status = Status.stagnated
            elif self.outer >= self.method.max_outer:
                self.status = Status.max_iter

    def _judge(self, given: Tensor) -> None:
        if not bool(torch.isfinite(given).all()):
            self.status = Status.nan
        elif bool((self.best <= self.method.tol).all()):
            self.status = Status.converged

    def _solve(self, watch: Watch) -> Tensor | None:
        """Corrections by the inner method; None, and a status, if it has none to offer."""
        scale = power_of_two(self.R)
        wanted = (self.best > self.method.tol).unsqueeze(-2)
        rhs = torch.where(wanted, self.R / scale, 0.0)
        if isinstance(self.method.inner, Cholesky):
            if self.factor is None:
                self.method.inner.check_memory(self.low)
                self.factor, self.detail = factorise(self.low.dense())
                if self.factor is None:
                    self.status = Status.indefinite
                    return None
            return torch.cholesky_solve(rhs.to(self.factor.dtype), self.factor).double() * scale
        found = self._inner(watch).run(self.low, rhs, preconditioner=self.M)
        self.products += found.products
        self.inner_iterations += found.iterations
        if found.status in (Status.indefinite, Status.nan):
            self.status, self.detail = found.status, found.detail
            return None
        return found.x.double() * scale

    def _inner(self, watch: Watch) -> Method:
        """The inner method with our tolerance, and what is left of our time."""
        inner: Any = self.method.inner
        names = {f.name for f in fields(inner)} if hasattr(inner, "__dataclass_fields__") else set()
        changes: dict[str, Any] = {"tol": self.method.inner_tol} if "tol" in names else {}
        if "time_limit" in names and watch.remaining is not None:
            own = inner.time_limit
            changes["time_limit"] = watch.remaining if own is None else min(own, watch.remaining)
        return replace(inner, **changes) if changes else inner

    def _residual(self) -> tuple[Tensor, Tensor]:
        """b - A x, and the relative norms of that for x rounded to the dtype of the result."""
        self.products += 1
        rounded, truth = true_residuals(self.A, self.X, self.B, self.dtype)
        return truth, relative(rounded.norm(dim=-2), self.norm_b)

    def solution(self) -> Solution:
        """What is known at the end."""
        status = self.status or Status.max_iter
        x = torch.where(torch.isfinite(self.best).unsqueeze(-2), self.best_x * self.scale, torch.nan)
        why = ""
        if self.low.torch_dtype != self.method.dtype:
            why = f" The entries of the matrix are out of the range of {self.method.dtype}.".replace(
                "torch.", ""
            )
        text = f"{self.outer} corrections with {str(self.low.torch_dtype).removeprefix('torch.')} solves."
        return Solution(
            x=x.to(self.dtype),
            status=status,
            iterations=self.outer,
            residual_norms=self.best,
            history=torch.stack(self.history),
            products=self.products,
            method=f"Refine({type(self.method.inner).__name__})",
            detail=self.detail,
            extra={"inner_iterations": self.inner_iterations},
            report=Report(
                preconditioner=getattr(self.M, "description", ""),
                attainable=self.attainable,
                notes=(Note("REFINED", text + why),),
            ),
        )


def _in_range(A: LinearOperator, dtype: torch.dtype) -> bool:
    """Whether entries like those on the diagonal are normal numbers of the dtype, with room to spare."""
    top = A.diag().detach().double().abs()
    largest = float(top.max()) if top.numel() else 1.0
    info = torch.finfo(dtype)
    return not (largest > 1e-6 * info.max or 0 < largest < 1e6 * info.tiny)

"""Descent by blocks of unknowns: what is common to methods that see some rows of the matrix at a time.

A `Scheme` improves x = c + offset step by step, where c is the centre and r = b - A c its residual, exact.
It multiplies some rows or columns with the offset, never with x. This loop counts passes (a step that sees
m of n rows is m / n of one), asks the `Watch`, and inspects: every ``refresh`` passes, and when the scheme
believes to be done, the residual of x is computed in float64 and in exact precision, and x becomes the new
centre. So rounding errors of the products act on small offsets only: float32 operators give float64 results,
which is iterative refinement without a restart of the momentum.

Inspections also judge. The energy x'Ax / 2 - b'x is the error in the norm of A up to a constant, and must
not rise: if it does, the step was too long, and the scheme starts again from the centre with a smaller one.
With d the offset, r(c) - r(c + d) = A d gives d'Ad for nothing: if negative, the matrix is indefinite.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from .. import options as _options
from ..errors import OptionError, ShapeError
from .columns import CODE, RUNNING
from .indefinite import alpha_for, least_from
from .operator import LinearOperator
from .residuals import power_of_two, true_residuals
from .solution import SEVERITY, Note, Progress, Report, Solution, Status
from .watch import Watch

Tensor = torch.Tensor


class Limits(Protocol):
    """The fields that all methods on this engine have."""

    @property
    def tol(self) -> float: ...
    @property
    def max_passes(self) -> float: ...
    @property
    def time_limit(self) -> float | None: ...
    @property
    def refresh(self) -> float: ...
    @property
    def patience(self) -> float: ...


@dataclass(frozen=True)
class Failure:
    """Why a step could not be made; for an indefinite matrix with a direction (n,) of negative curvature."""

    status: Status
    detail: str = ""
    direction: Tensor | None = None


class Scheme(ABC):
    """Steps that bring the offset closer to the solution of A offset = residual, on all columns at once.

    Attributes
    ----------
    share : float
        The part of a pass that a step computes.
    failure : Failure, optional
        Set by a step that could not be made.
    description : str
        For messages: "blocks of 500".
    """

    share: float
    failure: Failure | None = None
    description: str = ""

    @abstractmethod
    def step(self) -> Tensor | None:
        """Make a step; the norm of each column's residual as far as known, (E,), or None."""

    @abstractmethod
    def offset(self) -> Tensor:
        """The best offset at hand, (n, E), float64."""

    @abstractmethod
    def recentre(self, residual: Tensor, keep: Tensor) -> None:
        """The offset was added to the centre, whose residual is given; columns not in ``keep`` are done."""

    @abstractmethod
    def restart(self, residual: Tensor, keep: Tensor) -> None:
        """The offset was thrown away; begin at the centre."""

    def damp(self) -> bool:
        """Make the steps shorter; False if they cannot be."""
        return False


def check_limits(method: Limits) -> None:
    """Raise OptionError unless the common fields make sense."""
    if not 0 < method.tol < 1:
        raise OptionError(f"tol={method.tol!r}: expected a number between 0 and 1, such as 1e-4.")
    for name in ("refresh", "patience", "max_passes"):
        value = getattr(method, name)
        if not value > 0:
            raise OptionError(f"{name}={value!r}: expected a positive number of passes.")


def check_count(name: str, value: Any) -> None:
    """Raise OptionError unless ``value`` is a positive integer or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise OptionError(f"{name}={value!r}: expected a positive integer.")


def default_block(n: int) -> int:
    """Rows whose factorisation, b^3 / 3 operations, costs about as much as their product with everything."""
    fits = math.isqrt(_options.current().memory_limit // 64)
    return max(1, min(n, max(512, math.isqrt(32 * n)), fits))


def block_factor(A: LinearOperator, rows: Tensor) -> Tensor | Failure:
    """The Cholesky factor of A[rows, rows] for a float64 operator."""
    block = A.submatrix(rows, rows).dense()
    if not bool(torch.isfinite(block).all()):
        return Failure(Status.nan, "a block of the matrix is not finite")
    L, info = torch.linalg.cholesky_ex(block)
    if int(info) == 0:
        return L
    return indefinite(A, rows, block)


def indefinite(A: LinearOperator, rows: Tensor, block: Tensor) -> Failure:
    """What is said of a matrix whose block A[rows, rows] is not positive definite."""
    values, vectors = torch.linalg.eigh(block)
    direction = block.new_zeros(A.shape[-1])
    direction[rows] = vectors[:, 0]
    detail = f"a block of {len(rows)} rows has the eigenvalue {float(values[0]):.1e}"
    return Failure(Status.indefinite, detail, direction)


class Sampled:
    """The norm of a residual of which each step sees some rows: a mean that forgets what is a pass old."""

    def __init__(self, residual: Tensor):
        self.n, self.squares = residual.shape[0], residual.new_zeros(residual.shape[1])
        self.weight = self.seen = 0.0

    def add(self, part: Tensor) -> Tensor | None:
        """Take in the residual in some rows; returns the norms once a pass has been seen."""
        share = part.shape[0] / self.n
        self.squares = (1 - share) * self.squares + part.square().sum(0)
        self.weight, self.seen = (1 - share) * self.weight + part.shape[0], self.seen + share
        return (self.squares * (self.n / self.weight)).sqrt() if self.seen > 1 - 1e-9 else None

    def drop(self, keep: Tensor) -> None:
        """Go on with some of the columns."""
        self.squares = self.squares[keep]


def descend(
    name: str,
    method: Limits,
    A: LinearOperator,
    b: Tensor,
    *,
    make: Callable[[LinearOperator, Tensor], Scheme],
    preconditioner: LinearOperator | None,
    x0: Tensor | None,
    callback: Callable[[Progress], Any] | None,
) -> Solution:
    """Run the scheme ``make(A, residual)`` until all columns of A x = b have an outcome.

    Raises
    ------
    ShapeError
        If A is not symmetric or has a batch.
    """
    if not A.symmetric:
        raise ShapeError(f"{name} needs a symmetric operator, got {A!r}; declare it (symmetric=True or "
                         "psd=True) if it is.")  # fmt: skip
    if len(A.shape) != 2:
        raise ShapeError(f"{name} works on one matrix; the operator has shape {A.shape}. Use CG().")
    with torch.no_grad(), Watch(callback, method.time_limit) as watch:
        work = _Work(name, method, A, b, x0)
        if preconditioner is not None:
            work.notes.append(Note("UNUSED", f"{name} has no use for a preconditioner."))
        if work.running():
            work.scheme = make(A, work.R[:, work.home])
        while work.running() and work.passes < method.max_passes - 1e-9:
            work.step()
            verdict = watch.verdict(work.progress()) if work.running() else None
            if verdict is not None:
                work.end(verdict)
        work.end(Status.max_iter)
        return work.solution()


class _Work:
    """The state of one run. Arrays hold all columns; ``home`` lists those still worked on."""

    scheme: Scheme

    def __init__(self, name: str, method: Limits, A: LinearOperator, b: Tensor, x0: Tensor | None):
        self.name, self.method, self.A, self.dtype, self.shape = name, method, A, b.dtype, b.shape
        self.iteration = self.inspections = 0
        self.passes = self.since = 0.0
        self.notes: list[Note] = []
        self.failure: Failure | None = None
        B = _fold(b).double()
        self.scale = power_of_two(B).squeeze(0)
        self.B = B / self.scale
        norm = self.B.norm(dim=0)
        self.norm_b = torch.where(norm == 0, torch.ones_like(norm), norm)
        self.X = torch.zeros_like(self.B) if x0 is None else _fold(x0).double() / self.scale
        self.X = torch.where(norm == 0, torch.zeros_like(self.X), self.X)
        self.home = torch.arange(B.shape[1], device=b.device)
        self.code = torch.full_like(self.home, RUNNING)
        self.best, self.best_at = torch.full_like(norm, torch.inf), torch.zeros_like(norm)
        self.R = self.B.clone() if x0 is None else self._residuals(self.X)[1]
        norms = self.R.norm(dim=0) / self.norm_b
        self.energy = -0.5 * ((self.B + self.R) * self.X).sum(0)
        self.best_x, self.best = self.X.clone(), norms.clone()
        self.history = [norms]
        if not bool(torch.isfinite(norms).all()):  # nothing to iterate on, whatever the other columns hold
            self.best[:], self.code[:] = torch.nan, CODE[Status.nan]
        self.code[norms <= method.tol] = CODE[Status.converged]
        self.home = self.home[self.code < 0]

    def running(self) -> bool:
        """Whether any column is unfinished."""
        return len(self.home) > 0

    def step(self) -> None:
        """One step of the scheme, and an inspection if it is due."""
        method, scheme = self.method, self.scheme
        estimate = scheme.step()
        self.iteration += 1
        self.passes, self.since = self.passes + scheme.share, self.since + scheme.share
        line = self.history[-1]
        if estimate is not None:
            line = line.scatter(0, self.home, estimate / self.norm_b[self.home])
        self.history.append(line)
        if scheme.failure is not None:
            return self._fail(scheme.failure)
        now = line[self.home]
        settled = estimate is not None and bool((now <= method.tol).all())
        grown = bool((now > 10 * self.best[self.home]).any())
        broken = not bool(torch.isfinite(now).all())
        if broken or self.since >= method.refresh - 1e-9 or ((settled or grown) and self.since > 1 - 1e-9):
            self.inspect()
        return None

    def inspect(self) -> None:
        """Compute the true residual at the offset, and accept the offset or go back, column by column."""
        self.since, home = 0.0, self.home
        d = self.scheme.offset()
        X = self.X[:, home] + d
        given, truth = self._residuals(X)
        fine = torch.isfinite(truth).all(0)
        if not bool(fine.all()) and self._matrix_is_broken():
            return self._fail(Failure(Status.nan))
        negative = self._negative_curvature(d, truth, X)
        if negative is not None:
            return self._fail(negative)
        energy = -0.5 * ((self.B[:, home] + truth) * X).sum(0)
        fine &= energy <= self.energy[home] + 1e-8 * self.energy[home].abs()
        good = home[fine]
        self.X[:, good] = X[:, fine]
        self.R[:, good] = truth[:, fine]
        self._keep_best(good, given[fine], energy[fine])
        late = self.passes - self.best_at >= self.method.patience
        rounded = torch.zeros_like(late)  # x is good, but not once it is rounded to the dtype asked for
        rounded[home] = truth.norm(dim=0) <= 0.5 * self.method.tol * self.norm_b[home]
        self.code[home[(late | rounded)[home]]] = CODE[Status.stagnated]
        self.code[home[self.best[home] <= self.method.tol]] = CODE[Status.converged]
        return self._go_on(bool(fine.all()))

    def _go_on(self, fine: bool) -> None:
        keep = self.code[self.home] < 0
        self.home = self.home[keep]
        if not self.running():
            return
        if fine:
            return self.scheme.recentre(self.R[:, self.home], keep)
        if self.scheme.damp():
            self.notes.append(Note("DAMPED", f"{self.name} diverged; it went on with shorter steps."))
            return self.scheme.restart(self.R[:, self.home], keep)
        self.code[self.home] = CODE[Status.stagnated]
        self.home = self.home[:0]
        return None

    def _keep_best(self, which: Tensor, given: Tensor, energy: Tensor) -> None:
        old, slack = self.energy[which], self.energy[which].abs()
        lower = energy < old - 1e-10 * slack
        better = lower | (given < self.best[which])
        moved = (energy < old - 1e-6 * slack) | (given < 0.9 * self.best[which])
        self.best_at[which[moved]] = self.passes
        chosen = which[better]
        self.best_x[:, chosen], self.best[chosen] = self.X[:, chosen], given[better]
        self.energy[which] = torch.minimum(energy, old)

    def _negative_curvature(self, d: Tensor, truth: Tensor, X: Tensor) -> Failure | None:
        """Whether d'Ad is negative beyond rounding for some column."""
        size = d.abs().amax(0)
        size = torch.where((size > 0) & torch.isfinite(size), size, torch.ones_like(size))
        d, change = d / size, (self.R[:, self.home] - truth) / size
        form, squares = (d * change).sum(0), d.square().sum(0)
        n, largest = d.shape[0], self.A.diag().double().abs().max()
        rounding = 4 * torch.finfo(torch.float64).eps * n * largest * (X / size).norm(dim=0) * squares.sqrt()
        if not bool((form < -rounding).any()):
            return None
        worst = int(torch.where(form < -rounding, form / squares, torch.inf).argmin())
        return Failure(
            Status.indefinite, f"d'Ad / d'd = {float(form[worst] / squares[worst]):.1e}", d[:, worst]
        )

    def _suggested_alpha(self, direction: Tensor) -> float:
        low = least_from(lambda v: self.A.matmul(v, exact=True), direction.double()[:, None], steps=5)
        return alpha_for(low, len(direction), float(self.A.diag().abs().max()))

    def _matrix_is_broken(self) -> bool:
        """Whether a product with the (finite) residuals of the centres is not finite."""
        R = self.R[:, self.home]
        return not bool(torch.isfinite(self.A.matmul(R.to(self.A.torch_dtype))).all())

    def _residuals(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Of columns ``home``: |b - A x| / |b| for x rounded to the dtype asked for, b - A x for x itself."""
        self.inspections += 1
        rounded, truth = true_residuals(self.A, X, self.B[:, self.home], self.dtype)
        return rounded.norm(dim=0) / self.norm_b[self.home], truth

    def _fail(self, failure: Failure) -> None:
        self.failure = failure
        if failure.status is Status.nan:
            self.best[self.home[self.best_at[self.home] == 0]] = torch.nan  # no answer at all
        self.code[self.home] = CODE[failure.status]
        self.home = self.home[:0]

    def end(self, status: Status) -> None:
        """End all columns that are still being worked on."""
        if self.running() and self.since:
            self.inspect()
        self.code[self.home] = CODE[status]
        self.home = self.home[:0]

    def progress(self) -> Progress:
        """For the callback."""
        total = math.ceil(self.method.max_passes / self.scheme.share - 1e-9)
        return Progress(self.iteration, total, _unfold(self.history[-1], self.shape), len(self.home))

    def solution(self) -> Solution:
        """What is known at the end."""
        status = SEVERITY[int(self.code.max())] if len(self.code) else Status.converged
        x = torch.where(torch.isfinite(self.best), self.best_x * self.scale, torch.nan)
        detail = f"{self.passes:.3g} passes"
        if self.iteration:
            detail += f", {self.scheme.description}"
        if self.failure is not None:
            detail = self.failure.detail or detail
        alpha = None
        if self.failure is not None and self.failure.direction is not None:
            alpha = self._suggested_alpha(self.failure.direction)
        return Solution(
            x=_unfold(x, self.shape).movedim(0, -2).to(self.dtype),
            status=status,
            iterations=self.iteration,
            residual_norms=_unfold(self.best, self.shape),
            history=_unfold(torch.stack(self.history), self.shape),
            products=math.ceil(self.passes - 1e-9) + self.inspections,
            method=self.name,
            detail=detail,
            report=Report(suggested_alpha=alpha, notes=tuple(dict.fromkeys(self.notes))),
        )


def _fold(b: Tensor) -> Tensor:
    """(*batch, n, E) with the batch among the columns: (n, columns)."""
    return b.movedim(-2, 0).reshape(b.shape[-2], math.prod(b.shape[:-2]) * b.shape[-1])


def _unfold(a: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse, on the last axis."""
    return a.reshape(*a.shape[:-1], *shape[:-2], shape[-1])

"""Preconditioned conjugate gradients on many right-hand sides at once.

    r = b - A x,  z = M r,  p = z                      M: the preconditioner, an approximate inverse of A
    repeat
        q = A p
        a = (r, p) / (p, q)                            (p, q) <= 0: A is not positive definite
        x = x + a p
        r' = r - a q
        z' = M r'
        c = (z', r' - r) / (z, r)                      Polak-Ribiere: M need not be exactly the same each time
        p = z' + c p
    until |r| <= tol |b| and then |b - A x| <= tol |b|

It differs from the textbook in six ways. (1) Every column has its own a and c - and, if wanted, its own
shift of the diagonal; a column that has converged waits, and is taken out of the products with the next
inspection. (2) x, r, p and all scalar products are float64 even if A is float32; only A p is rounded.
(3) The recursive r drifts away from b - A x, so at inspections - every ``refresh`` iterations and whenever
columns claim convergence - the true residual is computed, all in float64. It takes the place of r while
the two are close (residual replacement, van der Vorst and Ye, 2000); once r has become much smaller than
the truth the column starts again from there, which is iterative refinement. (4) A column whose restarts
no longer help, or whose energy (see `columns`) has long not fallen as its iterations claim, goes on
with products in float64; if they were that already, it is given back as stagnated. (5) Columns are scaled
by powers of two. (6) The scalars are kept: they give Ritz values and a certificate of the error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import OptionError, ShapeError
from .certificate import certify, known_node
from .coefficients import REPLACED, STARTED, Coefficients, spectra
from .columns import CODE, RUNNING, WAITING, Columns, dot
from .guard import guard
from .indefinite import SAFETY, least_from
from .operator import LinearOperator, cast
from .residuals import true_residuals
from .solution import SEVERITY, Certificate, Note, Progress, Report, Solution, Status
from .watch import Watch

Tensor = torch.Tensor
Callback = Callable[[Progress], Any]

_DRIFT = 1e-3  # relative to the residual: so much is not worth a replacement, the certificate adds it
_IDLE = 3  # inspections in a row that found no progress


@dataclass(frozen=True)
class CG:
    """Conjugate gradients, for symmetric positive definite operators.

    Parameters
    ----------
    tol : float
        On |b - A x| / |b|, for every column.
    max_iter : int
        Most products with A within the iteration (inspections of the true residual come on top).
    refresh : int
        Iterations between two computations of the true residual.
    patience : int
        Iterations without any true progress after which a column counts as stagnated.
    time_limit : float, optional
        Seconds.
    promote : bool
        Go on with products in float64 once those of a float32 operator no longer help; a note in the report
        says so. Without it such a solve ends as ``stagnated`` or ``indefinite``.

    Examples
    --------
    >>> import torch
    >>> from kerngp.solvers import Dense, solve
    >>> A = Dense(torch.diag(torch.tensor([1.0, 2.0, 4.0])), psd=True)
    >>> solve(A, torch.tensor([1.0, 2.0, 4.0]), CG(tol=1e-5)).x
    tensor([1., 1., 1.])
    """

    tol: float = 1e-6
    max_iter: int = 1000
    refresh: int = 50
    patience: int = 200
    time_limit: float | None = None
    promote: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.tol < 1:
            raise OptionError(f"tol={self.tol!r}: expected a number between 0 and 1, such as 1e-6.")
        for name, least in (("max_iter", 0), ("refresh", 1), ("patience", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise OptionError(f"{name}={value!r}: expected an integer of at least {least}.")
        if self.time_limit is not None and not self.time_limit >= 0:
            raise OptionError(f"time_limit={self.time_limit!r}: expected seconds, or None for no limit.")

    def run(
        self,
        A: LinearOperator,
        b: Tensor,
        *,
        preconditioner: LinearOperator | None = None,
        x0: Tensor | None = None,
        callback: Callback | None = None,
        shifts: Tensor | None = None,
    ) -> Solution:
        """Solve A x = b for b of shape (*batch, N, E), the batch of A. No gradients here: see `solve`.

        With ``shifts`` of shape (E,), column e of x solves (A + shifts[e] I) x = b; all of them share the
        products with A. The preconditioner may be a `ByColumn`.
        """
        if not A.symmetric:
            raise ShapeError(
                f"CG needs a symmetric operator, got {A!r}; declare it (symmetric=True or psd=True) if it "
                "is, or solve the normal equations."
            )
        if shifts is not None and shifts.shape != b.shape[-1:]:
            raise ShapeError(
                f"shifts has shape {tuple(shifts.shape)}; expected one for each column, ({b.shape[-1]},)."
            )
        with torch.no_grad(), Watch(callback, self.time_limit) as watch:
            work = _Work(self, A, b, preconditioner, x0, None if shifts is None else shifts.double())
            while work.running() and work.iteration < self.max_iter:
                work.step()
                if work.due():
                    work.inspect()
                verdict = watch.verdict(work.progress())
                if verdict is not None:
                    work.end(verdict)
            work.end(Status.max_iter)
            return work.solution()


class _Work:
    """One run: the recursion, the inspections, and what is reported of them."""

    def __init__(
        self,
        method: CG,
        A: LinearOperator,
        b: Tensor,
        M: LinearOperator | None,
        x0: Tensor | None,
        shifts: Tensor | None,
    ):
        self.method, self.A, self.M, self.whole_M, self.shifts = method, A, M, M, shifts
        self.iteration = self.products = self.since = 0
        self.curvature: float | None = None
        self.least: float | None = None
        self.coefficients = Coefficients()
        self.notes: list[Note] = []
        self.attainable: float | None = None
        c = self.columns = Columns(b, x0, shifts)
        self.history = [c.begin(c.B if x0 is None else self._true_residuals()[1], method.tol)]
        self._retire()
        if not self.running():
            return
        if A.torch_dtype != torch.float64:
            expected = guard(A, dtype=b.dtype, shifts=shifts)
            self.attainable = expected.attainable
            self.notes += [expected.note] if expected.note is not None and method.promote else []
        self._start(c.run)
        c.best_rz = c.rz
        if self.due():
            self.inspect()

    # ------------------------------------------------------------ the iteration

    def step(self) -> None:
        """One iteration of every running column."""
        c = self.columns
        Q = self._product(c.P)
        self.iteration, self.since = self.iteration + 1, self.since + 1
        pq = dot(c.P, Q)
        run = c.run
        if not bool(torch.isfinite(pq[run]).all()):
            return self._fail(run & ~torch.isfinite(pq), Status.nan)
        wrong = run & (pq <= 0)
        if bool(wrong.any()):
            return self._not_positive(wrong, pq)
        rp = dot(c.R, c.P)
        a = torch.where(run, rp / torch.where(run, pq, torch.ones_like(pq)), torch.zeros_like(pq))
        c.X = c.X + a.unsqueeze(-2) * c.P
        c.claimed = c.claimed + 0.5 * a * rp
        R = c.R - a.unsqueeze(-2) * Q
        norms = c.relative(R.norm(dim=-2))
        self.history.append(self._spread(norms))
        if not bool(torch.isfinite(norms[run]).all()):
            return self._fail(run & ~torch.isfinite(norms), Status.nan)
        c.code = torch.where(run & (norms <= self.method.tol), WAITING, c.code)
        Z = self._precondition(R)
        before, rz = torch.where(run, c.rz, torch.ones_like(c.rz)), dot(R, Z)
        c.P = torch.where(run.unsqueeze(-2), Z + (dot(Z, R - c.R) / before).unsqueeze(-2) * c.P, c.P)
        self.coefficients.append(c.home, a, rz / before, c.fresh)
        c.fresh = torch.where(run, 0, c.fresh)
        c.R, c.rz = R, rz
        return self._check_preconditioner()

    def _check_preconditioner(self) -> None:
        c = self.columns
        if not bool(torch.isfinite(c.rz[c.run]).all()):
            self._fail(c.run & ~torch.isfinite(c.rz), Status.nan)
        elif bool((c.rz[c.run] <= 0).any()):
            self._fail(c.run & (c.rz <= 0), Status.indefinite)

    def _start(self, which: Tensor) -> None:
        """Take up the residuals at hand; begin again with p = z in the columns ``which``."""
        if not self.running():
            return
        c = self.columns
        Z = self._precondition(c.R)
        c.rz = dot(c.R, Z)
        c.P = torch.where(which.unsqueeze(-2), Z, c.P)
        c.fresh = torch.where(which, STARTED, c.fresh)
        c.exact = c.exact | which
        self._check_preconditioner()

    # ------------------------------------------------------------ inspections

    def due(self) -> bool:
        """Whether the true residuals should be computed now."""
        if not self.running():
            return False
        c = self.columns
        waiting, unfinished = int((c.code == WAITING).sum()), c.active()
        return waiting == unfinished or 2 * waiting > unfinished or self.since >= self.method.refresh

    def inspect(self) -> None:
        """Compute true residuals; accept, go on, restart or give up, column by column."""
        if not self.running():
            return
        self.since = 0
        c, tol = self.columns, self.method.tol
        unfinished = c.unfinished
        rounded, truth = self._true_residuals()
        norm, given = c.relative(truth.norm(dim=-2)), c.relative(rounded.norm(dim=-2))
        if not bool(torch.isfinite(norm[unfinished]).all()):
            return self._fail(unfinished & ~torch.isfinite(norm), Status.nan)
        drift, known = c.relative((truth - c.R).norm(dim=-2)), c.relative(c.R.norm(dim=-2))
        restart = unfinished & (drift > 0.1 * known) & (known <= 0.3 * norm)
        replace = unfinished & (drift <= 0.1 * known) & (drift > _DRIFT * known)
        c.keep_best(unfinished, given, truth, self.iteration, self._slack(truth))
        reached = c.relative(c.best_r.norm(dim=-2))
        useless = restart & (reached > 0.5 * c.last)
        c.strikes = torch.where(useless, c.strikes + 1, torch.where(restart, 0.0, c.strikes))
        c.last = torch.where(restart, reached, c.last)
        late = (self.iteration - c.moved_at >= self.method.patience) | (c.idle >= 3 * _IDLE)
        # x is good, or could not get much better, once it is rounded to the dtype asked for
        unrounded = (norm <= 0.5 * tol) | ((given > 3 * norm) & (given > 3 * tol))
        c.code = torch.where(unfinished, RUNNING, c.code)
        good = unfinished & (c.best <= tol)
        c.code = torch.where(good, CODE[Status.converged], c.code)
        stuck = unfinished & ~good & ((c.strikes >= 1) | (c.idle >= _IDLE) | late) & ~unrounded
        if self._can_promote() and bool(stuck.any()):
            return self._promote()
        hopeless = unfinished & ~good & ((c.strikes >= 3) | late | unrounded)
        c.code = torch.where(hopeless, CODE[Status.stagnated], c.code)
        replace, restart = replace & c.unfinished, restart & c.unfinished
        c.R = torch.where(replace.unsqueeze(-2), truth, c.R)
        c.fresh = torch.where(replace, REPLACED, c.fresh)
        c.exact = c.exact & ~replace
        c.go_back(restart)
        self._retire(restart if bool((replace | restart).any()) else None)

    def _can_promote(self) -> bool:
        return self.method.promote and self.A.torch_dtype != torch.float64

    def _promote(self) -> None:
        """Go on with the same operator in float64, from the best iterates."""
        c = self.columns
        text = f"after {self.iteration} iterations products went over from {self.A.torch_dtype} to float64."
        self.notes.append(Note("PROMOTED", text.replace("torch.", "")))
        self.A = cast(self.A, torch.float64)
        c.last, c.strikes = torch.full_like(c.last, torch.inf), torch.zeros_like(c.strikes)
        c.idle = torch.zeros_like(c.idle)
        c.moved_at = torch.full_like(c.moved_at, self.iteration)
        unfinished = c.unfinished
        c.go_back(unfinished)
        self._retire(unfinished)

    def _slack(self, truth: Tensor) -> Tensor:
        """(d, M d) of the drift: what the certificate has to add."""
        d = truth - self.columns.R
        return dot(d, self._precondition(d))

    def _not_positive(self, wrong: Tensor, pq: Tensor) -> None:
        """p'Ap <= 0. Rounding can do that once the recursion has drifted; otherwise it is the matrix."""
        c = self.columns
        self.history.append(self.history[-1])
        truth = self._true_residuals()[1]
        drifted = (truth - c.R).norm(dim=-2) > 0.1 * truth.norm(dim=-2)
        if not bool((wrong & ~drifted).any()):
            self.inspect()
        elif self._can_promote():
            self.inspect()
            if self._can_promote() and self.running():
                self._promote()
        else:
            curvature = torch.where(wrong, pq / dot(c.P, c.P), torch.inf)
            self.curvature = float(curvature.min())
            self.least = self._least_eigenvalue(curvature)
            self._fail(wrong & ~drifted, Status.indefinite)

    def _least_eigenvalue(self, curvature: Tensor) -> float:
        """From the most negative direction."""
        c = self.columns
        worst = int(curvature.reshape(-1, curvature.shape[-1]).amin(0).argmin())
        start = torch.where((curvature <= 0).unsqueeze(-2), c.P, 0.0)[..., worst : worst + 1]
        shift = 0.0 if c.shifts is None else c.shifts[worst]

        def apply(v: Tensor) -> Tensor:
            self.products += 1
            return self.A.matmul(v.to(self.A.torch_dtype)).double() + shift * v

        return least_from(apply, start)

    def _fail(self, which: Tensor, status: Status) -> None:
        """Give up columns; a NaN ends everything, as the matrix or the data are wrong."""
        c = self.columns
        if len(self.history) <= self.iteration:
            self.history.append(self.history[-1])
        rounded, truth = self._true_residuals()
        c.keep_best(
            c.unfinished, c.relative(rounded.norm(dim=-2)), truth, self.iteration, torch.zeros_like(c.rz)
        )
        if status is Status.nan:
            c.best = torch.where(c.moved_at == 0, torch.nan, c.best)  # no answer at all
            which = c.unfinished
        c.code = torch.where(which, CODE[status], c.code)
        self._retire()

    def end(self, status: Status) -> None:
        """End all columns that are still being worked on, at their best iterates."""
        if not self.running():
            return
        if self.since:
            self.inspect()
        c = self.columns
        c.code = torch.where(c.unfinished, CODE[status], c.code)
        self._retire()

    def _retire(self, restart: Tensor | None = None) -> None:
        """Let finished columns go; with ``restart``, take up the residuals and begin those columns again."""
        c = self.columns
        restart = None if restart is None else restart & c.unfinished
        keep = c.retire()
        if keep is not None and self.M is not None and hasattr(self.M, "restrict"):
            self.M = self.M.restrict(keep)  # type: ignore[operator]
        if restart is not None:
            self._start(restart if keep is None else restart[..., keep])

    # ------------------------------------------------------------ small parts

    def running(self) -> bool:
        """Whether any column is unfinished."""
        return bool(self.columns.unfinished.any())

    def _product(self, v: Tensor) -> Tensor:
        self.products += 1
        product = self.A.matmul(v.to(self.A.torch_dtype)).double()
        return product if self.columns.shifts is None else product + self.columns.shifts * v

    def _precondition(self, r: Tensor) -> Tensor:
        return r.clone() if self.M is None else self.M.matmul(r.to(self.M.torch_dtype)).double()

    def _true_residuals(self) -> tuple[Tensor, Tensor]:
        """b - A x for x rounded to the dtype of the result, and for x as it is."""
        self.products += 1
        c = self.columns
        return true_residuals(self.A, c.X, c.B, c.dtype, c.shifts)

    def _spread(self, norms: Tensor) -> Tensor:
        """The last line of the history, with the norms of the columns at work replaced."""
        return self.history[-1].scatter(-1, self.columns.home.expand(norms.shape), norms)

    def progress(self) -> Progress:
        """For the callback."""
        return Progress(self.iteration, self.method.max_iter, self.history[-1], self.columns.active())

    # ------------------------------------------------------------ the end

    def solution(self) -> Solution:
        """What is known at the end."""
        c = self.columns
        status = SEVERITY[int(c.outcome.max())] if c.outcome.numel() else Status.converged
        detail, suggested = "", None
        if status is Status.indefinite and self.curvature is not None:
            detail = f"p'Ap / p'p = {self.curvature:.1e}"
            if self.least is not None and self.least < 0:
                suggested = -SAFETY * self.least
                detail += f"; add {suggested:.1e} to alpha"
        if status is Status.stagnated:  # measured, rather than foreseen
            self.attainable = float(c.out_norm[c.outcome == CODE[status]].max())
        coefficients = self.coefficients.arrays(tuple(c.outcome.shape))
        spectrum = spectra(*coefficients, each=self.shifts is not None)
        known = [s for s in spectrum.reshape(-1, 2).tolist() if s[0] == s[0]]
        report = Report(
            preconditioner=getattr(self.whole_M, "description", ""),
            ritz=(min(s[0] for s in known), max(s[1] for s in known)) if known else None,
            certificate=self._certificate(coefficients, spectrum, status),
            suggested_alpha=suggested,
            attainable=self.attainable,
            notes=tuple(self.notes),
        )
        return Solution(
            x=c.result(),
            status=status,
            iterations=self.iteration,
            residual_norms=c.out_norm,
            history=torch.stack(self.history),
            products=self.products,
            method="CG",
            detail=detail,
            report=report,
        )

    def _certificate(
        self, coefficients: tuple[np.ndarray, np.ndarray, np.ndarray], spectrum: np.ndarray, status: Status
    ) -> Certificate | None:
        if status in (Status.indefinite, Status.nan):
            return None
        c, least = self.columns, spectrum[..., 0]
        node = known_node(self.A, self.whole_M, self.shifts)
        doubts = []
        if node is None:
            if not (least > 0).any():
                return None
            doubts.append(
                "no lower bound on the spectrum is known: half of the smallest Ritz value stands in"
            )
        if self.A.torch_dtype != torch.float64:
            doubts.append(f"products are in {self.A.torch_dtype}".replace("torch.", ""))
        if c.dtype != torch.float64:
            doubts.append(f"x is rounded to {c.dtype}".replace("torch.", ""))
        if not bool(c.out_exact.all()):
            doubts.append("residuals were replaced since the last start")
        bound = np.where(least > 0, 0.5 * least, np.nan) if node is None else node.cpu().numpy()
        at, rz, slack = (t.cpu().numpy() for t in (c.out_at, c.out_rz, c.out_slack))
        found = certify(coefficients, at, rz, slack, bound, spectrum, "; ".join(doubts))
        return Certificate(found.error.to(c.scale.device) * c.scale.squeeze(-2), found.kind, found.reason)

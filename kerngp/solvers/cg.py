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

It differs from the textbook in five ways. (1) Every column has its own a and c; a column that has
converged waits, and is taken out of the products with the next inspection. (2) x, r, p and all scalar
products are float64 even if A is float32; only A p is rounded. (3) The recursive r drifts away from
b - A x, so at inspections - every ``refresh`` iterations and whenever columns claim convergence - the
true residual is computed, all in float64. It takes the place of r while the two are close (residual
replacement, van der Vorst and Ye, 2000); once r has become much smaller than the truth the column
starts again from there, which is iterative refinement.
(4) Columns whose restarts no longer help are given back as stagnated. Iterates are judged by the
energy x'Ax / 2 - b'x, which falls with the error in the A-norm at every step, whereas |b - A x| of a
perfectly healthy run may rise for a long time; residuals decide between equal energies.
(5) Columns are scaled by powers of two to norms near one, so that nothing over- or underflows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import OptionError, ShapeError
from .operator import LinearOperator
from .solution import SEVERITY, Progress, Solution, Status

Tensor = torch.Tensor
Callback = Callable[[Progress], Any]

_RUNNING, _WAITING = -1, -2  # codes of columns without an outcome; outcomes are positions in SEVERITY
_CODE = {status: k for k, status in enumerate(SEVERITY)}


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
        Iterations without any progress of the true residual after which a column counts as stagnated.

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
    patience: int = 500

    def __post_init__(self) -> None:
        if not 0 < self.tol < 1:
            raise OptionError(f"tol={self.tol!r}: expected a number between 0 and 1, such as 1e-6.")
        for name, least in (("max_iter", 0), ("refresh", 1), ("patience", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise OptionError(f"{name}={value!r}: expected an integer of at least {least}.")

    def run(
        self,
        A: LinearOperator,
        b: Tensor,
        *,
        preconditioner: LinearOperator | None = None,
        x0: Tensor | None = None,
        callback: Callback | None = None,
    ) -> Solution:
        """Solve A x = b for b of shape (*batch, N, E), the batch of A. No gradients here: see `solve`."""
        if not A.symmetric:
            raise ShapeError(
                f"CG needs a symmetric operator, got {A!r}; declare it (symmetric=True or psd=True) if it "
                "is, or solve the normal equations."
            )
        with torch.no_grad():
            work = _Work(self, A, b, preconditioner, x0)
            while work.running() and work.iteration < self.max_iter:
                work.step()
                if work.due():
                    work.inspect()
                if callback is not None and callback(work.progress()):
                    work.end(Status.stopped)
            work.end(Status.max_iter)
            return work.solution()


class _Work:
    """The state of one run. Lists of columns shrink as columns finish; ``home`` says where they came from."""

    def __init__(
        self,
        method: CG,
        A: LinearOperator,
        b: Tensor,
        M: LinearOperator | None,
        x0: Tensor | None,
    ):
        self.method, self.A, self.M, self.dtype = method, A, M, b.dtype
        self.iteration = self.products = self.since = 0
        self.curvature: float | None = None
        B = b.double()
        size = B.abs().amax(-2, keepdim=True) if b.shape[-2] else B.sum(-2, keepdim=True)
        self.scale = torch.where(size > 0, torch.exp2(torch.floor(torch.log2(size))), torch.ones_like(size))
        self.B = B / self.scale
        self.norm_b = self.B.norm(dim=-2)  # (*batch, E), like everything below that has no axis N
        self.X = torch.zeros_like(self.B) if x0 is None else x0.double() / self.scale
        self.X = torch.where((self.norm_b == 0).unsqueeze(-2), torch.zeros_like(self.X), self.X)
        self.home = torch.arange(b.shape[-1], device=b.device)
        zeros = torch.zeros_like(self.norm_b)
        self.code = torch.full(zeros.shape, _RUNNING, dtype=torch.int64, device=b.device)
        self.last, self.strikes = zeros + torch.inf, zeros.clone()
        self.outcome, self.out_x, self.out_norm = self.code.clone(), self.X.clone(), zeros.clone()
        self.P, self.rz = torch.zeros_like(self.B), zeros.clone()
        self.R = self.B if x0 is None else self._true_residuals()[1]
        norms = self._relative(self.R.norm(dim=-2))
        self.best_x, self.best, self.best_at = self.X.clone(), norms.clone(), zeros.clone()
        self.energy = self._energies(self.R)
        self.history = [norms]
        self.code[norms <= method.tol] = _WAITING
        self.code[self.norm_b == 0] = _CODE[Status.converged]
        self.best[self.norm_b == 0] = 0.0
        if not bool(torch.isfinite(norms).all()):  # nothing to iterate on, whatever the other columns hold
            self.best[:], self.code[:] = torch.nan, _CODE[Status.nan]
        self._retire()
        self._start(self.code == _RUNNING)
        if self.due():
            self.inspect()

    # ------------------------------------------------------------ the iteration

    def step(self) -> None:
        """One iteration of every running column."""
        Q = self._product(self.P)
        self.iteration, self.since = self.iteration + 1, self.since + 1
        pq = _dot(self.P, Q)
        run = self.code == _RUNNING
        if not bool(torch.isfinite(pq[run]).all()):
            return self._fail(run & ~torch.isfinite(pq), Status.nan)
        wrong = run & (pq <= 0)
        if bool(wrong.any()):
            return self._not_positive(wrong, pq)
        rp = _dot(self.R, self.P)
        a = torch.where(run, rp / torch.where(run, pq, torch.ones_like(pq)), torch.zeros_like(pq))
        self.X = self.X + a.unsqueeze(-2) * self.P
        R = self.R - a.unsqueeze(-2) * Q
        norms = self._relative(R.norm(dim=-2))
        self.history.append(self._spread(norms))
        if not bool(torch.isfinite(norms[run]).all()):
            return self._fail(run & ~torch.isfinite(norms), Status.nan)
        self.code[run & (norms <= self.method.tol)] = _WAITING
        Z = self._precondition(R)
        c = _dot(Z, R - self.R) / torch.where(run, self.rz, torch.ones_like(self.rz))
        self.P = torch.where(run.unsqueeze(-2), Z + c.unsqueeze(-2) * self.P, self.P)
        self.R, self.rz = R, _dot(R, Z)
        return self._check_preconditioner()

    def _check_preconditioner(self) -> None:
        run = self.code == _RUNNING
        if not bool(torch.isfinite(self.rz[run]).all()):
            self._fail(run & ~torch.isfinite(self.rz), Status.nan)
        elif bool((self.rz[run] <= 0).any()):
            self._fail(run & (self.rz <= 0), Status.indefinite)

    def _start(self, which: Tensor) -> None:
        """Begin again from the residual at hand: p = z in the columns ``which``."""
        if not self.running():
            return
        Z = self._precondition(self.R)
        self.rz = _dot(self.R, Z)
        self.P = torch.where(which.unsqueeze(-2), Z, self.P)
        self._check_preconditioner()

    # ------------------------------------------------------------ inspections

    def due(self) -> bool:
        """Whether the true residuals should be computed now."""
        if not self.running():
            return False
        waiting = int((self.code == _WAITING).sum())
        unfinished = waiting + int((self.code == _RUNNING).sum())
        return waiting == unfinished or 2 * waiting > unfinished or self.since >= self.method.refresh

    def inspect(self) -> None:
        """Compute true residuals; accept, go on, restart or give up, column by column."""
        if not self.running():
            return
        self.since = 0
        tol, unfinished = self.method.tol, self.code < 0
        rounded, truth = self._true_residuals()
        norm, given = self._relative(truth.norm(dim=-2)), self._relative(rounded.norm(dim=-2))
        if not bool(torch.isfinite(norm[unfinished]).all()):
            return self._fail(unfinished & ~torch.isfinite(norm), Status.nan)
        drift, known = self._relative((truth - self.R).norm(dim=-2)), self._relative(self.R.norm(dim=-2))
        restart = unfinished & (drift > 0.1 * known) & (known <= 0.3 * norm)
        replace = restart | (unfinished & (drift <= 0.1 * known))
        useless = restart & (norm > 0.5 * self.last)
        self.strikes = torch.where(useless, self.strikes + 1, torch.where(restart, 0.0, self.strikes))
        self.last = torch.where(restart, norm, self.last)
        self._keep_best(unfinished, given, truth)
        # the last case: x is good, but not once it is rounded to the dtype asked for
        late = self.iteration - self.best_at >= self.method.patience
        hopeless = (self.strikes >= 3) | late | (norm <= 0.5 * tol)
        self.code[unfinished] = _RUNNING
        self.code[unfinished & hopeless] = _CODE[Status.stagnated]
        self.code[unfinished & (self.best <= tol)] = _CODE[Status.converged]
        self.R = torch.where(replace.unsqueeze(-2), truth, self.R)
        self._start(self._retire(restart))

    def _energies(self, truth: Tensor) -> Tensor:
        return -0.5 * _dot(self.B + truth, self.X)

    def _keep_best(self, which: Tensor, given: Tensor, truth: Tensor) -> None:
        energy, scale = self._energies(truth), self.energy.abs()
        lower = energy < self.energy - 1e-10 * scale
        equal = ~lower & (energy <= self.energy + 1e-10 * scale)
        better = which & (lower | (equal & (given < self.best)))
        moved = which & ((energy < self.energy - 1e-6 * scale) | (given < 0.9 * self.best))
        self.best_at = torch.where(moved, float(self.iteration), self.best_at)
        self.best_x = torch.where(better.unsqueeze(-2), self.X, self.best_x)
        self.best, self.energy = (
            torch.where(better, given, self.best),
            torch.where(better, energy, self.energy),
        )

    def _not_positive(self, wrong: Tensor, pq: Tensor) -> None:
        """p'Ap <= 0. Rounding can do that once the recursion has drifted; otherwise it is the matrix."""
        self.history.append(self.history[-1])
        self.curvature = float((pq / _dot(self.P, self.P))[wrong].min())
        truth = self._true_residuals()[1]
        drifted = (truth - self.R).norm(dim=-2) > 0.1 * truth.norm(dim=-2)
        if bool((wrong & ~drifted).any()):
            self._fail(wrong & ~drifted, Status.indefinite)
        else:
            self.inspect()

    def _fail(self, which: Tensor, status: Status) -> None:
        """Give up columns; a NaN ends everything, as the matrix or the data are wrong."""
        if len(self.history) <= self.iteration:
            self.history.append(self.history[-1])
        rounded, truth = self._true_residuals()
        self._keep_best(self.code < 0, self._relative(rounded.norm(dim=-2)), truth)
        if status is Status.nan:
            self.best = torch.where(self.best_at == 0, torch.nan, self.best)  # no answer at all
            which = self.code < 0
        self.code[which] = _CODE[status]
        self._retire()

    def end(self, status: Status) -> None:
        """End all columns that are still being worked on, at their best iterates."""
        if not self.running():
            return
        if self.since:
            self.inspect()
        self.code[self.code < 0] = _CODE[status]
        self._retire()

    def _retire(self, mask: Tensor | None = None) -> Tensor:
        """Store finished columns, drop those finished in the whole batch; returns ``mask`` without them."""
        done = self.code >= 0
        if done.numel() == 0:
            return done
        index = self.home.expand(done.shape)
        self.outcome.scatter_(-1, index, self.code)
        self.out_norm.scatter_(-1, index, self.best)
        self.out_x.scatter_(-1, self.home.expand(self.best_x.shape), self.best_x)
        gone = done.reshape(-1, done.shape[-1]).all(0)
        mask = torch.zeros_like(done) if mask is None else mask & ~done
        if not bool(gone.any()):
            return mask
        keep = (~gone).nonzero().squeeze(-1)
        for name in ("X", "R", "P", "B", "best_x"):
            setattr(self, name, getattr(self, name)[..., keep])
        for name in ("rz", "code", "best", "best_at", "energy", "last", "strikes", "norm_b"):
            setattr(self, name, getattr(self, name)[..., keep])
        self.home = self.home[keep]
        return mask[..., keep]

    # ------------------------------------------------------------ small parts

    def running(self) -> bool:
        """Whether any column is unfinished."""
        return bool((self.code < 0).any())

    def _product(self, v: Tensor) -> Tensor:
        self.products += 1
        return self.A.matmul(v.to(self.A.torch_dtype)).double()

    def _precondition(self, r: Tensor) -> Tensor:
        return r.clone() if self.M is None else self.M.matmul(r.to(self.M.torch_dtype)).double()

    def _true_residuals(self) -> tuple[Tensor, Tensor]:
        """b - A x for x rounded to the dtype of the result, and for x as it is."""
        self.products += 1
        if self.dtype == torch.float64:
            truth = self.B - self.A.matmul(self.X, exact=True)
            return truth, truth
        head = self.X.to(self.dtype).double()
        first, second = self.A.matmul(torch.cat([head, self.X - head], -1), exact=True).chunk(2, -1)
        return self.B - first, self.B - first - second

    def _relative(self, norms: Tensor) -> Tensor:
        return norms / torch.where(self.norm_b > 0, self.norm_b, torch.ones_like(self.norm_b))

    def _spread(self, norms: Tensor) -> Tensor:
        """The last line of the history, with the norms of the columns at work replaced."""
        return self.history[-1].scatter(-1, self.home.expand(norms.shape), norms)

    def progress(self) -> Progress:
        """For the callback."""
        return Progress(self.iteration, self.method.max_iter, self.history[-1], int((self.code < 0).sum()))

    def solution(self) -> Solution:
        """What is known at the end."""
        worst = int(self.outcome.max()) if self.outcome.numel() else 0
        status = SEVERITY[worst]
        detail = ""
        if status is Status.indefinite and self.curvature is not None:
            detail = f"p'Ap / p'p = {self.curvature:.1e}"
        x = self.out_x * self.scale
        x = torch.where(torch.isfinite(self.out_norm).unsqueeze(-2), x, torch.full_like(x, torch.nan))
        return Solution(
            x=x.to(self.dtype),
            status=status,
            iterations=self.iteration,
            residual_norms=self.out_norm,
            history=torch.stack(self.history),
            products=self.products,
            method="CG",
            detail=detail,
        )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-2)

"""The columns of an iterative solve: iterates, best iterates, outcomes; finished ones leave the work.

Everything has the columns on its last axis: vectors are (*batch, N, E), numbers (*batch, E). Columns
are scaled by powers of two to norms near one, so that nothing over- or underflows.

Two iterates are compared by the energy x'Ax / 2 - b'x, which falls with the error in the A-norm,
whereas |b - A x| of a perfectly healthy run may rise for a long time; residuals decide between equal
energies. Differences of energies come without cancellation from the true residuals of both,

    energy(y) - energy(x) = (r_x + r_y)'(x - y) / 2
"""

from __future__ import annotations

import torch

from .residuals import power_of_two, relative
from .solution import SEVERITY, Status

Tensor = torch.Tensor

RUNNING, WAITING = -1, -2  # codes of columns without an outcome; outcomes are positions in SEVERITY
CODE = {status: k for k, status in enumerate(SEVERITY)}


class Columns:
    """What belongs to each column. Lists shrink as columns finish; ``home`` says where they came from.

    Parameters
    ----------
    b : Tensor of shape (*batch, N, E)
    x0 : Tensor like b, optional
    shifts : Tensor of shape (E,), optional
        Column e is one of A + shifts[e] I.
    """

    _VECTORS = ("B", "X", "R", "P", "best_x", "best_r")
    _NUMBERS = ("norm_b", "rz", "code", "best", "best_at", "best_rz", "best_exact", "slack")
    _COUNTS = ("moved_at", "idle", "claimed", "last", "strikes", "fresh", "exact")

    def __init__(self, b: Tensor, x0: Tensor | None, shifts: Tensor | None):
        self.dtype, self.shifts = b.dtype, shifts
        B = b.double()
        self.scale = power_of_two(B)
        self.B = B / self.scale
        self.norm_b = self.B.norm(dim=-2)
        self.X = torch.zeros_like(self.B) if x0 is None else x0.double() / self.scale
        self.X = torch.where((self.norm_b == 0).unsqueeze(-2), torch.zeros_like(self.X), self.X)
        self.home = torch.arange(b.shape[-1], device=b.device)
        zeros = torch.zeros_like(self.norm_b)
        whole = torch.zeros(zeros.shape, dtype=torch.int64, device=b.device)
        self.code = whole + RUNNING
        self.P, self.rz, self.claimed = torch.zeros_like(self.B), zeros, zeros
        self.last, self.strikes = zeros + torch.inf, zeros
        self.moved_at = self.idle = self.best_at = whole
        self.fresh = whole
        self.exact = self.best_exact = torch.ones_like(whole, dtype=torch.bool)
        self.best_rz, self.slack = zeros, zeros
        self.outcome, self.out_x, self.out_norm = self.code.clone(), self.X.clone(), zeros.clone()
        self.out_at, self.out_rz, self.out_slack = whole.clone(), zeros.clone(), zeros.clone()
        self.out_exact = self.exact.clone()

    def begin(self, R: Tensor, tol: float) -> Tensor:
        """Take the first residuals, settle what needs no iteration; returns their relative norms."""
        self.R = self.best_r = R
        norms = self.relative(R.norm(dim=-2))
        self.best_x, self.best = self.X, norms
        self.code = torch.where(norms <= tol, WAITING, self.code)
        nothing = self.norm_b == 0
        self.code = torch.where(nothing, CODE[Status.converged], self.code)
        self.best = torch.where(nothing, 0.0, self.best)
        if not bool(torch.isfinite(norms).all()):  # nothing to iterate on, whatever the other columns hold
            self.best = torch.full_like(norms, torch.nan)
            self.code = torch.full_like(self.code, CODE[Status.nan])
        return norms

    # ------------------------------------------------------------ small parts

    @property
    def run(self) -> Tensor:
        """Which columns iterate."""
        return self.code == RUNNING

    @property
    def unfinished(self) -> Tensor:
        """Which columns have no outcome yet."""
        return self.code < 0

    def active(self) -> int:
        """How many columns are unfinished."""
        return int(self.unfinished.sum())

    def relative(self, norms: Tensor) -> Tensor:
        """Norms of residuals, divided by those of the right-hand sides."""
        return relative(norms, self.norm_b)

    # ------------------------------------------------------------ judging iterates

    def keep_best(self, which: Tensor, given: Tensor, truth: Tensor, iteration: int, slack: Tensor) -> None:
        """Compare the iterates with the best ones so far.

        Parameters
        ----------
        which : Tensor
            Columns to look at.
        given, truth : Tensor
            Relative residual norms of x as it would be returned; true residuals of x as it is.
        slack : Tensor
            (d, M d) for d the difference between true and recursive residuals.
        """
        fall = 0.5 * dot(self.best_r + truth, self.X - self.best_x)
        # a healthy iteration lowers the energy by what it claims to
        lower, equal = fall > 0.1 * self.claimed, fall >= -0.1 * self.claimed
        better = which & (lower | (equal & (given < self.best)))
        moved = which & ((better & (fall >= 0.5 * self.claimed)) | (given < 0.9 * self.best))
        self.moved_at = torch.where(moved, iteration, self.moved_at)
        self.idle = torch.where(moved, 0, self.idle + 1)
        wide = better.unsqueeze(-2)
        self.best_x = torch.where(wide, self.X, self.best_x)
        self.best_r = torch.where(wide, truth, self.best_r)
        self.best = torch.where(better, given, self.best)
        self.best_at = torch.where(better, iteration, self.best_at)
        self.best_rz = torch.where(better, self.rz, self.best_rz)
        self.best_exact = torch.where(better, self.exact, self.best_exact)
        self.slack = torch.where(better, slack, self.slack)
        self.claimed = torch.where(better, 0.0, self.claimed)

    def go_back(self, which: Tensor) -> None:
        """The best iterates and their true residuals, to begin again from."""
        wide = which.unsqueeze(-2)
        self.X = torch.where(wide, self.best_x, self.X)
        self.R = torch.where(wide, self.best_r, self.R)
        self.claimed = torch.where(which, 0.0, self.claimed)

    # ------------------------------------------------------------ finishing

    def retire(self) -> Tensor | None:
        """Store finished columns; which positions stay, if some are finished in the whole batch."""
        done = ~self.unfinished
        if done.numel() == 0:
            return None
        for store, value in (
            (self.outcome, self.code),
            (self.out_norm, self.best),
            (self.out_at, self.best_at),
            (self.out_rz, self.best_rz),
            (self.out_slack, self.slack),
            (self.out_exact, self.best_exact),
        ):
            store.scatter_(-1, self.home.expand(value.shape), value)
        self.out_x.scatter_(-1, self.home.expand(self.best_x.shape), self.best_x)
        gone = done.reshape(-1, done.shape[-1]).all(0)
        if not bool(gone.any()):
            return None
        keep = (~gone).nonzero().squeeze(-1)
        for name in (*self._VECTORS, *self._NUMBERS, *self._COUNTS):
            setattr(self, name, getattr(self, name)[..., keep])
        self.home = self.home[keep]
        self.shifts = None if self.shifts is None else self.shifts[keep]
        return keep

    def result(self) -> Tensor:
        """The best iterates of all columns, NaN where there is no answer."""
        x = self.out_x * self.scale
        x = torch.where(torch.isfinite(self.out_norm).unsqueeze(-2), x, torch.full_like(x, torch.nan))
        return x.to(self.dtype)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of columns."""
    return (a * b).sum(-2)

"""Stochastic dual descent: coordinate steps with momentum, averaged, for many right-hand sides.

    repeat
        I = m rows drawn at random
        q = x + rho v
        v = rho v,  v_I = v_I - step (A[I, :] q - b_I)
        x = x + v
        average = r x + (1 - r) average

(Lin, Padhy, Antoran, Tripp, Terenin, Szepesvari, Hernandez-Lobato, Janz, ICLR 2024.) No factorisation, no
memory beyond a few right-hand sides: what samples from a posterior need, whose errors matter less than
their number. The average forgets what is older than a hundredth of the run, or a fifth of the time between
two inspections, which begin it anew.

The step that is stable depends on the matrix. A batch must not be overshot: the step is half of 1 / lambda
for the largest eigenvalue lambda of A[I, I] among some batches. Nor must a single coordinate, which momentum
moves by step / (1 - rho) before it is seen again. Should the iteration diverge all the same, it goes back,
halves the step, and says so in the report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import OptionError
from .block_descent import Failure, Sampled, Scheme, check_count, check_limits, descend, indefinite
from .operator import LinearOperator, cast
from .solution import Progress, Solution, Status

Tensor = torch.Tensor
TRIALS = 4  # batches whose largest eigenvalue is computed
HALVINGS = 20


@dataclass(frozen=True)
class StochasticDualDescent:
    """Stochastic dual descent, for symmetric positive definite operators of any size.

    Samples of a posterior at x are ``prior(x) + K(x, X) a`` for the solution a of A a = y - prior(X) - noise;
    pass one column for each sample.

    Parameters
    ----------
    tol : float
        On |b - A x| / |b|, for every column.
    max_passes : float
        Most passes over the matrix; the residual computed at the end, and every ``refresh`` passes,
        comes on top. The average is made for a run of this length.
    batch : int
        Rows drawn at a time.
    step : float, optional
        Factor of the gradient. Default: what some batches allow.
    momentum : float
        rho, from 0 to below 1.
    time_limit : float, optional
        Seconds.
    refresh : float
        Passes between two computations of the true residual.
    patience : float
        Passes without any progress after which a column counts as stagnated.
    random_state : int
        Seed of the batches.

    Examples
    --------
    >>> import torch
    >>> from kerngp.solvers import Dense, identity, solve
    >>> x = torch.linspace(0, 9, 300, dtype=torch.float64)
    >>> A = Dense(torch.exp(-(x[:, None] - x).abs()), psd=True) + identity(300)
    >>> solve(A, x.sin(), StochasticDualDescent(batch=50)).converged
    True
    """

    tol: float = 1e-2
    max_passes: float = 200
    batch: int = 512
    step: float | None = None
    momentum: float = 0.9
    time_limit: float | None = None
    refresh: float = 10
    patience: float = 100
    random_state: int = 0

    def __post_init__(self) -> None:
        check_limits(self)
        check_count("batch", self.batch)
        if not 0 <= self.momentum < 1:
            raise OptionError(f"momentum={self.momentum!r}: expected a number from 0 to below 1.")
        if self.step is not None and not self.step > 0:
            raise OptionError(f"step={self.step!r}: expected a positive number.")

    def run(
        self,
        A: LinearOperator,
        b: Tensor,
        *,
        preconditioner: LinearOperator | None = None,
        x0: Tensor | None = None,
        callback: Callable[[Progress], Any] | None = None,
    ) -> Solution:
        """Solve A x = b for b of shape (*batch, n, E). No gradients here: see `solve`."""
        return descend(
            "StochasticDualDescent",
            self,
            A,
            b,
            make=lambda A, residual: _Coordinates(self, A, residual),
            preconditioner=preconditioner,
            x0=x0,
            callback=callback,
        )


class _Coordinates(Scheme):
    def __init__(self, method: StochasticDualDescent, A: LinearOperator, residual: Tensor):
        n = A.shape[-1]
        self.method, self.A, self.batch = method, A, min(n, method.batch)
        self.share = self.batch / n
        memory = min(method.max_passes / 100, method.refresh / 5)  # in passes
        self.weight = min(1.0, self.share / memory)
        self.generator = torch.Generator().manual_seed(method.random_state)
        self.halvings = 0
        self.length = method.step or self._safe_step()
        self._begin(residual)

    def _begin(self, residual: Tensor) -> None:
        self.R = residual
        self.x, self.v, self.average = (torch.zeros_like(residual) for _ in range(3))
        self.sampled = Sampled(residual)

    @property
    def description(self) -> str:  # type: ignore[override]
        """Batch and step."""
        return f"batches of {self.batch}, step {self.length:.1e}"

    def _draw(self) -> Tensor:
        return torch.randperm(self.A.shape[-1], generator=self.generator)[: self.batch].to(self.A.device)

    def _safe_step(self) -> float:
        exact, largest, diagonal = cast(self.A, torch.float64), 0.0, 0.0
        for _ in range(TRIALS):
            rows = self._draw()
            block = exact.submatrix(rows, rows).dense()
            if not bool(torch.isfinite(block).all()):
                self.failure = Failure(Status.nan, "a block of the matrix is not finite")
                return 1.0
            values = torch.linalg.eigvalsh(block)
            if float(values[0]) < -1e-10 * float(values.abs().max()):
                self.failure = indefinite(exact, rows, block)
                return 1.0
            largest = max(largest, float(values[-1]))
            diagonal = max(diagonal, float(block.diagonal().max()))
        if not largest > 0:
            return 1.0
        alone = (1 - self.method.momentum) / diagonal if self.batch < self.A.shape[-1] else 1 / largest
        return min(0.5 / largest, alone)

    def step(self) -> Tensor | None:
        """A step in the coordinates of a batch."""
        rows, rho = self._draw(), self.method.momentum
        q = self.x + rho * self.v
        part = self.A.submatrix(rows).matmul(q.to(self.A.torch_dtype)).double()
        gradient = part - self.R[rows]
        self.v = rho * self.v
        self.v[rows] -= self.length * gradient
        self.x = self.x + self.v
        self.average = self.weight * self.x + (1 - self.weight) * self.average
        return self.sampled.add(gradient)

    def offset(self) -> Tensor:
        """The average."""
        return self.average

    def recentre(self, residual: Tensor, keep: Tensor) -> None:
        """Everything moves by the average."""
        moved = self.average[:, keep]
        self.x, self.v, self.average = self.x[:, keep] - moved, self.v[:, keep], torch.zeros_like(moved)
        self.R = residual
        self.sampled.drop(keep)

    def restart(self, residual: Tensor, keep: Tensor) -> None:
        """Everything is forgotten but the seed."""
        self._begin(residual)

    def damp(self) -> bool:
        """Half the step, some times."""
        self.halvings += 1
        self.length /= 2
        return self.halvings <= HALVINGS

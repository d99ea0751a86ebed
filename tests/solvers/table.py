"""The table of solvers: what is solved with what. A new solver or preconditioner is one line here.

Every combination that makes sense is a case of `test_table.py`: solver x operator x preconditioner x
dtype x columns. The tests ask for what any solver must do; what one of them does beyond that is tested
in its own file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from kerngp.engine.expr import Vi, Vj
from kerngp.engine.ops import exp, sqdist
from kerngp.solvers import (
    CG,
    AddedDiagonal,
    Cholesky,
    Dense,
    Jacobi,
    KernelOperator,
    LinearOperator,
    NoPreconditioner,
    Nystrom,
    Refine,
    RPCholesky,
    Vecchia,
    identity,
    solve,
)
from kerngp.solvers.alternating import AlternatingProjection
from kerngp.solvers.askotch import ASkotch
from kerngp.solvers.auto import Auto
from kerngp.solvers.sdd import StochasticDualDescent

Tensor = torch.Tensor
F = torch.float64


@dataclass(frozen=True)
class Solver:
    """One way to solve. ``options`` are those that small systems need."""

    make: Callable[..., Any]
    options: dict[str, Any] = field(default_factory=dict)
    limit: str | None = "max_iter"  # the name of its limit; None for a direct method
    preconditioned: bool = True  # whether a preconditioner changes what it does
    tol: float = 1e-10  # reached in float64 on a matrix of condition 100

    @property
    def name(self) -> str:
        return self.make.__name__

    @property
    def direct(self) -> bool:
        return self.limit is None

    def __call__(self, tol: float, **options: Any) -> Any:
        """The method."""
        return self.make(**({"tol": tol} | self.options | options))


SOLVERS = [
    Solver(CG),
    Solver(Cholesky, limit=None, preconditioned=False),
    Solver(Refine, limit="max_outer"),
    Solver(Auto, limit=None, preconditioned=False),  # takes Cholesky for systems as small as these
    Solver(ASkotch, {"block": 12, "max_passes": 500}, limit="max_passes", preconditioned=False),
    Solver(AlternatingProjection, {"block": 12, "max_passes": 500}, limit="max_passes", preconditioned=False),
    Solver(
        StochasticDualDescent,
        {"batch": 12, "max_passes": 2000},
        limit="max_passes",
        preconditioned=False,
        tol=1e-4,
    ),
]

PRECONDITIONERS: list[Any] = [
    NoPreconditioner(),
    RPCholesky(8),
    Vecchia(5),
    Nystrom(8),
    Jacobi(),
]


# ---------------------------------------------------------------- operators: K + alpha I, condition about 100


def orthogonal(n: int, seed: int = 1) -> Tensor:
    """Eigenvectors of the matrices below."""
    return torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=F))[0]


def spectrum(values: Tensor) -> Tensor:
    """A symmetric matrix with these eigenvalues."""
    Q = orthogonal(len(values))
    A = (Q * values.to(F)) @ Q.T
    return (A + A.T) / 2


def points(n: int) -> Tensor:
    return torch.rand(n, 2, generator=torch.Generator().manual_seed(2), dtype=F)


def dense(n: int, dtype: torch.dtype) -> AddedDiagonal:
    """A stored matrix with eigenvalues from 1 to 100."""
    K = spectrum(torch.logspace(0, 2, n, dtype=F) - 0.5)
    return AddedDiagonal(Dense(K.to(dtype), psd=True), 0.5)


def kernel(n: int, dtype: torch.dtype) -> LinearOperator:
    """A Gaussian kernel on points in the square."""
    x = 3 * points(n).to(dtype)
    return KernelOperator(exp(-sqdist(Vi(0, 2), Vj(1, 2))), (x, x), psd=True) + 0.5 * identity(n)


def composite(n: int, dtype: torch.dtype) -> LinearOperator:
    """A sum of a stored matrix and a scaled kernel, with a diagonal that varies."""
    x = points(n).to(dtype)
    K = KernelOperator(exp(-sqdist(Vi(0, 2), Vj(1, 2))), (x, x), psd=True)
    low = x - x.mean(0)
    return 2.0 * K + Dense(low @ low.T, psd=True) + 0.5 * identity(n)


OPERATORS = [dense, kernel, composite]
DTYPES = [torch.float64, torch.float32]
COLUMNS = [None, 1, 3]


# ---------------------------------------------------------------- cases


@dataclass(frozen=True)
class Case:
    """A cell of the table."""

    solver: Solver
    preconditioner: Any
    operator: Callable[[int, torch.dtype], LinearOperator] = dense
    dtype: torch.dtype = F
    columns: int | None = 1

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        recipe = type(self.preconditioner).__name__
        return f"{self.solver.name}-{recipe}-{self.operator.__name__}-{dtype}-{self.columns}"

    @property
    def tol(self) -> float:
        return self.solver.tol if self.dtype == F else 1e-4

    def rhs(self, n: int) -> Tensor:
        shape = (n,) if self.columns is None else (n, self.columns)
        return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=F).to(self.dtype)

    def solve(self, A: LinearOperator, b: Any, tol: float | None = None, **options: Any) -> Any:
        """A solve that says in its status how it went, and never warns."""
        x0, callback = options.pop("x0", None), options.pop("callback", None)
        method = self.solver(self.tol if tol is None else tol, **options)
        recipe = self.preconditioner
        return solve(A, b, method, preconditioner=recipe, x0=x0, callback=callback, on_fail="ignore")


def pairs() -> Iterator[Case]:
    """Every solver with every preconditioner it can use, on a stored matrix in float64."""
    for solver in SOLVERS:
        for recipe in PRECONDITIONERS if solver.preconditioned else PRECONDITIONERS[:1]:
            yield Case(solver, recipe)


def cases() -> Iterator[Case]:
    """The whole table."""
    for case in pairs():
        for operator in OPERATORS:
            for dtype in DTYPES:
                for columns in COLUMNS:
                    yield Case(case.solver, case.preconditioner, operator, dtype, columns)


def plain() -> Iterator[Case]:
    """Every solver by itself."""
    for solver in SOLVERS:
        yield Case(solver, PRECONDITIONERS[0])


def true_residual(A: LinearOperator | Tensor, x: Any, b: Any) -> float:
    """The largest |b - A x| / |b| over the columns, in extended precision; 0 where both are 0."""
    return float(_truth(A, x, b)[0].max())


def rounding(A: LinearOperator | Tensor, x: Any, b: Any) -> float:
    """What that residual can be off by if it is computed in float64."""
    return float(_truth(A, x, b)[1].max())


def _truth(A: LinearOperator | Tensor, x: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    matrix = A.double() if isinstance(A, Tensor) else A.matmul(torch.eye(A.shape[-1], dtype=F), exact=True)
    M, X, B = (np.asarray(torch.as_tensor(t).double(), np.longdouble) for t in (matrix, x, b))
    norm = np.sqrt((B**2).sum(0))
    norm = np.where(norm > 0, norm, 1)
    size = np.sqrt((M**2).sum()) * np.sqrt((X**2).sum(0)) / norm
    return np.sqrt(((B - M @ X) ** 2).sum(0)) / norm, np.finfo(float).eps * len(M) * size

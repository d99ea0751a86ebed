"""Linear operators, and solvers that only multiply with them."""

from __future__ import annotations

from .cg import CG
from .cholesky import Cholesky
from .inducing import InducingPoints
from .kernel_operator import KernelOperator
from .kernel_solve import KernelSolve, kernel_solve
from .operator import AddedDiagonal, Dense, Diagonal, LinearOperator, as_operator, cast, identity
from .preconditioners import LowRankInverse, NoPreconditioner, Preconditioner, RPCholesky, Vecchia
from .solution import Progress, Solution, Status
from .solve import solve

__all__ = [
    "CG",
    "AddedDiagonal",
    "Cholesky",
    "Dense",
    "Diagonal",
    "InducingPoints",
    "KernelOperator",
    "KernelSolve",
    "LinearOperator",
    "LowRankInverse",
    "NoPreconditioner",
    "Preconditioner",
    "Progress",
    "RPCholesky",
    "Solution",
    "Status",
    "Vecchia",
    "as_operator",
    "cast",
    "identity",
    "kernel_solve",
    "solve",
]

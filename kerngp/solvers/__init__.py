"""Linear operators, and solvers that only multiply with them."""

from __future__ import annotations

from .alternating import AlternatingProjection
from .askotch import ASkotch
from .cg import CG
from .cholesky import Cholesky
from .inducing import InducingPoints
from .kernel_operator import KernelOperator
from .kernel_solve import KernelSolve, kernel_solve
from .operator import AddedDiagonal, Dense, Diagonal, LinearOperator, as_operator, cast, identity
from .preconditioners import LowRankInverse, NoPreconditioner, RPCholesky
from .sdd import StochasticDualDescent
from .solution import Progress, Solution, Status
from .solve import solve

__all__ = [
    "CG",
    "ASkotch",
    "AddedDiagonal",
    "AlternatingProjection",
    "Cholesky",
    "Dense",
    "Diagonal",
    "InducingPoints",
    "KernelOperator",
    "KernelSolve",
    "LinearOperator",
    "LowRankInverse",
    "NoPreconditioner",
    "Progress",
    "RPCholesky",
    "Solution",
    "Status",
    "StochasticDualDescent",
    "as_operator",
    "cast",
    "identity",
    "kernel_solve",
    "solve",
]

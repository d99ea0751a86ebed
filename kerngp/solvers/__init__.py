"""Linear operators, and solvers that only multiply with them."""

from __future__ import annotations

from .cg import CG
from .cholesky import Cholesky
from .functions import (
    Bounds,
    Eigenpairs,
    Estimate,
    RootProduct,
    diagonal_inverse,
    effective_dimension,
    eigsh,
    largest_eigenvalue,
    logdet,
    sample,
    sqrt_product,
    trace,
    trace_inverse,
)
from .inducing import InducingPoints
from .kernel_operator import KernelOperator
from .kernel_solve import KernelSolve, kernel_solve
from .operator import AddedDiagonal, Dense, Diagonal, LinearOperator, as_operator, cast, identity
from .preconditioners import (
    CustomPreconditioner,
    Jacobi,
    LowRankInverse,
    NoPreconditioner,
    Nystrom,
    Preconditioner,
    RPCholesky,
    Vecchia,
    as_preconditioner,
)
from .solution import Progress, Solution, Status
from .solve import solve

__all__ = [
    "CG",
    "AddedDiagonal",
    "Bounds",
    "Cholesky",
    "CustomPreconditioner",
    "Dense",
    "Diagonal",
    "Eigenpairs",
    "Estimate",
    "InducingPoints",
    "Jacobi",
    "KernelOperator",
    "KernelSolve",
    "LinearOperator",
    "LowRankInverse",
    "NoPreconditioner",
    "Nystrom",
    "Preconditioner",
    "Progress",
    "RPCholesky",
    "RootProduct",
    "Solution",
    "Status",
    "Vecchia",
    "as_operator",
    "as_preconditioner",
    "cast",
    "diagonal_inverse",
    "effective_dimension",
    "eigsh",
    "identity",
    "kernel_solve",
    "largest_eigenvalue",
    "logdet",
    "sample",
    "solve",
    "sqrt_product",
    "trace",
    "trace_inverse",
]

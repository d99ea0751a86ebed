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
from .path import solve_path
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
from .refine import Refine
from .solution import Certificate, Note, Progress, Report, Solution, Status
from .solve import solve

__all__ = [
    "CG",
    "AddedDiagonal",
    "Certificate",
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
    "Note",
    "Progress",
    "RPCholesky",
    "Refine",
    "Report",
    "Solution",
    "Status",
    "Vecchia",
    "as_operator",
    "cast",
    "identity",
    "kernel_solve",
    "solve",
    "Bounds",
    "CustomPreconditioner",
    "Eigenpairs",
    "Estimate",
    "Jacobi",
    "Nystrom",
    "RootProduct",
    "as_preconditioner",
    "diagonal_inverse",
    "effective_dimension",
    "eigsh",
    "largest_eigenvalue",
    "logdet",
    "sample",
    "solve_path",
    "sqrt_product",
    "trace",
    "trace_inverse",
]

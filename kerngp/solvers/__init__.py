"""Linear operators, and solvers that only multiply with them."""

from __future__ import annotations

from .alternating import AlternatingProjection
from .askotch import ASkotch
from .auto import Auto
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
from .kernel_solve import KernelSystem, kernel_solve
from .operator import AddedDiagonal, Dense, Diagonal, LinearOperator, as_operator, cast, identity
from .path import solve_path, solve_shifted
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
from .progress import ProgressBar
from .refine import Refine
from .sdd import StochasticDualDescent
from .solution import Certificate, Note, Progress, Report, Solution, Status
from .solve import solve

__all__ = [
    "CG",
    "ASkotch",
    "AddedDiagonal",
    "AlternatingProjection",
    "Auto",
    "Bounds",
    "Certificate",
    "Cholesky",
    "CustomPreconditioner",
    "Dense",
    "Diagonal",
    "Eigenpairs",
    "Estimate",
    "InducingPoints",
    "Jacobi",
    "KernelOperator",
    "KernelSystem",
    "LinearOperator",
    "LowRankInverse",
    "NoPreconditioner",
    "Note",
    "Nystrom",
    "Preconditioner",
    "Progress",
    "ProgressBar",
    "RPCholesky",
    "Refine",
    "Report",
    "RootProduct",
    "Solution",
    "Status",
    "StochasticDualDescent",
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
    "solve_path",
    "solve_shifted",
    "sqrt_product",
    "trace",
    "trace_inverse",
]

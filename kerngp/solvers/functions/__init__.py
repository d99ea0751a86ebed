"""Functions of an operator: eigenvalues, determinant, traces, roots; all of them by products alone."""

from __future__ import annotations

from .eigen import Bounds, Eigenpairs, eigsh, largest_eigenvalue
from .estimate import Estimate
from .lanczos import Krylov, lanczos
from .logdet import logdet
from .root import RootProduct, sample, sqrt_product
from .trace import diagonal_inverse, effective_dimension, trace, trace_inverse

__all__ = [
    "Bounds",
    "Eigenpairs",
    "Estimate",
    "Krylov",
    "RootProduct",
    "diagonal_inverse",
    "effective_dimension",
    "eigsh",
    "lanczos",
    "largest_eigenvalue",
    "logdet",
    "sample",
    "sqrt_product",
    "trace",
    "trace_inverse",
]

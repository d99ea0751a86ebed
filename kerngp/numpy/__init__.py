"""The names KeOps users know, for NumPy arrays. They are the same objects as in `kerngp`."""

from __future__ import annotations

from ..lazytensor import ComplexLazyTensor, LazyTensor, Pm, Vi, Vj, kernel, lookup
from ..lazytensor.generic import generic_argkmin, generic_argmin, generic_logsumexp, generic_sum
from ..lazytensor.genred import Genred
from .operations import KernelSolve

__all__ = [
    "ComplexLazyTensor",
    "Genred",
    "KernelSolve",
    "LazyTensor",
    "Pm",
    "Vi",
    "Vj",
    "generic_argkmin",
    "generic_argmin",
    "generic_logsumexp",
    "generic_sum",
    "kernel",
    "lookup",
]

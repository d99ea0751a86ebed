"""The names KeOps users know, for torch tensors. They are the same objects as in `kerngp`."""

from __future__ import annotations

from ..engine.kernel_algebra import register_kernel
from ..lazytensor import ComplexLazyTensor, LazyTensor, Pm, Vi, Vj, kernel, lookup
from ..lazytensor.generic import generic_argkmin, generic_argmin, generic_logsumexp, generic_sum
from ..lazytensor.genred import Genred
from .kernel_product import Kernel, kernel_product
from .operations import KernelSolve

__all__ = [
    "ComplexLazyTensor",
    "Genred",
    "Kernel",
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
    "kernel_product",
    "register_kernel",
]

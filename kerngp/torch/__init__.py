"""The names KeOps users know, for torch tensors. They are the same objects as in `kerngp`."""

from __future__ import annotations

from ..engine.kernel_algebra import register_kernel
from ..lazytensor import LazyTensor, Pm, Vi, Vj
from .kernel_product import Kernel, kernel_product

__all__ = ["Kernel", "LazyTensor", "Pm", "Vi", "Vj", "kernel_product", "register_kernel"]

"""The names KeOps users know, for NumPy arrays. They are the same objects as in `kerngp`."""

from __future__ import annotations

from ..lazytensor import ComplexLazyTensor, LazyTensor, Pm, Vi, Vj, kernel, lookup

__all__ = ["ComplexLazyTensor", "LazyTensor", "Pm", "Vi", "Vj", "kernel", "lookup"]

"""The names KeOps users know, for torch tensors. They are the same objects as in `kerngp`."""

from __future__ import annotations

from ..lazytensor import LazyTensor, Pm, Vi, Vj

__all__ = ["LazyTensor", "Pm", "Vi", "Vj"]

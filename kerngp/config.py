"""What KeOps's users read from ``config``: what this machine has."""

from __future__ import annotations

from typing import Any

numpy_found = True
torch_found = True


def __getattr__(name: str) -> Any:
    """``gpu_available``, looked up when it is read: importing this module starts nothing."""
    if name != "gpu_available":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import torch

    return torch.cuda.is_available()

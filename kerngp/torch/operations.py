"""`KernelSolve` where KeOps keeps it."""

from __future__ import annotations

from ..lazytensor.string_solve import KernelSolve

__all__ = ["KernelSolve"]

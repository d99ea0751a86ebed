"""Kernel ridge regression on inducing points."""

from __future__ import annotations

from .method import InducingPoints

__all__ = ["InducingPoints"]

"""Kernel ridge regression and its relatives."""

from __future__ import annotations

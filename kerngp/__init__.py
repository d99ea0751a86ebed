"""kerngp: Gaussian processes and kernel methods without the N x N wall."""

from __future__ import annotations

__version__ = "0.1.0"

"""The log marginal likelihood of a Gaussian process: what is known of it at one theta.

    log p(Y | theta) = sum over columns y of Y of  -1/2 y' A^-1 y - 1/2 log det A - n/2 log 2 pi
    its derivatives:   1/2 c' dA c - 1/2 trace(A^-1 dA),  c = A^-1 y

with A = K(theta) + diag(alpha) (Rasmussen and Williams, 2006, eq. 2.30 and 5.9).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ...solvers import Note
from ..hyperparameters import Hyperparameters

Tensor = torch.Tensor


@dataclass(frozen=True)
class Evidence:
    """The log marginal likelihood at one theta.

    Attributes
    ----------
    value : float
        Summed over the columns of Y; -inf where the matrix is not positive definite.
    gradient : ndarray of shape (p,) or None
        By theta (logarithms of hyperparameters); zeros where the value is -inf.
    dual : Tensor of shape (n, t), float64, or None
        A^-1 Y; None where the value is -inf.
    rows : int
        Rows of the data that it was computed from.
    standard_error : float
        Of the value; 0 if it was computed by factorisation.
    samples : ndarray of shape (s,) or None
        The values that each random vector alone would give. Those of two thetas have the same vectors:
        their difference is known far better than either.
    residual : float
        The largest of |y - A c| / |y|.
    products : int
        Passes over the whole matrix, 0 for a factorisation.
    notes : tuple of Note
        What a user should know of how it was computed.
    """

    value: float
    gradient: np.ndarray | None
    dual: Tensor | None
    rows: int
    standard_error: float = 0.0
    samples: np.ndarray | None = None
    residual: float = 0.0
    products: int = 0
    notes: tuple[Note, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether there is no value."""
        return not np.isfinite(self.value)

    def above(self, other: Evidence) -> tuple[float, float]:
        """How much larger the value is than that of another theta, and the standard error of that."""
        gain = self.value - other.value
        if self.samples is None or other.samples is None:
            return gain, 0.0
        spread = (self.samples - other.samples).std(ddof=1)
        return gain, float(spread / np.sqrt(len(self.samples)))


Objective = Callable[[Hyperparameters, bool], Evidence]
"""The evidence of hyperparameters, with its gradient if the second argument is True."""


def no_evidence(h: Hyperparameters, rows: int, *notes: Note, products: int = 0) -> Evidence:
    """That of a matrix which is not positive definite: -inf, as an optimiser wants it."""
    return Evidence(-np.inf, np.zeros(len(h.theta)), None, rows, products=products, notes=notes)

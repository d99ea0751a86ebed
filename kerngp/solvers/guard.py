"""What rounding lets a solve reach, known beforehand.

Entries of a kernel matrix in float32, from direct differences, are off by E with a norm of about
2 sqrt(n) u k_max (measured; u = 6e-8, k_max the largest diagonal entry). Products with K + E stand in for
K. A solve that computes its residuals in float64 still converges, as iterative refinement does, as long
as |E| is well below the least eigenvalue of A: below alpha. Beyond that only float64 products help.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .certificate import least_eigenvalue
from .operator import AddedDiagonal, LinearOperator
from .solution import Note

Tensor = torch.Tensor


@dataclass(frozen=True)
class Guard:
    """What to expect of a solve.

    Attributes
    ----------
    attainable : float or None
        Relative residual down to which rounding lets it fall, estimated; None if nothing is known.
    safe_alpha : float
        From this amount on the diagonal on, products in the operator's dtype do for any tolerance.
    note : Note or None
        F32_ALPHA if alpha is smaller.
    """

    attainable: float | None
    safe_alpha: float
    note: Note | None = None


def guard(A: LinearOperator, *, dtype: torch.dtype, shifts: Tensor | None = None) -> Guard:
    """Look at an operator before a solve.

    Parameters
    ----------
    A : LinearOperator
        Costs its diagonal, nothing else.
    dtype : torch.dtype
        Of the right-hand side, and so of the result.
    shifts : Tensor, optional
        Further amounts on the diagonal.

    Examples
    --------
    >>> import torch
    >>> from kerngp.solvers import Dense, identity
    >>> A = Dense(torch.ones(100, 100), psd=True) + 1e-9 * identity(100)
    >>> guard(A, dtype=torch.float64).note.code
    'F32_ALPHA'
    """
    base = A.base if isinstance(A, AddedDiagonal) else A
    diagonal = base.diag().detach().double().abs()
    if diagonal.numel() == 0 or not bool(torch.isfinite(diagonal).all()):
        return Guard(None, 0.0)
    n, top, u = A.shape[-1], float(diagonal.amax()), torch.finfo(A.torch_dtype).eps / 2
    noise = 2 * math.sqrt(n) * u * top
    known = least_eigenvalue(A, shifts)
    least = None if known is None else float(known.min())
    result = torch.finfo(dtype).eps / 2  # rounding x alone
    if least is None:
        return Guard(None, 2 * noise)
    if A.torch_dtype == torch.float64 or least >= 2 * noise:
        outer = torch.finfo(torch.float64).eps * max(1.0, float(diagonal.sum(-1).amax()) / least)
        return Guard(min(1.0, max(result, outer)), 2 * noise)
    text = (
        f"{least:.1e} on the diagonal is less than the {2 * noise:.1e} that products in {A.torch_dtype} "
        "resolve (4 sqrt(n) u max k(x, x)); residuals are computed in float64, and products as well as soon "
        "as those in lower precision no longer help."
    ).replace("torch.", "")
    return Guard(min(1.0, max(result, noise / least)), 2 * noise, Note("F32_ALPHA", text))

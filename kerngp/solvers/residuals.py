"""True residuals of iterates that are better than the results they become, and scales for them."""

from __future__ import annotations

import torch

from .operator import LinearOperator

Tensor = torch.Tensor


def true_residuals(
    A: LinearOperator, X: Tensor, B: Tensor, dtype: torch.dtype, shifts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """b - A x in float64 and exact entries, for x rounded to the dtype of the result, and for x as it is.

    Parameters
    ----------
    A : LinearOperator
    X, B : Tensor of shape (*batch, N, E), float64
    dtype : torch.dtype
        Of the result.
    shifts : Tensor of shape (E,), optional
        Column e is one of A + shifts[e] I.
    """
    shift = 0.0 if shifts is None else shifts
    if dtype == torch.float64:
        truth = B - A.matmul(X, exact=True) - shift * X
        return truth, truth
    head = X.to(dtype).double()
    first, second = A.matmul(torch.cat([head, X - head], -1), exact=True).chunk(2, -1)
    rounded = B - first - shift * head
    return rounded, rounded - second - shift * (X - head)


def relative(norms: Tensor, reference: Tensor) -> Tensor:
    """norms / reference, and norms where the reference is 0."""
    return norms / torch.where(reference > 0, reference, torch.ones_like(reference))


def power_of_two(B: Tensor) -> Tensor:
    """A scale for each column, (*batch, 1, E), that brings its largest entry to [1, 2) without rounding."""
    size = B.abs().amax(-2, keepdim=True) if B.shape[-2] else B.sum(-2, keepdim=True)
    return torch.where(size > 0, torch.exp2(torch.floor(torch.log2(size))), torch.ones_like(size))

"""How negative a matrix is: its least eigenvalue, from a direction of negative curvature, and the remedy."""

from __future__ import annotations

from collections.abc import Callable

import torch

Tensor = torch.Tensor

SAFETY = 2.0  # suggested_alpha is so many times the estimate: the matrix gets away from singularity, too


def alpha_for(least: float, n: int, largest: float) -> float:
    """What to add to the diagonal of a matrix with this least eigenvalue.

    Parameters
    ----------
    least : float
    n : int
        Rows of the matrix.
    largest : float
        Entry of its diagonal: eigenvalues are known no better than its rounding errors.
    """
    return SAFETY * max(-least, n * torch.finfo(torch.float64).eps * largest)


def least_from(apply: Callable[[Tensor], Tensor], start: Tensor, steps: int = 20) -> float:
    """The least eigenvalue of a symmetric matrix, by a few steps of Lanczos from a promising direction.

    Parameters
    ----------
    apply : callable
        v -> A v, in float64, for v of shape (*batch, N, 1).
    start : Tensor of shape (*batch, N, 1)
        Members of the batch where it is zero are not looked at.

    Returns
    -------
    float
        The smallest Ritz value, less the norm of its residual: a number near which an eigenvalue lies.
    """
    found = float("inf")
    size = start.norm(dim=-2, keepdim=True)
    looked = (size > 0).reshape(-1)
    V = [torch.where(size > 0, start / torch.where(size > 0, size, 1.0), 0.0)]
    AV: list[Tensor] = []
    for _ in range(min(steps, start.shape[-2])):
        AV.append(apply(V[-1]))
        basis, image = torch.cat(V, -1), torch.cat(AV, -1)
        T = basis.mT @ image
        values, vectors = torch.linalg.eigh((T + T.mT) / 2)
        y = vectors[..., :1]
        rest = (image @ y - values[..., :1, None] * (basis @ y)).norm(dim=-2)
        bound = (values[..., :1] - rest).reshape(-1)[looked]
        found = float(bound.min())
        if bool((rest.reshape(-1)[looked] <= 0.3 * values[..., 0].reshape(-1)[looked].abs()).all()):
            break
        new = AV[-1]
        for _ in range(2):  # once is not enough in floating point
            new = new - basis @ (basis.mT @ new)
        size = new.norm(dim=-2, keepdim=True)
        V.append(torch.where(size > 0, new / torch.where(size > 0, size, 1.0), 0.0))
    return found

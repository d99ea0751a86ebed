"""Small dense formulas in torch, to compare results with, under the names KeOps's users know."""

from __future__ import annotations

import torch

from ..errors import FormulaError

Tensor = torch.Tensor


def is_on_device(x: Tensor) -> bool:
    """Whether a tensor is on a GPU."""
    return x.is_cuda


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2, shape (M, N); never negative.

    Examples
    --------
    >>> squared_distances(torch.zeros(1, 3), torch.ones(2, 3))
    tensor([[3., 3.]])
    """
    q = x.new_zeros(len(x), len(y))
    for d in range(x.shape[1]):
        q = q + (x[:, d, None] - y[None, :, d]) ** 2
    return q


def torch_kernel(x: Tensor, y: Tensor, s: float | Tensor, kernel: str) -> Tensor:
    """The kernel of that name, at |x_i - y_j| / s: "gaussian", "laplacian", "cauchy", "inverse_multiquadric".

    The gaussian is exp(-|x - y|^2 / s^2), without a factor 1/2.
    """
    q = squared_distances(x, y) / (s * s)
    if kernel == "gaussian":
        return torch.exp(-q)
    if kernel == "laplacian":
        return torch.exp(-torch.sqrt(q))
    if kernel == "cauchy":
        return 1 / (1 + q)
    if kernel == "inverse_multiquadric":
        return torch.rsqrt(1 + q)
    raise FormulaError(
        f"kernel={kernel!r}: expected one of gaussian, laplacian, cauchy, inverse_multiquadric."
    )

"""Samples of a posterior from samples of the prior (Matheron's rule).

    f(Z) + k(Z, X) A^-1 (y - f(X) - e)     f ~ the prior at X and Z together,  e ~ N(0, noise at X)

is a draw of the posterior at Z (Wilson and others, 2020). All that is solved are systems with A, whatever
the number of points.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...options import current
from ...solvers.functions import sample
from ..kernel_base import Kernel
from ..kernel_matrix import kernel_matrix, white_noise

Tensor = torch.Tensor

# Of the prior's root, relative: below the spread of any number of samples that one can look at.
PRIOR_TOL = 1e-3
# Vectors of the length of all points that a column takes on its way.
VECTORS = 8


def pathwise(
    kernel: Kernel,
    X: Tensor,
    Z: Tensor,
    alpha: Tensor,
    weigh: Callable[[Tensor], Tensor],
    count: int,
    seed: int,
) -> Tensor:
    """Deviations from the posterior's mean at Z, shape (m, count), float64.

    Parameters
    ----------
    kernel : Kernel
        Its white noise is part of the samples, independent at each point.
    X, Z : Tensor of shape (n, D), (m, D)
    alpha : Tensor of shape () or (n,), float64
        Noise of the training targets beside the kernel's.
    weigh : callable
        A^-1 on columns, for A = k(X, X) + white noise + alpha.
    count : int
    seed : int

    Raises
    ------
    SolveError
        If the kernel is not positive semi-definite.
    """
    n, m = len(X), len(Z)
    points = torch.cat([X, Z])
    prior = kernel_matrix(kernel, points, points)  # given twice: without white noise
    cross = kernel_matrix(kernel, Z, X)
    generator = torch.Generator().manual_seed(seed)
    out = []
    step = max(16, current().memory_limit // (8 * VECTORS * (n + m)))
    for start in range(0, count, step):
        columns = min(step, count - start)
        f = sample(prior, columns, tol=PRIOR_TOL, random_state=seed + 1 + start).value
        e = alpha.sqrt().reshape(-1, 1) * _normal((n, columns), generator, X.device)
        e = e + _white(kernel, X, columns, generator)
        W = weigh(f[:n] + e)
        known = cross.matmul(W.to(cross.torch_dtype)).double()
        out.append(f[n:] + _white(kernel, Z, columns, generator) - known)
    return torch.cat(out, -1) if out else X.new_zeros((m, 0), dtype=torch.float64)


def _normal(shape: tuple[int, int], generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(device)


def _white(kernel: Kernel, points: Tensor, columns: int, generator: torch.Generator) -> Tensor | float:
    variance = white_noise(kernel, points)
    if variance is None:
        return 0.0
    root = variance.double().sqrt().reshape(-1, 1)
    return root * _normal((len(points), columns), generator, points.device)

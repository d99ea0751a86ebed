"""Small dense formulas in NumPy, to compare results with, under the names KeOps's users know.

They store M x N arrays and have nothing to do with the engine.
"""

from __future__ import annotations

import numpy as np

from ..errors import FormulaError

Array = np.ndarray


def IsGpuAvailable() -> bool:
    """Whether torch sees a GPU; the same as ``kerngp.config.gpu_available``."""
    from .. import config

    return config.gpu_available


def squared_distances(x: Array, y: Array) -> Array:
    """|x_i - y_j|^2, shape (M, N); never negative.

    Examples
    --------
    >>> squared_distances(np.zeros((2, 3)), np.ones((1, 3)))
    array([[3.],
           [3.]])
    """
    q = np.zeros((len(x), len(y)), np.result_type(x, y))
    for d in range(x.shape[1]):
        q = q + (x[:, d, None] - y[None, :, d]) ** 2
    return q


def differences(x: Array, y: Array) -> Array:
    """x_i - y_j, component first: shape (D, M, N)."""
    return x.T[:, :, None] - y.T[:, None, :]


def np_kernel(x: Array, y: Array, s: float, kernel: str) -> Array:
    """The kernel of that name, at |x_i - y_j| / s: "gaussian", "laplacian", "cauchy", "inverse_multiquadric".

    The gaussian is exp(-|x - y|^2 / s^2), without a factor 1/2.
    """
    return np.exp(log_np_kernel(x, y, s, kernel))


def log_np_kernel(x: Array, y: Array, s: float, kernel: str) -> Array:
    """The logarithm of `np_kernel`."""
    q = squared_distances(x, y) / (s * s)
    if kernel == "gaussian":
        return -q
    if kernel == "laplacian":
        return -np.sqrt(q)
    if kernel == "cauchy":
        return -np.log1p(q)
    if kernel == "inverse_multiquadric":
        return -0.5 * np.log1p(q)
    raise _unknown(kernel, "gaussian", "laplacian", "cauchy", "inverse_multiquadric")


def grad_np_kernel(x: Array, y: Array, s: float, kernel: str) -> Array:
    """The derivative of `np_kernel` by the squared distance; -inf for the laplacian at distance 0."""
    q, k = squared_distances(x, y) / (s * s), np_kernel(x, y, s, kernel)
    if kernel == "gaussian":
        return -k / (s * s)
    if kernel == "laplacian":
        with np.errstate(divide="ignore"):
            return -k / (2 * s * s * np.sqrt(q))
    if kernel == "cauchy":
        return -k * k / (s * s)
    return -0.5 * k**3 / (s * s)


def chain_rules(q: Array, ax: Array, by: Array, Aa: Array, p: Array) -> Array:
    """sum_j 2 (ax_i - by_j) Aa_ij <q_i, p_j>: a gradient in ``ax`` where ``Aa`` is `grad_np_kernel`."""
    return np.einsum("ij,ijd->id", 2 * Aa * (q @ p.T), ax[:, None, :] - by[None, :, :])


def np_kernel_sphere(nalpha: Array, nbeta: Array, s: float, kernel: str) -> Array:
    """A kernel of unit vectors: "binet", "linear", "gaussian_unoriented" or "gaussian_oriented"."""
    c = nalpha @ nbeta.T
    if kernel == "binet":
        return c**2
    if kernel == "linear":
        return c
    if kernel == "gaussian_unoriented":
        return np.exp((2 * c * c - 2) / (s * s))
    if kernel == "gaussian_oriented":
        return np.exp((2 * c - 2) / (s * s))
    raise _unknown(kernel, "binet", "linear", "gaussian_unoriented", "gaussian_oriented")


def log_sum_exp(mat: Array, axis: int = 0) -> Array:
    """log sum exp along an axis, without overflow; -inf where all entries are -inf.

    Examples
    --------
    >>> log_sum_exp(np.zeros((2, 4)), axis=1)
    array([1.38629436, 1.38629436])
    """
    top = mat.max(axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.squeeze(top, axis) + np.log(np.exp(mat - top).sum(axis=axis))


def _unknown(kernel: str, *known: str) -> FormulaError:
    return FormulaError(f"kernel={kernel!r}: expected one of {', '.join(known)}.")

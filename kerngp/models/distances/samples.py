"""What tests of distributions are given: samples, and kernels on them."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import pdist
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state

from ...engine.arrays import is_array
from ...errors import OptionError
from ...solvers import KernelOperator
from ..inputs import read_rows
from ..kernel_base import Kernel
from ..kernel_matrix import kernel_matrix
from ..kernels import RBF
from ..resolve import check_domain, resolve_kernel

Tensor = torch.Tensor


class Sample(BaseEstimator):
    """The name that scikit-learn's checks use in their messages."""


def read_sample(name: str, X: Any, least: int, device: str | None) -> Tensor:
    """A sample as a float64 tensor of shape (n, columns); one axis means one column.

    Raises
    ------
    ValueError
        For what is not a finite matrix of numbers with at least ``least`` rows.
    """
    X = X if is_array(X) or hasattr(X, "iloc") else np.asarray(X)
    if getattr(X, "ndim", 2) == 1:
        X = X.to_frame() if hasattr(X, "to_frame") else X.reshape(-1, 1)
    try:
        return read_rows(Sample(), X, reset=True, device=device, ensure_min_samples=least)[0].double()
    except ValueError as error:
        raise type(error)(f"{name}: {error}") from None


def median_heuristic(X: Any, *, max_rows: int = 1000, random_state: Any = 0) -> float:
    """The median distance between two different points of a sample: a lengthscale for `RBF`.

    Parameters
    ----------
    X : array of shape (n, n_features) or (n,)
    max_rows : int
        Of a larger sample so many rows are drawn.
    random_state : int, RandomState instance or None, default=0

    Returns
    -------
    float
        If more than half of the pairs coincide, the median of the positive distances; 1 if all do.

    References
    ----------
    Gretton et al., A kernel two-sample test, 2012, section 8. Garreau, Jitkrittum and Kanagawa, Large sample
    analysis of the median heuristic, 2017.

    Examples
    --------
    >>> median_heuristic([0.0, 1.0, 3.0])
    2.0
    """
    x = read_sample("X", X, 2, None).cpu().numpy()
    if len(x) > max_rows:
        x = x[check_random_state(random_state).choice(len(x), max_rows, replace=False)]
    distances = pdist(x)
    middle = float(np.median(distances))
    if middle > 0:
        return middle
    positive = distances[distances > 0]
    return float(np.median(positive)) if len(positive) else 1.0


def kernel_on(
    name: str, kernel: Any, bandwidth: Any, x: Tensor, random_state: Any
) -> tuple[Kernel, float | None]:
    """The kernel to compare points of x with: the user's, or a Gaussian and its bandwidth.

    Raises
    ------
    OptionError
        If the bandwidth is neither a positive number nor "median", or the kernel has no formula.
    """
    if kernel is None:
        if isinstance(bandwidth, str) and bandwidth == "median":
            width = median_heuristic(x, random_state=random_state)
        elif isinstance(bandwidth, Real) and 0 < float(bandwidth) < math.inf:
            width = float(bandwidth)
        else:
            raise OptionError(f"bandwidth={bandwidth!r}; expected 'median' or a positive number.")
        return RBF(width), width
    if isinstance(kernel, str):
        check_domain(kernel, x.cpu().numpy())
    found = resolve_kernel(kernel, x.shape[1])
    if not isinstance(found, Kernel):
        raise OptionError(
            f"{name}={kernel!r} has no formula: write it as one (kerngp.models.FormulaKernel), or take a "
            "kernel by name."
        )
    return found, None


def operator_on(kernel: Kernel, x: Tensor) -> KernelOperator:
    """The matrix k(x_i, x_j), without white noise."""
    found = kernel_matrix(kernel, x, x)
    assert isinstance(found, KernelOperator)
    return found

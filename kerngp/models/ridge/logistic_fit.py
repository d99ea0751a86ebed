"""The minimisation of kernel logistic regression: a coefficient for every row, or for every center."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils import compute_class_weight

from ...errors import OptionError, ShapeError
from ...solvers import Dense, LinearOperator
from ..dual_space import DualSpace
from ..kernel_base import Kernel
from ..kernel_matrix import kernel_matrix, white_noise
from ..likelihoods import Likelihood, Sigmoid, Softmax
from ..newton import LOOSEST, Minimum, Space, follow
from ..resolve import MatrixKernel
from .logistic_inducing import InducingSpace
from .logistic_plan import LogisticPlan

Tensor = torch.Tensor

EXACT = 1e-10  # accuracy of Newton's steps where the matrix is stored, so that they cost next to nothing
EASY = 0.01  # of the largest curvature there can be: an alpha for which the first step is nearly the last


@dataclass(frozen=True)
class Settings:
    """Parameters of the iteration."""

    alpha: float
    tol: float
    max_iter: int
    seed: int
    callback: Callable[[Any], Any] | None


def class_factors(
    class_weight: Any, classes: np.ndarray, label: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """The factors of the weights, one for each class; "balanced" gives all classes the same total weight."""
    if isinstance(class_weight, str) and class_weight == "balanced":
        totals = np.bincount(label, weights=weight, minlength=len(classes))
        present = totals > 0
        mean = totals.sum() / present.sum()
        return np.where(present, mean / np.where(present, totals, 1.0), 0.0)
    return compute_class_weight(class_weight, classes=classes, y=classes[label])


def observe(label: np.ndarray, classes: int, multi_class: str, weight: Tensor) -> Likelihood:
    """The likelihood of labels 0, 1, ...: one function for two classes, otherwise one for each."""
    if classes == 2:
        y = torch.from_numpy(label[:, np.newaxis].astype(np.float64))
    else:
        y = torch.from_numpy((label[:, np.newaxis] == np.arange(classes)).astype(np.float64))
    one = classes == 2 or multi_class == "one_vs_rest"
    return (Sigmoid if one else Softmax)(y.to(weight.device), weight)


def fit_on_rows(
    kernel: Kernel | MatrixKernel,
    X: Tensor,
    used: Tensor,
    likelihood: Likelihood,
    plan: LogisticPlan,
    s: Settings,
) -> Minimum:
    """A coefficient for each of the rows ``used`` of X."""
    K = _matrix(kernel, X, used)
    if plan.stored and not isinstance(K, Dense):
        K = Dense(K.dense().double(), symmetric=True, psd=K.psd)
    space = DualSpace.of(K, plan.rank, s.seed)
    trace = float(K.diag().double().sum())
    return _minimise(
        likelihood, space, torch.zeros_like(likelihood.y), trace, s, EXACT if plan.stored else LOOSEST
    )


def fit_on_centers(
    kernel: Kernel | MatrixKernel, X: Tensor, likelihood: Likelihood, plan: LogisticPlan, s: Settings
) -> tuple[Tensor, Tensor, Minimum]:
    """A coefficient for each center: coefficients, centers, and how it went.

    Raises
    ------
    OptionError
        If the kernel has no formula, or white noise.
    """
    if isinstance(kernel, MatrixKernel):
        raise OptionError(
            f"solver='inducing' needs a kernel with a formula, not {kernel.name}; use 'newton'."
        )
    if white_noise(kernel, X[:1]) is not None:
        raise OptionError(
            f"kernel={kernel!r} has white noise, a value of its own for each row, which a sum "
            "over centers does "
            "not have; leave it out, or use solver='newton'."
        )
    generator = torch.Generator().manual_seed(s.seed)
    chosen = torch.randperm(len(X), generator=generator)[: plan.n_centers].to(X.device)
    space = InducingSpace.of(kernel, X, X[chosen], s.seed)
    start = torch.zeros((len(space.T), likelihood.y.shape[1]), dtype=torch.float64, device=X.device)
    trace = float(kernel_matrix(kernel, space.centers).diag().double().mean()) * len(X)
    found = _minimise(likelihood, space, start, trace, s, LOOSEST)
    return space.coefficients(found.c), space.centers, found


def _minimise(
    likelihood: Likelihood, space: Space, start: Tensor, trace: float, s: Settings, loosest: float
) -> Minimum:
    return follow(
        likelihood,
        space,
        s.alpha,
        start,
        torch.zeros_like(likelihood.y),
        easy=EASY * likelihood.bound() * trace,
        tol=s.tol,
        max_iter=s.max_iter,
        loosest=loosest,
        callback=s.callback,
    )


def _matrix(kernel: Kernel | MatrixKernel, X: Tensor, used: Tensor) -> LinearOperator:
    """K on the rows in use."""
    if isinstance(kernel, Kernel):
        return kernel_matrix(kernel, X[used])
    rows = X.cpu().numpy()
    matrix = kernel.matrix(rows, rows)
    if matrix.shape != (len(rows), len(rows)):
        raise ShapeError(
            f"{kernel.name} gives a matrix of shape {matrix.shape} for {len(rows)} rows; fit needs "
            f"({len(rows)}, {len(rows)})."
        )
    K = torch.from_numpy(matrix).to(X.device)
    return Dense(K[used][:, used], symmetric=True, psd=True)

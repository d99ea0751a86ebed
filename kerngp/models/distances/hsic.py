"""The Hilbert-Schmidt independence criterion: are two variables of one sample independent?"""

from __future__ import annotations

import math
from typing import Any

import torch
from sklearn.utils import check_random_state

from ...engine.mapreduce import map_reduce
from ...engine.reductions import SUM
from ...errors import ShapeError
from ..running import running
from .moments import CentredKernel, permutation_moments, product_sums
from .result import KernelTestResult, by_gamma, by_permutations, check_choices
from .samples import kernel_on, operator_on, read_sample

Tensor = torch.Tensor

BATCH_BYTES = 1 << 26  # of the permuted copies of Y in one pass


def hsic_test(
    X: Any,
    Y: Any,
    *,
    kernel_x: Any = None,
    kernel_y: Any = None,
    bandwidth_x: Any = "median",
    bandwidth_y: Any = "median",
    estimator: str = "biased",
    method: str = "permutation",
    n_permutations: int = 500,
    random_state: Any = None,
    device: str | None = None,
) -> KernelTestResult:
    """Test whether two variables are independent, by the Hilbert-Schmidt independence criterion

        HSIC = tr(K H L H) / n^2,    H = I - 11'/n,

    with the kernel matrices K of X and L of Y. In the limit it is 0 only for independent variables if both
    kernels are characteristic, as Gaussians are. All sums over pairs are fused passes: memory is linear in n.

    Parameters
    ----------
    X : array of shape (n, n_features), or (n,) for one feature
    Y : array of shape (n, n_other_features) or (n,)
        Row i belongs to row i of X; n >= 4.
    kernel_x, kernel_y : str, Kernel, Expr or callable, optional
        Positive semi-definite kernels with a formula. Default: Gaussians of the given bandwidths.
    bandwidth_x, bandwidth_y : float or "median"
        Lengthscales of the Gaussians; "median" is the median distance of two points.
    estimator : {"biased", "unbiased"}
        "biased" is the formula above; "unbiased" leaves out pairs of a point with itself and may be
        negative (Song et al., eq. 5).
    method : {"permutation", "gamma"}
        "permutation" pairs the rows of Y with those of X at random, one pass over all pairs for each, and
        is exact for any n. "gamma" matches a Gamma distribution to the mean and variance over all
        permutations, of the biased statistic: three passes in all, good for some hundred points and more.
    n_permutations : int
    random_state : int, RandomState instance or None
        For permutations, and for the points whose distances give the median.
    device : str, optional
        Where to compute; default where X is.

    Returns
    -------
    KernelTestResult

    Raises
    ------
    ValueError
        For options out of range and samples that do not fit together.

    References
    ----------
    Gretton, Bousquet, Smola and Schölkopf, Measuring statistical dependence with Hilbert-Schmidt norms, 2005.
    Gretton, Fukumizu, Teo, Song, Schölkopf and Smola, A kernel statistical test of independence, 2008. Song,
    Smola, Gretton, Bedo and Borgwardt, Feature selection via dependence maximization, 2012.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(-1, 1, size=200)
    >>> hsic_test(x, x**2 + 0.1 * rng.normal(size=200), random_state=0).pvalue < 0.01
    True
    """
    check_choices(estimator, method, n_permutations)
    x, y = read_sample("X", X, 4, device), read_sample("Y", Y, 4, device)
    if len(x) != len(y):
        raise ShapeError(f"X has {len(x)} rows and Y has {len(y)}; each row of X needs its row of Y.")
    y = y.to(x.device)
    random = check_random_state(random_state)
    n = len(x)
    with running("hsic_test", "run", f"{n:,} points, {method}"):
        kx, width_x = kernel_on("kernel_x", kernel_x, bandwidth_x, x, random)
        ky, width_y = kernel_on("kernel_y", kernel_y, bandwidth_y, y, random)
        K, L = (CentredKernel.of(operator_on(k, z)) for k, z in ((kx, x), (ky, y)))
        rows, squares_x, squares_y = product_sums(K, L).unbind(1)
        identity = torch.arange(n, device=x.device)[None]
        biased = float(rows.sum()) / n**2
        statistic = biased if estimator == "biased" else float(_unbiased(K, L, rows.sum()[None], identity))
        if method == "gamma":
            a, b = K.invariants(float(squares_x.sum())), L.invariants(float(squares_y.sum()))
            mean, variance = permutation_moments(a, b)
            null = by_gamma(biased, mean / n**2, variance / n**4)
        else:
            null = by_permutations(statistic, _permuted(K, L, n_permutations, random, estimator).numpy())
        return KernelTestResult(
            statistic=statistic,
            standard_error=2 * math.sqrt(float((rows / n).var()) / n),
            estimator=estimator,
            method=method,
            bandwidth=(width_x, width_y),
            pvalue=null.pvalue,
            null_mean=null.mean,
            null_std=null.std,
            null_distribution=null.distribution,
        )


def _permuted(K: CentredKernel, L: CentredKernel, count: int, random: Any, estimator: str) -> Tensor:
    """Statistics with the rows of Y in random order, a batch of orders in every pass."""
    n = len(K.diagonal)
    widest = sum(a.shape[-1] for a in L.args if a.dim() == 2)
    step = max(1, BATCH_BYTES // (8 * n * widest))
    formula = K.formula * L.shifted(len(K.args))
    found = []
    for start in range(0, count, step):
        orders = [random.permutation(n) for _ in range(min(step, count - start))]
        order = torch.stack([torch.from_numpy(o) for o in orders]).to(K.diagonal.device)
        shuffled: dict[int, Tensor] = {}  # x and y of a kernel are one tensor, and stay one
        args = [shuffled.setdefault(id(a), a[order]) if a.dim() == 2 else a for a in L.args]
        sums = map_reduce(formula, SUM, (*K.args, *args), axis="ij", sizes=(n, n))
        assert isinstance(sums, Tensor)
        sums = sums.reshape(len(orders))
        found.append(sums / n**2 if estimator == "biased" else _unbiased(K, L, sums, order))
    return torch.cat(found).cpu()


def _unbiased(K: CentredKernel, L: CentredKernel, sums: Tensor, order: Tensor) -> Tensor:
    """The unbiased estimate, for the sums of the centred products with rows of Y in some orders.

    With K and L of which the diagonals are set to 0 it is

        (tr KL + 1'K1 1'L1 / ((n - 1)(n - 2)) - 2 1'KL1 / (n - 2)) / (n (n - 3)).
    """
    n = len(K.diagonal)
    total_x, total_y = K.sums.sum(), L.sums.sum()
    # from centred to plain: sum of k l = sum of centred products + 2 (K1)'(L1) / n - 1'K1 1'L1 / n^2
    trace = sums + 2 / n * (L.sums[order] @ K.sums) - total_x * total_y / n**2
    trace = trace - L.diagonal[order] @ K.diagonal
    rest_x, rest_y = K.sums - K.diagonal, L.sums - L.diagonal
    product = rest_x.sum() * rest_y.sum() / ((n - 1) * (n - 2))
    return (trace + product - 2 / (n - 2) * (rest_y[order] @ rest_x)) / (n * (n - 3))

"""The maximum mean discrepancy: are two samples from one distribution?"""

from __future__ import annotations

import math
from typing import Any

import torch
from sklearn.utils import check_random_state

from ...errors import ShapeError
from ...options import current
from ...solvers import KernelOperator
from ..running import running
from .moments import CentredKernel, Invariants, permutation_moments
from .result import KernelTestResult, by_gamma, by_permutations, check_choices
from .samples import kernel_on, operator_on, read_sample

Tensor = torch.Tensor


def mmd_test(
    X: Any,
    Y: Any,
    *,
    kernel: Any = None,
    bandwidth: Any = "median",
    estimator: str = "unbiased",
    method: str = "permutation",
    n_permutations: int = 500,
    random_state: Any = None,
    device: str | None = None,
) -> KernelTestResult:
    """Test whether two samples come from one distribution, by the squared maximum mean discrepancy

        MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),

    which is 0 only for equal distributions if the kernel is characteristic, as the Gaussian is. All sums over
    pairs are fused passes: memory is linear in the number of points.

    Parameters
    ----------
    X : array of shape (m, n_features), or (m,) for one feature
    Y : array of shape (n, n_features)
        m, n >= 2.
    kernel : str, Kernel, Expr or callable, optional
        A positive semi-definite kernel with a formula. Default: a Gaussian of the given bandwidth.
    bandwidth : float or "median"
        Lengthscale of the Gaussian; "median" is the median distance of points of both samples.
    estimator : {"unbiased", "biased"}
        "unbiased" leaves out pairs of a point with itself and may be negative (eq. 3 of the source); "biased"
        is the squared distance of the two mean embeddings (eq. 5).
    method : {"permutation", "gamma"}
        "permutation" redistributes the points at random, many times in one pass, and is exact for any
        number of points. "gamma" matches a Gamma distribution to the mean and variance over all
        permutations, of the biased statistic: two passes in all, good for some hundred points and more.
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
    Gretton, Borgwardt, Rasch, Schölkopf and Smola, A kernel two-sample test, JMLR 13, 2012. Gretton,
    Fukumizu, Harchaoui and Sriperumbudur, A fast, consistent kernel two-sample test, 2009.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(200, 2)), rng.normal(size=(150, 2)) + 0.5
    >>> mmd_test(x, y, random_state=0).pvalue < 0.01
    True
    """
    check_choices(estimator, method, n_permutations)
    x, y = read_sample("X", X, 2, device), read_sample("Y", Y, 2, device)
    if x.shape[1] != y.shape[1]:
        raise ShapeError(f"X has {x.shape[1]} columns and Y has {y.shape[1]}; they must be equal.")
    z = torch.cat([x, y.to(x.device)])
    random = check_random_state(random_state)
    with running("mmd_test", "run", f"{len(x):,} and {len(y):,} points, {method}"):
        k, width = kernel_on("kernel", kernel, bandwidth, z, random)
        sums = _Sums(operator_on(k, z), len(x), len(y))
        inside = torch.zeros(len(z), 1, dtype=z.dtype, device=z.device)
        inside[: len(x)] = 1.0
        product = sums.K @ inside
        biased, unbiased = (float(sums.statistic(inside, product, b)) for b in (True, False))
        if method == "gamma":
            null = by_gamma(biased, *_moments(sums))
        else:
            columns = [
                sums.permuted(w, random, estimator == "biased") for w in _widths(len(z), n_permutations)
            ]
            null = by_permutations(biased if estimator == "biased" else unbiased, torch.cat(columns).numpy())
        return KernelTestResult(
            statistic=biased if estimator == "biased" else unbiased,
            standard_error=sums.standard_error(product[:, 0]),
            estimator=estimator,
            method=method,
            bandwidth=width,
            pvalue=null.pvalue,
            null_mean=null.mean,
            null_std=null.std,
            null_distribution=null.distribution,
        )


class _Sums:
    """The kernel matrix of both samples, and sums over its blocks for any choice of m of the points."""

    def __init__(self, K: KernelOperator, m: int, n: int):
        self.K, self.m, self.n = K, m, n
        self.rows = K @ torch.ones(m + n, dtype=K.torch_dtype, device=K.device)
        self.diagonal = K.diag()

    def statistic(self, inside: Tensor, product: Tensor, biased: bool) -> Tensor:
        """MMD^2 for indicators of the first sample, columns of shape (m + n, c), and K times them."""
        m, n = self.m, self.n
        within = (inside * product).sum(0)
        across = self.rows @ inside - within
        other = self.rows.sum() - within - 2 * across
        if not biased:
            loops = self.diagonal @ inside
            within, other = within - loops, other - (self.diagonal.sum() - loops)
        less = 0 if biased else 1
        return within / (m * (m - less)) + other / (n * (n - less)) - 2 * across / (m * n)

    def permuted(self, width: int, random: Any, biased: bool) -> Tensor:
        """Statistics of random choices, all in one product."""
        inside = torch.zeros(self.m + self.n, width, dtype=self.K.torch_dtype)
        for column in range(width):
            inside[torch.from_numpy(random.permutation(self.m + self.n)[: self.m].copy()), column] = 1.0
        inside = inside.to(self.K.device)
        return self.statistic(inside, self.K @ inside, biased).cpu()

    def standard_error(self, product: Tensor) -> float:
        """Of the estimate: Hoeffding's first term, from the variance of the witness function."""
        witness = product / self.m - (self.rows - product) / self.n
        first, second = witness[: self.m], witness[self.m :]
        return 2 * math.sqrt(float(first.var()) / self.m + float(second.var()) / self.n)


def _moments(sums: _Sums) -> tuple[float, float]:
    """Mean and variance of the biased statistic a'Ka over all permutations of the labels a."""
    m, n = sums.m, sums.n
    centred = CentredKernel.of(sums.K)
    norm = 1 / m + 1 / n
    labels = Invariants(m + n, norm, norm**2, 1 / m**3 + 1 / n**3)
    return permutation_moments(centred.invariants(centred.squares()), labels)


def _widths(rows: int, count: int) -> list[int]:
    """Columns of each product, so that they and their products fit into a quarter of the memory limit."""
    most = int(max(1, min(count, current().memory_limit // 4 // (16 * rows))))
    return [min(most, count - start) for start in range(0, count, most)]

"""Kernel density estimates with scikit-learn's interface, by one pass over all pairs."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
import torch
from scipy.special import gammainc
from sklearn.base import BaseEstimator
from sklearn.neighbors import VALID_METRICS
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ...engine.arrays import adopt_any
from ...engine.expr import Expr, Pm, Vj
from ...engine.mapreduce import map_reduce
from ...engine.reductions import LOGSUMEXP, SUM
from ...errors import OptionError
from ..inputs import Origin, check_weights, compute_device, read_rows, to_numpy
from ..running import running
from .density_kernels import DENSITY_KERNELS
from .metrics import Metric, resolve_metric
from .search import exact_options

Tensor = torch.Tensor
RULES = ("scott", "silverman")


class KernelDensity(BaseEstimator):
    """A density as the mean of kernels around the points, log-scaled without underflow.

    p(x) = C sum_j w_j k(d(x, x_j) / h) / sum_j w_j, where C makes it a density of D-dimensional points with
    the Euclidean distance. The interface and the results are those of `sklearn.neighbors.KernelDensity`;
    there is no tree, every call is one exact pass over the pairs in constant memory.

    Parameters
    ----------
    bandwidth : float or {"scott", "silverman"}, default=1.0
        h, or a rule for it from the numbers of rows and columns, for data of unit variance.
    algorithm : {"auto", "kd_tree", "ball_tree"}, default="auto"
        Only says which metrics are admitted.
    kernel : {"gaussian", "tophat", "epanechnikov", "exponential", "linear", "cosine"}, default="gaussian"
    metric : str, Expr or callable, default="euclidean"
        A metric of scikit-learn's trees, or a formula of two points, see `NearestNeighbors`.
    atol, rtol : float, default=0
        Accepted; results are exact.
    breadth_first : bool, default=True
        Accepted.
    leaf_size : int, default=40
        Accepted.
    metric_params : dict, optional
        Such as ``{"p": 3}`` of minkowski.
    device : str, optional
        Where to compute; default the CPU, or the device of a torch tensor.
    memory_limit : int, optional
        Bytes of temporaries; default the option in force.

    Attributes
    ----------
    bandwidth_ : float
    X_fit_ : array of shape (n_samples, n_features)
        The points; with `sample_weight_` it takes the place of scikit-learn's ``tree_``.
    sample_weight_ : array of shape (n_samples,) or None
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)

    Notes
    -----
    The cosine kernel integrates to one in every dimension. scikit-learn's does in odd ones only: a boundary
    term is missing from its normalisation.

    References
    ----------
    Silverman, Density Estimation for Statistics and Data Analysis, 1986, chapter 4.

    Examples
    --------
    >>> from kerngp.models import KernelDensity
    >>> model = KernelDensity(bandwidth=0.5).fit([[0.0], [1.0]])
    >>> round(float(model.score_samples([[0.5]])[0]), 4)
    -0.7258
    """

    def __init__(
        self,
        *,
        bandwidth: float | str = 1.0,
        algorithm: str = "auto",
        kernel: str = "gaussian",
        metric: Any = "euclidean",
        atol: float = 0,
        rtol: float = 0,
        breadth_first: bool = True,
        leaf_size: int = 40,
        metric_params: dict[str, Any] | None = None,
        device: str | None = None,
        memory_limit: int | None = None,
    ):
        self.bandwidth = bandwidth
        self.algorithm = algorithm
        self.kernel = kernel
        self.metric = metric
        self.atol = atol
        self.rtol = rtol
        self.breadth_first = breadth_first
        self.leaf_size = leaf_size
        self.metric_params = metric_params
        self.device = device
        self.memory_limit = memory_limit

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> KernelDensity:
        """Keep the points, choose the bandwidth.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
        y : ignored
        sample_weight : array of shape (n_samples,), optional
            A weight of 0 leaves a row out, k counts it k times.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For parameters out of range, and for data that are not a finite matrix of numbers.
        """
        self._check_parameters()
        with running(self, "fit"):
            rows, origin = read_rows(self, X, reset=True, device=self.device, sparse=False)
            self._metric_of(rows.shape[1])
            weight = None if sample_weight is None else check_weights(sample_weight, len(rows))
            self.bandwidth_ = _bandwidth(self.bandwidth, *rows.shape)
            self.X_fit_ = origin.give(rows)
            self.sample_weight_ = None if weight is None else origin.give(torch.from_numpy(weight))
        return self

    def score_samples(self, X: Any) -> Any:
        """The logarithm of the density at each row; -inf where it is 0.

        Parameters
        ----------
        X : array of shape (n_queries, n_features)

        Returns
        -------
        array of shape (n_queries,)
        """
        log_density, origin = self._log_density(X, "score_samples")
        return origin.give(log_density)

    def score(self, X: Any, y: Any = None) -> float:
        """The sum of the logarithms of the density.

        Parameters
        ----------
        X : array of shape (n_queries, n_features)
        y : ignored
        """
        return float(self._log_density(X, "score")[0].double().sum())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """Random points from the density.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState instance or None

        Returns
        -------
        array of shape (n_samples, n_features)
            gaussian and tophat: scikit-learn's numbers.

        Raises
        ------
        OptionError
            For the other kernels with another metric than the Euclidean one.
        """
        check_is_fitted(self)
        data = np.asarray(to_numpy(self.X_fit_))
        random = check_random_state(random_state)
        u, dim = random.uniform(0, 1, size=n_samples), data.shape[1]
        if self.sample_weight_ is None:
            i = (u * len(data)).astype(np.int64)
        else:
            cumulative = np.cumsum(np.asarray(to_numpy(self.sample_weight_), dtype=np.float64))
            i = np.searchsorted(cumulative, u * cumulative[-1])
        if self.kernel == "gaussian":
            out = np.atleast_2d(random.normal(data[i], self.bandwidth_))
        else:
            direction = random.normal(size=(n_samples, dim))
            square = np.einsum("nd,nd->n", direction, direction)
            radius = self._radii(random, square, dim)
            out = data[i] + direction * (radius * self.bandwidth_ / np.sqrt(square))[:, None]
        return Origin.of(self.X_fit_).give(torch.from_numpy(out.astype(data.dtype)))

    def _radii(self, random: np.random.RandomState, square: np.ndarray, dim: int) -> np.ndarray:
        if self.kernel == "tophat":  # the lengths of the directions are uniform numbers, too
            return gammainc(0.5 * dim, 0.5 * square) ** (1.0 / dim)
        metric = self._metric_of(dim)
        if metric.norm != 2.0 or metric.weights is not None:
            raise OptionError(
                f"kernel={self.kernel!r} is sampled for metric='euclidean' only; metric is {self.metric!r}."
            )
        return DENSITY_KERNELS[self.kernel].radii(random, dim, len(square))

    def _log_density(self, X: Any, method: str) -> tuple[Tensor, Origin]:
        check_is_fitted(self)
        queries, origin = read_rows(self, X, reset=False, method=method, device=self.device, sparse=False)
        device = compute_device(self.device, queries)
        points = adopt_any("X_fit_", self.X_fit_).to(device)
        queries = queries.to(device, points.dtype)
        weight = None if self.sample_weight_ is None else adopt_any("sample_weight_", self.sample_weight_)
        plan = f"{len(queries):,} x {len(points):,} pairs, kernel {self.kernel!r}"
        with running(self, method, plan):
            out = self._sums(queries, points, None if weight is None else weight.to(device).double())
        return out, origin

    def _sums(self, queries: Tensor, points: Tensor, weight: Tensor | None) -> Tensor:
        """log of C sum_j w_j k_ij / sum_j w_j."""
        dim, kernel = points.shape[1], DENSITY_KERNELS[self.kernel]
        metric = self._metric_of(dim)
        x, y = metric.prepare(queries), metric.prepare(points)
        f, values = metric.expression(x)
        scale = x.new_tensor([1.0 / self.bandwidth_])
        args = [x, y, *values, scale]
        expr = kernel.expression(metric.distance_formula(f), Pm(len(args) - 1, 1))
        norm = kernel.log_norm(self.bandwidth_, dim)
        total = float(len(points)) if weight is None else float(weight.sum())
        if weight is not None:
            factor = (weight.log() if kernel.logarithmic else weight / total).to(x.dtype)
            args.append(factor.unsqueeze(-1).contiguous())
            w: Expr = Vj(len(args) - 1, 1)
            expr = expr + w if kernel.logarithmic else expr * w
        reduction = LOGSUMEXP if kernel.logarithmic else SUM
        out = map_reduce(expr, reduction, args, options=exact_options(x.device))
        assert isinstance(out, Tensor)
        if kernel.logarithmic:
            return out[:, 0] + (norm - math.log(total))
        return out[:, 0].log() + (norm - (math.log(total) if weight is None else 0.0))

    def _metric_of(self, n_features: int) -> Metric:
        params = dict(self.metric_params or {})
        metric = resolve_metric(self.metric, params, n_features)
        if metric is None:
            raise OptionError(
                f"metric={self.metric!r} with metric_params={params!r} has no formula; write it as a "
                "function of two points that returns one, such as lambda x, y: abs(x - y).sum()."
            )
        return metric

    def _check_parameters(self) -> None:
        """Raise for constructor arguments out of range."""
        h = self.bandwidth
        if isinstance(h, str) and h not in RULES or not isinstance(h, str) and not isinstance(h, Real):
            raise OptionError(f"bandwidth={h!r}; expected a positive number or one of {RULES}.")
        if isinstance(h, Real) and not (h > 0 and math.isfinite(h)):
            raise OptionError(f"bandwidth={h!r}; expected a positive number.")
        if self.kernel not in DENSITY_KERNELS:
            raise OptionError(f"kernel={self.kernel!r} is unknown; expected one of {tuple(DENSITY_KERNELS)}.")
        if self.algorithm not in ("auto", "kd_tree", "ball_tree"):
            raise OptionError(
                f"algorithm={self.algorithm!r} is unknown; expected 'auto', 'kd_tree' or 'ball_tree'."
            )
        if isinstance(self.metric, str):
            trees = ("kd_tree", "ball_tree") if self.algorithm == "auto" else (self.algorithm,)
            if not any(self.metric in VALID_METRICS[tree] for tree in trees):
                raise OptionError(
                    f"invalid metric for {self.algorithm}: {self.metric!r}; expected one of "
                    f"{sorted(set().union(*(VALID_METRICS[tree] for tree in trees)))}."
                )
        for name in ("atol", "rtol"):
            value = getattr(self, name)
            if not isinstance(value, Real) or not float(value) >= 0:
                raise OptionError(f"{name}={value!r}; expected a number >= 0.")


def _bandwidth(bandwidth: float | str, rows: int, features: int) -> float:
    """The bandwidth itself, or by a rule of thumb."""
    if bandwidth == "scott":
        return rows ** (-1.0 / (features + 4))
    if bandwidth == "silverman":
        return (rows * (features + 2) / 4) ** (-1.0 / (features + 4))
    return float(bandwidth)

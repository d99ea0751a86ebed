"""Metrics by name, and formulas of the user, as formulas of two points.

Weights and scales are applied to the points beforehand, so that most metrics become an l_p norm of a
difference, which a tree can search, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from sklearn.metrics import DistanceMetric

from ...engine.expr import Expr, const, node
from ...engine.ops import (
    asin,
    cos,
    dot,
    elem,
    nonzero,
    relu,
    sin,
    sqdist,
    sqrt,
    square,
    total,
    vector_max,
)
from ...errors import OptionError, ShapeError
from ..kernel_base import Arguments, Kernel, points
from ..resolve import resolve_kernel

Tensor = torch.Tensor


@dataclass(frozen=True)
class Metric:
    """A distance d(x, y) = f(x', y')^(1 / root), where x' are the points as `prepare` gives them.

    Attributes
    ----------
    formula : callable (x, y) -> Expr, or Kernel
        f, which orders pairs as d does; a `Kernel` is a formula of the user with its parameters.
    root : float
    norm : float, optional
        p, where d is the l_p norm of x' - y' and p >= 1.
    weights : ndarray of shape (D,) or (D, D), optional
        Factors of the columns, or a matrix that rows are multiplied with.
    unit : bool
        Whether rows are brought to length 1.
    """

    formula: Callable[[Expr, Expr], Expr] | Kernel
    root: float = 1.0
    norm: float | None = None
    weights: np.ndarray | None = None
    unit: bool = False

    def prepare(self, X: Tensor) -> Tensor:
        """The points between which the formula is a distance."""
        if self.weights is not None:
            w = torch.as_tensor(self.weights).to(X.device, X.dtype)
            X = X * w if w.dim() == 1 else X @ w
        if self.unit:
            length = X.norm(dim=1, keepdim=True)
            X = X / torch.where(length > 0, length, torch.ones_like(length))
        return X.contiguous()

    def expression(self, like: Tensor) -> tuple[Expr, list[Tensor]]:
        """f of the points ``Vi(0, D)`` and ``Vj(1, D)``, and the values of its parameters, from number 2."""
        x, y = points(like.shape[1])
        if isinstance(self.formula, Kernel):
            arguments = Arguments(2, like)
            formula = self.formula.parts(x, y, arguments).formula
            assert formula is not None  # a formula of the user is one
            return formula, arguments.values
        return self.formula(x, y), []

    def distance(self, value: Tensor) -> Tensor:
        """d from values of f."""
        if self.root == 1.0:
            return value
        value = value.clamp_min(0)
        return value.sqrt() if self.root == 2.0 else value ** (1.0 / self.root)

    def distance_formula(self, f: Expr) -> Expr:
        """d as a formula, from f."""
        if self.root == 1.0:
            return f
        return sqrt(f) if self.root == 2.0 else f ** (1.0 / self.root)

    def value(self, distance: Any) -> np.ndarray:
        """f from d: the thresholds that belong to radii."""
        return np.asarray(distance, dtype=np.float64) ** self.root


def resolve_metric(metric: Any, params: dict[str, Any], n_features: int) -> Metric | None:
    """The metric behind a user's argument, or None where there is no formula.

    Parameters
    ----------
    metric : str, Expr or callable
        A callable is first offered formulas: if ``metric(x, y, **params)`` then returns a formula of dim 1
        it is one, otherwise it is a function of two rows, which has no formula here.
    params : dict
        Such as ``{"p": 3, "w": [1, 2]}``, ``{"V": variances}``, ``{"VI": matrix}``.
    n_features : int

    Raises
    ------
    ShapeError, OptionError
        If parameters do not fit the columns or the metric.

    Examples
    --------
    >>> resolve_metric("minkowski", {"p": 3}, 2).norm
    3.0
    >>> resolve_metric("nan_euclidean", {}, 2) is None
    True
    """
    if isinstance(metric, DistanceMetric):
        return None
    if not isinstance(metric, str):
        kernel = resolve_kernel(metric, n_features, kernel_params=params)
        return Metric(kernel) if isinstance(kernel, Kernel) else None
    if metric in ("minkowski", "p"):
        return _minkowski(params, n_features)
    if metric == "seuclidean":
        return _scaled(params, n_features)
    if metric == "mahalanobis":
        return _mahalanobis(params, n_features)
    if metric == "haversine" and n_features != 2:
        raise ShapeError(
            f"X has {n_features} columns; metric='haversine' expects 2: latitude and longitude, in radians."
        )
    found = _NAMED.get(metric)
    if found is not None and params:
        raise OptionError(f"metric_params={params!r}: metric={metric!r} has no parameters.")
    return found


# ---------------------------------------------------------------- formulas


@dataclass(frozen=True)
class _Power:
    """sum_k |x_k - y_k|^p."""

    p: float

    def __call__(self, x: Expr, y: Expr) -> Expr:
        return total(abs(x - y) ** (int(self.p) if float(self.p).is_integer() else self.p))


def _ratio(a: Expr, b: Expr) -> Expr:
    """a / b, and a where b is 0."""
    return a / (b + node("eq", b, const(0.0)))


def _absolute(x: Expr, y: Expr) -> Expr:
    return total(abs(x - y))


def _largest(x: Expr, y: Expr) -> Expr:
    return vector_max(abs(x - y))


def _cosine(x: Expr, y: Expr) -> Expr:
    return relu(1.0 - dot(x, y))


def _canberra(x: Expr, y: Expr) -> Expr:
    return total(_ratio(abs(x - y), abs(x) + abs(y)))


def _braycurtis(x: Expr, y: Expr) -> Expr:
    return _ratio(total(abs(x - y)), total(abs(x + y)))


def _hamming(x: Expr, y: Expr) -> Expr:
    return total(node("ne", x, y)) / x.dim


def _haversine(x: Expr, y: Expr) -> Expr:
    latitude, longitude = ((elem(x, k) - elem(y, k)) * 0.5 for k in (0, 1))
    return 2.0 * asin(
        sqrt(square(sin(latitude)) + cos(elem(x, 0)) * cos(elem(y, 0)) * square(sin(longitude)))
    )


def _both(x: Expr, y: Expr) -> Expr:
    """How many components are nonzero in both points."""
    return dot(nonzero(x), nonzero(y))


def _unequal(x: Expr, y: Expr) -> Expr:
    """How many components are nonzero in one point alone."""
    return sqdist(nonzero(x), nonzero(y))


def _jaccard(x: Expr, y: Expr) -> Expr:
    return _ratio(_unequal(x, y), _unequal(x, y) + _both(x, y))


def _dice(x: Expr, y: Expr) -> Expr:
    return _ratio(_unequal(x, y), _unequal(x, y) + 2.0 * _both(x, y))


def _sokalsneath(x: Expr, y: Expr) -> Expr:
    return _ratio(_unequal(x, y), _unequal(x, y) + 0.5 * _both(x, y))


def _rogerstanimoto(x: Expr, y: Expr) -> Expr:
    return 2.0 * _unequal(x, y) / (x.dim + _unequal(x, y))


def _russellrao(x: Expr, y: Expr) -> Expr:
    return (x.dim - _both(x, y)) / x.dim


_EUCLIDEAN = Metric(sqdist, 2.0, norm=2.0)
_MANHATTAN = Metric(_absolute, norm=1.0)
_CHEBYSHEV = Metric(_largest, norm=np.inf)
_NAMED = {
    "euclidean": _EUCLIDEAN,
    "l2": _EUCLIDEAN,
    "sqeuclidean": Metric(sqdist),
    "manhattan": _MANHATTAN,
    "cityblock": _MANHATTAN,
    "l1": _MANHATTAN,
    "chebyshev": _CHEBYSHEV,
    "infinity": _CHEBYSHEV,
    "cosine": Metric(_cosine, unit=True),
    "canberra": Metric(_canberra),
    "braycurtis": Metric(_braycurtis),
    "hamming": Metric(_hamming),
    "haversine": Metric(_haversine),
    "jaccard": Metric(_jaccard),
    "dice": Metric(_dice),
    "sokalsneath": Metric(_sokalsneath),
    "rogerstanimoto": Metric(_rogerstanimoto),
    "sokalmichener": Metric(_rogerstanimoto),
    "russellrao": Metric(_russellrao),
}


# ---------------------------------------------------------------- metrics with parameters


def _minkowski(params: dict[str, Any], n_features: int) -> Metric | None:
    p, w = params.get("p", 2), params.get("w")
    if not isinstance(p, Real) or not float(p) > 0:
        raise OptionError(f"p={p!r}; expected a positive number, or numpy.inf.")
    p = float(p)
    if w is not None and np.isinf(p):
        return None
    base = {1.0: _MANHATTAN, 2.0: _EUCLIDEAN, np.inf: _CHEBYSHEV}.get(p)
    base = base or Metric(_Power(p), p, norm=p if p >= 1 else None)
    if w is None:
        return base
    return replace(base, weights=_per_column("w", w, n_features) ** (1.0 / p))


def _scaled(params: dict[str, Any], n_features: int) -> Metric | None:
    if "V" not in params:
        return None  # the variances are those of the data
    return replace(_EUCLIDEAN, weights=1.0 / np.sqrt(_per_column("V", params["V"], n_features)))


def _mahalanobis(params: dict[str, Any], n_features: int) -> Metric | None:
    if params.get("VI") is None and params.get("V") is None:
        return None  # the covariance is that of the data
    matrix = params.get("VI") if params.get("VI") is not None else np.linalg.inv(np.asarray(params["V"]))
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.shape != (n_features, n_features):
        raise ShapeError(f"VI has shape {matrix.shape}; expected {(n_features, n_features)}.")
    try:
        return replace(_EUCLIDEAN, weights=np.linalg.cholesky(matrix))
    except np.linalg.LinAlgError:
        return None  # not a norm


def _per_column(name: str, value: Any, n_features: int) -> np.ndarray:
    out = np.asarray(value, dtype=np.float64)
    if out.shape != (n_features,):
        raise ShapeError(f"{name} has shape {out.shape}; expected ({n_features},), one for each column of X.")
    if not np.all(out >= 0):
        raise OptionError(f"{name} has negative entries; expected numbers >= 0.")
    return out

"""What scikit-learn's neighbours estimators check of their parameters, with its messages."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.metrics import DistanceMetric
from sklearn.neighbors import VALID_METRICS

from ...engine.expr import Expr
from ...errors import OptionError

ALGORITHMS = ("auto", "ball_tree", "kd_tree", "brute")


def check_parameters(estimator: Any) -> None:
    """Refuse constructor arguments out of range.

    Raises
    ------
    OptionError
    """
    k, radius = getattr(estimator, "n_neighbors", None), getattr(estimator, "radius", None)
    if k is not None:
        check_count(k)
    if radius is not None and (not isinstance(radius, Real) or not float(radius) >= 0):
        raise OptionError(f"radius={radius!r}; expected a number >= 0.")
    if estimator.algorithm not in ALGORITHMS:
        raise OptionError(f"algorithm={estimator.algorithm!r} is unknown; expected one of {ALGORITHMS}.")
    if not isinstance(estimator.leaf_size, Integral) or estimator.leaf_size < 1:
        raise OptionError(f"leaf_size={estimator.leaf_size!r}; expected an integer of at least 1.")
    p = estimator.p
    if p is not None and (not isinstance(p, Real) or not float(p) > 0):
        raise OptionError(f"p={p!r}; expected a positive number.")
    if estimator.metric_params is not None and not isinstance(estimator.metric_params, dict):
        raise OptionError(f"metric_params={estimator.metric_params!r}; expected a dict or None.")
    weights = getattr(estimator, "weights", None)
    if weights not in (None, "uniform", "distance") and not callable(weights):
        raise OptionError(
            f"weights={weights!r} is unknown; expected 'uniform', 'distance' or a function of distances."
        )
    _check_metric(estimator)


def check_count(k: Any) -> None:
    """Refuse a number of neighbours that is none.

    Raises
    ------
    TypeError, OptionError
    """
    if not isinstance(k, Integral):
        raise TypeError(f"n_neighbors does not take {type(k)} value, enter integer value")
    if k <= 0:
        raise OptionError(f"Expected n_neighbors > 0. Got {int(k)}")


def _check_metric(estimator: Any) -> None:
    metric, algorithm = estimator.metric, estimator.algorithm
    if isinstance(metric, str):
        trees = algorithm == "auto" and metric in VALID_METRICS["ball_tree"]
        table = "ball_tree" if trees else "brute" if algorithm == "auto" else algorithm
        if metric not in VALID_METRICS[table]:
            raise OptionError(
                f"Metric {metric!r} not valid. Use sorted(sklearn.neighbors.VALID_METRICS[{table!r}]) "
                "to get valid options. Metric can also be a callable function, or a formula of two points."
            )
    elif algorithm == "kd_tree" and not isinstance(metric, DistanceMetric):
        raise OptionError(
            f"kd_tree does not support callable metric {metric!r}; use algorithm='auto' or 'brute'."
        )
    elif not (callable(metric) or isinstance(metric, (DistanceMetric, Expr))):
        raise OptionError(
            f"metric={metric!r} is a {type(metric).__name__}; expected a name, a formula or a function of "
            "two points."
        )
    if estimator.metric_params and "p" in estimator.metric_params and estimator.p is not None:
        warnings.warn(
            "Parameter p is found in metric_params. The corresponding parameter from __init__ is ignored.",
            SyntaxWarning,
            stacklevel=4,
        )


def effective_metric(metric: Any, p: Any, params: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
    """The metric that is meant, and its parameters: "minkowski" with p = 2 is "euclidean".

    Examples
    --------
    >>> effective_metric("minkowski", 1, None)
    ('manhattan', {})
    """
    params = dict(params or {})
    if not (isinstance(metric, str) and metric == "minkowski"):
        return metric, params
    p, w = params.pop("p", p), params.pop("w", None)
    p = 2 if p is None else p
    if w is None and p in (1, 2, np.inf):
        return {1: "manhattan", 2: "euclidean"}.get(p, "chebyshev"), params
    return metric, {**params, "p": p, "w": w}


def check_semimetric(algorithm: str, metric: Any, params: dict[str, Any]) -> None:
    """Minkowski distances with p < 1 have no triangle inequality: trees are refused, others warned of."""
    if not isinstance(metric, str) or metric != "minkowski" or params["p"] >= 1:
        return
    if algorithm in ("kd_tree", "ball_tree"):
        raise OptionError(
            f'algorithm="{algorithm}" does not support 0 < p < 1 for the Minkowski metric. To resolve this '
            'problem either set p >= 1 or algorithm="brute".'
        )
    warnings.warn(
        "Mind that for 0 < p < 1, Minkowski metrics are not distance metrics. Continuing the execution with "
        "`algorithm='brute'`.",
        UserWarning,
        stacklevel=5,
    )

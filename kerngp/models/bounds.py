"""Bounds of hyperparameters as users write them: "fixed", a pair, pairs for each component, or by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..errors import OptionError

DEFAULT = (1e-5, 1e5)


def check_bounds(value: Any, parameters: Mapping[str, Any], owner: str) -> Any:
    """The bounds of a kernel in canonical form: None, "fixed", tuples of floats, or a dict of the latter two.

    Parameters
    ----------
    value : object
        What the user passed.
    parameters : mapping
        The hyperparameters of the kernel by name.
    owner : str
        The kernel, for messages.

    Raises
    ------
    OptionError
        For anything else.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return _check(value, f"bounds of {owner}", None)
    unknown = [name for name in value if name not in parameters]
    if unknown:
        known = ", ".join(parameters) or "none"
        raise OptionError(f"bounds of {owner} name {unknown[0]!r}; its hyperparameters are: {known}.")
    return {name: _check(b, f"bounds of {name} of {owner}", parameters[name]) for name, b in value.items()}


def _check(value: Any, where: str, parameter: Any) -> Any:
    if isinstance(value, str) and value == "fixed":
        return value
    try:
        pairs = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        pairs = np.empty(0)
    good = pairs.shape == (2,) or (parameter is not None and pairs.shape == (np.size(numbers(parameter)), 2))
    if not good or np.isnan(pairs).any() or np.any(pairs < 0) or np.any(pairs[..., 0] > pairs[..., 1]):
        raise OptionError(
            f"{where} is {value!r}; expected 'fixed' or (low, high) with 0 <= low <= high"
            + ("." if parameter is None else ", or one such pair for each component.")
        )
    rows: Any = pairs.tolist()
    return tuple(rows) if pairs.ndim == 1 else tuple(tuple(row) for row in rows)


def log_bounds(bounds: Any, name: str, value: Any, free: bool) -> np.ndarray | None:
    """Logarithms of the bounds of a hyperparameter, shape (components, 2); None if it is fixed.

    Parameters
    ----------
    bounds : object
        Of the kernel, in canonical form.
    name : str
    value : float, tuple of floats or Tensor
    free : bool
        Whether it is learned if nothing is said.

    Raises
    ------
    OptionError
        If bounds are given for a number that has no logarithm.
    """
    named = isinstance(bounds, dict) and name in bounds
    if named:
        pair = bounds[name]
    else:
        everything = DEFAULT if bounds is None or isinstance(bounds, dict) else bounds
        pair = everything if free else "fixed"
    if pair == "fixed":
        return None
    values = np.atleast_1d(numbers(value))
    if np.any(values <= 0):
        if not named:
            return None
        raise OptionError(
            f"bounds of {name} are {pair!r}, but its value is {value!r}: what is learned is the logarithm of "
            "a positive number; start from one, or make it 'fixed'."
        )
    with np.errstate(divide="ignore"):  # a bound of 0
        return np.log(np.broadcast_to(np.asarray(pair), (values.size, 2)))


def numbers(value: Any) -> np.ndarray:
    """A hyperparameter as an array of float64."""
    if isinstance(value, torch.Tensor):
        value = value.detach().double().cpu().numpy()
    return np.asarray(value, dtype=np.float64)

"""Bounds of kernels: what may be written, what it means, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kerngp.engine.ops import exp, sqdist
from kerngp.errors import OptionError
from kerngp.models import RBF, Constant, FormulaKernel, Matern, Polynomial, RationalQuadratic, White
from kerngp.models.resolve import hyperparameters


def scaled(x, y, a, b):
    return a * exp(-sqdist(x, y) / b)


def limits(kernel, n_features=3):
    h = hyperparameters(kernel, n_features)
    return dict(zip(h.names, np.exp(h.bounds).round(10).tolist(), strict=True))


def test_defaults():
    assert limits(RBF()) == {"lengthscale": [1e-5, 1e5]}
    assert limits(RBF([1, 2, 3])) == {f"lengthscale[{k}]": [1e-5, 1e5] for k in range(3)}
    assert limits(RBF(torch.ones(3))) == limits(RBF([1, 1, 1]))
    assert list(limits(Polynomial(2))) == ["gamma"]  # coef0 may be anything
    assert list(limits(Constant(2.0))) == ["value"] and limits(Constant(-2.0)) == {}
    assert list(limits(2.0 * RBF())) == ["factor", "kernel__lengthscale"]
    assert list(limits(-2.0 * RBF())) == ["kernel__lengthscale"]
    assert list(limits(FormulaKernel(scaled, {"b": 1.0, "a": 2.0}))) == ["a", "b"]
    assert list(limits(FormulaKernel(scaled, {"b": 1.0, "a": -2.0}))) == ["b"]


def test_for_all_hyperparameters_or_by_name():
    assert limits(RationalQuadratic(bounds="fixed")) == {}
    assert limits(RationalQuadratic(bounds=(0.1, 2))) == {"alpha": [0.1, 2], "lengthscale": [0.1, 2]}
    assert limits(RationalQuadratic(bounds={"alpha": "fixed"})) == {"lengthscale": [1e-5, 1e5]}
    assert limits(RationalQuadratic(bounds={"alpha": (1, 2)})) == {
        "alpha": [1, 2],
        "lengthscale": [1e-5, 1e5],
    }
    each = RBF([1, 2, 3], bounds={"lengthscale": [(1, 2), (3, 4), (5, 6)]})
    assert list(limits(each).values()) == [[1, 2], [3, 4], [5, 6]]
    assert limits(Polynomial(2, bounds=(0.1, 2))) == {"gamma": [0.1, 2]}
    assert limits(Polynomial(2, bounds={"coef0": (0.5, 2)}))["coef0"] == [0.5, 2]
    assert limits(FormulaKernel(scaled, {"a": 1.0, "b": 1.0}, bounds={"a": "fixed"})) == {"b": [1e-5, 1e5]}
    assert limits(White(bounds=(0, np.inf))) == {"noise": [0, np.inf]}


def test_canonical_form():
    assert RBF(bounds=[1, 2]).bounds == (1.0, 2.0)
    assert RBF(bounds=np.array([1, 2])).bounds == (1.0, 2.0)
    assert RBF([1, 2], bounds={"lengthscale": np.ones((2, 2))}).bounds == {
        "lengthscale": ((1.0, 1.0), (1.0, 1.0))
    }
    assert RBF(bounds={"lengthscale": "fixed"}).bounds == {"lengthscale": "fixed"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RBF(bounds="free"), r"bounds of RBF is 'free'; expected 'fixed' or \(low, high\)"),
        (lambda: RBF(bounds=(2, 1)), "0 <= low <= high"),
        (lambda: RBF(bounds=(-1, 1)), "0 <= low <= high"),
        (lambda: RBF(bounds=(np.nan, 1)), "0 <= low <= high"),
        (lambda: RBF(bounds=3), "bounds of RBF is 3"),
        (lambda: RBF(bounds=(1, 2, 3)), "bounds of RBF"),
        (lambda: RBF([1, 2], bounds=[(1, 2), (3, 4)]), "bounds of RBF"),
        (lambda: RBF([1, 2], bounds={"lengthscale": [(1, 2)] * 3}), "one such pair for each component"),
        (lambda: RBF(bounds={"length_scale": (1, 2)}), "name 'length_scale'; .* lengthscale"),
        (lambda: Matern(bounds={"nu": (1, 2)}), "name 'nu'; its hyperparameters are: lengthscale"),
        (
            lambda: limits(Polynomial(coef0=0.0, bounds={"coef0": (1, 2)})),
            "bounds of coef0 .* its value is 0.0",
        ),
    ],
)
def test_refusals(make, message):
    with pytest.raises(OptionError, match=message):
        make()

"""scikit-learn's own tests of KernelRidge, run with ours in its place."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator

import pytest
import sklearn.tests.test_kernel_ridge as theirs

from kerngp.models import KernelRidge


def collect() -> Iterator:
    """Every test function of scikit-learn's file, once for each of its parameters."""
    for name, function in vars(theirs).items():
        if not name.startswith("test_"):
            continue
        marks = [m for m in getattr(function, "pytestmark", []) if m.name == "parametrize"]
        assert len(marks) <= 1, f"{name} has {len(marks)} parametrizations; extend collect()"
        if not marks:
            yield pytest.param(function, {}, id=name)
            continue
        argument, values = marks[0].args
        for k, value in enumerate(values):
            yield pytest.param(function, {argument: value}, id=f"{name}-{k}")


class Exact(KernelRidge):
    """Conjugate gradients to a residual that scikit-learn's six decimals do not see."""

    def __init__(self, alpha=1, *, kernel="linear", solver="pcg", tol=1e-10):
        super().__init__(alpha, kernel=kernel, solver=solver, tol=tol)


class Centers(KernelRidge):
    """Every point an inducing point: the same function as the full system's."""

    def __init__(self, alpha=1, *, kernel="linear", solver="inducing", tol=1e-10):
        super().__init__(alpha, kernel=kernel, solver=solver, tol=tol)


SINGULAR = (
    "alpha=0 makes the full system singular; the direct solver falls back to least squares, iterations do not"
)


@pytest.mark.parametrize(("function", "arguments"), list(collect()))
@pytest.mark.parametrize("ours", [KernelRidge, Exact, Centers])
def test_sklearn(function: Callable, arguments: dict, ours: type, monkeypatch: pytest.MonkeyPatch):
    if ours is not KernelRidge and function.__name__ == "test_kernel_ridge_singular_kernel":
        pytest.skip(SINGULAR)
    if (
        ours is Centers
        and "precomputed" in function.__name__
        or ours is Centers
        and "weights" in function.__name__
    ):
        pytest.skip("a precomputed matrix has no points to choose from")
    monkeypatch.setattr(theirs, "KernelRidge", ours)
    function(**arguments)


def test_the_file_was_found():
    assert importlib.util.find_spec("sklearn.tests.test_kernel_ridge") is not None
    assert len(list(collect())) >= 10

"""scikit-learn's own tests of GaussianProcessRegressor, run with ours in its place."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator

import pytest

from kerngp.models import GaussianProcessRegressor

theirs = importlib.import_module("sklearn.gaussian_process.tests.test_gpr")

# scikit-learn marks test_lml_gradient as a known failure of finite differences with steps of 1e-9
EXPECTED_FAILURES = {"test_lml_gradient"}


def collect() -> Iterator:
    """Every test function of scikit-learn's file, once for each combination of its parameters."""
    for name, function in vars(theirs).items():
        if not name.startswith("test_") or name in EXPECTED_FAILURES:
            continue
        marks = [m for m in getattr(function, "pytestmark", []) if m.name == "parametrize"]
        choices = [[_named(m.args[0], value) for value in m.args[1]] for m in marks]
        for k, parts in enumerate(itertools.product(*choices)):
            merged = {key: value for part in parts for key, value in part.items()}
            yield pytest.param(function, merged, id=f"{name}-{k}" if marks else name)


def _named(names: str, value: object) -> dict:
    split = [n.strip() for n in names.split(",")]
    return {split[0]: value} if len(split) == 1 else dict(zip(split, value, strict=True))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("function", "arguments"), list(collect()))
def test_sklearn(function: Callable, arguments: dict, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(theirs, "GaussianProcessRegressor", GaussianProcessRegressor)
    function(**arguments)


def test_the_file_was_found():
    assert len(list(collect())) >= 100

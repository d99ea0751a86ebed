"""The examples of docs/estimators.md run, one after the other, and every estimator is named there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sklearn.base import BaseEstimator

from kerngp import models

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "estimators.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.filterwarnings("error::sklearn.exceptions.ConvergenceWarning")
def test_examples_run(capsys):
    assert len(BLOCKS) == 7
    names: dict[str, object] = {"__name__": "example"}
    for number, block in enumerate(BLOCKS):
        assert "assert" in block
        exec(compile(block, f"docs/estimators.md, example {number + 1}", "exec"), names)
    assert capsys.readouterr().out.startswith("6,000 rows x 3 features")


def test_every_estimator_is_named():
    classes = [getattr(models, name) for name in models.__all__]
    found = {c.__name__ for c in classes if isinstance(c, type) and issubclass(c, BaseEstimator)}
    assert len(found) > 12
    assert found <= set(re.findall(r"`(\w+)`", TEXT))

"""The examples of docs/solvers.md run, one after the other, and every status and method it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kerngp.solvers import Status
from kerngp.solvers.preconditioners import RECIPES
from kerngp.solvers.resolve import METHODS

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "solvers.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.filterwarnings("error::kerngp.errors.ConvergenceWarning")
def test_examples_run(capsys):
    assert len(BLOCKS) == 9
    names: dict[str, object] = {"__name__": "example"}
    for number, block in enumerate(BLOCKS):
        assert "assert " in block
        exec(compile(block, f"docs/solvers.md, example {number + 1}", "exec"), names)
    assert capsys.readouterr().out.startswith("Outcome     converged")


def test_statuses():
    """Each has a line that says what to do."""
    section = TEXT[TEXT.index("## How it ended") : TEXT.index("## Preconditioners")]
    listed = {n for row in re.findall(r"^\| (`.*?) \|", section, re.M) for n in re.findall(r"`(\w+)`", row)}
    assert listed == {status.name for status in Status}


def test_names():
    section = TEXT[TEXT.index("Methods have names") : TEXT.index("## How it ended")]
    assert set(re.findall(r'`"(\w+)"`', section)) == set(METHODS)
    named = set(re.findall(r'`"(\w+)"`', TEXT[TEXT.index("## Preconditioners") :])) - {"bound", "estimate"}
    assert named == set(RECIPES)

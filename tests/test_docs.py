"""The description of the architecture names every file, and only files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "kerngp"


def named_files(text: str) -> set[str]:
    """Files in the first column of the tables of rooms, relative to the package."""
    rooms = text[text.index("## Rooms") : text.index("## Core types")]
    cells = re.findall(r"^\| (`[^|]*`) \|", rooms, re.MULTILINE)
    return {name.removeprefix("kerngp/") for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def problems(text: str) -> list[str]:
    """Files of the package that are not named, and names that are not files."""
    named = named_files(text)
    files = {p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py") if p.name != "__init__.py"}
    missing = [f"{f} is not described" for f in sorted(files - named)]
    gone = [f"{n} does not exist" for n in sorted(named - files) if not (PACKAGE / n).exists()]
    return missing + gone


def test_architecture_describes_the_files_as_they_are() -> None:
    assert problems((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("| `engine/plan.py` |", "| plans |", "engine/plan.py is not described"),
        ("| `engine/plan.py` |", "| `engine/plan.py`, `engine/old.py` |", "engine/old.py does not exist"),
    ],
)
def test_a_wrong_description_is_noticed(old: str, new: str, problem: str) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert old in text
    assert set(problems(text.replace(old, new))) - set(problems(text)) == {problem}

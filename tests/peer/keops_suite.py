"""KeOps's own tests, read from the installed pykeops and made to import kerngp instead.

pykeops is found but never imported: importing it compiles. Nothing of it is kept here.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import types
import unittest
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STUB = "import types as _types; keopscore = _types.SimpleNamespace()"  # it is only written to


@dataclass(frozen=True)
class Case:
    """One test: ``file::function`` or ``file::Class::method``."""

    file: Path
    path: tuple[str, ...]

    @property
    def name(self) -> str:
        return "::".join((self.file.stem, *self.path))


def folder() -> Path | None:
    """Where the tests of the installed pykeops are; None without it."""
    spec = importlib.util.find_spec("pykeops")
    if spec is None or not spec.submodule_search_locations:
        return None
    found = Path(list(spec.submodule_search_locations)[0]) / "test"
    return found if found.is_dir() else None


def rewritten(source: str) -> str:
    """The text of a test file with kerngp in the place of pykeops."""
    source = re.sub(r"^import keopscore$", STUB, source, flags=re.MULTILINE)
    return re.sub(r"\bpykeops\b", "kerngp", source)


def cases(source: str, file: Path) -> list[Case]:
    """The tests of a file, as pytest collects them, found without running it."""
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            found.append(Case(file, (node.name,)))
        elif isinstance(node, ast.ClassDef):
            methods = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")]
            found += [Case(file, (node.name, n.name)) for n in methods]
    return found


def all_cases() -> list[Case]:
    """Every test there is."""
    where = folder()
    files = sorted(where.glob("test_*.py")) if where else []
    return [case for f in files for case in cases(f.read_text(encoding="utf-8"), f)]


def run(case: Case) -> str | None:
    """Run a test; the reason if it asks to be skipped, else None. A failing test raises."""
    module = _module(case.file)
    target: Any = module[case.path[0]]
    call = getattr(target, case.path[1]) if isinstance(target, type) else target
    for mark in getattr(call, "pytestmark", ()):
        if mark.name == "skipif" and mark.args[0]:
            return mark.kwargs["reason"]
    if isinstance(target, type) and issubclass(target, unittest.TestCase):
        test, result = target(case.path[1]), unittest.TestResult()
        test.run(result)
        problems = [text for _, text in (*result.errors, *result.failures)]
        assert not problems and result.testsRun == 1, "\n".join(problems)
    elif isinstance(target, type):
        call(target())
    else:
        call()
    return None


@functools.cache
def _module(file: Path) -> dict[str, Any]:
    """The names a rewritten file defines; many compute what they compare while they are read."""
    module = types.ModuleType(f"keops_{file.stem}")
    module.__file__ = str(file)
    exec(compile(rewritten(file.read_text(encoding="utf-8")), str(file), "exec"), vars(module))
    return vars(module)

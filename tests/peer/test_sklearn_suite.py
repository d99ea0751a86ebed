"""scikit-learn's own tests pass with our classes in the place of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sklearn_suite
from sklearn_suite import Suite

SUITES = sklearn_suite.all_suites()


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_sklearn(suite: Suite, tmp_path: Path):
    if not sklearn_suite.is_there(suite):
        pytest.skip(f"scikit-learn is installed without {suite.module}")
    found = sklearn_suite.problems(suite, sklearn_suite.run(suite, tmp_path))
    assert not found, f"{len(found)} problems\n\n" + "\n\n".join(found)


def test_every_exception_has_a_reason():
    reasons = [r for s in SUITES for r in (*s.exceptions.values(), *s.not_run.values())]
    assert SUITES and all(len(reason) > 10 for reason in reasons)


# ---------------------------------------------------------------- the machinery itself

THEIRS = """
class Thing:
    def __init__(self, *, size=1):
        self.size = size
    def name(self):
        return "theirs"
"""
OURS = THEIRS.replace('"theirs"', '"ours"')
TESTS = """
import pickle
import pytest
from toy_sklearn import Thing

@pytest.fixture
def two():
    return 2

@pytest.mark.parametrize("size", [1, 2, 3])
def test_size(size, two):
    assert pickle.loads(pickle.dumps(Thing(size=size))).size <= two

def test_ours():
    assert Thing().name() == "ours"

def test_default():
    assert Thing().size == 1

def test_other():
    pass

def test_error(missing):
    pass

def test_skipped():
    pytest.skip("asked for")

@pytest.mark.xfail(reason="known", strict=True)
def test_known():
    assert False

def test_left_out():
    raise SystemExit
"""
TOY = Suite(
    "toy",
    "toy_tests.test_thing",
    ["toy_sklearn.Thing"],
    exceptions={"test_size[3]": "too large for it", "test_error": "has no such fixture"},
    not_run={"test_left_out": "would end everything"},
    package="toy_ours",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy_sklearn.py").write_text(THEIRS)
    (folder / "toy_ours.py").write_text(OURS)
    (folder / "toy_tests").mkdir()
    (folder / "toy_tests" / "__init__.py").write_text("")
    (folder / "toy_tests" / "test_thing.py").write_text(TESTS)
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, dict[str, Any]]:
    return sklearn_suite.run(TOY, folder, (folder,))


def test_outcomes(results: dict):
    assert {name: r["outcome"] for name, r in results.items()} == {
        "test_size[1]": "passed",
        "test_size[2]": "passed",
        "test_size[3]": "failed",
        "test_ours": "passed",
        "test_default": "passed",
        "test_other": "passed",
        "test_error": "failed",
        "test_skipped": "skipped",
        "test_known": "skipped",
        "test_left_out": "not run",
    }
    assert "assert 3 <= 2" in results["test_size[3]"]["text"]
    assert [name for name, r in results.items() if r["ours"]] == [
        *("test_size[1]", "test_size[2]", "test_size[3]", "test_ours", "test_default")
    ]
    assert sklearn_suite.problems(TOY, results) == []


def test_other_defaults(folder: Path, tmp_path: Path):
    changed = replace(TOY, defaults={"size": 5})
    results = sklearn_suite.run(changed, tmp_path, (folder,))
    assert results["test_default"]["outcome"] == "failed" and results["test_ours"]["outcome"] == "passed"


@pytest.mark.parametrize(
    ("exceptions", "problem"),
    [
        ({"test_size[3]": "known"}, "test_error failed"),
        ({"test_size": "all three", "test_error": "known"}, r"test_size[1] passes"),
        (
            {"test_size[3]": "known", "test_error": "known", "test_gone": "?"},
            "no test is meant by 'test_gone'",
        ),
    ],
)
def test_problems(results: dict, exceptions: dict[str, str], problem: str):
    found = sklearn_suite.problems(replace(TOY, exceptions=exceptions), results)
    assert problem in "\n".join(found)


def test_a_class_that_is_never_used_is_a_problem(results: dict):
    unused = {name: r | {"ours": False} for name, r in results.items()}
    assert "no test that passed" in "\n".join(sklearn_suite.problems(TOY, unused))


def test_a_module_that_cannot_be_collected_is_an_error(tmp_path: Path):
    with pytest.raises(RuntimeError, match="could not be run"):
        sklearn_suite.run(replace(TOY, module="toy_tests.test_missing", package="kerngp.models"), tmp_path)


def test_patterns():
    assert sklearn_suite.matches("test_a", "test_a[1-x]") and sklearn_suite.matches(
        "test_a[*-x]", "test_a[1-x]"
    )
    assert not sklearn_suite.matches("test_a", "test_ab") and not sklearn_suite.matches(
        "test_a[1]", "test_a[1-x]"
    )

"""KeOps's own tests pass when only their imports are changed."""

from __future__ import annotations

from pathlib import Path

import keops_suite
import pytest

CASES = keops_suite.all_cases()

# test: why it cannot pass
EXCEPTIONS: dict[str, str] = {}


def test_the_suite_is_there():
    if not CASES:
        pytest.skip("pykeops is not installed")
    names = {case.name for case in CASES}
    assert len(CASES) >= 70 and set(EXCEPTIONS) <= names and len(EXCEPTIONS) <= 5


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_keops(case: keops_suite.Case, request: pytest.FixtureRequest):
    if case.name in EXCEPTIONS:
        request.applymarker(pytest.mark.xfail(reason=EXCEPTIONS[case.name], strict=True))
    skipped = keops_suite.run(case)
    if skipped:
        pytest.skip(skipped)


# ---------------------------------------------------------------- the machinery itself

SOURCE = """
import unittest
import keopscore
import pytest
import pykeops.config
from pykeops.numpy.utils import differences

keopscore.auto_factorize = False

def test_function():
    assert pykeops.config.numpy_found and differences.__module__ == "kerngp.numpy.utils"

def test_wrong():
    assert not pykeops.config.numpy_found

class Plain:
    @pytest.mark.skipif(True, reason="asked for")
    def test_skipped(self):
        raise AssertionError

class Old(unittest.TestCase):
    def test_right(self):
        self.assertTrue(True)

    def test_subtests(self):
        for k in range(3):
            with self.subTest(k=k):
                self.assertNotEqual(k, 1)
"""


@pytest.fixture
def suite(tmp_path: Path) -> dict[str, keops_suite.Case]:
    file = tmp_path / "test_some.py"
    file.write_text(SOURCE)
    return {case.name: case for case in keops_suite.cases(SOURCE, file)}


def test_cases_are_found_and_run(suite):
    assert list(suite) == [
        "test_some::test_function",
        "test_some::test_wrong",
        "test_some::Plain::test_skipped",
        "test_some::Old::test_right",
        "test_some::Old::test_subtests",
    ]
    assert keops_suite.run(suite["test_some::test_function"]) is None
    assert keops_suite.run(suite["test_some::Old::test_right"]) is None
    assert keops_suite.run(suite["test_some::Plain::test_skipped"]) == "asked for"


@pytest.mark.parametrize("name", ["test_some::test_wrong", "test_some::Old::test_subtests"])
def test_failures_are_failures(suite, name):
    with pytest.raises(AssertionError):
        keops_suite.run(suite[name])

"""scikit-learn's own test modules, run with our classes in the place of its own.

Each file ``sklearn/NAME.toml`` beside this one is a suite:

    module = "sklearn.tests.test_kernel_ridge"          # what is run
    replace = ["sklearn.kernel_ridge.KernelRidge"]      # names to rebind; ours have the same last name
    defaults = { solver = "pcg", tol = 1e-10 }          # optional: defaults of keyword-only parameters

    [exceptions]                                        # optional: tests that fail (to pass is an error)
    "test_name" = "why"                                 # with all its parameters
    "test_other[linear-*]" = "why"                      # * stands for any text

    [not_run]                                           # optional: tests that are left out, and why
    "test_slow" = "why"

A suite is one pytest process, so that xdist spreads them; its fixtures and parameters are scikit-learn's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SECONDS = 900.0


@dataclass(frozen=True)
class Suite:
    """A test module and the classes it is run with."""

    name: str
    module: str
    replace: list[str]
    defaults: dict[str, Any] = field(default_factory=dict)
    exceptions: dict[str, str] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    package: str = "kerngp.models"


def all_suites() -> list[Suite]:
    """Every suite there is a file of."""
    files = sorted((HERE / "sklearn").glob("*.toml"))
    return [Suite(name=f.stem, **tomllib.loads(f.read_text(encoding="utf-8"))) for f in files]


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern means a test: the name of its function, or its id with * for any text."""
    text = re.escape(pattern).replace(r"\*", ".*")
    return re.fullmatch(text, name) is not None or pattern == name.partition("[")[0]


def is_there(suite: Suite) -> bool:
    """Whether scikit-learn is installed with this test module."""
    return importlib.util.find_spec(suite.module) is not None


def run(suite: Suite, folder: Path, paths: tuple[Path, ...] = ()) -> dict[str, dict[str, Any]]:
    """Run a suite in a process of its own.

    Returns
    -------
    dict
        Test name to ``{"outcome": "passed" | "failed" | "skipped" | "not run", "ours": whether an object of
        our classes was made, "text": the traceback or the reason}``.
    """
    results, task = folder / "results.json", folder / "suite.json"
    task.write_text(json.dumps({"suite": asdict(suite), "results": str(results)}))
    (folder / "pytest.ini").write_text("[pytest]\n")  # ours is for our tests
    where = [*paths, HERE, HERE.parents[1], *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, where)),
        "KERNGP_SKLEARN_SUITE": str(task),
        "SCIPY_ARRAY_API": "1",
    }
    for name in [n for n in environment if n.startswith("PYTEST_")]:
        del environment[name]
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "sklearn_plugin", "--tb=short"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *options,
            "-c",
            str(folder / "pytest.ini"),
            "--pyargs",
            suite.module,
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    if done.returncode not in (0, 1) or not results.exists():
        raise RuntimeError(f"{suite.module} could not be run:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return json.loads(results.read_text())


def problems(suite: Suite, results: dict[str, dict[str, Any]]) -> list[str]:
    """Failures without an exception, exceptions that pass or mean nothing, classes that are never used."""
    found = []
    for name, result in results.items():
        why = [reason for pattern, reason in suite.exceptions.items() if matches(pattern, name)]
        if result["outcome"] == "failed" and not why:
            found.append(f"{name} failed:\n{result['text'][-3000:]}")
        if result["outcome"] == "passed" and why:
            found.append(f"{name} passes; take it out of the exceptions ({why[0]})")
    for pattern in (*suite.exceptions, *suite.not_run):
        if not any(matches(pattern, name) for name in results):
            found.append(f"no test is meant by {pattern!r}")
    if not any(r["ours"] and r["outcome"] == "passed" for r in results.values()):
        found.append(f"no test that passed has made an object of {', '.join(suite.replace)}")
    return found

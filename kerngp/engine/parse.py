"""KeOps's formula strings: a text and the names of its variables become a formula.

`syntax` reads the text, `vocabulary` says what words mean; this file runs the program. Numbers stay
numbers until a formula needs them, so that ``Pow(x, 1 + 1)`` has an integer exponent.
"""

from __future__ import annotations

import operator
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..errors import FormulaError
from . import complex, differential, words  # noqa: F401 (a table of words is entered where it is imported)
from .expr import AXES, Expr, as_expr, node, var
from .syntax import ARITHMETIC, COMPARISONS, Step, located, of_numbers, postfix, suggestion
from .vocabulary import KINDS, WORDS, Word


class Argument(NamedTuple):
    """One array a formula takes: its name, its position, its dim, and the axis "i", "j" or "p"."""

    name: str
    index: int
    dim: int
    axis: str


class Parsed(NamedTuple):
    """A formula and the arrays it takes, by position."""

    expr: Expr
    arguments: tuple[Argument, ...]


def parse_formula(text: str, aliases: Sequence[str] = ()) -> Parsed:
    """A formula in the notation of KeOps.

    Parameters
    ----------
    text : str
        Names of variables, words (``Exp``, ``SqDist``, ...; see `vocabulary.WORDS`), numbers, the operators
        ``+ - * / | ** < > <= >= == !=`` with Python's precedence, subscripts ``x[2]`` and ``x[0:3]``, and the
        variables ``Var(index, dim, category)``, ``Vi(index, dim)``, ``Vj(index, dim)``, ``Pm(index, dim)``.
        ``f | g`` is the scalar product; it binds less than ``+``. Comparisons are 1 or 0 at each pair.
    aliases : sequence of str
        ``"x = Vi(3)"``: the position in the list is the position of the array; ``"x = Vi(0, 3)"`` and
        ``"x = Var(0, 3, 0)"`` give it. The name may be left out.

    Returns
    -------
    Parsed
        ``expr``, and ``arguments`` by position: all aliases, used or not, and the variables that stand in
        the text. A position that nothing names has no entry.

    Raises
    ------
    FormulaError
        For anything else; the message shows the place in the text.

    Examples
    --------
    >>> expr, arguments = parse_formula("(x - y) | b", ["x = Vi(3)", "y = Vj(3)", "b = Vj(2, 3)"])
    >>> expr
    sum(mul(sub(Vi(0,3), Vj(1,3)), Vj(2,3)))
    >>> arguments[2]
    Argument(name='b', index=2, dim=3, axis='j')
    """
    run = _Run(text)
    for place, alias in enumerate(_listed(aliases)):
        run.alias(alias, place)
    for step in postfix(text):
        run.step(step)
    return Parsed(run.formula(), tuple(run.arguments[k] for k in sorted(run.arguments)))


def _listed(aliases: Sequence[str]) -> Sequence[str]:
    if isinstance(aliases, str):
        raise FormulaError(f"aliases={aliases!r} is one string; expected a list of strings, [{aliases!r}].")
    return aliases


# ---------------------------------------------------------------- variables

_LEAVES = {"Vi": "i", "Vj": "j", "Pm": "p", "Vx": "i", "Vy": "j", "Var": ""}
_OLD = {"Vx": "Vi", "Vy": "Vj"}
_ALIAS = re.compile(r"\s*(?:([^\W\d]\w*)\s*=)?\s*([^\W\d]\w*)\s*\(([\s0-9,]*)\)\s*")
_INTEGERS = r"\s*[0-9]{1,18}\s*(,\s*[0-9]{1,18}\s*)*"
_ALIAS_FORMS = "name = Vi(dim), name = Vi(position, dim) (or Vj, Pm) or name = Var(position, dim, category)"


def _argument(kind: str, numbers: Sequence[int], place: int | None, name: str | None) -> Argument:
    """What ``Vi(3)``, ``Vi(0, 3)``, ``Var(0, 3, 0)`` stand for; without a position it is at ``place``."""
    axis = _LEAVES[kind]
    if kind in _OLD:
        warnings.warn(f"{kind} is now called {_OLD[kind]}.", DeprecationWarning, stacklevel=5)
    if axis:
        forms = f"{kind}(position, dim)" if place is None else f"{kind}(dim) or {kind}(position, dim)"
        if len(numbers) == 1 and place is not None:
            numbers = (place, *numbers)
        if len(numbers) != 2:
            raise FormulaError(f"{kind} takes {forms}, got {len(numbers)} number(s).")
    else:
        if len(numbers) != 3:
            raise FormulaError(f"Var takes Var(position, dim, category), got {len(numbers)} number(s).")
        if numbers[2] not in (0, 1, 2):
            raise FormulaError(f"category {numbers[2]} of Var: expected 0 (i), 1 (j) or 2 (parameter).")
        axis = AXES[numbers[2]]
    var(numbers[0], numbers[1], axis)  # checks the numbers
    shown = {"i": "Vi", "j": "Vj", "p": "Pm"}[axis]
    return Argument(name or f"{shown}({numbers[0]},{numbers[1]})", numbers[0], numbers[1], axis)


# ---------------------------------------------------------------- values


@dataclass(frozen=True)
class _Value:
    content: Any  # an Expr, an int, a float, a tuple of contents, or None for what a slice leaves out
    place: int


def _number(x: object) -> bool:
    return isinstance(x, (int, float))


def _integers(x: object) -> bool:
    return isinstance(x, tuple) and all(isinstance(k, int) for k in x)


# what an argument of each kind is made of, None if it does not fit
_CONVERT: dict[str, Callable[[Any], Any]] = {
    "f": lambda x: x if isinstance(x, Expr) else as_expr(x) if _number(x) else None,
    "n": lambda x: x if isinstance(x, int) else None,
    "t": lambda x: x if _integers(x) else None,
    "x": lambda x: x if _number(x) else None,
}

_NAMES: dict[str, str] = dict(zip(COMPARISONS, ("lt", "gt", "le", "ge", "eq", "ne")))


def _apply(sign: str, a: Any, b: Any) -> Any:
    if _number(a) and _number(b) and sign in ARITHMETIC:
        return of_numbers(sign, a, b)
    if sign == "**":
        return a**b
    a, b = as_expr(a), as_expr(b)
    if sign == "|":
        return a | b
    return ARITHMETIC[sign](a, b) if sign in ARITHMETIC else node(_NAMES[sign], a, b)


def _described(x: Any) -> str:
    if isinstance(x, Expr):
        return "a formula"
    return f"the tuple {x}" if isinstance(x, tuple) else f"the number {x}"


@dataclass
class _Run:
    """The state of one reading: variables known so far, and the stack of values."""

    text: str
    named: dict[str, Argument] = field(default_factory=dict)
    arguments: dict[int, Argument] = field(default_factory=dict)
    stack: list[_Value] = field(default_factory=list)

    # ---------------------------------------------------------------- variables

    def alias(self, alias: str, place: int) -> None:
        match = _ALIAS.fullmatch(alias) if isinstance(alias, str) else None
        if match is None:
            raise FormulaError(f"alias {alias!r}: expected {_ALIAS_FORMS}.")
        name, kind = match[1], match[2]
        if kind not in _LEAVES:
            raise FormulaError(
                f"alias {alias!r}: {kind!r} is no kind of variable"
                + suggestion(kind, _LEAVES, f"expected {_ALIAS_FORMS}.")
            )
        try:
            numbers = [int(k) for k in match[3].split(",")] if re.fullmatch(_INTEGERS, match[3]) else []
            a = _argument(kind, numbers, place, name)
            self.enter(a)
            if name and self.named.setdefault(name, a)[1:] != a[1:]:
                raise FormulaError(f"the name {name!r} is given twice; choose another one.")
        except FormulaError as e:
            raise FormulaError(f"alias {alias!r}: {e}") from None

    def enter(self, a: Argument) -> None:
        known = self.arguments.setdefault(a.index, a)
        if known[1:] != a[1:]:
            raise FormulaError(
                f"argument {a.index} is {known.name} of dim {known.dim} along {known.axis!r} already and "
                f"cannot be of dim {a.dim} along {a.axis!r} too; give each variable its own position."
            )

    # ---------------------------------------------------------------- steps

    def step(self, step: Step) -> None:
        start = len(self.stack) - step.count
        values = self.stack[start:]
        del self.stack[start:]
        self.stack.append(_Value(_HANDLERS[step.kind](self, step, values), step.place))

    def error(self, message: str, place: int) -> FormulaError:
        return located(message, self.text, place)

    def built(self, place: int, build: Callable[..., Any], *arguments: Any) -> Any:
        """What ``build`` makes of the arguments; its complaints are located."""
        try:
            return build(*arguments)
        except FormulaError as e:
            raise self.error(str(e), place) from None

    def literal(self, step: Step, values: list[_Value]) -> Any:
        return step.value

    def sequence(self, step: Step, values: list[_Value]) -> tuple:
        return tuple(v.content for v in values)

    def name(self, step: Step, values: list[_Value]) -> Expr:
        name = str(step.value)
        if name in self.named:
            a = self.named[name]
            return var(a.index, a.dim, a.axis)
        if name in WORDS or name in _LEAVES:
            raise self.error(f"{name} is a function; write {name}(...).", step.place)
        known = f"the variables are {', '.join(self.named)}." if self.named else "there are no aliases."
        raise self.error(f"unknown variable {name!r}" + suggestion(name, self.named, known), step.place)

    def unary(self, step: Step, values: list[_Value]) -> Any:
        (v,) = values
        self.scalar_or_formula(v)
        return v.content if step.value == "+" else -v.content

    def binary(self, step: Step, values: list[_Value]) -> Any:
        for v in values:
            self.scalar_or_formula(v)
        return self.built(step.place, _apply, str(step.value), *(v.content for v in values))

    def scalar_or_formula(self, v: _Value) -> None:
        if isinstance(v.content, tuple):
            raise self.error(f"{_described(v.content)} has no arithmetic.", v.place)

    def subscript(self, step: Step, values: list[_Value]) -> Expr:
        vector, *parts = values
        if not isinstance(vector.content, Expr):
            raise self.error(f"{_described(vector.content)} has no components.", step.place)
        for p in parts:
            if not isinstance(p.content, int) and p.content is not None:
                raise self.error(
                    f"a component is named by an integer, not by {_described(p.content)}.", p.place
                )
        contents = [p.content for p in parts]
        if step.kind == "slice" and contents[2:] == [0]:
            raise self.error("the step of a slice cannot be 0.", step.place)
        key = slice(*contents) if step.kind == "slice" else contents[0]
        return self.built(step.place, operator.getitem, vector.content, key)

    def call(self, step: Step, values: list[_Value]) -> Expr:
        name = str(step.value)
        if name in _LEAVES:
            return self.leaf(step, values)
        word = WORDS.get(name)
        if word is None:
            if name in self.named:
                raise self.error(f"{name} is a variable and cannot be called.", step.place)
            known = "see docs/formula.md for all of them."
            raise self.error(
                f"unknown function {name!r}" + suggestion(name, [*WORDS, *_LEAVES], known), step.place
            )
        most = len(word.signature)
        if not most - word.optional <= len(values) <= most:
            count = str(most) if not word.optional else f"{most - word.optional} to {most}"
            kinds = ", ".join(KINDS[k] for k in word.signature)
            raise self.error(f"{name} takes {count} argument(s) ({kinds}), got {len(values)}.", step.place)
        arguments = [self.converted(word, k, v) for k, v in enumerate(values)]
        return self.built(step.place, word.build, *arguments)

    def converted(self, word: Word, k: int, v: _Value) -> Any:
        kind = word.signature[k]
        out = _CONVERT[kind](v.content)
        if out is None:
            raise self.error(
                f"argument {k + 1} of {word.name} is {_described(v.content)}; expected {KINDS[kind]}.",
                v.place,
            )
        return out

    def leaf(self, step: Step, values: list[_Value]) -> Expr:
        numbers = [v.content for v in values]
        if not _integers(tuple(numbers)):
            raise self.error(f"{step.value} takes integers.", step.place)
        a = self.built(step.place, _argument, str(step.value), numbers, None, None)
        self.built(step.place, self.enter, a)
        return var(a.index, a.dim, a.axis)

    def formula(self) -> Expr:
        """What is left on the stack."""
        (v,) = self.stack
        if isinstance(v.content, tuple):
            raise self.error(f"{_described(v.content)} is no formula.", v.place)
        return as_expr(v.content)


_HANDLERS: dict[str, Callable[[_Run, Step, list[_Value]], Any]] = {
    "number": _Run.literal,
    "missing": _Run.literal,
    "name": _Run.name,
    "unary": _Run.unary,
    "binary": _Run.binary,
    "index": _Run.subscript,
    "slice": _Run.subscript,
    "tuple": _Run.sequence,
    "call": _Run.call,
}

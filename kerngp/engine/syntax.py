"""From the text of a formula to a program in postfix order, for every language of strings.

The grammar is Python's for expressions of numbers, names, calls, operators, subscripts, tuples and
lists, with Python's precedence; what names and operators mean is left to whoever runs the program.
Nothing here recurses: a text may nest as deep as it likes.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..errors import FormulaError

COMPARISONS = ("<", ">", "<=", ">=", "==", "!=")
_PRECEDENCE = {**dict.fromkeys(COMPARISONS, 1), "|": 2, "+": 3, "-": 3, "*": 4, "/": 4, "**": 6}
ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
}
_UNARY = 5  # below ** and above *: -x**2 is -(x**2)

_TOKEN = re.compile(
    r"(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<call>[^\W\d]\w*\s*\()"
    r"|(?P<name>[^\W\d]\w*)"
    r"|(?P<sign>\*\*|<=|>=|==|!=|[-+*/|<>()\[\],:])"
)
_SPACE = re.compile(r"\s*")
_CLOSES = {"(": ")", "[": "]"}
_WIDTH = 76  # characters of a long text shown in a message
LARGEST = 1.7e308  # of numbers in a text and of what is computed from them
_DIGITS = 400  # more than any double has


@dataclass(frozen=True)
class Step:
    """One step of a program: take ``count`` values from the stack, put one there.

    Attributes
    ----------
    kind : {"number", "name", "missing", "unary", "binary", "call", "tuple", "index", "slice"}
        "missing" is a part left out of a slice.
    value : int, float, str or None
        The number, the name, the sign of the operator, or the name that is called.
    count : int
    place : int
        Where in the text.
    """

    kind: str
    value: int | float | str | None
    count: int
    place: int


def located(message: str, text: str, place: int) -> FormulaError:
    """An error that shows the text with a caret under the place."""
    start = text.rfind("\n", 0, place) + 1
    stop = text.find("\n", place)
    stop = len(text) if stop < 0 else stop
    left, right = "", ""
    if stop - start > _WIDTH:
        if place - start > _WIDTH // 2:
            start, left = place - _WIDTH // 2, "..."
        if stop - start > _WIDTH:
            stop, right = start + _WIDTH, "..."
    # one character for one, so that the caret stands where it should
    shown = "".join(c if c.isprintable() else " " for c in text[start:stop])
    return FormulaError(f"{message}\n    {left}{shown}{right}\n    {' ' * (len(left) + place - start)}^")


def suggestion(name: str, known: Iterable[str], otherwise: str) -> str:
    """``; did you mean ...?`` with the names that look alike, or ``otherwise``."""
    plain = {k.lower(): k for k in sorted(known)}
    close = [plain[k] for k in difflib.get_close_matches(name.lower(), plain, n=3)]
    return f"; did you mean {' or '.join(close)}?" if close else f"; {otherwise}"


def of_numbers(sign: str, a: int | float, b: int | float) -> int | float:
    """Python's arithmetic on numbers, kept inside double precision."""
    if sign == "**" and abs(b) > 1024:
        a = float(a)  # overflows where an integer would fill the memory
    try:
        out = ARITHMETIC[sign](a, b)
    except ZeroDivisionError:
        raise FormulaError("division by zero.") from None
    except OverflowError:
        out = math.inf
    if isinstance(out, complex):
        raise FormulaError("a fractional power of a negative number is not real.")
    if abs(out) > LARGEST:
        raise FormulaError("the result is too large for double precision.")
    return out


def postfix(text: str, what: str = "formula") -> tuple[Step, ...]:
    """The program of a text.

    Parameters
    ----------
    text : str
    what : str
        What the text is, for messages.

    Raises
    ------
    FormulaError
        If the text is not an expression; the message shows the place.

    Examples
    --------
    >>> [step.value for step in postfix("-x**2 + f(y, 1)")]
    ['x', 2, '**', '-', 'y', 1, 'f', '+']
    """
    if not isinstance(text, str):
        raise FormulaError(f"{what}={text!r} is a {type(text).__name__}; expected a string.")
    if not text.strip():
        raise FormulaError(f"the {what} {text!r} is empty; expected an expression.")
    return _Reader(text).read()


@dataclass(frozen=True)
class _Token:
    kind: str  # number, name, call, sign, end
    text: str
    place: int


@dataclass
class _Pending:
    """An operator that waits for its right operand, or a bracket that waits to be closed."""

    kind: str  # unary, binary, group, list, call, subscript
    value: str
    place: int
    precedence: int = 0  # of brackets: below every operator
    opened: int = 0  # where the bracket itself stands
    values: int = 0  # complete ones inside a bracket
    colons: int = 0
    commas: int = 0


@dataclass
class _Reader:
    """Operator precedence parsing with explicit stacks."""

    text: str
    program: list[Step] = field(default_factory=list)
    pending: list[_Pending] = field(default_factory=list)

    def read(self) -> tuple[Step, ...]:
        after_value = False  # whether the text so far ends with a complete value
        for token in self.tokens():
            after_value = self.operator(token) if after_value else self.operand(token)
        return tuple(self.program)

    def tokens(self) -> list[_Token]:
        found, text, k = [], self.text, 0
        while True:
            space = _SPACE.match(text, k)
            k = space.end() if space else k
            if k == len(text):
                return [*found, _Token("end", "the end", k)]
            match = _TOKEN.match(text, k)
            if match is None:
                hint = "; equality is written ==" if text[k] == "=" else ""
                raise self.error(f"{text[k]!r} has no meaning here{hint}.", k)
            found.append(_Token(match.lastgroup or "", match[0], k))
            k = match.end()

    def error(self, message: str, place: int) -> FormulaError:
        return located(message, self.text, place)

    def open(self, kind: str, token: _Token) -> None:
        self.pending.append(_Pending(kind, token.text, token.place, opened=token.place))

    def emit(self, kind: str, value: int | float | str | None, count: int, place: int) -> None:
        self.program.append(Step(kind, value, count, place))

    # ---------------------------------------------------------------- where a value must come

    def operand(self, token: _Token) -> bool:
        """One token where a value is due; whether a value is now complete."""
        if token.kind == "number":
            self.emit("number", self.number(token), 0, token.place)
            return True
        if token.kind == "name":
            self.emit("name", token.text, 0, token.place)
            return True
        if token.kind == "call":
            opened = token.place + len(token.text) - 1
            self.pending.append(_Pending("call", token.text[:-1].rstrip(), token.place, opened=opened))
            return False
        return self.sign_before_value(token)

    def sign_before_value(self, token: _Token) -> bool:
        if token.text in ("-", "+"):
            self.pending.append(_Pending("unary", token.text, token.place, _UNARY))
            return False
        if token.text in _CLOSES:
            self.open("group" if token.text == "(" else "list", token)
            return False
        bracket = self.pending[-1] if self.pending and not self.pending[-1].precedence else None
        if bracket and bracket.kind == "subscript" and token.text in (":", "]"):
            if token.text == ":" or bracket.colons:
                self.emit("missing", None, 0, token.place)
                return self.operator(token)
        elif bracket and token.text in (")", "]") and bracket.values == bracket.commas:
            return self.close(token)
        raise self.error(f"expected a value, got {_shown(token)}.", token.place)

    def number(self, token: _Token) -> int | float:
        digits = token.text
        value = int(digits) if digits.isdigit() and len(digits) < _DIGITS else float(digits)
        if abs(value) > LARGEST:
            raise self.error("this number is too large for double precision.", token.place)
        return value

    # ---------------------------------------------------------------- after a value

    def operator(self, token: _Token) -> bool:
        """One token after a complete value; whether a value is still complete."""
        if token.kind == "sign" and token.text in _PRECEDENCE:
            self.binary(token)
            return False
        if token.text == "[":
            self.open("subscript", token)
            return False
        if token.kind == "sign" and token.text in (",", ":", ")", "]"):
            self.reduce(0)
            return self.separator(token)
        if token.kind == "end":
            self.reduce(0)
            if self.pending:
                bracket = self.pending[-1]
                raise self.error(f"this {_opening(bracket)!r} is never closed.", bracket.opened)
            return True
        raise self.error(f"expected an operator before {_shown(token)}.", token.place)

    def binary(self, token: _Token) -> None:
        precedence = _PRECEDENCE[token.text]
        # ** groups from the right, everything else from the left
        self.reduce(precedence + (token.text == "**"))
        self.pending.append(_Pending("binary", token.text, token.place, precedence))

    def reduce(self, precedence: int) -> None:
        """Complete the waiting operators that bind at least as strongly."""
        while self.pending and self.pending[-1].precedence >= max(precedence, 1):
            top = self.pending.pop()
            if top.precedence == precedence == 1:
                raise self.error(
                    "comparisons cannot be chained; multiply them: (a < b) * (b < c).", top.place
                )
            self.emit(top.kind, top.value, 1 if top.kind == "unary" else 2, top.place)

    def separator(self, token: _Token) -> bool:
        bracket = self.pending[-1] if self.pending else None
        if bracket is None:
            raise self.error(f"unexpected {token.text!r}: no bracket is open here.", token.place)
        bracket.values += 1
        if token.text in (")", "]"):
            return self.close(token)
        if token.text == ":" and bracket.kind == "subscript" and bracket.colons < 2:
            bracket.colons += 1
            return False
        if token.text == "," and bracket.kind != "subscript":
            bracket.commas += 1
            return False
        raise self.error(f"unexpected {token.text!r}.", token.place)

    def close(self, token: _Token) -> bool:
        bracket = self.pending.pop()
        if _CLOSES[_opening(bracket)] != token.text:
            raise self.error(
                f"{token.text!r} does not close the {_opening(bracket)!r} at character {bracket.opened + 1}.",
                token.place,
            )
        if bracket.kind == "call":
            self.emit("call", bracket.value, bracket.values, bracket.place)
        elif bracket.kind == "subscript":
            kind = "slice" if bracket.colons else "index"
            self.emit(kind, None, 1 + bracket.values, bracket.place)
        elif bracket.kind == "list" or bracket.commas or not bracket.values:
            self.emit("tuple", None, bracket.values, bracket.place)
        return True


def _opening(bracket: _Pending) -> str:
    return "(" if bracket.kind in ("call", "group") else "["


def _shown(token: _Token) -> str:
    if token.kind == "end":
        return "the end of the text"
    return repr(token.text if len(token.text) <= _WIDTH // 2 else token.text[: _WIDTH // 2] + "...")

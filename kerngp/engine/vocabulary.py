"""The words of formula strings: a name, what it takes, and how it is built from that.

The parser knows no op: it reads a call ``Name(argument, ...)``, looks the word up, converts each
argument to what the signature asks for, and calls `Word.build`. Adding a word is adding one record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import FormulaError
from .expr import Expr

KINDS = {"f": "a formula", "n": "an integer", "t": "a tuple of integers", "x": "a number"}


@dataclass(frozen=True)
class Word:
    """One function of the formula language.

    Attributes
    ----------
    name : str
        As it is written in a string, ``SqDist``.
    signature : str
        A letter for each argument: "f" a formula (numbers become constants), "n" an integer, "t" a
        tuple of integers, "x" a plain number.
    build : callable (*arguments) -> Expr
        Raises `FormulaError` on arguments that do not fit.
    optional : int
        How many arguments at the end may be left out.
    doc : str
        One line: the mathematics.
    """

    name: str
    signature: str
    build: Callable[..., Expr]
    optional: int = 0
    doc: str = ""


WORDS: dict[str, Word] = {}


def word(name: str, signature: str, build: Callable[..., Expr], doc: str = "", optional: int = 0) -> Word:
    """Enter a word; a name can be given only once."""
    if name in WORDS:
        raise FormulaError(f"the word {name!r} is already defined; choose another name.")
    if set(signature) - set(KINDS) or optional > len(signature):
        raise FormulaError(f"signature {signature!r} of {name}: expected letters of {''.join(KINDS)}.")
    WORDS[name] = Word(name, signature, build, optional, doc)
    return WORDS[name]

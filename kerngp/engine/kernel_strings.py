"""Kernels as they are written on paper: ``"gaussian(x,y) * (1 + linear(u,v)**2)"``.

A string names kernels of pairs of points and combines them with numbers, ``+ - * /`` and powers. Each
kernel that stands in it has its own parameter gamma; see `kernel_algebra` for what they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import FormulaError
from .expr import Expr
from .kernel_algebra import Atom, Value, combine, known, negative, power, value_of_atom, value_of_number
from .syntax import ARITHMETIC, Step, located, of_numbers, postfix, suggestion


@dataclass(frozen=True)
class _Register:
    """The result of one instruction."""

    index: int


@dataclass(frozen=True)
class _Instruction:
    """An atom (``sign`` is empty) or an operation on earlier results and numbers."""

    sign: str
    operands: tuple[Any, ...]


@dataclass(frozen=True)
class KernelString:
    """A kernel that was read from a string; two are equal if their texts are.

    Attributes
    ----------
    text : str
    pairs : tuple of (str, str)
        The pairs of variables, in the order in which they first stand in the text.
    atoms : tuple of Atom
        The kernels, in the order of the text.
    """

    text: str
    pairs: tuple[tuple[str, str], ...] = field(compare=False)
    atoms: tuple[Atom, ...] = field(compare=False)
    program: tuple[_Instruction, ...] = field(compare=False, repr=False)

    @property
    def psd(self) -> bool:
        """Whether it is positive semi-definite by construction, for gamma >= 0."""
        out: list[bool] = []
        for step in self.program:
            if not step.sign:
                out.append(step.operands[0].psd)
                continue
            good = [out[a.index] if isinstance(a, _Register) else a >= 0 for a in step.operands]
            last = step.operands[-1]
            good[-1] &= step.sign != "/" or not isinstance(last, _Register)
            good[-1] &= step.sign != "**" or isinstance(last, int)
            out.append(step.sign != "-" and all(good))
        return out[-1]

    def formula(
        self,
        points: Sequence[tuple[Expr, Expr]],
        gammas: Sequence[Expr | None] | None = None,
        *,
        log: bool = False,
    ) -> Expr:
        """The kernel, or its logarithm, as a formula.

        Parameters
        ----------
        points : sequence of (Expr, Expr)
            The two points of each of `pairs`.
        gammas : sequence of Expr or None
            One for each of `atoms`; None stands for 1. ``linear`` does not look at its own.
        log : bool
            log k instead of k. The logarithm of ``linear`` is that of its modulus, log(<x, y>^2 + 1e-8) / 2;
            differences, and sums of terms that may be negative, are NaN where they are negative.

        Returns
        -------
        Expr of dim 1

        Raises
        ------
        FormulaError
            If numbers of points or gammas do not fit, dims do not fit, or the kernel is never positive and
            the logarithm is asked for.

        Examples
        --------
        >>> from kerngp.engine.expr import Vi, Vj
        >>> parse_kernel("gaussian(x,y)").formula([(Vi(0, 3), Vj(1, 3))], log=True)
        neg(sum(square(sub(Vi(0,3), Vj(1,3)))))
        """
        gammas = [None] * len(self.atoms) if gammas is None else gammas
        for what, came, wanted in (("pairs of points", points, self.pairs), ("gammas", gammas, self.atoms)):
            if len(came) != len(wanted):
                raise FormulaError(
                    f"{len(came)} {what} for the kernel {self.text!r}; expected {len(wanted)}."
                )
        results: list[Value] = []
        remaining = iter(gammas)
        for step in self.program:
            if not step.sign:
                results.append(self._atom(step.operands[0], points, next(remaining)))
                continue
            a, *rest = [
                results[p.index] if isinstance(p, _Register) else value_of_number(p) for p in step.operands
            ]
            if not rest:
                results.append(negative(a))
            elif step.sign == "**":
                results.append(power(a, step.operands[1]))
            else:
                results.append(combine(step.sign, a, *rest))
        if log and results[-1].sign < 0:
            raise FormulaError(f"the kernel {self.text!r} is never positive; it has no logarithm.")
        return results[-1].log if log else results[-1].k

    def _atom(self, atom: Atom, points: Sequence[tuple[Expr, Expr]], gamma: Expr | None) -> Value:
        try:
            return value_of_atom(atom, *points[atom.pair], gamma)
        except FormulaError as e:
            raise located(str(e), self.text, atom.place) from None


def parse_kernel(text: str) -> KernelString:
    """A kernel in the high-level notation.

    Parameters
    ----------
    text : str
        Kernels by name with two variables, ``gaussian(x,y)``, or two ranges of components,
        ``gaussian(x[0:3], y[0:3])``, and numbers behind them where a kernel takes some,
        ``polynomial(x, y, 2)``; combined by ``+ - * /``, ``**`` with a number, numbers and brackets.

    Returns
    -------
    KernelString

    Raises
    ------
    FormulaError
        For anything else; the message shows the place in the text.

    Examples
    --------
    >>> k = parse_kernel("gaussian(x,y) * (1 + linear(u,v)**2)")
    >>> k.pairs, [a.name for a in k.atoms]
    ((('x', 'y'), ('u', 'v')), ['gaussian', 'linear'])
    """
    run = _Run(text)
    for step in postfix(text, "kernel"):
        run.step(step)
    (last,) = run.stack
    if not isinstance(last, _Register):
        raise run.error("no kernel stands here; write, for instance, gaussian(x,y).", 0)
    atoms = tuple(i.operands[0] for i in run.program if not i.sign)
    return KernelString(text, tuple(run.pairs), atoms, tuple(run.program))


@dataclass(frozen=True)
class _Point:
    """A variable and the components of it."""

    name: str
    key: int | slice | None
    place: int


@dataclass
class _Run:
    """The state of one reading: the stack holds numbers, points and results of kernels."""

    text: str
    stack: list[Any] = field(default_factory=list)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    program: list[_Instruction] = field(default_factory=list)

    def error(self, message: str, place: int) -> FormulaError:
        return located(message, self.text, place)

    def step(self, step: Step) -> None:
        start = len(self.stack) - step.count
        values = self.stack[start:]
        del self.stack[start:]
        self.stack.append(_HANDLERS[step.kind](self, step, values))

    def literal(self, step: Step, values: list[Any]) -> Any:
        return step.value

    def name(self, step: Step, values: list[Any]) -> _Point:
        return _Point(str(step.value), None, step.place)

    def subscript(self, step: Step, values: list[Any]) -> _Point:
        point, *parts = values
        if not isinstance(point, _Point) or point.key is not None:
            raise self.error("only a variable has components, x[0:3].", step.place)
        if not all(p is None or isinstance(p, int) for p in parts):
            raise self.error("components are named by integers.", step.place)
        return _Point(point.name, slice(*parts) if step.kind == "slice" else parts[0], point.place)

    def sequence(self, step: Step, values: list[Any]) -> Any:
        raise self.error("a tuple has no meaning in a kernel.", step.place)

    def call(self, step: Step, values: list[Any]) -> _Register:
        name, (points, numbers) = str(step.value), (values[:2], values[2:])
        kernels = known()
        if name not in kernels:
            hint = suggestion(name, kernels, f"known are {', '.join(sorted(kernels))}.")
            raise self.error(f"unknown kernel {name!r}{hint}", step.place)
        if len(points) < 2 or not all(isinstance(p, _Point) for p in points):
            raise self.error(f"{name} takes two variables, {name}(x, y).", step.place)
        most = kernels[name]
        if len(numbers) > most or not all(isinstance(n, (int, float)) for n in numbers):
            more = f"and at most {most} number(s)" if most else "and nothing else"
            raise self.error(f"{name} takes two variables {more}.", step.place)
        x, y = points
        pair = self.pair(x, y)
        return self.emit("", Atom(name, pair, x.key, y.key, tuple(numbers), step.place))

    def pair(self, x: _Point, y: _Point) -> int:
        for k, (left, right) in enumerate(self.pairs):
            if (x.name, y.name) == (left, right):
                return k
            taken = [p for p in (x, y) if p.name in (left, right)]
            if taken:
                raise self.error(
                    f"{taken[0].name} belongs to the pair ({left}, {right}) already; each variable has one "
                    "place in one pair.",
                    taken[0].place,
                )
        self.pairs.append((x.name, y.name))
        return len(self.pairs) - 1

    def emit(self, sign: str, *operands: Any) -> _Register:
        self.program.append(_Instruction(sign, operands))
        return _Register(len(self.program) - 1)

    def operands(self, step: Step, values: list[Any]) -> None:
        for v in values:
            if isinstance(v, _Point):
                raise self.error(f"{v.name} is a variable; it stands inside a kernel, linear(x,y).", v.place)
        if step.value not in ARITHMETIC:
            raise self.error(f"{step.value!r} has no meaning for kernels; use + - * / **.", step.place)

    def unary(self, step: Step, values: list[Any]) -> Any:
        self.operands(step, values)
        (a,) = values
        if step.value == "+":
            return a
        return self.emit("-", a) if isinstance(a, _Register) else -a

    def binary(self, step: Step, values: list[Any]) -> Any:
        self.operands(step, values)
        sign, (a, b) = str(step.value), values
        if isinstance(a, _Register) or isinstance(b, _Register):
            if sign == "**" and isinstance(b, _Register):
                raise self.error("the exponent of a kernel is a number.", step.place)
            return self.emit(sign, a, b)
        try:
            return of_numbers(sign, a, b)
        except FormulaError as e:
            raise self.error(str(e), step.place) from None


_HANDLERS: dict[str, Callable[[_Run, Step, list[Any]], Any]] = {
    "number": _Run.literal,
    "missing": _Run.literal,
    "name": _Run.name,
    "index": _Run.subscript,
    "slice": _Run.subscript,
    "tuple": _Run.sequence,
    "call": _Run.call,
    "unary": _Run.unary,
    "binary": _Run.binary,
}

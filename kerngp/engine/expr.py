"""Formulas as immutable, interned nodes: equal formulas are one object.

A node is (op, args, attr). Its value at a pair (i, j) is a vector of ``dim`` numbers. Leaves are
variables, which read row i ("i"), row j ("j") or one record for all pairs ("p"), and constants.
What an op means is in the table `OPS`, filled by `ops`; nothing here knows a single op.
"""

from __future__ import annotations

import functools
import hashlib
import numbers
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import FormulaError

AXES = ("i", "j", "p")
LEAVES = ("var", "const")


@dataclass(frozen=True, eq=False)
class Op:
    """One operation, complete: everything the engine knows about it.

    Attributes
    ----------
    name : str
        Registry key, also the LazyTensor method's name where there is one.
    arity : int
        Number of arguments.
    dim : callable (dims, attr) -> int
        Dimension of the result; raises `FormulaError` on incompatible arguments.
    reference : callable (*tensors, *attr) -> tensor
        The definition, on torch tensors whose last axis is the vector's.
    vjp : callable (node, g) -> tuple of Expr or None
        Cotangents of the arguments for the cotangent ``g`` of the node.
    code : callable (target, *values, *attr) -> value, or None
        Elementwise ops: code for one component, in the target's primitives.
    pieces : callable (node) -> tuple of (start, stop, arg or None, shift), or None
        Ops that only move components: result component d in [start, stop) is component d + shift
        of argument ``arg``, or zero when ``arg`` is None.
    lower : callable (lowering, node, d) -> value, or None
        All other ops: code for component d, through the target's `render.lowering.Lowering`.
    cuts : callable (node, cuts of each argument) -> set of int, or None
        For ``lower``: where ranges of components begin within which the arguments have one source each.
    memory : callable (node) -> int, or None
        How many numbers the code of ``lower`` stores for each pair, where it stores a whole vector.
    fold : callable (args, attr) -> Expr or None
        Algebraic simplification, applied by `rewrite.simplify`.
    sign : callable (signs, attr) -> int
        +1 if the result is provably >= 0, -1 if provably <= 0, else 0 (NaN aside).
    doc : str
    public : bool
        False for ops that only a rewrite writes, where it has proved what they presuppose.
    """

    name: str
    arity: int
    dim: Callable[[tuple[int, ...], tuple], int]
    reference: Callable[..., Any]
    vjp: Callable[[Expr, Expr], tuple[Expr | None, ...]]
    code: Callable[..., Any] | None = None
    pieces: Callable[[Expr], tuple] | None = None
    lower: Callable[[Any, Expr, Any], Any] | None = None
    cuts: Callable[[Expr, list[set[int]]], set[int]] | None = None
    memory: Callable[[Expr], int] | None = None
    fold: Callable[[tuple[Expr, ...], tuple], Expr | None] | None = None
    sign: Callable[[tuple[int, ...], tuple], int] | None = None
    doc: str = ""
    public: bool = True


OPS: dict[str, Op] = {}


def define(op: Op) -> Op:
    """Add an op to the table; a name can be given only once."""
    if op.name in OPS or op.name in LEAVES:
        raise FormulaError(f"op {op.name!r} is already defined; choose another name.")
    OPS[op.name] = op
    return op


class Expr:
    """A formula. Build it with `Vi`, `Vj`, `Pm`, `const`, operators and the functions of `ops`."""

    __slots__ = ("__weakref__", "_digest", "args", "attr", "axes", "dim", "kind", "op")

    op: str
    args: tuple[Expr, ...]
    attr: tuple
    dim: int
    kind: str
    axes: frozenset[str]
    _digest: str | None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Expr is immutable; cannot set {name!r}.")

    def __reduce__(self) -> tuple:
        # one flat program: pickling argument by argument would recurse as deep as the formula
        position: dict[Expr, int] = {}
        for e in postorder(self):
            position[e] = len(position)
        return _from_program, (tuple((e.op, tuple(position[a] for a in e.args), e.attr) for e in position),)

    def __copy__(self) -> Expr:
        return self

    def __deepcopy__(self, memo: dict) -> Expr:
        return self

    @property
    def digest(self) -> str:
        """Content digest (hex): equal on every machine and in every process."""
        for e in postorder(self):
            if e._digest is None:
                text = repr((e.op, tuple(map(_tag, e.attr)), [a._digest for a in e.args]))
                object.__setattr__(e, "_digest", hashlib.blake2b(text.encode(), digest_size=16).hexdigest())
        assert self._digest is not None
        return self._digest

    def __repr__(self) -> str:
        return to_string(self)

    def __add__(self, other: Expr | float) -> Expr:
        return node("add", self, as_expr(other))

    def __radd__(self, other: float) -> Expr:
        return node("add", as_expr(other), self)

    def __sub__(self, other: Expr | float) -> Expr:
        return node("sub", self, as_expr(other))

    def __rsub__(self, other: float) -> Expr:
        return node("sub", as_expr(other), self)

    def __mul__(self, other: Expr | float) -> Expr:
        return node("mul", self, as_expr(other))

    def __rmul__(self, other: float) -> Expr:
        return node("mul", as_expr(other), self)

    def __truediv__(self, other: Expr | float) -> Expr:
        return node("div", self, as_expr(other))

    def __rtruediv__(self, other: float) -> Expr:
        return node("div", as_expr(other), self)

    def __neg__(self) -> Expr:
        return node("neg", self)

    def __pow__(self, other: Expr | float) -> Expr:
        if isinstance(other, bool) or not isinstance(other, numbers.Integral):
            return node("pow", self, as_expr(other))
        return node("square", self) if other == 2 else node("powi", self, attr=(int(other),))

    def __rpow__(self, other: float) -> Expr:
        return node("pow", as_expr(other), self)

    def __or__(self, other: Expr) -> Expr:
        return node("sum", node("mul", self, as_expr(other)))

    def __abs__(self) -> Expr:
        return node("abs", self)

    def __getitem__(self, key: int | slice) -> Expr:
        if isinstance(key, slice):
            start, stop, step = key.indices(self.dim)
            if step != 1 or stop <= start:
                raise FormulaError(
                    f"slice {key} of a vector of dim {self.dim}: need start < stop and step 1."
                )
            return node("extract", self, attr=(start, stop - start))
        if not -self.dim <= key < self.dim:
            raise FormulaError(f"index {key} is out of range for a vector of dim {self.dim}.")
        return node("elem", self, attr=(key % self.dim,))


_TABLE: weakref.WeakValueDictionary[tuple, Expr] = weakref.WeakValueDictionary()
_LOCK = threading.RLock()  # re-entrant: a collection during the lookup may drop other nodes


def _tag(value: object) -> tuple:
    """Attributes compare by type and sign: 1, 1.0, True and -0.0, 0.0 are all different."""
    return (type(value).__name__, value.hex() if isinstance(value, float) else value)


def _intern(op: str, args: tuple[Expr, ...], attr: tuple) -> Expr:
    key = (op, tuple(map(id, args)), tuple(map(_tag, attr)))
    with _LOCK:
        found = _TABLE.get(key)
        if found is not None:
            return found
        e = object.__new__(Expr)
        put = object.__setattr__
        if op == "var":
            dim, axes = attr[1], frozenset(attr[2])
        elif op == "const":
            dim, axes = 1, frozenset()
        else:
            dim = OPS[op].dim(tuple(a.dim for a in args), attr)
            axes = frozenset().union(*(a.axes for a in args))
        for name, value in (
            ("op", op),
            ("args", args),
            ("attr", attr),
            ("dim", dim),
            ("kind", "real"),
            ("axes", axes),
            ("_digest", None),
        ):
            put(e, name, value)
        _TABLE[key] = e
        return e


def revive(program: Iterable[tuple[str, tuple[int, ...], tuple]]) -> list[Expr]:
    """The nodes of a flat program: (op, positions of the arguments, attributes), arguments first."""
    from . import ops  # noqa: F401  (fills the table)

    nodes: list[Expr] = []
    for op, args, attr in program:
        nodes.append(_intern(op, tuple(nodes[k] for k in args), attr))
    return nodes


def _from_program(program: tuple[tuple[str, tuple[int, ...], tuple], ...]) -> Expr:
    return revive(program)[-1]


def node(op: str, *args: Expr, attr: tuple = ()) -> Expr:
    """The node ``op(*args; *attr)``; checks names, number of arguments and dimensions."""
    if op not in OPS:
        from . import ops  # noqa: F401  (fills the table)
    record = OPS.get(op)
    if record is None:
        import difflib

        close = difflib.get_close_matches(op, OPS, n=3)
        raise FormulaError(
            f"unknown op {op!r}; "
            + (f"did you mean {' or '.join(close)}?" if close else f"known ops: {', '.join(sorted(OPS))}.")
        )
    if len(args) != record.arity:
        raise FormulaError(f"{op} takes {record.arity} argument(s), got {len(args)}.")
    return _intern(op, args, attr)


def var(index: int, dim: int, axis: str) -> Expr:
    """Variable number ``index`` of the argument list, a vector of ``dim`` numbers per row."""
    if axis not in AXES:
        raise FormulaError(f"axis={axis!r} of variable {index}: expected 'i', 'j' or 'p'.")
    if not (isinstance(index, int) and index >= 0):
        raise FormulaError(f"variable index {index!r} is not a non-negative integer.")
    if not (isinstance(dim, int) and dim >= 1):
        raise FormulaError(f"variable {index} has dim {dim!r}; expected a positive integer.")
    return _intern("var", (), (index, dim, axis))


def Vi(index: int, dim: int) -> Expr:
    """Variable indexed by i: argument ``index`` has shape (..., M, dim)."""
    return var(index, dim, "i")


def Vj(index: int, dim: int) -> Expr:
    """Variable indexed by j: argument ``index`` has shape (..., N, dim)."""
    return var(index, dim, "j")


def Pm(index: int, dim: int) -> Expr:
    """Parameter, the same for all pairs: argument ``index`` has shape (..., dim)."""
    return var(index, dim, "p")


def const(value: float) -> Expr:
    """A constant of dim 1, kept in double precision until code is generated."""
    return _intern("const", (), (float(value),))


def as_expr(value: Expr | float) -> Expr:
    """Numbers become constants; formulas pass through."""
    if isinstance(value, Expr):
        return value
    if isinstance(value, numbers.Real):  # Python's and NumPy's
        return const(float(value))
    raise FormulaError(f"{type(value).__name__} cannot stand in a formula; expected an Expr or a number.")


def postorder(*roots: Expr) -> Iterator[Expr]:
    """Each distinct node once, arguments before users (iterative: formulas may be deep)."""
    seen: set[Expr] = set()
    stack: list[tuple[Expr, bool]] = [(r, False) for r in reversed(roots)]
    while stack:
        e, ready = stack.pop()
        if ready:
            yield e
        elif e not in seen:
            seen.add(e)
            stack.append((e, True))
            stack.extend((a, False) for a in reversed(e.args))


def rebuild(root: Expr, change: Callable[[Expr, tuple[Expr, ...]], Expr]) -> Expr:
    """Bottom-up rewrite: ``change(old node, new args)`` gives each node's replacement."""
    new: dict[Expr, Expr] = {}
    for e in postorder(root):
        new[e] = change(e, tuple(new[a] for a in e.args))
    return new[root]


def with_args(e: Expr, args: tuple[Expr, ...]) -> Expr:
    """The same op on other arguments."""
    return e if args == e.args else _intern(e.op, args, e.attr)


def substitute(root: Expr, table: dict[Expr, Expr]) -> Expr:
    """Replace nodes by others of the same dim."""
    return rebuild(root, lambda e, args: table[e] if e in table else with_args(e, args))


@functools.lru_cache(maxsize=8192)
def variables(*roots: Expr) -> tuple[Expr, ...]:
    """The variables that occur, by index. One index with two meanings is an error."""
    found: dict[int, Expr] = {}
    for e in postorder(*roots):
        if e.op == "var":
            other = found.setdefault(e.attr[0], e)
            if other is not e:
                raise FormulaError(
                    f"variable {e.attr[0]} is used as {to_string(other)} and as {to_string(e)}; "
                    "give each its own index."
                )
    return tuple(found[k] for k in sorted(found))


_LONGEST = 4000  # characters of a formula's text; sharing makes texts exponentially long


def to_string(e: Expr) -> str:
    """Readable text of a formula (not parsed back); very long parts are left out."""
    text: dict[Expr, str] = {}
    for n in postorder(e):
        if n.op == "var":
            index, dim, axis = n.attr
            text[n] = f"{ {'i': 'Vi', 'j': 'Vj', 'p': 'Pm'}[axis] }({index},{dim})"
        elif n.op == "const":
            text[n] = repr(n.attr[0])
        else:
            args = ", ".join([*(text[a] for a in n.args), *map(repr, n.attr)])
            text[n] = f"{n.op}({args if len(args) <= _LONGEST else '...'})"
    return text[e]

"""The kernels that stand in strings, with their parameter gamma, and the algebra of kernels and logarithms.

gamma multiplies the squared distance: d2 = <x - y, G (x - y)>, where gamma holds one number, one for each
component, or a D x D matrix by rows. Five kernels are functions of d2 (`PROFILES`), ``linear`` is the scalar
product and takes no gamma, and every formula of `formulas.FORMULAS` can be named too.

A logarithm is needed where the kernel itself leaves the range of floating point numbers, so it is built
beside the kernel and never taken of a value that is an exponential.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import FormulaError
from .expr import Expr, const, node, postorder, substitute
from .formulas import FORMULAS, named
from .ops import exp, ifelse, inv, log, log1p, minimum, rsqrt, sqdist, sqrt, weighted_sqdist
from .rewrite import signs
from .syntax import ARITHMETIC

# the kernels of these strings that are functions of the squared distance
PROFILES: dict[str, Callable[[Expr], Expr]] = {
    "gaussian": lambda d2: exp(-d2),
    "laplacian": lambda d2: exp(-sqrt(d2)),
    "cauchy": lambda d2: inv(1.0 + d2),
    "inverse_multiquadric": lambda d2: rsqrt(1.0 + d2),
    "distance": sqrt,
}
_INDEFINITE = ("additive_chi2", "distance", "exp_sine_squared", "sigmoid")
_LINEAR_FLOOR = 1e-8  # log |<x, y>| stays finite where the product vanishes


def register_kernel(name: str, function: Callable[..., Expr]) -> None:
    """Enter a kernel under a name, for use in strings.

    Parameters
    ----------
    name : str
        A new name, spelled like a variable of Python.
    function : callable (x, y, *numbers) -> Expr of dim 1
        Written with operators and the functions of `kerngp.engine.ops`. A function with a parameter ``gamma``
        receives it as a formula. For any other, gamma multiplies the squared distance |x - y|^2 if the
        function depends on x and y through that alone; otherwise x and y are multiplied by sqrt(gamma).
        Estimators take the kernel to be positive semi-definite.

    Raises
    ------
    FormulaError
        If the name is taken or cannot be written in a string.

    Examples
    --------
    >>> from kerngp.engine.ops import dot, exp, sqdist
    >>> register_kernel("tilted", lambda x, y, gamma: exp(dot(x, y) - gamma * sqdist(x, y)))
    >>> from kerngp.engine.kernel_strings import parse_kernel
    >>> parse_kernel("1 + tilted(x, y)").pairs
    (('x', 'y'),)
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise FormulaError(f"name={name!r} of a kernel: expected a name such as 'my_kernel'.")
    if not callable(function):
        raise FormulaError(f"function={function!r} of kernel {name!r} is not callable; expected f(x, y).")
    if name in PROFILES:
        raise FormulaError(f"kernel {name!r} is already defined; choose another name.")
    named(name)(function)


def known() -> dict[str, int]:
    """Every kernel a string may name, with how many numbers it takes behind the two points."""
    return {name: _numbers_taken(f) for name, f in FORMULAS.items()} | dict.fromkeys(PROFILES, 0)


def _numbers_taken(function: Callable[..., Expr]) -> int:
    parameters = list(inspect.signature(function).parameters.values())[2:]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.name != "gamma" for p in parameters)


# ---------------------------------------------------------------- one kernel


@dataclass(frozen=True)
class Atom:
    """One kernel that stands in a string.

    Attributes
    ----------
    name : str
    pair : int
        Number of the pair of variables.
    left, right : int, slice or None
        The components it looks at; None for all.
    numbers : tuple of float
        What stands behind the two points.
    place : int
        Where in the text.
    """

    name: str
    pair: int
    left: int | slice | None
    right: int | slice | None
    numbers: tuple[float, ...]
    place: int

    @property
    def psd(self) -> bool:
        if self.left != self.right or self.name in _INDEFINITE:
            return False
        if self.name == "polynomial" and self.numbers:
            degree, *offset = self.numbers
            return degree >= 0 and float(degree).is_integer() and min(offset, default=0) >= 0
        return True

    def formula(self, x: Expr, y: Expr, gamma: Expr | None) -> Expr:
        """k(x, y), of dim 1."""
        x = x if self.left is None else x[self.left]
        y = y if self.right is None else y[self.right]
        if self.name in PROFILES:
            return PROFILES[self.name](_squared_distance(x, y, gamma))
        k = _scaled(FORMULAS[self.name], x, y, self.numbers, None if self.name == "linear" else gamma)
        if not isinstance(k, Expr) or k.dim != 1:
            raise FormulaError(f"{self.name} gives {k!r}; expected a formula of dim 1.")
        return k


def _squared_distance(x: Expr, y: Expr, gamma: Expr | None) -> Expr:
    return sqdist(x, y) if gamma is None else weighted_sqdist(gamma, x, y)


def _scaled(
    function: Callable[..., Expr], x: Expr, y: Expr, numbers: tuple[float, ...], gamma: Expr | None
) -> Expr:
    """A formula in units of a lengthscale, with gamma where its squared distance is."""
    if "gamma" in inspect.signature(function).parameters:
        return function(x, y, *numbers, gamma=const(1.0) if gamma is None else gamma)
    k = function(x, y, *numbers)
    if gamma is None or not isinstance(k, Expr):
        return k
    radial = substitute(k, {sqdist(x, y): const(0.0)})
    if not {x, y} & set(postorder(radial)):
        return substitute(k, {sqdist(x, y): weighted_sqdist(gamma, x, y)})
    if gamma.dim not in (1, x.dim):
        raise FormulaError(f"gamma has {gamma.dim} components; expected 1, or one for each of {x.dim}.")
    return function(x * sqrt(gamma), y * sqrt(gamma), *numbers)


# ---------------------------------------------------------------- logarithms


@dataclass(frozen=True)
class Value:
    """A kernel and the logarithm of its modulus.

    ``sign``: 2 positive with a finite logarithm, 1 not negative, -1 not positive, 0 unknown.
    """

    k: Expr
    log: Expr
    sign: int


def _distance_logarithm(d2: Expr) -> Expr:
    # -inf at distance 0, where the gradient is 0 as that of the distance itself
    at_zero = node("eq", d2, const(0.0))
    return 0.5 * log(d2 + at_zero) + log(1.0 - at_zero)


def _matern32_logarithm(d2: Expr) -> Expr:
    s = sqrt(3.0 * d2)
    return log1p(s) - s


def _matern52_logarithm(d2: Expr) -> Expr:
    s = sqrt(5.0 * d2)
    return log1p(s + s * s / 3.0) - s


# outermost op of a kernel: its logarithm, and the sign
_LOGARITHMS: dict[str, tuple[Callable[[Expr], Expr], int]] = {
    "exp": (lambda a: a, 2),
    "inv": (lambda a: -log(a), 2),
    "rsqrt": (lambda a: -0.5 * log(a), 2),
    "sqrt": (_distance_logarithm, 1),
    "matern32_profile": (_matern32_logarithm, 2),
    "matern52_profile": (_matern52_logarithm, 2),
}


def value_of_atom(atom: Atom, x: Expr, y: Expr, gamma: Expr | None) -> Value:
    """One kernel of a string at the points x, y."""
    k = atom.formula(x, y, gamma)
    if atom.name == "linear":
        return Value(k, 0.5 * log(k**2 + _LINEAR_FLOOR), 0)
    if k.op in _LOGARITHMS:
        logarithm, sign = _LOGARITHMS[k.op]
        return Value(k, logarithm(k.args[0]), sign)
    return Value(k, log(k), signs(k)[k])


def value_of_number(c: int | float) -> Value:
    """A constant kernel."""
    if c == 0:
        return Value(const(0.0), log(const(0.0)), 1)
    return Value(const(c), const(math.log(abs(c))), 2 if c > 0 else -1)


def _log_add(a: Expr, b: Expr) -> Expr:
    """log(exp(a) + exp(b)); the branch that is not taken stays finite, as do its derivatives."""
    return ifelse(a - b, a + log1p(exp(minimum(b - a, 0.0))), b + log1p(exp(minimum(a - b, 0.0))))


def negative(a: Value) -> Value:
    """-a."""
    return Value(-a.k, a.log, -_weak(a.sign))


def _weak(sign: int) -> int:
    return min(1, sign)


def _product_sign(a: int, b: int) -> int:
    return 2 if a == b == 2 else _weak(a) * _weak(b)


def combine(sign: str, a: Value, b: Value) -> Value:
    """a + b, a - b, a * b or a / b."""
    k = ARITHMETIC[sign](a.k, b.k)
    if sign == "*":
        return Value(k, a.log + b.log, _product_sign(a.sign, b.sign))
    if sign == "/":
        return Value(k, a.log - b.log, _product_sign(a.sign, b.sign))
    if sign == "+" and a.sign == b.sign == 2:
        return Value(k, _log_add(a.log, b.log), 2)
    same = a.sign * b.sign > 0 if sign == "+" else a.sign * b.sign < 0
    return Value(k, log(k), _weak(a.sign) if same else 0)


def power(a: Value, n: int | float) -> Value:
    """a ** n."""
    even = float(n).is_integer() and n % 2 == 0
    sign = 2 if a.sign == 2 else 1 if even or a.sign == 1 else 0
    return Value(a.k**n, n * a.log, sign)

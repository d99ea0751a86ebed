"""What values a formula can take when its variables lie in boxes: interval arithmetic.

Bounds hold up to the rounding of float64. An op without a rule, and a value that may be NaN, is bounded
by nothing: (-inf, inf).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .expr import OPS, Expr, postorder

Tensor = torch.Tensor
Interval = tuple[Tensor, Tensor]

# ops that move components or add them up, and monotone functions: the op itself, at the ends
INCREASING = frozenset(
    "sum add minimum maximum min max relu step sign floor ceil round exp exp_nonpos expm1 log log1p sqrt "
    "softplus sinh tanh sigmoid erf asin atan interleave alternate".split()
)
DECREASING = frozenset("neg matern32_profile matern52_profile exp_scaled erfc acos".split())


def bounds(f: Expr, boxes: dict[int, Interval]) -> Interval:
    """The interval of each component of a formula.

    Parameters
    ----------
    f : Expr
    boxes : dict of int to (lowest, highest)
        For the index of each variable, float64 tensors (..., dim) that broadcast: many boxes at once.

    Examples
    --------
    >>> from kerngp.engine.expr import Vi, Vj
    >>> from kerngp.engine.ops import exp, sqdist
    >>> x = torch.tensor([0.0], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)
    >>> y = x[0] + 3, x[1] + 3
    >>> [round(float(b), 5) for b in bounds(exp(-sqdist(Vi(0, 1), Vj(1, 1))), {0: x, 1: y})]
    [0.0, 0.01832]
    """
    found: dict[Expr, Interval] = {}
    like = next((lo for lo, _ in boxes.values()), torch.zeros(1, dtype=torch.float64))
    for e in postorder(f):
        if e.op == "var":
            found[e] = boxes[e.attr[0]]
        elif e.op == "const":
            value = like.new_tensor(e.attr[0]).reshape(1)
            found[e] = value, value
        else:
            found[e] = _known(*_apply(e, [found[a] for a in e.args]))
    return found[f]


def magnitude(f: Expr, boxes: dict[int, Interval]) -> Tensor:
    """The largest |f| over each box and all components, inf where nothing is known."""
    lo, hi = bounds(f, boxes)
    return torch.maximum(-lo, hi).amax(-1)


def _known(lo: Tensor, hi: Tensor) -> Interval:
    """Where either end is NaN, the value is bounded by nothing."""
    lost = torch.isnan(lo + hi)  # as it is between -inf and inf
    if not bool(lost.any()):
        return lo, hi
    return torch.where(lost, -torch.inf, lo), torch.where(lost, torch.inf, hi)


def _apply(e: Expr, args: list[Interval]) -> Interval:
    op = OPS[e.op]
    if e.op in RULES:
        return RULES[e.op](e, *args)
    if op.pieces is not None or e.op in INCREASING:
        lo, hi = ([a[end] for a in args] for end in (0, 1))
        return op.reference(*lo, *e.attr), op.reference(*hi, *e.attr)
    if e.op in DECREASING:
        ((lo, hi),) = args
        return op.reference(hi, *e.attr), op.reference(lo, *e.attr)
    shape = torch.broadcast_shapes((e.dim,), *(lo.shape[:-1] + (1,) for lo, _ in args))
    infinite = args[0][0].new_full(shape, torch.inf)
    return -infinite, infinite


# ---------------------------------------------------------------- the other ops


def _hull(*values: Tensor) -> Interval:
    values = tuple(torch.broadcast_tensors(*values))
    lo = hi = values[0]
    for v in values[1:]:
        lo, hi = torch.minimum(lo, v), torch.maximum(hi, v)
    return lo, hi


def _sub(e: Expr, a: Interval, b: Interval) -> Interval:
    return a[0] - b[1], a[1] - b[0]


def _mul(e: Expr, a: Interval, b: Interval) -> Interval:
    if len(e.args) == 2 and e.args[0] is e.args[1]:
        return _square(e, a)
    return _hull(a[0] * b[0], a[0] * b[1], a[1] * b[0], a[1] * b[1])


def _div(e: Expr, a: Interval, b: Interval) -> Interval:
    inverse = _inv(e, b)
    return _hull(a[0] * inverse[0], a[0] * inverse[1], a[1] * inverse[0], a[1] * inverse[1])


def _inv(e: Expr, a: Interval) -> Interval:
    lo, hi = a
    through = (lo <= 0) & (hi >= 0)
    nothing = torch.full_like(lo + hi, torch.nan)
    return torch.where(through, nothing, 1 / hi), torch.where(through, nothing, 1 / lo)


def _rsqrt(e: Expr, a: Interval) -> Interval:
    lo, hi = a
    nothing = torch.full_like(lo, torch.nan)
    return torch.where(lo > 0, 1 / hi.sqrt(), nothing), torch.where(lo > 0, 1 / lo.sqrt(), nothing)


def _abs(e: Expr, a: Interval) -> Interval:
    lo, hi = a
    return torch.maximum(lo, -hi).clamp_min(0.0), torch.maximum(-lo, hi)


def _cosh(e: Expr, a: Interval) -> Interval:
    lo, hi = _abs(e, a)
    return lo.cosh(), hi.cosh()


def _square(e: Expr, a: Interval) -> Interval:
    lo, hi = _abs(e, a)
    return lo * lo, hi * hi


def _powi(e: Expr, a: Interval) -> Interval:
    n = e.attr[0]
    if n < 0:
        a, n = _inv(e, a), -n
    lo, hi = _abs(e, a) if n % 2 == 0 else a
    return lo**n, hi**n


def _pow(e: Expr, a: Interval, b: Interval) -> Interval:
    """exp(b log a), for a >= 0."""
    nothing = torch.full_like(a[0], torch.nan)
    base = torch.where(a[0] >= 0, a[0], nothing)
    return _hull(base ** b[0], base ** b[1], a[1] ** b[0], a[1] ** b[1])


def _ifelse(e: Expr, c: Interval, a: Interval, b: Interval) -> Interval:
    yes, no = c[0] >= 0, c[1] < 0
    lo = torch.where(yes, a[0], torch.where(no, b[0], torch.minimum(*torch.broadcast_tensors(a[0], b[0]))))
    hi = torch.where(yes, a[1], torch.where(no, b[1], torch.maximum(*torch.broadcast_tensors(a[1], b[1]))))
    return lo, hi


def _clamp(e: Expr, a: Interval, lo: Interval, hi: Interval) -> Interval:
    return _limited(a[0], lo[0], hi[0]), _limited(a[1], lo[1], hi[1])


def _limited(a: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(a, lo), hi)


def _less(strict: bool, turned: bool) -> Callable[..., Interval]:
    """1 where a < b (a <= b unless strict), or the other way round."""

    def rule(e: Expr, a: Interval, b: Interval) -> Interval:
        a, b = (b, a) if turned else (a, b)
        surely = a[1] < b[0] if strict else a[1] <= b[0]
        perhaps = a[0] < b[1] if strict else a[0] <= b[1]
        return surely.to(a[0].dtype), perhaps.to(a[0].dtype)

    return rule


def _equal(e: Expr, a: Interval, b: Interval) -> Interval:
    surely = (a[0] == a[1]) & (b[0] == b[1]) & (a[0] == b[0])
    perhaps = (a[0] <= b[1]) & (b[0] <= a[1])
    return surely.to(a[0].dtype), perhaps.to(a[0].dtype)


def _unequal(e: Expr, a: Interval, b: Interval) -> Interval:
    lo, hi = _equal(e, a, b)
    return 1 - hi, 1 - lo


def _within(lo: float, hi: float) -> Callable[..., Interval]:
    def rule(e: Expr, *args: Interval) -> Interval:
        size = sum(a + b for a, b in args) * 0.0
        assert isinstance(size, Tensor)
        return size + lo, size + hi  # NaN where an argument has no bound

    return rule


RULES: dict[str, Callable[..., Interval]] = {
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "inv": _inv,
    "rsqrt": _rsqrt,
    "abs": _abs,
    "square": _square,
    "powi": _powi,
    "pow": _pow,
    "ifelse": _ifelse,
    "clamp": _clamp,
    "sin": _within(-1.0, 1.0),
    "cos": _within(-1.0, 1.0),
    "sinxdivx": _within(-1.0, 1.0),
    "cosh": _cosh,
    "lt": _less(True, False),
    "le": _less(False, False),
    "gt": _less(True, True),
    "ge": _less(False, True),
    "eq": _equal,
    "ne": _unequal,
}

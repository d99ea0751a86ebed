"""Soft dynamic time warping (Cuturi and Blondel, *Soft-DTW: a differentiable loss for time-series*, 2017).

With the costs c_ij = (x_i - y_j)^2 and the soft minimum m_ij of the three values before r_ij,

    r_ij = c_ij + m_ij,    m = -gamma log(sum of exp(-r / gamma) over (i-1, j), (i, j-1), (i-1, j-1)).

The result is the last r. Its gradient in (x, y, gamma) is an op of its own, one pass back over the table with
weights w = exp((m - r) / gamma); so is the derivative of that in a direction, the same pass in dual numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...errors import FormulaError
from ..expr import Expr, Op, define, node

__all__ = ["softdtw_sqdist"]

FAR = 1e30  # the values outside of the table: they have no weight


# ---------------------------------------------------------------- the definition


def _softdtw(x: torch.Tensor, y: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    r: dict[tuple[int, int], torch.Tensor] = {}
    for i in range(x.shape[-1]):
        for j in range(y.shape[-1]):
            cost = (x[..., i : i + 1] - y[..., j : j + 1]).square()
            ways = [r[p] for p in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if p in r]
            soft = -gamma * torch.logsumexp(torch.stack([-way / gamma for way in ways]), 0) if ways else 0.0
            r[i, j] = cost + soft
    return r[x.shape[-1] - 1, y.shape[-1] - 1]


def _derivative(f: Callable, inputs: tuple[torch.Tensor, ...], u: torch.Tensor | None) -> torch.Tensor:
    """Gradient of f, or of <f, u>, at each pair."""
    recorded = torch.is_grad_enabled() and any(a.requires_grad for a in (*inputs, u) if a is not None)
    shapes = [a.shape[:-1] for a in (*inputs, u) if a is not None]
    shape = torch.broadcast_shapes(*shapes)
    with torch.enable_grad():
        at = [a.expand(*shape, a.shape[-1]) for a in inputs]
        at = [a if a.requires_grad else a.detach().requires_grad_() for a in at]
        value = f(*at) if u is None else f(*at) * u
        found = torch.autograd.grad(value.sum(), at, create_graph=True, materialize_grads=True)
    out = torch.cat(found, -1)
    return out if recorded else out.detach()


def _gradient(x: torch.Tensor, y: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    return _derivative(_softdtw, (x, y, gamma), None)


def _curvature(x: torch.Tensor, y: torch.Tensor, gamma: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return _derivative(_gradient, (x, y, gamma), u)


# ---------------------------------------------------------------- code


class _Numbers:
    """Arithmetic on (value,) or on (value, tangent): tuples of the target's blocks."""

    def __init__(self, t: Any, order: int):
        self.t, self.order = t, order

    def const(self, x: float) -> tuple:
        return (self.t.const(x), self.t.const(0.0))[: self.order]

    def add(self, a: tuple, b: tuple) -> tuple:
        return tuple(map(self.t.add, a, b))

    def sub(self, a: tuple, b: tuple) -> tuple:
        return tuple(map(self.t.sub, a, b))

    def mul(self, a: tuple, b: tuple) -> tuple:
        t = self.t
        tangent = [t.fma(a[0], b[1], t.mul(a[1], b[0]))] if self.order == 2 else []
        return (t.mul(a[0], b[0]), *tangent)

    def inv(self, a: tuple) -> tuple:
        r = self.t.div(self.t.const(1.0), a[0])
        return (r, *(self.t.neg(self.t.mul(self.t.mul(r, r), da)) for da in a[1:]))

    def log(self, a: tuple) -> tuple:
        return (self.t.call("log", a[0]), *(self.t.div(da, a[0]) for da in a[1:]))

    def exp(self, a: tuple) -> tuple:
        t, e = self.t, self.t.call("exp", a[0])
        return (e, *(t.select(t.gt(e, 0.0), t.mul(e, da), 0.0) for da in a[1:]))


class _Array:
    """An array of such numbers in the target's local memory."""

    def __init__(self, numbers: _Numbers, count: int, shape: tuple[int, int]):
        self.parts = [numbers.t.array(count, shape) for _ in range(numbers.order)]

    def get(self, at: Any) -> tuple:
        return tuple(p.get(at) for p in self.parts)

    def set(self, at: Any, value: tuple) -> None:
        for p, v in zip(self.parts, value, strict=True):
            p.set(at, v)


class _Walk:
    """The table of one alignment: cell (i, j) stands in row i + 1 and column j + 1, behind cells far away."""

    def __init__(self, low: Any, e: Expr):
        self.low, self.t, self.e = low, low.e, e
        self.numbers = a = _Numbers(low.e, len(e.args) - 2)
        self.n, self.m = n, m = e.args[0].dim, e.args[1].dim
        self.shape = low.shape(e.axes)
        direction = [low.copied(f) for f in e.args[3:]]
        x, y = low.copied(e.args[0]), low.copied(e.args[1])
        self.x = lambda i: (x.get(i), *(u.get(i) for u in direction))
        self.y = lambda j: (y.get(j), *(u.get(self.t.index_add(j, n)) for u in direction))
        self.gamma = (low.scalar(e.args[2]), *(u.get(n + m) for u in direction))
        self.scale = a.inv(self.gamma)

    def table(self, outside: float) -> _Array:
        count = (self.n + 1) * (self.m + 1)
        out = _Array(self.numbers, count, self.shape)
        with self.t.loop(0, count) as k:
            out.set(k, self.numbers.const(outside))
        return out

    def place(self, i: Any, j: Any) -> Any:
        return self.t.index_add(self.t.index_mul(i, self.m + 1), j)

    def soft(self, r: _Array, i: Any, j: Any) -> tuple[tuple, list[tuple]]:
        """The soft minimum before cell (i, j); and for each way there its place, its value and its weight."""
        t, a = self.t, self.numbers
        up, left = t.index_add(i, 1), t.index_add(j, 1)
        places = (self.place(i, left), self.place(up, j), self.place(i, j))
        ways = [r.get(p) for p in places]
        least = t.minimum(ways[2][0], t.minimum(ways[1][0], ways[0][0]))
        shift = (least, t.const(0.0))[: a.order]  # a constant: the result does not depend on it
        parts = [a.exp(a.mul(a.sub(shift, way), self.scale)) for way in ways]
        total = a.add(a.add(parts[0], parts[1]), parts[2])
        share = a.inv(total)
        weights = [a.mul(part, share) for part in parts]
        value = a.sub(shift, a.mul(self.gamma, a.log(total)))
        return value, list(zip(places, ways, weights, strict=True))

    def forward(self) -> _Array:
        """The table of r."""
        t, a = self.t, self.numbers
        r = self.table(FAR)
        r.set(0, a.const(0.0))
        with t.loop(0, self.n) as i, t.loop(0, self.m) as j:
            value, _ = self.soft(r, i, j)
            d = a.sub(self.x(i), self.y(j))
            r.set(self.place(t.index_add(i, 1), t.index_add(j, 1)), a.add(a.mul(d, d), value))
        return r

    def backward(self) -> _Array:
        """The gradient in x, in y and in gamma, one after the other."""
        t, a, n, m = self.t, self.numbers, self.n, self.m
        r, weight = self.forward(), self.table(0.0)
        weight.set((n + 1) * (m + 1) - 1, a.const(1.0))
        out = _Array(a, n + m + 1, self.shape)
        with t.loop(0, n + m + 1) as k:
            out.set(k, a.const(0.0))
        with t.loop(0, n) as p, t.loop(0, m) as q:
            i = t.index_add(t.index_mul(p, -1), n - 1)
            j = t.index_add(t.index_mul(q, -1), m - 1)
            here = weight.get(self.place(t.index_add(i, 1), t.index_add(j, 1)))
            slope = a.mul(a.mul(a.const(2.0), here), a.sub(self.x(i), self.y(j)))
            of_y = t.index_add(j, n)
            out.set(i, a.add(out.get(i), slope))
            out.set(of_y, a.sub(out.get(of_y), slope))
            value, ways = self.soft(r, i, j)
            for place, way, share in ways:
                weight.set(place, a.add(weight.get(place), a.mul(here, share)))
                value = a.sub(value, a.mul(share, way))
            of_gamma = a.mul(here, a.mul(value, self.scale))
            out.set(n + m, a.add(out.get(n + m), of_gamma))
        return out


def _lower_value(low: Any, e: Expr, d: Any) -> Any:
    walk = _Walk(low, e)
    return walk.forward().get((walk.n + 1) * (walk.m + 1) - 1)[0]


def _lower_derivative(low: Any, e: Expr, d: Any) -> Any:
    return low.once(e, lambda: _Walk(low, e).backward().parts[-1]).get(low.at(d))


# ---------------------------------------------------------------- the ops


def _pieces(g: Expr, e: Expr) -> tuple[Expr, ...]:
    n, m = e.args[0].dim, e.args[1].dim
    return g[:n], g[n : n + m], g[n + m]


def _no_third(e: Expr, g: Expr) -> tuple:
    raise FormulaError("soft-DTW can be differentiated twice, not three times.")


def _memory(tables: int) -> Callable[[Expr], int]:
    return lambda e: tables * (e.args[0].dim + 2) * (e.args[1].dim + 2)


def _whole(dims: tuple[int, ...], attr: tuple) -> int:
    return dims[0] + dims[1] + 1


def _number(dims: tuple[int, ...], attr: tuple) -> int:
    if dims[2] != 1:
        raise FormulaError(f"softdtw_sqdist: gamma is a number, got a vector of dim {dims[2]}.")
    return 1


define(
    Op(
        "softdtw",
        3,
        _number,
        _softdtw,
        lambda e, g: _pieces(node("softdtw_gradient", *e.args) * g, e),
        lower=_lower_value,
        memory=_memory(1),
        doc="soft-DTW of two series, of squared differences",
    )
)
define(
    Op(
        "softdtw_gradient",
        3,
        _whole,
        _gradient,
        lambda e, g: _pieces(node("softdtw_curvature", *e.args, g), e),
        lower=_lower_derivative,
        memory=_memory(2),
        doc="its gradient in x, y and gamma",
        public=False,
    )
)
define(
    Op(
        "softdtw_curvature",
        4,
        _whole,
        _curvature,
        _no_third,
        lower=_lower_derivative,
        memory=_memory(4),
        doc="the derivative of its gradient in a direction",
        public=False,
    )
)


def softdtw_sqdist(x: Expr, y: Expr, gamma: Expr) -> Expr:
    """The cost of aligning the series x and y, of squared differences, with smoothing gamma > 0.

    Twice differentiable, in gamma too.

    Raises
    ------
    FormulaError
        A gamma that is no number.
    """
    return node("softdtw", x, y, gamma)

"""Differential operators on formulas: gradients, divergences, Laplacians, and traces of linear maps.

Every one is exact for every op. A trace is found by structure where it can be (a product, a sum or
a repeated scalar costs one term, whatever the dimension), and component by component elsewhere.
The variable v may be any node of the formula; the rest is held fixed.
"""

from __future__ import annotations

import functools

import torch

from ..errors import FormulaError
from .autodiff import jvp, vjp
from .evaluate import evaluate
from .expr import Expr, Pm, const, node, postorder, substitute, to_string, variables
from .ops import concat, ifelse, total, widen, zero
from .rewrite import simplify
from .vocabulary import word


def grad(f: Expr, v: Expr, e: Expr) -> Expr:
    """The adjoint of the differential of f in v, applied to e: a vector of v's dim.

    Examples
    --------
    >>> from kerngp.engine.expr import Vi, Vj
    >>> x, y, e = Vi(0, 3), Vj(1, 3), Vi(2, 1)
    >>> grad((x | y), x, e)
    mul(expand(Vi(2,1), 3), Vj(1,3))
    """
    _check_place("Grad", f, v)
    _check_dim("Grad", "e", e, f)
    (found,) = vjp(f, widen(e, f.dim), (v,))
    return zero(v.dim) if found is None else found


def diff(f: Expr, v: Expr, u: Expr) -> Expr:
    """The differential of f in v, applied to u: a vector of f's dim."""
    _check_place("Diff", f, v)
    _check_dim("Diff", "u", u, v)
    found = jvp(f, {v: widen(u, v.dim)})
    return zero(f.dim) if found is None else found


def grad_matrix(f: Expr, v: Expr) -> Expr:
    """The Jacobian of f in v by rows: the gradients of f's components, one after the other."""
    return concat(*(grad(f, v, _basis(f.dim, k)) for k in range(f.dim)))


def divergence(f: Expr, v: Expr) -> Expr:
    """sum_k of the derivative of component k of f in component k of v."""
    _check_place("Divergence", f, v)
    if f.dim != v.dim:
        raise FormulaError(
            f"Divergence takes a field of the dim of its variable, got dims {f.dim} and {v.dim}."
        )
    e = _fresh(f, v, dim=f.dim)
    return _trace(grad(f, v, e), e, const(1.0))


def laplacian(f: Expr, v: Expr) -> Expr:
    """The trace of the Hessian in v of a scalar f.

    Examples
    --------
    >>> from kerngp.engine.expr import Vi
    >>> from kerngp.engine.rewrite import simplify
    >>> from kerngp.engine.ops import sqnorm2
    >>> simplify(laplacian(sqnorm2(Vi(0, 5)), Vi(0, 5)))
    10.0
    """
    if f.dim != 1:
        raise FormulaError(f"Laplacian takes a scalar formula, got one of dim {f.dim}.")
    return divergence(grad(f, v, const(1.0)), v)


def trace_operator(f: Expr, v: Expr, w: Expr | None = None) -> Expr:
    """sum_k w_k M_kk for f = M v; a scalar f stands for that value in every component."""
    _check_linear("TraceOperator", f, v)
    if f.dim not in (1, v.dim):
        raise FormulaError(f"TraceOperator takes a formula of dim 1 or {v.dim}, got dim {f.dim}.")
    w = const(1.0) if w is None else w
    _check_dim("TraceOperator", "w", w, v)
    return _trace(widen(f, v.dim), v, w)


def adjoint_operator(f: Expr, v: Expr, u: Expr) -> Expr:
    """M' u for f = M v: a vector of v's dim."""
    _check_linear("AdjointOperator", f, v)
    return grad(f, v, u)


def sum_lin_operator(f: Expr, v: Expr, wl: Expr | None = None, wr: Expr | None = None) -> Expr:
    """sum_kl a_k M_kl b_l for f = M v, weights a (dim 1 or f's) and b (dim 1 or v's)."""
    _check_linear("SumLinOperator", f, v)
    a, b = (const(1.0) if w is None else w for w in (wl, wr))
    _check_dim("SumLinOperator", "wl", a, f)
    _check_dim("SumLinOperator", "wr", b, v)
    return total(widen(a, f.dim) * substitute(f, {v: widen(b, v.dim)}))


# ---------------------------------------------------------------- the trace of a linear formula


def _trace(f: Expr, e: Expr, w: Expr) -> Expr:
    """sum_k w_k M_kk for f = M e, where f and e have one dim and w has it too, or is a scalar."""
    n = f.dim
    inside = _depending(f, e)
    terms: list[Expr] = []
    stack = [(f, w)]
    while stack:
        f, w = stack.pop()
        if f not in inside:
            continue  # linear and free of e: zero
        a = f.args
        if f is e:
            terms.append(total(widen(w, n)))
        elif f.dim == 1 or f.op == "expand":  # s(e) in every component: sum_k w_k s(e_k) = s(w)
            terms.append(substitute(a[0] if f.op == "expand" else f, {e: widen(w, n)}))
        elif f.op in ("add", "sub"):
            stack += [(a[0], w), (a[1], w if f.op == "add" else -w)]
        elif f.op == "neg":
            stack.append((a[0], -w))
        elif f.op == "mul":
            stack.append((a[0], w * a[1]) if a[0] in inside else (a[1], w * a[0]))
        elif f.op == "div":
            stack.append((a[0], w / a[1]))
        elif f.op == "ifelse":
            stack += [(a[1], ifelse(a[0], w, 0.0)), (a[2], ifelse(a[0], 0.0, w))]
        else:
            parts = (substitute(f, {e: _basis(n, k)})[k] for k in range(n))
            terms.append(total(widen(w, n) * concat(*parts)))
    return functools.reduce(Expr.__add__, terms) if terms else const(0.0)


def _depending(f: Expr, v: Expr) -> set[Expr]:
    found: set[Expr] = set()
    for e in postorder(f):
        if e is v or any(a in found for a in e.args):
            found.add(e)
    return found


def _basis(n: int, k: int) -> Expr:
    return const(1.0) if n == 1 else node("elem_t", const(1.0), attr=(n, k))


def _fresh(*formulas: Expr, dim: int) -> Expr:
    """A parameter that none of the formulas reads."""
    free = 1 + max((v.attr[0] for v in variables(*formulas)), default=-1)
    return Pm(free, dim)


# ---------------------------------------------------------------- what is refused


def _check_place(name: str, f: Expr, v: Expr) -> None:
    """A variable may be absent, and the derivative is then zero; a formula that is absent is a mistake."""
    if v.op != "var" and v not in set(postorder(f)):
        raise FormulaError(f"{name}: {to_string(v)} is no variable and no part of {to_string(f)}.")


def _check_dim(name: str, what: str, given: Expr, like: Expr) -> None:
    if given.dim not in (1, like.dim):
        raise FormulaError(f"{name}: {what} has dim {given.dim}; expected 1 or {like.dim}.")


def _check_linear(name: str, f: Expr, v: Expr) -> None:
    """A linear formula has a differential free of v, and vanishes at v = 0."""
    _check_place(name, f, v)
    e = _fresh(f, v, dim=v.dim)
    df = simplify(diff(f, v, e))
    if v in set(postorder(df)) or not _vanishes(substitute(f, {v: zero(v.dim)})):
        raise FormulaError(f"{name}: {to_string(f)} is not linear in {to_string(v)}.")


def _vanishes(f: Expr) -> bool:
    """Whether f is zero at a point of positive numbers (f is constant where this is asked, or zero)."""
    like = torch.empty(0, dtype=torch.float64)
    values = {v.attr[0]: 0.5 + torch.arange(v.attr[1], dtype=torch.float64) / 7 for v in variables(f)}
    return bool((evaluate(f, values, like) == 0).all())


# ---------------------------------------------------------------- words

word("Grad", "fff", grad, "(df/dv)' e")
word("Diff", "fff", diff, "(df/dv) u")
word("GradMatrix", "ff", grad_matrix, "df_k/dv_l, by rows")
word("Divergence", "ff", divergence, "sum_k df_k/dv_k")
word("Laplacian", "ff", laplacian, "sum_k d2f/dv_k2")
word("TraceOperator", "fff", trace_operator, "sum_k w_k M_kk for f = M v", optional=1)
word("AdjointOperator", "fff", adjoint_operator, "M' u for f = M v")
word("SumLinOperator", "ffff", sum_lin_operator, "sum_kl a_k M_kl b_l for f = M v", optional=2)

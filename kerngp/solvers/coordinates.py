"""Kernels of one distance: points u_i such that K_ij depends on |u_i - u_j| alone, found from the formula.

Nearness is then a matter of geometry, and neighbours are found without computing entries of K.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..engine.autodiff import on_axes, rename
from ..engine.evaluate import evaluate
from ..engine.expr import Expr, postorder, substitute, var, variables
from .kernel_operator import KernelOperator
from .operator import LinearOperator

Tensor = torch.Tensor
SAMPLES = 256  # squared distances at which a profile is looked at


def coordinates(K: LinearOperator) -> Tensor | None:
    """Points whose distances order the correlations of K: the nearer, the more correlated.

    Parameters
    ----------
    K : LinearOperator of shape (n, n)

    Returns
    -------
    Tensor of shape (n, D), float64, or None
        None if that is not plain from the formula. Factors that belong to i or to j alone, which leave
        correlations as they are, are disregarded.

    Examples
    --------
    >>> from kerngp.engine.expr import Vi, Vj
    >>> from kerngp.engine.ops import exp, sqdist
    >>> x = torch.tensor([[1.0], [2.0]])
    >>> coordinates(KernelOperator(exp(-sqdist(Vi(0, 1) / 0.5, Vj(1, 1) / 0.5)), (x, x)))
    tensor([[2.],
            [4.]], dtype=torch.float64)
    """
    if not isinstance(K, KernelOperator) or K.blocks != (1, 1) or len(K.shape) != 2:
        return None
    if K.ranges is not None or K.sizes[0] != K.sizes[1]:
        return None
    f, free = _core(K.formula), len(K.args)
    with torch.no_grad():
        for e in postorder(f):
            points = _points(e, K.args)
            if points is None:
                continue
            profile = substitute(f, {e: var(free, 1, "p")})
            if profile.axes <= {"p"}:
                args = [a.double() for a in K.args]
                u = _value(points, args).expand(K.sizes[0], -1)
                return u if _falls(profile, args, u) else None
    return None


def _core(f: Expr) -> Expr:
    """The formula without factors that are not of both i and j."""
    while f.op in ("mul", "div", "neg"):
        both = [a for a in f.args if {"i", "j"} <= a.axes]
        if len(both) != 1 or both[0].dim != 1 or (f.op == "div" and both[0] is f.args[1]):
            break
        f = both[0]
    return f


def _points(e: Expr, args: Sequence[Tensor]) -> Expr | None:
    """u with e = |u(x_i) - u(x_j)|^2, if e is of that form; a formula of i-variables."""
    if e.dim != 1 or not {"i", "j"} <= e.axes:
        return None
    inner, weight = e.args[0] if e.op == "sum" else e, None
    if inner.op == "mul" and inner.args[0] is not inner.args[1]:
        own = [a for a in inner.args if a.axes <= {"p"}]
        if len(own) != 1:
            return None
        weight = own[0]
        inner = inner.args[1] if inner.args[0] is weight else inner.args[0]
    if inner.op not in ("square", "mul") or inner.args[0].op != "sub":
        return None
    a, b = inner.args[0].args
    if a.axes - {"p"} != {"i"}:
        a, b = b, a
    if a.axes - {"p"} != {"i"} or b.axes - {"p"} != {"j"} or a.dim != b.dim:
        return None
    if _merged(a, args) is not _merged(on_axes(b, {"j": "i", "p": "p"}), args):
        return None
    return a if weight is None else a * weight**0.5


def _merged(f: Expr, args: Sequence[Tensor]) -> Expr:
    """The formula with one variable for arguments that are one array."""
    first: dict[tuple, int] = {}
    for k, a in enumerate(args):
        first.setdefault(_identity(a), k)
    return rename(f, {v.attr[0]: first[_identity(args[v.attr[0]])] for v in variables(f)})


def _identity(a: Tensor) -> tuple:
    return (a.data_ptr(), a.shape, a.stride(), a.dtype)


def _value(f: Expr, args: Sequence[Tensor]) -> Tensor:
    return evaluate(f, dict(enumerate(args)), torch.zeros((), dtype=torch.float64, device=args[0].device))


def _falls(profile: Expr, args: Sequence[Tensor], u: Tensor) -> bool:
    """Whether |profile| does not grow with the squared distance, as far as the points reach."""
    reach = float((u.amax(0) - u.amin(0)).square().sum()) if len(u) else 0.0
    if not 0 < reach < float("inf"):
        return False
    q = torch.logspace(-12, 0, SAMPLES, dtype=u.dtype, device=u.device).unsqueeze(-1) * reach
    values = _value(profile, [*args, torch.cat([q.new_zeros(1, 1), q])]).abs().flatten()
    if len(values) == 1 or not bool(torch.isfinite(values).all()):
        return False
    return bool((values.diff() <= 1e-9 * values[0]).all())

"""Formulas whose pairs meet in one inner product: what tensor cores can compute.

After `rewrite.expand_distances` and `hoist`, a squared distance reads relu(<U_i, V_j> + (a_i + b_j)). A plan
has tensor form if its values depend on the pair through one such node alone, and smoothly: the inner
product of split numbers is off by some 1e-6 of a_i + b_j, which a square root at 0 would magnify.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .expr import Expr, postorder

SMOOTH = ("exp_scaled", "matern32_profile", "matern52_profile")
LINEAR = ("mul", "add", "sub", "neg", "expand")
LONG = 16  # from this dimension on, expanding is what the default precision does with any formula


@dataclass(frozen=True)
class TensorForm:
    """relu(<U, V> + (a + b)), with U and a fields of i, V and b fields of j.

    ``exponential`` is exp(c relu(...)) where that is the only use of the node, else None.
    """

    node: Expr
    U: Expr
    V: Expr
    a: Expr
    b: Expr
    exponential: Expr | None

    @property
    def scale(self) -> float:
        """Factor of the inner product: the exponential is 2 to its power."""
        return 1.0 if self.exponential is None else self.exponential.attr[0] * 1.4426950408889634


def tensor_form(cores: Sequence[Expr]) -> TensorForm | None:
    """The form of the cores of a plan, over fields; None if they have none."""
    found = {e for f in cores for e in postorder(f) if e.op == "relu" and _is_distance(e)}
    if len(found) != 1:
        return None
    (node,) = found
    inner, sides = node.args[0].args
    U, V = inner.args[0].args
    a, b = sides.args
    if U.attr[2] == "j":
        U, V = V, U
    if a.attr[2] == "j":
        a, b = b, a
    users = {e for f in cores for e in postorder(f) if node in e.args}
    pairs = {e for f in cores for e in postorder(f) if {"i", "j"} <= e.axes and e not in set(postorder(node))}
    if U.dim <= LONG:
        allowed = all(u.op in SMOOTH for u in users) or all(f is node or f.op == "neg" for f in cores)
        if not allowed or any(e.op not in (*SMOOTH, *LINEAR) for e in pairs):
            return None
    alone = len(users) == 1 and node not in cores
    (user,) = users if alone else (None,)
    return TensorForm(node, U, V, a, b, user if user is not None and user.op == "exp_scaled" else None)


def _is_distance(e: Expr) -> bool:
    x = e.args[0]
    if x.op != "add" or x.args[0].op != "sum" or x.args[1].op != "add":
        return False
    product, sides = x.args[0].args[0], x.args[1].args
    if product.op != "mul" or any(v.op != "var" for v in (*product.args, *sides)):
        return False
    axes = [{v.attr[2] for v in pair} for pair in (product.args, sides)]
    return axes == [{"i", "j"}, {"i", "j"}] and product.args[0].dim == product.args[1].dim

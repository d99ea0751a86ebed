"""The value of a formula on torch tensors, op by op: what every other way of computing it must agree with."""

from __future__ import annotations

import torch

from .expr import OPS, Expr, postorder

Tensor = torch.Tensor


def evaluate(f: Expr, values: dict[int, Tensor], like: Tensor) -> Tensor:
    """Value of a formula; ``values`` maps variable indices to broadcastable tensors (..., dim)."""
    return evaluate_all((f,), values, like)[0]


def evaluate_all(formulas: tuple[Expr, ...], values: dict[int, Tensor], like: Tensor) -> tuple[Tensor, ...]:
    """Values of several formulas of the same variables; what they share is computed once."""
    memo: dict[Expr, Tensor] = {}
    for e in postorder(*formulas):
        if e.op == "var":
            memo[e] = values[e.attr[0]]
        elif e.op == "const":
            memo[e] = like.new_tensor(e.attr[0]).reshape(1)
        else:
            memo[e] = OPS[e.op].reference(*(memo[a] for a in e.args), *e.attr)
    return tuple(memo[f] for f in formulas)

"""Kernel linear systems from a formula: (alpha I + K) a = b."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..engine.arrays import adopt, is_number, kind_of, restore
from ..engine.autodiff import transpose, vjp
from ..engine.expr import Expr, const, postorder, variables
from ..engine.ops import concat, value_of, zero
from ..engine.ranges import Ranges
from ..errors import FormulaError, OptionError, ShapeError
from .checks import everywhere, require_square
from .kernel_operator import KernelOperator
from .operator import LinearOperator, as_operator, identity
from .path import solve_path
from .resolve import Method, Recipe
from .solution import Progress
from .solve import solve

Tensor = torch.Tensor
COARSE = ("float32", "float16")  # ends of the names of dtypes, bfloat16 among them


def kernel_solve(
    K: Any,
    b: Any,
    alpha: float | Tensor | Sequence[float] = 1e-10,
    eps: float | None = None,
    *,
    rtol: float | None = None,
    method: Method | str = "auto",
    preconditioner: LinearOperator | Recipe | str | None = None,
    max_iter: int | None = None,
    time_limit: float | None = None,
    x0: Any = None,
    callback: Callable[[Progress], Any] | None = None,
    on_fail: str = "warn",
    progress: bool = False,
    return_info: bool = False,
) -> Any:
    """The solution a of (alpha I + K) a = b.

    It always returns: after ``max_iter`` iterations at the latest, and at once if b holds a NaN.

    Parameters
    ----------
    K : LinearOperator or array of shape (*batch, N, N), symmetric, positive semi-definite
    b : array of shape (N,), (N, E) or (*batch, N, E)
    alpha : float, tensor with one element, or many in a list or vector
        At least 0. Many alphas are solved for at once, see `solve_path`.
    eps, rtol : float
        Relative residual at which to stop; ``eps`` is KeOps's name for it. Default for a method given by
        its name: 1e-6, and 1e-4 for b in float32 or less, whose solution cannot be rounded much better.
    method, preconditioner, max_iter, time_limit, x0, callback, on_fail, progress
        As for `solve`.
    return_info : bool
        Return the `Solution` as well: how the solve went, and ``explain()``.

    Returns
    -------
    array like b, with a leading axis for many alphas; differentiable in b, in alpha and in everything K
    is made of. With ``return_info`` a pair, the `Solution` second.

    Raises
    ------
    ShapeError, DTypeError, DeviceError, OptionError
        If the arguments do not fit together.

    Examples
    --------
    >>> import torch
    >>> from kerngp.solvers import Dense
    >>> K = Dense(torch.eye(2), psd=True)
    >>> kernel_solve(K, torch.tensor([2.0, 4.0]), alpha=1.0)
    tensor([1., 2.])
    >>> kernel_solve(K, torch.tensor([2.0, 4.0]), alpha=[1.0, 3.0])
    tensor([[1.0000, 2.0000],
            [0.5000, 1.0000]])
    """
    K = as_operator(K)
    require_square(K, "kernel_solve")
    if eps is not None and rtol is not None:
        raise OptionError(f"eps={eps!r} and rtol={rtol!r} are two names of one tolerance; give one of them.")
    tol = rtol if eps is None else eps
    if tol is None and isinstance(method, str) and str(getattr(b, "dtype", "")).endswith(COARSE):
        tol = 1e-4
    settings: dict[str, Any] = {
        "preconditioner": preconditioner,
        "tol": tol,
        "max_iter": max_iter,
        "time_limit": time_limit,
        "x0": x0,
        "callback": callback,
        "on_fail": on_fail,
        "progress": progress,
    }
    if _are_many(alpha):
        found = solve_path(K, b, alpha, method, **settings)  # type: ignore[arg-type]
    else:
        diagonal = _one(alpha, K.device) * identity(K.shape[-1], device=K.device)
        found = solve(K + diagonal, b, method, **settings)
    return (found.x, found) if return_info else found.x


def _are_many(alpha: Any) -> bool:
    """A list or a vector, but for a tensor with one element, which stands for a number."""
    if isinstance(alpha, (list, tuple)):
        return True
    return isinstance(alpha, (Tensor, np.ndarray)) and alpha.ndim == 1 and alpha.shape[0] != 1


def _one(alpha: Any, device: torch.device) -> float | Tensor:
    if is_number(alpha):
        if alpha >= 0:
            return float(alpha)
    elif isinstance(alpha, (Tensor, np.ndarray)) and alpha.dtype not in (bool, torch.bool):
        if tuple(alpha.shape) not in ((), (1,)):
            raise ShapeError(
                f"alpha has shape {tuple(alpha.shape)}; expected one number, or a vector of them."
            )
        value = torch.as_tensor(alpha, device=device).reshape(())
        value = value if value.is_floating_point() else value.double()
        if everywhere(value.detach() >= 0):
            return value
    raise OptionError(f"alpha={alpha!r}: expected a number of at least 0, or several in a list.")


class KernelSystem:
    """A kernel linear system as a function of its arrays; `kerngp.torch.KernelSolve` is the same for strings.

    The formula is that of the product K b, linear in the variable b; calling the object solves
    (alpha I + K) a = b for a, b being the array given for that variable.

    Parameters
    ----------
    formula : Expr
    index : int
        Which variable is b: its position among the arguments.
    axis : {1, 0}
        1 if the product sums over j (b is a j-variable), 0 if it sums over i.

    Examples
    --------
    >>> import torch
    >>> from kerngp.engine.expr import Vi, Vj
    >>> from kerngp.engine.ops import exp, sqdist
    >>> formula = exp(-sqdist(Vi(0, 2), Vj(1, 2))) * Vj(2, 1)
    >>> x, b = torch.rand(50, 2), torch.rand(50, 1)
    >>> a = KernelSystem(formula, 2)(x, x, b, alpha=0.1)
    >>> a.shape
    torch.Size([50, 1])
    """

    def __init__(self, formula: Expr, index: int, axis: int = 1):
        if not isinstance(formula, Expr):
            raise FormulaError(f"formula is a {type(formula).__name__}; expected an Expr.")
        if axis not in (0, 1):
            raise OptionError(f"axis={axis!r}: expected 1 (the sum goes over j) or 0 (over i).")
        self.formula, self.index, self.axis = formula, index, axis
        self.matrix, self.blocks = matrix_of(formula if axis == 1 else transpose(formula), index)

    def __call__(
        self,
        *args: Any,
        alpha: float | Tensor | Sequence[float] = 1e-10,
        ranges: Ranges | tuple | None = None,
        x0: Any = None,
        return_info: bool = False,
        **settings: Any,
    ) -> Any:
        """Solve, with ``args`` the arrays of all variables in order.

        ``ranges`` are blocks of pairs (i, j); K is 0 elsewhere. All other keywords are those of
        `kernel_solve`.

        Returns
        -------
        array like the one given for b, with a leading axis for many alphas; differentiable in all arrays
        and in alpha. With ``return_info`` a pair, the `Solution` second.
        """
        if len(args) <= self.index:
            raise ShapeError(f"got {len(args)} arrays, but the right-hand side is number {self.index}.")
        b = args[self.index]
        tensors = _adopted(args)
        target = tensors[self.index]
        if ranges is not None and self.axis == 0:
            ranges = Ranges.of(ranges).swap_axes()
        K = KernelOperator(
            self.matrix,
            tensors,
            self._sizes(tensors),
            symmetric=True,
            psd=True,
            blocks=self.blocks,
            ranges=ranges,
        )
        start = None if x0 is None else self._unknowns("x0", adopt("x0", x0), target)
        x, info = kernel_solve(
            K, self._unknowns("b", target, target), alpha, x0=start, return_info=True, **settings
        )
        if self.blocks[1] > 1:
            x = x.reshape(*x.shape[:-2], *target.shape[-2:])
        x = restore(x, kind_of(b))
        return (x, replace(info, x=x)) if return_info else x

    def _unknowns(self, name: str, t: Tensor, target: Tensor) -> Tensor:
        """A row of b as one block of unknowns or, for a scalar kernel, one unknown in several systems."""
        q = self.blocks[1]
        if q == 1:
            return t
        if t.shape[-2:] != target.shape[-2:]:
            raise ShapeError(
                f"{name} has shape {tuple(t.shape)}, b {tuple(target.shape)}; they must be equal."
            )
        return t.reshape(*t.shape[:-2], -1).unsqueeze(-1)

    def _sizes(self, tensors: Sequence[Tensor]) -> tuple[int, int]:
        n = tensors[self.index].shape[-2]
        return n, n


def _adopted(args: Sequence[Any]) -> tuple[Tensor, ...]:
    given: dict[int, Tensor] = {}
    return tuple(given.setdefault(id(a), adopt(f"argument {k}", a)) for k, a in enumerate(args))


def matrix_of(formula: Expr, index: int) -> tuple[Expr, tuple[int, int]]:
    """The entries K_ij of a product formula that is linear in variable ``index``: (formula, blocks).

    A scalar kernel times b has 1 x 1 blocks, however many columns b has.

    Raises
    ------
    FormulaError
        If there is no such j-variable, or the formula is not linear in it.
    """
    found = [v for v in variables(formula) if v.attr[0] == index]
    if not found:
        raise FormulaError(f"variable {index} does not occur in the formula {formula!r}.")
    b = found[0]
    if b.attr[2] != "j":
        raise FormulaError(
            f"variable {index} is {b!r}; the right-hand side must be indexed by the axis of the sum."
        )
    if formula.dim != b.dim:
        raise FormulaError(
            f"the formula has dim {formula.dim}, the right-hand side {b.dim}; they must be equal."
        )
    if formula.op == "mul":
        for k, other in (formula.args, formula.args[::-1]):
            if other is b and k.dim == 1 and b not in variables(k):
                return k, (1, 1)
    if not _is_linear(formula, b):
        raise FormulaError(f"the formula {formula!r} is not linear in variable {index}.")
    q, rows = b.dim, []
    for c in range(q):
        (row,) = vjp(formula[c] if q > 1 else formula, const(1.0), (b,))
        rows.append(zero(q) if row is None else row)
    return concat(*rows), (q, q)


_MOVES = ("neg", "sum", "expand", "elem", "elem_t", "extract", "extract_t", "concat", "add", "sub")


def _is_linear(formula: Expr, b: Expr) -> bool:
    """Whether the form of the formula shows that it is linear in b: every product has b exactly once."""
    linear: dict[Expr, bool | None] = {}  # None: does not depend on b
    for e in postorder(formula):
        kinds = [linear[a] for a in e.args]
        if e is b:
            linear[e] = True
        elif all(k is None for k in kinds):
            linear[e] = None
        elif e.op in _MOVES:
            linear[e] = all(k or (k is None and value_of(a) == 0.0) for k, a in zip(kinds, e.args))
        elif e.op == "mul":
            linear[e] = None in kinds and True in kinds
        else:
            linear[e] = e.op == "div" and kinds[0] is True and kinds[1] is None
    return linear[formula] is True

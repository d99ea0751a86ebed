"""LazyTensors as linear systems: `operator` and `solve`, the methods that stand above the solvers."""

from __future__ import annotations

from typing import Any

from ..engine.arrays import is_number, restore
from ..errors import FormulaError, OptionError, ShapeError
from .reduce import chosen, concrete
from .tensor import LazyTensor


def operator(self: LazyTensor, *, symmetric: bool = False, psd: bool = False, **settings: Any) -> Any:
    """The matrix as a `kerngp.solvers.KernelOperator`, to be added to, solved with and preconditioned."""
    from ..solvers import KernelOperator

    if self.is_complex:
        raise FormulaError("operators and solvers are real; K is complex: take its parts, K.real and K.imag.")
    if self.expr.dim != 1:
        raise ShapeError(
            f"an operator needs scalar entries, but K has shape {self.shape}: reduce its last axis."
        )
    o = concrete(self.operands)
    options = chosen(settings)
    return KernelOperator(self.expr, o.tensors(), o.sizes, symmetric=symmetric, psd=psd, options=options)


def solve(
    self: LazyTensor,
    other: Any,
    var: None = None,
    call: bool = True,
    *,
    alpha: float = 1e-10,
    eps: float = 1e-6,
    max_iter: int = 1000,
    preconditioner: Any = None,
    **settings: Any,
) -> Any:
    """x with (K + alpha I) x = b, for a symmetric positive definite K; differentiable.

    Parameters
    ----------
    other : array (N,) or (..., N, E), or a LazyTensor made of one
        The right-hand side b.
    alpha : float
        Non-negative ridge.
    eps : float
        Tolerance on the residual, relative to b, in every column.
    max_iter : int
    preconditioner : optional
        As for `kerngp.solvers.solve`, which also tells how a solve went.

    Returns
    -------
    array like b. A solve that fails warns with `ConvergenceWarning`.
    """
    from ..solvers import CG, identity
    from ..solvers import solve as solve_system

    if var is not None or not call:
        raise FormulaError(
            "solve(var=..., call=False) is not part of this version; solve for K x = b directly."
        )
    if not is_number(alpha) or not alpha >= 0:
        raise OptionError(f"alpha={alpha!r}: expected a number >= 0.")
    b = other
    if isinstance(other, LazyTensor):
        if other.expr.op != "var":
            raise FormulaError(f"the right-hand side is a formula, {other.expr}; expected an array.")
        b = restore(concrete(other.operands).tensors()[0], other.operands.kind)
    K = operator(self, psd=True, **settings)
    A = K + alpha * identity(K.shape[-1], dtype=K.torch_dtype, device=K.device)
    return solve_system(A, b, CG(tol=eps, max_iter=max_iter), preconditioner=preconditioner).x

"""LazyTensors as linear operators: products, SciPy's protocol, `operator` and `solve`, above the solvers."""

from __future__ import annotations

import functools
from typing import Any

import torch

from ..engine.arrays import kind_of, restore
from ..engine.reductions import SUM
from ..errors import FormulaError, ShapeError
from .pairs import visible
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
    ranges = settings.pop("ranges", None) or o.ranges
    options = chosen(settings)
    return KernelOperator(
        visible(self.expr, o.keep, SUM),
        o.tensors(),
        o.sizes,
        symmetric=symmetric,
        psd=psd,
        options=options,
        ranges=ranges,
    )


def truncate(
    self: LazyTensor, tol: float, *, symmetric: bool = False, psd: bool = False, **settings: Any
) -> Any:
    """The matrix without the entries that are small, as an operator that does not visit them.

    Points are put in order along trees of boxes; what an entry can be at most is bounded for pairs of
    boxes by interval arithmetic over the formula, and blocks whose bound is at most ``tol`` are left
    out. It pays where the kernel decays within a part of the points' extent, in few dimensions.

    Parameters
    ----------
    tol : float
        Every entry that is left out has ``|K_ij| <= tol``. So ``|(K b - K.truncate(tol) b)_i| <= tol *
        sum_j |b_j|`` for every b, beside rounding, and the same for the transpose.
    symmetric, psd : bool
        What is known of the matrix, as for `operator`. Truncation keeps a matrix symmetric; it may take
        eigenvalues below 0, by at most ``tol * N``.

    Returns
    -------
    kerngp.solvers.LinearOperator
        In the caller's order of points, differentiable in all arrays of the formula: its gradient is
        that of the entries that stay. ``.base.ranges.pairs`` counts them.

    Raises
    ------
    ShapeError, FormulaError, OptionError
        Entries that are not scalar, batch axes, a LazyTensor with ranges, a negative tolerance.

    Examples
    --------
    >>> import torch
    >>> from kerngp.lazytensor import Vi, Vj
    >>> x = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
    >>> K = (-((Vi(x) - Vj(x)) ** 2).sum(-1) / 0.001).exp()
    >>> near = K.truncate(1e-6)
    >>> near.base.ranges.pairs / 2000**2 < 0.3
    True
    >>> float(abs(near @ torch.ones(2000) - K.sum(axis=1).flatten()).max()) < 2000 * 1e-6
    True
    """
    from ..engine.truncate import near_pairs
    from ..solvers import KernelOperator
    from ..solvers.permuted import Permuted

    if self.is_complex:
        raise FormulaError("truncate takes a real K; this one is complex: take its parts, K.real and K.imag.")
    if self.expr.dim != 1:
        raise ShapeError(
            f"truncate needs scalar entries, but K has shape {self.shape}: reduce its last axis."
        )
    o = concrete(self.operands)
    if o.ranges is not None:
        raise FormulaError("this LazyTensor has ranges already; truncate one that has none.")
    expr, args = visible(self.expr, o.keep, SUM), list(o.tensors())
    near = near_pairs(expr, args, tol, sizes=o.sizes)
    for k, axis in enumerate(o.axes):
        if axis != "p":
            args[k] = args[k].index_select(-2, near.rows if axis == "i" else near.columns)
    K = KernelOperator(
        expr,
        args,
        o.sizes,
        symmetric=symmetric,
        psd=psd,
        options=chosen(settings),
        ranges=near.ranges,
    )
    return Permuted(K, near.rows, near.columns)


def compose(A: Any, B: Any) -> Any:
    """A B as an operator that applies one after the other; LazyTensors or operators."""
    from ..solvers.product import compose as product

    A, B = (operator(X) if isinstance(X, LazyTensor) else X for X in (A, B))
    return product(A, B)


def matvec(self: LazyTensor, v: Any) -> Any:
    """``K @ v`` for v of any real or complex dtype, the name scipy.sparse.linalg looks for."""
    return _lenient(self, v)


def matmat(self: LazyTensor, v: Any) -> Any:
    """``K @ v`` for v (N, E) of any real or complex dtype, the name scipy.sparse.linalg looks for."""
    return _lenient(self, v)


def rmatvec(self: LazyTensor, v: Any) -> Any:
    """The (conjugate) transpose times v, the name scipy.sparse.linalg looks for."""
    return _lenient(_adjoint(self), v)


def rmatmat(self: LazyTensor, v: Any) -> Any:
    """The (conjugate) transpose times v (M, E), the name scipy.sparse.linalg looks for."""
    return _lenient(_adjoint(self), v)


def _adjoint(K: LazyTensor) -> LazyTensor:
    from .complex import ComplexLazyTensor

    return (K.conj() if isinstance(K, ComplexLazyTensor) else K).t()


def _lenient(K: LazyTensor, v: Any) -> Any:
    """K v in K's precision, returned in v's."""
    t, own = torch.as_tensor(v), K.operands.dtype
    wanted = t.dtype if own is None else own.to_complex() if t.is_complex() else own
    out = torch.as_tensor(K @ t.to(wanted))
    floating = t.is_floating_point() or t.is_complex()
    return restore(out.to(t.dtype) if floating and t.is_complex() == out.is_complex() else out, kind_of(v))


def solve(
    self: LazyTensor,
    other: Any,
    var: None = None,
    call: bool = True,
    *,
    alpha: Any = 1e-10,
    eps: float | None = None,
    rtol: float | None = None,
    method: Any = "auto",
    preconditioner: Any = None,
    max_iter: int | None = None,
    time_limit: float | None = None,
    x0: Any = None,
    callback: Any = None,
    on_fail: str = "warn",
    progress: bool = False,
    return_info: bool = False,
    **settings: Any,
) -> Any:
    """x with (K + alpha I) x = b, for a symmetric positive definite K; differentiable, to any order.

    Parameters
    ----------
    other : array (N,) or (..., N, E), or a LazyTensor made of one
        The right-hand side b.
    call : bool
        False returns a function of no arguments that solves.
    alpha : float, tensor with one element, or many in a list or vector
        Non-negative ridge. Many are solved for at once.
    eps, rtol : float
        Tolerance on the residual, relative to b, in every column: two names, KeOps's is ``eps``. Default
        1e-6, for float32 1e-4.
    method, preconditioner, max_iter, time_limit, x0, callback, on_fail, progress
        As for `kerngp.solvers.solve`. By default the method is chosen by measuring.
    return_info : bool
        Return how the solve went as well, a `kerngp.solvers.Solution`.
    **settings
        As for reductions: ``backend`` and others.

    Returns
    -------
    array like b, with a leading axis for many alphas. A solve that fails warns with `ConvergenceWarning`.
    """
    from ..solvers import kernel_solve

    if var is not None:
        raise FormulaError("solve(var=...) is not part of this version; solve for K x = b directly.")
    b = other
    if isinstance(other, LazyTensor):
        if other.expr.op != "var":
            raise FormulaError(f"the right-hand side is a formula, {other.expr}; expected an array.")
        b = restore(concrete(other.operands).tensors()[0], other.operands.kind)
    K = operator(self, psd=True, **settings)
    run = functools.partial(
        kernel_solve,
        K,
        b,
        alpha,
        eps,
        rtol=rtol,
        method=method,
        preconditioner=preconditioner,
        max_iter=max_iter,
        time_limit=time_limit,
        x0=x0,
        callback=callback,
        on_fail=on_fail,
        progress=progress,
        return_info=return_info,
    )
    return run() if call else run

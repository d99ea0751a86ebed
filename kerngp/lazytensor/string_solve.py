"""Kernel linear systems of formulas written as strings: KeOps's `KernelSolve`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from .. import options as _options
from ..engine.arrays import restore
from ..engine.parse import parse_formula
from ..errors import FormulaError
from ..solvers import KernelSystem
from .arguments import gather, in_order, written
from .genred import check_axis, check_switches, settings_of
from .reduce import chosen


class KernelSolve:
    """The solution a of (alpha I + K) a = b, as a function of arrays.

    Parameters
    ----------
    formula : str
        The product K b: linear in one variable, with K symmetric and positive semi-definite.
    aliases : list of str
        As for `Genred`.
    varinvalias : str
        The name of the variable b, or "Var(index, dim, cat)".
    axis : {0, 1}
        1 if the product sums over j (b is a j-variable), 0 if it sums over i.
    dtype_acc, use_double_acc, sum_scheme, enable_chunks, rec_multVar_highdim, use_fast_math
        Accepted, without effect.
    dtype, cuda_type, opt_arg
        Deprecated or meaningless; ignored.

    Raises
    ------
    FormulaError
        The formula is not linear in the variable, or there is no such variable.

    Notes
    -----
    KeOps stops when the root of the mean of all squared residuals is below ``eps``; here every column
    stops when its residual is below ``eps`` times the norm of that column of b. So the answer does not
    depend on the units of b, and no column is neglected because others are large. A solve always ends.

    Examples
    --------
    >>> import torch
    >>> solve = KernelSolve("Exp(-SqDist(x, y)) * b", ["x = Vi(2)", "y = Vj(2)", "b = Vj(1)"], "b", axis=1)
    >>> x, b = torch.rand(50, 2), torch.rand(50, 1)
    >>> solve(x, x, b, alpha=0.1).shape
    torch.Size([50, 1])
    """

    def __init__(
        self,
        formula: str,
        aliases: Sequence[str],
        varinvalias: str,
        axis: int = 0,
        *,
        dtype_acc: str = "auto",
        use_double_acc: bool = False,
        sum_scheme: str = "auto",
        enable_chunks: bool = True,
        rec_multVar_highdim: Any = None,
        dtype: Any = None,
        cuda_type: Any = None,
        opt_arg: Any = None,
        use_fast_math: bool = True,
    ) -> None:
        check_axis(axis)
        check_switches(dtype, cuda_type, dtype_acc, use_double_acc, sum_scheme)
        self.formula, self.aliases, self.axis = formula, tuple(aliases), axis
        parsed = parse_formula(formula, self.aliases)
        self._arguments = in_order(parsed.arguments)
        wanted = varinvalias.replace(" ", "")
        found = [a for a in self._arguments if wanted == a.name.replace(" ", "")]
        if not found and wanted.startswith("Var("):
            number = wanted[4:].partition(",")[0]
            found = [a for a in self._arguments if str(a.index) == number]
        if not found:
            names = ", ".join(written(a) for a in self._arguments)
            raise FormulaError(f"varinvalias={varinvalias!r} is not among the variables: {names}.")
        self._system = KernelSystem(parsed.expr, found[0].index, axis)

    def __call__(
        self,
        *args: Any,
        backend: str = "auto",
        device_id: int = -1,
        alpha: Any = 1e-10,
        eps: float | None = None,
        ranges: Any = None,
        rtol: float | None = None,
        method: Any = "auto",
        preconditioner: Any = None,
        max_iter: int | None = None,
        time_limit: float | None = None,
        x0: Any = None,
        callback: Callable[..., Any] | None = None,
        on_fail: str = "warn",
        progress: bool = False,
        return_info: bool = False,
    ) -> Any:
        """The solution for these arrays.

        Parameters
        ----------
        *args : arrays
            One for each alias, as for `Genred`; the one for ``varinvalias`` is the right-hand side b.
        backend, device_id
            As for `Genred`.
        alpha : float, tensor with one element, or many in a list or vector
            Ridge, at least 0. Many are solved for at once, for about the products of the smallest.
        eps, rtol : float
            Residual at which to stop, relative to b: two names, KeOps's is ``eps``. Default 1e-6, for
            float32 1e-4.
        ranges : tuple, optional
            Blocks of pairs, as `kerngp.torch.cluster.from_matrix` makes them: K is 0 elsewhere.
        method, preconditioner, max_iter, time_limit, x0, callback, on_fail, progress
            As for `kerngp.solvers.solve`. By default the method is chosen by measuring.
        return_info : bool
            Return how the solve went as well, a `kerngp.solvers.Solution`.

        Returns
        -------
        array like b, with a leading axis for many alphas; differentiable, to any order, in all tensors
        and in alpha. A solve that fails warns with `ConvergenceWarning`.
        """
        operands = gather(self._arguments, args)
        settings = chosen(settings_of(operands, backend, device_id, None))
        with _options.options(**({} if settings is None else {"backend": settings.backend})):
            found, info = self._system(
                *operands.tensors(),
                alpha=alpha,
                eps=eps,
                ranges=ranges,
                rtol=rtol,
                method=method,
                preconditioner=preconditioner,
                max_iter=max_iter,
                time_limit=time_limit,
                x0=x0,
                callback=callback,
                on_fail=on_fail,
                progress=progress,
                return_info=True,
            )
        x = restore(found, operands.kind)
        return (x, replace(info, x=x)) if return_info else x

    def __repr__(self) -> str:
        names = ", ".join(written(a) for a in self._arguments)
        return f"KernelSolve({self.formula!r}, [{names}], axis={self.axis})"

"""Reductions of formulas written as strings: KeOps's `Genred`, for the arrays of any library."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from ..engine.folds import WEIGHTED
from ..engine.operands import Operands
from ..engine.parse import parse_formula
from ..engine.reduction import Reduction
from ..engine.reductions import named
from ..errors import DeviceError, FormulaError, OptionError
from .arguments import gather, in_order, written
from .reduce import Settings
from .tensor import _lazy, sized

_ACCUMULATORS = ("auto", "float16", "float32", "float64")
_SCHEMES = ("auto", "direct_sum", "block_sum", "kahan_scheme")


class Genred:
    """A reduction of a formula over i or j, as a function of arrays.

    Parameters
    ----------
    formula : str
        The values F(x_i, y_j, p) in KeOps's language, such as "Exp(-G*SqDist(x,y)) * b".
    aliases : list of str
        What the names stand for: "x = Vi(3)" has an array (..., M, 3) indexed by i, "y = Vj(3)" one of
        shape (..., N, 3) indexed by j, "G = Pm(1)" is a parameter (..., 1), the same for all pairs.
        "x = Vi(0, 3)" also says which argument of a call it is; otherwise the place in the list does.
    reduction_op : str or Reduction
        "Sum", "LogSumExp", "SumSoftMaxWeight", "Min", "ArgMin", "Min_ArgMin", "KMin", ..., in any case; or
        one made by `kerngp.define_reduction`.
    axis : {0, 1}
        0 reduces over i and returns (..., N, D); 1 reduces over j and returns (..., M, D).
    opt_arg : int, optional
        K, for "KMin", "KMax" and their relatives.
    formula2 : str, optional
        The weights, for "SumSoftMaxWeight", "LogSumExp" and the like.
    dtype_acc, use_double_acc, sum_scheme, enable_chunks, rec_multVar_highdim, use_fast_math
        Accepted, without effect: sums are always accumulated in double precision over blocks.
    dtype, cuda_type
        Deprecated: the arrays say what their dtype is.

    Raises
    ------
    FormulaError, OptionError

    Examples
    --------
    >>> import torch
    >>> K = Genred("Exp(-SqDist(x, y)) * b", ["x = Vi(3)", "y = Vj(3)", "b = Vj(2)"], axis=1)
    >>> K(torch.zeros(4, 3), torch.zeros(5, 3), torch.ones(5, 2)).shape
    torch.Size([4, 2])
    """

    def __init__(
        self,
        formula: str,
        aliases: Sequence[str],
        reduction_op: str | Reduction = "Sum",
        axis: int = 0,
        dtype: Any = None,
        opt_arg: int | None = None,
        formula2: str | None = None,
        cuda_type: Any = None,
        dtype_acc: str = "auto",
        use_double_acc: bool = False,
        sum_scheme: str = "auto",
        enable_chunks: bool = True,
        rec_multVar_highdim: Any = False,
        use_fast_math: bool = True,
    ) -> None:
        check_axis(axis)
        check_switches(dtype, cuda_type, dtype_acc, use_double_acc, sum_scheme)
        self.formula, self.aliases, self.formula2 = formula, tuple(aliases), formula2
        self.reduction_op, self.axis, self.opt_arg = reduction_op, axis, opt_arg
        self._reduction = _reduction(reduction_op, opt_arg, formula2)
        parsed = parse_formula(formula, self.aliases)
        weights = parse_formula(formula2, self.aliases) if formula2 is not None else None
        self._expr, self._weights = parsed.expr, None if weights is None else weights.expr
        self._arguments = in_order(parsed.arguments, weights.arguments if weights else ())

    def __call__(
        self,
        *args: Any,
        backend: str = "auto",
        device_id: int = -1,
        ranges: Any = None,
        out: Any = None,
    ) -> Any:
        """The reduction of these arrays.

        Parameters
        ----------
        *args : arrays
            One for each alias, in order: (..., M, dim) for Vi, (..., N, dim) for Vj, (..., dim) or a
            number for Pm. Leading axes are batch axes and broadcast.
        backend : str
            "auto", "CPU" or "GPU"; KeOps's "GPU_1D" and the like count as "GPU".
        device_id : int
            Arrays on a GPU are computed where they are; another number than theirs is an error.
        ranges : tuple, optional
            Block-sparse reduction.
        out : array, optional
            Where to write the result.

        Returns
        -------
        array, or a pair of arrays for "Min_ArgMin" and its relatives. (..., M, D) or (..., N, D), in the
        library of the arrays; indices are int64. "KMin" gives (..., M, K) if D is 1, else (..., M, K, D).

        Raises
        ------
        ShapeError, DTypeError, DeviceError, BackendUnavailable, OptionError
        """
        operands = gather(self._arguments, args)
        settings = settings_of(operands, backend, device_id, ranges)
        if out is not None:
            settings["out"] = out
        weights = None if self._weights is None else _lazy(self._weights, operands)
        values = _lazy(self._expr, operands)
        return values.reduction(self._reduction, weights, self.opt_arg, axis=self.axis - 3, **settings)

    def __repr__(self) -> str:
        names = ", ".join(written(a) for a in self._arguments)
        return f"Genred({self.formula!r}, [{names}], {self.reduction_op!r}, axis={self.axis})"


def _reduction(reduction_op: str | Reduction, opt_arg: int | None, formula2: str | None) -> str | Reduction:
    """The reduction as `LazyTensor.reduction` takes it, once its extra arguments are checked."""
    record = reduction_op if isinstance(reduction_op, Reduction) else named(reduction_op)
    if formula2 is None and record.scores:
        raise FormulaError(f"{reduction_op} needs weights: pass their formula as formula2=.")
    if formula2 is not None and not WEIGHTED.get(record.name, record).scores:
        raise FormulaError(f"{reduction_op} takes no weights; leave formula2 out.")
    if record.code == "kmin" and opt_arg is None:
        raise OptionError(f"{reduction_op} needs the number of entries to keep: pass opt_arg=K.")
    sized(record, opt_arg)
    # names can be pickled
    return reduction_op if isinstance(reduction_op, Reduction) else record.name


def settings_of(operands: Operands, backend: str, device_id: int, ranges: Any) -> Settings:
    """The keyword arguments of a call as those of a LazyTensor's reduction."""
    place = operands.device
    if device_id >= 0 and place is not None and place.type == "cuda" and place.index != device_id:
        raise DeviceError(
            f"device_id={device_id}, but the arrays are on {place}; move them, or leave device_id out."
        )
    asked = {"backend": None if backend == "auto" else backend, "ranges": ranges}
    return {name: value for name, value in asked.items() if value is not None}


def check_axis(axis: int) -> None:
    """Formula strings reduce over i (0) or j (1)."""
    if isinstance(axis, bool) or axis not in (0, 1):
        raise OptionError(f"axis={axis!r}: expected 0 (reduce over i) or 1 (over j).")


def check_switches(dtype: Any, cuda_type: Any, dtype_acc: str, use_double_acc: bool, sum_scheme: str) -> None:
    """Refuse what KeOps refuses of its accuracy switches, and warn of the deprecated ones."""
    for name, value in (("dtype", dtype), ("cuda_type", cuda_type)):
        if value is not None:
            warnings.warn(
                f"{name}={value!r} is deprecated and ignored: the arrays say what their dtype is.",
                DeprecationWarning,
                stacklevel=3,
            )
    if dtype_acc not in _ACCUMULATORS:
        raise OptionError(f"dtype_acc={dtype_acc!r}: expected one of {_ACCUMULATORS}.")
    if use_double_acc and dtype_acc not in ("auto", "float64"):
        raise OptionError(f"use_double_acc=True and dtype_acc={dtype_acc!r} contradict each other.")
    if sum_scheme not in _SCHEMES:
        raise OptionError(f"sum_scheme={sum_scheme!r}: expected one of {_SCHEMES}.")

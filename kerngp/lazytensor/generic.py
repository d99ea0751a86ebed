"""Formula strings with a declared output: KeOps's `generic_sum` and its relatives."""

from __future__ import annotations

from typing import Any

from ..engine.parse import parse_formula
from ..errors import FormulaError
from .genred import Genred


def generic_sum(formula: str, output: str, *aliases: str, **kwargs: Any) -> Genred:
    """`Genred` with a "Sum" reduction.

    Parameters
    ----------
    formula : str
    output : str
        "a = Vi(dim)" for a result indexed by i, so the sum goes over j; "a = Vj(dim)" the other way.
    *aliases : str
        The variables, as for `Genred`.
    **kwargs
        Other arguments of `Genred`.

    Examples
    --------
    >>> import torch
    >>> density = generic_sum("Exp(-SqDist(x, y))", "a = Vi(1)", "x = Vi(3)", "y = Vj(3)")
    >>> density(torch.zeros(4, 3), torch.zeros(5, 3)).shape
    torch.Size([4, 1])
    """
    return Genred(formula, aliases, "Sum", _declared(output)[0], **kwargs)


def generic_logsumexp(formula: str, output: str, *aliases: str, **kwargs: Any) -> Genred:
    """`Genred` with a "LogSumExp" reduction; see `generic_sum` for the arguments."""
    return Genred(formula, aliases, "LogSumExp", _declared(output)[0], **kwargs)


def generic_argmin(formula: str, output: str, *aliases: str, **kwargs: Any) -> Genred:
    """`Genred` with an "ArgMin" reduction; see `generic_sum` for the arguments."""
    return Genred(formula, aliases, "ArgMin", _declared(output)[0], **kwargs)


def generic_argkmin(formula: str, output: str, *aliases: str, **kwargs: Any) -> Genred:
    """`Genred` with an "ArgKMin" reduction; the dim of the output "a = Vi(K)" is the number of entries."""
    axis, k = _declared(output)
    return Genred(formula, aliases, "ArgKMin", axis, opt_arg=k, **kwargs)


def _declared(output: str) -> tuple[int, int]:
    """The axis to reduce and the dim of a declaration "a = Vi(dim)"."""
    (a,) = parse_formula("0", (output,)).arguments
    if a.axis == "p":
        raise FormulaError(f"output={output!r}: a result is indexed by i, Vi(dim), or by j, Vj(dim).")
    return "ji".index(a.axis), a.dim

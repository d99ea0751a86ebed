"""Every reduction over the pairs of a row, one record each.

A reduction folds values f_ij (vectors, componentwise) over j through a *state*. `merge` of the
states of two halves is the law that tiling, threads, splitting of j and distribution stand on.
The tensor functions below are the definition; ``code`` holds what a code generator needs. Those given
by formulas are in `folds`, with their rules for what has no number.

NaN and infinities: sums and logsumexp propagate them (logsumexp of a row with +inf is +inf, NaN
or not); the gradient of a row of -inf is 0. The selecting reductions (min, max, k-min, k-max and
their indices) skip NaN; an entry of +inf (-inf for max) is never selected, so a row without any
other entry yields that infinity and index -1.
"""

from __future__ import annotations

from typing import Any

import torch

from ..errors import FormulaError
from .expr import Expr
from .folds import FOLDS, above
from .ops import exp
from .reduction import Reduction, State, Tensor, with_k
from .syntax import suggestion

# ---------------------------------------------------------------- sum


def _sum_tile(r: Reduction, f: Tensor, j0: int) -> State:
    return (f.sum(-2, dtype=torch.float64),)


def _sum_merge(r: Reduction, a: State, b: State) -> State:
    return (a[0] + b[0],)


def _sum_neutral(r: Reduction, shape: tuple[int, ...], dtype: torch.dtype, device: Any) -> State:
    return (torch.zeros(shape, dtype=torch.float64, device=device),)


def _identity(r: Reduction, s: State) -> tuple[Tensor, ...]:
    return s


def _sum_seed(r: Reduction, f: Expr, results: tuple[Expr, ...], g: tuple[Expr, ...]) -> Expr:
    return g[0]


# ---------------------------------------------------------------- logsumexp: (maximum, sum of exp(f - max))


def _lse_tile(r: Reduction, f: Tensor, j0: int) -> State:
    m = (
        f.nan_to_num(-torch.inf, torch.inf, -torch.inf).amax(-2)
        if f.shape[-2]
        else f.new_full((*f.shape[:-2], f.shape[-1]), -torch.inf)
    )
    shift = torch.nan_to_num(m, nan=0.0, posinf=0.0, neginf=0.0)
    return m, torch.exp(f - shift.unsqueeze(-2)).sum(-2, dtype=torch.float64)


def _lse_merge(r: Reduction, a: State, b: State) -> State:
    m = torch.maximum(a[0], b[0])
    shift = torch.nan_to_num(m, nan=0.0, posinf=0.0, neginf=0.0)

    def scaled(s: State) -> Tensor:
        base = torch.nan_to_num(s[0], nan=0.0, posinf=0.0, neginf=0.0)
        factor = torch.where(s[0] == -torch.inf, torch.zeros_like(m), torch.exp(base - shift))
        return torch.where(s[1] == 0, s[1], s[1] * factor)

    return m, scaled(a) + scaled(b)


def _lse_final(r: Reduction, s: State) -> tuple[Tensor, ...]:
    m, total = s
    shift = torch.nan_to_num(m, nan=0.0, posinf=0.0, neginf=0.0)
    out = shift.double() + torch.log(total)
    return (torch.where(m == torch.inf, m.double(), out),)


def _lse_neutral(r: Reduction, shape: tuple[int, ...], dtype: torch.dtype, device: Any) -> State:
    return (
        torch.full(shape, -torch.inf, dtype=dtype, device=device),
        torch.zeros(shape, dtype=torch.float64, device=device),
    )


def _lse_seed(r: Reduction, f: Expr, results: tuple[Expr, ...], g: tuple[Expr, ...]) -> Expr:
    return g[0] * exp(f - above(results[0]))


# ---------------------------------------------------------------- selection: k smallest values, their columns


def _clean(f: Tensor) -> Tensor:
    return torch.where(torch.isnan(f), torch.full_like(f, torch.inf), f)


def _select_tile(r: Reduction, f: Tensor, j0: int) -> State:
    f = _clean(f)
    # a stable sort prefers the smaller column among equals, as the generated code does
    values, index = torch.sort(f, dim=-2, stable=True)
    values, index = values[..., : r.k, :], index[..., : r.k, :] + j0
    index = torch.where(values == torch.inf, torch.full_like(index, -1), index)
    return _pad_to(r, values, index)


def _pad_to(r: Reduction, values: Tensor, index: Tensor) -> State:
    missing = r.k - values.shape[-2]
    if missing <= 0:
        return values, index
    shape = (*values.shape[:-2], missing, values.shape[-1])
    return torch.cat([values, values.new_full(shape, torch.inf)], -2), torch.cat(
        [index, index.new_full(shape, -1)], -2
    )


def _select_merge(r: Reduction, a: State, b: State) -> State:
    values, order = torch.sort(torch.cat([a[0], b[0]], -2), dim=-2, stable=True)
    index = torch.gather(torch.cat([a[1], b[1]], -2), -2, order)
    return values[..., : r.k, :], index[..., : r.k, :]


def _select_final(r: Reduction, s: State) -> tuple[Tensor, ...]:
    values, index = s
    if r.code == "min":
        values, index = values.squeeze(-2), index.squeeze(-2)
    return tuple({"value": -values if r.negated else values, "index": index}[o] for o in r.outputs)


def _select_neutral(r: Reduction, shape: tuple[int, ...], dtype: torch.dtype, device: Any) -> State:
    full = (*shape[:-1], r.k, shape[-1])
    return (
        torch.full(full, torch.inf, dtype=dtype, device=device),
        torch.full(full, -1, dtype=torch.int64, device=device),
    )


def _selection(name: str, outputs: tuple[str, ...], code: str, negated: bool = False) -> Reduction:
    extreme = "largest" if negated else "smallest"
    entry = f"{extreme} entry" if code == "min" else f"K {extreme} entries"
    place = "index" if code == "min" else "indices"
    docs = {
        ("value",): f"The {entry}",
        ("index",): f"The {place} of the {entry}",
        ("value", "index"): f"The {entry} and {'its' if code == 'min' else 'their'} {place}",
    }
    functions = (_select_tile, _select_merge, _select_final, _select_neutral)
    return Reduction(
        name,
        outputs,
        *functions,
        code,
        selects=True,
        negated=negated,
        absent=-torch.inf if negated else torch.inf,
        doc=docs[outputs],
    )


SUM = Reduction(
    "sum",
    ("value",),
    _sum_tile,
    _sum_merge,
    _identity,
    _sum_neutral,
    "sum",
    seed=_sum_seed,
    absent=0.0,
    doc="The sum",
)
LOGSUMEXP = Reduction(
    "logsumexp",
    ("value",),
    _lse_tile,
    _lse_merge,
    _lse_final,
    _lse_neutral,
    "logsumexp",
    seed=_lse_seed,
    absent=-torch.inf,
    doc="The logarithm of the sum of exponentials",
)
MIN = _selection("min", ("value",), "min")
ARGMIN = _selection("argmin", ("index",), "min")
MIN_ARGMIN = _selection("min_argmin", ("value", "index"), "min")
MAX = _selection("max", ("value",), "min", True)
ARGMAX = _selection("argmax", ("index",), "min", True)
MAX_ARGMAX = _selection("max_argmax", ("value", "index"), "min", True)

_KMIN = _selection("kmin", ("value",), "kmin")
_ARGKMIN = _selection("argkmin", ("index",), "kmin")
_KMIN_ARGKMIN = _selection("kmin_argkmin", ("value", "index"), "kmin")
_KMAX = _selection("kmax", ("value",), "kmin", True)
_ARGKMAX = _selection("argkmax", ("index",), "kmin", True)
_KMAX_ARGKMAX = _selection("kmax_argkmax", ("value", "index"), "kmin", True)


def KMIN(k: int) -> Reduction:
    """The k smallest entries of each row, ascending."""
    return with_k(_KMIN, k)


def ARGKMIN(k: int) -> Reduction:
    """The columns of the k smallest entries of each row (ties: smaller column first)."""
    return with_k(_ARGKMIN, k)


def KMIN_ARGKMIN(k: int) -> Reduction:
    """Values and columns of the k smallest entries of each row."""
    return with_k(_KMIN_ARGKMIN, k)


def KMAX(k: int) -> Reduction:
    """The k largest entries of each row, descending."""
    return with_k(_KMAX, k)


def ARGKMAX(k: int) -> Reduction:
    """The columns of the k largest entries of each row (ties: smaller column first)."""
    return with_k(_ARGKMAX, k)


def KMAX_ARGKMAX(k: int) -> Reduction:
    """Values and columns of the k largest entries of each row."""
    return with_k(_KMAX_ARGKMAX, k)


REDUCTIONS: dict[str, Reduction] = {
    r.name: r
    for r in (
        SUM,
        LOGSUMEXP,
        MIN,
        MAX,
        ARGMIN,
        ARGMAX,
        MIN_ARGMIN,
        MAX_ARGMAX,
        _KMIN,
        _ARGKMIN,
        _KMIN_ARGKMIN,
        _KMAX,
        _ARGKMAX,
        _KMAX_ARGKMAX,
        *FOLDS,
    )
}

_BY_NAME = {name.replace("_", ""): r for name, r in REDUCTIONS.items()}


def named(name: str) -> Reduction:
    """The reduction of a name, in any case, with or without its underscore: "LogSumExp", "KMin_ArgKMin".

    Raises
    ------
    FormulaError
        No such reduction.
    """
    r = _BY_NAME.get(str(name).lower().replace("_", ""))
    if r is None:
        known = f"known are {', '.join(sorted(REDUCTIONS))}."
        raise FormulaError(f"unknown reduction {name!r}" + suggestion(str(name), REDUCTIONS, known))
    return r


def check_weights(r: Reduction, weighted: bool) -> None:
    """Refuse weights where there is no use for them, and a weighted reduction without."""
    if weighted and not r.scores:
        raise FormulaError(f"{r.name} takes no weights; leave other= out.")
    if r.scores and not weighted:
        raise FormulaError(f"{r.name} needs weights: pass them as other= or weight=.")

"""What "equal" means in the engine's tests: every backend against the reference in float64.

All functions raise AssertionError; `test_seeded_bugs.py` proves that they do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kerngp.engine import autodiff
from kerngp.engine.expr import Expr, variables
from kerngp.engine.folds import MEAN
from kerngp.engine.mapreduce import dense, map_reduce, map_reduce_many
from kerngp.engine.ops import absolute
from kerngp.engine.plan import Output
from kerngp.engine.reductions import LOGSUMEXP, MAX, SUM, Reduction
from kerngp.options import Options

Tensor = torch.Tensor
Sizes = tuple[int | None, int | None]

REFERENCE = Options(backend="reference")
CPU = Options(backend="cpu")
EPS = {torch.float16: 2.0**-10, torch.float32: 2.0**-23, torch.float64: 2.0**-52}


def arguments(
    expr: Expr | Sequence[Expr],
    M: int,
    N: int,
    dtype: torch.dtype = torch.float64,
    *,
    positive: bool = False,
    scale: float = 1.0,
    batch: dict[int, tuple[int, ...]] | None = None,
) -> tuple[Tensor, ...]:
    """Random arguments for the variables of a formula, by position; |entries| stay away from 0."""
    leaves = variables(*([expr] if isinstance(expr, Expr) else expr))
    rows = {"i": (M,), "j": (N,), "p": ()}
    out: dict[int, Tensor] = {}
    for v in leaves:
        index, dim, axis = v.attr
        shape = (*(batch or {}).get(index, ()), *rows[axis], dim)
        size = 0.4 + 0.6 * torch.rand(shape, dtype=torch.float64)
        sign = 1.0 if positive else torch.randint(0, 2, shape).double() * 2 - 1
        out[index] = (scale * size * sign).to(dtype)
    # positions no variable reads hold something harmless
    return tuple(out.get(k, torch.zeros(1, dtype=dtype)) for k in range(1 + max(out, default=-1)))


def exact(
    expr: Expr, reduction: Reduction, args: Sequence[Tensor], *, axis: str = "j", sizes: Sizes = (None, None)
) -> tuple[Tensor, ...]:
    """The reference in float64."""
    outputs = (Output(expr, reduction, axis),)
    return map_reduce_many(outputs, tuple(a.double() for a in args), sizes=sizes, options=REFERENCE)[0]


def assert_close(got: Tensor, want: Tensor, atol: Tensor | float, what: str = "") -> None:
    """|got - want| <= atol entry by entry; NaN and infinities must agree."""
    got, want = got.double(), want.double()
    assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, expected {tuple(want.shape)}"
    atol = torch.as_tensor(atol, dtype=torch.float64).expand(want.shape)
    special = ~torch.isfinite(want)
    same = torch.where(torch.isnan(want), torch.isnan(got), got == want)
    good = torch.where(special, same, (got - want).abs() <= atol)
    if not bool(good.all()):
        at = tuple(int(k) for k in torch.nonzero(~good)[0])
        bad = int((~good).sum())
        where = f"{what}: {bad} of {good.numel()} entries differ, first at {at}:"
        raise AssertionError(f"{where} got {got[at]}, expected {want[at]} within {atol[at]}")


def assert_matches_reference(
    expr: Expr,
    reduction: Reduction,
    args: Sequence[Tensor],
    *,
    axis: str = "j",
    sizes: Sizes = (None, None),
    options: Options = CPU,
    tol: float = 64.0,
) -> None:
    """A backend in the arguments' dtype against the reference in float64.

    Sums may differ by ``tol`` roundings of the sum of magnitudes, logsumexp by ``tol`` roundings of
    the largest magnitude. A selected entry must be as small as the true one up to ``tol`` roundings,
    and its index must name an entry with that value; no index occurs twice.
    """
    dtype = args[0].dtype if args else torch.float32
    eps = EPS[dtype]
    found = map_reduce(expr, reduction, args, axis=axis, sizes=sizes, options=options)
    found = found if isinstance(found, tuple) else (found,)
    want = exact(expr, reduction, args, axis=axis, sizes=sizes)
    what = f"{reduction} over {axis} of {str(expr)[:200]}"
    for value, kind in zip(found, reduction.outputs, strict=True):
        assert value.dtype == (torch.int64 if kind == "index" else dtype), f"{what}: {kind} is {value.dtype}"
    if reduction.code == "sum" or reduction is MEAN:
        (size,) = exact(absolute(expr), reduction, args, axis=axis, sizes=sizes)
        assert_close(found[0], want[0], tol * eps * size.nan_to_num(0.0, 0.0, 0.0) + 1e-300, what)
        return
    (size,) = exact(absolute(expr), MAX, args, axis=axis, sizes=sizes)
    if reduction.code == "logsumexp":
        assert_close(found[0], want[0], tol * eps * (1 + size.nan_to_num(0.0, 0.0, 0.0)), what)
        return
    size = tol * eps * size.nan_to_num(0.0, 0.0, 0.0)
    if reduction.code == "kmin":
        size = size.unsqueeze(-2)
    _assert_selection(expr, reduction, found, args, axis, sizes, size, what)


def _assert_selection(
    expr: Expr,
    reduction: Reduction,
    found: tuple[Tensor, ...],
    args: Sequence[Tensor],
    axis: str,
    sizes: Sizes,
    atol: Tensor,
    what: str,
) -> None:
    f = dense(expr, tuple(a.double() for a in args), sizes=sizes)  # (*batch, M, N, dim)
    if axis == "i":
        f = f.transpose(-3, -2)
    worst = -torch.inf if reduction.negated else torch.inf
    f = torch.where(torch.isnan(f), torch.full_like(f, worst), f)
    ordered = torch.sort(f, dim=-2, descending=reduction.negated).values[..., : reduction.k, :]
    if reduction.code != "kmin":
        ordered = ordered.squeeze(-2)
    for value, kind in zip(found, reduction.outputs, strict=True):
        if kind == "value":
            assert_close(value, ordered, atol, f"value of {what}")
            continue
        index = value if reduction.code == "kmin" else value.unsqueeze(-2)
        empty = index < 0
        at = torch.gather(f, -2, index.clamp_min(0))
        at = torch.where(empty, torch.full_like(at, worst), at)
        chosen = at if reduction.code == "kmin" else at.squeeze(-2)
        assert_close(chosen, ordered, atol, f"entry at the index of {what}")
        in_order = torch.sort(index, dim=-2).values
        repeated = (in_order[..., 1:, :] == in_order[..., :-1, :]) & (in_order[..., 1:, :] >= 0)
        assert not bool(repeated.any()), f"{what}: an index occurs twice"


def assert_merge_law(
    reduction: Reduction, f: Tensor, cut: int, swap: bool = False, rtol: float = 1e-12
) -> None:
    """Folding two parts equals the whole; ``f`` has shape (m, n, dim)."""
    reduction = reduction.bind(f.shape[-1])
    left = reduction.tile(reduction, f[:, :cut], 0)
    right = reduction.tile(reduction, f[:, cut:], cut)
    merged = reduction.merge(reduction, left, right)
    empty = reduction.neutral(reduction, (f.shape[0], f.shape[2]), f.dtype, f.device)
    merged = reduction.merge(reduction, merged, empty) if swap else reduction.merge(reduction, empty, merged)
    whole = reduction.final(reduction, reduction.tile(reduction, f, 0))
    for got, want, kind in zip(reduction.final(reduction, merged), whole, reduction.outputs, strict=True):
        if kind != "value":
            assert torch.equal(got, want), f"{reduction}: {kind} of two halves differs from the whole"
        else:
            atol = rtol * (1 + f.abs().nan_to_num(0.0, 0.0, 0.0).sum(1))
            if reduction.code == "kmin":
                atol = atol.unsqueeze(-2)
            if reduction.law is not None:  # components of a result may depend on all of the entries'
                atol = atol.sum(-1, keepdim=True)
            assert_close(got, want, atol, f"{reduction} of two halves")


def assert_gradients(
    expr: Expr,
    args: Sequence[Tensor],
    reduction: Reduction = SUM,
    *,
    axis: str = "j",
    second: bool = True,
    options: Options = REFERENCE,
) -> None:
    """Autograd through `map_reduce` against finite differences, first and second order (float64)."""
    leaves = [a.detach().clone().requires_grad_() for a in args]

    def call(*arrays: Tensor) -> Tensor:
        out = map_reduce(expr, reduction, arrays, axis=axis, options=options)
        return out[0] if isinstance(out, tuple) else out

    _run_check(torch.autograd.gradcheck, call, leaves)
    if second:
        _run_check(torch.autograd.gradgradcheck, call, leaves)


def _run_check(check: Callable, call: Callable, leaves: list[Tensor]) -> None:
    try:
        check(call, leaves, atol=1e-6, rtol=1e-5)
    except RuntimeError as error:  # torch's GradcheckError
        raise AssertionError(f"{check.__name__}: {error}") from error


def assert_jvp(expr: Expr, args: Sequence[Tensor]) -> None:
    """`autodiff.jvp` against torch's, entry by entry (float64)."""
    leaves = variables(expr)
    tangents = [torch.randn_like(a) for a in args]
    symbols = {v: _shifted(v, len(args)) for v in leaves}
    formula = autodiff.jvp(expr, symbols)
    _, want = torch.autograd.functional.jvp(lambda *a: dense(expr, a), tuple(args), tuple(tangents))
    if formula is None:
        got = torch.zeros_like(want)
    else:
        sizes = _sizes(expr, args)
        got = dense(formula, (*args, *tangents), sizes=sizes).expand(want.shape)
    assert_close(got, want, 1e-10 * (1 + want.abs()), f"jvp of {str(expr)[:200]}")


def _shifted(v: Expr, by: int) -> Expr:
    from kerngp.engine.expr import var

    return var(v.attr[0] + by, v.attr[1], v.attr[2])


def _sizes(expr: Expr, args: Sequence[Tensor]) -> Sizes:
    found: dict[str, int] = {
        v.attr[2]: args[v.attr[0]].shape[-2] for v in variables(expr) if v.attr[2] != "p"
    }
    return found.get("i", 1), found.get("j", 1)


def assert_same_values(f: Expr, g: Expr, args: Sequence[Tensor], sizes: Sizes, rtol: float = 1e-11) -> None:
    """Two formulas have the same values at all pairs (float64)."""
    want = dense(f, args, sizes=sizes)
    got = dense(g, args, sizes=sizes)
    assert_close(got, want, rtol * (1 + want.abs()), f"{str(g)[:200]} in place of {str(f)[:200]}")


__all__ = [
    "CPU",
    "EPS",
    "LOGSUMEXP",
    "REFERENCE",
    "arguments",
    "assert_close",
    "assert_gradients",
    "assert_jvp",
    "assert_matches_reference",
    "assert_merge_law",
    "assert_same_values",
    "exact",
]

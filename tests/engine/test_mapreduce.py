"""The entry `map_reduce`: sizes, layouts, batches, axes, several outputs, gradients, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import (
    CPU,
    REFERENCE,
    arguments,
    assert_close,
    assert_gradients,
    assert_matches_reference,
    exact,
)

from kerngp import LazyTensor
from kerngp.engine import ops
from kerngp.engine.expr import Expr, Pm, Vi, Vj, const, postorder
from kerngp.engine.mapreduce import dense, map_reduce, map_reduce_many
from kerngp.engine.plan import Output
from kerngp.engine.reductions import ARGKMIN, ARGMIN, KMIN, LOGSUMEXP, MAX, MIN, MIN_ARGMIN, SUM
from kerngp.errors import BackendUnavailable, DeviceError, DTypeError, FormulaError, OptionError, ShapeError
from kerngp.options import Options, options

SIZES = [(1, 1), (1, 33), (7, 31), (31, 7), (33, 1), (257, 33), (33, 1000), (1000, 257)]


def gaussian(D: int = 3, E: int = 1) -> Expr:
    return ops.exp(-ops.sqdist(Vi(0, D), Vj(1, D))) * Vj(2, E)


def tensor(x) -> torch.Tensor:
    assert isinstance(x, torch.Tensor)
    return x


# ---------------------------------------------------------------- sizes and axes


@pytest.mark.parametrize(("M", "N"), SIZES)
@pytest.mark.parametrize("axis", ["j", "i", "ij"])
def test_sizes_with_tails(M: int, N: int, axis: str, dtype: torch.dtype, launches) -> None:
    f = gaussian()
    assert_matches_reference(f, SUM, arguments(f, M, N, dtype), axis=axis)
    assert launches.compiled == 1


@pytest.mark.parametrize(("M", "N"), SIZES)
@pytest.mark.parametrize("r", [LOGSUMEXP, MIN_ARGMIN, KMIN(1)], ids=repr)
def test_other_reductions_with_tails(M: int, N: int, r, dtype: torch.dtype) -> None:
    f = ops.sqdist(Vi(0, 3), Vj(1, 3)) * Vi(2, 2)
    for axis in ("j", "i"):
        assert_matches_reference(f, r, arguments(f, M, N, dtype), axis=axis)


def test_shapes_and_dtypes_of_results() -> None:
    f = gaussian(3, 2)
    args = arguments(f, 5, 7, torch.float32)
    assert tensor(map_reduce(f, SUM, args)).shape == (5, 2)
    assert tensor(map_reduce(f, SUM, args, axis="i")).shape == (7, 2)
    assert tensor(map_reduce(f, SUM, args, axis="ij")).shape == (2,)
    assert tensor(map_reduce(f, KMIN(3), args)).shape == (5, 3, 2)
    index = tensor(map_reduce(f, ARGKMIN(3), args, axis="i"))
    assert index.shape == (7, 3, 2) and index.dtype == torch.int64
    value, index = map_reduce(f, MIN_ARGMIN, args)
    assert value.dtype == torch.float32 and index.dtype == torch.int64


def test_formulas_of_one_axis_or_none(dtype: torch.dtype) -> None:
    for f, sizes in (
        (ops.exp(Vi(0, 2)), (None, 9)),
        (ops.exp(Vj(0, 2)), (6, None)),
        (ops.exp(Pm(0, 2)), (6, 9)),
        (const(2.5), (6, 9)),
    ):
        args = arguments(f, 6, 9, dtype)
        for axis, rows in (("j", 6), ("i", 9), ("ij", None)):
            got = tensor(map_reduce(f, SUM, args, axis=axis, sizes=sizes, options=CPU))
            (want,) = exact(f, SUM, args, axis=axis, sizes=sizes)
            assert got.shape == ((rows,) if rows else ()) + (f.dim,)
            assert_close(got, want, 1e-5 * want.abs(), f"{f} over {axis}")


@pytest.mark.parametrize("axis", ["j", "i", "ij"])
def test_a_scalar_that_stands_for_a_vector(axis: str, dtype: torch.dtype, launches) -> None:
    """Factors lose their repetition; the result keeps its components."""
    k = ops.exp(-ops.sqdist(Vi(0, 3), Vj(1, 3)))
    forms = (
        ops.widen(k, 2),
        ops.widen(k * Vi(2, 1), 2),
        ops.widen(Vj(3, 1), 2) * k,
        ops.widen(Vj(3, 1) * k * Pm(4, 1), 7),
        ops.widen(Vi(2, 1) * Vj(3, 1), 2),
    )
    for f in forms:
        launches.clear()
        sizes = (33, 40)
        args = tuple(torch.rand(*s, dtype=dtype) for s in ((33, 3), (40, 3), (33, 1), (40, 1), (1,)))
        assert_matches_reference(f, SUM, args, axis=axis, sizes=sizes)
        assert launches.compiled == 1


@pytest.mark.parametrize("options_", [CPU, REFERENCE], ids=["cpu", "reference"])
def test_empty_axes(options_: Options, dtype: torch.dtype) -> None:
    f = gaussian(3, 2)
    for M, N in ((0, 5), (4, 0), (0, 0)):
        args = (
            torch.randn(M, 3, dtype=dtype),
            torch.randn(N, 3, dtype=dtype),
            torch.randn(N, 2, dtype=dtype),
        )
        for axis, rows in (("j", M), ("i", N)):
            got = tensor(map_reduce(f, SUM, args, axis=axis, options=options_))
            assert torch.equal(got, torch.zeros(rows, 2, dtype=dtype))
        assert torch.equal(
            tensor(map_reduce(f, SUM, args, axis="ij", options=options_)), torch.zeros(2, dtype=dtype)
        )
    x = torch.randn(4, 2, dtype=dtype, requires_grad=True)
    for r, value in ((SUM, 0.0), (LOGSUMEXP, -math.inf), (MIN, math.inf), (MAX, -math.inf)):
        out = tensor(
            map_reduce(Vi(0, 2) * Vj(1, 2), r, (x, torch.empty(0, 2, dtype=dtype)), options=options_)
        )
        assert torch.equal(out.detach(), torch.full((4, 2), value, dtype=dtype))
    x = torch.empty(0, 3, dtype=dtype, requires_grad=True)
    out = tensor(
        map_reduce(gaussian(), SUM, (x, torch.randn(5, 3, dtype=dtype), torch.randn(5, 1, dtype=dtype)))
    )
    (g,) = torch.autograd.grad(out.sum(), x)
    assert g.shape == (0, 3)


# ---------------------------------------------------------------- layouts


def layouts(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same values in different memory layouts."""
    wide = torch.full((x.shape[0], 3 * x.shape[1] + 1), math.nan, dtype=x.dtype)
    wide[:, 1::3] = x
    tall = torch.full((2 * x.shape[0] + 3, x.shape[1]), math.nan, dtype=x.dtype)
    tall[3::2] = x
    shifted = torch.full((x.numel() + 1,), math.nan, dtype=x.dtype)
    shifted[1:] = x.reshape(-1)
    return {
        "contiguous": x,
        "strided columns": wide[:, 1::3],
        "strided rows": tall[3::2],
        "transposed": x.t().contiguous().t(),
        "unaligned": shifted[1:].reshape(x.shape),
        "flipped twice": x.flip(0).flip(0),
    }


def test_memory_layouts_do_not_matter(dtype: torch.dtype) -> None:
    f = gaussian(3, 2)
    x, y, b = arguments(f, 37, 41, dtype)
    want = tensor(map_reduce(f, SUM, (x, y, b), options=CPU))
    for name in layouts(x):
        args = (layouts(x)[name], layouts(y)[name], layouts(b)[name])
        assert torch.equal(tensor(map_reduce(f, SUM, args, options=CPU)), want), name


def test_expanded_arguments(dtype: torch.dtype) -> None:
    f = gaussian(3, 2)
    x = torch.randn(1, 3, dtype=dtype).expand(37, 3)
    y = torch.randn(41, 1, dtype=dtype).expand(41, 3)
    b = torch.randn(2, dtype=dtype).expand(41, 2)
    assert_matches_reference(f, SUM, (x, y, b))
    assert_matches_reference(f, SUM, (x, y, b), axis="i")


def test_inputs_are_not_written() -> None:
    f = gaussian(3, 2)
    args = arguments(f, 37, 41, torch.float32)
    copies = [a.clone() for a in args]
    map_reduce(f, SUM, args)
    map_reduce(f, SUM, (args[0], args[0], args[0][:, :2]))
    assert all(torch.equal(a, c) for a, c in zip(args, copies, strict=True))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_sixteen_bit_floats_are_computed_in_float32(half: torch.dtype) -> None:
    f = gaussian()
    args = arguments(f, 33, 1000, half)
    for opts in (CPU, REFERENCE):
        got = tensor(map_reduce(f, SUM, args, options=opts))
        (want,) = exact(f, SUM, args)
        assert got.dtype == half
        assert_close(got, want, torch.finfo(half).eps * want.abs() + 1e-4, "half")


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize(
    "batch",
    [
        {0: (3,), 1: (3,), 2: (3,)},
        {0: (3,)},
        {1: (2, 1), 0: (3,)},
        {0: (2, 1), 1: (1, 3), 2: (2, 3)},
        {2: (2, 1, 2)},
        {3: (2,)},
        {0: (1,), 3: (2, 1)},
    ],
    ids=str,
)
def test_batch_axes_broadcast(batch: dict, dtype: torch.dtype) -> None:
    f = ops.exp(-Pm(3, 1) * ops.sqdist(Vi(0, 2), Vj(1, 2))) * Vj(2, 2)
    args = arguments(f, 9, 33, dtype, batch=batch)
    for axis in ("j", "i", "ij"):
        assert_matches_reference(f, SUM, args, axis=axis)
    assert_matches_reference(f, MIN_ARGMIN, args)


def test_every_batch_element_is_its_own_problem() -> None:
    f = gaussian(2, 1)
    x, y, b = arguments(f, 9, 33, torch.float64, batch={0: (2, 1), 1: (1, 3), 2: (3,)})
    got = tensor(map_reduce(f, SUM, (x, y, b)))
    assert got.shape == (2, 3, 9, 1)
    for p in range(2):
        for q in range(3):
            want = tensor(map_reduce(f, SUM, (x[p, 0], y[0, q], b[q])))
            assert_close(got[p, q], want, 1e-13, "batch element")


# ---------------------------------------------------------------- several outputs, launches


def test_several_outputs_in_one_pass(launches) -> None:
    f = gaussian(3, 2)
    args = arguments(f, 33, 71, torch.float64)
    outputs = (Output(f, SUM, "j"), Output(ops.sqdist(Vi(0, 3), Vj(1, 3)), SUM, "j"), Output(f, SUM, "i"))
    found = map_reduce_many(outputs, args, options=CPU)
    assert launches.compiled == 1 and launches.reference == 0
    for o, (got,) in zip(outputs, found, strict=True):
        (want,) = exact(o.expr, o.reduction, args, axis=o.axis)
        assert_close(got, want, 1e-12, str(o))


def test_outputs_of_different_reductions(launches) -> None:
    q = ops.sqdist(Vi(0, 3), Vj(1, 3))
    args = arguments(q, 33, 71, torch.float64)
    outputs = (
        Output(q, MIN_ARGMIN, "j"),
        Output(-q, LOGSUMEXP, "j"),
        Output(q, ARGMIN, "i"),
        Output(q, SUM, "ij"),
    )
    found = map_reduce_many(outputs, args, options=CPU)
    for o, got in zip(outputs, found, strict=True):
        for g, w in zip(got, exact(o.expr, o.reduction, args, axis=o.axis), strict=True):
            assert_close(g, w, 1e-11, str(o))


@pytest.mark.parametrize("axis", ["j", "i", "ij"])
@pytest.mark.parametrize("M", [5, 65])
def test_all_first_gradients_leave_one_pass(axis: str, M: int, launches) -> None:
    """Row sums, column sums and parameter sums of one kernel sum: one launch forward, one backward."""
    f = Pm(4, 1) * ops.exp(-Pm(3, 1) * ops.sqdist(Vi(0, 3), Vj(1, 3))) * Vj(2, 1)
    args = [a.requires_grad_() for a in arguments(f, M, 41)]
    out = tensor(map_reduce(f, SUM, args, axis=axis, options=CPU))
    assert (launches.compiled, launches.reference) == (1, 0)
    seed = torch.randn_like(out)
    grads = torch.autograd.grad(out, args, seed)
    assert (launches.compiled, launches.reference) == (2, 0)
    leaves = [a.detach().clone().requires_grad_() for a in args]
    K = dense(f, leaves)
    total = {"j": K.sum(1), "i": K.sum(0), "ij": K.sum((0, 1))}[axis]
    for got, want in zip(grads, torch.autograd.grad(total, leaves, seed), strict=True):
        assert_close(got, want, 1e-11 * (1 + want.abs().max()), "gradient")


@pytest.mark.parametrize("E", [1, 8])
def test_all_first_gradients_of_a_lazy_product_leave_one_pass(E: int, launches) -> None:
    """Points on both sides, weights and a parameter."""
    shapes = ((40, 3), (50, 3), (50, E), (1,))
    x, y, b, p = args = [torch.rand(*s, dtype=torch.float64, requires_grad=True) for s in shapes]
    D = (LazyTensor(x[:, None]) - LazyTensor(y[None])) ** 2
    out = (-D.sum(-1) * LazyTensor(p)).exp() @ b
    assert (launches.compiled, launches.reference) == (1, 0)
    grads = torch.autograd.grad(out.sin().sum(), args)
    assert (launches.compiled, launches.reference) == (2, 0)
    want = torch.exp(-torch.cdist(x, y).square() * p) @ b
    for g, w in zip(grads, torch.autograd.grad(want.sin().sum(), args), strict=True):
        assert_close(g, w, 1e-11)


def test_no_gradient_means_no_record() -> None:
    f = gaussian()
    x, y, b = arguments(f, 5, 7)
    assert not tensor(map_reduce(f, SUM, (x, y, b))).requires_grad
    with torch.no_grad():
        assert not tensor(map_reduce(f, SUM, (x.requires_grad_(), y, b))).requires_grad


def test_only_wanted_gradients_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    from kerngp.engine.backends import cpu, cuda

    seen: list[int] = []
    for backend in (cpu, cuda):
        run = backend.run
        monkeypatch.setattr(backend, "run", lambda o, *rest, run=run: seen.append(len(o)) or run(o, *rest))
    f = gaussian()
    x, y, b = arguments(f, 5, 7)
    out = tensor(map_reduce(f, SUM, (x, y.requires_grad_(), b), options=CPU))
    torch.autograd.grad(out.sum(), y)
    assert seen == [1, 1]


# ---------------------------------------------------------------- gradients of every kind


@pytest.mark.parametrize("axis", ["j", "i", "ij"])
@pytest.mark.parametrize("r", [SUM, LOGSUMEXP], ids=repr)
def test_gradients_of_sums(axis: str, r) -> None:
    f = Pm(3, 1) * ops.exp(-ops.sqdist(Vi(0, 2), Vj(1, 2))) * Vj(2, 1)
    assert_gradients(f, arguments(f, 3, 4), r, axis=axis)


@pytest.mark.parametrize("axis", ["j", "i"])
@pytest.mark.parametrize("r", [MIN, MAX, KMIN(2), MIN_ARGMIN], ids=repr)
def test_gradients_of_selections(axis: str, r) -> None:
    f = ops.concat(Pm(2, 1) * ops.sqdist(Vi(0, 2), Vj(1, 2)), ops.sin(Vi(0, 2)[0] * Vj(1, 2)[1]))
    assert_gradients(f, arguments(f, 3, 5), r, axis=axis)


def test_gradients_in_generated_code_to_second_order() -> None:
    f = ops.exp(-ops.sqdist(Vi(0, 2), Vj(1, 2)))
    assert_gradients(f, arguments(f, 3, 4), options=CPU)


def test_third_order() -> None:
    f = ops.sin(Vi(0, 1) * Vj(1, 1))
    x, y = arguments(f, 4, 5)
    for opts in (CPU, REFERENCE):
        leaf = x.clone().requires_grad_()
        g = tensor(map_reduce(f, SUM, (leaf, y), options=opts)).sum()
        for _ in range(3):
            (g,) = torch.autograd.grad(g.sum(), leaf, create_graph=True)
        want = (-torch.cos(x * y.t()) * y.t() ** 3).sum(1, keepdim=True)
        assert_close(g.detach(), want, 1e-12, "third derivative")


def test_gradients_with_batches_and_shared_arguments() -> None:
    f = gaussian(2, 1)
    batch = {0: (2, 1), 1: (3,)}
    assert_gradients(f, arguments(f, 2, 3, batch=batch), second=False)
    assert_gradients(f, arguments(f, 2, 3, batch=batch), second=False, options=CPU)
    # one array as x, as y and as signal: its cotangents add up
    x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    g = ops.exp(-ops.sqdist(Vi(0, 2), Vj(1, 2))) * Vj(2, 2)
    (got,) = torch.autograd.grad(tensor(map_reduce(g, SUM, (x, x, x), options=CPU)).sin().sum(), x)
    K = torch.exp(-(x[:, None] - x[None]).square().sum(-1))
    (want,) = torch.autograd.grad((K @ x).sin().sum(), x)
    assert_close(got, want, 1e-12, "shared argument")


def test_a_cotangent_that_is_expanded_or_missing() -> None:
    f = gaussian(2, 2)
    args = [a.requires_grad_() for a in arguments(f, 5, 7)]
    out = tensor(map_reduce(f, SUM, args, options=CPU))
    grads = torch.autograd.grad(out.sum(), args)  # an expanded cotangent
    leaves = [a.detach().clone().requires_grad_() for a in args]
    for got, want in zip(grads, torch.autograd.grad(dense(f, leaves).sum(), leaves), strict=True):
        assert_close(got, want, 1e-12, "gradient")
    outputs = (Output(f, SUM, "j"), Output(ops.sqdist(Vi(0, 2), Vj(1, 2)), SUM, "j"))
    first, _ = map_reduce_many(outputs, tuple(args), options=CPU)
    (g,) = torch.autograd.grad(first[0].sum(), args[2])  # the second output has no cotangent
    assert_close(g, torch.autograd.grad(dense(f, leaves).sum(), leaves[2])[0], 1e-12, "gradient")


def test_indices_carry_no_gradient() -> None:
    f = ops.sqdist(Vi(0, 2), Vj(1, 2))
    x, y = arguments(f, 4, 5)
    out = tensor(map_reduce(f, ARGMIN, (x.requires_grad_(), y)))
    assert not out.requires_grad


# ---------------------------------------------------------------- huge values, NaN


def test_huge_values_and_nan(dtype: torch.dtype) -> None:
    big = 1e30 if dtype == torch.float32 else 1e200
    x = torch.tensor([[0.0], [big], [-big], [math.nan], [math.inf], [1.0]], dtype=dtype)
    y = torch.tensor([[0.0], [big], [2.0]], dtype=dtype)
    b = torch.tensor([[1.0], [2.0], [4.0]], dtype=dtype)
    f = ops.exp(-ops.sqdist(Vi(0, 1), Vj(1, 1))) * Vj(2, 1)
    got = tensor(map_reduce(f, SUM, (x, y, b), options=CPU)).double()
    want = tensor(map_reduce(f, SUM, (x, y, b), options=REFERENCE)).double()
    assert_close(got, want, 1e-6, "gaussian")
    assert bool(torch.isnan(got[3])) and float(got[1]) == 2.0
    one_nan = y.clone()
    one_nan[1] = math.nan
    assert bool(torch.isnan(tensor(map_reduce(f, SUM, (x, one_nan, b), options=CPU))).all())


def test_nan_in_one_row_stays_there(dtype: torch.dtype) -> None:
    f = gaussian()
    x, y, b = arguments(f, 33, 40, dtype)
    x[17, 1] = math.nan
    got = tensor(map_reduce(f, SUM, (x, y, b), options=CPU))
    assert torch.isnan(got).flatten().nonzero().flatten().tolist() == [17]
    got = tensor(map_reduce(f, SUM, (y, x, x[:, :1]), options=CPU, axis="i"))
    assert torch.isnan(got).flatten().nonzero().flatten().tolist() == [17]


def test_overflow_gives_infinity_not_garbage() -> None:
    x = torch.tensor([[100.0], [-200.0], [88.0]])
    got = tensor(map_reduce(ops.exp(Vi(0, 1) + Vj(1, 1)), SUM, (x, torch.zeros(1, 1)), options=CPU))
    assert got[0] == math.inf and got[1] == 0.0
    assert float(got[2]) == pytest.approx(math.exp(88.0), rel=1e-6)


# ---------------------------------------------------------------- dense


def test_dense_agrees_with_the_sum() -> None:
    f = gaussian(3, 2)
    args = arguments(f, 6, 6)
    K = dense(f, args)
    assert K.shape == (6, 6, 2)
    (want,) = exact(f, SUM, args)
    assert_close(K.sum(1), want, 1e-13, "dense")


# ---------------------------------------------------------------- large formulas fall back


def test_formulas_too_deep_for_code_run_on_the_reference(launches) -> None:
    f: Expr = Vi(0, 1) * Vj(1, 1)
    for k in range(600):
        f = ops.sin(f + 0.001 * k)
    assert sum(1 for _ in postorder(f)) > 1000
    assert_matches_reference(f, SUM, arguments(f, 5, 6), tol=1e4)
    assert launches.compiled == 0 and launches.reference > 0


# ---------------------------------------------------------------- bad input

F3 = gaussian()


def good() -> list[torch.Tensor]:
    return [torch.zeros(4, 3), torch.zeros(5, 3), torch.zeros(5, 1)]


BAD = {
    "too few arguments": (
        lambda a: a[:2],
        ShapeError,
        r"the formula uses argument 2 \(Vj\(2,1\)\) but only 2 were given",
    ),
    "not a tensor": (
        lambda a: [a[0].numpy(), *a[1:]],
        DTypeError,
        r"argument 0 is a ndarray; expected a torch tensor",
    ),
    "a list": (lambda a: [[[0.0] * 3], *a[1:]], DTypeError, r"argument 0 is a list; expected a torch tensor"),
    "integers": (
        lambda a: [a[0].long(), *a[1:]],
        DTypeError,
        r"argument 0 .* dtype torch.int64; expected a floating",
    ),
    "booleans": (lambda a: [*a[:2], a[2] > 0], DTypeError, r"argument 2 .* dtype torch.bool"),
    "complex": (lambda a: [a[0].cfloat(), *a[1:]], DTypeError, r"argument 0 .* dtype torch.complex64"),
    "two dtypes": (
        lambda a: [a[0], a[1].double(), a[2]],
        DTypeError,
        r"argument 1 .* has dtype torch.float64, arguments before it torch.float32",
    ),
    "wrong dim": (
        lambda a: [a[0][:, :2], *a[1:]],
        ShapeError,
        r"argument 0 .* has shape \(4, 2\); expected \(..., M, 3\)",
    ),
    "wrong dim of j": (
        lambda a: [*a[:2], a[2][:, 0]],
        ShapeError,
        r"argument 2 .* has shape \(5,\); expected \(..., N, 1\)",
    ),
    "a scalar": (lambda a: [a[0], torch.tensor(1.0), a[2]], ShapeError, r"argument 1 .* has shape \(\)"),
    "row mismatch": (
        lambda a: [a[0], a[1], a[2][:4]],
        ShapeError,
        r"argument 2 .* has 4 rows, but argument 1 .* has 5; all variables indexed by j need the same number",
    ),
    "i and j mixed up": (
        lambda a: [a[0], a[1], torch.zeros(4, 1)],
        ShapeError,
        r"argument 2 \(Vj\(2,1\)\) has 4 rows",
    ),
    "batches": (
        lambda a: [a[0].expand(2, 4, 3), a[1].expand(3, 5, 3), a[2]],
        ShapeError,
        r"batch shapes \[\(2,\), \(3,\), \(\)\] of the arguments do not broadcast",
    ),
    "two devices": (
        lambda a: [a[0], a[1].to("meta"), a[2]],
        DeviceError,
        r"argument 1 .* is on meta, arguments before it on cpu; move them",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case: str) -> None:
    change, error, message = BAD[case]
    map_reduce(F3, SUM, good())  # the others are fine
    with pytest.raises(error, match=message):
        map_reduce(F3, SUM, change(good()))


def test_bad_calls() -> None:
    with pytest.raises(FormulaError, match="axis='k': expected 'j' .a result for each i., 'i' or 'ij'"):
        map_reduce(F3, SUM, good(), axis="k")
    with pytest.raises(FormulaError, match="axis=1"):
        map_reduce(F3, SUM, good(), axis=1)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="no argument is indexed by j, so its size is unknown; pass sizes="):
        map_reduce(Vi(0, 3), SUM, good()[:1])
    with pytest.raises(ShapeError, match="sizes says 7 for j, but argument 1 .* has 5 rows"):
        map_reduce(F3, SUM, good(), sizes=(None, 7))
    with pytest.raises(FormulaError, match="variable 0 is used as"):
        map_reduce(ops.sqdist(Vi(0, 3), Vj(0, 3)), SUM, good())


@pytest.mark.cpu_only
def test_bad_options() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailable, match="backend='cuda' needs one and a CUDA build of torch"):
            map_reduce(F3, SUM, good(), options=Options(backend="cuda"))
    with pytest.raises(
        BackendUnavailable, match="backend='cpu' was asked for, but the arguments are on meta"
    ):
        map_reduce(F3, SUM, [a.to("meta") for a in good()], options=CPU)
    with pytest.raises(OptionError, match="backend='gpu' is unknown; expected one of"):
        Options(backend="gpu")
    with pytest.raises(OptionError, match="precision='high'"):
        Options(precision="high")
    with pytest.raises(OptionError, match="threads=0 is not a positive integer"):
        Options(threads=0)
    with pytest.raises(OptionError, match="memory_limit"):
        Options(memory_limit=1000)
    with pytest.raises(OptionError, match="option 'presicion' is unknown"), options(presicion="exact"):
        pass


def test_options_are_scoped_and_captured_for_backward(launches) -> None:
    f = gaussian()
    args = arguments(f, 4, 5)
    with options(backend="reference"):
        out = tensor(map_reduce(f, SUM, [a.requires_grad_() for a in args]))
    assert launches.compiled == 0
    torch.autograd.grad(out.sum(), args)  # outside the block: still where it was recorded
    assert launches.compiled == 0 and launches.reference > 0
    map_reduce(f, SUM, [a.detach() for a in args])
    assert launches.compiled == 1


@pytest.mark.parametrize("axis", ["j", "i", "ij"])
@pytest.mark.parametrize("dim", [4, 20])
def test_a_number_that_is_repeated(axis: str, dim: int, dtype: torch.dtype, launches) -> None:
    """Sums of formulas whose only vector is a repetition, as the gradient of a sum of components is."""
    x, y, p = Vi(0, 1), Vj(1, 1), Pm(2, 1)
    for core in (x, y, p * p, x * y, ops.exp(x * y) * x * y, 0.0 * x + 2.5):
        args = (torch.rand(7, 1, dtype=dtype), torch.rand(9, 1, dtype=dtype), torch.rand(1, dtype=dtype))
        launches.clear()
        assert_matches_reference(ops.widen(core, dim), SUM, args, axis=axis, sizes=(7, 9))
        assert launches.compiled >= 1

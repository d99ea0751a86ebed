"""Formula strings as KeOps's users write them: values, shapes, gradients, arguments and refusals."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch

import kerngp
import kerngp.numpy
import kerngp.numpy.cluster
import kerngp.torch
import kerngp.torch.cluster
from kerngp.engine.operands import Operands
from kerngp.errors import (
    BackendUnavailable,
    DataError,
    DeviceError,
    DTypeError,
    FormulaError,
    OptionError,
    ShapeError,
)
from kerngp.lazytensor.genred import settings_of
from kerngp.torch import Genred, generic_argkmin, generic_argmin, generic_logsumexp, generic_sum

F = torch.float64
ALIASES = ["x = Vi(3)", "y = Vj(3)", "b = Vj(2)", "g = Pm(1)"]
KERNEL = "Exp(-g * SqDist(x, y)) * b"


def points(M: int = 33, N: int = 31, dtype: torch.dtype = F, batch: tuple[int, ...] = ()):
    """x, y, b and g of the formula above."""
    sizes = ((M, 3), (N, 3), (N, 2))
    return (*(torch.randn(*batch, *s, dtype=dtype) for s in sizes), torch.tensor([0.7], dtype=dtype))


def dense(x, y, b, g):
    """The product of the formula above, by torch."""
    return torch.exp(-g * ((x[..., :, None, :] - y[..., None, :, :]) ** 2).sum(-1)) @ b


# ---------------------------------------------------------------- values and shapes


@pytest.mark.parametrize("sizes", [(1, 1), (7, 1000), (1000, 7), (33, 31)])
def test_sum(sizes, dtype, launches):
    args = points(*sizes, dtype=dtype)
    out = Genred(KERNEL, ALIASES, axis=1)(*args)
    want = dense(*(a.double() for a in args))
    assert launches.compiled == 1 and launches.reference == 0
    assert out.dtype == dtype and out.shape == (sizes[0], 2)
    tolerance = 1e-12 if dtype == F else 2e-5
    torch.testing.assert_close(out.double(), want, rtol=tolerance, atol=tolerance * sizes[1] ** 0.5)


def test_axis_0_sums_over_i_and_is_the_default():
    x, y, _, g = points()
    a = torch.randn(33, 2, dtype=F)
    routine = Genred("Exp(-g * SqDist(x, y)) * a", ["x = Vi(3)", "y = Vj(3)", "a = Vi(2)", "g = Pm(1)"])
    torch.testing.assert_close(routine(x, y, a, g), dense(y, x, a, g))


D_XY = "SqDist(x, y)"
REDUCTIONS = {
    "Sum": lambda d, n: d.sum(n)[..., None],
    "LogSumExp": lambda d, n: d.logsumexp(n)[..., None],
    "Min": lambda d, n: d.amin(n)[..., None],
    "Max": lambda d, n: d.amax(n)[..., None],
    "ArgMin": lambda d, n: d.argmin(n)[..., None],
    "ArgMax": lambda d, n: d.argmax(n)[..., None],
    "Min_ArgMin": lambda d, n: tuple(t[..., None] for t in d.min(n)),
    "MinArgMin": lambda d, n: tuple(t[..., None] for t in d.min(n)),
    "Max_ArgMax": lambda d, n: tuple(t[..., None] for t in d.max(n)),
    "MaxArgMax": lambda d, n: tuple(t[..., None] for t in d.max(n)),
    "KMin": lambda d, n: d.movedim(n, -1).sort(-1).values[..., :4],
    "ArgKMin": lambda d, n: d.movedim(n, -1).argsort(-1)[..., :4],
    "KMin_ArgKMin": lambda d, n: tuple(t[..., :4] for t in d.movedim(n, -1).sort(-1)),
    "KMinArgKMin": lambda d, n: tuple(t[..., :4] for t in d.movedim(n, -1).sort(-1)),
    "ArgKMax": lambda d, n: d.movedim(n, -1).argsort(-1, descending=True)[..., :4],
    "Mean": lambda d, n: d.mean(n)[..., None],
    "Prod": lambda d, n: d.prod(n)[..., None],
    "Count": lambda d, n: d.count_nonzero(n)[..., None],
}


@pytest.mark.parametrize("batch", [(), (2, 3)], ids=["", "batch"])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name, axis, batch):
    x, y, _, _ = points(batch=batch)
    k = 4 if "KM" in name else None
    got = Genred(D_XY, ALIASES[:2], name, axis, opt_arg=k)(x, y)
    pairs = ((x[..., :, None, :] - y[..., None, :, :]) ** 2).sum(-1)
    want = REDUCTIONS[name](pairs, axis - 2)
    for g, w in zip(*(t if isinstance(t, tuple) else (t,) for t in (got, want)), strict=True):
        assert g.dtype == w.dtype  # indices are int64
        torch.testing.assert_close(g, w)


def test_k_min_of_vectors():
    x, y, _, _ = points()
    got = Genred("Square(x - y)", ALIASES[:2], "KMin", axis=1, opt_arg=3)(x, y)
    torch.testing.assert_close(got, ((x[:, None] - y) ** 2).sort(1).values[:, :3])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", ["SumSoftMaxWeight", "SoftMax"])
def test_softmax(name, axis):
    x, y, _, _ = points()
    weights = ("y", y, "ij,jd->id") if axis == 1 else ("x", x, "ij,id->jd")
    got = Genred(D_XY, ALIASES[:2], name, axis=axis, formula2=weights[0])(x, y)
    p = torch.softmax(torch.cdist(x, y) ** 2, axis)
    torch.testing.assert_close(got, torch.einsum(weights[2], p, weights[1]))


@pytest.mark.parametrize("name", ["LogSumExp", "LogSumExpWeight"])
def test_logsumexp_with_weights(name):
    x, y, b, _ = points()
    got = Genred("-SqDist(x, y)", ALIASES[:3], name, axis=1, formula2="Square(b)")(x, y, b)
    want = torch.log(torch.exp(-(torch.cdist(x, y) ** 2)) @ b**2)
    torch.testing.assert_close(got, want)


def test_a_reduction_of_ones_own():
    squares = kerngp.define_reduction(
        "squares", neutral=(0.0,), step=lambda s, f: (s[0] + f**2,), merge=lambda a, b: (a[0] + b[0],)
    )
    x, y, _, _ = points()
    got = Genred(D_XY, ALIASES[:2], squares, axis=1)(x, y)
    torch.testing.assert_close(got, (torch.cdist(x, y) ** 4).sum(1, keepdim=True))


def test_softmin():
    x, y, b, _ = points()
    got = Genred(D_XY, ALIASES[:3], "SoftMin", axis=1, formula2="b")(x, y, b)
    torch.testing.assert_close(got, torch.softmax(-(torch.cdist(x, y) ** 2), 1) @ b)


def test_an_index_nothing_depends_on_counts_as_one_point():
    x = torch.randn(9, 3, dtype=F)
    torch.testing.assert_close(Genred("Square(x)", ["x = Vi(3)"], axis=1)(x), x**2)
    torch.testing.assert_close(Genred("Square(x)", ["x = Vi(3)"], axis=0)(x), (x**2).sum(0, keepdim=True))
    # a declared variable gives the size even if the formula does not use it
    y = torch.randn(5, 1, dtype=F)
    torch.testing.assert_close(Genred("Square(x)", ["x = Vi(3)", "y = Vj(1)"], axis=1)(x, y), 5 * x**2)


def test_positions_and_variables_without_alias():
    x, y, b, g = points()
    routine = Genred(
        "Exp(-g * SqDist(x, y)) * Var(3,2,1)", ["g = Pm(0,1)", "y=Vj(2,3)", "x = Var(1,3,0)"], axis=1
    )
    torch.testing.assert_close(routine(g, x, y, b), dense(x, y, b, g))
    # the weights may have variables of their own
    routine = Genred(D_XY, ALIASES[:2], "SoftMax", axis=1, formula2="Var(2,2,1)")
    torch.testing.assert_close(routine(x, y, b), torch.softmax(torch.cdist(x, y) ** 2, 1) @ b)


def test_parameters_in_all_forms():
    x, y, b, g = points()
    routine, want = Genred(KERNEL, ALIASES, axis=1), dense(x, y, b, g)
    for form in (g, g.reshape(()), g.reshape(1, 1), 0.7, [0.7], np.float64(0.7)):
        out = routine(x, y, b, form)
        assert out.shape == (33, 2)
        torch.testing.assert_close(out, want)
    batched = torch.tensor([[0.1], [0.5], [1.0]], dtype=F)
    batch = torch.stack([dense(x, y, b, h) for h in batched])
    torch.testing.assert_close(routine(x, y, b, batched), batch)


def test_layouts():
    x, y, b, g = points()
    routine, want = Genred(KERNEL, ALIASES, axis=1), dense(x, y, b, g)
    strided = [t.T.contiguous().T for t in (x, y, b)]
    torch.testing.assert_close(routine(*strided, g), want)
    torch.testing.assert_close(routine(x.flip(0), y.repeat_interleave(2, 0)[::2], b, g), want.flip(0))
    wide = [t.numpy()[::-1] for t in (x, y, b)]
    np.testing.assert_allclose(routine(*wide, g.numpy()), want.flip(0).numpy(), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy(dtype):
    args = [t.numpy().astype(dtype) for t in points()]
    out = kerngp.numpy.Genred(KERNEL, ALIASES, axis=1)(*args)
    assert isinstance(out, np.ndarray) and out.dtype == dtype
    np.testing.assert_allclose(out, dense(*points_of(args)), rtol=1e-4)
    index = kerngp.numpy.Genred(D_XY, ALIASES[:2], "ArgMin", axis=1)(*args[:2])
    assert isinstance(index, np.ndarray) and index.dtype == np.int64 and index.shape == (33, 1)


def points_of(args):
    return [torch.from_numpy(a).double() for a in args]


def test_facades_share_one_class():
    assert kerngp.torch.Genred is kerngp.numpy.Genred
    assert kerngp.torch.KernelSolve is kerngp.numpy.KernelSolve is kerngp.torch.operations.KernelSolve


def test_same_points_are_recognised(launches):
    """One array for two variables is one set of points: the symmetric half is enough."""
    x = torch.randn(2000, 3)
    b = torch.ones(2000, 2)
    K = Genred(KERNEL, ALIASES, axis=1)
    torch.testing.assert_close(K(x, x, b, 0.7), K(x, x.clone(), b, 0.7), rtol=1e-5, atol=1e-3)
    n = x.numpy()
    np.testing.assert_array_equal(K(n, n, b.numpy(), 0.7), K(x, x, b, 0.7).numpy())


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_block_sparse_reductions(axis, library):
    x, y, _, _ = points(40, 30)
    rows, columns = torch.tensor([[0, 15], [15, 40]]), torch.tensor([[0, 7], [7, 22], [22, 30]])
    keep = torch.tensor([[True, False, True], [False, True, True]])
    kept = keep[torch.tensor([0] * 15 + [1] * 25)][:, torch.tensor([0] * 7 + [1] * 15 + [2] * 8)]
    pairs = torch.cdist(x, y) ** 2
    if library == "torch":
        given, ranges = (x, y), kerngp.torch.cluster.from_matrix(rows, columns, keep)
    else:
        given = (x.numpy(), y.numpy())
        ranges = kerngp.numpy.cluster.from_matrix(rows.numpy(), columns.numpy(), keep.numpy())
    got = Genred("-" + D_XY, ALIASES[:2], "LogSumExp", axis=axis)(*given, ranges=ranges)
    want = torch.where(kept, -pairs, -torch.inf).logsumexp(axis)[:, None]
    np.testing.assert_allclose(got, want, rtol=1e-10)


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("axis", [0, 1])
def test_gradients_of_every_argument(axis):
    formula = KERNEL if axis == 1 else "Exp(-g * SqDist(x, y)) * Elem(x, 0)"
    routine = Genred(formula, ALIASES, axis=axis)
    args = tuple(t.requires_grad_() for t in points(4, 5))
    used = args if axis == 1 else (*args[:2], args[3])

    def call(*given):
        return routine(*given) if axis == 1 else routine(given[0], given[1], args[2].detach(), given[2])

    assert torch.autograd.gradcheck(call, used)
    assert torch.autograd.gradgradcheck(call, used)


@pytest.mark.parametrize("name", ["LogSumExp", "SumSoftMaxWeight", "Min", "KMin"])
def test_gradients_of_reductions(name):
    options = {"SumSoftMaxWeight": {"formula2": "b"}, "KMin": {"opt_arg": 2}}.get(name, {})
    routine = Genred(D_XY, ALIASES[:3], name, axis=1, **options)
    x, y, b, _ = points(3, 6)
    assert torch.autograd.gradcheck(lambda *t: routine(*t), [t.requires_grad_() for t in (x, y, b)])


def test_gradient_of_a_broadcast_batch():
    x = torch.randn(2, 1, 5, 3, dtype=F, requires_grad=True)
    y, b = torch.randn(3, 6, 3, dtype=F, requires_grad=True), torch.randn(6, 2, dtype=F, requires_grad=True)
    g = torch.rand(2, 3, 1, dtype=F, requires_grad=True)
    out = Genred(KERNEL, ALIASES, axis=1)(x, y, b, g)
    want = dense(x, y, b, g[..., None])
    torch.testing.assert_close(out, want)
    seed = torch.randn_like(want)
    for ours, theirs in zip(*(torch.autograd.grad(t, (x, y, b, g), seed) for t in (out, want)), strict=True):
        torch.testing.assert_close(ours, theirs)


# ---------------------------------------------------------------- keywords


def test_out():
    args = points()
    for library in (torch.empty, np.empty):
        given = args if library is torch.empty else [a.numpy() for a in args]
        target = library((33, 2), dtype=F if library is torch.empty else "float64")
        assert Genred(KERNEL, ALIASES, axis=1)(*given, out=target) is target
        np.testing.assert_allclose(target, dense(*args), rtol=1e-12)
    with pytest.raises(ShapeError, match=r"out.*\(33, 1\).*\(33, 2\)"):
        Genred(KERNEL, ALIASES, axis=1)(*args, out=torch.empty(33, 1, dtype=F))
    with pytest.raises(ShapeError, match="out"):
        Genred(KERNEL, ALIASES, axis=1)(*args, out=torch.empty(33, 2))
    with pytest.raises(DataError, match="out"):
        Genred(KERNEL, ALIASES, axis=1)(*args, out=[0.0])


@pytest.mark.parametrize("name", ["ArgMin", "Count", "Any"])
def test_out_of_results_that_are_no_floats(name):
    x, y = points()[:2]
    for library in (torch.empty, np.empty):
        given = (x, y) if library is torch.empty else (x.numpy(), y.numpy())
        K = Genred("SqDist(x, y) - 1.0", ["x = Vi(3)", "y = Vj(3)"], name, axis=1)
        want = K(*given)
        target = library(want.shape, dtype=want.dtype)
        assert K(*given, out=target) is target and bool((target == want).all())
        with pytest.raises(ShapeError, match="out.*dtype"):
            K(*given, out=library(want.shape, dtype=x.dtype if library is torch.empty else "float64"))


def test_backends(launches):
    args = points()
    K = Genred(KERNEL, ALIASES, axis=1)
    want = K(*args)
    torch.testing.assert_close(K(*args, backend="reference"), want)
    assert launches.reference == 1
    torch.testing.assert_close(K(*args, backend="auto"), want)
    with kerngp.options.options(backend="reference"):
        K(*args)  # "auto" leaves what is in force
    assert launches.reference == 2
    with pytest.raises(OptionError, match="backend='TPU'"):
        K(*args, backend="TPU")


@pytest.mark.cpu_only
@pytest.mark.parametrize("name", ["GPU", "GPU_1D", "GPU_2D", "GPU_1D_device", "GPU_2D_host"])
def test_a_gpu_that_is_not_there(name, launches):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(BackendUnavailable, match="GPU"):
        Genred(KERNEL, ALIASES, axis=1)(*points(), backend=name)
    assert Genred(KERNEL, ALIASES, axis=1)(*points(), backend="CPU").shape == (33, 2)
    assert launches.compiled == 1


def test_device_id():
    operands = Operands(device=torch.device("cuda", 1))
    assert settings_of(operands, "auto", -1, None) == settings_of(operands, "auto", 1, None) == {}
    with pytest.raises(DeviceError, match="device_id=0, but the arrays are on cuda:1"):
        settings_of(operands, "auto", 0, None)


def test_switches_are_accepted_and_change_nothing():
    args = points()
    want = Genred(KERNEL, ALIASES, axis=1)(*args)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for switches in (
            {"dtype_acc": "float64"},
            {"use_double_acc": True},
            {"use_double_acc": True, "dtype_acc": "float64"},
            {"sum_scheme": "kahan_scheme"},
            {"sum_scheme": "direct_sum", "enable_chunks": False, "use_fast_math": False},
            {"rec_multVar_highdim": 2},
        ):
            assert torch.equal(Genred(KERNEL, ALIASES, axis=1, **switches)(*args), want)
        assert torch.equal(Genred(KERNEL, ALIASES, axis=1)(*args, device_id=0), want)
    for bad in (
        {"dtype_acc": "int8"},
        {"sum_scheme": "fast"},
        {"use_double_acc": True, "dtype_acc": "float32"},
    ):
        with pytest.raises(OptionError, match=next(iter(bad))):
            Genred(KERNEL, ALIASES, axis=1, **bad)


@pytest.mark.parametrize("name", ["dtype", "cuda_type"])
def test_deprecated_keywords_warn(name):
    with pytest.warns(DeprecationWarning, match=f"{name}='float32'") as caught:
        routine = Genred(KERNEL, ALIASES, axis=1, **{name: "float32"})
    assert caught[0].filename == __file__
    assert routine(*points()).dtype == F


def test_pickle():
    args = points()
    for routine in (
        Genred(KERNEL, ALIASES, axis=1),
        Genred(D_XY, ALIASES[:3], "LogSumExp", axis=1, formula2="b*b"),
        Genred(D_XY, ALIASES[:3], "KMin", axis=1, opt_arg=3),
    ):
        again = pickle.loads(pickle.dumps(routine))
        given = args[: len(routine.aliases)]
        torch.testing.assert_close(again(*given), routine(*given))
        assert repr(again) == repr(routine)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda x, y, b, g: (x, y, b), ShapeError, ["4 arrays", "g = Pm(1)", "got 3"]),
        (lambda x, y, b, g: (x[:, :2], y, b, g), ShapeError, ["x has shape (33, 2)", "(..., M, 3)"]),
        (lambda x, y, b, g: (x, y, b[:, 0], g), ShapeError, ["b has shape (31,)", "(..., N, 2)"]),
        (lambda x, y, b, g: (x, y, b, [1.0, 2.0]), ShapeError, ["g has shape (2,)", "(..., 1)"]),
        (lambda x, y, b, g: (x, y, b[:5], g), ShapeError, ["b has 5 rows", "y has 31", "indexed by j"]),
        (lambda x, y, b, g: (x.float(), y, b, g), DTypeError, ["y has dtype float64", "x has float32"]),
        (lambda x, y, b, g: (x, y.int(), b, g), DTypeError, ["y has dtype int32"]),
        (lambda x, y, b, g: (1.0, y, b, g), DTypeError, ["x is a float", "(..., M, 3)"]),
        (lambda x, y, b, g: (x, y, "b", g), DTypeError, ["b is a str"]),
        (lambda x, y, b, g: (x, y, b, "g"), DTypeError, ["g is a str"]),
        (lambda x, y, b, g: (x.expand(2, 33, 3), y.expand(3, 31, 3), b, g), ShapeError, ["x (2, 33, 3)"]),
    ],
)  # fmt: skip
def test_wrong_arrays(change, error, words):
    with pytest.raises(error) as caught:
        Genred(KERNEL, ALIASES, axis=1)(*change(*points()))
    assert all(w in str(caught.value) for w in words), caught.value


def test_a_flat_signal_says_what_to_do():
    x, y, b, _ = points()
    routine = Genred("Exp(-SqDist(x, y)) * b", ["x = Vi(3)", "y = Vj(3)", "b = Vj(1)"], axis=1)
    with pytest.raises(ShapeError, match=r"b\[:, None\]"):
        routine(x, y, b[:, 0])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"axis": 2}, OptionError, ["axis=2"]),
        ({"axis": True}, OptionError, ["axis=True"]),
        ({"reduction_op": "ArgKmn"}, FormulaError, ["'ArgKmn'", "argkmin"]),
        ({"reduction_op": "KMin"}, OptionError, ["opt_arg"]),
        ({"reduction_op": "KMin", "opt_arg": 0}, FormulaError, ["0"]),
        ({"reduction_op": "SumSoftMaxWeight"}, FormulaError, ["formula2"]),
        ({"reduction_op": "LogSumExpWeight"}, FormulaError, ["formula2"]),
        ({"formula2": "b"}, FormulaError, ["no weights"]),
        ({"aliases": ["x = Vi(3)", "y = Vj(3)", "b = Vj(0, 2)", "g = Pm(1)"]}, FormulaError, ["0"]),
        ({"aliases": ["x = Vi(3)", "y = Vj(3)", "b = Vj(5, 2)", "g = Pm(3, 1)"]}, FormulaError, ["number 2"]),
        ({"formula": "Exp(-g * SqDist(x, z))"}, FormulaError, ["z"]),
        ({"formula": "Expo(x)"}, FormulaError, ["Expo"]),
    ],
)
def test_wrong_declarations(arguments, error, words):
    with pytest.raises(error) as caught:
        Genred(**{"formula": KERNEL, "aliases": ALIASES, "axis": 1, **arguments})
    assert all(w in str(caught.value) for w in words), caught.value


def test_more_neighbours_than_points():
    x, y, _, _ = points(5, 3)
    with pytest.raises(ShapeError, match="k=4 exceeds the 3 entries"):
        Genred(D_XY, ALIASES[:2], "ArgKMin", axis=1, opt_arg=4)(x, y)


# ---------------------------------------------------------------- declared outputs


def test_generic_reductions():
    x, y, b, g = points()
    pairs = torch.cdist(x, y) ** 2
    variables = ALIASES[:2]
    torch.testing.assert_close(generic_sum(KERNEL, "a = Vi(2)", *ALIASES)(x, y, b, g), dense(x, y, b, g))
    over_i = generic_sum(D_XY, "a = Vj(1)", *variables)(x, y)
    torch.testing.assert_close(over_i, pairs.sum(0)[:, None])
    lse = generic_logsumexp(D_XY, "a = Vi(1)", *variables)(x, y)
    torch.testing.assert_close(lse, pairs.logsumexp(1, keepdim=True))
    assert torch.equal(generic_argmin(D_XY, "a=Vi(1)", *variables)(x, y), pairs.argmin(1, keepdim=True))
    assert torch.equal(generic_argkmin(D_XY, "a=Vi(4)", *variables)(x, y), pairs.argsort(1)[:, :4])
    with pytest.raises(FormulaError, match="output='a = Pm"):
        generic_sum(D_XY, "a = Pm(1)", *variables)

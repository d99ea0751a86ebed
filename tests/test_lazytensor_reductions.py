"""Reductions and products of LazyTensor against dense torch: values, shapes, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kerngp import LazyTensor, Pm, Vi, Vj
from kerngp.errors import BackendUnavailable, DeviceError, DTypeError, FormulaError, OptionError, ShapeError
from kerngp.options import options

M, N, D = 33, 7, 3


def points(
    m: int = M, n: int = N, dim: int = D, batch: tuple[int, ...] = (), dtype: torch.dtype = torch.float64
):
    return torch.randn(*batch, m, dim, dtype=dtype), torch.randn(*batch, n, dim, dtype=dtype)


def gaussian(x: torch.Tensor, y: torch.Tensor) -> tuple[LazyTensor, torch.Tensor]:
    """exp(-|x_i - y_j|^2), lazily and as a matrix."""
    lazy = (-((LazyTensor(x[..., :, None, :]) - LazyTensor(y[..., None, :, :])) ** 2).sum(-1)).exp()
    return lazy, torch.exp(-((x[..., :, None, :] - y[..., None, :, :]) ** 2).sum(-1))


# name, torch on an axis
REDUCTIONS = {
    "sum": lambda f, axis: f.sum(axis),
    "logsumexp": lambda f, axis: f.logsumexp(axis),
    "min": lambda f, axis: f.amin(axis),
    "max": lambda f, axis: f.amax(axis),
    "argmin": lambda f, axis: f.argmin(axis),
    "argmax": lambda f, axis: f.argmax(axis),
    "min_argmin": lambda f, axis: (f.amin(axis), f.argmin(axis)),
    "max_argmax": lambda f, axis: (f.amax(axis), f.argmax(axis)),
    "prod": lambda f, axis: f.prod(axis),
    "mean": lambda f, axis: f.mean(axis),
    "count": lambda f, axis: f.count_nonzero(axis),
    "any": lambda f, axis: f.bool().any(axis),
    "all": lambda f, axis: f.bool().all(axis),
}


def agree(got, expected) -> None:
    if isinstance(expected, tuple):
        assert isinstance(got, tuple) and len(got) == len(expected)
        for g, e in zip(got, expected, strict=True):
            agree(g, e)
    else:
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_over_either_axis(name, batch):
    x, y = points(batch=batch)
    lazy = LazyTensor(x[..., :, None, :]) * LazyTensor(y[..., None, :, :])  # dim D
    dense = x[..., :, None, :] * y[..., None, :, :]
    b = len(batch)
    for axis in (b, b + 1):
        expected = REDUCTIONS[name](dense, axis)
        agree(getattr(lazy, name)(axis=axis), expected)
        agree(getattr(lazy, name)(dim=axis), expected)
        agree(getattr(lazy, name)(axis), expected)
        agree(getattr(lazy, name)(axis - b - 3), expected)
        agree(getattr(lazy, f"{name}_reduction")(axis=axis), expected)
        agree(lazy.reduction(name.title(), axis=axis), expected)


def test_questions_about_comparisons():
    x, y = points()
    lazy, dense = Vi(x) < Vj(y) - 0.5, x[:, None] < y[None] - 0.5
    for axis in (0, 1):
        agree(lazy.count(axis=axis), dense.sum(axis))
        agree(lazy.any(axis=axis), dense.any(axis))
        agree(lazy.all(axis=axis), dense.all(axis))
        agree(lazy.mean(axis=axis), dense.double().mean(axis))
    assert (Vi(x.numpy()) < Vj(y.numpy())).any(axis=1).dtype == np.bool_
    assert (Vi(x.numpy()) < Vj(y.numpy())).count(axis=1).dtype == np.int64


def test_reductions_over_the_components():
    x, y = points()
    lazy, dense = (Vi(x) - Vj(y)).relu(), (x[:, None] - y[None]).relu()
    agree(lazy.prod().dense(), dense.prod(-1))
    agree(lazy.mean(-1).dense(), dense.mean(-1))
    agree(lazy.count(axis=-1).dense(), dense.count_nonzero(-1).double())
    agree(lazy.any().dense(), dense.bool().any(-1).double())
    agree(lazy.all().dense(), dense.bool().all(-1).double())


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dim", [1, D])
def test_k_largest(dim, axis):
    x, y = points(dim=dim)
    lazy, dense = Vi(x) * Vj(y), x[:, None] * y[None]
    values, index = (t.movedim(axis, 1) for t in dense.topk(3, axis))
    if dim == 1:
        values, index = values.squeeze(-1), index.squeeze(-1)
    agree(lazy.Kmax(3, axis=axis), values)
    agree(lazy.argKmax(K=3, dim=axis), index)
    agree(lazy.Kmax_argKmax(3, axis=axis), (values, index))
    agree(lazy.Kmax_argKmax_reduction(3, axis=axis), (values, index))
    agree(lazy.reduction("ArgKMax", opt_arg=3, axis=axis), index)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dim", [1, D])
def test_k_smallest(dim, axis):
    x, y = points(dim=dim)
    lazy, dense = Vi(x) * Vj(y), x[:, None] * y[None]
    values, index = (t.movedim(axis, 1) for t in dense.topk(3, axis, largest=False))  # (M, 3, dim)
    if dim == 1:
        values, index = values.squeeze(-1), index.squeeze(-1)
    agree(lazy.Kmin(3, axis=axis), values)
    agree(lazy.argKmin(3, axis=axis), index)
    agree(lazy.Kmin_argKmin(3, dim=axis), (values, index))
    agree(lazy.Kmin_argKmin(K=3, axis=axis - 3), (values, index))
    agree(lazy.reduction("KMin", opt_arg=3, axis=axis), values)
    agree(lazy.argKmin(np.int64(3), axis=axis), index)


def test_scalar_formulas_keep_an_axis_of_one():
    x, y = points()
    K, _ = gaussian(x, y)
    assert K.sum(axis=1).shape == (M, 1) and K.sum(axis=0).shape == (N, 1)
    assert K.argmin(axis=1).shape == (M, 1) and K.argmin(axis=1).dtype == torch.int64


@pytest.mark.parametrize("columns", [None, 1, 4])
def test_products(columns):
    x, y = points()
    K, dense = gaussian(x, y)
    b = (
        torch.randn(N, dtype=torch.float64)
        if columns is None
        else torch.randn(N, columns, dtype=torch.float64)
    )
    a = (
        torch.randn(M, dtype=torch.float64)
        if columns is None
        else torch.randn(M, columns, dtype=torch.float64)
    )
    agree(K @ b, dense @ b)
    agree(K.T @ a, dense.T @ a)
    agree(a.T @ K if columns else a @ K, a.T @ dense if columns else a @ dense)
    agree(K.matvec(b), dense @ b)
    agree(K.rmatvec(a), dense.T @ a)


@pytest.mark.parametrize(
    ("bx", "by", "bb"),
    [((2,), (2,), (2,)), ((2,), (), ()), ((), (), (3,)), ((2, 1), (1, 3), (1, 1)), ((1,), (4,), (4,))],
)
def test_batch_axes_broadcast(bx, by, bb):
    x = torch.randn(*bx, M, D, dtype=torch.float64)
    y = torch.randn(*by, N, D, dtype=torch.float64)
    b = torch.randn(*bb, N, 2, dtype=torch.float64)
    K, dense = gaussian(x, y)
    assert K.shape == tuple(dense.shape)
    agree(K @ b, dense @ b)
    agree(K.sum(axis=K.dim() - 3), dense.sum(-2).unsqueeze(-1))
    agree(K.dense(), dense)


def test_batch_of_matrices_times_one_vector():
    x, y = points(batch=(2,))
    K, dense = gaussian(x, y)
    b = torch.randn(N, dtype=torch.float64)
    agree(K @ b, dense @ b)


def test_batched_parameters():
    x, y = points(batch=(2,))
    s = torch.rand(2, 1, 1, D, dtype=torch.float64)
    lazy = (LazyTensor(x[:, :, None]) * LazyTensor(y[:, None]) * LazyTensor(s)).sum(-1)
    agree(lazy.sum(axis=2), (x[:, :, None] * y[:, None] * s).sum(-1).sum(2).unsqueeze(-1))


@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 5), (5, 1), (31, 33), (300, 1), (1, 300)])
def test_single_rows_and_columns(m, n):
    x, y = points(m, n)
    b = torch.randn(n, 2, dtype=torch.float64)
    K, dense = gaussian(x, y)  # a (1, 1, D) array counts for either index
    assert K.shape == (m, n)
    agree(K @ b, dense @ b)
    agree(K @ b[:, 0], dense @ b[:, 0])
    agree(K.sum(axis=1), dense.sum(1, keepdim=True))
    agree(K.sum(axis=0), dense.sum(0).unsqueeze(-1))
    agree(K.T.dense(), dense.T)
    L = (-Vi(x).sqdist(Vj(y))).exp()
    agree(L @ b, dense @ b)
    agree(L.argmax(axis=1), dense.argmax(1, keepdim=True))


def test_no_rows_and_no_columns():
    x, y = points(0, N)
    K, _ = gaussian(x, y)
    assert (K @ torch.ones(N, 2, dtype=torch.float64)).shape == (0, 2)
    assert K.argmin(axis=1).shape == (0, 1) and K.argKmin(2, axis=1).shape == (0, 2)
    agree(K.sum(axis=0), torch.zeros(N, 1, dtype=torch.float64))
    with pytest.raises(ShapeError, match="no index"):
        K.argmin(axis=0)
    x, y = points(M, 0)
    K, _ = gaussian(x, y)
    agree(K @ torch.ones(0, dtype=torch.float64), torch.zeros(M, dtype=torch.float64))
    agree(K.logsumexp(axis=1), torch.full((M, 1), -math.inf, dtype=torch.float64))
    agree(K.min(axis=1), torch.full((M, 1), math.inf, dtype=torch.float64))
    with pytest.raises(ShapeError, match="k=2 exceeds the 0 entries"):
        K.Kmin(2, axis=1)


def test_formulas_of_one_side():
    x, y = points()
    agree(Vi(x).exp().sum(axis=0), x.exp().sum(0, keepdim=True))
    agree(Vj(y).max(axis=1), y.amax(0, keepdim=True))
    # constant along j: the product sums b
    b = torch.randn(N, dtype=torch.float64)
    agree(Vi(x)[0] @ b, x[:, 0] * b.sum())


@pytest.mark.parametrize("weights", [1, 4])
@pytest.mark.parametrize("axis", [0, 1])
def test_weighted_logsumexp_and_softmax(axis, weights):
    x, y = points()
    f, dense = Vi(x).sqdist(Vj(y)) * 40 - 300, ((x[:, None] - y[None]) ** 2).sum(-1) * 40 - 300
    w = torch.rand(N, weights, dtype=torch.float64)
    expected = (dense[..., None] + w.log()[None]).logsumexp(axis)
    agree(f.logsumexp(axis=axis, weight=Vj(w)), expected)
    agree(f.logsumexp(dim=axis, weight=Vj(w)), expected)
    agree(f.logsumexp(dim=axis, other=Vj(w)), expected)
    agree(f.reduction("LogSumExp", other=Vj(w), axis=axis), expected)
    agree(f.sumsoftmaxweight(Vj(w), axis=axis), (dense.softmax(axis)[..., None] * w[None]).sum(axis))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("dim", "weights"), [(1, 1), (1, 3), (D, 1), (D, D)])
def test_weighted_reductions_by_their_names(axis, dim, weights):
    x, y = points(dim=dim)
    f, F = Vi(x) * Vj(y), x[:, None] * y[None]
    p = torch.rand(weights, dtype=torch.float64)
    w, W = Vi(x)[:1].square() * Pm(p), (x[:, None, :1].square() * p).expand(M, N, weights)
    m = F.amax(axis)
    raw = torch.cat([m, (W * (F - m.unsqueeze(axis)).exp()).sum(axis)], -1)
    expected = {
        "LogSumExp": (F + W.log()).logsumexp(axis),
        "LogSumExpWeight": (F + W.log()).logsumexp(axis),
        "SumSoftMaxWeight": (F.softmax(axis) * W).sum(axis),
        "SoftMax": (F.softmax(axis) * W).sum(axis),
        "SoftMin": ((-F).softmax(axis) * W).sum(axis),
        "Max_SumShiftExp": raw,
        "Max_SumShiftExpWeight": raw,
    }
    for name, want in expected.items():
        agree(f.reduction(name, other=w, axis=axis), want)
        if name not in ("LogSumExp", "Max_SumShiftExp", "SoftMax"):
            agree(getattr(f, name.lower())(w, axis=axis), want)
            agree(getattr(f, f"{name.lower()}_reduction")(weight=w, dim=axis), want)
    agree(f.max_sumshiftexp(axis=axis), torch.cat([m, (F - m.unsqueeze(axis)).exp().sum(axis)], -1))


def test_weights_with_batch_axes():
    x, y = points()
    w = torch.rand(2, N, 2, dtype=torch.float64)
    f, F = Vi(x).sqdist(Vj(y)), (x[:, None] - y[None]).square().sum(-1, keepdim=True)
    agree(f.softmin(LazyTensor(w[:, None]), axis=-2), ((-F).softmax(1) * w[:, None]).sum(-2))


def test_symbolic_weights():
    x, y = points()
    w = torch.rand(N, 2, dtype=torch.float64)
    deferred = Vi(0, D).sqdist(Vj(1, D)).sumsoftmaxweight(Vj(2, 2), axis=1)
    F = (x[:, None] - y[None]).square().sum(-1)
    agree(deferred(x, y, w), F.softmax(1) @ w)
    later = Vi(x).sqdist(Vj(y)).logsumexp(axis=1, weight=Vj(w), call=False)
    agree(later(), (F[..., None] + w.log()).logsumexp(1))


def test_bad_weights():
    K = Vi(torch.randn(M, D)) * Vj(torch.randn(N, D))
    for name in ("SoftMax", "LogSumExpWeight", "Max_SumShiftExpWeight"):
        with pytest.raises(FormulaError, match=f"{name.lower()} needs weights: pass them as other="):
            K.reduction(name, axis=1)
    with pytest.raises(FormulaError, match="weights of dim 2 for exponents of dim"):
        K.softmin(Pm(torch.rand(2)), axis=1)
    with pytest.raises(FormulaError, match="sumsoftmaxweight reduces over i or j"):
        K.sumsoftmaxweight(Pm(2.0), axis=-1)
    with pytest.raises(FormulaError, match="prod takes no weights"):
        K.reduction("Prod", other=Pm(2.0), axis=1)


def test_weighted_logsumexp_of_an_empty_softmax():
    x = torch.tensor([[-math.inf], [0.0]], dtype=torch.float64)
    lazy = (Vi(x) + Vj(torch.zeros(3, 1, dtype=torch.float64))).logsumexp(axis=1, weight=Pm(2.0))
    agree(lazy, torch.tensor([[-math.inf], [math.log(6)]], dtype=torch.float64))


# ---------------------------------------------------------------- gradients

GRADIENTS = {
    "product": lambda x, y, b, s: (-Vi(x).sqdist(Vj(y)) / s).exp() @ b,
    "both axes": lambda x, y, b, s: (Vi(x) * Vj(y) * Pm(s)).sum(axis=0) + (Vi(x) - Vj(y)).sin().sum(axis=0),
    "one array twice": lambda x, y, b, s: ((Vi(x) - Vj(x)).sqnorm2() * s).cos().sum(axis=1),
    "logsumexp": lambda x, y, b, s: (Vi(x) | Vj(y)).logsumexp(axis=1),
    "weighted logsumexp": lambda x, y, b, s: (Vi(x) | Vj(y)).logsumexp(axis=1, weight=Vj(b).square()),
    "softmax": lambda x, y, b, s: (Vi(x) | Vj(y)).sumsoftmaxweight(Vj(b), axis=1),
    "prod": lambda x, y, b, s: (Vi(x) * Vj(y)).prod(axis=1),
    "mean": lambda x, y, b, s: (Vi(x) | Vj(y)).sin().mean(axis=0),
    "softmin": lambda x, y, b, s: (Vi(x) * Vj(y)).softmin(Vj(b).sin(), axis=1),
    "Kmax": lambda x, y, b, s: (Vi(x) | Vj(y)).Kmax(2, axis=1),
    "min": lambda x, y, b, s: (Vi(x) * Vj(y)).min(axis=1),
    "Kmin": lambda x, y, b, s: Vi(x).sqdist(Vj(y)).Kmin(2, axis=0),
    "inner max": lambda x, y, b, s: ((Vi(x) - Vj(y)).max(-1) * Vj(b)).sum(axis=1),
    "vectors": lambda x, y, b, s: (Vi(x).normalize().concat(Vj(y))[1:4] * Vj(b)[0]).sum(axis=1),
    "powers": lambda x, y, b, s: (Vi(x).square() + 1).power(1.5).sum(axis=0) + ((Vj(y) * s) ** 3).sum(axis=1),
    "clamp": lambda x, y, b, s: (Vi(x) - Vj(y)).clamp(-0.5, s).ifelse(Vi(x), Vj(y) * 2).sum(axis=1),
    "dense": lambda x, y, b, s: (Vi(x) - Vj(y)).sqnorm2().dense(),
    "transpose": lambda x, y, b, s: (Vj(x) | Vi(y)).exp().T @ b,
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name):
    x, y = (t.requires_grad_() for t in points(4, 3, 2))
    b = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    s = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    with options(backend="reference"):
        f = GRADIENTS[name]
        used = [
            t
            for t in (x, y, b, s)
            if torch.autograd.grad(f(x, y, b, s).sum(), t, allow_unused=True)[0] is not None
        ]
        assert len(used) >= 1

        def g(*tensors):
            given = dict(zip(map(id, used), tensors, strict=True))
            return f(*(given.get(id(t), t) for t in (x, y, b, s)))

        assert torch.autograd.gradcheck(g, used)
        if name in ("product", "logsumexp", "one array twice", "weighted logsumexp", "softmax", "prod"):
            assert torch.autograd.gradgradcheck(g, used)


def test_gradients_through_the_compiled_backend():
    x, y = (t.requires_grad_() for t in points())
    b = torch.randn(N, 2, dtype=torch.float64, requires_grad=True)
    K, dense = gaussian(x, y)
    e = torch.randn(M, 2, dtype=torch.float64)
    got = torch.autograd.grad(K @ b, (x, y, b), e)
    agree(tuple(got), torch.autograd.grad(dense @ b, (x, y, b), e))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", ["min", "max", "Kmin"])
def test_selected_distances_of_coincident_points(name, axis):
    """The derivative of a root at 0 is 0 here, so gradients are finite to any order."""
    x, y = points(5, 6)
    y[:5] = x
    if name == "max":
        y[:] = x[:1]  # the farthest point of x_0 is at distance 0
    x.requires_grad_()
    y.requires_grad_()
    distance = ((LazyTensor(x[:, None]) - LazyTensor(y[None])) ** 2).sum(-1).sqrt()
    values = distance.Kmin(2, axis=axis) if name == "Kmin" else getattr(distance, name)(axis=axis)
    first = torch.autograd.grad(values.square().sum() + values.sum(), (x, y), create_graph=True)
    assert all(g.isfinite().all() for g in first)
    if name == "min":
        assert not first[1][:5].any()
    for g in torch.autograd.grad(sum(g.square().sum() for g in first), (x, y)):
        assert g.isfinite().all()


STEPS = {
    "sign": lambda x, y: (x - y).sign(),
    "step": lambda x, y: (x - y).step(),
    "floor": lambda x, y: (x - y).floor(),
    "round": lambda x, y: (x - y).round(),
    "comparison": lambda x, y: x < y,
    "one_hot": lambda x, y: (x * y).square().one_hot(3).sum(-1),
}


@pytest.mark.parametrize("name", STEPS)
def test_locally_constant_formulas_have_zero_gradients(name):
    (x, y), w = points(dim=1), torch.randn(N, 1, dtype=torch.float64, requires_grad=True)
    x.requires_grad_()
    y.requires_grad_()
    values = STEPS[name](LazyTensor(x[:, None]), LazyTensor(y[None]))
    out = (values * LazyTensor(w[None])).sum(1)
    by_x, by_y, by_w = torch.autograd.grad(out.square().sum(), (x, y, w), create_graph=True)
    assert by_x.shape == x.shape and by_y.shape == y.shape and not by_x.any() and not by_y.any()
    assert by_w.any()
    second = torch.autograd.grad(by_w.sum(), (x, y, w))
    assert not second[0].any() and not second[1].any() and second[2].any()


def test_gradient_of_a_zero_dimensional_parameter():
    x, y = points()
    s = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    (Vi(x).sqdist(Vj(y)) * s).exp().sum(axis=1).log().sum().backward()
    expected = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    (((x[:, None] - y[None]) ** 2).sum(-1) * expected).exp().sum(1).log().sum().backward()
    assert s.grad.shape == ()
    agree(s.grad, expected.grad)


# ---------------------------------------------------------------- settings of a call


def test_keops_settings_are_accepted():
    x, y = points()
    K, dense = gaussian(x, y)
    agree(K.sum(axis=1, backend="CPU"), dense.sum(1, keepdim=True))
    agree(
        K.sum(
            axis=1, backend="auto", device_id=-1, use_double_acc=True, sum_scheme="kahan_scheme", ranges=None
        ),
        dense.sum(1, keepdim=True),
    )
    agree(K.__matmul__(torch.ones(N, dtype=torch.float64), backend="reference"), dense.sum(1))
    agree(K.sum(axis=1, precision="exact", threads=1), dense.sum(1, keepdim=True))


def test_out_is_filled():
    x, y = points()
    K, dense = gaussian(x, y)
    out = torch.empty(M, 1, dtype=torch.float64)
    assert K.sum(axis=1, out=out) is out
    agree(out, dense.sum(1, keepdim=True))
    a = np.empty((M, 1))
    L, _ = gaussian(x, y)
    assert L.sum(axis=1, out=a) is a
    np.testing.assert_allclose(a, out.numpy())
    with pytest.raises(OptionError, match="out= holds one array, but min_argmin returns 2"):
        K.min_argmin(axis=1, out=out)


def test_call_false_gives_a_function():
    x, y = points()
    K, dense = gaussian(x, y)
    f = K.sum(axis=1, call=False)
    agree(f(), dense.sum(1, keepdim=True))
    assert "sum over j" in repr(f)


@pytest.mark.cpu_only
def test_bad_settings():
    K, _ = gaussian(*points())
    with pytest.raises(ShapeError, match="ranges_i"):
        K.sum(axis=1, ranges=(1, 2, 3, 4, 5, 6))
    with pytest.raises(OptionError, match="speed= is not an argument"):
        K.sum(axis=1, speed=11)
    with pytest.raises(OptionError, match="backend='FPGA' is unknown"):
        K.sum(axis=1, backend="FPGA")
    with pytest.raises(BackendUnavailable, match="cuda"):
        K.sum(axis=1, backend="GPU_1D")
    with pytest.raises(FormulaError, match="min takes no weights"):
        K.reduction("Min", other=K, axis=1)
    with pytest.raises(FormulaError, match="k=None is not a positive integer"):
        K.reduction("KMin", axis=1)
    with pytest.raises(ShapeError, match="k=8 exceeds the 7 entries"):
        K.argKmin(8, axis=1)


def test_dense_is_refused_when_it_is_large():
    x, y = points(2000, 2000)
    K, dense = gaussian(x, y)
    with (
        options(memory_limit=1 << 24),
        pytest.raises(OptionError, match=r"\(2000, 2000\) takes 0.0298 GiB, above"),
    ):
        K.dense()


# ---------------------------------------------------------------- mismatches

x, y = torch.randn(4, 3), torch.randn(6, 3)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: LazyTensor(x),
            ShapeError,
            r"x has shape \(4, 3\), which does not say .*x\[:, None, :\] or axis=0",
        ),
        (lambda: LazyTensor(x[:, :, None]), ShapeError, r"\(4, 3, 1\), .*|expected"),
        (lambda: LazyTensor(torch.ones(4, 5, 3)), ShapeError, r"\(4, 5, 3\); expected \(\.\.\., M, 1, D\)"),
        (lambda: LazyTensor(x[:, None], axis=0), ShapeError, "axis=0 needs two axes: \\(M, D\\)"),
        (lambda: Vj(x[0]), ShapeError, r"\(3,\), but axis=1 needs two axes: \(N, D\)"),
        (lambda: LazyTensor(x, axis=3), FormulaError, "axis=3: expected 0"),
        (lambda: LazyTensor(x[:, None, :0]), ShapeError, "no components"),
        (lambda: LazyTensor([[1.0, 2.0]]), ShapeError, "a list makes a vector of parameters"),
        (lambda: LazyTensor("x"), DTypeError, "x is a str"),
        (lambda: LazyTensor(None), DTypeError, "x is a NoneType"),
        (lambda: LazyTensor(x[:, None].long()), DTypeError, "x has dtype int64; expected a real floating"),
        (
            lambda: Vi(x) - Vi(y),
            ShapeError,
            "left operand has 4 rows along i, the right one 6.*index one by i",
        ),
        (lambda: Vj(x) - Vj(y), ShapeError, "4 rows along j"),
        (lambda: Vi(x) - Vj(y).T, ShapeError, "4 rows along i, the right one 6"),
        (lambda: Vi(x) - Vj(y.double()), DTypeError, "left operand has dtype float32, the right one float64"),
        (lambda: Vi(x) - Vj(y.to("meta")), DeviceError, "left operand is on cpu, the right one on meta"),
        (lambda: Vi(x) * torch.arange(3), DTypeError, "the operand has dtype int64"),
        (
            lambda: Vi(x) * torch.ones(4, 3),
            ShapeError,
            "the operand has shape \\(4, 3\\), which does not say",
        ),
        (
            lambda: LazyTensor(torch.ones(2, 4, 1, 3)) - LazyTensor(torch.ones(5, 1, 6, 3)),
            ShapeError,
            r"batch shapes \(2,\) and \(5,\)",
        ),
        (
            lambda: Vi(x).sum(axis=1),
            ShapeError,
            r"sum over j: no operand of this LazyTensor of shape \(4, 1, 3\)",
        ),
        (lambda: Vj(x).logsumexp(axis=0), ShapeError, r"logsumexp over i: .*Index one by i, x\[:, None, :\]"),
        (lambda: Pm(x[0]).sum(axis=0), ShapeError, "sum over i: no operand"),
        (lambda: LazyTensor(2.5).min(axis=1), ShapeError, "min over j: no operand"),
        (lambda: (Vi(x) - Vj(y))[0] @ torch.ones(6, dtype=torch.float64), DTypeError, "right one float64"),
        (lambda: (Vi(x) - Vj(y))[0] @ torch.ones(6, dtype=torch.int64), DTypeError, "v has dtype int64"),
        (lambda: (Vi(x) - Vj(y))[0] @ torch.tensor(1.0), ShapeError, r"v has shape \(\)"),
        (lambda: Vi(0, 3) - Vj(0, 3).sum(axis=1), DTypeError, "Deferred"),
        (lambda: LazyTensor((0, 3)), FormulaError, "a tuple is read as"),
        (lambda: Vi(0, 0), FormulaError, "dim >= 1"),
        (lambda: (Vi(0, 3) - Vj(1, 3)).sum(-1).dense(), FormulaError, "symbolic variables"),
        (lambda: (Vi(0, 3) - Vj(1, 3)).sum(-1) @ torch.ones(3), FormulaError, "symbolic variables"),
        (lambda: (Vi(0, 3) - Vj(1, 3)).sum(axis=1)(x), ShapeError, "takes 2 arrays, got 1"),
        (
            lambda: (Vi(0, 3) - Vj(1, 3)).sum(axis=1)(x, y[:, :2]),
            ShapeError,
            "argument 1 has vectors of dim 2; the",
        ),
        (lambda: (Vi(0, 3) - Vj(1, 3)).sum(axis=1)(x, y.long()), DTypeError, "argument 1 has dtype int64"),
        (lambda: (Vi(0, 3) - Vi(1, 3)).sum(axis=0)(x, y), ShapeError, "4 rows along i"),
    ],
)
def test_mismatches_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ---------------------------------------------------------------- solving


@pytest.mark.parametrize("numpy", [False, True], ids=["torch", "numpy"])
def test_solve(numpy):
    x = torch.randn(40, 2, dtype=torch.float64)
    b = torch.randn(40, 2, dtype=torch.float64)
    dense = torch.exp(-torch.cdist(x, x).square()) + 0.3 * torch.eye(40, dtype=torch.float64)
    expected = torch.linalg.solve(dense, b)
    if numpy:
        x, b = x.numpy(), b.numpy()
    K = (-Vi(x).sqdist(Vj(x))).exp()
    for rhs, answer in (
        (b, expected),
        (b[:, 0], expected[:, 0]),
        (Vi(b), expected),
        (LazyTensor(b[:, None]), expected),
    ):
        got = K.solve(rhs, alpha=0.3, eps=1e-10)
        assert isinstance(got, np.ndarray if numpy else torch.Tensor)
        torch.testing.assert_close(torch.as_tensor(got), answer, rtol=1e-7, atol=1e-8)
    later = K.solve(b, alpha=0.3, eps=1e-10, call=False)
    torch.testing.assert_close(torch.as_tensor(later()), expected, rtol=1e-7, atol=1e-8)


def test_solve_is_differentiable():
    x = torch.randn(12, 2, dtype=torch.float64, requires_grad=True)
    b = torch.randn(12, 1, dtype=torch.float64, requires_grad=True)
    (-Vi(x).sqdist(Vj(x))).exp().solve(b, alpha=0.5, eps=1e-12).square().sum().backward()
    got = x.grad, b.grad
    x, b = (t.detach().requires_grad_() for t in (x, b))
    D = (x[:, None] - x[None]).square().sum(-1)
    torch.linalg.solve(torch.exp(-D) + 0.5 * torch.eye(12, dtype=torch.float64), b).square().sum().backward()
    torch.testing.assert_close(got, (x.grad, b.grad), rtol=1e-7, atol=1e-8)


def test_operator():
    x, y = points()
    K, dense = gaussian(x, y)
    b = torch.randn(N, 2, dtype=torch.float64)
    agree(K.operator() @ b, dense @ b)
    agree(K.operator().T.dense(), dense.T)
    with pytest.raises(ShapeError, match="an operator needs scalar entries"):
        (Vi(x) - Vj(y)).operator()


def test_bad_solves():
    x, _ = points()
    K, _ = gaussian(x, x)
    b = torch.ones(M, 1, dtype=torch.float64)
    with pytest.raises(OptionError, match="alpha=-1"):
        K.solve(b, alpha=-1)
    with pytest.raises(FormulaError, match="right-hand side is a formula"):
        K.solve(Vi(b) * 2)
    with pytest.raises(FormulaError, match="var="):
        K.solve(b, var=Vj(1, 1))
    with pytest.raises(ShapeError):
        K.solve(b[:-1])

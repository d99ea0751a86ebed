"""Every method of LazyTensor that builds a formula, against the same expression on broadcast tensors."""

from __future__ import annotations

import math
import operator

import numpy as np
import pytest
import torch

from kerngp import LazyTensor, Pm, Vi, Vj
from kerngp.engine.expr import OPS
from kerngp.errors import FormulaError, ShapeError

M, N, D = 7, 5, 3


def pair(dim: int = D, shift: float = 0.0, batch: tuple[int, ...] = ()):
    """x_i and y_j as LazyTensors and as the broadcast tensors they stand for."""
    x = torch.randn(*batch, M, 1, dim, dtype=torch.float64) + shift
    y = torch.randn(*batch, 1, N, dim, dtype=torch.float64) + shift
    return LazyTensor(x), LazyTensor(y), x, y


def same(lazy: LazyTensor, expected: torch.Tensor, **tolerance: float) -> None:
    full = expected.expand(*lazy._shape[:-1], expected.shape[-1])
    assert lazy._shape == tuple(full.shape)
    got = lazy.dense()
    assert got.shape == lazy.shape
    torch.testing.assert_close(got.reshape(full.shape), full, **{"rtol": 1e-12, "atol": 1e-13, **tolerance})


# ---------------------------------------------------------------- elementwise

UNARY = {
    "exp": torch.exp,
    "sin": torch.sin,
    "cos": torch.cos,
    "abs": torch.abs,
    "sign": torch.sign,
    "relu": torch.relu,
    "square": torch.square,
    "neg": torch.neg,
    "step": lambda a: (a >= 0).double(),
    "inv": torch.reciprocal,
    "tan": torch.tan,
    "atan": torch.atan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": torch.tanh,
    "expm1": torch.expm1,
    "sigmoid": torch.sigmoid,
    "softplus": torch.nn.functional.softplus,
    "erf": torch.erf,
    "erfc": torch.erfc,
    "sinc": torch.sinc,
    "sinxdivx": lambda a: a.sin() / a,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
}
POSITIVE = {
    "log": torch.log,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "log1p": torch.log1p,
    "lgamma": torch.lgamma,
    "digamma": torch.digamma,
    "xlogx": lambda a: a * a.log(),
}
BINARY = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "atan2": torch.atan2,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "eq": torch.eq,
    "ne": torch.ne,
}


@pytest.mark.parametrize("name", UNARY)
def test_unary(name):
    x_i, y_j, x, y = pair()
    same(getattr(x_i - y_j, name)(), UNARY[name](x - y))


@pytest.mark.parametrize("name", POSITIVE)
def test_unary_of_positive(name):
    x_i, y_j, x, y = pair()
    same(getattr((x_i - y_j).abs(), name)(), POSITIVE[name]((x - y).abs()))


@pytest.mark.parametrize("name", BINARY)
def test_binary(name):
    x_i, y_j, x, y = pair()
    same(getattr(x_i, name)(y_j), BINARY[name](x, y).double())


def test_every_elementwise_op_of_the_table_is_a_method():
    # these have an integer that is part of the formula: see power, and lazytensor/composites.py
    structural = {"powi", "polygamma", "round", "sinxdivx"}
    for op in OPS.values():
        if op.public and op.code is not None and op.name not in structural:
            method = getattr(LazyTensor, op.name)
            assert method.__name__ in (op.name, "power") and method.__doc__, op.name


def test_rsqrt_of_zero_is_zero():
    x_i, _, _, _ = pair()
    assert (x_i - x_i).rsqrt().dense().abs().max() == 0


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize(
    "f", [operator.add, operator.sub, operator.mul, operator.truediv], ids=lambda f: f.__name__
)
def test_arithmetic_with_numbers_and_tensors(f, swap):
    x_i, y_j, x, y = pair(shift=4.0)
    v = torch.randn(D, dtype=torch.float64) + 5
    for other in (2, 2.0, 0.37, -1, 0.5, 1e-9, v, v[:1], v[0], x, y, [1.0, 2.0, 3.5]):
        e = torch.tensor(other, dtype=torch.float64) if isinstance(other, list) else other
        if swap:
            same(f(other, x_i), f(e, x)) if not isinstance(other, list) else None
        else:
            same(f(x_i, other), f(x, e))


@pytest.mark.parametrize(
    "f",
    [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne],
    ids=lambda f: f.__name__,
)
def test_comparisons(f):
    x_i, y_j, x, y = pair()
    x_i, x = LazyTensor(x.round()), x.round()
    y_j, y = LazyTensor(y.round()), y.round()
    same(f(x_i, y_j), f(x, y).double())
    same(f(x_i, 1), f(x, 1).double())
    same(f(1.0, x_i), f(1.0, x).double())
    same(f(y, x_i), f(y, x).double())


@pytest.mark.parametrize("n", [2, 3, -1, -2, 0, 1, 2.0, 4.0])
def test_integer_powers_keep_negative_bases(n):
    x_i, y_j, x, y = pair()
    same((x_i - y_j) ** n, (x - y) ** n)
    same((x_i - y_j).power(n), (x - y) ** n)


@pytest.mark.parametrize("n", [0.5, -0.5, 1.5, 0.37, 70.0])
def test_real_powers(n):
    x_i, y_j, x, y = pair()
    same((x_i - y_j).abs() ** n, (x - y).abs() ** n)


def test_powers_of_lazy_tensors():
    x_i, y_j, x, y = pair()
    v = torch.rand(D, dtype=torch.float64)
    same(x_i.abs() ** y_j, x.abs() ** y)
    same(x_i.abs() ** v, x.abs() ** v)
    same(2.3**x_i, 2.3**x)
    same(2**x_i, 2**x)
    same(x_i.abs().pow(y_j), x.abs() ** y)


def test_clamp_and_ifelse():
    x_i, y_j, x, y = pair()
    same(x_i.clamp(-0.5, 1), x.clamp(-0.5, 1))
    same(x_i.clamp(y_j, y_j + 0.25), torch.minimum(torch.maximum(x, y), y + 0.25))
    same((x_i - y_j).ifelse(x_i, 2.5), torch.where(x - y >= 0, x, torch.tensor(2.5, dtype=x.dtype)))
    same((x_i - y_j).ifelse(1, y_j), torch.where(x - y >= 0, torch.ones_like(x), y))


def test_unary_operators():
    x_i, y_j, x, y = pair()
    same(-(x_i - y_j), y - x)
    same(abs(x_i - y_j), (x - y).abs())


# ---------------------------------------------------------------- vectors


def test_scalar_product():
    x_i, y_j, x, y = pair()
    same(x_i | y_j, (x * y).sum(-1, keepdim=True))
    v = torch.randn(D, dtype=torch.float64)
    same(v | x_i, (x * v).sum(-1, keepdim=True))


def test_norms_and_distances():
    x_i, y_j, x, y = pair()
    d = x - y
    q = d.square().sum(-1, keepdim=True)
    same((x_i - y_j).sqnorm2(), q)
    same((x_i - y_j).norm2(), q.sqrt())
    same((x_i - y_j).norm(-1), q.sqrt())
    same((x_i - y_j).norm(dim=2), q.sqrt())
    same((x_i - y_j).normalize(), d / q.sqrt())
    same(x_i.sqdist(y_j), q)
    assert LazyTensor(torch.zeros(M, 1, D)).normalize().dense().abs().max() == 0


@pytest.mark.parametrize("size", [1, D, D * D])
def test_weighted_norms(size):
    x_i, y_j, x, y = pair()
    s = torch.rand(size, dtype=torch.float64)
    S = (
        s * torch.eye(D, dtype=torch.float64)
        if size == 1
        else torch.diag(s)
        if size == D
        else s.reshape(D, D)
    )
    d = x - y
    q = torch.einsum("ijk,kl,ijl->ij", d, S, d).unsqueeze(-1)
    same((x_i - y_j).weightedsqnorm(s), q)
    same((x_i - y_j).weightedsqnorm(Pm(s)), q)
    same(x_i.weightedsqdist(y_j, s), q)


def test_inner_reductions():
    x_i, y_j, x, y = pair(dim=4)
    d = x - y
    for axis in (-1, 2):
        same((x_i - y_j).sum(axis), d.sum(-1, keepdim=True))
        same((x_i - y_j).sum(dim=axis), d.sum(-1, keepdim=True))
        same((x_i - y_j).min(axis=axis), d.amin(-1, keepdim=True))
        same((x_i - y_j).max(axis=axis), d.amax(-1, keepdim=True))
        same((x_i - y_j).argmin(axis=axis), d.argmin(-1, keepdim=True).double())
        same((x_i - y_j).argmax(axis=axis), d.argmax(-1, keepdim=True).double())
        same((x_i - y_j).logsumexp(axis), d.logsumexp(-1, keepdim=True))
    same((x_i - y_j).sum(), d.sum(-1, keepdim=True))
    same(x_i[0].argmin(), torch.zeros_like(x[..., :1]))


def test_inner_ties_and_infinities():
    v = torch.tensor([[2.0, 1, 1], [-math.inf, -math.inf, -math.inf], [-math.inf, 0, 0]], dtype=torch.float64)
    v_i = LazyTensor(v[:, None, :])
    assert v_i.argmin().dense().flatten().tolist()[0] == 1
    torch.testing.assert_close(v_i.logsumexp(-1).dense().flatten(), v.logsumexp(-1))


def test_elements_and_slices():
    x_i, y_j, x, y = pair(dim=5)
    e, d = x_i - y_j, x - y
    for k in (0, 2, 4, -1, -5):
        same(e[k], d[..., k : k + 1 or None])
        same(e[..., k], d[..., k : k + 1 or None])
        same(e[:, :, k], d[..., k : k + 1 or None])
    same(e.elem(3), d[..., 3:4])
    same(e.extract(1, 3), d[..., 1:4])
    for s in (slice(1, 3), slice(None, 2), slice(-2, None), slice(-3, -1), slice(None), slice(2, 100)):
        same(e[s], d[..., s])
        same(e[..., s], d[..., s])
        same(e[:, :, s], d[..., s])


def test_concatenation():
    x_i, y_j, x, y = pair()
    xb, yb = torch.broadcast_tensors(x, y)
    same(x_i.concat(y_j), torch.cat([xb, yb], -1))
    same(LazyTensor.concatenate((x_i, y_j, x_i[1])), torch.cat([xb, yb, xb[..., 1:2]], -1))
    same(LazyTensor.cat((x_i, y_j), dim=-1), torch.cat([xb, yb], -1))
    same(LazyTensor.cat((x_i, y_j), dim=2), torch.cat([xb, yb], -1))
    same(x_i.concat(1.5), torch.cat([x, torch.full((M, 1, 1), 1.5)], -1))


def test_transpose():
    x_i, y_j, x, y = pair()
    K, dense = (x_i * 2 - y_j).sum(-1), (x * 2 - y).sum(-1)
    for lazy in (K.T, K.t()):
        assert lazy.shape == (N, M)
        torch.testing.assert_close(lazy.dense(), dense.T)
    torch.testing.assert_close((K.T.T - K).dense(), torch.zeros(M, N, dtype=torch.float64))


# ---------------------------------------------------------------- identity of variables


def test_one_array_is_one_variable():
    x_i, y_j, x, y = pair()
    K = (x_i - y_j) * x_i + y_j * x_i
    assert len(K.operands.values) == 2
    again = LazyTensor(x) - LazyTensor(y)  # other views of the same memory
    assert len((K + again).operands.values) == 2
    assert (x_i - y_j).expr is again.expr
    same(K + again, (x - y) * x + y * x + x - y)


def test_one_array_as_i_and_as_j_is_two_variables():
    x = torch.randn(M, D, dtype=torch.float64)
    K = (Vi(x) - Vj(x)).sum(-1)
    assert len(K.operands.values) == 2
    torch.testing.assert_close(K.dense(), (x[:, None] - x[None]).sum(-1))
    torch.testing.assert_close((K - K.T).dense(), 2 * (x[:, None] - x[None]).sum(-1))


def test_equal_storage_with_another_history_is_another_variable():
    x = torch.randn(M, 1, D, dtype=torch.float64, requires_grad=True)
    e = LazyTensor(x) * LazyTensor(x.detach())
    assert len(e.operands.values) == 2
    e.sum(axis=0).sum().backward()
    torch.testing.assert_close(x.grad, x.detach())


def test_overlapping_views_are_different_variables():
    z = torch.randn(M + 1, 1, D, dtype=torch.float64)
    same(LazyTensor(z[1:]) - LazyTensor(z[:-1]), z[1:] - z[:-1])
    q = torch.randn(D, D, dtype=torch.float64)
    same(Vi(q) - Vi(q.T), (q - q.T)[:, None, :])


def test_numbers_do_not_change_the_formula():
    """Another bandwidth is another argument, not other code."""
    x_i, y_j, _, _ = pair()
    exprs = {(-(x_i - y_j).sqnorm2() / s).exp().expr for s in (0.123, 0.456, 7.89)}
    assert len(exprs) == 1
    assert (x_i * 2).expr is not (x_i * 3).expr


def test_signs_of_zero_and_types_of_numbers_are_kept():
    x_i, _, x, _ = pair()
    same(1 / (x_i * 0.0), 1 / (x * 0.0))
    same(1 / (x_i * x_i * -0.0), 1 / (x * x * -0.0))


# ---------------------------------------------------------------- what it is


def test_attributes():
    x_i, y_j, _, _ = pair(batch=(2,))
    K = (x_i - y_j).sum(-1)
    assert (x_i - y_j).shape == (2, M, N, D) and K.shape == (2, M, N) and K._shape == (2, M, N, 1)
    assert K.dim() == 4 and K.nbatchdims == 1 and x_i.ndim == D
    assert K.dtype == "float64" and K.device == torch.device("cpu")
    assert x_i.shape == (2, M, 1, D) and y_j.shape == (2, 1, N, D)
    assert LazyTensor(2.0).shape == (1, 1) and LazyTensor(2.0).dtype is None
    assert "shape=(2, 7, 5)" in repr(K) and "sum" in repr(K)
    assert LazyTensor(K).expr is K.expr
    assert hash(K) != hash(LazyTensor(K)) and len({K, K}) == 1


def test_no_truth_value_and_no_iteration():
    x_i, y_j, _, _ = pair()
    with pytest.raises(TypeError, match="truth value"):
        bool(x_i == y_j)
    with pytest.raises(TypeError, match="iterable"):
        list(x_i)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x, y: x[:2] - y, r"dims \(2, 3\).*shapes \(7, 1, 2\), \(1, 5, 3\)"),
        (lambda x, y: x | y[:2], r"scalar product of vectors of dims 3 and 2"),
        (lambda x, y: x.sqdist(y[:2]), "dims 3 and 2"),
        (lambda x, y: x.weightedsqnorm(y[:2]), "weights of dim 2 for a vector of dim 3: expected 1, 3 or 9"),
        (lambda x, y: x[3], "index 3 is out of range for vectors of dim 3"),
        (lambda x, y: x[-4], "index -4 is out of range"),
        (lambda x, y: x[1:1], "start < stop"),
        (lambda x, y: x[::2], "step 1"),
        (lambda x, y: x[0, 1], "column 1 is out of range: there are 1 columns"),
        (lambda x, y: x["a"], "expected an integer or a slice"),
        (lambda x, y: x.extract(1, 3), r"\[1, 4\) is out of range"),
        (lambda x, y: x.norm(1), r"norm\(dim=1\)"),
        (lambda x, y: LazyTensor.cat((x, y), dim=0), "only the last axis"),
        (lambda x, y: LazyTensor.cat(()), "non-empty"),
        (lambda x, y: x.Kmin(2, axis=-1), "kmin reduces over i or j"),
        (lambda x, y: x.sum(axis=3), r"axis=3: expected 0 or -3 \(over i\), 1 or -2 \(over j\), 2 or -1"),
        (lambda x, y: x.logsumexp(), "axis=None: expected"),
        (
            lambda x, y: x.reduction("Entropy", axis=0),
            "unknown reduction 'Entropy'; known are all, any, argkmax",
        ),
    ],
)
def test_bad_formulas(build, message):
    x_i, y_j, _, _ = pair()
    with pytest.raises(FormulaError, match=message):
        build(x_i, y_j)


def test_products_that_cannot_be():
    x_i, y_j, _, _ = pair()
    with pytest.raises(ShapeError, match=r"K @ v needs scalar entries, but K has shape \(7, 5, 3\)"):
        (x_i - y_j) @ torch.ones(N, dtype=torch.float64)
    K = (x_i - y_j).sum(-1)
    with pytest.raises(ShapeError, match=r"v has shape \(7,\), but K has shape \(7, 5\): K @ v needs \(5,\)"):
        K @ torch.ones(M, dtype=torch.float64)
    with pytest.raises(ShapeError, match="5 columns meet 7 rows"):
        K @ K


# ---------------------------------------------------------------- composites


def test_inverse_functions():
    x_i, y_j, x, y = pair()
    t, u = (x_i - y_j).tanh(), (x - y).tanh()
    for name in ("asin", "acos"):
        same(getattr(t, name)(), getattr(torch, name)(u))


def test_rounding_and_remainders():
    x_i, y_j, x, y = pair()
    same((x_i - y_j).round(2), torch.round(x - y, decimals=2))
    same((x_i - y_j).round(np.int64(-1)), torch.round(x - y, decimals=-1))
    same((x_i - y_j).mod(0.7), torch.remainder(x - y, 0.7))
    same((x_i - y_j).mod(0.7, -0.35), (x - y) - 0.7 * torch.floor((x - y + 0.35) / 0.7))
    same(x_i.mod(y_j.abs() + 1), torch.remainder(x, y.abs() + 1))
    same((x_i - y_j).abs().polygamma(1), torch.polygamma(1, (x - y).abs()), rtol=1e-8)


def test_mean_and_product_of_components():
    x_i, y_j, x, y = pair(5)
    same((x_i - y_j).mean(), (x - y).mean(-1, keepdim=True))
    same((x_i - y_j).prod(dim=-1), (x - y).prod(-1, keepdim=True))
    torch.testing.assert_close((x_i - y_j).prod(axis=0), (x - y).prod(0))


def test_one_hot_vectors():
    x = torch.tensor([0.2, 2.0, 4.6, 9.0], dtype=torch.float64)
    hot = torch.zeros(4, 1, 5, dtype=torch.float64)
    hot[0, 0, 0] = hot[1, 0, 2] = 1
    same(LazyTensor(x[:, None, None]).one_hot(5), hot)
    with pytest.raises(FormulaError, match="expected an integer"):
        LazyTensor(x[:, None, None]).one_hot(2.5)


def test_products_of_matrices_and_tensors():
    a_i, b_j, a, b = pair(6)
    c_i, d_j, c, d = pair(3)
    same(a_i.matvecmult(d_j), (a.reshape(M, 1, 2, 3) @ d[..., None]).squeeze(-1))
    same(d_j.vecmatmult(a_i), (d[..., None, :] @ a.reshape(M, 1, 3, 2)).squeeze(-2))
    same(c_i.tensorprod(d_j), (c[..., :, None] * d[..., None, :]).reshape(M, N, 9))
    left, right = a.reshape(M, 1, 2, 3), b.reshape(1, N, 3, 2)
    product = torch.einsum("mnij,mnjk->mnki", left.expand(M, N, 2, 3), right.expand(M, N, 3, 2))
    same(a_i.keops_tensordot(b_j, (2, 3), [3, 2], 1, (0,), (1, 0)), product.reshape(M, N, 4))
    kron = torch.einsum("mnij,mnkl->mnikjl", left.expand(M, N, 2, 3), right.expand(M, N, 3, 2))
    same(a_i.keops_kron(b_j, [2, 3], [3, 2]), kron.reshape(M, N, 36))
    with pytest.raises(FormulaError, match="does not fit.*operands have shapes"):
        a_i.matvecmult(LazyTensor(torch.ones(1, N, 4, dtype=torch.float64)))


def test_splines_and_alignments():
    knots = torch.arange(6, dtype=torch.float64)
    x = torch.rand(M, 1, 1, dtype=torch.float64) * 5
    hats = torch.clamp(1 - (x - torch.arange(1, 5)).abs(), min=0)
    same(Pm(knots).bspline(LazyTensor(x), 1), hats)
    x_i, y_j, x, y = pair(1)
    gamma = torch.tensor([0.3], dtype=torch.float64)
    same(x_i.softdtw_sqdist(y_j, Pm(gamma)), (x - y).square())
    same(x_i.softdtw_sqdist(y_j.concat(y_j), 0.3), 2 * (x - y).square())


def test_hints_to_a_compiler_change_nothing():
    x_i, y_j, x, y = pair()
    same((x_i - y_j).factorize(x_i).auto_factorize(), x - y)

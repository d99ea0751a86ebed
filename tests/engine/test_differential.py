"""Differential operators on formulas, against torch's own derivatives of the same formulas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from comparison import CPU, assert_close
from torch.autograd.functional import hessian, jacobian

from kerngp import LazyTensor
from kerngp import Vi as LazyVi
from kerngp import Vj as LazyVj
from kerngp.engine import differential as d
from kerngp.engine import ops
from kerngp.engine.evaluate import evaluate
from kerngp.engine.expr import OPS, Expr, Pm, Vi, Vj, const, node, postorder, variables
from kerngp.engine.mapreduce import map_reduce
from kerngp.engine.reductions import SUM
from kerngp.engine.rewrite import simplify
from kerngp.engine.words import WORDS
from kerngp.errors import FormulaError

Tensor = torch.Tensor
x, y, s, m = Vi(0, 3), Vj(1, 3), Pm(2, 1), Pm(3, 9)
LIKE = torch.empty(0, dtype=torch.float64)


def point(*formulas: Expr) -> dict[int, Tensor]:
    """A value for each variable, positive and of order one."""
    return {v.attr[0]: 0.4 + torch.rand(v.attr[1], dtype=torch.float64) for v in variables(*formulas, x)}


def value(f: Expr, at: dict[int, Tensor]) -> Tensor:
    return evaluate(f, at, LIKE).expand(f.dim)


def of(f: Expr, v: Expr, at: dict[int, Tensor]) -> Callable[[Tensor], Tensor]:
    """f as a function of one variable."""
    return lambda t: value(f, {**at, v.attr[0]: t})


def rows(*vectors: Expr) -> Expr:
    return ops.concat(*vectors)


FIELDS = {
    "linear": 2.0 * x - y,
    "product": ops.sin(x) * ops.dot(x, y) / s,
    "matrix": rows(*(ops.dot(ops.extract(m, 3 * k, 3), ops.exp(x)) for k in range(3))),
    "repeated": ops.widen(ops.norm2(x - y), 3),
    "choice": ops.ifelse(x - y, x * x[0], ops.cos(x) * ops.sqnorm2(x)),
    "parts": rows(x[2] * x[0], ops.extract(x, 1, 2) ** 3),
    "pieces": node("elem_t", x[1] ** 2, attr=(3, 1)) + node("extract_t", x[0:2] * x[2], attr=(1, 3)),
    "free": ops.exp(y),
}
STRUCTURAL = {
    "MatVecMult": WORDS["MatVecMult"].build(m, ops.exp(x)),
    "VecMatMult": WORDS["VecMatMult"].build(ops.sin(x), m),
    "TensorDot": WORDS["TensorDot"].build(ops.exp(x), ops.concat(x, x, x), (3,), (3, 3), (0,), (1,)),
    "TensorProd": ops.extract(WORDS["TensorProd"].build(x, ops.square(x)), 2, 3),
    "Normalize": WORDS["Normalize"].build(x),
    "SoftDTW_SqDist": WORDS["SoftDTW_SqDist"].build(x, y, s) * x,
    "BSpline": WORDS["BSpline"].build(Pm(4, 8), x[1], 3)[1:4] * x,
    "Max": ops.widen(WORDS["Max"].build(x), 3) * x,
}


@pytest.mark.parametrize("name", STRUCTURAL)
def test_every_kind_of_structure(name: str) -> None:
    """Where KeOps's forward mode knows no rule."""
    f = STRUCTURAL[name]
    at = point(f)
    at[4] = torch.linspace(0, 2, 8, dtype=torch.float64)
    J = jacobian(of(f, x, at), at[0])
    assert_close(value(d.grad_matrix(f, x), at).reshape(3, 3), J, 1e-12)
    assert_close(value(d.divergence(f, x), at), J.trace().reshape(1), 1e-12)
    g = ops.dot(f, f)
    H = hessian(of(g, x, at), at[0]).reshape(3, 3)
    assert_close(value(d.laplacian(g, x), at), H.trace().reshape(1), 1e-11 * (1 + H.abs().max()))


SCALARS = {
    "gaussian": ops.exp(-s * ops.sqdist(x, y)),
    "laplacian": ops.exp(-ops.norm2(x - y)),
    "matern": ops.matern52_profile(ops.sqdist(x, y)),
    "inverse": ops.inv(1.0 + ops.weighted_sqnorm(m, x - y)),
    "power": (ops.dot(x, y) + s) ** 1.5,
    "logarithm": ops.log(1.0 + ops.sqnorm2(x)) * x[1],
    "free": ops.dot(y, y),
}


@pytest.mark.parametrize("name", FIELDS)
def test_first_derivatives(name: str) -> None:
    f = FIELDS[name]
    at = point(f)
    J = jacobian(of(f, x, at), at[0])
    assert_close(value(d.grad_matrix(f, x), at).reshape(3, 3), J, 1e-13)
    assert_close(value(d.divergence(f, x), at), J.trace().reshape(1), 1e-13)
    e, u = torch.randn(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    here = {**at, 7: e, 8: u}
    assert_close(value(d.grad(f, x, Pm(7, 3)), here), J.T @ e, 1e-13)
    assert_close(value(d.diff(f, x, Pm(8, 3)), here), J @ u, 1e-13)
    assert_close(value(d.grad(f, x, const(2.0)), here), 2 * J.sum(0), 1e-13)


@pytest.mark.parametrize("name", SCALARS)
def test_second_derivatives(name: str) -> None:
    f = SCALARS[name]
    at = point(f)
    H = hessian(of(f, x, at), at[0])
    assert_close(value(d.laplacian(f, x), at), H.trace().reshape(1), 1e-12)
    assert_close(value(d.grad_matrix(d.grad(f, x, const(1.0)), x), at).reshape(3, 3), H, 1e-12)


@pytest.mark.parametrize("op", sorted(n for n, o in OPS.items() if o.code is not None and o.public))
def test_every_elementwise_op(op: str) -> None:
    """Arguments that depend on v in every place, one of them repeated from a scalar."""
    extra = {"powi": (3,), "polygamma": (1,), "round": (2,), "sinxdivx": (0,)}.get(op, ())
    args = (0.3 + 0.2 * x, ops.dot(x, x) * 0.1, 0.5 * x * x)[: OPS[op].arity]
    f = node(op, *args, attr=extra)
    at = point(f)
    J = jacobian(of(f, x, at), at[0])
    if f.dim == 3:
        assert_close(value(d.divergence(f, x), at), J.trace().reshape(1), 1e-12)
    assert_close(value(d.grad_matrix(f, x), at).reshape(f.dim, 3), J, 1e-12)
    g = ops.total(f)
    assert_close(
        value(d.laplacian(g, x), at),
        hessian(of(g, x, at), at[0]).reshape(3, 3).trace().reshape(1),
        1e-9 if op == "lgamma" else 1e-11,  # torch's own trigamma is no better
    )


def test_laplacian_of_a_gaussian_is_analytic_and_small() -> None:
    """(4 s^2 q - 2 s D) exp(-s q), found without one term for each component."""
    D = 50
    x, y, s = Vi(0, D), Vj(1, D), Pm(2, 1)
    f = ops.exp(-s * ops.sqdist(x, y))
    lap = simplify(d.laplacian(f, x))
    assert sum(1 for _ in postorder(lap)) < 40
    a, b, c = (torch.randn(n, D, dtype=torch.float64) * 0.3 for n in (6, 7, 1))
    c = torch.tensor([0.7], dtype=torch.float64)
    got = map_reduce(lap, SUM, (a, b, c), options=CPU)
    q = torch.cdist(a, b) ** 2
    want = ((4 * 0.49 * q - 1.4 * D) * torch.exp(-0.7 * q)).sum(1, keepdim=True)
    assert isinstance(got, Tensor)
    assert_close(got, want, 1e-12 * want.abs().max())


def test_constants_stay_double_through_every_order() -> None:
    """Thirds and exponents that no float32 holds, in formulas and in their derivatives up to the fourth."""
    t = Vi(0, 1)
    f = (1.0 / 3.0) * ops.sin(0.1 * t) + ops.exp(-t / 3.0) + t**2.7 + ops.log(t + 1.0 / 7.0)
    at = torch.linspace(0.5, 2, 11, dtype=torch.float64)[:, None]

    def torch_f(t: Tensor) -> Tensor:
        return torch.sin(0.1 * t) / 3 + torch.exp(-t / 3) + t**2.7 + torch.log(t + 1 / 7)

    leaf = at.clone().requires_grad_()
    mine = at.clone().requires_grad_()
    want, symbolic = torch_f(leaf), f
    got = map_reduce(f, SUM, (mine,), sizes=(None, 1), options=CPU)
    assert isinstance(got, Tensor)
    for _ in range(4):
        assert_close(got.detach(), want.detach(), 1e-14 * (1 + want.detach().abs().max()))
        direct = map_reduce(symbolic, SUM, (at,), sizes=(None, 1), options=CPU)
        assert isinstance(direct, Tensor)
        assert_close(direct, want.detach(), 1e-14 * (1 + want.detach().abs().max()))
        (want,) = torch.autograd.grad(want.sum(), leaf, create_graph=True)
        (got,) = torch.autograd.grad(got.sum(), mine, create_graph=True)
        symbolic = d.grad(symbolic, t, const(1.0))


def test_forward_is_exact_through_a_reduction() -> None:
    """`Diff` and forward mode give one number: the tangent of the sum is the sum of the tangents."""
    f = SCALARS["inverse"] * y
    args = (torch.randn(5, 3), torch.randn(7, 3), torch.rand(1), torch.randn(9))
    args = tuple(a.double() for a in args)
    u = torch.randn(5, 3, dtype=torch.float64)
    got = map_reduce(d.diff(f, x, Vi(4, 3)), SUM, (*args, u), options=CPU)
    _, want = torch.func.jvp(lambda a: map_reduce(f, SUM, (a, *args[1:]), options=CPU), (args[0],), (u,))
    assert isinstance(got, Tensor)
    assert_close(got, want, 1e-13)


# ---------------------------------------------------------------- linear maps


LINEAR = {
    "scaled": s * x,
    "matrix": rows(*(ops.dot(ops.extract(m, 3 * k, 3), x) for k in range(3))),
    "shuffled": rows(x[2], -x[0:2]) / s + ops.widen(ops.dot(x, y), 3) * y,
    "chosen": ops.ifelse(y - s, x[0] * y, 2.0 * x - x[1]),
    "cut": node("extract_t", ops.extract(x, 1, 2), attr=(0, 3)),
    "zero": 0.0 * x,
}


@pytest.mark.parametrize("name", LINEAR)
def test_operators_on_linear_maps(name: str) -> None:
    f, w, u = LINEAR[name], Pm(7, 3), Pm(8, 3)
    at = point(f, m, s, y)
    at |= {7: torch.randn(3, dtype=torch.float64), 8: torch.randn(3, dtype=torch.float64)}
    M = jacobian(of(f, x, at), at[0])
    assert_close(value(d.trace_operator(f, x), at), M.trace().reshape(1), 1e-13)
    assert_close(value(d.trace_operator(f, x, s), at), at[2] * M.trace(), 1e-13)
    assert_close(value(d.trace_operator(f, x, w), at), (at[7] * M.diag()).sum().reshape(1), 1e-13)
    assert_close(value(d.adjoint_operator(f, x, u), at), M.T @ at[8], 1e-13)
    assert_close(value(d.sum_lin_operator(f, x), at), M.sum().reshape(1), 1e-13)
    assert_close(value(d.sum_lin_operator(f, x, w, u), at), (at[7] @ M @ at[8]).reshape(1), 1e-13)
    g = ops.dot(f, y)  # a scalar stands for a vector that repeats it
    row = jacobian(of(g, x, at), at[0]).reshape(3)
    assert_close(value(d.trace_operator(g, x, w), at), (at[7] * row).sum().reshape(1), 1e-13)
    assert x not in set(postorder(simplify(d.trace_operator(f, x, w))))


@pytest.mark.parametrize(
    "f", [x * x, ops.sin(x), x + 1.0, ops.exp(ops.log(x + 3.0)), ops.dot(x, x) * y], ids=str
)
def test_what_is_not_linear_is_refused(f: Expr) -> None:
    for operator in (d.trace_operator, d.sum_lin_operator, lambda f, v: d.adjoint_operator(f, v, y)):
        with pytest.raises(FormulaError, match="is not linear in Vi"):
            operator(f, x)


def test_what_does_not_fit_is_refused() -> None:
    for call, message in (
        (lambda: d.divergence(ops.dot(x, y), x), "field of the dim of its variable, got dims 1 and 3"),
        (lambda: d.laplacian(x, x), "Laplacian takes a scalar formula, got one of dim 3"),
        (lambda: d.grad(x, x, Pm(5, 2)), "Grad: e has dim 2; expected 1 or 3"),
        (lambda: d.diff(x, x, Pm(5, 2)), "Diff: u has dim 2; expected 1 or 3"),
        (lambda: d.trace_operator(rows(x, x), x), "dim 1 or 3, got dim 6"),
        (lambda: d.trace_operator(x, x, Pm(5, 2)), "TraceOperator: w has dim 2"),
        (lambda: d.sum_lin_operator(x, x, Pm(5, 2)), "SumLinOperator: wl has dim 2"),
        (lambda: d.sum_lin_operator(x, x, s, Pm(5, 2)), "SumLinOperator: wr has dim 2"),
        (lambda: d.grad(x * y, ops.sin(x), y), "is no variable and no part of"),
    ):
        with pytest.raises(FormulaError, match=message):
            call()


def test_a_part_of_a_formula_may_be_the_variable() -> None:
    q = ops.sqdist(x, y)
    f = ops.exp(-q) * q
    at = point(f)
    want = torch.exp(-value(q, at)) * (1 - value(q, at))
    assert_close(value(d.grad(f, q, const(1.0)), at), want, 1e-13)
    assert value(d.grad(f, Vj(9, 2), const(1.0)), at).tolist() == [0.0, 0.0]  # a variable that is absent


def test_words() -> None:
    q = ops.exp(-ops.sqdist(x, y))
    assert WORDS["Grad"].build(q, x, s) is d.grad(q, x, s)
    assert WORDS["Diff"].build(q, x, y) is d.diff(q, x, y)
    for name, optional in (
        ("GradMatrix", 0),
        ("Divergence", 0),
        ("Laplacian", 0),
        ("AdjointOperator", 0),
        ("TraceOperator", 1),
        ("SumLinOperator", 2),
    ):
        assert WORDS[name].optional == optional and WORDS[name].doc
    assert WORDS["TraceOperator"].build(s * x, x) is d.trace_operator(s * x, x)
    with pytest.raises(FormulaError):  # KeOps simplifies the second gradient of a linear formula to zero, too
        d.laplacian(x, x)
    assert simplify(d.grad(d.grad(x + y, x, Pm(5, 3)), x, Pm(6, 3))) is simplify(ops.widen(const(0.0), 3))


# ---------------------------------------------------------------- LazyTensor


def test_lazy_tensors() -> None:
    a, b = torch.randn(6, 1, 3, dtype=torch.float64), torch.randn(1, 5, 3, dtype=torch.float64)
    e = torch.randn(6, 1, 1, dtype=torch.float64)
    x_i, y_j = LazyTensor(a), LazyTensor(b)
    K = (-((x_i - y_j) ** 2).sum(-1)).exp()
    D = a - b
    k = torch.exp(-D.square().sum(-1, keepdim=True))
    assert_close(K.grad(x_i, LazyTensor(e)).sum(dim=1), (-2 * e * D * k).sum(1), 1e-13)
    assert_close(K.diff(y_j, y_j).sum(dim=1), (2 * (D * b).sum(-1, keepdim=True) * k).sum(1), 1e-13)
    assert_close(K.laplacian(x_i).sum(dim=1), ((4 * D.square().sum(-1, keepdim=True) - 6) * k).sum(1), 1e-12)
    field = (x_i - y_j) * K
    assert_close(
        field.divergence(x_i).sum(dim=1), ((3 - 2 * D.square().sum(-1, keepdim=True)) * k).sum(1), 1e-12
    )
    J = field.grad_matrix(x_i).sum(dim=1)
    want = (k[..., None] * (torch.eye(3).double() - 2 * D[..., None] * D[..., None, :])).sum(1)
    assert_close(J.reshape(6, 3, 3), want, 1e-12)
    assert_close(
        x_i.difference_matrix(y_j).sum(dim=1), (a[..., :, None] - b[..., None, :]).sum(1).reshape(6, 9), 1e-13
    )
    assert K.factorize(x_i) is K and K.auto_factorize() is K


def test_trace_operator_drops_its_variable() -> None:
    """As in KeOps, v may be a symbol that stands for nothing: no array is asked for."""
    a, b = np.random.rand(6, 3), np.random.rand(5, 3)
    x_i, y_j, v = LazyVi(a), LazyVj(b), LazyVi(0, 3)
    got = ((x_i * y_j) * v + (x_i | v) * y_j).trace_operator(v).sum(axis=1)
    assert isinstance(got, np.ndarray)
    np.testing.assert_allclose(got[:, 0], 2 * a @ b.sum(0), rtol=1e-13)
    later = (LazyVi(0, 3) * LazyVi(1, 3)).trace_operator(LazyVi(1, 3)).sum(axis=0)
    np.testing.assert_allclose(later(a), a.sum(), rtol=1e-13)


def test_gradients_flow_through_symbolic_derivatives() -> None:
    a = torch.randn(4, 1, 3, dtype=torch.float64, requires_grad=True)
    b = torch.randn(1, 5, 3, dtype=torch.float64)

    def energy(a: Tensor) -> Tensor:
        x_i, y_j = LazyTensor(a), LazyTensor(b)
        return ((1.0 + (x_i - y_j) ** 2).sum(-1).log()).laplacian(x_i).sum(dim=1)

    assert torch.autograd.gradcheck(energy, (a,))

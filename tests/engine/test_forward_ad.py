"""Dual tensors of `torch.autograd.forward_ad` through `map_reduce` and LazyTensors."""

from __future__ import annotations

import pytest
import torch
from comparison import CPU, REFERENCE, arguments, assert_close
from torch.autograd import forward_ad as fwd

from kerngp import LazyTensor
from kerngp.engine import ops
from kerngp.engine.expr import Expr, Pm, Vi, Vj
from kerngp.engine.mapreduce import dense, map_reduce
from kerngp.engine.reductions import ARGMIN, KMIN, LOGSUMEXP, MAX, MIN_ARGMIN, SUM, Reduction
from kerngp.options import Options

Tensor = torch.Tensor
FORMULA = Pm(3, 1) * ops.exp(-ops.sqdist(Vi(0, 2), Vj(1, 2))) * Vj(2, 2) + Vi(0, 2)


def tensor(x) -> Tensor:
    assert isinstance(x, Tensor)
    return x


def direct(f: Expr, r: Reduction, args: tuple[Tensor, ...], axis: str) -> Tensor:
    F = dense(f, args)
    dims = {"j": (-2,), "i": (-3,), "ij": (-3, -2)}[axis]
    return F.sum(dims) if r is SUM else F.logsumexp(dims) if r is LOGSUMEXP else F.amax(dims)


@pytest.mark.parametrize("options", [CPU, REFERENCE], ids=["cpu", "reference"])
@pytest.mark.parametrize(("r", "axis"), [(SUM, "j"), (SUM, "i"), (SUM, "ij"), (LOGSUMEXP, "j"), (MAX, "i")])
def test_tangents(r: Reduction, axis: str, options: Options) -> None:
    args, tangents = arguments(FORMULA, 7, 33), arguments(FORMULA, 7, 33)
    with fwd.dual_level():
        for given in ((0, 1, 2, 3), (0,), (1,), (2, 3)):
            duals = tuple(
                fwd.make_dual(a, t) if k in given else a for k, (a, t) in enumerate(zip(args, tangents))
            )
            got = fwd.unpack_dual(tensor(map_reduce(FORMULA, r, duals, axis=axis, options=options)))
            want = fwd.unpack_dual(direct(FORMULA, r, duals, axis))
            assert_close(got.primal, want.primal, 1e-12 * (1 + want.primal.abs().max()))
            assert_close(got.tangent, want.tangent, 1e-12 * (1 + want.tangent.abs().max()))


def test_a_tangent_is_one_pass(launches) -> None:
    args, tangents = arguments(FORMULA, 7, 33), arguments(FORMULA, 7, 33)
    with fwd.dual_level():
        map_reduce(FORMULA, SUM, tuple(map(fwd.make_dual, args, tangents)), options=CPU)
        assert (launches.compiled, launches.reference) == (2, 0)
        launches.clear()
        map_reduce(FORMULA, SUM, args, options=CPU)  # no tangent: nothing but the values
        assert (launches.compiled, launches.reference) == (1, 0)


@pytest.mark.parametrize("r", [SUM, LOGSUMEXP, MAX, MIN_ARGMIN, KMIN(2)], ids=repr)
def test_gradcheck_in_forward_mode(r: Reduction) -> None:
    args = [a.requires_grad_() for a in arguments(FORMULA, 2, 3)]

    def call(*arrays: Tensor) -> Tensor:
        out = map_reduce(FORMULA, r, arrays, options=REFERENCE)
        return out[0] if isinstance(out, tuple) else out

    assert torch.autograd.gradcheck(call, args, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, args, check_fwd_over_rev=True)


def test_an_index_has_no_tangent() -> None:
    f = ops.sqdist(Vi(0, 2), Vj(1, 2))
    x, y = arguments(f, 4, 5)
    with fwd.dual_level():
        dual = fwd.make_dual(x, x.sin())
        assert fwd.unpack_dual(tensor(map_reduce(f, ARGMIN, (dual, y)))).tangent is None
        value, index = map_reduce(f, MIN_ARGMIN, (dual, y))
        want = 2 * ((x - y[index[:, 0]]) * x.sin()).sum(-1, keepdim=True)
        assert_close(fwd.unpack_dual(value).tangent, want, 1e-13)


def test_one_storage_two_tangents() -> None:
    """A tensor and a dual made of it share their memory; they are different operands all the same."""
    a, t = torch.randn(5, 1, 2, dtype=torch.float64), torch.randn(5, 1, 2, dtype=torch.float64)
    y_j = LazyTensor(torch.randn(1, 6, 2, dtype=torch.float64))
    with fwd.dual_level():
        x, dx = LazyTensor(a), LazyTensor(fwd.make_dual(a, t))
        out = fwd.unpack_dual((x * dx * dx.sin() * y_j).sum(dim=1))
    y = y_j.operands.values[0].sum(0)
    assert_close(out.tangent, (a * t * (a.sin() + a * a.cos())).squeeze(1) * y, 1e-12)


def test_reverse_over_forward() -> None:
    """The tangent of a sum has a gradient, in its points and in its direction."""
    args = [a.requires_grad_() for a in arguments(FORMULA, 5, 6)]
    t = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)

    def slope(f) -> Tensor:
        with fwd.dual_level():
            return fwd.unpack_dual(f(fwd.make_dual(args[0], t), *args[1:])).tangent.square().sum()

    got = torch.autograd.grad(slope(lambda *a: map_reduce(FORMULA, SUM, a)), (*args, t))
    want = torch.autograd.grad(slope(lambda *a: direct(FORMULA, SUM, a, "j")), (*args, t))
    for g, w in zip(got, want, strict=True):
        assert_close(g, w, 1e-12 * (1 + w.abs().max()))


def test_coincident_points_have_tangents() -> None:
    """Norms and Matérn profiles have finite derivatives at x = y in forward mode too."""
    x = torch.randn(6, 2, dtype=torch.float64)
    q = ops.sqdist(Vi(0, 2), Vj(1, 2))
    for f in (ops.sqrt(q), ops.matern32_profile(q), ops.exp(-ops.sqrt(q))):
        with fwd.dual_level():
            dual = fwd.make_dual(x, torch.ones_like(x))
            out = fwd.unpack_dual(tensor(map_reduce(f, SUM, (dual, x))))
        leaf = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(tensor(map_reduce(f, SUM, (leaf, x))).sum(), leaf)
        assert_close(out.tangent, g.sum(-1, keepdim=True), 1e-12)

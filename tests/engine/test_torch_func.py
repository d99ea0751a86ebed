"""`torch.func` over `map_reduce` and over LazyTensors made inside the transformed function.

Everything is compared with torch on the stored array of all pairs, in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from comparison import CPU, assert_close
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

from kerngp import LazyTensor
from kerngp.engine import ops
from kerngp.engine.expr import Expr, Pm, Vi, Vj
from kerngp.engine.mapreduce import dense, map_reduce, map_reduce_many
from kerngp.engine.plan import Output
from kerngp.engine.reductions import ARGKMIN, ARGMIN, KMIN, LOGSUMEXP, MAX, MIN_ARGMIN, SUM, Reduction

Tensor = torch.Tensor
M, N, D = 4, 5, 2
FORMULA = Pm(3, 1) * ops.exp(-ops.sqdist(Vi(0, D), Vj(1, D))) * Vj(2, 1) + ops.sin(Vi(0, D))
ALL = (0, 1, 2, 3)


def points(*batch: int) -> tuple[Tensor, ...]:
    shapes = ((M, D), (N, D), (N, 1), (1,))
    return tuple(torch.randn(*batch, *s, dtype=torch.float64) for s in shapes)


def ours(reduction: Reduction = SUM, axis: str = "j", formula: Expr = FORMULA) -> Callable[..., Tensor]:
    def call(*args: Tensor) -> Tensor:
        out = map_reduce(formula, reduction, args, axis=axis, options=CPU)
        return out[0] if isinstance(out, tuple) else out

    return call


def theirs(reduction: Reduction = SUM, axis: str = "j", formula: Expr = FORMULA) -> Callable[..., Tensor]:
    def call(*args: Tensor) -> Tensor:
        F = dense(formula, args)
        dims = {"j": -2, "i": -3, "ij": (-3, -2)}[axis]
        if reduction is SUM:
            return F.sum(dims)
        if reduction is LOGSUMEXP:
            return F.logsumexp(dims)
        if reduction is MAX:
            return F.amax(dims)
        if reduction is MIN_ARGMIN:
            return F.amin(dims)
        assert axis == "j"
        return torch.sort(F, -2).values[..., : reduction.k, :]

    return call


def scalar(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args: f(*args).sin().sum()


def assert_same(got, want, tol: float = 1e-11) -> None:
    got, want = torch.utils._pytree.tree_leaves(got), torch.utils._pytree.tree_leaves(want)
    assert len(got) == len(want) > 0
    for g, w in zip(got, want, strict=True):
        assert_close(g.detach(), w.detach(), tol * (1 + w.detach().abs().max()))


TRANSFORMS: dict[str, Callable] = {
    "vmap": lambda f, x, dx: vmap(f)(*(torch.stack([a, 2 * a]) for a in x)),
    "vmap of one argument": lambda f, x, dx: vmap(f, (None, 0, None, None))(
        x[0], torch.stack([x[1], dx[1]]), *x[2:]
    ),
    "vmap of a parameter": lambda f, x, dx: vmap(f, (None, None, None, 1), 1)(
        *x[:3], torch.linspace(0.2, 1.4, 3).double()[None]
    ),
    "nested vmap": lambda f, x, dx: vmap(vmap(f, (0, None, None, None)), (None, 1, None, None), 2)(
        torch.stack([x[0], dx[0]]), torch.stack([x[1], dx[1], x[1] - dx[1]], 1), *x[2:]
    ),
    "grad": lambda f, x, dx: grad(scalar(f), ALL)(*x),
    "grad of grad": lambda f, x, dx: grad(lambda *a: grad(scalar(f))(*a).cos().sum(), ALL)(*x),
    "vjp": lambda f, x, dx: vjp(f, *x)[1](f(*x).cos()),
    "jvp": lambda f, x, dx: jvp(f, x, dx),
    "jvp of one argument": lambda f, x, dx: jvp(lambda y: f(x[0], y, x[2], x[3]), (x[1],), (dx[1],)),
    "linearize": lambda f, x, dx: linearize(f, *x)[1](*dx),
    "jacrev": lambda f, x, dx: jacrev(f, ALL)(*x),
    "jacfwd": lambda f, x, dx: jacfwd(f, ALL)(*x),
    "hessian": lambda f, x, dx: hessian(scalar(f), ALL)(*x),
    "jacrev of jacfwd": lambda f, x, dx: jacrev(jacfwd(scalar(f)), ALL)(*x),
    "jvp of jvp": lambda f, x, dx: jvp(lambda *a: jvp(f, a, dx)[1], x, tuple(a.cos() for a in x)),
    "vmap of grad": lambda f, x, dx: vmap(grad(scalar(f), ALL))(
        *(torch.stack([a, b]) for a, b in zip(x, dx))
    ),
    "grad of vmap": lambda f, x, dx: grad(
        lambda *a: vmap(f, (0, None, None, None))(torch.stack([a[0], 2 * a[0]]), *a[1:]).sin().sum(), ALL
    )(*x),
    "jvp of vmap of grad": lambda f, x, dx: jvp(
        lambda a: vmap(grad(scalar(f)), (0, None, None, None))(torch.stack([a, -a]), *x[1:]),
        (x[0],),
        (dx[0],),
    ),
}


# the others are made of these
BASIC = ("nested vmap", "grad", "jvp", "linearize", "jacfwd", "hessian", "vmap of grad")


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(
    ("reduction", "axis"), [(SUM, "j"), (SUM, "i"), (SUM, "ij"), (LOGSUMEXP, "j")], ids=repr
)
def test_smooth_reductions(transform: str, reduction: Reduction, axis: str) -> None:
    x, dx = points(), points()
    apply = TRANSFORMS[transform]
    assert_same(apply(ours(reduction, axis), x, dx), apply(theirs(reduction, axis), x, dx))


@pytest.mark.parametrize("transform", BASIC)
@pytest.mark.parametrize(
    ("reduction", "axis"), [(MAX, "j"), (MIN_ARGMIN, "i"), (KMIN(2), "j")], ids=["max", "min_argmin", "kmin"]
)
def test_selections(transform: str, reduction: Reduction, axis: str) -> None:
    x, dx = points(), points()
    apply = TRANSFORMS[transform]
    assert_same(apply(ours(reduction, axis), x, dx), apply(theirs(reduction, axis), x, dx))


def test_vmap_of_indices() -> None:
    f = ops.sqdist(Vi(0, D), Vj(1, D))
    x, y = torch.randn(3, M, D), torch.randn(N, 3, D)
    got = vmap(lambda x, y: map_reduce(f, ARGMIN, (x, y)), (0, 1))(x, y)
    want = torch.stack([map_reduce(f, ARGMIN, (x[k], y[:, k])) for k in range(3)])
    assert torch.equal(got, want)
    both = vmap(lambda x: map_reduce(f, ARGKMIN(2), (x, y[:, 0])))(x)
    assert both.shape == (3, M, 2, 1)
    value, index = vmap(lambda x: map_reduce(f, MIN_ARGMIN, (x, y[:, 0])))(x)
    assert_close(value, torch.cdist(x, y[:, 0]).square().amin(-1, keepdim=True), 1e-5)
    assert torch.equal(index, both[:, :, 0])


def test_batches_of_different_rank_under_vmap() -> None:
    """The new axis stands before every batch axis, of arguments with few of them and with many."""
    x = torch.randn(6, 2, 1, M, D, dtype=torch.float64)
    y = torch.randn(3, N, 6, D, dtype=torch.float64)
    b, p = torch.randn(N, 1, dtype=torch.float64), torch.randn(6, 3, 1, dtype=torch.float64)
    got = vmap(ours(), (0, 2, None, 0))(x, y, b, p)
    want = torch.stack([theirs()(x[k], y[:, :, k], b, p[k]) for k in range(6)])
    assert got.shape == (6, 2, 3, M, D)
    assert_close(got, want, 1e-12)


def test_an_argument_that_no_formula_reads_may_be_batched() -> None:
    f = ops.sqdist(Vi(0, D), Vj(1, D))
    x, y, *_ = points()
    got = vmap(lambda unused: map_reduce(f, SUM, (x, y, unused), options=CPU))(torch.randn(3, 7))
    assert_close(got, theirs(formula=f)(x, y).expand(3, M, 1), 1e-12)


def test_plain_autograd_through_vmap_and_outer_leaves() -> None:
    """A leaf of torch's own autograd that a transform does not know keeps its gradient."""
    x, dx = points(), points()
    x[1].requires_grad_()
    for transform in (
        lambda f: vmap(f, (0, None, None, None))(torch.stack([x[0], dx[0]]), *x[1:]),
        lambda f: grad(scalar(f))(*x),
        lambda f: jvp(lambda a: f(a, *x[1:]), (x[0],), (dx[0],))[1],
        lambda f: jvp(lambda a: a.sin() * f(dx[0], *x[1:]).sum(), (x[0],), (dx[0],))[1],
    ):
        got, want = (torch.autograd.grad(transform(f).square().sum(), x[1])[0] for f in (ours(), theirs()))
        assert_close(got, want, 1e-11 * (1 + want.abs().max()))


@pytest.mark.parametrize(("reduction", "axis"), [(SUM, "j"), (SUM, "ij"), (LOGSUMEXP, "i"), (MAX, "j")])
def test_batched_gradients_of_torch_autograd(reduction: Reduction, axis: str) -> None:
    """``vectorize=True`` and ``is_grads_batched``, which use an older vmap."""
    from torch.autograd.functional import hessian as slow_hessian
    from torch.autograd.functional import jacobian

    x = tuple(a.requires_grad_() for a in points())
    f, g = ours(reduction, axis), theirs(reduction, axis)
    for strategy in ("reverse-mode", "forward-mode"):
        how = {"vectorize": True, "strategy": strategy}
        assert_same(jacobian(f, x, **how), jacobian(g, x, **how))
    assert_same(slow_hessian(scalar(f), x, vectorize=True), slow_hessian(scalar(g), x))
    seeds = torch.randn(3, *f(*x).shape, dtype=torch.float64)
    got, want = (torch.autograd.grad(h(*x), x, seeds, is_grads_batched=True) for h in (f, g))
    assert_same(got, want)


def test_several_outputs_share_their_passes(launches) -> None:
    """One pass for the values and one for all tangents; one more for all cotangents."""
    k = ops.exp(-ops.sqdist(Vi(0, D), Vj(1, D)))
    outputs = (Output(k * Vj(2, 1), SUM, "j"), Output(k, SUM, "i"), Output(k, SUM, "ij"))
    x, dx = points()[:3], points()[:3]

    def call(*args: Tensor) -> tuple[Tensor, ...]:
        return tuple(v for (v,) in map_reduce_many(outputs, args, options=CPU))

    values, tangents = jvp(call, x, dx)
    assert (launches.compiled, launches.reference) == (2, 0)
    K = lambda x, y, b: torch.exp(-(x[:, None] - y).square().sum(-1, keepdim=True))  # noqa: E731
    want = lambda x, y, b: ((K(x, y, b) * b).sum(1), K(x, y, b).sum(0), K(x, y, b).sum((0, 1)))  # noqa: E731
    assert_same((values, tangents), jvp(want, x, dx))
    launches.clear()
    _, back = vjp(call, *x)
    assert_same(back(values), vjp(want, *x)[1](values))
    assert (launches.compiled, launches.reference) == (2, 0)


def test_an_output_without_tangent_is_zero() -> None:
    outputs = (Output(Vi(0, D) * Vj(1, D), SUM, "j"), Output(Vj(1, D), LOGSUMEXP, "i"))
    x, y, *_ = points()
    _, (a, b) = jvp(
        lambda x: tuple(v for (v,) in map_reduce_many(outputs, (x, y), sizes=(M, N))),
        (x,),
        (torch.ones_like(x),),
    )
    assert_close(a, y.sum(0).expand(M, D), 1e-12)
    assert torch.equal(b, torch.zeros(N, D, dtype=torch.float64))


def test_options_reach_every_pass(launches) -> None:
    from kerngp.options import options

    x, dx = points(), points()
    with options(backend="reference"):
        _, back = vjp(lambda *a: map_reduce(FORMULA, SUM, a), *x)
    back(dx[0])
    assert launches.compiled == 0 and launches.reference > 0


# ---------------------------------------------------------------- LazyTensors


def lazy_kernel(x: Tensor, y: Tensor, b: Tensor, p: Tensor):
    x_i, y_j = LazyTensor(x[..., :, None, :]), LazyTensor(y[..., None, :, :])
    return (-((x_i - y_j) ** 2).sum(-1) * LazyTensor(p[..., None, None, :])).exp()


def full_kernel(x: Tensor, y: Tensor, b: Tensor, p: Tensor) -> Tensor:
    return (-(x[..., :, None, :] - y[..., None, :, :]).square().sum(-1) * p[..., None]).exp()


LAZY: dict[str, tuple[Callable, Callable]] = {
    "matmul": (lambda *a: lazy_kernel(*a) @ a[2], lambda *a: full_kernel(*a) @ a[2]),
    "sum over i": (
        lambda *a: lazy_kernel(*a).sum(dim=-3),
        lambda *a: full_kernel(*a).sum(-2).unsqueeze(-1),
    ),
    "logsumexp": (
        lambda *a: lazy_kernel(*a).logsumexp(dim=-2),
        lambda *a: full_kernel(*a).logsumexp(-1, keepdim=True),
    ),
    "weighted logsumexp": (
        lambda *a: lazy_kernel(*a).logsumexp(dim=-2, weight=LazyTensor(a[2].square()[..., None, :, :])),
        lambda *a: (full_kernel(*a).exp() @ a[2].square()).log(),
    ),
    "softmax": (
        lambda *a: lazy_kernel(*a).sumsoftmaxweight(LazyTensor(a[2][..., None, :, :]), dim=-2),
        lambda *a: full_kernel(*a).softmax(-1) @ a[2],
    ),
    "nearest": (
        lambda *a: lazy_kernel(*a).Kmin(2, dim=-2),
        lambda *a: full_kernel(*a).sort(-1).values[..., :2],
    ),
    "one array, twice": (
        lambda *a: lazy_kernel(a[0], a[0], *a[2:]).sum(dim=-2) * a[1][0],
        lambda *a: full_kernel(a[0], a[0], *a[2:]).sum(-1, keepdim=True) * a[1][0],
    ),
}


@pytest.mark.parametrize("transform", BASIC)
@pytest.mark.parametrize("name", LAZY)
def test_lazy_tensors_inside(transform: str, name: str) -> None:
    x, dx = points(), points()
    mine, full = LAZY[name]
    apply = TRANSFORMS[transform]
    assert_same(apply(mine, x, dx), apply(full, x, dx))


def test_generated_code_computes_under_transforms(launches) -> None:
    x = points()
    mine, full = LAZY["matmul"]
    assert_same(hessian(scalar(mine))(*x), hessian(scalar(full))(*x))
    assert launches.compiled > 0 and launches.reference == 0


def test_single_precision() -> None:
    x, dx = (tuple(a.float() for a in p) for p in (points(), points()))
    mine, full = LAZY["matmul"]
    assert_same(jvp(mine, x, dx), jvp(full, x, dx), 1e-5)
    assert jvp(mine, x, dx)[1].dtype == torch.float32

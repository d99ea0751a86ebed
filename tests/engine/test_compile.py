"""`torch.compile` and other tracers: one operator in the graph, the same numbers, the same gradients.

fullgraph=True says that a function becomes one graph; where a graph has to break, a test says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from comparison import arguments, assert_close, example_of
from torch._dynamo.testing import CompileCounterWithBackend

from kerngp import LazyTensor
from kerngp.engine import ops
from kerngp.engine.define import define_reduction
from kerngp.engine.expr import Pm, Vi, Vj, const, node
from kerngp.engine.mapreduce import map_reduce, map_reduce_many
from kerngp.engine.plan import Output
from kerngp.engine.reduction import Reduction, with_k
from kerngp.engine.reductions import ARGKMIN, ARGMIN, KMIN, LOGSUMEXP, MAX, MIN_ARGMIN, REDUCTIONS, SUM
from kerngp.engine.text import formula_of, formula_text, from_text, to_text
from kerngp.options import Options, options

Tensor = torch.Tensor
KERNEL = ops.exp(-Pm(3, 1) * ops.sqdist(Vi(0, 2), Vj(1, 2)))
FORMULA = KERNEL * Vj(2, 1)
BACKENDS = ["eager", "aot_eager"]

pytestmark = pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def points(M: int = 5, N: int = 7) -> tuple[Tensor, ...]:
    shapes = ((M, 2), (N, 2), (N, 1), (1,))
    return tuple(torch.rand(*s, dtype=torch.float64).requires_grad_() for s in shapes)


def assert_compiles(f: Callable[..., Tensor], args: tuple[Tensor, ...], backend: str, **how) -> None:
    """Values and gradients of the compiled function are those of the function."""
    got, want = torch.compile(f, backend=backend, **{"fullgraph": True, **how})(*args), f(*args)
    assert_close(got.detach(), want.detach(), 1e-13)
    if got.requires_grad:
        leaves = [a for a in args if a.requires_grad]
        for g, w in zip(
            torch.autograd.grad(got.sin().sum(), leaves, allow_unused=True),
            torch.autograd.grad(want.sin().sum(), leaves, allow_unused=True),
            strict=True,
        ):
            assert (g is None) == (w is None)
            if g is not None and w is not None:
                assert_close(g, w, 1e-12)


# ---------------------------------------------------------------- map_reduce


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("r", "axis"),
    [(SUM, "j"), (SUM, "i"), (SUM, "ij"), (LOGSUMEXP, "j"), (MAX, "i"), (KMIN(3), "j"), (ARGMIN, "i")],
    ids=repr,
)
def test_map_reduce_is_one_graph(r, axis: str, backend: str) -> None:
    def f(x: Tensor, y: Tensor, b: Tensor, p: Tensor) -> Tensor:
        out = map_reduce(FORMULA, r, (x.sin(), y, b, p), axis=axis)
        assert isinstance(out, Tensor)
        return 2 * out

    assert_compiles(f, points(), backend)


@pytest.mark.parametrize("r", REDUCTIONS.values(), ids=repr)
def test_every_reduction_of_the_table(r: Reduction) -> None:
    """Values, indices, counts and truths; gradients of what has one; texts that give the record back."""
    f, r = example_of(with_k(r, 2) if r.code == "kmin" else r)
    args = tuple(a.requires_grad_() for a in arguments(f, 3, 4))

    def call(*arrays: Tensor) -> Tensor:
        out = map_reduce(f, r, arrays)
        return torch.cat([t.double().flatten() for t in (out if isinstance(out, tuple) else (out,))])

    assert_compiles(call, args, "aot_eager")
    o = Output(f, r, "i")
    assert from_text(to_text((o,), Options()))[0] == (o,)


def test_a_reduction_of_ones_own_is_refused_by_name() -> None:
    """A compiled graph is text; it could not find the record."""
    r = define_reduction("mine", neutral=(0.0,), step=lambda s, f: s[0] + f, merge=lambda a, b: a[0] + b[0])
    x, y = torch.randn(3, 2), torch.randn(4, 2)
    with pytest.raises(RuntimeError, match="mine is not in the table of reductions"):
        torch.compile(lambda x, y: map_reduce(Vi(0, 2) * Vj(1, 2), r, (x, y)), backend="eager")(x, y)


@pytest.mark.parametrize("backend", BACKENDS)
def test_several_outputs(backend: str) -> None:
    outputs = (
        Output(FORMULA, SUM, "j"),
        Output(KERNEL, SUM, "i"),
        Output(KERNEL, MIN_ARGMIN, "j"),
        Output(KERNEL, LOGSUMEXP, "j"),
    )

    def f(*args: Tensor) -> Tensor:
        (a,), (b,), (value, index), (c,) = map_reduce_many(outputs, args)
        return torch.cat([a, b, value * (1 + index), c])

    assert_compiles(f, points(), backend)


def test_first_gradients_are_one_pass(launches) -> None:
    args = points()
    compiled = torch.compile(lambda *a: map_reduce(FORMULA, SUM, a), backend="aot_eager", fullgraph=True)
    compiled(*args)
    launches.clear()
    out = compiled(*args)
    assert (launches.compiled, launches.reference) == (1, 0)
    torch.autograd.grad(out.sum(), args)
    assert (launches.compiled, launches.reference) == (2, 0)


def test_sizes_may_be_symbolic() -> None:
    """Other sizes need no other graph."""
    counter = CompileCounterWithBackend("aot_eager")

    def f(x: Tensor, y: Tensor, b: Tensor, p: Tensor) -> Tensor:
        nearest = map_reduce(KERNEL, MAX, (x, y, b, p))
        out = map_reduce(FORMULA, SUM, (x, y, b, p), sizes=(x.shape[0], None))
        assert isinstance(out, Tensor) and isinstance(nearest, Tensor)
        return out.cos() * nearest

    compiled = torch.compile(f, backend=counter, fullgraph=True, dynamic=True)
    for M, N in ((5, 7), (9, 4), (33, 12)):
        args = points(M, N)
        got, want = compiled(*args), f(*args)
        assert_close(got.detach(), want.detach(), 1e-13)
        for g, w in zip(
            torch.autograd.grad(got.sum(), args), torch.autograd.grad(want.sum(), args), strict=True
        ):
            assert_close(g, w, 1e-12)
    assert counter.frame_count == 1


def test_second_order_of_an_eager_graph() -> None:
    """What runs eagerly inside a graph stays differentiable to any order."""
    x, y, b, p = points()
    compiled = torch.compile(lambda *a: map_reduce(FORMULA, SUM, a), backend="eager", fullgraph=True)
    again = torch.compile(lambda *a: map_reduce(FORMULA, MAX, a), backend="eager", fullgraph=True)
    for f in (compiled, again):
        assert torch.autograd.gradcheck(f, (x, y, b, p))
        assert torch.autograd.gradgradcheck(f, (x, y, b, p))


def test_options_are_those_of_compilation(launches) -> None:
    compiled = torch.compile(lambda *a: map_reduce(FORMULA, SUM, a), backend="eager", fullgraph=True)
    args = tuple(a.detach() for a in points())
    with options(backend="reference"):
        compiled(*args)
    launches.clear()
    compiled(*args)
    assert (launches.compiled, launches.reference) == (0, 1)


@pytest.mark.parametrize("fullgraph", [True, False])
@pytest.mark.parametrize("transform", ["jvp", "grad", "vmap"])
def test_transforms_inside_are_refused_not_wrong(transform: str, fullgraph: bool) -> None:
    """torch would take the tangent of an operator for zero."""
    x, y, b, p = (a.detach() for a in points())

    def call(x: Tensor) -> Tensor:
        return map_reduce(FORMULA, SUM, (x, y, b, p))

    def f(x: Tensor) -> Tensor:
        if transform == "jvp":
            return torch.func.jvp(call, (x,), (x.cos(),))[1]
        if transform == "grad":
            return torch.func.grad(lambda x: call(x).sum())(x)
        return torch.vmap(call)(torch.stack([x, x + 1]))

    with pytest.raises(
        RuntimeError, match="BackendUnavailable: forward mode and the transforms of torch.func"
    ):
        torch.compile(f, backend="eager", fullgraph=fullgraph)(x)
    torch._dynamo.reset()
    inner = torch.compiler.disable(f)
    assert_close(torch.compile(lambda x: inner(x) + 1, backend="eager")(x), f(x) + 1, 1e-13)


# ---------------------------------------------------------------- LazyTensor


def kernel(x: Tensor, y: Tensor, scale: LazyTensor | None = None) -> LazyTensor:
    x_i, y_j = LazyTensor(x[:, None, :]), LazyTensor(y[None, :, :])
    return (-((x_i - y_j) ** 2).sum(-1) * (0.3 if scale is None else scale)).exp()


def weighted(x: Tensor, y: Tensor, b: Tensor, p: Tensor) -> Tensor:
    return (kernel(x, y) * LazyTensor(b[None])).sum(dim=1)


LAZY: dict[str, Callable[..., Tensor]] = {
    "weighted sum": weighted,
    "parameter": lambda x, y, b, p: kernel(x, y, LazyTensor(p)).sum(dim=0),
    "logsumexp": lambda x, y, b, p: (kernel(x, y) / 3).logsumexp(dim=1),
    "weights": lambda x, y, b, p: kernel(x, y).sumsoftmaxweight(LazyTensor(b[None]), dim=1),
    "products": lambda x, y, b, p: (
        kernel(x, y).reduction("Prod", dim=1) + kernel(x, y).reduction("Mean", dim=1)
    ),
    "transpose": lambda x, y, b, p: kernel(x, y).t().sum(dim=1),
    "nearest": lambda x, y, b, p: (
        ((LazyTensor(x, axis=0) - LazyTensor(y, axis=1)) ** 2).sum(-1).Kmin(2, dim=1)
    ),
    "components": lambda x, y, b, p: (LazyTensor(x, axis=0)[0] * LazyTensor(y, axis=1)).max(-1).max(dim=1),
    "one array": lambda x, y, b, p: (kernel(x, x) ** 1.5).sum(dim=1),
    "symbolic": lambda x, y, b, p: kernel(x, y).laplacian(LazyTensor(y[None])).sum(dim=0),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LAZY)
def test_lazy_tensors_are_one_graph(name: str, backend: str) -> None:
    assert_compiles(LAZY[name], points(), backend)


def test_lazy_tensors_with_symbolic_sizes() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(weighted, backend=counter, fullgraph=True, dynamic=True)
    for M, N in ((5, 7), (9, 4)):
        args = points(M, N)
        assert_close(compiled(*args).detach(), weighted(*args).detach(), 1e-13)
    assert counter.frame_count == 1


def test_a_product_with_a_tensor_breaks_the_graph() -> None:
    """``K @ b``: torch's compiler does not ask a class of ours what an operator with a tensor means."""

    def f(x: Tensor, y: Tensor, b: Tensor, p: Tensor) -> Tensor:
        return (kernel(x, y, LazyTensor(p)) @ b).tanh()

    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(f, backend="eager", fullgraph=True)(*points())
    torch._dynamo.reset()
    assert_compiles(f, points(), "aot_eager", fullgraph=False)


def test_lazy_tensors_survive_a_broken_graph() -> None:
    """Begun in a graph, used outside; begun outside, used in a graph."""
    x, y, b, p = points()

    def f(x: Tensor, y: Tensor, b: Tensor, p: Tensor) -> Tensor:
        K = kernel(x.sin(), y)
        torch._dynamo.graph_break()
        L = K + 1
        torch._dynamo.graph_break()
        return (L * LazyTensor(b[None])).sum(dim=1) + K.sum(dim=1)

    assert_compiles(f, (x, y, b, p), "eager", fullgraph=False)
    outer = kernel(x.detach(), y.detach())
    assert_compiles(lambda b: (outer * LazyTensor(b[None])).sum(dim=1), (b,), "aot_eager")
    made = torch.compile(lambda x, y: kernel(x, y), backend="eager", fullgraph=True)(x, y)
    assert_close((made @ b).detach(), (kernel(x, y) @ b).detach(), 1e-13)
    assert_close((2 * made).t().sum(dim=1).detach(), 2 * kernel(x, y).sum(dim=0).detach(), 1e-13)
    assert made.shape == (5, 7) and str(made) == str(kernel(x, y))


# ---------------------------------------------------------------- the operator, the text


def test_the_operator_keeps_torchs_rules() -> None:
    args = list(points())
    for r, axis in ((SUM, "j"), (LOGSUMEXP, "i"), (KMIN(2), "j"), (ARGKMIN(2), "j")):
        text = to_text((Output(FORMULA, r, axis),), Options())
        torch.library.opcheck(torch.ops.kerngp.map_reduce.default, (text, args, None, None))


def test_other_tracers() -> None:
    """Fake tensors give shapes, make_fx records the operator, torch.export a program."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    x, y, b, p = (a.detach() for a in points())
    with FakeTensorMode():
        fake = map_reduce(FORMULA, KMIN(3), tuple(torch.empty(a.shape) for a in (x, y, b, p)))
        assert isinstance(fake, Tensor) and fake.shape == (5, 3, 1)

    def f(x: Tensor) -> Tensor:
        out = map_reduce(FORMULA, SUM, (x, y, b, p))
        assert isinstance(out, Tensor)
        return out

    graph = make_fx(f)(x)
    assert "kerngp.map_reduce" in graph.code
    assert_close(graph(x + 1), f(x + 1), 1e-13)

    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return f(x)

    program = torch.export.export(Module(), (x,))
    assert_close(program.module()(x + 1), f(x + 1), 1e-13)


def test_texts_give_back_the_identical_formulas() -> None:
    f = ops.concat(ops.extract(Vi(0, 3), 1, 2) * -0.0, node("powi", Vj(1, 1) + math.inf, attr=(3,)))
    f = f + const(1.0 / 3.0)
    outputs = (Output(f, KMIN(4), "i"), Output(f[0], SUM, "ij"), Output(f, LOGSUMEXP))
    settings = Options(backend="cpu", threads=2)
    text = to_text(outputs, settings)
    back, chosen = from_text(text)
    assert [o.expr for o in back] == [o.expr for o in outputs]  # equal means identical
    assert back == outputs and chosen == settings
    assert to_text(back, chosen) == text
    assert formula_of(formula_text(f)) is f
    assert to_text((Output(f * 0.0, SUM),), settings) != to_text((Output(f * -0.0, SUM),), settings)

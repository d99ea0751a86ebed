"""Kernels given by strings, against their definition in torch."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import kerngp
from kerngp.engine import formulas, ops
from kerngp.engine.expr import Vi, Vj
from kerngp.engine.kernel_strings import parse_kernel
from kerngp.engine.mapreduce import dense
from kerngp.errors import DTypeError, FormulaError, OptionError, ShapeError
from kerngp.torch import Kernel, kernel_product

F64 = torch.float64
TEXT = "gaussian(x,y) * (1 + linear(u,v)**2)"


def squared(g, x, y):
    """<x - y, G (x - y)> at all pairs, for every form of gamma; g is indexed by (i, j, component)."""
    d = x[:, None] - y[None]
    if g is None:
        return (d * d).sum(-1)
    D = x.shape[1]
    if g.shape[-1] == D * D and D > 1:
        return torch.einsum("ija,ijab,ijb->ij", d, g.reshape(*g.shape[:-1], D, D).expand(*d.shape, D), d)
    return (g * d * d).sum(-1)


PROFILES = {
    "gaussian": lambda q: torch.exp(-q),
    "laplacian": lambda q: torch.exp(-q.sqrt()),
    "cauchy": lambda q: 1 / (1 + q),
    "inverse_multiquadric": lambda q: (1 + q) ** -0.5,
    "distance": lambda q: q.sqrt(),
    "rbf": lambda q: torch.exp(-q / 2),
    "matern32": lambda q: (1 + (3 * q).sqrt()) * torch.exp(-(3 * q).sqrt()),
    "matern52": lambda q: (1 + (5 * q).sqrt() + 5 * q / 3) * torch.exp(-(5 * q).sqrt()),
    "rational_quadratic": lambda q: 1 / (1 + q / 2),
}
LOGS = {
    "gaussian": lambda q: -q,
    "laplacian": lambda q: -q.sqrt(),
    "cauchy": lambda q: -torch.log(1 + q),
    "inverse_multiquadric": lambda q: -0.5 * torch.log(1 + q),
    "distance": lambda q: 0.5 * torch.log(q),
    "rbf": lambda q: -q / 2,
    "matern32": lambda q: torch.log(1 + (3 * q).sqrt()) - (3 * q).sqrt(),
    "matern52": lambda q: torch.log(1 + (5 * q).sqrt() + 5 * q / 3) - (5 * q).sqrt(),
    "rational_quadratic": lambda q: -torch.log(1 + q / 2),
}


def gamma_forms(M: int, N: int, D: int, dtype=F64) -> dict[str, tuple]:
    """What the user passes, and the same indexed by (i, j, component)."""

    def spd(*n):
        A = torch.randn(*n, D, D, dtype=dtype) / D
        return (A @ A.mT + 0.3 * torch.eye(D, dtype=dtype)).flatten(-2)

    out = {"none": (None, None), "number": (0.7, torch.full((1, 1, 1), 0.7, dtype=dtype))}
    for name, make in (
        ("scalar", lambda *n: torch.rand(*n, 1, dtype=dtype) + 0.2),
        ("diagonal", lambda *n: torch.rand(*n, D, dtype=dtype) + 0.2),
        ("full", spd),
    ):
        g, gi, gj = make(), make(M), make(N)
        out[name] = (g, g)
        out[f"{name} i"] = (("i", gi), gi[:, None])
        out[f"{name} j"] = (gj, gj[None])
        out[f"{name} j, said"] = (("j", gj), gj[None])
    return out


def data(M: int = 7, N: int = 9, D: int = 3, dtype=F64):
    x, y = torch.randn(M, D, dtype=dtype), torch.randn(N, D, dtype=dtype)
    u, v = torch.randn(M, 2, dtype=dtype), torch.randn(N, 2, dtype=dtype)
    return x, y, u, v, torch.randn(N, 2, dtype=dtype)


# ---------------------------------------------------------------- sums


@pytest.mark.parametrize("sizes", [(1, 1), (31, 33), (7, 1000)])
@pytest.mark.parametrize("text", [TEXT, "gaussian(x,y) * (1+linear(u,v)**2)"])
def test_the_kernel_of_the_manual_against_torch(text, dtype, sizes, launches):
    x, y, u, v, b = data(*sizes, dtype=dtype)
    sigma = torch.tensor([0.8], dtype=dtype)
    params = {"id": Kernel(text), "gamma": (1.0 / sigma**2, None)}
    got = kernel_product(params, (x, u), (y, v), b)
    assert launches.compiled == 1 and launches.reference == 0
    x, y, u, v, b, sigma = (a.double() for a in (x, y, u, v, b, sigma))
    K = torch.exp(-squared(1 / sigma**2, x, y)) * (1 + (u @ v.T) ** 2)
    scale = (K.abs() @ b.abs()).clamp_min(1e-300)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    assert ((got.double() - K @ b).abs() / scale).max() < tolerance


@pytest.mark.parametrize("form", gamma_forms(2, 2, 2))
@pytest.mark.parametrize("name", PROFILES)
def test_kernels_of_the_distance_with_every_gamma(name, form):
    x, y, _, _, b = data()
    gamma, indexed = gamma_forms(7, 9, 3)[form]
    params = {"id": Kernel(f"{name}(x,y)"), "gamma": (gamma,)}
    K = PROFILES[name](squared(indexed, x, y))
    torch.testing.assert_close(kernel_product(params, x, y, b), K @ b, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(kernel_product(params, x, y, b, backend="matrix"), K, rtol=1e-12, atol=1e-14)
    log_K = LOGS[name](squared(indexed, x, y))
    got = kernel_product(params, x, y, b, mode="lse")
    torch.testing.assert_close(got, (log_K[..., None] + b).logsumexp(1), rtol=1e-12, atol=1e-13)
    got = kernel_product(params, x, y, b, mode="lse", backend="matrix")
    torch.testing.assert_close(got, log_K, rtol=1e-12, atol=1e-13)


def sines(d):
    return (torch.pi * d).sin().square().sum(-1)


@pytest.mark.parametrize(
    ("text", "definition"),
    [
        ("linear(x,y)", lambda x, y, g: x @ y.T),
        ("polynomial(x, y, 2, 0.5)", lambda x, y, g: (g * (x @ y.T) + 0.5) ** 2),
        ("sigmoid(x, y)", lambda x, y, g: torch.tanh(g * (x @ y.T) + 1)),
        ("cosine(x, y)", lambda x, y, g: torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=-1)),
        ("periodic(x, y, 2)", lambda x, y, g: torch.exp(-0.5 * sines(g.sqrt() * (x[:, None] - y)))),
        ("rational_quadratic(x, y, 3)", lambda x, y, g: (1 + squared(g, x, y) / 6) ** -3),
        ("exponential(x, y)", lambda x, y, g: torch.exp(-squared(g, x, y).sqrt())),
    ],
)
def test_kernels_by_the_names_of_formulas(text, definition):
    x, y, _, _, b = data()
    g = torch.tensor([0.4], dtype=F64)
    got = kernel_product({"id": Kernel(text), "gamma": g}, x, y, b)
    torch.testing.assert_close(got, definition(x, y, g) @ b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("text", "definition"),
    [
        ("cauchy(x,y) + gaussian(x,y) * (1 + cauchy(u,v)**2)", lambda g, c, l: c[0] + g * (1 + c[1] ** 2)),
        ("gaussian(x,y) * linear(u,v)**2", lambda g, c, l: g * l**2),
        ("2*gaussian(x,y) - 0.5", lambda g, c, l: 2 * g - 0.5),
        ("-gaussian( x , y ) / 3 + 1e-1*linear(u,v)", lambda g, c, l: -g / 3 + 0.1 * l),
        ("1 / (2 - gaussian(x,y)) ** 1.5", lambda g, c, l: (2 - g) ** -1.5),
        ("(2**2 - 1/2) * gaussian(x,y)**-1", lambda g, c, l: 3.5 / g),
        ("+gaussian(position, other)*linear(u1,v_1)", lambda g, c, l: g * l),
        ("gaussian(x[0:3], y[0:3]) * linear(u[:], v[-2:])", lambda g, c, l: g * l),
    ],
)
def test_combinations(text, definition):
    x, y, u, v, b = data()
    kernel = Kernel(text)
    gammas = {"gaussian": 0.3, "cauchy": 1.0, "linear": None}
    params = {"id": kernel, "gamma": [gammas[n] for n in kernel.formulas]}
    xs, ys = ((x, u), (y, v)) if len(kernel.pairs) == 2 else (x, y)
    g = torch.exp(-squared(torch.tensor([0.3], dtype=F64), x, y))
    c = 1 / (1 + squared(None, x, y)), 1 / (1 + squared(None, u, v))
    K = definition(g, c, u @ v.T)
    torch.testing.assert_close(kernel_product(params, xs, ys, b), K @ b, rtol=1e-12, atol=1e-12)


def test_components_of_a_variable():
    x, y, _, _, b = data()
    params = {"id": Kernel("gaussian(x[0:2], y[0:2]) * (1 + laplacian(x[2], y[2]))"), "gamma": (0.5, 2.0)}
    d = (x[:, None] - y).square()
    K = torch.exp(-0.5 * d[..., :2].sum(-1)) * (1 + torch.exp(-(2 * d[..., 2]).sqrt()))
    torch.testing.assert_close(kernel_product(params, x, y, b), K @ b, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------- logarithms

LOG_CASES = {
    "gaussian(x,y) * 2": lambda q, r, l: torch.log(torch.tensor(2.0, dtype=F64)) - q,
    "3 * gaussian(x,y) ** 2 / 4": lambda q, r, l: torch.log(torch.tensor(0.75, dtype=F64)) - 2 * q,
    "gaussian(x,y) + laplacian(u,v)": lambda q, r, l: torch.logaddexp(-q, -r.sqrt()),
    "cauchy(x,y) + 1": lambda q, r, l: torch.log1p(1 / (1 + q)),
    "gaussian(x,y) * (1 + linear(u,v)**2)": lambda q, r, l: -q + torch.log(1 + l**2),
    "linear(u,v)": lambda q, r, l: 0.5 * torch.log(l**2 + 1e-8),
    "distance(x,y) * gaussian(x,y)": lambda q, r, l: 0.5 * torch.log(q) - q,
    "2 - gaussian(x,y)": lambda q, r, l: torch.log(2 - torch.exp(-q)),
    "-gaussian(x,y) * (-1)": lambda q, r, l: -q,
    "1 / gaussian(x,y)": lambda q, r, l: q,
}


def features(kernel: Kernel, *tensors: torch.Tensor):
    """The tensors of the pairs of a kernel, and one None for each of its parameters."""
    x, y, u, v = tensors
    of = {"x": x, "y": y, "u": u, "v": v}
    xs, ys = zip(*[(of[a], of[b]) for a, b in kernel.pairs])
    return {"id": kernel, "gamma": [None] * len(kernel.formulas)}, xs, ys


@pytest.mark.parametrize("text", LOG_CASES)
def test_logarithms_of_combinations(text):
    x, y, u, v, b = data()
    params, xs, ys = features(Kernel(text), x, y, u, v)
    log_K = LOG_CASES[text](squared(None, x, y), squared(None, u, v), u @ v.T)
    got = kernel_product(params, xs, ys, b, mode="lse", backend="matrix")
    torch.testing.assert_close(got, log_K, rtol=1e-12, atol=1e-13)
    got = kernel_product(params, xs, ys, b, mode="lse")
    torch.testing.assert_close(got, (log_K[..., None] + b).logsumexp(1), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "text",
    [
        "gaussian(x,y)",
        "matern32(x,y) + matern52(x,y) * 1e-3",
        "gaussian(x,y) + 2 * laplacian(x,y) * gaussian(x,y)",
        "gaussian(x,y) * (1 + linear(x,y)**2)",
        "rational_quadratic(x,y, 900) * exponential(x,y)**3",
    ],
)
def test_logarithms_are_right_where_kernels_underflow(dtype, text):
    x, y, u, v = (torch.full((n, 3), c, dtype=dtype) for n, c in ((2, 0.0), (4, 1e3), (1, 0.0), (1, 0.0)))
    params, xs, ys = features(Kernel(text), x, y, u, v)
    got = kernel_product(params, xs, ys, torch.zeros(4, 1, dtype=dtype), mode="lse").double()
    q, s = 3e6, 3e6**0.5
    matern = torch.logaddexp(
        torch.tensor(1 + 3**0.5 * s, dtype=F64).log() - 3**0.5 * s,
        torch.tensor((1 + 5**0.5 * s + 5 * q / 3) * 1e-3, dtype=F64).log() - 5**0.5 * s,
    )
    expected = {
        "gau": -q,
        "mat": matern.item(),
        "rat": -900 * torch.tensor(1 + q / 1800, dtype=F64).log().item() - 3 * s,
    }[text[:3]] + torch.tensor(4.0).log().item()
    assert kernel_product(params, xs, ys, torch.ones(4, 1, dtype=dtype)).abs().max() == 0
    torch.testing.assert_close(got, torch.full_like(got, expected), rtol=1e-5, atol=0)


def test_the_gradient_of_a_logarithm_of_a_sum_is_exact_at_ties():
    x = torch.zeros(1, 2, dtype=F64)
    g = torch.tensor([[0.5], [2.0]], dtype=F64, requires_grad=True)
    y = torch.tensor([[1.0, 0.0]], dtype=F64)
    params = {"id": Kernel("gaussian(x,y) + gaussian(u,v)"), "gamma": (g[0], g[1])}
    out = kernel_product(params, (x, x), (y, y / 2), torch.zeros(1, 1, dtype=F64), mode="lse")
    (grad,) = torch.autograd.grad(out.sum(), g, create_graph=True)
    # exp(-g0) + exp(-g1 / 4): both terms are exp(-1/2)
    torch.testing.assert_close(grad.flatten(), torch.tensor([-0.5, -0.125], dtype=F64))
    (second,) = torch.autograd.grad(grad[0].sum(), g)
    torch.testing.assert_close(second.flatten(), torch.tensor([0.25, -0.0625], dtype=F64))


def test_the_logarithm_of_a_distance_that_vanishes():
    x = torch.randn(4, 3, dtype=F64, requires_grad=True)
    params = {"id": Kernel("distance(x,y)")}
    out = kernel_product(params, x, x, torch.zeros(4, 1, dtype=F64), mode="lse")
    d = torch.cdist(x, x) + torch.eye(4, dtype=F64)
    expected = (d.log() + torch.eye(4, dtype=F64) * -1e300).logsumexp(1)
    torch.testing.assert_close(out[:, 0], expected)
    got, want = (torch.autograd.grad(t.sum(), x, retain_graph=True)[0] for t in (out, expected))
    torch.testing.assert_close(got, want)


def test_a_kernel_that_is_never_positive_has_no_logarithm():
    x, y, _, _, b = data()
    with pytest.raises(FormulaError, match="never positive; it has no logarithm"):
        kernel_product({"id": Kernel("-2 * gaussian(x,y) - 1")}, x, y, b, mode="lse")
    out = kernel_product({"id": Kernel("gaussian(x,y) - 2")}, x, y, b, mode="lse")
    assert torch.isnan(out).all()


# ---------------------------------------------------------------- modes


@pytest.mark.parametrize("backend", ["auto", "pytorch", "CPU"])
def test_every_mode_against_its_definition(backend, launches):
    x, y, _, _, b = data()
    M, N = len(x), len(y)
    s, t = torch.randn(M, 1, dtype=F64), torch.randn(N, 1, dtype=F64)
    w, z = torch.rand(M, 1, dtype=F64), torch.rand(N, 1, dtype=F64)
    params = {"id": Kernel("cauchy(x,y)"), "gamma": 0.4}
    C = -torch.log1p(0.4 * squared(None, x, y))
    P = torch.exp(C + s + t.T)
    c2 = torch.randn(M, 2, dtype=F64)
    cases = {
        "sum": ((b,), torch.exp(C) @ b),
        "lse": ((b,), (C[..., None] + b).logsumexp(1)),
        "log_scaled": ((b, s, t), P @ b),
        "log_scaled_lse": ((b, s, t), ((C + s + t.T)[..., None] + b).logsumexp(1)),
        "log_scaled_barycenter": ((b, s, t, c2), P @ b - P.sum(1, keepdim=True) * c2),
        "lse_mult_i": ((b, w), ((w * C)[..., None] + b).logsumexp(1)),
        "sinkhorn_primal": ((s, t, w, z), ((w + z.T - 1) * P).sum(1, keepdim=True)),
        "sinkhorn_cost": ((s, t), -(C * P).sum(1, keepdim=True)),
    }
    for mode, (arrays, expected) in cases.items():
        got = kernel_product(params, x, y, *arrays, mode=mode, backend=backend)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    assert (launches.reference == len(cases)) if backend == "pytorch" else (launches.compiled == len(cases))


def test_matrices_of_the_log_modes():
    x, y, _, _, b = data()
    s, t = torch.randn(7, 1, dtype=F64), torch.randn(9, 1, dtype=F64)
    params = {"id": Kernel("gaussian(x,y)"), "gamma": 0.4, "mode": "log_scaled", "backend": "matrix"}
    expected = -0.4 * squared(None, x, y) + s + t.T
    torch.testing.assert_close(kernel_product(params, x, y, b, s, t), expected)
    # an argument is preferred to the dictionary
    K = kernel_product(params, x, y, b, mode="sum")
    torch.testing.assert_close(K, torch.exp(-0.4 * squared(None, x, y)))


# ---------------------------------------------------------------- gradients


def test_gradients_against_torch(launches):
    x, y, u, v, b = (t.requires_grad_() for t in data(31, 33))
    g = torch.rand(3, dtype=F64).requires_grad_()
    out = kernel_product({"id": Kernel(TEXT), "gamma": (g, None)}, (x, u), (y, v), b)
    expected = (torch.exp(-squared(g, x, y)) * (1 + (u @ v.T) ** 2)) @ b
    e = torch.randn_like(out)
    inputs = (g, x, y, u, v, b)
    got, want = (torch.autograd.grad((t * e).sum(), inputs) for t in (out, expected))
    for a, c in zip(got, want):
        torch.testing.assert_close(a, c, rtol=1e-11, atol=1e-12)
    assert launches.compiled == 2 and launches.reference == 0


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        ("scalar", "sum"),
        ("diagonal i", "lse"),
        ("full", "log_scaled"),
        ("full j", "sum"),
        ("scalar j", "lse"),
    ],
)
def test_gradients_of_first_and_second_order(form, mode):
    x, y, u, v, b = data(2, 3, 2)
    gamma, _ = gamma_forms(2, 3, 2)[form]
    axis, g = gamma if isinstance(gamma, tuple) else (None, gamma)
    scalings = (torch.randn(2, 1, dtype=F64), torch.randn(3, 1, dtype=F64)) if mode == "log_scaled" else ()
    kernel = Kernel("gaussian(x,y) * (1 + linear(u,v)**2) + cauchy(x,y)")

    def f(g, x, y, u, v, b, *scalings):
        form = g if axis is None else (axis, g)
        params = {"id": kernel, "gamma": (form, None, form)}
        return kernel_product(params, (x, u), (y, v), b, *scalings, mode=mode, backend="pytorch")

    tensors = [a.clone().requires_grad_() for a in (g, x, y, u, v, b, *scalings)]
    assert torch.autograd.gradcheck(f, tensors)
    assert torch.autograd.gradgradcheck(f, tensors, fast_mode=True)


# ---------------------------------------------------------------- names of one's own


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(formulas, "FORMULAS", formulas.FORMULAS)
    before = dict(formulas.FORMULAS)
    yield formulas.FORMULAS
    for name in set(formulas.FORMULAS) - set(before):
        del formulas.FORMULAS[name]


def test_registered_kernels(registry):
    x, y, _, _, b = data()
    kerngp.register_kernel("tilted", lambda x, y, gamma: ops.exp(ops.dot(x, y) - gamma * ops.sqdist(x, y)))
    kerngp.register_kernel("quartic", lambda x, y: ops.inv(1.0 + ops.sqdist(x, y) ** 2))
    kerngp.register_kernel("l1", lambda x, y, scale=1.0: ops.exp(-ops.total(abs(x - y)) / scale))
    q = squared(None, x, y)
    tilt = x @ y.T
    for text, K in (
        ("tilted(x,y)", torch.exp(tilt - 0.3 * q)),
        ("quartic(x,y)", 1 / (1 + (0.3 * q) ** 2)),
        ("l1(x,y,2)", torch.exp(-(0.3**0.5) * torch.cdist(x, y, p=1) / 2)),
    ):
        got = kernel_product({"id": Kernel(text), "gamma": 0.3}, x, y, b)
        torch.testing.assert_close(got, K @ b, rtol=1e-12, atol=1e-13)
    got = kernel_product({"id": Kernel("tilted(x,y)"), "gamma": 0.3}, x, y, b, mode="lse")
    torch.testing.assert_close(got, ((tilt - 0.3 * q)[..., None] + b).logsumexp(1))
    with pytest.raises(FormulaError, match="gamma has 9 components; expected 1, or one for each of 3"):
        kernel_product({"id": Kernel("l1(x,y)"), "gamma": torch.ones(9, dtype=F64)}, x, y, b)


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        ("gaussian", ops.sqdist, "already defined"),
        ("distance", ops.sqdist, "already defined"),
        ("matern32", ops.sqdist, "already defined"),
        ("my kernel", ops.sqdist, "expected a name"),
        (3, ops.sqdist, "expected a name"),
        ("mine", 3, "not callable"),
    ],
)
def test_names_that_cannot_be_registered(name, function, message):
    with pytest.raises(FormulaError, match=message):
        kerngp.register_kernel(name, function)


def test_a_registered_function_must_give_a_number_for_each_pair(registry):
    kerngp.register_kernel("vectors", lambda x, y: x - y)
    x, y, _, _, b = data()
    with pytest.raises(FormulaError, match="vectors gives .* expected a formula of dim 1") as e:
        kernel_product({"id": Kernel("1 + vectors(x,y)")}, x, y, b)
    assert str(e.value).endswith("\n    1 + vectors(x,y)\n        ^")
    kerngp.register_kernel("one", lambda x, y: 1.0)
    with pytest.raises(FormulaError, match="one gives 1.0; expected a formula"):
        kernel_product({"id": Kernel("one(x,y)"), "gamma": 2.0}, x, y, b)


# ---------------------------------------------------------------- the object


def test_pairs_are_numbered_by_first_appearance():
    k = parse_kernel("linear(u, v) + gaussian(x,y) * linear(u,v) - cauchy(first, second)")
    assert k.pairs == (("u", "v"), ("x", "y"), ("first", "second"))
    assert [(a.name, a.pair) for a in k.atoms] == [
        ("linear", 0),
        ("gaussian", 1),
        ("linear", 0),
        ("cauchy", 2),
    ]
    again = pickle.loads(pickle.dumps(k))
    assert again == k and again.atoms == k.atoms and hash(again) == hash(k)
    assert Kernel(k.text) == Kernel(k.text) != Kernel("linear(u,v)")
    assert repr(Kernel("linear(u,v)")) == "Kernel('linear(u,v)')"
    f = again.formula([(Vi(0, 2), Vj(1, 2)), (Vi(2, 3), Vj(3, 3)), (Vi(4, 1), Vj(5, 1))])
    ones = [torch.ones(1, d) for d in (2, 2, 3, 3, 1, 1)]
    assert dense(f, ones).item() == 2 + 1 * 2 - 1


@pytest.mark.parametrize(
    ("text", "psd"),
    [
        ("gaussian(x,y) * (1 + linear(u,v)**2)", True),
        ("2.5 * matern32(x,y) / 3", True),
        ("gaussian(x[0:2], y[0:2])", True),
        ("gaussian(x[0:2], y[1:3])", False),
        ("distance(x,y)", False),
        ("sigmoid(x,y)", False),
        ("2 - gaussian(x,y)", False),
        ("-gaussian(x,y)", False),
        ("-1 * gaussian(x,y)", False),
        ("gaussian(x,y) ** 0.5", False),
        ("gaussian(x,y) ** -1", False),
        ("1 / gaussian(x,y)", False),
        ("polynomial(x, y, 2, 1)", True),
        ("polynomial(x[0], y[1], 2, 1)", False),
        ("polynomial(x, y, 2, -1)", False),
        ("polynomial(x, y, 1.5)", False),
    ],
)
def test_what_is_known_to_be_positive_semi_definite(text, psd):
    assert parse_kernel(text).psd is psd


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("gausian(x,y)", 0, "unknown kernel 'gausian'; did you mean gaussian"),
        ("1 + qqqq(x,y)", 4, "unknown kernel 'qqqq'; known are additive_chi2, cauchy"),
        ("gaussian(x)", 0, r"gaussian takes two variables, gaussian\(x, y\)"),
        ("gaussian(x, 2)", 0, "takes two variables"),
        ("gaussian(x, y, 2)", 0, "takes two variables and nothing else"),
        ("polynomial(x, y, 2, 1, 1)", 0, r"and at most 2 number\(s\)"),
        ("polynomial(x, y, z)", 0, r"and at most 2 number\(s\)"),
        ("gaussian(x,y) + cauchy(y,z)", 23, r"y belongs to the pair \(x, y\) already"),
        ("gaussian(x,y) + cauchy(y,x)", 23, "y belongs to the pair"),
        ("gaussian(x,y) * x", 16, "x is a variable; it stands inside a kernel"),
        ("gaussian(x + 1, y)", 9, "x is a variable"),
        ("gaussian(x,y) ** linear(x,y)", 14, "the exponent of a kernel is a number"),
        ("gaussian(x,y) | linear(x,y)", 14, r"'\|' has no meaning for kernels"),
        ("gaussian(x,y) < 2", 14, "'<' has no meaning for kernels"),
        ("gaussian(x,y) * (1, 2)", 16, "a tuple has no meaning"),
        ("gaussian(x[0][1], y)", 13, "only a variable has components"),
        ("gaussian(x,y)[0]", 13, "only a variable has components"),
        ("gaussian(x[0.5], y)", 10, "named by integers"),
        ("2 * gaussian(x,y) / (1/0)", 22, "division by zero"),
        ("gaussian(x,y", 8, "never closed"),
        ("gaussian(x,y))", 13, "no bracket is open"),
        ("gaussian(x,y) 2", 14, "expected an operator"),
        ("2", 0, "no kernel stands here"),
        ("x", 0, "no kernel stands here"),
    ],
)
def test_errors_show_the_place(text, place, message):
    with pytest.raises(FormulaError, match=message) as e:
        Kernel(text)
    assert str(e.value).endswith(f"\n    {text}\n    {' ' * place}^")


def test_empty_strings_and_other_things():
    for bad in ("", "  "):
        with pytest.raises(FormulaError, match="the kernel .* is empty"):
            Kernel(bad)
    with pytest.raises(FormulaError, match="kernel=None is a NoneType"):
        Kernel(None)


SOUP = [
    *("gaussian", "linear", "matern32", "polynomial", "x", "y", "u", "v", "gaussian(x,y)", "linear(u,v)"),
    *(
        "2",
        "0",
        "0.5",
        "1e400",
        "9999",
        "+",
        "-",
        "*",
        "/",
        "**",
        "|",
        "<",
        "(",
        ")",
        "[",
        "]",
        ",",
        ":",
        " ",
    ),
    *("\n", "\x00", "'", "__import__"),
]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.lists(st.sampled_from(SOUP), max_size=20).map("".join), st.text()))
def test_any_text_is_a_kernel_or_a_formula_error(text):
    try:
        kernel = parse_kernel(text)
        points = [(Vi(2 * k, 3), Vj(2 * k + 1, 3)) for k in range(len(kernel.pairs))]
        assert kernel.formula(points).dim == 1
        assert kernel.formula(points, log=True).dim == 1
    except FormulaError as e:
        assert str(e)


@st.composite
def positive_kernels(draw, depth: int = 3) -> str:
    """Texts of kernels whose terms are positive."""
    kind = draw(st.integers(0, 5)) if depth else 0
    if kind == 0:
        names = [n for n in PROFILES if n != "distance"]
        pair = draw(st.sampled_from(["x,y", "u,v"]))
        return draw(st.sampled_from([f"{n}({pair})" for n in names] + ["linear(u,v)**2", "0.7", "3"]))
    a = draw(positive_kernels(depth=depth - 1))
    if kind == 1:
        return f"({a})**{draw(st.sampled_from(['2', '-1', '0.5']))}"
    b = draw(positive_kernels(depth=depth - 1))
    return f"({a}){draw(st.sampled_from('+*/'))}({b})"


@settings(max_examples=60, deadline=None)
@given(positive_kernels())
def test_random_kernels_against_python_and_their_logarithms(text):
    torch.manual_seed(1)
    x, y, u, v, b = data(3, 4)
    try:
        kernel = Kernel(text)
    except FormulaError:
        assert "x" not in text and "u" not in text
        return
    params, xs, ys = features(kernel, x / 2, y / 2, u, v)
    q = {"x": squared(None, x / 2, y / 2), "u": squared(None, u, v)}
    names = {n: lambda a, b, f=f: f(a) for n, f in PROFILES.items()} | {"linear": lambda a, b: u @ v.T}
    expected = eval(text, {"__builtins__": {}}, names | {"x": q["x"], "u": q["u"], "y": None, "v": None})
    assume(1e-200 < expected.min() and expected.max() < 1e200)
    K = kernel_product(params, xs, ys, b, backend="matrix")
    torch.testing.assert_close(K, expected.expand(3, 4), rtol=1e-10, atol=0)
    log_K = kernel_product(params, xs, ys, b, backend="matrix", mode="lse")
    # linear is regularized by 1e-8
    torch.testing.assert_close(log_K, expected.log().expand(3, 4), rtol=1e-4, atol=1e-4)


def test_deep_strings():
    x, y, _, _, b = data()
    deep = Kernel("(" * 10_000 + "gaussian(x,y)" + ")" * 10_000)
    torch.testing.assert_close(
        kernel_product({"id": deep}, x, y, b), kernel_product({"id": Kernel("gaussian(x,y)")}, x, y, b)
    )


def call(**changes):
    torch.manual_seed(0)
    x, y, u, v, b = data()
    given = {"params": {"id": Kernel(TEXT), "gamma": (0.5, None)}, "x": (x, u), "y": (y, v), "bs": (b,)}
    given |= changes
    options = {k: given[k] for k in ("mode", "backend", "dtype", "cuda_type") if k in given}
    return kernel_product(given["params"], given["x"], given["y"], *given["bs"], **options)


X3, Y3 = torch.zeros(7, 3, dtype=F64), torch.zeros(9, 3, dtype=F64)
K = Kernel(TEXT)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"params": {"gamma": 1.0}}, OptionError, "expected a dictionary with a Kernel under 'id'"),
        ({"params": {"id": TEXT}}, OptionError, "expected a dictionary with a Kernel"),
        ({"mode": "product"}, OptionError, "mode='product' is unknown; expected one of sum, lse"),
        ({"backend": "abacus"}, OptionError, "backend='abacus' is unknown"),
        ({"x": X3}, ShapeError, r"x holds 1 tensor\(s\); .* takes 2, one for each pair of variables"),
        ({"y": (Y3, Y3, Y3)}, ShapeError, r"y holds 3 tensor\(s\)"),
        ({"x": (X3, Y3)}, ShapeError, r"x has shape \(9, 3\); expected \(7, number of columns\)"),
        ({"x": (X3[0], X3)}, ShapeError, r"x is of shape \(3,\)"),
        ({"x": (X3.numpy(), X3)}, ShapeError, "x is a ndarray; expected torch tensors"),
        ({"y": (Y3.float(), Y3.float())}, DTypeError, "y has dtype torch.float32, x has torch.float64"),
        ({"bs": ()}, ShapeError, r"mode='sum' takes 1 array\(s\) behind x and y, b; got 0"),
        ({"bs": (Y3, Y3)}, ShapeError, "got 2"),
        ({"bs": (X3,)}, ShapeError, r"b has shape \(7, 3\); expected \(9, "),
        ({"bs": (Y3[:, 0],)}, ShapeError, r"b has shape \(9,\)"),
        (
            {"params": {"id": K, "gamma": (1.0, None, 2.0)}},
            ShapeError,
            "gamma has 3 entries; .* has 2 kernels",
        ),
        ({"params": {"id": K, "gamma": (torch.ones(1), None)}}, DTypeError, "entry 0 of gamma has dtype"),
        ({"params": {"id": K, "gamma": (X3, None)}}, ShapeError, r"entry 0 of gamma has shape \(7, 3\)"),
        ({"params": {"id": K, "gamma": (("i", Y3), None)}}, ShapeError, "entry 0 of gamma has shape"),
        ({"params": {"id": K, "gamma": ("one", None)}}, DTypeError, "entry 0 of gamma is a str"),
        ({"params": {"id": K, "gamma": (torch.ones(2).double(), None)}}, FormulaError, "weights of dim 2"),
        ({"dtype": "float32"}, DTypeError, "dtype='float32', but x has dtype torch.float64"),
        ({"cuda_type": "float"}, DTypeError, "dtype='float', but x has"),
    ],
)
def test_wrong_arguments(changes, error, message):
    with pytest.raises(error, match=message):
        call(**changes)


def test_what_may_be_left_out():
    reference = call()
    assert torch.equal(call(dtype="float64"), reference)
    assert torch.equal(call(cuda_type="double"), reference)
    # linear has no parameter, so nothing needs to stand for it, and what stands there does not matter
    for gamma in (0.5, (0.5,), (0.5, 3.0)):
        assert torch.equal(call(params={"id": Kernel(TEXT), "gamma": gamma}), reference)
    with pytest.raises(ShapeError, match="gamma has 1 entries; .* has 2 kernels, gaussian, cauchy"):
        x, y, _, _, b = data()
        kernel_product({"id": Kernel("gaussian(x,y) + cauchy(x,y)"), "gamma": 0.5}, x, y, b)


def test_no_points():
    x, y, u, v, b = data(0, 9)
    assert call(x=(x, u), y=(y, v), bs=(b,)).shape == (0, 2)
    x, y, u, v, b = data(7, 0)
    assert torch.equal(call(x=(x, u), y=(y, v), bs=(b,)), torch.zeros(7, 2, dtype=F64))
    assert torch.equal(
        call(x=(x, u), y=(y, v), bs=(b,), mode="lse"), torch.full((7, 2), -torch.inf, dtype=F64)
    )

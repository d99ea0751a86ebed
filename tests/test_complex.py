"""ComplexLazyTensor against complex torch and NumPy arrays."""

from __future__ import annotations

import copy
import math
import operator

import numpy as np
import pytest
import torch

import kerngp.numpy
import kerngp.torch
from kerngp import ComplexLazyTensor, LazyTensor, Vi, Vj
from kerngp.engine.vocabulary import WORDS
from kerngp.errors import DTypeError, FormulaError, ShapeError
from kerngp.options import options

M, N, D = 7, 5, 3
Z = torch.complex128


def operands(dtype: torch.dtype = Z) -> dict[str, torch.Tensor]:
    real = torch.empty(0, dtype=dtype).real.dtype
    return {
        "z": torch.randn(M, 1, D, dtype=dtype),
        "w": torch.randn(1, N, D, dtype=dtype),
        "x": torch.randn(M, 1, D, dtype=real),
        "y": torch.randn(1, N, D, dtype=real),
        "s": torch.randn(M, 1, 1, dtype=real),
        "c": torch.randn(1, N, 1, dtype=dtype),
    }


def same(lazy: LazyTensor, want: torch.Tensor, tol: float = 1e-12) -> None:
    got = lazy.dense()
    assert isinstance(lazy, ComplexLazyTensor) == want.is_complex()
    want = want.expand(*lazy.shape[: lazy.nbatchdims + 2], lazy.ndim)
    assert got.dtype == want.dtype and lazy.dtype == str(want.dtype).removeprefix("torch.")
    torch.testing.assert_close(got.reshape(want.shape), want.resolve_conj(), rtol=tol, atol=tol)


def total(a):
    """The sum of the components, which keeps its axis."""
    return a.sum(-1) if isinstance(a, LazyTensor) else a.sum(-1, keepdim=True)


FORMULAS = {
    "z + w": lambda z, w, x, y, s, c: z + w,
    "z - w": lambda z, w, x, y, s, c: z - w,
    "z * w": lambda z, w, x, y, s, c: z * w,
    "z / w": lambda z, w, x, y, s, c: z / w,
    "real on the left": lambda z, w, x, y, s, c: (x + w) * (y - z) / 3 - (y * z) + x / w,
    "real on the right": lambda z, w, x, y, s, c: (w + x) * (z - y) / x - z * y,
    "scalars and vectors": lambda z, w, x, y, s, c: s * z + c * w - z * c + c + s,
    "numbers": lambda z, w, x, y, s, c: (2 + 3j) * z + (1 - 2j) - 0.5 * w + w / 2j + 1j * x + x / (1 + 1j),
    "numbers on the right": lambda z, w, x, y, s, c: z * (2 + 3j) - (1 - 2j) + x * 1j - w * math.pi,
    "negative": lambda z, w, x, y, s, c: -z,
    "powers": lambda z, w, x, y, s, c: z**2 + w**3 + z**-1,
    "exp": lambda z, w, x, y, s, c: (z * w).exp() + (-2j * math.pi * x * y).exp(),
    "log": lambda z, w, x, y, s, c: (z * w).log() + (z * w).angle(),
    "any powers": lambda z, w, x, y, s, c: z**w + z**0.3 + z**x + abs(x) ** w + 2**z + z ** (1 - 2j),
    "sqrt": lambda z, w, x, y, s, c: (z * w).sqrt() + z**0.5 + w**-0.5,
    "real": lambda z, w, x, y, s, c: (z * w).real + y,
    "imag": lambda z, w, x, y, s, c: (z * w).imag * x,
    "conj": lambda z, w, x, y, s, c: (z * w).conj() * z,
    "abs": lambda z, w, x, y, s, c: abs(z * w) + (z + w).abs(),
    "sum": lambda z, w, x, y, s, c: total(z * w) + total(x),
    "mean": lambda z, w, x, y, s, c: (z * w).mean(-1) if isinstance(z, LazyTensor) else total(z * w) / D,
    "component": lambda z, w, x, y, s, c: (z * w)[..., 1:2] + w[..., 2:3],
}  # fmt: skip


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas(name: str) -> None:
    data = operands()
    want = FORMULAS[name](**data)
    same(FORMULAS[name](**{k: LazyTensor(v) for k, v in data.items()}), want)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("axis", [0, 1])
def test_sums_run_in_generated_code(dtype: torch.dtype, axis: int, launches) -> None:
    data = operands(dtype)
    f = FORMULAS["exp"]
    got = f(**{k: LazyTensor(v) for k, v in data.items()}).sum(axis=axis)
    assert launches.compiled >= 1 and launches.reference == 0
    assert got.dtype == dtype
    tol = 1e-4 if dtype == torch.complex64 else 1e-12
    torch.testing.assert_close(got, f(**data).sum(axis), rtol=tol, atol=tol)


def test_arrays_meet_lazytensors() -> None:
    data = operands()
    z, w, x = data["z"], data["w"], data["x"]
    same(LazyTensor(z) * w, z * w)
    same(w * LazyTensor(x), w * x)
    same(LazyTensor(x) - w, x - w)
    same(LazyTensor(x) / (1 + 2j), x / (1 + 2j))
    same(LazyTensor(x) * np.complex64(1 + 2j), x * (1 + 2j))
    same(operator.truediv(2.0, LazyTensor(z)), 2.0 / z)
    same(LazyTensor(z) * [1j, 2.0, 3 - 1j], z * torch.tensor([1j, 2.0, 3 - 1j], dtype=Z))


def test_methods_of_real_ones() -> None:
    x = torch.randn(M, 1, D, dtype=torch.float64)
    lazy = LazyTensor(x)
    same(lazy.real2complex(), x + 0j)
    same(lazy.imag2complex(), 1j * x)
    same(lazy.exp1j(), torch.exp(1j * x))
    same(ComplexLazyTensor(x), x + 0j)
    same(lazy.real + lazy.conj() + lazy.imag, 2 * x)
    same(lazy.angle(), x.angle())
    same((lazy.real2complex() + lazy.imag2complex()).conj().imag, -x)


def test_construction() -> None:
    z = torch.randn(M, D, dtype=Z)
    same(Vi(z), z[:, None])
    same(Vj(z), z[None])
    same(LazyTensor(z, axis=1), z[None])
    same(LazyTensor(z.conj()[:, None]), z.conj()[:, None])
    same(LazyTensor(LazyTensor(z[:, None])), z[:, None])
    same(Vi(z.real) * LazyTensor(z[0]), z.real[:, None] * z[0])
    same(Vi(z.real) * LazyTensor(z[0, 0]), z.real[:, None] * z[0, 0])
    same(Vi(z[:, ::2]), z[:, None, ::2])
    batch = torch.randn(2, M, 1, D, dtype=Z)
    same(LazyTensor(batch) * Vj(z.real), batch * z.real)
    assert isinstance(LazyTensor(z[:, None]), ComplexLazyTensor)
    for module in (kerngp, kerngp.torch, kerngp.numpy):
        assert module.ComplexLazyTensor is ComplexLazyTensor
    lazy = Vi(z)
    assert lazy.shape == (M, 1, D) and lazy.ndim == D and lazy.is_complex and not lazy.real.is_complex
    assert lazy.T.shape == (1, M, D) and isinstance(lazy.T, ComplexLazyTensor)
    same(copy.deepcopy(lazy), z[:, None])
    assert "complex128" in repr(lazy)


@pytest.mark.parametrize("kind", ["K complex", "v complex", "both"])
@pytest.mark.parametrize("E", [None, 1, 4, 20])
def test_products(kind: str, E: int | None, launches) -> None:
    x, y = torch.randn(M, 1, 1, dtype=torch.float64), torch.randn(1, N, 1, dtype=torch.float64)

    def matrix(x, y):
        k = (-((x - y) ** 2)).exp()
        return k if kind == "v complex" else k * (1j * x * y).exp()

    shape = (N,) if E is None else (N, E)
    v = torch.randn(*shape, dtype=torch.float64 if kind == "K complex" else Z)
    K, dense = matrix(LazyTensor(x), LazyTensor(y)), matrix(x, y).squeeze(-1)
    got = K @ v
    assert launches.reference == 0
    torch.testing.assert_close(got, dense.to(Z) @ v.to(Z))
    u = torch.randn(M, dtype=Z)
    torch.testing.assert_close(u @ K, u @ dense.to(Z))
    torch.testing.assert_close(K.rmatvec(u), dense.to(Z).mH @ u)


def test_gradients_are_torchs() -> None:
    data = {k: v[:4, :3].requires_grad_() for k, v in operands().items()}

    def f(*args: torch.Tensor) -> torch.Tensor:
        z, w, x, y, s, c = map(LazyTensor, args)
        return ((z * w).exp() * y / (c * x + 2j) + z.conj() * s).sum(axis=1)

    leaves = list(data.values())
    torch.testing.assert_close(f(*leaves), ((data["z"] * data["w"]).exp() * data["y"]
        / (data["c"] * data["x"] + 2j) + data["z"].conj() * data["s"]).sum(1))  # fmt: skip
    small = [t[..., :1].detach().requires_grad_() for t in leaves]
    assert torch.autograd.gradcheck(f, small)
    assert torch.autograd.gradgradcheck(lambda *a: f(*a).abs(), small)


def test_gradient_of_products() -> None:
    x = torch.randn(4, 1, dtype=torch.float64, requires_grad=True)
    v = torch.randn(4, 2, dtype=Z, requires_grad=True)

    def f(x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return (Vi(x) * Vj(x)).exp1j() @ v

    assert torch.autograd.gradcheck(f, (x, v))
    assert torch.autograd.gradgradcheck(f, (x, v))


def test_nonuniform_fourier_transform_of_numpy_arrays() -> None:
    rng = np.random.default_rng(0)
    n = 33
    t, c = rng.random(n), rng.standard_normal(n) + 1j * rng.standard_normal(n)
    modes = np.arange(-10, 11).astype(float)
    kernel = (-2j * np.pi * LazyTensor(modes[:, None, None]) * LazyTensor(t[None, :, None])).exp()
    want = np.exp(-2j * np.pi * modes[:, None] * t) @ c
    got = kernel @ c
    assert isinstance(got, np.ndarray) and got.dtype == np.complex128
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
    total = (kernel * LazyTensor(c[None, :, None])).sum(axis=1)
    np.testing.assert_allclose(total[:, 0], want, rtol=1e-12, atol=1e-12)
    uniform = LazyTensor((np.arange(n) / n)[None, :, None])
    k = LazyTensor(np.arange(n).astype(float)[:, None, None])
    np.testing.assert_allclose((-2j * np.pi * k * uniform).exp() @ c, np.fft.fft(c), rtol=1e-11, atol=1e-11)


def test_conj_views_and_empty_arrays() -> None:
    z = torch.randn(0, D, dtype=Z)
    out = (Vi(z) * Vj(torch.randn(N, D, dtype=Z))).sum(axis=1)
    assert out.shape == (0, D) and out.dtype == Z
    nan = torch.full((1, 1, 1), complex(math.nan, 1), dtype=Z)
    total = (LazyTensor(nan) * Vj(torch.ones(N, 1, dtype=torch.float64))).sum(axis=1)
    assert math.isnan(total[0, 0].real) and total[0, 0].imag == N


def test_deferred_reductions_and_options() -> None:
    z = torch.randn(M, 1, 1, dtype=Z)
    later = (LazyTensor(z) * Vj(0, 1)).sum(axis=1, call=False)
    y = torch.randn(N, 1, dtype=torch.float64)
    torch.testing.assert_close(later(y), (z * y[None]).sum(1))
    for out in (torch.empty(M, 1, dtype=Z), np.empty((M, 1), dtype=complex)):
        assert (LazyTensor(z) * Vj(y)).sum(axis=1, out=out) is out
        torch.testing.assert_close(torch.as_tensor(out), (z * y[None]).sum(1))
    with pytest.raises(DTypeError, match=r"out has dtype torch\.float64; the result is complex"):
        (LazyTensor(z) * Vj(y)).sum(axis=1, out=torch.empty(M, 1, dtype=torch.float64))
    with options(backend="reference"):
        torch.testing.assert_close((LazyTensor(z) * Vj(y)).sum(axis=1), (z * y[None]).sum(1))


def test_what_has_no_meaning_is_refused() -> None:
    z, x = LazyTensor(torch.randn(M, 1, D, dtype=Z)), Vj(torch.randn(N, D, dtype=torch.float64))
    for f in (
        lambda: (z * x).min(axis=1),
        lambda: (z * x).logsumexp(axis=1),
        lambda: z.lt(x),
        lambda: z.relu(),
        lambda: (z * x).sum(-1).sumsoftmaxweight(x, axis=1),
        lambda: (z.real * x).sum(-1).sumsoftmaxweight(z, axis=0),
        lambda: (z * x).sum(-1).operator(),
        lambda: z.real2complex(),
        lambda: z.exp1j(),
    ):
        with pytest.raises(FormulaError, match="complex"):
            f()
    with pytest.raises(DTypeError, match="complex64|float32"):
        z.mul(torch.ones(1, N, D, dtype=torch.complex64))
    with pytest.raises(ShapeError, match="v has shape"):
        _ = (z * x).sum(-1) @ torch.ones(N + 1, dtype=Z)


def test_every_complex_word_has_a_method_or_operator() -> None:
    """The words of strings and the methods say the same."""
    z, w = torch.randn(M, 1, D, dtype=Z), torch.randn(1, N, D, dtype=Z)
    lazy, other = LazyTensor(z), LazyTensor(w)
    for name, got in {
        "ComplexReal": lazy.real,
        "ComplexImag": lazy.imag,
        "Conj": lazy.conj(),
        "ComplexAbs": lazy.abs(),
        "ComplexSum": lazy.sum(-1),
        "ComplexExp": lazy.exp(),
        "ComplexSqrt": lazy.sqrt(),
        "ComplexLog": lazy.log(),
        "ComplexAngle": lazy.angle(),
        "ComplexInverse": lazy.inv(),
    }.items():
        assert got.expr is WORDS[name].build(lazy.expr), name
    assert (lazy * other).expr.dim == 2 * D

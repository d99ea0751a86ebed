"""What LazyTensors do beside formulas: moves, softmax, products of operators, SciPy's protocol."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from kerngp import LazyTensor, Vi, Vj
from kerngp.errors import DTypeError, FormulaError, OptionError, ShapeError
from kerngp.solvers import LinearOperator, identity

M, N, D = 7, 5, 3
F = torch.float64


def gaussian(x, y) -> LazyTensor:
    return (-Vi(x).sqdist(Vj(y)) / 2).exp()


def dense(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.exp(-((x[:, None] - y[None]) ** 2).sum(-1) / 2)


@pytest.fixture
def points() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(M, D, dtype=F), torch.randn(N, D, dtype=F)


# ---------------------------------------------------------------- other arrays


def test_other_dtypes(points) -> None:
    K, full = gaussian(*points), dense(*points)
    for single in (
        K.float(),
        K.to(torch.float32),
        K.to("float32"),
        K.to(np.float32),
        K.to("cpu", torch.float32),
    ):
        assert single.dtype == "float32"
        torch.testing.assert_close(single.dense(), full.float())
    assert K.half().dtype == "float16"
    assert K.float().double().to(device="cpu").cpu().dtype == "float64"
    z = Vi(torch.randn(3, 1, dtype=torch.complex64))
    assert z.double().dtype == z.to(torch.complex128).dtype == "complex128"
    parameter = gaussian(*points) * 0.3
    torch.testing.assert_close(parameter.float().dense(), 0.3 * full.float())
    assert (LazyTensor(2.0) + 1).to(torch.float32).dtype is None


def test_what_i_and_j_share_stays_shared() -> None:
    x = torch.randn(M, D, dtype=F)
    K = gaussian(x, x).float()
    assert K.operands.values[0] is K.operands.values[1]


def test_bad_places_are_explained(points) -> None:
    K = gaussian(*points)
    with pytest.raises(DTypeError, match=r"dtype=torch\.int64: expected a floating dtype"):
        K.to(torch.int64)
    with pytest.raises(DTypeError, match="real2complex"):
        K.to(torch.complex64)
    with pytest.raises(OptionError, match="'floaty' is neither a dtype nor a device"):
        K.to("floaty")
    with pytest.raises(DTypeError, match="dtype='floaty'"):
        K.to(dtype="floaty")


def test_detached(points) -> None:
    x, y = (p.requires_grad_() for p in points)
    assert gaussian(x, y).sum(axis=1).requires_grad
    assert not gaussian(x, y).detach().sum(axis=1).requires_grad


# ---------------------------------------------------------------- softmax


@pytest.mark.parametrize("axis", [0, 1])
def test_softmax_is_lazy(points, axis: int, launches) -> None:
    x, y = points
    scores = Vi(x) | Vj(y)
    P, want = scores.softmax(axis=axis), torch.softmax(x @ y.T, axis)
    assert isinstance(P, LazyTensor)
    torch.testing.assert_close(P.dense(), want)
    b = torch.randn(N, 4, dtype=F)
    launches.clear()
    torch.testing.assert_close(P @ b, want @ b)
    assert launches.compiled == 1 and launches.reference == 0
    torch.testing.assert_close(P.T @ torch.ones(M, dtype=F), want.T @ torch.ones(M, dtype=F))
    torch.testing.assert_close(scores.log_softmax(dim=axis).dense(), torch.log_softmax(x @ y.T, axis))
    if axis == 1:
        torch.testing.assert_close(P @ b, scores.sumsoftmaxweight(Vj(b), axis=1))


def test_softmax_of_large_scores_components_and_batches() -> None:
    x, y = torch.randn(2, M, 1, D) * 1e3, torch.randn(2, 1, N, D) * 1e3
    P = (LazyTensor(x) * LazyTensor(y)).softmax(axis=-1)
    torch.testing.assert_close(P.dense(), torch.softmax(x * y, -1))
    P = (LazyTensor(x) * LazyTensor(y)).softmax(axis=2)
    torch.testing.assert_close(P.dense(), torch.softmax(x * y, 2))


def test_gradients_of_attention() -> None:
    q, k, v = (torch.randn(4, 2, dtype=F, requires_grad=True) for _ in range(3))

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return (Vi(q) | Vj(k)).softmax(axis=1) @ v

    torch.testing.assert_close(attention(q, k, v), torch.softmax(q @ k.T, 1) @ v)
    assert torch.autograd.gradcheck(attention, (q, k, v))
    assert torch.autograd.gradgradcheck(attention, (q, k, v))


# ---------------------------------------------------------------- products


def test_products_of_matrices_are_applied_one_after_the_other(points, launches) -> None:
    x, y = points
    K, full = gaussian(x, y), dense(x, y)
    b = torch.randn(N, 2, dtype=F)
    gram = K.T @ K
    assert isinstance(gram, LinearOperator) and gram.psd and gram.shape == (N, N)
    assert launches.compiled == 0
    torch.testing.assert_close(gram @ b, full.T @ (full @ b))
    assert launches.compiled == 2 and launches.reference == 0
    for product, want in (
        (K @ K.T @ K, full @ full.T @ full),
        (K @ (K.T @ K), full @ full.T @ full),
        (K.operator() @ K.T, full @ full.T),
        (K @ K.T.operator(), full @ full.T),
        (K.T @ K + 2.0 * identity(N), full.T @ full + 2 * torch.eye(N, dtype=F)),
    ):
        torch.testing.assert_close(product @ torch.eye(product.shape[1], dtype=F), want)
        torch.testing.assert_close(product.dense(), want)
    assert isinstance((K.T @ K) @ np.ones(N), np.ndarray)
    with pytest.raises(ShapeError, match="5 columns meet 7 rows"):
        K @ K


def test_gradient_of_a_product() -> None:
    x = torch.randn(3, 2, dtype=F, requires_grad=True)
    b = torch.randn(3, dtype=F, requires_grad=True)

    def f(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        K = gaussian(x, x + 1.0)
        return (K.T @ K) @ b

    assert torch.autograd.gradcheck(f, (x, b))


# ---------------------------------------------------------------- SciPy


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scipy_accepts_a_lazytensor(dtype) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((M, D)).astype(dtype), rng.standard_normal((N, D)).astype(dtype)
    K = gaussian(x, y)
    full = np.exp(-((x[:, None] - y[None]) ** 2).sum(-1) / 2)
    A: Any = scipy.sparse.linalg.aslinearoperator(K)
    tol: Any = {"rtol": 1e-5, "atol": 1e-6} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-12}
    assert A.shape == (M, N) and A.dtype == dtype
    v, u, B = rng.standard_normal(N), rng.standard_normal(M), rng.standard_normal((N, 3))
    np.testing.assert_allclose(A @ v, full @ v, **tol)
    np.testing.assert_allclose(A.T @ u, full.T @ u, **tol)
    np.testing.assert_allclose(A.matmat(B), full @ B, **tol)
    np.testing.assert_allclose(K.matmat(B), full @ B, **tol)
    np.testing.assert_allclose(K.rmatmat(u[:, None]), full.T @ u[:, None], **tol)
    assert (A @ v).dtype == np.float64
    np.testing.assert_allclose(A @ np.ones(N, dtype=int), full.sum(1), **tol)


def test_scipy_solvers_accept_complex_ones() -> None:
    t = np.linspace(0, 1, 6)[:, None]
    K = (Vi(t) * Vj(t) * 5.0).exp1j()
    full = np.exp(5j * t * t.T)
    A: Any = scipy.sparse.linalg.aslinearoperator(K)
    u = np.arange(6.0)
    assert A.dtype == np.complex128
    np.testing.assert_allclose(A @ u, full @ u)
    np.testing.assert_allclose(A.H @ u, full.conj().T @ u)
    values: Any = scipy.sparse.linalg.svds(A, k=2, return_singular_vectors=False)
    np.testing.assert_allclose(np.sort(values), np.sort(np.linalg.svd(full)[1])[-2:], rtol=1e-8)


def test_softmax_of_complex_numbers_is_refused() -> None:
    with pytest.raises(FormulaError, match="complex"):
        Vi(torch.randn(3, 1, dtype=torch.complex64)).softmax(axis=0)

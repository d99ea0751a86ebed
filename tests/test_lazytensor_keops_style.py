"""Code as KeOps's users write it, typed literally, under the three import paths."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

import kerngp

M, N, D = 100, 60, 3


@pytest.fixture(params=["kerngp", "kerngp.torch", "kerngp.numpy"])
def keops(request):
    return importlib.import_module(request.param)


def test_all_paths_give_the_same_objects(keops):
    for name in ("LazyTensor", "Vi", "Vj", "Pm"):
        assert getattr(keops, name) is getattr(kerngp, name)
        assert name in dir(kerngp) and name in kerngp.__all__


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'Genred2'"):
        kerngp.Genred2  # noqa: B018


def test_import_is_light():
    code = (
        "import sys, torch; before = set(sys.modules); import kerngp, kerngp.torch, kerngp.numpy;"
        "kerngp.LazyTensor; kerngp.Vi;"
        "new = {n.split('.')[0] for n in set(sys.modules) - before};"
        "print(sorted(new & {'llvmlite', 'scipy', 'sklearn', 'pandas', 'matplotlib'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_gaussian_convolution(keops):
    LazyTensor = keops.LazyTensor
    x = torch.randn(M, D, requires_grad=True, dtype=torch.float64)
    y = torch.randn(N, D, dtype=torch.float64)
    b = torch.randn(N, 2, dtype=torch.float64)

    x_i = LazyTensor(x[:, None, :])  # x_i.shape = (M, 1, 3)
    y_j = LazyTensor(y[None, :, :])  # y_j.shape = (1, N, 3)
    D_ij = ((x_i - y_j) ** 2).sum(dim=2)  # symbolic (M, N, 1) matrix of squared distances
    K_ij = (-D_ij).exp()  # symbolic (M, N, 1) Gaussian kernel matrix
    a_i = K_ij @ b  # genuine (M, 2) tensor
    g_x = torch.autograd.grad((a_i**2).sum(), [x])[0]

    K = torch.exp(-((x[:, None, :] - y[None, :, :]) ** 2).sum(2))
    torch.testing.assert_close(a_i, K @ b)
    torch.testing.assert_close(g_x, torch.autograd.grad(((K @ b) ** 2).sum(), [x])[0])


def test_k_means(keops):
    LazyTensor, K = keops.LazyTensor, 5
    x = torch.randn(M, D)
    c = x[:K, :].clone()
    x_i = LazyTensor(x.view(M, 1, D))
    for _ in range(3):
        c_j = LazyTensor(c.view(1, K, D))
        D_ij = ((x_i - c_j) ** 2).sum(-1)
        cl = D_ij.argmin(dim=1).long().view(-1)
        assert torch.equal(cl, torch.cdist(x, c).argmin(1))
        c.zero_()
        c.scatter_add_(0, cl[:, None].repeat(1, D), x)
        c /= torch.bincount(cl, minlength=K).type_as(c).view(K, 1).clamp(min=1)


def test_nearest_neighbours_with_numpy(keops):
    LazyTensor = keops.LazyTensor
    x_train = np.random.default_rng(0).normal(size=(M, D)).astype("float32")
    x_test = np.random.default_rng(1).normal(size=(N, D)).astype("float32")
    X_i = LazyTensor(x_test[:, None, :])
    X_j = LazyTensor(x_train[None, :, :])
    indices = ((X_i - X_j) ** 2).sum(-1).argKmin(4, dim=1)
    assert isinstance(indices, np.ndarray) and indices.shape == (N, 4) and indices.dtype == np.int64
    expected = np.argsort(((x_test[:, None] - x_train[None]) ** 2).sum(-1), axis=1)[:, :4]
    assert np.array_equal(indices, expected)


def test_vi_vj_pm(keops):
    Vi, Vj, Pm = keops.Vi, keops.Vj, keops.Pm
    x, y = torch.randn(M, D, dtype=torch.float64), torch.randn(N, D, dtype=torch.float64)
    p, g = torch.tensor([0.7], dtype=torch.float64), torch.rand(D, dtype=torch.float64)
    a = (-Pm(p) * Vi(x).sqdist(Vj(y))).exp().sum(axis=1)
    expected = torch.exp(-p * ((x[:, None] - y[None]) ** 2).sum(-1)).sum(1, keepdim=True)
    torch.testing.assert_close(a, expected)
    w = Vi(x).weightedsqdist(Vj(y), Pm(g)).sum(axis=1)
    torch.testing.assert_close(w, (g * (x[:, None] - y[None]) ** 2).sum((1, 2)).unsqueeze(-1))
    v = (Vi(x) * Pm(2.5)).sum(axis=0)
    torch.testing.assert_close(v, (x * 2.5).sum(0, keepdim=True))


def test_symbolic_variables(keops):
    Vi, Vj, Pm = keops.Vi, keops.Vj, keops.Pm
    x_i, y_j, p = Vi(0, D), Vj(1, D), Pm(2, 1)
    D_xy = ((x_i - y_j) ** 2).sum(dim=2)
    K_xy = (-D_xy / p**2).exp()
    gaussian = (K_xy * Vj(3, 2)).sum(dim=1)
    x, y, b = np.random.randn(M, D), np.random.randn(N, D), np.random.randn(N, 2)
    a = gaussian(x, y, np.array([0.5]), b)
    K = np.exp(-((x[:, None] - y[None]) ** 2).sum(-1) / 0.25)
    np.testing.assert_allclose(a, K @ b, rtol=1e-10)
    np.testing.assert_allclose(
        gaussian(x, x, np.array([0.5]), x[:, :2], backend="CPU")[0],
        np.exp(-((x[0] - x) ** 2).sum(-1) / 0.25) @ x[:, :2],
        rtol=1e-10,
    )
    # symbols may stand beside arrays
    mixed = (-((x_i - Vj(y)) ** 2).sum(-1)).exp().sum(axis=1)
    np.testing.assert_allclose(mixed(x), np.exp(-((x[:, None] - y[None]) ** 2).sum(-1)).sum(1)[:, None])
    k = keops.LazyTensor((0, D, 0)).sum(-1).max(axis=0)
    assert k(x).shape == (1, 1)


def test_spectral_analysis_with_scipy(keops):
    from scipy.sparse.linalg import LinearOperator, aslinearoperator, eigsh

    x = np.random.default_rng(0).normal(size=(M, 2))
    x_i, x_j = keops.LazyTensor(x[:, None, :]), keops.LazyTensor(x[None, :, :])
    K_xx = (-((x_i - x_j) ** 2).sum(2)).exp()
    operator = aslinearoperator(K_xx)
    assert isinstance(operator, LinearOperator) and operator.shape == (M, M) and operator.dtype == np.float64
    eigenvalues, vectors = eigsh(operator, k=4)
    dense = np.exp(-((x[:, None] - x[None]) ** 2).sum(-1))
    np.testing.assert_allclose(eigenvalues, np.linalg.eigvalsh(dense)[-4:], rtol=1e-8)
    np.testing.assert_allclose((K_xx @ vectors), vectors * eigenvalues, atol=1e-8)


def test_batched_gaussian_mixture(keops):
    LazyTensor = keops.LazyTensor
    B = 4
    x, y = torch.randn(B, M, 1, D), torch.randn(1, 1, N, D)
    w = torch.rand(B, 1, N, 1)
    s = torch.rand(D) + 0.5
    x_i, y_j, w_j = LazyTensor(x), LazyTensor(y), LazyTensor(w)
    lik = ((-((x_i - y_j) / s).sqnorm2() / 2).exp() * w_j).sum(axis=2)
    expected = (torch.exp(-(((x - y) / s) ** 2).sum(-1, keepdim=True) / 2) * w).sum(2)
    assert lik.shape == (B, M, 1)
    torch.testing.assert_close(lik, expected)
    log_lik = (-((x_i - y_j) / s).sqnorm2() / 2 + w_j.log()).logsumexp(dim=2)
    torch.testing.assert_close(log_lik, expected.log(), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- NumPy in all its forms


def value_of(x: np.ndarray, y: np.ndarray, b: np.ndarray):
    x_i, y_j = kerngp.LazyTensor(x[:, None, :]), kerngp.LazyTensor(y[None, :, :])
    return (-((x_i - y_j) ** 2).sum(-1)).exp() @ b


def expected_of(x: np.ndarray, y: np.ndarray, b: np.ndarray):
    x, y, b = (np.asarray(a, dtype=np.float64) for a in (x, y, b))
    return np.exp(-((x[:, None] - y[None]) ** 2).sum(-1)) @ b


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f8"])
def test_numpy_dtypes(dtype):
    rng = np.random.default_rng(0)
    x, y, b = (rng.normal(size=s).astype(dtype) for s in ((M, D), (N, D), (N, 2)))
    out = value_of(x, y, b)
    assert isinstance(out, np.ndarray) and out.dtype == np.dtype(dtype).newbyteorder("=")
    tolerance = {"float16": 2e-2, "float32": 1e-5}.get(dtype, 1e-12)
    np.testing.assert_allclose(out, expected_of(x, y, b), rtol=tolerance, atol=tolerance)


LAYOUTS = {
    "columns": lambda a: np.asfortranarray(a),
    "steps": lambda a: np.repeat(np.repeat(a, 2, 0), 3, 1)[::2, ::3],
    "reversed": lambda a: a[::-1, ::-1],
    "part": lambda a: np.pad(a, 2)[2:-2, 2:-2],
    "constant": lambda a: np.broadcast_to(a[:1], a.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    rng = np.random.default_rng(0)
    x, y, b = (LAYOUTS[layout](rng.normal(size=s)) for s in ((M, D), (N, D), (N, 2)))
    np.testing.assert_allclose(value_of(x, y, b), expected_of(x, y, b), rtol=1e-12)
    np.testing.assert_allclose(value_of(x, y, b[:, 0]), expected_of(x, y, b[:, 0]), rtol=1e-12)
    t = [torch.from_numpy(np.ascontiguousarray(a)) for a in (x, y, b)]
    strided = [u.T.contiguous().T for u in t]
    np.testing.assert_allclose(value_of(*strided), expected_of(x, y, b), rtol=1e-12)


def test_memory_maps(tmp_path):
    rng = np.random.default_rng(0)
    x, y, b = (rng.normal(size=s) for s in ((M, D), (N, D), (N, 2)))
    np.save(tmp_path / "y.npy", y)
    y_mapped = np.load(tmp_path / "y.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(value_of(x, y_mapped, b), expected_of(x, y, b), rtol=1e-12)


def test_inputs_are_not_copied_or_changed():
    x, y, b = np.ones((M, D)), np.zeros((N, D)), np.ones((N, 1))
    x_i = kerngp.LazyTensor(x[:, None, :])
    assert x_i.operands.values[0].data_ptr() == x.__array_interface__["data"][0]
    value_of(x, y, b)
    assert (x == 1).all() and (y == 0).all() and (b == 1).all()


def test_numpy_operands_on_the_left():
    x = np.random.randn(M, D)
    v = np.arange(1.0, D + 1)
    lazy = v * kerngp.Vi(x) + np.float64(0.3) - np.float32(2.5) * kerngp.Vi(x)
    np.testing.assert_allclose(lazy.sum(axis=0)[0], (v * x + 0.3 - 2.5 * x).sum(0))
    np.testing.assert_allclose((v | kerngp.Vi(x)).dense()[:, 0], x @ v)
    np.testing.assert_allclose((np.array(2.0) ** kerngp.Vi(x)).dense()[:, 0], 2**x)


def test_mixed_libraries_give_torch():
    x, y = np.random.randn(M, D), torch.randn(N, D, dtype=torch.float64, requires_grad=True)
    K = (-((kerngp.Vi(x) - kerngp.Vj(y)) ** 2).sum(-1)).exp()
    out = K @ np.ones(N)
    assert isinstance(out, torch.Tensor) and out.requires_grad


def test_formula_and_variables():
    x, y = torch.randn(5, 3), torch.randn(4, 3)
    D = ((kerngp.LazyTensor(x[:, None]) - kerngp.LazyTensor(y[None])) ** 2).sum(-1)
    assert len(D.variables) == 2 and "Vi(0,3)" in D.formula and "Vj(1,3)" in D.formula
    for got, want in zip(D.variables, (x, y), strict=True):
        torch.testing.assert_close(got, want)
    (array,) = kerngp.LazyTensor(np.ones((5, 1, 3))).variables
    assert isinstance(array, np.ndarray) and array.shape == (5, 3)


@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy])
def test_pickle(library):
    x, y, b = (library(a) for a in (np.ones((5, 3)), np.zeros((4, 3)), np.ones((4, 2))))
    K = (-((kerngp.LazyTensor(x[:, None]) - kerngp.LazyTensor(y[None])) ** 2).sum(-1)).exp()
    again = pickle.loads(pickle.dumps(K))
    assert type(again @ b) is type(b)
    np.testing.assert_allclose(again @ b, K @ b)
    later = pickle.loads(pickle.dumps(K.sum(axis=1, call=False)))
    np.testing.assert_allclose(later(), K.sum(axis=1))

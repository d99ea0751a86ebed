"""The small things KeOps's users import: checks of the installation, folders, verbosity, dense formulas."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

import kerngp
from kerngp import config
from kerngp.engine import cache
from kerngp.errors import FormulaError, KerngpError
from kerngp.install import checks
from kerngp.numpy import utils as in_numpy
from kerngp.torch import utils as in_torch


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for compiled kernels."""
    monkeypatch.setenv("KERNGP_CACHE_DIR", str(tmp_path / "first"))
    return tmp_path


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_bindings(library, capsys):
    getattr(kerngp, f"test_{library}_bindings")()
    assert capsys.readouterr().out == f"kerngp with {library} is working!\n"


def test_wrong_bindings_are_noticed(monkeypatch):
    monkeypatch.setattr("kerngp.torch.Genred.__call__", lambda *args: torch.zeros(2, 1))
    with pytest.raises(KerngpError, match="expected"):
        checks.test_torch_bindings()


def test_health(capsys):
    assert kerngp.check_health() is True
    report = capsys.readouterr().out
    assert "ok   cpu backend" in report and "cache of binaries" in report


def test_folders_and_cleaning(folder):
    assert kerngp.get_build_folder() == str(folder / "first")
    kerngp.set_build_folder(folder / "second")
    assert kerngp.get_build_folder() == str(folder / "second")
    cache.cached_compile(("a",), lambda: b"1")
    cache.cached_compile(("b",), lambda: b"2")
    assert kerngp.clean_pykeops() == 2 and kerngp.clean_pykeops(recompile_jit_binaries=False) == 0
    kerngp.set_build_folder()
    assert kerngp.get_build_folder() not in (None, str(folder / "second"))


@pytest.mark.cpu_only
def test_verbosity(folder, monkeypatch, caplog):
    """Each new kernel is told once, with its formula."""
    from kerngp.engine import ops
    from kerngp.engine.expr import Vi, Vj
    from kerngp.engine.mapreduce import map_reduce
    from kerngp.engine.reductions import SUM

    logger = logging.getLogger("kerngp")
    level, handlers = logger.level, list(logger.handlers)
    try:
        args = torch.ones(4, 37), torch.ones(5, 37)
        for verbose, f in ((True, ops.exp), (False, ops.sin)):
            kerngp.set_verbose(verbose)
            for _ in range(2):
                map_reduce(f(Vi(0, 37) * Vj(1, 37)), SUM, args)
        (told,) = [r.getMessage() for r in caplog.records if r.name == "kerngp"]
        assert "sum over j of exp(mul(Vi(0,37), Vj(0,37))), in float32" in told
    finally:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def test_verbosity_without_a_logging_set_up(monkeypatch):
    quiet = logging.Logger("alone")
    monkeypatch.setattr(checks, "_LOG", quiet)
    kerngp.set_verbose(True)
    kerngp.set_verbose(True)
    assert len(quiet.handlers) == 1 and quiet.level == logging.INFO


def test_config():
    assert config.gpu_available is torch.cuda.is_available() is in_numpy.IsGpuAvailable()
    assert config.numpy_found and config.torch_found and kerngp.default_device_id == 0
    with pytest.raises(AttributeError, match="gpus"):
        config.gpus  # noqa: B018


# ---------------------------------------------------------------- dense formulas

KERNELS = {
    "gaussian": lambda q: np.exp(-q),
    "laplacian": lambda q: np.exp(-np.sqrt(q)),
    "cauchy": lambda q: 1 / (1 + q),
    "inverse_multiquadric": lambda q: 1 / np.sqrt(1 + q),
}


@pytest.fixture
def clouds():
    rng = np.random.default_rng(0)
    return rng.normal(size=(7, 3)), rng.normal(size=(5, 3))


def test_distances(clouds):
    x, y = clouds
    want = ((x[:, None] - y) ** 2).sum(-1)
    np.testing.assert_allclose(in_numpy.squared_distances(x, y), want)
    tensors = (torch.from_numpy(x).requires_grad_(), torch.from_numpy(y))
    np.testing.assert_allclose(in_torch.squared_distances(*tensors).detach(), want)
    assert torch.autograd.gradcheck(in_torch.squared_distances, tensors)
    np.testing.assert_array_equal(in_numpy.differences(x, y)[2], x[:, 2, None] - y[:, 2])
    assert in_torch.is_on_device(tensors[0]) is False


@pytest.mark.parametrize("name", KERNELS)
def test_kernels(clouds, name):
    x, y = clouds
    s = 0.7
    q = ((x[:, None] - y) ** 2).sum(-1)
    np.testing.assert_allclose(in_numpy.np_kernel(x, y, s, name), KERNELS[name](q / s**2))
    np.testing.assert_allclose(in_numpy.log_np_kernel(x, y, s, name), np.log(KERNELS[name](q / s**2)))
    got = in_torch.torch_kernel(torch.from_numpy(x), torch.from_numpy(y), s, name)
    np.testing.assert_allclose(got, KERNELS[name](q / s**2))
    h = 1e-6
    slope = (KERNELS[name]((q + h) / s**2) - KERNELS[name]((q - h) / s**2)) / (2 * h)
    np.testing.assert_allclose(in_numpy.grad_np_kernel(x, y, s, name), slope, rtol=1e-6, atol=1e-9)


def test_chain_rules(clouds):
    """The gradient in x of sum_ij k(x_i, y_j) <q_i, p_j>."""
    x, y = clouds
    q, p = np.random.default_rng(1).normal(size=(7, 2)), np.random.default_rng(2).normal(size=(5, 2))
    t = torch.from_numpy(x).requires_grad_()
    k = in_torch.torch_kernel(t, torch.from_numpy(y), 0.7, "gaussian")
    (k * torch.from_numpy(q @ p.T)).sum().backward()
    slope = in_numpy.grad_np_kernel(x, y, 0.7, "gaussian")
    np.testing.assert_allclose(in_numpy.chain_rules(q, x, y, slope, p), t.grad, rtol=1e-10)


def test_kernels_of_unit_vectors(clouds):
    u, v = (c / np.linalg.norm(c, axis=1, keepdims=True) for c in clouds)
    c, s = u @ v.T, 0.5
    for name, want in {
        "linear": c,
        "binet": c**2,
        "gaussian_oriented": np.exp(-2 * (1 - c) / s**2),
        "gaussian_unoriented": np.exp(-2 * (1 - c**2) / s**2),
    }.items():
        np.testing.assert_allclose(in_numpy.np_kernel_sphere(u, v, s, name), want)


def test_log_sum_exp():
    a = np.array([[1000.0, 1000.0], [-np.inf, 0.0], [-np.inf, -np.inf], [0.0, np.inf]])
    want = [1000 + np.log(2), 0.0, -np.inf, np.inf]
    np.testing.assert_allclose(in_numpy.log_sum_exp(a, axis=1), want)
    np.testing.assert_allclose(in_numpy.log_sum_exp(a.T), want)


def test_unknown_kernels(clouds):
    for call in (
        in_numpy.np_kernel,
        in_numpy.log_np_kernel,
        in_numpy.grad_np_kernel,
        in_numpy.np_kernel_sphere,
    ):
        with pytest.raises(FormulaError, match="'gausian'"):
            call(*clouds, 1.0, "gausian")
    with pytest.raises(FormulaError, match="'gausian'"):
        in_torch.torch_kernel(torch.ones(1, 1), torch.ones(1, 1), 1.0, "gausian")

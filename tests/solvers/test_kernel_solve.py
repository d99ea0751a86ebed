"""KernelSystem against dense solves, for all the forms a product formula may take."""

from __future__ import annotations

import math
import time
import warnings

import numpy as np
import pytest
import torch

from kerngp.engine.expr import Vi, Vj, const
from kerngp.engine.ops import concat, dot, exp, extract, sqdist
from kerngp.errors import ConvergenceWarning, FormulaError, OptionError, ShapeError, SolveError
from kerngp.solvers import CG, KernelOperator, KernelSystem, RPCholesky, Status, kernel_solve
from kerngp.solvers.kernel_solve import matrix_of

F = torch.float64
GAUSS = exp(-sqdist(Vi(0, 2), Vj(1, 2)))


@pytest.fixture
def x():
    return torch.randn(40, 2, dtype=F)


def gauss(x):
    return torch.exp(-(x[:, None] - x).square().sum(-1))


@pytest.mark.parametrize("E", [1, 3])
@pytest.mark.parametrize("alpha", [0.1, 2.0])
def test_scalar_kernel(x, E, alpha):
    b = torch.randn(40, E, dtype=F)
    A = gauss(x) + alpha * torch.eye(40, dtype=F)
    for formula in (GAUSS * Vj(2, E), Vj(2, E) * GAUSS):
        a = KernelSystem(formula, 2)(x, x, b, alpha=alpha, eps=1e-10)
        torch.testing.assert_close(a, torch.linalg.solve(A, b), rtol=0, atol=1e-7)
        assert matrix_of(formula, 2) == (GAUSS, (1, 1))


def test_sum_over_i(x):
    b = torch.randn(40, 2, dtype=F)
    a = KernelSystem(GAUSS * Vi(2, 2), 2, axis=0)(x, x, b, alpha=0.1, eps=1e-10)
    torch.testing.assert_close(
        a, torch.linalg.solve(gauss(x) + 0.1 * torch.eye(40, dtype=F), b), rtol=0, atol=1e-7
    )


def test_matrix_valued_kernel(x):
    """k(x, y) (b - u <u, b> / 4) with u = x - y."""
    u, b_var = Vi(0, 2) - Vj(1, 2), Vj(2, 2)
    formula = GAUSS * b_var - GAUSS * dot(u, b_var) * u * 0.25
    _, blocks = matrix_of(formula, 2)
    assert blocks == (2, 2)
    d = x[:, None] - x
    entries = gauss(x)[..., None, None] * (torch.eye(2, dtype=F) - 0.25 * d[..., :, None] * d[..., None, :])
    A = entries.transpose(1, 2).reshape(80, 80) + 1.0 * torch.eye(80, dtype=F)
    b = torch.randn(40, 2, dtype=F)
    a = KernelSystem(formula, 2)(x, x, b, alpha=1.0, eps=1e-10)
    torch.testing.assert_close(a.reshape(80), torch.linalg.solve(A, b.reshape(80)), rtol=0, atol=1e-7)


def test_independent_components(x):
    b_var = Vj(2, 3)
    formula = concat(GAUSS * extract(b_var, 0, 2), (GAUSS * GAUSS) * extract(b_var, 2, 1))
    b = torch.randn(40, 3, dtype=F)
    a = KernelSystem(formula, 2)(x, x, b, alpha=0.5, eps=1e-10)
    eye = torch.eye(40, dtype=F)
    want = [
        torch.linalg.solve(gauss(x) + 0.5 * eye, b[:, :2]),
        torch.linalg.solve(gauss(x) ** 2 + 0.5 * eye, b[:, 2:]),
    ]
    want = torch.cat(want, 1)
    torch.testing.assert_close(a, want, rtol=0, atol=1e-7)


def test_numpy(x):
    b = np.ones((40, 1), dtype=np.float32)
    points = x.numpy().astype(np.float32)
    a = KernelSystem(GAUSS * Vj(2, 1), 2)(points, points, b, alpha=0.1, eps=1e-4)
    assert isinstance(a, np.ndarray)
    assert a.dtype == np.float32
    residual = gauss(torch.from_numpy(points).double()).numpy() @ a + 0.1 * a - b
    assert np.abs(residual).max() < 1e-2


def test_tiny_alpha_ends(x):
    """The default alpha makes the system as good as singular; a loop without limits would never end."""
    start = time.monotonic()
    call = KernelSystem(GAUSS * Vj(2, 1), 2)
    call(x.float(), x.float(), torch.randn(40, 1), max_iter=200, on_fail="ignore")
    assert time.monotonic() - start < 30


def test_nan_ends_at_once(x):
    b = torch.randn(40, 1, dtype=F)
    b[3] = math.nan
    seen = []
    with pytest.warns(ConvergenceWarning, match="status nan after 0 iterations"):
        a = KernelSystem(GAUSS * Vj(2, 1), 2)(x, x, b, alpha=0.1, callback=seen.append)
    assert bool(torch.isnan(a).all())
    assert seen == []


def test_operator_form(x):
    K = KernelOperator(GAUSS, (x, x), psd=True)
    b = torch.randn(40, dtype=F)
    a = kernel_solve(K, b, alpha=0.1, eps=1e-10)
    torch.testing.assert_close(
        a, torch.linalg.solve(gauss(x) + 0.1 * torch.eye(40, dtype=F), b), rtol=0, atol=1e-7
    )


def test_messages(x):
    b = Vj(2, 2)
    for formula in (GAUSS * b * b, GAUSS * exp(b), GAUSS * b + GAUSS, b / dot(b, b), GAUSS * b + const(1.0)):
        with pytest.raises(FormulaError, match="not linear in variable 2"):
            KernelSystem(formula, 2)
    with pytest.raises(FormulaError, match="does not occur"):
        KernelSystem(GAUSS * b, 5)
    with pytest.raises(FormulaError, match="indexed by the axis of the sum"):
        KernelSystem(GAUSS * b, 2, axis=0)
    with pytest.raises(FormulaError, match="formula has dim 1, the right-hand side 2"):
        KernelSystem(GAUSS * dot(b, Vi(0, 2)), 2)
    with pytest.raises(OptionError, match="axis=2"):
        KernelSystem(GAUSS * b, 2, axis=2)
    call = KernelSystem(GAUSS * b, 2)
    with pytest.raises(ShapeError, match="got 2 arrays, but the right-hand side is number 2"):
        call(x, x)
    with pytest.raises(OptionError, match="alpha=-1"):
        call(x, x, torch.ones(40, 2, dtype=F), alpha=-1)
    with pytest.raises(ShapeError, match="39"):
        call(x, x, torch.ones(39, 2, dtype=F))


# ---------------------------------------------------------------- what a call may be told


def both(x, alpha):
    return gauss(x) + alpha * torch.eye(len(x), dtype=F)


@pytest.mark.parametrize("method", ["auto", "cg", "cholesky", CG(tol=1e-10)])
@pytest.mark.parametrize("preconditioner", [None, "rpcholesky", "jacobi", RPCholesky(10), lambda r: 2.0 * r])
def test_methods_and_preconditioners(x, method, preconditioner):
    b = torch.randn(40, 2, dtype=F)
    tol = {} if isinstance(method, CG) else {"rtol": 1e-10}
    call = KernelSystem(GAUSS * Vj(2, 2), 2)
    a, info = call(x, x, b, alpha=0.1, method=method, preconditioner=preconditioner, return_info=True, **tol)
    assert info.x is a and info.status is Status.converged and info.report.passes > 0
    assert float(info.residual_norms.max()) <= 1e-10
    torch.testing.assert_close(a, torch.linalg.solve(both(x, 0.1), b), rtol=0, atol=1e-7)


def test_start_limits_and_information(x):
    b = torch.randn(40, 1, dtype=F)
    call = KernelSystem(GAUSS * Vj(2, 1), 2)
    a = call(x, x, b, alpha=0.1, rtol=1e-8)
    again, info = call(x, x, b, alpha=0.1, rtol=1e-7, method="cg", x0=a, return_info=True)
    assert info.iterations == 0 and torch.equal(again, a)
    with pytest.warns(ConvergenceWarning, match="time_limit"):
        call(x, x, b, alpha=1e-8, method="cg", time_limit=1e-9)
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        call(x, x, b, alpha=1e-8, method="cg", max_iter=2)
    with pytest.raises(SolveError, match="max_iter"):
        call(x, x, b, alpha=1e-8, method="cg", max_iter=2, on_fail="raise")


@pytest.mark.parametrize(
    "alphas", [[0.1, 2.0, 0.5], torch.tensor([0.1, 2.0, 0.5]), np.array([0.1, 2.0, 0.5])]
)
@pytest.mark.parametrize("method", ["auto", "cg"])
def test_many_alphas(x, alphas, method):
    b = torch.randn(40, 2, dtype=F)
    want = torch.stack([torch.linalg.solve(both(x, a), b) for a in (0.1, 2.0, 0.5)])
    a, info = KernelSystem(GAUSS * Vj(2, 2), 2)(
        x, x, b, alpha=alphas, rtol=1e-10, method=method, return_info=True
    )
    torch.testing.assert_close(a, want, rtol=0, atol=1e-6)
    assert info.x is a and info.residual_norms.shape == (3, 2)


def test_many_alphas_of_matrix_valued_kernels(x):
    b, u, b_var = torch.randn(40, 2, dtype=F), Vi(0, 2) - Vj(1, 2), Vj(2, 2)
    blocks = KernelSystem(GAUSS * b_var - GAUSS * dot(u, b_var) * u * 0.25, 2)
    each = torch.stack([blocks(x, x, b, alpha=a, rtol=1e-10) for a in (1.0, 3.0)])
    together = blocks(x, x, b, alpha=[1.0, 3.0], rtol=1e-10)
    torch.testing.assert_close(together, each, rtol=0, atol=1e-7)
    start = blocks(x, x, b, alpha=[1.0, 3.0], rtol=1e-8, method="cg", x0=each, return_info=True)[1]
    assert start.iterations == 0


NUMBERS = [0.3, torch.tensor(0.3), torch.tensor([0.3], dtype=F), np.float64(0.3), np.array(0.3)]


@pytest.mark.parametrize("alpha", NUMBERS)
def test_one_alpha(x, alpha):
    a = kernel_solve(KernelOperator(GAUSS, (x, x), psd=True), x[:, 0], alpha, rtol=1e-12)
    torch.testing.assert_close(a, torch.linalg.solve(both(x, 0.3), x[:, 0]), rtol=0, atol=1e-5)


def test_integers_and_broadcast_batches(x):
    K = KernelOperator(GAUSS, (torch.stack([x, 2 * x]), torch.stack([x, 2 * x])), psd=True)
    b = torch.arange(40)
    a = kernel_solve(K, b, 1, rtol=1e-12)
    assert a.shape == (2, 40)
    for k in (0, 1):
        want = torch.linalg.solve(both((k + 1) * x, 1.0), b.double())
        torch.testing.assert_close(a[k], want, rtol=0, atol=1e-8)
    many = kernel_solve(K, b.numpy(), [1, 2], rtol=1e-12)
    assert isinstance(many, np.ndarray) and many.shape == (2, 2, 40)
    np.testing.assert_allclose(many[0], a.numpy(), atol=1e-8)


def test_more_messages(x):
    K, b = KernelOperator(GAUSS, (x, x), psd=True), torch.ones(40, dtype=F)
    cases = [
        ({"alpha": -1.0}, OptionError, "alpha=-1.0: expected a number of at least 0"),
        ({"alpha": math.nan}, OptionError, "alpha=nan"),
        ({"alpha": "1"}, OptionError, "alpha='1'"),
        ({"alpha": None}, OptionError, "alpha=None"),
        ({"alpha": True}, OptionError, "alpha=True"),
        ({"alpha": torch.ones(2, 2)}, ShapeError, r"alpha has shape \(2, 2\)"),
        ({"alpha": [0.1, -0.1]}, OptionError, "none of them negative"),
        ({"alpha": []}, ShapeError, r"alphas has shape \(0,\)"),
        ({"eps": 1e-3, "rtol": 1e-3}, OptionError, "two names of one tolerance"),
        ({"rtol": 0.0}, OptionError, "tol=0.0"),
        ({"method": "gmres"}, OptionError, "method='gmres'"),
        ({"method": CG}, OptionError, "expected a solver such as CG"),
        ({"method": CG(), "rtol": 1e-3}, OptionError, "'tol' and a method were given"),
        ({"method": "cholesky", "max_iter": 3}, OptionError, "method='cholesky' has no max_iter"),
        ({"preconditioner": "ilu"}, OptionError, "preconditioner='ilu'"),
        ({"preconditioner": 3}, OptionError, "preconditioner is a int"),
        ({"x0": torch.ones(40, 2, dtype=F)}, ShapeError, "x0 has shape"),
        ({"on_fail": "shout"}, OptionError, "on_fail='shout'"),
    ]
    for keywords, error, text in cases:
        with pytest.raises(error, match=text):
            kernel_solve(K, b, **keywords)
    with pytest.raises(TypeError, match="unknown"):
        KernelSystem(GAUSS * Vj(2, 1), 2)(x, x, b[:, None], unknown=1)


def test_default_tolerance_is_one_that_rounding_allows(x):
    K = KernelOperator(GAUSS, (x.float(), x.float()), psd=True)
    b = torch.randn(40, 1, dtype=F)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        for rhs, tol in ((b, 1e-6), (b.float(), 1e-4), (b.float().numpy(), 1e-4)):
            _, info = kernel_solve(K, rhs, 0.1, method="cg", return_info=True)
            assert info.report.tol == tol and float(info.residual_norms.max()) <= tol
        info = kernel_solve(K, b.float(), 0.1, method=CG(tol=1e-5), return_info=True)[1]
        assert info.report.tol == 1e-5


def test_warnings_show_the_line_of_the_caller(x):
    K, b = KernelOperator(GAUSS, (x, x), psd=True), torch.ones(40, 1, dtype=F)
    for call in (
        lambda: kernel_solve(K, b, 1e-8, method="cg", max_iter=1),
        lambda: kernel_solve(K, b, [1e-8, 1.0], method="cg", max_iter=1),
        lambda: KernelSystem(GAUSS * Vj(2, 1), 2)(x, x, b, alpha=1e-8, method="cg", max_iter=1),
    ):
        with pytest.warns(ConvergenceWarning) as record:
            call()
        assert record[0].filename == __file__


def test_a_plain_matrix():
    """As for `solve`, of any library."""
    M = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    b = torch.tensor([1.0, 2.0], dtype=torch.float64)
    want = torch.linalg.solve(M + 0.5 * torch.eye(2, dtype=torch.float64), b)
    torch.testing.assert_close(kernel_solve(M, b, alpha=0.5), want)
    found = kernel_solve(M.numpy(), b.numpy(), alpha=[0.5, 1.0])
    assert isinstance(found, np.ndarray)
    torch.testing.assert_close(torch.from_numpy(found[0]), want)

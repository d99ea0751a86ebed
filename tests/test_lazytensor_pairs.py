"""LazyTensors whose pairs are restricted: ranges and masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kerngp import LazyTensor, Vi, Vj
from kerngp.engine.ranges import Ranges, from_matrix
from kerngp.errors import FormulaError, OptionError, ShapeError
from kerngp.solvers import KernelOperator
from kerngp.solvers.kernel_solve import KernelSystem

M, N = 60, 45


def points(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    return torch.randn(M, 3, dtype=dtype), torch.randn(N, 3, dtype=dtype), torch.randn(N, 2, dtype=dtype)


def gauss(x, y) -> LazyTensor:
    return (-((Vi(x) - Vj(y)) ** 2).sum(-1)).exp()


def blocks() -> tuple[tuple, torch.Tensor]:
    i, j = torch.tensor([[0, 20], [20, 50]]), torch.tensor([[0, 7], [7, 40], [40, 45]])
    keep = torch.tensor([[True, False, True], [False, True, True]])
    mask = torch.zeros(M, N, dtype=torch.bool)
    for k, l in torch.nonzero(keep).tolist():  # noqa: E741
        mask[i[k, 0] : i[k, 1], j[l, 0] : j[l, 1]] = True
    return from_matrix(i, j, keep), mask


# ---------------------------------------------------------------- ranges


def test_ranges_as_attribute_and_as_argument(dtype):
    x, y, b = points(dtype)
    ranges, mask = blocks()
    K, dense = gauss(x, y), gauss(x, y).dense() * mask
    tol = 1e-5 if dtype == torch.float32 else 1e-12
    assert torch.allclose(K.sum(axis=1, ranges=ranges), dense.sum(1, keepdim=True), atol=tol)
    assert K.ranges is None
    K.ranges = ranges
    assert isinstance(K.ranges, Ranges)
    assert torch.allclose(K @ b, dense @ b, atol=tol)
    assert torch.allclose(K.t() @ x, dense.T @ x, atol=tol)
    assert torch.allclose((2 * K + K) @ b, 3 * dense @ b, atol=tol)
    assert torch.allclose(K.dense(), dense, atol=tol)
    assert torch.allclose(K.__matmul__(b, ranges=ranges), dense @ b, atol=tol)
    K.ranges = None
    assert torch.allclose(K @ b, gauss(x, y).dense() @ b, atol=tol)


def test_operands_must_agree_about_ranges():
    x, y, _ = points()
    ranges, _ = blocks()
    K, L = gauss(x, y), gauss(x, y)
    K.ranges, L.ranges = ranges, ranges
    assert (K + L).ranges.pairs == K.ranges.pairs
    L.ranges = tuple(Ranges.of(ranges).clip((0, 30), (0, 30)))
    with pytest.raises(FormulaError, match="different ranges"):
        K + L
    with pytest.raises(ShapeError, match="ranges reach"):
        gauss(x[:10], y).sum(axis=1, ranges=ranges)


def test_ranges_with_numpy_and_deferred_calls():
    x, y, b = (a.numpy() for a in points())
    ranges, mask = blocks()
    K = LazyTensor(x[:, None, :]) - LazyTensor(y[None, :, :])
    K = (-(K**2).sum(-1)).exp()
    K.ranges = tuple(r.numpy() for r in ranges)
    assert isinstance(K @ b, np.ndarray)
    np.testing.assert_allclose(K @ b, (gauss(x, y).dense() * mask.numpy()) @ b)
    S = (-((Vi(0, 3) - Vj(1, 3)) ** 2).sum(-1)).exp()
    S.ranges = ranges
    np.testing.assert_allclose(S.sum(axis=1)(x, y), K.sum(axis=1))
    np.testing.assert_allclose(S.sum(axis=1)(x, y, ranges=None), K.sum(axis=1))


def test_gradients_with_ranges():
    x, y, b = (a.requires_grad_() for a in points())
    ranges, mask = blocks()
    K = gauss(x, y)
    K.ranges = ranges
    got = torch.autograd.grad((K @ b).sin().sum(), (x, y, b))
    dense = (-((x[:, None] - y[None]) ** 2).sum(-1)).exp() * mask
    want = torch.autograd.grad((dense @ b).sin().sum(), (x, y, b))
    assert all(torch.allclose(p, q, atol=1e-11) for p, q in zip(got, want, strict=True))


def test_weighted_reductions_with_ranges():
    x, y, _ = points()
    ranges, mask = blocks()
    K = gauss(x, y)
    w = Vj(y)[..., 0].exp()
    K.ranges = ranges
    F = torch.where(mask, gauss(x, y).dense(), -torch.inf)
    want = (F + y[:, 0]).logsumexp(1)
    assert torch.allclose(K.logsumexp(axis=1, weight=w).flatten(), want)
    mean = K.sumsoftmaxweight(w, axis=1).flatten()[:50]
    assert torch.allclose(mean, (F.softmax(1) @ y[:, 0].exp())[:50])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", ["prod", "mean", "count", "any", "all"])
def test_folds_with_ranges(name, axis, launches):
    """Reductions given by formulas: rows without a pair are neutral, and have no mean."""
    x, y, _ = points()
    ranges, mask = blocks()
    K = gauss(x, y)
    K = K > 0.1 if name in ("count", "any", "all") else K + 0.5
    F, m = (K.dense(), mask) if axis == 1 else (K.dense().T, mask.T)
    want = {
        "prod": torch.where(m, F, 1).prod(1),
        "mean": torch.where(m, F, 0).sum(1) / m.sum(1),
        "count": torch.where(m, F, 0).sum(1),
        "any": torch.where(m, F, 0).amax(1),
        "all": torch.where(m, F, 1).amin(1),
    }[name]
    got = getattr(K, name)(axis=axis, ranges=ranges).flatten()
    assert torch.allclose(got.double(), want.double(), equal_nan=True)
    assert launches.reference == 0


def test_solve_with_ranges():
    x = torch.randn(N, 2, dtype=torch.float64)
    b = torch.randn(N, 1, dtype=torch.float64)
    i = torch.tensor([[0, 20], [20, N]])
    ranges = from_matrix(i, i, torch.eye(2, dtype=torch.bool))
    K = gauss(x, x)
    K.ranges = ranges
    A = K.dense() + 0.1 * torch.eye(N)
    want = torch.linalg.solve(A, b)
    assert torch.allclose(K.solve(b, alpha=0.1, eps=1e-10), want, atol=1e-8)
    operator = K.operator(symmetric=True)
    assert isinstance(operator, KernelOperator)
    assert torch.allclose(operator @ torch.eye(N, dtype=torch.float64), K.dense())
    assert torch.allclose(operator.diag(), torch.ones(N, dtype=torch.float64))
    rows = operator.rows(torch.tensor([3, 30]))
    assert torch.allclose(rows, K.dense()[[3, 30]])


@pytest.mark.parametrize("axis", [0, 1])
def test_kernel_solve_with_ranges(axis):
    from kerngp.engine.expr import Vi as i_var
    from kerngp.engine.expr import Vj as j_var
    from kerngp.engine.ops import exp, sqdist

    x, b = torch.randn(N, 2, dtype=torch.float64), torch.randn(N, 1, dtype=torch.float64)
    i = torch.tensor([[0, 20], [20, N]])
    ranges = from_matrix(i, i, torch.eye(2, dtype=torch.bool))
    f = exp(-sqdist(i_var(0, 2), j_var(1, 2))) * (j_var(2, 1) if axis == 1 else i_var(2, 1))
    K = gauss(x, x)
    K.ranges = ranges
    want = torch.linalg.solve(K.dense() + 0.1 * torch.eye(N), b)
    got = KernelSystem(f, 2, axis)(x, x, b, alpha=0.1, eps=1e-10, ranges=ranges)
    assert torch.allclose(got, want, atol=1e-8)


# ---------------------------------------------------------------- masks


def test_mask_takes_entries_out_of_every_reduction(launches):
    x, y, b = points()
    D = ((Vi(x) - Vj(y)) ** 2).sum(-1)
    dense = D.dense()
    kept = dense < 3
    K = (-D).mask(D < 3)
    F = torch.where(kept, -dense, torch.nan)
    full = lambda value: torch.where(kept, F, value)  # noqa: E731
    launches.clear()
    assert torch.allclose(K.sum(axis=1).flatten(), full(0.0).sum(1))
    assert torch.allclose(K.sum(axis=0).flatten(), full(0.0).sum(0))
    assert torch.allclose(K.logsumexp(axis=1).flatten(), full(-torch.inf).logsumexp(1))
    assert torch.allclose(K.max(axis=1).flatten(), full(-torch.inf).amax(1))
    assert torch.allclose(K.min(axis=1).flatten(), full(torch.inf).amin(1))
    some = kept.any(1)
    assert torch.equal(K.argmax(axis=1).flatten()[some], full(-torch.inf).argmax(1)[some])
    assert (K.argmax(axis=1).flatten()[~some] == -1).all()
    values, index = K.min_argmin(axis=0)
    assert torch.allclose(values.flatten(), full(torch.inf).amin(0))
    assert (index.flatten()[~kept.any(0)] == -1).all()
    near = K.Kmin(2, axis=1)
    assert torch.allclose(near, full(torch.inf).sort(1).values[:, :2])
    assert torch.allclose(K @ b, full(0.0) @ b)
    assert torch.allclose(K.t().sum(axis=1).flatten(), full(0.0).sum(0))
    assert torch.allclose(K.exp().sum(axis=1).flatten(), torch.where(kept, (-dense).exp(), 0).sum(1))
    assert torch.allclose(K.dense(), full(0.0))
    assert launches.reference == 0 and launches.compiled > 8


def test_masks_combine_and_rename():
    x, y, _ = points()
    z = torch.randn(N, 1, dtype=torch.float64)
    D = ((Vi(x) - Vj(y)) ** 2).sum(-1)
    far, near, positive = D > 1, D < 4, Vj(z) > 0
    want = torch.where((D.dense() > 1) & (D.dense() < 4) & (z.T > 0), D.dense(), 0)
    for K in (
        D.mask(far).mask(near).mask(positive),
        D.mask(far) * (D * 0 + 1).mask(near).mask(positive),
        D.mask(far * near * positive),
    ):
        assert torch.allclose(K.sum(axis=1).flatten(), want.sum(1))
    ranges, blocked = blocks()
    K = D.mask(far * near).mask(ranges).mask(positive)
    assert torch.allclose(K.sum(axis=0).flatten(), (want * blocked).sum(0))


def test_mask_has_gradients_where_the_formula_has_none():
    """1 / |x_i - x_j| without the diagonal."""
    x = torch.randn(12, 2, dtype=torch.float64, requires_grad=True)
    b = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)

    def energy(x, b):
        D = ((Vi(x) - Vj(x)) ** 2).sum(-1).sqrt()
        return (1 / D).mask(D != 0) @ b

    off = ~torch.eye(12, dtype=torch.bool)
    D = torch.where(off, ((x[:, None] - x) ** 2).sum(-1), 1).sqrt()
    assert torch.allclose(energy(x, b), torch.where(off, 1 / D, 0) @ b)
    assert torch.autograd.gradcheck(energy, (x, b))
    assert torch.autograd.gradgradcheck(energy, (x, b))


def test_masked_logsumexp_has_gradients():
    x = torch.randn(9, 2, dtype=torch.float64, requires_grad=True)
    D = lambda x: ((Vi(x) - Vj(x)) ** 2).sum(-1)  # noqa: E731
    assert torch.autograd.gradcheck(lambda x: (-D(x)).mask(D(x) > 1e-9).logsumexp(axis=1), (x,))


def test_what_cannot_be_a_mask():
    x, y, _ = points()
    K = gauss(x, y)
    with pytest.raises(FormulaError, match="keep is a Tensor"):
        K.mask(torch.ones(M, N, dtype=torch.bool))
    with pytest.raises(ShapeError, match="a number for each pair"):
        K.mask(Vi(x) < Vj(y))
    with pytest.raises(FormulaError, match="ranges already"):
        K.mask(blocks()[0]).mask(blocks()[0])
    with pytest.raises(ShapeError, match="six integer arrays"):
        K.ranges = (1, 2)
    with pytest.raises(OptionError, match="rangez"):
        K.sum(axis=1, rangez=blocks()[0])

"""``K[rows, columns]`` against the same index of the dense array."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kerngp import LazyTensor, Vi, Vj
from kerngp.errors import FormulaError, ShapeError

M, N, D = 9, 7, 3


def matrix(batch: tuple[int, ...] = (), dim: int = 1, seed: int = 0):
    """A LazyTensor with entries of dim 1 or D, and the dense array with all its axes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*batch, M, 1, D, dtype=torch.float64, generator=generator)
    y = torch.randn(1, N, D, dtype=torch.float64, generator=generator)
    weights = torch.tensor([0.3, 1.7, -2.0], dtype=torch.float64)

    def f(x, y):
        return (x - y) * weights

    lazy, full = f(LazyTensor(x), LazyTensor(y)), f(x, y)
    if dim == 1:
        return (-lazy.sqnorm2()).exp(), torch.exp(-(full**2).sum(-1, keepdim=True))
    return lazy, full


KEYS = [
    np.s_[:5, :5],
    np.s_[2:, :],
    np.s_[:, -3:],
    np.s_[::2, 1::3],
    np.s_[::-1, 5:1:-2],
    np.s_[100:, :],
    np.s_[[0, 8, 3, 3, -1], :],
    np.s_[:, np.array([1, 0], dtype=np.int32)],
    np.s_[np.arange(M) % 2 == 0, 1:4],
    np.s_[1:4, torch.tensor([6, -7])],
]


@pytest.mark.parametrize("key", KEYS, ids=repr)
@pytest.mark.parametrize("dim", [1, D])
def test_slices_and_index_arrays_stay_lazy(key, dim: int) -> None:
    K, full = matrix(dim=dim)
    part = K[key]
    rows, columns = (k if isinstance(k, slice) else torch.as_tensor(k) for k in key)
    # torch has no negative steps
    want = full.numpy()[rows if isinstance(rows, slice) else rows.numpy()]
    want = torch.from_numpy(want[:, columns if isinstance(columns, slice) else columns.numpy()].copy())
    assert isinstance(part, LazyTensor)
    assert part.shape == (want.shape[:2] if dim == 1 else want.shape)
    torch.testing.assert_close(part.sum(axis=1), want.sum(1))
    torch.testing.assert_close(part.dense().reshape(want.shape), want)


@pytest.mark.parametrize("dim", [1, D])
@pytest.mark.parametrize(
    "key", [(3, np.s_[:]), (-1, np.s_[2:5]), (np.s_[:], 0), ([4, 2], -2), (2, 5), (0, [1, 1, 6]),
            (np.int64(4), 1)],
    ids=repr,
)  # fmt: skip
def test_integers_give_numbers(key, dim: int, launches) -> None:
    K, full = matrix(dim=dim)
    want = full[key]
    got = K[key]
    assert launches.compiled == 1
    torch.testing.assert_close(got, want.squeeze(-1) if dim == 1 else want)


def test_pairs_of_index_arrays_pick_entries() -> None:
    K, full = matrix()
    i, j = [0, 5, -1, 5], [6, 0, 0, 0]
    torch.testing.assert_close(K[i, j], full[i, j].squeeze(-1))
    torch.testing.assert_close(K[[3], j], full[[3], j].squeeze(-1))
    grid = torch.tensor([[0, 1], [2, 3]])
    torch.testing.assert_close(K[grid, grid], full[grid, grid].squeeze(-1))
    outer = K[np.ix_([0, 2, 4], [1, 3])]
    assert isinstance(outer, LazyTensor)
    torch.testing.assert_close(outer.dense(), full[[0, 2, 4]][:, [1, 3]].squeeze(-1))
    torch.testing.assert_close(K[[0, 2], :][:, [1, 3, 5]].dense(), full[[0, 2]][:, [1, 3, 5]].squeeze(-1))
    with pytest.raises(ShapeError, match="do not broadcast to pairs"):
        K[[0, 1, 2], [0, 1]]


def test_one_key_is_for_the_components() -> None:
    K, full = matrix(dim=D)
    for got, want in (
        (K[1], full[..., 1:2]),
        (K[-1], full[..., 2:]),
        (K[1:], full[..., 1:]),
        (K[..., 0], full[..., :1]),
        (K[:, :, 1:2], full[..., 1:2]),
        (K[2:5, [0, 3], 1], full[2:5][:, [0, 3], 1:2]),
        (K[..., 2:4, :2], full[:, 2:4, :2]),
        (K[3:, ...], full[3:]),
    ):
        torch.testing.assert_close(got.dense().reshape(want.shape), want)
    torch.testing.assert_close(K[2, 3, 1], full[2, 3, 1])
    torch.testing.assert_close(K[2, :, 1:], full[2, :, 1:])


def test_batches_keep_their_axes() -> None:
    K, full = matrix(batch=(2,))
    torch.testing.assert_close(K[1:4, [0, 2]].dense(), full[:, 1:4, [0, 2], 0])
    torch.testing.assert_close(K[3, :], full[:, 3, :, 0])
    torch.testing.assert_close(K[:, 2:, 5, :], full[:, 2:, 5, 0])
    torch.testing.assert_close(K[1, 2, 0], full[:, 1, 2, 0])
    with pytest.raises(FormulaError, match="batch axes cannot be indexed"):
        K[0, :, :, :]


def test_gradients_flow_to_the_rows() -> None:
    x = torch.randn(4, D, dtype=torch.float64, requires_grad=True)

    def f(x: torch.Tensor) -> torch.Tensor:
        K = (-Vi(x).sqdist(Vj(x))).exp()
        return K[[0, 2, 2], 1:].sum(axis=1).sum() + K[1, :].sum() + K[[0, 3], [3, 3]].sum() + K.trace()

    assert torch.autograd.gradcheck(f, x)
    assert torch.autograd.gradgradcheck(f, x)


def test_numpy_stays_numpy() -> None:
    x = np.random.default_rng(0).standard_normal((M, 1, 2))
    K = LazyTensor(x) | LazyTensor(x.reshape(1, M, 2))
    full = x[:, 0] @ x[:, 0].T
    for got, want in ((K[2, :], full[2]), (K[:3, :4].dense(), full[:3, :4]), (K.diag(), np.diag(full))):
        assert isinstance(got, np.ndarray)
        np.testing.assert_allclose(got, want, atol=1e-14)
    assert K[1, 2] == pytest.approx(full[1, 2])
    assert float(K.trace()) == pytest.approx(np.trace(full))


def test_diagonal_and_trace() -> None:
    x = torch.randn(2, M, D, dtype=torch.float64)
    K = LazyTensor(x[:, :, None]) - LazyTensor(x.flip(1)[:, None])
    full = x[:, :, None] - x.flip(1)[:, None]
    torch.testing.assert_close(K.diag(), full.diagonal(dim1=1, dim2=2).mT)
    torch.testing.assert_close(K.trace(), full.diagonal(dim1=1, dim2=2).sum(-1))
    torch.testing.assert_close(K.sqnorm2().diag(), (full**2).sum(-1).diagonal(dim1=1, dim2=2))
    with pytest.raises(FormulaError, match="as many rows as columns"):
        matrix()[0].diag()


def test_complex_entries() -> None:
    z = torch.randn(M, 1, 1, dtype=torch.complex128)
    full = z.squeeze(-1) * z.reshape(1, M)
    K = LazyTensor(z) * LazyTensor(z.reshape(1, M, 1))
    torch.testing.assert_close(K[2, :], full[2])
    torch.testing.assert_close(K[::2, 3:].dense(), full[::2, 3:])
    torch.testing.assert_close(K.diag(), full.diagonal())
    torch.testing.assert_close(K.trace(), full.trace())


def test_an_axis_nothing_depends_on_has_one_entry() -> None:
    x = torch.randn(M, 1, dtype=torch.float64)
    K = Vi(x) * 2.0
    torch.testing.assert_close(K[3, 0], 2 * x[3, 0])
    assert K[2:4, 0:1].shape == (2, 1)
    with pytest.raises(ShapeError, match="no operand is indexed by"):
        K[:, [0, 0]]


def test_bad_keys_are_explained() -> None:
    K, _ = matrix()
    for key, message in [
        ((9, 0), "row 9 is out of range: there are 9 rows"),
        ((0, -8), "column -8 is out of range: there are 7 columns"),
        (([0, 9], slice(None)), "row 9 is out of range"),
        ((np.ones(4, bool), slice(None)), r"mask of rows of shape \(4,\): expected \(9,\)"),
        ((np.ones(2), slice(None)), "dtype torch.float64: expected integers"),
        ((None, 0), "expected an integer, a slice or an index array"),
        (("a", 0), "expected an integer, a slice or an index array"),
        ((0, 0, 0, 0), r"expected K\[rows, columns\]"),
        ((..., 0, ...), r"expected K\[rows, columns\]"),
        ((0, 0, 1), "index 1 is out of range for vectors of dim 1"),
    ]:
        with pytest.raises(FormulaError, match=message):
            K[key]
    with pytest.raises(FormulaError, match="expected an integer or a slice"):
        K["a"]
    with pytest.raises(FormulaError, match="symbolic"):
        (Vi(0, 1) * Vj(1, 1))[2:, :]

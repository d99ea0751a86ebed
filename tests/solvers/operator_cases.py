"""Checks that every linear operator must pass: a subclass gives two hooks, `create` and `evaluate`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from kerngp.errors import DTypeError, FormulaError, ShapeError
from kerngp.solvers import Dense, LinearOperator, cast, identity

Tensor = torch.Tensor


class OperatorCase:
    """Subclasses are named Test... and define `create` (always the same operator) and `evaluate`."""

    tolerance = 1e-12

    def create(self) -> LinearOperator:
        """The operator, float64, made of leaf tensors that require gradients."""
        raise NotImplementedError

    def evaluate(self, operator: Any) -> Tensor:
        """Its entries, from the operator's tensors by torch alone; differentiable."""
        raise NotImplementedError

    # ------------------------------------------------------------ helpers

    def pair(self) -> tuple[LinearOperator, Tensor]:
        operator = self.create()
        return operator, self.evaluate(operator).detach()

    def close(self, got: Tensor, want: Tensor, factor: float = 1.0) -> None:
        assert got.shape == want.shape
        scale = max(1.0, float(want.abs().max()) if want.numel() else 1.0)
        torch.testing.assert_close(got.detach(), want.detach(), rtol=0, atol=factor * self.tolerance * scale)

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    # ------------------------------------------------------------ checks

    def test_shape_and_dtype(self):
        operator, dense = self.pair()
        assert operator.shape == tuple(dense.shape)
        assert operator.torch_dtype == dense.dtype == torch.float64
        assert operator.dtype == np.float64
        assert operator.device == dense.device

    def test_tags_are_true(self):
        operator, dense = self.pair()
        if operator.symmetric:
            self.close(dense, dense.mT)
        if operator.psd:
            assert operator.symmetric
            assert float(torch.linalg.eigvalsh(dense).min()) > -1e-10

    def test_dense(self):
        operator, dense = self.pair()
        self.close(operator.dense(), dense)

    @pytest.mark.parametrize("columns", [None, 1, 3])
    def test_matmul(self, columns):
        operator, dense = self.pair()
        n = dense.shape[-1]
        b = self.random(n) if columns is None else self.random(n, columns)
        self.close(operator @ b, dense @ b, 10)

    def test_matmul_with_batch(self):
        operator, dense = self.pair()
        b = self.random(*dense.shape[:-2], dense.shape[-1], 2)
        self.close(operator.matmul(b), dense @ b, 10)

    def test_exact_product(self):
        operator, dense = self.pair()
        b = self.random(dense.shape[-1], 2)
        self.close(operator.matmul(b, exact=True), dense @ b, 10)

    def test_no_columns(self):
        operator, dense = self.pair()
        assert (operator @ self.random(dense.shape[-1], 0)).shape == (*dense.shape[:-1], 0)

    def test_transpose(self):
        operator, dense = self.pair()
        assert operator.T.shape == tuple(dense.mT.shape)
        b = self.random(dense.shape[-2], 2)
        self.close(operator.T @ b, dense.mT @ b, 10)
        self.close(operator.T.dense(), dense.mT)

    def test_product_from_the_left(self):
        operator, dense = self.pair()
        if dense.dim() == 2:
            b = self.random(2, dense.shape[-2])
            self.close(b @ operator, b @ dense, 10)

    def test_diag(self):
        operator, dense = self.pair()
        if dense.shape[-1] == dense.shape[-2]:
            self.close(operator.diag(), dense.diagonal(dim1=-2, dim2=-1))
        else:
            with pytest.raises(ShapeError, match="square"):
                operator.diag()

    def test_rows(self):
        operator, dense = self.pair()
        idx = [dense.shape[-2] - 1, 0, 0]
        self.close(operator.rows(idx), dense[..., idx, :])
        self.close(operator.rows(np.array([-1])), dense[..., [-1], :])
        self.close(operator.rows([]), dense[..., [], :])
        cols = torch.tensor([1, 0, dense.shape[-1] - 1, 1])
        self.close(operator.rows(idx, cols), dense[..., idx, :][..., cols])

    def test_submatrices(self):
        operator, dense = self.pair()
        n = min(dense.shape[-2:])
        idx = torch.tensor([[0, n - 1, 1], [1, 1, 0]])
        if dense.shape[-1] != dense.shape[-2]:
            with pytest.raises(ShapeError, match="square"):
                operator.submatrices(idx)
            return
        want = torch.stack([dense[..., i, :][..., i] for i in idx], -3).detach()
        self.close(operator.submatrices(idx), want)
        exact = cast(operator, torch.float32).submatrices(idx, exact=True)
        assert exact.dtype == torch.float64
        # from the tensors as they are, not from entries in float32
        self.close(exact, cast(cast(operator, torch.float32), torch.float64).submatrices(idx).detach(), 100)

    def test_submatrix(self):
        operator, dense = self.pair()
        m, n = dense.shape[-2:]
        rows, cols = [m - 1, 0, m // 2], torch.tensor([n - 1, 1, 0, n - 1])
        meet = min(m, n)
        both = [meet - 1, 0, meet // 2]
        everything = slice(None)
        choices = [(rows, None), (None, cols), (rows, cols), (both, both), (slice(1, 4), slice(0, 2))]
        choices += [([0, 0, 1], [0, 0, 1]), (slice(0, m), slice(0, n)), ([0], [0])]
        for i, j in choices:
            part = operator.submatrix(i, j)
            want = dense[..., everything if i is None else i, :][..., everything if j is None else j]
            assert part.shape == tuple(want.shape)
            assert part.torch_dtype == torch.float64
            if part.symmetric:
                self.close(want, want.mT)
            if operator.symmetric and i is both:
                assert (part.symmetric, part.psd) == (operator.symmetric, operator.psd)
            self.close(part.dense(), want)
            b = self.random(want.shape[-1], 2)
            self.close(part @ b, want @ b, 10)
            self.close(part.matmul(b, exact=True), want @ b, 10)
            c = self.random(want.shape[-2], 2)
            self.close(part.T @ c, want.mT @ c, 10)
            self.close(part.rows([-1], [0]), want[..., [-1], :][..., [0]])
            if want.shape[-1] == want.shape[-2]:
                self.close(part.diag(), want.diagonal(dim1=-2, dim2=-1))
            again = part.submatrix([0], [want.shape[-1] - 1, 0])
            self.close(again.dense(), want[..., [0], :][..., [-1, 0]])
        assert operator.submatrix() is operator
        with pytest.raises(ShapeError, match="rows holds"):
            operator.submatrix([m])

    def test_submatrix_gradients(self):
        operator = self.create()
        tensors = tuple(t for t in operator.tensors if t.requires_grad)
        if not tensors:
            return
        part = operator.submatrix([1, 0])
        b, g = self.random(operator.shape[-1], 2), self.random(*part.shape[:-1], 2)
        got = torch.autograd.grad((g * (part @ b)).sum(), tensors)
        want = torch.autograd.grad((g * (self.evaluate(operator)[..., [1, 0], :] @ b)).sum(), tensors)
        for one, other in zip(got, want, strict=True):
            self.close(one, other, 100)

    def test_rows_out_of_range(self):
        operator, dense = self.pair()
        with pytest.raises(ShapeError, match="idx holds"):
            operator.rows([dense.shape[-2]])

    def test_numpy(self):
        operator, dense = self.pair()
        b = self.random(dense.shape[-1], 2).numpy()
        out = operator @ b
        assert isinstance(out, np.ndarray)
        self.close(torch.from_numpy(out), dense @ torch.from_numpy(b), 10)

    def test_product_with_its_transpose(self):
        operator, dense = self.pair()
        square = operator @ operator.T
        b = self.random(dense.shape[-2], 2)
        self.close(square @ b, dense @ (dense.mT @ b), 100)
        self.close(square.diag(), (dense * dense).sum(-1), 100)

    def test_scale(self):
        operator, dense = self.pair()
        b = self.random(dense.shape[-1], 2)
        for factor in (2.5, -1.0, 0.0, np.float64(3.0), torch.tensor(0.5, dtype=torch.float64)):
            self.close((factor * operator).dense(), float(factor) * dense)
            self.close((operator * factor) @ b, float(factor) * (dense @ b), 10)
        self.close((operator / 4).dense(), dense / 4)
        assert not (-operator).psd or not dense.any()

    def test_add_and_subtract(self):
        operator, dense = self.pair()
        other = self.random(*dense.shape[-2:])
        b = self.random(dense.shape[-1], 2)
        self.close((operator + Dense(other)) @ b, (dense + other) @ b, 10)
        self.close((Dense(other) - operator).dense(), other - dense)
        twice = operator + operator
        self.close(twice.dense(), 2 * dense)
        assert twice.symmetric == operator.symmetric
        assert twice.psd == operator.psd

    def test_add_to_the_diagonal(self):
        operator, dense = self.pair()
        n = dense.shape[-1]
        if dense.shape[-2] != n:
            with pytest.raises(ShapeError):
                operator + identity(n)
            return
        A = operator + 0.5 * identity(n)
        self.close(A.dense(), dense + 0.5 * torch.eye(n, dtype=torch.float64))
        self.close(A.diag(), dense.diagonal(dim1=-2, dim2=-1) + 0.5)
        assert A.symmetric == operator.symmetric
        assert A.psd == operator.psd

    def test_gradients(self):
        operator = self.create()
        tensors = tuple(t for t in operator.tensors if t.requires_grad)
        if not tensors:
            return
        b = self.random(operator.shape[-1], 2).requires_grad_()
        g = self.random(*operator.shape[:-1], 2)
        got = torch.autograd.grad((g * (operator @ b)).sum(), (b, *tensors))
        want = torch.autograd.grad((g * (self.evaluate(operator) @ b)).sum(), (b, *tensors))
        for one, other in zip(got, want, strict=True):
            self.close(one, other, 100)

    def test_with_tensors(self):
        operator, _ = self.pair()
        moved = operator.with_tensors([1.5 * t.detach() for t in operator.tensors])
        self.close(moved.dense(), self.evaluate(moved), 10)
        assert type(moved) is type(operator)
        assert (moved.symmetric, moved.shape) == (operator.symmetric, operator.shape)
        assert not any(t.requires_grad for t in moved.tensors)

    def test_cast(self):
        operator, dense = self.pair()
        single = cast(operator, torch.float32)
        assert single.torch_dtype == torch.float32
        error = (single.dense().detach().double() - dense).abs().max()
        assert 0 <= float(error) < 1e-5 * max(1.0, float(dense.abs().max()))

    def test_scipy(self):
        operator, dense = self.pair()
        if dense.dim() != 2:
            with pytest.raises(ShapeError, match="two axes"):
                operator.scipy()
            return
        b, c = self.random(dense.shape[1]).numpy(), self.random(dense.shape[0]).numpy()
        for A in (scipy.sparse.linalg.aslinearoperator(operator), operator.scipy()):
            assert A.dtype == np.float64
            np.testing.assert_allclose(A @ b, dense.numpy() @ b, atol=1e-10)
            np.testing.assert_allclose(A.T @ c, dense.numpy().T @ c, atol=1e-10)
            matrix = np.stack([b, b + 1], 1)
            np.testing.assert_allclose(A @ matrix, dense.numpy() @ matrix, atol=1e-10)

    def test_bad_input(self):
        operator, dense = self.pair()
        n = dense.shape[-1]
        with pytest.raises(ShapeError, match=rf"b has shape \({n + 1},\).*expected \({n},\)"):
            operator @ self.random(n + 1)
        with pytest.raises(DTypeError, match="b has dtype torch.float32"):
            operator @ torch.zeros(n, dtype=torch.float32)
        with pytest.raises(FormulaError, match="identity"):
            operator + 1.0
        with pytest.raises(FormulaError, match="expected a number"):
            operator * torch.zeros(n)
        with pytest.raises(ShapeError, match="cannot multiply operators"):
            operator @ Dense(torch.zeros(n + 1, 1, dtype=torch.float64))
        with pytest.raises(ShapeError, match="cannot add"):
            operator + Dense(torch.zeros(1, 1, dtype=torch.float64))

    def test_repr(self):
        operator = self.create()
        text = repr(operator)
        assert type(operator).__name__ in text
        assert ("psd" in text) == operator.psd

"""Checks that every preconditioner must pass: a subclass gives a recipe, and two operators of one size."""

from __future__ import annotations

from typing import Any

import torch

from kerngp.engine.expr import Pm, Vi, Vj
from kerngp.engine.formulas import FORMULAS
from kerngp.solvers import KernelOperator, Preconditioner, identity

Tensor = torch.Tensor
F64 = torch.float64


def kernel_system(
    n: int = 60,
    *,
    alpha: float | Tensor = 0.05,
    lengthscale: float = 0.5,
    dtype: torch.dtype = F64,
    dim: int = 2,
) -> Any:
    """Matern-3/2 on random points, plus alpha on the diagonal."""
    x = torch.rand(n, dim, generator=torch.Generator().manual_seed(1), dtype=F64).to(dtype)
    scale = torch.tensor([lengthscale], dtype=dtype)
    formula = FORMULAS["matern32"](Vi(0, dim) / Pm(2, 1), Vj(1, dim) / Pm(2, 1))
    return KernelOperator(formula, (x, x, scale), psd=True) + alpha * identity(n)


class PreconditionerCase:
    """Subclasses are named Test... and define `recipe`; the operators can be replaced."""

    tolerance = 1e-9

    def recipe(self) -> Any:
        """What is tested."""
        raise NotImplementedError

    def operator(self) -> Any:
        """What it is built for."""
        return kernel_system()

    def changed(self) -> Any:
        """The same points with other hyperparameters and another alpha."""
        return kernel_system(alpha=0.02, lengthscale=0.7)

    def same_choices(self, M: Any, A: Any) -> Tensor:
        """What M.refresh(A) should be, dense, computed independently."""
        raise NotImplementedError

    # ------------------------------------------------------------ checks

    def build(self) -> tuple[Any, Any]:
        A = self.operator()
        return A, self.recipe().build(A)

    def close(self, got: Tensor, want: Tensor) -> None:
        assert got.shape == want.shape
        scale = max(1e-300, float(want.abs().max()))
        torch.testing.assert_close(got, want, rtol=0, atol=self.tolerance * scale)

    def test_is_a_preconditioner(self):
        A, M = self.build()
        assert isinstance(M, Preconditioner)
        assert M.shape == A.shape[-2:]
        assert M.symmetric
        assert M.psd
        assert M.work == "preconditioner"
        assert M.description

    def test_symmetric_and_positive(self):
        _, M = self.build()
        dense = M @ torch.eye(M.shape[0], dtype=F64)
        self.close(dense, dense.T)
        self.close(M.dense(), dense)
        assert float(torch.linalg.eigvalsh(dense).min()) > 0

    def test_root(self):
        _, M = self.build()
        L = M.root()
        assert L.shape == M.shape
        one = torch.eye(M.shape[0], dtype=F64)
        self.close(L.T @ (L @ one), M.dense())
        self.close(L.T @ one, (L @ one).T)
        self.close(L.dense(), L @ one)
        self.close(L.diag(), (L @ one).diagonal())

    def test_logdet(self):
        _, M = self.build()
        got = M.logdet()
        assert got.shape == ()
        assert got.dtype == F64
        self.close(got, -torch.linalg.slogdet(M.dense())[1])

    def test_floor_is_a_lower_bound(self):
        A, M = self.build()
        least = float(torch.linalg.eigvals(M.dense() @ A.dense().double()).real.min())
        assert M.floor is None or 0 < M.floor <= least * (1 + 1e-9)

    def test_refresh_keeps_the_choices(self):
        _, M = self.build()
        A = self.changed()
        again = M.refresh(A)
        assert type(again) is type(M)
        self.close(again.dense(), self.same_choices(M, A))
        assert not torch.allclose(again.dense(), M.dense())

    def test_refresh_for_the_same_operator_changes_nothing(self):
        A, M = self.build()
        self.close(M.refresh(A).dense(), M.dense())

    def test_the_same_seed_gives_the_same(self):
        A, M = self.build()
        state = torch.get_rng_state()
        assert torch.equal(self.recipe().build(A).dense(), M.dense())
        assert torch.equal(torch.get_rng_state(), state)

    def test_no_gradients(self):
        A = self.operator()
        wanted = A.with_tensors([t.clone().requires_grad_() for t in A.tensors])
        M = self.recipe().build(wanted)
        assert not any(t.requires_grad for t in M.tensors)
        assert not M.logdet().requires_grad
        assert not M.matmul(torch.ones(M.shape[0], dtype=F64)).requires_grad
        assert not M.refresh(wanted).logdet().requires_grad

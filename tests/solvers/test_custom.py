"""The user's own preconditioners: recipes, operators and functions."""

from __future__ import annotations

import pytest
import torch
from preconditioner_cases import PreconditionerCase, kernel_system

from kerngp.errors import DTypeError, OptionError, ShapeError
from kerngp.options import options
from kerngp.solvers import CG, CustomPreconditioner, Dense, RPCholesky, as_preconditioner, logdet, solve
from kerngp.solvers.preconditioners import Identity

F = torch.float64
INVERSE = torch.linalg.inv(kernel_system().dense())


class Own:
    """A recipe that ignores what it is built for."""

    def __init__(self, apply, **known):
        self.apply, self.known = apply, known

    def build(self, A):
        return CustomPreconditioner(self.apply, 60, **self.known)


class TestFunction(PreconditionerCase):
    def recipe(self):
        return Own(lambda r: INVERSE @ r, floor=0.99)

    def same_choices(self, M, A):
        return INVERSE

    def test_refresh_keeps_the_choices(self):
        _, M = self.build()
        assert M.refresh(self.changed()) is M


class TestOperator(TestFunction):
    def recipe(self):
        return Own(Dense(INVERSE, psd=True))


class TestRootGiven(TestFunction):
    def recipe(self):
        L = torch.linalg.cholesky(INVERSE).T.contiguous()
        return Own(lambda r: INVERSE @ r, root=Dense(L), logdet=-float(torch.logdet(INVERSE)))


def test_what_is_given_is_used():
    M = CustomPreconditioner(lambda r: r, 3, root=Dense(torch.eye(3, dtype=F)), logdet=7.0)
    assert float(M.logdet()) == 7.0
    assert M.root() is M.root()


def test_as_preconditioner():
    A = kernel_system()
    M = RPCholesky(5).build(A)
    assert as_preconditioner(M, A) is M
    assert isinstance(as_preconditioner(None, A), Identity)
    assert as_preconditioner(RPCholesky(5), A).description == "RPCholesky, rank 5"
    assert as_preconditioner("jacobi", A).description == "Jacobi"
    large = kernel_system(600)
    assert as_preconditioner("rpcholesky", large).description == "RPCholesky, rank 100"
    assert torch.equal(as_preconditioner("rpcholesky", large).pivots, RPCholesky().build(large).pivots)
    for own in (Dense(INVERSE, psd=True), Dense(INVERSE.float(), psd=True), lambda r: INVERSE @ r):
        M = as_preconditioner(own, A)
        torch.testing.assert_close(M.dense(), INVERSE, rtol=1e-4, atol=1e-4)
        assert solve(A, torch.ones(60, dtype=F), CG(), preconditioner=M).iterations <= 2
        assert abs(float(logdet(A, preconditioner=own, exact_below=0).value - torch.logdet(A.dense()))) < 1e-3


def test_batch():
    K = torch.stack([kernel_system(10, lengthscale=s).dense() for s in (0.2, 0.4)])
    P = torch.linalg.inv(K)
    M = as_preconditioner(Dense(P, psd=True), Dense(K, psd=True))
    assert M.shape == (2, 10, 10)
    torch.testing.assert_close(M.dense(), P)
    torch.testing.assert_close(M.diag(), P.diagonal(dim1=-2, dim2=-1))
    torch.testing.assert_close(M.logdet(), torch.logdet(K))


def test_messages():
    A = kernel_system(3)
    with pytest.raises(OptionError, match="preconditioner='good': expected one of 'none'"):
        as_preconditioner("good", A)
    with pytest.raises(ShapeError, match="they must be equal"):
        as_preconditioner(Dense(torch.eye(4)), A)
    with pytest.raises(ShapeError, match="the function made"):
        as_preconditioner(lambda r: r[:2], A).matmul(torch.ones(3, dtype=F))
    with pytest.raises(DTypeError, match="returned a list"):
        as_preconditioner(lambda r: r.tolist(), A).matmul(torch.ones(3, dtype=F))
    with pytest.raises(OptionError, match="not positive definite"):
        as_preconditioner(lambda r: -r, A).root()
    with options(memory_limit=1 << 20), pytest.raises(OptionError, match="memory_limit"):
        CustomPreconditioner(lambda r: r, 1000).logdet()

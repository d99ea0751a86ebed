"""The Lanczos process against dense eigenvalues, and where it breaks down."""

from __future__ import annotations

import pytest
import torch

from kerngp.errors import SolveError
from kerngp.options import options
from kerngp.solvers.functions.lanczos import in_groups, lanczos, tridiagonal

F = torch.float64


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=F)


def spectrum(values: torch.Tensor) -> torch.Tensor:
    Q = torch.linalg.qr(random(len(values), len(values)))[0]
    return (Q * values) @ Q.T


def run(B: torch.Tensor, V: torch.Tensor, steps: int = 1000, enough=None):
    return lanczos(lambda v: B @ v, V, steps, enough)


@pytest.mark.parametrize("n", [1, 2, 7, 31, 33])
def test_all_steps_give_all_eigenvalues_and_any_function(n):
    B = spectrum(torch.linspace(0.5, 3, n, dtype=F))
    V = random(n, 3)
    krylov = run(B, V)
    assert krylov.steps == n
    want = torch.linalg.eigvalsh(B)
    torch.testing.assert_close(krylov.eigh()[0], want.expand(3, n), rtol=1e-10, atol=0)
    torch.testing.assert_close(krylov.apply(torch.reciprocal), torch.linalg.solve(B, V), rtol=1e-9, atol=1e-9)


def test_relation_and_orthogonality_at_condition_1e12():
    B = spectrum(torch.logspace(-8, 4, 300, dtype=F))
    krylov = run(B, random(300, 2), steps=60)
    k = krylov.steps
    assert k == 60
    for c in range(2):
        Q, T = krylov.basis[c].T, tridiagonal(krylov.alpha[c], krylov.beta[c, :-1])
        torch.testing.assert_close(Q.T @ Q, torch.eye(k, dtype=F), rtol=0, atol=1e-13)
        left = B @ Q - Q @ T
        assert float(left[:, :-1].norm()) < 1e-10
        assert float(left[:, -1].norm()) == pytest.approx(float(krylov.beta[c, -1]), rel=1e-6)


def test_columns_end_at_different_steps():
    B = torch.diag(torch.arange(1.0, 21.0, dtype=F))
    V = torch.zeros(20, 4, dtype=F)
    V[3, 0] = 2.0  # an eigenvector
    V[[1, 5, 9], 1] = 1.0
    V[:, 3] = 1.0  # column 2 is zero
    krylov = run(B, V)
    assert krylov.steps == 20
    torch.testing.assert_close(krylov.apply(torch.sqrt), B.sqrt() @ V, rtol=1e-10, atol=1e-10)
    assert float(krylov.norms[2]) == 0.0
    assert float(krylov.beta[0, 0]) == float(krylov.beta[1, 2]) == 0.0
    assert float(krylov.alpha.min()) > 0  # what fills up lies within the spectrum


@pytest.mark.parametrize("factor", [1e-150, 1.0, 1e150])
def test_scale(factor):
    B = factor * spectrum(torch.linspace(1, 2, 40, dtype=F))
    V = random(40, 2)
    got = run(B, V).apply(torch.sqrt)
    want = factor**0.5 * run(B / factor, V).apply(torch.sqrt)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9 * factor**0.5)


def test_zero_matrix_and_identity_end_at_once():
    V = random(9, 2)
    assert run(torch.zeros(9, 9, dtype=F), V).steps == 1
    krylov = run(3.0 * torch.eye(9, dtype=F), V)
    assert krylov.steps == 1
    torch.testing.assert_close(krylov.apply(torch.log), torch.log(torch.tensor(3.0)) * V)


def test_batch_is_one_after_the_other():
    B = torch.stack([spectrum(torch.linspace(1, top, 20, dtype=F)) for top in (2.0, 50.0)])
    V = random(2, 20, 3)
    krylov = run(B, V, steps=12)
    assert krylov.basis.shape == (2, 3, 12, 20)
    for k in range(2):
        alone = run(B[k], V[k], steps=12)
        torch.testing.assert_close(krylov.alpha[k], alone.alpha)
        torch.testing.assert_close(krylov.apply(torch.log)[k], alone.apply(torch.log))


def test_stops_when_told():
    asked = []

    def enough(krylov):
        asked.append(krylov.steps)
        return krylov.steps >= 10

    assert run(spectrum(torch.logspace(-3, 3, 50, dtype=F)), random(50, 2), enough=enough).steps == 10
    assert asked == list(range(1, 11))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_not_finite(bad):
    B = torch.eye(5, dtype=F)
    B[2, 2] = bad
    with pytest.raises(SolveError, match="NaN or infinity in a product"):
        run(B, random(5, 2))
    with pytest.raises(SolveError, match="start"):
        run(torch.eye(5, dtype=F), torch.full((5, 2), bad, dtype=F))


def test_groups_fit_into_memory():
    V = random(1000, 60)
    d = torch.linspace(1, 2, 1000, dtype=F).unsqueeze(-1)
    with options(memory_limit=1 << 20):
        slow = list(in_groups(lambda v: d * v, V, 10, lambda krylov: False))
        quick = list(in_groups(lambda v: d * v, V, 10, lambda krylov: True))
    assert [k.alpha.shape for k in slow] == [(11, 10)] * 5 + [(5, 10)]
    assert [k.alpha.shape for k in quick] == [(11, 1), (43, 1), (6, 1)]  # one step each: more at a time
    whole = lanczos(lambda v: d * v, V, 10)
    torch.testing.assert_close(torch.cat([k.beta for k in slow]), whole.beta)

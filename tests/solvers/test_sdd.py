"""Stochastic dual descent: steps that are safe, divergence that is seen, posterior samples."""

from __future__ import annotations

import pytest
import torch
from test_block_descent import F, kernel, random, spd

from kerngp.errors import OptionError
from kerngp.solvers import Dense, Status, StochasticDualDescent, solve


def test_a_step_that_is_too_long_is_halved_and_said():
    A, dense = kernel(120, 0.5)
    b = random(120, 2)
    s = solve(A, b, StochasticDualDescent(batch=30, step=30.0, max_passes=2000, tol=1e-4))
    assert s.converged
    assert [n.code for n in s.report.notes] == ["DAMPED"]
    assert float(((b - dense @ s.x).norm(dim=0) / b.norm(dim=0)).max()) <= 1.01e-4


def test_a_hopeless_step_ends():
    A, b = kernel(60, 0.5)[0], random(60)
    s = solve(A, b, StochasticDualDescent(batch=20, step=1e300, max_passes=500), on_fail="ignore")
    assert s.status in (Status.stagnated, Status.max_iter)
    assert bool(torch.isfinite(s.x).all())
    assert float(s.residual_norms) <= 1.0


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_step_follows_the_scale_of_the_matrix(scale):
    A, b = spd(1.0, 5.0, 100), random(100)
    s = solve(Dense(scale * A, psd=True), b, StochasticDualDescent(batch=20, tol=1e-4, max_passes=1000))
    assert s.converged
    assert not s.report.notes


def test_the_default_step_is_stable_where_one_eigenvalue_dominates():
    """All entries near one: the largest eigenvalue is n, that of a batch its size."""
    A = Dense(torch.ones(200, 200, dtype=F) + torch.eye(200, dtype=F), psd=True)
    s = solve(A, random(200), StochasticDualDescent(batch=20, tol=1e-3, max_passes=2000))
    assert s.converged
    assert not s.report.notes


def test_many_posterior_samples():
    """Pathwise conditioning: the samples have the mean and the covariance of the posterior."""
    n, count, alpha = 40, 400, 0.3
    A, dense = kernel(n, alpha)
    K = dense - alpha * torch.eye(n, dtype=F)
    y = K[:, 0]
    root = torch.linalg.cholesky(K + 1e-9 * torch.eye(n, dtype=F))
    prior = root @ random(n, count)
    noise = alpha**0.5 * random(n, count, seed=1)
    s = solve(A, y[:, None] - prior - noise, StochasticDualDescent(batch=20, tol=1e-3, max_passes=5000))
    assert s.converged
    samples = prior + K @ s.x
    exact = torch.linalg.inv(dense)
    mean, covariance = K @ exact @ y, K - K @ exact @ K
    deviation = covariance.diagonal().sqrt()
    assert float(((samples.mean(1) - mean) / deviation).abs().max()) < 5 / count**0.5
    ratio = samples.var(1) / covariance.diagonal()
    assert float((ratio - 1).abs().max()) < 6 * (2 / count) ** 0.5


@pytest.mark.parametrize("bad", [{"momentum": 1.0}, {"momentum": -0.1}, {"step": 0.0}])
def test_refusals(bad):
    with pytest.raises(OptionError, match=next(iter(bad))):
        StochasticDualDescent(**bad)

"""Learning hyperparameters: as scikit-learn by factorisation, near its optimum by products."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as sk

from kerngp.errors import OptionError
from kerngp.models.gp.ascent import ascend, updated
from kerngp.models.gp.dense import dense_evidence
from kerngp.models.gp.evidence import Evidence
from kerngp.models.gp.learn import learn
from kerngp.models.gp.maximise import maximise
from kerngp.models.gp.plan import make_gp_plan
from kerngp.models.resolve import hyperparameters

KERNEL = 1.0 * sk.RBF([1.0, 1.0]) + sk.WhiteKernel(0.1)


def data(n):
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, size=(n, 2))
    return X, np.sin(2 * X[:, :1]) + 0.3 * X[:, 1:] + 0.1 * rng.normal(size=(n, 1))


def plan(n, solver="auto"):
    return make_gp_plan(n, 2, hyperparameters=4, solver=solver, subset=60)


def test_dense_learning_is_that_of_scikit_learn():
    X, Y = data(60)
    found = learn(hyperparameters(KERNEL, 2), X, Y, 1e-10, plan(60), n_restarts=1, random_state=3)
    model = GaussianProcessRegressor(KERNEL, n_restarts_optimizer=1, random_state=3).fit(X, Y)
    np.testing.assert_allclose(found.h.theta, model.kernel_.theta, atol=1e-4)
    np.testing.assert_allclose(found.evidence.value, model.log_marginal_likelihood_value_, atol=1e-6)


def test_learning_from_products_ends_near_the_exact_optimum():
    X, Y = data(400)
    h = hyperparameters(KERNEL, 2)
    found = learn(h, torch.from_numpy(X), Y, 1e-10, plan(400, "matrix-free"), random_state=0)
    best = learn(h, X, Y, 1e-10, plan(400)).evidence.value
    assert found.converged
    assert dense_evidence(found.h, X, Y, 1e-10).value > best - 2.0
    rows = [s.rows for s in found.history]
    assert rows[-5:] == [400] * 5 and rows[0] == 60


def test_a_callback_stops_with_the_best_so_far():
    X, Y = data(60)
    seen = []
    found = learn(
        hyperparameters(KERNEL, 2), X, Y, 1e-10, plan(60), callback=lambda s: seen.append(s) or len(seen) == 3
    )
    assert len(seen) == len(found.history) == 3
    assert found.evidence.value == max(s.value for s in seen)


def test_ascent_respects_bounds_and_survives_failures():
    class Point:
        bounds = np.array([[-5.0, 1.0], [-5.0, 5.0]])

        def __init__(self, theta):
            self.theta = np.asarray(theta, dtype=float)

        def at(self, theta):
            return Point(theta)

    def objective(h, gradient):
        d = h.theta - np.array([2.0, 3.0])
        if h.theta[1] > 3.5:
            return Evidence(-np.inf, np.zeros(2), None, 1)
        return Evidence(-50 * float(d @ d), -100 * d, None, 1)

    end = ascend(objective, Point([0.0, 0.0]), 20.0 * np.eye(2), least=1, most=40)
    assert end.converged
    np.testing.assert_allclose(end.h.theta, [1.0, 3.0], atol=0.1)


def test_updates_learn_a_quadratic():
    A = np.array([[3.0, 1.0], [1.0, 2.0]])
    steps = [np.array([1.0, 0.0]), np.array([0.0, 1.0])] * 10
    np.testing.assert_allclose(updated(np.eye(2), [(s, A @ s) for s in steps]), A, atol=1e-2)


def test_refusals():
    f = lambda theta, gradient: (0.0, np.zeros(1))  # noqa: E731
    with pytest.raises(OptionError, match="Unknown optimizer"):
        maximise(f, np.zeros(1), np.array([[0.0, 1.0]]), optimizer="newton")
    with pytest.raises(OptionError, match="all bounds are finite"):
        maximise(f, np.zeros(1), np.array([[0.0, np.inf]]), n_restarts=1)
    with pytest.raises(OptionError, match="needs a kernel with a formula"):
        make_gp_plan(10, 1, solver="matrix-free", has_formula=False)
    with pytest.raises(OptionError, match="two dense matrices"):
        make_gp_plan(100_000, 1, has_formula=False)


def test_plan_says_what_will_happen():
    assert make_gp_plan(4000, 2).dense
    large = make_gp_plan(50_000, 9, hyperparameters=11)
    assert large.solver == "matrix-free" and "start on 1,000 rows" in str(large)

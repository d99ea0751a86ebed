"""KernelRidge: scikit-learn's numbers, three solvers that agree, and errors that name the argument."""

from __future__ import annotations

import logging
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.gaussian_process import kernels as sk
from sklearn.kernel_ridge import KernelRidge as Theirs
from sklearn.metrics.pairwise import pairwise_kernels
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kerngp.engine.expr import Pm, Vi, Vj
from kerngp.engine.ops import dot, exp, sqdist, total
from kerngp.errors import BackendUnavailable, DataError, FormulaError, OptionError, ShapeError, SolveError
from kerngp.models import RBF, FormulaKernel, KernelRidge, Matern, RidgePlan, White
from kerngp.models.pairwise import PAIRWISE
from kerngp.models.ridge.plan import CHOLESKY_ROWS, PCG_ROWS, make_plan
from kerngp.options import options

SOLVERS = ["cholesky", "pcg", "inducing"]


def data(n=131, dim=3, targets=None, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    X = np.abs(rng.standard_normal((n, dim)))
    y = np.sin(X.sum(1)) + 0.1 * rng.standard_normal(n)
    if targets is not None:
        y = np.stack([y * (k + 1) + k for k in range(targets)], 1)
    return X.astype(dtype), y.astype(dtype)


def close(model, X_new, want, rtol=1e-8):
    np.testing.assert_allclose(model.predict(X_new), want, rtol=rtol, atol=rtol * np.abs(want).max())


# ---------------------------------------------------------------- against scikit-learn


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kernel", PAIRWISE)
def test_named_kernels(kernel, solver):
    if solver == "inducing" and kernel in ("sigmoid", "additive_chi2"):
        pytest.skip("not positive semi-definite")
    if solver == "pcg" and kernel in ("sigmoid", "additive_chi2"):
        pytest.skip("conjugate gradients need a positive definite system")
    X, y = data()
    X_new = data(33, seed=1)[0]
    parameters = {"alpha": 0.3, "kernel": kernel, "gamma": 0.4, "degree": 2, "coef0": 0.7}
    with warnings.catch_warnings():  # indefinite kernels: both fall back to least squares
        warnings.simplefilter("ignore")
        theirs = Theirs(**parameters).fit(X, y)
        ours = KernelRidge(**parameters, solver=solver, tol=1e-12).fit(X, y)
    close(ours, X_new, theirs.predict(X_new), 1e-8 if solver == "cholesky" else 1e-6)
    assert ours.solver_ == solver
    if solver != "inducing":
        scale = np.abs(theirs.dual_coef_).max()
        np.testing.assert_allclose(ours.dual_coef_, theirs.dual_coef_, atol=1e-8 * scale)


@pytest.mark.parametrize("kernel", ["rbf", "laplacian", "poly", "sigmoid", "chi2"])
def test_default_of_gamma(kernel):
    X, y = data(40, 5)
    gamma = {"chi2": 1.0}.get(
        kernel
    )  # scikit-learn's KernelRidge hands chi2 the None it cannot multiply with
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = Theirs(kernel=kernel, gamma=gamma).fit(X, y).predict(X)
        close(KernelRidge(kernel=kernel).fit(X, y), X, want, 1e-7)


@pytest.mark.parametrize("degree", [1, 3, 3.0, 2.5, 0])
def test_degree_may_be_any_number(degree):
    X, y = data(40)
    close(
        KernelRidge(kernel="poly", degree=degree).fit(X, y),
        X,
        Theirs(kernel="poly", degree=degree).fit(X, y).predict(X),
    )


def test_gamma_zero_is_a_constant_kernel():
    X, y = data(40)
    close(KernelRidge(kernel="rbf", gamma=0).fit(X, y), X, Theirs(kernel="rbf", gamma=0).fit(X, y).predict(X))


GP = [
    2.0 * sk.RBF([0.5, 1.0, 2.0]) + sk.DotProduct(0.5),
    sk.Matern(0.8, nu=1.5) * sk.RationalQuadratic(1.2, 0.7),
    sk.ExpSineSquared(0.9, 2.0),  # no formula with three columns: dense
    sk.RBF(0.7) + sk.WhiteKernel(0.5),  # scikit-learn drops the noise here
]


@pytest.mark.parametrize("kernel", GP, ids=repr)
def test_kernel_objects_of_scikit_learn(kernel):
    X, y = data(60)
    X_new = data(7, seed=1)[0]
    close(
        KernelRidge(alpha=0.1, kernel=kernel).fit(X, y),
        X_new,
        Theirs(alpha=0.1, kernel=kernel).fit(X, y).predict(X_new),
    )


def weird_kernel(a, b, power=1.0):
    return float(min(a.sum(), b.sum())) ** power


def test_function_of_two_rows():
    X, y = data(40)
    X_new = data(7, seed=1)[0]
    for parameters in ({}, {"kernel_params": {"power": 0.5}}):
        theirs = Theirs(kernel=weird_kernel, **parameters).fit(X, y)
        close(KernelRidge(kernel=weird_kernel, **parameters).fit(X, y), X_new, theirs.predict(X_new))
    model = KernelRidge(kernel=weird_kernel, solver="inducing", tol=1e-12, alpha=0.5).fit(X, y)
    close(model, X_new, Theirs(kernel=weird_kernel, alpha=0.5).fit(X, y).predict(X_new), 1e-5)


def test_numpy_functions_of_two_rows_are_not_taken_for_formulas():
    X, y = data(30)
    for function in (np.dot, lambda a, b: np.minimum(a, b).sum(), lambda a, b: np.exp(-np.sum((a - b) ** 2))):
        close(KernelRidge(kernel=function).fit(X, y), X, Theirs(kernel=function).fit(X, y).predict(X))


@pytest.mark.parametrize("weight", ["random", "some zero", "float", "list"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_sample_weight(solver, weight):
    X, y = data(61, targets=2)
    X_new = data(7, seed=1)[0]
    rng = np.random.default_rng(5)
    w = {"random": rng.uniform(0.1, 2, 61), "some zero": rng.integers(0, 3, 61).astype(float), "float": 0.3,
         "list": rng.uniform(0.1, 2, 61).tolist()}[weight]  # fmt: skip
    reference = np.asarray(w) if weight == "list" else w
    theirs = Theirs(alpha=0.2, kernel="rbf").fit(X, y, sample_weight=reference)
    ours = KernelRidge(alpha=0.2, kernel="rbf", solver=solver, tol=1e-12).fit(X, y, sample_weight=w)
    close(ours, X_new, theirs.predict(X_new), 1e-8 if solver != "inducing" else 1e-6)
    if solver != "inducing":
        np.testing.assert_allclose(ours.dual_coef_, theirs.dual_coef_, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_alpha_for_each_target(solver):
    X, y = data(61, targets=3)
    alpha = np.array([0.1, 2.0, 0.1])
    theirs = Theirs(alpha=alpha, kernel="rbf").fit(X, y)
    ours = KernelRidge(alpha=alpha, kernel="rbf", solver=solver, tol=1e-12).fit(X, y)
    close(ours, X, theirs.predict(X), 1e-6)
    assert ours.solution_.residual_norms.shape == (3,) and ours.dual_coef_.shape[1] == 3


@pytest.mark.parametrize("solver", ["cholesky", "pcg"])
@pytest.mark.parametrize("weighted", [False, True])
def test_precomputed(solver, weighted):
    X, y = data(61, targets=2)
    X_new = data(7, seed=1)[0]
    w = np.linspace(0.0, 2.0, 61) if weighted else None
    K, K_new = (pairwise_kernels(a, X, metric="rbf") for a in (X, X_new))
    kept = K.copy()
    ours = KernelRidge(kernel="precomputed", solver=solver, tol=1e-12).fit(K, y, w)
    close(ours, K_new, Theirs(kernel="rbf").fit(X, y, w).predict(X_new))
    np.testing.assert_array_equal(K, kept)


@pytest.mark.parametrize("make", [scipy.sparse.csr_matrix, scipy.sparse.csc_array, scipy.sparse.coo_matrix])
def test_sparse_rows_are_made_dense(make):
    X, y = data(50)
    X[X < 0.5] = 0
    ours = KernelRidge(kernel="rbf").fit(make(X), y)
    close(ours, make(X), Theirs(kernel="rbf").fit(X, y).predict(X))


def test_singular_system_falls_back_to_least_squares():
    X, y = data(60)
    with pytest.warns(UserWarning, match="Singular matrix in solving dual problem. Using least-squares"):
        ours = KernelRidge(alpha=0).fit(X, y)
    want = X @ np.linalg.lstsq(X, y, rcond=None)[0]
    close(ours, X, want, 1e-7)
    assert ours.solution_.method == "least squares" and not ours.solution_.converged


# ---------------------------------------------------------------- our own kernels and formulas


def gaussian(x, y, width=1.0):
    return exp(-sqdist(x / width, y / width) / 2)


def test_formulas_in_all_spellings_agree():
    X, y = data(80)
    want = KernelRidge(alpha=0.1, kernel=RBF(0.7)).fit(X, y).predict(X)
    spellings = [
        {"kernel": gaussian, "kernel_params": {"width": 0.7}},
        {"kernel": gaussian, "kernel_params": {"width": [0.7, 0.7, 0.7]}},
        {"kernel": gaussian(Vi(0, 3), Vj(1, 3), 0.7)},
        {"kernel": FormulaKernel(gaussian, {"width": 0.7})},
        {"kernel": sk.RBF(0.7)},
        {"kernel": "rbf", "gamma": 1 / (2 * 0.7**2)},
    ]
    for spelling in spellings:
        model = KernelRidge(alpha=0.1, **spelling).fit(X, y)
        close(model, X, want, 1e-9)
        again = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_solvers_agree_on_our_kernels():
    X, y = data(150)
    kernel = 2.0 * RBF([0.5, 1.0, 2.0]) * Matern(1.5, active_dims=[0]) + 0.5
    models = [KernelRidge(alpha=0.1, kernel=kernel, solver=s, tol=1e-10).fit(X, y) for s in SOLVERS]
    for model in models[1:]:
        close(model, X, models[0].predict(X), 1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_white_noise_acts_like_alpha(solver):
    X, y = data(80)
    w = np.random.default_rng(0).uniform(0.5, 2, 80)
    ours = KernelRidge(alpha=0.1, kernel=RBF() + White(0.4), solver=solver, tol=1e-10).fit(X, y, w)
    want = KernelRidge(alpha=0.5, kernel=RBF(), solver="cholesky").fit(X, y, w)
    close(ours, X, want.predict(X), 1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_white_noise_that_depends_on_the_point(solver):
    X, y = data(80)
    kernel = RBF() + FormulaKernel(lambda x, y: dot(x, y)) * White(0.3)
    ours = KernelRidge(alpha=0.1, kernel=kernel, solver=solver, tol=1e-10).fit(X, y)
    K = sk.RBF()(X)
    c = np.linalg.solve(K + np.diag(0.1 + 0.3 * (X**2).sum(1)), y)
    close(ours, X, K @ c, 1e-6)


# ---------------------------------------------------------------- solvers


def test_fewer_centers_than_points():
    X, y = data(400)
    full = KernelRidge(alpha=0.1, kernel=RBF()).fit(X, y)
    few = KernelRidge(alpha=0.1, kernel=RBF(), n_centers=120).fit(X, y)
    assert (
        few.solver_ == "inducing" and few.X_fit_.shape == (len(few.dual_coef_), 3) and len(few.X_fit_) <= 120
    )
    error = np.abs(few.predict(X) - full.predict(X)).max()
    assert 1e-12 < error < 0.05
    # against the normal equations with these centers
    Z = few.X_fit_
    Knm, Kmm = sk.RBF()(X, Z), sk.RBF()(Z)
    c = np.linalg.lstsq(np.vstack([Knm, np.sqrt(0.1) * np.linalg.cholesky(Kmm + 1e-10 * np.eye(len(Z))).T]),
                        np.concatenate([y, np.zeros(len(Z))]), rcond=None)[0]  # fmt: skip
    close(few, X, Knm @ c, 1e-4)


def test_more_centers_than_rows_is_said():
    X, y = data(30)
    with pytest.warns(UserWarning, match="n_centers=50 exceeds the 30 rows"):
        KernelRidge(kernel="rbf", n_centers=50).fit(X, y)


def test_pcg_beyond_the_dense_threshold(monkeypatch):
    X, y = data(700)
    monkeypatch.setattr("kerngp.models.ridge.plan.CHOLESKY_ROWS", 500)
    ours = KernelRidge(alpha=0.1, kernel="rbf").fit(X, y)
    assert ours.solver_ == "pcg" and ours.solution_.converged and ours.n_iter_ >= 1
    close(ours, X, Theirs(alpha=0.1, kernel="rbf").fit(X, y).predict(X), 1e-4)


def test_results_repeat_unless_asked_otherwise():
    X, y = data(300)
    make = lambda **p: KernelRidge(kernel="rbf", n_centers=20, **p).fit(X, y).X_fit_  # noqa: E731
    np.testing.assert_array_equal(make(), make())
    np.testing.assert_array_equal(make(random_state=3), make(random_state=3))
    assert not np.array_equal(make(random_state=3), make(random_state=4))
    assert not np.array_equal(make(random_state=None), make(random_state=None))


def test_convergence_warning_names_the_residual():
    X, y = data(300)
    with pytest.warns(ConvergenceWarning, match=r"solver='pcg'.*max_iter.*residual"):
        model = KernelRidge(alpha=1e-6, kernel="rbf", solver="pcg", max_iter=2, preconditioner_rank=0).fit(
            X, y
        )
    assert model.n_iter_ == 2 and not model.solution_.converged


def test_callback_sees_progress_and_may_stop():
    X, y = data(300)
    seen = []
    KernelRidge(
        alpha=1e-3,
        kernel="rbf",
        solver="pcg",
        preconditioner_rank=5,
        callback=lambda p: seen.append(p.residual),
    ).fit(X, y)
    assert len(seen) > 3 and seen[-1] < 1e-5

    def stop(p):
        return p.iteration == 3

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = KernelRidge(alpha=1e-3, kernel="rbf", solver="pcg", preconditioner_rank=5, callback=stop).fit(
            X, y
        )
    assert model.n_iter_ == 3


def test_float32_reaches_the_tolerance_where_float32_products_do_not():
    X, y = data(300, dtype=np.float32)
    model = KernelRidge(alpha=1e-2, kernel="rbf", solver="pcg", tol=1e-8).fit(X, y)
    assert model.solution_.converged
    theirs = Theirs(alpha=1e-2, kernel="rbf").fit(X.astype(np.float64), y.astype(np.float64))
    np.testing.assert_allclose(
        model.dual_coef_, theirs.dual_coef_, atol=1e-4 * np.abs(theirs.dual_coef_).max()
    )
    np.testing.assert_allclose(model.predict(X), theirs.predict(X), atol=1e-3)


# ---------------------------------------------------------------- the plan


def test_plan_says_what_fit_does(caplog):
    X, y = data(100, targets=2)
    model = KernelRidge(kernel="rbf")
    plan = model.plan(X, y)
    assert isinstance(plan, RidgePlan) and (plan.rows, plan.features, plan.targets) == (100, 3, 2)
    with caplog.at_level(logging.INFO, logger="kerngp"):
        model.fit(X, y)
    assert model.plan_ == plan and model.solver_ == plan.solver == "cholesky"
    assert "KernelRidge.fit: 100 rows x 3 features, 2 target(s): solver=cholesky" in caplog.text


@pytest.mark.parametrize(
    ("rows", "arguments", "solver"),
    [
        (CHOLESKY_ROWS, {}, "cholesky"),
        (CHOLESKY_ROWS + 1, {}, "pcg"),
        (PCG_ROWS, {}, "pcg"),
        (PCG_ROWS + 1, {}, "inducing"),
        (500, {"n_centers": 50}, "inducing"),
        (500, {"solver": "pcg", "n_centers": 50}, "pcg"),
        (3000, {"memory_limit": 1 << 20}, "pcg"),
        (9000, {"dense": True, "memory_limit": 1 << 32}, "cholesky"),
    ],
)
def test_choice_of_the_solver(rows, arguments, solver):
    plan = make_plan(rows, 5, **arguments)
    assert plan.solver == solver
    assert (plan.n_centers > 0) == (solver == "inducing") and (plan.rank > 0) == (solver == "pcg")
    assert plan.memory > 0 and plan.pairs > 0 and f"{rows:,} rows" in str(plan) and solver in str(plan)


def test_plan_of_a_million_rows():
    with options(memory_limit=1 << 33):
        plan = KernelRidge().plan((1_000_000, 20))
        assert plan.n_centers == 10_000
        assert "10,000 inducing points" in str(plan) and "GiB" in str(plan)
    assert KernelRidge().plan((1_000_000, 20)).memory <= 1 << 30  # fewer centers in the default limit


def test_a_plan_that_does_not_fit_is_refused():
    with pytest.raises(OptionError, match=r"solver='cholesky' needs .* GiB .* use solver='pcg' or n_centers"):
        KernelRidge(solver="cholesky").plan((50_000, 3))
    with pytest.raises(OptionError, match="fewer n_centers"):
        KernelRidge(n_centers=50_000).plan((100_000, 3))
    with options(memory_limit=1 << 36):
        assert KernelRidge(solver="cholesky").plan((50_000, 3)).memory < 1 << 36


# ---------------------------------------------------------------- arrays and scikit-learn's machinery


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_dtypes(dtype):
    X, y = data(40)
    X = (X * 10).astype(dtype)
    model = KernelRidge(kernel="rbf", gamma=1e-3).fit(X, y)
    want = np.float32 if dtype == np.float32 else np.float64
    assert model.dual_coef_.dtype == model.X_fit_.dtype == model.predict(X).dtype == want


@pytest.mark.parametrize("solver", SOLVERS)
def test_torch_in_torch_out(solver):
    X, y = data(40, targets=2)
    model = KernelRidge(kernel="rbf", solver=solver).fit(torch.tensor(X, requires_grad=True), torch.tensor(y))
    out = model.predict(torch.tensor(X))
    assert isinstance(out, torch.Tensor) and out.dtype == torch.float64 and out.shape == (40, 2)
    np.testing.assert_array_equal(out.numpy(), model.predict(X))
    half = model.predict(torch.tensor(X).half())
    assert isinstance(half, torch.Tensor)


def test_data_frames_carry_names():
    X, y = data(40)
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    model = KernelRidge(kernel="rbf").fit(frame, pd.Series(y))
    assert list(model.feature_names_in_) == ["a", "b", "c"] and model.n_features_in_ == 3
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[["b", "a", "c"]])


def test_model_selection_and_pipelines():
    X, y = data(90)
    grid = {"kernel": [RBF(0.5), RBF(2.0), "laplacian"], "alpha": [1e-3, 1.0]}
    search = GridSearchCV(KernelRidge(), grid, cv=3).fit(X, y)
    assert search.best_score_ > 0.5
    assert cross_val_score(make_pipeline(StandardScaler(), KernelRidge(kernel="rbf")), X, y).mean() > 0.3
    K = pairwise_kernels(X, metric="rbf")
    scores = cross_val_score(KernelRidge(kernel="precomputed"), K, y)
    np.testing.assert_allclose(scores, cross_val_score(Theirs(kernel="precomputed"), K, y))
    model = clone(KernelRidge(kernel=2.0 * RBF(0.5), alpha=0.3, solver="pcg"))
    assert model.kernel == 2.0 * RBF(0.5) and "RBF(lengthscale=0.5)" in repr(model)


def test_memmap_and_strides(tmp_path):
    X, y = data(60, 4)
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    want = KernelRidge(kernel="rbf").fit(X, y).predict(X)
    close(KernelRidge(kernel="rbf").fit(mapped, y), mapped, want, 1e-12)
    wide = np.zeros((60, 8))
    wide[:, ::2] = X
    close(KernelRidge(kernel="rbf").fit(wide[:, ::2], y), np.asfortranarray(X), want, 1e-12)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("solver", SOLVERS)
def test_one_or_two_points(solver, n):
    X, y = data(n)
    close(
        KernelRidge(kernel="rbf", solver=solver, tol=1e-10).fit(X, y),
        X,
        Theirs(kernel="rbf").fit(X, y).predict(X),
        1e-7,
    )


@pytest.mark.parametrize("solver", SOLVERS)
def test_hyperparameters_that_ask_for_gradients(solver):
    X, y = data(40)
    kernel = RBF(torch.tensor(0.7, dtype=torch.float64, requires_grad=True)) + White(torch.tensor(0.1))
    model = KernelRidge(kernel=kernel, solver=solver, tol=1e-10).fit(X, y)
    close(model, X, KernelRidge(kernel=RBF(0.7), alpha=1.1).fit(X, y).predict(X), 1e-6)


def test_predict_in_one_pass(launches):
    X, y = data(200, targets=3)
    model = KernelRidge(kernel=RBF() + Matern(2.5)).fit(X, y)
    launches.clear()
    model.predict(X)
    assert launches.compiled == 1 and launches.reference == 0


# ---------------------------------------------------------------- refusals

X0, y0 = data(20)
NAN = X0.copy()
NAN[3, 1] = np.nan
BAD_FIT = [
    ({"alpha": -1.0}, {}, OptionError, r"alpha=-1\.0; expected finite numbers >= 0"),
    ({"alpha": np.nan}, {}, OptionError, "alpha=nan"),
    ({"alpha": "x"}, {}, OptionError, "alpha='x'"),
    (
        {"alpha": [1.0, 2.0]},
        {},
        ShapeError,
        r"alpha has shape \(2,\); expected a number or one for each of the 1 targets",
    ),
    ({"solver": "svd"}, {}, OptionError, "solver='svd' is unknown; expected one of"),
    ({"gamma": -0.1}, {}, OptionError, r"gamma=-0\.1; expected a number >= 0"),
    ({"degree": -1}, {}, OptionError, "degree=-1"),
    ({"coef0": np.inf}, {}, OptionError, "coef0=inf; expected a finite number"),
    ({"tol": 0}, {}, OptionError, "tol=0; expected a number between 0 and 1"),
    ({"max_iter": 0}, {}, OptionError, "max_iter=0; expected an integer of at least 1"),
    ({"n_centers": 2.5}, {}, OptionError, r"n_centers=2\.5; expected an integer"),
    ({"preconditioner_rank": -1}, {}, OptionError, "preconditioner_rank=-1"),
    ({"kernel": "gauss"}, {}, OptionError, "kernel='gauss' is unknown; expected one of additive_chi2"),
    ({"kernel": RBF}, {}, OptionError, r"kernel=RBF is a class; pass an instance, RBF\(\)"),
    ({"kernel": 3}, {}, OptionError, "kernel=3 is a int"),
    ({"kernel": Vi(0, 3) * Vj(1, 3)}, {}, FormulaError, "has dim 3; expected 1"),
    ({"kernel": total(Vi(0, 2) * Vj(1, 2))}, {}, FormulaError, r"uses Vi\(0,2\), Vj\(1,2\); with 3 columns"),
    ({"kernel": Pm(2, 1) * dot(Vi(0, 3), Vj(1, 3))}, {}, FormulaError, r"uses Pm\(2,1\)"),
    ({"kernel": RBF([1.0, 2.0])}, {}, ShapeError, "lengthscale of RBF has 2 components"),
    ({"kernel": "chi2"}, {"X": -X0}, DataError, "Negative values in data passed to kernel='chi2'"),
    ({"kernel": "precomputed"}, {}, ShapeError, r"shape \(20, 3\) for 20 rows; fit needs \(20, 20\)"),
    ({"kernel": "precomputed", "solver": "inducing"}, {"X": np.eye(20)}, OptionError, "has none"),
    ({}, {"X": NAN}, ValueError, "Input X contains NaN"),
    ({}, {"y": np.full(20, np.inf)}, ValueError, "Input y contains infinity"),
    ({}, {"y": y0[:-1]}, ValueError, "inconsistent numbers of samples"),
    ({}, {"X": X0[:, 0]}, ValueError, "Expected 2D array, got 1D array"),
    ({}, {"X": X0[:0], "y": y0[:0]}, ValueError, r"Found array with 0 sample"),
    ({}, {"X": X0 + 1j}, ValueError, "Complex data not supported"),
    ({}, {"sample_weight": np.zeros(20)}, DataError, "sample_weight is zero for all rows"),
    ({}, {"sample_weight": -np.ones(20)}, DataError, "sample_weight has 20 negative entries"),
    ({}, {"sample_weight": np.ones(19)}, ShapeError, r"sample_weight has shape \(19,\); expected \(20,\)"),
    ({}, {"sample_weight": np.full(20, np.nan)}, ValueError, "Input sample_weight contains NaN"),
]  # fmt: skip


@pytest.mark.parametrize(("parameters", "arguments", "error", "message"), BAD_FIT)
def test_bad_input(parameters, arguments, error, message):
    with pytest.raises(error, match=message):
        KernelRidge(**parameters).fit(**({"X": X0, "y": y0} | arguments))


def test_dense_kernels_and_sparse_rows_stop_at_the_memory_limit():
    X = scipy.sparse.random_array((400, 400), density=0.01, rng=0).tocsr()
    with options(memory_limit=1 << 20):
        with pytest.raises(ShapeError, match=r"X is a sparse matrix of shape \(400, 400\)"):
            KernelRidge().fit(X, np.ones(400))
        with pytest.raises(
            ShapeError,
            match="matrix of the function 'weird_kernel' takes .* MiB.* write the kernel as a formula",
        ):
            KernelRidge(kernel=weird_kernel, solver="pcg").fit(X.toarray(), np.ones(400))
        with pytest.raises((ShapeError, OptionError), match="limit"):
            KernelRidge(kernel=weird_kernel).fit(X.toarray(), np.ones(400))
        model = KernelRidge(kernel=weird_kernel).fit(data(200)[0], np.ones(200))
        rows = data(1000, seed=2)[0]  # 1,000 x 200 entries: predictions come in blocks
        streamed = model.predict(rows)
    np.testing.assert_allclose(streamed, model.predict(rows), rtol=1e-12)


def test_a_kernel_that_overflows_is_an_error_not_a_warning():
    X, y = data(30)
    with pytest.raises(SolveError, match="the kernel overflows or is not defined"):
        KernelRidge(kernel="poly", degree=400, coef0=1e3).fit(X * 1e3, y)


def test_devices():
    with pytest.raises(OptionError, match="device='gpu' is no device"):
        KernelRidge(device="gpu").fit(X0, y0)
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailable, match="device='cuda': torch sees no CUDA device"):
            KernelRidge(device="cuda").fit(X0, y0)
    assert KernelRidge(device="cpu").fit(X0, y0).predict(X0).shape == (20,)


def test_predict_before_fit_and_with_other_columns():
    with pytest.raises(NotFittedError):
        KernelRidge().predict(X0)
    with pytest.raises(ValueError, match="X has 2 features, but KernelRidge is expecting 3"):
        KernelRidge().fit(X0, y0).predict(X0[:, :2])

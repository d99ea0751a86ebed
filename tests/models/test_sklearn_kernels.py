"""Kernel objects of scikit-learn as formulas: every class, every combination, values and white noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import kernels as sk

from kerngp.errors import DataError, OptionError
from kerngp.models import RBF, ActiveDims, Constant, ExpSineSquared, KernelRidge, Matern, Periodic, White
from kerngp.models.pairwise import PAIRWISE
from kerngp.models.resolve import MatrixKernel, check_domain, resolve_kernel
from kerngp.models.sklearn_kernels import translate
from kerngp.options import options

ARD = [0.5, 1.0, 2.0, 3.0]
WHITE = sk.WhiteKernel(0.3)

TRANSLATED = [
    sk.ConstantKernel(2.5),
    WHITE,
    sk.WhiteKernel(0.0, "fixed"),
    sk.RBF(0.5),
    sk.RBF([0.5]),
    sk.RBF(ARD),
    sk.Matern(0.5, nu=0.5),
    sk.Matern(ARD, nu=1.5),
    sk.Matern(tuple(ARD), nu=2.5),
    sk.Matern(0.5, nu=np.inf),
    sk.RationalQuadratic(0.8, 1.4),
    sk.ExpSineSquared(0.8, 1.4),
    sk.DotProduct(0.7),
    sk.DotProduct(0.0, "fixed"),
    sk.RBF(0.5) ** 2,
    sk.RationalQuadratic() ** 0.5,
    sk.DotProduct() ** 3,
    2.0 * sk.RBF(0.5) + sk.DotProduct(0.7),
    sk.Matern(ARD, nu=2.5) * sk.RationalQuadratic(0.8, 1.4),
    sk.RBF() + WHITE,
    WHITE + WHITE,
    (sk.RBF() + WHITE) * (sk.DotProduct() + 2.0 * WHITE),
    (sk.RBF() + WHITE) ** 2 * sk.Matern(nu=0.5) + WHITE**0.5,
    ((sk.RBF() * 2 + WHITE) ** 2 + sk.ExpSineSquared(2.0, 3.0)) ** 1.5,
    ActiveDims(sk.RBF([0.5, 2.0]), [3, 1]) * sk.Matern() + ActiveDims(sk.ExpSineSquared() + WHITE, [2]),
    ActiveDims(ActiveDims(sk.RBF(), [1]) + sk.PairwiseKernel(metric="poly"), [0, 3]),
    *(sk.PairwiseKernel(0.6, metric=m) for m in PAIRWISE),
    sk.PairwiseKernel(0.6, metric="poly", pairwise_kernels_kwargs={"degree": 2, "coef0": 0.5}),
    sk.PairwiseKernel(0.6, metric="poly", pairwise_kernels_kwargs={"degree": 2.5}),
    sk.PairwiseKernel(0.6, metric="rbf", pairwise_kernels_kwargs={"degree": 2}),  # scikit-learn ignores it
]  # fmt: skip
IDS = [f"{k}-{theirs!r}"[:60] for k, theirs in enumerate(TRANSLATED)]


def data(m=31, n=7):
    """Non-negative points (chi2 needs them); the first rows coincide."""
    rng = np.random.default_rng(5)
    x, y = rng.uniform(0.1, 2.0, (m, 4)), rng.uniform(0.1, 2.0, (n, 4))
    y[0] = x[0]
    return x, y


def equal(got, want):
    np.testing.assert_allclose(np.asarray(got), want, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("theirs", TRANSLATED, ids=IDS)
@pytest.mark.parametrize("given", [False, True], ids=["", "theta"])
def test_the_same_function(theirs, given):
    x, y = data()
    theta = torch.tensor(np.asarray(theirs.theta)) if given else None
    ours = translate(theirs, 4, theta)
    with options(backend="reference"):  # nothing to compile
        equal(ours(x, y).dense(), theirs(x, y))
        equal(ours(x).dense(), theirs(x))  # white noise counts
        equal(ours(x).diag(), theirs.diag(x))
        equal(ours(x, x).dense(), theirs(x, x))  # and here it does not
        equal(translate(theirs, 4, theta, noise=False)(x).dense(), theirs(x, x))


@pytest.mark.parametrize(
    "theirs",
    [
        sk.Matern(nu=1.0),
        sk.RBF() + sk.Matern(nu=0.7) * 2.0,
        sk.PairwiseKernel(metric=lambda a, b: float(a @ b)),
        sk.PairwiseKernel(metric="precomputed"),
        sk.RBF() ** -1,
        sk.RBF() ** 0,
        type("Mine", (sk.RBF,), {"__call__": lambda self, X, Y=None, eval_gradient=False: X @ X.T})(),
        type("Twice", (sk.Sum,), {})(sk.RBF(), sk.RBF()),
    ],
    ids=lambda k: type(k).__name__,
)
def test_no_formula(theirs):
    assert translate(theirs, 4) is None
    assert isinstance(resolve_kernel(theirs, 4), MatrixKernel)


def test_what_is_no_kernel_for_scikit_learn_either():
    assert translate(sk.RationalQuadratic([1.0, 2.0]), 2) is None
    several = sk.CompoundKernel([sk.RBF(), sk.RBF(2.0)])
    assert translate(several, 2) is None
    with pytest.raises(OptionError, match="holds 2 kernels side by side; pass one of them"):
        resolve_kernel(several, 2)


def test_histograms_are_not_negative():
    x, _ = data()
    x[:, 1] *= -1.0
    chi2 = sk.PairwiseKernel(metric="chi2")
    check_domain(ActiveDims(chi2, [0, 2]) + sk.RBF(), x)
    for kernel in (2.0 * chi2, ActiveDims(ActiveDims(chi2, [1]) ** 2, [0, 1])):
        with pytest.raises(DataError, match="Negative values in data passed to kernel='chi2'"):
            check_domain(kernel, x)
        with pytest.raises(DataError, match="Negative values"):
            KernelRidge(kernel=kernel).fit(x, x[:, 0])


def test_translations_are_the_simplest():
    assert translate(2.0 * sk.RBF(0.5), 3) == Constant(2.0) * RBF(0.5)
    assert translate(sk.Matern(0.5, nu=2.5) + WHITE, 3) == Matern(2.5, 0.5) + White(0.3)
    assert translate(WHITE + sk.RBF(), 3, noise=False) == RBF()
    assert translate(sk.ExpSineSquared(), 1) == Periodic()
    assert translate(sk.ExpSineSquared(), 2) == ExpSineSquared()
    assert translate(ActiveDims(sk.ExpSineSquared(), [1]), 2) == Periodic(active_dims=[1])


def test_periodic_of_one_column():
    x, y = data()
    theirs = sk.ExpSineSquared(0.8, 1.4)
    equal(translate(theirs, 1)(x[:, :1], y[:, :1]).dense(), theirs(x[:, :1], y[:, :1]))


def test_hyperparameters_are_cut_from_theta_and_fixed_ones_stay():
    kernel = sk.ConstantKernel(2.0, "fixed") * sk.RationalQuadratic(0.8, 1.4, alpha_bounds="fixed")
    kernel = kernel + ActiveDims(sk.RBF([0.5, 2.0]), [0, 2]) ** 2
    theta = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    same = kernel.clone_with_theta(theta.numpy())
    x, y = data()
    equal(translate(kernel, 4, theta)(x, y).dense(), same(x, y))


@pytest.mark.parametrize("n", [1, 2, 31, 300])
def test_sizes_and_float32(n):
    x, y = data(n, 33)
    theirs = 2.0 * sk.Matern(ARD) * sk.ExpSineSquared(2.0, 3.0) + sk.DotProduct() ** 2
    b = np.random.default_rng(0).standard_normal((33, 2))
    got = translate(theirs, 4)(x, y) @ b
    np.testing.assert_allclose(got, theirs(x, y) @ b, rtol=1e-10, atol=1e-11)
    single = translate(theirs, 4)(x.astype(np.float32), y.astype(np.float32)) @ b.astype(np.float32)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, theirs(x, y) @ b, rtol=1e-4, atol=1e-3)


def test_estimators_outside_gaussian_processes_drop_the_noise_as_scikit_learn_does():
    x, _ = data()
    y = np.sin(x.sum(1))
    clean = KernelRidge(alpha=0.1, kernel=sk.RBF()).fit(x, y)
    noisy = KernelRidge(alpha=0.1, kernel=sk.RBF() + WHITE).fit(x, y)
    np.testing.assert_array_equal(noisy.dual_coef_, clean.dual_coef_)


def test_columns_in_an_estimator():
    x, new = data()
    y = np.sin(x.sum(1))
    some = KernelRidge(alpha=0.1, kernel=ActiveDims(sk.RBF([0.5, 2.0]), [3, 1])).fit(x, y)
    plain = KernelRidge(alpha=0.1, kernel=sk.RBF([0.5, 2.0])).fit(x[:, [3, 1]], y)
    np.testing.assert_allclose(some.predict(new), plain.predict(new[:, [3, 1]]), rtol=1e-10)

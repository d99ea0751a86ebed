"""Kernel objects: values against scikit-learn in float64, algebra, gradients, and clear refusals."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.gaussian_process import kernels as sk
from sklearn.metrics.pairwise import polynomial_kernel

from kerngp.engine.ops import exp, sqdist, total
from kerngp.errors import DTypeError, FormulaError, OptionError, ShapeError
from kerngp.models import (
    RBF,
    Cauchy,
    Constant,
    ExpSineSquared,
    FormulaKernel,
    Kernel,
    Linear,
    Matern,
    Periodic,
    Polynomial,
    Product,
    RationalQuadratic,
    Scale,
    Sum,
    White,
)
from kerngp.models.kernel_base import Atom
from kerngp.models.kernel_matrix import white_noise
from kerngp.options import options

ARD = [0.5, 1.0, 2.0, 0.8]


def data(m=31, n=7, dim=4):
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((m, dim)), rng.standard_normal((n, dim))
    y[0] = x[0]
    return x, y


def cauchy(lengthscale):
    return lambda x, y=None: sk.RationalQuadratic(lengthscale / 2**0.5, 1.0)(x, y)


# (ours, a function (x, y=None) -> matrix by scikit-learn)
PAIRS = [
    (RBF(0.7), sk.RBF(0.7)),
    (RBF(ARD), sk.RBF(ARD)),
    (RBF(np.array(ARD)), sk.RBF(ARD)),
    (RBF(torch.tensor(ARD, dtype=torch.float64)), sk.RBF(ARD)),
    (Matern(0.5, 0.7), sk.Matern(0.7, nu=0.5)),
    (Matern(1.5, ARD), sk.Matern(ARD, nu=1.5)),
    (Matern(nu=2.5, lengthscale=ARD), sk.Matern(ARD, nu=2.5)),
    (RationalQuadratic(0.7, 2.5), sk.RationalQuadratic(0.7, 2.5)),
    (RationalQuadratic(lengthscale=1.3, alpha=0.2), sk.RationalQuadratic(1.3, 0.2)),
    (Cauchy(1.3), cauchy(1.3)),
    (Linear(), sk.DotProduct(0.0)),
    (Linear(ARD), lambda x, y=None: (x * ARD) @ (x if y is None else y).T),
    (Linear() + Constant(4.0), sk.DotProduct(2.0)),
    (Polynomial(3, 0.5, 2.0), lambda x, y=None: polynomial_kernel(x, y, 3, 0.5, 2.0)),
    (Constant(2.5), sk.ConstantKernel(2.5)),
    (White(0.3), sk.WhiteKernel(0.3)),
    (RBF(0.7) + White(0.3), sk.RBF(0.7) + sk.WhiteKernel(0.3)),
    (2.0 * RBF(ARD) * Matern(1.5) + 3.0, 2.0 * sk.RBF(ARD) * sk.Matern(nu=1.5) + 3.0),
    (
        (RBF() + White(0.2)) * (Matern(2.5) + White(0.4)),
        (sk.RBF() + sk.WhiteKernel(0.2)) * (sk.Matern(nu=2.5) + sk.WhiteKernel(0.4)),
    ),
    (White(0.5) * White(0.5) * Linear(), sk.WhiteKernel(0.5) * sk.WhiteKernel(0.5) * sk.DotProduct(0.0)),
    (ExpSineSquared(0.7, 2.5), sk.ExpSineSquared(0.7, 2.5)),
    (Linear() ** 3, sk.DotProduct(0.0) ** 3),
    (RBF(0.7) ** 0.5 * 2.0, 2.0 * sk.RBF(0.7) ** 0.5),
    (White(0.3) ** 2.5, sk.WhiteKernel(0.3) ** 2.5),
    ((Linear() + White(0.3)) ** 1, (sk.DotProduct(0.0) + sk.WhiteKernel(0.3)) ** 1),
    ((RBF() * 2 + White(0.3)) ** 4, (2 * sk.RBF() + sk.WhiteKernel(0.3)) ** 4),
    ((RBF() + White(0.3)) ** 1.5 + RBF(), (sk.RBF() + sk.WhiteKernel(0.3)) ** 1.5 + sk.RBF()),
]  # fmt: skip
IDS = [f"{k}-{ours!r}"[:50] for k, (ours, _) in enumerate(PAIRS)]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=IDS)
def test_matrix_equals_scikit_learn(ours, theirs):
    x, y = data()
    np.testing.assert_allclose(ours(x, y).dense(), theirs(x, y), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(ours(x).dense(), theirs(x), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(ours(x).diag(), np.diag(theirs(x)), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=IDS)
def test_product_equals_scikit_learn(ours, theirs):
    x, y = data(33, 200)
    b, c = np.random.default_rng(0).standard_normal((200, 3)), np.ones(33)
    np.testing.assert_allclose(ours(x, y) @ b, theirs(x, y) @ b, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(ours(x, y).T @ c, theirs(x, y).T @ c, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(ours(x) @ c, theirs(x) @ c, rtol=1e-10, atol=1e-11)


def test_periodic_equals_scikit_learn_in_one_dimension_and_multiplies_over_dimensions():
    x, y = data()
    one = sk.ExpSineSquared(0.7, 2.5)
    np.testing.assert_allclose(
        Periodic(0.7, 2.5)(x[:, :1], y[:, :1]).dense(), one(x[:, :1], y[:, :1]), rtol=1e-11
    )
    product = np.prod([one(x[:, [d]], y[:, [d]]) for d in range(4)], axis=0)
    np.testing.assert_allclose(Periodic(0.7, 2.5)(x, y).dense(), product, rtol=1e-10)


@pytest.mark.parametrize(
    "dims", [[2], [1, 2], [0, 3], [3, 0, 1], (0, 1, 2, 3), 2, range(1, 3), torch.tensor([1, 3])]
)
def test_active_dims(dims):
    x, y = data()
    chosen = np.atleast_1d(np.asarray(dims))
    got = (Matern(1.5, 0.6, active_dims=dims) * RBF(1.1))(x, y).dense()
    want = sk.Matern(0.6, nu=1.5)(x[:, chosen], y[:, chosen]) * sk.RBF(1.1)(x, y)
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_active_dims_take_one_lengthscale_each_in_their_order():
    x, y = data()
    got = RBF([0.5, 3.0], active_dims=[3, 1])(x, y).dense()
    np.testing.assert_allclose(got, sk.RBF([0.5, 3.0])(x[:, [3, 1]], y[:, [3, 1]]), rtol=1e-12)


def test_white_noise_belongs_to_observations_not_to_points():
    x, _ = data()
    k = RBF() + White(0.5)
    np.testing.assert_allclose(
        np.asarray(k(x).dense()) - np.asarray(k(x, x).dense()), 0.5 * np.eye(31), atol=1e-15
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_and_library_follow_the_input(dtype):
    x = data()[0].astype(dtype)
    k = 2.0 * RBF(torch.tensor(0.7)) + White(0.1)
    assert (k(x) @ np.ones(31, dtype)).dtype == dtype
    out = k(torch.tensor(x)) @ torch.ones(31, dtype=torch.tensor(x).dtype)
    assert isinstance(out, torch.Tensor) and out.numpy().dtype == dtype


def test_tags():
    x, y = data()
    assert RBF()(x).psd and RBF()(x).symmetric
    assert not RBF()(x, y).symmetric and not RBF()(x, y).psd
    k = RBF() + White(0.5)
    assert k(x, x).psd and k(x, x).symmetric and not k(x, x.copy()).symmetric
    assert np.allclose(k(x, x).dense(), RBF()(x).dense())  # no white noise: two sets of points
    assert not (-1.0 * RBF())(x).psd and (-1.0 * RBF())(x).symmetric
    assert not (RBF() + Constant(-1.0))(x).psd
    assert not (RBF() * Polynomial(2, coef0=-1.0))(x).psd
    assert (RBF() ** 2)(x).psd and (RBF() ** 2.0)(x).psd and not (RBF() ** 0.5)(x).psd
    assert not ((RBF() + Constant(-1.0)) ** 2)(x).psd
    assert not ExpSineSquared()(x).psd and ExpSineSquared(active_dims=[2])(x).psd


def test_nugget_of_a_power_keeps_its_digits():
    x, _ = data()
    noise = (RBF() + White(1e-12)) ** 2
    np.testing.assert_allclose(white_noise(noise, x), 2e-12, rtol=1e-10)


# ---------------------------------------------------------------- gradients

SMOOTH = [
    RBF,
    lambda **p: Matern(1.5, **p),
    lambda **p: Matern(2.5, **p),
    lambda lengthscale: RationalQuadratic(lengthscale, alpha=0.7),
    Cauchy,
    lambda lengthscale: Periodic(lengthscale, period=1.7),
    lambda lengthscale: ExpSineSquared(lengthscale[0], lengthscale[1]),
    lambda lengthscale: (RBF(lengthscale) + White(0.3)) ** 3,
    lambda lengthscale: RBF(lengthscale) ** 0.7,
    lambda lengthscale: Linear(lengthscale),
    lambda lengthscale: 1.5 * RBF(lengthscale) * Matern(2.5, 0.9) + White(0.3),
]


@pytest.mark.parametrize("make", SMOOTH)
def test_gradients_in_points_and_lengthscales_with_coincident_points(make):
    x, y = (torch.tensor(a, requires_grad=True) for a in data(4, 3, 2))
    lengthscale = torch.tensor([0.7, 1.6], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[0.3], [-1.0], [2.0]], dtype=torch.float64)

    def product(x, y, lengthscale):
        return make(lengthscale=lengthscale)(x, y) @ b

    assert torch.autograd.gradcheck(product, (x, y, lengthscale))
    with options(backend="reference"):  # same rules, nothing to compile
        assert torch.autograd.gradgradcheck(product, (x, y, lengthscale), atol=1e-4)


def test_gradient_of_the_symmetric_matrix():
    x = torch.tensor(data(5, 1, 2)[0], requires_grad=True)
    noise = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    factor = torch.tensor(1.4, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(np.random.default_rng(0).standard_normal((5, 1)))

    def quadratic(x, noise, factor):
        k = (factor * Matern(1.5) + White(noise)) * (RBF() + White(noise))
        return (b * (k(x) @ b)).sum()

    assert torch.autograd.gradcheck(quadratic, (x, noise, factor))


def test_a_new_value_of_a_hyperparameter_needs_no_new_formula():
    x, y = data()
    one, two = RBF(0.7)(x, y), RBF(0.8)(x, y)
    assert one.formula is two.formula
    assert (2.0 * one).formula is (3.0 * two).formula


# ---------------------------------------------------------------- objects


def test_repr_shows_how_to_write_it():
    k = 2.0 * RBF([1, 2]) * (Matern(nu=2.5, active_dims=[0]) + 3) + White(0.1)
    text = repr(k)
    assert text == (
        "2.0 * RBF(lengthscale=(1.0, 2.0)) * (Matern(nu=2.5, lengthscale=1.0, active_dims=(0,)) + "
        "Constant(value=3.0)) + White(noise=0.1)"
    )
    assert eval(text) == k
    k = (2.0 * RBF(bounds="fixed")) ** 2 * Matern(bounds={"lengthscale": (0.1, 2)}) ** 0.5
    assert repr(k) == (
        "(2.0 * RBF(lengthscale=1.0, bounds='fixed')) ** 2 * "
        "Matern(nu=1.5, lengthscale=1.0, bounds={'lengthscale': (0.1, 2.0)}) ** 0.5"
    )
    assert eval(repr(k)) == k


def test_equality_and_hash():
    assert RBF([1, 2]) == RBF(np.array([1.0, 2.0])) and hash(RBF([1, 2])) == hash(RBF((1.0, 2.0)))
    assert RBF(1) == RBF(1.0) and RBF(1.0) != RBF(2.0) and RBF() != Cauchy() and RBF() != 1.0
    assert RBF() ** 2 == RBF() ** 2.0 and RBF() ** 2 != RBF() ** 3
    assert RBF(bounds="fixed") != RBF() and hash(RBF(bounds=(1, 2))) == hash(RBF(bounds=[1.0, 2.0]))
    assert RBF(torch.tensor(2.0)) == RBF(torch.tensor(2.0)) and RBF(torch.tensor(2.0)) != RBF(2.0)
    assert Sum(RBF(), White()) == RBF() + White() and RBF() + White() != White() + RBF()
    assert FormulaKernel(squared, {"scale": 1.0}) != FormulaKernel(squared, {"scale": 2.0})


def squared(x, y, scale):
    return exp(-sqdist(x / scale, y / scale))


@pytest.mark.parametrize(
    "k",
    [p[0] for p in PAIRS] + [FormulaKernel(squared, {"scale": [1.0, 2.0, 1.0, 1.0]})],
    ids=[*IDS, "formula"],
)
def test_copies_and_pickles_are_equal(k):
    x, _ = data()
    for other in (copy.copy(k), copy.deepcopy(k), pickle.loads(pickle.dumps(k)), clone(k, safe=False)):
        assert other == k and hash(other) == hash(k)
        np.testing.assert_array_equal(other(x).dense(), k(x).dense())


def test_kernels_are_immutable():
    with pytest.raises(AttributeError):
        RBF().lengthscale = 2.0


def test_algebra_builds_trees():
    assert isinstance(RBF() + 1.0, Sum) and isinstance(1.0 + RBF(), Sum)
    assert isinstance(np.float64(2.0) * RBF(), Scale) and isinstance(RBF() * torch.tensor(2.0), Scale)
    assert isinstance(torch.tensor(2.0) * RBF(), Scale) and isinstance(RBF() * RBF(), Product)
    assert sum([RBF(), White()]) == RBF() + White()
    with pytest.raises(TypeError):
        RBF() + "x"  # type: ignore[operator]
    with pytest.raises(TypeError):
        True * RBF()
    with pytest.raises(TypeError):
        RBF() ** "2"  # type: ignore[operator]


def test_every_class_of_the_module_is_exported():
    import kerngp.models as models

    def final(cls):
        return [
            c
            for s in cls.__subclasses__()
            for c in ([s] if s.__module__.startswith("kerngp") else []) + final(s)
        ]

    classes = {c.__name__ for c in final(Kernel)} - {Atom.__name__}
    assert classes <= set(models.__all__)


# ---------------------------------------------------------------- your own formula


def test_formula_kernel():
    x, y = data()
    k = FormulaKernel(squared, {"scale": [0.5, 1.0, 2.0, 3.0]}, active_dims=[0, 1, 2, 3])
    d = (x[:, None] - y[None]) / [0.5, 1.0, 2.0, 3.0]
    np.testing.assert_allclose(k(x, y).dense(), np.exp(-(d**2).sum(-1)), rtol=1e-12)
    scale = torch.tensor([0.9], dtype=torch.float64, requires_grad=True)

    def product(s):
        return FormulaKernel(squared, {"scale": s})(torch.tensor(x), torch.tensor(y)) @ torch.ones(7).double()

    assert torch.autograd.gradcheck(product, scale)


def test_formula_kernel_must_return_a_number_for_each_pair():
    x, _ = data()
    with pytest.raises(FormulaError, match="formula of dim 4; expected a formula of dim 1"):
        FormulaKernel(lambda x, y: x * y)(x)
    with pytest.raises(FormulaError, match="returned float"):
        FormulaKernel(lambda x, y: 1.0)(x)
    with pytest.raises(OptionError, match="not callable"):
        FormulaKernel(3.0)  # type: ignore[arg-type]
    assert FormulaKernel(lambda x, y: total(x * y))(x).shape == (31, 31)


# ---------------------------------------------------------------- refusals

BAD = [
    (lambda: Matern(nu=1.0), OptionError, r"nu=1\.0 of Matern: expected 0\.5, 1\.5 or 2\.5"),
    (lambda: RBF(0.0), OptionError, r"lengthscale of RBF is 0\.0; expected positive numbers"),
    (lambda: RBF(-1), OptionError, "lengthscale of RBF is -1; expected positive"),
    (lambda: RBF([1.0, np.nan]), OptionError, "lengthscale of RBF .* expected finite numbers"),
    (lambda: RBF(np.inf), OptionError, "expected finite"),
    (lambda: RBF("one"), OptionError, "lengthscale of RBF is 'one'; expected a number or a vector"),
    (lambda: RBF(True), OptionError, "lengthscale of RBF is True"),
    (lambda: RBF(None), OptionError, "lengthscale of RBF is None"),
    (lambda: RBF([]), ShapeError, "lengthscale of RBF"),
    (lambda: RBF(np.ones((2, 2))), ShapeError, r"lengthscale of RBF has shape \(2, 2\)"),
    (lambda: RBF(torch.ones(2, 2)), ShapeError, r"tensor of shape \(2, 2\); expected a number or a vector"),
    (
        lambda: RationalQuadratic(alpha=[1.0, 2.0]),
        ShapeError,
        "alpha of RationalQuadratic .* expected one number",
    ),
    (lambda: Constant(torch.ones(2)), ShapeError, "value of Constant"),
    (lambda: White(-0.1), OptionError, r"noise of White is -0\.1; expected positive"),
    (lambda: Polynomial(degree=0), OptionError, "degree=0 of Polynomial: expected a positive integer"),
    (lambda: Polynomial(degree=2.5), OptionError, r"degree=2\.5"),
    (lambda: np.ones(3) * RBF(), ShapeError, r"the factor of RBF.* has shape \(3,\)"),
    (lambda: RBF() ** 0, OptionError, "the exponent of RBF.* is 0; expected positive"),
    (lambda: RBF() ** np.nan, OptionError, "the exponent of RBF.* finite"),
    (lambda: RBF(active_dims=[]), OptionError, "active_dims of RBF"),
    (lambda: RBF(active_dims=[-1]), OptionError, "expected column numbers 0, 1"),
    (lambda: RBF(active_dims=[1, 1]), OptionError, "a column stands there twice"),
    (lambda: RBF(active_dims=[0.5]), OptionError, "expected column numbers"),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD)
def test_bad_hyperparameters(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_bad_points():
    x, y = data()
    with pytest.raises(
        ShapeError, match=r"lengthscale of RBF has 3 components; expected 1 or one for each of the 4 columns"
    ):
        RBF([1, 2, 3])(x)
    with pytest.raises(ShapeError, match="each of the 2 active dimensions"):
        RBF([1, 2, 3], active_dims=[0, 1])(x)
    with pytest.raises(
        ShapeError, match=r"active_dims=\(4,\) of RBF: column 4 does not exist, the points have 4"
    ):
        RBF(active_dims=[4])(x)
    with pytest.raises(ShapeError, match=r"x has shape \(31,\); expected \(points, columns\).*x\[:, None\]"):
        RBF()(x[:, 0])
    with pytest.raises(ShapeError, match="x has 4 columns and y has 3"):
        RBF()(x, y[:, :3])
    with pytest.raises(DTypeError, match="x has dtype torch.float64 and y has torch.float32"):
        RBF()(x, y.astype(np.float32))
    with pytest.raises(DTypeError, match="x has dtype int64"):
        RBF()(np.arange(4).reshape(2, 2))

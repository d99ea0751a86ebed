"""The kernels scikit-learn knows by name, as scikit-learn defines them (`sklearn.metrics.pairwise`)."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..engine import formulas
from ..engine.expr import Expr
from ..engine.ops import sqrt
from ..errors import OptionError
from .kernel_base import Number
from .kernels import FormulaKernel


def _rbf(x: Expr, y: Expr, gamma: Expr) -> Expr:
    scale = sqrt(2.0 * gamma)
    return formulas.gaussian(x * scale, y * scale)


def _laplacian(x: Expr, y: Expr, gamma: Expr) -> Expr:
    return formulas.laplacian(x * gamma, y * gamma)


def _chi2(x: Expr, y: Expr, gamma: Expr) -> Expr:
    return formulas.chi2(x * gamma, y * gamma)  # homogeneous of degree 1


def _polynomial(x: Expr, y: Expr, gamma: Expr, coef0: Expr, degree: Any) -> Expr:
    return formulas.polynomial(x * gamma, y, degree, coef0)


def _sigmoid(x: Expr, y: Expr, gamma: Expr, coef0: Expr) -> Expr:
    return formulas.sigmoid(x * gamma, y, coef0)


PAIRWISE = ("additive_chi2", "chi2", "cosine", "laplacian", "linear", "poly", "polynomial", "rbf", "sigmoid")
NON_NEGATIVE = ("additive_chi2", "chi2")


def pairwise_kernel(
    name: str, n_features: int, *, gamma: Number | None = None, degree: float = 3, coef0: float = 1
) -> FormulaKernel:
    """scikit-learn's kernel ``name``.

    Parameters
    ----------
    name : str
        One of `PAIRWISE`.
    n_features : int
        Columns of the points; the default of gamma depends on it.
    gamma : float or tensor, optional
        None means 1 / n_features for rbf, laplacian, poly and sigmoid, and 1 for chi2.
    degree, coef0 : float
        Of poly and sigmoid.

    Raises
    ------
    OptionError
        For an unknown name or a parameter outside its range.

    References
    ----------
    scikit-learn user guide, section "Pairwise metrics, Affinities and Kernels".
    """
    if name not in PAIRWISE:
        raise OptionError(
            f"kernel={name!r} is unknown; expected one of {', '.join(PAIRWISE)}, precomputed, "
            "a combination such as 'gaussian(x,y) + linear(x,y)', a kernel of kerngp.models (for instance "
            "RBF(lengthscale=2.0)), a formula or a function."
        )
    if gamma is None:
        gamma = 1.0 if name == "chi2" else 1.0 / n_features
    values = {"gamma": gamma, "coef0": float(coef0)}
    bounds = {"coef0": "fixed"}
    if name in ("rbf", "laplacian", "chi2"):
        function = {"rbf": _rbf, "laplacian": _laplacian, "chi2": _chi2}[name]
        return FormulaKernel(function, {"gamma": values["gamma"]})
    if name == "sigmoid":
        return FormulaKernel(_sigmoid, values, psd=False, bounds=bounds)
    if name in ("poly", "polynomial"):
        if float(degree).is_integer():
            function = partial(_polynomial, degree=int(degree))
            return FormulaKernel(function, values, psd=coef0 >= 0, bounds=bounds)
        values, bounds = values | {"degree": float(degree)}, bounds | {"degree": "fixed"}
        return FormulaKernel(_polynomial, values, psd=False, bounds=bounds)
    plain = {"linear": formulas.linear, "cosine": formulas.cosine, "additive_chi2": formulas.additive_chi2}
    return FormulaKernel(plain[name], psd=name != "additive_chi2")

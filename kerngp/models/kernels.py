"""Every kernel: a frozen dataclass with one formula.

To add a kernel, add a dataclass here: declare hyperparameters with `parameter` and return a formula
of the points x, y and the hyperparameters p. Estimators, sums and products, lengthscale vectors,
active dimensions, gradients and tests need nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..engine import formulas
from ..engine.expr import Expr
from ..errors import FormulaError, OptionError
from .kernel_base import (
    Arguments,
    Atom,
    Kernel,
    Number,
    Parts,
    Power,
    Product,
    Scale,
    Sum,
    Vector,
    check_parameter,
    parameter,
)

__all__ = [
    "RBF",
    "Cauchy",
    "Constant",
    "ExpSineSquared",
    "FormulaKernel",
    "Kernel",
    "Linear",
    "Matern",
    "Periodic",
    "Polynomial",
    "Power",
    "Product",
    "RationalQuadratic",
    "Scale",
    "Sum",
    "White",
]

# ---------------------------------------------------------------- stationary kernels


@dataclass(frozen=True, eq=False, repr=False)
class RBF(Atom):
    """Gaussian kernel k(x, y) = exp(-|x - y|^2 / (2 l^2)).

    With a vector of lengthscales, |x - y|^2 / l^2 means sum_d (x_d - y_d)^2 / l_d^2, here and below.

    Parameters
    ----------
    lengthscale : float or D floats or tensor
    active_dims : sequence of int, optional
        Columns the kernel looks at; default all.

    References
    ----------
    Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, eq. 4.9; the RBF of
    scikit-learn (``length_scale``) and RBFKernel of GPyTorch.
    """

    lengthscale: Vector = parameter(1.0, vector=True)

    def formula(self, x: Expr, y: Expr, p: Any) -> Expr:
        return formulas.gaussian(x / p.lengthscale, y / p.lengthscale)


@dataclass(frozen=True, eq=False, repr=False)
class Matern(Atom):
    """Matern kernel of smoothness nu = 1/2, 3/2 or 5/2, r = |x - y| / l.

    nu = 0.5: k = exp(-r); nu = 1.5: k = (1 + sqrt(3) r) exp(-sqrt(3) r);
    nu = 2.5: k = (1 + sqrt(5) r + 5 r^2 / 3) exp(-sqrt(5) r).

    Parameters
    ----------
    nu : {0.5, 1.5, 2.5}
        Fixed; decides which formula is used.
    lengthscale : float or D floats or tensor
    active_dims : sequence of int, optional

    Raises
    ------
    OptionError
        For any other nu.

    References
    ----------
    Rasmussen and Williams, 2006, eq. 4.16 and 4.17; Matern of scikit-learn, MaternKernel of GPyTorch.
    """

    nu: float = 1.5
    lengthscale: Vector = parameter(1.0, vector=True)

    def __post_init__(self) -> None:
        if isinstance(self.nu, bool) or self.nu not in _MATERN:
            raise OptionError(
                f"nu={self.nu!r} of Matern: expected 0.5, 1.5 or 2.5 (for nu -> infinity use RBF)."
            )
        object.__setattr__(self, "nu", float(self.nu))
        super().__post_init__()

    def formula(self, x: Expr, y: Expr, p: Any) -> Expr:
        return _MATERN[self.nu](x / p.lengthscale, y / p.lengthscale)


_MATERN: dict[float, Callable[[Expr, Expr], Expr]] = {
    0.5: formulas.matern12,
    1.5: formulas.matern32,
    2.5: formulas.matern52,
}


@dataclass(frozen=True, eq=False, repr=False)
class RationalQuadratic(Atom):
    """k(x, y) = (1 + |x - y|^2 / (2 alpha l^2))^-alpha.

    Parameters
    ----------
    lengthscale : float or D floats or tensor
    alpha : float or tensor
        Mixture of lengthscales; alpha -> infinity is the RBF.
    active_dims : sequence of int, optional

    References
    ----------
    Rasmussen and Williams, 2006, eq. 4.19; RationalQuadratic of scikit-learn, RQKernel of GPyTorch.
    """

    lengthscale: Vector = parameter(1.0, vector=True)
    alpha: Number = parameter(1.0)

    def formula(self, x: Expr, y: Expr, p: Any) -> Expr:
        return formulas.rational_quadratic(x / p.lengthscale, y / p.lengthscale, p.alpha)


@dataclass(frozen=True, eq=False, repr=False)
class Cauchy(Atom):
    """k(x, y) = 1 / (1 + |x - y|^2 / l^2).

    Parameters
    ----------
    lengthscale : float or D floats or tensor
    active_dims : sequence of int, optional

    References
    ----------
    Genton, Classes of kernels for machine learning, JMLR 2, 2001, table 1 (there "rational quadratic").
    Equals RationalQuadratic(alpha=1) of lengthscale l / sqrt(2).
    """

    lengthscale: Vector = parameter(1.0, vector=True)

    def formula(self, x: Expr, y: Expr, p: Any) -> Expr:
        return formulas.cauchy(x / p.lengthscale, y / p.lengthscale)


@dataclass(frozen=True, eq=False, repr=False)
class Periodic(Atom):
    """k(x, y) = exp(-2 sum_d sin^2(pi (x_d - y_d) / p_d) / l_d^2).

    Parameters
    ----------
    lengthscale : float or D floats or tensor
        Relative to the circle, not to the period.
    period : float or D floats or tensor
    active_dims : sequence of int, optional

    References
    ----------
    MacKay, Introduction to Gaussian processes, 1998; Rasmussen and Williams, 2006, eq. 4.31. For D = 1 it
    equals ExpSineSquared of scikit-learn, which for D > 1 takes the sine of the Euclidean distance
    and is then not positive semi-definite. PeriodicKernel of GPyTorch writes l for our l^2.
    """

    lengthscale: Vector = parameter(1.0, vector=True)
    period: Vector = parameter(1.0, vector=True)

    def formula(self, x: Expr, y: Expr, p: Any) -> Expr:
        return formulas.periodic(x / p.period, y / p.period, p.lengthscale)


@dataclass(frozen=True, eq=False, repr=False)
class ExpSineSquared(Atom):
    """k(x, y) = exp(-2 sin^2(pi |x - y| / p) / l^2), periodic in the Euclidean distance.

    Positive semi-definite for one column only, where it equals `Periodic`.

    Parameters
    ----------
    lengthscale : float or tensor
    period : float or tensor
    active_dims : sequence of int, optional

    References
    ----------
    ExpSineSquared of scikit-learn (``length_scale``, ``periodicity``).
    """

    lengthscale: Number = parameter(1.0)
    period: Number = parameter(1.0)

    @property
    def psd(self) -> bool:
        return self.active_dims is not None and len(self.active_dims) == 1

    def formula(self, x: Expr, y: Expr, p: Any) -> Expr:
        return formulas.exp_sine_squared(x / p.period, y / p.period, p.lengthscale)


# ---------------------------------------------------------------- kernels of the scalar product


@dataclass(frozen=True, eq=False, repr=False)
class Linear(Atom):
    """k(x, y) = sum_d v_d x_d y_d.

    Parameters
    ----------
    variance : float or D floats or tensor
    active_dims : sequence of int, optional

    References
    ----------
    Rasmussen and Williams, 2006, section 4.2.2; LinearKernel of GPyTorch. DotProduct(sigma_0) of
    scikit-learn is Linear() + Constant(sigma_0**2).
    """

    variance: Vector = parameter(1.0, vector=True)

    def formula(self, x: Expr, y: Expr, p: Any) -> Expr:
        return formulas.linear(x * p.variance, y)


@dataclass(frozen=True, eq=False, repr=False)
class Polynomial(Atom):
    """k(x, y) = (gamma <x, y> + coef0)^degree.

    Parameters
    ----------
    degree : int
        Fixed, at least 1.
    gamma : float or tensor
    coef0 : float or tensor
        Not negative, for a positive semi-definite kernel.
    active_dims : sequence of int, optional

    References
    ----------
    Rasmussen and Williams, 2006, section 4.2.2; polynomial_kernel of scikit-learn; PolynomialKernel of
    GPyTorch (``power``, ``offset``; gamma = 1).
    """

    degree: int = 3
    gamma: Number = parameter(1.0)
    coef0: Number = parameter(1.0, positive=False)

    def __post_init__(self) -> None:
        if isinstance(self.degree, bool) or not isinstance(self.degree, int) or self.degree < 1:
            raise OptionError(f"degree={self.degree!r} of Polynomial: expected a positive integer.")
        super().__post_init__()

    @property
    def psd(self) -> bool:
        return bool(self.coef0 >= 0)

    def formula(self, x: Expr, y: Expr, p: Any) -> Expr:
        return formulas.polynomial(x * p.gamma, y, self.degree, p.coef0)


# ---------------------------------------------------------------- constants and noise


@dataclass(frozen=True, eq=False, repr=False)
class Constant(Atom):
    """k(x, y) = value.

    Parameters
    ----------
    value : float or tensor

    References
    ----------
    ConstantKernel of scikit-learn and GPyTorch.
    """

    value: Number = parameter(1.0, positive=False, free=True)

    @property
    def psd(self) -> bool:
        return bool(self.value >= 0)

    def formula(self, x: Expr, y: Expr, p: Any) -> Expr:
        return p.value


@dataclass(frozen=True, eq=False, repr=False)
class White(Atom):
    """k(x_i, x_j) = noise if i = j, else 0: independent noise of each observation.

    It belongs to the observations and not to the points: it contributes when the kernel is called
    with one argument and vanishes when it is called with two, even if the two are equal.

    Parameters
    ----------
    noise : float or tensor
        Variance.

    References
    ----------
    WhiteKernel of scikit-learn (``noise_level``).
    """

    noise: Number = parameter(1.0)

    def formula(self, x: Expr, y: Expr, p: Any) -> Expr:
        return p.noise

    def parts(self, x: Expr, y: Expr, arguments: Arguments) -> Parts:
        """The formula is the nugget; nothing is added at other pairs."""
        return Parts(None, self.formula(x, y, self.bind(x.dim, arguments)))


# ---------------------------------------------------------------- your own


@dataclass(frozen=True, eq=False, repr=False)
class FormulaKernel(Atom):
    """A kernel given by a function of formulas, without a class.

    Parameters
    ----------
    function : callable (x, y, **params) -> Expr of dim 1
        Written with operators and the functions of `kerngp.engine.ops`. At module level it can be pickled.
    params : dict of str to float, sequence of floats or tensor, optional
        Hyperparameters; the function receives each as an Expr. Those that are positive are learned.
    psd : bool
        Whether the function is positive semi-definite; solvers trust it.
    active_dims : sequence of int, optional

    Raises
    ------
    FormulaError
        When the kernel is used, if the function does not return a formula of dim 1.

    Examples
    --------
    >>> import numpy as np
    >>> from kerngp.engine.ops import exp, total
    >>> def exponential(x, y, scale):
    ...     return exp(-total(abs(x - y)) / scale)
    >>> k = FormulaKernel(exponential, {"scale": 2.0})
    >>> k(np.zeros((3, 2))).shape
    (3, 3)
    """

    function: Callable[..., Expr]
    params: dict[str, Any] = field(default_factory=dict)
    psd: bool = True  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise OptionError(
                f"function={self.function!r} of FormulaKernel is not callable; expected f(x, y, **params)."
            )
        name = getattr(self.function, "__name__", "FormulaKernel")
        checked = {k: check_parameter(v, f"{k} of {name}", vector=True) for k, v in self.params.items()}
        object.__setattr__(self, "params", checked)
        super().__post_init__()

    def formula(self, x: Expr, y: Expr, p: Any) -> Expr:
        out = self.function(x, y, **p)
        if not isinstance(out, Expr) or out.dim != 1:
            came = f"a formula of dim {out.dim}" if isinstance(out, Expr) else f"{type(out).__name__}"
            raise FormulaError(
                f"{self.function!r} returned {came}; expected a formula of dim 1: "
                "sum over the components with kerngp.engine.ops.total, dot or sqdist."
            )
        return out

    def parameters(self) -> dict[str, Any]:
        """See `Atom.parameters`."""
        return self.params

    def bind(self, dim: int, arguments: Arguments) -> Any:
        """The hyperparameters by name; their dimensions are the function's affair."""
        return {name: arguments.add(value) for name, value in self.params.items()}
